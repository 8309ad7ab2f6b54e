#pragma once
/* The translator's decoder over a page of code, without an engine around it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "engine/translator/decode.h"
#include "interpreter/insn.h"

#include <cmocka.h>

#define AT 64u /* offset in the page */

struct rig {
    struct memory *memory;
    struct cpuid_policy cpuid;
    struct code_cache *cache;
    struct cpu *cpu;
    struct block block;
    struct emit emit;
    uint64_t seed;
};

void open_rig(struct rig *rig);
void close_rig(struct rig *rig);
/* MODE_* */
void set_mode(struct rig *rig, unsigned mode);
/* False: the instruction is not whole within the page. */
bool decode(struct rig *rig, const uint8_t bytes[INSN_BYTES_MAX], unsigned offset,
            struct guest_insn *insn);
