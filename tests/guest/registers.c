/*
 * What R8 to R11 hold where an instruction faults, and behind one that was interpreted:
 * engines may keep them elsewhere than other registers, and bring them there late.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE  0x10000000000ull
#define OTHER (BASE + PAGE_SIZE)

/* RDI: words; 4096 bytes behind them another. R8 to R11 are computed of each other, by
 * every kind of operand, between accesses off one base and others. */
ASM_FUNCTION(run, "lea 4096(%rdi), %rsi; mov %rdi, %r8; lea 5(%r8), %r9\n"
                  "mov %r9, %r10; lea (%r10,%r9,2), %r11\n"
                  "at_0: mov 56(%rdi), %rcx\n"
                  "add (%rdi), %r10\n"
                  "add %r8, %r10; lea (%r10,%r8,4), %r8; imul %r11, %r9\n"
                  "xor %r9d, %r11d\n"
                  "at_1: mov %r8, 8(%rdi)\n"
                  "sub %r10b, %r9b; movzwl %r8w, %r10d; xor %eax, %eax\n"
                  "test %r11, %r11; js 1f; cmp %r10, %r8\n"
                  "at_2: adc (%rsi), %r11\n"
                  "mov %r11, %r8; neg %r8\n"
                  "mov %r8, 16(%rdi)\n"
                  "add $3, %r9; mov %r9, %rax; xor %edx, %edx; xchg %r10, %r11\n"
                  "at_3: div %rcx\n"
                  "mov %rdx, %r11; imul %rax, %r11; mov %rax, %r9; add %r11, %r10\n"
                  "lea (%r9,%r11), %r9\n"
                  "cmp %r10b, %r8b; cmovb %r9d, %r8d; mov $3, %ecx\n"
                  "2: add %r10, %r9; lea 1(%r8), %r8; loop 2b\n"
                  "mov %r8, 24(%rdi); mov %r9, 32(%rdi)\n"
                  "mov %r10, 40(%rdi); mov %r11, 48(%rdi)\n"
                  "1: \n");
extern char at_0[], at_1[], at_2[], at_3[];

static volatile uint64_t *words, *other;

struct registers {
    uint64_t r8, r9, r10, r11;
};

/* The same in C, up to place number `end`, or to the end. */
static struct registers compute(unsigned end)
{
    struct registers r = {BASE, BASE + 5, BASE + 5, 3 * (BASE + 5)};
    if (end == 0) {
        return r;
    }
    r.r10 += words[0] + r.r8;
    r.r8 = r.r10 + 4 * r.r8;
    r.r9 *= r.r11;
    r.r11 = (uint32_t)(r.r11 ^ r.r9);
    if (end == 1) {
        return r;
    }
    r.r9 = (r.r9 & ~0xffull) | ((r.r9 - r.r10) & 0xff);
    r.r10 = r.r8 & 0xffff;
    if (end == 2) {
        return r;
    }
    r.r11 += other[0] + (r.r8 < r.r10);
    r.r8 = -r.r11;
    r.r9 += 3;
    struct registers swapped = {r.r8, r.r9, r.r11, r.r10};
    r = swapped;
    if (end == 3) {
        return r;
    }
    uint64_t rax = r.r9 / words[7], rdx = r.r9 % words[7];
    r.r11 = rdx * rax;
    r.r10 += r.r11;
    r.r9 = rax + r.r11;
    r.r8 = (uint32_t)r.r8 % 256 < (uint32_t)r.r10 % 256 ? (uint32_t)r.r9 : (uint32_t)r.r8;
    r.r9 += 3 * r.r10;
    r.r8 += 3;
    return r;
}

/* First page and second page: rights; divisor. Faults at place number `end`. */
static void try_fault(unsigned end, uint64_t first, uint64_t second, uint64_t divisor,
                      unsigned seed)
{
    static char *const at[] = {at_0, at_1, at_2, at_3};
    const struct trap_frame *trap = &cpu_self()->trap;
    words[0] = seed * 0x123456789abcdefull;
    words[7] = divisor;
    other[0] = seed * 0xfedcba987654321ull;
    page_map(BASE, (uint64_t)words, first, 1);
    page_map(OTHER, (uint64_t)other, second, 1);
    ASSERT(trap_try(run, BASE));
    ASSERT_EQ(trap->rip, at[end]);
    struct registers wanted = compute(end);
    ASSERT_EQ(trap->r8, wanted.r8);
    ASSERT_EQ(trap->r9, wanted.r9);
    ASSERT_EQ(trap->r10, wanted.r10);
    ASSERT_EQ(trap->r11, wanted.r11);
}

static void try_whole(unsigned seed, bool is_new)
{
    words[0] = seed * 0x123456789abcdefull;
    words[7] = seed % 7 + 1;
    other[0] = seed * 0xfedcba987654321ull;
    if (is_new) {
        page_map(BASE, (uint64_t)words, PTE_P | PTE_W, 1);
        page_map(OTHER, (uint64_t)other, PTE_P | PTE_W, 1);
    }
    ASSERT(!trap_try(run, BASE));
    struct registers wanted = compute(4);
    ASSERT_EQ(words[3], wanted.r8);
    ASSERT_EQ(words[4], wanted.r9);
    ASSERT_EQ(words[5], wanted.r10);
    ASSERT_EQ(words[6], wanted.r11);
}

void guest_test(void)
{
    words = (volatile uint64_t *)page_new();
    other = (volatile uint64_t *)page_new();
    case_begin("without a fault");
    for (unsigned i = 0; i < 100; i++) {
        try_whole(i, i % 4 == 0);
    }
    case_begin("an operand's page that is missing");
    for (unsigned i = 0; i < 100; i++) {
        try_fault(0, 0, PTE_P | PTE_W, 1, i);
        try_fault(2, PTE_P | PTE_W, 0, 1, i);
    }
    case_begin("a page that is read, and may not be written");
    for (unsigned i = 0; i < 100; i++) {
        try_fault(1, PTE_P, PTE_P | PTE_W, 1, i);
    }
    case_begin("a divisor of 0");
    for (unsigned i = 0; i < 100; i++) {
        try_fault(3, PTE_P | PTE_W, PTE_P, 0, i);
    }
    case_begin("without a fault, once they have been seen");
    for (unsigned i = 0; i < 100; i++) {
        try_whole(i, i % 4 == 0);
    }
}
