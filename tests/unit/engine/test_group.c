/* Groups of accesses that are checked together: where their stores are looked at. */

#include "decode_rig.h"

#define INSNS 4

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
    group_accesses(insn, INSNS, 8, NULL, looks);
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stores_are_looked_at_before_a_branch_leads_away),
        cmocka_unit_test(test_stores_without_a_way_out_are_looked_at_once),
        cmocka_unit_test(test_nobody_looks_who_need_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
