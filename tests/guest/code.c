/*
 * Code that changes: by the instruction before it, across a page end, through another
 * address, by REP MOVS, by another processor, in a new mapping. Each program returns a
 * number that tells which version of it ran.
 */
#include "smp.h"

#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "program.h"
#include "trap.h"

#define BASE  0x10000000000ull
#define ALIAS 0x10000100000ull

static uint8_t *pages[2]; /* as the identity map sees them */
static uint8_t *const code = (uint8_t *)BASE;

static void try_rewrite(void)
{
    for (uint32_t i = 0; i < 3000; i++) {
        put_program(code, i);
        ASSERT_EQ(run(code), i);
    }
    /* At every offset, also across the page end; whole and one byte of the operand. */
    for (uint32_t offset = PAGE_SIZE - 80; offset < PAGE_SIZE + 64; offset++) {
        put_program(code + offset, offset);
        ASSERT_EQ(run(code + offset), offset);
        for (unsigned byte = 1; byte < 5; byte++) {
            WRITE_ONCE(code[offset + byte], 0x77);
            uint32_t expected;
            memcpy(&expected, code + offset + 1, 4);
            ASSERT_EQ(run(code + offset), expected);
        }
    }
}

/*
 * A store to the instruction that follows, in the same basic block:
 *   mov byte [rip + 1], dil ; mov al, 0 ; ret
 * after it runs straight on, the new operand must be seen.
 */
static void try_next_instruction(void)
{
    static const uint8_t program[] = {
        0x40, 0x88, 0x3d, 0x01, 0x00, 0x00, 0x00, /* mov [rip+1], dil */
        0xb0, 0x00,                               /* mov al, 0 */
        0x0f, 0xb6, 0xc0,                         /* movzx eax, al */
        0xc3,
    };
    for (uint64_t offset = 0; offset < 2; offset++) {
        /* The second time the store and its target lie on different pages. */
        uint8_t *at = offset ? code + PAGE_SIZE - 8 : code;
        memcpy(at, program, sizeof(program));
        for (uint64_t value = 1; value < 100; value++) {
            ASSERT_EQ(((code_function *)(uintptr_t)at)(value, 0), value);
        }
    }
}

/* A loop whose body is changed by itself: INC EAX becomes NOP, NOP when the count is 5.
 */
static void try_loop(void)
{
    static const uint8_t program[] = {
        0x31, 0xc0,                               /* xor eax, eax */
        0xb9, 0x0a, 0x00, 0x00, 0x00,             /* mov ecx, 10 */
        0xff, 0xc0,                               /* 7: inc eax */
        0x83, 0xf9, 0x05,                         /* cmp ecx, 5 */
        0x75, 0x09,                               /* jne +9 */
        0x66, 0xc7, 0x05, 0xf0, 0xff, 0xff, 0xff, /* mov word [rip-16], 0x9090 */
        0x90, 0x90,                               /* the immediate */
        0xff, 0xc9,                               /* dec ecx */
        0x75, 0xec,                               /* jnz 7 */
        0xc3,
    };
    for (unsigned i = 0; i < 20; i++) {
        memcpy(code + 64 * i, program, sizeof(program));
        /* ECX = 10, 9, 8, 7, 6, 5 increment; then not. */
        ASSERT_EQ(run(code + 64 * i), 6);
        ASSERT_EQ(run(code + 64 * i), 0);
    }
}

static void try_alias(void)
{
    uint8_t *alias = (uint8_t *)ALIAS;
    put_program(code, 1);
    ASSERT_EQ(run(code), 1);
    ASSERT_EQ(run(alias), 1);
    for (uint32_t i = 2; i < 200; i++) {
        put_program(i & 1 ? alias : i & 2 ? code : pages[0], i);
        ASSERT_EQ(run(code), i);
        ASSERT_EQ(run(alias), i);
        ASSERT_EQ(run(pages[0]), i);
    }
}

static void try_copy(void)
{
    uint8_t *source = page_new();
    for (uint32_t i = 0; i < 100; i++) {
        uint8_t *to = code + PAGE_SIZE - 40, *from = source + 1;
        uint64_t size = 60;
        for (unsigned j = 0; j < 10; j++) {
            put_program(source + 1 + 6 * j, i * 10 + j);
        }
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
        for (unsigned j = 0; j < 10; j++) {
            ASSERT_EQ(run(code + PAGE_SIZE - 40 + 6 * j), i * 10 + j);
        }
        /* MOV EAX, i; RET; NOP, NOP, over and over. */
        uint64_t words = PAGE_SIZE / 8;
        to = code;
        __asm__ volatile("rep stosq"
                         : "+D"(to), "+c"(words)
                         : "a"(0x9090c300000000b8 | (uint64_t)i << 8)
                         : "memory");
        ASSERT_EQ(run(code), i);
        ASSERT_EQ(run(code + PAGE_SIZE - 8), i);
    }
}

/* The other page appears at the same address; code there is the new page's after INVLPG.
 */
static void try_mapping(void)
{
    uint8_t *other = page_new();
    put_program(pages[0] + 0x80, 1);
    put_program(other + 0x80, 2);
    for (unsigned i = 0; i < 50; i++) {
        page_map(BASE, (uint64_t)pages[0], PTE_P | PTE_W, 1);
        ASSERT_EQ(run(code + 0x80), 1);
        page_map(BASE, (uint64_t)other, PTE_P | PTE_W, 1);
        ASSERT_EQ(run(code + 0x80), 2);
        page_map(BASE, 0, 0, 1);
        ASSERT(trap_try((trap_function *)(uintptr_t)run, (uint64_t)code + 0x80));
        ASSERT_TRAP(VECTOR_PF, PF_I, code + 0x80);
    }
    /* An instruction that begins on one page and ends on another that is exchanged. */
    page_map(BASE, (uint64_t)pages[0], PTE_P | PTE_W, 1);
    put_program(code + PAGE_SIZE - 2, 0x11111111);
    memcpy(other, pages[1], PAGE_SIZE);
    other[0] = other[1] = 0x22;
    for (unsigned i = 0; i < 50; i++) {
        page_map(BASE + PAGE_SIZE, (uint64_t)pages[1], PTE_P | PTE_W, 1);
        ASSERT_EQ(run(code + PAGE_SIZE - 2), 0x11111111);
        page_map(BASE + PAGE_SIZE, (uint64_t)other, PTE_P | PTE_W, 1);
        ASSERT_EQ(run(code + PAGE_SIZE - 2), 0x11222211);
        page_map(BASE + PAGE_SIZE, 0, 0, 1);
        ASSERT(trap_try((trap_function *)(uintptr_t)run, (uint64_t)code + PAGE_SIZE - 2));
        ASSERT_TRAP(VECTOR_PF, PF_I, code + PAGE_SIZE - 2);
        ASSERT_EQ(cpu_self()->trap_cr2, BASE + PAGE_SIZE);
    }
    page_map(BASE + PAGE_SIZE, (uint64_t)pages[1], PTE_P | PTE_W, 1);
}

struct patch {
    volatile uint32_t version; /* written by processor 0 after the code */
    volatile uint32_t seen[CPU_MAX];
    uint32_t rounds;
};

/* SDM 3A 8.1.3: the others wait for the new version, serialise, and run it. */
static void run_patched(void *argument)
{
    struct patch *patch = argument;
    unsigned index = cpu_self()->index;
    for (uint32_t round = 1; round <= patch->rounds; round++) {
        if (index == 0) {
            put_program(round & 1 ? code : pages[0], round);
            patch->version = round;
        }
        while (patch->version < round) {
            pause();
        }
        cpuid(0, 0);
        uint64_t value = run(code);
        if (value != round) {
            FAIL("processor %u ran version %lu, expected %u", index, value, round);
        }
        patch->seen[index] = round;
        for (unsigned i = 0; index == 0 && i < smp_count(); i++) {
            while (patch->seen[i] < round) {
                pause();
            }
        }
    }
}

/* Few versions in turn, of two kinds: each processor runs the one that is there. */
static void run_versions(void *argument)
{
    struct patch *patch = argument;
    unsigned index = cpu_self()->index;
    for (uint32_t round = 1; round <= patch->rounds; round++) {
        uint64_t value = round % 5;
        if (index == 0) {
            /* MOV EAX, value; RET, or PUSH value; POP RAX; RET */
            *(volatile uint64_t *)code =
                value % 2 ? 0xc300000000b8 | value << 8 : 0xc3580000000068 | value << 8;
            patch->version = round;
        }
        while (patch->version < round) {
            pause();
        }
        cpuid(0, 0);
        for (unsigned i = 0; i < 3; i++) {
            uint64_t got = run(code);
            if (got != value) {
                FAIL("processor %u ran version %lu, expected %lu", index, got, value);
            }
        }
        patch->seen[index] = round;
        for (unsigned i = 0; index == 0 && i < smp_count(); i++) {
            while (patch->seen[i] < round) {
                pause();
            }
        }
    }
}

/* An atomic 8-byte patch under a processor that runs the code all the time: it sees the
 * old or the new one, and the new one before long. */
static void run_endlessly(void *argument)
{
    struct patch *patch = argument;
    uint64_t last = 0;
    while (patch->version == 0) {
        uint64_t value = run(code);
        if (value < last) {
            FAIL("an older version came back: %lu after %lu", value, last);
        }
        last = value;
        patch->seen[cpu_self()->index] = (uint32_t)value;
    }
}

/* More targets of jumps in one page than an engine may remember apart, each in its turn:
 * their page is exchanged, and each is the new page's. */
static void try_many_targets(void)
{
    uint8_t *page[2] = {pages[0], page_new()};
    for (uint32_t i = 0; i < PAGE_SIZE / 8; i++) {
        put_program(page[0] + 8 * i, i);
        put_program(page[1] + 8 * i, ~i);
    }
    for (unsigned round = 0; round < 6; round++) {
        unsigned now = round / 2 % 2;
        if (round % 2 == 0) {
            page_map(BASE, (uint64_t)page[now], PTE_P | PTE_W, 1);
        }
        /* Neighbours thrice, far ones in between. */
        for (uint32_t i = 0; i < 3 * PAGE_SIZE / 8; i++) {
            uint32_t target = (i / 3 + i % 3 * 37) % (PAGE_SIZE / 8);
            ASSERT_EQ(run(code + 8 * target), now ? ~target : target);
        }
    }
    page_map(BASE, (uint64_t)pages[0], PTE_P | PTE_W, 1);
}

static void try_processors(void)
{
    static struct patch patch;
    unsigned count = smp_count();

    case_begin("patched for %u processors", count);
    patch.rounds = 300;
    smp_call_all(run_patched, &patch);

    case_begin("versions in turn for %u processors", count);
    patch = (struct patch){.rounds = 300};
    smp_call_all(run_versions, &patch);

    case_begin("patched under %u processors that run it", count);
    patch = (struct patch){0};
    put_program(code, 0);
    for (unsigned i = 1; i < count; i++) {
        smp_call(i, run_endlessly, &patch);
    }
    for (uint64_t value = 1; value <= 100; value++) {
        *(volatile uint64_t *)code = 0xc300000000b8 | value << 8;
        for (unsigned i = 1; i < count; i++) {
            while (patch.seen[i] != value) {
                pause();
            }
        }
    }
    patch.version = 1;
    for (unsigned i = 1; i < count; i++) {
        smp_wait(i);
    }
}

void guest_test(void)
{
    for (unsigned i = 0; i < 2; i++) {
        pages[i] = page_new();
        page_new();
        page_map(BASE + i * PAGE_SIZE, (uint64_t)pages[i], PTE_P | PTE_W, 1);
        page_map(ALIAS + i * PAGE_SIZE, (uint64_t)pages[i], PTE_P | PTE_W, 1);
    }
    case_begin("rewritten and run");
    try_rewrite();
    case_begin("the next instruction is changed");
    try_next_instruction();
    case_begin("a loop changes itself");
    try_loop();
    case_begin("changed through another address");
    try_alias();
    case_begin("changed by string instructions");
    try_copy();
    case_begin("changed mappings");
    try_mapping();
    case_begin("many targets of jumps in a page that is exchanged");
    try_many_targets();
    smp_start(true);
    if (smp_count() > 1) {
        try_processors();
    }
}
