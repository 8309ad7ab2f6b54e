/*
 * When code may use vectors: the same code with AVX switched on and off, and on again,
 * reached by jumps, calls and loops that have been this way before (SDM 2A table 2-21: a
 * VEX prefix that needs what XCR0 or CR4.OSXSAVE does not have is #UD).
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "program.h"
#include "trap.h"

#define NOWHERE     0x500000000000ull

#define CR4_OSXSAVE (1ull << 18)
#define CPUID_AVX   (1u << 28)
#define CPUID_XSAVE (1u << 26)

/* Each returns twice its argument. In one page, so that jumps among them can be linked.
 */
uint64_t by_avx(uint64_t value), by_jump(uint64_t value), by_call(uint64_t value),
    by_loop(uint64_t value), by_avx_and_x87(uint64_t value), by_sse(uint64_t value),
    by_sse_and_x87(uint64_t value);
__asm__(".pushsection .text.vector, \"ax\"\n"
        ".balign 4096\n"
        "by_avx:\n"
        "    vmovq %rdi, %xmm1\n"
        "    vpaddq %xmm1, %xmm1, %xmm1\n"
        "    vmovq %xmm1, %rax\n"
        "    ret\n"
        "by_jump:\n"
        "    xor %eax, %eax\n"
        "    test %rdi, %rdi\n"
        "    jnz by_avx\n"
        "    ret\n"
        "by_call:\n"
        "    call by_jump\n"
        "    call by_avx\n"
        "    ret\n"
        "by_loop:\n"
        "    mov $100, %ecx\n"
        "1:  dec %ecx\n"
        "    jz 2f\n"
        "    test $1, %cl\n"
        "    jz 1b\n"
        "    vpxor %xmm0, %xmm0, %xmm0\n"
        "    jmp 1b\n"
        "2:  lea (%rdi,%rdi), %rax\n"
        "    ret\n"
        "by_avx_and_x87:\n"
        "    push %rdi\n"
        "    fildll (%rsp)\n"
        "    fadd %st\n"
        "    fistpll (%rsp)\n"
        "    vmovq (%rsp), %xmm2\n"
        "    vmovq %xmm2, %rax\n"
        "    pop %rdi\n"
        "    ret\n"
        "by_sse:\n"
        "    movq %rdi, %xmm1\n"
        "    paddq %xmm1, %xmm1\n"
        "    movq %xmm1, %rax\n"
        "    ret\n"
        "by_sse_and_x87:\n"
        "    push %rdi\n"
        "    fildll (%rsp)\n"
        "    fadd %st\n"
        "    fistpll (%rsp)\n"
        "    movq (%rsp), %xmm2\n"
        "    movq %xmm2, %rax\n"
        "    pop %rdi\n"
        "    ret\n"
        ".popsection\n");

#define WITH_AVX 5
#define WITHOUT  2
static trap_function *const with_avx[WITH_AVX] = {by_avx, by_jump, by_call, by_loop,
                                                  by_avx_and_x87};
static trap_function *const without[WITHOUT] = {by_sse, by_sse_and_x87};

static uint64_t check(uint64_t number)
{
    uint64_t value = 3 + number;
    ASSERT_EQ(with_avx[number % WITH_AVX](value), 2 * value);
    return 0;
}

static void set_xcr0(uint32_t value)
{
    __asm__ volatile("xsetbv" : : "c"(0), "a"(value), "d"(0) : "memory");
}

static void expect_avx(bool is_on)
{
    for (unsigned number = 0; number < 50 * WITH_AVX; number++) {
        ASSERT_EQ(trap_try(check, number), !is_on);
        if (!is_on) {
            ASSERT_EQ(cpu_self()->trap.vector, VECTOR_UD);
            __asm__ volatile("fninit"); /* what was loaded by then */
        }
        ASSERT_EQ(without[number % WITHOUT](number), 2 * number);
    }
}

/* 1: movdqu (%rdi), %xmm0; movdqu 16(%rdi), %xmm1; dec %ecx; jnz 1b; ret */
static const uint8_t loads[] = {0xf3, 0x0f, 0x6f, 0x07, 0xf3, 0x0f, 0x6f,
                                0x4f, 0x10, 0xff, 0xc9, 0x75, 0xf3, 0xc3};

static uint64_t call(const uint8_t *code, uint64_t address, uint32_t rounds)
{
    uint64_t result;
    __asm__ volatile("call *%3"
                     : "=a"(result), "+c"(rounds)
                     : "D"(address), "r"(code)
                     : "memory", "cc");
    return result;
}

static void set_mxcsr(uint32_t value)
{
    __asm__ volatile("ldmxcsr %0" : : "m"(value) : "memory");
}

/* A loop over vectors, which was called, is other code now, that the page is not there
 * for and that does not use them, though what they raise is unmasked. */
static void replace_loop(void)
{
    uint8_t *code = page_new();
    uint64_t *data = page_new();
    for (unsigned i = 0; i < 20; i++) {
        memcpy(code, loads, sizeof(loads));
        for (unsigned j = 0; j < 20; j++) {
            call(code, (uint64_t)data, 20);
        }
        put_program(code, i);
        set_mxcsr(i % 2 ? 0x1f80 : 0x1f00);
        ASSERT_EQ(call(code, NOWHERE, 1), i);
        set_mxcsr(0x1f80);
    }
}

void guest_test(void)
{
    uint32_t features = cpuid(1, 0).ecx;
    cr0_write((cr0_read() & ~(CR0_EM | CR0_TS)) | CR0_MP);
    cr4_write(cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    case_begin("a loop over vectors is replaced");
    replace_loop();
    if (!(features & CPUID_AVX) || !(features & CPUID_XSAVE)) {
        case_skip("the processor has no AVX");
        return;
    }
    case_begin("before XSAVE is switched on");
    expect_avx(false);
    case_begin("AVX is off in XCR0");
    cr4_write(cr4_read() | CR4_OSXSAVE);
    set_xcr0(3);
    expect_avx(false);
    for (unsigned i = 0; i < 4; i++) {
        case_begin("AVX is on");
        set_xcr0(7);
        expect_avx(true);
        case_begin("AVX is off in XCR0 again");
        set_xcr0(3);
        expect_avx(false);
        set_xcr0(7);
        expect_avx(true);
        case_begin("XSAVE is switched off, and AVX with it");
        cr4_write(cr4_read() & ~CR4_OSXSAVE);
        expect_avx(false);
        cr4_write(cr4_read() | CR4_OSXSAVE);
        expect_avx(true);
    }
}
