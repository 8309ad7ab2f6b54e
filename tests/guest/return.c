/*
 * What lies behind a CALL and is executed when it is returned to: code that the callee
 * changed, for one pending return and for many; returns to elsewhere; vector state that
 * the callee lost, or closed. At the kernel's addresses and the user's.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "program.h"
#include "trap.h"

/* Where the page of code is: for the kernel at two addresses, for the user at two. */
enum { HIGH, LOW, USER_HIGH, USER_LOW, WAYS };

static const uint64_t base[WAYS] = {
    [HIGH] = 0xffff900000000000,
    [LOW] = 0x10000000000,
    [USER_HIGH] = 0x7000000000,
    [USER_LOW] = 0x78000000,
};

#define USER_ENTRY (2 * PAGE_SIZE - 16) /* where ring 3 begins, and ends */

static uint8_t *page; /* two, as the identity map sees them */

typedef uint64_t three_function(uint64_t first, uint64_t second, uint64_t third);

/* Runs the code at an offset. */
static uint64_t call_at(unsigned way, uint64_t offset, uint64_t first, uint64_t second,
                        uint64_t third)
{
    uint64_t address = base[way] + offset;
    if (way == HIGH || way == LOW) {
        return ((three_function *)(uintptr_t)address)(first, second, third);
    }
    struct user_start start = {
        .rip = base[way] + USER_ENTRY,
        .rsp = USER_STACK + 4096 - 16,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS64,
        .ss = USER_DS,
        .rdi = first,
        .rsi = second,
        .rdx = third,
        .rcx = address,
    };
    user_run(&start);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_UD);
    return cpu_self()->trap.rax;
}

#define INC_EAX 0xc0 /* the second byte, behind FF */
#define DEC_EAX 0xc8

/* CALL at an offset, to another. */
static void put_call(unsigned at, unsigned target)
{
    int32_t distance = (int32_t)(target - (at + 5));
    page[at] = 0xe8;
    memcpy(page + at + 1, &distance, 4);
}

/* The callee writes whether the caller increments or decrements. */
static void try_changed(unsigned way, unsigned caller, unsigned callee)
{
    static const uint8_t behind[] = {0xff, INC_EAX, 0xc3};
    static const uint8_t store[] = {0x40, 0x88, 0x3e, 0xc3}; /* mov [rsi], dil; ret */
    page[caller] = 0x31;                                     /* xor eax, eax */
    page[caller + 1] = 0xc0;
    put_call(caller + 2, callee);
    memcpy(page + caller + 7, behind, sizeof(behind));
    memcpy(page + callee, store, sizeof(store));
    for (unsigned i = 0; i < 200; i++) {
        bool is_inc = i * 5 % 7 < 4;
        uint64_t value =
            call_at(way, caller, is_inc ? INC_EAX : DEC_EAX, base[way] + caller + 8, 0);
        ASSERT_EQ((uint32_t)value, is_inc ? 1 : UINT32_MAX);
    }
}

/* The innermost of many calls changes what they return to; all see it. */
static void try_pending(unsigned way)
{
    static const uint8_t program[] = {
        0x85, 0xff,                      /* test edi, edi */
        0x74, 0x0a,                      /* je 14 */
        0xff, 0xcf,                      /* dec edi */
        0xe8, 0xf5,    0xff, 0xff, 0xff, /* call 0 */
        0xff, INC_EAX,                   /* 11 */
        0xc3,                            /* ret */
        0x88, 0x16,                      /* 14: mov [rsi], dl */
        0x31, 0xc0,                      /* xor eax, eax */
        0xc3,
    };
    memcpy(page + 0x400, program, sizeof(program));
    for (unsigned i = 0; i < 100; i++) {
        bool is_inc = i * 3 % 5 < 2;
        uint64_t value =
            call_at(way, 0x400, i % 50, base[way] + 0x40c, is_inc ? INC_EAX : DEC_EAX);
        ASSERT_EQ((uint32_t)value, is_inc ? i % 50 : -(i % 50));
    }
}

/* The callee returns behind the instruction that it would return to, now and then. */
static void try_elsewhere(unsigned way)
{
    static const uint8_t behind[] = {0xff, INC_EAX, 0xff, INC_EAX, 0xc3};
    static const uint8_t callee[] = {
        0x48, 0x01, 0x3c, 0x24, /* add [rsp], rdi */
        0x31, 0xc0,             /* xor eax, eax */
        0xc3,
    };
    put_call(0x500, 0x600);
    memcpy(page + 0x505, behind, sizeof(behind));
    memcpy(page + 0x600, callee, sizeof(callee));
    for (unsigned i = 0; i < 100; i++) {
        unsigned skipped = i % 7 % 3;
        ASSERT_EQ(call_at(way, 0x500, 2 * skipped, 0, 0), 2 - skipped);
    }
    /* CALL to the instruction behind it: an address. */
    static const uint8_t next[] = {0xe8, 0, 0, 0, 0, 0x58, 0xc3};
    memcpy(page + 0x700, next, sizeof(next));
    for (unsigned i = 0; i < 10; i++) {
        ASSERT_EQ(call_at(way, 0x700, 0, 0, 0), base[way] + 0x705);
    }
}

/* MOVQ XMM0, RDI, a call, and what it was twice. */
static void put_vectors(void)
{
    static const uint8_t before[] = {0x66, 0x48, 0x0f, 0x6e, 0xc7};
    static const uint8_t behind[] = {
        0x66, 0x0f, 0xd4, 0xc0,       /* paddq xmm0, xmm0 */
        0x66, 0x48, 0x0f, 0x7e, 0xc0, /* movq rax, xmm0 */
        0xc3,
    };
    memcpy(page + 0x800, before, sizeof(before));
    put_call(0x805, 0x900);
    memcpy(page + 0x80a, behind, sizeof(behind));
}

static void try_vectors(unsigned way)
{
    static const uint8_t callee[] = {
        0x53, 0x31, 0xc0, 0x31, 0xc9, 0x0f, 0xa2, 0x5b, 0xc3, /* cpuid */
    };
    put_vectors();
    memcpy(page + 0x900, callee, sizeof(callee));
    for (uint64_t i = 0; i < 100; i++) {
        ASSERT_EQ(call_at(way, 0x800, i << 32 | i, 0, 0), 2 * (i << 32 | i));
    }
}

static uint64_t closed; /* what the callee adds to CR0 */

static uint64_t run_closed(uint64_t argument)
{
    return call_at(HIGH, 0x800, argument, closed, 0);
}

static void try_closed(void)
{
    static const uint8_t callee[] = {
        0x0f, 0x20, 0xc1, /* mov rcx, cr0 */
        0x48, 0x09, 0xf1, /* or rcx, rsi */
        0x0f, 0x22, 0xc1, /* mov cr0, rcx */
        0xc3,
    };
    put_vectors();
    memcpy(page + 0x900, callee, sizeof(callee));
    for (uint64_t i = 0; i < 60; i++) {
        closed = i % 3 == 2 ? CR0_TS : 0;
        if (!closed) {
            ASSERT_EQ(run_closed(i), 2 * i);
            continue;
        }
        ASSERT(trap_try(run_closed, i));
        ASSERT_TRAP(VECTOR_NM, 0, base[HIGH] + 0x80a);
        __asm__ volatile("clts");
    }
}

void guest_test(void)
{
    static const char *const name[] = {"high", "low", "user's, high", "user's, low"};
    static const uint8_t entry[] = {0xff, 0xd1, 0x0f, 0x0b}; /* call rcx; ud2 */
    page = page_new_run(2 * PAGE_SIZE);
    cr4_write(cr4_read() | CR4_OSFXSR);
    /* In the identity map, whose large pages are the kernel's. */
    *page_entry(kernel_pml4, base[USER_LOW], 3) |= PTE_U;
    *page_entry(kernel_pml4, base[USER_LOW], 2) = 0;
    memcpy(page + USER_ENTRY, entry, sizeof(entry));
    for (unsigned way = 0; way < WAYS; way++) {
        uint64_t rights = PTE_P | PTE_W | (way < USER_HIGH ? 0 : PTE_U);
        page_map(base[way], (uint64_t)page, rights, 1);
        page_map(base[way] + PAGE_SIZE, (uint64_t)page + PAGE_SIZE, rights, 1);
        case_begin("%s: what is returned to was changed", name[way]);
        try_changed(way, 0x100, 0x200);
        try_changed(way, 0x300, PAGE_SIZE + 0x100);
        for (unsigned caller = PAGE_SIZE - 12; caller < PAGE_SIZE + 1; caller++) {
            try_changed(way, caller, 0x200);
        }
        case_begin("%s: many pending returns to what was changed", name[way]);
        try_pending(way);
        case_begin("%s: returns to elsewhere", name[way]);
        try_elsewhere(way);
        case_begin("%s: vectors behind a call", name[way]);
        try_vectors(way);
    }
    case_begin("CR0.TS is set behind a call");
    try_closed();
}
