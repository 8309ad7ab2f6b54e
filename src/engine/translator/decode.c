#include "engine/translator/decode.h"

#include <string.h>

#include "interpreter/insn.h"

/* ---- working one out -------------------------------------------------------------- */

/* Branches by near or far, interrupts, and what the interpreter's table says ends a
 * block. */
static bool ends_block(const struct guest_insn *insn)
{
    const struct insn_row *row;
    switch (insn->decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        return false;
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return true;
    default:
        break;
    }
    if (insn->emit) {
        return false;
    }
    for (unsigned i = 0; (row = insn_find_row(insn->decoded.mnemonic, i)); i++) {
        if (row->flags & ROW_ENDS_BLOCK) {
            return true;
        }
    }
    return false;
}

static bool needs_avx(const struct guest_insn *insn)
{
    return insn->uses_vector && insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

/* All fields but bytes and offset. */
static bool work_out(struct emit *emit, struct guest_insn *insn, unsigned room)
{
    const ZydisDecoder *decoder = code_decoder(emit->cache, emit->mode);
    ZyanStatus status =
        ZydisDecoderDecodeFull(decoder, insn->bytes, room, &insn->decoded, insn->operand);
    if (status == ZYDIS_STATUS_NO_MORE_DATA && room < INSN_BYTES_MAX) {
        return false;
    }
    if (!ZYAN_SUCCESS(status)) {
        insn->decoded.length = 0;
        insn->decoded.mnemonic = ZYDIS_MNEMONIC_INVALID;
        insn->ends_block = true; /* the interpreter raises what it raises */
    } else {
        insn->emit = emit_find(emit->cpu, insn);
        if (needs_avx(insn) && !(emit->mode & MODE_AVX)) {
            insn->emit = NULL;
        }
        insn->ends_block = ends_block(insn);
    }
    flags_find(insn);
    if (insn->emit == emit_copy) {
        emit_copy_plan(emit, insn);
    }
    return true;
}

/* ---- kinds ------------------------------------------------------------------------ */

/* A kind's head: all bytes before displacement and immediate. */
struct head {
    uint64_t bytes;
    unsigned size; /* 0: none that is remembered */
};

struct known {
    uint64_t head;
    uint8_t mode; /* KIND_MODE */
    bool is_known;
    uint8_t operands; /* that its users may look at */
    int8_t immediate; /* number of the operand that is one, or -1 */
    struct guest_insn insn;
};

#define KNOWN_COUNT 4096u
#define KIND_MODE   (MODE_32 | MODE_AVX)

/* Users look at the first three, whatever there are. */
#define OPERANDS_MIN 3u

size_t decode_size(void)
{
    return KNOWN_COUNT * sizeof(struct known);
}

static struct known *find_slot(const struct emit *emit, struct head head)
{
    uint64_t hash = (head.bytes ^ (emit->mode & KIND_MODE)) * 0x9e3779b97f4a7c15ull;
    return (struct known *)emit->cache->known + (hash >> 40) % KNOWN_COUNT;
}

static bool is_prefix(uint8_t byte)
{
    switch (byte) {
    case 0x26:
    case 0x2e:
    case 0x36:
    case 0x3e:
    case 0x64:
    case 0x65:
    case 0x66:
    case 0x67:
    case 0xf0:
    case 0xf2:
    case 0xf3:
        return true;
    default:
        return false;
    }
}

/* SDM 2D A.3: opcodes with a ModRM byte, a bit for each low half in the row of the high
 * half. Where 32-bit and 64-bit code differ, and LES, LDS, BOUND, VEX, EVEX and XOP may
 * be meant, nothing is remembered. */
static const uint16_t has_modrm[16] = {
    0x0f0f, 0x0f0f, 0x0f0f, 0x0f0f, 0,      0,      0x0a08, 0,
    0x7fff, 0,      0,      0,      0x00c3, 0xff0f, 0,      0xc0c0,
};
static const uint16_t has_modrm_0f[16] = {
    0x200f, 0xffff, 0xff0f, 0,      0xffff, 0xffff, 0xffff, 0xff7f,
    0,      0xffff, 0xf838, 0xffff, 0x00ff, 0xffff, 0xffff, 0xffff,
};

static bool is_in(const uint16_t opcodes[16], uint8_t opcode)
{
    return opcodes[opcode >> 4] >> (opcode & 15) & 1;
}

/* Behind the opcode that begins at i, and whether ModRM follows; 0: a kind that is not
 * remembered. */
static unsigned skip_opcode(const uint8_t *bytes, unsigned i, bool is_64, bool *has_mod)
{
    uint8_t opcode = bytes[i];
    if (opcode == 0x0f) {
        opcode = bytes[i + 1];
        *has_mod = true;
        if (opcode == 0x38 || opcode == 0x3a) {
            return i + 3;
        }
        *has_mod = is_in(has_modrm_0f, opcode);
        return opcode == 0x0f ? 0 : i + 2; /* 3DNow! has its opcode at the end */
    }
    if (opcode == 0xc4 || opcode == 0xc5) {
        unsigned at = i + (opcode == 0xc5 ? 2 : 3);
        unsigned map = opcode == 0xc5 ? 1 : bytes[i + 1] & 31;
        *has_mod = map != 1 || bytes[at] != 0x77; /* VZEROALL, VZEROUPPER */
        return is_64 ? at + 1 : 0;
    }
    *has_mod = is_in(has_modrm, opcode);
    /* MOV between the accumulator and an address has a displacement of its own kind. */
    bool is_odd = opcode == 0x62 || opcode == 0x8f || (opcode & 0xfc) == 0xa0;
    return is_odd ? 0 : i + 1;
}

static struct head find_head(const struct emit *emit, const uint8_t *bytes, unsigned room)
{
    const struct head none = {0, 0};
    unsigned i = 0;
    while (i < 4 && is_prefix(bytes[i])) {
        if (bytes[i] == 0x67 && !emit->is_64) {
            return none; /* ModRM of 16-bit addresses is another */
        }
        i++;
    }
    if (emit->is_64 && (bytes[i] & 0xf0) == 0x40) {
        i++;
    }
    bool has_mod = false;
    i = skip_opcode(bytes, i, emit->is_64, &has_mod);
    if (i && has_mod) {
        uint8_t modrm = bytes[i++];
        i += modrm < 0xc0 && (modrm & 7) == 4; /* SIB */
    }
    struct head head = {0, i};
    if (i == 0 || i > sizeof(head.bytes) || i > room) {
        return none;
    }
    memcpy(&head.bytes, bytes, sizeof(head.bytes));
    head.bytes &= ~0ull >> (64 - 8 * i);
    return head;
}

static bool is_immediate(const ZydisDecodedOperand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
           operand->encoding >= ZYDIS_OPERAND_ENCODING_UIMM8;
}

/* Is all that differs among instructions of this head a displacement of the operand in
 * memory, and an immediate behind it that is an operand's value? */
static bool is_regular(const struct guest_insn *insn, struct head head)
{
    const ZydisDecodedInstruction *decoded = &insn->decoded;
    unsigned end = head.size;
    if (decoded->raw.disp.size) {
        if (decoded->raw.disp.offset != end || decoded->raw.disp.size > 32) {
            return false;
        }
        end += decoded->raw.disp.size / 8;
    }
    if (decoded->raw.imm[0].size) {
        if (decoded->raw.imm[0].offset != end) {
            return false;
        }
        end += decoded->raw.imm[0].size / 8;
    }
    if (end != decoded->length || decoded->raw.imm[1].size) {
        return false;
    }
    unsigned immediates = 0;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &insn->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_POINTER ||
            operand->encoding == ZYDIS_OPERAND_ENCODING_IS4) {
            return false;
        }
        if (is_immediate(operand)) {
            immediates++;
            if (operand->imm.value.u != decoded->raw.imm[0].value.u) {
                return false;
            }
        }
    }
    return immediates == (decoded->raw.imm[0].size != 0);
}

static void remember(struct known *known, const struct emit *emit,
                     const struct guest_insn *insn, struct head head)
{
    if (insn->decoded.length == 0 || !is_regular(insn, head)) {
        return;
    }
    unsigned count = insn->decoded.operand_count;
    known->head = head.bytes;
    known->mode = emit->mode & KIND_MODE;
    known->is_known = true;
    known->operands = (uint8_t)(count < OPERANDS_MIN ? OPERANDS_MIN : count);
    known->immediate = -1;
    known->insn = *insn;
    for (unsigned i = 0; i < count; i++) {
        if (is_immediate(&insn->operand[i])) {
            known->immediate = (int8_t)i;
        }
    }
}

static const struct known *find_known(const struct emit *emit, struct head head)
{
    const struct known *known = find_slot(emit, head);
    bool is_it = head.size && known->is_known && known->head == head.bytes &&
                 known->mode == (emit->mode & KIND_MODE);
    return is_it ? known : NULL;
}

/* size: 8 to 64 bits. */
static int64_t read_signed(const uint8_t *bytes, unsigned size)
{
    int64_t value = 0;
    memcpy(&value, bytes, size / 8);
    return (int64_t)((uint64_t)value << (64 - size)) >> (64 - size);
}

static void fill_in(struct guest_insn *insn, const struct known *known)
{
    ZydisDecodedInstruction *decoded = &insn->decoded;
    if (decoded->raw.disp.size) {
        int64_t disp =
            read_signed(insn->bytes + decoded->raw.disp.offset, decoded->raw.disp.size);
        decoded->raw.disp.value = disp;
        for (unsigned i = 0; i < decoded->operand_count; i++) {
            ZydisDecodedOperand *operand = &insn->operand[i];
            if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY &&
                operand->mem.disp.has_displacement) {
                operand->mem.disp.value = disp;
            }
        }
    }
    if (known->immediate >= 0) {
        unsigned size = decoded->raw.imm[0].size;
        int64_t value = read_signed(insn->bytes + decoded->raw.imm[0].offset, size);
        if (!decoded->raw.imm[0].is_signed) {
            value &= (int64_t)(~0ull >> (64 - size));
        }
        decoded->raw.imm[0].value.s = value;
        insn->operand[known->immediate].imm.value.s = value;
    }
}

/* False: the bytes end before it. */
static bool recall(const struct emit *emit, struct guest_insn *insn,
                   const struct known *known, unsigned room)
{
    const struct guest_insn *from = &known->insn;
    if (from->decoded.length > room) {
        return false;
    }
    insn->decoded = from->decoded;
    memcpy(insn->operand, from->operand, known->operands * sizeof(insn->operand[0]));
    memcpy(&insn->emit, &from->emit, sizeof(*insn) - offsetof(struct guest_insn, emit));
    fill_in(insn, known);
    if (flags_depend_on_count(insn)) {
        flags_find(insn);
    }
    return true;
}

bool decode_insn(struct emit *emit, struct guest_insn *insn)
{
    const struct code_place *place = &emit->block->place;
    unsigned room = code_read(emit->cache, place, insn->offset, insn->bytes);
    struct head head = find_head(emit, insn->bytes, room);
    const struct known *known = find_known(emit, head);
    if (known) {
        return recall(emit, insn, known, room);
    }
    unsigned offset = insn->offset;
    uint8_t bytes[INSN_BYTES_MAX];
    memcpy(bytes, insn->bytes, sizeof(bytes));
    memset(insn, 0, sizeof(*insn));
    memcpy(insn->bytes, bytes, sizeof(bytes));
    insn->offset = (uint16_t)offset;
    if (!work_out(emit, insn, room)) {
        return false;
    }
    if (head.size) {
        remember(find_slot(emit, head), emit, insn, head);
    }
    return true;
}

const ZydisDecodedInstruction *decode_known(const struct emit *emit,
                                            const uint8_t bytes[INSN_BYTES_MAX],
                                            unsigned room,
                                            ZydisDecodedInstruction *decoded)
{
    const struct known *known = find_known(emit, find_head(emit, bytes, room));
    if (known) {
        return known->insn.decoded.length <= room ? &known->insn.decoded : NULL;
    }
    ZyanStatus status = ZydisDecoderDecodeInstruction(
        code_decoder(emit->cache, emit->mode), NULL, bytes, room, decoded);
    return ZYAN_SUCCESS(status) ? decoded : NULL;
}
