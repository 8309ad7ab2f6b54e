#include "processor.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "interpreter/x87.h"

#include <cmocka.h>

static struct processor processor;

#define AREA (DATA_PAGE + 0x400)

/* All at [rbx]. */
static const uint8_t fxsave64[16] = {0x48, 0x0f, 0xae, 0x03};
static const uint8_t fxrstor64[16] = {0x48, 0x0f, 0xae, 0x0b};
static const uint8_t ldmxcsr[16] = {0x0f, 0xae, 0x13};
static const uint8_t stmxcsr[16] = {0x0f, 0xae, 0x1b};
static const uint8_t xsave64[16] = {0x48, 0x0f, 0xae, 0x23};
static const uint8_t xrstor64[16] = {0x48, 0x0f, 0xae, 0x2b};
static const uint8_t xsavec64[16] = {0x48, 0x0f, 0xc7, 0x23};

static enum outcome execute(const uint8_t *bytes, uint64_t address, uint64_t components)
{
    struct prepared prepared;
    struct cpu *cpu = processor.cpu;
    assert_true(processor_decode(&processor, &prepared, bytes, 15));
    assert_true(processor_bind(&processor, &prepared, bytes));
    cpu->reg[X86_RBX] = address;
    cpu->reg[X86_RAX] = components;
    cpu->reg[X86_RDX] = components >> 32;
    return processor_execute(&processor, &prepared);
}

static void fill(struct cpu *cpu, uint8_t seed)
{
    struct x86_fpu *fpu = &cpu->state.fpu;
    /* An exception is pending: only then AMD's processors save its pointers. */
    *fpu = (struct x86_fpu){.fcw = 0x27e,
                            .fsw = 0x9881,
                            .ftw = seed,
                            .fop = 0x123,
                            .fip = 0xffff888812345678,
                            .fdp = 0x7fff00001000,
                            .mxcsr = 0x1fa0};
    for (unsigned i = 0; i < 8; i++) {
        memset(fpu->st[i], seed + (int)i, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        memset(cpu->state.vec[i].u8, seed + 16 + (int)i, 16);
        memset(cpu->state.vec[i].u8 + 16, seed + 64 + (int)i, 16);
    }
}

static uint8_t *area(void)
{
    return processor_memory(&processor, AREA);
}

static uint64_t word(unsigned offset)
{
    uint64_t value;
    memcpy(&value, area() + offset, 8);
    return value;
}

static void put(unsigned offset, uint64_t value)
{
    memcpy(area() + offset, &value, 8);
}

static void test_fxsave_and_back(void **state)
{
    struct cpu *cpu = processor.cpu;
    fill(cpu, 5);
    struct x86_state saved = cpu->state;
    memset(area(), 0xee, 1024);
    assert_int_equal(execute(fxsave64, AREA, 0), RAN);
    assert_int_equal(word(0) & 0xffff, 0x27e);
    assert_true(word(8) == 0xffff888812345678);
    assert_int_equal(area()[416], 0xee); /* not the processor's */
    fill(cpu, 9);
    assert_int_equal(execute(fxrstor64, AREA, 0), RAN);
    assert_memory_equal(&cpu->state.fpu, &saved.fpu, sizeof(saved.fpu));
    assert_int_equal(cpu->state.vec[15].u8[0], 5 + 31);
    assert_int_equal(cpu->state.vec[15].u8[31], 9 + 64 + 15); /* upper halves stay */
}

/* FIP need not be an address: it comes back as from the host's processor, bit by bit. */
static void test_fip_has_the_processors_width(void **state)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        uint8_t native[512] __attribute__((aligned(16)));
        uint64_t expected;
        fill(processor.cpu, 5);
        assert_int_equal(execute(fxsave64, AREA, 0), RAN);
        put(8, 1ull << bit);
        memcpy(native, area(), sizeof(native));
        __asm__ volatile("fxrstor64 %0\n\tfxsave64 %0\n\tfninit\n\tldmxcsr %1"
                         : "+m"(native)
                         : "m"((uint32_t){0x1f80})
                         : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                           "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                           "xmm15");
        memcpy(&expected, native + 8, 8);
        assert_int_equal(execute(fxrstor64, AREA, 0), RAN);
        assert_int_equal(execute(fxsave64, AREA, 0), RAN);
        assert_true(word(8) == expected);
    }
}

static void test_fxsave_wants_alignment(void **state)
{
    assert_int_equal(execute(fxsave64, AREA + 8, 0), FAULTED_MEMORY);
    assert_int_equal(processor_vector(&processor), X86_GP);
}

static void test_reserved_mxcsr_bits_fault(void **state)
{
    struct cpu *cpu = processor.cpu;
    put(0, 0x80001f80);
    assert_int_equal(execute(ldmxcsr, AREA, 0), FAULTED_MEMORY);
    assert_int_equal(processor_vector(&processor), X86_GP);
    put(0, 0x9fc0);
    assert_int_equal(execute(ldmxcsr, AREA, 0), RAN);
    assert_int_equal(cpu->state.fpu.mxcsr, 0x9fc0);
    assert_int_equal(execute(stmxcsr, AREA + 8, 0), RAN);
    assert_int_equal(word(8) & 0xffffffff, 0x9fc0);
}

static bool has_avx(void)
{
    return processor.policy.xcr0_valid & X86_XCR0_AVX;
}

static void test_xsave_and_back(void **state)
{
    struct cpu *cpu = processor.cpu;
    if (!has_avx()) {
        skip();
    }
    fill(cpu, 7);
    struct x86_state saved = cpu->state;
    memset(area(), 0, 1024);
    assert_int_equal(execute(xsave64, AREA, 7), RAN);
    assert_int_equal(word(512), 7);
    fill(cpu, 90);
    assert_int_equal(execute(xrstor64, AREA, 7), RAN);
    assert_memory_equal(&cpu->state.fpu, &saved.fpu, sizeof(saved.fpu));
    assert_memory_equal(cpu->state.vec, saved.vec, sizeof(saved.vec));
}

static void test_xrstor_initialises_what_is_absent(void **state)
{
    struct cpu *cpu = processor.cpu;
    if (!has_avx()) {
        skip();
    }
    fill(cpu, 7);
    memset(area(), 0, 1024);
    put(24, 0x1f80);
    assert_int_equal(execute(xrstor64, AREA, 5), RAN); /* x87 and AVX, not SSE */
    assert_int_equal(cpu->state.fpu.fcw, X87_FCW_INIT);
    assert_int_equal(cpu->state.vec[3].u8[31], 0);
    assert_int_equal(cpu->state.vec[3].u8[0], 7 + 16 + 3);
    assert_int_equal(xsave_in_use(cpu), X86_XCR0_SSE);
}

static void test_xsavec_leaves_out_initial_state(void **state)
{
    struct cpu *cpu = processor.cpu;
    if (!has_avx() || !cpuid_has(&processor.policy, CPU_XSAVEC)) {
        skip();
    }
    fill(cpu, 7);
    x87_init(&cpu->state.fpu);
    memset(cpu->state.fpu.st, 0, sizeof(cpu->state.fpu.st));
    memset(area(), 0, 1024);
    assert_int_equal(execute(xsavec64, AREA, 7), RAN);
    assert_int_equal(word(512), 6);
    assert_true(word(520) == (7 | 1ull << 63));
    assert_int_equal(word(0), 0);
    memset(cpu->state.vec, 0, sizeof(cpu->state.vec));
    assert_int_equal(execute(xrstor64, AREA, 7), RAN);
    assert_int_equal(cpu->state.vec[15].u8[31], 7 + 64 + 15);
}

/* At its own place in the standard form, behind the others in the compacted one. */
static void test_pkru_is_a_component(void **state)
{
    struct cpu *cpu = processor.cpu;
    if (!cpuid_has(&processor.policy, CPU_PKU)) {
        skip();
    }
    const uint64_t old = cpu->state.xcr0;
    const unsigned place = cpuid_pkru_offset(&processor.policy);
    cpu->state.xcr0 |= X86_XCR0_PKRU;
    cpu->state.pkru = 0x12345678;
    memset(area(), 0, place + 8);
    put(place, UINT64_MAX);
    assert_int_equal(execute(xsave64, AREA, X86_XCR0_PKRU), RAN);
    assert_int_equal(word(512), X86_XCR0_PKRU);
    assert_true(word(place) == 0x12345678);
    cpu->state.pkru = 0;
    assert_int_equal(execute(xrstor64, AREA, X86_XCR0_PKRU), RAN);
    assert_int_equal(cpu->state.pkru, 0x12345678);
    put(512, 0); /* its initial state */
    assert_int_equal(execute(xrstor64, AREA, X86_XCR0_PKRU), RAN);
    assert_int_equal(cpu->state.pkru, 0);
    put(place, 5);
    assert_int_equal(execute(xsave64, AREA, X86_XCR0_PKRU), RAN);
    assert_int_equal(word(512), 0);
    assert_true(word(place) == 0);
    if (has_avx() && cpuid_has(&processor.policy, CPU_XSAVEC)) {
        static const uint64_t with[] = {X86_XCR0_PKRU, X86_XCR0_PKRU | X86_XCR0_AVX};
        for (unsigned i = 0; i < 2; i++) {
            cpu->state.pkru = 0xabc;
            memset(area(), 0, 1024);
            assert_int_equal(execute(xsavec64, AREA, with[i]), RAN);
            assert_true(word(520) == (with[i] | 1ull << 63));
            assert_true(word(i ? 832 : 576) == 0xabc);
            cpu->state.pkru = 0;
            assert_int_equal(execute(xrstor64, AREA, with[i]), RAN);
            assert_int_equal(cpu->state.pkru, 0xabc);
        }
    }
    cpu->state.xcr0 = old;
    cpu->state.pkru = 0;
}

static void test_bad_headers_fault(void **state)
{
    static const struct {
        unsigned offset;
        uint64_t value;
    } rows[] = {
        {512, 1ull << 40}, /* a component XCR0 does not have */
        {520, 1},          /* XCOMP_BV in the standard form */
        {528, 1},          /* reserved */
        {520, 1ull << 63 | 1ull << 30},
    };
    for (unsigned i = 0; i < array_size(rows); i++) {
        memset(area(), 0, 1024);
        put(24, 0x1f80);
        put(rows[i].offset, rows[i].value);
        assert_int_equal(execute(xrstor64, AREA, 7), FAULTED_MEMORY);
        assert_int_equal(processor_vector(&processor), X86_GP);
    }
    assert_int_equal(execute(xsave64, AREA + 16, 7), FAULTED_MEMORY);
}

static int set_up(void **state)
{
    processor_init(&processor);
    return 0;
}

static int tear_down(void **state)
{
    processor_fini(&processor);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fxsave_and_back),
        cmocka_unit_test(test_fip_has_the_processors_width),
        cmocka_unit_test(test_fxsave_wants_alignment),
        cmocka_unit_test(test_reserved_mxcsr_bits_fault),
        cmocka_unit_test(test_xsave_and_back),
        cmocka_unit_test(test_xrstor_initialises_what_is_absent),
        cmocka_unit_test(test_xsavec_leaves_out_initial_state),
        cmocka_unit_test(test_pkru_is_a_component),
        cmocka_unit_test(test_bad_headers_fault),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
