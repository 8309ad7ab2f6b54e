/*
 * Every routine goes on with the next instruction by a tail call: it leaves nothing on
 * the host's stack, which a guest's loop would fill otherwise.
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
    struct x86_state state; /* to start each from */
    unsigned ran, deeper;
};

static uintptr_t seen;

static const struct insn *note_place(struct cpu *cpu, const struct insn *insn)
{
    seen = (uintptr_t)__builtin_frame_address(0);
    return NULL;
}

static const struct insn *do_nothing(struct cpu *cpu, const struct insn *insn)
{
    NEXT(cpu, insn);
}

/* 0: it was not reached. */
static __attribute__((noinline)) uintptr_t place_behind(struct walk *walk,
                                                        const struct insn *insn)
{
    struct cpu *cpu = walk->fixture->cpu;
    cpu_sync_in(cpu, &walk->state);
    cpu->reg[REG_CODE_BASE] = FIXTURE_CODE;
    seen = 0;
    while (insn) {
        insn = insn->exec(cpu, insn);
    }
    return seen;
}

static bool bind(struct walk *walk, const struct encoding *encoding, struct insn *insn)
{
    struct cpu *cpu = walk->fixture->cpu;
    struct binding binding = {cpu, &encoding->decoded, encoding->operand, encoding->bytes,
                              cpu->blocks};
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(encoding->decoded.mnemonic, i)); i++) {
        *insn = (struct insn){.length = encoding->decoded.length,
                              .base = REG_OFFSET(REG_ZERO),
                              .index = REG_OFFSET(REG_ZERO)};
        if (row->bind(&binding, row, insn)) {
            return true;
        }
    }
    return false;
}

static void look_at(void *opaque, const struct encoding *encoding)
{
    struct walk *walk = opaque;
    const struct insn nothing[2] = {{.exec = do_nothing}, {.exec = note_place}};
    struct insn insn[2];
    if (!native_isa_offered(&walk->fixture->cpuid, &encoding->decoded)) {
        return;
    }
    if (!bind(walk, encoding, &insn[0])) {
        block_cache_empty(walk->fixture->cpu); /* of stubs, for which there was no room */
        if (!bind(walk, encoding, &insn[0])) {
            return; /* test_instructions.c's subject */
        }
    }
    insn[1] = (struct insn){.exec = note_place};
    uintptr_t begun = place_behind(walk, nothing);
    uintptr_t ended = place_behind(walk, insn);
    walk->ran += ended != 0;
    if (ended && ended != begun) {
        walk->deeper++;
        printf("# %s goes on %td bytes deeper\n",
               ZydisMnemonicGetString(encoding->decoded.mnemonic),
               (ptrdiff_t)(begun - ended));
    }
}

static void walk_all(struct fixture *fixture, ZydisMachineMode mode,
                     ZydisStackWidth width)
{
    struct walk walk = {.fixture = fixture};
    ZydisDecoder decoder;
    cpu_sync_out(fixture->cpu, &walk.state);
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        walk.state.gpr[i] = i == X86_RSP ? FIXTURE_STACK : FIXTURE_DATA;
    }
    walk.state.cr4 |=
        X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
    walk.state.xcr0 = fixture->cpuid.xcr0_valid | X86_XCR0_X87;
    ZydisDecoderInit(&decoder, mode, width);
    encodings_walk(&decoder, mode == ZYDIS_MACHINE_MODE_LONG_64, true, look_at, &walk);
    printf("# behind %u forms\n", walk.ran);
    assert_in_range(walk.ran, 2000, 100000);
    assert_int_equal(walk.deeper, 0);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_long_mode),
        cmocka_unit_test(test_protected_mode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
