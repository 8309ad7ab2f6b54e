#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/gdb_command.h"

#define SIGNAL_INTERRUPT 2
#define SIGNAL_TRAP      5

void gdb_reply(struct gdb_session *session, const char *text)
{
    session->send(session->opaque, text, strlen(text));
}

void gdb_reply_error(struct gdb_session *session)
{
    gdb_reply(session, "E01");
}

struct vcpu *gdb_current(struct gdb_session *session)
{
    return session->vm->vcpu[session->current];
}

void gdb_get_state(struct gdb_session *session, struct x86_state *state)
{
    session->vm->engine_ops->get_state(gdb_current(session)->engine, state);
}

void gdb_set_state(struct gdb_session *session, const struct x86_state *state)
{
    session->vm->engine_ops->set_state(gdb_current(session)->engine, state);
}

bool gdb_parse_thread(struct gdb_session *session, const char **text, int *index)
{
    uint64_t number;
    if ((*text)[0] == '-' && (*text)[1] == '1') {
        *text += 2;
        *index = -1;
        return true;
    }
    if (!gdb_parse_hex(text, &number) || number > session->vm->cpu_count) {
        return false;
    }
    *index = (int)number - 1;
    return true;
}

/* Stopping and going on. */

static const char *stop_name(enum debug_kind kind)
{
    static const char *const names[] = {
        [DEBUG_EXECUTE] = NULL,
        [DEBUG_WRITE] = "watch",
        [DEBUG_READ] = "rwatch",
        [DEBUG_ACCESS] = "awatch",
    };
    return names[kind];
}

static void report_signal(struct gdb_session *session, int signal)
{
    char text[32];
    snprintf(text, sizeof(text), "T%02xthread:%x;", signal, session->current + 1);
    gdb_reply(session, text);
}

static void report_stop(struct gdb_session *session, unsigned index)
{
    const struct debug_stop *stop = &session->stop[index];
    session->has_stop[index] = false;
    session->current = index;
    session->is_running = false;
    if (stop->reason != DEBUG_POINT || !stop_name(stop->kind)) {
        report_signal(session, SIGNAL_TRAP);
        return;
    }
    char text[80];
    snprintf(text, sizeof(text), "T%02xthread:%x;%s:%" PRIx64 ";", SIGNAL_TRAP, index + 1,
             stop_name(stop->kind), stop->address);
    gdb_reply(session, text);
}

/* Reports the first stop that the debugger has not heard of. */
static bool report_next(struct gdb_session *session)
{
    for (unsigned i = 0; i < session->vm->cpu_count; i++) {
        if (session->has_stop[i]) {
            report_stop(session, i);
            return true;
        }
    }
    return false;
}

static void collect_stops(struct gdb_session *session)
{
    struct vm *vm = session->vm;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (session->runs[i] && vm->vcpu[i]->is_held) {
            session->runs[i] = false;
            session->has_stop[i] = true;
            vm->engine_ops->debug_stop(vm->vcpu[i]->engine, &session->stop[i]);
        }
    }
}

void gdb_session_stopped(void *opaque)
{
    struct gdb_session *session = opaque;
    if (!session->is_running) {
        return; /* another vCPU's stop was told, this one is collected when it goes on */
    }
    vm_pause(session->vm);
    collect_stops(session);
    report_next(session);
}

void gdb_session_interrupt(struct gdb_session *session)
{
    if (session->is_running) {
        vm_pause(session->vm);
        collect_stops(session);
        if (!report_next(session)) {
            session->is_running = false;
            report_signal(session, SIGNAL_INTERRUPT);
        }
    }
}

/* What a vCPU is to do when the VM goes on. */
enum action { ACTION_HOLD, ACTION_CONTINUE, ACTION_STEP };

static bool go_on(struct gdb_session *session, const enum action action[VM_CPUS_MAX])
{
    struct vm *vm = session->vm;
    collect_stops(session);
    session->is_running = true;
    if (report_next(session)) {
        return true;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct error err;
        session->control.step = action[i] == ACTION_STEP;
        if (vm->engine_ops->debug(vm->vcpu[i]->engine, &session->control, &err) < 0) {
            log_error("%s", err.message);
            session->is_running = false;
            return false;
        }
        session->runs[i] = action[i] != ACTION_HOLD;
        vm_hold(vm, i, action[i] == ACTION_HOLD);
    }
    vm_resume(vm);
    return true;
}

/* c and s, with an optional address to go on at. */
static void command_resume(struct gdb_session *session, char *data, size_t size)
{
    enum action action[VM_CPUS_MAX];
    bool is_step = data[0] == 's' || data[0] == 'S';
    const char *text = data + 1;
    uint64_t address;
    if (data[0] == 'C' || data[0] == 'S') {
        gdb_parse_hex(&text, &address); /* a signal means nothing to a machine */
        text += *text == ';';
    }
    if (gdb_parse_hex(&text, &address)) {
        struct x86_state state;
        gdb_get_state(session, &state);
        state.rip = address;
        gdb_set_state(session, &state);
    }
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        action[i] = !is_step                ? ACTION_CONTINUE
                    : i == session->current ? ACTION_STEP
                                            : ACTION_HOLD;
    }
    if (!go_on(session, action)) {
        gdb_reply_error(session);
    }
}

/* vCont;action[:thread]...: the leftmost action that names a thread, or names none, is
 * its. */
static void command_vcont(struct gdb_session *session, char *data, size_t size)
{
    enum action action[VM_CPUS_MAX] = {ACTION_HOLD};
    bool is_chosen[VM_CPUS_MAX] = {false};
    const char *text = data + strlen("vCont");
    while (*text == ';') {
        char what = text[1];
        uint64_t signal;
        int index = -1;
        text += what ? 2 : 1;
        if (what == 'C' || what == 'S') {
            gdb_parse_hex(&text, &signal);
        }
        if (*text == ':') {
            text++;
            if (!gdb_parse_thread(session, &text, &index)) {
                gdb_reply_error(session);
                return;
            }
        }
        for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
            if (!is_chosen[i] && (index < 0 || i == (unsigned)index)) {
                is_chosen[i] = true;
                action[i] = what == 'c' || what == 'C'   ? ACTION_CONTINUE
                            : what == 's' || what == 'S' ? ACTION_STEP
                                                         : ACTION_HOLD;
            }
        }
    }
    if (*text || !go_on(session, action)) {
        gdb_reply_error(session);
    }
}

/* Threads. */

static void command_set_thread(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 2;
    int index;
    if (size < 3 || !gdb_parse_thread(session, &text, &index)) {
        gdb_reply_error(session);
        return;
    }
    if (index >= 0) {
        session->current = (unsigned)index;
    }
    gdb_reply(session, "OK");
}

static void command_thread_alive(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    int index;
    gdb_reply(session,
              gdb_parse_thread(session, &text, &index) && index >= 0 ? "OK" : "E01");
}

static void command_v(struct gdb_session *session, char *data, size_t size)
{
    if (!strcmp(data, "vCont?")) {
        gdb_reply(session, "vCont;c;C;s;S;t");
    } else if (!strncmp(data, "vCont;", 6)) {
        command_vcont(session, data, size);
    } else if (!strncmp(data, "vKill;", 6)) {
        gdb_reply(session, "OK");
        vm_request_end(session->vm, VM_END_REQUEST, 0, "the debugger ended it");
    } else {
        gdb_reply(session, "");
    }
}

static void command_reason(struct gdb_session *session, char *data, size_t size)
{
    report_signal(session, SIGNAL_TRAP);
}

static void command_detach(struct gdb_session *session, char *data, size_t size)
{
    gdb_reply(session, "OK");
    session->wants_detach = true;
}

static void command_kill(struct gdb_session *session, char *data, size_t size)
{
    vm_request_end(session->vm, VM_END_REQUEST, 0, "the debugger ended it");
    session->wants_detach = true;
}

static const struct {
    char letter;
    void (*run)(struct gdb_session *session, char *data, size_t size);
} commands[] = {
    {'?', command_reason},     {'g', gdb_read_registers},   {'G', gdb_write_registers},
    {'p', gdb_read_register},  {'P', gdb_write_register},   {'m', gdb_read_memory},
    {'M', gdb_write_memory},   {'X', gdb_write_memory},     {'c', command_resume},
    {'C', command_resume},     {'s', command_resume},       {'S', command_resume},
    {'v', command_v},          {'Z', gdb_change_point},     {'z', gdb_change_point},
    {'H', command_set_thread}, {'T', command_thread_alive}, {'q', gdb_query},
    {'Q', gdb_query},          {'D', command_detach},       {'k', command_kill},
};

void gdb_session_command(struct gdb_session *session, char *data, size_t size)
{
    if (session->is_running) {
        return; /* only an interrupt is in order */
    }
    for (unsigned i = 0; i < array_size(commands); i++) {
        if (size && commands[i].letter == data[0]) {
            commands[i].run(session, data, size);
            return;
        }
    }
    gdb_reply(session, "");
}

void gdb_session_begin(struct gdb_session *session, struct vm *vm,
                       void (*send)(void *opaque, const char *data, size_t size),
                       void *opaque)
{
    *session = (struct gdb_session){.vm = vm, .send = send, .opaque = opaque};
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        session->runs[i] = !vm->vcpu[i]->is_held;
    }
    vm_pause(vm);
    vm_set_debugger(vm, gdb_session_stopped, session);
}

void gdb_session_end(struct gdb_session *session)
{
    struct vm *vm = session->vm;
    vm_pause(vm);
    vm_set_debugger(vm, NULL, NULL);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vm->engine_ops->debug(vm->vcpu[i]->engine, NULL, NULL);
        vm_hold(vm, i, false);
    }
    vm_resume(vm);
}
