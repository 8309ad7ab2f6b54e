/*
 * Code that is changed between its calls, again and again: operands of instructions, in
 * every encoding that has one, targets of jumps, data beside code, few versions in turn.
 * An engine that finds a way around making the code anew each time must not be seen to.
 */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "program.h"
#include "trap.h"

#define BASE 0x10000000000ull

static uint8_t *const code = (uint8_t *)BASE;

/*
 * An operand; then the instruction itself. Programs get x in EDI and a place in memory in
 * RSI.
 */
struct operand_case {
    const char *name;
    uint8_t length, at, size; /* of the program; where its operand is */
    uint8_t program[24];
    uint64_t (*expect)(uint32_t x, int64_t operand);
};

static uint64_t want_operand(uint32_t x, int64_t operand)
{
    return (uint64_t)operand;
}
static uint64_t want_operand_32(uint32_t x, int64_t operand)
{
    return (uint32_t)operand;
}
static uint64_t want_operand_16(uint32_t x, int64_t operand)
{
    return (x & 0xffff0000) | (uint16_t)operand;
}
static uint64_t want_operand_8(uint32_t x, int64_t operand)
{
    return (uint8_t)operand;
}
static uint64_t want_high_byte(uint32_t x, int64_t operand)
{
    return (x & 0xffff00ff) | (uint32_t)(uint8_t)((x >> 8) + (uint8_t)operand) << 8;
}
static uint64_t want_sum(uint32_t x, int64_t operand)
{
    return (uint32_t)(x + operand);
}
static uint64_t want_sum_64(uint32_t x, int64_t operand)
{
    return x + (uint64_t)operand;
}
static uint64_t want_difference_borrow(uint32_t x, int64_t operand)
{
    return (uint32_t)(x - operand) ^ (x < (uint32_t)operand ? 1 : 0);
}
static uint64_t want_and(uint32_t x, int64_t operand)
{
    return x & (uint32_t)operand;
}
static uint64_t want_is_below(uint32_t x, int64_t operand)
{
    return x < (uint32_t)operand;
}
static uint64_t want_is_clear(uint32_t x, int64_t operand)
{
    return (x & (uint32_t)operand) == 0;
}
static uint64_t want_stored_sum(uint32_t x, int64_t operand)
{
    return (uint32_t)(x + operand);
}

static const struct operand_case operand_cases[] = {
    {"mov eax", 6, 1, 4, "\xb8____\xc3", want_operand_32},
    {"mov rax, imm32", 8, 3, 4, "\x48\xc7\xc0____\xc3", want_operand},
    {"mov rax, imm64", 11, 2, 8, "\x48\xb8________\xc3", want_operand},
    {"mov ax", 7, 4, 2, "\x89\xf8\x66\xb8__\xc3", want_operand_16},
    {"mov al", 5, 3, 1, "\x31\xc0\xb0_\xc3", want_operand_8},
    {"mov r9d", 10, 2, 4, "\x41\xb9____\x44\x89\xc8\xc3", want_operand_32},
    {"mov r9b", 11, 5, 1, "\x45\x31\xc9\x41\xb1_\x44\x89\xc8\xc3", want_operand_8},
    {"mov [rsi]", 9, 2, 4, "\xc7\x06____\x8b\x06\xc3", want_operand_32},
    {"mov [rsi], rax", 11, 3, 4, "\x48\xc7\x06____\x48\x8b\x06\xc3", want_operand},
    {"add ah", 6, 4, 1, "\x89\xf8\x80\xc4_\xc3", want_high_byte},
    {"add eax, imm32", 8, 3, 4, "\x89\xf8\x05____\xc3", want_sum},
    {"add edi, imm32", 9, 2, 4, "\x81\xc7____\x89\xf8\xc3", want_sum},
    {"add r10d, imm8", 11, 6, 1, "\x41\x89\xfa\x41\x83\xc2_\x44\x89\xd0\xc3", want_sum},
    {"add rdi, imm8", 8, 3, 1, "\x48\x83\xc7_\x48\x89\xf8\xc3", want_sum_64},
    {"add [rsi], imm8", 8, 4, 1, "\x89\x3e\x83\x06_\x8b\x06\xc3", want_stored_sum},
    {"lock add [rsi], imm32", 12, 5, 4, "\x89\x3e\xf0\x81\x06____\x8b\x06\xc3",
     want_stored_sum},
    {"sub, carry read", 16, 3, 4, "\x89\xf8\x2d____\x0f\x92\xc1\x0f\xb6\xc9\x31\xc8\xc3",
     want_difference_borrow},
    {"and eax", 8, 3, 4, "\x89\xf8\x25____\xc3", want_and},
    {"cmp edi", 13, 2, 4, "\x81\xff____\x0f\x92\xc0\x0f\xb6\xc0\xc3", want_is_below},
    {"test edi", 13, 2, 4, "\xf7\xc7____\x0f\x94\xc0\x0f\xb6\xc0\xc3", want_is_clear},
    {"push", 7, 1, 4, "\x68____\x58\xc3", want_operand},
    {"lea, disp32", 7, 2, 4, "\x8d\x87____\xc3", want_sum},
    {"lea, disp8", 5, 3, 1, "\x48\x8d\x47_\xc3", want_sum_64},
    {"lea of r10", 12, 6, 4, "\x49\x89\xfa\x49\x8d\x82____\x90\xc3", want_sum_64},
};

static int64_t operand_value(uint32_t i, unsigned size)
{
    uint64_t value = (i + 1) * 0x9e3779b97f4a7c15ull;
    return (int64_t)value >> (64 - 8 * size);
}

static void try_operands(void)
{
    uint64_t *place = page_new();
    for (unsigned n = 0; n < sizeof(operand_cases) / sizeof(operand_cases[0]); n++) {
        const struct operand_case *operand = &operand_cases[n];
        uint8_t *at = code + 128 * n;
        memcpy(at, operand->program, operand->length);
        for (uint32_t i = 0; i < 60; i++) {
            uint32_t x = i * 0x61c88647;
            int64_t value = operand_value(i, operand->size);
            memcpy(at + operand->at, &value, operand->size);
            uint64_t got = ((code_function *)(uintptr_t)at)(x, (uint64_t)place);
            uint64_t wanted = operand->expect(x, value);
            if (got != wanted) {
                FAIL("%s: %lx of %x and %lx, expected %lx", operand->name, got, x, value,
                     wanted);
            }
        }
        /* The instruction becomes another one, and the old one again. */
        for (uint32_t i = 0; i < 20; i++) {
            put_program(at, i);
            ASSERT_EQ(run(at), i);
            memcpy(at, operand->program, operand->length);
            int64_t value = operand_value(i, operand->size);
            memcpy(at + operand->at, &value, operand->size);
            uint64_t got = ((code_function *)(uintptr_t)at)(i, (uint64_t)place);
            ASSERT_EQ(got, operand->expect(i, value));
        }
    }
}

/* Displacements of loads and stores, near and far, and an immediate beside one. */
static void try_displacements(void)
{
    static const uint8_t load[] = {0x8b, 0x46, 0, 0xc3}; /* mov eax, [rsi + disp8] */
    static const uint8_t load_far[] = {
        0x44, 0x8b, 0x8f, 0,    0, 0, 0, /* mov r9d, [rdi + disp32] */
        0x44, 0x89, 0xc8, 0xc3,          /* mov eax, r9d; ret */
    };
    static const uint8_t load_relative[] = {0x8b, 0x05, 0, 0, 0, 0, 0xc3}; /* [rip + ] */
    static const uint8_t store[] = {
        0xc7, 0x46, 0,    0, 0, 0, 0, /* mov dword [rsi + disp8], imm32 */
        0x89, 0xf8, 0xc3,             /* mov eax, edi; ret */
    };
    uint32_t *place = page_new();
    uint8_t *at[4] = {code, code + 512, code + 1024, code + 1536};
    memcpy(at[0], load, sizeof(load));
    memcpy(at[1], load_far, sizeof(load_far));
    memcpy(at[2], load_relative, sizeof(load_relative));
    memcpy(at[3], store, sizeof(store));
    uint32_t *near_code = (uint32_t *)(code + 2048);
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t k = i * 7 % 31, far = 4 * (i * 37 % 1000), value = i * 0x01010101;
        int32_t relative = (int32_t)(2048 + 4 * k - 1024 - 6);
        at[0][2] = (uint8_t)(4 * k);
        memcpy(at[1] + 3, &far, 4);
        memcpy(at[2] + 2, &relative, 4);
        place[k] = i + 5;
        ASSERT_EQ(((code_function *)(uintptr_t)at[0])(0, (uint64_t)place), i + 5);
        place[far / 4] = i + 6;
        ASSERT_EQ(((code_function *)(uintptr_t)at[1])((uint64_t)place, 0), i + 6);
        near_code[k] = i + 7;
        ASSERT_EQ(((code_function *)(uintptr_t)at[2])(0, (uint64_t)place), i + 7);
        /* One of the two, or both. */
        if (i % 3 != 1) {
            at[3][2] = (uint8_t)(4 * k);
        }
        if (i % 3 != 2) {
            memcpy(at[3] + 3, &value, 4);
        } else {
            memcpy(&value, at[3] + 3, 4);
        }
        place[at[3][2] / 4] = 0;
        ASSERT_EQ(((code_function *)(uintptr_t)at[3])(i, (uint64_t)place), i);
        ASSERT_EQ(place[at[3][2] / 4], value);
    }
    /* One that leads to where nothing is mapped. */
    uint32_t nowhere = 0x7f000000;
    memcpy(at[1] + 3, &nowhere, 4);
    ASSERT(trap_try((trap_function *)(uintptr_t)at[1], BASE));
    ASSERT_TRAP(VECTOR_PF, 0, at[1]);
    ASSERT_EQ(cpu_self()->trap_cr2, BASE + nowhere);
}

/* JMP and CALL to one of several places, on this page and the next. */
static void try_targets(void)
{
    uint8_t *short_jump = code, *jump = code + 64, *caller = code + 128;
    static const uint8_t calls[] = {0xe8, 0,    0,    0,
                                    0,    0xff, 0xc0, 0xc3}; /* inc eax; ret */
    memcpy(caller, calls, sizeof(calls));
    jump[0] = 0xe9;
    short_jump[0] = 0xeb;
    for (uint32_t i = 0; i < 200; i++) {
        uint32_t k = i * 5 % 13;
        uint8_t *target = code + (k < 6 ? 256 + 16 * k : PAGE_SIZE + 16 * k);
        int32_t distance = (int32_t)(target - (jump + 5));
        put_program(target, k);
        memcpy(jump + 1, &distance, 4);
        ASSERT_EQ(run(jump), k);
        distance = (int32_t)(target - (caller + 5));
        memcpy(caller + 1, &distance, 4);
        ASSERT_EQ(run(caller), k + 1);
        uint8_t *near_target = code + 16 + 6 * (k % 3);
        put_program(near_target, 100 + k % 3);
        short_jump[1] = (uint8_t)(near_target - (short_jump + 2));
        ASSERT_EQ(run(short_jump), 100 + k % 3);
    }
}

/* Data in a line with code, which counts its calls there: MOV EAX, [counter]; INC
 * [counter]; RET; and the counter. */
static void try_data_beside(void)
{
    static const uint8_t program[] = {
        0x8b, 0x05, 0x0a, 0,    0, 0, /* mov eax, [rip + 10] */
        0xff, 0x05, 0x04, 0,    0, 0, /* inc dword [rip + 4] */
        0xc3, 0x90, 0x90, 0x90, 0, 0, 0, 0,
    };
    uint8_t *at = code + 64;
    memcpy(at, program, sizeof(program));
    for (uint32_t i = 0; i < 2000; i++) {
        ASSERT_EQ(run(at), i);
        if (i % 100 == 99) {
            put_program(at + 20, i); /* code there, too */
            ASSERT_EQ(run(at + 20), i);
        }
        WRITE_ONCE(at[40 + i % 20], (uint8_t)i);
    }
}

/* Few versions in turn, of the code and of what lies behind it: CMP's flags are read
 * there, or not. */
static void try_versions(void)
{
    static const uint8_t compare[] = {0x39, 0xf7, 0xeb, 0x1c}; /* cmp edi, esi; jmp +28 */
    static const uint8_t behind[3][8] = {
        {0x0f, 0x92, 0xc0, 0x0f, 0xb6, 0xc0, 0xc3},       /* setb al; movzx eax, al */
        {0x31, 0xc0, 0x83, 0xc0, 0x07, 0xc3},             /* xor eax, eax; add eax, 7 */
        {0x0f, 0x94, 0xc0, 0x0f, 0xb6, 0xc0, 0x90, 0xc3}, /* sete al; movzx eax, al */
    };
    memcpy(code, compare, sizeof(compare));
    for (uint32_t i = 0; i < 300; i++) {
        unsigned version = i % 7 % 3;
        memcpy(code + 32, behind[version], 8);
        uint64_t x = i % 3, y = i / 3 % 3;
        uint64_t wanted = version == 0 ? x < y : version == 1 ? 7 : x == y;
        ASSERT_EQ(((code_function *)(uintptr_t)code)(x, y), wanted);
        put_program(code + 128, 1000 + i % 4);
        ASSERT_EQ(run(code + 128), 1000 + i % 4);
    }
}

void guest_test(void)
{
    page_map(BASE, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    page_map(BASE + PAGE_SIZE, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    case_begin("operands are changed");
    try_operands();
    case_begin("displacements are changed");
    try_displacements();
    case_begin("targets of jumps are changed");
    try_targets();
    case_begin("data beside code");
    try_data_beside();
    case_begin("few versions in turn");
    try_versions();
}
