/*
 * The instructions that are sensitive and do not trap (Robin & Irvine 2000): each
 * executed by a kernel in ring 0 and by a program in ring 3, which would notice if it
 * were told of, or acted on, anything but the guest's own processor.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define USER_TOP   (USER_STACK + 4096 - 16)

#define OWN_LDT    0x180 /* selectors in own_gdt, behind the library's */
#define OWN_GATE   0x190
#define LDT_DATA   0x04 /* the first of the LDT */
#define GDT_LIMIT  0x1af
#define FLAGS_SEEN (RFLAGS_IF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_CF)

static uint64_t own_gdt[(GDT_LIMIT + 1) / 8] __attribute__((aligned(16)));
static uint64_t own_ldt[2] = {0x00cff3000000ffff, 0x00cf93000000ffff}; /* DPL 3, DPL 0 */
static struct idt_gate own_idt[256];

static const struct trap_frame *frame(void)
{
    return &cpu_self()->trap;
}

static void user_with_flags(const void *code, uint64_t argument, uint64_t flags)
{
    struct user_start start = {
        .rip = user_address(code),
        .rdi = argument,
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED | flags,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    user_run(&start);
}

/* Runs the user's code, which comes back by INT 80h, and yields its RAX. */
static uint64_t user_value(const void *code, uint64_t argument)
{
    user_call(code, argument);
    ASSERT_EQ(frame()->vector, VECTOR_USER);
    return frame()->rax;
}

#define ASSERT_USER_FAULT(code, argument, vector_, error_)                 \
    do {                                                                   \
        user_call(code, argument);                                         \
        if (frame()->vector != (vector_) || frame()->error != (error_))    \
            FAIL("expected vector %u, error 0x%x; actual %lu, 0x%lx",      \
                 (unsigned)(vector_), (unsigned)(error_), frame()->vector, \
                 frame()->error);                                          \
    } while (0)

/* --- Registers that show where things are --- */

USER_FUNCTION(user_sgdt,
              "sgdt -32(%rsp); movzwl -32(%rsp), %ebx; mov -30(%rsp), %rax; int $0x80");
USER_FUNCTION(user_sidt,
              "sidt -32(%rsp); movzwl -32(%rsp), %ebx; mov -30(%rsp), %rax; int $0x80");
USER_FUNCTION(user_sldt, "sldt %rax; int $0x80");
USER_FUNCTION(user_str, "str %rax; int $0x80");
USER_FUNCTION(user_smsw, "smsw %rax; int $0x80");

static void try_tables(void)
{
    struct descriptor_pointer seen;
    case_begin("SGDT: kernel and program see the kernel's table, also when it moves");
    __asm__ volatile("sgdt %0" : "=m"(seen));
    ASSERT_EQ(seen.base, (uint64_t)own_gdt);
    ASSERT_EQ(seen.limit, GDT_LIMIT);
    ASSERT_EQ(user_value(user_sgdt, 0), (uint64_t)own_gdt);
    ASSERT_EQ(frame()->rbx, GDT_LIMIT);
    struct descriptor_pointer shorter = {GDT_LIMIT - 8, (uint64_t)own_gdt};
    __asm__ volatile("lgdt %0" : : "m"(shorter));
    ASSERT_EQ(user_value(user_sgdt, 0), (uint64_t)own_gdt);
    ASSERT_EQ(frame()->rbx, GDT_LIMIT - 8);
    shorter.limit = GDT_LIMIT;
    __asm__ volatile("lgdt %0" : : "m"(shorter));

    case_begin("SIDT: the same for interrupts, which come by the new table");
    struct descriptor_pointer before;
    __asm__ volatile("sidt %0" : "=m"(before));
    ASSERT_EQ(before.base, (uint64_t)idt);
    memcpy(own_idt, idt, sizeof(own_idt));
    struct descriptor_pointer own = {sizeof(own_idt) - 1, (uint64_t)own_idt};
    __asm__ volatile("lidt %0" : : "m"(own));
    __asm__ volatile("sidt %0" : "=m"(seen));
    ASSERT_EQ(seen.base, (uint64_t)own_idt);
    ASSERT_EQ(user_value(user_sidt, 0), (uint64_t)own_idt);
    ASSERT_EQ(frame()->rbx, sizeof(own_idt) - 1);
    __asm__ volatile("lidt %0" : : "m"(before));
    ASSERT_EQ(user_value(user_sidt, 0), before.base);
}

static void try_selectors(void)
{
    uint64_t value;
    case_begin("SLDT: none, then the kernel's");
    __asm__ volatile("lldt %w0" : : "r"(0));
    ASSERT_EQ(user_value(user_sldt, 0), 0);
    __asm__ volatile("lldt %w0" : : "r"(OWN_LDT));
    __asm__ volatile("sldt %0" : "=r"(value));
    ASSERT_EQ(value, OWN_LDT);
    ASSERT_EQ(user_value(user_sldt, 0), OWN_LDT);

    case_begin("STR: the kernel's task");
    __asm__ volatile("str %0" : "=r"(value));
    ASSERT_EQ(value, TSS_BASE);
    ASSERT_EQ(user_value(user_str, 0), TSS_BASE);

    case_begin("SMSW: the kernel's CR0, TS as it is set");
    uint64_t cr0 = cr0_read();
    ASSERT_EQ(user_value(user_smsw, 0) & 0xffff, cr0 & 0xffff);
    cr0_write(cr0 | CR0_TS);
    __asm__ volatile("smsw %0" : "=r"(value));
    ASSERT_EQ(value & 0xffff, (cr0 | CR0_TS) & 0xffff);
    ASSERT_EQ(user_value(user_smsw, 0) & CR0_TS, CR0_TS);
    __asm__ volatile("clts");
    ASSERT_EQ(user_value(user_smsw, 0) & CR0_TS, 0);
    cr0_write(cr0);
}

/* --- Flags --- */

USER_FUNCTION(user_pushf, "pushf; pop %rax; int $0x80");
USER_FUNCTION(user_popf, "push %rdi; popf; pushf; pop %rax; int $0x80");
/* To itself, with the flags of the argument. */
USER_FUNCTION(user_iret,
              "mov %ss, %eax; push %rax; lea 8(%rsp), %rax; push %rax; push %rdi\n"
              "mov %cs, %eax; push %rax; lea 1f(%rip), %rax; push %rax; iretq\n"
              "1: pushf; pop %rax; int $0x80");
USER_FUNCTION(user_iret_to_kernel, "push $0x10; push %rsp; pushf; push $0x08; push %rdi\n"
                                   ".globl user_iret_at\nuser_iret_at: iretq; int $0x80");
extern char user_iret_at[];

static uint64_t iret_here(uint64_t flags)
{
    uint64_t seen;
    __asm__ volatile(
        "mov %%rsp, %%rax; mov %%ss, %%ecx; push %%rcx; push %%rax; push %1\n"
        "mov %%cs, %%ecx; push %%rcx; lea 1f(%%rip), %%rcx; push %%rcx\n"
        "iretq\n"
        "1: pushf; pop %0"
        : "=&r"(seen)
        : "r"(flags)
        : "rax", "rcx", "memory", "cc");
    return seen;
}

static void try_flags_of_the_kernel(void)
{
    static const uint64_t flags[] = {0, RFLAGS_IF, RFLAGS_IOPL, RFLAGS_IF | RFLAGS_IOPL,
                                     RFLAGS_NT | RFLAGS_CF};
    case_begin("POPF and PUSHF in ring 0: all flags change");
    for (unsigned i = 0; i < COUNT_OF(flags); i++) {
        flags_write(RFLAGS_FIXED | flags[i]);
        uint64_t seen = flags_read();
        flags_write(RFLAGS_FIXED);
        ASSERT_EQ(seen & FLAGS_SEEN, flags[i]);
    }
    case_begin("IRET in ring 0: all flags change");
    for (unsigned i = 0; i < COUNT_OF(flags); i++) {
        uint64_t seen = iret_here(RFLAGS_FIXED | flags[i]);
        flags_write(RFLAGS_FIXED);
        ASSERT_EQ(seen & FLAGS_SEEN, flags[i]);
    }
}

/* What a program asked for, and what it may have (SDM 2B, POPF, table 4-15). */
static const struct {
    uint64_t start, asked, seen;
} user_flags[] = {
    {RFLAGS_IF, 0, RFLAGS_IF},
    {0, RFLAGS_IF, 0},
    {RFLAGS_IF, RFLAGS_IOPL | RFLAGS_CF, RFLAGS_IF | RFLAGS_CF},
    {RFLAGS_IF | RFLAGS_IOPL, 0, RFLAGS_IOPL},
    {RFLAGS_IOPL, RFLAGS_IF, RFLAGS_IF | RFLAGS_IOPL},
    {RFLAGS_IF, RFLAGS_IF | RFLAGS_NT, RFLAGS_IF | RFLAGS_NT},
};

static void try_flags_of_the_program(void)
{
    for (unsigned i = 0; i < COUNT_OF(user_flags); i++) {
        uint64_t start = user_flags[i].start;
        case_begin("PUSHF, POPF, IRET in ring 3: 0x%lx, asked for 0x%lx", start,
                   user_flags[i].asked);
        user_with_flags(user_pushf, 0, start);
        ASSERT_EQ(frame()->rax & FLAGS_SEEN, start);
        user_with_flags(user_popf, RFLAGS_FIXED | user_flags[i].asked, start);
        ASSERT_EQ(frame()->vector, VECTOR_USER);
        ASSERT_EQ(frame()->rax & FLAGS_SEEN, user_flags[i].seen);
        ASSERT_EQ(frame()->rflags & FLAGS_SEEN, user_flags[i].seen);
        user_with_flags(user_iret, RFLAGS_FIXED | user_flags[i].asked, start);
        ASSERT_EQ(frame()->vector, VECTOR_USER);
        ASSERT_EQ(frame()->rax & FLAGS_SEEN, user_flags[i].seen);
    }
    case_begin("IRET in ring 3: not to the kernel");
    ASSERT_USER_FAULT(user_iret_to_kernel, (uint64_t)trap_resume, VECTOR_GP, KERNEL_CS);
    ASSERT_EQ(frame()->rip, user_address(user_iret_at));
    ASSERT_EQ(frame()->cs, USER_CS64);
}

/* --- What descriptors look like --- */

USER_FUNCTION(user_lar, "xor %eax, %eax; lar %edi, %eax; setz %bl; int $0x80");
USER_FUNCTION(user_lsl, "xor %eax, %eax; lsl %edi, %eax; setz %bl; int $0x80");
USER_FUNCTION(user_verr, "verr %di; setz %al; movzbl %al, %eax; int $0x80");
USER_FUNCTION(user_verw, "verw %di; setz %al; movzbl %al, %eax; int $0x80");

struct inspected {
    uint64_t value;
    bool ok;
};

#define DEFINE_INSPECT(name)                        \
    static struct inspected name(uint64_t selector) \
    {                                               \
        struct inspected seen = {0, false};         \
        uint32_t value = 0;                         \
        __asm__(#name " %2, %0"                     \
                : "+r"(value), "=@ccz"(seen.ok)     \
                : "r"((uint32_t)selector));         \
        seen.value = value;                         \
        return seen;                                \
    }
DEFINE_INSPECT(lar)
DEFINE_INSPECT(lsl)

#define DEFINE_VERIFY(name)                                            \
    static bool name(uint64_t selector)                                \
    {                                                                  \
        bool ok;                                                       \
        __asm__(#name " %w1" : "=@ccz"(ok) : "r"((uint32_t)selector)); \
        return ok;                                                     \
    }
DEFINE_VERIFY(verr)
DEFINE_VERIFY(verw)

static const struct {
    const char *name;
    uint64_t selector;
    bool readable, writable;
    bool to_program; /* the same for a program; otherwise it sees nothing */
} descriptors[] = {
    {"kernel's code", KERNEL_CS, true, false, false},
    {"kernel's data", KERNEL_DS, true, true, false},
    {"program's code", USER_CS64, true, false, true},
    {"program's data", USER_DS, true, true, true},
    {"LDT's data, DPL 3", LDT_DATA | 3, true, true, true},
    {"LDT's data, DPL 0", LDT_DATA + 8, true, true, false},
};

static void try_inspection(void)
{
    for (unsigned i = 0; i < COUNT_OF(descriptors); i++) {
        uint64_t selector = descriptors[i].selector;
        bool seen = descriptors[i].to_program;
        case_begin("LAR, LSL, VERR, VERW: %s", descriptors[i].name);
        struct inspected rights = lar(selector), limit = lsl(selector);
        uint64_t raw = selector & 4 ? own_ldt[selector / 8] : own_gdt[selector / 8];
        ASSERT(rights.ok && limit.ok);
        /* SDM 2A "LAR": bits 16 to 19 are undefined. */
        ASSERT_EQ(rights.value & 0xf0ff00, raw >> 32 & 0xf0ff00);
        ASSERT_EQ(limit.value, 0xffffffff);
        ASSERT_EQ(verr(selector), descriptors[i].readable);
        ASSERT_EQ(verw(selector), descriptors[i].writable);

        ASSERT_EQ(user_value(user_lar, selector), seen ? rights.value : 0);
        ASSERT_EQ(frame()->rbx & 0xff, seen);
        ASSERT_EQ(user_value(user_lsl, selector), seen ? limit.value : 0);
        ASSERT_EQ(frame()->rbx & 0xff, seen);
        ASSERT_EQ(user_value(user_verr, selector), seen && descriptors[i].readable);
        ASSERT_EQ(user_value(user_verw, selector), seen && descriptors[i].writable);
    }
}

/* --- Segment registers --- */

USER_FUNCTION(user_mov_from, "mov %cs, %eax; mov %ss, %ebx; int $0x80");
USER_FUNCTION(user_mov_to, ".globl user_mov_to_at\nuser_mov_to_at: mov %edi, %fs\n"
                           "mov %fs, %eax; int $0x80");
USER_FUNCTION(user_push_pop, "push %rdi\n.globl user_pop_at\nuser_pop_at: pop %gs\n"
                             "push %gs; pop %rax; int $0x80");
extern char user_mov_to_at[], user_pop_at[];

static uint64_t load_fs(uint64_t selector)
{
    __asm__ volatile("mov %0, %%fs" : : "r"((uint32_t)selector));
    return 0;
}

static uint64_t pop_gs(uint64_t selector)
{
    uint64_t seen;
    __asm__ volatile("push %1; pop %%gs; push %%gs; pop %0" : "=r"(seen) : "r"(selector));
    return seen;
}

static void try_segments(void)
{
    uint32_t selector;
    case_begin("MOV from segment registers: the privilege level as it is");
    __asm__ volatile("mov %%cs, %0" : "=r"(selector));
    ASSERT_EQ(selector, KERNEL_CS);
    ASSERT_EQ(user_value(user_mov_from, 0), USER_CS64);
    ASSERT_EQ(frame()->rbx, USER_DS);

    case_begin("MOV to, POP and PUSH of segment registers: by privilege");
    load_fs(KERNEL_DS);
    __asm__ volatile("mov %%fs, %0" : "=r"(selector));
    ASSERT_EQ(selector, KERNEL_DS);
    ASSERT_EQ(pop_gs(KERNEL_DS), KERNEL_DS);
    ASSERT_EQ(pop_gs(LDT_DATA), LDT_DATA);
    load_fs(0);
    pop_gs(0);
    ASSERT_EQ(user_value(user_mov_to, USER_DS), USER_DS);
    ASSERT_EQ(user_value(user_mov_to, LDT_DATA | 3), LDT_DATA | 3);
    ASSERT_EQ(user_value(user_push_pop, LDT_DATA | 3), LDT_DATA | 3);
    load_fs(0);
    pop_gs(0);
    ASSERT_USER_FAULT(user_mov_to, KERNEL_DS, VECTOR_GP, KERNEL_DS);
    ASSERT_EQ(frame()->rip, user_address(user_mov_to_at));
    ASSERT_USER_FAULT(user_push_pop, KERNEL_DS | 3, VECTOR_GP, KERNEL_DS);
    ASSERT_EQ(frame()->rip, user_address(user_pop_at));
    ASSERT_USER_FAULT(user_mov_to, (LDT_DATA + 8) | 3, VECTOR_GP, LDT_DATA + 8);
}

/* --- Transfers --- */

struct far_pointer {
    uint64_t offset;
    uint16_t selector;
} __attribute__((packed));

/* RDI points to the target's far pointer, in the kernel's memory or on the own stack. */
USER_FUNCTION(user_far_call, "lea 1f(%rip), %rax; push %rdi; push %rax\n"
                             ".globl user_far_call_at\n"
                             "user_far_call_at: rex64 lcall *(%rsp)\n"
                             "2: int $0x80\n"
                             "1: mov 8(%rsp), %rax; mov %cs, %ebx; rex64 lret");
USER_FUNCTION(user_far_jump, "lea 1f(%rip), %rax; push %rdi; push %rax\n"
                             ".globl user_far_jump_at\n"
                             "user_far_jump_at: rex64 ljmp *(%rsp)\n"
                             "ud2\n"
                             "1: mov %cs, %eax; int $0x80");
USER_FUNCTION(user_far_return, "push %rdi; lea 1f(%rip), %rax; push %rax\n"
                               ".globl user_far_return_at\n"
                               "user_far_return_at: rex64 lret\n"
                               "ud2\n"
                               "1: mov %cs, %eax; int $0x80");
USER_FUNCTION(user_gate, "mov %rsp, %rbx; push %rdi; push $0; rex64 lcall *(%rsp)\n"
                         ".globl user_gate_end\nuser_gate_end: int $0x80");
USER_FUNCTION(user_int_n, ".globl user_int_21\nuser_int_21: int $0x21\n"
                          ".globl user_int_21_end\nuser_int_21_end: ud2");
extern char user_far_call_at[], user_far_jump_at[], user_far_return_at[], user_gate_end[],
    user_int_21[], user_int_21_end[];

/* Behind the call gate: what the processor pushed, then back. */
uint64_t gate_frame[4], gate_cs, gate_rsp;
extern char gate_entry[];
__asm__(".text\n"
        "gate_entry:\n"
        "mov %rsp, gate_rsp(%rip)\n"
        "mov (%rsp), %rax\n mov %rax, gate_frame(%rip)\n"
        "mov 8(%rsp), %rax\n mov %rax, gate_frame+8(%rip)\n"
        "mov 16(%rsp), %rax\n mov %rax, gate_frame+16(%rip)\n"
        "mov 24(%rsp), %rax\n mov %rax, gate_frame+24(%rip)\n"
        "mov %cs, %eax\n mov %rax, gate_cs(%rip)\n"
        "rex64 lret\n"
        ".previous");

static void try_far_in_the_kernel(void)
{
    uint64_t pushed, target;
    struct far_pointer pointer;
    case_begin("far CALL, RET and JMP in ring 0");
    __asm__ volatile("lea 1f(%%rip), %1; mov %1, %2; movw $0x08, 8+%2\n"
                     "rex64 lcall *%2; jmp 2f\n"
                     "1: mov 8(%%rsp), %0; rex64 lret\n"
                     "2:"
                     : "=&r"(pushed), "=&r"(target), "=m"(pointer)
                     :
                     : "memory");
    ASSERT_EQ(pushed, KERNEL_CS);
    __asm__ volatile("lea 1f(%%rip), %0; mov %0, %1; movw $0x08, 8+%1\n"
                     "rex64 ljmp *%1; ud2\n"
                     "1:"
                     : "=&r"(target), "=m"(pointer)
                     :
                     : "memory");
}

static void try_far_in_the_program(void)
{
    case_begin("far CALL, RET and JMP in ring 3: to the own ring");
    ASSERT_EQ(user_value(user_far_call, USER_CS64), USER_CS64);
    ASSERT_EQ(frame()->rbx, USER_CS64);
    ASSERT_EQ(user_value(user_far_jump, USER_CS64), USER_CS64);
    ASSERT_EQ(user_value(user_far_return, USER_CS64), USER_CS64);
    case_begin("far CALL, RET and JMP in ring 3: not to the kernel's code");
    ASSERT_USER_FAULT(user_far_call, KERNEL_CS | 3, VECTOR_GP, KERNEL_CS);
    ASSERT_EQ(frame()->rip, user_address(user_far_call_at));
    ASSERT_USER_FAULT(user_far_jump, KERNEL_CS, VECTOR_GP, KERNEL_CS);
    ASSERT_EQ(frame()->rip, user_address(user_far_jump_at));
    ASSERT_USER_FAULT(user_far_return, KERNEL_CS, VECTOR_GP, KERNEL_CS);
    ASSERT_EQ(frame()->rip, user_address(user_far_return_at));
    ASSERT_EQ(frame()->cs, USER_CS64);

    case_begin("far CALL through a gate: the kernel's stack, and back");
    gate_cs = 0;
    user_call(user_gate, OWN_GATE | 3);
    ASSERT_TRAP(VECTOR_USER, 0, user_address(user_gate_end) + 2);
    ASSERT_EQ(gate_cs, KERNEL_CS);
    ASSERT_EQ(gate_frame[0], user_address(user_gate_end));
    ASSERT_EQ(gate_frame[1], USER_CS64);
    ASSERT_EQ(gate_frame[2], frame()->rbx - 16);
    ASSERT_EQ(gate_frame[3], USER_DS);
    ASSERT_EQ(gate_rsp, cpu_self()->tss.rsp[0] - 32);
    ASSERT_EQ(frame()->cs, USER_CS64);
}

static void try_int_n(void)
{
    case_begin("INT n in ring 3: where the gate lets it");
    ASSERT_USER_FAULT(user_int_n, 0, VECTOR_GP, 0x21 * 8 + 2);
    ASSERT_EQ(frame()->rip, user_address(user_int_21));
    trap_set_gate(0x21, 0xee, 0);
    user_with_flags(user_int_n, 0, RFLAGS_IF);
    ASSERT_TRAP(0x21, 0, user_address(user_int_21_end));
    ASSERT_EQ(frame()->cs, USER_CS64);
    ASSERT_EQ(frame()->rflags & RFLAGS_IF, RFLAGS_IF);
    trap_set_gate(0x21, 0x8e, 0);
}

static void make_tables(void)
{
    struct descriptor_pointer before;
    __asm__ volatile("sgdt %0" : "=m"(before));
    ASSERT(before.limit < OWN_LDT);
    memcpy(own_gdt, (const void *)before.base, before.limit + 1u);
    uint64_t ldt = (uint64_t)own_ldt, gate = (uint64_t)gate_entry;
    own_gdt[OWN_LDT / 8] = (sizeof(own_ldt) - 1) | (ldt & 0xffffff) << 16 |
                           0x82ull << 40 | (ldt >> 24 & 0xff) << 56;
    own_gdt[OWN_LDT / 8 + 1] = ldt >> 32;
    own_gdt[OWN_GATE / 8] = (gate & 0xffff) | (uint64_t)KERNEL_CS << 16 | 0xecull << 40 |
                            (gate >> 16 & 0xffff) << 48;
    own_gdt[OWN_GATE / 8 + 1] = gate >> 32;
    struct descriptor_pointer own = {GDT_LIMIT, (uint64_t)own_gdt};
    __asm__ volatile("lgdt %0" : : "m"(own));
}

void guest_test(void)
{
    make_tables();
    try_tables();
    try_selectors();
    try_flags_of_the_kernel();
    try_flags_of_the_program();
    try_inspection();
    try_segments();
    try_far_in_the_kernel();
    try_far_in_the_program();
    try_int_n();
}
