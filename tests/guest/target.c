/*
 * Indirect JMPs of the user: with few targets and many, in their page and elsewhere, to
 * code that changes, to the same page at another address, to a page that was exchanged,
 * to no address at all.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define NON_CANONICAL 0x800000000000ull

/* Where the page is, a second time, and the page behind it. */
enum { HIGH, LOW, WAYS };
static const uint64_t base[WAYS] = {[HIGH] = 0x7000000000, [LOW] = 0x78000000};
#define ALIAS 0x10000

static uint8_t *page;    /* two, as the identity map sees them */
static uint8_t *another; /* two of the same kind */

#define SITE(n)   (0x10u * (n))          /* JMP RSI */
#define TARGET(n) (0x400u + 0x10u * (n)) /* LEA RAX, [RIP]; UD2 */
#define LEA_SIZE  7

static void put_page(uint8_t *to)
{
    static const uint8_t target[] = {0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x0f, 0x0b};
    for (unsigned i = 0; i < 0x40; i++) {
        to[SITE(i)] = 0xff;
        to[SITE(i) + 1] = 0xe6;
    }
    for (unsigned i = 0; i < 0x100 + 0x10; i++) {
        memcpy(to + TARGET(i), target, sizeof(target));
    }
}

/* What RAX holds where an address jumped to another. */
static uint64_t jump(uint64_t site, uint64_t target)
{
    struct user_start start = {
        .rip = site,
        .rsp = USER_STACK + 4096 - 16,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS64,
        .ss = USER_DS,
        .rsi = target,
    };
    user_run(&start);
    return cpu_self()->trap.rax;
}

static void try_jump(uint64_t site, uint64_t target)
{
    ASSERT_EQ(jump(site, target), target + LEA_SIZE);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_UD);
}

static void try_counts(uint64_t at)
{
    for (unsigned count = 1; count < 10; count++) {
        for (unsigned i = 0; i < 60; i++) {
            unsigned number = i * 7 % count;
            try_jump(at + SITE(count), at + TARGET(number));
        }
        try_jump(at + SITE(count), at + TARGET(33));
    }
}

static void try_elsewhere(uint64_t at)
{
    for (unsigned site = 16; site < 19; site++) {
        for (unsigned i = 0; i < 100; i++) {
            uint64_t target = at + TARGET(site + i % 2);
            try_jump(at + SITE(site), target);
            /* At once, after a while, and hardly ever. */
            unsigned after = site == 16 ? 0 : site == 17 ? 20 : 90;
            if (i >= after && i % 3 == 0) {
                try_jump(at + SITE(site), target + ALIAS);
                try_jump(at + SITE(site), at + PAGE_SIZE + SITE(0) + 0x400);
                try_jump(at + SITE(site) + ALIAS, target);
                try_jump(at + SITE(site) + ALIAS, target + ALIAS);
            }
        }
    }
}

/* MOV EAX, i; NOP, NOP for the LEA, and back again. */
static void try_changed(uint64_t at)
{
    uint8_t *code = page + TARGET(40);
    uint8_t before[LEA_SIZE], now[LEA_SIZE] = {0xb8, 0, 0, 0, 0, 0x90, 0x90};
    memcpy(before, code, sizeof(before));
    for (uint32_t i = 0; i < 100; i++) {
        try_jump(at + SITE(20), at + TARGET(40));
        try_jump(at + SITE(20), at + TARGET(41));
        if (i % 5 == 4) {
            memcpy(now + 1, &i, 4);
            memcpy(code, now, sizeof(now));
            ASSERT_EQ(jump(at + SITE(20), at + TARGET(40)), i);
            ASSERT_EQ(jump(at + SITE(20), at + TARGET(40)), i);
            memcpy(code, before, sizeof(before));
        }
    }
}

static void try_exchanged(uint64_t at)
{
    static const uint8_t other[] = {0x31, 0xc0, 0x0f, 0x0b}; /* xor eax, eax */
    memcpy(another + TARGET(50), other, sizeof(other));
    for (unsigned i = 0; i < 60; i++) {
        bool is_other = i % 20 >= 10;
        page_map(at, (uint64_t)(is_other ? another : page), PTE_P | PTE_W | PTE_U, 1);
        try_jump(at + SITE(21), at + TARGET(51));
        ASSERT_EQ(jump(at + SITE(21), at + TARGET(50)),
                  is_other ? 0 : at + TARGET(50) + LEA_SIZE);
    }
    page_map(at, (uint64_t)page, PTE_P | PTE_W | PTE_U, 1);
}

static void try_nowhere(uint64_t at)
{
    for (unsigned i = 0; i < 60; i++) {
        try_jump(at + SITE(22), at + TARGET(60));
        if (i % 16 == 15) {
            jump(at + SITE(22), NON_CANONICAL);
            ASSERT_TRAP(VECTOR_GP, 0, at + SITE(22));
            jump(at + SITE(22), at + (1ull << 32));
            ASSERT_TRAP(VECTOR_PF, PF_U | PF_I, at + (1ull << 32));
        }
    }
}

void guest_test(void)
{
    static const char *const name[] = {"high", "low"};
    page = page_new_run(2 * PAGE_SIZE);
    another = page_new_run(2 * PAGE_SIZE);
    put_page(page);
    put_page(another);
    /* In the identity map, whose large pages are the kernel's. */
    *page_entry(kernel_pml4, base[LOW], 3) |= PTE_U;
    *page_entry(kernel_pml4, base[LOW], 2) = 0;
    for (unsigned way = 0; way < WAYS; way++) {
        uint64_t at = base[way];
        for (unsigned i = 0; i < 4; i++) {
            uint64_t offset = i % 2 * PAGE_SIZE;
            page_map(at + i / 2 * ALIAS + offset, (uint64_t)page + offset,
                     PTE_P | PTE_W | PTE_U, 1);
        }
        case_begin("%s: one to nine targets", name[way]);
        try_counts(at);
        case_begin("%s: targets elsewhere, and the page elsewhere", name[way]);
        try_elsewhere(at);
        case_begin("%s: a target that changes", name[way]);
        try_changed(at);
        case_begin("%s: the page is exchanged", name[way]);
        try_exchanged(at);
        case_begin("%s: no address, no page", name[way]);
        try_nowhere(at);
    }
}
