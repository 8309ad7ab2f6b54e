/*
 * Every exception that 64-bit code can raise: vector, error code, and the saved RIP and
 * RF that tell faults from traps (SDM 3A 6.5, 6.14, 17.3.1.1); stacks, gates, IRET,
 * double faults.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define NON_CANONICAL 0x800000000000ull

/* A label `NAME_at` marks the instruction whose address must be saved. */
#define RAISES(name, before, instruction)                           \
    ASM_FUNCTION(name, before "\n" #name "_at: " instruction "\n"); \
    extern char name##_at[]
/* The same for traps: the address after the instruction. */
#define TRAPS(name, instruction)                             \
    ASM_FUNCTION(name, instruction "\n" #name "_at: nop\n"); \
    extern char name##_at[]

RAISES(raise_de, "xor %ecx, %ecx; mov $1, %eax; cltd", "divl %ecx");
RAISES(raise_de_overflow, "mov $1, %ecx; mov $1, %edx", "divl %ecx");
RAISES(raise_ud, "", "ud2");
RAISES(raise_ud_lock, "", ".byte 0xf0, 0x90");                /* LOCK NOP */
RAISES(raise_ud_lock_register, "", ".byte 0xf0, 0x01, 0xc0"); /* LOCK ADD EAX, EAX */
RAISES(raise_ud_push_es, "", ".byte 0x06");                   /* gone in 64-bit mode */
RAISES(raise_ud_mov_cs, "", ".byte 0x8e, 0xc8");              /* MOV CS, EAX */
RAISES(raise_ud_cr1, "", ".byte 0x0f, 0x20, 0xc8");           /* MOV RAX, CR1 */
RAISES(raise_gp_read, "movabs $0x800000000000, %rax", "mov (%rax), %rcx");
RAISES(raise_gp_write, "movabs $0xffff7fffffffffff, %rax", "movb %cl, (%rax)");
RAISES(raise_gp_cross, "movabs $0x7fffffffffff, %rax", "mov (%rax), %ecx");
RAISES(raise_ss_read, "movabs $0x800000000000, %rdx; xchg %rsp, %rdx",
       "mov (%rsp), %rcx");
RAISES(raise_ss_rbp, "push %rbp; movabs $0x800000000000, %rbp", "mov (%rbp), %rcx");
RAISES(raise_ss_push, "movabs $0x800000000004, %rsp", "push %rax");
RAISES(raise_ss_pop, "movabs $0x7ffffffffffc, %rsp", "pop %rax");
RAISES(raise_ss_call, "movabs $0x800000000004, %rsp", "call raise_ud");
RAISES(raise_gp_ds_override, "push %rbp; movabs $0x800000000000, %rbp",
       "mov %fs:(%rbp), %rcx");
RAISES(raise_gp_jump, "movabs $0x800000000000, %rax", "jmp *%rax");
RAISES(raise_gp_call, "movabs $0x800000000000, %rax", "call *%rax");
RAISES(raise_gp_ret, "movabs $0x800000000000, %rax; push %rax", "ret");
RAISES(raise_gp_ds_limit, "mov $0x1000, %eax", "mov %eax, %ds");
RAISES(raise_gp_ldt, "mov $0x0c, %eax", "mov %eax, %es");
RAISES(raise_gp_ss_null, "mov $3, %eax", "mov %eax, %ss");
RAISES(raise_gp_cr0, "mov %cr0, %rax; btr $0, %rax", "mov %rax, %cr0");
RAISES(raise_gp_cr0_high, "mov %cr0, %rax; bts $32, %rax", "mov %rax, %cr0");
RAISES(raise_gp_cr0_cd_nw, "mov %cr0, %rax; btr $30, %rax; bts $29, %rax",
       "mov %rax, %cr0");
RAISES(raise_gp_cr4_pae, "mov %cr4, %rax; btr $5, %rax", "mov %rax, %cr4");
RAISES(raise_gp_cr4_reserved, "mov %cr4, %rax; bts $31, %rax", "mov %rax, %cr4");
RAISES(raise_gp_cr8, "mov $16, %eax", "mov %rax, %cr8");
RAISES(raise_gp_rdmsr, "mov $0x12345678, %ecx", "rdmsr");
RAISES(raise_gp_wrmsr, "mov $0xc0000080, %ecx; mov $-1, %eax; mov $-1, %edx", "wrmsr");
RAISES(raise_gp_lstar, "mov $0xc0000082, %ecx; xor %eax, %eax; mov $0x8000, %edx",
       "wrmsr");
RAISES(raise_gp_int_limit, "", "int $0x90"); /* with a short IDT */
RAISES(raise_np_ds, "mov $0x38, %eax", "mov %eax, %ds");
RAISES(raise_np_ss, "mov $0x38, %eax", "mov %eax, %ss");
RAISES(raise_gp_iret_nt, "pushf; orl $0x4000, (%rsp); popf", "iretq");
RAISES(raise_gp_ltr_busy, "str %eax", "ltr %ax");
RAISES(raise_gp_cmpxchg16b, "lea -8(%rsp), %rdi; and $-16, %rdi; add $8, %rdi",
       "cmpxchg16b (%rdi)");
TRAPS(raise_bp, "int3");
TRAPS(raise_bp_long, "int $3");
TRAPS(raise_db_int1, ".byte 0xf1");
TRAPS(raise_int, "int $0x90");
RAISES(raise_nm, "", "fnop");
RAISES(raise_mf, "fninit; push $0x37b; fldcw (%rsp); pop %rax; fld1; fldz; fdivrp",
       "fwait");
RAISES(raise_xm,
       "push $0x1d80; ldmxcsr (%rsp); pop %rax; xorps %xmm0, %xmm0; mov $1, %eax;"
       "cvtsi2ss %eax, %xmm1",
       "divss %xmm0, %xmm1");
RAISES(raise_ud_sse, "", "xorps %xmm0, %xmm0"); /* without CR4.OSFXSR */

struct expectation {
    const char *name;
    trap_function *function;
    char *at;
    uint8_t vector;
    uint32_t error;
    bool is_trap;
};

#define ROW(function, ...)                              \
    {                                                   \
#function, function, function##_at, __VA_ARGS__ \
    }

static const struct expectation table[] = {
    ROW(raise_de, VECTOR_DE),
    ROW(raise_de_overflow, VECTOR_DE),
    ROW(raise_ud, VECTOR_UD),
    ROW(raise_ud_lock, VECTOR_UD),
    ROW(raise_ud_lock_register, VECTOR_UD),
    ROW(raise_ud_push_es, VECTOR_UD),
    ROW(raise_ud_mov_cs, VECTOR_UD),
    ROW(raise_ud_cr1, VECTOR_UD),
    ROW(raise_gp_read, VECTOR_GP),
    ROW(raise_gp_write, VECTOR_GP),
    ROW(raise_gp_cross, VECTOR_GP),
    ROW(raise_ss_read, VECTOR_SS),
    ROW(raise_ss_rbp, VECTOR_SS),
    ROW(raise_gp_ds_override, VECTOR_GP),
    ROW(raise_gp_jump, VECTOR_GP),
    ROW(raise_gp_call, VECTOR_GP),
    ROW(raise_gp_ret, VECTOR_GP),
    ROW(raise_gp_ds_limit, VECTOR_GP, 0x1000),
    ROW(raise_gp_ldt, VECTOR_GP, 0x0c),
    ROW(raise_gp_ss_null, VECTOR_GP),
    ROW(raise_gp_cr0, VECTOR_GP),
    ROW(raise_gp_cr0_high, VECTOR_GP),
    ROW(raise_gp_cr0_cd_nw, VECTOR_GP),
    ROW(raise_gp_cr4_pae, VECTOR_GP),
    ROW(raise_gp_cr4_reserved, VECTOR_GP),
    ROW(raise_gp_cr8, VECTOR_GP),
    ROW(raise_gp_rdmsr, VECTOR_GP),
    ROW(raise_gp_wrmsr, VECTOR_GP),
    ROW(raise_gp_lstar, VECTOR_GP),
    ROW(raise_np_ds, VECTOR_NP, 0x38),
    ROW(raise_np_ss, VECTOR_SS, 0x38),
    ROW(raise_gp_iret_nt, VECTOR_GP),
    ROW(raise_gp_ltr_busy, VECTOR_GP, TSS_BASE),
    ROW(raise_gp_cmpxchg16b, VECTOR_GP),
    ROW(raise_bp, VECTOR_BP, 0, true),
    ROW(raise_bp_long, VECTOR_BP, 0, true),
    ROW(raise_db_int1, VECTOR_DB, 0, true),
    ROW(raise_int, 0x90, 0, true),
};

static void expect(const struct expectation *row)
{
    case_begin("%s", row->name);
    ASSERT(trap_try(row->function, 0));
    ASSERT_TRAP(row->vector, row->error, row->at);
    /* Faults are saved with RF set, so that an instruction breakpoint there is not met
     * again; traps are not. */
    ASSERT_EQ(!!(cpu_self()->trap.rflags & RFLAGS_RF), !row->is_trap);
    ASSERT_EQ(cpu_self()->trap.cs, KERNEL_CS);
    ASSERT_EQ(cpu_self()->trap.ss, KERNEL_DS);
    __asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(KERNEL_DS));
}

/* With a stack that is not usable, all exceptions here need one of their own. */
static void try_bad_stacks(void)
{
    const struct expectation rows[] = {
        ROW(raise_ss_push, VECTOR_SS),
        ROW(raise_ss_pop, VECTOR_SS),
        ROW(raise_ss_call, VECTOR_SS),
    };
    trap_set_gate(VECTOR_SS, 0x8e, 1);
    for (unsigned i = 0; i < COUNT_OF(rows); i++) {
        expect(&rows[i]);
        /* RSP is as it was before the instruction. */
        ASSERT_EQ(cpu_self()->trap.rsp, i == 1 ? 0x7ffffffffffc : 0x800000000004);
    }
    trap_set_gate(VECTOR_SS, 0x8e, 0);
}

static void try_floating_point(void)
{
    const struct expectation nm = ROW(raise_nm, VECTOR_NM);
    const struct expectation mf = ROW(raise_mf, VECTOR_MF);
    const struct expectation xm = ROW(raise_xm, VECTOR_XM);
    const struct expectation xm_as_ud = ROW(raise_xm, VECTOR_UD);
    const struct expectation ud = ROW(raise_ud_sse, VECTOR_UD);
    uint64_t cr0 = cr0_read(), cr4 = cr4_read();

    cr0_write(cr0 | CR0_TS);
    expect(&nm);
    cr0_write((cr0 & ~CR0_TS) | CR0_EM);
    expect(&nm);
    cr0_write(cr0 & ~(CR0_TS | CR0_EM));
    expect(&mf);
    __asm__ volatile("fninit");
    cr4_write(cr4 & ~CR4_OSFXSR);
    expect(&ud);
    cr4_write(cr4 | CR4_OSFXSR | CR4_OSXMMEXCPT);
    expect(&xm);
    cr4_write((cr4 | CR4_OSFXSR) & ~CR4_OSXMMEXCPT);
    expect(&xm_as_ud);
    uint32_t mxcsr = 0x1f80;
    __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
    cr4_write(cr4);
}

/* Ring 3 */

USER_FUNCTION(user_int_90, "int $0x90\n.globl user_int_90_end\nuser_int_90_end: nop");
USER_FUNCTION(user_int3, "int3\n.globl user_int3_end\nuser_int3_end: nop");
USER_FUNCTION(user_cli, "cli");
USER_FUNCTION(user_hlt, "hlt");
USER_FUNCTION(user_in, "inb $0x80, %al");
USER_FUNCTION(user_cr0, "mov %cr0, %rax");
USER_FUNCTION(user_wbinvd, "wbinvd");
USER_FUNCTION(user_invlpg, "invlpg (%rdi)");
USER_FUNCTION(user_lgdt, "lgdt (%rdi)");
USER_FUNCTION(user_rdmsr, "rdmsr");
USER_FUNCTION(user_clts, "clts");
USER_FUNCTION(user_swapgs, "swapgs");
USER_FUNCTION(user_iretq_kernel,
              "push $0x10; push %rsp; pushf; push $8; push %rdi;"
              ".globl user_iretq_kernel_at\nuser_iretq_kernel_at: iretq");
USER_FUNCTION(user_popf_if, "pushf; pop %rax; or $0x3200, %rax; push %rax; popf; pushf;"
                            "pop %rax; int $0x80");
extern char user_int_90_end[], user_int3_end[], user_iretq_kernel_at[];

static void try_ring_3(void)
{
    char *const privileged[] = {user_cli,    user_hlt,  user_in,    user_cr0, user_wbinvd,
                                user_invlpg, user_lgdt, user_rdmsr, user_clts};

    case_begin("privileged instructions in ring 3");
    for (unsigned i = 0; i < COUNT_OF(privileged); i++) {
        user_call(privileged[i], USER_STACK);
        ASSERT_TRAP(VECTOR_GP, 0, user_address(privileged[i]));
        ASSERT_EQ(cpu_self()->trap.cs, USER_CS64);
        ASSERT_EQ(cpu_self()->trap.ss, USER_DS);
        ASSERT_EQ(cpu_self()->trap.rsp, USER_STACK + 4096 - 16);
    }
    user_call(user_swapgs, 0);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_swapgs));

    case_begin("gates and privilege");
    user_call(user_int_90, 0);
    ASSERT_TRAP(VECTOR_GP, 0x90 * 8 + 2, user_address(user_int_90));
    trap_set_gate(0x90, 0xee, 0);
    user_call(user_int_90, 0);
    ASSERT_TRAP(0x90, 0, user_address(user_int_90_end));
    idt[0x90].type = 0x6e; /* not present */
    user_call(user_int_90, 0);
    ASSERT_TRAP(VECTOR_NP, 0x90 * 8 + 2, user_address(user_int_90));
    idt[0x90].type = 0xe5; /* no type of a gate in long mode */
    user_call(user_int_90, 0);
    ASSERT_TRAP(VECTOR_GP, 0x90 * 8 + 2, user_address(user_int_90));
    trap_set_gate(0x90, 0xee, 0);
    idt[0x90].selector = KERNEL_DS;
    user_call(user_int_90, 0);
    ASSERT_TRAP(VECTOR_GP, KERNEL_DS, user_address(user_int_90));
    idt[0x90].selector = 0;
    user_call(user_int_90, 0);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(user_int_90));
    trap_set_gate(0x90, 0x8e, 0);
    user_call(user_int3, 0);
    ASSERT_TRAP(VECTOR_GP, VECTOR_BP * 8 + 2, user_address(user_int3));
    trap_set_gate(VECTOR_BP, 0xee, 0);
    user_call(user_int3, 0);
    ASSERT_TRAP(VECTOR_BP, 0, user_address(user_int3_end));

    case_begin("ring 3 cannot raise itself, nor IF and IOPL");
    user_call(user_iretq_kernel, (uint64_t)raise_ud);
    ASSERT_TRAP(VECTOR_GP, KERNEL_CS, user_address(user_iretq_kernel_at));
    user_call(user_popf_if, 0);
    ASSERT_EQ(cpu_self()->trap.rax & (RFLAGS_IF | RFLAGS_IOPL), 0);
}

/* Stacks */

static uint64_t seen_frame, seen_flags, seen_ss;

static void note_frame(struct trap_frame *frame)
{
    seen_frame = (uint64_t)frame;
    seen_flags = flags_read();
    __asm__ volatile("mov %%ss, %0" : "=r"(seen_ss));
}

static void try_stacks(void)
{
    struct cpu *cpu = cpu_self();
    uint64_t rsp;

    trap_set_handler(0x90, note_frame);
    case_begin("same ring: the frame is aligned, below RSP");
    for (unsigned misalign = 0; misalign < 16; misalign++) {
        __asm__ volatile("mov %%rsp, %%rbx; sub %1, %%rsp; mov %%rsp, %0; int $0x90;"
                         "mov %%rbx, %%rsp"
                         : "=&r"(rsp)
                         : "r"((uint64_t)misalign)
                         : "rbx", "memory");
        ASSERT_EQ(seen_frame + sizeof(struct trap_frame), rsp & ~15ull);
        ASSERT_EQ(((struct trap_frame *)seen_frame)->rsp, rsp);
    }
    case_begin("interrupt gates clear IF, TF, NT and RF; trap gates keep IF");
    __asm__ volatile("pushf; orl $0x4200, (%%rsp); popf; int $0x90" : : : "memory");
    flags_write(RFLAGS_FIXED);
    ASSERT_EQ(seen_flags & (RFLAGS_IF | RFLAGS_TF | RFLAGS_NT | RFLAGS_RF), 0);
    trap_set_gate(0x90, 0x8f, 0);
    __asm__ volatile("sti; int $0x90; cli" : : : "memory");
    ASSERT_EQ(seen_flags & RFLAGS_IF, RFLAGS_IF);
    case_begin("an interrupt stack is used in the same ring too");
    trap_set_gate(0x90, 0x8e, 1);
    raise_int(0);
    ASSERT_EQ(seen_frame + sizeof(struct trap_frame), cpu->tss.ist[0]);
    ASSERT_EQ(seen_ss, KERNEL_DS);
    case_begin("from ring 3: RSP0, a null SS, and back");
    trap_set_gate(0x90, 0xee, 0);
    USER_FUNCTION(user_twice, "int $0x90; int $0x80");
    user_call(user_twice, 0);
    ASSERT_EQ(cpu->trap.vector, VECTOR_USER);
    ASSERT_EQ(seen_frame + sizeof(struct trap_frame), cpu->stack_top);
    ASSERT_EQ(seen_ss, 0);
    trap_set_gate(0x90, 0x8e, 0);
    trap_set_handler(0x90, NULL);
}

static uint64_t seen_depth;

static void skip_ud(struct trap_frame *frame)
{
    frame->rip += 2;
    if (++seen_depth < 5) {
        __asm__ volatile("ud2");
    }
}

static uint64_t shorten_idt(uint64_t limit)
{
    struct descriptor_pointer idtr = {(uint16_t)limit, (uint64_t)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    return 0;
}

static uint64_t page_fault(uint64_t address)
{
    *(volatile uint64_t *)address = 1;
    return 0;
}

static uint64_t bad_stack(uint64_t offset)
{
    __asm__ volatile("mov %0, %%rsp; ud2" : : "r"(NON_CANONICAL + offset));
    return 0;
}

static uint64_t push(uint64_t rsp)
{
    /* With nothing known of the stack yet. */
    __asm__ volatile("mov %%cr3, %%rax; mov %%rax, %%cr3; mov %0, %%rsp;"
                     "xor %%eax, %%eax; stc; push %%rax; push %%rax"
                     :
                     : "r"(rsp)
                     : "rax");
    return 0;
}

static void try_nested(void)
{
    case_begin("an exception within a handler");
    trap_set_handler(VECTOR_UD, skip_ud);
    __asm__ volatile("ud2");
    ASSERT_EQ(seen_depth, 5);
    trap_set_handler(VECTOR_UD, NULL);

    case_begin("beyond the limit of the IDT");
    shorten_idt(0x90 * 16 + 14);
    ASSERT(trap_try(raise_gp_int_limit, 0));
    shorten_idt(sizeof(idt) - 1);
    ASSERT_TRAP(VECTOR_GP, 0x90 * 8 + 2, raise_gp_int_limit_at);

    case_begin("double fault: #NP in delivering #PF");
    idt[VECTOR_PF].type = 0x0e;
    ASSERT(trap_try(page_fault, 1ull << 40));
    idt[VECTOR_PF].type = 0x8e;
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_DF);
    ASSERT_EQ(cpu_self()->trap.error, 0);
    case_begin("double fault: #NP in delivering #GP");
    idt[VECTOR_GP].type = 0x0e;
    ASSERT(trap_try(raise_gp_read, 0));
    idt[VECTOR_GP].type = 0x8e;
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_DF);
    case_begin("double fault: no stack");
    ASSERT(trap_try(bad_stack, 0x1000));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_DF);
    for (unsigned bit = 47; bit < 64; bit++) {
        ASSERT(trap_try(push, (1ull << bit) + 0x10));
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_DF);
        ASSERT_EQ(cpu_self()->trap.rsp, (1ull << bit) + 0x10);
        ASSERT_EQ(cpu_self()->trap.rflags & 0x8d5, 0x45); /* ZF, PF and CF */
    }
    case_begin("no double fault: #NP in delivering #UD, which is benign");
    idt[VECTOR_UD].type = 0x0e;
    ASSERT(trap_try(raise_ud, 0));
    idt[VECTOR_UD].type = 0x8e;
    /* EXT: the second was not caused by the program's own INT n (SDM 3A 6.13). */
    ASSERT_TRAP(VECTOR_NP, VECTOR_UD * 8 + 3, raise_ud_at);
}

static uint64_t iret_to(uint64_t frame)
{
    const struct user_start *start = (const struct user_start *)frame;
    user_enter(start);
    return 0;
}

static void try_iret(void)
{
    const struct {
        const char *name;
        struct user_start start;
        uint64_t error;
    } rows[] = {
        {"RIP not canonical", {NON_CANONICAL, 0, 0, 2, KERNEL_CS, KERNEL_DS}, 0},
        {"null CS", {0, 0, 0, 2, 0, KERNEL_DS}, 0},
        {"data as CS", {0, 0, 0, 2, KERNEL_DS, KERNEL_DS}, KERNEL_DS},
        {"CS beyond the limit", {0, 0, 0, 2, 0x1000, KERNEL_DS}, 0x1000},
        {"null SS in ring 3", {0, 0, 0, 2, USER_CS64, 3}, 0},
        {"SS of the wrong ring", {0, 0, 0, 2, USER_CS64, KERNEL_DS}, KERNEL_DS},
        {"code as SS", {0, 0, 0, 2, USER_CS64, USER_CS64}, USER_CS64 & ~3},
        {"SS whose RPL is not CS's", {0, 0, 0, 2, KERNEL_CS, USER_DS}, USER_DS & ~3},
    };
    for (unsigned i = 0; i < COUNT_OF(rows); i++) {
        case_begin("IRETQ: %s", rows[i].name);
        ASSERT(trap_try(iret_to, (uint64_t)&rows[i].start));
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
        ASSERT_EQ(cpu_self()->trap.error, rows[i].error);
        ASSERT_EQ(cpu_self()->trap.cs, KERNEL_CS);
        /* It is the IRETQ that faults, and it has changed nothing. */
        ASSERT_EQ(*(uint16_t *)cpu_self()->trap.rip, 0xcf48);
    }
}

/* CR2 into a register, which is read from there and left as it was. */
#define READ_INTO(reg, value)                                               \
    __asm__ volatile("push %%" reg "\n\tmov %%cr2, %%" reg "\n\tmov %%" reg \
                     ", %0\n\tpop %%" reg                                   \
                     : "=m"(value)::"memory")

static void try_control_registers(void)
{
    static uint64_t value;
    case_begin("control registers are read as they are");
    uint64_t cr0 = cr0_read(), cr3 = cr3_read(), cr4 = cr4_read();
    for (uint64_t i = 1; i < 1000; i++) {
        cr2_write(i << 40 | i);
        READ_INTO("rax", value);
        ASSERT_EQ(value, i << 40 | i);
        READ_INTO("rdi", value);
        ASSERT_EQ(value, i << 40 | i);
        READ_INTO("r9", value);
        ASSERT_EQ(value, i << 40 | i);
        READ_INTO("r15", value);
        ASSERT_EQ(value, i << 40 | i);
        cr0_write(cr0 ^ (i % 2 ? CR0_TS : 0));
        ASSERT_EQ(cr0_read(), cr0 ^ (i % 2 ? CR0_TS : 0));
        ASSERT_EQ(cr3_read(), cr3);
        ASSERT_EQ(cr4_read(), cr4);
        cr0_write(cr0);
    }
}

void guest_test(void)
{
    /* The last canonical page below the hole is there, so that crossing its end is #GP
     * alone. */
    page_map(0x7ffffffff000, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    gdt[0x38 / 8] = 0x00cf13000000ffff; /* data, not present */
    for (unsigned i = 0; i < COUNT_OF(table); i++) {
        expect(&table[i]);
    }
    try_bad_stacks();
    try_floating_point();
    try_ring_3();
    try_stacks();
    try_nested();
    try_iret();
    try_control_registers();
}
