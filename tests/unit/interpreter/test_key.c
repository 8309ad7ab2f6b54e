/* Protection keys as code meets them: the instructions, and that what the TLB knows
 * follows PKRU. test_paging.c has the rules, kvm-unit-tests' pku the whole. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "interpreter/key.h"

#define KEYED  (FIXTURE_DATA + 0x1000)
#define KEY(n) ((uint64_t)(n) << X86_PTE_KEY_SHIFT)
#define WRPKRU 0x0f, 0x01, 0xef
#define RDPKRU 0x0f, 0x01, 0xee
#define LOAD   0x8b, 0x1e /* mov (%rsi), %ebx */
#define STORE  0x89, 0x1e /* mov %ebx, (%rsi) */
#define HLT    0xf4
/* mov $imm, %eax; xor %ecx, %ecx; xor %edx, %edx */
#define RIGHTS(n) 0xb8, (n), 0, 0, 0, 0x31, 0xc9, 0x31, 0xd2

static struct fixture *with_keys(void)
{
    struct fixture *f = fixture_long();
    struct x86_state state;
    cpu_sync_out(f->cpu, &state);
    state.cr4 |= X86_CR4_PKE;
    state.gpr[X86_RSI] = KEYED;
    cpu_sync_in(f->cpu, &state);
    fixture_map(f, KEYED, KEY(1) | X86_PTE_P | X86_PTE_W | X86_PTE_U);
    return f;
}

static void expect_key_fault(struct fixture *f, uint32_t error)
{
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(fixture_frame(f, 0), error);
    assert_int_equal(f->cpu->state.cr2, KEYED);
}

static void test_instructions_want_cr4_and_zeros(void **state)
{
    struct fixture *f = fixture_long();
    RUN_BYTES(f, RIGHTS(0), WRPKRU, HLT);
    assert_int_equal(fixture_vector(f), X86_UD);
    fixture_free(f);
    f = fixture_long();
    RUN_BYTES(f, RIGHTS(0), RDPKRU, HLT);
    assert_int_equal(fixture_vector(f), X86_UD);
    fixture_free(f);
    f = with_keys();
    RUN_BYTES(f, RIGHTS(0x55), WRPKRU, 0x31, 0xc0, 0x48, 0x83, 0xca, 0xff, RDPKRU, HLT);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->reg[X86_RAX], 0x55);
    assert_int_equal(f->cpu->reg[X86_RDX], 0);
    fixture_free(f);
    f = with_keys();
    RUN_BYTES(f, RIGHTS(0), 0xff, 0xc1, RDPKRU, HLT); /* inc %ecx */
    assert_int_equal(fixture_vector(f), X86_GP);
    fixture_free(f);
    f = with_keys();
    RUN_BYTES(f, RIGHTS(0), 0xff, 0xc2, WRPKRU, HLT); /* inc %edx */
    assert_int_equal(fixture_vector(f), X86_GP);
    fixture_free(f);
}

/* CR4.PKE can be set by models that have it. */
static void test_cr4_has_the_bit_of_the_model(void **state)
{
    struct fixture *f = fixture_long();
    RUN_BYTES(f, 0x0f, 0x20, 0xe0, 0x0d, 0, 0, 0x40, 0, 0x0f, 0x22, 0xe0, HLT);
    assert_int_equal(fixture_vector(f), -1);
    fixture_free(f);
    f = fixture_long_model("x86-64-v1");
    RUN_BYTES(f, 0x0f, 0x20, 0xe0, 0x0d, 0, 0, 0x40, 0, 0x0f, 0x22, 0xe0, HLT);
    assert_int_equal(fixture_vector(f), X86_GP);
    fixture_free(f);
}

/* The page is in the TLB, readable and writable, when its key loses the rights. */
static void test_lost_rights_are_lost_at_once(void **state)
{
    struct fixture *f = with_keys();
    RUN_BYTES(f, STORE, LOAD, RIGHTS(8), WRPKRU, LOAD, STORE, HLT); /* WD */
    expect_key_fault(f, X86_PF_P | X86_PF_W | X86_PF_PK);
    fixture_free(f);
    f = with_keys();
    RUN_BYTES(f, STORE, LOAD, RIGHTS(4), WRPKRU, LOAD, HLT); /* AD */
    expect_key_fault(f, X86_PF_P | X86_PF_PK);
    fixture_free(f);
    /* And had again at once. */
    f = with_keys();
    RUN_BYTES(f, STORE, RIGHTS(4), WRPKRU, RIGHTS(8), WRPKRU, LOAD, RIGHTS(0), WRPKRU,
              STORE, LOAD, HLT);
    assert_int_equal(fixture_vector(f), -1);
    fixture_free(f);
}

static void test_other_keys_do_not_matter(void **state)
{
    struct fixture *f = with_keys();
    RUN_BYTES(f, STORE, RIGHTS(0xf0), WRPKRU, STORE, LOAD, HLT); /* keys 2 and 3 */
    assert_int_equal(fixture_vector(f), -1);
    fixture_free(f);
}

/* Pages of key 0 are not noted one by one. */
static void test_key_0_is_a_key(void **state)
{
    struct fixture *f = with_keys();
    fixture_map(f, KEYED, X86_PTE_P | X86_PTE_W | X86_PTE_U);
    /* The stack's page and the IDT's stay the supervisor's. */
    fixture_map(f, FIXTURE_STACK - 1, X86_PTE_P | X86_PTE_W);
    fixture_map(f, FIXTURE_IDT, X86_PTE_P | X86_PTE_W);
    fixture_map(f, FIXTURE_GDT, X86_PTE_P | X86_PTE_W);
    RUN_BYTES(f, STORE, LOAD, RIGHTS(1), WRPKRU, LOAD, HLT);
    expect_key_fault(f, X86_PF_P | X86_PF_PK);
    fixture_free(f);
}

/* More pages with keys than are noted. */
static void test_many_pages(void **state)
{
    enum { COUNT = 2 * TLB_KEYED_MAX, FIRST = 0x100000 };
    struct fixture *f = with_keys();
    for (unsigned i = 0; i < COUNT; i++) {
        fixture_map(f, FIRST + i * 0x1000u, KEY(5) | X86_PTE_P | X86_PTE_W | X86_PTE_U);
    }
    f->cpu->reg[X86_RSI] = FIRST;
    f->cpu->reg[X86_RDI] = COUNT;
    RUN_BYTES(f, STORE,                        /* again: */
              0x48, 0x81, 0xc6, 0, 0x10, 0, 0, /* add $4096, %rsi */
              0xff, 0xcf, 0x75, 0xf3,          /* dec %edi; jnz again */
              0x48, 0x81, 0xee, 0, 0x10, 0, 0, /* sub $4096, %rsi */
              0xb8, 0, 8, 0, 0, 0x31, 0xc9, 0x31, 0xd2, WRPKRU, LOAD, STORE, HLT);
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(fixture_frame(f, 0), X86_PF_P | X86_PF_W | X86_PF_PK);
    fixture_free(f);
}

/* Code is fetched whatever the key says. */
static void test_fetches_are_free(void **state)
{
    struct fixture *f = with_keys();
    fixture_map(f, FIXTURE_CODE, KEY(3) | X86_PTE_P | X86_PTE_U);
    RUN_BYTES(f, RIGHTS(0x40), WRPKRU, 0x90, HLT);
    assert_int_equal(fixture_vector(f), -1);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_instructions_want_cr4_and_zeros),
        cmocka_unit_test(test_cr4_has_the_bit_of_the_model),
        cmocka_unit_test(test_lost_rights_are_lost_at_once),
        cmocka_unit_test(test_other_keys_do_not_matter),
        cmocka_unit_test(test_key_0_is_a_key),
        cmocka_unit_test(test_many_pages),
        cmocka_unit_test(test_fetches_are_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
