#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "allocator/virtual.h"
#include "fixture.h"
#include "x86/paging.h"

#include <cmocka.h>

/* Linear 0 and 1000 lie at physical 5000 and 9000, 2000 nowhere, 3000 beyond the RAM. */
#define PML4      0x1000u
#define PDPT      0x2000u
#define DIRECTORY 0x3000u
#define TABLE     0x4000u

static struct x86_state state;

static void put64(gpa_t gpa, uint64_t value)
{
    assert_true(ram_write(memory, gpa, &value, sizeof(value)));
}

static struct virtual_space paged(void)
{
    x86_state_reset(&state, true);
    state.cr0 = X86_CR0_PE | X86_CR0_PG;
    state.cr3 = PML4;
    state.cr4 = X86_CR4_PAE;
    state.efer = X86_EFER_LME | X86_EFER_LMA;
    put64(PML4, PDPT | X86_PTE_P);
    put64(PDPT, DIRECTORY | X86_PTE_P);
    put64(DIRECTORY, TABLE | X86_PTE_P);
    put64(TABLE, 0x5000 | X86_PTE_P);
    put64(TABLE + 8, 0x9000 | X86_PTE_P);
    put64(TABLE + 24, 0x10000000 | X86_PTE_P);
    return (struct virtual_space){memory, &state, 46};
}

static void test_page_by_page(void **unused)
{
    const struct virtual_space space = paged();
    char text[16] = "";
    assert_int_equal(virtual_write(&space, 0xffc, "abcdefgh", 8), 8);
    assert_true(ram_read(memory, 0x5ffc, text, 4));
    assert_true(ram_read(memory, 0x9000, text + 4, 4));
    assert_string_equal(text, "abcdefgh");
    memset(text, 0, sizeof(text));
    assert_int_equal(virtual_read(&space, 0xffc, text, 8), 8);
    assert_string_equal(text, "abcdefgh");
}

static void test_up_to_what_is_not_there(void **unused)
{
    const struct virtual_space space = paged();
    uint8_t data[32] = {0};
    gpa_t gpa;
    assert_int_equal(virtual_read(&space, 0x1ff0, data, 32), 16);
    assert_int_equal(virtual_write(&space, 0x1ff0, data, 32), 16);
    assert_int_equal(virtual_read(&space, 0x2000, data, 32), 0);
    assert_int_equal(virtual_read(&space, 0x3000, data, 32), 0);
    assert_int_equal(virtual_read(&space, 1ull << 47, data, 1), 0);
    assert_true(virtual_translate(&space, 0x1234, &gpa));
    assert_int_equal(gpa, 0x9234);
    assert_false(virtual_translate(&space, 0x2234, &gpa));
}

/* A look leaves no accessed bits. */
static void test_changes_no_entry(void **unused)
{
    const struct virtual_space space = paged();
    uint64_t entry;
    virtual_write(&space, 0, "a", 1);
    assert_true(ram_read(memory, TABLE, &entry, 8));
    assert_int_equal(entry, 0x5000 | X86_PTE_P);
}

static void test_physical(void **unused)
{
    const struct virtual_space space = {memory, NULL, 46};
    uint8_t data[32] = {0};
    gpa_t gpa;
    assert_int_equal(virtual_write(&space, RAM_SIZE - 16, data, 32), 16);
    assert_int_equal(virtual_read(&space, HIGH_BASE, data, 32), 32);
    assert_true(virtual_translate(&space, 0x1234, &gpa));
    assert_int_equal(gpa, 0x1234);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_page_by_page),
        TEST(test_up_to_what_is_not_there),
        TEST(test_changes_no_entry),
        TEST(test_physical),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
