#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "fixture.h"
#include "interpreter/run.h"

#include <cmocka.h>

static int setup(void **state)
{
    *state = fixture_long();
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

static void set(struct fixture *f, uint64_t rsi, uint64_t rdi, uint64_t rcx)
{
    f->cpu->reg[X86_RSI] = rsi;
    f->cpu->reg[X86_RDI] = rdi;
    f->cpu->reg[X86_RCX] = rcx;
}

static void test_rep_movs_copies_across_pages(void **state)
{
    struct fixture *f = *state;
    for (unsigned i = 0; i < 10000; i++) {
        f->ram[FIXTURE_DATA + 5 + i] = (uint8_t)(i * 7);
    }
    set(f, FIXTURE_DATA + 5, 0x30003, 10000);
    RUN_BYTES(f, 0xf3, 0xa4, 0xf4); /* rep movsb; hlt */
    assert_memory_equal(f->ram + 0x30003, f->ram + FIXTURE_DATA + 5, 10000);
    assert_int_equal(f->cpu->reg[X86_RCX], 0);
    assert_int_equal(f->cpu->reg[X86_RSI], FIXTURE_DATA + 5 + 10000);
    assert_int_equal(f->cpu->reg[X86_RDI], 0x30003 + 10000);
}

static void test_rep_movs_replicates_into_its_own_source(void **state)
{
    struct fixture *f = *state;
    memcpy(f->ram + FIXTURE_DATA, "ab", 2);
    set(f, FIXTURE_DATA, FIXTURE_DATA + 2, 100);
    RUN_BYTES(f, 0xf3, 0xa4, 0xf4);
    for (unsigned i = 0; i < 102; i++) {
        assert_int_equal(f->ram[FIXTURE_DATA + i], i % 2 ? 'b' : 'a');
    }
}

/* rep stosb; hlt, whose first round makes the instruction nop; stosb. In deterministic
 * runs that is the same wherever they stop. */
static void test_rep_stos_over_itself(void **state)
{
    static const uint8_t code[] = {0xf3, 0xaa, 0xf4};
    for (unsigned step = 1; step <= 2; step++) {
        struct fixture *f = *state;
        memcpy(f->ram + FIXTURE_CODE, code, sizeof(code));
        f->cpu->is_counting = true;
        f->cpu->reg[X86_RAX] = 0x90;
        set(f, 0, FIXTURE_CODE, 2);
        for (unsigned i = 0; i < 10 && f->cpu->state.activity == X86_RUNNING; i++) {
            f->cpu->limit = step == 1 ? f->cpu->retired + 1 : UINT64_MAX;
            atomic_store(&f->cpu->attention, 0);
            cpu_run(f->cpu);
        }
        assert_int_equal(f->cpu->state.activity, X86_HALTED);
        assert_int_equal(f->cpu->rip, FIXTURE_CODE + 3);
        assert_int_equal(f->cpu->reg[X86_RCX], 1);
        assert_int_equal(f->cpu->reg[X86_RDI], FIXTURE_CODE + 2);
        teardown(state);
        setup(state);
    }
}

static void test_rep_movs_backward(void **state)
{
    struct fixture *f = *state;
    memcpy(f->ram + FIXTURE_DATA, "0123456789", 10);
    set(f, FIXTURE_DATA + 9, FIXTURE_DATA + 11, 10);
    RUN_BYTES(f, 0xfd, 0xf3, 0xa4, 0xf4); /* std; rep movsb; hlt */
    assert_memory_equal(f->ram + FIXTURE_DATA + 2, "0123456789", 10);
    assert_int_equal(f->cpu->reg[X86_RSI], FIXTURE_DATA - 1);
}

static void test_rep_stos_faults_where_the_page_ends(void **state)
{
    struct fixture *f = *state;
    fixture_map(f, 0x31000, 0);
    f->cpu->reg[X86_RAX] = 0x1122334455667788;
    set(f, 0, 0x30ff0, 16);
    RUN_BYTES(f, 0xf3, 0x48, 0xab, 0xf4); /* rep stosq; hlt */
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(f->cpu->state.cr2, 0x31000);
    assert_int_equal(fixture_frame(f, 0), X86_PF_W);
    assert_int_equal(fixture_frame(f, 1), FIXTURE_CODE);
    assert_int_equal(f->cpu->reg[X86_RCX], 14);
    assert_int_equal(f->cpu->reg[X86_RDI], 0x31000);
    assert_int_equal(fixture_read(f, 0x30ff8, 8), 0x1122334455667788);
}

static void test_element_over_an_absent_page_changes_nothing(void **state)
{
    struct fixture *f = *state;
    fixture_map(f, 0x31000, 0);
    set(f, FIXTURE_DATA, 0x30ffc, 1);
    fixture_write(f, FIXTURE_DATA, 8, ~0ull);
    RUN_BYTES(f, 0xf3, 0x48, 0xa5, 0xf4); /* rep movsq; hlt */
    assert_int_equal(fixture_vector(f), X86_PF);
    assert_int_equal(f->cpu->state.cr2, 0x31000);
    assert_int_equal(f->cpu->reg[X86_RCX], 1);
    assert_int_equal(f->cpu->reg[X86_RDI], 0x30ffc);
    assert_int_equal(fixture_read(f, 0x30ffc, 4), 0);
}

static void test_zero_count_touches_nothing(void **state)
{
    struct fixture *f = *state;
    set(f, 0x500000, 0x600000, 0);
    RUN_BYTES(f, 0xf3, 0xa4, 0xf3, 0xaa, 0xf3, 0xa6, 0xf4);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->reg[X86_RDI], 0x600000);
}

static void test_scas_and_cmps_stop_at_the_difference(void **state)
{
    struct fixture *f = *state;
    strcpy((char *)f->ram + FIXTURE_DATA, "virtual machine");
    strcpy((char *)f->ram + FIXTURE_DATA + 64, "virtual monitor");
    set(f, 0, FIXTURE_DATA, ~0ull);
    f->cpu->reg[X86_RAX] = 0;
    RUN_BYTES(f, 0xf2, 0xae, 0xf4); /* repne scasb; hlt */
    assert_int_equal(f->cpu->reg[X86_RDI], FIXTURE_DATA + 16);
    assert_int_equal(~f->cpu->reg[X86_RCX], 16);
    assert_true(f->cpu->arith & ARITH_ZF);

    set(f, FIXTURE_DATA, FIXTURE_DATA + 64, 15);
    f->cpu->state.activity = X86_RUNNING;
    f->cpu->rip = FIXTURE_CODE;
    RUN_BYTES(f, 0xf3, 0xa6, 0xf4); /* repe cmpsb; hlt */
    assert_int_equal(f->cpu->reg[X86_RCX], 5);
    assert_false(f->cpu->arith & ARITH_ZF);
    assert_true(f->cpu->arith & ARITH_CF); /* 'a' is below 'o' */
}

static void test_ins_and_outs_go_by_pages(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RDX] = 0x1f0;
    set(f, 0, FIXTURE_DATA, 256);
    RUN_BYTES(f, 0xf3, 0x66, 0x6d, 0xf4); /* rep insw; hlt */
    assert_int_equal(f->port, 0x1f0);
    assert_int_equal(f->port_count, 256);
    assert_int_equal(fixture_read(f, FIXTURE_DATA + 2, 2), 0x0403);
    assert_int_equal(f->cpu->reg[X86_RDI], FIXTURE_DATA + 512);
    assert_int_equal(f->cpu->reg[X86_RCX], 0);
}

/* What goes to a device in more than one exit gets to where it belongs. */
static void test_ins_reaches_memory_behind_the_bus(void **state)
{
    struct fixture *f = *state;
    const uint64_t gva = 0x80000;
    fixture_write(f, FIXTURE_PAGES + (gva >> 12) * 8, 8, FIXTURE_DEVICE | 7);
    f->cpu->reg[X86_RDX] = 0xe0;
    set(f, 0, gva + 16, 200);
    RUN_BYTES(f, 0xf3, 0x6c, 0xf4); /* rep insb; hlt */
    for (unsigned i = 0; i < 200; i++) {
        assert_int_equal(f->device[16 + i], (uint8_t)(i + 1));
    }
    assert_int_equal(f->device[15] | f->device[216], 0);
}

static void test_outs_comes_from_memory_behind_the_bus(void **state)
{
    struct fixture *f = *state;
    const uint64_t gva = 0x80000;
    fixture_write(f, FIXTURE_PAGES + (gva >> 12) * 8, 8, FIXTURE_DEVICE | 7);
    for (unsigned i = 0; i < 200; i++) {
        f->device[16 + i] = (uint8_t)(i * 3);
    }
    f->cpu->reg[X86_RDX] = 0xe0;
    set(f, gva + 16, 0, 200);
    RUN_BYTES(f, 0xf3, 0x6e, 0xf4); /* rep outsb; hlt */
    assert_int_equal(f->port_count, 200);
    assert_memory_equal(f->port_data, f->device + 16, 200);
}

static void test_xlat(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RBX] = FIXTURE_DATA;
    f->cpu->reg[X86_RAX] = 0x1280;
    f->ram[FIXTURE_DATA + 0x80] = 0x5a;
    RUN_BYTES(f, 0xd7, 0xf4); /* xlat; hlt */
    assert_int_equal(f->cpu->reg[X86_RAX], 0x125a);
}

/* The bytes that it writes over itself are executed from the next page on. */
static void test_rep_that_overwrites_itself_ends(void **state)
{
    struct fixture *f = *state;
    f->cpu->reg[X86_RAX] = 0xf4; /* hlt */
    f->cpu->reg[X86_RCX] = 3 * 4096;
    f->cpu->reg[X86_RDI] = FIXTURE_CODE - 16;
    RUN_BYTES(f, 0xf3, 0xaa); /* rep stosb */
    assert_int_equal(f->cpu->rip, FIXTURE_CODE + 1);
    assert_int_equal(f->cpu->reg[X86_RDI], FIXTURE_CODE + 4096);
    assert_int_equal(f->cpu->reg[X86_RCX], 3 * 4096 - 16 - 4096);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_rep_movs_copies_across_pages),
        TEST(test_rep_movs_replicates_into_its_own_source),
        TEST(test_rep_stos_over_itself),
        TEST(test_rep_movs_backward),
        TEST(test_rep_stos_faults_where_the_page_ends),
        TEST(test_element_over_an_absent_page_changes_nothing),
        TEST(test_zero_count_touches_nothing),
        TEST(test_scas_and_cmps_stop_at_the_difference),
        TEST(test_ins_and_outs_go_by_pages),
        TEST(test_ins_reaches_memory_behind_the_bus),
        TEST(test_outs_comes_from_memory_behind_the_bus),
        TEST(test_xlat),
        TEST(test_rep_that_overwrites_itself_ends),
    };
    return cmocka_run_group_tests_name("interpreter_string", tests, NULL, NULL);
}
