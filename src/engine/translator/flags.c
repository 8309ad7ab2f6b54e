/*
 * Which arithmetic flags are live where: those that somebody reads, or is shown, before
 * they are overwritten. Whatever may leave translated code shows them all: a fault pushes
 * them, an interrupt may follow. Where a block goes on in its page the code there tells
 * whether they are live any more, which is as good as the block's own: a store to it ends
 * this block, too.
 *
 * Where the flags are not kept nothing may fault until they are overwritten: who is
 * interrupted there goes on so far first (struct block's settles).
 */
#include <string.h>

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
    const struct operand *count = &insn->operand[last];
    if (count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
        return true;
    }
    unsigned mask = insn->operand[0].size == 64 ? 63 : 31;
    return (count->imm.value.u & mask) == 0;
}

static bool has_memory(const struct guest_insn *insn)
{
    return insn->accesses > 0;
}

/* One that has a function. Vector and x87 instructions fault without an access, too. */
static enum shows find_shows(const struct guest_insn *insn)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    if (mnemonic == ZYDIS_MNEMONIC_DIV || mnemonic == ZYDIS_MNEMONIC_IDIV ||
        mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B || insn->uses_vector || insn->uses_fpu) {
        return SHOWS_ALWAYS;
    }
    if (insn->emit == emit_copy || insn->emit == emit_push || insn->emit == emit_pop ||
        insn->emit == emit_leave_frame || insn->emit == emit_jmp) {
        return has_memory(insn) ? SHOWS_BY_ACCESS : SHOWS_NOTHING;
    }
    bool is_plain = insn->emit == emit_lea || insn->emit == emit_nothing ||
                    insn->emit == emit_jcc || insn->emit == emit_loop ||
                    insn->emit == emit_jrcxz;
    return is_plain ? SHOWS_NOTHING : SHOWS_ALWAYS;
}

static bool has_store(const struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        if (insn->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            insn->operand[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
            return true;
        }
    }
    return false;
}

void flags_count_bits(struct guest_insn *insn)
{
    insn->flags_kill = may_shift_by_zero(insn) ? 0 : insn->flags_write;
}

void flags_find(const struct emit *emit, struct guest_insn *insn)
{
    insn->stores = insn->can_recover = insn->may_be_left = false;
    insn->is_call = insn->emit == emit_call;
    if (!insn->emit || insn->emit == emit_syscall || insn->emit == emit_sysret) {
        /* The interpreter needs all, and gives all; so do these. */
        insn->flags_read = X86_FLAGS_ARITH;
        insn->flags_write = insn->flags_kill = 0;
        insn->shows = SHOWS_NOTHING;
        return;
    }
    insn->shows = find_shows(insn);
    insn->counts_bits = insn->decoded.raw.imm[0].size && is_shift(insn->decoded.mnemonic);
    insn->stores = emit->cache->looks && insn->emit != emit_call && has_store(insn);
    insn->can_recover = insn->emit == emit_copy || insn->emit == emit_push ||
                        insn->emit == emit_pop || insn->emit == emit_leave_frame ||
                        insn->emit == emit_call;
    insn->may_be_left =
        insn->can_recover && (insn->shows != SHOWS_NOTHING || insn->stores);
    insn->flags_read = insn->decoded.flags_tested & X86_FLAGS_ARITH;
    insn->flags_write = insn->decoded.flags_written & X86_FLAGS_ARITH;
    if (insn->emit == emit_read_control) {
        insn->flags_write = 0; /* they are undefined, and stay */
    }
    flags_count_bits(insn);
}

bool flags_are_kept(const struct guest_insn *insn)
{
    bool is_fit = insn->emit == emit_copy || insn->emit == emit_push ||
                  insn->emit == emit_pop || insn->emit == emit_leave_frame;
    if (!is_fit || !insn->flags_awaited) {
        return false;
    }
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        ZydisRegister segment = insn->operand[i].mem.segment;
        if (insn->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            (segment == ZYDIS_REGISTER_FS || segment == ZYDIS_REGISTER_GS)) {
            return false; /* whose base is added */
        }
    }
    return true;
}

static bool has_check(const struct guest_insn *insn)
{
    return has_memory(insn) && insn->access.kind != ACCESS_MEMBER &&
           insn->emit != emit_lea && insn->emit != emit_nothing;
}

bool flags_are_spilled(const struct guest_insn *insn)
{
    return has_check(insn) && !flags_are_kept(insn);
}

/* ---- behind the block ---------------------------------------------------------------
 */

/* The flags that an instruction overwrites whatever it is given, so that nobody sees what
 * they were before, as flags_find has it. Less is safe. */
static uint32_t find_kill(const struct decoded *decoded)
{
    bool has_repeat =
        decoded->attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE |
                               ZYDIS_ATTRIB_HAS_REPNE | ZYDIS_ATTRIB_HAS_LOCK);
    if (has_repeat || is_shift(decoded->mnemonic) ||
        decoded->meta.exception_class != ZYDIS_EXCEPTION_CLASS_NONE) {
        return 0;
    }
    return decoded->flags_written & X86_FLAGS_ARITH;
}

/* An operand in memory: by ModRM, or MOV between the accumulator and an address. */
static bool may_access(const struct decoded *decoded)
{
    if (decoded->mnemonic == ZYDIS_MNEMONIC_LEA ||
        decoded->mnemonic == ZYDIS_MNEMONIC_NOP) {
        return false;
    }
    bool is_moffs = decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
                    (decoded->opcode & 0xfc) == 0xa0;
    return is_moffs ||
           (decoded->attributes & ZYDIS_ATTRIB_HAS_MODRM && decoded->raw.modrm.mod != 3);
}

/* MOV from and to segment registers; those of control and debug registers are
 * privileged. */
static bool names_segment(const struct decoded *decoded)
{
    return decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
           (decoded->opcode & 0xfd) == 0x8c;
}

/* May it be followed: does it go on behind itself, and cannot leave? */
static bool is_plain(const struct decoded *decoded)
{
    switch (decoded->meta.category) {
    case ZYDIS_CATEGORY_BINARY:
    case ZYDIS_CATEGORY_BITBYTE:
    case ZYDIS_CATEGORY_CMOV:
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_LOGICAL:
    case ZYDIS_CATEGORY_NOP:
    case ZYDIS_CATEGORY_SHIFT:
    case ZYDIS_CATEGORY_WIDENOP:
        break;
    default:
        if (decoded->mnemonic != ZYDIS_MNEMONIC_LEA) {
            return false;
        }
    }
    return decoded->mnemonic != ZYDIS_MNEMONIC_DIV &&
           decoded->mnemonic != ZYDIS_MNEMONIC_IDIV &&
           decoded->meta.exception_class == ZYDIS_EXCEPTION_CLASS_NONE &&
           decoded->meta.isa_ext != ZYDIS_ISA_EXT_MMX &&
           !(decoded->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) && !may_access(decoded) &&
           !names_segment(decoded);
}

/* The bytes at an offset of the page, of which a store ends the block. */
static unsigned read_ahead(struct emit *emit, unsigned offset,
                           uint8_t bytes[INSN_BYTES_MAX])
{
    const struct block_source *source = &emit->block->source;
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
    int64_t start = offset;
    for (unsigned i = 0; i < AHEAD_MAX && live; i++) {
        uint8_t bytes[INSN_BYTES_MAX] = {0};
        if (!emit_can_link(emit, offset)) {
            break;
        }
        unsigned room = read_ahead(emit, (unsigned)offset, bytes);
        const struct decoded *decoded = decode_ahead(emit, bytes, room);
        if (!decoded || !is_plain(decoded) || decoded->flags_tested & live) {
            break;
        }
        live &= ~find_kill(decoded);
        memcpy(emit->ahead_bytes + (offset - start), bytes, decoded->length);
        offset += decoded->length;
        emit->ahead++;
    }
    if (live) {
        emit->ahead = 0;
        return X86_FLAGS_ARITH;
    }
    emit->ahead_at = (uint16_t)start;
    emit->ahead_size = (uint16_t)(offset - start);
    return 0;
}

/* Would it save anything, if the flags were not live at the block's end? */
static bool is_worth_it(const struct guest_insn *insn, unsigned count)
{
    for (unsigned i = count; i-- > 0;) {
        if (has_check(&insn[i])) {
            return true;
        }
        if (insn[i].flags_kill == X86_FLAGS_ARITH || insn[i].flags_read) {
            return false;
        }
    }
    return true;
}

uint32_t flags_find_end(struct emit *emit, const struct guest_insn *insn, unsigned count,
                        unsigned end)
{
    const struct guest_insn *last = &insn[count - 1];
    bool is_relative = (last->emit == emit_jmp || last->emit == emit_call) &&
                       last->operand[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
                       !last->soft_size;
    emit->ahead = 0;
    emit->ahead_at = emit->ahead_size = 0;
    if (emit->cache->counts || (last->ends_block && !is_relative) || !last->emit ||
        last->decoded.meta.category == ZYDIS_CATEGORY_COND_BR ||
        !is_worth_it(insn, count)) {
        return X86_FLAGS_ARITH;
    }
    return find_live_ahead(emit, is_relative ? end + last->operand[0].imm.value.s : end);
}

/* ---- within it ------------------------------------------------------------------- */

/* Without branches, which nobody could predict. */
void flags_find_live(struct guest_insn *insns, unsigned count, uint32_t live)
{
    bool is_awaited = false, is_last = true;
    for (unsigned i = count; i-- > 0;) {
        struct guest_insn *insn = &insns[i];
        const uint32_t kill = insn->flags_kill, read = insn->flags_read;
        bool is_shown = flags_are_shown(insn), is_shown_behind = false;
        bool is_there = is_shown;
        if (insn->stores) {
            is_shown_behind = flags_are_shown_behind(insn);
            is_there = is_shown_behind ? insn->recovery_lasts : is_shown;
        }
        unsigned recovery = is_there ? insn->recovery_found : 0u;
        uint32_t kept = recovery ? 0 : X86_FLAGS_ARITH;
        live |= (uint32_t) - (insn->is_exit & !is_last) & X86_FLAGS_ARITH;
        live |= (uint32_t)-is_shown_behind & kept;
        is_last = false;
        insn->recovery = (uint8_t)recovery;
        insn->flags_live = live;
        is_awaited &= kill != X86_FLAGS_ARITH;
        is_awaited |= (read | (insn->flags_write ? live & ~kill : 0)) != 0;
        is_awaited &= !insn->is_call & (insn->emit != NULL);
        insn->flags_awaited = is_awaited;
        live = (live & ~kill) | read | ((uint32_t)-is_shown & kept);
        insn->flags_live_before = live;
    }
}

unsigned flags_count_settling(const struct emit *emit, const struct guest_insn *insns,
                              unsigned count)
{
    uint32_t left = X86_FLAGS_ARITH;
    for (unsigned i = 0; i < count; i++) {
        left &= ~insns[i].flags_kill;
        if (!left) {
            return i + 1;
        }
    }
    return count + emit->ahead;
}
