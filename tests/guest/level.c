/*
 * SYSCALL and SYSRET thousands of times, as a kernel and its programs use them:
 * registers, flags, selectors, stacks and rights of either side, while what they depend
 * on changes between and within system calls.
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define USER_TOP   (USER_STACK + 4096 - 64)
#define ROUNDS     3000
#define PAGE       0x10000000000ull /* the kernel's, then the user's behind it */
#define VECTOR_IPI 0x41
#define OTHER_CS   (TSS_BASE + 16 * (CPU_MAX - 1)) /* instead of a TSS */

#define USER_FLAGS                                                       \
    (0x8d5ull | RFLAGS_DF | (1ull << 21)) /* that POPF changes in ring 3 \
                                           */
#define BASE_MASK (RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC)

/* What the kernel finds, and what the user gets back. */
struct call {
    uint64_t rax, rdi, rcx, r11, rsp, flags;
    uint16_t cs, ss, cs_again, ss_again; /* by memory and by register */
    uint64_t user_cs, user_ss;
} call;
extern char level_entry[], level_entry_2[], level_sysret[];
__asm__(".text\n"
        "level_entry_2: nop\n"
        "level_entry:\n"
        "mov %rsp, call+32(%rip)\n"
        "lea level_stack_top(%rip), %rsp\n"
        "pushf\npop call+40(%rip)\n"
        "cld\n"
        "mov %rax, call(%rip)\nmov %rdi, call+8(%rip)\n"
        "mov %rcx, call+16(%rip)\nmov %r11, call+24(%rip)\n"
        "mov %cs, %eax\nmov %ax, call+52(%rip)\n"
        "mov %ss, %rax\nmov %ax, call+54(%rip)\n"
        "mov %cs, call+48(%rip)\nmov %ss, call+50(%rip)\n"
        "mov %rsi, call+56(%rip)\nmov %rdx, call+64(%rip)\n"
        "call level_handle\n"
        "mov call(%rip), %rax\nmov call+8(%rip), %rdi\n"
        "mov call+16(%rip), %rcx\nmov call+24(%rip), %r11\n"
        "mov call+32(%rip), %rsp\n"
        "level_sysret: sysretq\n"
        ".bss\n.balign 16\n.skip 4096\nlevel_stack_top:\n.previous");

enum { CALL_ROUND, CALL_SEEN, CALL_FILL, CALL_WITH };

/* RDI: flags to set; then what the kernel wants set next, or 0 for the end. */
USER_FUNCTION(user_rounds,
              "1: push %rdi\npopf\nmov $0, %eax\nsyscall\n"
              ".globl user_round_at\nuser_round_at: pushf\npop %rdi\n"
              "mov %cs, %esi\nmov %ss, %edx\nmov $1, %eax\n"
              "syscall\n.globl user_seen_at\nuser_seen_at: test %rdi, %rdi\njnz 1b\n"
              "int $0x80");
/* The kernel fills its TLB with the page at RDI, then this looks at it. */
USER_FUNCTION(user_peek, "mov $2, %eax\nsyscall\n.globl user_peek_at\n"
                         "user_peek_at: mov (%rdi), %rax\nint $0x80");
/* The kernel returns with the flags in RDI. */
USER_FUNCTION(user_with, "mov $3, %eax\nsyscall\n.globl user_with_at\n"
                         "user_with_at: mov 1(%rsp), %rax\n.globl user_with_end\n"
                         "user_with_end: int $0x80");
extern char user_round_at[], user_seen_at[], user_peek_at[], user_with_at[],
    user_with_end[];
ASM_FUNCTION(load, ".globl level_load_at\nlevel_load_at: mov (%rdi), %rax");
ASM_FUNCTION(load_ac, "stac\nmov (%rdi), %rax\nclac");
extern char level_load_at[];

static uint64_t rounds, random_state, expected_seen, mask, interrupts;
static uint16_t selectors; /* of the kernel, in STAR */
static bool has_smap, second_entry;

static uint64_t next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return random_state >> 24;
}

static void set_star(uint16_t kernel)
{
    selectors = kernel;
    msr_write(MSR_STAR, (uint64_t)USER_CS32 << 48 | (uint64_t)kernel << 32);
}

static void set_mask(uint64_t value)
{
    mask = value;
    msr_write(MSR_FMASK, value);
}

/* Loads of the user's page: without AC it faults. */
static void use_user_page(void)
{
    uint64_t address = PAGE + PAGE_SIZE;
    if (has_smap && !(mask & RFLAGS_AC ? 0 : call.r11 & RFLAGS_AC)) {
        ASSERT(trap_try(load, address));
        ASSERT_TRAP(VECTOR_PF, PF_P, level_load_at);
        ASSERT_EQ(load_ac(address), rounds);
        ASSERT(trap_try(load, address));
    } else {
        ASSERT_EQ(load(address), rounds);
    }
}

/* One thing that a kernel does, and that the next call may depend on. */
static void do_something(void)
{
    uint64_t *shared = (uint64_t *)*page_entry(kernel_pml4, PAGE + PAGE_SIZE, 1);
    shared = (uint64_t *)((uint64_t)shared & PTE_ADDRESS);
    switch (next_random() % 12) {
    case 0:
        cr3_reload();
        break;
    case 1:
    case 2:
        *shared = rounds;
        use_user_page();
        break;
    case 3:
        set_star(selectors == KERNEL_CS ? OTHER_CS : KERNEL_CS);
        break;
    case 4:
        set_mask(BASE_MASK | (next_random() & 1 ? 0x8d5 : 0));
        break;
    case 5:
        invlpg(user_address(user_rounds));
        break;
    case 6:
        second_entry = !second_entry;
        msr_write(MSR_LSTAR, (uint64_t)(second_entry ? level_entry_2 : level_entry));
        break;
    case 7: /* is let in behind SYSRET */
        apic_send(VECTOR_IPI | ICR_TO_SELF, 0);
        call.r11 |= RFLAGS_IF;
        break;
    default:
        break;
    }
}

static void handle_round(void)
{
    ASSERT_EQ(call.rcx, user_address(user_round_at));
    ASSERT_EQ(call.r11 & USER_FLAGS, expected_seen & USER_FLAGS);
    call.r11 = (next_random() & USER_FLAGS) | RFLAGS_FIXED | RFLAGS_IF;
    expected_seen = call.r11;
    do_something();
}

static void handle_seen(void)
{
    ASSERT_EQ(call.rcx, user_address(user_seen_at));
    ASSERT_EQ(call.user_cs, USER_CS64);
    ASSERT_EQ(call.user_ss, USER_DS);
    ASSERT_EQ(call.rdi, expected_seen);
    ASSERT_EQ(call.r11, expected_seen);
    ASSERT_EQ(cpu_self()->count[VECTOR_IPI], interrupts);
    rounds++;
    expected_seen = (next_random() & USER_FLAGS) | RFLAGS_FIXED | RFLAGS_IF;
    call.rdi = rounds < ROUNDS ? expected_seen : 0;
}

void level_handle(void);
void level_handle(void)
{
    uint16_t kernel = selectors;
    ASSERT_EQ(call.flags, (call.r11 & ~mask) | RFLAGS_FIXED);
    ASSERT_EQ(call.cs, kernel);
    ASSERT_EQ(call.ss, kernel + 8);
    ASSERT_EQ(call.cs_again, kernel);
    ASSERT_EQ(call.ss_again, kernel + 8);
    ASSERT_EQ(call.rsp & -256ull, USER_TOP & -256ull);
    switch (call.rax) {
    case CALL_ROUND:
        handle_round();
        break;
    case CALL_SEEN:
        handle_seen();
        break;
    case CALL_FILL:
        ASSERT_EQ(*(volatile uint64_t *)PAGE, 0x1234);
        break;
    case CALL_WITH:
        call.r11 = call.rdi;
        break;
    default:
        FAIL("no such call: %lu", call.rax);
    }
}

static void on_ipi(struct trap_frame *frame)
{
    ASSERT_EQ(frame->cs, USER_CS64);
    ASSERT_EQ(frame->ss, USER_DS);
    interrupts++;
    apic_eoi();
}

static void prepare(void)
{
    gdt[OTHER_CS / 8] = gdt[KERNEL_CS / 8];
    gdt[OTHER_CS / 8 + 1] = gdt[KERNEL_DS / 8];
    set_star(KERNEL_CS);
    set_mask(BASE_MASK);
    msr_write(MSR_LSTAR, (uint64_t)level_entry);
    apic_enable(false);
    trap_set_handler(VECTOR_IPI, on_ipi);
    uint64_t *kernels = page_new();
    *kernels = 0x1234;
    page_map(PAGE, (uint64_t)kernels, PTE_P | PTE_W, 1);
    page_map(PAGE + PAGE_SIZE, (uint64_t)page_new(), PTE_P | PTE_W | PTE_U, 1);
    has_smap = cpuid(7, 0).ebx >> 20 & 1;
    if (has_smap) {
        cr4_write(cr4_read() | CR4_SMAP);
    }
}

static void try_rounds(void)
{
    case_begin("%u system calls, each different", 2 * ROUNDS);
    random_state = 1;
    expected_seen = RFLAGS_FIXED | RFLAGS_IF | RFLAGS_CF;
    user_call(user_rounds, expected_seen);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    ASSERT_EQ(rounds, ROUNDS);
    ASSERT_EQ(cpu_self()->trap.cs, USER_CS64);
    ASSERT_EQ(cpu_self()->trap.ss, USER_DS);
    ASSERT(interrupts > ROUNDS / 100);
}

static void try_rights(void)
{
    case_begin("what the kernel may read the user may not, and the other way round");
    for (unsigned i = 0; i < 100; i++) {
        user_call(user_peek, PAGE);
        ASSERT_TRAP(VECTOR_PF, PF_P | PF_U, user_address(user_peek_at));
        ASSERT_EQ(cpu_self()->trap.cs, USER_CS64);
    }
}

static void note_step(struct trap_frame *frame)
{
    ASSERT_EQ(frame->rip, user_address(user_with_end));
    dr6_write(0xffff0ff0);
    frame->rflags &= ~(uint64_t)RFLAGS_TF;
}

#define TIMES 20

static void try_flags(void)
{
    struct cpu *cpu = cpu_self();
    case_begin("SYSRET that sets TF: a step");
    trap_set_handler(VECTOR_DB, note_step);
    for (unsigned i = 1; i <= TIMES; i++) {
        user_call(user_with, RFLAGS_FIXED | RFLAGS_TF);
        ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
        ASSERT_EQ(cpu->count[VECTOR_DB], i);
    }
    case_begin("SYSRET that sets AC: alignment is checked if CR0.AM is set");
    for (unsigned i = 0; i < TIMES; i++) {
        cr0_write(cr0_read() | CR0_AM);
        user_call(user_with, RFLAGS_FIXED | RFLAGS_AC);
        ASSERT_TRAP(VECTOR_AC, 0, user_address(user_with_at));
        cr0_write(cr0_read() & ~CR0_AM);
        user_call(user_with, RFLAGS_FIXED | RFLAGS_AC);
        ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
        ASSERT_EQ(cpu->trap.rflags & RFLAGS_AC, RFLAGS_AC);
    }
    case_begin("SYSRET that sets IOPL and NT");
    for (unsigned i = 0; i < TIMES; i++) {
        user_call(user_with, RFLAGS_FIXED | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_IF);
        ASSERT_EQ(cpu->trap.rflags, RFLAGS_FIXED | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_IF);
    }
}

static void try_mask(void)
{
    struct user_start start = {
        .rip = user_address(user_with),
        .rdi = RFLAGS_FIXED | RFLAGS_IF,
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED | RFLAGS_AC | RFLAGS_CF | RFLAGS_ZF,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    case_begin("SYSCALL that leaves AC and the arithmetic flags");
    for (unsigned i = 0; i < TIMES; i++) {
        set_mask(RFLAGS_IF);
        user_run(&start);
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
        ASSERT_EQ(call.flags, start.rflags);
        set_mask(BASE_MASK | 0x8d5);
        user_run(&start);
        ASSERT_EQ(call.flags, RFLAGS_FIXED);
    }
}

void guest_test(void)
{
    prepare();
    try_rounds();
    try_rights();
    try_flags();
    try_mask();
}
