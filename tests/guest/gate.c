/*
 * The A20 gate: closed, it makes the second megabyte show the first, for data, code and
 * page tables of every processor, at once; neither INIT nor anything but its own ports
 * moves it. All that this program needs lies in even megabytes.
 */
#include "smp.h"

#include "cpu.h"
#include "guest.h"
#include "place.h"
#include "page.h"

#define LOW      0x60000ull /* RAM that nothing uses, and what it shows at */
#define HIGH     (LOW + 0x100000)
#define MAPPED   0x10000000000ull

#define PORT_A   0x92
#define KBC_DATA 0x60
#define KBC      0x64

static void port_a(bool is_open)
{
    port_write8(PORT_A, is_open ? 2 : 0);
}

static void controller(bool is_open)
{
    port_write8(KBC, 0xd1); /* write the output port */
    port_write8(KBC_DATA, is_open ? 0xdf : 0xdd);
}

static void controller_direct(bool is_open)
{
    port_write8(KBC, is_open ? 0xdf : 0xdd);
}

static void try_data(void (*gate)(bool))
{
    gate(true);
    place_put(LOW, 1);
    place_put(HIGH, 2);
    ASSERT_EQ(place_get(LOW), 1);
    gate(false);
    ASSERT_EQ(place_get(HIGH), 1);
    place_put(HIGH, 3);
    ASSERT_EQ(place_get(LOW), 3);
    uint64_t old = 4;
    __asm__ volatile("lock xaddq %0, %1"
                     : "+r"(old), "+m"(*(volatile uint64_t *)HIGH)
                     :
                     : "memory");
    ASSERT_EQ(old, 3);
    ASSERT_EQ(place_get(LOW), 7);
    gate(true);
    ASSERT_EQ(place_get(HIGH), 2);
    ASSERT_EQ(place_get(LOW), 7);
    /* Often: nothing of the states before is left. */
    for (unsigned i = 0; i < 20; i++) {
        gate(false);
        ASSERT_EQ(place_get(HIGH), 7);
        gate(true);
        ASSERT_EQ(place_get(HIGH), 2);
    }
}

static void try_ports(void)
{
    port_a(false);
    ASSERT_EQ(port_read8(PORT_A) & 2, 0);
    port_write8(KBC, 0xd0); /* read the output port */
    ASSERT_EQ(port_read8(KBC_DATA) & 2, 0);
    controller(true);
    ASSERT_EQ(port_read8(PORT_A) & 2, 2);
}

static void try_code(void)
{
    place_put_code(LOW, 1);
    place_put_code(HIGH, 2);
    for (unsigned i = 0; i < 20; i++) {
        ASSERT_EQ(place_run(HIGH), 2);
        port_a(false);
        ASSERT_EQ(place_run(HIGH), 1);
        port_a(true);
    }
    port_a(false);
    place_put_code(HIGH, 3);
    ASSERT_EQ(place_run(LOW), 3);
    port_a(true);
    ASSERT_EQ(place_run(HIGH), 2);
}

/* A page table in the second megabyte. */
static void try_tables(void)
{
    uint64_t *pages = page_new_run(2 * PAGE_SIZE);
    pages[0] = 1;
    pages[512] = 2;
    place_put(LOW, (uint64_t)pages | PTE_P);
    place_put(HIGH, (uint64_t)(pages + 512) | PTE_P);
    *page_entry(kernel_pml4, MAPPED, 2) = HIGH | PTE_P | PTE_W;
    ASSERT_EQ(place_get(MAPPED), 2);
    port_a(false);
    cr3_reload();
    ASSERT_EQ(place_get(MAPPED), 1);
    port_a(true);
    cr3_reload();
    ASSERT_EQ(place_get(MAPPED), 2);
}

static volatile uint32_t round, answers, wrong;

/* Sees the gate of a round as soon as it sees the round. */
static void watch(void *argument)
{
    uint32_t rounds = *(uint32_t *)argument;
    for (uint32_t i = 1; i <= rounds; i++) {
        do {
            place_get(HIGH); /* cached, as it is */
            place_run(HIGH + 64);
        } while (round != i);
        bool is_open = i % 2 == 0;
        if (place_get(HIGH) != (is_open ? 2 : 1) ||
            place_run(HIGH + 64) != (is_open ? 2 : 1)) {
            wrong++;
        }
        __atomic_fetch_add(&answers, 1, __ATOMIC_SEQ_CST);
    }
}

static void try_others(unsigned count)
{
    uint32_t rounds = 20;
    place_put(LOW, 1);
    place_put(HIGH, 2);
    place_put_code(LOW + 64, 1);
    place_put_code(HIGH + 64, 2);
    for (unsigned i = 1; i < count; i++) {
        smp_call(i, watch, &rounds);
    }
    for (uint32_t i = 1; i <= rounds; i++) {
        answers = 0;
        port_a(i % 2 == 0);
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

static void look(void *seen)
{
    *(uint64_t *)seen = place_get(HIGH);
}

static void try_init(void)
{
    place_put(LOW, 1);
    place_put(HIGH, 2);
    port_a(false);
    smp_restart(1);
    uint64_t seen = 0;
    smp_call(1, look, &seen);
    smp_wait(1);
    ASSERT_EQ(seen, 1);
    ASSERT_EQ(place_get(HIGH), 1);
    port_a(true);
}

void guest_test(void)
{
    unsigned count = smp_count();

    while ((uint64_t)page_new() & 0x100000) {
        /* the rest of an odd megabyte */
    }
    case_begin("it is open at first");
    ASSERT_EQ(port_read8(PORT_A) & 2, 2);
    case_begin("data, by port 92h");
    try_data(port_a);
    case_begin("data, by the keyboard controller's output port");
    try_data(controller);
    case_begin("data, by the keyboard controller's commands");
    try_data(controller_direct);
    case_begin("the ports show it");
    try_ports();
    case_begin("code");
    try_code();
    case_begin("page tables");
    try_tables();
    if (count > 1) {
        smp_start(false);
        case_begin("all processors, at once");
        try_others(count);
        case_begin("INIT leaves it");
        try_init();
    }
}
