#include "control/gdb_session.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/scope.h"
#include "control/gdb_target.h"

#define SIGNAL_INTERRUPT 2
#define SIGNAL_TRAP      5

static void reply(struct gdb_session *session, const char *text)
{
    session->send(session->opaque, text, strlen(text));
}

static void reply_error(struct gdb_session *session)
{
    reply(session, "E01");
}

static struct vcpu *current(struct gdb_session *session)
{
    return session->vm->vcpu[session->current];
}

static void get_state(struct gdb_session *session, struct x86_state *state)
{
    session->vm->engine_ops->get_state(current(session)->engine, state);
}

static void set_state(struct gdb_session *session, const struct x86_state *state)
{
    session->vm->engine_ops->set_state(current(session)->engine, state);
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
    reply(session, text);
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
    reply(session, text);
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

/* Thread numbers: 0 and -1 stand for any and all. */
static bool parse_thread(struct gdb_session *session, const char **text, int *index)
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
        get_state(session, &state);
        state.rip = address;
        set_state(session, &state);
    }
    for (unsigned i = 0; i < VM_CPUS_MAX; i++) {
        action[i] = !is_step                ? ACTION_CONTINUE
                    : i == session->current ? ACTION_STEP
                                            : ACTION_HOLD;
    }
    if (!go_on(session, action)) {
        reply_error(session);
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
            if (!parse_thread(session, &text, &index)) {
                reply_error(session);
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
        reply_error(session);
    }
}

/* Registers. */

static void command_read_registers(struct gdb_session *session, char *data, size_t size)
{
    struct x86_state state;
    uint8_t value[16];
    size_t length = 0;
    get_state(session, &state);
    for (unsigned i = 0; i < gdb_register_count(); i++) {
        gdb_register_get(current(session), &state, i, value);
        gdb_format_bytes(session->reply + length, value, gdb_register_size(i));
        length += 2 * gdb_register_size(i);
    }
    reply(session, session->reply);
}

static void command_write_registers(struct gdb_session *session, char *data, size_t size)
{
    struct x86_state state;
    uint8_t value[16];
    const char *text = data + 1;
    get_state(session, &state);
    for (unsigned i = 0; i < gdb_register_count(); i++) {
        if (!gdb_parse_bytes(text, value, gdb_register_size(i))) {
            reply_error(session);
            return;
        }
        gdb_register_set(&state, i, value); /* those that cannot be written stay */
        text += 2 * gdb_register_size(i);
    }
    set_state(session, &state);
    reply(session, "OK");
}

static void command_read_register(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t number;
    if (!gdb_parse_hex(&text, &number) || number >= gdb_register_count()) {
        reply_error(session);
        return;
    }
    struct x86_state state;
    uint8_t value[16];
    get_state(session, &state);
    gdb_register_get(current(session), &state, (unsigned)number, value);
    gdb_format_bytes(session->reply, value, gdb_register_size((unsigned)number));
    reply(session, session->reply);
}

static void command_write_register(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t number;
    uint8_t value[16];
    struct x86_state state;
    if (!gdb_parse_hex(&text, &number) || number >= gdb_register_count() ||
        *text != '=' ||
        !gdb_parse_bytes(text + 1, value, gdb_register_size((unsigned)number))) {
        reply_error(session);
        return;
    }
    get_state(session, &state);
    if (!gdb_register_set(&state, (unsigned)number, value)) {
        reply_error(session);
        return;
    }
    set_state(session, &state);
    reply(session, "OK");
}

/* Memory. */

static bool parse_range(const char **text, uint64_t *address, uint64_t *length)
{
    return gdb_parse_hex(text, address) && *(*text)++ == ',' &&
           gdb_parse_hex(text, length);
}

static void command_read_memory(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t address, length;
    if (!parse_range(&text, &address, &length)) {
        reply_error(session);
        return;
    }
    uint8_t bytes[GDB_PACKET_MAX / 2];
    if (length > sizeof(bytes)) {
        length = sizeof(bytes);
    }
    struct x86_state state;
    get_state(session, &state);
    size_t done = gdb_memory_read(current(session), &state, session->is_physical, address,
                                  bytes, length);
    if (!done && length) {
        reply_error(session);
        return;
    }
    gdb_format_bytes(session->reply, bytes, done);
    reply(session, session->reply);
}

/* M has digits, X has binary data with escapes. */
static void command_write_memory(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t address, length;
    uint8_t bytes[GDB_PACKET_MAX];
    if (!parse_range(&text, &address, &length) || *text++ != ':' ||
        length > sizeof(bytes)) {
        reply_error(session);
        return;
    }
    if (data[0] == 'X') {
        size_t left = gdb_unescape(data + (text - data), size - (size_t)(text - data));
        if (left != length) {
            reply_error(session);
            return;
        }
        memcpy(bytes, text, length);
    } else if (!gdb_parse_bytes(text, bytes, length)) {
        reply_error(session);
        return;
    }
    struct x86_state state;
    get_state(session, &state);
    size_t done = gdb_memory_write(current(session), &state, session->is_physical,
                                   address, bytes, length);
    reply(session, done == length ? "OK" : "E01");
}

/* Breakpoints and watchpoints: Z and z with type, address, kind. */

static bool find_point(const struct debug_control *control,
                       const struct debug_point *wanted, unsigned *index)
{
    for (*index = 0; *index < control->count; (*index)++) {
        const struct debug_point *point = &control->point[*index];
        if (point->kind == wanted->kind && point->address == wanted->address &&
            point->size == wanted->size) {
            return true;
        }
    }
    return false;
}

static void command_point(struct gdb_session *session, char *data, size_t size)
{
    static const enum debug_kind kinds[] = {DEBUG_EXECUTE, DEBUG_EXECUTE, DEBUG_WRITE,
                                            DEBUG_READ, DEBUG_ACCESS};
    struct debug_control *control = &session->control;
    struct debug_point point = {0};
    unsigned type = (unsigned)(data[1] - '0'), index;
    const char *text = data + 2;
    if (type >= array_size(kinds) || *text++ != ',' ||
        !parse_range(&text, &point.address, &point.size)) {
        reply(session, type >= array_size(kinds) ? "" : "E01");
        return;
    }
    point.kind = kinds[type];
    if (point.kind == DEBUG_EXECUTE) {
        point.size = 1;
    }
    bool is_there = find_point(control, &point, &index);
    if (data[0] == 'z') {
        if (is_there) {
            control->point[index] = control->point[--control->count];
        }
    } else if (!is_there) {
        if (control->count == DEBUG_POINTS_MAX) {
            reply_error(session);
            return;
        }
        control->point[control->count++] = point;
    }
    reply(session, "OK");
}

/* Threads. */

static void command_set_thread(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 2;
    int index;
    if (size < 3 || !parse_thread(session, &text, &index)) {
        reply_error(session);
        return;
    }
    if (index >= 0) {
        session->current = (unsigned)index;
    }
    reply(session, "OK");
}

static void command_thread_alive(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    int index;
    reply(session, parse_thread(session, &text, &index) && index >= 0 ? "OK" : "E01");
}

static void query_threads(struct gdb_session *session, const char *arguments)
{
    size_t length = 0;
    for (unsigned i = 0; i < session->vm->cpu_count; i++) {
        length +=
            (size_t)snprintf(session->reply + length, 8, "%c%x", i ? ',' : 'm', i + 1);
    }
    reply(session, session->reply);
}

static void query_no_more_threads(struct gdb_session *session, const char *arguments)
{
    reply(session, "l");
}

static void query_current(struct gdb_session *session, const char *arguments)
{
    snprintf(session->reply, sizeof(session->reply), "QC%x", session->current + 1);
    reply(session, session->reply);
}

static void query_thread_name(struct gdb_session *session, const char *arguments)
{
    static const char *const activities[] = {
        [X86_RUNNING] = "running",
        [X86_HALTED] = "halted",
        [X86_WAIT_SIPI] = "waiting for SIPI",
        [X86_SHUTDOWN] = "shut down",
    };
    int index;
    arguments += *arguments == ',';
    if (!parse_thread(session, &arguments, &index) || index < 0) {
        reply_error(session);
        return;
    }
    struct x86_state state;
    session->vm->engine_ops->get_state(session->vm->vcpu[index]->engine, &state);
    char text[64];
    int length =
        snprintf(text, sizeof(text), "vCPU %d, %s", index, activities[state.activity]);
    gdb_format_bytes(session->reply, (const uint8_t *)text, (size_t)length);
    reply(session, session->reply);
}

/* Queries and settings. */

static void query_supported(struct gdb_session *session, const char *arguments)
{
    snprintf(session->reply, sizeof(session->reply),
             "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+",
             GDB_PACKET_MAX);
    reply(session, session->reply);
}

/* :target.xml:OFFSET,LENGTH */
static void query_features(struct gdb_session *session, const char *arguments)
{
    static const char annex[] = ":target.xml:";
    uint64_t offset, length;
    if (strncmp(arguments, annex, strlen(annex)) != 0) {
        reply(session, "E00");
        return;
    }
    arguments += strlen(annex);
    const char *description = gdb_target_description();
    size_t whole = strlen(description);
    if (!parse_range(&arguments, &offset, &length) || offset > whole) {
        reply_error(session);
        return;
    }
    size_t rest = whole - offset;
    size_t limit = length < GDB_PACKET_MAX / 2 ? length : GDB_PACKET_MAX / 2;
    size_t part = rest < limit ? rest : limit;
    session->reply[0] = part < rest ? 'm' : 'l';
    memcpy(session->reply + 1, description + offset, part);
    session->send(session->opaque, session->reply, part + 1);
}

static void query_attached(struct gdb_session *session, const char *arguments)
{
    reply(session, "1");
}

static const char monitor_help[] =
    "registers         all registers of the current vCPU, hidden ones included\n"
    "physical on|off   whether addresses are guest-physical\n";

static void monitor(struct gdb_session *session, const char *command, char *out,
                    size_t room)
{
    struct x86_state state;
    if (!strcmp(command, "registers")) {
        get_state(session, &state);
        x86_state_format(&state, out, (unsigned)room);
    } else if (!strcmp(command, "physical on") || !strcmp(command, "physical off")) {
        session->is_physical = !strcmp(command, "physical on");
        snprintf(out, room, "addresses are %s\n",
                 session->is_physical ? "guest-physical" : "linear");
    } else {
        snprintf(out, room, "%s", monitor_help);
    }
}

static void query_monitor(struct gdb_session *session, const char *arguments)
{
    char command[64], text[GDB_PACKET_MAX / 2];
    arguments += *arguments == ',';
    size_t length = strlen(arguments) / 2;
    if (length >= sizeof(command) ||
        !gdb_parse_bytes(arguments, (uint8_t *)command, length)) {
        reply_error(session);
        return;
    }
    command[length] = '\0';
    monitor(session, command, text, sizeof(text));
    gdb_format_bytes(session->reply, (const uint8_t *)text, strlen(text));
    reply(session, session->reply);
}

static void query_no_ack(struct gdb_session *session, const char *arguments)
{
    reply(session, "OK");
    session->without_ack = true;
}

static const struct {
    const char *name;
    void (*answer)(struct gdb_session *session, const char *arguments);
} queries[] = {
    {"qSupported", query_supported},         {"qXfer:features:read", query_features},
    {"qfThreadInfo", query_threads},         {"qsThreadInfo", query_no_more_threads},
    {"qThreadExtraInfo", query_thread_name}, {"qC", query_current},
    {"qAttached", query_attached},           {"qRcmd", query_monitor},
    {"QStartNoAckMode", query_no_ack},
};

static void command_query(struct gdb_session *session, char *data, size_t size)
{
    for (unsigned i = 0; i < array_size(queries); i++) {
        size_t length = strlen(queries[i].name);
        if (!strncmp(data, queries[i].name, length) && strchr(":,;", data[length])) {
            queries[i].answer(session, data + length);
            return;
        }
    }
    reply(session, "");
}

static void command_v(struct gdb_session *session, char *data, size_t size)
{
    if (!strcmp(data, "vCont?")) {
        reply(session, "vCont;c;C;s;S;t");
    } else if (!strncmp(data, "vCont;", 6)) {
        command_vcont(session, data, size);
    } else if (!strncmp(data, "vKill;", 6)) {
        reply(session, "OK");
        vm_request_end(session->vm, VM_END_REQUEST, 0, "the debugger ended it");
    } else {
        reply(session, "");
    }
}

static void command_reason(struct gdb_session *session, char *data, size_t size)
{
    report_signal(session, SIGNAL_TRAP);
}

static void command_detach(struct gdb_session *session, char *data, size_t size)
{
    reply(session, "OK");
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
    {'?', command_reason},
    {'g', command_read_registers},
    {'G', command_write_registers},
    {'p', command_read_register},
    {'P', command_write_register},
    {'m', command_read_memory},
    {'M', command_write_memory},
    {'X', command_write_memory},
    {'c', command_resume},
    {'C', command_resume},
    {'s', command_resume},
    {'S', command_resume},
    {'v', command_v},
    {'Z', command_point},
    {'z', command_point},
    {'H', command_set_thread},
    {'T', command_thread_alive},
    {'q', command_query},
    {'Q', command_query},
    {'D', command_detach},
    {'k', command_kill},
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
    reply(session, "");
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
