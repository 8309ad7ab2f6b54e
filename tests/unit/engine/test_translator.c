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

#define RAM_SIZE (2u << 20)
#define CODE_AT  0x10000u
#define SLOT     16u
#define SLOTS    16384u
#define ROUNDS   2u

struct machine {
    struct clock clock;
    struct memory *memory;
    struct cpuid_policy cpuid;
    struct lapic lapic;
    struct vcpu_stats stats;
    struct engine *engine;
    struct engine_vcpu *vcpu;
};

static void sink(void *opaque, struct vcpu_exit *exit)
{
}

/* Blocks one behind the other, `inc %eax; jmp` to the next; the last begins anew ECX
 * times. */
static void put_code(struct machine *m)
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
    assert_true(ram_write(m->memory, CODE_AT, code, sizeof(code)));
}

static struct machine *machine_new_with(uint64_t code_cache)
{
    struct machine *m = calloc(1, sizeof(*m));
    struct error err = {0};
    assert_non_null(m);
    clock_init_virtual(&m->clock);
    struct cpuid_config cpuid = {.cpus = 1};
    assert_int_equal(cpuid_policy_init(&m->cpuid, &cpuid, NULL), 0);
    m->memory = memory_new(RAM_SIZE, &err);
    assert_non_null(m->memory);
    int64_t frame = memory_add_frames(m->memory, RAM_SIZE, &err);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(m->memory, 0, RAM_SIZE, (frame_t)frame, SLOT_RAM, &err),
                     0);
    lapic_reset(&m->lapic, 0, 1000000);
    struct engine_config config = {.memory = m->memory,
                                   .clock = &m->clock,
                                   .cpuid = &m->cpuid,
                                   .cpus = 1,
                                   .code_cache = code_cache};
    m->engine = engine_translator.open(&config, &err);
    assert_non_null(m->engine);
    struct vcpu_config vcpu = {
        .is_bootstrap = true, .lapic = &m->lapic, .sink = {sink, m}, .stats = &m->stats};
    m->vcpu = engine_translator.vcpu_open(m->engine, &vcpu, &err);
    assert_non_null(m->vcpu);
    put_code(m);
    return m;
}

static void machine_end(struct machine *m)
{
    engine_translator.vcpu_close(m->vcpu);
    engine_translator.close(m->engine);
    memory_free(m->memory);
    free(m);
}

/* From the beginning of the code to its HLT; the result in EAX. */
static uint32_t run(struct machine *m)
{
    struct x86_state state;
    x86_state_reset(&state, true);
    state.cr0 |= X86_CR0_PE;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state.seg[i] = x86_segment_flat_data(16, 0);
    }
    state.seg[X86_CS] = x86_segment_flat_code(8, false, 0);
    state.rip = CODE_AT;
    state.gpr[X86_RAX] = 0;
    state.gpr[X86_RCX] = ROUNDS;
    engine_translator.set_state(m->vcpu, &state);
    assert_int_equal(engine_translator.run(m->vcpu), RUN_HALTED);
    engine_translator.get_state(m->vcpu, &state);
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

static uint64_t counted(struct machine *m, bool is_vcpu, const char *group,
                        const char *name)
{
    struct wanted wanted = {group, name};
    engine_translator.stats(m->engine, is_vcpu ? m->vcpu : NULL, pick, &wanted);
    assert_true(wanted.is_there);
    return wanted.value;
}

static void test_makes_each_block_once(void **state)
{
    struct machine *m = machine_new_with(0);
    assert_int_equal(run(m), ROUNDS * SLOTS);
    uint64_t blocks = counted(m, false, "translated", "blocks");
    assert_true(blocks >= SLOTS);
    assert_int_equal(counted(m, true, "dispatcher", "blocks_made"), blocks);
    assert_int_equal(counted(m, false, "cache", "blocks"), blocks);
    assert_int_equal(counted(m, false, "cache", "dead_blocks"), 0);
    assert_int_equal(counted(m, false, "evictions", "count"), 0);
    assert_int_equal(counted(m, true, "interpreted_instructions", "hlt"), 1);
    assert_int_equal(run(m), ROUNDS * SLOTS);
    assert_int_equal(counted(m, false, "translated", "blocks"), blocks);
    machine_end(m);
}

/* Every block is made for every round, since those made last are there when the round
 * begins anew; what is linked, found and counted stays right. */
static void test_drops_the_oldest_when_it_is_full(void **state)
{
    const uint64_t size = 1u << 20;
    struct machine *m = machine_new_with(size);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(run(m), ROUNDS * SLOTS);
    }
    assert_true(counted(m, false, "evictions", "count") > 10);
    assert_int_equal(counted(m, false, "cache", "code_limit_bytes"), size);
    assert_in_range(counted(m, false, "cache", "code_bytes"), 1, size);
    assert_in_range(counted(m, false, "cache", "used_percent"), 1, 100);
    uint64_t dropped = counted(m, false, "invalidated_blocks", "by_overflow");
    uint64_t alive =
        counted(m, false, "cache", "blocks") - counted(m, false, "cache", "dead_blocks");
    assert_true(dropped > 0);
    assert_int_equal(counted(m, false, "translated", "blocks"), dropped + alive);
    machine_end(m);
}

/* As a device's thread does. */
static void *store_to_code(void *opaque)
{
    struct machine *m = opaque;
    static const uint8_t dec = 0x48;
    assert_true(ram_write(m->memory, CODE_AT, &dec, 1));
    return NULL;
}

static void check_changed_from_outside(uint64_t code_cache)
{
    struct machine *m = machine_new_with(code_cache);
    pthread_t thread;
    assert_int_equal(run(m), ROUNDS * SLOTS);
    assert_int_equal(pthread_create(&thread, NULL, store_to_code, m), 0);
    pthread_join(thread, NULL);
    assert_int_equal(counted(m, false, "invalidated_blocks", "by_store"), 0);
    if (!code_cache) {
        /* All blocks of the page. */
        assert_int_equal(counted(m, false, "invalidated_blocks", "by_device"),
                         FRAME_SIZE / SLOT);
    }
    assert_int_equal(run(m), ROUNDS * (SLOTS - 2));
    machine_end(m);
}

static void test_code_changed_by_a_device(void **state)
{
    check_changed_from_outside(0);
    check_changed_from_outside(1u << 20);
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
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
