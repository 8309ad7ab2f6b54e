/*
 * The ways between ring 3 and ring 0 besides interrupts: SYSCALL, SYSRET, SYSENTER by the
 * rules of the vendor, 32-bit code, FS and GS, I/O permissions, UMIP, single steps.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define NON_CANONICAL 0x800000000000ull
#define USER_TOP      (USER_STACK + 4096 - 16)

static bool is_amd;

/* The kernel's end of SYSCALL: keeps what it found and leaves by an exception. */
uint64_t entry_rcx, entry_r11, entry_rsp, entry_flags;
uint16_t entry_cs, entry_ss;
extern char syscall_entry[], syscall_entry_trap[], entry_stack_top[];
__asm__(".text\n"
        "syscall_entry:\n"
        "mov %rcx, entry_rcx(%rip)\n"
        "mov %r11, entry_r11(%rip)\n"
        "mov %rsp, entry_rsp(%rip)\n"
        "mov %cs, entry_cs(%rip)\n"
        "mov %ss, entry_ss(%rip)\n"
        "lea entry_stack_top(%rip), %rsp\n"
        "pushf\n"
        "pop entry_flags(%rip)\n"
        "syscall_entry_trap: ud2\n"
        ".bss\n.balign 16\n.skip 4096\nentry_stack_top:\n.previous");

USER_FUNCTION(user_syscall,
              "syscall\n.globl user_syscall_end\nuser_syscall_end: int $0x80");
USER_FUNCTION(user_sysenter, "sysenter\nint $0x80");
USER_FUNCTION(user_int, "int $0x80");
extern char user_syscall_end[];

static void try_syscall(void)
{
    struct user_start start = {
        .rip = user_address(user_syscall),
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED | RFLAGS_CF | RFLAGS_DF | RFLAGS_ZF | RFLAGS_AC,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    case_begin("SYSCALL");
    msr_write(MSR_STAR, (uint64_t)USER_CS32 << 48 | (uint64_t)KERNEL_CS << 32);
    msr_write(MSR_LSTAR, (uint64_t)syscall_entry);
    msr_write(MSR_FMASK, RFLAGS_DF | RFLAGS_AC | RFLAGS_IF);
    user_run(&start);
    ASSERT_TRAP(VECTOR_UD, 0, syscall_entry_trap);
    ASSERT_EQ(entry_rcx, user_address(user_syscall_end));
    ASSERT_EQ(entry_r11, start.rflags);
    ASSERT_EQ(entry_flags, RFLAGS_FIXED | RFLAGS_CF | RFLAGS_ZF);
    ASSERT_EQ(entry_rsp, USER_TOP);
    ASSERT_EQ(entry_cs, KERNEL_CS);
    ASSERT_EQ(entry_ss, KERNEL_DS);
    case_begin("SYSCALL without EFER.SCE is undefined");
    msr_write(MSR_EFER, msr_read(MSR_EFER) & ~EFER_SCE);
    user_run(&start);
    ASSERT_TRAP(VECTOR_UD, 0, user_address(user_syscall));
    msr_write(MSR_EFER, msr_read(MSR_EFER) | EFER_SCE);
}

/* RDI: RCX, RSI: R11, for SYSRET to 64-bit code. */
struct sysret {
    uint64_t rip, flags, is_32;
};
extern char sysret_64_at[], sysret_32_at[];

static uint64_t do_sysret(uint64_t argument)
{
    const struct sysret *sysret = (const struct sysret *)argument;
    if (sysret->is_32) {
        __asm__ volatile("mov %2, %%rsp; sysret_32_at: sysretl"
                         :
                         : "c"(sysret->rip), "r"(sysret->flags), "r"(USER_TOP)
                         : "memory");
    }
    register uint64_t r11 __asm__("r11") = sysret->flags;
    __asm__ volatile("mov %2, %%rsp; sysret_64_at: sysretq"
                     :
                     : "c"(sysret->rip), "r"(r11), "r"(USER_TOP)
                     : "memory");
    __builtin_unreachable();
}

static void try_sysret(void)
{
    struct sysret sysret = {user_address(user_int), RFLAGS_FIXED | RFLAGS_CF | RFLAGS_RF};
    const struct cpu *cpu = cpu_self();

    case_begin("SYSRET to 64-bit code");
    ASSERT(trap_try(do_sysret, (uint64_t)&sysret));
    ASSERT_TRAP(VECTOR_USER, 0, sysret.rip + 2);
    ASSERT_EQ(cpu->trap.cs, USER_CS64);
    ASSERT_EQ(cpu->trap.ss, USER_DS);
    ASSERT_EQ(cpu->trap.rflags, RFLAGS_FIXED | RFLAGS_CF);
    ASSERT_EQ(cpu->trap.rsp, USER_TOP);

    case_begin("SYSRET to an address that is not canonical: in ring %u", is_amd ? 3 : 0);
    sysret.rip = NON_CANONICAL;
    trap_set_gate(VECTOR_GP, 0x8e, 1); /* Intel faults with the user's stack */
    ASSERT(trap_try(do_sysret, (uint64_t)&sysret));
    trap_set_gate(VECTOR_GP, 0x8e, 0);
    ASSERT_TRAP(VECTOR_GP, 0, is_amd ? NON_CANONICAL : (uint64_t)sysret_64_at);
    ASSERT_EQ(cpu->trap.cs & 3, is_amd ? 3 : 0);
}

static void try_sysenter(void)
{
    case_begin("SYSENTER from 64-bit code: %s", is_amd ? "undefined" : "enters");
    msr_write(MSR_SYSENTER_CS, KERNEL_CS);
    msr_write(MSR_SYSENTER_SP, (uint64_t)entry_stack_top);
    msr_write(MSR_SYSENTER_IP, (uint64_t)syscall_entry);
    user_call(user_sysenter, 0);
    if (is_amd) {
        ASSERT_TRAP(VECTOR_UD, 0, user_address(user_sysenter));
        return;
    }
    ASSERT_TRAP(VECTOR_UD, 0, syscall_entry_trap);
    ASSERT_EQ(entry_rsp, entry_stack_top);
    msr_write(MSR_SYSENTER_CS, 0);
    user_call(user_sysenter, 0);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_sysenter));
}

/* 32-bit code, at an address below 4 GiB: what it is given, stack, segments, exceptions
 * that 64-bit code cannot raise. */
extern char code_32[], code_32_limit[], code_32_into_end[], code_32_bound[],
    code_32_into[], code_32_syscall[], code_32_es[], code_32_int[], code_32_far[];
__asm__(".section .user, \"ax\"\n"
        ".code32\n"
        "code_32:\n"
        "mov $-1, %eax\n"
        "inc %eax\n" /* 40: in 64-bit code a prefix */
        "push %eax\n"
        "push %cs\n"
        "call 1f\n"
        "1: pop %ebx\n"
        "mov %esp, %ecx\n"
        "int $0x80\n"
        "code_32_limit: mov %gs:16, %eax\n"
        "int $0x80\n"
        "code_32_into: mov $0x7fffffff, %eax\n"
        "add $1, %eax\n"
        "into\n"
        "code_32_into_end: nop\n"
        "code_32_bound: bound %eax, (%edi)\n"
        "code_32_syscall: syscall\n"
        "code_32_es: push %ds\n pop %es\n mov %es:(%edi), %eax\n int $0x80\n"
        "code_32_int: int $0x80\n"
        "code_32_far: push %edi\n push $1f - code_32 + 0x40000000\n lretl\n"
        ".code64\n"
        "1: mov %rsp, %rax\n movabs $0x123456789abc, %rbx\n int $0x80\n"
        ".previous\n");

#define LOW_CODE  0x40000000ull
#define LOW_STACK 0x40010000ull

static uint64_t low(const char *label)
{
    return LOW_CODE + (uint64_t)(label - code_32);
}

/* What it is given is called, then its own: RSI and RAX are where these think they are,
 * RBX and RDX where this one does, the latter by what CALL pushed. */
extern char code_placed[], code_placed_leaf[], code_placed_own[];
__asm__(".section .user, \"ax\"\n"
        "code_placed: call *%rdi\n"
        "mov %rax, %rsi\n"
        "lea code_placed(%rip), %rbx\n"
        "call code_placed_leaf\n"
        "code_placed_own: int $0x80\n"
        "code_placed_leaf: lea code_placed_leaf(%rip), %rax\n"
        "mov (%rsp), %rdx\n"
        "ret\n"
        ".previous\n");

#define HIGH_CODE (USER_CODE + 0x10000)

/* One page of code at addresses that fit into instructions, and at one that does not. */
static void try_places(uint64_t physical)
{
    static const uint64_t place[] = {LOW_CODE, LOW_CODE + 0x3000, HIGH_CODE};
    const struct cpu *cpu = cpu_self();
    uint64_t leaf = (uint64_t)(code_placed_leaf - code_placed);
    uint64_t own = (uint64_t)(code_placed_own - code_placed);

    case_begin("code of one page at three addresses");
    page_map(place[1], physical, PTE_P | PTE_U, 1);
    page_map(place[2], physical, PTE_P | PTE_U, 1);
    for (unsigned i = 0; i < 900; i++) {
        /* each with each, several times behind each other */
        uint64_t from = place[i / 5 % 3], to = place[i / 15 % 3];
        struct user_start start = {
            .rip = from,
            .rdi = to + leaf,
            .rsp = LOW_STACK + 0x1000,
            .rflags = RFLAGS_FIXED,
            .cs = USER_CS64,
            .ss = USER_DS,
        };
        user_run(&start);
        ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
        ASSERT_EQ(cpu->trap.rsi, to + leaf);
        ASSERT_EQ(cpu->trap.rbx, from);
        ASSERT_EQ(cpu->trap.rax, from + leaf);
        ASSERT_EQ(cpu->trap.rdx, from + own);
    }
}

static void run_32(const char *label, uint64_t argument)
{
    struct user_start start = {
        .rip = low(label),
        .rdi = argument,
        .rsp = LOW_STACK + 0x1000,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS32,
        .ss = USER_DS,
    };
    /* A segment of the supervisor's would be null in ring 3 (SDM 2A, IRET). */
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(USER_DS));
    user_run(&start);
}

static void try_32(void)
{
    const struct cpu *cpu = cpu_self();
    uint8_t *copy = page_new(), *stack = page_new();

    /* In the first 4 GiB, where the identity map has 2M pages of the supervisor. */
    uint64_t *entry = page_entry(kernel_pml4, LOW_CODE, 2);
    uint64_t *directory = page_entry(kernel_pml4, LOW_CODE, 3);
    uint64_t old_entry = *entry;
    *directory |= PTE_U;
    *entry = (uint64_t)page_new() | PTE_P | PTE_W | PTE_U;
    cr3_reload();
    memcpy(copy, code_32, 256);
    page_map(LOW_CODE, (uint64_t)copy, PTE_P | PTE_U, 1);
    page_map(LOW_STACK, (uint64_t)stack, PTE_P | PTE_W | PTE_U, 1);

    case_begin("32-bit code and back");
    run_32(code_32, 0);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    ASSERT_EQ(cpu->trap.rax, 0);
    ASSERT_EQ(cpu->trap.cs, USER_CS32);
    ASSERT_EQ(cpu->trap.rcx, LOW_STACK + 0x1000 - 8);
    ASSERT_EQ(*(uint32_t *)(stack + 0x1000 - 8), USER_CS32);
    ASSERT(cpu->trap.rbx > LOW_CODE && cpu->trap.rbx < LOW_CODE + 32);
    case_begin("32-bit code: INTO is a trap, BOUND a fault");
    trap_set_gate(VECTOR_OF, 0xee, 0);
    run_32(code_32_into, 0);
    ASSERT_TRAP(VECTOR_OF, 0, low(code_32_into_end));
    ((int32_t *)stack)[0] = 5;
    ((int32_t *)stack)[1] = 6;
    run_32(code_32_bound, LOW_STACK);
    ASSERT_TRAP(VECTOR_BR, 0, low(code_32_bound));
    case_begin("32-bit code: segments");
    *(uint32_t *)(stack + 8) = 0xabcd;
    run_32(code_32_es, LOW_STACK + 8);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    ASSERT_EQ(cpu->trap.rax, 0xabcd);
    /* 16 bytes of the stack's page */
    gdt[0x38 / 8] =
        0x0040f3000000000f | (LOW_STACK & 0xffffff) << 16 | (LOW_STACK >> 24) << 56;
    __asm__ volatile("mov %0, %%gs" : : "r"(0x3b));
    run_32(code_32_limit, 0);
    ASSERT_TRAP(VECTOR_GP, 0, low(code_32_limit));
    gdt[0x38 / 8] += 4; /* 20 bytes */
    ((uint32_t *)stack)[4] = 0x1234;
    __asm__ volatile("mov %0, %%gs" : : "r"(0x3b));
    run_32(code_32_limit, 0);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
    case_begin("32-bit code: SYSCALL is %s", is_amd ? "there" : "undefined");
    msr_write(MSR_CSTAR, (uint64_t)syscall_entry);
    run_32(code_32_syscall, 0);
    if (is_amd) {
        ASSERT_TRAP(VECTOR_UD, 0, syscall_entry_trap);
        ASSERT_EQ(entry_rcx, low(code_32_syscall) + 2);
    } else {
        ASSERT_TRAP(VECTOR_UD, 0, low(code_32_syscall));
    }
    case_begin("32-bit code jumps to 64-bit code");
    run_32(code_32_far, USER_CS64);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    ASSERT_EQ(cpu->trap.cs, USER_CS64);
    ASSERT_EQ(cpu->trap.rbx, 0x123456789abc);
    case_begin("SYSRET to 32-bit code");
    struct sysret sysret = {low(code_32_int), RFLAGS_FIXED, 1};
    trap_try(do_sysret, (uint64_t)&sysret);
    ASSERT_EQ(cpu->trap.cs, USER_CS32);

    memcpy(copy, code_placed, 64);
    try_places((uint64_t)copy);

    *entry = old_entry;
    *directory &= ~PTE_U;
    cr3_reload();
}

static uint64_t gs_read(uint64_t offset)
{
    uint64_t value;
    __asm__ volatile("mov %%gs:(%1), %0" : "=r"(value) : "r"(offset));
    return value;
}

static uint64_t gs_base_write(uint64_t value)
{
    __asm__ volatile("wrgsbase %0" : : "r"(value));
    return 0;
}

static void try_bases(void)
{
    static uint64_t areas[2][4] = {{1, 2}, {3, 4}};
    uint64_t base;

    case_begin("SWAPGS exchanges the bases");
    msr_write(MSR_GS_BASE, (uint64_t)areas[0]);
    msr_write(MSR_KERNEL_GS, (uint64_t)areas[1]);
    ASSERT_EQ(gs_read(8), 2);
    __asm__ volatile("swapgs" : : : "memory");
    ASSERT_EQ(gs_read(8), 4);
    ASSERT_EQ(msr_read(MSR_GS_BASE), (uint64_t)areas[1]);
    ASSERT_EQ(msr_read(MSR_KERNEL_GS), (uint64_t)areas[0]);
    __asm__ volatile("swapgs" : : : "memory");
    case_begin("WRGSBASE: undefined without CR4.FSGSBASE, canonical addresses only");
    ASSERT(trap_try(gs_base_write, 0));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_UD);
    cr4_write(cr4_read() | CR4_FSGSBASE);
    gs_base_write((uint64_t)areas[1]);
    ASSERT_EQ(gs_read(0), 3);
    __asm__ volatile("rdgsbase %0" : "=r"(base));
    ASSERT_EQ(base, (uint64_t)areas[1]);
    ASSERT(trap_try(gs_base_write, NON_CANONICAL));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    ASSERT_EQ(gs_read(0), 3);
    case_begin("loading a selector replaces the base");
    __asm__ volatile("mov %0, %%gs" : : "r"(USER_DS));
    ASSERT_EQ(msr_read(MSR_GS_BASE), 0);
    __asm__ volatile("mov %0, %%gs" : : "r"(0));
    cr4_write(cr4_read() & ~CR4_FSGSBASE);
}

USER_FUNCTION(user_in8,
              "mov %edi, %edx\n.globl user_in8_at\nuser_in8_at: inb %dx, %al; int $0x80");
USER_FUNCTION(
    user_in32,
    "mov %edi, %edx\n.globl user_in32_at\nuser_in32_at: inl %dx, %eax; int $0x80");
USER_FUNCTION(user_sti, "sti; cli; int $0x80");
extern char user_in8_at[], user_in32_at[];

/* SDM 1 19.5.2: all bits of the access must be clear, and lie within the limit. */
static void try_ports(void)
{
    struct cpu *cpu = cpu_self();
    struct tss *tss = &cpu->tss;
    struct user_start start = {
        .rip = user_address(user_sti),
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    case_begin("I/O permission bitmap");
    memset(tss->io_bitmap, 0xff, sizeof(tss->io_bitmap));
    tss->io_base = offsetof(struct tss, io_bitmap);
    tss->io_bitmap[0x80 / 8] = 0xf8; /* 0x80 to 0x82 */
    for (unsigned port = 0x7e; port < 0x85; port++) {
        user_call(user_in8, port);
        bool permitted = port >= 0x80 && port <= 0x82;
        ASSERT_EQ(cpu->trap.vector, permitted ? VECTOR_USER : VECTOR_GP);
        user_call(user_in32, port);
        ASSERT_TRAP(VECTOR_GP, 0, user_address(user_in32_at));
    }
    tss->io_bitmap[0x80 / 8] = 0xf0;
    user_call(user_in32, 0x80);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    tss->io_bitmap[0xffff / 8] = 0;
    user_call(user_in8, 0xffff);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    tss->io_base = 0xffff;
    user_call(user_in8, 0x80);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_in8_at));
    tss->io_base = sizeof(*tss);
    case_begin("IOPL 3 permits ports, CLI and STI");
    user_run(&start);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_sti));
    start.rflags |= RFLAGS_IOPL;
    user_run(&start);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    start.rip = user_address(user_in8);
    start.rdi = 0x80;
    user_run(&start);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
}

USER_FUNCTION(user_sgdt, "sgdt (%rdi); int $0x80");
USER_FUNCTION(user_sidt, "sidt (%rdi); int $0x80");
USER_FUNCTION(user_sldt, "sldt (%rdi); int $0x80");
USER_FUNCTION(user_str, "str %eax; int $0x80");
USER_FUNCTION(user_smsw, "smsw %eax; int $0x80");
USER_FUNCTION(user_rdtsc, "rdtsc; int $0x80");

static void try_umip(void)
{
    char *const rows[] = {user_sgdt, user_sidt, user_sldt, user_str, user_smsw};

    for (unsigned on = 0; on < 2; on++) {
        case_begin("SGDT, SIDT, SLDT, STR, SMSW in ring 3 %s UMIP",
                   on ? "with" : "without");
        cr4_write(on ? cr4_read() | CR4_UMIP : cr4_read() & ~CR4_UMIP);
        for (unsigned i = 0; i < COUNT_OF(rows); i++) {
            user_call(rows[i], USER_STACK);
            ASSERT_EQ(cpu_self()->trap.vector, on ? VECTOR_GP : VECTOR_USER);
            ASSERT(!on || cpu_self()->trap.rip == user_address(rows[i]));
        }
    }
    cr4_write(cr4_read() & ~CR4_UMIP);
    case_begin("RDTSC in ring 3 with TSD");
    user_call(user_rdtsc, 0);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    cr4_write(cr4_read() | CR4_TSD);
    user_call(user_rdtsc, 0);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_rdtsc));
    cr4_write(cr4_read() & ~CR4_TSD);
}

/* Single steps */

static uint64_t step_rip[32];
static unsigned steps;

static void note_step(struct trap_frame *frame)
{
    ASSERT_EQ(dr6_read() >> 14 & 1, 1);
    dr6_write(0xffff0ff0);
    if (steps < COUNT_OF(step_rip)) {
        step_rip[steps] = frame->rip;
    }
    steps++;
}

extern char step_0[], step_1[], step_2[], step_3[], step_4[], step_5[], step_6[];
ASM_FUNCTION(step_program, "lea -64(%rsp), %rdi\nmov $3, %ecx\n"
                           "pushf\norl $0x100, (%rsp)\npopf\n"
                           "step_0: nop\n"
                           "step_1: rep stosb\n" /* a trap after each iteration */
                           "step_2: jmp step_3\nnop\n"
                           "step_3: pushf\n"
                           "step_4: andl $~0x100, (%rsp)\n"
                           "step_5: popf\n"
                           "step_6: nop");

static void try_steps(void)
{
    char *const expected[] = {step_1, step_1, step_1, step_2,
                              step_3, step_4, step_5, step_6};

    case_begin("single steps: each instruction, each iteration, the POPF that ends them");
    trap_set_handler(VECTOR_DB, note_step);
    step_program(0);
    for (unsigned i = 0; i < COUNT_OF(expected); i++) {
        ASSERT_EQ(step_rip[i], expected[i]);
    }
    ASSERT_EQ(steps, COUNT_OF(expected));

    case_begin("single steps stop at SYSCALL that masks TF");
    msr_write(MSR_FMASK, RFLAGS_TF);
    struct user_start start = {
        .rip = user_address(user_syscall),
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED | RFLAGS_TF,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    steps = 0;
    user_run(&start);
    ASSERT_TRAP(VECTOR_UD, 0, syscall_entry_trap);
    ASSERT_EQ(entry_flags & RFLAGS_TF, 0);
    ASSERT_EQ(entry_r11 & RFLAGS_TF, RFLAGS_TF);
    ASSERT_EQ(steps, 0);
    trap_set_handler(VECTOR_DB, NULL);
}

void guest_test(void)
{
    is_amd = cpuid(0, 0).ebx == 0x68747541; /* "Auth" */
    try_syscall();
    try_sysret();
    try_sysenter();
    try_32();
    try_bases();
    try_ports();
    try_umip();
    try_steps();
}
