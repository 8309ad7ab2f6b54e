/*
 * Which arithmetic flags are live where: those that somebody reads before they are
 * overwritten. Where a block goes on in its page the code there tells whether they are
 * any more, which is as good as the block's own: a store to it ends this block, too.
 */
#include "engine/translator/decode.h"

/* Shifts and rotates by zero leave the flags; rotates most of them (SDM 2B "SAL", "RCL").
 */
static bool is_shift(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
        return true;
    default:
        return false;
    }
}

static bool may_shift_by_zero(const struct guest_insn *insn)
{
    if (!is_shift(insn->decoded.mnemonic)) {
        return false;
    }
    unsigned last = insn->decoded.operand_count_visible - 1u;
    const ZydisDecodedOperand *count = &insn->operand[last];
    if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        return true;
    }
    unsigned mask = insn->operand[0].size == 64 ? 63 : 31;
    return (count->imm.value.u & mask) == 0;
}

static bool has_memory(const struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        if (insn->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            return true;
        }
    }
    return false;
}

/* Does a handler see the flags before this instruction, although it overwrites them? On
 * the way of an access that faults they are lost unless they are asked for: nobody who
 * goes on behind the fault reads them. A deterministic run keeps them. */
static bool shows_flags(const struct guest_insn *insn, bool is_exact)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    bool may_fault = mnemonic == ZYDIS_MNEMONIC_DIV || mnemonic == ZYDIS_MNEMONIC_IDIV ||
                     mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ||
                     (insn->uses_vector && has_memory(insn));
    bool may_leave =
        has_memory(insn) || insn->emit == emit_sti || insn->emit == emit_load_segment;
    return may_fault || (is_exact && may_leave);
}

bool flags_depend_on_count(const struct guest_insn *insn)
{
    return insn->decoded.raw.imm[0].size && is_shift(insn->decoded.mnemonic);
}

void flags_find(struct guest_insn *insn, bool is_exact)
{
    if (!insn->emit || insn->emit == emit_syscall || insn->emit == emit_sysret) {
        /* The interpreter needs all, and gives all; so do these. */
        insn->flags_read = X86_FLAGS_ARITH;
        insn->flags_write = insn->flags_kill = 0;
        return;
    }
    insn->flags_needed = shows_flags(insn, is_exact) ? X86_FLAGS_ARITH : 0;
    const ZydisAccessedFlags *flags = insn->decoded.cpu_flags;
    if (!flags) {
        return;
    }
    insn->flags_read = flags->tested & X86_FLAGS_ARITH;
    insn->flags_write =
        (flags->modified | flags->set_0 | flags->set_1 | flags->undefined) &
        X86_FLAGS_ARITH;
    insn->flags_kill = may_shift_by_zero(insn) ? 0 : insn->flags_write;
}

bool flags_are_spilled(const struct guest_insn *insn)
{
    return has_memory(insn) && insn->access.kind != ACCESS_MEMBER &&
           insn->emit != emit_lea && insn->emit != emit_nothing;
}

/* ---- behind the block ---------------------------------------------------------------
 */

/* So many instructions are looked at. */
#define AHEAD_MAX 8

/* The flags that an instruction overwrites whatever it is given, so that nobody sees what
 * they were before, as flags_find has it. Less is safe. */
static uint32_t find_kill(const ZydisDecodedInstruction *decoded)
{
    const ZydisAccessedFlags *flags = decoded->cpu_flags;
    bool has_repeat =
        decoded->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                               ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_LOCK);
    if (!flags || has_repeat || is_shift(decoded->mnemonic) ||
        decoded->meta.exception_class != ZYDIS_EXCEPTION_CLASS_NONE) {
        return 0;
    }
    return (flags->modified | flags->set_0 | flags->set_1 | flags->undefined) &
           X86_FLAGS_ARITH;
}

/* May it be followed: does it go on behind itself, and show the flags to nobody? */
static bool is_plain(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_POP:
    case ZYDIS_CATEGORY_PUSH:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_SSE:
    case ZYDIS_CATEGORY_WIDENOP:
        break;
    default:
        return decoded->mnemonic == ZYDIS_MNEMONIC_LEA;
    }
    return decoded->mnemonic != ZYDIS_MNEMONIC_DIV &&
           decoded->mnemonic != ZYDIS_MNEMONIC_IDIV;
}

/* The bytes at an offset of the page, of which a store ends the block. */
static unsigned read_ahead(struct emit *emit, unsigned offset,
                           uint8_t bytes[INSN_BYTES_MAX])
{
    const struct block_source *source = &emit->block->source[0];
    unsigned start = emit->block->place.offset;
    if (offset < (start & -64u) || offset + INSN_BYTES_MAX > emit->watched_end) {
        unsigned end = offset + INSN_BYTES_MAX;
        unsigned size = end > FRAME_SIZE ? FRAME_SIZE - offset : INSN_BYTES_MAX;
        /* A store before this is seen at the end (source->version). */
        memory_code_watch(emit->cache->memory, source->frame, offset, size);
    }
    return code_read(emit->cache, &emit->block->place, offset, bytes);
}

/* The flags that are live at an offset of the page, or all. */
static uint32_t find_live_ahead(struct emit *emit, int64_t offset)
{
    uint32_t live = X86_FLAGS_ARITH;
    for (unsigned i = 0; i < AHEAD_MAX && live; i++) {
        uint8_t bytes[INSN_BYTES_MAX] = {0};
        ZydisDecodedInstruction scratch;
        if (!emit_can_link(emit, offset)) {
            break;
        }
        unsigned room = read_ahead(emit, (unsigned)offset, bytes);
        const ZydisDecodedInstruction *decoded =
            decode_known(emit, bytes, room, &scratch);
        if (!decoded || !is_plain(decoded) ||
            (decoded->cpu_flags && decoded->cpu_flags->tested & live)) {
            break;
        }
        live &= ~find_kill(decoded);
        offset += decoded->length;
    }
    return live ? X86_FLAGS_ARITH : 0;
}

/* Would it save anything, if the flags were not live at the block's end? */
static bool is_worth_it(const struct guest_insn *insn, unsigned count)
{
    for (unsigned i = count; i-- > 0;) {
        if (flags_are_spilled(&insn[i])) {
            return true;
        }
        if (insn[i].flags_kill == X86_FLAGS_ARITH || insn[i].flags_read) {
            return false;
        }
    }
    return true;
}

/* Those live where the block ends. */
static uint32_t find_live_at_end(struct emit *emit, const struct guest_insn *insn,
                                 unsigned count, unsigned end)
{
    const struct guest_insn *last = &insn[count - 1];
    bool is_relative = (last->emit == emit_jmp || last->emit == emit_call) &&
                       last->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
    if (emit->cache->counts || (last->ends_block && !is_relative) || !last->emit ||
        last->decoded.meta.category == ZYDIS_CATEGORY_COND_BR ||
        !is_worth_it(insn, count)) {
        return X86_FLAGS_ARITH;
    }
    return find_live_ahead(emit, is_relative ? end + last->operand[0].imm.value.s : end);
}

static bool is_exit(const struct guest_insn *insn)
{
    return insn->decoded.meta.category == ZYDIS_CATEGORY_COND_BR || insn->ends_block;
}

void flags_find_live(struct emit *emit, struct guest_insn *insns, unsigned count,
                     unsigned end)
{
    uint32_t live = find_live_at_end(emit, insns, count, end);
    for (unsigned i = count; i-- > 0;) {
        struct guest_insn *insn = &insns[i];
        if (is_exit(insn) && i != count - 1) {
            live = X86_FLAGS_ARITH;
        }
        insn->flags_live = live;
        live = (live & ~insn->flags_kill) | insn->flags_read | insn->flags_needed;
        insn->flags_live_before = live;
    }
}
