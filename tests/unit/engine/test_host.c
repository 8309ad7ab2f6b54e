#include "engine/translator/host.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#include <Zydis/Zydis.h>

static uint8_t bytes[256];
static struct code code;

static int begin(void **state)
{
    memset(bytes, 0xcc, sizeof(bytes));
    code.at = bytes;
    return 0;
}

/* All that was written is this one instruction. */
static void is(const char *expected)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    char text[128];
    unsigned size = (unsigned)(code.at - bytes);
    ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    assert_true(
        ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, &insn, operand)));
    assert_int_equal(insn.length, size);
    ZydisFormatterFormatInstruction(&formatter, &insn, operand,
                                    insn.operand_count_visible, text, sizeof(text), 0,
                                    NULL);
    assert_string_equal(text, expected);
    begin(NULL);
}

static void test_registers_of_both_halves(void **state)
{
    host_mov(&code, HOST_R8, HOST_RAX);
    is("mov r8, rax");
    host_mov(&code, HOST_RSI, HOST_R11);
    is("mov rsi, r11");
    host_op_reg(&code, false, 0x33, HOST_R9, HOST_R12);
    is("xor r9d, r12d");
}

/* Bases whose low bits mean something else in ModRM and SIB: SDM 2A tables 2-2, 2-3. */
static void test_every_base_and_index_is_what_it_says(void **state)
{
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                       "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                       "r12", "r13", "r14", "r15"};
    char expected[64];
    for (unsigned base = 0; base < 16; base++) {
        struct host_mem mem = {(uint8_t)base, HOST_NONE, 0, 0};
        host_op_mem(&code, true, HOST_MOV_LOAD, HOST_R9, &mem);
        snprintf(expected, sizeof(expected), "mov r9, [%s]", name[base]);
        is(expected);
        mem.disp = 0x12345;
        host_op_mem(&code, true, HOST_MOV_STORE, HOST_RDI, &mem);
        snprintf(expected, sizeof(expected), "mov [%s+0x12345], rdi", name[base]);
        is(expected);
        if (base != HOST_RSP) {
            struct host_mem indexed = {HOST_R13, (uint8_t)base, 2, -8};
            host_op_mem(&code, true, HOST_LEA, HOST_R8, &indexed);
            snprintf(expected, sizeof(expected), "lea r8, [r13+%s*4-0x08]", name[base]);
            is(expected);
        }
    }
}

static void test_constants_take_the_shortest_form(void **state)
{
    host_constant(&code, HOST_R8, 0x12345678);
    is("mov r8d, 0x12345678");
    host_constant(&code, HOST_RAX, 0xffffffff81000000);
    is("mov rax, 0xFFFFFFFF81000000");
    assert_true(host_fits32(0xffffffff81000000));
    host_constant(&code, HOST_R10, 0x123456789abcdef0);
    is("mov r10, 0x123456789ABCDEF0");
    assert_false(host_fits32(0x80000000));
}

static void test_thread_and_view(void **state)
{
    host_fs(&code, true, HOST_MOV_LOAD, HOST_R8, -0x40);
    is("mov r8, fs:[0xFFFFFFFFFFFFFFC0]");
    struct host_mem tag = {HOST_R9, HOST_NONE, 0, 8};
    host_gs(&code, true, 0x2b, HOST_R8, &tag);
    is("sub r8, gs:[r9+0x08]");
    host_rorx(&code, HOST_R9, HOST_R8, 7);
    is("rorx r9, r8, 0x07");
    host_and(&code, false, HOST_R9, 0x7fe0);
    is("and r9d, 0x7FE0");
    host_cmp(&code, HOST_R8, 0xff8);
    is("cmp r8, 0xFF8");
}

static void test_alignment_counts_what_comes_before(void **state)
{
    for (unsigned start = 0; start < 16; start++) {
        for (unsigned before = 0; before < 3; before++) {
            begin(NULL);
            code.at = (uint8_t *)(((uintptr_t)bytes + 15) & ~15ul) + start;
            host_align(&code, 8, before);
            assert_int_equal(((uintptr_t)code.at + before) % 8, 0);
        }
    }
}

static void test_jumps_are_patched_to_their_target(void **state)
{
    uint8_t *place = host_jcc(&code, HOST_NE);
    assert_ptr_equal(place + 4, code.at);
    host_patch(place, bytes);
    int32_t distance;
    memcpy(&distance, place, 4);
    assert_int_equal(distance, -6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_registers_of_both_halves, begin),
        cmocka_unit_test_setup(test_every_base_and_index_is_what_it_says, begin),
        cmocka_unit_test_setup(test_constants_take_the_shortest_form, begin),
        cmocka_unit_test_setup(test_thread_and_view, begin),
        cmocka_unit_test_setup(test_alignment_counts_what_comes_before, begin),
        cmocka_unit_test_setup(test_jumps_are_patched_to_their_target, begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
