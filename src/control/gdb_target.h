#pragma once
/*
 * A vCPU as the GDB remote protocol describes it: registers in the order of a target
 * description, memory by linear or physical address. Only while the VM is paused.
 */

#include <stdbool.h>
#include <stddef.h>

#include "dispatcher/vcpu.h"

/* The target description (XML), NUL-terminated, borrowed. */
const char *gdb_target_description(void);

unsigned gdb_register_count(void);
/* Size of a register's value in bytes. */
unsigned gdb_register_size(unsigned number);
/* Values are in guest byte order, gdb_register_size(number) bytes. */
void gdb_register_get(const struct vcpu *vcpu, const struct x86_state *state,
                      unsigned number, uint8_t *value);
/* False: it cannot be written. The caller loads the state back into the engine. */
bool gdb_register_set(struct x86_state *state, unsigned number, const uint8_t *value);

/* Copies up to size bytes; returns how many could be read or written before the first
 * that is not mapped RAM. */
size_t gdb_memory_read(struct vcpu *vcpu, const struct x86_state *state, bool is_physical,
                       uint64_t address, uint8_t *buffer, size_t size);
size_t gdb_memory_write(struct vcpu *vcpu, const struct x86_state *state,
                        bool is_physical, uint64_t address, const uint8_t *buffer,
                        size_t size);
