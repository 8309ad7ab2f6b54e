/*
 * Layout of a cpu's code area: a header with constants and the common exits, then stubs,
 * each behind its key. One mapping is writable, another executable; none is both.
 *
 * A stub is entered with rdi = cpu, rsi = insn, rdx = memory operand, rcx = x87 image.
 * All vector registers are its own (the C calling convention saves none), so the guest's
 * go by their own numbers; general register operands are renamed to r8 (ModRM.reg), r9
 * (ModRM.rm) and r10 (VEX.vvvv). It keeps no stack frame: a SIGFPE anywhere in it resumes
 * at the area's fault exit.
 */
#include "interpreter/native_stub.h"

#include <assert.h>
#include <string.h>

#include "interpreter/native_area.h"
#include "interpreter/native_plan.h"

#define STUB_LONGEST 320u /* bytes a stub can take */

struct stub_emitter {
    uint8_t *at;
    uint8_t *area; /* writable; offsets hold for the executable mapping */
};

/* ---- code ------------------------------------------------------------------------- */

static void emit8(struct stub_emitter *to, unsigned byte)
{
    *to->at++ = (uint8_t)byte;
}

static void emit_bytes(struct stub_emitter *to, const char *bytes, unsigned size)
{
    memcpy(to->at, bytes, size);
    to->at += size;
}

#define EMIT(to, literal) emit_bytes(to, literal, sizeof(literal) - 1)

static void emit32(struct stub_emitter *to, uint32_t value)
{
    memcpy(to->at, &value, 4);
    to->at += 4;
}

static void emit64(struct stub_emitter *to, uint64_t value)
{
    memcpy(to->at, &value, 8);
    to->at += 8;
}

/* ModRM (and displacement) for [rdi + offset]. */
static void emit_cpu(struct stub_emitter *to, unsigned reg, size_t offset)
{
    if (offset < 0x80) {
        emit8(to, 0x47 | (reg & 7) << 3);
        emit8(to, (unsigned)offset);
    } else {
        emit8(to, 0x87 | (reg & 7) << 3);
        emit32(to, (uint32_t)offset);
    }
}

/* ModRM for a place in the area's header, RIP-relative. */
static void emit_area(struct stub_emitter *to, unsigned reg, unsigned offset)
{
    emit8(to, 0x05 | reg << 3);
    emit32(to, (uint32_t)(to->area + offset - (to->at + 4)));
}

static void emit_jump(struct stub_emitter *to, unsigned condition, unsigned offset)
{
    emit8(to, 0x0f);
    emit8(to, 0x80 | condition);
    emit32(to, (uint32_t)(to->area + offset - (to->at + 4)));
}

#define JUMP_Z  4
#define JUMP_NZ 5

static size_t vec_offset(unsigned number)
{
    return offsetof(struct cpu, state.vec) + number * sizeof(union x86_vector);
}

static size_t mmx_offset(unsigned number)
{
    return offsetof(struct cpu, state.fpu.st) + number * 16u;
}

/* A vector register from or to the guest's. Legacy code moves 128 bits; VEX code loads as
 * wide as it computes, and stores all, since it cleared what is above. */
static void emit_vector(struct stub_emitter *to, const struct stub_key *key,
                        unsigned number, bool is_store)
{
    if (key->prefixes & KEY_VEX) {
        bool is_wide = is_store || key->prefixes & KEY_L;
        emit8(to, 0xc5);
        emit8(to, (number < 8 ? 0xfau : 0x7au) | (is_wide ? 4 : 0)); /* VMOVDQU */
        emit8(to, is_store ? 0x7f : 0x6f);
    } else {
        if (number >= 8) {
            emit8(to, 0x44);
        }
        emit8(to, 0x0f); /* MOVUPS */
        emit8(to, is_store ? 0x11 : 0x10);
    }
    emit_cpu(to, number, vec_offset(number));
}

static void emit_mov(struct stub_emitter *to, unsigned opcode, unsigned host,
                     size_t offset)
{
    emit8(to, host >= 8 ? 0x4c : 0x48);
    emit8(to, opcode);
    emit_cpu(to, host, offset);
}

static void emit_gate(struct stub_emitter *to, enum stub_gate gate)
{
    size_t cr0 = offsetof(struct cpu, state.cr0);
    size_t cr4 = offsetof(struct cpu, state.cr4);
    if (gate == STUB_SSE) {
        emit8(to, 0xf6); /* TEST byte, imm8 */
        emit_cpu(to, 0, cr0);
        emit8(to, X86_CR0_EM | X86_CR0_TS);
        emit_jump(to, JUMP_NZ, AREA_EXIT_SSE);
        emit8(to, 0xf6);
        emit_cpu(to, 0, cr4 + 1);
        emit8(to, X86_CR4_OSFXSR >> 8);
        emit_jump(to, JUMP_Z, AREA_EXIT_SSE);
    } else if (gate == STUB_AVX) {
        emit8(to, 0xf6);
        emit_cpu(to, 0, cr0);
        emit8(to, X86_CR0_TS);
        emit_jump(to, JUMP_NZ, AREA_EXIT_AVX);
        emit8(to, 0xf6);
        emit_cpu(to, 0, cr4 + 2);
        emit8(to, X86_CR4_OSXSAVE >> 16);
        emit_jump(to, JUMP_Z, AREA_EXIT_AVX);
        EMIT(to, "\x8a"); /* MOV al, XCR0 */
        emit_cpu(to, HOST_RAX, offsetof(struct cpu, state.xcr0));
        EMIT(to, "\xf6\xd0\xa8\x06"); /* NOT al; TEST al, SSE | AVX */
        emit_jump(to, JUMP_NZ, AREA_EXIT_AVX);
    }
}

static void emit_loads(struct stub_emitter *to, const struct stub_plan *plan)
{
    const struct stub_key *key = &plan->key;
    if (key->gate == STUB_X87) {
        EMIT(to, "\x48\x0f\xae\x09"); /* FXRSTOR64 [rcx] */
    }
    if (plan->memory_base == HOST_R11) {
        EMIT(to, "\x49\x89\xd3"); /* MOV r11, rdx */
    }
    if (plan->flags_load) {
        EMIT(to, "\x8b");
        emit_cpu(to, HOST_RAX, offsetof(struct cpu, arith));
        EMIT(to, "\x04\x7f\x9e"); /* ADD al, 127 sets OF from bit 0; SAHF */
    }
    for (unsigned i = 0; i < plan->gpr_count; i++) {
        const struct gpr_use *use = &plan->gpr[i];
        size_t offset = offsetof(struct cpu, reg) + use->offset;
        if (use->offset & 7) {
            EMIT(to, "\x44\x0f\xb6"); /* MOVZX r9d, byte */
            emit_cpu(to, use->host, offset);
        } else if (use->load) {
            emit_mov(to, 0x8b, use->host, offset);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        if (plan->vec_load >> i & 1) {
            emit_vector(to, key, i, false);
        }
        if (plan->mmx_load >> i & 1) {
            EMIT(to, "\x0f\x6f"); /* MOVQ */
            emit_cpu(to, i, mmx_offset(i));
        }
    }
    if (plan->mxcsr) {
        EMIT(to, "\x0f\xae");
        emit_cpu(to, 2, offsetof(struct cpu, state.fpu.mxcsr));
    }
}

static void emit_legacy_head(struct stub_emitter *to, const struct stub_key *key,
                             unsigned reg, unsigned rm)
{
    if (key->prefixes & KEY_66) {
        emit8(to, 0x66);
    }
    if (key->prefixes & (KEY_F2 | KEY_F3)) {
        emit8(to, key->prefixes & KEY_F2 ? 0xf2 : 0xf3);
    }
    unsigned rex = (key->prefixes & KEY_W ? 8 : 0) | (reg >> 3 & 1) << 2 | (rm >> 3 & 1);
    if (rex != 0) {
        emit8(to, 0x40 | rex);
    }
    if (key->map >= 1) {
        emit8(to, 0x0f);
    }
    if (key->map >= 2) {
        emit8(to, key->map == 2 ? 0x38 : 0x3a);
    }
}

static void emit_vex_head(struct stub_emitter *to, const struct stub_key *key,
                          unsigned reg, unsigned rm, unsigned vvvv)
{
    unsigned pp = key->prefixes & KEY_66   ? 1
                  : key->prefixes & KEY_F3 ? 2
                  : key->prefixes & KEY_F2 ? 3
                                           : 0;
    emit8(to, 0xc4);
    emit8(to, (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) | key->map);
    emit8(to, (key->prefixes & KEY_W ? 0x80 : 0) | (~vvvv & 15) << 3 |
                  (key->prefixes & KEY_L ? 4 : 0) | pp);
}

static void emit_instruction(struct stub_emitter *to, const struct stub_plan *plan)
{
    const struct stub_key *key = &plan->key;
    unsigned reg = key->shape & KEY_GPR_REG ? HOST_R8 : key->reg;
    unsigned rm = key->flags & STUB_MEMORY  ? plan->memory_base
                  : key->shape & KEY_GPR_RM ? HOST_R9
                                            : key->rm;
    unsigned vvvv = key->shape & KEY_GPR_V ? HOST_R10 : key->vvvv;
    if (key->prefixes & KEY_VEX) {
        emit_vex_head(to, key, reg, rm, vvvv);
    } else {
        emit_legacy_head(to, key, reg, rm);
    }
    emit8(to, key->opcode);
    /* rdx and r11 as a base need neither SIB nor displacement. */
    emit8(to, (key->flags & STUB_MEMORY ? 0 : 0xc0) | (reg & 7) << 3 | (rm & 7));
    emit_bytes(to, (const char *)key->imm, key->imm_size);
}

static void emit_stores(struct stub_emitter *to, const struct stub_plan *plan)
{
    const struct stub_key *key = &plan->key;
    if (key->gate == STUB_X87) {
        /* Does not wait, so a newly pending exception stays in the image. */
        EMIT(to, "\x48\x0f\xae\x01\xdb\xe3"); /* FXSAVE64 [rcx]; FNINIT */
    }
    for (unsigned i = 0; i < 16; i++) {
        if (plan->vec_store >> i & 1) {
            emit_vector(to, key, i, true);
        }
        if (plan->mmx_store >> i & 1) {
            EMIT(to, "\x0f\x7f");
            emit_cpu(to, i, mmx_offset(i));
            EMIT(to, "\x66\xc7"); /* MOV word: sign and exponent become all ones */
            emit_cpu(to, 0, mmx_offset(i) + 8);
            EMIT(to, "\xff\xff");
        }
    }
    if (plan->mxcsr) {
        EMIT(to, "\x0f\xae");
        emit_cpu(to, 3, offsetof(struct cpu, state.fpu.mxcsr));
        EMIT(to, "\x0f\xae");
        emit_area(to, 2, AREA_MXCSR);
    }
    /* Backwards: of equal destinations ModRM.reg's value is the one that stays (MULX). */
    for (unsigned i = plan->gpr_count; i-- > 0;) {
        const struct gpr_use *use = &plan->gpr[i];
        if (use->store) {
            emit_mov(to, 0x89, use->host, offsetof(struct cpu, reg) + use->offset);
        }
    }
    if (plan->flags_store) {
        EMIT(to, "\x9f\x0f\x90\xc0\x0f\xb7\xc0\x89"); /* LAHF; SETO al; MOVZX eax, ax */
        emit_cpu(to, HOST_RAX, offsetof(struct cpu, arith));
    }
    if (key->gate == STUB_MMX) {
        EMIT(to, "\x0f\x77"); /* EMMS */
    }
    if (key->prefixes & KEY_VEX && key->prefixes & KEY_L && key->gate == STUB_AVX) {
        EMIT(to, "\xc5\xf8\x77"); /* VZEROUPPER */
    }
}

static void emit_next(struct stub_emitter *to, bool is_called)
{
    if (DOPPEL_THREADED && !is_called) {
        EMIT(to, "\x48\x83\xc6");
        emit8(to, sizeof(struct insn)); /* ADD rsi */
        EMIT(to, "\xff\x26");           /* JMP [rsi] */
    } else {
        EMIT(to, "\x48\x8d\x46");
        emit8(to, sizeof(struct insn)); /* LEA rax, [rsi + ...] */
        EMIT(to, "\xc3");
    }
}

static void emit_stub(struct stub_emitter *to, const struct stub_plan *plan)
{
    if (plan->key.flags & STUB_CHECKED) {
        emit_gate(to, plan->key.gate);
    }
    emit_loads(to, plan);
    emit_instruction(to, plan);
    emit_stores(to, plan);
    emit_next(to, plan->key.flags & STUB_CALLED);
}

void native_stub_exit(struct native *native, unsigned offset, insn_exec *target,
                      bool is_fault)
{
    struct stub_emitter to = {native->write + offset, native->write};
    if (is_fault) {
        EMIT(&to, "\x0f\xae");
        emit_cpu(&to, 3, offsetof(struct cpu, state.fpu.mxcsr));
        EMIT(&to, "\x0f\xae");
        emit_area(&to, 2, AREA_MXCSR);
        EMIT(&to, "\x0f\x77"); /* EMMS, for the conversions between MMX and SSE */
        if (__builtin_cpu_supports("avx")) {
            EMIT(&to, "\xc5\xf8\x77");
        }
    }
    EMIT(&to, "\x48\xb8"); /* MOV rax, target; JMP rax */
    emit64(&to, (uintptr_t)target);
    EMIT(&to, "\xff\xe0");
    assert(to.at <= native->write + offset + AREA_EXIT_SIZE);
}

/* ---- store ------------------------------------------------------------------------ */

static uint32_t key_hash(const struct stub_key *key)
{
    uint64_t half[2];
    memcpy(half, key, sizeof(half));
    uint64_t mixed = (half[0] ^ half[1] * 0x9e3779b97f4a7c15u) * 0xff51afd7ed558ccdu;
    return (uint32_t)(mixed >> 40) & (STUB_TABLE - 1);
}

/* No room for stubs, nor for blocks: everything decoded is dropped and made again. */
static void stub_exhausted(struct binding *binding, struct native *native)
{
    memset(native->table, 0, STUB_TABLE * sizeof(*native->table));
    native->used = AREA_STUBS;
    while (bind_alloc(binding, FRAME_SIZE) != NULL) {
    }
}

native_stub *native_stub_find(struct binding *binding, enum stub_gate gate,
                              unsigned flags)
{
    struct native *native = binding->cpu->native;
    struct stub_plan plan;
    native_plan_init(&plan, binding, gate, flags);
    uint32_t slot = key_hash(&plan.key);
    while (native->table[slot] != 0) {
        uint32_t offset = native->table[slot];
        if (memcmp(native->write + offset - sizeof(plan.key), &plan.key,
                   sizeof(plan.key)) == 0) {
            return (native_stub *)(uintptr_t)(native->execute + offset);
        }
        slot = (slot + 1) & (STUB_TABLE - 1);
    }
    if (native->used + STUB_LONGEST > AREA_SIZE) {
        stub_exhausted(binding, native);
        return NULL;
    }
    memcpy(native->write + native->used, &plan.key, sizeof(plan.key));
    uint32_t offset = native->used + sizeof(plan.key);
    struct stub_emitter to = {native->write + offset, native->write};
    emit_stub(&to, &plan);
    assert(to.at <= native->write + native->used + STUB_LONGEST);
    native->used = ((uint32_t)(to.at - native->write) + 15) & ~15u;
    native->table[slot] = offset;
    return (native_stub *)(uintptr_t)(native->execute + offset);
}
