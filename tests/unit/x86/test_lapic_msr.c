/* IA32_APIC_BASE as a state machine, and the x2APIC registers as MSRs. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/lapic.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

static struct lapic lapic;
static struct lapic_effect effect;

static bool wrmsr(uint32_t index, uint64_t value)
{
    return lapic_msr_write(&lapic, 0, 0, index, value, &effect);
}

static bool rdmsr(uint32_t index, uint64_t *value)
{
    return lapic_msr_read(&lapic, 0, 0, index, value);
}

enum { DISABLED = 0, INVALID = 0x400, XAPIC = 0x800, X2APIC = 0xc00 };

static void enter(unsigned mode)
{
    lapic_reset(&lapic, 0x13, 1000000);
    if (mode == X2APIC) {
        assert_true(wrmsr(MSR_APIC_BASE, 0xfee00c00));
    } else if (mode == DISABLED) {
        assert_true(wrmsr(MSR_APIC_BASE, 0xfee00000));
    }
}

static void test_transitions(void **unused)
{
    static const struct {
        unsigned from, to;
        bool valid;
    } cases[] = {
        {DISABLED, DISABLED, true}, {DISABLED, INVALID, false}, {DISABLED, XAPIC, true},
        {DISABLED, X2APIC, false},  {XAPIC, DISABLED, true},    {XAPIC, INVALID, false},
        {XAPIC, XAPIC, true},       {XAPIC, X2APIC, true},      {X2APIC, DISABLED, true},
        {X2APIC, INVALID, false},   {X2APIC, XAPIC, false},     {X2APIC, X2APIC, true},
    };

    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint64_t value;

        enter(cases[i].from);
        assert_int_equal(wrmsr(MSR_APIC_BASE, 0xfee00000u | cases[i].to), cases[i].valid);
        assert_true(rdmsr(MSR_APIC_BASE, &value));
        assert_int_equal(value,
                         0xfee00000u | (cases[i].valid ? cases[i].to : cases[i].from));
        bool changed = cases[i].valid && cases[i].from != cases[i].to;
        assert_int_equal(!!(effect.what & LAPIC_EFFECT_BASE), changed);
        assert_int_equal(lapic_has_mmio(&lapic), value % 0x1000 == XAPIC);
    }
}

static void test_reserved_bits_of_the_base(void **unused)
{
    enter(XAPIC);
    assert_false(wrmsr(MSR_APIC_BASE, 0xfee00801));
    assert_false(wrmsr(MSR_APIC_BASE, 0xfee00a00));
    assert_false(wrmsr(MSR_APIC_BASE, 1ull << 63 | 0xfee00800));
    assert_true(wrmsr(MSR_APIC_BASE, 0xfed00800)); /* moved */
    assert_true(effect.what & LAPIC_EFFECT_BASE);
}

static void test_disabling_forgets(void **unused)
{
    enter(XAPIC);
    lapic_mmio_write(&lapic, 0, 0xf0, 0x1ff, &effect);
    lapic_mmio_write(&lapic, 0, 0x380, 1000, &effect);
    assert_true(wrmsr(MSR_APIC_BASE, 0xfee00000));
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    assert_int_equal(lapic_mmio_read(&lapic, 0, 0x20), 0xffffffff);
    lapic_set_extint(&lapic, true); /* LINT0 is INTR now */
    assert_int_equal(lapic_pending(&lapic), LAPIC_EXTINT);
    assert_true(lapic_lint1_nmi(&lapic));
    assert_true(wrmsr(MSR_APIC_BASE, 0xfee00800));
    assert_int_equal(lapic_mmio_read(&lapic, 0, 0xf0), 0xff);
    assert_int_equal(lapic_mmio_read(&lapic, 0, 0x20), 0x13u << 24);
}

static void test_ids_in_x2apic_mode(void **unused)
{
    uint64_t value;

    enter(XAPIC);
    lapic_mmio_write(&lapic, 0, 0xf0, 0x1fe, &effect);
    lapic_mmio_write(&lapic, 0, 0x310, 0x05000000, &effect);
    assert_true(wrmsr(MSR_APIC_BASE, 0xfee00c00));
    assert_true(rdmsr(0x802, &value));
    assert_int_equal(value, 0x13);
    assert_true(rdmsr(0x80d, &value));
    assert_int_equal(value, 0x10008);
    assert_true(rdmsr(0x80f, &value)); /* the rest of the state survives */
    assert_int_equal(value, 0x1fe);
    assert_true(rdmsr(0x830, &value));
    assert_int_equal(value, 0);
    lapic_mmio_write(&lapic, 0, 0x80, 0x40, &effect); /* no page any more */
    assert_true(rdmsr(0x808, &value));
    assert_int_equal(value, 0);
    lapic_init_signal(&lapic);
    assert_true(rdmsr(0x802, &value));
    assert_int_equal(value, 0x13);
}

static void test_which_msrs_exist(void **unused)
{
    static const uint8_t readable[] = {
        0x02, 0x03, 0x08, 0x0a, 0x0d, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14,
        0x15, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f,
        0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, 0x30, 0x32,
        0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3e};
    static const uint8_t writable[] = {0x08, 0x0b, 0x0f, 0x28, 0x30, 0x32, 0x33,
                                       0x34, 0x35, 0x36, 0x37, 0x38, 0x3e, 0x3f};
    unsigned next_readable = 0, next_writable = 0;
    uint64_t value;

    enter(X2APIC);
    for (unsigned i = 0; i < 0x100; i++) {
        bool can_read = next_readable < sizeof(readable) && readable[next_readable] == i;
        bool can_write = next_writable < sizeof(writable) && writable[next_writable] == i;

        assert_int_equal(rdmsr(0x800 + i, &value), can_read);
        assert_int_equal(wrmsr(0x800 + i, 0), can_write);
        next_readable += can_read;
        next_writable += can_write;
    }
    enter(XAPIC);
    for (unsigned i = 0; i < 0x100; i++) {
        assert_false(rdmsr(0x800 + i, &value));
        assert_false(wrmsr(0x800 + i, 0));
    }
}

static void test_reserved_bits_fault(void **unused)
{
    enter(X2APIC);
    assert_false(wrmsr(0x808, 0x100));
    assert_false(wrmsr(0x80b, 1));
    assert_false(wrmsr(0x80f, 0x1000));
    assert_false(wrmsr(0x828, 1));
    assert_false(wrmsr(0x832, 0x80000));
    assert_false(wrmsr(0x837, 0x700));
    assert_false(wrmsr(0x838, 1ull << 32));
    assert_false(wrmsr(0x83e, 4));
    assert_true(wrmsr(0x835, 0x5000)); /* read-only status bits are not reserved */
    assert_true(wrmsr(0x838, 0xffffffff));
    assert_true(effect.what & LAPIC_EFFECT_TIMER);
}

static void test_eoi_by_msr(void **unused)
{
    struct apic_message message = {.mode = APIC_FIXED, .vector = 0x61, .is_level = true};

    enter(X2APIC);
    assert_true(wrmsr(0x80f, 0x1ff));
    lapic_post(&lapic, &message);
    lapic_acknowledge(&lapic, 0x61);
    assert_true(wrmsr(0x80b, 0));
    assert_int_equal(effect.what, LAPIC_EFFECT_EOI);
    assert_int_equal(effect.eoi_vector, 0x61);
}

static void test_ownership(void **unused)
{
    assert_true(lapic_owns_msr(MSR_APIC_BASE));
    assert_true(lapic_owns_msr(MSR_TSC_DEADLINE));
    assert_true(lapic_owns_msr(0x800) && lapic_owns_msr(0x8ff));
    assert_false(lapic_owns_msr(0x7ff) || lapic_owns_msr(0x900));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transitions),
        cmocka_unit_test(test_reserved_bits_of_the_base),
        cmocka_unit_test(test_disabling_forgets),
        cmocka_unit_test(test_ids_in_x2apic_mode),
        cmocka_unit_test(test_which_msrs_exist),
        cmocka_unit_test(test_reserved_bits_fault),
        cmocka_unit_test(test_eoi_by_msr),
        cmocka_unit_test(test_ownership),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
