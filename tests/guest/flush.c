/*
 * TLBs of processors that do not run, left to the host
 * (Documentation/virt/kvm/x86/msr.rst: the steal time's `preempted`): what was left to it
 * is flushed before the processor executes anything.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "smp.h"
#include "trap.h"

#define BASE           0x10000000000ull
#define WAKE           0x41
#define MSR_STEAL      0x4b564d03u
#define FEATURES       (1u << 5 | 1u << 9) /* steal time, flushes */
#define PREEMPTED      1u
#define FLUSH          2u
#define ROUNDS         50u
#define PATIENCE_TICKS (PM_TIMER_RATE / 50)

struct steal_page {
    uint64_t steal;
    uint32_t version, flags;
    volatile uint8_t preempted;
    uint8_t padding[47];
} __attribute__((aligned(64)));

static struct steal_page steal_pages[CPU_MAX];
static uint64_t *old_page, *new_page; /* say 1 and 2 */
static volatile uint64_t read_value;
static volatile bool is_over;
static volatile uint32_t wakes;

static void on_wake_up(struct trap_frame *frame)
{
    (void)frame;
    read_value = *(volatile uint64_t *)BASE;
    ASSERT_EQ(steal_pages[cpu_self()->index].preempted, 0);
    apic_eoi();
    __atomic_fetch_add(&wakes, 1, __ATOMIC_RELEASE);
}

/* Halts between interrupts, and never forgets a translation by itself. */
static void sleep_and_read(void *unused)
{
    (void)unused;
    read_value = *(volatile uint64_t *)BASE;
    msr_write(MSR_STEAL, (uint64_t)&steal_pages[cpu_self()->index] | 1);
    while (!is_over) {
        __asm__ volatile("sti; hlt; cli" : : : "memory");
    }
    msr_write(MSR_STEAL, 0);
    ASSERT_EQ(steal_pages[cpu_self()->index].preempted, 0);
}

static void wake(unsigned index)
{
    uint32_t before = __atomic_load_n(&wakes, __ATOMIC_ACQUIRE);
    apic_send(ICR_ASSERT | WAKE, index);
    while (__atomic_load_n(&wakes, __ATOMIC_ACQUIRE) == before) {
        pause();
    }
}

/* As kernels do it. False: it may run, and is to be interrupted. */
static bool leave_to_host(unsigned index)
{
    volatile uint8_t *preempted = &steal_pages[index].preempted;
    uint8_t expected = PREEMPTED;
    uint32_t start = port_read32(PM_TIMER_PORT);
    while (!(*preempted & PREEMPTED)) {
        if (port_read32(PM_TIMER_PORT) - start > PATIENCE_TICKS) {
            return false;
        }
        pause();
    }
    return __atomic_compare_exchange_n(preempted, &expected, PREEMPTED | FLUSH, false,
                                       __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

static void try_flush(unsigned index, uint64_t flags)
{
    case_begin("processor %u finds its TLB flushed%s", index,
               flags & PTE_G ? ", of global pages, too" : "");
    unsigned left = 0;
    is_over = false;
    cr4_write(cr4_read() | CR4_PGE);
    page_map(BASE, (uint64_t)old_page, PTE_P | PTE_W | flags, 1);
    smp_call(index, sleep_and_read, NULL);
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t *page = i % 2 ? old_page : new_page;
        wake(index); /* caches the translation as it is */
        page_map(BASE, (uint64_t)page, PTE_P | PTE_W | flags, 1);
        if (leave_to_host(index)) {
            left++;
            wake(index);
            ASSERT_EQ(read_value, *page);
        } else {
            page_map(BASE, (uint64_t)(i % 2 ? new_page : old_page), PTE_P | PTE_W | flags,
                     1);
        }
    }
    is_over = true;
    wake(index);
    smp_wait(index);
    print("# left to the host %u of %u times\n", left, ROUNDS);
    if (left == 0 && guest_option("may-lack")) {
        /* Linux 5.19 and later: only one whose thread was taken off its processor. */
        case_skip("this KVM does not say that a halted processor does not run");
        return;
    }
    ASSERT(left > 0);
}

static void enable_global(void *unused)
{
    (void)unused;
    cr4_write(cr4_read() | CR4_PGE);
}

void guest_test(void)
{
    bool is_offered = (cpuid(0x40000001, 0).eax & FEATURES) == FEATURES;
    if (!is_offered && guest_option("may-lack")) {
        guest_skip("this KVM does not have the service");
    }
    apic_enable(true);
    smp_start(true);
    case_begin("the service is offered");
    ASSERT(is_offered);
    old_page = page_new();
    new_page = page_new();
    *old_page = 1;
    *new_page = 2;
    trap_set_handler(WAKE, on_wake_up);
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_call(i, enable_global, NULL);
        smp_wait(i);
        try_flush(i, 0);
        try_flush(i, PTE_G);
    }
}
