/* Doorbells: what an engine rings is an access to the device, made by the event loop. */
#include "fixture.h"

#include <unistd.h>

#include "dispatcher/doorbell.h"

#define GPA 0xd0000050u

/* The engine's side: the last doorbell it was given, and how many it has. */
static struct engine_doorbell given;
static unsigned have, refuse;

static int take_doorbell(struct engine *engine, const struct engine_doorbell *bell,
                         bool is_on, struct error *err)
{
    if (is_on && refuse) {
        return fail_plain(err, ENOSPC, "no room for more");
    }
    given = *bell;
    have += is_on ? 1u : -1u;
    return 0;
}

static struct engine_ops ops;

struct told {
    struct device device;
    unsigned count;
    uint64_t value;
};

static void told_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct told *told = (struct told *)device;
    assert_int_equal(offset, 0x50);
    assert_int_equal(size, 4);
    told->count++;
    told->value = value;
}

static void told_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_type told_type = {.name = "told", .free = told_free};

static struct vm *vm_with(struct told **told)
{
    ops = engine_script;
    ops.doorbell = take_doorbell;
    have = refuse = 0;
    struct vm_config config = script_config(1);
    config.engine = &ops;
    struct vm *vm = vm_made(&config);
    *told = calloc(1, sizeof(**told));
    assert_non_null(*told);
    device_init(&(*told)->device, &told_type, "told");
    assert_int_equal(vm_add_device(vm, &(*told)->device, NULL), 0);
    const struct region region = {.device = &(*told)->device,
                                  .base = GPA & ~0xfffu,
                                  .size = 0x1000,
                                  .min_size = 1,
                                  .max_size = 8,
                                  .write = told_write};
    assert_int_equal(vm_add_mmio(vm, &region, NULL), 0);
    return vm;
}

static void ring(unsigned times)
{
    uint64_t one = 1;
    for (unsigned i = 0; i < times; i++) {
        assert_int_equal(write(given.fd, &one, sizeof(one)), sizeof(one));
    }
}

static void stop(void *opaque)
{
    struct vm *vm = opaque;
    vm_request_end(vm, VM_END_REQUEST, 0, NULL);
}

static void test_the_loop_hears_it(void **state)
{
    struct told *told;
    struct vm *vm = vm_with(&told);
    vm_add_doorbell(vm, GPA, 7);
    assert_int_equal(given.gpa, GPA);
    assert_int_equal(given.value, 7);
    ring(3);
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_int_equal(loop_post(vm->loop, stop, vm), 0);
    vm_run(vm);
    /* Rings that come before it is heard are one. */
    assert_int_equal(told->count, 1);
    assert_int_equal(told->value, 7);
    vm_free(vm);
    assert_int_equal(have, 0);
}

static void test_what_was_rung_is_heard_before_state_is_saved(void **state)
{
    struct told *told;
    struct vm *vm = vm_with(&told);
    vm_add_doorbell(vm, GPA, 1);
    vm_add_doorbell(vm, GPA, 2);
    ring(1);
    assert_int_equal(told->count, 0);
    vm_hear_doorbells(vm);
    assert_int_equal(told->count, 1);
    assert_int_equal(told->value, 2);
    vm_hear_doorbells(vm);
    assert_int_equal(told->count, 1);
    vm_free(vm);
    assert_int_equal(have, 0);
}

/* Then stores exit, as they do with engines that have none. */
static void test_without_it_stores_exit(void **state)
{
    struct told *told;
    struct vm *vm = vm_with(&told);
    refuse = 1;
    vm_add_doorbell(vm, GPA, 1);
    assert_null(vm->doorbells);
    ops.doorbell = NULL;
    vm_add_doorbell(vm, GPA, 1);
    assert_null(vm->doorbells);
    struct vcpu_exit exit = {
        .reason = EXIT_MMIO,
        .mmio = {.gpa = GPA, .size = 4, .is_write = true, .data = (uint8_t[4]){1}}};
    vcpu_exit_handle(vm->vcpu[0], &exit);
    assert_int_equal(told->count, 1);
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_loop_hears_it),
        cmocka_unit_test(test_what_was_rung_is_heard_before_state_is_saved),
        cmocka_unit_test(test_without_it_stores_exit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
