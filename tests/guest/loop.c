/*
 * Loops that go round often: an engine may make several rounds at once, and check what
 * they access together. Each access still faults at its instruction, with the rounds
 * before it done, the flags that the last of them left, and none behind it done; arrays
 * go on across their pages' ends; what a round stores of the loop's own code counts.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE   0x10000000000ull
#define EDGE   (BASE + PAGE_SIZE)
#define END    "0x10000002000"
#define ARITH  0x8d5
#define ROUNDS (PAGE_SIZE / 8)

/* RDI: where. Stores RAX, the number of the round, to the second page's end; then the
 * loops differ in what sets the flags. */
#define LOOP(name, before, set, jump)                                             \
    ASM_FUNCTION(name, "mov $" END ", %rsi; xor %eax, %eax; mov $1, %r8d\n"       \
                       "xor %ecx, %ecx; mov %ecx, %r9d; mov %ecx, %r10d\n" before \
                       "\n.balign 64\n"                                           \
                       "1: " #name "_at: mov %rax, (%rdi)\n"                      \
                       "add %r8, %rax\n"                                          \
                       "lea 8(%rdi), %rdi\n" set "\n" jump "\n2:\n");             \
    extern char name##_at[]
#define ENDS "cmp %rsi, %rdi; je 2f; "
LOOP(compare, "", "cmp %rsi, %rdi", "jne 1b");
LOOP(compare_32, "", ENDS "cmp $7, %edi", "jne 1b");
LOOP(compare_8, "mov $3, %ecx", ENDS "add $2, %cl; cmpb $200, %cl", "jne 1b");
LOOP(test_16, "", ENDS "mov %edi, %ecx; test %cx, %di", "jnz 1b");
LOOP(sub_64, "mov $-1, %rcx", ENDS "sub $3, %rcx", "jne 1b");
LOOP(add_64, "mov $-1, %rcx", ENDS "add $-5, %rcx", "jne 1b");
LOOP(sub_reg, "mov $-1, %rcx; mov $7, %r9d", ENDS "sub %r9d, %ecx", "jne 1b");
LOOP(neg_32, "mov $77, %ecx", ENDS "neg %ecx", "jne 1b");
LOOP(or_32, "mov $77, %ecx", ENDS "or %eax, %ecx", "jne 1b");
LOOP(dec_32, "mov $-1, %ecx", ENDS "dec %ecx", "jne 1b");
LOOP(with_carry, "mov $-1, %rcx; xor %edx, %edx", ENDS "add %rcx, %rdx; adc %rcx, %r10",
     "jne 1b");
/* By way of the other page's end, too: two arrays and what does not change. */
ASM_FUNCTION(copy_up, "mov $" END ", %rsi; lea -4096(%rsp), %rdx; and $-4096, %rdx\n"
                      "mov %rdi, %r9; xor %eax, %eax; movq $1, (%rdx); xor %ecx, %ecx\n"
                      "mov $1, %r8d; mov %rax, %r10\n"
                      ".balign 64\n"
                      "1: add (%rdx), %rax\n"
                      "copy_up_at: mov %rax, (%r9)\n"
                      "mov %rax, %r10\n"
                      "add $8, %r9\n"
                      "add $8, %rdi\n"
                      "cmp %rsi, %rdi; jb 1b\n");
extern char copy_up_at[];

static const struct loop {
    const char *name;
    trap_function *function;
    char *at;
    uint64_t first; /* what it stores in its first round */
} loops[] = {
    {"CMP", compare, compare_at, 0},
    {"CMP of 32 bits", compare_32, compare_32_at, 0},
    {"CMP of 8 bits", compare_8, compare_8_at, 0},
    {"TEST of 16 bits", test_16, test_16_at, 0},
    {"SUB", sub_64, sub_64_at, 0},
    {"ADD", add_64, add_64_at, 0},
    {"SUB of registers", sub_reg, sub_reg_at, 0},
    {"NEG", neg_32, neg_32_at, 0},
    {"OR", or_32, or_32_at, 0},
    {"DEC", dec_32, dec_32_at, 0},
    {"ADC", with_carry, with_carry_at, 0},
    {"two bases", copy_up, copy_up_at, 1},
};

static uint8_t *first, *second;

static void map(uint64_t first_flags, uint64_t second_flags)
{
    page_map(BASE, (uint64_t)first, first_flags, 1);
    page_map(EDGE, (uint64_t)second, second_flags, 1);
}

/* From some place on before the edge: what was stored on both sides of it. */
static void try_whole(const struct loop *loop)
{
    map(PTE_P | PTE_W, PTE_P | PTE_W);
    for (unsigned i = 0; i < 12; i++) {
        uint64_t start = EDGE - 8 * i - 16 * (i & 4);
        memset(first, 0xee, PAGE_SIZE);
        memset(second, 0xee, PAGE_SIZE);
        ASSERT(!trap_try(loop->function, start));
        for (uint64_t at = BASE; at < EDGE + PAGE_SIZE; at += 8) {
            uint64_t expected =
                at < start ? 0xeeeeeeeeeeeeeeee : (at - start) / 8 + loop->first;
            ASSERT_EQ(*(volatile uint64_t *)at, expected);
        }
    }
}

/* The second page refuses after some rounds, which have been done and no more. */
static struct trap_frame try_refused(const struct loop *loop, unsigned rounds,
                                     uint64_t flags)
{
    struct cpu *cpu = cpu_self();
    map(PTE_P | PTE_W, flags);
    memset(first, 0xee, PAGE_SIZE);
    memset(second, 0xee, PAGE_SIZE);
    ASSERT(trap_try(loop->function, EDGE - 8 * rounds));
    ASSERT_EQ(cpu->trap.vector, VECTOR_PF);
    ASSERT_EQ(cpu->trap.error, PF_W | (flags & PTE_P ? PF_P : 0));
    ASSERT_EQ(cpu->trap.rip, loop->at);
    ASSERT_EQ(cpu->trap.rdi, EDGE);
    ASSERT_EQ(cpu->trap_cr2, EDGE);
    ASSERT_EQ(cpu->trap.rax, rounds + loop->first);
    for (unsigned i = 0; i < ROUNDS; i++) {
        unsigned left = ROUNDS - i;
        uint64_t expected =
            left > rounds ? 0xeeeeeeeeeeeeeeee : rounds - left + loop->first;
        ASSERT_EQ(((volatile uint64_t *)first)[i], expected);
        ASSERT_EQ(((volatile uint64_t *)second)[i], 0xeeeeeeeeeeeeeeee);
    }
    ASSERT_EQ(*page_entry(kernel_pml4, EDGE, 1) & PTE_D, 0);
    return cpu->trap;
}

#define COLD 12 /* rounds that no engine takes for many */

static void try_loop(const struct loop *loop)
{
    static struct trap_frame cold[COLD];
    case_begin("a loop with %s: its faults before it has gone round often", loop->name);
    for (unsigned i = 0; i < COLD; i++) {
        cold[i] = try_refused(loop, i, 0);
    }
    case_begin("a loop with %s: the whole array", loop->name);
    try_whole(loop);
    case_begin("a loop with %s: the same faults again", loop->name);
    for (unsigned i = 0; i < COLD; i++) {
        struct trap_frame now = try_refused(loop, i, i & 1 ? PTE_P : 0);
        ASSERT_EQ(now.rflags & ARITH, cold[i].rflags & ARITH);
        ASSERT_EQ(now.rcx, cold[i].rcx);
        ASSERT_EQ(now.r8, cold[i].r8);
        ASSERT_EQ(now.r9, cold[i].r9);
        ASSERT_EQ(now.r10, cold[i].r10);
    }
    case_begin("a loop with %s: a fault after many rounds", loop->name);
    for (unsigned i = 500; i < ROUNDS; i++) {
        try_refused(loop, i, PTE_P);
    }
    try_whole(loop);
}

static void try_compare(void)
{
    struct loop loop = loops[0];
    case_begin("the flags of a CMP before a fault");
    for (unsigned i = 1; i < 100; i++) {
        struct trap_frame now = try_refused(&loop, i, 0);
        uint64_t low = (uint32_t)(EDGE - (EDGE + PAGE_SIZE)) & 0xff;
        uint64_t parity = __builtin_popcountll(low) & 1 ? 0 : 4;
        ASSERT_EQ(now.rflags & ARITH, 0x81 | parity); /* CF and SF: it is less */
    }
}

/* RDI: 1024 words to be added to those behind, whose sum goes behind them; the carry is
 * returned. */
ASM_FUNCTION(sum_words, "lea 8192(%rdi), %rsi; lea 8192(%rsi), %rdx\n"
                        "xor %ecx, %ecx; mov $1024, %r9d; clc\n"
                        ".balign 64\n"
                        "1: mov (%rdi,%rcx,8), %r8\n"
                        "adc (%rsi,%rcx,8), %r8\n"
                        "mov %r8, (%rdx,%rcx,8)\n"
                        "lea 1(%rcx), %rcx\n"
                        "dec %r9; jnz 1b\n"
                        "setc %al; movzx %al, %eax\n");

static void try_sums(void)
{
    case_begin("a carry through a loop over three arrays");
    volatile uint64_t *a = page_new_run(8 * PAGE_SIZE), *b = a + 1024, *sum = b + 1024;
    uint64_t seed = 1;
    for (unsigned run = 0; run < 20; run++) {
        for (unsigned i = 0; i < 1024; i++) {
            seed = seed * 6364136223846793005 + 1442695040888963407;
            a[i] = i % 7 == run % 7 ? UINT64_MAX : seed;
            b[i] = i % 5 == 0 ? UINT64_MAX - a[i] : seed >> 3;
        }
        uint64_t result = sum_words((uint64_t)a);
        unsigned carry = 0;
        for (unsigned i = 0; i < 1024; i++) {
            uint64_t half = a[i] + b[i];
            ASSERT_EQ(sum[i], half + carry);
            carry = half < a[i] || half + carry < half;
        }
        ASSERT_EQ(result, carry);
    }
}

/* Copied to RAM. RSI, RDI: from and to, RCX bytes; the rounds count in RAX by a constant,
 * which may be one of the bytes. */
ASM_FUNCTION(change_self, "self_start: xor %eax, %eax\n"
                          "1: movzbl (%rsi), %edx\n"
                          "movb %dl, (%rdi)\n"
                          "self_add: add $1, %eax\n"
                          "inc %rsi; inc %rdi\n"
                          "dec %ecx; jnz 1b\n"
                          "ret\n"
                          "self_end:\n");
extern char self_start[], self_add[], self_end[];

static void try_change(void)
{
    case_begin("a loop that changes itself");
    uint8_t *code = page_new(), *from = page_new();
    unsigned size = (unsigned)(self_end - self_start);
    unsigned constant = (unsigned)(self_add - self_start) + 2, before = 600;
    uint8_t *loop = code + 1024;
    memcpy(loop, self_start, size);
    for (unsigned i = 0; i < 200; i++) {
        uint64_t result, count = before + constant + 1 + 300, old = loop[constant];
        memset(from, 0, PAGE_SIZE);
        memcpy(from + before, loop, size);
        from[before + constant] = (uint8_t)(i % 100 + 1);
        /* What comes behind the loop's own bytes changes nothing but data. */
        __asm__ volatile("call *%1"
                         : "=a"(result)
                         : "r"(loop), "S"(from), "D"(loop - before), "c"(count)
                         : "rdx", "memory");
        uint64_t at = before + constant;
        ASSERT_EQ(result, at * old + (count - at) * (i % 100 + 1));
        ASSERT_EQ(loop[constant], i % 100 + 1);
    }
}

void guest_test(void)
{
    first = page_new();
    page_new();
    second = page_new();
    for (unsigned i = 0; i < sizeof(loops) / sizeof(loops[0]); i++) {
        try_loop(&loops[i]);
    }
    try_compare();
    try_sums();
    try_change();
}
