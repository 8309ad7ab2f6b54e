/* Groups of accesses that are checked together: where their stores are looked at, and
 * which are checked at the block's head. */

#include "decode_rig.h"

#define INSNS 4

/* As translate.c does. */
static void find_groups(struct rig *rig, struct guest_insn insn[INSNS])
{
    rig->emit.early_count = 0;
    rig->emit.loop_end = -1;
    for (unsigned i = 0; i < INSNS; i++) {
        insn[i].access = (struct access){.kind = ACCESS_ALONE, .group = -1};
        insn[i].keeps_base = insn[i].needs_base = false;
    }
    recover_find(&rig->emit, insn, INSNS);
    flags_find_live(insn, INSNS, 0);
    group_accesses(&rig->emit, insn, INSNS);
}

/* mov [rdi], rax; one by which translated code may go on elsewhere; mov [rdi + 8], rax;
 * mov [rdi + 16], rax. */
static void plan(struct rig *rig, const uint8_t leave[INSN_BYTES_MAX], bool looks,
                 struct guest_insn insn[INSNS])
{
    static const uint8_t store[3][INSN_BYTES_MAX] = {
        {0x48, 0x89, 0x07}, {0x48, 0x89, 0x47, 0x08}, {0x48, 0x89, 0x47, 0x10}};
    const uint8_t *const code[INSNS] = {store[0], leave, store[1], store[2]};
    unsigned offset = AT;
    for (unsigned i = 0; i < INSNS; i++) {
        assert_true(decode(rig, code[i], offset, &insn[i]));
        offset += insn[i].decoded.length;
    }
    rig->cache->looks = looks;
    find_groups(rig, insn);
    assert_int_equal(rig->emit.early_count, 0);
    assert_int_equal(insn[0].access.kind, ACCESS_FIRST);
    assert_int_equal(insn[2].access.kind, ACCESS_MEMBER);
    assert_int_equal(insn[3].access.kind, ACCESS_MEMBER);
}

/* LOOPE and LOOPNE are the interpreter's, which ends a group. Another processor may have
 * begun to watch the frame behind the group's check. */
static void test_stores_are_looked_at_before_a_branch_leads_away(void **state)
{
    static const uint8_t leaves[][INSN_BYTES_MAX] = {
        {0x74, 0x10},             /* jz */
        {0x0f, 0x82, 0, 1, 0, 0}, /* jb, near */
        {0xe2, 0x10},             /* loop */
        {0xe3, 0x10},             /* jrcxz */
        {0x67, 0xe3, 0x10},       /* jecxz */
    };
    static struct guest_insn insn[INSNS];
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    for (unsigned i = 0; i < array_size(leaves); i++) {
        plan(&rig, leaves[i], true, insn);
        assert_true(group_may_leave(&insn[1]));
        assert_int_equal(insn[0].access.look_from, 0);
        assert_int_equal(insn[0].access.look_size, 8);
        assert_int_equal(insn[2].access.look_size, 0);
        assert_int_equal(insn[3].access.look_from, 8);
        assert_int_equal(insn[3].access.look_size, 16);
    }
    close_rig(&rig);
}

/* One look for all, which the first one's check makes possible. */
static void test_stores_without_a_way_out_are_looked_at_once(void **state)
{
    static const uint8_t lea[INSN_BYTES_MAX] = {0x8d, 0x48,
                                                0x01}; /* lea ecx, [rax + 1] */
    static struct guest_insn insn[INSNS];
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    plan(&rig, lea, true, insn);
    assert_false(group_may_leave(&insn[1]));
    assert_true(insn[0].access.looks_first);
    assert_int_equal(insn[0].access.look_size, 0);
    assert_int_equal(insn[2].access.look_size, 0);
    assert_int_equal(insn[3].access.look_from, 0);
    assert_int_equal(insn[3].access.look_size, 24);
    close_rig(&rig);
}

/* Where the TLB lets no store to a watched frame through. */
static void test_nobody_looks_who_need_not(void **state)
{
    static const uint8_t jz[INSN_BYTES_MAX] = {0x74, 0x10};
    static struct guest_insn insn[INSNS];
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    plan(&rig, jz, false, insn);
    assert_false(insn[0].access.looks_first);
    for (unsigned i = 0; i < INSNS; i++) {
        assert_int_equal(insn[i].access.look_size, 0);
    }
    close_rig(&rig);
}

/* mov [rdi], rax; one between; mov [rdi + 16], rax; jnz to the first. */
static void plan_loop(struct rig *rig, const uint8_t between[INSN_BYTES_MAX],
                      struct guest_insn insn[INSNS])
{
    static const uint8_t store[2][INSN_BYTES_MAX] = {{0x48, 0x89, 0x07},
                                                     {0x48, 0x89, 0x47, 0x10}};
    uint8_t jnz[INSN_BYTES_MAX] = {0x75};
    const uint8_t *const code[INSNS] = {store[0], between, store[1], jnz};
    unsigned offset = AT;
    for (unsigned i = 0; i < INSNS; i++) {
        jnz[1] = (uint8_t)(AT - offset - 2);
        assert_true(decode(rig, code[i], offset, &insn[i]));
        offset += insn[i].decoded.length;
    }
    find_groups(rig, insn);
}

static const uint8_t inc_rcx[INSN_BYTES_MAX] = {0x48, 0xff, 0xc1};

static void test_a_loop_checks_at_its_head_what_it_does_not_change(void **state)
{
    static struct guest_insn insn[INSNS];
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    plan_loop(&rig, inc_rcx, insn);
    assert_int_equal(rig.emit.early_count, 1);
    assert_int_equal(rig.emit.loop_end, 3);
    assert_int_equal(rig.emit.early[0].ordinal, 0);
    assert_int_equal(rig.emit.early[0].base, HOST_RDI);
    assert_int_equal(rig.emit.early[0].size, 24);
    assert_true(rig.emit.early[0].is_write);
    assert_int_equal(insn[0].access.kind, ACCESS_MEMBER);
    assert_true(insn[0].access.is_early);
    assert_int_equal(insn[2].access.kind, ACCESS_MEMBER);
    assert_true(insn[3].needs_base);
    close_rig(&rig);
}

static void test_a_loop_checks_where_it_is_due(void **state)
{
    static const uint8_t others[][INSN_BYTES_MAX] = {
        {0x48, 0xff, 0xc7},       /* inc rdi: the address changes */
        {0x48, 0x83, 0xc7, 0x10}, /* add rdi, 16: so it does, by a constant */
        {0x0f, 0xa2},             /* cpuid: leaves, and whoever comes back starts anew */
    };
    static struct guest_insn insn[INSNS];
    struct block_more more = {.splits = {.is_late = true}};
    struct rig rig;
    open_rig(&rig);
    set_mode(&rig, 0);
    for (unsigned i = 0; i < array_size(others); i++) {
        plan_loop(&rig, others[i], insn);
        assert_int_equal(rig.emit.early_count, 0);
        assert_int_equal(rig.emit.loop_end, -1);
    }
    rig.block.more = &more; /* a check at the head failed too often */
    plan_loop(&rig, inc_rcx, insn);
    assert_int_equal(rig.emit.early_count, 0);
    assert_int_equal(insn[0].access.kind, ACCESS_FIRST);
    close_rig(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stores_are_looked_at_before_a_branch_leads_away),
        cmocka_unit_test(test_stores_without_a_way_out_are_looked_at_once),
        cmocka_unit_test(test_nobody_looks_who_need_not),
        cmocka_unit_test(test_a_loop_checks_at_its_head_what_it_does_not_change),
        cmocka_unit_test(test_a_loop_checks_where_it_is_due),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
