/* The classification: what the literature found sensitive is, down to the encoding, and
 * no engine executes such an instruction as it is. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "engine/engine.h"
#include "interpreter/sensitive.h"
#include "processor.h"

#include "base/scope.h"

#include <cmocka.h>

struct encoding {
    const char *name; /* as insn_row_name gives it */
    enum insn_class class;
    unsigned bits; /* of the code segment */
    unsigned length;
    uint8_t bytes[15];
};

#define ENCODING(name, class, bits, ...)                                  \
    {                                                                     \
        name, INSN_##class, bits, sizeof((const uint8_t[]){__VA_ARGS__}), \
        {                                                                 \
            __VA_ARGS__                                                   \
        }                                                                 \
    }

/* clang-format off */
static const struct encoding encodings[] = {
    /* Robin & Irvine 2000, 3.2: sensitive registers. */
    ENCODING("SGDT", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x01, 0x00),
    ENCODING("SIDT", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x01, 0x08),
    ENCODING("SLDT", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x00, 0xc0),
    ENCODING("SMSW", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x01, 0xe0),
    ENCODING("PUSHFQ", BEHAVIOUR_SENSITIVE, 64, 0x9c),
    ENCODING("PUSHFD", BEHAVIOUR_SENSITIVE, 32, 0x9c),
    ENCODING("PUSHF", BEHAVIOUR_SENSITIVE, 32, 0x66, 0x9c),
    ENCODING("POPFQ", CONTROL_SENSITIVE, 64, 0x9d),
    ENCODING("POPFD", CONTROL_SENSITIVE, 32, 0x9d),
    ENCODING("POPF", CONTROL_SENSITIVE, 64, 0x66, 0x9d),
    /* The protection system. */
    ENCODING("LAR", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x02, 0xc0),
    ENCODING("LSL", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x03, 0xc0),
    ENCODING("VERR", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x00, 0xe0),
    ENCODING("VERW", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x00, 0xe8),
    ENCODING("POP Sreg", CONTROL_SENSITIVE, 32, 0x1f),
    ENCODING("POP Sreg", CONTROL_SENSITIVE, 64, 0x0f, 0xa1),
    ENCODING("PUSH Sreg", BEHAVIOUR_SENSITIVE, 32, 0x0e),
    ENCODING("PUSH Sreg", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0xa8),
    ENCODING("CALL far", CONTROL_SENSITIVE, 32, 0x9a, 0, 0, 0, 0, 8, 0),
    ENCODING("CALL far", CONTROL_SENSITIVE, 64, 0xff, 0x18),
    ENCODING("JMP far", CONTROL_SENSITIVE, 32, 0xea, 0, 0, 0, 0, 8, 0),
    ENCODING("JMP far", CONTROL_SENSITIVE, 64, 0x48, 0xff, 0x28),
    ENCODING("INT", CONTROL_SENSITIVE, 64, 0xcd, 0x80),
    ENCODING("INT3", CONTROL_SENSITIVE, 64, 0xcc),
    ENCODING("INTO", CONTROL_SENSITIVE, 32, 0xce),
    ENCODING("RET far", CONTROL_SENSITIVE, 64, 0xcb),
    ENCODING("RET far", CONTROL_SENSITIVE, 64, 0xca, 8, 0),
    ENCODING("IRETQ", CONTROL_SENSITIVE, 64, 0x48, 0xcf),
    ENCODING("IRETD", CONTROL_SENSITIVE, 64, 0xcf),
    ENCODING("IRET", CONTROL_SENSITIVE, 64, 0x66, 0xcf),
    ENCODING("STR", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x00, 0xc8),
    ENCODING("MOV r/m, Sreg", BEHAVIOUR_SENSITIVE, 64, 0x8c, 0xc8),
    ENCODING("MOV Sreg, r/m", CONTROL_SENSITIVE, 64, 0x8e, 0xd8),
    ENCODING("LSS", CONTROL_SENSITIVE, 64, 0x0f, 0xb2, 0x00),
    ENCODING("LES", CONTROL_SENSITIVE, 32, 0xc4, 0x00),
    /* SDM 3A 5.9: privileged instructions. */
    ENCODING("LGDT", PRIVILEGED, 64, 0x0f, 0x01, 0x10),
    ENCODING("LLDT", PRIVILEGED, 64, 0x0f, 0x00, 0xd0),
    ENCODING("LTR", PRIVILEGED, 64, 0x0f, 0x00, 0xd8),
    ENCODING("LIDT", PRIVILEGED, 64, 0x0f, 0x01, 0x18),
    ENCODING("MOV CR, r", PRIVILEGED, 64, 0x0f, 0x22, 0xd8),
    ENCODING("MOV r, CR", PRIVILEGED, 64, 0x0f, 0x20, 0xd8),
    ENCODING("MOV CR, r", PRIVILEGED, 64, 0x44, 0x0f, 0x22, 0xc0),
    ENCODING("MOV DR, r", PRIVILEGED, 64, 0x0f, 0x23, 0xf8),
    ENCODING("MOV r, DR", PRIVILEGED, 64, 0x0f, 0x21, 0xf8),
    ENCODING("LMSW", PRIVILEGED, 64, 0x0f, 0x01, 0xf0),
    ENCODING("CLTS", PRIVILEGED, 64, 0x0f, 0x06),
    ENCODING("INVD", PRIVILEGED, 64, 0x0f, 0x08),
    ENCODING("WBINVD", PRIVILEGED, 64, 0x0f, 0x09),
    ENCODING("INVLPG", PRIVILEGED, 64, 0x0f, 0x01, 0x38),
    ENCODING("HLT", PRIVILEGED, 64, 0xf4),
    ENCODING("RDMSR", PRIVILEGED, 64, 0x0f, 0x32),
    ENCODING("WRMSR", PRIVILEGED, 64, 0x0f, 0x30),
    ENCODING("RDPMC", PRIVILEGED, 64, 0x0f, 0x33),
    ENCODING("RDTSC", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0x31),
    ENCODING("XSETBV", PRIVILEGED, 64, 0x0f, 0x01, 0xd1),
    ENCODING("SWAPGS", PRIVILEGED, 64, 0x0f, 0x01, 0xf8),
    ENCODING("SYSRET", PRIVILEGED, 64, 0x48, 0x0f, 0x07),
    /* SDM 1 19.5: by IOPL and the I/O permission bitmap. */
    ENCODING("CLI", PRIVILEGED, 64, 0xfa),
    ENCODING("STI", PRIVILEGED, 64, 0xfb),
    ENCODING("IN", PRIVILEGED, 64, 0xec),
    ENCODING("OUT", PRIVILEGED, 64, 0xe6, 0x80),
    ENCODING("INSB", PRIVILEGED, 64, 0xf3, 0x6c),
    ENCODING("OUTSD", PRIVILEGED, 64, 0x6f),
    /* Later than those papers. */
    ENCODING("SYSCALL", CONTROL_SENSITIVE, 64, 0x0f, 0x05),
    ENCODING("CPUID", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0xa2),
    ENCODING("FXSAVE", BEHAVIOUR_SENSITIVE, 64, 0x0f, 0xae, 0x00),
    ENCODING("VMCALL", CONTROL_SENSITIVE, 64, 0x0f, 0x01, 0xc1),
    /* Their neighbours, which are not. */
    ENCODING("MOV", INNOCUOUS, 64, 0x89, 0xc8),
    ENCODING("PUSH", INNOCUOUS, 64, 0x50),
    ENCODING("POP", INNOCUOUS, 64, 0x8f, 0xc0),
    ENCODING("CALL", INNOCUOUS, 64, 0xe8, 0, 0, 0, 0),
    ENCODING("CALL", INNOCUOUS, 64, 0xff, 0x10),
    ENCODING("JMP", INNOCUOUS, 64, 0xff, 0x20),
    ENCODING("RET", INNOCUOUS, 64, 0xc3),
    ENCODING("LAHF", INNOCUOUS, 32, 0x9f),
    ENCODING("CLD", INNOCUOUS, 64, 0xfc),
    ENCODING("MOVSB", INNOCUOUS, 64, 0xa4),
    ENCODING("ADDPS", INNOCUOUS, 64, 0x0f, 0x58, 0xc1),
    ENCODING("UD2", INNOCUOUS, 64, 0x0f, 0x0b),
};
/* clang-format on */

static const struct insn_row *row_of(struct processor *processor,
                                     const struct encoding *encoding)
{
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    bool is_long = encoding->bits == 64;
    ZydisDecoderInit(&decoder,
                     is_long ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     is_long ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, encoding->bytes, encoding->length,
                                             &decoded, operand))) {
        return NULL;
    }
    struct cpu *cpu = processor->cpu;
    cpu->is_long64 = is_long;
    cpu->code_bits = (uint8_t)encoding->bits;
    struct binding binding = {cpu, &decoded, operand, encoding->bytes, cpu->blocks};
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(decoded.mnemonic, i)); i++) {
        struct insn insn = {.length = decoded.length};
        if (row->bind(&binding, row, &insn)) {
            assert_non_null(insn.exec);
            return row;
        }
    }
    return NULL;
}

static void test_encodings(void **state)
{
    struct processor processor;
    processor_init(&processor);
    for (unsigned i = 0; i < array_size(encodings); i++) {
        const struct encoding *encoding = &encodings[i];
        const struct insn_row *row = row_of(&processor, encoding);
        char name[INSN_NAME_SIZE] = "nothing";
        if (row) {
            insn_row_name(row, name);
        }
        if (!row || strcmp(name, encoding->name) != 0 || row->class != encoding->class) {
            fail_msg("%s (%u bits): found %s, %s", encoding->name, encoding->bits, name,
                     row ? insn_class_name(row->class) : "");
        }
    }
    processor_fini(&processor);
}

typedef void check_fn(const struct insn_row *row, const char *name);

static void each_row(check_fn *check)
{
    const char *kind;
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_table(i, &kind)); i++) {
        for (; row->bind; row++) {
            char name[INSN_NAME_SIZE];
            insn_row_name(row, name);
            check(row, name);
        }
    }
}

static void check_reason(const struct insn_row *row, const char *name)
{
    bool is_sensitive = row->class != INSN_INNOCUOUS;
    if (is_sensitive != (insn_why_sensitive(row) != NULL)) {
        fail_msg("%s: %s, and %s reason", name, insn_class_name(row->class),
                 is_sensitive ? "no" : "a");
    }
}

static void test_every_sensitive_row_says_why(void **state)
{
    each_row(check_reason);
}

/* Innocuous ones may be run on the host's units by code made at decoding. */
static void check_routine(const struct insn_row *row, const char *name)
{
    if (row->class != INSN_INNOCUOUS && (!row->exec || !row->exec[0])) {
        fail_msg("%s has no routine", name);
    }
}

static void test_every_sensitive_row_has_a_routine(void **state)
{
    each_row(check_routine);
}

static void check_engines(const struct insn_row *row, const char *name)
{
    for (unsigned i = 0; engine_table[i]; i++) {
        const char *means = NULL;
        enum engine_way way = engine_table[i]->way(row, &means);
        if (row->class != INSN_INNOCUOUS && way == WAY_COPIED) {
            fail_msg("%s: %s executes it as it is", name, engine_table[i]->name);
        }
        if ((way == WAY_HARDWARE) != (means != NULL)) {
            fail_msg("%s: %s does not say by what means", name, engine_table[i]->name);
        }
    }
}

static void test_no_engine_copies_what_is_sensitive(void **state)
{
    for (unsigned i = 0; engine_table[i]; i++) {
        assert_non_null(engine_table[i]->way);
    }
    each_row(check_engines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encodings),
        cmocka_unit_test(test_every_sensitive_row_says_why),
        cmocka_unit_test(test_every_sensitive_row_has_a_routine),
        cmocka_unit_test(test_no_engine_copies_what_is_sensitive),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
