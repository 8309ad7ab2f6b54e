/* Error codes, and what an exception during the delivery of an event becomes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "x86/exception.h"

/* Last: cmocka defines fail() as a macro. */
#include <cmocka.h>

static void test_error_codes(void **unused)
{
    static const uint8_t with_error[] = {8, 10, 11, 12, 13, 14, 17, 21};
    unsigned next = 0;

    for (unsigned vector = 0; vector < 256; vector++) {
        bool expected = next < sizeof(with_error) && with_error[next] == vector;

        assert_int_equal(x86_exception_has_error((uint8_t)vector), expected);
        next += expected;
    }
}

static enum x86_meeting meet(uint8_t first, uint8_t second)
{
    struct x86_event event = {
        .pending = true, .vector = first, .type = X86_EVENT_EXCEPTION};

    return x86_exception_meets(&event, second);
}

static void test_meetings(void **unused)
{
    static const uint8_t benign[] = {X86_DB,       X86_NMI, X86_BP, X86_OF,
                                     X86_BR,       X86_UD,  X86_NM, X86_MF,
                                     X86_AC_FAULT, X86_MC,  X86_XM};
    static const uint8_t contributory[] = {X86_DE, X86_TS, X86_NP, X86_SS_FAULT, X86_GP};

    for (unsigned i = 0; i < sizeof(contributory); i++) {
        uint8_t second = contributory[i];

        for (unsigned j = 0; j < sizeof(contributory); j++) {
            assert_int_equal(meet(contributory[j], second), X86_DOUBLE_FAULT);
        }
        for (unsigned j = 0; j < sizeof(benign); j++) {
            assert_int_equal(meet(benign[j], second), X86_DELIVER_SECOND);
            assert_int_equal(meet(second, benign[j]), X86_DELIVER_SECOND);
        }
        assert_int_equal(meet(X86_PF, second), X86_DOUBLE_FAULT);
        assert_int_equal(meet(second, X86_PF), X86_DELIVER_SECOND);
        assert_int_equal(meet(X86_DF, second), X86_TRIPLE_FAULT);
    }
    assert_int_equal(meet(X86_PF, X86_PF), X86_DOUBLE_FAULT);
    assert_int_equal(meet(X86_DF, X86_PF), X86_TRIPLE_FAULT);
    assert_int_equal(meet(X86_DF, X86_DB), X86_DELIVER_SECOND);
    assert_int_equal(meet(X86_PF, X86_DB), X86_DELIVER_SECOND);
    assert_int_equal(meet(X86_DB, X86_PF), X86_DELIVER_SECOND);
}

/* INT 13 is not #GP: what follows it is delivered by itself. */
static void test_interrupts_are_benign_first_events(void **unused)
{
    static const enum x86_event_type types[] = {
        X86_EVENT_EXTERNAL, X86_EVENT_NMI, X86_EVENT_SOFTWARE,
        X86_EVENT_PRIVILEGED_SOFTWARE, X86_EVENT_SOFTWARE_EXCEPTION};

    for (unsigned i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        for (unsigned vector = 0; vector < 256; vector++) {
            struct x86_event first = {
                .pending = true, .vector = (uint8_t)vector, .type = types[i]};

            assert_int_equal(x86_exception_meets(&first, X86_GP), X86_DELIVER_SECOND);
            assert_int_equal(x86_exception_meets(&first, X86_PF), X86_DELIVER_SECOND);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_error_codes),
        cmocka_unit_test(test_meetings),
        cmocka_unit_test(test_interrupts_are_benign_first_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
