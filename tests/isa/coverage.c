#include "coverage.h"

#include <string.h>

#include "form.h"
#include "interpreter/insn.h"
#include "x86/flags.h"

/* ---- Features: how instructions were written, and what came of them ---- */

struct seen {
    const ZydisDecodedInstruction *decoded;
    const ZydisDecodedOperand *operand;
    const ZydisDecodedOperand *memory; /* the visible one, or NULL */
    const uint8_t *bytes;
    unsigned bits;
    const struct isa_result *result;
};

static unsigned prefixes(const struct seen *seen, uint8_t value)
{
    unsigned count = 0;

    for (unsigned i = 0; i < seen->decoded->raw.prefix_count; i++) {
        count += seen->decoded->raw.prefixes[i].value == value;
    }
    return count;
}

static bool has_ignored_rex(const struct seen *seen)
{
    unsigned count = 0;

    for (unsigned i = 0; i < seen->decoded->raw.prefix_count; i++) {
        count +=
            seen->bits == 64 && (seen->decoded->raw.prefixes[i].value & 0xf0) == 0x40;
    }
    return count > (seen->decoded->attributes & ZYDIS_ATTRIB_HAS_REX ? 1 : 0);
}

static bool is_redundant(const struct seen *seen, uint8_t value)
{
    for (unsigned i = 0; i < seen->decoded->raw.prefix_count; i++) {
        if (seen->decoded->raw.prefixes[i].value == value &&
            seen->decoded->raw.prefixes[i].type == ZYDIS_PREFIX_TYPE_IGNORED) {
            return true;
        }
    }
    return false;
}

static bool has_index(const struct seen *seen, unsigned scale)
{
    return seen->memory && seen->memory->mem.index != ZYDIS_REGISTER_NONE &&
           seen->memory->mem.scale == scale;
}

static bool has_displacement(const struct seen *seen, unsigned bits)
{
    return seen->memory && seen->memory->mem.base != ZYDIS_REGISTER_NONE &&
           seen->decoded->raw.disp.size == bits;
}

static bool ends_with(const struct seen *seen, uint32_t vector)
{
    return seen->result->end == ISA_EXCEPTION && seen->result->exception == vector;
}

static bool faults_with(const struct seen *seen, uint32_t error)
{
    return ends_with(seen, X86_PF) && seen->result->error == error;
}

#define ATTRIBUTE(seen, name) ((seen)->decoded->attributes & ZYDIS_ATTRIB_##name)

/* clang-format off: a table */
#define FEATURES(F)                                                                      \
    F("64-bit code", seen->bits == 64)                                                   \
    F("32-bit code", seen->bits == 32)                                                   \
    F("16-bit code", seen->bits == 16)                                                   \
    F("no memory operand", !seen->memory)                                                \
    F("[base]", seen->memory && seen->memory->mem.base && !seen->decoded->raw.disp.size) \
    F("[base + disp8]", has_displacement(seen, 8))                                       \
    F("[base + disp32]", has_displacement(seen, 32))                                     \
    F("[base + disp16]", has_displacement(seen, 16))                                     \
    F("index * 1", has_index(seen, 1))                                                   \
    F("index * 2", has_index(seen, 2))                                                   \
    F("index * 4", has_index(seen, 4))                                                   \
    F("index * 8", has_index(seen, 8))                                                   \
    F("[disp]", seen->memory && !seen->memory->mem.base && !seen->memory->mem.index)     \
    F("[rip + disp]", seen->memory && (seen->memory->mem.base == ZYDIS_REGISTER_RIP ||   \
                                       seen->memory->mem.base == ZYDIS_REGISTER_EIP))    \
    F("vector index", seen->memory && seen->memory->mem.type == ZYDIS_MEMOP_TYPE_VSIB)   \
    F("hidden memory operand",                                                           \
      seen->operand != seen->memory && ATTRIBUTE(seen, HAS_REP))                         \
    F("stack", prefixes(seen, 0xf0) == 0 &&                                              \
                   (seen->decoded->meta.category == ZYDIS_CATEGORY_PUSH ||               \
                    seen->decoded->meta.category == ZYDIS_CATEGORY_POP))                 \
    F("16-bit address", seen->decoded->address_width == 16)                              \
    F("32-bit address in 64-bit code",                                                   \
      seen->bits == 64 && seen->decoded->address_width == 32)                            \
    F("segment ES", prefixes(seen, 0x26))                                                \
    F("segment CS", prefixes(seen, 0x2e))                                                \
    F("segment SS", prefixes(seen, 0x36))                                                \
    F("segment DS", prefixes(seen, 0x3e))                                                \
    F("segment FS", ATTRIBUTE(seen, HAS_SEGMENT_FS) && seen->memory)                     \
    F("segment GS", ATTRIBUTE(seen, HAS_SEGMENT_GS) && seen->memory)                     \
    F("operand size 66", ATTRIBUTE(seen, HAS_OPERANDSIZE))                               \
    F("redundant 66", is_redundant(seen, 0x66))                                          \
    F("redundant F2", is_redundant(seen, 0xf2))                                          \
    F("redundant F3", is_redundant(seen, 0xf3))                                          \
    F("repeated prefix",                                                                 \
      prefixes(seen, 0x66) > 1 || prefixes(seen, 0xf3) > 1 || prefixes(seen, 0xf2) > 1)  \
    F("LOCK", prefixes(seen, 0xf0) && !ends_with(seen, X86_UD))                          \
    F("LOCK where it is not allowed", false)                                             \
    F("REP", ATTRIBUTE(seen, HAS_REP))                                                   \
    F("REPE", ATTRIBUTE(seen, HAS_REPE))                                                 \
    F("REPNE", ATTRIBUTE(seen, HAS_REPNE))                                               \
    F("REX.W", seen->decoded->raw.rex.W)                                                 \
    F("REX.R", seen->decoded->raw.rex.R)                                                 \
    F("REX.X", seen->decoded->raw.rex.X)                                                 \
    F("REX.B", seen->decoded->raw.rex.B)                                                 \
    F("REX that is ignored", has_ignored_rex(seen))                                      \
    F("VEX of 2 bytes", ATTRIBUTE(seen, HAS_VEX) && seen->decoded->raw.vex.size == 2)    \
    F("VEX of 3 bytes", ATTRIBUTE(seen, HAS_VEX) && seen->decoded->raw.vex.size == 3)    \
    F("VEX.128", ATTRIBUTE(seen, HAS_VEX) && !seen->decoded->raw.vex.L)                  \
    F("VEX.256", ATTRIBUTE(seen, HAS_VEX) && seen->decoded->raw.vex.L)                   \
    F("#DE", ends_with(seen, X86_DE))                                                    \
    F("#DB", ends_with(seen, X86_DB))                                                    \
    F("#BP: to the end", ends_with(seen, X86_BP))                                        \
    F("#UD", ends_with(seen, X86_UD))                                                    \
    F("#SS", ends_with(seen, X86_SS_FAULT))                                              \
    F("#GP", ends_with(seen, X86_GP))                                                    \
    F("#GP with an error code", ends_with(seen, X86_GP) && seen->result->error)          \
    F("#PF at a read", faults_with(seen, X86_PF_U))                                      \
    F("#PF at a write", faults_with(seen, X86_PF_U | X86_PF_W))                          \
    F("#PF at a write to what is read-only",                                             \
      faults_with(seen, X86_PF_U | X86_PF_W | X86_PF_P))                                 \
    F("#PF at a fetch", ends_with(seen, X86_PF) && seen->result->error & X86_PF_I)       \
    F("#MF", ends_with(seen, X86_MF))                                                    \
    F("#XM", ends_with(seen, X86_XM))
/* clang-format on */

#define ONE_NAME(name, condition) name,
static const char *const feature_names[] = {FEATURES(ONE_NAME)};
#define FEATURE_COUNT (sizeof(feature_names) / sizeof(feature_names[0]))
static uint64_t feature_cases[FEATURE_COUNT];

static void note_features(const struct seen *seen)
{
    unsigned i = 0;

#define ONE_TEST(name, condition) feature_cases[i++] += (condition) ? 1 : 0;
    FEATURES(ONE_TEST)
}

/* The decoder does not know LOCK where it makes an instruction undefined. */
static void note_refused(const struct isa_case *test, const struct isa_result *native)
{
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        if (strcmp(feature_names[i], "LOCK where it is not allowed") == 0) {
            feature_cases[i] += test->code[0] == 0xf0 && native->exception == X86_UD;
        }
    }
}

static bool note(const struct isa_case *test, unsigned at,
                 const struct isa_result *native, unsigned *length)
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    struct seen seen = {.decoded = &decoded,
                        .operand = operand,
                        .bytes = test->code + at,
                        .bits = test->bits,
                        .result = native};

    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(test->bits), test->code + at,
                                             test->code_length - at, &decoded,
                                             operand))) {
        note_refused(test, native);
        return false;
    }
    for (unsigned i = 0; i < decoded.operand_count_visible; i++) {
        if (operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            seen.memory = &operand[i];
        }
    }
    *length = decoded.length;
    note_features(&seen);
    return true;
}

void coverage_single(unsigned form, const struct isa_case *test,
                     const struct isa_result *native)
{
    unsigned length;

    form_table[form].cases++;
    note(test, 0, native, &length);
}

/* ---- Sequences ---- */

static struct {
    uint64_t cases, instructions;
    uint64_t by_length[8]; /* 1, 2-3, 4-7, ... instructions */
    uint64_t to_the_end;
} sequences;

void coverage_sequence(const struct isa_case *test, const struct isa_result *native)
{
    ZydisDecodedInstruction decoded;
    unsigned count = 0, at = 0;

    while (at < test->code_length && ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                                         form_decoder(test->bits), NULL, test->code + at,
                                         test->code_length - at, &decoded))) {
        at += decoded.length;
        count++;
    }
    sequences.cases++;
    sequences.instructions += count;
    sequences.by_length[count < 2 ? 0 : 31 - __builtin_clz(count)]++;
    sequences.to_the_end += native->exception == X86_BP;
}

/* ---- Reports ---- */

static uint64_t cases_of(const struct form_group *group)
{
    uint64_t cases = 0;

    for (unsigned i = group->first; i < group->first + group->count; i++) {
        cases += form_table[i].cases;
    }
    return cases;
}

static void print_form(FILE *out, const struct form *form)
{
    static const char *const maps[] = {"", " 0F", " 0F38", " 0F3A"};
    static const char *const operands[] = {"", " reg", " mem"};

    fprintf(out, "    %u-bit%s%s", form->bits,
            form->is_vex ? form->l ? " VEX.256" : " VEX.128" : "", form->w ? " W" : "");
    if (form->prefix) {
        fprintf(out, " %02X", form->prefix);
    }
    fprintf(out, "%s %02X%s", maps[form->map], form->opcode, operands[form->operand]);
    if (form->operand != FORM_NO_MODRM && form->reg_mask != 0xff) {
        fprintf(out, " reg %02x", form->reg_mask);
    }
    fprintf(out, ": %lu\n", form->cases);
}

static void print_totals(FILE *out)
{
    unsigned excluded = 0, forms = 0, executed = 0;

    for (unsigned i = 0; i < form_group_count; i++) {
        const struct form_group *group = &form_groups[i];

        excluded += group->excluded != NULL;
        for (unsigned k = group->first;
             !group->excluded && k < group->first + group->count; k++) {
            forms++;
            executed += form_table[k].cases > 0;
        }
    }
    fprintf(out, "%u of %u forms of %u mnemonics executed, %u mnemonics left out\n",
            executed, forms, form_group_count - excluded, excluded);
    fprintf(out, "%lu sequences of %lu instructions, %lu of them to their end\n",
            sequences.cases, sequences.instructions, sequences.to_the_end);
}

void coverage_print(FILE *out)
{
    for (unsigned i = 0; i < form_group_count; i++) {
        const struct form_group *group = &form_groups[i];

        fprintf(out, "%-16s %3u forms %8lu cases%s%s\n",
                ZydisMnemonicGetString(group->mnemonic), group->count, cases_of(group),
                group->excluded ? "  left out: " : "",
                group->excluded ? group->excluded : "");
        for (unsigned k = group->first;
             !group->excluded && k < group->first + group->count; k++) {
            print_form(out, &form_table[k]);
        }
    }
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        fprintf(out, "%-40s %8lu\n", feature_names[i], feature_cases[i]);
    }
    for (unsigned i = 0; i < 8; i++) {
        fprintf(out, "sequences of %3u instructions and more  %8lu\n", 1u << i,
                sequences.by_length[i]);
    }
    print_totals(out);
}

static bool has_group(ZydisMnemonic mnemonic)
{
    for (unsigned i = 0; i < form_group_count; i++) {
        if (form_groups[i].mnemonic == mnemonic) {
            return true;
        }
    }
    return false;
}

/* Rows of the instruction tables for which there is no form here. */
static unsigned print_missing_rows(FILE *out)
{
    unsigned missing = 0;

    for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        ZydisMnemonic mnemonic = (ZydisMnemonic)i;

        if (insn_find_row(mnemonic, 0) && !has_group(mnemonic) &&
            !form_absent(mnemonic)) {
            fprintf(out, "%s: in the tables, but no form of it was found\n",
                    ZydisMnemonicGetString(mnemonic));
            missing++;
        }
    }
    return missing;
}

static unsigned print_missing_forms(FILE *out)
{
    unsigned missing = 0;

    for (unsigned i = 0; i < form_group_count; i++) {
        const struct form_group *group = &form_groups[i];

        for (unsigned k = group->first;
             !group->excluded && k < group->first + group->count; k++) {
            if (form_table[k].cases == 0 && !form_table[k].excluded) {
                fprintf(out, "%s: not executed:\n",
                        ZydisMnemonicGetString(group->mnemonic));
                print_form(out, &form_table[k]);
                missing++;
            }
        }
    }
    return missing;
}

bool coverage_is_complete(FILE *out, bool has_compat, bool has_16)
{
    unsigned missing = print_missing_rows(out) + print_missing_forms(out);

    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        bool needs_compat = strcmp(feature_names[i], "32-bit code") == 0 ||
                            strcmp(feature_names[i], "16-bit address") == 0 ||
                            strcmp(feature_names[i], "[base + disp16]") == 0;

        bool needs_16 = strcmp(feature_names[i], "16-bit code") == 0;

        if (feature_cases[i] == 0 && (has_compat || !needs_compat) &&
            (has_16 || !needs_16)) {
            fprintf(out, "not executed: %s\n", feature_names[i]);
            missing++;
        }
    }
    print_totals(out);
    return missing == 0;
}
