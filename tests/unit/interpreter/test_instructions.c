/*
 * Every encoding that the decoder knows, in each code width, against the CPU model and
 * the tables of instructions: what the model offers has a routine. The list of what has
 * none is empty; what is not offered never gets as far (see test_isa.c).
 */
#include "encodings.h"
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include "interpreter/block.h"
#include "interpreter/insn.h"
#include "interpreter/isa.h"

struct walk {
    struct fixture *fixture;
    unsigned forms, missing;
};

static bool binds(struct walk *walk, const struct encoding *encoding)
{
    struct cpu *cpu = walk->fixture->cpu;
    struct binding binding = {cpu, &encoding->decoded, encoding->operand, encoding->bytes,
                              cpu->blocks};
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(encoding->decoded.mnemonic, i)); i++) {
        struct insn insn = {.length = encoding->decoded.length,
                            .base = REG_OFFSET(REG_ZERO),
                            .index = REG_OFFSET(REG_ZERO)};
        if (row->bind(&binding, row, &insn)) {
            return true;
        }
    }
    return false;
}

static void look_at(void *opaque, const struct encoding *encoding)
{
    struct walk *walk = opaque;
    if (!native_isa_offered(&walk->fixture->cpuid, &encoding->decoded)) {
        return;
    }
    walk->forms++;
    bool is_bound = binds(walk, encoding);
    if (!is_bound) {
        /* The room for decoded code, or for stubs, may have run out. */
        block_cache_empty(walk->fixture->cpu);
        is_bound = binds(walk, encoding);
    }
    if (!is_bound) {
        walk->missing++;
        printf("# no routine: %s (", ZydisMnemonicGetString(encoding->decoded.mnemonic));
        for (unsigned i = 0; i < encoding->decoded.length; i++) {
            printf("%s%02x", i ? " " : "", encoding->bytes[i]);
        }
        printf(")\n");
    }
}

static void walk_all(struct fixture *fixture, ZydisMachineMode mode,
                     ZydisStackWidth width)
{
    struct walk walk = {.fixture = fixture};
    ZydisDecoder decoder;
    ZydisDecoderInit(&decoder, mode, width);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(&decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    encodings_walk(&decoder, mode == ZYDIS_MACHINE_MODE_LONG_64,
                   fixture->cpu->is_protected, look_at, &walk);
    printf("# %u forms offered, %u without a routine\n", walk.forms, walk.missing);
    assert_in_range(walk.forms, 500, 100000);
    assert_int_equal(walk.missing, 0);
    fixture_free(fixture);
}

static void test_long_mode(void **state)
{
    walk_all(fixture_long(), ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
}

static void test_protected_mode(void **state)
{
    walk_all(fixture_protected(), ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
}

static void test_real_mode(void **state)
{
    walk_all(fixture_real(), ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_mode),
        cmocka_unit_test(test_protected_mode),
        cmocka_unit_test(test_real_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
