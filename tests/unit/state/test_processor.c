/* The tables of a processor's state leave nothing out. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "state/processor.h"

#include <cmocka.h>

/* Bytes that no field covers may only be padding in front of an aligned member: fewer
 * than `alignment` of them in a row. */
static void assert_covered(const struct device_field *fields, size_t size,
                           size_t alignment)
{
    uint8_t covered[8192] = {0};
    assert_true(size <= sizeof(covered));
    for (const struct device_field *field = fields; field->name; field++) {
        size_t bytes = (size_t)field->size * field->count;
        assert_true(field->offset + bytes <= size);
        for (size_t i = 0; i < bytes; i++) {
            if (covered[field->offset + i]++) {
                fail_msg("%s overlaps another field", field->name);
            }
        }
    }
    size_t gap = 0;
    for (size_t i = 0; i < size; i++) {
        gap = covered[i] ? 0 : gap + 1;
        if (gap >= alignment) {
            fail_msg("bytes up to %zu belong to no field", i);
        }
    }
}

static void test_no_register_is_forgotten(void **state)
{
    size_t vectors = offsetof(struct x86_state, vec);
    struct device_field head[200];
    unsigned count = 0;
    /* What comes before the vectors, which are aligned to 32 bytes, and all of it. */
    for (const struct device_field *field = processor_fields; field->name; field++) {
        if (field->offset < offsetof(struct x86_state, fpu)) {
            head[count++] = *field;
        }
    }
    head[count] = (struct device_field)DEVICE_FIELD_END;
    assert_covered(head, offsetof(struct x86_state, fpu), 8);
    assert_covered(processor_fields, sizeof(struct x86_state), 32);
    assert_true(vectors > offsetof(struct x86_state, fpu));
}

static void test_no_apic_register_is_forgotten(void **state)
{
    assert_covered(lapic_fields, sizeof(struct lapic), 8);
}

static void test_names_are_unique(void **state)
{
    for (const struct device_field *a = processor_fields; a->name; a++) {
        for (const struct device_field *b = a + 1; b->name; b++) {
            assert_string_not_equal(a->name, b->name);
        }
    }
}

static void test_fresh_processors_are_possible(void **state)
{
    const struct cpuid_config config = {.cpus = 2};
    struct cpuid_policy policy;
    struct x86_state fresh;
    struct lapic lapic;
    assert_int_equal(cpuid_policy_init(&policy, &config, NULL), 0);
    for (unsigned i = 0; i < 2; i++) {
        x86_state_reset(&fresh, i == 0);
        lapic_reset(&lapic, i, policy.tsc_khz);
        assert_null(processor_bad_part(&fresh, &policy));
        assert_null(lapic_bad_part(&lapic, i, &fresh, &policy));
    }
}

/* Only behind a load of SS, and of data breakpoints. */
static void test_a_held_debug_exception_has_its_shadow(void **state)
{
    const struct cpuid_config config = {.cpus = 1};
    struct cpuid_policy policy;
    struct x86_state saved;
    assert_int_equal(cpuid_policy_init(&policy, &config, NULL), 0);
    x86_state_reset(&saved, true);
    saved.held_debug = 2;
    assert_string_equal(processor_bad_part(&saved, &policy), "held_debug");
    saved.interrupt_shadow = X86_SHADOW_STI;
    assert_string_equal(processor_bad_part(&saved, &policy), "held_debug");
    saved.interrupt_shadow = X86_SHADOW_SS;
    assert_null(processor_bad_part(&saved, &policy));
    saved.held_debug = 0x10;
    assert_string_equal(processor_bad_part(&saved, &policy), "held_debug");
    saved.held_debug = 0;
    saved.interrupt_shadow = X86_SHADOW_SS + 1;
    assert_string_equal(processor_bad_part(&saved, &policy), "interrupt_shadow");
}

static void test_a_count_of_nothing_never_comes(void **state)
{
    const struct cpuid_config config = {.cpus = 1};
    struct cpuid_policy policy;
    struct x86_state fresh;
    struct lapic lapic;
    assert_int_equal(cpuid_policy_init(&policy, &config, NULL), 0);
    x86_state_reset(&fresh, true);
    lapic_reset(&lapic, 0, policy.tsc_khz);
    lapic.timer_deadline_ns = 1000;
    assert_string_equal(lapic_bad_part(&lapic, 0, &fresh, &policy), "timer_deadline_ns");
}

static void test_the_cpu_model_comes_back(void **state)
{
    const struct cpuid_config config = {.cpus = 3};
    struct cpuid_policy policy, loaded;
    struct stream_writer writer;
    struct stream stream;
    assert_int_equal(cpuid_policy_init(&policy, &config, NULL), 0);
    stream_init(&writer);
    cpu_model_put(&writer, &policy);
    assert_int_equal(stream_finish(&writer, NULL), 0);
    assert_int_equal(stream_parse(&stream, writer.data, writer.size, NULL), 0);
    assert_int_equal(cpu_model_get(&stream, &loaded, NULL), 0);
    assert_int_equal(loaded.leaf_count, policy.leaf_count);
    for (unsigned i = 0; i < policy.leaf_count; i++) {
        assert_int_equal(loaded.leaf[i].leaf, policy.leaf[i].leaf);
        assert_int_equal(loaded.leaf[i].edx, policy.leaf[i].edx);
    }
    assert_memory_equal(loaded.features, policy.features, sizeof(policy.features));
    assert_int_equal(loaded.xcr0_valid, policy.xcr0_valid);
    assert_int_equal(loaded.tsc_khz, policy.tsc_khz);
    stream_free(&stream);
    stream_fini(&writer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_register_is_forgotten),
        cmocka_unit_test(test_no_apic_register_is_forgotten),
        cmocka_unit_test(test_names_are_unique),
        cmocka_unit_test(test_fresh_processors_are_possible),
        cmocka_unit_test(test_a_held_debug_exception_has_its_shadow),
        cmocka_unit_test(test_a_count_of_nothing_never_comes),
        cmocka_unit_test(test_the_cpu_model_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
