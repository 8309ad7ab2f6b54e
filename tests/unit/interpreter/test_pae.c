/* The page-directory-pointer entries of PAE paging as code meets them: loaded by moves to
 * control registers, kept whatever the table in memory becomes (SDM 3A 4.4.1); and a
 * 32-bit kernel's global pages. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define TABLE     0xc000u /* and at TABLE + 32 another */
#define DIRECTORY 0xd000u
#define HLT       0xf4
#define LOAD      0xa1, 0, 0, 0x20, 0                   /* mov 0x200000, %eax */
#define SET_CR3   0xb8, 0, 0xc0, 0, 0, 0x0f, 0x22, 0xd8 /* mov $TABLE, %eax */
#define GET_CR0   0x0f, 0x20, 0xc0
#define SET_CR0   0x0f, 0x22, 0xc0
#define GET_CR4   0x0f, 0x20, 0xe0
#define SET_CR4   0x0f, 0x22, 0xe0
/* mov $TABLE, %eax; mov %eax, %cr3; CR4.PAE; CR0.PG */
#define START \
    SET_CR3, GET_CR4, 0x83, 0xc8, 0x20, SET_CR4, GET_CR0, 0x0d, 0, 0, 0, 0x80, SET_CR0
/* movl $0, TABLE: the first entry is not there any more */
#define FORGET 0xc7, 0x05, 0, 0xc0, 0, 0, 0, 0, 0, 0

/* One directory maps the first 2 MiB and, beside them, the same again. */
static struct fixture *with_tables(void)
{
    struct fixture *f = fixture_protected();
    fixture_write(f, TABLE, 8, DIRECTORY | X86_PTE_P);
    fixture_write(f, DIRECTORY, 8, X86_PTE_P | X86_PTE_W | X86_PTE_PS);
    fixture_write(f, DIRECTORY + 8, 8, X86_PTE_P | X86_PTE_W | X86_PTE_PS);
    return f;
}

static void test_they_stay_as_loaded(void **state)
{
    struct fixture *f = with_tables();
    RUN_BYTES(f, START, FORGET, LOAD, HLT);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->state.pdpte[0], DIRECTORY | X86_PTE_P);
    struct x86_state saved;
    cpu_sync_out(f->cpu, &saved);
    saved.activity = X86_RUNNING;
    saved.rip = FIXTURE_CODE;
    saved.gpr[X86_RAX] = 1;
    cpu_sync_in(f->cpu, &saved); /* nothing is cached any more */
    RUN_BYTES(f, LOAD, HLT);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->reg[X86_RAX], fixture_read(f, 0, 4));
    assert_int_equal(f->cpu->rip, FIXTURE_CODE + 6);
    fixture_free(f);
}

/* With the first entry gone there is nowhere to go on: no handler either. */
#define EXPECT_RELOAD(...)                                       \
    do {                                                         \
        struct fixture *f_ = with_tables();                      \
        RUN_BYTES(f_, START, FORGET, __VA_ARGS__, LOAD, HLT);    \
        assert_int_equal(f_->cpu->state.activity, X86_SHUTDOWN); \
        assert_int_equal(f_->cpu->state.pdpte[0], 0);            \
        fixture_free(f_);                                        \
    } while (0)
#define EXPECT_NO_RELOAD(...)                                  \
    do {                                                       \
        struct fixture *f_ = with_tables();                    \
        RUN_BYTES(f_, START, FORGET, __VA_ARGS__, LOAD, HLT);  \
        assert_int_equal(fixture_vector(f_), -1);              \
        assert_int_equal(f_->cpu->state.activity, X86_HALTED); \
        fixture_free(f_);                                      \
    } while (0)

static void test_what_loads_them(void **state)
{
    EXPECT_RELOAD(SET_CR3);
    EXPECT_RELOAD(GET_CR0, 0x0d, 0, 0, 0, 0x40, SET_CR0); /* CD */
    EXPECT_RELOAD(GET_CR4, 0x0d, 0x80, 0, 0, 0, SET_CR4); /* PGE */
    EXPECT_RELOAD(GET_CR4, 0x0d, 0x10, 0, 0, 0, SET_CR4); /* PSE */
    EXPECT_RELOAD(GET_CR4, 0x0d, 0, 0, 0x10, 0, SET_CR4); /* SMEP */
    EXPECT_NO_RELOAD(GET_CR0, SET_CR0);                   /* nothing changes */
    EXPECT_NO_RELOAD(GET_CR0, 0x0d, 8, 0, 1, 0, SET_CR0); /* TS, WP */
    EXPECT_NO_RELOAD(GET_CR4, 0x0d, 0, 2, 0, 0, SET_CR4); /* OSFXSR */
    EXPECT_NO_RELOAD(0x0f, 0x01, 0x3d, 0, 0, 0x20, 0);    /* INVLPG */
}

/* The instruction faults, and nothing has changed. */
static void test_reserved_bits_are_a_protection_fault(void **state)
{
    struct fixture *f = with_tables();
    fixture_write(f, TABLE + 24, 8, DIRECTORY | X86_PTE_P | X86_PTE_W);
    RUN_BYTES(f, START, HLT);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_false(f->cpu->state.cr0 & X86_CR0_PG);
    fixture_free(f);
    f = with_tables();
    fixture_write(f, TABLE + 32 + 8, 8, 1ull << 63 | X86_PTE_P);
    RUN_BYTES(f, START, 0x83, 0xc8, 0, /* or $0, %eax */
              0xb8, 0x20, 0xc0, 0, 0, 0x0f, 0x22, 0xd8, HLT);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_int_equal(f->cpu->state.cr3, TABLE);
    fixture_free(f);
    f = with_tables();
    RUN_BYTES(f, START, 0xc7, 0x05, 0, 0xc0, 0, 0, 2, 0xd0, 0, 0, /* movl: P clear, W */
              0x80, 0x0d, 0, 0xc0, 0, 0, 1,                       /* orb: P */
              GET_CR4, 0x0d, 0x80, 0, 0, 0, SET_CR4, HLT);
    assert_int_equal(fixture_vector(f), X86_GP);
    assert_false(f->cpu->state.cr4 & X86_CR4_PGE);
    fixture_free(f);
}

#define UPPER        0xe000u /* a directory for what lies at 0xc0000000 */
#define SET_PGE      GET_CR4, 0x0d, 0x80, 0, 0, 0, SET_CR4
#define LOAD_UPPER   0xa1, 0, 0, 2, 0xc0                   /* mov 0xc0020000, %eax */
#define FORGET_UPPER 0xc7, 0x05, 0, 0xe0, 0, 0, 0, 0, 0, 0 /* movl $0, UPPER */
#define INVLPG_UPPER 0x0f, 0x01, 0x3d, 0, 0x10, 0, 0xc0    /* of another part of it */

static struct fixture *with_upper_half(uint64_t flags)
{
    struct fixture *f = with_tables();
    fixture_write(f, TABLE + 24, 8, UPPER | X86_PTE_P);
    fixture_write(f, UPPER, 8, X86_PTE_P | X86_PTE_W | X86_PTE_PS | flags);
    fixture_write(f, 0x20000, 4, 0x1234567);
    return f;
}

#define EXPECT_VECTOR(vector, flags, ...)                                                \
    do {                                                                                 \
        struct fixture *f_ = with_upper_half(flags);                                     \
        RUN_BYTES(f_, START, SET_PGE, LOAD_UPPER, FORGET_UPPER, __VA_ARGS__, LOAD_UPPER, \
                  HLT);                                                                  \
        assert_int_equal(fixture_vector(f_), vector);                                    \
        assert_int_equal(f_->cpu->reg[X86_RAX], 0x1234567);                              \
        fixture_free(f_);                                                                \
    } while (0)
#define EAX_AGAIN 0xb8, 0x67, 0x45, 0x23, 1 /* as LOAD_UPPER left it */

/* SDM 3A 4.10.2.4: a load of CR3 need not end it, and here it does not. */
static void test_kernels_global_pages_outlive_cr3(void **state)
{
    EXPECT_VECTOR(-1, X86_PTE_G, SET_CR3);
    EXPECT_VECTOR(X86_PF, 0, SET_CR3, EAX_AGAIN);
    EXPECT_VECTOR(X86_PF, X86_PTE_G, SET_CR3, INVLPG_UPPER, EAX_AGAIN);
    EXPECT_VECTOR(X86_PF, X86_PTE_G, SET_CR3, SET_CR3, INVLPG_UPPER, EAX_AGAIN);
    EXPECT_VECTOR(X86_PF, X86_PTE_G, SET_CR3, GET_CR4, 0x25, 0x7f, 0xff, 0xff, 0xff,
                  SET_CR4, EAX_AGAIN); /* clears PGE */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_they_stay_as_loaded),
        cmocka_unit_test(test_what_loads_them),
        cmocka_unit_test(test_reserved_bits_are_a_protection_fault),
        cmocka_unit_test(test_kernels_global_pages_outlive_cr3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
