/* What a debugger asks about the stub and the VM, and "monitor" commands. */
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "control/gdb_command.h"
#include "control/gdb_target.h"

static void query_threads(struct gdb_session *session, const char *arguments)
{
    size_t length = 0;
    for (unsigned i = 0; i < session->vm->cpu_count; i++) {
        length +=
            (size_t)snprintf(session->reply + length, 8, "%c%x", i ? ',' : 'm', i + 1);
    }
    gdb_reply(session, session->reply);
}

static void query_no_more_threads(struct gdb_session *session, const char *arguments)
{
    gdb_reply(session, "l");
}

static void query_current(struct gdb_session *session, const char *arguments)
{
    snprintf(session->reply, sizeof(session->reply), "QC%x", session->current + 1);
    gdb_reply(session, session->reply);
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
    if (!gdb_parse_thread(session, &arguments, &index) || index < 0) {
        gdb_reply_error(session);
        return;
    }
    struct x86_state state;
    session->vm->engine_ops->get_state(session->vm->vcpu[index]->engine, &state);
    char text[64];
    int length =
        snprintf(text, sizeof(text), "vCPU %d, %s", index, activities[state.activity]);
    gdb_format_bytes(session->reply, (const uint8_t *)text, (size_t)length);
    gdb_reply(session, session->reply);
}

static void query_supported(struct gdb_session *session, const char *arguments)
{
    snprintf(session->reply, sizeof(session->reply),
             "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+",
             GDB_PACKET_MAX);
    gdb_reply(session, session->reply);
}

/* :target.xml:OFFSET,LENGTH */
static void query_features(struct gdb_session *session, const char *arguments)
{
    static const char annex[] = ":target.xml:";
    uint64_t offset, length;
    if (strncmp(arguments, annex, strlen(annex)) != 0) {
        gdb_reply(session, "E00");
        return;
    }
    arguments += strlen(annex);
    const char *description = gdb_target_description();
    size_t whole = strlen(description);
    if (!gdb_parse_range(&arguments, &offset, &length) || offset > whole) {
        gdb_reply_error(session);
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
    gdb_reply(session, "1");
}

static const char monitor_help[] =
    "registers         all registers of the current vCPU, hidden ones included\n"
    "physical on|off   whether addresses are guest-physical\n";

static void monitor(struct gdb_session *session, const char *command, char *out,
                    size_t room)
{
    struct x86_state state;
    if (!strcmp(command, "registers")) {
        gdb_get_state(session, &state);
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
        gdb_reply_error(session);
        return;
    }
    command[length] = '\0';
    monitor(session, command, text, sizeof(text));
    gdb_format_bytes(session->reply, (const uint8_t *)text, strlen(text));
    gdb_reply(session, session->reply);
}

static void query_no_ack(struct gdb_session *session, const char *arguments)
{
    gdb_reply(session, "OK");
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

void gdb_query(struct gdb_session *session, char *data, size_t size)
{
    for (unsigned i = 0; i < array_size(queries); i++) {
        size_t length = strlen(queries[i].name);
        if (!strncmp(data, queries[i].name, length) && strchr(":,;", data[length])) {
            queries[i].answer(session, data + length);
            return;
        }
    }
    gdb_reply(session, "");
}
