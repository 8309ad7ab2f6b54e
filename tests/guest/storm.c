/*
 * Random code of kernels and their programs: control and debug registers, MSRs, selectors
 * of random descriptors, far transfers, ways between the levels and between 64- and
 * 32-bit code, page-table entries, keys, I/O permissions, traps and interrupts in
 * between. Nothing of it is known to be right: everything that shows of it goes into a
 * sum in memory, and `doppel compare` runs the program on two engines (docs/fidelity.md).
 *
 * The command line is the seed, a number.
 */
#include "storm.h"

#include "apic.h"
#include "cpu.h"
#include "page.h"
#include "trap.h"

#define CASES       300
#define ROUNDS      3 /* of each case, so that its code is translated */
#define TRAPS_MAX   40
#define VECTOR_TICK 0x51

uint64_t storm_table[SLOTS] __attribute__((aligned(16)));
struct storm_base storm_base;
static uint64_t sum;
static uint8_t *code; /* by its frame */
static uint64_t frames[PAGES];
static uint64_t local_table[8] __attribute__((aligned(16)));
static unsigned traps;
static uint32_t ends[256]; /* cases, by the vector that ended them */
uint64_t storm_registers[16];

__asm__(".text\n"
        ".globl storm_enter\n"
        "storm_enter:\n"
        "mov $storm_registers, %rdi\n"
        "mov 0(%rdi), %rax; mov 8(%rdi), %rcx; mov 16(%rdi), %rdx; mov 24(%rdi), %rbx\n"
        "mov 40(%rdi), %rbp; mov 48(%rdi), %rsi; mov 64(%rdi), %r8; mov 72(%rdi), %r9\n"
        "mov 80(%rdi), %r10; mov 88(%rdi), %r11; mov 96(%rdi), %r12\n"
        "mov 104(%rdi), %r13; mov 112(%rdi), %r14; mov 120(%rdi), %r15\n"
        "mov 32(%rdi), %rsp; mov 56(%rdi), %rdi\n"
        "jmp *storm_start(%rip)\n"
        ".previous");
uint64_t storm_enter(uint64_t unused);
uint64_t storm_start;

static void note(uint64_t value)
{
    sum = (sum ^ value) * 0x100000001b3ull;
    sum ^= sum >> 29;
}

static uint64_t descriptor(void)
{
    uint64_t access = 0x80 | (storm_next() & 0x7f);
    uint64_t attributes = PICK(((const uint64_t[]){0xc, 0xa, 0xa, 0x8, 0x0, 0x4}));
    uint64_t limit = storm_pick(4) ? 0xfffff : storm_pick(0x100000);
    access &= storm_pick(8) ? 0xff : 0x7f;
    if ((access & 0x1f) == 9) {
        access |= 2; /* a TSS that could be loaded is not to be */
    }
    if (!storm_pick(3)) { /* a call gate of 64 bits, to the last pad */
        return (storm_pad_address(PADS - 1, false) & 0xffff) | (uint64_t)KERNEL_CS << 16 |
               (0x8c | (access & 0x60)) << 40 | (AREA >> 16) << 48;
    }
    return (limit & 0xffff) | access << 40 | (limit >> 16) << 48 | attributes << 52 |
           (storm_pick(6) ? 0 : AREA >> 24 << 56);
}

static void make_tables(void)
{
    memcpy(storm_table, gdt, TSS_BASE + 16);
    for (unsigned i = FIRST_RANDOM; i < LDT_SLOT; i++) {
        storm_table[i] = i % 2 && storm_pick(2) ? 0 : descriptor();
    }
    uint64_t base = (uint64_t)local_table;
    storm_table[LDT_SLOT] = (sizeof(local_table) - 1) | (base & 0xffffff) << 16 |
                            0x82ull << 40 | (base >> 24 & 0xff) << 56;
    storm_table[LDT_SLOT + 1] = base >> 32;
    for (unsigned i = 0; i < COUNT_OF(local_table); i++) {
        local_table[i] = descriptor();
    }
}

static void map_pages(void)
{
    static const uint64_t rights[PAGES] = {PTE_W,
                                           PTE_W,
                                           PTE_W | PTE_U,
                                           PTE_W | PTE_U,
                                           PTE_W | PTE_NX,
                                           PTE_W | PTE_U,
                                           0,
                                           PTE_U,
                                           ~0ull,
                                           PTE_W | PTE_U | PTE_NX | 1ull << 59,
                                           PTE_W | PTE_U,
                                           PTE_W | PTE_G,
                                           PTE_W | PTE_U | PTE_A | PTE_D,
                                           1ull << 51};
    for (unsigned i = 0; i < PAGES; i++) {
        uint64_t entry = rights[i] == ~0ull ? 0 : frames[i] | rights[i] | PTE_P;
        *page_entry(kernel_pml4, AREA + i * PAGE_SIZE, 1) = entry;
        invlpg(AREA + i * PAGE_SIZE);
    }
}

static void load_table(void)
{
    struct descriptor_pointer gdtr = {sizeof(storm_table) - 1, (uint64_t)storm_table};
    struct descriptor_pointer idtr = {256 * sizeof(idt[0]) - 1, (uint64_t)idt};
    __asm__ volatile("lgdt %0; lidt %1; mov %2, %%ds; mov %2, %%es; mov %2, %%ss\n"
                     "mov %3, %%fs; mov %3, %%gs; lldt %w3"
                     :
                     : "m"(gdtr), "m"(idtr), "r"(KERNEL_DS), "r"(0)
                     : "memory");
}

/* Everything that a case may have changed. */
static void restore(void)
{
    dr7_write(0x400); /* with DR7.GD a #DB first */
    dr6_write(0xffff0ff0);
    cr0_write(storm_base.cr0);
    cr4_write(storm_base.cr4 & ~CR4_PGE);
    cr4_write(storm_base.cr4);
    cr3_write(storm_base.cr3);
    cr8_write(0);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0));
    msr_write(MSR_EFER, storm_base.efer);
    load_table();
    msr_write(MSR_FS_BASE, 0);
    msr_write(MSR_GS_BASE, 0);
    msr_write(MSR_KERNEL_GS, 0);
    msr_write(0x1d9, 0);
    msr_write(MSR_STAR, (uint64_t)USER_CS32 << 48 | (uint64_t)KERNEL_CS << 32);
    msr_write(MSR_LSTAR, storm_pad_address(PADS - 1, false));
    msr_write(MSR_CSTAR, storm_pad_address(PADS - 1, false));
    msr_write(MSR_FMASK, RFLAGS_TF);
    msr_write(MSR_SYSENTER_CS, KERNEL_CS);
    msr_write(MSR_SYSENTER_SP, AREA + DATA_PAGE * PAGE_SIZE + 0x800);
    msr_write(MSR_SYSENTER_IP, storm_pad_address(PADS - 1, false));
    flags_write(RFLAGS_FIXED);
    map_pages();
}

static void note_registers(const struct trap_frame *frame)
{
    const uint64_t *word = (const uint64_t *)frame;
    for (unsigned i = 0; i < sizeof(*frame) / 8; i++) {
        note(word[i]);
    }
}

static void note_system(void)
{
    uint64_t selectors[4];
    __asm__ volatile("mov %%ds, %0; mov %%es, %1; mov %%fs, %2; mov %%gs, %3"
                     : "=r"(selectors[0]), "=r"(selectors[1]), "=r"(selectors[2]),
                       "=r"(selectors[3]));
    for (unsigned i = 0; i < 4; i++) {
        note(selectors[i]);
    }
    note(cr0_read());
    note(cr3_read());
    note(cr4_read());
    note(cr8_read());
    note(msr_read(MSR_FS_BASE));
    note(msr_read(MSR_GS_BASE));
    note(msr_read(MSR_KERNEL_GS));
    note(msr_read(MSR_EFER));
    note(cpu_self()->trap_cr2);
    for (unsigned i = 0; i < PAGES; i++) {
        note(*page_entry(kernel_pml4, AREA + i * PAGE_SIZE, 1));
    }
}

static void leave(struct trap_frame *frame)
{
    cpu_self()->trap = *frame;
    frame->rip = (uint64_t)trap_resume;
    frame->cs = KERNEL_CS;
    frame->rflags = RFLAGS_FIXED;
    frame->rsp = cpu_self()->catch;
    frame->ss = KERNEL_DS;
}

/* Traps go on, for a while; in the program's own code without the case's breakpoints. */
static void on_debug(struct trap_frame *frame)
{
    note_registers(frame);
    note(dr6_read());
    if (frame->rip < AREA) {
        dr7_write(0x400);
    }
    if (traps++ >= TRAPS_MAX && cpu_self()->catch) {
        leave(frame);
        return;
    }
    frame->rflags |= RFLAGS_RF;
}

static void on_tick(struct trap_frame *frame)
{
    note(frame->rip);
    note(frame->rflags);
    apic_eoi();
    if (traps++ >= TRAPS_MAX && cpu_self()->catch) {
        leave(frame);
    }
}

static void run_case(void)
{
    for (unsigned i = 0; i < 16; i++) {
        storm_registers[i] = storm_value();
    }
    storm_registers[4] = AREA + DATA_PAGE * PAGE_SIZE + 0xc00;
    storm_make_code(code);
    storm_start = storm_pad_address(0, false);
    make_tables();
    cpu_self()->tss.io_base = storm_pick(2) ? 104 : sizeof(cpu_self()->tss);
    for (unsigned i = 0; i < 64; i++) {
        cpu_self()->tss.io_bitmap[i] = (uint8_t)storm_next();
    }
    uint32_t period = storm_pick(2) ? 20 + (uint32_t)storm_pick(400) : 0;
    for (unsigned round = 0; round < ROUNDS; round++) {
        restore();
        traps = 0;
        apic_write(APIC_LVT_TIMER, VECTOR_TICK | LVT_PERIODIC);
        apic_write(APIC_TIMER_COUNT, period);
        trap_try(storm_enter, 0);
        apic_write(APIC_TIMER_COUNT, 0);
        note_system();
        note(dr7_read() & ~0x2000ull);
        note_registers(&cpu_self()->trap);
        ends[cpu_self()->trap.vector & 0xff]++;
        interrupts_window();
    }
}

static void prepare(void)
{
    *page_entry(kernel_pml4, AREA, 3) |= PTE_U;
    *page_entry(kernel_pml4, AREA, 2) = 0;
    uint64_t *tables = page_entry(kernel_pml4, AREA, 1); /* made */
    ASSERT(tables != NULL);
    code = page_new_run(2 * PAGE_SIZE);
    for (unsigned i = 0; i < PAGES; i++) {
        frames[i] =
            i < DATA_PAGE ? (uint64_t)code + i % 2 * PAGE_SIZE : (uint64_t)page_new();
    }
    for (unsigned i = 0; i < 256; i++) {
        bool is_programs = i == VECTOR_USER || i == VECTOR_BP || i == VECTOR_OF;
        trap_set_gate((uint8_t)i, is_programs ? 0xee : 0x8e, 1);
    }
    trap_set_handler(VECTOR_DB, on_debug);
    trap_set_handler(VECTOR_TICK, on_tick);
    apic_enable(false);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    storm_base.cr0 = cr0_read();
    storm_base.cr3 = cr3_read();
    storm_base.cr4 = cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT | 1ull << 18; /* OSXSAVE */
    cr4_write(storm_base.cr4);
    __asm__ volatile("xsetbv" : : "a"(7), "d"(0), "c"(0)); /* x87, SSE, AVX */
    storm_base.efer = msr_read(MSR_EFER);
}

void guest_test(void)
{
    case_begin("random code of kernels and programs");
    storm_seed = guest_number(1);
    prepare();
    for (unsigned i = 0; i < CASES; i++) {
        run_case();
    }
    memcpy(storm_table, gdt, TSS_BASE + 16);
    for (unsigned i = 0; i < 256; i++) {
        if (ends[i]) {
            print("# vector %u: %u\n", i, ends[i]);
        }
    }
    print("# sum %lx\n", sum);
}
