/*
 * Protection keys: RDPKRU and WRPKRU in both rings, every right of every key, at once
 * after it is taken or given, by WRPKRU and by XRSTOR; each address space's own pages.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define CR4_OSXSAVE (1ull << 18)
#define CR4_PKE     (1ull << 22)
#define XCR0_PKRU   (1ull << 9)
#define PF_PK       32u
#define BASE        0x10000000000ull /* a page for each key */
#define KEYS        16
#define AD          1u
#define WD          2u

ASM_FUNCTION(rdpkru, "xor %ecx, %ecx\nor $-1, %rax\nor $-1, %rdx\n.globl rdpkru_at\n"
                     "rdpkru_at: rdpkru\nshl $32, %rdx\nor %rdx, %rax");
ASM_FUNCTION(wrpkru, "xor %ecx, %ecx\nmov %rdi, %rax\nmov %rdi, %rdx\nshr $32, %rdx\n"
                     ".globl wrpkru_at\nwrpkru_at: wrpkru");
ASM_FUNCTION(rdpkru_ecx, "mov $1, %ecx\n.globl rdpkru_ecx_at\nrdpkru_ecx_at: rdpkru");
ASM_FUNCTION(load, ".globl load_at\nload_at: mov (%rdi), %rax");
ASM_FUNCTION(store, ".globl store_at\nstore_at: movq $1, (%rdi)");
extern char rdpkru_at[], wrpkru_at[], rdpkru_ecx_at[], load_at[], store_at[];

USER_FUNCTION(user_load, "mov (%rdi), %rax\nint $0x80");
USER_FUNCTION(user_store, "movq $1, (%rdi)\nint $0x80");
/* Takes the rights that come in RDI from the keys, and tells what it reads back. */
USER_FUNCTION(user_wrpkru, "xor %ecx, %ecx\nxor %edx, %edx\nmov %rdi, %rax\nwrpkru\n"
                           "not %rax\nrdpkru\nint $0x80");

static uint64_t page_of(unsigned key)
{
    return BASE + key * PAGE_SIZE;
}

static void try_undefined(void)
{
    case_begin("without CR4.PKE they are undefined");
    ASSERT(trap_try(rdpkru, 0));
    ASSERT_TRAP(VECTOR_UD, 0, rdpkru_at);
    ASSERT(trap_try(wrpkru, 0));
    ASSERT_TRAP(VECTOR_UD, 0, wrpkru_at);
    ASSERT_EQ(cpuid(7, 0).ecx >> 4 & 1, 0);
}

static void try_registers(void)
{
    case_begin("what is written is read, in both rings");
    ASSERT_EQ(cpuid(7, 0).ecx >> 4 & 1, 1);
    wrpkru(0x12345678);
    for (unsigned i = 0; i < 100; i++) {
        ASSERT_EQ(rdpkru(0), 0x12345678);
    }
    user_call(user_wrpkru, 0x5555aaa8);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
    ASSERT_EQ(cpu_self()->trap.rax, 0x5555aaa8);
    ASSERT_EQ(rdpkru(0), 0x5555aaa8);
    case_begin("ECX and EDX have to be zero");
    ASSERT(trap_try(rdpkru_ecx, 0));
    ASSERT_TRAP(VECTOR_GP, 0, rdpkru_ecx_at);
    ASSERT(trap_try(wrpkru, 1ull << 32));
    ASSERT_TRAP(VECTOR_GP, 0, wrpkru_at);
    wrpkru(0);
}

/* One access, which the rights permit or not. */
static void expect(bool is_user, bool is_write, uint64_t address, bool is_denied)
{
    uint32_t error = PF_P | PF_PK | (is_write ? PF_W : 0) | (is_user ? PF_U : 0);
    if (is_user) {
        const void *code = is_write ? user_store : user_load;
        user_call(code, address);
        if (is_denied) {
            ASSERT_TRAP(VECTOR_PF, error, user_address(code));
        } else {
            ASSERT_EQ(cpu_self()->trap.vector, VECTOR_USER);
        }
        return;
    }
    ASSERT_EQ(trap_try(is_write ? store : load, address), is_denied);
    if (is_denied) {
        ASSERT_TRAP(VECTOR_PF, error, is_write ? store_at : load_at);
        ASSERT_EQ(cpu_self()->trap_cr2, address);
    }
}

static void expect_rights(unsigned key, unsigned rights, bool has_wp)
{
    for (unsigned i = 0; i < 4; i++) {
        bool is_user = i & 1, is_write = i & 2;
        bool is_denied = rights & AD || (is_write && rights & WD && (is_user || has_wp));
        expect(is_user, is_write, page_of(key), is_denied);
    }
}

static void try_rights(void)
{
    for (unsigned has_wp = 0; has_wp < 2; has_wp++) {
        case_begin("all rights of all keys, CR0.WP %u", has_wp);
        cr0_write(has_wp ? cr0_read() | CR0_WP : cr0_read() & ~CR0_WP);
        for (unsigned key = 1; key < KEYS; key++) {
            for (unsigned rights = 0; rights < 4; rights++) {
                wrpkru((uint64_t)rights << key * 2);
                expect_rights(key, rights, has_wp);
                expect_rights(key % 15 + 1, 0, has_wp); /* another */
            }
            wrpkru(0);
            expect_rights(key, 0, has_wp);
        }
    }
}

/* Key 0 is everybody's: all user pages but those with another. */
static void try_key_0(void)
{
    case_begin("key 0");
    expect_rights(0, 0, true);
    wrpkru(WD);
    expect(false, true, page_of(0), true);
    expect(false, false, page_of(0), false);
    wrpkru(AD);
    expect(false, false, page_of(0), true);
    expect(false, false, page_of(1), false);
    wrpkru(0);
    expect_rights(0, 0, true);
}

static void try_supervisor(void)
{
    case_begin("supervisor pages have no key");
    uint64_t *entry = page_entry(kernel_pml4, page_of(3), 1);
    uint64_t old = *entry;
    *entry = old & ~PTE_U;
    invlpg(page_of(3));
    wrpkru(3u << 6);
    expect(false, true, page_of(3), false);
    *entry = old;
    invlpg(page_of(3));
    expect(false, true, page_of(3), true);
    wrpkru(0);
}

static void try_off(void)
{
    case_begin("without CR4.PKE keys are ignored");
    wrpkru(0xfffffffc);
    expect(false, false, page_of(5), true);
    cr4_write(cr4_read() & ~CR4_PKE);
    expect(false, true, page_of(5), false);
    expect(true, true, page_of(5), false);
    cr4_write(cr4_read() | CR4_PKE);
    expect(false, false, page_of(5), true);
    wrpkru(0);
}

static uint8_t area[4096] __attribute__((aligned(64)));

static void xsave(void)
{
    __asm__ volatile("xsave64 %0" : "+m"(area) : "a"((uint32_t)XCR0_PKRU), "d"(0));
}

static void xrstor(void)
{
    __asm__ volatile("xrstor64 %0"
                     :
                     : "m"(area), "a"((uint32_t)XCR0_PKRU), "d"(0)
                     : "memory");
}

static void try_xsave(void)
{
    case_begin("XSAVE and XRSTOR have it as component 9");
    cr4_write(cr4_read() | CR4_OSXSAVE);
    __asm__ volatile("xsetbv" : : "a"((uint32_t)XCR0_PKRU | 1), "d"(0), "c"(0));
    uint32_t place = cpuid(13, 9).ebx;
    ASSERT_EQ(cpuid(13, 9).eax, 8);
    ASSERT_EQ(cpuid(13, 0).ebx, place + 8);
    memset(area, 0, sizeof(area));
    expect_rights(7, 0, true);
    wrpkru((uint64_t)AD << 14);
    xsave();
    ASSERT_EQ(*(uint64_t *)(area + 512), XCR0_PKRU);
    ASSERT_EQ(*(uint64_t *)(area + place), (uint64_t)AD << 14);
    wrpkru(0);
    expect_rights(7, 0, true);
    xrstor();
    expect_rights(7, AD, true);
    *(uint64_t *)(area + 512) = 0; /* its initial state */
    xrstor();
    ASSERT_EQ(rdpkru(0), 0);
    expect_rights(7, 0, true);
}

void guest_test(void)
{
    if (!(cpuid(7, 0).ecx & 1u << 3)) {
        guest_skip("the processor has no protection keys");
    }
    for (unsigned key = 0; key < KEYS; key++) {
        page_map(page_of(key), (uint64_t)page_new(),
                 PTE_P | PTE_W | PTE_U | (uint64_t)key << 59, 1);
    }
    try_undefined();
    cr4_write(cr4_read() | CR4_PKE);
    try_registers();
    try_rights();
    try_key_0();
    try_supervisor();
    try_off();
    try_xsave();
}
