/* #AC: what alignment each kind of access has, as measured on processors, and when it is
 * asked for. */
#include "fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/scope.h"

static int setup(void **state)
{
    struct fixture *f = fixture_long();
    *state = f;
    f->cpu->state.cr0 |= X86_CR0_AM;
    f->cpu->state.cr4 |=
        X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE | X86_CR4_FSGSBASE;
    f->cpu->state.xcr0 = f->cpuid.xcr0_valid | X86_XCR0_X87;
    return 0;
}

static int teardown(void **state)
{
    fixture_free(*state);
    return 0;
}

/* Runs code in ring 3 with these flags; it ends with INT3. */
static int run_user(struct fixture *f, uint64_t flags, uint64_t rdi, const void *code,
                    size_t size)
{
    static const uint8_t iretq[] = {0x48, 0xcf};
    const uint64_t frame[] = {FIXTURE_DATA, SEL_USER_CODE64, flags, FIXTURE_USER,
                              SEL_USER_DATA};
    fixture_gate(f, X86_BP, FIXTURE_HANDLERS + X86_BP * 16, X86_TYPE_INTERRUPT_GATE, 3,
                 0);
    memcpy(f->ram + FIXTURE_DATA, code, size);
    f->ram[FIXTURE_DATA + size] = 0xcc;
    memcpy(f->ram + FIXTURE_STACK - sizeof(frame), frame, sizeof(frame));
    f->cpu->reg[X86_RSP] = FIXTURE_STACK - sizeof(frame);
    f->cpu->reg[X86_RDI] = rdi;
    f->cpu->reg[X86_RAX] = 7;
    f->cpu->reg[X86_RDX] = 0;
    fixture_run(f, iretq, sizeof(iretq));
    return fixture_vector(f);
}

#define OPERAND     0x30000u

#define CODE(bytes) bytes, sizeof(bytes) - 1

static const struct {
    const char *name, *code;
    size_t size;
    unsigned alignment; /* 1: none */
    int other;          /* the exception, if any, of what #AC does not take */
    enum cpu_feature feature;
} rows[] = {
    {"mov 1", CODE("\x8a\x07"), 1, 0, CPU_FPU},
    {"mov 2", CODE("\x66\x8b\x07"), 2, 0, CPU_FPU},
    {"mov 4", CODE("\x8b\x07"), 4, 0, CPU_FPU},
    {"mov 8", CODE("\x48\x8b\x07"), 8, 0, CPU_FPU},
    {"mov 8 store", CODE("\x48\x89\x07"), 8, 0, CPU_FPU},
    {"add 4", CODE("\x01\x07"), 4, 0, CPU_FPU},
    {"lock add 4", CODE("\xf0\x01\x07"), 4, 0, CPU_FPU},
    {"xchg 8", CODE("\x48\x87\x07"), 8, 0, CPU_FPU},
    {"cmpxchg8b", CODE("\x0f\xc7\x0f"), 8, 0, CPU_FPU},
    {"cmpxchg16b", CODE("\x48\x0f\xc7\x0f"), 1, 16, CPU_CX16},
    {"bt 2", CODE("\x66\x0f\xa3\x0f"), 2, 0, CPU_FPU},
    {"push", CODE("\x48\x89\xfc\x50"), 8, 0, CPU_FPU},
    {"pop mem", CODE("\x6a\x00\x8f\x07"), 8, 0, CPU_FPU},
    {"jmp mem", CODE("\xff\x27"), 8, -1, CPU_FPU},
    {"enter", CODE("\x48\x89\xfc\xc8\x08\x00\x00"), 8, 0, CPU_FPU},
    {"pushf", CODE("\x48\x89\xfc\x9c"), 8, 0, CPU_FPU},
    {"movs 4", CODE("\x48\x89\xfe\xa5"), 4, 0, CPU_FPU},
    {"rep movs 1", CODE("\x48\x89\xfe\xb9\x08\x00\x00\x00\xf3\xa4"), 1, 0, CPU_FPU},
    {"rep stos 8", CODE("\xb9\x08\x00\x00\x00\xf3\x48\xab"), 8, 0, CPU_FPU},
    {"lgs 4", CODE("\x0f\xb5\x07"), 4, 0, CPU_FPU},
    {"lgs 2", CODE("\x66\x0f\xb5\x07"), 2, 0, CPU_FPU},
    {"mov gs", CODE("\x8e\x2f"), 2, 0, CPU_FPU},
    {"str", CODE("\x0f\x00\x0f"), 2, 0, CPU_FPU},
    {"sgdt", CODE("\x0f\x01\x07"), 4, 0, CPU_FPU},
    {"fld 4", CODE("\xd9\x07"), 4, 0, CPU_FPU},
    {"fld 10", CODE("\xdb\x2f"), 8, 0, CPU_FPU},
    {"fstp 10", CODE("\xdb\x3f"), 8, 0, CPU_FPU},
    {"fbld", CODE("\xdf\x27"), 8, 0, CPU_FPU},
    {"fild 2", CODE("\xdf\x07"), 2, 0, CPU_FPU},
    {"fnstcw", CODE("\xd9\x3f"), 2, 0, CPU_FPU},
    {"fnstenv", CODE("\xd9\x37"), 4, 0, CPU_FPU},
    {"fnstenv 16", CODE("\x66\xd9\x37"), 2, 0, CPU_FPU},
    {"fnsave", CODE("\xdd\x37"), 4, 0, CPU_FPU},
    {"fldenv", CODE("\xd9\x27"), 4, 0, CPU_FPU},
    {"frstor", CODE("\xdd\x27"), 4, 0, CPU_FPU},
    {"fxsave", CODE("\x0f\xae\x07"), 4, 16, CPU_FXSR},
    {"xsave", CODE("\x0f\xae\x27"), 4, 64, CPU_XSAVE},
    {"ldmxcsr", CODE("\x0f\xae\x1f\x0f\xae\x17"), 4, 0, CPU_SSE},
    {"movups", CODE("\x0f\x10\x07"), 1, 0, CPU_SSE},
    {"movaps", CODE("\x0f\x28\x07"), 1, 16, CPU_SSE},
    {"movss", CODE("\xf3\x0f\x10\x07"), 4, 0, CPU_SSE},
    {"movq", CODE("\xf3\x0f\x7e\x07"), 8, 0, CPU_SSE2},
    {"movq mmx", CODE("\x0f\x6f\x07"), 8, 0, CPU_MMX},
    {"pinsrw", CODE("\x66\x0f\xc4\x07\x00"), 2, 0, CPU_SSE2},
    {"maskmovdqu", CODE("\x66\x0f\x76\xc9\x66\x0f\xf7\xc1"), 8, 0, CPU_SSE2},
    {"movbe", CODE("\x0f\x38\xf0\x07"), 4, 0, CPU_MOVBE},
    {"clflush", CODE("\x0f\xae\x3f"), 1, 0, CPU_CLFLUSH},
    {"vmovups", CODE("\xc5\xfc\x10\x07"), 1, 0, CPU_AVX},
    {"vbroadcastss", CODE("\xc4\xe2\x79\x18\x07"), 4, 0, CPU_AVX},
    {"vmaskmovps", CODE("\xc5\xe8\xc2\xd2\x00\xc4\xe2\x69\x2c\x07"), 1, 0, CPU_AVX},
    {"vgatherdps", CODE("\x66\x0f\x76\xd2\x66\x0f\xef\xc9\xc4\xe2\x69\x92\x04\x0f"), 1, 0,
     CPU_AVX2},
    {"vcvtph2ps", CODE("\xc4\xe2\x79\x13\x07"), 1, 0, CPU_F16C},
    {"andn", CODE("\xc4\xe2\x78\xf2\x07"), 4, 0, CPU_BMI1},
};

static void test_alignments(void **state)
{
    for (unsigned i = 0; i < array_size(rows); i++) {
        for (unsigned offset = 0; offset < 16; offset++) {
            teardown(state);
            setup(state);
            struct fixture *f = *state;
            if (!cpuid_has(&f->cpuid, rows[i].feature)) {
                continue; /* the host's units are the guest's */
            }
            int expected = X86_BP;
            if (offset % rows[i].alignment) {
                expected = X86_AC_FAULT;
            } else if (rows[i].other == -1) {
                fixture_write(f, OPERAND + offset, 8, FIXTURE_DATA + rows[i].size);
            } else if (rows[i].other && offset % (unsigned)rows[i].other) {
                expected = X86_GP;
            }
            int vector = run_user(f, X86_FLAG_1 | X86_FLAG_AC, OPERAND + offset,
                                  rows[i].code, rows[i].size);
            if (vector != expected) {
                fail_msg("%s at offset %u: vector %d, not %d", rows[i].name, offset,
                         vector, expected);
            }
            if (vector == X86_AC_FAULT) {
                assert_int_equal(fixture_frame(f, 0), 0);
            }
        }
    }
}

static const uint8_t load[] = {0x8b, 0x07}; /* mov eax, [rdi] */

static void test_only_with_am_and_ac(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(run_user(f, X86_FLAG_1, OPERAND + 1, load, sizeof(load)), X86_BP);
    teardown(state);
    setup(state);
    f = *state;
    f->cpu->state.cr0 &= ~(uint64_t)X86_CR0_AM;
    assert_int_equal(
        run_user(f, X86_FLAG_1 | X86_FLAG_AC, OPERAND + 1, load, sizeof(load)), X86_BP);
}

static void test_not_in_ring_0(void **state)
{
    struct fixture *f = *state;
    cpu_set_rflags(f->cpu, X86_FLAG_1 | X86_FLAG_AC);
    f->cpu->reg[X86_RDI] = OPERAND + 1;
    RUN_BYTES(f, 0x8b, 0x07, 0xf4);
    assert_int_equal(fixture_vector(f), -1);
    assert_int_equal(f->cpu->needs_interpreter, 0);
}

static void test_before_page_faults_behind_canonicality(void **state)
{
    struct fixture *f = *state;
    fixture_map(f, OPERAND, 0);
    assert_int_equal(
        run_user(f, X86_FLAG_1 | X86_FLAG_AC, OPERAND + 1, load, sizeof(load)),
        X86_AC_FAULT);
    teardown(state);
    setup(state);
    assert_int_equal(
        run_user(*state, X86_FLAG_1 | X86_FLAG_AC, 1ull << 63 | 1, load, sizeof(load)),
        X86_GP);
}

/* POPF in the middle of a block: the accesses behind it are checked, those in front not.
 */
static void test_from_the_next_instruction_on(void **state)
{
    /* mov eax, [rdi]; pushfq; or qword [rsp], 1 << 18; popfq; mov eax, [rdi] */
    static const uint8_t code[] = {0x8b, 0x07, 0x9c, 0x48, 0x81, 0x0c, 0x24,
                                   0,    0,    0x04, 0,    0x9d, 0x8b, 0x07};
    struct fixture *f = *state;
    assert_int_equal(run_user(f, X86_FLAG_1, OPERAND + 2, code, sizeof(code)),
                     X86_AC_FAULT);
    assert_int_equal(fixture_frame(f, 1), FIXTURE_DATA + 12);
}

static void test_processors_own_accesses_are_not_checked(void **state)
{
    struct fixture *f = *state;
    /* mov eax, SEL_USER_DATA; mov ds, eax */
    static const uint8_t code[] = {0xb8, SEL_USER_DATA, 0, 0, 0, 0x8e, 0xd8};
    f->cpu->state.gdtr.base = FIXTURE_GDT + 1;
    memmove(f->ram + FIXTURE_GDT + 1, f->ram + FIXTURE_GDT, 0x58);
    assert_int_equal(run_user(f, X86_FLAG_1 | X86_FLAG_AC, OPERAND, code, sizeof(code)),
                     X86_BP);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(alignments),
        TEST(only_with_am_and_ac),
        TEST(not_in_ring_0),
        TEST(before_page_faults_behind_canonicality),
        TEST(from_the_next_instruction_on),
        TEST(processors_own_accesses_are_not_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
