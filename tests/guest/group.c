/*
 * Accesses near each other off one base, pushes behind each other: an engine may check
 * them together. Each still faults on its own, at its instruction, with those before it
 * done and those behind it not; page-table bits are set when it is their turn; what a
 * store changes of the code right behind it counts.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE 0x10000000000ull
#define EDGE (BASE + PAGE_SIZE)

/* RDI: where. A label before each access. */
ASM_FUNCTION(store_run, "mov $1, %eax\n"
                        "store_0: mov %rax, (%rdi)\n"
                        "store_1: mov %rax, 8(%rdi)\n"
                        "store_2: movl $2, 16(%rdi)\n"
                        "store_3: addq %rax, 24(%rdi)\n"
                        "store_4: movb %al, 32(%rdi)\n");
ASM_FUNCTION(load_run, "load_0: mov (%rdi), %rax\n"
                       "load_1: add 8(%rdi), %rax\n"
                       "lea 16(%rdi), %rcx\n"
                       "load_2: add (%rcx), %rax\n"
                       "add $8, %rdi\n"
                       "load_3: add 16(%rdi), %rax\n");
ASM_FUNCTION(push_run, "mov %rsp, %rdx; mov %rdi, %rsp; mov $7, %eax; mov $8, %r8d\n"
                       "push_0: push %rax\n"
                       "push_1: push %r8\n"
                       "push_2: push $9\n"
                       "push_3: call 1f\n"
                       "1: mov %rdx, %rsp\n");
ASM_FUNCTION(pop_run, "mov %rsp, %rdx; mov %rdi, %rsp\n"
                      "pop_0: pop %rax\n"
                      "pop_1: pop %r8\n"
                      "pop_2: pop %rcx\n"
                      "pop_3: pop %r9\n"
                      "mov %rdx, %rsp\n");
/* Three bases in turns, a carry over them all, and registers that an engine may have in
 * memory. */
ASM_FUNCTION(mixed_run, "lea -512(%rsp), %rsi; mov $1, %eax; mov $2, %r8d; stc\n"
                        "mixed_0: mov %rax, (%rdi)\n"
                        "mov %r8, 8(%rsi)\n"
                        "mov (%rsp), %rcx\n"
                        "mixed_1: mov %r8, 8(%rdi)\n"
                        "adc %r8, 8(%rsi)\n"
                        "adc -8(%rsp), %r9\n"
                        "mixed_2: mov %rcx, 16(%rdi)\n"
                        "mov %rax, 24(%rsi)\n"
                        "mixed_3: mov %r9, 24(%rdi)\n");
/* A loop whose accesses stay where they are. */
ASM_FUNCTION(loop_run, "mov $3, %ecx; mov $1, %eax; jmp 1f\n"
                       "1: loop_0: mov %rax, (%rdi)\n"
                       "loop_1: mov %rax, 8(%rdi)\n"
                       "loop_2: add %rax, 16(%rdi)\n"
                       "loop_3: add %rax, 24(%rdi)\n"
                       "dec %ecx; jnz 1b\n");
/* A carry over two bases, set before the first access. */
ASM_FUNCTION(adc_run, "lea -512(%rsp), %rsi; mov $1, %eax; xor %ecx, %ecx; stc; jmp 1f\n"
                      "1: adc_0: adc %rax, (%rdi)\n"
                      "adc %rcx, (%rsi)\n"
                      "adc_1: adc %rax, 8(%rdi)\n"
                      "adc %rcx, 8(%rsi)\n"
                      "adc_2: adc %rcx, 16(%rdi)\n");
extern char mixed_0[], mixed_1[], mixed_2[], mixed_3[];
extern char loop_0[], loop_1[], loop_2[], loop_3[], adc_0[], adc_1[], adc_2[];
extern char store_0[], store_1[], store_2[], store_3[], store_4[];
extern char load_0[], load_1[], load_2[], load_3[];
extern char push_0[], push_1[], push_2[], push_3[], pop_0[], pop_1[], pop_2[], pop_3[];

/* Accesses of 8 bytes, upwards or downwards from RDI. */
struct run {
    const char *name;
    trap_function *function;
    char *at[5];
    unsigned count;
    bool writes, is_down;
};

static const struct run runs[] = {
    {"stores", store_run, {store_0, store_1, store_2, store_3, store_4}, 5, true, false},
    {"stores between others",
     mixed_run,
     {mixed_0, mixed_1, mixed_2, mixed_3},
     4,
     true,
     false},
    {"stores of a loop", loop_run, {loop_0, loop_1, loop_2, loop_3}, 4, true, false},
    {"a chain of carries", adc_run, {adc_0, adc_1, adc_2}, 3, true, false},
    {"loads", load_run, {load_0, load_1, load_2, load_3}, 4, false, false},
    {"pushes and a call", push_run, {push_0, push_1, push_2, push_3}, 4, true, true},
    {"pops", pop_run, {pop_0, pop_1, pop_2, pop_3}, 4, false, false},
};

static uint8_t *first, *second;

static void map(uint64_t first_flags, uint64_t second_flags)
{
    page_map(BASE, (uint64_t)first, first_flags, 1);
    page_map(EDGE, (uint64_t)second, second_flags, 1);
}

static uint64_t bits(uint64_t address)
{
    return *page_entry(kernel_pml4, address, 1) & (PTE_A | PTE_D);
}

/* The page that the run comes to after `done` accesses refuses: it is not there, or not
 * writable. Several times: an engine may behave otherwise when it has seen it. */
static void try_edge(const struct run *run, unsigned done, bool is_present,
                     unsigned times)
{
    struct cpu *cpu = cpu_self();
    uint64_t good = PTE_P | PTE_W, bad = is_present ? PTE_P : 0;
    uint64_t start = run->is_down ? EDGE + 8 * done : EDGE - 8 * done;
    for (unsigned i = 0; i < times; i++) {
        map(run->is_down ? bad : good, run->is_down ? good : bad);
        memset(first, 0x11, PAGE_SIZE);
        memset(second, 0x11, PAGE_SIZE);
        ASSERT(trap_try(run->function, start));
        ASSERT_EQ(cpu->trap.vector, VECTOR_PF);
        ASSERT_EQ(cpu->trap.error, (is_present ? PF_P : 0) | (run->writes ? PF_W : 0));
        ASSERT_EQ(cpu->trap.rip, run->at[done]);
        ASSERT(run->function != adc_run || (cpu->trap.rflags & 1) == (done == 0));
        ASSERT_EQ(cpu->trap_cr2, run->is_down ? EDGE - 8 : EDGE);
        const uint8_t *page = run->is_down ? second : first;
        const uint8_t *other = run->is_down ? first : second;
        for (unsigned b = 0; b < PAGE_SIZE; b++) {
            unsigned from = run->is_down ? 0 : PAGE_SIZE - 8 * done;
            bool is_stored = run->writes && b >= from && b < from + 8 * done;
            ASSERT(is_stored || page[b] == 0x11);
            ASSERT_EQ(other[b], 0x11);
        }
        if (run->writes && done) {
            ASSERT(page[run->is_down ? 8 * done - 8 : PAGE_SIZE - 8 * done] != 0x11);
        }
        uint64_t seen = done ? PTE_A | (run->writes ? PTE_D : 0) : 0;
        ASSERT_EQ(bits(run->is_down ? EDGE : BASE), seen);
        ASSERT_EQ(bits(run->is_down ? BASE : EDGE) & PTE_D, 0);
    }
}

/* Both pages are there, and not next to each other in memory. */
static void try_across(const struct run *run)
{
    map(PTE_P | PTE_W, PTE_P | PTE_W);
    for (unsigned i = 0; i < 1000; i++) {
        uint64_t start = EDGE + 8 * (i % 11) - 40;
        memset(first + PAGE_SIZE - 64, 0, 64);
        memset(second, 0, 128);
        ASSERT(!trap_try(run->function, start));
        if (run->function == store_run) {
            ASSERT_EQ(*(volatile uint64_t *)start, 1);
            ASSERT_EQ(*(volatile uint64_t *)(start + 16), 2);
            ASSERT_EQ(*(volatile uint8_t *)(start + 32), 1);
        } else if (run->function == push_run) {
            ASSERT_EQ(*(volatile uint64_t *)(start - 8), 7);
            ASSERT_EQ(*(volatile uint64_t *)(start - 24), 9);
        } else if (run->function == loop_run) {
            ASSERT_EQ(*(volatile uint64_t *)(start + 8), 1);
            ASSERT_EQ(*(volatile uint64_t *)(start + 24), 3);
        } else if (run->function == adc_run) {
            ASSERT_EQ(*(volatile uint64_t *)start, 2);
            ASSERT_EQ(*(volatile uint64_t *)(start + 8), 1);
        } else {
            *(volatile uint64_t *)(start + 8) = i;
            *(volatile uint64_t *)(start + 24) = 5;
            ASSERT(run->function != load_run || run->function(start) == i + 5);
        }
    }
}

/* An engine may check what comes to a page's end in parts, when it has seen that often,
 * each time elsewhere: refusals are at their accesses then, too. */
static void try_split(const struct run *run)
{
    for (unsigned done = 1; done < run->count; done++) {
        map(PTE_P | PTE_W, PTE_P | PTE_W);
        for (unsigned i = 0; i < 80; i++) {
            ASSERT(!trap_try(run->function, EDGE + (run->is_down ? 8 : -8) * (int)done));
        }
        try_edge(run, done - 1, false, 1);
        try_edge(run, done, run->writes, 1);
    }
}

/* Reads before it writes; between them a fault, if RSI is not mapped. */
ASM_FUNCTION(late_write, "mov $0x10000001000, %rsi\n"
                         "mov (%rdi), %rax\n"
                         "late_at: mov (%rsi), %rcx\n"
                         "mov %rax, 8(%rdi)\n");
extern char late_at[];

static void try_late_write(void)
{
    case_begin("the dirty bit is set when the write comes");
    for (unsigned i = 0; i < 3; i++) {
        map(PTE_P | PTE_W, 0);
        ASSERT(trap_try(late_write, BASE + 64));
        ASSERT_EQ(cpu_self()->trap.rip, late_at);
        ASSERT_EQ(bits(BASE), PTE_A);
        map(PTE_P | PTE_W, PTE_P);
        ASSERT(!trap_try(late_write, BASE + 64));
        ASSERT_EQ(bits(BASE), PTE_A | PTE_D);
    }
    case_begin("a page that is read first and may not be written");
    map(PTE_P, PTE_P);
    for (unsigned i = 0; i < 1000; i++) {
        ASSERT(trap_try(late_write, BASE + 64));
        ASSERT_EQ(cpu_self()->trap.error, PF_P | PF_W);
        ASSERT_EQ(cpu_self()->trap_cr2, BASE + 72);
    }
}

/* Copied to RAM. Its stores change the constant of the MOV behind them. */
ASM_FUNCTION(change_next, "change_start: lea 1f(%rip), %rcx\n"
                          "movb %sil, 1(%rcx)\n"
                          "movb $0, 2(%rcx)\n"
                          "1: mov $0x11, %eax\n"
                          "ret\n"
                          "change_end:\n");
extern char change_start[], change_end[];

/* The same, with accesses off two more bases in between; RDI: one of them. */
ASM_FUNCTION(change_among, "among_start: lea 1f(%rip), %rcx\n"
                           "movb %sil, 1(%rcx)\n"
                           "mov (%rdi), %rdx\n"
                           "mov (%rsp), %r8\n"
                           "mov %rdx, 8(%rdi)\n"
                           "movb $0, 2(%rcx)\n"
                           "mov %rdx, 16(%rdi)\n"
                           "mov 8(%rsp), %r9\n"
                           "1: mov $0x11, %eax\n"
                           "ret\n"
                           "among_end:\n");
extern char among_start[], among_end[];

/* RDI: the page that it is on, the place for its stack, too. */
ASM_FUNCTION(push_here, "push_start: mov %rsp, %rdx; lea 256(%rdi), %rsp\n"
                        "push %rdx; push %rdi; push %rsi; push %rax\n"
                        "pop %rcx; pop %rsi; pop %rdi; pop %rsp\n"
                        "mov %rcx, %rax\n");
extern char push_start[];

static void try_change(void)
{
    case_begin("a store to the instruction behind it, among others");
    uint8_t *code = page_new();
    memcpy(code, change_start, (size_t)(change_end - change_start));
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t result;
        __asm__ volatile("call *%2"
                         : "=a"(result)
                         : "S"(i & 0xff), "r"(code)
                         : "rcx", "memory");
        ASSERT_EQ(result, i & 0xff);
    }
    case_begin("the same among stores elsewhere");
    memcpy(code, among_start, (size_t)(among_end - among_start));
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t result, *place = (uint64_t *)(i & 64 ? code + 256 : first);
        place[0] = i;
        __asm__ volatile("call *%2"
                         : "=a"(result)
                         : "S"(i & 0xff), "r"(code), "D"(place)
                         : "rcx", "rdx", "r8", "r9", "memory");
        ASSERT_EQ(result, i & 0xff);
        ASSERT_EQ(place[1] + place[2], 2 * i);
    }
    case_begin("pushes onto the page of the code");
    memcpy(code, push_start, 64);
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t result, where = (uint64_t)code;
        __asm__ volatile("call *%2"
                         : "=a"(result), "+D"(where)
                         : "r"(code), "0"(i)
                         : "rcx", "rdx", "rsi", "memory");
        ASSERT_EQ(result, i);
        ASSERT_EQ(where, code);
    }
}

/* A carry that lives through accesses off one base, and through others. */
ASM_FUNCTION(carry_run, "mov (%rdi), %rax\n"
                        "add 8(%rdi), %rax\n"
                        "mov 16(%rdi), %rcx\n"
                        "adc 24(%rdi), %rcx\n"
                        "mov %rcx, 40(%rdi)\n"
                        "mov (%rsp), %r8\n"
                        "mov 32(%rdi), %r9\n"
                        "adc $0, %r9\n"
                        "mov %r9, 48(%rdi)\n"
                        "mov %rax, 32(%rdi)\n"
                        "setc %al\n"
                        "movzx %al, %eax\n");

static void try_flags(void)
{
    case_begin("flags across accesses");
    uint64_t *number = page_new();
    for (unsigned i = 0; i < 8; i++) {
        memset(number, 0, 64);
        number[0] = i & 1 ? UINT64_MAX : 1;
        number[1] = 1;
        number[2] = i & 2 ? UINT64_MAX : 1;
        number[4] = i & 4 ? UINT64_MAX : 1;
        uint64_t low = i & 1, middle = (i & 3) == 3, all = i == 7;
        ASSERT_EQ(carry_run((uint64_t)number), all);
        ASSERT_EQ(number[5], number[2] + low);
        ASSERT_EQ(number[6], (i & 4 ? UINT64_MAX : 1) + middle);
        ASSERT_EQ(number[4], number[0] + 1);
    }
}

/* RDI: summands of four words, 4096 bytes apart, and their sum behind; returns its carry.
 */
ASM_FUNCTION(sum_run, "lea 4096(%rdi), %rsi; lea 4096(%rsi), %rdx; mov %rsi, %rsi\n"
                      "and %rdx, %rdx\n"
                      "mov (%rdi), %r8; adc (%rsi), %r8; mov %r8, (%rdx)\n"
                      "mov 8(%rdi), %r9; adc 8(%rsi), %r9; mov %r9, 8(%rdx)\n"
                      "mov 16(%rdi), %r10; adc 16(%rsi), %r10; mov %r10, 16(%rdx)\n"
                      "mov 24(%rdi), %r11; adc 24(%rsi), %r11; mov %r11, 24(%rdx)\n"
                      "setc %al; movzx %al, %eax\n");

static void try_sum(uint64_t start, unsigned seed)
{
    volatile uint64_t *a = (uint64_t *)start, *b = a + 512, *sum = b + 512;
    for (unsigned word = 0; word < 4; word++) {
        a[word] = seed >> word & 1 ? UINT64_MAX : seed;
        b[word] = seed >> (word + 4) & 1 ? UINT64_MAX : 0;
    }
    unsigned carry = 0;
    uint64_t result = sum_run(start);
    for (unsigned word = 0; word < 4; word++) {
        uint64_t half = a[word] + b[word];
        ASSERT_EQ(sum[word], half + carry);
        carry = half < a[word] || half + carry < half;
    }
    ASSERT_EQ(result, carry);
}

/* RDI: two words, 512 bytes apart, to be added to those 4096 bytes behind; the sum again
 * behind. Each access is alone while its carry waits. Returns that, and what became of
 * RCX, a base. */
ASM_FUNCTION(sum_alone, "lea 4096(%rdi), %rcx; lea 4096(%rcx), %rdx; clc\n"
                        "mov (%rdi), %r8\n"
                        "adc (%rcx), %r8\n"
                        "mov %r8, (%rdx)\n"
                        "mov 512(%rdi), %r9\n"
                        "push %r9\n"
                        "mov 512(%rcx), %rax\n"
                        "pop %r9\n"
                        "adc %r9, %rax\n"
                        "mov %rax, 512(%rdx)\n"
                        "pushq 1024(%rcx)\n"
                        "pop 1024(%rdx)\n"
                        "setc %al\n"
                        "sub %rdi, %rcx\n"
                        "movzx %al, %eax; lea -4096(%rcx,%rax), %rax\n");

static void try_alone(void)
{
    case_begin(
        "a carry past accesses of their own, whose pages are new to the processor");
    volatile uint64_t *a = (uint64_t *)BASE, *b = a + 512, *sum = b + 512;
    for (unsigned i = 0; i < 64; i++) {
        map(PTE_P | PTE_W, PTE_P | PTE_W);
        page_map(EDGE + PAGE_SIZE, (uint64_t)(first + PAGE_SIZE), PTE_P | PTE_W, 1);
        a[0] = i & 1 ? UINT64_MAX : i;
        a[64] = i & 2 ? UINT64_MAX : i;
        b[0] = i & 4 ? 1 : 0;
        b[64] = i & 8 ? 2 : 0;
        b[128] = i;
        if (i & 16) {
            map(PTE_P | PTE_W, PTE_P | PTE_W); /* anew */
            page_map(EDGE + PAGE_SIZE, (uint64_t)(first + PAGE_SIZE), PTE_P | PTE_W, 1);
        }
        unsigned carry = (i & 5) == 5;
        uint64_t result = sum_alone(BASE);
        ASSERT_EQ(sum[0], a[0] + b[0]);
        ASSERT_EQ(sum[64], a[64] + b[64] + carry);
        ASSERT_EQ(sum[128], i);
        ASSERT_EQ(result, (i & 2) && (i & 8 || carry));
    }
}

static void try_sums(void)
{
    case_begin("a carry over three bases");
    map(PTE_P | PTE_W, PTE_P | PTE_W);
    page_map(EDGE + PAGE_SIZE, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    page_map(EDGE + 2 * PAGE_SIZE, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    for (unsigned i = 0; i < 512; i++) {
        try_sum(BASE, i);
    }
    case_begin("the same across pages");
    for (unsigned i = 0; i < 512; i++) {
        if (i % 16 == 0) {
            map(PTE_P | PTE_W, PTE_P | PTE_W); /* the processor knows nothing of them */
        }
        try_sum(EDGE - 8 * (i / 128) - 4, i);
    }
    case_begin("the sum's page refuses");
    for (unsigned i = 0; i < 3; i++) {
        page_map(EDGE + PAGE_SIZE, (uint64_t)second, i == 1 ? PTE_P : 0, 1);
        ASSERT(trap_try(sum_run, BASE));
        ASSERT_EQ(cpu_self()->trap.error, PF_W | (i == 1 ? PF_P : 0));
        ASSERT_EQ(cpu_self()->trap_cr2, EDGE + PAGE_SIZE);
    }
}

/* RSP itself among pushes and pops; returns how far what was pushed is from RSP. */
ASM_FUNCTION(push_rsp, "push %rdi; push %rdi; push %rsp; push %rdi\n"
                       "pop %rcx; pop %rax; pop %rdx; pop %rdx\n"
                       "sub %rsp, %rax; neg %rax\n"
                       "push %rdi; push %rdi; lea -16(%rsp), %rdx; push %rdx\n"
                       "mov %rsp, %rcx; pop %rsp; sub %rsp, %rcx; add %rcx, %rax\n"
                       "add $32, %rsp\n");

/* CF = RDI & 1 comes to the end by a jump, a call, a return, and jumps to addresses known
 * only then, past accesses and nothing that reads it; RAX = CF. */
ASM_FUNCTION(flags_far, "shr $1, %rdi\n"
                        "mov (%rsp), %rcx\n"
                        "jmp 1f\n"
                        "2: mov (%rsp), %r8\n"
                        "lea 4f(%rip), %rcx\n"
                        "push %rcx\n"
                        "ret\n"
                        ".balign 4096\n"
                        "3: push %rbx; pop %rbx\n"
                        "ret\n"
                        "1: mov (%rsp), %rdx\n"
                        "call 3b\n"
                        "lea 2b(%rip), %rcx\n"
                        "jmp *%rcx\n"
                        "4: mov $0, %eax\n"
                        "jrcxz 5f\n"
                        "5: mov (%rsp), %rcx\n"
                        "setc %al\n");

/* Copied to RAM: the same, with two bytes at the end of a jump that overwrite it. */
ASM_FUNCTION(flags_near, "flags_start: shr $1, %rdi\n"
                         "mov $0, %eax\n"
                         "mov (%rsp), %rcx\n"
                         "jmp flags_kill\n"
                         ".balign 64\n"
                         "flags_kill: xor %eax, %eax\n"
                         "setc %al\n"
                         "ret\n"
                         "flags_end:\n");
extern char flags_start[], flags_kill[], flags_end[];

static void try_live_flags(void)
{
    case_begin("flags across jumps, calls and returns");
    for (unsigned i = 0; i < 100; i++) {
        ASSERT_EQ(flags_far(i), i & 1);
    }
    case_begin("pushes of RSP");
    for (unsigned i = 0; i < 100; i++) {
        ASSERT_EQ(push_rsp(i), 16 + 8);
    }
    case_begin("the code at the end of a jump begins to read flags");
    static const uint8_t kills[] = {0x31, 0xc0}, keeps[] = {0xb0, 0x00}; /* MOV al, 0 */
    uint8_t *code = page_new();
    memcpy(code, flags_start, (size_t)(flags_end - flags_start));
    trap_function *function = (trap_function *)(uintptr_t)code;
    for (unsigned i = 0; i < 200; i++) {
        memcpy(code + (flags_kill - flags_start), i & 2 ? keeps : kills, 2);
        ASSERT_EQ(function(i), i & 2 ? i & 1 : 0);
    }
}

/* Come to by a jump that is known only then. */
ASM_FUNCTION(vector_loop, "mov $3, %ecx; lea 1f(%rip), %rax; jmp *%rax\n"
                          "1: movups (%rdi), %xmm0\n"
                          "movups 16(%rdi), %xmm0\n"
                          "dec %ecx; jnz 1b\n");

/* An engine may have the guest's vectors in the host's registers only while all
 * exceptions are masked. */
static void try_unmasked(void)
{
    case_begin("a loop of loads with exceptions unmasked, its page not known");
    cr4_write(cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    for (unsigned i = 0; i < 100; i++) {
        uint32_t mxcsr = i & 1 ? 0 : 0x1f80;
        map(PTE_P | PTE_W, PTE_P | PTE_W);
        __asm__ volatile("ldmxcsr %0" ::"m"(mxcsr));
        ASSERT(!trap_try(vector_loop, BASE));
    }
    uint32_t masked = 0x1f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(masked));
}

void guest_test(void)
{
    first = page_new();
    page_new();
    second = page_new();
    for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        const struct run *run = &runs[i];
        case_begin("%s that come to a page's end", run->name);
        /* The stack of the handler is elsewhere: RSP is the base of some. */
        trap_set_gate(VECTOR_PF, 0x8e, 1);
        for (unsigned done = 0; done < run->count; done++) {
            try_edge(run, done, false, 3);
            if (run->writes) {
                try_edge(run, done, true, 3);
            }
        }
        case_begin("%s that often cross a page's end, and then may not", run->name);
        try_split(run);
        case_begin("%s across pages", run->name);
        try_across(run);
        trap_set_gate(VECTOR_PF, 0x8e, 0);
    }
    try_late_write();
    try_unmasked();
    try_change();
    try_flags();
    try_sums();
    try_alone();
    try_live_flags();
}
