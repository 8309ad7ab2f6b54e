/* The register file, priorities and acceptance of the local APIC. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/lapic.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    LVT_TIMER = 0x320,
    LINT0 = 0x350,
    LINT1 = 0x360,
    LVT_ERROR = 0x370,
};

static struct lapic lapic;
static struct lapic_effect effect;

static uint32_t get(uint32_t offset)
{
    return lapic_mmio_read(&lapic, 0, offset);
}

static void put(uint32_t offset, uint32_t value)
{
    lapic_mmio_write(&lapic, 0, offset, value, &effect);
}

static bool post(uint8_t vector, bool is_level)
{
    return lapic_post(&lapic, &(struct apic_message){.mode = APIC_FIXED,
                                                     .vector = vector,
                                                     .is_level = is_level,
                                                     .is_assert = true});
}

static int setup(void **unused)
{
    lapic_reset(&lapic, 3, 2000000);
    put(SVR, 0x1ff);
    return 0;
}

static void test_reset_state(void **unused)
{
    lapic_reset(&lapic, 3, 2000000);
    assert_int_equal(lapic.base, 0xfee00800u);
    assert_int_equal(get(ID), 3u << 24);
    assert_int_equal(get(VERSION), 0x50014);
    assert_int_equal(get(SVR), 0xff);
    assert_int_equal(get(DFR), 0xffffffffu);
    assert_int_equal(get(LDR), 0);
    for (uint32_t lvt = LVT_TIMER; lvt <= LVT_ERROR; lvt += 16) {
        assert_int_equal(get(lvt), 0x10000);
    }
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
    lapic_reset(&lapic, 0, 2000000);
    assert_int_equal(lapic.base, 0xfee00900u);
}

static void test_read_only_and_writable_bits(void **unused)
{
    put(ID, 0xff000000);
    assert_int_equal(get(ID), 3u << 24);
    put(VERSION, 0);
    assert_int_equal(get(VERSION), 0x50014);
    put(TPR, 0xffffff35);
    assert_int_equal(get(TPR), 0x35);
    put(LDR, 0x12ffffff);
    assert_int_equal(get(LDR), 0x12000000);
    put(DFR, 0);
    assert_int_equal(get(DFR), 0x0fffffff);
    put(LINT0, 0xffffffff);
    assert_int_equal(get(LINT0), 0x1a7ff);
    put(LVT_TIMER, 0xffffffff);
    assert_int_equal(get(LVT_TIMER), 0x700ff);
    put(LVT_ERROR, 0xffffffff);
    assert_int_equal(get(LVT_ERROR), 0x100ff);
    put(0x3e0, 0xffffffff);
    assert_int_equal(get(0x3e0), 0xb);
    assert_int_equal(get(0x3e4), 0);
    assert_int_equal(get(EOI), 0);
    put(ESR, 0);
    assert_int_equal(get(ESR), 0);
}

static void test_priorities(void **unused)
{
    assert_true(post(0x51, false));
    assert_false(post(0x51, false)); /* coalesced */
    assert_int_equal(lapic_pending(&lapic), 0x51);
    put(TPR, 0x50);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    put(TPR, 0x4f);
    assert_true(effect.what & LAPIC_EFFECT_RECHECK);
    assert_int_equal(lapic_pending(&lapic), 0x51);
    assert_int_equal(get(PPR), 0x4f);

    assert_int_equal(lapic_acknowledge(&lapic, 0x51), 0x51);
    assert_int_equal(get(PPR), 0x50);
    assert_int_equal(get(ISR + 0x20), 1u << 0x11);
    assert_int_equal(get(IRR + 0x20), 0);
    post(0x5f, false); /* of the same class: waits */
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    post(0x60, false); /* nests */
    assert_int_equal(lapic_pending(&lapic), 0x60);
    lapic_acknowledge(&lapic, 0x60);
    assert_int_equal(lapic_priority(&lapic), 0x60);
    put(EOI, 0);
    assert_int_equal(get(PPR), 0x50);
    put(EOI, 0);
    assert_int_equal(get(PPR), 0x4f);
    assert_int_equal(lapic_pending(&lapic), 0x5f);
    assert_true(effect.what & LAPIC_EFFECT_RECHECK);
}

static void test_eoi_of_a_level_interrupt_is_broadcast(void **unused)
{
    post(0x40, true);
    assert_int_equal(get(TMR + 0x20), 1);
    lapic_acknowledge(&lapic, lapic_pending(&lapic));
    put(EOI, 0);
    assert_true(effect.what & LAPIC_EFFECT_EOI);
    assert_int_equal(effect.eoi_vector, 0x40);
    put(EOI, 0);
    assert_false(effect.what & LAPIC_EFFECT_EOI);

    post(0x40, false);
    assert_int_equal(get(TMR + 0x20), 0);
    lapic_acknowledge(&lapic, 0x40);
    put(EOI, 0);
    assert_false(effect.what & LAPIC_EFFECT_EOI);
}

static void test_silent_ends(void **unused)
{
    assert_false(lapic_ends_silently(&lapic));
    post(0x50, false);
    assert_true(lapic_has_request(&lapic));
    assert_false(lapic_ends_silently(&lapic)); /* not in service yet */
    lapic_acknowledge(&lapic, 0x50);
    assert_false(lapic_has_request(&lapic));
    assert_true(lapic_ends_silently(&lapic));
    post(0x30, false);
    assert_false(lapic_ends_silently(&lapic)); /* it waits for this end */
    lapic_end_silently(&lapic);
    assert_int_equal(lapic_pending(&lapic), 0x30);
    lapic_acknowledge(&lapic, 0x30);
    lapic_end_silently(&lapic);
    post(0x60, true);
    lapic_acknowledge(&lapic, 0x60);
    assert_false(lapic_ends_silently(&lapic)); /* the I/O APIC has to hear of it */
}

static void test_spurious_vector(void **unused)
{
    put(SVR, 0x1ee);
    assert_int_equal(lapic_acknowledge(&lapic, 0x70), 0xee);
    assert_int_equal(get(PPR), 0);
}

static void test_cr8_is_tpr(void **unused)
{
    post(0x9a, false);
    lapic_set_cr8(&lapic, 9, &effect);
    assert_int_equal(get(TPR), 0x90);
    assert_int_equal(lapic_get_cr8(&lapic), 9);
    assert_false(effect.what & LAPIC_EFFECT_RECHECK);
    lapic_set_cr8(&lapic, 8, &effect);
    assert_true(effect.what & LAPIC_EFFECT_RECHECK);
}

static void test_software_disabled(void **unused)
{
    put(LINT0, 0x700);
    post(0x40, false);
    put(SVR, 0xff);
    assert_int_equal(get(LINT0), 0x10700); /* masked by the disabling */
    put(LINT0, 0x700);
    assert_int_equal(get(LINT0), 0x10700); /* and cannot be unmasked */
    assert_false(post(0x50, false));
    assert_int_equal(lapic_pending(&lapic), 0x40); /* held, not lost */
    struct apic_message nmi = {.mode = APIC_NMI, .is_assert = true};
    assert_true(lapic_post(&lapic, &nmi));
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_NMI);
}

/* SDM 3A 6.7.1: one is handled, one more waits. */
static void test_two_nmis_are_two(void **unused)
{
    struct apic_message nmi = {.mode = APIC_NMI, .is_assert = true};
    assert_false(lapic_take_nmi(&lapic, false));
    assert_true(lapic_post(&lapic, &nmi));
    assert_true(lapic_post(&lapic, &nmi));
    assert_false(lapic_post(&lapic, &nmi)); /* a third is lost */
    assert_true(lapic_take_nmi(&lapic, false));
    assert_true(lapic_take_nmi(&lapic, false));
    assert_false(lapic_take_nmi(&lapic, false));
    /* While one is being handled, two make one. */
    lapic_post(&lapic, &nmi);
    lapic_post(&lapic, &nmi);
    assert_false(lapic_take_nmi(&lapic, true));
    assert_true(lapic_take_nmi(&lapic, false));
    assert_false(lapic_take_nmi(&lapic, false));
    lapic_post(&lapic, &nmi);
    lapic_post(&lapic, &nmi);
    lapic_init_signal(&lapic);
    assert_false(lapic_take_nmi(&lapic, false));
}

static void test_error_protocol(void **unused)
{
    put(LVT_ERROR, 0xfe);
    get(0x40); /* reserved register */
    assert_int_equal(get(ESR), 0);
    assert_int_equal(lapic_pending(&lapic), 0xfe);
    lapic_acknowledge(&lapic, 0xfe);
    put(EOI, 0);
    post(0x0f, false); /* illegal vector; the interrupt is not re-armed yet */
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    assert_int_equal(get(IRR), 0);
    put(ESR, 0xff);
    assert_int_equal(get(ESR), 0xc0);
    put(ESR, 0);
    assert_int_equal(get(ESR), 0);

    put(ICR, 0x44008); /* self IPI with vector 8 */
    assert_int_equal(lapic_pending(&lapic), 0xfe);
    put(ESR, 0);
    assert_int_equal(get(ESR), 0x20);

    /* An error vector that is illegal itself. */
    lapic_acknowledge(&lapic, 0xfe);
    put(LVT_ERROR, 0x00);
    put(0x3f0, 0x55);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    put(ESR, 0);
    assert_int_equal(get(ESR), 0xc0);
}

static void test_extint(void **unused)
{
    lapic_reset(&lapic, 0, 2000000);
    lapic_set_extint(&lapic, true);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE); /* LINT0 is masked by reset */
    lapic_set_virtual_wire(&lapic);
    assert_int_equal(lapic_pending(&lapic), LAPIC_EXTINT);
    put(TPR, 0xf0); /* ExtINT has no priority */
    assert_int_equal(lapic_pending(&lapic), LAPIC_EXTINT);
    lapic_acknowledge(&lapic, LAPIC_EXTINT);
    assert_int_equal(lapic_pending(&lapic), LAPIC_EXTINT); /* the line is still up */
    lapic_set_extint(&lapic, false);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);

    /* As an I/O APIC's message it lasts until acknowledged. */
    struct apic_message message = {.mode = APIC_EXTINT, .is_assert = true};
    assert_true(lapic_post(&lapic, &message));
    assert_int_equal(lapic_pending(&lapic), LAPIC_EXTINT);
    lapic_acknowledge(&lapic, LAPIC_EXTINT);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
}

static void test_lint0_as_fixed_interrupt(void **unused)
{
    put(LINT0, 0x31);
    lapic_set_extint(&lapic, true);
    assert_int_equal(lapic_pending(&lapic), 0x31);
    lapic_acknowledge(&lapic, 0x31);
    put(EOI, 0);
    lapic_set_extint(&lapic, true); /* no edge */
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
}

static void test_lint1(void **unused)
{
    assert_false(lapic_lint1_nmi(&lapic));
    lapic_set_virtual_wire(&lapic);
    assert_true(lapic_lint1_nmi(&lapic));
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_NMI);
    put(LINT1, 0x10400);
    lapic.signals = 0;
    assert_false(lapic_lint1_nmi(&lapic));
    assert_int_equal(lapic.signals, 0);
}

static void test_init_keeps_what_belongs_to_the_wire(void **unused)
{
    put(TPR, 0x40);
    post(0x80, false);
    put(0x380, 1000);
    lapic_set_extint(&lapic, true);
    lapic_post(&lapic, &(struct apic_message){.mode = APIC_NMI});
    lapic_init_signal(&lapic);
    assert_int_equal(lapic.signals, LAPIC_SIGNAL_EXTINT);
    assert_int_equal(get(ID), 3u << 24);
    assert_int_equal(get(SVR), 0xff);
    assert_int_equal(get(TPR), 0);
    assert_int_equal(lapic_pending(&lapic), LAPIC_NONE);
    assert_int_equal(lapic_timer_deadline(&lapic), LAPIC_TIMER_STOPPED);
}

/* Whatever is written where, nothing breaks and no illegal vector comes out. */
static void test_garbage(void **unused)
{
    uint64_t random = 88172645463325252ull, now = 0;

    for (unsigned i = 0; i < 200000; i++) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        now += random >> 44;
        uint32_t offset = (random & 0x3f) << 4, value = (uint32_t)(random >> 16);

        if (random >> 63) {
            lapic_mmio_write(&lapic, now, offset, value, &effect);
        } else {
            lapic_mmio_read(&lapic, now, offset);
        }
        lapic_timer_run(&lapic, now);
        int vector = lapic_pending(&lapic);
        if (vector != LAPIC_NONE) {
            assert_true(vector >= 16 && vector < 256);
            lapic_acknowledge(&lapic, vector);
        }
        assert_true(lapic_timer_deadline(&lapic) > now);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset_state),
        cmocka_unit_test_setup(test_read_only_and_writable_bits, setup),
        cmocka_unit_test_setup(test_priorities, setup),
        cmocka_unit_test_setup(test_eoi_of_a_level_interrupt_is_broadcast, setup),
        cmocka_unit_test_setup(test_silent_ends, setup),
        cmocka_unit_test_setup(test_spurious_vector, setup),
        cmocka_unit_test_setup(test_cr8_is_tpr, setup),
        cmocka_unit_test_setup(test_software_disabled, setup),
        cmocka_unit_test_setup(test_two_nmis_are_two, setup),
        cmocka_unit_test_setup(test_error_protocol, setup),
        cmocka_unit_test(test_extint),
        cmocka_unit_test_setup(test_lint0_as_fixed_interrupt, setup),
        cmocka_unit_test_setup(test_lint1, setup),
        cmocka_unit_test_setup(test_init_keeps_what_belongs_to_the_wire, setup),
        cmocka_unit_test_setup(test_garbage, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
