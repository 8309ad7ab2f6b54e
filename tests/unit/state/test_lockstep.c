/* Two machines in step: the same to the end, or the very instruction that differs. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "dispatcher/steps.h"
#include "dispatcher/vcpu.h"
#include "engine/interp/interp.h"
#include "state/lockstep.h"

#include <cmocka.h>

#define RAM_SIZE  0x10000u
#define CODE_AT   0x1000u
#define PORT_END  0x80u
#define ROUNDS    300u
#define PER_ROUND 5u

/* Real mode: counts in memory, then tells the device. */
static const uint8_t program[] = {
    0xb9, ROUNDS & 0xff, ROUNDS >> 8,       /* mov $ROUNDS, %cx */
    0x01, 0x0e,          0x00,        0x20, /* 1: add %cx, 0x2000 */
    0xa1, 0x00,          0x20,              /* mov 0x2000, %ax */
    0x89, 0xc3,                             /* mov %ax, %bx */
    0x90,                                   /* nop */
    0xe2, 0xf4,                             /* loop 1b */
    0xe6, PORT_END,                         /* out %al, $PORT_END */
    0xf4,                                   /* hlt */
};
#define NOP_AT (CODE_AT + 12)

/* What the second machine does otherwise. */
enum change {
    CHANGE_NONE,
    CHANGE_CODE,     /* inc %ax in place of nop, from the beginning */
    CHANGE_MEMORY,   /* a byte nobody reads, by a device, when a timer comes */
    CHANGE_REGISTER, /* the same moment: a register */
};

struct world {
    enum change change;
    unsigned made;
    unsigned changes_from; /* machines with a number, modulo two, that are changed */
    uint64_t changes_at;
    unsigned changes_until; /* machines after which none is changed; 0: all are */
};

struct part {
    struct device device;
    struct vm *vm;
    struct timer timer;
    enum change change;
};

static void part_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct part *part = (struct part *)device;
    vm_request_end(part->vm, VM_END_DEBUG_EXIT, (int)value, NULL);
}

static void part_expired(void *opaque)
{
    struct part *part = opaque;
    if (part->change == CHANGE_MEMORY) {
        assert_true(ram_write(part->vm->memory, 0x4321, "x", 1));
    } else if (part->change == CHANGE_REGISTER) {
        struct x86_state state;
        part->vm->engine_ops->get_state(part->vm->vcpu[0]->engine, &state);
        state.gpr[X86_RSI] ^= 0x40;
        part->vm->engine_ops->set_state(part->vm->vcpu[0]->engine, &state);
    }
}

static void part_reset(struct device *device)
{
}

static void part_free(struct device *device)
{
    struct part *part = (struct part *)device;
    timer_fini(&part->timer);
    device_fini(device);
    free(part);
}

static const struct device_field part_fields[] = {DEVICE_FIELD_END};
static const struct device_type part_type = {
    .name = "part", .fields = part_fields, .reset = part_reset, .free = part_free};

static int boot(void *opaque, struct vm *vm, struct error *err)
{
    struct part *part = opaque;
    assert_true(ram_write(vm->memory, CODE_AT, program, sizeof(program)));
    if (part->change == CHANGE_CODE) {
        assert_true(ram_write(vm->memory, NOP_AT, "\x40", 1));
    }
    struct x86_state state;
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = CODE_AT;
    vm->engine_ops->set_state(vm->vcpu[0]->engine, &state);
    return 0;
}

static struct vm *make(void *opaque, const char *engine, struct error *err)
{
    struct world *world = opaque;
    struct vm_config config = {.memory_limit = RAM_SIZE,
                               .cpus = 1,
                               .engine = engine_find(engine),
                               .is_deterministic = true,
                               .no_reboot = true};
    struct cpuid_config cpuid = {.cpus = 1, .tsc_khz = 1000000};
    assert_int_equal(cpuid_policy_init(&config.cpuid, &cpuid, err), 0);
    struct vm *vm = vm_new(&config, err);
    assert_non_null(vm);
    int64_t frame = memory_add_frames(vm->memory, RAM_SIZE, err);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(vm->memory, 0, RAM_SIZE, (frame_t)frame, SLOT_RAM, err),
                     0);

    struct part *part = calloc(1, sizeof(*part));
    assert_non_null(part);
    device_init(&part->device, &part_type, "part");
    part->vm = vm;
    bool is_changed = world->made % 2 == world->changes_from &&
                      (!world->changes_until || world->made < world->changes_until);
    part->change = is_changed ? world->change : CHANGE_NONE;
    world->made++;
    timer_init(&part->timer, vm->timers, &part->device.lock, part_expired, part);
    if (world->changes_at) {
        timer_set(&part->timer, world->changes_at);
    }
    assert_int_equal(vm_add_device(vm, &part->device, err), 0);
    const struct region ports = {.device = &part->device,
                                 .base = PORT_END,
                                 .size = 1,
                                 .min_size = 1,
                                 .max_size = 1,
                                 .write = part_write};
    assert_int_equal(vm_add_ports(vm, &ports, err), 0);
    vm->boot = boot;
    vm->boot_opaque = part;
    return vm;
}

static void compare(struct world *world, uint64_t interval, uint64_t until,
                    struct lockstep_result *result)
{
    struct error err = {0};
    const struct lockstep_plan plan = {.make = make,
                                       .engine = {"interpreter", "interpreter"},
                                       .interval = interval,
                                       .until = until,
                                       .opaque = world};
    if (lockstep_run(&plan, result, &err) < 0) {
        fail_msg("%s", err.message);
    }
}

static void test_the_same_to_the_end(void **state)
{
    static const uint64_t intervals[] = {1, 7, 1000, 1u << 20};
    struct lockstep_result *result = malloc(sizeof(*result));
    uint64_t memory = 0;
    for (unsigned i = 0; i < array_size(intervals); i++) {
        struct world world = {CHANGE_NONE};
        compare(&world, intervals[i], UINT64_MAX, result);
        assert_true(result->is_same);
        assert_int_equal(result->steps, 1 + ROUNDS * PER_ROUND + 1);
        assert_int_equal(result->exits, 1);
        assert_int_equal(result->end.reason, VM_END_DEBUG_EXIT);
        assert_true(memory == 0 || memory == result->digest.memory);
        memory = result->digest.memory;
    }
    free(result);
}

static void test_until(void **state)
{
    struct lockstep_result *result = malloc(sizeof(*result));
    struct world world = {CHANGE_NONE};
    compare(&world, 100, 250, result);
    assert_true(result->is_same);
    assert_int_equal(result->steps, 250);
    assert_int_equal(result->end.reason, VM_END_NONE);
    free(result);
}

/* Other code is other memory: it differs before anything was executed. */
static void test_different_from_the_start(void **state)
{
    struct lockstep_result *result = malloc(sizeof(*result));
    struct world world = {CHANGE_CODE, .changes_from = 1};
    compare(&world, 100, UINT64_MAX, result);
    assert_false(result->is_same);
    assert_int_equal(result->steps, 0);
    assert_non_null(strstr(result->report, "memory 0x1008:"));
    free(result);
}

static void check_found(enum change change, uint64_t at, unsigned from, const char *text)
{
    static const uint64_t intervals[] = {1, 64, 1000, 100000};
    struct lockstep_result *result = malloc(sizeof(*result));
    for (unsigned i = 0; i < array_size(intervals); i++) {
        struct world world = {change, .changes_from = from, .changes_at = at};
        compare(&world, intervals[i], UINT64_MAX, result);
        assert_false(result->is_same);
        assert_int_equal(result->steps, at - 1);
        if (!strstr(result->report, text)) {
            fail_msg("no '%s' in:\n%s", text, result->report);
        }
    }
    free(result);
}

static void test_finds_a_register(void **state)
{
    check_found(CHANGE_REGISTER, 777, 0, "vcpu 0: gpr[6]: 0x40 / 0");
    check_found(CHANGE_REGISTER, 777, 1, "vcpu 0: gpr[6]: 0 / 0x40");
}

static void test_finds_a_byte(void **state)
{
    check_found(CHANGE_MEMORY, 1234, 1,
                "memory 0x4320: 0000000000000000 / 0000000000007800");
}

/* The instruction, its bytes, and both sides' registers. */
static void test_report(void **state)
{
    struct lockstep_result *result = malloc(sizeof(*result));
    struct world world = {CHANGE_REGISTER, .changes_from = 1, .changes_at = 1 + 3};
    compare(&world, 1000, UINT64_MAX, result);
    assert_int_equal(result->steps, 3);
    assert_non_null(strstr(result->report, "100a: 89 c3  mov bx, ax"));
    assert_non_null(strstr(result->report, "before, both:"));
    assert_non_null(strstr(result->report, "interpreter: 4 steps, 0 exits"));
    free(result);
}

/* A machine that is another each time is no matter of engines. */
static void test_not_repeatable(void **state)
{
    struct lockstep_result *result = malloc(sizeof(*result));
    struct world world = {CHANGE_REGISTER, .changes_at = 500, .changes_until = 2};
    struct error err = {0};
    const struct lockstep_plan plan = {.make = make,
                                       .engine = {"interpreter", "interpreter"},
                                       .interval = 1000,
                                       .until = UINT64_MAX,
                                       .opaque = &world};
    assert_int_equal(lockstep_run(&plan, result, &err), -EIO);
    assert_non_null(strstr(err.message, "not deterministic"));
    free(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_same_to_the_end),
        cmocka_unit_test(test_until),
        cmocka_unit_test(test_different_from_the_start),
        cmocka_unit_test(test_finds_a_register),
        cmocka_unit_test(test_finds_a_byte),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_not_repeatable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
