/*
 * Instructions that do on the host what they do on the guest: copied, with their general
 * registers renamed and their memory operand replaced by a checked host address. What the
 * encoding's fields mean: SDM 2A chapter 2.
 */
#include <assert.h>
#include <string.h>

#include "engine/translator/form.h"
#include "engine/translator/soften.h"
#include "interpreter/native.h"

/* A guest register that lives in memory and has a scratch register meanwhile. */
struct borrowed {
    uint8_t guest, host;
    bool loads, stores;
};

struct copy {
    const struct emit *emit;
    const struct guest_insn *insn;
    struct form form;
    struct borrowed borrowed[3];
    unsigned borrowed_count;
    const struct operand *memory;
    bool memory_written;
    unsigned free;    /* scratch registers, a bit each by number */
    uint8_t soft;     /* the one that holds a soft immediate */
    uint8_t lent;     /* the one that holds RDI meanwhile */
    uint8_t in_frame; /* a guest register whose place there is the memory operand */
    bool swaps;       /* it was in ModRM.reg */
};

/* Scratch registers that hold what the instruction names. */
static unsigned find_named(const struct copy *copy)
{
    unsigned named = 0;
    for (unsigned i = 0; i < copy->insn->decoded.operand_count; i++) {
        const struct operand *operand = &copy->insn->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            guest_is_gpr(operand->reg.value)) {
            unsigned guest = guest_number(operand->reg.value);
            unsigned host =
                guest_in_memory(guest) ? scratch_find(copy->emit, guest) : HOST_NONE;
            named |= host == HOST_NONE ? 0 : 1u << host;
        }
    }
    return named;
}

/* A scratch register for a guest register, the one that holds it if can be; HOST_NONE:
 * none is free. */
static unsigned take(struct copy *copy, unsigned guest)
{
    unsigned host = scratch_find(copy->emit, guest);
    if (host == HOST_NONE || !(copy->free & 1u << host)) {
        unsigned named = copy->insn->borrowed > 1 ? find_named(copy) : 0;
        unsigned free = copy->free & ~named;
        host = scratch_choose(copy->emit, free ? free : copy->free);
    }
    if (host != HOST_NONE) {
        copy->free &= ~(1u << host);
    }
    return host;
}

/* XOR of a register with itself, as compilers clear one. */
static bool is_zeroed(const struct guest_insn *insn)
{
    const struct operand *operand = insn->operand;
    return insn->decoded.mnemonic == ZYDIS_MNEMONIC_XOR && operand[0].size >= 32 &&
           operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
           operand[0].reg.value == operand[1].reg.value;
}

static int borrow(struct copy *copy, unsigned guest, const struct operand *operand)
{
    struct borrowed *borrowed = NULL;
    for (unsigned i = 0; i < copy->borrowed_count; i++) {
        if (copy->borrowed[i].guest == guest) {
            borrowed = &copy->borrowed[i];
        }
    }
    if (!borrowed) {
        unsigned host = take(copy, guest);
        if (host == HOST_NONE) {
            return -1;
        }
        borrowed = &copy->borrowed[copy->borrowed_count++];
        *borrowed = (struct borrowed){(uint8_t)guest, (uint8_t)host, false, false};
    }
    bool is_partial = operand->size < 32;
    bool is_written = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    bool is_certain = operand->actions & ZYDIS_OPERAND_ACTION_WRITE;
    bool is_read = operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    /* They leave the register if there is no bit (APM 3 "BSF"; Intel's processors, too).
     */
    ZydisMnemonic mnemonic = copy->insn->decoded.mnemonic;
    is_read |= mnemonic == ZYDIS_MNEMONIC_BSF || mnemonic == ZYDIS_MNEMONIC_BSR;
    is_read &= !is_zeroed(copy->insn);
    borrowed->stores |= is_written;
    borrowed->loads |= is_read || is_partial || (is_written && !is_certain);
    return borrowed->host;
}

/* Is a guest register had where it lies? Not if a scratch register holds it. */
static bool is_had_in_frame(struct copy *copy, unsigned guest,
                            const struct operand *operand)
{
    const struct guest_insn *insn = copy->insn;
    bool is_rm = operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM;
    if (insn->soft_size || copy->form.is_in_frame) {
        return false;
    }
    if (is_rm && insn->writes_frame) {
        return true;
    }
    for (unsigned i = 0; i < copy->borrowed_count; i++) {
        if (copy->borrowed[i].guest == guest) {
            return false;
        }
    }
    if (scratch_find(copy->emit, guest) != HOST_NONE) {
        return false;
    }
    copy->swaps =
        operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG && insn->swaps_frame;
    return copy->swaps || (is_rm && insn->reads_frame);
}

/* The host's number for a register operand; -1: it cannot be had. */
static int rename(struct copy *copy, const struct operand *operand)
{
    ZydisRegister reg = operand->reg.value;
    if (!guest_is_gpr(reg)) {
        int id = ZydisRegisterGetId(reg);
        return id < 0 ? -1 : id;
    }
    unsigned guest = guest_number(reg);
    if (operand->size == 8) {
        if (reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH) {
            copy->form.forbids_rex = true;
            return reg - ZYDIS_REGISTER_AL; /* 4 to 7 */
        }
        copy->form.needs_rex |= guest >= 4 && guest < 8;
    }
    if (guest_in_memory(guest) && is_had_in_frame(copy, guest, operand)) {
        copy->form.is_in_frame = true;
        copy->in_frame = (uint8_t)guest;
        copy->form.place = (struct host_mem){HOST_NONE, HOST_NONE, 0, frame_gpr(guest)};
        return 0;
    }
    if (guest_in_memory(guest)) {
        return borrow(copy, guest, operand);
    }
    return (int)guest_host(guest);
}

static bool place_operand(struct copy *copy, const struct operand *operand)
{
    struct form *form = &copy->form;
    if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER) {
        return true;
    }
    uint8_t *field = operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG  ? &form->reg
                     : operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ? &form->rm
                     : operand->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD   ? &form->vvvv
                     : operand->encoding == ZYDIS_OPERAND_ENCODING_OPCODE
                         ? &form->opcode_reg
                         : NULL;
    if (!field) {
        /* Implied registers keep their places; those that have none here do not exist in
         * any implied operand of what is copied, but RSP. */
        return !guest_is_gpr(operand->reg.value) ||
               guest_number(operand->reg.value) != HOST_RSP;
    }
    int host = rename(copy, operand);
    if (host < 0) {
        return false;
    }
    *field = (uint8_t)host;
    form->has_opcode_reg |=
        !form->has_modrm && operand->encoding == ZYDIS_OPERAND_ENCODING_OPCODE;
    return true;
}

static bool find_memory(struct copy *copy)
{
    const struct decoded *decoded = &copy->insn->decoded;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const struct operand *operand = &copy->insn->operand[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY) {
            continue;
        }
        bool is_plain = operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
                        form_is_direct_move(copy->emit, copy->insn);
        if (!is_plain || copy->memory || operand->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
            operand->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
            return false;
        }
        copy->memory = operand;
        copy->memory_written = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    }
    return true;
}

/* A checked place is based on r8, and r9 tells about its frame until a store to it has
 * been looked at; one of a group is based on r10, or on r8 with r9 being free (group.c's
 * spares_base counts on that). */
static void find_scratch(struct copy *copy)
{
    const struct access *access = &copy->insn->access;
    bool is_alone = copy->memory && access->kind == ACCESS_ALONE;
    bool takes_r8 = is_alone || (copy->memory && access->slot != GROUP_IN_R10);
    bool takes_r9 =
        is_alone && (copy->memory_written || emit_adds_page(copy->emit, copy->insn));
    copy->free = (copy->insn->keeps_base ? 0 : 1u << HOST_R10) |
                 (takes_r9 ? 0 : 1u << HOST_R9) | (takes_r8 ? 0 : 1u << HOST_R8);
}

/* A scratch register takes the immediate's place. */
static bool soften(struct copy *copy)
{
    struct form *form = &copy->form;
    enum soften_where where;
    int opcode = soften_opcode(&copy->insn->decoded, &where);
    unsigned host = take(copy, HELD_NOTHING);
    if (host == HOST_NONE) {
        return false;
    }
    form->reg = copy->soft = (uint8_t)host;
    form->opcode = (uint8_t)opcode;
    if (where != SOFTEN_MODRM) {
        form->rm = where == SOFTEN_OPCODE ? form->opcode_reg : HOST_RAX;
        form->has_modrm = true;
        form->has_opcode_reg = false;
    }
    return opcode >= 0;
}

static bool plan(struct copy *copy)
{
    const struct decoded *decoded = &copy->insn->decoded;
    struct form *form = &copy->form;
    form->has_modrm = decoded->attributes & ZYDIS_ATTRIB_HAS_MODRM;
    form->reg = decoded->raw.modrm.reg; /* an opcode's extension, if no register */
    form->rm = decoded->raw.modrm.rm;
    form->vvvv = 0;
    form->opcode = decoded->opcode;
    if (!find_memory(copy)) {
        return false;
    }
    form->has_memory = copy->memory != NULL;
    find_scratch(copy);
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        if (!place_operand(copy, &copy->insn->operand[i])) {
            return false;
        }
    }
    if (copy->swaps) {
        form_swap(form);
    }
    form_change(form, copy->emit, copy->insn);
    if (soften_is_immediate(copy->insn) && !soften(copy)) {
        return false;
    }
    form->lends_rdi = form->forbids_rex && form->has_memory && copy->free;
    copy->lent = form->lends_rdi ? (uint8_t)take(copy, HELD_NOTHING) : HOST_NONE;
    bool has_rex = (form->has_memory && !form->lends_rdi) || form->needs_rex ||
                   form->reg >= 8 || form->rm >= 8 || form->opcode_reg >= 8;
    return !(form->forbids_rex && has_rex);
}

/* Of an operand in memory, or NULL. */
static bool has_size(const struct operand *memory)
{
    return !memory || (memory->size >= 8 && memory->size <= 64 * 8);
}

static void mark_fault(struct emit *emit)
{
    struct block_insn *insn = &emit->block->insn[emit->ordinal];
    insn->host_flags &= (uint8_t)~INSN_FLAGS_FAULT;
    insn->host_flags |= emit->flags_in_memory ? 0 : INSN_FLAGS_FAULT;
}

/* VZEROUPPER and VZEROALL of 32-bit code: of the eight registers that it has. */
static bool zero_vectors(struct emit *emit, bool is_upper)
{
    struct code *code = &emit->code;
    for (unsigned i = 0; i < 8; i++) {
        /* VMOVAPS xmm, xmm, or VPXOR xmm, xmm, xmm */
        code8(code, 0xc5);
        code8(code, is_upper ? 0xf8 : 0x81 | (~i & 15) << 3);
        code8(code, is_upper ? 0x28 : 0xef);
        code8(code, 0xc0 | i << 3 | i);
    }
    return true;
}

static void restore_needed_flags(struct emit *emit, const struct guest_insn *insn)
{
    if (flags_are_read(insn)) {
        emit_restore_flags(emit);
    }
    mark_fault(emit);
}

/*
 * Without guest registers that lie in memory it needs nothing of its block but where its
 * operand is, if it has one: based on r8 or r10, which differ in ModRM alone, as an index
 * and none do: without SIB its bit means nothing (SDM 2A 2.2.1.2). AH to BH want a base
 * without REX.
 */
void emit_copy_plan(const struct emit *emit, struct guest_insn *insn)
{
    struct copy copy = {.emit = emit, .insn = insn};
    form_plan(insn);
    copy.form.place =
        (struct host_mem){HOST_R8, insn->adds_page ? HOST_R9 : HOST_NONE, 0, 0};
    bool is_zero_vectors =
        !emit->is_64 && (insn->decoded.mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
                         insn->decoded.mnemonic == ZYDIS_MNEMONIC_VZEROALL);
    if (is_zero_vectors || !form_can_write(insn) || form_has_ignored_bits(emit, insn) ||
        !plan(&copy) || insn->borrowed > 0 || (copy.memory && copy.form.forbids_rex) ||
        !has_size(copy.memory)) {
        return;
    }
    uint8_t bytes[2 * INSN_BYTES_MAX];
    struct code code = {bytes};
    if (copy.memory) {
        form_write_front(&copy.form, insn, &code);
        insn->copied_reg = copy.form.reg;
    } else {
        form_write(&copy.form, insn, &code);
    }
    insn->copied_size = (uint8_t)(code.at - bytes);
    assert(insn->copied_size <= sizeof(insn->copied));
    memcpy(insn->copied, bytes, insn->copied_size);
}

/* The bytes, and ModRM of the operand in memory, if there is one. */
static void write_planned(struct emit *emit, const struct guest_insn *insn,
                          const struct host_mem *place)
{
    struct code code = emit->code;
    memcpy(code.at, insn->copied, sizeof(insn->copied));
    code.at += insn->copied_size;
    if (place) {
        host_modrm_mem(&code, insn->copied_reg, place);
    }
    form_write_immediates(insn, &code);
    emit->code = code;
    if (insn->flags_write) {
        emit_note_flags(emit);
    }
}

static void copy_with_memory(struct emit *emit, const struct guest_insn *insn)
{
    const struct operand *memory = insn_memory(insn);
    bool is_written = memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    bool is_checked = insn->access.kind != ACCESS_MEMBER;
    if (!is_checked) {
        restore_needed_flags(emit, insn); /* by a scratch register */
    }
    struct host_mem place =
        emit_operand(emit, insn, memory, memory->size / 8u, is_written);
    if (is_checked) {
        restore_needed_flags(emit, insn);
    }
    write_planned(emit, insn, &place);
    if (is_written) {
        emit_watch(emit, insn, memory->size / 8u, insn->flags_live);
    }
}

static bool copy_planned(struct emit *emit, const struct guest_insn *insn)
{
    if (insn_memory(insn)) {
        copy_with_memory(emit, insn);
        return true;
    }
    if (emit->flags_in_memory) {
        restore_needed_flags(emit, insn);
    }
    write_planned(emit, insn, NULL);
    return true;
}

static void load_borrowed(struct emit *emit, const struct copy *copy)
{
    for (unsigned i = 0; i < copy->borrowed_count; i++) {
        const struct borrowed *borrowed = &copy->borrowed[i];
        if (scratch_find(emit, borrowed->guest) != borrowed->host) {
            scratch_release(emit, borrowed->guest);
            scratch_overwrite(emit, borrowed->host);
            if (borrowed->loads) {
                emit_load_gpr(emit, borrowed->host, borrowed->guest);
            }
        }
    }
    if (copy->insn->writes_frame && copy->form.is_in_frame) {
        scratch_forget(emit, copy->in_frame);
    } else if (copy->form.is_in_frame) {
        scratch_release(emit, copy->in_frame);
    }
}

/* What needs to know the registers that are free. */
static __attribute__((noinline)) bool copy_renamed(struct emit *emit,
                                                   const struct guest_insn *insn)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    bool is_upper = mnemonic == ZYDIS_MNEMONIC_VZEROUPPER;
    if (!emit->is_64 && (is_upper || mnemonic == ZYDIS_MNEMONIC_VZEROALL)) {
        return zero_vectors(emit, is_upper);
    }
    struct copy copy = {.emit = emit, .insn = insn};
    if (!form_can_write(insn) || form_has_ignored_bits(emit, insn)) {
        return false;
    }
    bool is_checked = insn_memory(insn) && insn->access.kind != ACCESS_MEMBER;
    if (!is_checked) {
        restore_needed_flags(emit, insn); /* by a scratch register */
    }
    if (!plan(&copy)) {
        return false;
    }
    struct code *code = &emit->code;
    if (copy.memory) {
        if (!has_size(copy.memory)) {
            return false;
        }
        unsigned size = copy.memory->size / 8u;
        /* An operand that must be aligned and is not faults on the host, too; the
         * interpreter then raises the guest's fault. */
        copy.form.place =
            emit_operand(emit, insn, copy.memory, size, copy.memory_written);
    }
    if (is_checked) {
        restore_needed_flags(emit, insn);
    }
    load_borrowed(emit, &copy);
    if (copy.form.lends_rdi) {
        scratch_overwrite(emit, copy.lent);
        host_mov(code, copy.lent, HOST_RDI);
        host_mov(code, HOST_RDI, copy.form.place.base);
        copy.form.place.base = HOST_RDI;
    }
    if (soften_is_immediate(insn)) {
        soften_load(emit, copy.soft, insn);
        form_write(&copy.form, insn, code);
    } else {
        form_write(&copy.form, insn, code);
        form_write_immediates(insn, code);
    }
    if (copy.form.lends_rdi) {
        host_mov(code, HOST_RDI, copy.lent);
    }
    for (unsigned i = 0; i < copy.borrowed_count; i++) {
        const struct borrowed *borrowed = &copy.borrowed[i];
        if (borrowed->loads || borrowed->stores) {
            scratch_hold(emit, borrowed->host, borrowed->guest, borrowed->stores);
        }
    }
    if (insn->flags_write) {
        emit_note_flags(emit);
    }
    if (copy.memory_written) {
        emit_watch(emit, insn, copy.memory->size / 8u, insn->flags_live);
    }
    return true;
}

bool emit_copy(struct emit *emit, const struct guest_insn *insn)
{
    if (insn->copied_size && !insn->soft_size) {
        return copy_planned(emit, insn);
    }
    return copy_renamed(emit, insn);
}

bool emit_nothing(struct emit *emit, const struct guest_insn *insn)
{
    return true;
}

bool emit_lea(struct emit *emit, const struct guest_insn *insn)
{
    const struct operand *to = &insn->operand[0];
    if (to->size < 32) {
        return false;
    }
    unsigned guest = guest_number(to->reg.value);
    bool in_memory = guest_in_memory(guest);
    unsigned host = guest_host(guest);
    if (in_memory) {
        unsigned all = 1u << HOST_R8 | 1u << HOST_R9 | 1u << HOST_R10;
        host = scratch_find(emit, guest);
        if (host == HOST_NONE) {
            host = scratch_choose(emit, emit->keeps_base ? all & ~(1u << HOST_R10) : all);
        }
    }
    emit_address_to(emit, host, insn, &insn->operand[1], 0);
    if (to->size == 32 && insn->decoded.address_width == 64) {
        host_op_reg(&emit->code, false, HOST_MOV_LOAD, host, host);
    }
    if (in_memory) {
        scratch_release(emit, guest);
        scratch_hold(emit, host, guest, true);
    }
    return true;
}
