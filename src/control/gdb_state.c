/* What a debugger reads and changes: registers, memory, and the points to stop at. */
#include <string.h>

#include "base/scope.h"
#include "control/gdb_command.h"
#include "control/gdb_target.h"

/* Registers. */

void gdb_read_registers(struct gdb_session *session, char *data, size_t size)
{
    struct x86_state state;
    uint8_t value[16];
    size_t length = 0;
    gdb_get_state(session, &state);
    for (unsigned i = 0; i < gdb_register_count(); i++) {
        gdb_register_get(gdb_current(session), &state, i, value);
        gdb_format_bytes(session->reply + length, value, gdb_register_size(i));
        length += 2 * gdb_register_size(i);
    }
    gdb_reply(session, session->reply);
}

void gdb_write_registers(struct gdb_session *session, char *data, size_t size)
{
    struct x86_state state;
    uint8_t value[16];
    const char *text = data + 1;
    gdb_get_state(session, &state);
    for (unsigned i = 0; i < gdb_register_count(); i++) {
        if (!gdb_parse_bytes(text, value, gdb_register_size(i))) {
            gdb_reply_error(session);
            return;
        }
        gdb_register_set(&state, i, value); /* those that cannot be written stay */
        text += 2 * gdb_register_size(i);
    }
    gdb_set_state(session, &state);
    gdb_reply(session, "OK");
}

void gdb_read_register(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t number;
    if (!gdb_parse_hex(&text, &number) || number >= gdb_register_count()) {
        gdb_reply_error(session);
        return;
    }
    struct x86_state state;
    uint8_t value[16];
    gdb_get_state(session, &state);
    gdb_register_get(gdb_current(session), &state, (unsigned)number, value);
    gdb_format_bytes(session->reply, value, gdb_register_size((unsigned)number));
    gdb_reply(session, session->reply);
}

void gdb_write_register(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t number;
    uint8_t value[16];
    struct x86_state state;
    if (!gdb_parse_hex(&text, &number) || number >= gdb_register_count() ||
        *text != '=' ||
        !gdb_parse_bytes(text + 1, value, gdb_register_size((unsigned)number))) {
        gdb_reply_error(session);
        return;
    }
    gdb_get_state(session, &state);
    if (!gdb_register_set(&state, (unsigned)number, value)) {
        gdb_reply_error(session);
        return;
    }
    gdb_set_state(session, &state);
    gdb_reply(session, "OK");
}

/* Memory. */

bool gdb_parse_range(const char **text, uint64_t *address, uint64_t *length)
{
    return gdb_parse_hex(text, address) && *(*text)++ == ',' &&
           gdb_parse_hex(text, length);
}

void gdb_read_memory(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t address, length;
    if (!gdb_parse_range(&text, &address, &length)) {
        gdb_reply_error(session);
        return;
    }
    uint8_t bytes[GDB_PACKET_MAX / 2];
    if (length > sizeof(bytes)) {
        length = sizeof(bytes);
    }
    struct x86_state state;
    gdb_get_state(session, &state);
    size_t done = gdb_memory_read(gdb_current(session), &state, session->is_physical,
                                  address, bytes, length);
    if (!done && length) {
        gdb_reply_error(session);
        return;
    }
    gdb_format_bytes(session->reply, bytes, done);
    gdb_reply(session, session->reply);
}

/* M has digits, X has binary data with escapes. */
void gdb_write_memory(struct gdb_session *session, char *data, size_t size)
{
    const char *text = data + 1;
    uint64_t address, length;
    uint8_t bytes[GDB_PACKET_MAX];
    if (!gdb_parse_range(&text, &address, &length) || *text++ != ':' ||
        length > sizeof(bytes)) {
        gdb_reply_error(session);
        return;
    }
    if (data[0] == 'X') {
        size_t left = gdb_unescape(data + (text - data), size - (size_t)(text - data));
        if (left != length) {
            gdb_reply_error(session);
            return;
        }
        memcpy(bytes, text, length);
    } else if (!gdb_parse_bytes(text, bytes, length)) {
        gdb_reply_error(session);
        return;
    }
    struct x86_state state;
    gdb_get_state(session, &state);
    size_t done = gdb_memory_write(gdb_current(session), &state, session->is_physical,
                                   address, bytes, length);
    gdb_reply(session, done == length ? "OK" : "E01");
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

void gdb_change_point(struct gdb_session *session, char *data, size_t size)
{
    static const enum debug_kind kinds[] = {DEBUG_EXECUTE, DEBUG_EXECUTE, DEBUG_WRITE,
                                            DEBUG_READ, DEBUG_ACCESS};
    struct debug_control *control = &session->control;
    struct debug_point point = {0};
    unsigned type = (unsigned)(data[1] - '0'), index;
    const char *text = data + 2;
    if (type >= array_size(kinds) || *text++ != ',' ||
        !gdb_parse_range(&text, &point.address, &point.size)) {
        gdb_reply(session, type >= array_size(kinds) ? "" : "E01");
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
            gdb_reply_error(session);
            return;
        }
        control->point[control->count++] = point;
    }
    gdb_reply(session, "OK");
}
