/* Starting the other processors, messages between them, and starting one again. */
#include "smp.h"

#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define TEST_VECTOR 0x61

static volatile uint32_t received[CPU_MAX], nmis[CPU_MAX];
static unsigned count;

static void on_test(struct trap_frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&received[cpu_self()->index], 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

static void on_nmi(struct trap_frame *frame)
{
    (void)frame;
    __atomic_fetch_add(&nmis[cpu_self()->index], 1, __ATOMIC_SEQ_CST);
}

static uint32_t bit_count(uint32_t mask)
{
    uint32_t bits = 0;
    for (; mask; mask &= mask - 1) {
        bits++;
    }
    return bits;
}

static uint32_t total(volatile uint32_t *counters)
{
    uint32_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        sum += counters[i];
    }
    return sum;
}

/* Waits until as many have come, and a little longer in case there are too many. */
static void wait_for(volatile uint32_t *counters, uint32_t expected)
{
    uint32_t start = port_read32(PM_TIMER_PORT);
    interrupts_enable();
    while (total(counters) < expected) {
        pause();
        if (port_read32(PM_TIMER_PORT) - start > 5 * PM_TIMER_RATE) {
            FAIL("%u of %u messages came in five seconds", total(counters), expected);
        }
    }
    pm_wait(PM_TIMER_RATE / 2000);
    interrupts_disable();
}

/* Exactly the processors of a mask got one message each. */
static void expect_message(uint32_t command, uint32_t destination, uint32_t mask)
{
    bool is_nmi = (command & 0x700) == ICR_NMI;
    volatile uint32_t *counters = is_nmi ? nmis : received;

    for (unsigned i = 0; i < count; i++) {
        counters[i] = 0;
    }
    apic_send(command | ICR_ASSERT | (is_nmi ? 0 : TEST_VECTOR), destination);
    wait_for(counters, bit_count(mask));
    for (unsigned i = 0; i < count; i++) {
        if (counters[i] != (mask >> i & 1)) {
            FAIL("command 0x%x to 0x%x: processor %u got %u, expected %u", command,
                 destination, i, counters[i], mask >> i & 1);
        }
    }
}

static void touch(void *argument)
{
    (void)argument;
    __atomic_fetch_add(&received[cpu_self()->index], 1, __ATOMIC_SEQ_CST);
}

static void try_start(void)
{
    for (unsigned i = 0; i < count; i++) {
        ASSERT_EQ(cpus[i].alive, 1);
        received[i] = 0;
    }
    smp_call_all(touch, NULL);
    for (unsigned i = 0; i < count; i++) {
        ASSERT_EQ(received[i], 1);
    }
}

static void try_shorthands(void)
{
    uint32_t all = (1u << count) - 1;
    expect_message(ICR_TO_SELF, 0, 1);
    expect_message(ICR_TO_ALL, 0, all);
    if (count > 1) {
        expect_message(ICR_TO_OTHERS, 0, all & ~1u);
        expect_message(ICR_TO_OTHERS | ICR_NMI, 0, all & ~1u);
    }
}

static void try_physical(void)
{
    uint32_t all = (1u << count) - 1;
    for (unsigned i = 0; i < count; i++) {
        expect_message(0, i, 1u << i);
        expect_message(ICR_NMI, i, 1u << i);
    }
    expect_message(0, apic_is_x2() ? 0xffffffff : 0xff, all);
    expect_message(ICR_NMI, apic_is_x2() ? 0xffffffff : 0xff, all);
}

static void set_logical(void *model)
{
    unsigned index = cpu_self()->index;
    bool is_cluster = *(bool *)model;
    apic_write(APIC_DFR, is_cluster ? 0x0fffffff : 0xffffffff);
    apic_write(APIC_LDR, (is_cluster ? index / 4 << 4 | 1u << index % 4 : 1u << index % 8)
                             << 24);
}

static void try_logical_flat(void)
{
    bool is_cluster = false;
    smp_call_all(set_logical, &is_cluster);
    for (unsigned i = 0; i < 8; i++) {
        uint32_t mask = 0; /* more than eight share the bits */
        for (unsigned j = i; j < count; j += 8) {
            mask |= 1u << j;
        }
        expect_message(ICR_LOGICAL, 1u << i, mask);
    }
    uint32_t odd = 0xaaaa & ((1u << count) - 1);
    expect_message(ICR_LOGICAL, 0xaa, odd);
    expect_message(ICR_LOGICAL | ICR_NMI, 0xaa, odd);
    expect_message(ICR_LOGICAL, 0, 0);
    expect_message(ICR_LOGICAL, 0xff, (1u << count) - 1);
}

static void try_logical_cluster(void)
{
    bool is_cluster = true;
    smp_call_all(set_logical, &is_cluster);
    for (unsigned cluster = 0; cluster < 4; cluster++) {
        for (unsigned set = 0; set < 16; set++) {
            expect_message(ICR_LOGICAL, cluster << 4 | set,
                           set << 4 * cluster & ((1u << count) - 1));
        }
    }
    expect_message(ICR_LOGICAL, 0xff, (1u << count) - 1);
    is_cluster = false;
    smp_call_all(set_logical, &is_cluster);
}

static void try_logical_x2apic(void)
{
    for (unsigned i = 0; i < count; i++) {
        expect_message(ICR_LOGICAL, i / 16 << 16 | 1u << i % 16, 1u << i);
    }
    uint32_t odd = 0xaaaa & ((1u << count) - 1);
    expect_message(ICR_LOGICAL, odd, odd);
    expect_message(ICR_LOGICAL, 1u << 16 | 0xffff, 0); /* a cluster that is not there */
    expect_message(ICR_LOGICAL, 0xffffffff, (1u << count) - 1);
}

/* One of those addressed gets it, whoever that is. */
static void try_lowest(void)
{
    for (unsigned i = 0; i < count; i++) {
        received[i] = 0;
    }
    uint32_t destination = apic_is_x2() ? (1u << count) - 1 : 0xff;
    for (uint32_t i = 1; i <= 5; i++) {
        apic_send(ICR_LOWEST | ICR_LOGICAL | ICR_ASSERT | TEST_VECTOR, destination);
        wait_for(received, i);
        ASSERT_EQ(total(received), i);
    }
}

static void hold(void *flag)
{
    interrupts_disable();
    WRITE_ONCE(*(uint32_t *)flag, 1);
    while (true) {
        pause();
    }
}

/* A processor that spins with interrupts off, one that halts, one that waits for
 * start-up: INIT stops each, and start-up messages make it begin again. */
static void try_restart(void)
{
    uint32_t flag;
    for (unsigned i = 1; i < count; i++) {
        uint32_t before = cpus[i].alive;
        flag = 0;
        smp_call(i, hold, &flag);
        while (!READ_ONCE(flag)) {
            pause();
        }
        smp_restart(i);
        ASSERT_EQ(cpus[i].alive, before + 1);
        smp_restart(i);
        ASSERT_EQ(cpus[i].alive, before + 2);
        /* It waits now, and nothing but a start-up message ends that. */
        apic_send(ICR_INIT | ICR_ASSERT | ICR_LEVEL, i);
        received[i] = nmis[i] = 0;
        apic_send(ICR_ASSERT | TEST_VECTOR, i);
        apic_send(ICR_NMI | ICR_ASSERT, i);
        pm_wait(PM_TIMER_RATE / 2000);
        ASSERT_EQ(cpus[i].alive, before + 2);
        ASSERT_EQ(received[i] + nmis[i], 0);
        smp_restart(i);
        ASSERT_EQ(cpus[i].alive, before + 3);
        /* Running, it ignores start-up messages. */
        apic_send(ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12, i);
        pm_wait(PM_TIMER_RATE / 2000);
        ASSERT_EQ(cpus[i].alive, before + 3);
    }
    for (unsigned i = 0; i < count; i++) {
        received[i] = 0;
    }
    smp_call_all(touch, NULL);
    ASSERT_EQ(total(received), count);
}

struct token {
    volatile uint32_t turn;
    uint32_t rounds;
};

static void pass_token(void *argument)
{
    struct token *token = argument;
    unsigned index = cpu_self()->index;
    for (uint32_t i = 0; i < token->rounds; i++) {
        while (token->turn != i * count + index) {
            pause();
        }
        token->turn++;
    }
}

void guest_test(void)
{
    count = smp_count();
    trap_set_handler(TEST_VECTOR, on_test);
    trap_set_handler(VECTOR_NMI, on_nmi);

    case_begin("all %u processors start", count);
    smp_start(false);
    try_start();
    case_begin("xAPIC: shorthands");
    try_shorthands();
    case_begin("xAPIC: physical destinations");
    try_physical();
    case_begin("xAPIC: logical destinations, flat");
    try_logical_flat();
    case_begin("xAPIC: lowest priority");
    try_lowest();
    case_begin("xAPIC: logical destinations, clusters");
    try_logical_cluster();
    case_begin("INIT again and restart");
    try_restart();
    case_begin("a token goes round in memory");
    struct token token = {0, 50};
    smp_call_all(pass_token, &token);
    ASSERT_EQ(token.turn, count * token.rounds);

    case_begin("x2APIC: every processor starts again");
    smp_start(true);
    for (unsigned i = 1; i < count; i++) {
        ASSERT(cpus[i].alive > 1);
    }
    case_begin("x2APIC: shorthands");
    try_shorthands();
    case_begin("x2APIC: physical destinations");
    try_physical();
    case_begin("x2APIC: logical destinations");
    try_logical_x2apic();
    case_begin("x2APIC: lowest priority");
    try_lowest();
    case_begin("x2APIC: INIT again and restart");
    try_restart();
}
