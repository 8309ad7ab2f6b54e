/*
 * What may be cached about translations and what ends it (SDM 3A 4.10): INVLPG, MOV to
 * CR3, global pages, PCIDs, all types of INVPCID, changes of size; A and D bits under
 * other processors.
 */
#include "smp.h"

#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define PAGE_16M 0x1000000ull /* an engine may keep one of the pages that far apart */

#define LOW      0x10000000000ull
#define HIGH     0xffff900000000000ull

/* Where the tests map. Global pages in the upper half may outlive much. */
static uint64_t base = LOW;

extern char access_write[];

static uint64_t *old_page, *new_page; /* say 1 and 2 */

static uint64_t seen(uint64_t address)
{
    return *(volatile uint64_t *)address;
}

/* An engine may know another way to where the stack is. */
static uint64_t seen_by_stack(uint64_t address)
{
    uint64_t value, kept;
    __asm__ volatile("pushfq; cli; mov %%rsp, %1; mov %2, %%rsp; mov (%%rsp), %0;"
                     "mov %1, %%rsp; popfq"
                     : "=&r"(value), "=&r"(kept)
                     : "r"(address)
                     : "memory", "cc");
    return value;
}

static uint64_t seen_anyhow(uint64_t address)
{
    uint64_t value = seen_by_stack(address);
    ASSERT_EQ(seen(address), value);
    return value;
}

static void push_at(uint64_t address, uint64_t value)
{
    uint64_t kept;
    __asm__ volatile("pushfq; cli; mov %%rsp, %0; mov %1, %%rsp; push %2; mov %0, %%rsp;"
                     "popfq"
                     : "=&r"(kept)
                     : "r"(address + 8), "r"(value)
                     : "memory", "cc");
}

/* Maps to the old page, uses it, and changes the entry without telling. */
static void change_behind(uint64_t address, uint64_t flags)
{
    page_map(address, (uint64_t)old_page, PTE_P | PTE_W | flags, 1);
    ASSERT_EQ(seen_anyhow(address), 1);
    *page_entry(kernel_pml4, address, 1) = (uint64_t)new_page | PTE_P | PTE_W | flags;
}

static void invpcid(uint64_t type, uint64_t pcid, uint64_t address)
{
    struct {
        uint64_t pcid, address;
    } descriptor = {pcid, address};
    __asm__ volatile("invpcid %0, %1" : : "m"(descriptor), "r"(type) : "memory");
}

static uint64_t bad_invpcid(uint64_t type)
{
    invpcid(type & 0xff, type >> 8, 1ull << 63);
    return 0;
}

static void try_invalidation(void)
{
    case_begin("INVLPG");
    change_behind(base, 0);
    invlpg(base + 0xabc);
    ASSERT_EQ(seen_anyhow(base), 2);
    change_behind(base, PTE_G);
    invlpg(base);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVLPG of a non-canonical address does nothing");
    invlpg(1ull << 63);
    case_begin("MOV to CR3");
    change_behind(base, 0);
    cr3_reload();
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("G without CR4.PGE means nothing");
    change_behind(base, PTE_G);
    cr3_reload();
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("a change of CR4.PGE ends global translations");
    cr4_write(cr4_read() | CR4_PGE);
    change_behind(base, PTE_G);
    cr4_write(cr4_read() & ~CR4_PGE);
    ASSERT_EQ(seen_anyhow(base), 2);
    cr4_write(cr4_read() | CR4_PGE);
    change_behind(base, PTE_G);
    cr3_reload(); /* may keep it */
    ASSERT(seen(base) == 1 || seen(base) == 2);
    invlpg(base);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("not present is never cached");
    page_map(base, 0, 0, 1);
    ASSERT(trap_try(seen, base));
    *page_entry(kernel_pml4, base, 1) = (uint64_t)new_page | PTE_P;
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("a fault ends what was cached for its address");
    page_map(base, (uint64_t)old_page, PTE_P, 1);
    ASSERT_EQ(seen_anyhow(base), 1);
    *page_entry(kernel_pml4, base, 1) |= PTE_W;
    /* At most one fault comes of the cached rights (SDM 3A 4.10.4.3). */
    if (trap_try((trap_function *)(uintptr_t)access_write, base + 8)) {
        ASSERT(!trap_try((trap_function *)(uintptr_t)access_write, base + 8));
    }
}

static uint64_t mov_to_cr3(uint64_t value)
{
    cr3_write(value);
    return 0;
}

static uint64_t set_pcide(uint64_t on)
{
    cr4_write(on ? cr4_read() | CR4_PCIDE : cr4_read() & ~CR4_PCIDE);
    return 0;
}

#define CPUID_PCID (1u << 17)

static void use_pcid(uint64_t pcid, bool keep)
{
    cr3_write((uint64_t)kernel_pml4 | pcid | (keep ? 1ull << 63 : 0));
}

static void try_pcid(void)
{
    case_begin("CR4.PCIDE: only with CR3's low bits 0; bit 63 of CR3 only with it");
    ASSERT(trap_try(mov_to_cr3, (uint64_t)kernel_pml4 | 1ull << 63));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    cr3_write((uint64_t)kernel_pml4 | 8);
    ASSERT(trap_try(set_pcide, 1));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    cr3_write((uint64_t)kernel_pml4);
    set_pcide(1);
    cr3_write((uint64_t)kernel_pml4 | 5 | 1ull << 63);
    ASSERT_EQ(cr3_read(), (uint64_t)kernel_pml4 | 5);

    case_begin("MOV to CR3 without bit 63 ends the PCID's translations");
    use_pcid(5, false);
    change_behind(base, 0);
    use_pcid(6, true);
    use_pcid(5, false);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("PCIDs are apart");
    use_pcid(6, false);
    use_pcid(5, false);
    change_behind(base, 0);
    use_pcid(6, true);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVLPG is for the current PCID, and for global pages");
    use_pcid(5, false);
    change_behind(base, 0);
    invlpg(base);
    ASSERT_EQ(seen_anyhow(base), 2);
    change_behind(base, PTE_G);
    use_pcid(6, true);
    invlpg(base);
    ASSERT_EQ(seen_anyhow(base), 2);
    use_pcid(5, true);
    ASSERT_EQ(seen_anyhow(base), 2);

    case_begin("INVPCID: one address of another PCID");
    use_pcid(5, false);
    change_behind(base, 0);
    use_pcid(6, true);
    invpcid(0, 5, base);
    use_pcid(5, true);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVPCID: all of another PCID");
    change_behind(base, 0);
    use_pcid(6, true);
    invpcid(1, 5, 0);
    use_pcid(5, true);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVPCID: everything, global too");
    change_behind(base, PTE_G);
    use_pcid(6, true);
    invpcid(2, 0, 0);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVPCID: everything that is not global");
    use_pcid(5, false);
    change_behind(base, 0);
    use_pcid(6, true);
    invpcid(3, 0, 0);
    use_pcid(5, true);
    ASSERT_EQ(seen_anyhow(base), 2);
    case_begin("INVPCID: invalid operands");
    ASSERT(trap_try(bad_invpcid, 4));
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    ASSERT(trap_try(bad_invpcid, 1 << 8)); /* type 0, address not canonical */
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    ASSERT(trap_try(bad_invpcid, 0x1000 << 8 | 1)); /* PCID of 13 bits */
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
    case_begin("clearing CR4.PCIDE ends everything");
    change_behind(base, PTE_G);
    use_pcid(0, true);
    change_behind(base, PTE_G);
    set_pcide(0);
    ASSERT_EQ(seen_anyhow(base), 2);
    ASSERT_EQ(cr3_read(), (uint64_t)kernel_pml4);
}

#define SPACES 7

/* The page is in use in all spaces, some of which have been forgotten meanwhile. */
static void use_spaces(uint64_t flags)
{
    page_map(base, (uint64_t)old_page, PTE_P | PTE_W | flags, 1);
    for (uint64_t pcid = 1; pcid <= SPACES; pcid++) {
        use_pcid(pcid, pcid & 1);
        ASSERT_EQ(seen_anyhow(base), 1);
    }
}

static void all_see_new(void)
{
    for (uint64_t round = 0; round < 2; round++) {
        for (uint64_t pcid = 1; pcid <= SPACES; pcid++) {
            use_pcid(pcid, round);
            ASSERT_EQ(seen_anyhow(base), 2);
        }
    }
}

/* Known in one space only, if at all: a fault in another, of an entry that is gone, ends
 * it there. Without a fault the processor knew it in both. */
static void fault_elsewhere(void)
{
    uint64_t *entry = page_entry(kernel_pml4, base, 1);
    *entry = (uint64_t)old_page | PTE_P | PTE_W | PTE_G;
    invpcid(2, 0, 0);
    use_pcid(1, false);
    ASSERT_EQ(seen_anyhow(base), 1);
    use_pcid(2, false);
    *entry = 0;
    if (trap_try(seen, base)) {
        ASSERT_EQ(cpu_self()->trap.vector, VECTOR_PF);
        *entry = (uint64_t)new_page | PTE_P | PTE_W | PTE_G;
        all_see_new();
    }
}

/* A large global page, known in a space that was forgotten, becomes another one. */
static void change_large(void)
{
    uint64_t large[2] = {(uint64_t)page_new_run(PAGE_2M),
                         (uint64_t)page_new_run(PAGE_2M)};
    uint64_t address = base + 2 * PAGE_1G;
    for (uint64_t i = 0; i < 2; i++) {
        *(uint64_t *)(large[i] + 5 * PAGE_SIZE) = i;
    }
    page_map(address, large[0], PTE_P | PTE_W | PTE_G, 2);
    use_pcid(1, false);
    ASSERT_EQ(seen_anyhow(address + 5 * PAGE_SIZE), 0);
    use_pcid(2, false);
    invpcid(1, 1, 0);
    *page_entry(kernel_pml4, address, 2) = large[1] | PTE_P | PTE_W | PTE_PS | PTE_G;
    invlpg(address + 9 * PAGE_SIZE);
    for (uint64_t pcid = 1; pcid <= SPACES; pcid++) {
        use_pcid(pcid, false);
        ASSERT_EQ(seen_anyhow(address + 5 * PAGE_SIZE), 1);
    }
}

static void try_spaces(void)
{
    uint64_t *entry = page_entry(kernel_pml4, base, 1);
    uint64_t after = (uint64_t)new_page | PTE_P | PTE_W | PTE_G;

    case_begin("a global page of more address spaces than are kept, in the %s half",
               base >> 63 ? "upper" : "lower");
    cr4_write(cr4_read() | CR4_PGE);
    set_pcide(1);
    use_spaces(PTE_G);
    *entry = after;
    invlpg(base);
    all_see_new();
    use_spaces(PTE_G);
    *entry = after;
    invpcid(2, 0, 0);
    all_see_new();
    use_spaces(PTE_G);
    *entry = after;
    cr4_write(cr4_read() & ~CR4_PGE);
    all_see_new();
    cr4_write(cr4_read() | CR4_PGE);
    case_begin("one that is global no longer");
    use_spaces(PTE_G);
    page_map(base, (uint64_t)old_page, PTE_P | PTE_W, 1);
    for (uint64_t pcid = 1; pcid <= SPACES; pcid++) {
        use_pcid(pcid, false);
        ASSERT_EQ(seen_anyhow(base), 1);
    }
    *entry = after;
    for (uint64_t pcid = 1; pcid <= SPACES; pcid++) {
        use_pcid(pcid, false);
        ASSERT_EQ(seen_anyhow(base), 2);
    }
    case_begin("a fault at a global page");
    fault_elsewhere();
    case_begin("a large global page of a space that was forgotten");
    change_large();
    set_pcide(0);
}

static uint64_t call(void)
{
    return ((uint64_t(*)(void))base)();
}

/* mov $n, %eax; ret */
static void write_code(uint64_t *page, uint32_t number)
{
    *page = 0xb8 | (uint64_t)number << 8 | 0xc3ull << 40;
}

static void try_code(void)
{
    uint64_t *code[2] = {page_new(), page_new()};
    uint64_t *entry;

    case_begin("code in a global page that changes, in the %s half",
               base >> 63 ? "upper" : "lower");
    write_code(code[0], 1);
    write_code(code[1], 2);
    for (unsigned round = 0; round < 40; round++) {
        page_map(base, (uint64_t)code[0], PTE_P | PTE_W | PTE_G, 1);
        entry = page_entry(kernel_pml4, base, 1);
        ASSERT_EQ(call(), 1);
        cr3_reload();
        ASSERT_EQ(call(), 1);
        write_code(code[0], 3); /* seen through whatever is kept */
        ASSERT_EQ(call(), 3);
        write_code(code[0], 1);
        *entry = (uint64_t)code[1] | PTE_P | PTE_W | (round & 1 ? PTE_G : 0);
        invlpg(base);
        ASSERT_EQ(call(), 2);
        *entry = (uint64_t)code[0] | PTE_P | PTE_W;
        cr3_reload();
        if (!(round & 1)) {
            ASSERT_EQ(call(), 1);
        }
        invlpg(base);
        ASSERT_EQ(call(), 1);
        *entry = (uint64_t)code[1] | PTE_P | PTE_W | PTE_G;
        cr3_reload();
        ASSERT_EQ(call(), 2);
    }
}

/* What lies on a stack whose page becomes another one, as told by an instruction. */
#define RETURN_CHANGED(TELL)                                                       \
    uint64_t value, kept;                                                          \
    __asm__ volatile("pushfq; cli; mov %%rsp, %1; mov %2, %%rsp; mov (%%rsp), %0;" \
                     "mov %4, (%3); " TELL "; mov (%%rsp), %0;"                    \
                     "mov %1, %%rsp; popfq"                                        \
                     : "=&r"(value), "=&r"(kept)                                   \
                     : "r"(address), "r"(entry), "r"(changed)                      \
                     : "memory", "cc");                                            \
    return value

static uint64_t stack_by_invlpg(uint64_t address, uint64_t *entry, uint64_t changed)
{
    RETURN_CHANGED("invlpg (%2)");
}

static uint64_t stack_by_invlpg_behind(uint64_t address, uint64_t *entry,
                                       uint64_t changed)
{
    RETURN_CHANGED("invlpg 0x3000(%2)");
}

static uint64_t stack_by_cr3(uint64_t address, uint64_t *entry, uint64_t changed)
{
    RETURN_CHANGED("mov %%cr3, %0; mov %0, %%cr3");
}

static void try_changed_stack(void)
{
    uint64_t changed = (uint64_t)new_page | PTE_P | PTE_W;
    uint64_t large = (uint64_t)page_new_run(2 * PAGE_2M), address = base + PAGE_1G;

    case_begin("a stack whose page becomes another one");
    page_map(base, (uint64_t)old_page, PTE_P | PTE_W, 1);
    uint64_t *entry = page_entry(kernel_pml4, base, 1);
    ASSERT_EQ(stack_by_invlpg(base, entry, changed), 2);
    *entry = (uint64_t)old_page | PTE_P | PTE_W;
    cr3_reload();
    ASSERT_EQ(stack_by_cr3(base, entry, changed), 2);
    *(uint64_t *)(large + PAGE_2M) = 5;
    page_map(address, large, PTE_P | PTE_W, 2);
    changed = (large + PAGE_2M) | PTE_P | PTE_W | PTE_PS;
    entry = page_entry(kernel_pml4, address, 2);
    ASSERT_EQ(stack_by_invlpg_behind(address, entry, changed), 5);
}

/* Two functions at one place of the page of the stack that they are called on. */
static void try_code_on_stack(uint64_t page)
{
    uint64_t function[2], result[2], kept;
    write_code(&function[0], 7);
    write_code(&function[1], 8);
    __asm__ volatile("pushfq; cli; mov %%rsp, %2; lea 0x800(%3), %%rsp;"
                     "mov %4, 0x400(%%rsp); call *%6; mov %%rax, %0;"
                     "mov %5, 0x400(%%rsp); call *%6; mov %%rax, %1;"
                     "mov %2, %%rsp; popfq"
                     : "=&r"(result[0]), "=&r"(result[1]), "=&r"(kept)
                     : "r"(page), "r"(function[0]), "r"(function[1]), "r"(page + 0xc00)
                     : "rax", "memory", "cc");
    ASSERT_EQ(result[0], 7);
    ASSERT_EQ(result[1], 8);
}

/* The stack in pages that may not be stored to, or hold code. */
static void try_stack(void)
{
    uint64_t *page = page_new(), *code = page_new();

    case_begin("a stack that is read only, and others");
    for (uint64_t far = 0; far < 16; far++) {
        /* An engine may keep pages by their numbers' low bits. */
        uint64_t address = base + ((uint64_t)page % PAGE_16M ^ far * PAGE_SIZE);
        page_map(address, (uint64_t)old_page, PTE_P, 1);
        ASSERT_EQ(seen_anyhow(address), 1);
        push_at((uint64_t)page, far + 3);
        ASSERT_EQ(*page, far + 3);
        ASSERT_EQ(seen_anyhow(address), 1);
        page_map(address, (uint64_t)page, PTE_P | PTE_W, 1);
        push_at(address, far + 4);
        ASSERT_EQ(*page, far + 4);
        page_map(address, 0, 0, 1);
    }
    case_begin("code that is pushed, in the %s half", base >> 63 ? "upper" : "lower");
    page_map(base, (uint64_t)code, PTE_P | PTE_W, 1);
    for (uint64_t round = 0; round < 400; round++) {
        uint64_t value;
        write_code(&value, (uint32_t)round);
        push_at(base + 64, round); /* beside it */
        push_at(base, value);
        ASSERT_EQ(call(), round);
        ASSERT_EQ(seen_anyhow(base + 64), round);
    }
    for (unsigned round = 0; round < 4; round++) {
        try_code_on_stack((uint64_t)page_new());
    }
}

/* A 2M page is split into 4K pages of other frames, and joined again. */
static void try_split(void)
{
    uint64_t large = (uint64_t)page_new_run(PAGE_2M), address = base + PAGE_1G;
    uint64_t *table = page_new(), *entry;

    case_begin("a large page is split and joined");
    for (uint64_t i = 0; i < 512; i++) {
        *(uint64_t *)(large + i * PAGE_SIZE) = i;
        table[i] = (large + (511 - i) * PAGE_SIZE) | PTE_P | PTE_W;
    }
    for (unsigned round = 0; round < 3; round++) {
        page_map(address, large, PTE_P | PTE_W, 2);
        for (uint64_t i = 0; i < 512; i++) {
            ASSERT_EQ(seen_anyhow(address + i * PAGE_SIZE), i);
        }
        entry = page_entry(kernel_pml4, address, 2);
        *entry = (uint64_t)table | PTE_P | PTE_W;
        invlpg(address + 7 * PAGE_SIZE + 123); /* any address of it ends all of it */
        for (uint64_t i = 0; i < 512; i++) {
            ASSERT_EQ(seen_anyhow(address + i * PAGE_SIZE), 511 - i);
        }
        *entry = 0;
        cr3_reload();
        ASSERT(trap_try(seen, address + 3 * PAGE_SIZE));
    }
}

/* Code in every 4K of a 2M page, which becomes another one, again and again: more jumps
 * and pages than an engine may care to remember one by one. */
static void try_large_code(uint64_t flags)
{
    uint64_t address = base + 3 * PAGE_1G, large[2];

    case_begin("code in a large%s page that becomes another one, in the %s half",
               flags & PTE_G ? " global" : "", base >> 63 ? "upper" : "lower");
    for (uint32_t i = 0; i < 2; i++) {
        large[i] = (uint64_t)page_new_run(PAGE_2M);
        for (uint32_t n = 0; n < 512; n++) {
            write_code((uint64_t *)(large[i] + n * PAGE_SIZE + 16 * (n % 64)), 2 * n + i);
        }
    }
    page_map(address, large[0], flags, 2);
    for (uint32_t round = 0; round < 12; round++) {
        for (uint32_t n = 0; n < 512; n++) {
            uint64_t function = address + n * PAGE_SIZE + 16 * (n % 64);
            ASSERT_EQ(((uint64_t(*)(void))function)(), 2 * n + round % 2);
        }
        *page_entry(kernel_pml4, address, 2) = large[(round + 1) % 2] | flags | PTE_PS;
        invlpg(address + round * 123 % 512 * PAGE_SIZE);
    }
}

static volatile uint32_t stop;

/* Sets and clears an ignored bit of the entry, atomically, while the walks set A and D.
 */
static void toggle(void *entry)
{
    while (!stop) {
        __asm__ volatile("lock btsq $9, %0; lock btrq $9, %0"
                         : "+m"(*(volatile uint64_t *)entry)
                         :
                         : "memory", "cc");
    }
}

static void try_marks(void)
{
    uint64_t *entry = page_entry(kernel_pml4, base, 1);

    case_begin("A and D are set with LOCK, under %u processors that change the entry",
               smp_count());
    *entry = (uint64_t)old_page | PTE_P | PTE_W;
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_call(i, toggle, entry);
    }
    for (uint64_t i = 0; i < 5000; i++) {
        uint64_t value;
        __atomic_fetch_and(entry, ~(PTE_A | PTE_D), __ATOMIC_SEQ_CST);
        invlpg(base);
        (void)seen(base);
        value = READ_ONCE(*entry);
        ASSERT_EQ(value & (PTE_A | PTE_D), PTE_A);
        ASSERT_EQ(value & PTE_ADDRESS, (uint64_t)old_page);
        *(volatile uint64_t *)(base + 8) = i;
        value = READ_ONCE(*entry);
        ASSERT_EQ(value & (PTE_A | PTE_D), PTE_A | PTE_D);
        ASSERT_EQ(old_page[1], i);
    }
    stop = 1;
    for (unsigned i = 1; i < smp_count(); i++) {
        smp_wait(i);
    }
    ASSERT_EQ(*entry & 1 << 9, 0);
}

static volatile uint64_t flushed;

static void flush(void *argument)
{
    (void)argument;
    invlpg(base);
    flushed = seen(base);
}

static void prime(void *argument)
{
    (void)argument;
    flushed = seen(base);
}

static void try_shootdown(void)
{
    case_begin("invalidation by message");
    for (unsigned i = 1; i < smp_count(); i++) {
        for (unsigned round = 0; round < 20; round++) {
            page_map(base, (uint64_t)old_page, PTE_P | PTE_W, 1);
            smp_call(i, flush, NULL);
            smp_wait(i);
            ASSERT_EQ(flushed, 1);
            smp_call(i, prime, NULL);
            smp_wait(i);
            ASSERT_EQ(flushed, 1);
            page_map(base, (uint64_t)new_page, PTE_P | PTE_W, 1);
            smp_call(i, flush, NULL);
            smp_wait(i);
            ASSERT_EQ(flushed, 2);
        }
    }
}

/* Accesses of [RDI - 2], over the end of a page, whose flags are in use: an engine may
 * look for the page that they end in. RSI: what is stored. */
ASM_FUNCTION(load_2, "stc\nmovzwl -1(%rdi), %eax\nadc $0, %eax");
ASM_FUNCTION(load_4, "stc\nmov -2(%rdi), %eax\nadc $0, %rax");
ASM_FUNCTION(load_8, "stc\nmov -4(%rdi), %rax\nadc $0, %rax");
ASM_FUNCTION(store_4, "mov $0x55667788, %eax\nstc\nmov %eax, -2(%rdi)\nadc $0, %rax");

/* The first of two pages has an even number, and lies among those whose numbers are
 * small; another page whose translation was kept at the second one's place is forgotten.
 */
static void begin_crossing(const uint8_t *edge, uint64_t other, uint64_t victim)
{
    uint64_t address = other + (uint64_t)edge % PAGE_16M;
    page_map(address, victim, PTE_P | PTE_W, 1);
    ASSERT_EQ(seen_anyhow(address), 0x2222222222222222);
    *(volatile uint64_t *)address = 0x2222222222222222;
    invlpg((uint64_t)edge);
    invlpg((uint64_t)edge - PAGE_SIZE);
    invlpg(address);
}

static void try_crossing(uint8_t *edge, uint64_t other)
{
    uint64_t *victim = page_new();

    case_begin("accesses over a page's end, with flags in use, others at %lx", other);
    ASSERT((uint64_t)edge < PAGE_16M);
    for (unsigned i = 0; i < PAGE_SIZE; i++) {
        ((uint8_t *)victim)[i] = 0x22;
    }
    for (unsigned i = 0; i < 8; i++) {
        edge[(int)i - 4] = (uint8_t)(0x81 + i);
    }
    for (unsigned round = 0; round < 50; round++) {
        begin_crossing(edge, other, (uint64_t)victim);
        ASSERT_EQ(load_2((uint64_t)edge), 0x8584 + 1);
        begin_crossing(edge, other, (uint64_t)victim);
        ASSERT_EQ(load_4((uint64_t)edge), 0x86858483 + 1);
        begin_crossing(edge, other, (uint64_t)victim);
        ASSERT_EQ(load_8((uint64_t)edge), 0x8887868584838281 + 1);
        begin_crossing(edge, other, (uint64_t)victim);
        ASSERT_EQ(store_4((uint64_t)edge), 0x55667788 + 1);
        ASSERT_EQ(*(uint16_t *)(edge - 2), 0x7788);
        ASSERT_EQ(*(uint16_t *)edge, 0x5566);
        for (unsigned i = 0; i < PAGE_SIZE / 8; i++) {
            ASSERT_EQ(victim[i], 0x2222222222222222);
        }
        memcpy(edge - 2, "\x83\x84\x85\x86", 4);
    }
}

void guest_test(void)
{
    uint8_t *low_pages = page_new_run(2 * PAGE_SIZE);

    old_page = page_new();
    new_page = page_new();
    *old_page = 1;
    *new_page = 2;
    for (unsigned half = 0; half < 2; half++) {
        base = half ? HIGH : LOW;
        cr4_write(cr4_read() & ~CR4_PGE);
        try_invalidation();
        if (cpuid(1, 0).ecx & CPUID_PCID) {
            try_pcid();
            try_spaces();
        }
        try_code();
        try_split();
        try_changed_stack();
        try_stack();
        try_large_code(PTE_P | PTE_W);
        try_large_code(PTE_P | PTE_W | PTE_G);
        try_crossing(low_pages + PAGE_SIZE, base + PAGE_1G * 8);
    }
    smp_start(true);
    try_marks();
    try_shootdown();
}
