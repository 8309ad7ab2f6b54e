/*
 * 32-bit code in compatibility mode, at CPL 0 and 3, for the programs that need it:
 * segments of any base, limit and rights; code, data and stack in pages that ring 3 sees;
 * and runs that an int $0x80, or a fault, ends. Traps use IST 1.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "trap.h"

/* Attributes of a descriptor: bits 40-47, and 52-55 at 12-15. */
#define CODE_32          0xc09bu /* readable */
#define CODE_UNREAD      0xc099u
#define DATA_32          0xc093u
#define DATA_READ_ONLY   0xc091u
#define DATA_BYTES       0x4093u /* the limit in bytes */
#define STACK_16         0x8093u
#define DPL_3            0x60u

#define CODE32_DATA_SIZE 0x3000u
#define CODE32_STACK_TOP 0xff0u /* in its page */

struct far_pointer {
    uint32_t offset;
    uint16_t selector;
} __attribute__((packed));

/* Bases of the segments, and at which level. */
struct place {
    const char *name;
    uint32_t code, data, extra, stack;
    bool is_user;
};

/* What is run, with which segments. */
struct run {
    uint32_t cs, ss, ds, es;
    uint32_t eip, esp;
    bool has_interrupts;
    uint32_t flags; /* besides */
};

struct registers {
    uint32_t eax, ebx, ecx, edx, esi, edi, ebp;
};

/* Pages: of code, of CODE32_DATA_SIZE for data, one for the stack. */
extern uint8_t *code32_code, *code32_data, *code32_stack;

/* Once: makes the pages, and gates for traps of ring 3. */
void code32_prepare(void);
/* A GDT with room for describe(), a copy of [start, end) as code, cleared data; and the
 * usual tables again. */
void code32_begin(const char *start, const char *end);
void code32_end(void);

/* A new descriptor; with rights for ring 3 its selector asks for them. */
uint32_t describe(uint32_t base, uint32_t limit, uint32_t rights);
/* Where the descriptor is. */
void *descriptor_of(uint32_t selector);
/* The last of them are needed no more. */
void descriptor_forget(unsigned count);

void set_data(uint32_t ds, uint32_t es);
void set_based(uint32_t fs, uint32_t gs);

static inline uint32_t linear(const void *address)
{
    return (uint32_t)(uint64_t)address;
}

/* Where a piece of the code was copied to. */
uint8_t *copy_of(const char *piece);

/* A piece as the place says: segments, EIP, ESP. */
struct run run_at(const struct place *place, const char *piece);
/* Runs it; what ended it. */
const struct trap_frame *run_code32(const struct run *run, struct registers registers);
/* Fails if that was not an int $0x80. */
void expect_end(const struct trap_frame *trap);
