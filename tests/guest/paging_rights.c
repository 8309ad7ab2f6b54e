/*
 * Who may do what to a page: every way of missing or having P, W, U and NX at each level,
 * for each page size, with each setting of WP, SMEP, SMAP and AC, for each kind of
 * access. The expectation is SDM 3A 4.6.1 and 4.7 written down again.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define BASE    0x10000000000ull /* a PML4 entry of its own */
#define NONE    0                /* in place of the level that lacks a right */
#define RET_AT  0
#define INT_AT  16
#define BYTE_AT 32

enum kind { READ, WRITE, FETCH };
static const char *const kind_names[] = {"read", "write", "fetch"};

struct mode {
    bool wp, smep, smap, ac;
};

/* The level that is not present, read-only, supervisor-only, no-execute; or NONE. */
struct rights {
    unsigned p, w, u, nx;
};

extern char access_read[], access_write[], access_fetch[], user_read[], user_write[],
    user_fetch[];

static uint8_t *target;
static uint64_t *entries[5]; /* by level */
static struct rights rights;
static struct mode mode;

static uint64_t page_flags(unsigned level)
{
    return (rights.p == level ? 0 : PTE_P) | (rights.w == level ? 0 : PTE_W) |
           (rights.u == level ? 0 : PTE_U) | (rights.nx == level ? PTE_NX : 0);
}

/* The error code to expect, or -1 if the access is permitted. */
static int64_t expect(bool user, enum kind kind)
{
    bool is_user_page = rights.u == NONE;
    bool permitted = true;
    int64_t error =
        (user ? PF_U : 0) | (kind == WRITE ? PF_W : 0) | (kind == FETCH ? PF_I : 0);

    if (rights.p != NONE) {
        return error;
    }
    if (user) {
        permitted = is_user_page;
    } else if (is_user_page) {
        permitted = kind == FETCH ? !mode.smep : !mode.smap || mode.ac;
    }
    if (kind == WRITE && rights.w != NONE && (user || mode.wp)) {
        permitted = false;
    }
    if (kind == FETCH && rights.nx != NONE) {
        permitted = false;
    }
    return permitted ? -1 : error | PF_P;
}

/* What a supervisor's access runs, and the RIP that a fault of it has. */
static char *supervisor_code(enum kind kind)
{
    return kind == READ ? access_read : kind == WRITE ? access_write : access_fetch;
}

static enum kind supervisor_kind;

static uint64_t supervisor_access(uint64_t address)
{
    flags_write(RFLAGS_FIXED | (mode.ac ? RFLAGS_AC : 0));
    __asm__ volatile("call *%0"
                     :
                     : "r"(supervisor_code(supervisor_kind)), "D"(address)
                     : "rax", "memory", "cc");
    return 0;
}

static _Noreturn void complain(bool user, enum kind kind, const char *what,
                               uint64_t expected, uint64_t actual)
{
    FAIL(
        "%s %s; missing P at level %u, W at %u, U at %u, NX at %u; WP %u SMEP %u SMAP %u "
        "AC %u: %s: expected 0x%lx, actual 0x%lx",
        user ? "user" : "supervisor", kind_names[kind], rights.p, rights.w, rights.u,
        rights.nx, mode.wp, mode.smep, mode.smap, mode.ac, what, expected, actual);
}

static void try_access(uint64_t page, bool user, enum kind kind)
{
    uint64_t offset = kind != FETCH ? BYTE_AT : user ? INT_AT : RET_AT;
    uint64_t address = page + offset, code;
    char *const user_code[] = {user_read, user_write, user_fetch};
    bool faulted;

    if (user) {
        code = user_address(user_code[kind]);
        user_call(user_code[kind], address);
        faulted = cpu_self()->trap.vector != VECTOR_USER;
    } else {
        code = (uint64_t)supervisor_code(kind);
        supervisor_kind = kind;
        faulted = trap_try(supervisor_access, address);
    }
    int64_t expected = expect(user, kind);
    if (faulted != (expected >= 0)) {
        complain(user, kind, "faults", expected >= 0, faulted);
    }
    if (!faulted) {
        return;
    }
    const struct cpu *cpu = cpu_self();
    if (cpu->trap.vector != VECTOR_PF) {
        complain(user, kind, "vector", VECTOR_PF, cpu->trap.vector);
    }
    if (cpu->trap.error != (uint64_t)expected) {
        complain(user, kind, "error code", (uint64_t)expected, cpu->trap.error);
    }
    if (cpu->trap_cr2 != address) {
        complain(user, kind, "CR2", address, cpu->trap_cr2);
    }
    if (cpu->trap.rip != (kind == FETCH ? address : code)) {
        complain(user, kind, "RIP", kind == FETCH ? address : code, cpu->trap.rip);
    }
}

static void set_mode(unsigned bits)
{
    mode = (struct mode){bits & 1, bits & 2, bits & 4, bits & 8};
    cr0_write((cr0_read() & ~CR0_WP) | (mode.wp ? CR0_WP : 0));
    cr4_write((cr4_read() & ~(CR4_SMEP | CR4_SMAP)) | (mode.smep ? CR4_SMEP : 0) |
              (mode.smap ? CR4_SMAP : 0));
}

/* Accesses with fresh translations: also what they leave in A and D. */
static void try_marked(uint64_t page, unsigned leaf, bool user, enum kind kind)
{
    for (unsigned level = leaf; level <= 4; level++) {
        *entries[level] &= ~(PTE_A | (level == leaf ? PTE_D : 0));
    }
    invlpg(page);
    try_access(page, user, kind);
    bool is_permitted = expect(user, kind) < 0;
    if ((*entries[leaf] & PTE_D) != (is_permitted && kind == WRITE ? PTE_D : 0)) {
        complain(user, kind, "D", kind == WRITE, !!(*entries[leaf] & PTE_D));
    }
    for (unsigned level = leaf; level <= 4 && is_permitted; level++) {
        if (!(*entries[level] & PTE_A)) {
            complain(user, kind, "A at level", level, 0);
        }
    }
}

static void try_modes(uint64_t page, unsigned leaf)
{
    for (unsigned level = leaf; level <= 4; level++) {
        *entries[level] = (*entries[level] & (PTE_ADDRESS | PTE_PS)) | page_flags(level);
    }
    invlpg(page);
    for (unsigned bits = 0; bits < 16; bits++) {
        set_mode(bits);
        /* What is cached from another mode must not decide about this one. */
        for (unsigned i = 0; i < 6; i++) {
            try_access(page, i & 1, i / 2);
        }
        for (unsigned i = 0; i < 6; i++) {
            try_marked(page, leaf, i & 1, i / 2);
        }
    }
    set_mode(1);
}

/* 0 (nowhere), then the leaf's level to 4. */
static unsigned next_level(unsigned level, unsigned leaf)
{
    return level == NONE ? leaf : level + 1;
}

static void try_rights(unsigned leaf)
{
    uint64_t size = 1ull << (3 + 9 * leaf);
    uint64_t page = BASE + ((uint64_t)target & (size - 1));

    for (unsigned level = leaf; level <= 4; level++) {
        entries[level] = page_entry(kernel_pml4, page, level);
    }
    *entries[leaf] = ((uint64_t)target & -size) | (leaf > 1 ? PTE_PS : 0);
    for (rights.p = 0; rights.p <= 4; rights.p = next_level(rights.p, leaf)) {
        for (rights.w = 0; rights.w <= 4; rights.w = next_level(rights.w, leaf)) {
            for (rights.u = 0; rights.u <= 4; rights.u = next_level(rights.u, leaf)) {
                for (rights.nx = 0; rights.nx <= 4;
                     rights.nx = next_level(rights.nx, leaf)) {
                    try_modes(page, leaf);
                }
            }
        }
    }
    rights = (struct rights){0};
    for (unsigned level = 4; level >= leaf; level--) {
        *entries[level] = (*entries[level] & PTE_ADDRESS) | (level == leaf ? 0 : 7);
    }
    kernel_pml4[BASE >> 39] = 0;
    cr3_reload();
}

/* Every reserved bit: SDM 3A tables 4-15 to 4-20. */
static void try_reserved(unsigned leaf)
{
    uint64_t size = 1ull << (3 + 9 * leaf), bits[5] = {0};
    uint64_t page = BASE + ((uint64_t)target & (size - 1));
    unsigned physical_bits = cpuid(0x80000008, 0).eax & 0xff;
    uint64_t high = 0x000fffffffffffffull & ~0ull << physical_bits;

    for (unsigned level = leaf; level <= 4; level++) {
        entries[level] = page_entry(kernel_pml4, page, level);
        bits[level] = high | (level == 4 ? PTE_PS : 0);
    }
    if (leaf > 1) {
        bits[leaf] |= (size - 1) & ~0x1fffull; /* bit 12 is PAT */
    }
    *entries[leaf] = ((uint64_t)target & -size) | (leaf > 1 ? PTE_PS : 0) | 7;
    for (unsigned level = leaf; level <= 4; level++) {
        uint64_t entry = *entries[level];
        for (unsigned bit = 0; bit < 52; bit++) {
            if (!(bits[level] >> bit & 1)) {
                continue;
            }
            *entries[level] = entry | 1ull << bit;
            invlpg(page);
            user_call(user_write, page + BYTE_AT);
            ASSERT_TRAP(VECTOR_PF, PF_P | PF_W | PF_U | PF_RSVD,
                        user_address(user_write));
            supervisor_kind = READ;
            ASSERT(trap_try(supervisor_access, page + BYTE_AT));
            ASSERT_TRAP(VECTOR_PF, PF_P | PF_RSVD, access_read);
            /* Not present: nothing is reserved. */
            *entries[level] = (entry | 1ull << bit) & ~PTE_P;
            invlpg(page);
            ASSERT(trap_try(supervisor_access, page + BYTE_AT));
            ASSERT_TRAP(VECTOR_PF, 0, access_read);
        }
        *entries[level] = entry;
        invlpg(page);
    }
    ASSERT(!trap_try(supervisor_access, page + BYTE_AT));
    kernel_pml4[BASE >> 39] = 0;
    cr3_reload();
}

/* With EFER.NXE clear, bit 63 is reserved, and fetches do not set I in the error code
 * unless SMEP is on. */
static void try_without_nxe(void)
{
    uint64_t *entry = page_entry(kernel_pml4, BASE, 1);

    *entry = (uint64_t)target | PTE_P | PTE_W | PTE_U | PTE_NX;
    msr_write(MSR_EFER, msr_read(MSR_EFER) & ~EFER_NXE);
    cr3_reload();
    user_call(user_read, BASE + BYTE_AT);
    ASSERT_TRAP(VECTOR_PF, PF_P | PF_U | PF_RSVD, user_address(user_read));
    *entry = (uint64_t)target | PTE_P | PTE_W;
    invlpg(BASE);
    user_call(user_fetch, BASE + INT_AT);
    ASSERT_TRAP(VECTOR_PF, PF_P | PF_U, BASE + INT_AT);
    cr4_write(cr4_read() | CR4_SMEP);
    user_call(user_fetch, BASE + INT_AT);
    ASSERT_TRAP(VECTOR_PF, PF_P | PF_U | PF_I, BASE + INT_AT);
    cr4_write(cr4_read() & ~CR4_SMEP);
    msr_write(MSR_EFER, msr_read(MSR_EFER) | EFER_NXE);
    kernel_pml4[BASE >> 39] = 0;
    cr3_reload();
}

void guest_test(void)
{
    target = page_new();
    target[RET_AT] = 0xc3;
    target[INT_AT] = 0xcd;
    target[INT_AT + 1] = VECTOR_USER;

    case_begin("rights of 4K pages");
    try_rights(1);
    case_begin("rights of 2M pages");
    try_rights(2);
    case_begin("rights of 1G pages");
    try_rights(3);
    for (unsigned leaf = 1; leaf <= 3; leaf++) {
        case_begin("reserved bits, leaf at level %u", leaf);
        try_reserved(leaf);
    }
    case_begin("without NXE");
    try_without_nxe();
}
