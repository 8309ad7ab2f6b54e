/*
 * Operands and instructions that cross a page end: the bytes are right, a fault on either
 * page leaves everything as it was, CR2 is the first byte that could not be accessed, and
 * what was interrupted can be started again. String instructions that fault in the
 * middle.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE 0x10000000000ull
#define EDGE (BASE + PAGE_SIZE)

/* RDI: the operand. `NAME_at` marks the instruction that accesses it. */
#define OPERAND(name, before, instruction)                          \
    ASM_FUNCTION(name, before "\n" #name "_at: " instruction "\n"); \
    extern char name##_at[]

OPERAND(load64, "", "mov (%rdi), %rax");
OPERAND(load32, "", "mov (%rdi), %eax");
OPERAND(load16, "", "movzwl (%rdi), %eax");
OPERAND(store64, "movabs $0x1122334455667788, %rax", "mov %rax, (%rdi)");
OPERAND(store32, "mov $0x11223344, %eax", "mov %eax, (%rdi)");
OPERAND(store16, "mov $0x1122, %eax", "mov %ax, (%rdi)");
OPERAND(modify64, "", "addq $1, (%rdi)");
OPERAND(modify32, "", "incl (%rdi)");
OPERAND(locked64, "", "lock addq $1, (%rdi)");
OPERAND(exchange64, "mov $5, %eax", "xchg %rax, (%rdi)");
OPERAND(cmpxchg64, "mov $5, %eax; mov $6, %ecx", "lock cmpxchg %rcx, (%rdi)");
OPERAND(push64, "mov %rsp, %rdx; lea 8(%rdi), %rsp", "push %rax\nmov %rdx, %rsp");
OPERAND(pop64, "mov %rsp, %rdx; mov %rdi, %rsp", "pop %rax\nmov %rdx, %rsp");
OPERAND(push_memory, "", "push (%rdi)\npop %rax");
OPERAND(call64, "mov %rsp, %rdx; lea 8(%rdi), %rsp", "call 1f\n1: mov %rdx, %rsp");
OPERAND(string_move, "lea -64(%rsp), %rsi", "movsq");
OPERAND(string_store, "", "stosq");
OPERAND(bit_test, "mov $7, %eax", "btsq %rax, (%rdi)");

struct row {
    const char *name;
    trap_function *function;
    char *at;
    unsigned size;
    bool reads, writes, is_stack;
};

#define ROW(function, ...)                              \
    {                                                   \
#function, function, function##_at, __VA_ARGS__ \
    }

static const struct row table[] = {
    ROW(load64, 8, true, false),       ROW(load32, 4, true, false),
    ROW(load16, 2, true, false),       ROW(store64, 8, false, true),
    ROW(store32, 4, false, true),      ROW(store16, 2, false, true),
    ROW(modify64, 8, true, true),      ROW(modify32, 4, true, true),
    ROW(locked64, 8, true, true),      ROW(exchange64, 8, true, true),
    ROW(cmpxchg64, 8, true, true),     ROW(push64, 8, false, true, true),
    ROW(pop64, 8, true, false, true),  ROW(push_memory, 8, true, false),
    ROW(call64, 8, false, true, true), ROW(string_move, 8, false, true),
    ROW(string_store, 8, false, true), ROW(bit_test, 8, true, true),
};

static uint8_t *first, *second;

static void map(uint64_t first_flags, uint64_t second_flags)
{
    page_map(BASE, (uint64_t)first, first_flags, 1);
    page_map(EDGE, (uint64_t)second, second_flags, 1);
}

static void fill(void)
{
    for (unsigned i = 0; i < 16; i++) {
        first[PAGE_SIZE - 16 + i] = (uint8_t)(0x10 + i);
        second[i] = (uint8_t)(0x80 + i);
    }
}

static void expect_untouched(const struct row *row)
{
    for (unsigned i = 0; i < 16; i++) {
        if (first[PAGE_SIZE - 16 + i] != 0x10 + i || second[i] != 0x80 + i) {
            FAIL("%s faulted and wrote all the same", row->name);
        }
    }
}

static void expect_fault(const struct row *row, uint64_t address, uint64_t present,
                         uint64_t cr2)
{
    struct cpu *cpu = cpu_self();
    uint64_t writes = row->writes ? PF_W : 0;

    fill();
    ASSERT(trap_try(row->function, address));
    if (cpu->trap.vector != VECTOR_PF || cpu->trap.error != (present | writes) ||
        cpu->trap.rip != (uint64_t)row->at || cpu->trap_cr2 != cr2) {
        FAIL("%s at 0x%lx: vector %lu, error 0x%lx, RIP 0x%lx, CR2 0x%lx; expected 14, "
             "0x%lx, 0x%lx, 0x%lx",
             row->name, address, cpu->trap.vector, cpu->trap.error, cpu->trap.rip,
             cpu->trap_cr2, present | writes, (uint64_t)row->at, cr2);
    }
    if (row->is_stack) {
        uint64_t rsp = row->writes ? address + 8 : address;
        ASSERT_EQ(cpu->trap.rsp, rsp);
    } else {
        ASSERT_EQ(cpu->trap.rdi, address);
    }
    expect_untouched(row);
}

static void try_operand(const struct row *row)
{
    case_begin("%s", row->name);
    /* The stack of the handler is elsewhere when RSP is the operand. */
    trap_set_gate(VECTOR_PF, 0x8e, row->is_stack ? 1 : 0);
    for (unsigned before = 1; before < row->size; before++) {
        uint64_t address = EDGE - before;

        map(PTE_P | PTE_W, 0);
        expect_fault(row, address, 0, EDGE);
        map(0, PTE_P | PTE_W);
        expect_fault(row, address, 0, address);
        map(0, 0);
        expect_fault(row, address, 0, address);
        if (row->writes) {
            map(PTE_P | PTE_W, PTE_P);
            expect_fault(row, address, PF_P, EDGE);
            map(PTE_P, PTE_P | PTE_W);
            expect_fault(row, address, PF_P, address);
        }
        map(PTE_P | PTE_W, PTE_P | PTE_W);
        fill();
        uint64_t old = *(uint64_t *)memcpy(&(uint64_t){0}, (void *)address, 8);
        uint64_t mask = row->size == 8 ? UINT64_MAX : (1ull << 8 * row->size) - 1;
        ASSERT(!trap_try(row->function, address));
        ASSERT_EQ(*page_entry(kernel_pml4, BASE, 1) & PTE_D, row->writes ? PTE_D : 0);
        ASSERT_EQ(*page_entry(kernel_pml4, EDGE, 1) & PTE_D, row->writes ? PTE_D : 0);
        uint64_t now;
        memcpy(&now, (void *)address, 8);
        if (row->function == modify64 || row->function == locked64 ||
            row->function == modify32) {
            ASSERT_EQ(now & mask, (old + 1) & mask);
            ASSERT_EQ(now & ~mask, old & ~mask);
        } else if (row->function == store64 || row->function == store32 ||
                   row->function == store16) {
            uint64_t value = row->size == 8   ? 0x1122334455667788
                             : row->size == 4 ? 0x11223344
                                              : 0x1122;
            ASSERT_EQ(now, (old & ~mask) | value);
        } else if (row->function == exchange64) {
            ASSERT_EQ(now, 5);
        } else if (!row->writes) {
            ASSERT_EQ(now, old);
            ASSERT_EQ(row->function(address), old & mask);
        }
    }
    trap_set_gate(VECTOR_PF, 0x8e, 0);
}

static uint64_t call_address(uint64_t address)
{
    ((uint64_t(*)(void))address)();
    return 0;
}

/* MOV RAX, imm64 begins on one page and ends on the other. */
static void try_fetch(void)
{
    static const uint8_t program[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3};

    case_begin("instructions across a page end");
    for (unsigned before = 1; before < 10; before++) {
        uint64_t address = EDGE - before;

        map(PTE_P | PTE_W, PTE_P | PTE_W);
        memcpy((void *)address, program, sizeof(program));
        ASSERT_EQ(((uint64_t(*)(void))address)(), 0x0807060504030201);
        map(PTE_P, 0);
        ASSERT(trap_try(call_address, address));
        ASSERT_TRAP(VECTOR_PF, PF_I, address);
        ASSERT_EQ(cpu_self()->trap_cr2, EDGE);
        map(PTE_P, PTE_P | PTE_NX);
        ASSERT(trap_try(call_address, address));
        ASSERT_TRAP(VECTOR_PF, PF_P | PF_I, address);
        ASSERT_EQ(cpu_self()->trap_cr2, EDGE);
        map(PTE_P | PTE_NX, PTE_P);
        ASSERT(trap_try(call_address, address));
        ASSERT_TRAP(VECTOR_PF, PF_P | PF_I, address);
        ASSERT_EQ(cpu_self()->trap_cr2, address);
    }
    case_begin("a whole instruction before a page that is not there");
    map(PTE_P | PTE_W, 0);
    first[PAGE_SIZE - 1] = 0xc3;
    ASSERT(!trap_try(call_address, EDGE - 1));
    case_begin("15 bytes are an instruction, 16 are not");
    map(PTE_P | PTE_W, PTE_P | PTE_W);
    memset((void *)(EDGE - 8), 0x66, 16);
    ((uint8_t *)EDGE)[6] = 0x90;
    ((uint8_t *)EDGE)[7] = 0xc3;
    ASSERT(!trap_try(call_address, EDGE - 8));
    ((uint8_t *)EDGE)[6] = 0x66;
    ((uint8_t *)EDGE)[7] = 0x90;
    ASSERT(trap_try(call_address, EDGE - 8));
    ASSERT_TRAP(VECTOR_GP, 0, EDGE - 8);
}

/* RDI: first byte, 100 elements. */
#define STRING(name, before, instruction)                                \
    ASM_FUNCTION(name, before "\n" #name "_at: " instruction "\ncld\n"); \
    extern char name##_at[]
STRING(rep_stosb, "mov $100, %ecx; mov $0x77, %eax", "rep stosb");
STRING(rep_stosd, "mov $25, %ecx; mov $0x77777777, %eax", "rep stosl");
STRING(rep_movsb, "mov $100, %ecx; mov %rdi, %rsi; sub $200, %rsi", "rep movsb");
STRING(rep_lodsb, "mov $100, %ecx; mov %rdi, %rsi", "rep lodsb");
STRING(repe_scasb, "mov $100, %ecx; mov $0x77, %eax", "repe scasb");
STRING(rep_stosb_down, "mov $100, %ecx; mov $0x77, %eax; std", "rep stosb");
STRING(rep_insb, "mov $100, %ecx; mov $0x61, %edx", "rep insb");

/* All but the first `done` bytes lie on a page that is not there. */
static void try_string(trap_function *function, char *at, unsigned done, unsigned left,
                       bool moves_rdi, bool is_down)
{
    struct cpu *cpu = cpu_self();
    uint64_t start = is_down ? EDGE + done - 1 : EDGE - done;

    map(is_down ? 0 : PTE_P | PTE_W, is_down ? PTE_P | PTE_W : 0);
    memset(first, 0x77, PAGE_SIZE);
    memset(second, 0x77, PAGE_SIZE);
    ASSERT(trap_try(function, start));
    ASSERT_EQ(cpu->trap.vector, VECTOR_PF);
    ASSERT_EQ(cpu->trap.rip, at);
    ASSERT_EQ(cpu->trap_cr2, is_down ? EDGE - 1 : EDGE);
    ASSERT_EQ(cpu->trap.rcx, left);
    ASSERT_EQ(moves_rdi ? cpu->trap.rdi : cpu->trap.rsi, is_down ? EDGE - 1 : EDGE);
    ASSERT_EQ(!!(cpu->trap.rflags & RFLAGS_RF), 1);
}

static void try_strings(void)
{
    case_begin("string instructions fault in the middle");
    try_string(rep_stosb, rep_stosb_at, 40, 60, true, false);
    try_string(rep_stosd, rep_stosd_at, 40, 15, true, false);
    try_string(rep_movsb, rep_movsb_at, 40, 60, true, false);
    ASSERT_EQ(cpu_self()->trap.rsi, EDGE - 200);
    try_string(rep_lodsb, rep_lodsb_at, 40, 60, false, false);
    try_string(repe_scasb, repe_scasb_at, 40, 60, true, false);
    try_string(rep_stosb_down, rep_stosb_down_at, 40, 60, true, true);
    try_string(rep_insb, rep_insb_at, 40, 60, true, false);
}

void guest_test(void)
{
    first = page_new();
    page_new(); /* not neighbours in RAM */
    second = page_new();
    for (unsigned i = 0; i < COUNT_OF(table); i++) {
        try_operand(&table[i]);
    }
    try_fetch();
    try_strings();
}
