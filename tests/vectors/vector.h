#pragma once
/* One vector on the interpreter: a real-mode machine, one instruction, and what differs
 * from the captured state. */

#include "interpreter/cpu.h"
#include "moo.h"

enum vector_family {
    FAMILY_8086,  /* addresses wrap at 1 MiB; a test is one instruction */
    FAMILY_80286, /* 24 address lines; a HLT behind it is executed, too */
};

#define VECTOR_RAM   0x200000u
#define VECTOR_PAGES (VECTOR_RAM / FRAME_SIZE)

struct vector_machine {
    enum vector_family family;
    struct memory *memory;
    struct cpuid_policy cpuid;
    struct cpu *cpu;
    uint8_t *ram, *expected; /* VECTOR_RAM bytes each */
    bool is_touched[VECTOR_PAGES];
};

int vector_machine_init(struct vector_machine *machine, enum vector_family family,
                        struct error *err);
void vector_machine_fini(struct vector_machine *machine);

/* Executes it and compares. undefined: flags that do not count,
 * pushes_flags: not where they were pushed, either. Returns true if all
 * agrees; else difference tells the first thing that does not. */
bool vector_run(struct vector_machine *machine, const struct moo_test *test,
                uint16_t undefined, bool pushes_flags, char *difference, unsigned size);
