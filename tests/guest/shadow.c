/*
 * PAM registers of the machine `pc` (Intel 440FX data sheet 290549, 3.2.18): whether
 * reads and writes of a range below 1M reach RAM or what is behind the bus, which is
 * nothing here: ones, and writes are lost.
 */
#include "smp.h"

#include "cpu.h"
#include "guest.h"
#include "place.h"

#define PAM0      0x59
#define RANGE     0xc8000ull /* the lower half of PAM2 */
#define RANGE_PAM (PAM0 + 2)
#define NOTHING   0
#define READ      1
#define WRITE     2

static void pam_write(uint8_t offset, uint8_t value)
{
    port_write32(0xcf8, 0x80000000 | (offset & 0xfc));
    port_write8((uint16_t)(0xcfc + offset % 4), value);
}

static uint8_t pam_read(uint8_t offset)
{
    port_write32(0xcf8, 0x80000000 | (offset & 0xfc));
    return port_read8((uint16_t)(0xcfc + offset % 4));
}

static void set(uint8_t attributes)
{
    pam_write(RANGE_PAM, attributes);
}

static void try_attributes(void)
{
    set(NOTHING);
    ASSERT_EQ(place_get(RANGE), UINT64_MAX);
    place_put(RANGE, 1);
    set(READ);
    ASSERT_EQ(place_get(RANGE), 0);
    place_put(RANGE, 1);
    ASSERT_EQ(place_get(RANGE), 0);
    set(READ | WRITE);
    place_put(RANGE, 2);
    ASSERT_EQ(place_get(RANGE), 2);
    set(WRITE);
    ASSERT_EQ(place_get(RANGE), UINT64_MAX);
    place_put(RANGE, 3);
    place_put(RANGE + 0xffd, 0x1122334455667788); /* across a page */
    ASSERT_EQ(place_get(RANGE), UINT64_MAX);
    set(READ);
    ASSERT_EQ(place_get(RANGE), 3);
    ASSERT_EQ(place_get(RANGE + 0xffd), 0x1122334455667788);
    set(NOTHING);
    ASSERT_EQ(place_get(RANGE), UINT64_MAX);
    set(READ | WRITE);
    ASSERT_EQ(place_get(RANGE), 3);
}

/* What is read is not what is written. */
static void try_modification(void)
{
    set(READ | WRITE);
    place_put(RANGE, 5);
    set(WRITE);
    __asm__ volatile("lock addq %1, %0"
                     : "+m"(*(volatile uint64_t *)RANGE)
                     : "r"(11ull)
                     : "memory", "cc");
    set(READ | WRITE);
    ASSERT_EQ(place_get(RANGE), 10);
}

/* Each range by its own bits, and by no other's. */
static void try_ranges(void)
{
    for (unsigned range = 0; range < 8; range++) {
        uint8_t offset = (uint8_t)(PAM0 + 1 + range / 2);
        uint64_t base = 0xc0000 + range * 0x4000ull;
        pam_write(offset, (uint8_t)((READ | WRITE) << range % 2 * 4));
        for (unsigned i = 0; i < 8; i++) {
            ASSERT_EQ(place_get(0xc0000 + i * 0x4000ull) == UINT64_MAX, i != range);
        }
        place_put(base + 0x3ff8, range);
        ASSERT_EQ(place_get(base + 0x3ff8), range);
        pam_write(offset, 0);
    }
    ASSERT_EQ(pam_read(PAM0), 0x30); /* the BIOS area is RAM without firmware */
    ASSERT_EQ(pam_read(PAM0 + 5), 0x33);
    ASSERT_EQ(pam_read(PAM0 + 6), 0x33);
    uint64_t rsdp = place_get(0xe0000), top = place_get(0xffff0);
    pam_write(PAM0 + 5, 0x30);
    ASSERT_EQ(place_get(0xe0000), UINT64_MAX);
    pam_write(PAM0 + 5, 0x33);
    pam_write(PAM0, 0);
    ASSERT_EQ(place_get(0xffff0), UINT64_MAX);
    pam_write(PAM0, 0x30);
    ASSERT_EQ(place_get(0xe0000), rsdp);
    ASSERT_EQ(place_get(0xffff0), top);
}

/* Stores that do not reach code do not change it. */
static void try_code(void)
{
    set(READ | WRITE);
    place_put_code(RANGE, 1);
    for (uint32_t i = 1; i < 20; i++) {
        ASSERT_EQ(place_run(RANGE), i);
        set(READ);
        place_put_code(RANGE, 100);
        ASSERT_EQ(place_run(RANGE), i);
        set(WRITE);
        place_put_code(RANGE, i + 1);
        set(READ);
        ASSERT_EQ(place_run(RANGE), i + 1);
        set(READ | WRITE);
    }
}

static volatile uint32_t round, answers, wrong;

/* Sees the attributes of a round as soon as it sees the round. */
static void watch(void *argument)
{
    uint32_t rounds = *(uint32_t *)argument;
    for (uint32_t i = 1; i <= rounds; i++) {
        do {
            place_get(RANGE); /* cached, as it is */
        } while (round != i);
        if (place_get(RANGE) != (i % 2 ? UINT64_MAX : i)) {
            wrong++;
        }
        __atomic_fetch_add(&answers, 1, __ATOMIC_SEQ_CST);
    }
}

static void try_others(unsigned count)
{
    uint32_t rounds = 20;
    for (unsigned i = 1; i < count; i++) {
        smp_call(i, watch, &rounds);
    }
    for (uint32_t i = 1; i <= rounds; i++) {
        answers = 0;
        place_put(RANGE, i);
        set(i % 2 ? WRITE : READ | WRITE);
        round = i;
        while (answers < count - 1) {
            pause();
        }
    }
    for (unsigned i = 1; i < count; i++) {
        smp_wait(i);
    }
    ASSERT_EQ(wrong, 0);
}

void guest_test(void)
{
    unsigned count = smp_count();

    case_begin("reads and writes, apart");
    try_attributes();
    case_begin("a modification reads here and writes there");
    try_modification();
    set(NOTHING);
    case_begin("all ranges");
    try_ranges();
    case_begin("code");
    try_code();
    if (count > 1) {
        smp_start(false);
        case_begin("all processors, at once");
        try_others(count);
    }
}
