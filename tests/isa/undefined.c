#include "undefined.h"

#include <string.h>

#include "form.h"
#include "x86/flags.h"

#define CF X86_FLAG_CF
#define PF X86_FLAG_PF
#define AF X86_FLAG_AF
#define ZF X86_FLAG_ZF
#define SF X86_FLAG_SF
#define OF X86_FLAG_OF

/* ---- The manual ---- */

#define ROW(name, flags, section)                    \
    {                                                \
        ZYDIS_MNEMONIC_##name, #name, flags, section \
    }

/* "Flags Affected" of each instruction's page; undefined whatever the operands are. */
static const struct {
    ZydisMnemonic mnemonic;
    const char *name;
    uint32_t flags;
    const char *section;
} rows[] = {
    ROW(AAA, OF | SF | ZF | PF, "SDM 2A AAA"),
    ROW(AAD, OF | AF | CF, "SDM 2A AAD"),
    ROW(AAM, OF | AF | CF, "SDM 2A AAM"),
    ROW(AAS, OF | SF | ZF | PF, "SDM 2A AAS"),
    ROW(AND, AF, "SDM 2A AND"),
    ROW(ANDN, AF | PF, "SDM 2A ANDN"),
    ROW(BEXTR, AF | SF | PF, "SDM 2A BEXTR"),
    ROW(BLSI, AF | PF, "SDM 2A BLSI"),
    ROW(BLSMSK, AF | PF, "SDM 2A BLSMSK"),
    ROW(BLSR, AF | PF, "SDM 2A BLSR"),
    ROW(BSF, CF | OF | SF | AF | PF, "SDM 2A BSF"),
    ROW(BSR, CF | OF | SF | AF | PF, "SDM 2A BSR"),
    ROW(BT, OF | SF | AF | PF, "SDM 2A BT"),
    ROW(BTC, OF | SF | AF | PF, "SDM 2A BTC"),
    ROW(BTR, OF | SF | AF | PF, "SDM 2A BTR"),
    ROW(BTS, OF | SF | AF | PF, "SDM 2A BTS"),
    ROW(BZHI, AF | PF, "SDM 2A BZHI"),
    ROW(DAA, OF, "SDM 2A DAA"),
    ROW(DAS, OF, "SDM 2A DAS"),
    ROW(DIV, CF | OF | SF | ZF | AF | PF, "SDM 2A DIV"),
    ROW(IDIV, CF | OF | SF | ZF | AF | PF, "SDM 2A IDIV"),
    ROW(IMUL, SF | ZF | AF | PF, "SDM 2A IMUL"),
    ROW(LZCNT, OF | SF | PF | AF, "SDM 2A LZCNT"),
    ROW(MUL, SF | ZF | AF | PF, "SDM 2B MUL"),
    ROW(OR, AF, "SDM 2B OR"),
    ROW(TEST, AF, "SDM 2B TEST"),
    ROW(TZCNT, OF | SF | PF | AF, "SDM 2B TZCNT"),
    ROW(XOR, AF, "SDM 2D XOR"),
    /* Those below depend on the count, see undefined_by; here: for any count. */
    ROW(RCL, OF, "SDM 2B RCL/RCR/ROL/ROR: OF, for counts but 0 and 1"),
    ROW(RCR, OF, "SDM 2B RCL/RCR/ROL/ROR: OF, for counts but 0 and 1"),
    ROW(ROL, OF, "SDM 2B RCL/RCR/ROL/ROR: OF, for counts but 0 and 1"),
    ROW(ROR, OF, "SDM 2B RCL/RCR/ROL/ROR: OF, for counts but 0 and 1"),
    ROW(SAR, OF | AF, "SDM 2B SAL/SAR/SHL/SHR: OF for counts above 1, AF but for 0"),
    ROW(SHL, OF | AF | CF, "SDM 2B SAL/SAR/SHL/SHR: also CF from the width on"),
    ROW(SHR, OF | AF | CF, "SDM 2B SAL/SAR/SHL/SHR: also CF from the width on"),
    ROW(SHLD, OF | AF | CF | SF | ZF | PF, "SDM 2B SHLD: all above the width"),
    ROW(SHRD, OF | AF | CF | SF | ZF | PF, "SDM 2B SHRD: all above the width"),
};

bool undefined_row(unsigned n, const char **mnemonic, uint32_t *flags,
                   const char **section)
{
    if (n >= sizeof(rows) / sizeof(rows[0])) {
        return false;
    }
    *mnemonic = rows[n].name;
    *flags = rows[n].flags;
    *section = rows[n].section;
    return true;
}

/* The count of a shift, masked as SDM 2B says; the highest there is if it is not known.
 */
static unsigned shift_count(const ZydisDecodedInstruction *decoded,
                            const ZydisDecodedOperand *operand,
                            const struct isa_case *state, bool *is_known)
{
    unsigned mask = decoded->operand_width == 64 ? 63 : 31;

    *is_known = true;
    for (unsigned i = 1; i < decoded->operand_count; i++) {
        bool is_count = decoded->mnemonic != ZYDIS_MNEMONIC_SHLD &&
                        decoded->mnemonic != ZYDIS_MNEMONIC_SHRD;

        if (operand[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
            return (unsigned)operand[i].imm.value.u & mask;
        }
        is_count |= i == 2;
        if (is_count && operand[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
            operand[i].reg.value == ZYDIS_REGISTER_CL) {
            *is_known = state;
            return state ? (unsigned)state->gpr[X86_RCX] & mask : mask;
        }
    }
    return 1; /* the forms without a count */
}

static uint32_t by_count(ZydisMnemonic mnemonic, unsigned count, unsigned width)
{
    bool is_rotate = mnemonic == ZYDIS_MNEMONIC_RCL || mnemonic == ZYDIS_MNEMONIC_RCR ||
                     mnemonic == ZYDIS_MNEMONIC_ROL || mnemonic == ZYDIS_MNEMONIC_ROR;
    bool is_double = mnemonic == ZYDIS_MNEMONIC_SHLD || mnemonic == ZYDIS_MNEMONIC_SHRD;

    if (count == 0) {
        return 0;
    }
    if (is_rotate) {
        return count == 1 ? 0 : OF;
    }
    if (is_double && count > width) {
        return OF | AF | CF | SF | ZF | PF;
    }
    bool has_carry = mnemonic == ZYDIS_MNEMONIC_SAR || is_double || count < width;
    return AF | (count == 1 ? 0 : OF) | (has_carry ? 0 : CF);
}

static bool depends_on_count(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

uint32_t undefined_by(const ZydisDecodedInstruction *decoded,
                      const ZydisDecodedOperand *operand, const struct isa_case *state)
{
    if (depends_on_count(decoded->mnemonic)) {
        bool is_known;
        unsigned count = shift_count(decoded, operand, state, &is_known);
        return by_count(decoded->mnemonic, count, operand[0].size);
    }
    for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        if (rows[i].mnemonic == decoded->mnemonic) {
            return rows[i].flags;
        }
    }
    return 0;
}

/* ---- Through the code ---- */

#define NODES_MAX (ISA_CODE_MAX + 1)

struct node {
    uint16_t offset;
    uint32_t reads, defines, undefines;
    int32_t target; /* of a direct branch, as an offset into the code; -1: none */
    bool falls_through, is_call, is_return, is_indirect;
    uint32_t in; /* undefined flags before it */
};

struct flow {
    struct node node[NODES_MAX];
    unsigned count;
    uint32_t anywhere; /* undefined behind any instruction */
};

static uint32_t defined_by(const ZydisDecodedInstruction *decoded,
                           const ZydisDecodedOperand *operand)
{
    if (!decoded->cpu_flags) {
        return 0;
    }
    /* A count of 0 leaves all as they are; strings may have no element to compare. */
    bool is_known = true;
    bool has_count = depends_on_count(decoded->mnemonic);
    unsigned count = has_count ? shift_count(decoded, operand, NULL, &is_known) : 1;
    bool is_conditional =
        !is_known || count == 0 ||
        decoded->attributes & (ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE);
    uint32_t written = (decoded->cpu_flags->modified | decoded->cpu_flags->set_0 |
                        decoded->cpu_flags->set_1) &
                       X86_FLAGS_ARITH;

    return is_conditional ? 0 : written;
}

bool undefined_follow(const ZydisDecodedInstruction *decoded,
                      const ZydisDecodedOperand *operand, uint32_t *flags)
{
    uint32_t reads =
        decoded->cpu_flags ? decoded->cpu_flags->tested & X86_FLAGS_ARITH : 0;
    uint32_t undefines = undefined_by(decoded, operand, NULL);
    bool is_safe = !(reads & *flags);

    *flags = (*flags & ~(defined_by(decoded, operand) & ~undefines)) | undefines;
    return is_safe;
}

static void describe(const ZydisDecodedInstruction *decoded,
                     const ZydisDecodedOperand *operand, const struct isa_case *state,
                     struct node *node)
{
    bool is_branch = decoded->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE;

    node->reads = decoded->cpu_flags ? decoded->cpu_flags->tested & X86_FLAGS_ARITH : 0;
    node->undefines = undefined_by(decoded, operand, state);
    node->defines = defined_by(decoded, operand) & ~node->undefines;
    node->target = -1;
    node->falls_through = decoded->mnemonic != ZYDIS_MNEMONIC_JMP &&
                          decoded->mnemonic != ZYDIS_MNEMONIC_RET;
    node->is_call = decoded->mnemonic == ZYDIS_MNEMONIC_CALL;
    node->is_return = decoded->mnemonic == ZYDIS_MNEMONIC_RET;
    if (is_branch && decoded->raw.imm[0].is_relative) {
        node->target =
            node->offset + decoded->length + (int32_t)decoded->raw.imm[0].value.s;
        node->falls_through &= !node->is_call; /* but returns */
    } else {
        node->is_indirect = is_branch && !node->is_return;
    }
}

/* Decodes the code in a line, from its start. */
static void decode(const struct isa_case *test, struct flow *flow)
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    unsigned at = 0;

    flow->count = 0;
    flow->anywhere = 0;
    while (at < test->code_length) {
        struct node *node = &flow->node[flow->count];

        *node = (struct node){.offset = (uint16_t)at};
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(test->bits),
                                                 test->code + at, test->code_length - at,
                                                 &decoded, operand))) {
            break;
        }
        describe(&decoded, operand, at == 0 ? test : NULL, node);
        flow->count++;
        at += decoded.length;
    }
    flow->node[flow->count++] = (struct node){.offset = (uint16_t)at, .target = -1};
}

static struct node *find(struct flow *flow, int64_t offset)
{
    for (unsigned i = 0; i < flow->count; i++) {
        if (flow->node[i].offset == offset) {
            return &flow->node[i];
        }
    }
    return NULL;
}

static bool merge(struct node *node, uint32_t flags)
{
    bool is_new = flags & ~node->in;

    node->in |= flags;
    return is_new;
}

/* One round; true if anything has changed. */
static bool propagate(struct flow *flow)
{
    bool has_changed = false;

    for (unsigned i = 0; i + 1 < flow->count; i++) {
        struct node *node = &flow->node[i];
        uint32_t out = (node->in & ~node->defines) | node->undefines;

        flow->anywhere |= out;
        if (node->falls_through) {
            has_changed |= merge(&flow->node[i + 1], out);
        }
        struct node *target = node->target >= 0 ? find(flow, node->target) : NULL;
        if (target) {
            has_changed |= merge(target, out);
        }
        for (unsigned k = 0; k < flow->count; k++) {
            bool is_reached =
                node->is_indirect || (node->is_return && k && flow->node[k - 1].is_call);
            has_changed |= is_reached && merge(&flow->node[k], out);
        }
    }
    return has_changed;
}

static void follow(const struct isa_case *test, struct flow *flow)
{
    decode(test, flow);
    while (propagate(flow)) {
    }
}

uint32_t undefined_at(const struct isa_case *test, uint64_t rip)
{
    static struct flow flow;

    follow(test, &flow);
    int64_t offset = (int64_t)(rip - ISA_CODE - test->code_offset);
    struct node *last = &flow.node[flow.count - 1];
    const struct node *node = offset == last->offset + 1 ? last : find(&flow, offset);
    return node ? node->in : flow.anywhere;
}

bool undefined_is_read(const struct isa_case *test)
{
    static struct flow flow;

    follow(test, &flow);
    for (unsigned i = 0; i < flow.count; i++) {
        if (flow.node[i].in & flow.node[i].reads) {
            return true;
        }
    }
    return false;
}
