/*
 * Every x87 encoding, executed by the interpreter's handler and by the host itself:
 * stack, status, tags, flags, memory and pending exceptions must be the same. The
 * pointers to the last instruction differ by nature and are left out.
 */
#include "processor.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "base/scope.h"
#include "interpreter/isa.h"
#include "interpreter/x87.h"

#include <cmocka.h>

/* Offsets are known to the assembly below. */
struct host_state {
    uint64_t rax, rbx, flags;
    uint64_t spare[5];
    uint8_t image[512] __attribute__((aligned(64))); /* 64 */
};

void host_execute_x87(struct host_state *state, const void *code);

__asm__(".text\n.globl host_execute_x87\nhost_execute_x87:\n"
        "push %rbx\n push %rdi\n push %rsi\n"
        "fxrstor64 64(%rdi)\n"
        "mov 0(%rdi), %rax\n mov 8(%rdi), %rbx\n pushq 16(%rdi)\n popfq\n"
        "call *(%rsp)\n"
        "mov 8(%rsp), %rdi\n"
        "mov %rax, 0(%rdi)\n mov %rbx, 8(%rdi)\n pushfq\n popq 16(%rdi)\n"
        "fxsave64 64(%rdi)\n fninit\n"
        "pop %rsi\n pop %rdi\n pop %rbx\n ret\n");

static sigjmp_buf escape;

static void on_signal(int number)
{
    siglongjmp(escape, number);
}

static struct processor processor;
static uint8_t *host_code, *host_data;
static uint64_t random_state = 0x123456789abcdefu;

static uint64_t random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* An 80-bit number: ordinary, or one of the special and unsupported ones. */
static void random_number(uint8_t to[10])
{
    static const uint16_t exponents[] = {0,      1,      0x3ffe, 0x3fff, 0x4000, 0x403e,
                                         0x7ffe, 0x7fff, 0x3fc0, 0x4010, 0x0001, 0x7000};
    static const uint64_t significands[] = {
        0,          1ull << 63,         3ull << 62, (1ull << 63) + 1,
        UINT64_MAX, 0x4000000000000000, 1,          0xc90fdaa22168c235};
    uint64_t choice = random64();
    uint16_t exponent = choice & 1 ? exponents[(choice >> 8) % array_size(exponents)]
                                   : (uint16_t)(0x3ff0 + (choice >> 8 & 31));
    uint64_t significand =
        choice & 2 ? significands[choice >> 16 & 7] : random64() | 1ull << 63;
    exponent |= choice & 4 ? 0x8000 : 0;
    memcpy(to, &significand, 8);
    memcpy(to + 8, &exponent, 2);
}

static void randomize(struct host_state *state, bool is_pending)
{
    uint64_t choice = random64();
    uint16_t fcw =
        0x40 | (choice & 0xf00) | (choice & 0x1000 ? 0x3f : choice >> 16 & 0x3f);
    uint16_t fsw = (choice >> 32 & 0x7f00) | (choice >> 24 & 0x7f);
    uint32_t mxcsr = 0x1f80;
    memset(state, 0, sizeof(*state));
    if (!is_pending) {
        fsw &= ~(~fcw & 0x3f);
    }
    if (fsw & ~fcw & 0x3f) {
        fsw |= 0x8080;
    }
    memcpy(state->image, &fcw, 2);
    memcpy(state->image + 2, &fsw, 2);
    state->image[4] = choice & 0x2000 ? 0xff : (uint8_t)(choice >> 48);
    memcpy(state->image + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++) {
        random_number(state->image + 32 + i * 16);
    }
    state->rax = random64();
    state->flags = (random64() & X86_FLAGS_ARITH) | 0x202;
}

static void to_guest(const struct host_state *state)
{
    struct cpu *cpu = processor.cpu;
    struct x86_fpu *fpu = &cpu->state.fpu;
    memset(fpu, 0, sizeof(*fpu));
    memcpy(&fpu->fcw, state->image, 2);
    memcpy(&fpu->fsw, state->image + 2, 2);
    fpu->ftw = state->image[4];
    fpu->mxcsr = 0x1f80;
    memcpy(fpu->st, state->image + 32, sizeof(fpu->st));
    cpu->reg[X86_RAX] = state->rax;
    cpu->reg[X86_RBX] = state->rbx;
    cpu->arith = arith_from_flags(state->flags);
}

static void from_guest(struct host_state *state)
{
    struct cpu *cpu = processor.cpu;
    const struct x86_fpu *fpu = &cpu->state.fpu;
    memcpy(state->image, &fpu->fcw, 2);
    memcpy(state->image + 2, &fpu->fsw, 2);
    state->image[4] = fpu->ftw;
    memcpy(state->image + 32, fpu->st, sizeof(fpu->st));
    state->rax = cpu->reg[X86_RAX];
    state->flags = arith_to_flags(cpu->arith);
}

static const int caught[] = {SIGFPE, SIGSEGV, SIGILL};
static struct sigaction actions[NSIG];

/* cmocka puts its own handlers in place before each test. */
static void take_signals(void)
{
    for (unsigned i = 0; i < array_size(caught); i++) {
        sigaction(caught[i], &actions[caught[i]], NULL);
    }
}

static unsigned on_host(struct host_state *state, const uint8_t *bytes, unsigned length)
{
    struct host_state copy = *state;
    memcpy(host_code, bytes, length);
    host_code[length] = 0xc3;
    int number = sigsetjmp(escape, 1);
    if (number == 0) {
        host_execute_x87(&copy, host_code);
        *state = copy;
        return 0;
    }
    __asm__ volatile("fninit");
    return number == SIGFPE ? X86_MF : number == SIGILL ? X86_UD : X86_PF;
}

/* Where the pointers of the last instruction are, in registers and memory. */
static void normalize(struct host_state *state, uint8_t *data, ZydisMnemonic mnemonic)
{
    memset(state->image + 5, 0, 32 - 5);
    memset(state->image + 160, 0, sizeof(state->image) - 160);
    for (unsigned i = 0; i < 8; i++) {
        memset(state->image + 32 + i * 16 + 10, 0, 6);
    }
    state->rbx = 0;
    state->flags &= X86_FLAGS_ARITH;
    if (mnemonic == ZYDIS_MNEMONIC_FNSTENV || mnemonic == ZYDIS_MNEMONIC_FNSAVE) {
        memset(data + 12, 0, 16);
    }
}

static unsigned failures;

static void report(const struct prepared *prepared, const struct host_state *before,
                   const struct host_state *host, const struct host_state *guest,
                   unsigned expected, unsigned got)
{
    if (failures++ > 30) {
        return;
    }
    fprintf(stderr, "differs: %s, exception %u/%u, flags %llx/%llx, rax %llx/%llx\n",
            ZydisMnemonicGetString(prepared->decoded.mnemonic), expected, got,
            (unsigned long long)host->flags, (unsigned long long)guest->flags,
            (unsigned long long)host->rax, (unsigned long long)guest->rax);
    for (unsigned i = 0; i < 160; i++) {
        if (host->image[i] != guest->image[i]) {
            fprintf(stderr, "  image[%u] %02x -> %02x/%02x", i, before->image[i],
                    host->image[i], guest->image[i]);
        }
    }
    fprintf(stderr, "\n");
}

static void compare(struct prepared *prepared, const uint8_t *bytes, bool is_pending)
{
    struct host_state before, host, guest = {0};
    uint8_t *guest_data = processor_memory(&processor, DATA_PAGE);
    ZydisMnemonic mnemonic = prepared->decoded.mnemonic;
    for (unsigned i = 0; i < 128; i++) {
        host_data[i] = guest_data[i] = (uint8_t)random64();
    }
    if (random64() & 1) {
        random_number(host_data);
        memcpy(guest_data, host_data, 10);
    }
    randomize(&before, is_pending);
    host = before;
    host.rbx = (uintptr_t)host_data;
    unsigned expected = on_host(&host, bytes, prepared->decoded.length);
    before.rbx = DATA_PAGE;
    to_guest(&before);
    unsigned got =
        processor_execute(&processor, prepared) == RAN ? 0 : processor_vector(&processor);
    from_guest(&guest);
    normalize(&host, host_data, mnemonic);
    normalize(&guest, guest_data, mnemonic);
    if (got != expected || memcmp(&host, &guest, sizeof(host)) != 0 ||
        memcmp(host_data, guest_data, 128) != 0) {
        report(prepared, &before, &host, &guest, expected, got);
    }
}

static bool is_in_table(ZydisMnemonic mnemonic)
{
    for (const struct insn_row *row = insn_rows_x87; row->bind != NULL; row++) {
        if (row->mnemonic == mnemonic) {
            return true;
        }
    }
    return false;
}

static void try_encoding(const uint8_t *bytes, unsigned rounds)
{
    struct prepared prepared;
    if (!processor_decode(&processor, &prepared, bytes, 15) ||
        !processor_bind(&processor, &prepared, bytes)) {
        return;
    }
    for (unsigned i = 0; i < rounds; i++) {
        compare(&prepared, bytes, i % 8 == 7);
    }
}

static void test_every_encoding_as_on_the_host(void **state)
{
    failures = 0;
    take_signals();
    for (unsigned opcode = 0xd8; opcode < 0xe0; opcode++) {
        for (unsigned modrm = 0; modrm < 256; modrm++) {
            uint8_t bytes[16] = {(uint8_t)opcode, (uint8_t)modrm};
            struct prepared prepared;
            if (modrm < 0xc0 && (modrm & 0xc7) != 3) {
                continue; /* memory is at [rbx] */
            }
            if (processor_decode(&processor, &prepared, bytes, 15)) {
                assert_true(is_in_table(prepared.decoded.mnemonic));
            }
            try_encoding(bytes, modrm < 0xc0 ? 200 : 60);
        }
    }
    try_encoding((const uint8_t[16]){0x9b}, 50);
    assert_int_equal(failures, 0);
}

/* FLDENV and its kind with the 16-bit layout. */
static void test_short_environment(void **state)
{
    failures = 0;
    take_signals();
    try_encoding((const uint8_t[16]){0x66, 0xd9, 0x23}, 50);
    assert_int_equal(failures, 0);
}

/* MMX instructions set TOP to 0 and fill the tags; EMMS empties them. */
static void test_mmx_shares_the_stack(void **state)
{
    failures = 0;
    take_signals();
    try_encoding((const uint8_t[16]){0x0f, 0xfc, 0xca}, 100);       /* paddb mm1, mm2 */
    try_encoding((const uint8_t[16]){0x0f, 0x6f, 0x1b}, 100);       /* movq mm3, [rbx] */
    try_encoding((const uint8_t[16]){0x0f, 0x7f, 0x23}, 100);       /* movq [rbx], mm4 */
    try_encoding((const uint8_t[16]){0x48, 0x0f, 0x7e, 0xe8}, 100); /* movq rax, mm5 */
    try_encoding((const uint8_t[16]){0x0f, 0x77}, 100);             /* emms */
    assert_int_equal(failures, 0);
}

static enum outcome execute(const uint8_t *bytes)
{
    struct prepared prepared;
    assert_true(processor_decode(&processor, &prepared, bytes, 15));
    assert_true(processor_bind(&processor, &prepared, bytes));
    return processor_execute(&processor, &prepared);
}

/* SDM 1 8.1.9: Intel's processors keep the opcode of unmasked exceptions only; 8.1.8:
 * with CPUID's bit for it, also the data pointer. */
static void test_pointers_are_the_guests(void **state)
{
    struct x86_fpu *fpu = &processor.cpu->state.fpu;
    struct cpuid_policy policy = processor.policy;
    for (unsigned i = 0; i < 4; i++) {
        bool has_all = i & 1, is_amd = i & 2;
        uint64_t bit = 1ull << CPU_FDP_EXCEPTION_ONLY % 64;
        processor.policy.vendor = is_amd ? CPU_VENDOR_AMD : CPU_VENDOR_INTEL;
        processor.policy.features[CPU_FDP_EXCEPTION_ONLY / 64] &= ~bit;
        processor.policy.features[CPU_FDP_EXCEPTION_ONLY / 64] |= has_all ? 0 : bit;
        x87_init(fpu);
        processor.cpu->reg[X86_RBX] = DATA_PAGE + 64;
        assert_int_equal(execute((const uint8_t[16]){0xdd, 0x03}), RAN); /* fld [rbx] */
        assert_int_equal(fpu->fip, processor.cpu->reg[REG_CODE_BASE]);
        assert_int_equal(fpu->fdp, has_all ? DATA_PAGE + 64 : 0);
        assert_int_equal(fpu->fop, is_amd ? 0x503 : 0);
        fpu->fcw &= (uint16_t)~1u;
        assert_int_equal(execute((const uint8_t[16]){0xd8, 0x43, 0x10}), RAN); /* fadd */
        bool has_exception = fpu->fsw & X87_FSW_ES;
        assert_int_equal(fpu->fdp, has_all || has_exception ? DATA_PAGE + 64 + 0x10 : 0);
        assert_int_equal(fpu->fop, is_amd || has_exception ? 0x043 : 0);
        x87_init(fpu);
        assert_int_equal(execute((const uint8_t[16]){0xd9, 0xe8}), RAN); /* fld1 */
        assert_int_equal(execute((const uint8_t[16]){0xd9, 0x7b, 0x10}),
                         RAN); /* fnstcw */
        assert_int_equal(fpu->fop, is_amd ? 0x1e8 : 0);
        fpu->fcw &= (uint16_t)~1u;
        fpu->ftw = 0xff;
        assert_int_equal(execute((const uint8_t[16]){0xd9, 0xe8}), RAN); /* overflows */
        assert_true(fpu->fsw & X87_FSW_ES);
        assert_int_equal(fpu->fop, 0x1e8);
    }
    processor.policy = policy;
}

static void test_state_gates(void **state)
{
    struct x86_state *cpu = &processor.cpu->state;
    uint64_t cr0 = cpu->cr0;
    x87_init(&cpu->fpu);
    cpu->cr0 = cr0 | X86_CR0_TS;
    execute((const uint8_t[16]){0xd9, 0xe8}); /* fld1 */
    assert_int_equal(processor_vector(&processor), X86_NM);
    assert_int_equal(execute((const uint8_t[16]){0x9b}), RAN); /* fwait: MP is clear */
    execute((const uint8_t[16]){0x0f, 0x58, 0xc1});            /* addps */
    assert_int_equal(processor_vector(&processor), X86_NM);
    execute((const uint8_t[16]){0xc5, 0xf0, 0x58, 0xc2}); /* vaddps */
    assert_int_equal(processor_vector(&processor), X86_NM);
    cpu->cr0 = cr0 | X86_CR0_EM;
    execute((const uint8_t[16]){0x0f, 0x58, 0xc1});
    assert_int_equal(processor_vector(&processor), X86_UD);
    cpu->cr0 = cr0;
}

static int set_up(void **state)
{
    struct sigaction action = {.sa_handler = on_signal};
    for (unsigned i = 0; i < array_size(caught); i++) {
        sigaction(caught[i], &action, NULL);
    }
    host_code = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    host_data = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    processor_init(&processor);
    for (unsigned i = 0; i < array_size(caught); i++) {
        sigaction(caught[i], NULL, &actions[caught[i]]);
    }
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
        cmocka_unit_test(test_every_encoding_as_on_the_host),
        cmocka_unit_test(test_short_environment),
        cmocka_unit_test(test_mmx_shares_the_stack),
        cmocka_unit_test(test_pointers_are_the_guests),
        cmocka_unit_test(test_state_gates),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
