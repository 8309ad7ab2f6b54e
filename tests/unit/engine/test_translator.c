/* The engine translator's cache: what it counts, code that changes from outside, and a
 * cache that is too small for the code. */

#include "engine/translator/translator.h"

#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "x86/segment.h"

#include <cmocka.h>

#include "engine_rig.h"

#define RAM_SIZE (2u << 20)
#define CODE_AT  0x10000u
#define SLOT     16u
#define SLOTS    16384u
#define ROUNDS   2u

static void sink(void *opaque, struct vcpu_exit *exit)
{
}

/* Blocks one behind the other, `inc %eax; jmp` to the next; the last begins anew ECX
 * times. */
static void put_code(struct engine_rig *rig)
{
    static const uint8_t slot[SLOT] = {0x40, 0xeb, SLOT - 3};
    static uint8_t code[SLOT * (SLOTS + 1)];
    for (unsigned i = 0; i < SLOTS; i++) {
        memcpy(code + i * SLOT, slot, SLOT);
    }
    uint8_t *end = code + SLOTS * SLOT;
    int32_t back = -(int32_t)(SLOTS * SLOT + 7);
    end[0] = 0x49; /* dec %ecx */
    end[1] = 0x0f; /* jnz */
    end[2] = 0x85;
    memcpy(end + 3, &back, 4);
    end[7] = 0xf4; /* hlt */
    assert_true(ram_write(rig->memory, CODE_AT, code, sizeof(code)));
}

static void open_rig(struct engine_rig *rig, uint64_t code_cache)
{
    const struct engine_config options = {.code_cache = code_cache};
    engine_rig_open(rig, &engine_translator, RAM_SIZE, &options,
                    (struct vcpu_sink){sink, rig});
    put_code(rig);
}

/* Of flat 32-bit code at CODE_AT. */
static void set_up(struct x86_state *state)
{
    x86_state_reset(state, true);
    state->cr0 |= X86_CR0_PE;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->seg[i] = x86_segment_flat_data(16, 0);
    }
    state->seg[X86_CS] = x86_segment_flat_code(8, false, 0);
    state->rip = CODE_AT;
}

/* From there to its HLT. */
static void run_from(struct engine_rig *rig, struct x86_state *state)
{
    engine_translator.set_state(rig->vcpu, state);
    assert_int_equal(engine_translator.run(rig->vcpu), RUN_HALTED);
    engine_translator.get_state(rig->vcpu, state);
}

/* From the beginning of the code to its HLT; the result in EAX. */
static uint32_t run(struct engine_rig *rig)
{
    struct x86_state state;
    set_up(&state);
    state.gpr[X86_RAX] = 0;
    state.gpr[X86_RCX] = ROUNDS;
    run_from(rig, &state);
    return (uint32_t)state.gpr[X86_RAX];
}

struct wanted {
    const char *group, *name;
    uint64_t value;
    bool is_there;
};

static void pick(void *opaque, const struct engine_stat *stat)
{
    struct wanted *wanted = opaque;
    if (strcmp(stat->group, wanted->group) == 0 &&
        strcmp(stat->name, wanted->name) == 0) {
        assert_false(wanted->is_there);
        wanted->value = stat->value;
        wanted->is_there = true;
    }
}

static uint64_t counted(struct engine_rig *rig, bool is_vcpu, const char *group,
                        const char *name)
{
    struct wanted wanted = {group, name};
    engine_translator.stats(rig->engine, is_vcpu ? rig->vcpu : NULL, pick, &wanted);
    assert_true(wanted.is_there);
    return wanted.value;
}

static void test_makes_each_block_once(void **state)
{
    struct engine_rig rig;
    open_rig(&rig, 0);
    assert_int_equal(run(&rig), ROUNDS * SLOTS);
    uint64_t blocks = counted(&rig, false, "translated", "blocks");
    assert_true(blocks >= SLOTS);
    assert_int_equal(counted(&rig, true, "dispatcher", "blocks_made"), blocks);
    /* Most of them when the one before was. */
    assert_true(counted(&rig, true, "left_translated_code", "exit_not_linked") <
                blocks / 8);
    assert_int_equal(counted(&rig, false, "cache", "blocks"), blocks);
    assert_int_equal(counted(&rig, false, "cache", "dead_blocks"), 0);
    assert_int_equal(counted(&rig, false, "evictions", "count"), 0);
    assert_int_equal(counted(&rig, true, "interpreted_instructions", "hlt"), 1);
    assert_int_equal(run(&rig), ROUNDS * SLOTS);
    assert_int_equal(counted(&rig, false, "translated", "blocks"), blocks);
    engine_rig_close(&rig);
}

/* Every block is made for every round, since those made last are there when the round
 * begins anew; what is linked, found and counted stays right. */
static void test_drops_the_oldest_when_it_is_full(void **state)
{
    const uint64_t size = 1u << 20;
    struct engine_rig rig;
    open_rig(&rig, size);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(run(&rig), ROUNDS * SLOTS);
    }
    assert_true(counted(&rig, false, "evictions", "count") > 10);
    assert_int_equal(counted(&rig, false, "cache", "code_limit_bytes"), size);
    assert_in_range(counted(&rig, false, "cache", "code_bytes"), 1, size);
    assert_in_range(counted(&rig, false, "cache", "used_percent"), 1, 100);
    uint64_t dropped = counted(&rig, false, "invalidated_blocks", "by_overflow");
    uint64_t alive = counted(&rig, false, "cache", "blocks") -
                     counted(&rig, false, "cache", "dead_blocks");
    assert_true(dropped > 0);
    assert_int_equal(counted(&rig, false, "translated", "blocks"), dropped + alive);
    engine_rig_close(&rig);
}

/* As a device's thread does. */
static void *store_to_code(void *opaque)
{
    struct engine_rig *rig = opaque;
    static const uint8_t dec = 0x48;
    assert_true(ram_write(rig->memory, CODE_AT, &dec, 1));
    return NULL;
}

static void check_changed_from_outside(uint64_t code_cache)
{
    struct engine_rig rig;
    open_rig(&rig, code_cache);
    pthread_t thread;
    assert_int_equal(run(&rig), ROUNDS * SLOTS);
    assert_int_equal(pthread_create(&thread, NULL, store_to_code, &rig), 0);
    pthread_join(thread, NULL);
    assert_int_equal(counted(&rig, false, "invalidated_blocks", "by_store"), 0);
    if (!code_cache) {
        /* Of all blocks of the page the one that was stored to. */
        assert_int_equal(counted(&rig, false, "invalidated_blocks", "by_device"), 1);
    }
    assert_int_equal(run(&rig), ROUNDS * (SLOTS - 2));
    engine_rig_close(&rig);
}

static void test_code_changed_by_a_device(void **state)
{
    check_changed_from_outside(0);
    check_changed_from_outside(1u << 20);
}

/* MOV EAX, 0; HLT at the beginning of the code, and more bytes behind it. */
static const uint8_t mov[] = {0xb8, 0, 0, 0, 0, 0xf4, 0, 0};

static void put(struct engine_rig *rig, unsigned offset, const void *bytes, unsigned size)
{
    assert_true(ram_write(rig->memory, CODE_AT + offset, bytes, size));
}

static uint64_t blocks(struct engine_rig *rig)
{
    return counted(rig, false, "translated", "blocks");
}

static void test_what_is_beside_code_ends_nothing(void **state)
{
    struct engine_rig rig;
    open_rig(&rig, 0);
    put(&rig, 0, mov, sizeof(mov));
    assert_int_equal(run(&rig), 0);
    uint64_t before = blocks(&rig);
    /* In its line, and the same again. */
    put(&rig, 6, "\x77", 1);
    put(&rig, 0, mov, 6);
    assert_int_equal(run(&rig), 0);
    assert_int_equal(blocks(&rig), before);
    assert_int_equal(counted(&rig, false, "invalidated_blocks", "by_device"), 0);
    engine_rig_close(&rig);
}

static void test_what_was_there_before_comes_back(void **state)
{
    static const uint8_t other[] = {0x31, 0xc0, 0x40, 0x90, 0x90, 0xf4}; /* 1 in EAX */
    struct engine_rig rig;
    open_rig(&rig, 0);
    put(&rig, 0, mov, sizeof(mov));
    assert_int_equal(run(&rig), 0);
    put(&rig, 0, other, sizeof(other));
    assert_int_equal(run(&rig), 1);
    uint64_t before = blocks(&rig);
    for (unsigned i = 0; i < 10; i++) {
        put(&rig, 0, mov, sizeof(mov));
        assert_int_equal(run(&rig), 0);
        put(&rig, 0, other, sizeof(other));
        assert_int_equal(run(&rig), 1);
    }
    assert_int_equal(blocks(&rig), before);
    assert_true(counted(&rig, false, "revived", "blocks") >= 20);
    engine_rig_close(&rig);
}

/* One that is changed often is read from the guest's memory, until the instruction is
 * another one. */
static void test_operands_become_soft(void **state)
{
    struct engine_rig rig;
    open_rig(&rig, 0);
    put(&rig, 0, mov, sizeof(mov));
    uint64_t before = 0;
    for (uint32_t i = 0; i < 400; i++) {
        uint32_t value = i * 0x9e3779b9;
        if (i == 20) {
            before = blocks(&rig);
        }
        put(&rig, 1, &value, 4);
        assert_int_equal(run(&rig), value);
    }
    assert_int_equal(blocks(&rig), before);
    assert_true(before < 20);
    put(&rig, 0, "\x05", 1); /* ADD EAX, which is 0 */
    put(&rig, 1, "\x21\0\0\0", 4);
    assert_int_equal(run(&rig), 0x21);
    assert_true(blocks(&rig) > before);
    engine_rig_close(&rig);
}

/* New code all the time takes the same memory again and again, and what is in use stays.
 */
static void test_nearly_dead_memory_is_used_again(void **state)
{
    struct engine_rig rig;
    open_rig(&rig, 4u << 20);
    for (uint32_t i = 0; i < 40000; i++) {
        /* INC EAX, i bit by bit as NOP or CLC: none is like the one before. */
        uint8_t program[20] = {0x31, 0xc0, 0x40};
        for (unsigned bit = 0; bit < 16; bit++) {
            program[3 + bit] = i >> bit & 1 ? 0x90 : 0xf8;
        }
        program[19] = 0xf4;
        put(&rig, 0, program, sizeof(program));
        assert_int_equal(run(&rig), 1);
    }
    assert_true(counted(&rig, false, "evictions", "count") > 0);
    assert_true(counted(&rig, false, "cache", "code_bytes") <= 2u << 20);
    engine_rig_close(&rig);
}

/* Flags that a machine was set up with are gone when an instruction has overwritten them:
 * in what PUSHF shows, too. */
static void test_flags_of_before_are_overwritten(void **state)
{
    static const uint8_t code[] = {
        0x83, 0xf9, 0x00, /* cmp $0, %ecx */
        0x9c,             /* pushf */
        0x58,             /* pop %eax */
        0xf4,             /* hlt */
    };
    struct engine_rig rig;
    open_rig(&rig, 0);
    assert_true(ram_write(rig.memory, CODE_AT, code, sizeof(code)));
    struct x86_state cpu;
    set_up(&cpu);
    cpu.rflags |= X86_FLAGS_ARITH;
    cpu.gpr[X86_RCX] = 1;
    cpu.gpr[X86_RSP] = CODE_AT;
    run_from(&rig, &cpu);
    assert_int_equal(cpu.gpr[X86_RAX], X86_FLAG_1);
    assert_int_equal(cpu.rflags, X86_FLAG_1);
    engine_rig_close(&rig);
}

/* A jump that led to a block that is dead, by a store of the guest's, leads to the one
 * that took its place from then on, also if that begins by overwriting all flags. */
static void test_jumps_leave_dead_blocks(void **state)
{
    static const uint8_t code[] = {
        0xff, 0x25, 0x00, 0x02, 0x01, 0x00,       /* loop: jmp *pointer */
        0x90, 0x90, 0x90, 0x31, 0xc0,             /* target: xor %eax, %eax */
        0x40,                                     /* inc %eax; then dec */
        0x49,                                     /* dec %ecx */
        0x74, 0x11,                               /* jz end */
        0x81, 0xf9, 0x88, 0x13, 0x00, 0x00,       /* cmp $5000, %ecx */
        0x75, 0xe9,                               /* jne loop */
        0xc6, 0x05, 0x0b, 0x00, 0x01, 0x00, 0x48, /* movb $0x48, target + 2 */
        0xeb, 0xe0,                               /* jmp loop */
        0xf4,                                     /* end: hlt */
    };
    static const uint32_t target = CODE_AT + 9;
    struct engine_rig rig;
    open_rig(&rig, 0);
    put(&rig, 0, code, sizeof(code));
    put(&rig, 0x200, &target, sizeof(target));
    struct x86_state cpu;
    set_up(&cpu);
    cpu.gpr[X86_RCX] = 10000;
    run_from(&rig, &cpu);
    assert_int_equal((uint32_t)cpu.gpr[X86_RAX], UINT32_MAX);
    assert_true(counted(&rig, false, "invalidated_blocks", "by_store") > 0);
    assert_in_range(counted(&rig, true, "left_translated_code", "attention_or_gate"), 0,
                    100);
    engine_rig_close(&rig);
}

/* Pushes over a page's end have it made a split, which is forgotten when address spaces
 * have come and gone, and not before. */
static void test_splits_of_the_stack_are_forgotten(void **state)
{
    static const uint8_t calls[] = {
        0xe8, 0xfb, 0x0f, 0x00, 0x00, /* call function */
        0x49, 0x75, 0xf8, 0xf4,       /* dec %ecx; jnz; hlt */
    };
    static const uint8_t spaces[] = {
        0x0f, 0x22, 0xd8,             /* mov %eax, %cr3 */
        0x05, 0x00, 0x10, 0x00, 0x00, /* add $0x1000, %eax */
        0x4a, 0x75, 0xf5, 0xeb, 0xb3, /* dec %edx; jnz; jmp calls */
    };
    static const uint8_t function[] = {0x50, 0x50, 0x50, 0x58, 0x58, 0x58, 0xc3};
    struct engine_rig rig;
    open_rig(&rig, 0);
    put(&rig, 0, calls, sizeof(calls));
    put(&rig, 0x40, spaces, sizeof(spaces));
    put(&rig, 0x1000, function, sizeof(function));
    struct x86_state cpu;
    set_up(&cpu);
    cpu.gpr[X86_RCX] = 200;
    cpu.gpr[X86_RSP] = 0x8000c;
    run_from(&rig, &cpu);
    uint64_t split = counted(&rig, false, "invalidated_blocks", "by_variant");
    assert_true(split > 0);
    static const uint32_t count[] = {2, 12};
    for (unsigned i = 0; i < 2; i++) {
        set_up(&cpu);
        cpu.rip = CODE_AT + 0x40;
        cpu.gpr[X86_RAX] = 0x1000;
        cpu.gpr[X86_RDX] = count[i];
        cpu.gpr[X86_RCX] = 200;
        cpu.gpr[X86_RSP] = 0x80800;
        run_from(&rig, &cpu);
        bool is_forgotten =
            counted(&rig, false, "invalidated_blocks", "by_variant") > split;
        assert_int_equal(is_forgotten, i == 1);
    }
    engine_rig_close(&rig);
}

/* Sums ECX numbers at EDI up in EAX: add (%edi), %eax; add $4, %edi; dec %ecx; jnz. */
static const uint8_t sum[] = {0x03, 0x07, 0x83, 0xc7, 0x04, 0x49, 0x75, 0xf8, 0xf4};

#define NUMBERS_AT 0x80ffeu /* a number crosses each page's end */
#define NUMBERS    20000u

static void check_sum(struct engine_rig *rig, uint32_t count)
{
    struct x86_state cpu;
    set_up(&cpu);
    cpu.gpr[X86_RAX] = 0;
    cpu.gpr[X86_RCX] = count;
    cpu.gpr[X86_RDI] = NUMBERS_AT;
    run_from(rig, &cpu);
    assert_int_equal(cpu.gpr[X86_RAX], count * (count + 1) / 2);
    assert_int_equal(cpu.gpr[X86_RDI], NUMBERS_AT + 4 * count);
}

static void open_sum(struct engine_rig *rig)
{
    open_rig(rig, 0);
    put(rig, 0, sum, sizeof(sum));
    for (uint32_t i = 0; i < NUMBERS; i++) {
        uint32_t number = i + 1;
        assert_true(ram_write(rig->memory, NUMBERS_AT + 4 * i, &number, 4));
    }
}

static void test_long_loops_are_unrolled(void **state)
{
    struct engine_rig rig;
    open_sum(&rig);
    check_sum(&rig, 200);
    assert_int_equal(counted(&rig, false, "translated", "unrolled_loops"), 0);
    check_sum(&rig, NUMBERS);
    assert_int_equal(counted(&rig, false, "translated", "unrolled_loops"), 1);
    for (uint32_t count = 1; count < 40; count++) {
        check_sum(&rig, count);
    }
    check_sum(&rig, NUMBERS);
    assert_int_equal(counted(&rig, false, "translated", "unrolled_loops"), 1);
    assert_int_equal(counted(&rig, false, "invalidated_blocks", "by_variant"), 0);
    engine_rig_close(&rig);
}

static void test_short_loops_are_not_unrolled_for_long(void **state)
{
    struct engine_rig rig;
    open_sum(&rig);
    for (unsigned i = 0; i < 2000; i++) {
        check_sum(&rig, 3);
    }
    assert_int_equal(counted(&rig, false, "translated", "unrolled_loops"), 1);
    assert_int_equal(counted(&rig, false, "invalidated_blocks", "by_variant"), 1);
    engine_rig_close(&rig);
}

int main(void)
{
    struct error err;
    if (engine_translator.probe(&err) < 0) {
        print_message("%s\n", err.message);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_makes_each_block_once),
        cmocka_unit_test(test_drops_the_oldest_when_it_is_full),
        cmocka_unit_test(test_code_changed_by_a_device),
        cmocka_unit_test(test_what_is_beside_code_ends_nothing),
        cmocka_unit_test(test_what_was_there_before_comes_back),
        cmocka_unit_test(test_operands_become_soft),
        cmocka_unit_test(test_nearly_dead_memory_is_used_again),
        cmocka_unit_test(test_flags_of_before_are_overwritten),
        cmocka_unit_test(test_jumps_leave_dead_blocks),
        cmocka_unit_test(test_splits_of_the_stack_are_forgotten),
        cmocka_unit_test(test_long_loops_are_unrolled),
        cmocka_unit_test(test_short_loops_are_not_unrolled_for_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
