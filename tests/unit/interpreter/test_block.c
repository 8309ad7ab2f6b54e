/* Decoded blocks, and what becomes of them when the room for them or their stubs ends. */
#include "processor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "interpreter/block.h"
#include "interpreter/native.h"
#include "interpreter/run.h"

#define CODE      0x90000u
#define STUB_ROOM 1024u /* less is left when a store of stubs is nearly full */
#define AREA_SIZE (1u << 20)

static struct processor processor;

static int set_up(void **state)
{
    processor_init(&processor);
    return 0;
}

static int tear_down(void **state)
{
    processor_fini(&processor);
    return 0;
}

/* PSHUFD with registers and an immediate of its own for each number. */
static void encode(uint8_t *bytes, unsigned number)
{
    const uint8_t code[6] = {0x66,
                             (uint8_t)(0x40 | (number >> 8 & 1) << 2 | (number >> 9 & 1)),
                             0x0f,
                             0x70,
                             (uint8_t)(0xc0 | number >> 10),
                             (uint8_t)number};
    memcpy(bytes, code, sizeof(code));
}

/* Makes stubs until the next one finds no room; the number of that one. */
static unsigned fill_stubs(void)
{
    uint8_t bytes[16] = {0};
    struct prepared prepared;
    unsigned number = 0, used = native_used(processor.cpu->native), step = 0;
    while (used + STUB_ROOM < AREA_SIZE || AREA_SIZE - used >= 320) {
        encode(bytes, number++);
        assert_true(processor_decode(&processor, &prepared, bytes, 15));
        assert_true(processor_bind(&processor, &prepared, bytes));
        step = native_used(processor.cpu->native) - used;
        used += step;
    }
    assert_true(step > 0);
    return number;
}

static void fill_blocks(void)
{
    struct binding binding = {.cpu = processor.cpu, .blocks = processor.cpu->blocks};
    while (bind_alloc(&binding, 32)) {
    }
}

static void run_pshufd(unsigned number)
{
    struct cpu *cpu = processor.cpu;
    uint8_t *code = processor_memory(&processor, CODE);
    encode(code, number);
    code[6] = 0xf4; /* HLT */
    memset(cpu->state.vec, 0x11, sizeof(cpu->state.vec));
    cpu->rip = CODE;
    cpu_run_block(cpu);
    assert_int_equal(cpu->state.activity, X86_HALTED);
    assert_int_equal(cpu->rip, CODE + 7);
    assert_int_equal(cpu->faults, 0);
}

/* The room for blocks is found to be full first, and that for stubs when the block is
 * decoded again: neither is a fault of the guest's. */
static void test_no_room_for_blocks_then_none_for_stubs(void **state)
{
    unsigned next = fill_stubs();
    fill_blocks();
    run_pshufd(next);
    assert_true(native_used(processor.cpu->native) < AREA_SIZE / 2);
}

static void test_no_room_for_stubs(void **state)
{
    unsigned next = fill_stubs();
    run_pshufd(next);
    assert_true(native_used(processor.cpu->native) < AREA_SIZE / 2);
}

static void test_no_room_for_blocks(void **state)
{
    fill_blocks();
    run_pshufd(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_room_for_blocks_then_none_for_stubs,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_room_for_stubs, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_room_for_blocks, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("interpreter/block", tests, NULL, NULL);
}
