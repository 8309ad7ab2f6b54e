#pragma once
/* Cases on the bare processor, in a program of its own (bare.c). One that hangs or dies
 * is replaced, and the next case taken. */

#include "case.h"

struct host;

/* program: the path of isa_bare. NULL with a message on stderr. */
struct host *host_new(const char *program);
void host_free(struct host *host);

/* Starts ISA_BATCH cases or fewer; host_finish waits for them. False if no program can
 * be started any more. */
void host_start(struct host *host, const struct isa_input *inputs, unsigned count);
bool host_finish(struct host *host);

/* Of the last batch. */
const struct isa_result *host_result(const struct host *host, unsigned index);
const uint8_t *host_memory(const struct host *host, unsigned index);

/* Does this host run 32-bit code? */
bool host_runs(struct host *host, unsigned bits);
/* The descriptor by which Linux tells programs their processor (selector 0x78), as they
 * see it; 0: there is none. */
uint64_t host_processor_segment(void);
/* Does it show the bases of FS and GS? */
bool host_shows_bases(void);
