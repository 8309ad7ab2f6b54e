#pragma once
/* What the commands of gdb_session.c, gdb_state.c and gdb_query.c share. A command gets
 * its packet, letter included, NUL-terminated; data may be changed. */

#include "control/gdb_session.h"

typedef void gdb_command(struct gdb_session *session, char *data, size_t size);

void gdb_reply(struct gdb_session *session, const char *text);
void gdb_reply_error(struct gdb_session *session);

/* The vCPU that register and memory commands mean, and its state. */
struct vcpu *gdb_current(struct gdb_session *session);
void gdb_get_state(struct gdb_session *session, struct x86_state *state);
void gdb_set_state(struct gdb_session *session, const struct x86_state *state);

/* ADDRESS,LENGTH at *text, which moves behind it. */
bool gdb_parse_range(const char **text, uint64_t *address, uint64_t *length);
/* A thread's number there: *index is its vCPU, -1 for any or all (0 and -1). */
bool gdb_parse_thread(struct gdb_session *session, const char **text, int *index);

/* Registers and memory: gdb_state.c. */
gdb_command gdb_read_registers, gdb_write_registers, gdb_read_register,
    gdb_write_register, gdb_read_memory, gdb_write_memory, gdb_change_point;
/* q and Q: gdb_query.c. */
gdb_command gdb_query;
