#include "control/control_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/fields.h"

#define NAME_TRIES 100

/* --- Answering --- */

static void answer_error(struct http_reply *reply, int status, const char *message)
{
    json_t *object = json_pack("{s:s}", "fault_message", message);
    if (!object) {
        object = json_pack("{s:s}", "fault_message", "an error whose text is not UTF-8");
    }
    reply->status = status;
    reply->body = object ? json_dumps(object, JSON_COMPACT) : NULL;
    reply->length = reply->body ? strlen(reply->body) : 0;
    json_decref(object);
}

static int check_phase(const struct control *control, const struct operation *operation,
                       struct error *err)
{
    if (operation->when & (control->vm ? OPERATION_AFTER : OPERATION_BEFORE)) {
        return 0;
    }
    return fail_plain(err, EBUSY,
                      "this can only be asked %s the machine has been started",
                      control->vm ? "before" : "after");
}

/* The body as an object; *object is NULL if there is none. */
static int parse_body(const struct operation *operation,
                      const struct http_request *request, json_t **object,
                      struct error *err)
{
    *object = NULL;
    if (!request->body_length) {
        return 0;
    }
    if (!operation->fields) {
        return fail_plain(err, EINVAL, "this request takes no body");
    }
    json_error_t where;
    *object =
        json_loadb(request->body, request->body_length, JSON_REJECT_DUPLICATES, &where);
    if (!*object) {
        return fail_plain(err, EINVAL, "line %d, column %d: not JSON: %s", where.line,
                          where.column, where.text);
    }
    if (!json_is_object(*object)) {
        return fail_plain(err, EINVAL, "the body must be a JSON object");
    }
    return 0;
}

static int call_operation(struct control *control, struct call *call,
                          struct answer *answer, struct error *err)
{
    const struct operation *operation = call->operation;
    _Alignas(max_align_t) char fields[OPERATION_FIELDS_MAX] = {0};
    json_t *object = NULL;
    int result = check_phase(control, operation, err);
    if (result >= 0) {
        result = parse_body(operation, call->request, &object, err);
    }
    if (result >= 0 && operation->fields) {
        if (operation->defaults) {
            memcpy(fields, operation->defaults, operation->fields_size);
        }
        result = fields_parse(operation->fields, object, fields, err);
    }
    if (result >= 0) {
        call->fields = fields;
        call->object = object;
        result = operation->handle(control, call, answer, err);
    }
    json_decref(object);
    return result;
}

static void console_attached(void *opaque, int fd, const void *data, size_t size)
{
    struct control *control = opaque;
    hub_attach(control->hub, fd, data, size);
}

static void fill_reply(struct control *control, const struct operation *operation,
                       struct answer *answer, struct http_reply *reply)
{
    if (answer->upgrades) {
        reply->status = 101;
        reply->upgraded = console_attached;
        reply->upgraded_opaque = control;
        return;
    }
    reply->status = answer->status ? answer->status : operation->success;
    if (answer->json) {
        reply->body = json_dumps(answer->json, JSON_COMPACT | JSON_PRESERVE_ORDER);
        reply->length = reply->body ? strlen(reply->body) : 0;
    } else if (answer->text) {
        reply->type = answer->type;
        reply->body = steal(answer->text);
        reply->length = answer->length;
    }
    if (!reply->body && reply->status == 200) {
        answer_error(reply, 500, "memory is short, or a name is not valid UTF-8");
    }
}

static void answer_request(void *opaque, const struct http_request *request,
                           struct http_reply *reply)
{
    struct control *control = opaque;
    char id[OPERATION_ID_MAX + 1];
    bool path_exists;
    struct error err = {0};
    struct call call = {.request = request, .id = id};
    struct answer answer = {0};
    call.operation = operation_match(request->method, request->path, request->path_length,
                                     id, &path_exists);
    if (!call.operation) {
        char message[256];
        snprintf(message, sizeof(message), "there is no %s %.*s; see docs/api.md",
                 http_method_name(request->method),
                 (int)(request->path_length < 128 ? request->path_length : 128),
                 request->path);
        answer_error(reply, path_exists ? 405 : 404, message);
        return;
    }
    if (call_operation(control, &call, &answer, &err) < 0) {
        answer_error(reply, answer.status ? answer.status : 400, err.message);
    } else {
        fill_reply(control, call.operation, &answer, reply);
    }
    json_decref(answer.json);
    free(answer.text);
}

/* --- Sockets --- */

/* A name of the process's own; another one if a process of another namespace has it. */
static int listen_unnamed(struct control *control, struct error *err)
{
    int fd = -EADDRINUSE;
    for (unsigned i = 0; i < NAME_TRIES && fd == -EADDRINUSE; i++) {
        snprintf(control->name, sizeof(control->name), i ? "vm%d-%u" : "vm%d",
                 (int)getpid(), i);
        fd = runtime_listen(control->name, &control->sockets[0], err);
    }
    return fd;
}

static int listen_named(struct control *control, struct error *err)
{
    const char *name = control->config.name;
    int result = runtime_check_name(name, err);
    if (result < 0) {
        return fail_within(err, "--name");
    }
    snprintf(control->name, sizeof(control->name), "%s", name);
    return runtime_listen(name, &control->sockets[0], err);
}

static int open_sockets(struct control *control, struct error *err)
{
    const struct control_config *config = &control->config;
    int fd = config->name ? listen_named(control, err) : listen_unnamed(control, err);
    if (fd < 0 && config->name) {
        return fd;
    }
    if (fd < 0 && !config->api_socket) {
        log_warning("no control socket: %s", err->message);
    }
    if (fd >= 0) {
        int result = server_listen(control->server, fd, err);
        if (result < 0) {
            return result;
        }
    }
    if (!config->api_socket) {
        return 0;
    }
    fd = socket_listen(config->api_socket, &control->sockets[1], err);
    if (fd < 0) {
        return fail_within(err, "--api-socket");
    }
    return server_listen(control->server, fd, err);
}

struct control *control_open(const struct control_config *config, struct error *err)
{
    struct control *control = calloc(1, sizeof(*control));
    if (!control) {
        fail(err, ENOMEM, "cannot make the control");
        return NULL;
    }
    control->config = *config;
    control->metrics_fd = -1;
    control->stop_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    control->statm_fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    control->bodies = json_object();
    control->hub = hub_new(&config->console, err);
    control->server = control->hub ? server_new(answer_request, control, err) : NULL;
    if (control->server && (control->stop_fd < 0 || !control->bodies)) {
        fail(err, control->bodies ? errno : ENOMEM, "cannot make the control");
    } else if (control->server && open_sockets(control, err) >= 0) {
        return control;
    }
    control_close(control);
    return NULL;
}

const char *control_name(const struct control *control)
{
    return control->name;
}

struct console_port control_console(struct control *control)
{
    return hub_port(control->hub);
}

/* --- Life --- */

const char *control_state(const struct control *control)
{
    if (!control->vm) {
        return "waiting";
    }
    return vm_get_status(control->vm) == VM_PAUSED ? "paused" : "running";
}

static void on_stop_timeout(void *opaque, int fd, uint32_t events)
{
    struct control *control = opaque;
    uint64_t expirations;
    if (read(fd, &expirations, sizeof(expirations)) == sizeof(expirations)) {
        control->config.end(control->config.opaque, SIGKILL);
    }
}

static unsigned console_input(void *opaque, const uint8_t *data, unsigned size)
{
    return machine_console_input(opaque, data, size);
}

int control_wait(struct control *control, struct loop *loop, struct error *err)
{
    control->waiting_loop = loop;
    return server_attach(control->server, loop, err);
}

static void describe(struct control *control)
{
    struct error err;
    struct machine_config config = *control->config.machine;
    config.engine = control->vm->engine_ops->name; /* what auto was */
    SCOPE_FREE char *text = machine_describe(&config, &err);
    control->machine = text ? json_loads(text, 0, NULL) : NULL;
    if (!control->machine) {
        log_info("inspect will not tell the machine: %s", err.message);
    }
}

int control_start(struct control *control, struct vm *vm, struct error *err)
{
    int result =
        loop_add(vm->loop, control->stop_fd, EPOLLIN, on_stop_timeout, control, err);
    if (result >= 0) {
        result = hub_start(control->hub, vm->loop, console_input, vm, err);
    }
    if (result >= 0) {
        result = server_attach(control->server, vm->loop, err);
    }
    if (result >= 0) {
        control->vm = vm;
        control->started_s = time(NULL);
        describe(control);
    }
    return result;
}

static void leave_machine(struct control *control)
{
    hub_stop(control->hub);
    if (control->vm) {
        loop_remove(control->vm->loop, control->stop_fd);
        control->vm = NULL;
    }
    json_decref(control->machine);
    control->machine = NULL;
    control->started_s = 0;
}

void control_cancel(struct control *control)
{
    struct error err;
    if (!control->waiting_loop) {
        server_detach(control->server);
    } else if (server_attach(control->server, control->waiting_loop, &err) < 0) {
        log_error("the control socket is lost: %s", err.message);
    }
    leave_machine(control);
}

void control_stop(struct control *control)
{
    for (unsigned i = 0; i < array_size(control->sockets); i++) {
        socket_remove(&control->sockets[i]);
    }
    leave_machine(control);
    server_free(control->server);
    control->server = NULL;
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void control_close(struct control *control)
{
    if (!control) {
        return;
    }
    if (control->hub) {
        control_stop(control);
    }
    hub_free(control->hub);
    close_fd(control->stop_fd);
    close_fd(control->metrics_fd);
    close_fd(control->statm_fd);
    json_decref(control->bodies);
    free(control->disks);
    free(control->append);
    free(control);
}
