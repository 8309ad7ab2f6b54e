/*
 * Leaves guest code in each of the ways that exits are counted by, as often as the
 * command line says; tests/system/test_exits.py compares what was counted. VMCALL is a
 * hypercall that nobody knows.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define VECTOR 0x41

static volatile uint32_t taken;

static void on_interrupt(struct trap_frame *frame)
{
    (void)frame;
    taken++;
    apic_eoi();
}

static uint64_t undefined(uint64_t unused)
{
    (void)unused;
    __asm__ volatile("ud2");
    return 0;
}

static uint64_t hypercall(uint64_t number)
{
    __asm__ volatile("vmcall" : "+a"(number) : : "memory");
    return number;
}

/* It waits for interrupts to be enabled. */
static void interrupt(void)
{
    uint32_t before = taken;
    apic_send(ICR_TO_SELF | ICR_ASSERT | VECTOR, 0);
    interrupts_enable();
    while (taken == before) {
        pause();
    }
    interrupts_disable();
}

static void halt(void)
{
    uint32_t before = taken;
    apic_send(ICR_TO_SELF | ICR_ASSERT | VECTOR, 0);
    while (taken == before) {
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
}

static void leave(void)
{
    port_write8(0x80, 1);
    ioapic_read(1);
    trap_try(undefined, 0);
    interrupt();
    /* There are KVMs that never end a hypercall, and deliver interrupts between STI and
     * HLT. */
    if (!guest_option("plain")) {
        hypercall(4711);
        halt();
    }
    cpuid(0, 0);
    tsc_read();
    cr3_reload();
    dr7_write(0x400);
    msr_write(MSR_TSC_ADJUST, msr_read(MSR_TSC_ADJUST));
    pause();
    invlpg(0x1000);
}

void guest_test(void)
{
    uint64_t count = guest_number(10);
    apic_enable(true);
    trap_set_handler(VECTOR, on_interrupt);
    case_begin("all ways out");
    for (uint64_t i = 0; i < count; i++) {
        leave();
    }
    ASSERT_EQ(taken, guest_option("plain") ? count : 2 * count);
}
