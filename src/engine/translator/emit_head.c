/* What a block begins with: its ways in, and what is looked at there. */
#include "engine/translator/emit.h"

#include <assert.h>

static void fs_compare(struct code *code, unsigned size, int32_t offset, uint32_t value)
{
    code8(code, 0x64);
    if (size == 2) {
        code8(code, 0x66);
    }
    code8(code, size == 1 ? 0x80 : 0x81);
    CODE(code, "\x3c\x25");
    code32(code, (uint32_t)offset);
    code_bytes(code, &value, size);
}

static bool needs_avx(const struct guest_insn *insn)
{
    return insn->uses_vector && insn->decoded.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
}

static struct gate find_gate(const struct guest_insn *insns, unsigned count)
{
    struct gate gate = {STATUS_ATTENTION, 1, 0};
    for (unsigned i = 0; i < count; i++) {
        const struct guest_insn *insn = &insns[i];
        gate.fpu |= insn->emit && insn->uses_fpu;
        gate.vector |= insn->emit && insn->uses_vector;
        gate.avx |= insn->emit && needs_avx(insn);
    }
    /* Enough of the bytes of frame.status, and what they must be. */
    if (gate.avx) {
        gate.first = gate.fpu ? STATUS_FPU : STATUS_ATTENTION;
        gate.size = 4;
        gate.value = gate.fpu ? 0x00010001 : 0x0100;
    } else if (gate.fpu) {
        gate.first = gate.vector ? STATUS_ZERO : STATUS_FPU;
        gate.size = gate.vector ? 4 : 2;
        gate.value = gate.vector ? 0x01000100 : 0x0001;
    } else if (gate.vector) {
        gate.size = 2;
        gate.value = 0x0100;
    }
    return gate;
}

/* The same without flags. */
static void compare_without_flags(struct emit *emit, const struct gate *gate)
{
    struct code *code = &emit->code;
    int32_t offset = frame_status(gate->first);
    CODE(code, "\x4c\x8d\x81"); /* LEA r8, [rcx + disp32]: PATCHED_SIZE */
    code32(code, 0);
    code8(code, 0x64);
    if (gate->size == 4) {
        CODE(code, "\x8b\x0c\x25"); /* MOV ecx */
    } else {
        CODE(code, "\x0f\xb7\x0c\x25"); /* MOVZX ecx */
    }
    code32(code, (uint32_t)offset);
    if (gate->value) {
        struct host_mem difference = {HOST_RCX, HOST_NONE, 0, -(int32_t)gate->value};
        host_op_mem(code, false, HOST_LEA, HOST_RCX, &difference);
    }
    CODE(code, "\xe3\x08"); /* JRCXZ */
    host_mov(code, HOST_RCX, HOST_R8);
}

/* Reads where frame.poll says, which faults if attention is wanted: no flags change, and
 * nobody has to branch. */
static void read_poll(struct code *code)
{
    const struct host_mem place = {HOST_R9, HOST_NONE, 0, 0};
    const uint8_t *start = code->at;
    host_fs(code, true, HOST_MOV_LOAD, HOST_R9, FRAME(poll));
    assert(code->at - start == HEAD_POLL_SIZE);
    host_op_mem(code, false, HOST_MOV_LOAD, HOST_R9, &place);
}

/* The look at what the block needs, behind which flags are where they were: in the
 * host's, or somewhere else. */
static void emit_look(struct emit *emit, bool keeps_flags)
{
    const struct gate *gate = &emit->gate;
    struct code *code = &emit->code;
    const uint8_t *look = code->at;
    uint8_t *place = NULL;
    if (gate->size == 1) {
        read_poll(code);
    } else if (!keeps_flags) {
        fs_compare(code, gate->size, frame_status(gate->first), gate->value);
        place = host_jcc(code, HOST_NE);
    } else {
        compare_without_flags(emit, gate);
        place = host_jmp(code);
        host_mov(code, HOST_RCX, HOST_R8);
    }
    struct cold *cold = emit_cold(emit, COLD_LEAVE, place);
    cold->reason = LEAVE_HEAD;
    cold->from_host = keeps_flags;
    emit_patch(emit, look, cold);
}

/* Where a head wants the guest's flags. */
enum head_flags {
    HEAD_NOWHERE, /* the block overwrites them: they may be anywhere */
    HEAD_HOST,    /* somebody reads them first */
    HEAD_MEMORY,  /* a check overwrites the host's first: they would go there, anyhow */
};

static enum head_flags find_head_flags(const struct emit *emit,
                                       const struct guest_insn *insns)
{
    /* A limit ends the run at the head, and no instruction behind it. */
    if (!emit->cache->counts && !insns[0].flags_live_before) {
        return HEAD_NOWHERE;
    }
    for (unsigned i = 0; i < emit->block->count; i++) {
        const struct guest_insn *insn = &insns[i];
        if (!insn->emit || flags_are_spilled(insn)) {
            return HEAD_MEMORY;
        }
        if (insn->flags_read || insn->flags_write) {
            break;
        }
    }
    return HEAD_HOST;
}

static uint32_t place_of(const struct emit *emit)
{
    return (uint32_t)(emit->code.at - emit->cache->write);
}

/* entry_memory and entry, of which one brings the flags to where they are wanted, and
 * falls into the other; before them entry_jump. */
static void emit_entries(struct emit *emit, enum head_flags wanted)
{
    struct block *block = emit->block;
    struct code *code = &emit->code;
    uint8_t *jump = NULL;
    if (emit->early_count && wanted == HEAD_HOST) {
        wanted = HEAD_MEMORY; /* the checks overwrite the host's */
    }
    block->entry_jump = place_of(emit);
    if (!emit->is_fixed) {
        emit_code_base(emit);
        jump = wanted == HEAD_MEMORY ? host_jmp(code) : NULL;
    }
    host_align(code, 8, 0);
    block->entry = block->entry_memory = place_of(emit);
    emit->flags_in_memory = wanted == HEAD_HOST;
    emit->flags_are_stored = false;
    if (wanted == HEAD_HOST) {
        emit_restore_flags(emit);
        emit->flags_are_stored = false; /* not by whoever comes in here */
        host_align(code, 8, 0);
        block->entry = place_of(emit);
    } else if (wanted == HEAD_MEMORY) {
        emit_spill_flags(emit, X86_FLAGS_ARITH);
        host_align(code, 8, 0);
        block->entry_memory = place_of(emit);
    }
    if (emit->is_fixed) {
        block->entry_jump = block->entry_memory;
    } else if (jump) {
        host_patch(jump, code->at);
    }
}

/* The early checks, and behind them the loop's ways in: where the flags are then. */
static enum head_flags emit_checks(struct emit *emit, const struct guest_insn *first,
                                   enum head_flags wanted)
{
    struct block *block = emit->block;
    emit_early(emit, false);
    if (emit->loop_end < 0) {
        host_align(&emit->code, 8, 0);
        return wanted == HEAD_HOST ? HEAD_MEMORY : wanted;
    }
    uint32_t start = block_start(block);
    if (wanted == HEAD_HOST) {
        emit->keeps_base = first->keeps_base;
        emit_restore_flags(emit);
    } else if (wanted == HEAD_MEMORY) {
        uint8_t *over = host_jmp(&emit->code);
        block->loop[0] = (uint16_t)(place_of(emit) - start);
        emit_note_flags(emit);
        emit_spill_flags(emit, X86_FLAGS_ARITH);
        host_align(&emit->code, 8, 0);
        host_patch(over, emit->code.at);
    }
    host_align(&emit->code, 8, 0);
    emit->flags_are_stored = wanted == HEAD_MEMORY;
    uint16_t here = (uint16_t)(place_of(emit) - start);
    if (wanted != HEAD_MEMORY) {
        block->loop[0] = here;
    }
    if (wanted != HEAD_HOST) {
        block->loop[1] = here;
    }
    return wanted;
}

/* What is kept of the head; settles: struct block's. */
static void begin_head(struct emit *emit, const struct guest_insn *insns,
                       unsigned settles)
{
    struct block *block = emit->block;
    const struct gate gate = emit->gate = find_gate(insns, block->count);
    block->patch_count = 0;
    block->loop[0] = block->loop[1] = 0;
    block->early = 0;
    block->settles = (uint8_t)settles;
    block->status[0] = gate.fpu;
    block->status[1] = gate.vector;
    block->needs_avx = gate.avx;
}

/*
 * Who leaves at a head that does not need the flags has lost them, unless he came by a
 * jump or a return (struct block's settles).
 *
 * The head has two ways in, entry_memory and entry, of which one brings the flags to
 * where the block wants them and falls into the other; before them, if the code is
 * position-independent, that of jumps, which brought their target in r8; there the look
 * at frame.status, whose first instruction becomes a jump when the block dies.
 */
void emit_head(struct emit *emit, const struct guest_insn *insns)
{
    enum head_flags wanted = find_head_flags(emit, insns);
    bool is_lost = wanted == HEAD_NOWHERE;
    begin_head(emit, insns,
               is_lost ? flags_count_settling(emit, insns, emit->block->count) : 0);
    emit_entries(emit, wanted);
    if (emit->early_count) {
        wanted = emit_checks(emit, &insns[0], wanted);
    }
    emit_look(emit, wanted == HEAD_HOST);
}

/* Of an unrolled loop: come to by its branch alone, with the flags in the host's. */
void emit_round_head(struct emit *emit, const struct guest_insn *insns)
{
    struct block *block = emit->block;
    struct code *code = &emit->code;
    const uint32_t spilled = emit->round_spills ? X86_FLAGS_ARITH : 0;
    uint8_t *over = NULL;
    bool is_lost = !emit->round_spills && !emit->round_recovery;
    begin_head(emit, insns, is_lost ? flags_count_settling(emit, insns, emit->round) : 0);
    host_align(code, 8, 0);
    block->entry = block->entry_memory = block->entry_jump = place_of(emit);
    emit_note_flags(emit);
    if (emit->early_count) {
        emit_spill_flags(emit, spilled);
        emit_early(emit, false);
        over = emit->round_spills ? host_jmp(code) : NULL;
    }
    host_align(code, 8, 0);
    block->loop[0] = (uint16_t)(place_of(emit) - block->entry);
    emit_note_flags(emit);
    emit_spill_flags(emit, spilled);
    host_align(code, 8, 0);
    if (over) {
        host_patch(over, code->at);
    }
    emit_look(emit, false);
    if (emit->cache->counts) {
        emit_limit(emit);
    }
    emit_early(emit, true);
}

void emit_gate_again(struct emit *emit, int64_t offset)
{
    const struct gate *gate = &emit->gate;
    if (gate->size > 1) {
        fs_compare(&emit->code, gate->size, frame_status(gate->first), gate->value);
        emit_goto(emit, HOST_NE, offset, 0);
    }
}

void emit_limit(struct emit *emit)
{
    host_fs(&emit->code, true, 0x81, 7, FRAME(budget)); /* CMP */
    code32(&emit->code, emit->block->count);
    struct cold *cold = emit_cold(emit, COLD_LEAVE, host_jcc(&emit->code, HOST_L));
    cold->reason = LEAVE_HEAD;
    cold->from_host = false;
}
