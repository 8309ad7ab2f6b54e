/* Alignment checks in ring 3: CR0.AM and RFLAGS.AC, what has an alignment and what has
 * none, and what comes first. */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define USER_DATA (USER_STACK + 0x10000)
#define USER_TOP  (USER_STACK + 4096 - 16)
#define ABSENT    (USER_DATA + 0x1000)

USER_FUNCTION(load_2, "mov (%rdi), %ax\nint $0x80");
USER_FUNCTION(load_4, "mov (%rdi), %eax\nint $0x80");
USER_FUNCTION(load_8, "mov (%rdi), %rax\nint $0x80");
USER_FUNCTION(store_4, "mov %eax, (%rdi)\nint $0x80");
USER_FUNCTION(modify_8, "lock; addq $1, (%rdi)\nint $0x80");
USER_FUNCTION(push_8, "mov %rdi, %rsp\npush %rax\nint $0x80");
USER_FUNCTION(copy_4, "mov %rdi, %rsi\ncld\nmovsl\nint $0x80");
USER_FUNCTION(copy_1, "mov %rdi, %rsi\nmov $16, %ecx\ncld\nrep movsb\nint $0x80");
USER_FUNCTION(x87_10, "fldt (%rdi)\nint $0x80");
USER_FUNCTION(x87_state, "fnstenv (%rdi)\nint $0x80");
USER_FUNCTION(sse_16, "movups (%rdi), %xmm0\nint $0x80");
USER_FUNCTION(sse_4, "movss (%rdi), %xmm0\nint $0x80");
USER_FUNCTION(flags_first,
              "mov (%rdi), %eax\npushf\norl $0x40000, (%rsp)\npopf\n"
              ".globl flags_first_checked\nflags_first_checked: mov (%rdi), %eax\n"
              "int $0x80");
extern char flags_first_checked[];

static const struct {
    const char *name;
    const char *code;
    unsigned alignment, skip; /* bytes of code in front of the access */
} kinds[] = {
    {"2 bytes", load_2, 2, 0},
    {"4 bytes", load_4, 4, 0},
    {"8 bytes", load_8, 8, 0},
    {"a store", store_4, 4, 0},
    {"a locked modification", modify_8, 8, 0},
    {"PUSH", push_8, 8, 3},
    {"MOVS of 4 bytes", copy_4, 4, 4},
    {"MOVS of bytes", copy_1, 1, 0},
    {"an x87 number of 10 bytes", x87_10, 8, 0},
    {"the x87 environment", x87_state, 4, 0},
    {"16 bytes", sse_16, 1, 0},
    {"a float", sse_4, 4, 0},
};

static void run(const void *code, uint64_t address, uint64_t flags)
{
    struct user_start start = {
        .rip = user_address(code),
        .rdi = address,
        .rsp = USER_TOP,
        .rflags = RFLAGS_FIXED | flags,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    user_run(&start);
}

static void try_kinds(void)
{
    for (unsigned i = 0; i < COUNT_OF(kinds); i++) {
        case_begin("%s", kinds[i].name);
        for (unsigned offset = 0; offset < 16; offset++) {
            run(kinds[i].code, USER_DATA + 64 + offset, RFLAGS_AC);
            if (offset % kinds[i].alignment) {
                ASSERT_TRAP(VECTOR_AC, 0, user_address(kinds[i].code) + kinds[i].skip);
            } else {
                ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
            }
        }
    }
}

static void try_conditions(void)
{
    case_begin("not without RFLAGS.AC");
    run(load_4, USER_DATA + 1, 0);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    case_begin("not without CR0.AM");
    cr0_write(cr0_read() & ~CR0_AM);
    run(load_4, USER_DATA + 1, RFLAGS_AC);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    cr0_write(cr0_read() | CR0_AM);
    case_begin("from the instruction behind POPF on");
    run(flags_first, USER_DATA + 1, 0);
    ASSERT_TRAP(VECTOR_AC, 0, user_address(flags_first_checked));
    case_begin("not in ring 0");
    flags_write(flags_read() | RFLAGS_AC);
    __asm__ volatile("mov 1(%0), %%eax" : : "r"(&kinds) : "rax");
    flags_write(flags_read() & ~(uint64_t)RFLAGS_AC);
}

static void try_order(void)
{
    case_begin("before a page fault");
    run(load_4, ABSENT + 1, RFLAGS_AC);
    ASSERT_TRAP(VECTOR_AC, 0, user_address(load_4));
    run(load_4, ABSENT + 4, RFLAGS_AC);
    ASSERT_TRAP(VECTOR_PF, PF_U, user_address(load_4));
    case_begin("behind a non-canonical address");
    run(load_4, 0x800000000001, RFLAGS_AC);
    ASSERT_TRAP(VECTOR_GP, 0, user_address(load_4));
}

void guest_test(void)
{
    page_map(USER_DATA, (uint64_t)page_new(), PTE_P | PTE_W | PTE_U, 1);
    cr0_write((cr0_read() | CR0_AM | CR0_MP) & ~(uint64_t)(CR0_EM | CR0_TS));
    cr4_write(cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    __asm__ volatile("fninit");
    try_kinds();
    try_conditions();
    try_order();
}
