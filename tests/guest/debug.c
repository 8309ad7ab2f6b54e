/* Something for a debugger to look at: tests/system/test_gdb.py knows these names. Run
 * alone, it checks that nobody changed anything. */
#include "layout.h"
#include "cpu.h"
#include "guest.h"
#include "smp.h"

#define ROUNDS 20

volatile int64_t rounds; /* signed, so that a debugger can make it last */
volatile uint64_t watched, patched = 1;
volatile uint64_t others[CPU_MAX];

uint64_t square(uint64_t value);
void round_done(uint64_t number);

__attribute__((noinline)) uint64_t square(uint64_t value)
{
    __asm__ volatile("" : : : "memory");
    return value * value;
}

__attribute__((noinline)) void round_done(uint64_t number)
{
    __asm__ volatile("" : : "r"(number) : "memory");
}

static void count(void *argument)
{
    others[(uintptr_t)argument]++;
}

static void try_rounds(void)
{
    unsigned cpus = smp_count();
    for (rounds = 0; rounds < ROUNDS; rounds++) {
        for (unsigned i = 1; i < cpus; i++) {
            smp_call(i, count, (void *)(uintptr_t)i);
            smp_wait(i);
        }
        if (rounds % 4 == 3) {
            watched = square(rounds);
        }
        round_done(rounds);
    }
    ASSERT_EQ(patched, 1);
    for (unsigned i = 1; i < cpus; i++) {
        ASSERT_EQ(others[i], ROUNDS);
    }
}

void guest_test(void)
{
    smp_start(true);
    /* For a debugger that interrupts it: with the word on the command line, for ever. */
    while (guest_option("wait")) {
        pause();
    }
    case_begin("rounds");
    try_rounds();
}
