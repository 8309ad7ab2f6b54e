#include "form.h"

#include <stdlib.h>
#include <string.h>

#include "case.h"
#include "interpreter/insn.h"
#include "interpreter/isa.h"

struct form *form_table;
unsigned form_count;
struct form_group *form_groups;
unsigned form_group_count;

static unsigned form_room;
static bool is_withheld[ZYDIS_MNEMONIC_MAX_VALUE + 1];

bool form_is_withheld(ZydisMnemonic mnemonic)
{
    return is_withheld[mnemonic];
}
static ZydisDecoder decoder64, decoder32, decoder16;

const ZydisDecoder *form_decoder(unsigned bits)
{
    return bits == 64 ? &decoder64 : bits == 32 ? &decoder32 : &decoder16;
}

/* ---- Bytes of a form ---- */

struct writer {
    uint8_t *at;
};

static void put(struct writer *writer, unsigned byte)
{
    *writer->at++ = (uint8_t)byte;
}

/* High bits of the register numbers, VEX.vvvv: as the caller likes. */
struct extension {
    bool r, x, b;
    uint8_t vvvv;
};

static void put_vex(struct writer *writer, const struct form *form,
                    const struct extension *extension)
{
    unsigned pp = form->prefix == 0x66   ? 1
                  : form->prefix == 0xf3 ? 2
                  : form->prefix == 0xf2 ? 3
                                         : 0;
    unsigned low = (~extension->vvvv & 15u) << 3 | form->l << 2 | pp;

    if (form->map == 1 && !form->w && !extension->x && !extension->b) {
        put(writer, 0xc5);
        put(writer, (extension->r ? 0 : 0x80) | low);
        return;
    }
    put(writer, 0xc4);
    put(writer, (extension->r ? 0 : 0x80) | (extension->x ? 0 : 0x40) |
                    (extension->b ? 0 : 0x20) | form->map);
    put(writer, form->w << 7 | low);
}

static void put_opcode(struct writer *writer, const struct form *form,
                       const struct extension *extension, bool wants_rex)
{
    if (form->is_vex) {
        put_vex(writer, form, extension);
    } else {
        if (form->is_short) {
            put(writer, 0x67);
        }
        if (form->prefix) {
            put(writer, form->prefix);
        }
        unsigned rex =
            form->w << 3 | extension->r << 2 | extension->x << 1 | extension->b;
        if (form->bits == 64 && (rex || wants_rex)) {
            put(writer, 0x40 | rex);
        }
        if (form->map) {
            put(writer, 0x0f);
        }
        if (form->map > 1) {
            put(writer, form->map == 2 ? 0x38 : 0x3a);
        }
    }
    put(writer, form->opcode);
}

static bool decode(const struct form *form, const uint8_t *bytes, unsigned size,
                   struct form_code *code)
{
    memmove(code->bytes, bytes, size);
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(form->bits), code->bytes, 15,
                                               &code->decoded, code->operand));
}

static uint64_t signature(const struct form_code *code)
{
    uint64_t hash = (uint64_t)code->decoded.mnemonic + 1;

    for (unsigned i = 0; i < code->decoded.operand_count; i++) {
        const ZydisDecodedOperand *operand = &code->operand[i];
        uint64_t what = (uint64_t)operand->type | (uint64_t)operand->size << 8 |
                        (uint64_t)operand->encoding << 32;

        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            what |= (uint64_t)ZydisRegisterGetClass(operand->reg.value) << 48;
        }
        hash = (hash ^ what) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 31;
    }
    return hash;
}

bool form_decode(const struct form *form, struct form_code *code)
{
    return decode(form, code->bytes, 15, code) &&
           code->decoded.mnemonic == form->mnemonic && signature(code) == form->signature;
}

/* ---- Random encodings ---- */

static unsigned pick_bit(uint64_t *random, uint8_t mask)
{
    unsigned bit;

    do {
        bit = isa_random(random) % 8;
    } while (!(mask >> bit & 1));
    return bit;
}

static bool one_in(uint64_t *random, unsigned n)
{
    return isa_random(random) % n == 0;
}

/* Prefixes that change nothing: again, for nothing, or a REX that is not the last. */
static void put_redundant(struct writer *writer, const struct form *form,
                          uint64_t *random)
{
    static const uint8_t repeatable[] = {0x66, 0xf2, 0xf3};

    if (form->is_vex || !one_in(random, 8)) {
        return;
    }
    if (form->bits == 64 && one_in(random, 4)) {
        put(writer, 0x40 | isa_random(random) % 16);
        put(writer, 0x3e);
    } else if (form->prefix && one_in(random, 2)) {
        put(writer, form->prefix);
    } else {
        put(writer, repeatable[isa_random(random) % sizeof(repeatable)]);
    }
}

static void put_prefixes(struct writer *writer, const struct form *form, uint64_t *random)
{
    static const uint8_t segments[] = {0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65};

    if (one_in(random, 8)) {
        put(writer, 0x67);
    }
    if (one_in(random, 8)) {
        /* FS and GS have null selectors: unusable in compatibility mode. */
        put(writer, segments[isa_random(random) % (form->bits == 64 ? 6 : 4)]);
    }
    if (!form->is_vex && form->operand == FORM_MEMORY && one_in(random, 4)) {
        put(writer, 0xf0);
    }
    put_redundant(writer, form, random);
}

static void put_modrm(struct writer *writer, const struct form *form, uint64_t *random)
{
    unsigned reg = pick_bit(random, form->reg_mask), rm, mod;

    if (form->operand == FORM_REGISTER) {
        put(writer, 0xc0 | reg << 3 | pick_bit(random, form->rm_mask));
        return;
    }
    mod = isa_random(random) % 3;
    rm = isa_random(random) % 8;
    put(writer, mod << 6 | reg << 3 | rm);
    /* SIB and displacement: the rest is random, the decoder takes what it needs. */
}

bool form_encode(const struct form *form, uint64_t *random, struct form_code *code)
{
    uint8_t bytes[40];
    struct writer writer = {bytes};
    uint64_t bits = isa_random(random);
    struct extension extension = {0};

    if (form->bits == 64) {
        extension =
            (struct extension){bits & 1, bits >> 1 & 1, bits >> 2 & 1, bits >> 3 & 15};
    } else {
        extension.vvvv = bits >> 3 & 7;
    }
    if (one_in(random, 2)) {
        extension.vvvv = 0; /* most forms have none */
    }
    put_prefixes(&writer, form, random);
    put_opcode(&writer, form, &extension, bits >> 8 & 1);
    if (form->operand != FORM_NO_MODRM) {
        put_modrm(&writer, form, random);
    }
    for (unsigned i = 0; i < 2; i++) {
        uint64_t rest = one_in(random, 2) ? isa_value(random) : isa_random(random);

        memcpy(writer.at, &rest, 8);
        writer.at += 8;
    }
    memcpy(code->bytes, bytes, 16);
    return form_decode(form, code);
}

/* ---- The table ---- */

static bool add(const struct form *form)
{
    if (form_count == form_room) {
        form_room = form_room ? form_room * 2 : 4096;
        struct form *table = realloc(form_table, form_room * sizeof(*table));
        if (!table) {
            return false;
        }
        form_table = table;
    }
    form_table[form_count++] = *form;
    return true;
}

static bool is_integer(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->meta.isa_ext) {
    case ZYDIS_ISA_EXT_BASE:
    case ZYDIS_ISA_EXT_LONGMODE:
    case ZYDIS_ISA_EXT_ADOX_ADCX:
    case ZYDIS_ISA_EXT_BMI1:
    case ZYDIS_ISA_EXT_BMI2:
    case ZYDIS_ISA_EXT_LZCNT:
    case ZYDIS_ISA_EXT_MOVBE:
        return true;
    default:
        return false;
    }
}

/* Tries one value of ModRM; joins the forms since `first` that mean the same. */
static bool try_modrm(const struct cpuid_policy *policy, struct form *form,
                      unsigned first, unsigned reg, unsigned rm, bool *has_modrm)
{
    uint8_t bytes[40] = {0};
    struct writer writer = {bytes};
    struct extension none = {0};
    struct form_code code;

    put_opcode(&writer, form, &none, false);
    put(&writer, (form->operand == FORM_REGISTER ? 0xc0 : 0x00) | reg << 3 | rm);
    memset(writer.at, 0, 12);
    if (form->operand == FORM_MEMORY) {
        writer.at[0] = 0x21; /* [rcx], if there is a SIB byte */
    }
    bool is_valid = decode(form, bytes, 16, &code);
    if (!is_valid || !insn_find_row(code.decoded.mnemonic, 0)) {
        return true;
    }
    if (!native_isa_offered(policy, &code.decoded)) {
        is_withheld[code.decoded.mnemonic] = true;
        return true;
    }
    *has_modrm = code.decoded.attributes & ZYDIS_ATTRIB_HAS_MODRM;
    form->mnemonic = code.decoded.mnemonic;
    form->signature = signature(&code);
    form->is_integer = is_integer(&code.decoded);
    for (unsigned i = first; i < form_count; i++) {
        if (form_table[i].signature == form->signature &&
            form_table[i].operand == form->operand) {
            form_table[i].reg_mask |= (uint8_t)(1u << reg);
            form_table[i].rm_mask |= (uint8_t)(1u << rm);
            return true;
        }
    }
    form->reg_mask = (uint8_t)(1u << reg);
    form->rm_mask = (uint8_t)(1u << rm);
    struct form found = *form;
    found.excluded = form_left_out(form);
    if (!*has_modrm) {
        found.operand = FORM_NO_MODRM;
    }
    return add(&found);
}

static bool try_opcode(const struct cpuid_policy *policy, struct form *form)
{
    unsigned first = form_count;
    bool has_modrm = true;

    form->operand = FORM_REGISTER;
    for (unsigned reg = 0; reg < 8; reg++) {
        for (unsigned rm = 0; rm < 8; rm++) {
            if (!try_modrm(policy, form, first, reg, rm, &has_modrm)) {
                return false;
            }
            if (!has_modrm) {
                return true;
            }
        }
    }
    form->operand = FORM_MEMORY;
    for (unsigned reg = 0; reg < 8; reg++) {
        /* 4: with SIB, for the forms that need one. */
        if (!try_modrm(policy, form, first, reg, 1, &has_modrm) ||
            !try_modrm(policy, form, first, reg, 4, &has_modrm)) {
            return false;
        }
    }
    return true;
}

static bool is_prefix(const struct form *form)
{
    static const uint8_t legacy[] = {0x0f, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66,
                                     0x67, 0xf0, 0xf2, 0xf3, 0x62, 0xc4, 0xc5};

    if (form->is_vex || form->map > 1) {
        return false;
    }
    if (form->map == 1) {
        return form->opcode == 0x38 || form->opcode == 0x3a;
    }
    if (form->bits == 64 && form->opcode >= 0x40 && form->opcode < 0x50) {
        return true;
    }
    for (unsigned i = 0; i < sizeof(legacy); i++) {
        if (form->opcode == legacy[i]) {
            return form->bits == 64 || i < 12; /* BOUND, LES, LDS */
        }
    }
    return false;
}

static bool try_all(const struct cpuid_policy *policy, unsigned bits)
{
    static const uint8_t prefixes[] = {0, 0x66, 0xf3, 0xf2};

    for (unsigned i = 0; i < 2 * 2u * 4 * 256 * 4 * 4; i++) {
        struct form form = {
            .bits = (uint8_t)bits,
            .is_vex = i & 1,
            .l = i >> 1 & 1,
            .w = i >> 2 & 1,
            .prefix = prefixes[i >> 3 & 3],
            .opcode = (uint8_t)(i >> 5),
            .map = (uint8_t)(i >> 13 & 3),
            .is_short = i >> 15,
        };

        if ((form.l && !form.is_vex) || (form.is_vex && form.map == 0) ||
            (form.w && bits != 64 && !form.is_vex) || is_prefix(&form) ||
            (form.is_short && (form.is_vex || form.map || form.opcode != 0xe3))) {
            continue;
        }
        if (!try_opcode(policy, &form)) {
            return false;
        }
    }
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct form *left = a, *right = b;

    if (left->mnemonic != right->mnemonic) {
        return left->mnemonic < right->mnemonic ? -1 : 1;
    }
    return memcmp(left, right, sizeof(*left));
}

static bool make_groups(void)
{
    qsort(form_table, form_count, sizeof(*form_table), compare);
    form_groups = calloc(form_count, sizeof(*form_groups));
    if (!form_groups) {
        return false;
    }
    for (unsigned i = 0; i < form_count; i++) {
        if (i == 0 || form_table[i].mnemonic != form_table[i - 1].mnemonic) {
            form_groups[form_group_count++] = (struct form_group){
                .mnemonic = form_table[i].mnemonic,
                .first = i,
                .excluded = form_excluded(form_table[i].mnemonic),
            };
        }
        form_groups[form_group_count - 1].count++;
    }
    return true;
}

bool form_init(const struct cpuid_policy *policy, bool has_compat, bool has_16)
{
    insn_index_rows();
    ZydisDecoderInit(&decoder64, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    ZydisDecoderInit(&decoder32, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&decoder16, ZYDIS_MACHINE_MODE_LONG_COMPAT_16, ZYDIS_STACK_WIDTH_32);
    ZydisDecoder *const decoders[] = {&decoder64, &decoder32, &decoder16};
    for (unsigned i = 0; i < 3; i++) {
        ZydisDecoderEnableMode(decoders[i], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(decoders[i], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    }
    if (policy->vendor == CPU_VENDOR_AMD) {
        ZydisDecoderEnableMode(&decoder64, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    }
    return try_all(policy, 64) && (!has_compat || try_all(policy, 32)) &&
           (!has_16 || try_all(policy, 16)) && make_groups();
}

void form_fini(void)
{
    free(form_table);
    free(form_groups);
}
