/* Reset, INIT and start-up states; mode; register dump. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "x86/segment.h"
#include "x86/state.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

static void test_reset_starts_at_the_reset_vector(void **unused)
{
    struct x86_state state;

    memset(&state, 0xa5, sizeof(state));
    x86_state_reset(&state, true);

    assert_int_equal(state.seg[X86_CS].base + state.rip, 0xfffffff0u);
    assert_int_equal(state.seg[X86_CS].selector, 0xf000);
    assert_int_equal(state.rflags, 2);
    assert_int_equal(state.cr0, 0x60000010);
    assert_int_equal(state.cr4, 0);
    assert_int_equal(state.efer, 0);
    assert_int_equal(state.dr6, 0xffff0ff0u);
    assert_int_equal(state.dr7, 0x400);
    assert_int_equal(state.xcr0, 1);
    assert_int_equal(state.pat, 0x0007040600070406ull);
    assert_int_equal(state.fpu.fcw, 0x40);
    assert_int_equal(state.fpu.mxcsr, 0x1f80);
    assert_int_equal(state.apic_base, 0xfee00900u);
    assert_int_equal(state.activity, X86_RUNNING);
    assert_int_equal(x86_state_mode(&state), X86_MODE_REAL);
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        assert_int_equal(state.seg[i].limit, 0xffff);
        assert_int_equal(state.seg[i].access, 0x93);
    }
    assert_int_equal(state.tr.access, 0x8b);
    assert_int_equal(state.ldtr.access, 0x82);
    assert_int_equal(state.gdtr.limit, 0xffff);
    assert_int_equal(x86_cpl(&state), 0);
}

static void test_reset_application_processor_waits(void **unused)
{
    struct x86_state state;

    x86_state_reset(&state, false);
    assert_int_equal(state.activity, X86_WAIT_SIPI);
    assert_int_equal(state.apic_base, 0xfee00800u);
}

static void test_init_keeps_what_the_manual_says(void **unused)
{
    struct x86_state state;

    x86_state_reset(&state, false);
    state.activity = X86_RUNNING;
    state.cr0 = 0x80050033 | X86_CR0_CD;
    state.cr3 = 0x1000;
    state.cr4 = X86_CR4_PAE;
    state.efer = X86_EFER_LMA | X86_EFER_LME;
    state.gpr[X86_R15] = 77;
    state.fpu.fcw = 0x37f;
    state.fpu.mxcsr = 0x1fa0;
    state.vec[3].u64[1] = 0x1234;
    state.xcr0 = 7;
    state.pat = 0x0606060606060606ull;
    state.lstar = 0xffffffff81000000ull;
    state.tsc_offset = 99;
    state.mtrr.default_type = 0xc06;
    state.nmi_blocked = true;
    state.interrupt_shadow = true;
    state.event.pending = true;
    x86_state_init(&state, false);

    assert_int_equal(state.cr0, X86_CR0_CD | X86_CR0_ET);
    assert_int_equal(state.cr3, 0);
    assert_int_equal(state.cr4, 0);
    assert_int_equal(state.efer, 0);
    assert_int_equal(state.gpr[X86_R15], 0);
    assert_int_equal(state.fpu.fcw, 0x37f);
    assert_int_equal(state.fpu.mxcsr, 0x1fa0);
    assert_int_equal(state.vec[3].u64[1], 0x1234);
    assert_int_equal(state.xcr0, 7);
    assert_int_equal(state.pat, 0x0606060606060606ull);
    assert_int_equal(state.lstar, 0xffffffff81000000ull);
    assert_int_equal(state.tsc_offset, 99);
    assert_int_equal(state.mtrr.default_type, 0xc06);
    assert_false(state.nmi_blocked);
    assert_false(state.interrupt_shadow);
    assert_false(state.event.pending);
    assert_int_equal(state.activity, X86_WAIT_SIPI);

    x86_state_init(&state, true);
    assert_int_equal(state.activity, X86_RUNNING);
}

static void test_startup_only_when_waiting(void **unused)
{
    struct x86_state state;

    x86_state_reset(&state, false);
    x86_state_startup(&state, 0x9a);
    assert_int_equal(state.activity, X86_RUNNING);
    assert_int_equal(state.seg[X86_CS].selector, 0x9a00);
    assert_int_equal(state.seg[X86_CS].base, 0x9a000);
    assert_int_equal(state.rip, 0);

    x86_state_startup(&state, 0x10);
    assert_int_equal(state.seg[X86_CS].base, 0x9a000);
}

static void test_mode(void **unused)
{
    static const struct {
        uint64_t cr0, efer, rflags;
        uint32_t access;
        enum x86_mode mode;
    } cases[] = {
        {0, 0, 0, X86_ACCESS_DB, X86_MODE_REAL},
        {0, 0, X86_FLAG_VM, 0, X86_MODE_REAL},
        {X86_CR0_PE, 0, 0, 0, X86_MODE_PROTECTED16},
        {X86_CR0_PE, 0, 0, X86_ACCESS_DB, X86_MODE_PROTECTED32},
        {X86_CR0_PE, 0, X86_FLAG_VM, X86_ACCESS_DB, X86_MODE_VM86},
        /* L means nothing until LMA is set. */
        {X86_CR0_PE, X86_EFER_LME, 0, X86_ACCESS_L, X86_MODE_PROTECTED16},
        {X86_CR0_PE, X86_EFER_LMA, 0, 0, X86_MODE_COMPAT16},
        {X86_CR0_PE, X86_EFER_LMA, 0, X86_ACCESS_DB, X86_MODE_COMPAT32},
        {X86_CR0_PE, X86_EFER_LMA, 0, X86_ACCESS_L, X86_MODE_LONG64},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct x86_state state = {
            .cr0 = cases[i].cr0, .efer = cases[i].efer, .rflags = cases[i].rflags};

        state.seg[X86_CS].access = cases[i].access;
        assert_int_equal(x86_state_mode(&state), cases[i].mode);
    }
}

static void test_format(void **unused)
{
    struct x86_state state;
    char text[4096];

    x86_state_reset(&state, true);
    state.gpr[X86_R10] = 0xdeadbeef;
    state.rflags |= X86_FLAG_CF | X86_FLAG_ZF | X86_FLAG_IF | X86_FLAG_IOPL;
    int length = x86_state_format(&state, text, sizeof(text));

    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, "R10=00000000deadbeef"));
    assert_non_null(strstr(text, "RIP=000000000000fff0"));
    assert_non_null(strstr(text, "RFLAGS=00003243 [iopl3 i z c]"));
    assert_non_null(strstr(text, "CS  =f000 base=00000000ffff0000"));
    assert_non_null(strstr(text, "CR0=60000010"));
    assert_non_null(strstr(text, "EFER=0000"));
    assert_non_null(strstr(text, "real mode, CPL 0, running"));
    assert_null(strstr(text, "pending"));
}

static void test_format_truncates_like_snprintf(void **unused)
{
    struct x86_state state;
    char text[4096], part[101];

    x86_state_reset(&state, true);
    int length = x86_state_format(&state, text, sizeof(text));

    memset(part, '#', sizeof(part));
    assert_int_equal(x86_state_format(&state, part, 100), length);
    assert_int_equal(strlen(part), 99);
    assert_memory_equal(part, text, 99);
    assert_int_equal(part[100], '#');
    assert_int_equal(x86_state_format(&state, NULL, 0), length);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_starts_at_the_reset_vector),
        cmocka_unit_test(test_reset_application_processor_waits),
        cmocka_unit_test(test_init_keeps_what_the_manual_says),
        cmocka_unit_test(test_startup_only_when_waiting),
        cmocka_unit_test(test_mode),
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_format_truncates_like_snprintf),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
