/* What must hold for every device type: its table of fields is complete and exact. */

#include "rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* Uses all devices at random, as a guest might. */
static void exercise(struct rig *rig, uint32_t *seed, unsigned steps)
{
    rig_assign(rig);
    for (unsigned i = 0; i < steps; i++) {
        uint32_t region = next_random(seed), offset = next_random(seed);
        unsigned size = 1u << (next_random(seed) & 3);
        switch (next_random(seed) % 4) {
        case 0:
            rig_read(rig, region, offset, size);
            break;
        case 1:
            rig_advance(rig, next_random(seed) % 3000000);
            break;
        default:
            rig_write(rig, region, offset, size, next_random(seed));
            break;
        }
    }
}

static uint8_t *save(struct device *device)
{
    uint8_t *buffer = calloc(1, device_state_size(device->type) + 1);
    device_save(device, buffer);
    return buffer;
}

/* Compares two rigs' states, naming the first field that differs. */
static void assert_same_state(struct rig *a, struct rig *b)
{
    for (unsigned i = 0; i < a->device_count; i++) {
        SCOPE_FREE uint8_t *left = save(a->device[i]);
        SCOPE_FREE uint8_t *right = save(b->device[i]);
        size_t offset = 0;
        const struct device_field *field = a->device[i]->type->fields;
        for (; field->name; field++) {
            size_t size = (size_t)field->size * field->count;
            if (memcmp(left + offset, right + offset, size) != 0) {
                fail_msg("%s: field %s differs", a->device[i]->type->name, field->name);
            }
            offset += size;
        }
    }
}

/* Loads the state of one rig into another whose clock reads the same. */
static void transfer(struct rig *from, struct rig *to)
{
    clock_advance(&to->clock, clock_now(&from->clock) - clock_now(&to->clock));
    for (unsigned i = 0; i < from->device_count; i++) {
        struct error err;
        SCOPE_FREE uint8_t *buffer = save(from->device[i]);
        size_t size = device_state_size(from->device[i]->type);
        assert_int_equal(device_load(to->device[i], buffer, size, &err), 0);
    }
}

static void test_save_load_save(void **state)
{
    for (uint32_t seed = 1; seed <= 200; seed++) {
        struct rig original, copy;
        uint32_t random = seed * 2654435761u;
        rig_init(&original);
        rig_init(&copy);
        exercise(&original, &random, 300);
        transfer(&original, &copy);
        assert_same_state(&original, &copy);
        rig_fini(&copy);
        rig_fini(&original);
    }
}

/* What the fields leave out would show in what follows. */
static void test_copy_behaves_the_same(void **state)
{
    for (uint32_t seed = 1; seed <= 100; seed++) {
        struct rig original, copy;
        uint32_t random = seed * 2246822519u;
        rig_init(&original);
        rig_init(&copy);
        exercise(&original, &random, 300);
        transfer(&original, &copy);
        copy.actions = original.actions; /* the rig's own state */
        for (unsigned i = 0; i < 500; i++) {
            unsigned region = next_random(&random),
                     size = 1u << (next_random(&random) & 3);
            uint32_t offset = next_random(&random), value = next_random(&random);
            if (value % 3 == 0) {
                rig_write(&original, region, offset, size, value);
                rig_write(&copy, region, offset, size, value);
            } else if (value % 3 == 1) {
                rig_advance(&original, value % 3000000);
                rig_advance(&copy, value % 3000000);
            }
            assert_int_equal(rig_read(&original, region, offset, size),
                             rig_read(&copy, region, offset, size));
        }
        assert_same_state(&original, &copy);
        rig_fini(&copy);
        rig_fini(&original);
    }
}

/* A snapshot may be damaged: any bytes give a device that still works. */
static void test_any_state_is_survived(void **state)
{
    for (uint32_t seed = 1; seed <= 200; seed++) {
        struct rig rig;
        uint32_t random = seed * 3266489917u;
        rig_init(&rig);
        clock_advance(&rig.clock, next_random(&random));
        for (unsigned i = 0; i < rig.device_count; i++) {
            struct error err;
            SCOPE_FREE uint8_t *buffer = save(rig.device[i]);
            size_t size = device_state_size(rig.device[i]->type);
            for (size_t n = 0; n < size; n++) {
                buffer[n] = (uint8_t)(seed % 3 == 0 ? 0xff : next_random(&random));
            }
            assert_int_equal(device_load(rig.device[i], buffer, size, &err), 0);
        }
        exercise(&rig, &random, 200);
        rig_fini(&rig);
    }
}

static void test_wrong_size_is_refused(void **state)
{
    struct rig rig;
    rig_init(&rig);
    for (unsigned i = 0; i < rig.device_count; i++) {
        struct error err;
        SCOPE_FREE uint8_t *buffer = save(rig.device[i]);
        size_t size = device_state_size(rig.device[i]->type);
        assert_true(device_load(rig.device[i], buffer, size + 1, &err) < 0);
        assert_non_null(strstr(err.message, rig.device[i]->name));
    }
    rig_fini(&rig);
}

/* Devices whose reset keeps something: the levels of their inputs, or time. */
static bool outlives_reset(const char *type)
{
    static const char *const keeper[] = {"acpi_pm", "ioapic", "pic8259", "pit8254",
                                         "rtc"};
    for (unsigned i = 0; i < array_size(keeper); i++) {
        if (strcmp(type, keeper[i]) == 0) {
            return true;
        }
    }
    return false;
}

static void test_reset_is_as_new(void **state)
{
    struct rig used, fresh;
    uint32_t random = 12345;
    rig_init(&used);
    rig_init(&fresh);
    exercise(&used, &random, 500);
    for (unsigned i = 0; i < used.device_count; i++) {
        const struct device_type *type = used.device[i]->type;
        device_reset(used.device[i]);
        SCOPE_FREE uint8_t *left = save(used.device[i]);
        SCOPE_FREE uint8_t *right = save(fresh.device[i]);
        if (!outlives_reset(type->name)) {
            assert_memory_equal(left, right, device_state_size(type));
        }
    }
    rig_fini(&fresh);
    rig_fini(&used);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_save_load_save),
        cmocka_unit_test(test_copy_behaves_the_same),
        cmocka_unit_test(test_any_state_is_survived),
        cmocka_unit_test(test_wrong_size_is_refused),
        cmocka_unit_test(test_reset_is_as_new),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
