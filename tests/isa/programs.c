#include "programs.h"

#include <assert.h>
#include <string.h>

#include "x86/flags.h"
#include "x86/state.h"

#define VARIATIONS 32

/* In programs.S; ends with an empty one. */
extern const struct {
    const uint8_t *start, *end;
    uint64_t bits;
} isa_programs[];

bool programs_make(unsigned n, struct isa_case *test)
{
    unsigned number = n / VARIATIONS;
    uint64_t random = n + 1;

    for (unsigned i = 0; i <= number; i++) {
        if (!isa_programs[i].start) {
            return false;
        }
    }
    size_t length = (size_t)(isa_programs[number].end - isa_programs[number].start);
    assert(length <= ISA_CODE_MAX);
    *test = (struct isa_case){
        .bits = (uint8_t)isa_programs[number].bits,
        .code_length = (uint8_t)length,
        .vector_seed = n + 1,
        .mxcsr = 0x1f80,
        .fcw = 0x37f,
        .ftw = 0xff,
        .flags = (uint32_t)isa_random(&random) & X86_FLAGS_ARITH,
        .image = (uint8_t)(n % ISA_IMAGE_COUNT),
        .is_stepped = n % 4 == 1,
    };
    memcpy(test->code, isa_programs[number].start, length);
    for (unsigned i = 0; i < (test->bits == 64 ? 16u : 8u); i++) {
        test->gpr[i] = isa_value(&random);
        test->gpr[i] = test->bits == 64 ? test->gpr[i] : (uint32_t)test->gpr[i];
    }
    test->gpr[X86_RSP] = ISA_STACK + 0x800 + isa_random(&random) % 64 * 8;
    test->gpr[X86_RBP] = ISA_STACK + 0x600 + isa_random(&random) % 64 * 8;
    test->gpr[X86_RSI] = ISA_DATA + 0x200 + isa_random(&random) % 0x1000;
    test->gpr[X86_RDI] = ISA_DATA + 0x200 + isa_random(&random) % 0x1000;
    return true;
}
