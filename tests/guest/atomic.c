/*
 * LOCK: every instruction that takes the prefix, on operands within a cache line, across
 * two lines and across two pages, by all processors at once. Memory order: messages
 * arrive in order, and MFENCE or LOCK keep a load behind a store (SDM 3A 8.1, 8.2).
 */
#include "smp.h"

#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE 0x10000000000ull

/* One step on *p by the processor that owns bit `bit`; false: its own bit was touched. */
typedef bool step_function(volatile uint64_t *p, uint64_t bit);

#define STEP(name, code, ...)                                             \
    static bool name(volatile uint64_t *p, uint64_t bit)                  \
    {                                                                     \
        (void)bit;                                                        \
        __asm__ volatile(code : "+m"(*p) : __VA_ARGS__ : "cc", "memory"); \
        return true;                                                      \
    }

STEP(lock_inc, "lock incq %0")
STEP(lock_dec, "lock decq %0")
STEP(lock_add, "lock addq $1, %0")
STEP(lock_add_register, "lock addq %1, %0", "r"(1ull))
STEP(lock_add32, "lock addl $1, %0")
STEP(lock_add16, "lock addw $1, %0")
STEP(lock_add8, "lock addb $1, %0")
STEP(lock_sub, "lock subq $1, %0")
STEP(lock_adc, "stc; lock adcq $0, %0")
STEP(lock_sbb, "stc; lock sbbq $0, %0")
STEP(lock_not, "lock notq %0")

static bool lock_xadd(volatile uint64_t *p, uint64_t bit)
{
    uint64_t one = 1;
    (void)bit;
    __asm__ volatile("lock xaddq %1, %0" : "+m"(*p), "+r"(one) : : "cc", "memory");
    return true;
}

static bool lock_cmpxchg(volatile uint64_t *p, uint64_t bit)
{
    uint64_t old = *p;
    bool done;
    (void)bit;
    do {
        __asm__ volatile("lock cmpxchgq %3, %0"
                         : "+m"(*p), "+a"(old), "=@ccz"(done)
                         : "r"(old + 1)
                         : "memory");
    } while (!done);
    return true;
}

static bool lock_cmpxchg8b(volatile uint64_t *p, uint64_t bit)
{
    uint32_t low = (uint32_t)*p, high = (uint32_t)(*p >> 32);
    bool done;
    (void)bit;
    do {
        uint64_t next = ((uint64_t)high << 32 | low) + 1;
        __asm__ volatile("lock cmpxchg8b %0"
                         : "+m"(*p), "+a"(low), "+d"(high), "=@ccz"(done)
                         : "b"((uint32_t)next), "c"((uint32_t)(next >> 32))
                         : "memory");
    } while (!done);
    return true;
}

/* Two counters that must always be equal; on 16 aligned bytes only. */
static bool lock_cmpxchg16b(volatile uint64_t *p, uint64_t bit)
{
    uint64_t low = 0, high = 0;
    bool done;
    (void)bit;
    do {
        __asm__ volatile("lock cmpxchg16b %0"
                         : "+m"(*(volatile unsigned __int128 *)p), "+a"(low), "+d"(high),
                           "=@ccz"(done)
                         : "b"(low + 1), "c"(high + 1)
                         : "memory");
        if (low != high) {
            return false;
        }
    } while (!done);
    return true;
}

/* XCHG locks without a prefix: it takes a lock in bit 63 around a plain increment. The
 * lock is the top byte, so that the counter below is not exchanged. */
static bool xchg_lock(volatile uint64_t *p, uint64_t bit)
{
    volatile uint8_t *lock = (volatile uint8_t *)p + 7;
    uint8_t taken = 1;
    (void)bit;
    while (true) {
        __asm__ volatile("xchgb %1, %0" : "+m"(*lock), "+q"(taken) : : "memory");
        if (!taken) {
            break;
        }
        pause();
    }
    volatile uint32_t *counter = (volatile uint32_t *)p;
    *counter = *counter + 1;
    *lock = 0;
    return true;
}

static bool lock_or_and(volatile uint64_t *p, uint64_t bit)
{
    __asm__ volatile("lock orq %1, %0" : "+m"(*p) : "r"(bit) : "cc", "memory");
    bool was_set = *p & bit;
    __asm__ volatile("lock andq %1, %0" : "+m"(*p) : "r"(~bit) : "cc", "memory");
    return was_set && !(*p & bit);
}

static bool lock_xor(volatile uint64_t *p, uint64_t bit)
{
    uint64_t before = *p & bit;
    __asm__ volatile("lock xorq %1, %0" : "+m"(*p) : "r"(bit) : "cc", "memory");
    bool changed = (*p & bit) != before;
    __asm__ volatile("lock xorq %1, %0" : "+m"(*p) : "r"(bit) : "cc", "memory");
    return changed && (*p & bit) == before;
}

static bool lock_bit_test(volatile uint64_t *p, uint64_t bit)
{
    uint64_t number = cpu_self()->index;
    bool set, reset, complement, last;
    (void)bit;
    __asm__ volatile("lock btsq %2, %0"
                     : "+m"(*p), "=@ccc"(set)
                     : "r"(number)
                     : "memory");
    __asm__ volatile("lock btrq %2, %0"
                     : "+m"(*p), "=@ccc"(reset)
                     : "r"(number)
                     : "memory");
    __asm__ volatile("lock btcq %2, %0"
                     : "+m"(*p), "=@ccc"(complement)
                     : "r"(number)
                     : "memory");
    __asm__ volatile("lock btcq %2, %0"
                     : "+m"(*p), "=@ccc"(last)
                     : "r"(number)
                     : "memory");
    return !set && reset && !complement && last;
}

struct row {
    const char *name;
    step_function *step;
    int64_t each; /* what a step adds to the value */
    uint64_t mask;
    bool is_aligned; /* crossing operands are not possible */
};

static const struct row table[] = {
    {"LOCK INC", lock_inc, 1, UINT64_MAX},
    {"LOCK DEC", lock_dec, -1, UINT64_MAX},
    {"LOCK ADD", lock_add, 1, UINT64_MAX},
    {"LOCK ADD, register", lock_add_register, 1, UINT64_MAX},
    {"LOCK ADD, 32 bits", lock_add32, 1, UINT32_MAX},
    {"LOCK ADD, 16 bits", lock_add16, 1, UINT16_MAX},
    {"LOCK ADD, 8 bits", lock_add8, 1, UINT8_MAX},
    {"LOCK SUB", lock_sub, -1, UINT64_MAX},
    {"LOCK ADC", lock_adc, 1, UINT64_MAX},
    {"LOCK SBB", lock_sbb, -1, UINT64_MAX},
    {"LOCK NOT", lock_not, 0, UINT64_MAX},
    {"LOCK XADD", lock_xadd, 1, UINT64_MAX},
    {"LOCK CMPXCHG", lock_cmpxchg, 1, UINT64_MAX},
    {"LOCK CMPXCHG8B", lock_cmpxchg8b, 1, UINT64_MAX},
    {"LOCK CMPXCHG16B", lock_cmpxchg16b, 1, UINT64_MAX, true},
    {"XCHG", xchg_lock, 1, UINT64_MAX},
    {"LOCK OR and AND", lock_or_and, 0, UINT64_MAX},
    {"LOCK XOR", lock_xor, 0, UINT64_MAX},
    {"LOCK BTS, BTR and BTC", lock_bit_test, 0, UINT64_MAX},
};

static unsigned count;

struct work {
    const struct row *row;
    volatile uint64_t *operand;
    uint32_t steps;
    volatile uint32_t barrier, bad;
};

static void hammer(void *argument)
{
    struct work *work = argument;
    uint64_t bit = 1ull << cpu_self()->index;
    smp_barrier(&work->barrier, count);
    for (uint32_t i = 0; i < work->steps; i++) {
        if (!work->row->step(work->operand, bit)) {
            work->bad = 1;
        }
    }
}

static void try_lock(const struct row *row, uint64_t operand, uint32_t steps)
{
    struct work work = {row, (volatile uint64_t *)operand, steps};
    *work.operand = 0;
    if (row->is_aligned) {
        work.operand[1] = 0;
    }
    smp_call_all(hammer, &work);
    if (work.bad) {
        FAIL("%s at 0x%lx: another processor came between", row->name, operand);
    }
    uint64_t expected = (uint64_t)(row->each * (int64_t)(steps * count)) & row->mask;
    if (*work.operand != expected) {
        FAIL("%s at 0x%lx: expected 0x%lx, actual 0x%lx", row->name, operand, expected,
             *work.operand);
    }
}

struct litmus {
    volatile uint64_t x __attribute__((aligned(64)));
    volatile uint64_t y __attribute__((aligned(64)));
    volatile uint32_t barrier __attribute__((aligned(64)));
    uint32_t rounds;
    volatile uint64_t seen[2];
    void (*role)(struct litmus *litmus, unsigned index, uint64_t round);
};

static void message_passing(struct litmus *litmus, unsigned index, uint64_t round)
{
    if (index == 0) {
        litmus->x = round;
        litmus->y = round;
    } else {
        uint64_t y = litmus->y, x = litmus->x;
        if (y == round && x != round) {
            FAIL("the second store was seen before the first, round %lu", round);
        }
    }
}

#define STORE_BUFFER(name, fence)                                           \
    static void name(struct litmus *litmus, unsigned index, uint64_t round) \
    {                                                                       \
        volatile uint64_t *mine = index ? &litmus->y : &litmus->x;          \
        volatile uint64_t *other = index ? &litmus->x : &litmus->y;         \
        uint64_t scratch = 0, value;                                        \
        __asm__ volatile("mov %3, %0\n" fence "\nmov %4, %1"                \
                         : "=m"(*mine), "=&r"(value), "+m"(scratch)         \
                         : "r"(round), "m"(*other)                          \
                         : "memory", "cc");                                 \
        litmus->seen[index] = value;                                        \
    }

STORE_BUFFER(store_mfence, "mfence")
STORE_BUFFER(store_lock, "lock addq $0, %2")

static void play(void *argument)
{
    struct litmus *litmus = argument;
    unsigned index = cpu_self()->index;
    if (index > 1) {
        return;
    }
    for (uint64_t round = 1; round <= litmus->rounds; round++) {
        smp_barrier(&litmus->barrier, 2);
        litmus->role(litmus, index, round);
        smp_barrier(&litmus->barrier, 2);
        if (litmus->role != message_passing && litmus->seen[0] != round &&
            litmus->seen[1] != round) {
            FAIL("both loads passed the stores before them, round %lu", round);
        }
    }
}

static void try_order(void)
{
    static struct litmus litmus;
    const struct {
        const char *name;
        void (*role)(struct litmus *, unsigned, uint64_t);
    } rows[] = {
        {"message passing", message_passing},
        {"store buffering with MFENCE", store_mfence},
        {"store buffering with LOCK", store_lock},
    };
    for (unsigned i = 0; i < COUNT_OF(rows); i++) {
        case_begin("order: %s", rows[i].name);
        litmus.x = litmus.y = 0;
        litmus.barrier = 0;
        litmus.rounds = 1000;
        litmus.role = rows[i].role;
        smp_call_all(play, &litmus);
    }
}

void guest_test(void)
{
    uint64_t first = (uint64_t)page_new(), second;

    page_new(); /* the two pages of the crossing operand are not neighbours in RAM */
    second = (uint64_t)page_new();
    page_map(BASE, first, PTE_P | PTE_W, 1);
    page_map(BASE + PAGE_SIZE, second, PTE_P | PTE_W, 1);
    count = smp_count();
    unsigned rounds = cpu_is_slow() ? 2000 : 100000;
    smp_start(true);
    for (unsigned i = 0; i < COUNT_OF(table); i++) {
        case_begin("%s, %u processors", table[i].name, count);
        try_lock(&table[i], BASE + 0x100, rounds);
        if (!table[i].is_aligned) {
            try_lock(&table[i], BASE + 0x13d, 200);
            for (unsigned offset = 1; offset < 8; offset += 2) {
                try_lock(&table[i], BASE + PAGE_SIZE - offset, 50);
            }
        }
    }
    if (count > 1) {
        try_order();
    }
}
