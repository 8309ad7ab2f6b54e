/*
 * A guest that does what no program should: the VM goes on, or ends as hardware would,
 * within the time the runner grants. What is checked is that control comes back.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "smp.h"
#include "trap.h"

#define BASE   0x10000000000ull
#define APIC   0xfee00000ull
#define NO_RAM 0x8000000000ull /* beyond every machine's memory */

static uint64_t seed = 0x9e3779b97f4a7c15;

/* xorshift64*: the same sequence in every run. */
static uint64_t random(void)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 0x2545f4914f6cdd1d;
}

static uint64_t call_address(uint64_t address)
{
    ((void (*)(void))address)();
    return 0;
}

/* Random bytes in ring 3, where nothing can be broken. A timer ends loops. */
static void try_garbage(void)
{
    uint8_t *page = page_new();
    unsigned ended = 0;
    struct user_start start = {
        .rip = BASE,
        .rsp = USER_STACK + 4096 - 16,
        .rflags = RFLAGS_FIXED | RFLAGS_IF,
        .cs = USER_CS64,
        .ss = USER_DS,
    };

    case_begin("garbage is executed in ring 3");
    page_map(BASE, (uint64_t)page, PTE_P | PTE_W | PTE_U, 1);
    apic_enable(true);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    for (unsigned round = 0; round < 4000; round++) {
        for (unsigned i = 0; i < 8; i++) {
            ((uint64_t *)page)[i] = random();
        }
        start.cs = round & 1 ? USER_CS64 : USER_CS32;
        apic_write(APIC_LVT_TIMER, 0x51);
        apic_write(APIC_TIMER_COUNT, 200000);
        user_run(&start);
        if (cpu_self()->trap.vector == 0x51) {
            apic_eoi();
        }
        apic_write(APIC_TIMER_COUNT, 0);
        apic_write(APIC_LVT_TIMER, LVT_MASKED);
        if (apic_bit(APIC_IRR, 0x51)) {
            trap_try((trap_function *)(uintptr_t)interrupts_window, 0);
            apic_eoi();
        }
        ended++;
    }
    ASSERT_EQ(ended, 4000);
    page_map(BASE, 0, 0, 1);
}

static uint64_t rdmsr_function(uint64_t index)
{
    msr_read((uint32_t)index);
    return 0;
}

static uint64_t wrmsr_function(uint64_t index)
{
    msr_write((uint32_t)index, random());
    return 0;
}

static void try_msrs(void)
{
    unsigned faults = 0;
    case_begin("MSRs that do not exist");
    for (uint32_t i = 0; i < 3000; i++) {
        uint32_t index = 0x10000 + (uint32_t)(random() & 0x3fffffff);
        faults += trap_try(rdmsr_function, index);
        faults += trap_try(wrmsr_function, index);
    }
    ASSERT_EQ(faults, 6000);
    for (uint32_t i = 0; i < 0x1000; i++) {
        trap_try(rdmsr_function, i);
        trap_try(rdmsr_function, 0xc0000000 + i);
    }
}

static void try_ports(void)
{
    case_begin("ports that do not exist");
    for (uint32_t port = 0x1000; port < 0x10000; port += 7) {
        ASSERT_EQ(port_read8((uint16_t)port), 0xff);
        port_write8((uint16_t)port, (uint8_t)random());
        ASSERT_EQ(port_read32((uint16_t)port), 0xffffffff);
        port_write32((uint16_t)port, (uint32_t)random());
    }
}

static void try_mmio(void)
{
    case_begin("code in device memory and in no memory at all ends in an exception");
    /* What is read there is not a program; what comes is up to the bytes. */
    page_map(BASE, NO_RAM, PTE_P | PTE_W, 1);
    ASSERT_EQ(*(volatile uint32_t *)(BASE + 8), 0xffffffff);
    *(volatile uint32_t *)(BASE + 8) = 1;
    ASSERT(trap_try(call_address, BASE));
    page_map(BASE, APIC, PTE_P | PTE_W, 1);
    for (unsigned i = 0; i < 20; i++) {
        ASSERT(trap_try(call_address, BASE + 0xff0));
        ASSERT(trap_try(call_address, BASE + 0xfff));
    }
    case_begin("operands that are part RAM, part device");
    page_map(BASE, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    page_map(BASE + PAGE_SIZE, NO_RAM, PTE_P | PTE_W, 1);
    volatile uint64_t *operand = (volatile uint64_t *)(BASE + PAGE_SIZE - 3);
    *operand = 0x1122334455667788;
    ASSERT_EQ(*operand, 0xffffffffff667788);
    __atomic_fetch_add(operand, 1, __ATOMIC_SEQ_CST);
    ASSERT_EQ(*operand, 0xffffffffff667789);
    uint64_t count = 5000;
    void *to = (void *)(BASE + 0x800);
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(1) : "memory");
}

static uint64_t interrupt(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("int $0x90");
    return 0;
}

static uint64_t load_ds(uint64_t selector)
{
    __asm__ volatile("mov %0, %%ds" : : "r"(selector));
    return 0;
}

/* The tables are put where there is no RAM for one selector or one vector, with the rest
 * in place, so that the fault can be taken. */
static void try_tables(void)
{
    struct descriptor_pointer idtr = {sizeof(idt) - 1, (uint64_t)idt}, saved = idtr;

    case_begin("an IDT whose upper part is not memory");
    uint64_t copy = (uint64_t)page_new() + PAGE_SIZE - 0x90 * 16;
    page_map(BASE, copy & ~(PAGE_SIZE - 1), PTE_P | PTE_W, 1);
    memcpy((void *)copy, idt, 0x90 * 16);
    idtr.base = BASE + PAGE_SIZE - 0x90 * 16;
    const uint64_t behind[] = {NO_RAM, APIC};
    for (unsigned i = 0; i < COUNT_OF(behind); i++) {
        page_map(BASE + PAGE_SIZE, behind[i], PTE_P | PTE_W, 1);
        __asm__ volatile("lidt %0" : : "m"(idtr));
        ASSERT(trap_try(interrupt, 0)); /* a gate of ones or of registers is none */
        __asm__ volatile("lidt %0" : : "m"(saved));
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    }
    case_begin("a descriptor that is not memory");
    struct descriptor_pointer gdtr = {0xffff, (uint64_t)page_new()}, old;
    __asm__ volatile("sgdt %0" : "=m"(old));
    memcpy((void *)gdtr.base, gdt, old.limit + 1u);
    page_map(BASE, gdtr.base, PTE_P | PTE_W, 1);
    page_map(BASE + PAGE_SIZE, NO_RAM, PTE_P | PTE_W, 1);
    page_map(BASE + 2 * PAGE_SIZE, 0, 0, 1);
    gdtr.base = BASE;
    __asm__ volatile("lgdt %0" : : "m"(gdtr));
    ASSERT(!trap_try(load_ds, 0x1008)); /* ones describe conforming code */
    load_ds(KERNEL_DS);
    ASSERT(trap_try(load_ds, 0x2008));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_PF);
    ASSERT_EQ(cpu_self()->trap_cr2, BASE + 0x2008);
    __asm__ volatile("lgdt %0" : : "m"(old));

    case_begin("page tables in no memory, in device memory, and in themselves");
    uint64_t *table = page_new();
    table[0] = (uint64_t)table | PTE_P | PTE_W;
    const uint64_t roots[] = {NO_RAM, APIC, (uint64_t)table};
    for (unsigned i = 0; i < COUNT_OF(roots); i++) {
        for (unsigned level = 4; level > 1; level--) {
            uint64_t address = (1ull << 45) + (i * 3ull + level) * (1ull << 39);
            *page_entry(kernel_pml4, address, level) = roots[i] | PTE_P | PTE_W;
            trap_try((trap_function *)(uintptr_t)call_address, address + 0x123456000);
            trap_try((trap_function *)(uintptr_t)call_address, address);
            *page_entry(kernel_pml4, address, level) = 0;
            cr3_reload();
        }
    }
}

static void on_absurd(struct trap_frame *frame)
{
    (void)frame;
    apic_eoi();
}

static void try_timers(void)
{
    case_begin("timers with absurd values");
    apic_enable(true);
    trap_set_handler(0x51, on_absurd);
    for (unsigned i = 0; i < 300; i++) {
        pit_set(i % 6, (uint16_t)random());
        apic_write(APIC_TIMER_DIVIDE, (uint32_t)random() & 0xb);
        apic_write(APIC_LVT_TIMER, 0x51 | (i % 3) << 17);
        apic_write(APIC_TIMER_COUNT, i % 3 == 1 ? 1 : (uint32_t)random());
        if (i % 3 == 2) {
            msr_write(MSR_DEADLINE, i & 1 ? random() : 1);
        }
        interrupts_window();
        port_write8(0x70, 0x0a);
        port_write8(0x71, (uint8_t)random());
        port_write8(0x70, 0x0b);
        port_write8(0x71, (uint8_t)(random() & 0x8f));
    }
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    apic_write(APIC_TIMER_COUNT, 0);
    interrupts_window();
    trap_set_handler(0x51, NULL);
}

static uint64_t fuzz_apic(uint64_t offset)
{
    uint64_t value = random();
    apic_read((uint32_t)offset);
    if (offset == APIC_ICR) {
        value = (value & ~0x700ull) | ICR_TO_SELF; /* no processor is restarted */
    }
    apic_write((uint32_t)offset, (uint32_t)value);
    return 0;
}

static void try_apic(void)
{
    case_begin("APIC registers with random values");
    for (unsigned mode = 0; mode < 2; mode++) {
        apic_enable(mode);
        for (unsigned i = 0; i < 5000; i++) {
            trap_try(fuzz_apic, (random() & 0x3f) * 16);
        }
        if (!mode) {
            for (unsigned i = 0; i < 2000; i++) {
                uint64_t offset = 0x400 + (random() & 0xbf8);
                *(volatile uint64_t *)(APIC + offset) = random();
                *(volatile uint8_t *)(APIC + offset + 1);
            }
        }
    }
    msr_write(MSR_APIC_BASE, msr_read(MSR_APIC_BASE) & ~0xc00ull);
    case_begin("I/O APIC registers with random values");
    for (unsigned i = 0; i < 5000; i++) {
        ioapic_write((uint32_t)random() & 0x3f, (uint32_t)random() | IOAPIC_MASKED);
        ioapic_read((uint32_t)random());
    }
}

void guest_test(void)
{
    try_garbage();
    try_msrs();
    try_ports();
    try_mmio();
    try_tables();
    try_timers();
    try_apic();
}
