/*
 * Every encoding that the tables of native.c take, found by walking the opcode maps, is
 * executed twice: by the interpreter's handler and by the host itself. Registers, flags,
 * MXCSR, memory and faults must be the same.
 */
#include "processor.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/scope.h"
#include "interpreter/isa.h"

#include <cmocka.h>

/* Offsets are known to the assembly below. */
struct host_state {
    uint64_t gpr[16];    /* 0 */
    uint64_t flags;      /* 128 */
    uint32_t mxcsr;      /* 136 */
    uint32_t spare[5];   /* 140 */
    uint8_t vec[16][32]; /* 160 */
    uint64_t mmx[8];     /* 672 */
};

void host_execute(struct host_state *state, const void *code);

#define EACH16(op)                                                                   \
    op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7) op(8) op(9) op(10) op(11) op(12) \
        op(13) op(14) op(15)
#define EACH8(op)     op(0) op(1) op(2) op(3) op(4) op(5) op(6) op(7)
#define LOAD_YMM(i)   "vmovdqu 160+32*" #i "(%rdi), %ymm" #i "\n"
#define STORE_YMM(i)  "vmovdqu %ymm" #i ", 160+32*" #i "(%rdi)\n"
#define LOAD_MMX(i)   "movq 672+8*" #i "(%rdi), %mm" #i "\n"
#define STORE_MMX(i)  "movq %mm" #i ", 672+8*" #i "(%rdi)\n"
#define LOAD_HIGH(i)  "mov 8*" #i "(%rdi), %r" #i "\n"
#define STORE_HIGH(i) "mov %r" #i ", 8*" #i "(%rdi)\n"
#define EACH_HIGH(op) op(8) op(9) op(10) op(11) op(12) op(13) op(14) op(15)

__asm__(
    ".text\n.globl host_execute\nhost_execute:\n"
    "push %rbx\n push %rbp\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "push %rdi\n push %rsi\n" EACH16(LOAD_YMM) EACH8(
        LOAD_MMX) "ldmxcsr 136(%rdi)\n"
                  "pushq 128(%rdi)\n popfq\n" EACH_HIGH(
                      LOAD_HIGH) "mov 0(%rdi), %rax\n mov 8(%rdi), %rcx\n mov 16(%rdi), "
                                 "%rdx\n"
                                 "mov 24(%rdi), %rbx\n mov 40(%rdi), %rbp\n mov "
                                 "48(%rdi), %rsi\n"
                                 "mov 56(%rdi), %rdi\n"
                                 "call *(%rsp)\n"
                                 "push %rdi\n mov 16(%rsp), %rdi\n" EACH_HIGH(
                                     STORE_HIGH) "mov %rax, 0(%rdi)\n mov %rcx, "
                                                 "8(%rdi)\n mov %rdx, 16(%rdi)\n"
                                                 "mov %rbx, 24(%rdi)\n mov %rbp, "
                                                 "40(%rdi)\n mov %rsi, 48(%rdi)\n"
                                                 "pop 56(%rdi)\n"
                                                 "pushfq\n pop 128(%rdi)\n"
                                                 "stmxcsr 136(%rdi)\n pushq $0x1f80\n "
                                                 "ldmxcsr (%rsp)\n pop %rsi\n" EACH8(
                                                     STORE_MMX)
                                                     EACH16(
                                                         STORE_YMM) "emms\n vzeroupper\n"
                                                                    "pop %rsi\n pop "
                                                                    "%rdi\n"
                                                                    "pop %r15\n pop "
                                                                    "%r14\n pop %r13\n "
                                                                    "pop %r12\n pop "
                                                                    "%rbp\n pop %rbx\n "
                                                                    "ret\n");

static sigjmp_buf escape;
static volatile uint32_t fault_mxcsr;

static void on_signal(int number, siginfo_t *info, void *context)
{
    fault_mxcsr = ((ucontext_t *)context)->uc_mcontext.fpregs->mxcsr;
    siglongjmp(escape, number);
}

static struct sigaction actions[NSIG];
static const int caught[] = {SIGFPE, SIGSEGV, SIGBUS, SIGILL};

/* cmocka puts its own handlers in place before each test. */
static void take_signals(void)
{
    for (unsigned i = 0; i < array_size(caught); i++) {
        sigaction(caught[i], &actions[caught[i]], NULL);
    }
}

static struct processor processor;
static uint8_t *host_code, *host_data;

static uint64_t random_state = 88172645463325252u;

static uint64_t random64(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Values on which arithmetic takes its turns. */
static uint64_t special64(void)
{
    static const uint64_t doubles[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff8000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000001,
        0x7ff0000000000001,
        0x0000000000000001,
        0x000fffffffffffff,
        0x7fefffffffffffff,
        0x0010000000000000,
        0x41dfffffffc00000,
        0xffffffffffffffff,
        0x3ff0000000000001,
        0x43e0000000000000,
    };
    static const uint32_t singles[] = {
        0,          0x80000000, 0x3f800000, 0xbfc00000, 0x7f800000, 0xff800000,
        0x7fc00001, 0x7f800001, 0x00000001, 0x007fffff, 0x7f7fffff, 0x00800000,
        0x4effffff, 0xffffffff, 0x3f800001, 0x5f000000,
    };
    uint64_t choice = random64();
    switch (choice & 3) {
    case 0:
        return doubles[choice >> 8 & 15];
    case 1:
        return (uint64_t)singles[choice >> 8 & 15] << 32 | singles[choice >> 12 & 15];
    case 2:
        return (choice >> 8 & 0x3ff) * 0x0101;
    default:
        return random64();
    }
}

static void randomize(struct host_state *state, uint32_t mxcsr)
{
    for (unsigned i = 0; i < 16; i++) {
        state->gpr[i] = special64();
        for (unsigned j = 0; j < 4; j++) {
            uint64_t value = special64();
            memcpy(state->vec[i] + j * 8, &value, 8);
        }
    }
    for (unsigned i = 0; i < 8; i++) {
        state->mmx[i] = special64();
    }
    state->flags = (random64() & X86_FLAGS_ARITH) | 0x202;
    state->mxcsr = mxcsr;
}

static void to_guest(const struct host_state *state)
{
    struct cpu *cpu = processor.cpu;
    memcpy(cpu->reg, state->gpr, sizeof(state->gpr));
    memcpy(cpu->state.vec, state->vec, sizeof(state->vec));
    for (unsigned i = 0; i < 8; i++) {
        memcpy(cpu->state.fpu.st[i], &state->mmx[i], 8);
        memset(cpu->state.fpu.st[i] + 8, 0xff, 2);
    }
    cpu->state.fpu.fcw = 0x37f;
    cpu->state.fpu.fsw = 0;
    cpu->state.fpu.ftw = 0xff;
    cpu->state.fpu.mxcsr = state->mxcsr;
    cpu->arith = arith_from_flags(state->flags);
}

static void from_guest(struct host_state *state)
{
    struct cpu *cpu = processor.cpu;
    memcpy(state->gpr, cpu->reg, sizeof(state->gpr));
    memcpy(state->vec, cpu->state.vec, sizeof(state->vec));
    for (unsigned i = 0; i < 8; i++) {
        memcpy(&state->mmx[i], cpu->state.fpu.st[i], 8);
    }
    state->mxcsr = cpu->state.fpu.mxcsr;
    state->flags = arith_to_flags(cpu->arith);
}

static enum outcome on_host(struct host_state *state, const uint8_t *bytes,
                            unsigned length)
{
    struct host_state copy = *state;
    memcpy(host_code, bytes, length);
    host_code[length] = 0xc3;
    int number = sigsetjmp(escape, 1);
    if (number == 0) {
        host_execute(&copy, host_code);
        *state = copy;
        return RAN;
    }
    __asm__ volatile("emms\n vzeroupper");
    state->mxcsr = fault_mxcsr;
    return number == SIGFPE   ? FAULTED_SIMD
           : number == SIGILL ? FAULTED_OPCODE
                              : FAULTED_MEMORY;
}

static void describe(const struct prepared *prepared, const uint8_t *bytes,
                     const struct host_state *host, const struct host_state *guest)
{
    ZydisFormatter formatter;
    char text[128] = "";
    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterFormatInstruction(&formatter, &prepared->decoded, prepared->operand,
                                    prepared->decoded.operand_count_visible, text,
                                    sizeof(text), 0, NULL);
    fprintf(stderr, "differs: %s  [", text);
    for (unsigned i = 0; i < prepared->decoded.length; i++) {
        fprintf(stderr, "%02x", bytes[i]);
    }
    fprintf(stderr, "] mxcsr %x/%x flags %llx/%llx", host->mxcsr, guest->mxcsr,
            (unsigned long long)host->flags, (unsigned long long)guest->flags);
    for (unsigned i = 0; i < 16; i++) {
        if (host->gpr[i] != guest->gpr[i]) {
            fprintf(stderr, " gpr%u %llx/%llx", i, (unsigned long long)host->gpr[i],
                    (unsigned long long)guest->gpr[i]);
        }
        if (memcmp(host->vec[i], guest->vec[i], 32) != 0) {
            fprintf(stderr, " vec%u", i);
        }
        if (i < 8 && host->mmx[i] != guest->mmx[i]) {
            fprintf(stderr, " mm%u", i);
        }
    }
    fprintf(stderr, "\n");
}

/* Register 2 holds indices of that many bytes; rDI is an address. */
static unsigned index_size;
static bool through_rdi;

/* Makes what must differ alike: the stack, the pointer to the operand, RFLAGS' rest. */
static void normalize(struct host_state *state)
{
    state->gpr[X86_RSP] = 0;
    state->gpr[X86_RBX] = 0;
    state->gpr[X86_RDI] = through_rdi ? 0 : state->gpr[X86_RDI];
    state->flags &= X86_FLAGS_ARITH;
    memset(state->spare, 0, sizeof(state->spare));
}

/* Where the operand lies: in the middle, at the page's end, misaligned, over the end. */
enum place { MIDDLE, AT_END, MISALIGNED, OVER_END, PLACES };

static unsigned place_offset(enum place place, unsigned size)
{
    switch (place) {
    case MIDDLE:
        return 512;
    case AT_END:
        return FRAME_SIZE - size;
    case MISALIGNED:
        return 512 + 1;
    default:
        return FRAME_SIZE - size / 2;
    }
}

static unsigned memory_size(const struct prepared *prepared)
{
    for (unsigned i = 0; i < prepared->decoded.operand_count; i++) {
        if (prepared->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            return prepared->operand[i].size / 8;
        }
    }
    return 0;
}

static unsigned failures, executed;
static bool is_seen[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static bool is_withheld[ZYDIS_MNEMONIC_MAX_VALUE + 1];

static void compare(struct prepared *prepared, const uint8_t *bytes, uint32_t mxcsr,
                    enum place place)
{
    struct host_state before, host, guest;
    unsigned size = memory_size(prepared);
    unsigned offset = place_offset(place, size);
    uint8_t *guest_data = processor_memory(&processor, DATA_PAGE);
    for (unsigned i = 0; i < FRAME_SIZE; i += 8) {
        uint64_t value = special64();
        memcpy(host_data + i, &value, 8);
        memcpy(guest_data + i, &value, 8);
    }
    randomize(&before, mxcsr);
    for (unsigned i = 0; index_size != 0 && i < 32 / index_size; i++) {
        int64_t index = (int64_t)(random64() % 64) - 32;
        memcpy(before.vec[2] + i * index_size, &index, index_size);
    }
    host = before;
    host.gpr[X86_RDI] = through_rdi ? (uintptr_t)host_data + offset : host.gpr[X86_RDI];
    host.gpr[X86_RBX] = (uintptr_t)host_data + offset;
    enum outcome expected = on_host(&host, bytes, prepared->decoded.length);
    before.gpr[X86_RBX] = DATA_PAGE + offset;
    before.gpr[X86_RDI] = through_rdi ? DATA_PAGE + offset : before.gpr[X86_RDI];
    to_guest(&before);
    enum outcome got = processor_execute(&processor, prepared);
    from_guest(&guest);
    normalize(&host);
    normalize(&guest);
    executed++;
    if (got != expected || memcmp(&host, &guest, sizeof(host)) != 0 ||
        memcmp(host_data, guest_data, FRAME_SIZE) != 0) {
        if (failures++ < 40) {
            fprintf(stderr, "outcome %d/%d place %d memory %d ", expected, got, place,
                    memcmp(host_data, guest_data, FRAME_SIZE) != 0);
            describe(prepared, bytes, &host, &guest);
        }
    }
}

static bool is_comparable(const struct prepared *prepared)
{
    for (unsigned i = 0; i < prepared->decoded.operand_count; i++) {
        const ZydisDecodedOperand *operand = &prepared->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            uint8_t offset = bind_register(operand->reg.value) / 8;
            if (offset == X86_RSP || offset == X86_RBX) {
                return false;
            }
        }
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (operand->mem.base != ZYDIS_REGISTER_RBX || operand->mem.disp.value != 0 ||
             operand->mem.index != ZYDIS_REGISTER_NONE)) {
            return false; /* masked moves and gathers have tests of their own */
        }
    }
    return true;
}

static const uint32_t mxcsrs[] = {0x1f80, 0x1fbf, 0x9fc0, 0x7f80, 0x3f80,
                                  0x0000, 0x1f00, 0x0f80, 0x5e80};

static void try_encoding(const uint8_t *bytes)
{
    struct prepared prepared;
    if (!processor_decode(&processor, &prepared, bytes, 15)) {
        return;
    }
    if (!native_isa_offered(&processor.policy, &prepared.decoded)) {
        is_withheld[prepared.decoded.mnemonic] = true;
        return;
    }
    const struct insn_row *row = NULL;
    for (unsigned i = 0; (row = insn_find_row(prepared.decoded.mnemonic, i)); i++) {
        if (row->bind == native_bind || row->bind == native_bind_masked) {
            break;
        }
    }
    if (row == NULL || !is_comparable(&prepared) ||
        !processor_bind(&processor, &prepared, bytes) || prepared.row != row) {
        return;
    }
    is_seen[prepared.decoded.mnemonic] = true;
    bool has_memory = memory_size(&prepared) != 0;
    unsigned rounds = 2;
    for (unsigned i = 0; i < rounds; i++) {
        compare(&prepared, bytes, mxcsrs[random64() % array_size(mxcsrs)], MIDDLE);
        for (enum place place = AT_END; has_memory && i == 0 && place < PLACES; place++) {
            compare(&prepared, bytes, 0x1f80, place);
        }
    }
}

/* ModRM bytes: [rbx], or registers. */
static uint8_t random_modrm(bool is_memory, unsigned reg)
{
    return is_memory ? (uint8_t)(reg << 3 | 3)
                     : (uint8_t)(0xc0 | reg << 3 | (random64() & 7));
}

static void test_legacy(void **state)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf2, 0xf3};
    failures = executed = 0;
    take_signals();
    for (unsigned map = 1; map <= 3; map++) {
        for (unsigned i = 0; i < 4 * 256 * 16; i++) {
            uint8_t bytes[16] = {0}, *at = bytes;
            bool is_memory = i >> 10 & 1;
            unsigned reg = i >> 11 & 7;
            if (prefixes[i >> 8 & 3]) {
                *at++ = prefixes[i >> 8 & 3];
            }
            unsigned rex = random64() & 0xf;
            if (rex != 0) {
                *at++ = 0x40 | (is_memory ? rex & ~3u : rex);
            }
            *at++ = 0x0f;
            if (map > 1) {
                *at++ = map == 2 ? 0x38 : 0x3a;
            }
            *at++ = (uint8_t)i;
            *at++ = random_modrm(is_memory, reg);
            *at++ = (uint8_t)random64();
            try_encoding(bytes);
        }
    }
    assert_int_equal(failures, 0);
    assert_true(executed > 2000);
}

static void test_vex(void **state)
{
    if (!cpuid_has(&processor.policy, CPU_AVX)) {
        skip();
    }
    failures = executed = 0;
    take_signals();
    for (unsigned map = 1; map <= 3; map++) {
        for (unsigned i = 0; i < 256 * 4 * 2 * 2 * 2 * 2 * 8; i++) {
            unsigned pp = i >> 8 & 3, w = i >> 10 & 1, l = i >> 11 & 1;
            bool is_memory = i >> 12 & 1;
            bool has_vvvv = i >> 13 & 1;
            unsigned inverted = random64() & 0xe0;
            uint8_t bytes[16] = {
                0xc4, (uint8_t)((is_memory ? inverted | 0x60 : inverted) | map),
                (uint8_t)(w << 7 | (has_vvvv ? random64() & 15 : 15) << 3 | l << 2 | pp),
                (uint8_t)i, random_modrm(is_memory, i >> 14 & 7)};
            bytes[5] = (uint8_t)random64();
            try_encoding(bytes);
        }
    }
    assert_int_equal(failures, 0);
    assert_true(executed > 4000);
}

static void compare_all(const uint8_t *bytes, unsigned rounds)
{
    struct prepared prepared;
    assert_true(processor_decode(&processor, &prepared, bytes, 15));
    assert_true(processor_bind(&processor, &prepared, bytes));
    for (unsigned i = 0; i < rounds; i++) {
        compare(&prepared, bytes, 0x1f80, MIDDLE);
    }
}

/* reg 1, [rbx + reg 2 * 4], reg 3 */
static void test_gathers(void **state)
{
    if (!cpuid_has(&processor.policy, CPU_AVX2)) {
        skip();
    }
    failures = 0;
    take_signals();
    for (unsigned i = 0; i < 16; i++) {
        unsigned opcode = 0x90 + (i & 3), w = i >> 2 & 1, l = i >> 3 & 1;
        uint8_t bytes[16] = {
            0xc4, 0xe2, (uint8_t)(w << 7 | (~3u & 15) << 3 | l << 2 | 1), (uint8_t)opcode,
            0x0c, 0x93};
        index_size = i & 1 ? 8 : 4;
        compare_all(bytes, 20);
    }
    index_size = 0;
    assert_int_equal(failures, 0);
}

static void test_masked_stores_through_rdi(void **state)
{
    failures = 0;
    take_signals();
    through_rdi = true;
    compare_all((const uint8_t[16]){0x0f, 0xf7, 0xca}, 20);       /* maskmovq */
    compare_all((const uint8_t[16]){0x66, 0x0f, 0xf7, 0xca}, 20); /* maskmovdqu */
    if (cpuid_has(&processor.policy, CPU_AVX)) {
        compare_all((const uint8_t[16]){0xc5, 0xf9, 0xf7, 0xca}, 20);
    }
    through_rdi = false;
    assert_int_equal(failures, 0);
}

static void test_zeroing_of_upper_halves(void **state)
{
    if (!cpuid_has(&processor.policy, CPU_AVX)) {
        skip();
    }
    failures = 0;
    take_signals();
    compare_all((const uint8_t[16]){0xc5, 0xf8, 0x77}, 4);
    compare_all((const uint8_t[16]){0xc5, 0xfc, 0x77}, 4);
    assert_int_equal(failures, 0);
}

/* The walk reached every row but those the CPU model withholds on this host. */
static void test_every_row_was_executed(void **state)
{
    for (const struct insn_row *row = insn_rows_native; row->bind != NULL; row++) {
        if (row->bind == native_bind && !is_seen[row->mnemonic] &&
            !is_withheld[row->mnemonic]) {
            fail_msg("not executed: %s", ZydisMnemonicGetString(row->mnemonic));
        }
    }
}

/* More encodings than there is room for: the store is emptied and goes on. */
static void test_full_store_is_emptied(void **state)
{
    unsigned refused = 0, largest = 0;
    for (unsigned i = 0; i < 65536; i++) {
        uint8_t bytes[16] = {0x66,
                             (uint8_t)(0x40 | (i >> 8 & 1) << 2 | (i >> 9 & 1)),
                             0x0f,
                             0x70,
                             (uint8_t)(0xc0 | i >> 10),
                             (uint8_t)i};
        struct prepared prepared;
        assert_true(processor_decode(&processor, &prepared, bytes, 15));
        if (!processor_bind(&processor, &prepared, bytes)) {
            refused++;
            assert_true(processor_bind(&processor, &prepared, bytes));
        }
        unsigned used = native_used(processor.cpu->native);
        largest = used > largest ? used : largest;
    }
    assert_true(refused > 0);
    assert_true(largest <= 1u << 20);
    take_signals();
    failures = 0;
    compare_all((const uint8_t[16]){0x66, 0x0f, 0x70, 0xca, 0x1b}, 2);
    assert_int_equal(failures, 0);
}

static int set_up(void **state)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
    for (unsigned i = 0; i < array_size(caught); i++) {
        sigaction(caught[i], &action, NULL);
    }
    host_code = mmap(NULL, FRAME_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    host_data = mmap(NULL, 2 * FRAME_SIZE, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(host_data + FRAME_SIZE, FRAME_SIZE, PROT_NONE);
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
        cmocka_unit_test(test_legacy),
        cmocka_unit_test(test_vex),
        cmocka_unit_test(test_every_row_was_executed),
        cmocka_unit_test(test_gathers),
        cmocka_unit_test(test_masked_stores_through_rdi),
        cmocka_unit_test(test_zeroing_of_upper_halves),
        cmocka_unit_test(test_full_store_is_emptied),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
