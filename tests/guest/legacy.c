/*
 * Out of long mode and back: 32-bit protected mode without paging, with 4M pages and with
 * PAE, task switches by CALL, IRET and a task gate, virtual-8086 mode with and without
 * its extensions; between ring 0 and ring 3 by IRET, SYSENTER and SYSEXIT. The 32-bit
 * code is one script that leaves what it saw in `seen`.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define CODE32       0x08
#define DATA32       0x10
#define CODE64       0x18
#define TASK_A       0x20 /* the script's own */
#define TASK_B       0x28
#define TASK_C       0x30
#define GATE_C       0x38 /* a task gate of the IDT, kept here for a look */
#define ENTER        0x40 /* SYSENTER's CS; three more follow it (SDM 2B "SYSENTER") */
#define WORD_A       0x60 /* segments that begin at a word each */
#define WORD_B       0x68
#define NOWHERE      0x80 /* behind the GDT */

#define CR0_PG       (1ull << 31)
#define CR4_VME      (1ull << 0)
#define CR4_PSE      (1ull << 4)
#define CR4_PAE      (1ull << 5)

#define V86_SEGMENT  0x5000
#define V86_LINEAR   (V86_SEGMENT << 4)
#define IVT_21       (0x21 * 4)
#define ALIAS        0x80000000u /* where the low memory is seen again */
#define ALIAS_ABSENT 0xa0000000u

#define TSS_SIZE     140
#define TSS_EIP      32
#define TSS_MAP      136 /* I/O permissions, empty; the redirection bitmap in front */

/* The assembly knows these places: 4 bytes each. */
enum {
    SEEN_FLAGS,   /* behind the return from task B */
    SEEN_TASK,    /* TR there */
    SEEN_B,       /* how often task B ran */
    SEEN_B_LINK,  /* its link */
    SEEN_B_FLAGS, /* its flags */
    SEEN_C,
    SEEN_INT21, /* interrupts 21h that came through the IDT */
    SEEN_AX,    /* as virtual-8086 mode left them */
    SEEN_BX,
    SEEN_CX,
    SEEN_V86_CS,
    SEEN_V86_FLAGS,
    SEEN_ALIAS,
    SEEN_CR2,
    SEEN_ERROR,
    SEEN_CARRIES,
    SEEN_LEVELS,
    SEEN_WORDS,
    SEEN_GP,
    SEEN_COUNT,
};

uint32_t seen[SEEN_COUNT];
uint64_t legacy_gdt[16], legacy_idt[64], saved_rsp, saved_cr3;
uint32_t legacy_cr3, legacy_cr4, legacy_esp;
uint8_t tss_a[TSS_SIZE], tss_b[TSS_SIZE], tss_c[TSS_SIZE];
uint8_t legacy_stacks[5][4096] __attribute__((aligned(16)));
struct descriptor_pointer legacy_gdtr, legacy_idtr;
const volatile uint32_t marker = 0x600dcafe;
uint32_t legacy_words[2];

void legacy_tasks(void), legacy_v86(void), legacy_paging(void), legacy_levels(void);
extern char task_b[], task_c[], legacy_int20[], legacy_int21[], legacy_page_fault[];
extern char v86_start[], v86_int21[], v86_end[];
extern char levels_enter[], levels_int20[], levels_gp[];

/* A script from long mode and back. */
#define LEGACY(name, body)                                               \
    ".text\n.globl " #name "\n" #name ":\n"                              \
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n" \
    "mov %rsp, saved_rsp\n"                                              \
    "mov %cr3, %rax; mov %rax, saved_cr3\n"                              \
    "lgdt legacy_gdtr\n"                                                 \
    "push $0x08; push $1f; lretq\n"                                      \
    ".code32\n1:\n"                                                      \
    "mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss\n"     \
    "mov $legacy_stacks + 4096, %esp\n"                                  \
    "mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, %cr0\n"            \
    "mov $0xc0000080, %ecx; rdmsr; and $~0x100, %eax; wrmsr\n"           \
    "lidt legacy_idtr\n"                                                 \
    "mov $0x20, %eax; ltr %ax\n" body "jmp legacy_leave\n.code64\n"

__asm__(LEGACY(legacy_tasks, "lcall $0x28, $0\n"
                             "pushf; pop seen + 0\n"
                             "str %eax; mov %eax, seen + 4\n"
                             "ud2\n") /* task C goes on behind it */
        LEGACY(legacy_v86,
               "mov legacy_cr4, %eax; mov %eax, %cr4\n"
               "mov %esp, legacy_esp\n"
               "pushl $0; pushl $0; pushl $0x5000; pushl $0\n" /* GS FS DS ES */
               "pushl $0x5000; pushl $0xfff0\n"                /* SS ESP */
               "pushl $0x23002; pushl $0x5000; pushl $0\n"     /* VM, IOPL 3 */
               "iret\n"
               ".globl v86_left\nv86_left:\n")
            LEGACY(legacy_paging, "mov legacy_cr4, %eax; mov %eax, %cr4\n"
                                  "mov legacy_cr3, %eax; mov %eax, %cr3\n"
                                  "mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0\n"
                                  "mov marker + 0x80000000, %eax; mov %eax, seen + 48\n"
                                  "mov %esp, legacy_esp\n"
                                  "movl $1, 0xa0000004\n"
                                  ".globl fault_left\nfault_left:\n"
                                  "mov %cr0, %eax; and $0x7fffffff, %eax; mov %eax, "
                                  "%cr0\n") ".code32\n"
                                            "legacy_leave:\n"
                                            "mov $0x20, %eax; mov %eax, %cr4\n"
                                            "mov saved_cr3, %eax; mov %eax, %cr3\n"
                                            "mov $0xc0000080, %ecx; rdmsr; or $0x100, "
                                            "%eax; wrmsr\n"
                                            "mov %cr0, %eax; or $0x80000000, %eax; mov "
                                            "%eax, %cr0\n"
                                            "ljmp $0x18, $2f\n"
                                            ".code64\n2: mov saved_rsp, %rsp\n"
                                            "pop %r15; pop %r14; pop %r13; pop %r12; pop "
                                            "%rbp; pop %rbx\n"
                                            "ret\n"
                                            ".code32\n"
                                            "task_b: incl seen + 8\n"
                                            "movzwl tss_b, %eax; mov %eax, seen + 12\n"
                                            "pushf; pop seen + 16\n"
                                            "iret\n"
                                            "jmp task_b\n"
                                            "task_c: incl seen + 20\n"
                                            "addl $2, tss_a + 32\n"
                                            "iret\n"
                                            "jmp task_c\n"
                                            "legacy_int20:\n" /* ends virtual-8086 mode */
                                            "mov $0x10, %edx; mov %edx, %ds; mov %edx, "
                                            "%es\n"
                                            "mov %eax, seen + 28; mov %ebx, seen + 32; "
                                            "mov %ecx, seen + 36\n"
                                            "mov 4(%esp), %eax; mov %eax, seen + 40\n"
                                            "mov 8(%esp), %eax; mov %eax, seen + 44\n"
                                            "mov legacy_esp, %esp\n"
                                            "jmp v86_left\n"
                                            "legacy_int21:\n"
                                            "push %eax; mov $0x10, %eax; mov %eax, %ds\n"
                                            "incl seen + 24\n"
                                            "pop %eax; iret\n"
                                            "legacy_page_fault:\n"
                                            "pop seen + 56\n"
                                            "mov %cr2, %eax; mov %eax, seen + 52\n"
                                            "mov legacy_esp, %esp\n"
                                            "jmp fault_left\n"
                                            ".code16\n"
                                            "v86_start: mov $0x1234, %ax\n"
                                            "push %cs; pop %bx\n"
                                            "xor %cx, %cx\n"
                                            "int $0x21\n"
                                            "int $0x20\n"
                                            "v86_int21: mov $0x5678, %cx\n"
                                            "iret\n"
                                            "v86_end:\n"
                                            ".code64\n.previous\n");

/* EBX counts carries, ESI adds up code selectors, EBP what FS shows; each round goes out
 * by IRET, in by SYSENTER, out by SYSEXIT, and in by an interrupt. */
__asm__(LEGACY(legacy_levels,
               "mov %esp, legacy_esp\n"
               "xor %ebx, %ebx; xor %esi, %esi; xor %ebp, %ebp; mov $200, %edi\n"
               "levels_again:\n"
               "pushl $0x5b; pushl $legacy_stacks + 2 * 4096; pushl $3\n" /* CF */
               "pushl $0x53; pushl $levels_user; iret\n"
               "levels_left: mov legacy_esp, %esp\n"
               "mov %ebx, seen + 60; mov %esi, seen + 64; mov %ebp, seen + 68\n"));

__asm__(".text\n.code32\n"
        "levels_user: adc $0, %ebx; mov %cs, %eax; add %eax, %esi\n"
        "mov $levels_back, %edx; mov %esp, %ecx; stc; sysenter; ud2\n"
        "levels_enter: adc $0, %ebx; mov %cs, %eax; add %eax, %esi\n"
        "mov $0x10, %eax; mov %eax, %ds; mov %eax, %es\n"
        "mov $0x63, %eax; mov %eax, %fs; add %fs:0, %ebp\n"
        "mov $0x68, %eax; mov %eax, %fs; add %fs:0, %ebp\n"
        "pushl $0x60; pop %fs; add %fs:0, %ebp\n"
        "mov $0x80, %eax; mov %eax, %fs; add %fs:0, %ebp\n"
        "pushf; pushl %cs; pushl $1f; iret; ud2\n"
        "1: sysexit; ud2\n"
        "levels_back: mov %cs, %eax; add %eax, %esi; int $0x20; ud2\n"
        "levels_int20: add $20, %esp; mov $0x10, %eax; mov %eax, %ds\n"
        "dec %edi; jnz levels_again; jmp levels_left\n"
        "levels_gp: pop %eax; add %eax, seen + 72; addl $2, (%esp); iret\n" /* MOV */
        ".code64\n.previous\n");

static void put32(uint8_t *at, uint32_t value)
{
    memcpy(at, &value, 4);
}

static uint64_t system_descriptor(const void *base, uint32_t limit, unsigned type)
{
    uint64_t address = (uint64_t)base;
    return limit | (address & 0xffffff) << 16 | (uint64_t)(0x80 | type) << 40 |
           (address >> 24 & 0xff) << 56;
}

static uint64_t gate(const void *code, unsigned access)
{
    uint64_t address = (uint64_t)code;
    return (address & 0xffff) | (uint64_t)CODE32 << 16 | (uint64_t)access << 40 |
           (address >> 16) << 48;
}

static void put_task(uint8_t *tss, const void *code, unsigned stack)
{
    uint32_t top = (uint32_t)(uint64_t)(legacy_stacks[stack] + 4096);
    memset(tss, 0, TSS_SIZE);
    put32(tss + 4, (uint32_t)(uint64_t)(legacy_stacks[4] + 4096)); /* ESP0, SS0 */
    put32(tss + 8, DATA32);
    put32(tss + TSS_EIP, (uint32_t)(uint64_t)code);
    put32(tss + 36, RFLAGS_FIXED);
    put32(tss + 56, top);
    for (unsigned i = 0; i < 6; i++) { /* ES CS SS DS FS GS */
        put32(tss + 72 + i * 4, i == 1 ? CODE32 : DATA32);
    }
    put32(tss + 100, (uint32_t)TSS_MAP << 16);
    memset(tss + TSS_MAP - 32, 0xff, 32 + 2);
}

static void prepare(void)
{
    memset(seen, 0, sizeof(seen));
    legacy_gdt[CODE32 / 8] = 0x00cf9b000000ffff;
    legacy_gdt[DATA32 / 8] = 0x00cf93000000ffff;
    legacy_gdt[CODE64 / 8] = 0x00af9b000000ffff;
    put_task(tss_a, NULL, 0);
    put_task(tss_b, task_b, 1);
    put_task(tss_c, task_c, 2);
    legacy_gdt[TASK_A / 8] = system_descriptor(tss_a, TSS_SIZE - 1, 9);
    legacy_gdt[TASK_B / 8] = system_descriptor(tss_b, TSS_SIZE - 1, 9);
    legacy_gdt[TASK_C / 8] = system_descriptor(tss_c, TSS_SIZE - 1, 9);
    legacy_gdt[GATE_C / 8] = (uint64_t)TASK_C << 16 | 0x85ull << 40;
    legacy_idt[VECTOR_UD] = legacy_gdt[GATE_C / 8];
    legacy_idt[VECTOR_PF] = gate(legacy_page_fault, 0x8e);
    legacy_idt[0x20] = gate(legacy_int20, 0xee);
    legacy_idt[0x21] = gate(legacy_int21, 0xee);
    legacy_gdtr =
        (struct descriptor_pointer){sizeof(legacy_gdt) - 1, (uint64_t)legacy_gdt};
    legacy_idtr =
        (struct descriptor_pointer){sizeof(legacy_idt) - 1, (uint64_t)legacy_idt};
}

static void finish(void)
{
    trap_setup(0); /* long mode's own tables again */
}

static void try_tasks(void)
{
    case_begin("task switches of protected mode");
    prepare();
    legacy_tasks();
    finish();
    ASSERT_EQ(seen[SEEN_B], 1);
    ASSERT_EQ(seen[SEEN_B_LINK], TASK_A);
    ASSERT_EQ(seen[SEEN_B_FLAGS] & RFLAGS_NT, RFLAGS_NT);
    ASSERT_EQ(seen[SEEN_FLAGS] & RFLAGS_NT, 0);
    ASSERT_EQ(seen[SEEN_TASK], TASK_A);
    ASSERT_EQ(seen[SEEN_C], 1); /* #UD through a task gate */
    ASSERT_EQ(legacy_gdt[TASK_B / 8] >> 40 & 0xf, 9);
}

static void run_v86(uint64_t cr4)
{
    prepare();
    legacy_cr4 = (uint32_t)cr4;
    tss_a[TSS_MAP - 32 + 0x21 / 8] &= (uint8_t) ~(1u << 0x21 % 8);
    memcpy((void *)V86_LINEAR, v86_start, (size_t)(v86_end - v86_start));
    put32((uint8_t *)(uint64_t)IVT_21,
          (uint32_t)V86_SEGMENT << 16 | (uint32_t)(v86_int21 - v86_start));
    legacy_v86();
    finish();
    ASSERT_EQ(seen[SEEN_AX] & 0xffff, 0x1234);
    ASSERT_EQ(seen[SEEN_BX] & 0xffff, V86_SEGMENT);
    ASSERT_EQ(seen[SEEN_V86_CS], V86_SEGMENT);
    ASSERT_EQ(seen[SEEN_V86_FLAGS] & 0x20000, 0x20000);
}

static void try_v86(void)
{
    case_begin("virtual-8086 mode: interrupts leave it");
    run_v86(0);
    ASSERT_EQ(seen[SEEN_INT21], 1);
    ASSERT_EQ(seen[SEEN_CX] & 0xffff, 0);
    case_begin("its extensions keep them within");
    if (!(cpuid(1, 0).edx & 2)) {
        print("# no VME here\n");
        return;
    }
    run_v86(CR4_VME);
    ASSERT_EQ(seen[SEEN_INT21], 0);
    ASSERT_EQ(seen[SEEN_CX] & 0xffff, 0x5678);
}

static void assert_paging(void)
{
    ASSERT_EQ(seen[SEEN_ALIAS], marker);
    ASSERT_EQ(seen[SEEN_CR2], ALIAS_ABSENT + 4);
    ASSERT_EQ(seen[SEEN_ERROR], PF_W);
}

static void try_paging(void)
{
    uint32_t *directory = page_new();
    uint64_t *pointers = page_new(), *large;

    case_begin("pages of 4M");
    prepare();
    for (uint32_t i = 0; i < 512; i++) {
        directory[i] = i << 22 | 0x83;
    }
    directory[ALIAS >> 22] = 0x83;
    legacy_cr3 = (uint32_t)(uint64_t)directory;
    legacy_cr4 = CR4_PSE;
    legacy_paging();
    finish();
    assert_paging();
    ASSERT_EQ(directory[ALIAS >> 22] & 0x60, 0x20); /* accessed, not written */

    case_begin("PAE");
    prepare();
    for (uint64_t i = 0; i < 3; i++) {
        pointers[i] = (uint64_t)page_new() | PTE_P;
        large = (uint64_t *)(pointers[i] & PTE_ADDRESS);
        for (uint64_t j = 0; j < 512 && i < 2; j++) {
            large[j] = (i * 512 + j) << 21 | PTE_P | PTE_W | PTE_PS;
        }
    }
    large[0] = PTE_P | PTE_W | PTE_PS;
    large[1] = PAGE_2M | PTE_P | PTE_W | PTE_PS;
    legacy_cr3 = (uint32_t)(uint64_t)pointers;
    legacy_cr4 = CR4_PAE;
    legacy_paging();
    finish();
    assert_paging();
    ASSERT_EQ(pointers[2] & 0x60, 0); /* these have no accessed bit */
}

#define MSR_SYSENTER_CS 0x174 /* then ESP, EIP */

static uint64_t word_descriptor(const uint32_t *word, unsigned access)
{
    return 0x00cf00000000ffffull | (uint64_t)access << 40 |
           ((uint64_t)word & 0xffffff) << 16 | ((uint64_t)word >> 24 & 0xff) << 56;
}

static void try_levels(void)
{
    case_begin("between the rings of protected mode");
    prepare();
    for (unsigned i = 0; i < 4; i++) {
        legacy_gdt[ENTER / 8 + i] = i & 1 ? 0x00cf93000000ffff : 0x00cf9b000000ffff;
        legacy_gdt[ENTER / 8 + i] |= i & 2 ? 0x600000000000 : 0;
    }
    legacy_words[0] = 1;
    legacy_words[1] = 1000;
    legacy_gdt[WORD_A / 8] = word_descriptor(&legacy_words[0], 0xf3);
    legacy_gdt[WORD_B / 8] = word_descriptor(&legacy_words[1], 0x92);
    legacy_idt[0x20] = gate(levels_int20, 0xee);
    legacy_idt[VECTOR_GP] = gate(levels_gp, 0x8e);
    msr_write(MSR_SYSENTER_CS, ENTER);
    msr_write(MSR_SYSENTER_CS + 1, (uint64_t)(legacy_stacks[4] + 4096));
    msr_write(MSR_SYSENTER_CS + 2, (uint64_t)levels_enter);
    legacy_levels();
    finish();
    ASSERT_EQ(seen[SEEN_CARRIES], 200 * 2);
    ASSERT_EQ(seen[SEEN_LEVELS], 200 * (ENTER + 2 * (ENTER + 0x10 + 3)));
    ASSERT_EQ(seen[SEEN_WORDS], 200 * (1 + 1000 + 1 + 1));
    ASSERT_EQ(seen[SEEN_GP], 200 * NOWHERE);
    ASSERT_EQ(legacy_gdt[WORD_B / 8] >> 40 & 1, 1); /* accessed */
}

void guest_test(void)
{
    try_tasks();
    try_v86();
    try_paging();
    try_levels();
}
