/* Whom messages address, and what the ICR sends. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/lapic.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

#define X2APIC_MODE (LAPIC_BASE_ENABLE | LAPIC_BASE_X2APIC)

static struct lapic_effect effect;

static void make(struct lapic *lapic, uint32_t id, bool is_x2apic)
{
    lapic_reset(lapic, id, 1000000);
    if (is_x2apic) {
        assert_true(lapic_msr_write(lapic, 0, 0, MSR_APIC_BASE, lapic->base | X2APIC_MODE,
                                    &effect));
        assert_true(lapic_msr_write(lapic, 0, 0, 0x80f, 0x1ff, &effect));
    } else {
        lapic_mmio_write(lapic, 0, 0xf0, 0x1ff, &effect);
    }
}

static void test_physical(void **unused)
{
    struct lapic xapic, x2apic;
    struct apic_message message = {.mode = APIC_FIXED, .vector = 0x40};

    make(&xapic, 5, false);
    make(&x2apic, 300, true);
    message.destination = 5;
    assert_true(lapic_accepts(&xapic, &message, 0));
    assert_false(lapic_accepts(&x2apic, &message, 0));
    message.destination = 0xff;
    assert_true(lapic_accepts(&xapic, &message, 0));
    assert_true(lapic_accepts(&x2apic, &message, 0));
    message.is_x2apic = true;
    assert_false(lapic_accepts(&xapic, &message, 0));
    message.destination = 300;
    assert_true(lapic_accepts(&x2apic, &message, 0));
    message.destination = 0xffffffff;
    assert_true(lapic_accepts(&xapic, &message, 0));
    assert_true(lapic_accepts(&x2apic, &message, 0));
}

static void test_shorthands(void **unused)
{
    struct lapic lapic;
    struct apic_message message = {.mode = APIC_FIXED, .vector = 0x40, .destination = 9};

    make(&lapic, 5, false);
    message.shorthand = APIC_DEST_SELF;
    assert_true(lapic_accepts(&lapic, &message, 5));
    assert_false(lapic_accepts(&lapic, &message, 4));
    message.shorthand = APIC_DEST_OTHERS;
    assert_false(lapic_accepts(&lapic, &message, 5));
    assert_true(lapic_accepts(&lapic, &message, 4));
    message.shorthand = APIC_DEST_ALL;
    assert_true(lapic_accepts(&lapic, &message, 5));
    assert_true(lapic_accepts(&lapic, &message, 4));
}

static void test_logical_xapic(void **unused)
{
    static const struct {
        uint32_t dfr, ldr, destination;
        bool accepts;
    } cases[] = {
        {0xf0000000, 0x04, 0x04, true},  {0xf0000000, 0x04, 0x0c, true},
        {0xf0000000, 0x04, 0x08, false}, {0xf0000000, 0x04, 0xff, true},
        {0xf0000000, 0x00, 0xff, false}, {0x00000000, 0x24, 0x24, true},
        {0x00000000, 0x24, 0x2c, true},  {0x00000000, 0x24, 0x34, false},
        {0x00000000, 0x24, 0x28, false}, {0x00000000, 0x24, 0xff, true},
        {0x50000000, 0x24, 0x24, false},
    };
    struct lapic lapic;

    make(&lapic, 5, false);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct apic_message message = {.is_logical = true,
                                       .destination = cases[i].destination};

        lapic_mmio_write(&lapic, 0, 0xe0, cases[i].dfr, &effect);
        lapic_mmio_write(&lapic, 0, 0xd0, cases[i].ldr << 24, &effect);
        assert_int_equal(lapic_accepts(&lapic, &message, 0), cases[i].accepts);
    }
}

static void test_logical_x2apic(void **unused)
{
    struct lapic lapic;
    struct apic_message message = {.is_logical = true, .is_x2apic = true};

    make(&lapic, 0x23, true);
    message.destination = 0x20008;
    assert_true(lapic_accepts(&lapic, &message, 0));
    message.destination = 0x2ffff;
    assert_true(lapic_accepts(&lapic, &message, 0));
    message.destination = 0x20004;
    assert_false(lapic_accepts(&lapic, &message, 0));
    message.destination = 0x10008;
    assert_false(lapic_accepts(&lapic, &message, 0));
    message.destination = 0xffffffff;
    assert_true(lapic_accepts(&lapic, &message, 0));
}

static void test_disabled_accept_less(void **unused)
{
    struct lapic lapic;
    struct apic_message message = {.mode = APIC_LOWEST, .destination = 1};

    make(&lapic, 1, false);
    assert_true(lapic_accepts(&lapic, &message, 0));
    lapic_mmio_write(&lapic, 0, 0xf0, 0xff, &effect);
    assert_false(lapic_accepts(&lapic, &message, 0));
    message.mode = APIC_INIT;
    assert_true(lapic_accepts(&lapic, &message, 0));
    assert_true(lapic_msr_write(&lapic, 0, 0, MSR_APIC_BASE, 0xfee00000, &effect));
    assert_false(lapic_accepts(&lapic, &message, 0));
    assert_false(lapic_post(&lapic, &message));
}

static void test_icr_sends(void **unused)
{
    struct lapic lapic;

    make(&lapic, 1, false);
    lapic_mmio_write(&lapic, 0, 0x310, 0x07123456, &effect);
    assert_int_equal(effect.what, 0);
    lapic_mmio_write(&lapic, 0, 0x300, 0x4841 | 0x1000, &effect);
    assert_int_equal(effect.what, LAPIC_EFFECT_IPI);
    assert_int_equal(effect.message.destination, 7);
    assert_true(effect.message.is_logical);
    assert_false(effect.message.is_x2apic);
    assert_int_equal(effect.message.mode, APIC_FIXED);
    assert_int_equal(effect.message.vector, 0x41);
    assert_int_equal(effect.message.shorthand, APIC_DEST_FIELD);
    assert_int_equal(lapic_mmio_read(&lapic, 0, 0x300), 0x4841); /* idle */
    assert_int_equal(lapic_mmio_read(&lapic, 0, 0x310), 0x07000000);
    /* a level-triggered IPI does not exist */
    lapic_mmio_write(&lapic, 0, 0x300, 0xc041, &effect);
    assert_false(effect.message.is_level);
}

static void test_icr_x2apic(void **unused)
{
    struct lapic lapic;
    uint64_t value;

    make(&lapic, 1, true);
    assert_true(lapic_msr_write(&lapic, 0, 0, 0x830, 0x0001000200000441ull, &effect));
    assert_int_equal(effect.what, LAPIC_EFFECT_IPI);
    assert_int_equal(effect.message.destination, 0x10002);
    assert_true(effect.message.is_x2apic);
    assert_int_equal(effect.message.mode, APIC_NMI);
    assert_true(lapic_msr_read(&lapic, 0, 0, 0x830, &value));
    assert_int_equal(value, 0x0001000200000441ull);
    assert_false(lapic_msr_write(&lapic, 0, 0, 0x830, 0x100000, &effect));
    assert_false(lapic_msr_write(&lapic, 0, 0, 0x831, 0, &effect));
}

static void test_self_ipi_is_done_at_once(void **unused)
{
    struct lapic lapic;

    make(&lapic, 1, false);
    lapic_mmio_write(&lapic, 0, 0x300, 0x440e3, &effect);
    assert_int_equal(effect.what, LAPIC_EFFECT_RECHECK);
    assert_int_equal(lapic_pending(&lapic), 0xe3);

    make(&lapic, 1, true);
    assert_true(lapic_msr_write(&lapic, 0, 0, 0x83f, 0xe4, &effect));
    assert_int_equal(effect.what, LAPIC_EFFECT_RECHECK);
    assert_int_equal(lapic_pending(&lapic), 0xe4);
    assert_false(lapic_msr_write(&lapic, 0, 0, 0x83f, 0x1e4, &effect));
    assert_false(lapic_msr_read(&lapic, 0, 0, 0x83f, &(uint64_t){0}));
}

static void test_what_cannot_be_sent(void **unused)
{
    static const uint32_t low[] = {
        0x08500, /* INIT level de-assert */
        0x44500, /* INIT to self */
        0x84600, /* SIPI to all, self included */
        0x04300, /* reserved mode */
        0x04700, /* ExtINT */
    };
    struct lapic lapic;

    make(&lapic, 1, false);
    for (unsigned i = 0; i < sizeof(low) / sizeof(low[0]); i++) {
        lapic_mmio_write(&lapic, 0, 0x300, low[i], &effect);
        assert_int_equal(effect.what, 0);
    }
    lapic_mmio_write(&lapic, 0, 0x300, 0x0c500, &effect);
    assert_int_equal(effect.message.mode, APIC_INIT);
    assert_int_equal(effect.what, LAPIC_EFFECT_IPI);
}

static void test_signals(void **unused)
{
    struct lapic lapic;
    struct apic_message sipi = {.mode = APIC_STARTUP, .vector = 0x9a, .is_assert = true};
    struct apic_message init = {.mode = APIC_INIT, .is_assert = true};

    make(&lapic, 1, false);
    assert_true(lapic_post(&lapic, &sipi));
    assert_int_equal(lapic.sipi_vector, 0x9a);
    assert_true(lapic_post(&lapic, &init)); /* takes the earlier SIPI away */
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_INIT);
    lapic_post(&lapic, &sipi);
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_SIPI);
    lapic.signals = LAPIC_SIGNAL_SIPI;
    lapic_init_signal(&lapic);
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_SIPI);

    init.is_level = true;
    init.is_assert = false;
    assert_false(lapic_post(&lapic, &init));
    struct apic_message smi = {.mode = APIC_SMI, .is_assert = true};
    assert_true(lapic_post(&lapic, &smi));
    assert_true(lapic.signals & LAPIC_SIGNAL_SMI);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_physical),
        cmocka_unit_test(test_shorthands),
        cmocka_unit_test(test_logical_xapic),
        cmocka_unit_test(test_logical_x2apic),
        cmocka_unit_test(test_disabled_accept_less),
        cmocka_unit_test(test_icr_sends),
        cmocka_unit_test(test_icr_x2apic),
        cmocka_unit_test(test_self_ipi_is_done_at_once),
        cmocka_unit_test(test_what_cannot_be_sent),
        cmocka_unit_test(test_signals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
