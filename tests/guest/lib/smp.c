#include "smp.h"

#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

extern char trampoline_start[], trampoline_end[];
static bool want_x2apic;

unsigned smp_count(void)
{
    return cpuid(0xb, 1).ebx & 0xffff;
}

static void wake_handler(struct trap_frame *frame)
{
    (void)frame;
    apic_eoi();
}

void ap_main(uint32_t index)
{
    trap_setup(index);
    apic_enable(want_x2apic);
    struct cpu *cpu = &cpus[index];
    cpu->call = NULL;
    __atomic_fetch_add(&cpu->alive, 1, __ATOMIC_SEQ_CST);
    while (true) {
        interrupts_disable();
        void (*function)(void *) = (void (*)(void *))cpu->call;
        if (function) {
            function(cpu->call_argument);
            __atomic_store_n(&cpu->call, NULL, __ATOMIC_RELEASE);
        } else {
            __asm__ volatile("sti; hlt" : : : "memory");
        }
    }
}

static void start(unsigned index)
{
    uint32_t before = cpus[index].alive;
    apic_send(ICR_INIT | ICR_ASSERT | ICR_LEVEL, index);
    apic_send(ICR_INIT | ICR_LEVEL, index);
    apic_send(ICR_STARTUP | ICR_ASSERT | TRAMPOLINE >> 12, index);
    while (cpus[index].alive == before) {
        pause();
    }
}

void smp_start(bool x2apic)
{
    want_x2apic = x2apic;
    trap_set_handler(VECTOR_WAKE, wake_handler);
    memcpy((void *)TRAMPOLINE, trampoline_start,
           (size_t)(trampoline_end - trampoline_start));
    apic_enable(x2apic);
    for (unsigned i = 1; i < smp_count(); i++) {
        start(i);
    }
}

void smp_restart(unsigned index)
{
    start(index);
}

void smp_call(unsigned index, void (*function)(void *), void *argument)
{
    smp_wait(index);
    cpus[index].call_argument = argument;
    __atomic_store_n(&cpus[index].call, (void *)function, __ATOMIC_SEQ_CST);
    apic_send(ICR_ASSERT | VECTOR_WAKE, index);
}

void smp_wait(unsigned index)
{
    while (__atomic_load_n(&cpus[index].call, __ATOMIC_ACQUIRE)) {
        pause();
    }
}

void smp_call_all(void (*function)(void *), void *argument)
{
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_call(i, function, argument);
    }
    function(argument);
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_wait(i);
    }
}

void smp_barrier(volatile uint32_t *barrier, unsigned count)
{
    uint32_t round = __atomic_fetch_add(barrier, 1, __ATOMIC_SEQ_CST) / count;
    while (*barrier < (round + 1) * count) {
        pause();
    }
}
