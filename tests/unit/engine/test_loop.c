/* Random loops, long and short, on the translator, which unrolls what goes round often,
 * and on the interpreter: registers, flags and memory must be the same behind them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/interp/interp.h"
#include "engine/translator/translator.h"
#include "machine/entry.h"

#include <cmocka.h>

#include "engine_rig.h"

#define RAM_SIZE  0x400000u
#define CODE_AT   0x200000u
#define CODE_SIZE 256u
#define LOOPS     400u
#define DATA_AT   0x300000u
#define DATA_SIZE 0x20000u
#define SECONDS   200 /* for the test as a whole, when it hangs */

/* Where loops' bases begin: in the middle of the data, near a page's end or not. */
#define BASE_AT (DATA_AT + DATA_SIZE / 2)

static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint32_t draw(uint32_t limit)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (uint32_t)(seed >> 33) % limit;
}

struct program {
    uint8_t code[CODE_SIZE];
    unsigned size;
};

static void put(struct program *program, const void *bytes, unsigned size)
{
    assert_true(program->size + size <= CODE_SIZE);
    memcpy(program->code + program->size, bytes, size);
    program->size += size;
}

#define PUT(program, ...) \
    put((program), (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* RCX counts the rounds; RSI, RDI and R13 are bases; the others hold numbers. */
static unsigned draw_number(void)
{
    static const uint8_t numbers[] = {X86_RAX, X86_RDX, X86_RBX, X86_RBP, 8, 10, 11, 12};
    return numbers[draw(sizeof(numbers))];
}

static unsigned draw_base(void)
{
    static const uint8_t bases[] = {X86_RSI, X86_RDI, 13};
    return bases[draw(sizeof(bases))];
}

static uint8_t rex(unsigned reg, unsigned rm)
{
    return (uint8_t)(0x48 | (reg & 8) >> 1 | rm >> 3);
}

static uint8_t modrm(unsigned mod, unsigned reg, unsigned rm)
{
    return (uint8_t)(mod << 6 | (reg & 7) << 3 | (rm & 7));
}

/* ADD, OR, ADC, SBB, AND, SUB, XOR and CMP with a register or with memory, either way;
 * MOV; LEA of a base by a constant; shifts, INC, DEC, SETcc, CMOVcc. */
static void put_insn(struct program *program)
{
    unsigned reg = draw_number(), other = draw_number(), base = draw_base();
    uint8_t disp = (uint8_t)(draw(32) * 4 - 64);
    uint8_t alu = (uint8_t)(draw(8) * 8);
    switch (draw(11)) {
    case 0:
        PUT(program, rex(reg, other), (uint8_t)(alu + 1), modrm(3, reg, other));
        break;
    case 1:
        PUT(program, rex(reg, base), (uint8_t)(alu + 3), modrm(1, reg, base), disp);
        break;
    case 2:
        PUT(program, rex(reg, base), (uint8_t)(alu + 1), modrm(1, reg, base), disp);
        break;
    case 3:
        PUT(program, rex(reg, base), 0x89, modrm(1, reg, base), disp);
        break;
    case 4:
        PUT(program, rex(reg, base), 0x8b, modrm(1, reg, base), disp);
        break;
    case 5:
        PUT(program, rex(reg, base), 0x0f, 0xb6, modrm(1, reg, base), disp);
        break;
    case 6: /* SHL, SHR, ROL by a constant */
        PUT(program, rex(0, reg), 0xc1, modrm(3, 4 + draw(2), reg), (uint8_t)draw(64));
        break;
    case 7:
        PUT(program, rex(0, reg), 0xff, modrm(3, draw(2), reg));
        break;
    case 8:
        PUT(program, rex(0, reg), 0x0f, (uint8_t)(0x90 + draw(16)), modrm(3, 0, reg));
        break;
    case 9:
        PUT(program, rex(reg, other), 0x0f, (uint8_t)(0x40 + draw(16)),
            modrm(3, reg, other));
        break;
    default:
        PUT(program, rex(base, base), 0x8d, modrm(1, base, base),
            (uint8_t)(draw(9) * 4 - 16));
        break;
    }
}

/* What closes the loop: sets the flags by which it goes on. */
static void put_end(struct program *program)
{
    static const uint8_t add[] = {0x48, 0x83, 0xc1, 0xff};        /* add $-1, %rcx */
    static const uint8_t sub[] = {0x48, 0x83, 0xe9, 0x01};        /* sub $1, %rcx */
    static const uint8_t lea[] = {0x48, 0x8d, 0x49, 0xff};        /* lea -1(%rcx), %rcx */
    static const uint8_t test[] = {0x48, 0x85, 0xc9};             /* test %rcx, %rcx */
    static const uint8_t compare[] = {0x48, 0x83, 0xf9, 0};       /* cmp $0, %rcx */
    static const uint8_t decrement[] = {0x48, 0xff, 0xc9};        /* dec %rcx */
    static const uint8_t compare_32[] = {0x81, 0xf9, 0, 0, 0, 0}; /* cmp $0, %ecx */
    uint8_t condition = 0x75;                                     /* JNZ */
    switch (draw(6)) {
    case 0:
        put(program, add, sizeof(add));
        break;
    case 1:
        put(program, sub, sizeof(sub));
        break;
    case 2:
        put(program, lea, sizeof(lea));
        put(program, test, sizeof(test));
        break;
    case 3:
        put(program, lea, sizeof(lea));
        put(program, compare, sizeof(compare));
        break;
    case 4:
        put(program, lea, sizeof(lea));
        put(program, compare_32, sizeof(compare_32));
        condition = 0x7f; /* JG */
        break;
    default:
        put(program, decrement, sizeof(decrement));
        break;
    }
    PUT(program, condition, (uint8_t) - (program->size + 2u));
}

static void make_program(struct program *program)
{
    memset(program, 0, sizeof(*program));
    unsigned count = 1 + draw(10);
    for (unsigned i = 0; i < count; i++) {
        put_insn(program);
        if (draw(12) == 0) {
            /* Seldom out in the middle: by a number's sum with memory that is 0. */
            PUT(program, 0x48, 0x85, 0xc0, 0x75, 0x01, 0xf4); /* test; jnz; hlt */
        }
    }
    put_end(program);
    PUT(program, 0xf4); /* hlt */
}

static void sink(void *opaque, struct vcpu_exit *exit)
{
}

static void run(struct engine_rig *rig, const struct x86_state *from, const uint8_t *data,
                struct x86_state *state)
{
    *state = *from;
    assert_true(ram_write(rig->memory, DATA_AT, data, DATA_SIZE));
    rig->ops->set_state(rig->vcpu, state);
    assert_int_equal(rig->ops->run(rig->vcpu), RUN_HALTED);
    rig->ops->get_state(rig->vcpu, state);
}

static void compare(struct engine_rig rig[2], const struct x86_state *from,
                    const uint8_t *data)
{
    static uint8_t after[2][DATA_SIZE];
    struct x86_state state[2];
    for (unsigned i = 0; i < 2; i++) {
        run(&rig[i], from, data, &state[i]);
        assert_true(ram_read(rig[i].memory, DATA_AT, after[i], DATA_SIZE));
    }
    for (unsigned i = 0; i < 16; i++) {
        assert_true(state[0].gpr[i] == state[1].gpr[i]);
    }
    assert_true(state[0].rip == state[1].rip);
    assert_true(state[0].rflags == state[1].rflags);
    assert_memory_equal(after[0], after[1], DATA_SIZE);
}

static void compare_loop(struct engine_rig rig[2], struct x86_state *from, gpa_t code)
{
    static const uint16_t rounds[] = {1200, 3, 40, 900, 1};
    static uint8_t data[DATA_SIZE];
    struct program program;
    make_program(&program);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(ram_write(rig[i].memory, code, program.code, CODE_SIZE));
    }
    for (unsigned i = 0; i < sizeof(rounds) / sizeof(rounds[0]); i++) {
        for (unsigned n = 0; n < DATA_SIZE; n++) {
            data[n] = (uint8_t)draw(256);
        }
        for (unsigned n = 0; n < 16; n++) {
            from->gpr[n] = seed * (n + 1);
        }
        from->rip = code;
        from->gpr[X86_RCX] = rounds[i];
        from->gpr[X86_RSI] = BASE_AT + draw(512);
        from->gpr[X86_RDI] = BASE_AT + draw(8192);
        from->gpr[13] = BASE_AT - 8 * draw(64);
        compare(rig, from, data);
    }
}

static void pick_loops(void *opaque, const struct engine_stat *stat)
{
    if (strcmp(stat->name, "unrolled_loops") == 0) {
        *(uint64_t *)opaque = stat->value;
    }
}

static void test_random_loops(void **unused)
{
    struct engine_rig rig[2];
    struct x86_state from;
    struct error err;
    alarm(SECONDS);
    for (unsigned i = 0; i < 2; i++) {
        engine_rig_open(&rig[i], i ? &engine_interp : &engine_translator, RAM_SIZE, NULL,
                        (struct vcpu_sink){sink, NULL});
        assert_int_equal(entry_long_mode(&from, rig[i].memory, CODE_AT, 0, &err), 0);
    }
    for (unsigned i = 0; i < LOOPS; i++) {
        compare_loop(rig, &from, CODE_AT + i * CODE_SIZE);
    }
    alarm(0);
    uint64_t loops = 0;
    engine_translator.stats(rig[0].engine, NULL, pick_loops, &loops);
    assert_true(loops > LOOPS / 2);
    engine_rig_close(&rig[0]);
    engine_rig_close(&rig[1]);
}

int main(void)
{
    struct error err;
    if (engine_translator.probe(&err) < 0) {
        print_message("%s\n", err.message);
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_loops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
