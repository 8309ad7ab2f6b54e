/*
 * Much of everything that an engine keeps something about: code, addresses, address
 * spaces, modes, calls. What it keeps must stay bounded, and right, when all processors
 * ask for more of it at once.
 *
 * The command line "forever NAME" repeats one of them without end, and says so after each
 * round: what a VMM is asked meanwhile, it has to answer.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "smp.h"
#include "trap.h"

#define CODE_BASE   0x10000000000ull /* 512 GiB that show one page */
#define DATA_BASE   0x18000000000ull /* 512 GiB that show one page for each processor */
#define SPACE_BASE  0x20000000000ull /* another page in each address space */
#define USER_BASE   0x28000000000ull /* stacks of ring 3 */
#define SLOT        64u
#define BLOCKS      300000u /* more than fit */
#define SPACES      64u
#define DEPTH       20000u
#define STACK       (1u << 18)
#define CR4_OSXSAVE (1ull << 18)
#define CPUID_PCID  (1u << 17)
#define CPUID_XSAVE (1u << 26)

typedef uint64_t code_function(void);

struct place {
    uint64_t seed;
    uint8_t *code; /* pages that this processor fills */
    uint64_t touched;
    uint8_t *stack;
};

static struct place places[CPU_MAX];
static uint8_t *shared_code;
static uint64_t spaces[SPACES];
static unsigned count;
static volatile uint32_t barrier, is_over;

/* xorshift64*: the same sequence in every run. */
static uint64_t random(struct place *place)
{
    place->seed ^= place->seed >> 12;
    place->seed ^= place->seed << 25;
    place->seed ^= place->seed >> 27;
    return place->seed * 0x2545f4914f6cdd1d;
}

/* MOV EAX, value; RET. */
static void put_program(uint8_t *at, uint32_t value)
{
    *(volatile uint64_t *)at = 0xc300000000b8 | (uint64_t)value << 8;
}

static uint64_t run(uint64_t address)
{
    return ((code_function *)address)();
}

/* The work of one processor; all together do the same, however many they are. */
static uint32_t share(uint32_t work)
{
    return work / count + 1;
}

/* ---- code ------------------------------------------------------------------------- */

/* Never the same program twice, at places that are used anew by each round. */
static void flood_code(struct place *place, uint32_t round)
{
    uint32_t left = share(BLOCKS), value = round << 24;
    uint8_t *page = place->code;
    while (left > 0) {
        for (unsigned i = 0; i < PAGE_SIZE / SLOT; i++) {
            put_program(page + i * SLOT, value + i);
        }
        for (unsigned i = 0; i < PAGE_SIZE / SLOT && left > 0; i++, left--) {
            ASSERT_EQ(run((uint64_t)page + i * SLOT), value + i);
        }
        value += PAGE_SIZE / SLOT;
        page += PAGE_SIZE;
    }
}

static void flood_rewrites(struct place *place, uint32_t round)
{
    for (uint32_t i = 0; i < share(60000); i++) {
        uint8_t *at = place->code + (random(place) & 7) * 512;
        put_program(at, round + i);
        ASSERT_EQ(run((uint64_t)at), round + i);
    }
}

/* One page of code at addresses without number: LEA RAX, [RIP - 7]; RET. */
static void flood_aliases(struct place *place, uint32_t round)
{
    (void)round;
    for (uint32_t i = 0; i < share(100000); i++) {
        uint64_t address = CODE_BASE + ((random(place) >> 25) & -PAGE_SIZE) + 0x80;
        ASSERT_EQ(run(address), address);
    }
}

/* The first processor changes what all the others run. */
static void flood_patches(struct place *place, uint32_t round)
{
    uint32_t first = (round & 0xff) << 20, patches = 20000;
    if (place != places) {
        uint64_t last = 0;
        while (last != first + patches) {
            uint64_t value = run((uint64_t)shared_code);
            if (value >> 20 == first >> 20) {
                ASSERT_BETWEEN(value, last, first + patches);
                last = value;
            }
        }
        return;
    }
    for (uint32_t i = 0; i <= patches; i++) {
        put_program(shared_code, first + i);
        ASSERT_EQ(run((uint64_t)shared_code), first + i);
    }
}

/* ---- addresses -------------------------------------------------------------------- */

static void flood_pages(struct place *place, uint32_t round)
{
    (void)round;
    uint64_t word = (uint64_t)(place - places) * 8;
    for (uint32_t i = 0; i < share(300000); i++) {
        uint64_t address = DATA_BASE + ((random(place) >> 25) & -PAGE_SIZE) + word;
        volatile uint64_t *at = (volatile uint64_t *)address;
        ASSERT_EQ(*at, place->touched);
        *at = ++place->touched;
    }
}

/* With process-context identifiers, if there are, that keep their translations. */
static void flood_spaces(struct place *place, uint32_t round)
{
    (void)round;
    bool has_pcid = cpuid(1, 0).ecx & CPUID_PCID;
    uint64_t cr4 = cr4_read();
    if (has_pcid) {
        cr4_write(cr4 | CR4_PCIDE);
    }
    for (uint32_t i = 0; i < share(60000); i++) {
        uint64_t number = random(place) & 0xfff;
        uint64_t pcid = has_pcid ? number | (i & 1 ? 1ull << 63 : 0) : 0;
        cr3_write(spaces[number % SPACES] | pcid);
        ASSERT_EQ(*(volatile uint64_t *)SPACE_BASE, number % SPACES);
        ASSERT_EQ(run(SPACE_BASE + 0x80), number % SPACES);
    }
    cr3_write((uint64_t)kernel_pml4);
    cr4_write(cr4);
}

static uint64_t read_word(uint64_t address)
{
    return *(volatile uint64_t *)address;
}

static uint64_t divide(uint64_t by)
{
    return 1000 / *(volatile uint64_t *)&by;
}

static void flood_faults(struct place *place, uint32_t round)
{
    (void)round;
    for (uint32_t i = 0; i < share(40000); i++) {
        uint64_t address = USER_BASE + (1ull << 38) + (random(place) >> 27);
        ASSERT(trap_try(read_word, address));
        ASSERT_EQ(cpu_self()->trap_cr2, address);
        ASSERT(trap_try(divide, 0));
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_DE);
    }
}

/* ---- modes ------------------------------------------------------------------------ */

static void set_avx(bool on)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"(on ? 7 : 3), "d"(0) : "memory");
}

static uint64_t add_vectors(uint64_t value)
{
    uint64_t sum;
    __asm__ volatile("movq %1, %%xmm1; paddq %%xmm1, %%xmm1; movq %%xmm1, %0"
                     : "=r"(sum)
                     : "r"(value));
    return sum;
}

static void flood_modes(struct place *place, uint32_t round)
{
    (void)round;
    bool has_xsave = cpuid(1, 0).ecx & CPUID_XSAVE;
    uint64_t cr0 = cr0_read(), cr4 = cr4_read();
    for (uint32_t i = 0; i < share(20000); i++) {
        uint64_t bits = random(place);
        cr0_write(bits & 1 ? cr0 | CR0_WP : cr0 & ~CR0_WP);
        uint64_t more = CR4_OSFXSR | (bits & 2 ? CR4_PGE : 0) | (bits & 4 ? CR4_TSD : 0);
        bool with_xsave = has_xsave && bits & 8;
        cr4_write(cr4 | more | (with_xsave ? CR4_OSXSAVE : 0));
        if (with_xsave) {
            set_avx(bits & 16);
        }
        ASSERT_EQ(add_vectors(bits >> 1), bits >> 1 << 1);
        ASSERT_EQ(run(CODE_BASE + 0x80), CODE_BASE + 0x80);
    }
    cr4_write(cr4);
    cr0_write(cr0);
}

/* ---- calls ------------------------------------------------------------------------ */

/* call_deep(depth, stack): goes down so many calls, and back. return_often(returns,
 * stack): that many returns that nobody called. Both tell how far they came. */
__asm__(".text\n"
        "call_deep:\n"
        "    mov %rsp, %rdx\n"
        "    mov %rsi, %rsp\n"
        "    xor %eax, %eax\n"
        "    call 1f\n"
        "    mov %rdx, %rsp\n"
        "    ret\n"
        "1:  dec %rdi\n"
        "    jz 2f\n"
        "    call 1b\n"
        "2:  inc %rax\n"
        "    ret\n"
        "return_often:\n"
        "    mov %rsp, %rdx\n"
        "    mov %rsi, %rsp\n"
        "    xor %eax, %eax\n"
        "    lea 3f(%rip), %rcx\n"
        "    push %rcx\n"
        "    lea 2f(%rip), %rcx\n"
        "1:  push %rcx\n"
        "    dec %rdi\n"
        "    jnz 1b\n"
        "2:  inc %rax\n"
        "    ret\n"
        "3:  mov %rdx, %rsp\n"
        "    ret\n"
        ".previous");
uint64_t call_deep(uint64_t depth, uint8_t *stack);
uint64_t return_often(uint64_t returns, uint8_t *stack);

/* RDI calls without a return, each with a look at what it has pushed. */
USER_FUNCTION(user_deep, "call 1f\n"
                         "0: int $0x80\n"
                         "1: dec %rdi\n"
                         "jz 2f\n"
                         "call 1b\n"
                         "2: inc %rax\n"
                         "ret\n");

static void flood_calls(struct place *place, uint32_t round)
{
    (void)round;
    unsigned index = (unsigned)(place - places);
    struct user_start start = {
        .rip = user_address(user_deep),
        .rdi = DEPTH,
        .rsp = USER_BASE + index * 2ull * STACK + STACK - 16,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    for (uint32_t i = 0; i < share(40); i++) {
        ASSERT_EQ(call_deep(DEPTH, place->stack + STACK), DEPTH);
        ASSERT_EQ(return_often(DEPTH, place->stack + STACK), DEPTH + 1);
        user_run(&start);
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    }
}

/* ---- all of them ------------------------------------------------------------------ */

static const struct flood {
    const char *name, *title;
    void (*round)(struct place *place, uint32_t round);
} floods[] = {
    {"code", "code is made without end", flood_code},
    {"rewrites", "code is rewritten without end", flood_rewrites},
    {"patches", "code that the others run is rewritten without end", flood_patches},
    {"aliases", "one page of code is run at addresses without end", flood_aliases},
    {"pages", "pages are touched without end", flood_pages},
    {"spaces", "address spaces change without end", flood_spaces},
    {"faults", "faults without end", flood_faults},
    {"modes", "modes change without end", flood_modes},
    {"calls", "calls without returns, returns without calls", flood_calls},
};

/* A table of a level whose entries all lead to the same. */
static uint64_t table_of(uint64_t to, uint64_t flags)
{
    uint64_t *table = page_new();
    for (unsigned i = 0; i < 512; i++) {
        table[i] = to | flags | PTE_P | PTE_W;
    }
    return (uint64_t)table;
}

static void show_everywhere(uint64_t base, uint64_t page)
{
    uint64_t pages = table_of(page, 0);
    *page_entry(kernel_pml4, base, 4) = table_of(table_of(pages, 0), 0) | PTE_P | PTE_W;
}

static void make_spaces(void)
{
    for (uint64_t i = 0; i < SPACES; i++) {
        uint64_t *root = page_new(), *page = page_new();
        page[0] = i;
        put_program((uint8_t *)page + 0x80, (uint32_t)i);
        memcpy(root, kernel_pml4, PAGE_SIZE);
        *page_entry(root, SPACE_BASE, 1) = (uint64_t)page | PTE_P | PTE_W;
        spaces[i] = (uint64_t)root;
    }
}

static void set_up(void)
{
    static const uint8_t where_am_i[] = {0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, 0xc3};
    uint8_t *page = page_new();
    memcpy(page + 0x80, where_am_i, sizeof(where_am_i));
    show_everywhere(CODE_BASE, (uint64_t)page);
    show_everywhere(DATA_BASE, (uint64_t)page_new());
    shared_code = page_new();
    put_program(shared_code, UINT32_MAX); /* of no round */
    for (unsigned i = 0; i < count; i++) {
        struct place *place = &places[i];
        place->seed = 0x9e3779b97f4a7c15 + i;
        place->stack = page_new_run(STACK);
        for (uint64_t at = 0; at < STACK; at += PAGE_SIZE) {
            page_map(USER_BASE + i * 2ull * STACK + at, (uint64_t)page_new(),
                     PTE_P | PTE_W | PTE_U, 1);
        }
    }
    make_spaces();
    uint64_t size = (share(BLOCKS) * SLOT + PAGE_SIZE) & -PAGE_SIZE;
    for (unsigned i = 0; i < count; i++) {
        places[i].code = page_new();
        for (uint64_t at = PAGE_SIZE; at < size; at += PAGE_SIZE) {
            page_new();
        }
    }
}

static void do_round(void *argument)
{
    const struct flood *flood = argument;
    flood->round(&places[cpu_self()->index], 0);
}

static void do_forever(void *argument)
{
    const struct flood *flood = argument;
    unsigned index = cpu_self()->index;
    for (uint32_t round = 1;; round++) {
        flood->round(&places[index], round);
        smp_barrier(&barrier, count);
        if (index == 0) {
            print("%s: %u rounds\n", flood->name, round);
        }
    }
}

void guest_test(void)
{
    count = smp_count();
    smp_start(true);
    set_up();
    bool is_endless = guest_option("forever");
    for (unsigned i = 0; i < COUNT_OF(floods); i++) {
        if (!is_endless) {
            case_begin("%s", floods[i].title);
            smp_call_all(do_round, (void *)&floods[i]);
        } else if (guest_option(floods[i].name)) {
            smp_call_all(do_forever, (void *)&floods[i]);
        }
    }
    if (is_endless) {
        FAIL("the command line names none of the floods");
    }
}
