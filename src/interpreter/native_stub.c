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

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/scope.h"
#include "interpreter/native_area.h"

#define STUB_LONGEST 320u /* bytes a stub can take */

enum {
    HOST_RAX = 0,
    HOST_RDX = 2,
    HOST_R8 = 8,
    HOST_R9 = 9,
    HOST_R10 = 10,
    HOST_R11 = 11
};

/* Everything a stub's code depends on. */
struct stub_key {
    uint8_t gate, flags;
    uint8_t prefixes; /* KEY_* */
    uint8_t map, opcode;
    uint8_t reg, rm, vvvv; /* guest register numbers, or opcode extension */
    uint8_t imm[4];
    uint8_t imm_size;
    uint8_t shape; /* KEY_GPR_* */
    uint8_t spare[2];
};

_Static_assert(sizeof(struct stub_key) == 16, "keys keep the code aligned");

#define KEY_VEX     0x01u
#define KEY_66      0x02u
#define KEY_F2      0x04u
#define KEY_F3      0x08u
#define KEY_W       0x10u
#define KEY_L       0x20u
#define KEY_GPR_REG 0x01u
#define KEY_GPR_RM  0x02u
#define KEY_GPR_V   0x04u
#define KEY_HIGH    0x08u /* rm is AH..BH */

struct gpr_use {
    uint8_t host, offset; /* of the guest register in cpu->reg */
    bool load, store;
};

/* What has to be loaded before and stored after. */
struct stub_plan {
    struct stub_key key;
    uint16_t vec_load, vec_store;
    uint8_t mmx_load, mmx_store;
    struct gpr_use gpr[6];
    unsigned gpr_count;
    uint8_t memory_base; /* host register */
    bool flags_load, flags_store, mxcsr;
};

struct stub_emitter {
    uint8_t *at;
    uint8_t *area; /* writable; offsets hold for the executable mapping */
};

/* ---- plan ------------------------------------------------------------------------- */

static bool is_vector(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
}

static bool is_mmx(ZydisRegister reg)
{
    return ZydisRegisterGetClass(reg) == ZYDIS_REGCLASS_MMX;
}

static bool is_gpr(ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    return class == ZYDIS_REGCLASS_GPR8 || class == ZYDIS_REGCLASS_GPR16 ||
           class == ZYDIS_REGCLASS_GPR32 || class == ZYDIS_REGCLASS_GPR64;
}

enum stub_gate native_stub_gate(const struct binding *binding)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    bool has_vector = false;
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER) {
            if (is_mmx(operand->reg.value)) {
                return STUB_MMX;
            }
            has_vector |= is_vector(operand->reg.value);
        }
    }
    if (!has_vector) {
        return STUB_OPEN;
    }
    return decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX ? STUB_AVX : STUB_SSE;
}

/* Can it raise SIMD floating-point exceptions, or does it round? (SDM 2A 2.4: classes 2,
 * 3 and 11.) RCP and RSQRT look at no control bit by Intel's account; they are run with
 * the guest's MXCSR all the same. */
static bool plan_uses_mxcsr(const ZydisDecodedInstruction *decoded)
{
    switch (decoded->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
        return true;
    default:
        break;
    }
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_CVTPD2PI:
    case ZYDIS_MNEMONIC_CVTPI2PD:
    case ZYDIS_MNEMONIC_CVTPI2PS:
    case ZYDIS_MNEMONIC_CVTPS2PI:
    case ZYDIS_MNEMONIC_CVTTPD2PI:
    case ZYDIS_MNEMONIC_CVTTPS2PI:
    case ZYDIS_MNEMONIC_RCPPS:
    case ZYDIS_MNEMONIC_RCPSS:
    case ZYDIS_MNEMONIC_RSQRTPS:
    case ZYDIS_MNEMONIC_RSQRTSS:
    case ZYDIS_MNEMONIC_VRCPPS:
    case ZYDIS_MNEMONIC_VRCPSS:
    case ZYDIS_MNEMONIC_VRSQRTPS:
    case ZYDIS_MNEMONIC_VRSQRTSS:
        return true;
    default:
        return false;
    }
}

/* The operand-size prefix of these is no part of the opcode; 16-bit code has it
 * inverted. */
static bool plan_has_operand_size(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_LZCNT || mnemonic == ZYDIS_MNEMONIC_TZCNT ||
           mnemonic == ZYDIS_MNEMONIC_POPCNT || mnemonic == ZYDIS_MNEMONIC_MOVBE ||
           mnemonic == ZYDIS_MNEMONIC_CRC32;
}

/* Outside 64-bit mode VEX.W does not widen general registers (SDM 2A 2.3.5.3). */
static bool plan_ignores_w(const struct binding *binding, const struct stub_key *key)
{
    if (binding->decoded->machine_mode == ZYDIS_MACHINE_MODE_LONG_64) {
        return false;
    }
    switch (binding->decoded->mnemonic) {
    case ZYDIS_MNEMONIC_VMOVD:
    case ZYDIS_MNEMONIC_VPEXTRD:
    case ZYDIS_MNEMONIC_VPINSRD:
    case ZYDIS_MNEMONIC_VCVTSI2SD:
    case ZYDIS_MNEMONIC_VCVTSI2SS:
        return true;
    default:
        return key->shape != 0;
    }
}

static void plan_add_gpr(struct stub_plan *plan, uint8_t host, uint8_t offset,
                         const ZydisDecodedOperand *operand)
{
    plan->gpr[plan->gpr_count++] = (struct gpr_use){
        .host = host,
        .offset = offset,
        .load = true, /* what is not written of it must stay */
        .store = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE,
    };
}

static void plan_add_general(struct stub_plan *plan, const ZydisDecodedOperand *operand)
{
    struct stub_key *key = &plan->key;
    uint8_t offset = bind_register(operand->reg.value);
    switch (operand->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        key->shape |= KEY_GPR_REG;
        key->reg = offset / 8;
        plan_add_gpr(plan, HOST_R8, offset, operand);
        break;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        key->shape |= KEY_GPR_RM | (offset & 7 ? KEY_HIGH : 0);
        key->rm = offset / 8;
        plan_add_gpr(plan, HOST_R9, offset, operand);
        break;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        key->shape |= KEY_GPR_V;
        key->vvvv = offset / 8;
        plan_add_gpr(plan, HOST_R10, offset, operand);
        break;
    default:
        /* Implicit: under its own number. */
        plan_add_gpr(plan, offset / 8, offset, operand);
        if (offset / 8 == HOST_RDX) {
            plan->memory_base = HOST_R11;
        }
    }
}

static void plan_add_vector(struct stub_plan *plan, const ZydisDecodedOperand *operand)
{
    struct stub_key *key = &plan->key;
    uint8_t number = (uint8_t)ZydisRegisterGetId(operand->reg.value);
    bool reads = operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
    bool writes = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    if (is_mmx(operand->reg.value)) {
        plan->mmx_load |= 1u << number;
        plan->mmx_store |= writes ? 1u << number : 0;
    } else {
        /* Legacy encodings may leave a part of their destination as it was. */
        bool loads = reads || !(key->prefixes & KEY_VEX);
        plan->vec_load |= loads ? 1u << number : 0;
        plan->vec_store |= writes ? 1u << number : 0;
    }
    if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
        key->reg = number;
    } else if (operand->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
        key->rm = number;
    } else if (operand->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD) {
        key->vvvv = number;
    }
}

static void plan_add_flags(struct stub_plan *plan, const ZydisDecodedInstruction *decoded)
{
    const ZydisAccessedFlags *flags = decoded->cpu_flags;
    if (flags == NULL) {
        return;
    }
    uint32_t defined = (flags->modified | flags->set_0 | flags->set_1) & X86_FLAGS_ARITH;
    plan->flags_store = defined != 0;
    /* What the manual leaves undefined some processors keep. */
    plan->flags_load = (flags->tested & X86_FLAGS_ARITH) != 0 ||
                       (defined != 0 && defined != X86_FLAGS_ARITH);
}

static void plan_encoding(struct stub_plan *plan, const struct binding *binding)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    struct stub_key *key = &plan->key;
    if (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        static const uint8_t prefix[4] = {0, KEY_66, KEY_F3, KEY_F2};
        key->prefixes = KEY_VEX | prefix[decoded->raw.vex.pp] |
                        (decoded->raw.vex.W ? KEY_W : 0) |
                        (decoded->raw.vex.L ? KEY_L : 0);
        key->map = decoded->raw.vex.m_mmmm;
    } else {
        for (unsigned i = 0; i < decoded->raw.prefix_count; i++) {
            switch (decoded->raw.prefixes[i].value) {
            case 0x66:
                key->prefixes |= KEY_66;
                break;
            case 0xf2:
                key->prefixes = (key->prefixes & ~KEY_F3) | KEY_F2;
                break;
            case 0xf3:
                key->prefixes = (key->prefixes & ~KEY_F2) | KEY_F3;
                break;
            default:
                break;
            }
        }
        key->prefixes |= decoded->raw.rex.W ? KEY_W : 0;
        key->map = (uint8_t)decoded->opcode_map;
        if (plan_has_operand_size(decoded->mnemonic)) {
            key->prefixes =
                (key->prefixes & ~KEY_66) | (decoded->operand_width == 16 ? KEY_66 : 0);
        }
    }
    if (key->gate == STUB_X87) {
        key->prefixes = 0;
    }
    key->opcode = decoded->opcode;
    key->reg = decoded->raw.modrm.reg;
    key->rm = decoded->raw.modrm.rm;
}

static void plan_immediate(struct stub_plan *plan, const struct binding *binding)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    unsigned at = decoded->raw.modrm.offset + 1u;
    if (decoded->raw.sib.offset != 0) {
        at = decoded->raw.sib.offset + 1u;
    }
    if (decoded->raw.disp.size != 0) {
        at = decoded->raw.disp.offset + decoded->raw.disp.size / 8u;
    }
    assert(decoded->length - at <= sizeof(plan->key.imm));
    plan->key.imm_size = (uint8_t)(decoded->length - at);
    memcpy(plan->key.imm, binding->bytes + at, plan->key.imm_size);
}

static void plan_init(struct stub_plan *plan, const struct binding *binding,
                      enum stub_gate gate, unsigned flags)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    *plan = (struct stub_plan){.key = {.gate = (uint8_t)gate, .flags = (uint8_t)flags},
                               .memory_base = HOST_RDX};
    plan_encoding(plan, binding);
    plan_immediate(plan, binding);
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        if (is_gpr(operand->reg.value)) {
            plan_add_general(plan, operand);
        } else if (is_vector(operand->reg.value) || is_mmx(operand->reg.value)) {
            plan_add_vector(plan, operand);
        }
    }
    if (flags & STUB_MEMORY) {
        plan->key.rm = 0;
    }
    if (plan_ignores_w(binding, &plan->key)) {
        plan->key.prefixes &= (uint8_t)~KEY_W;
    }
    plan_add_flags(plan, decoded);
    plan->mxcsr = plan_uses_mxcsr(decoded);
}

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
    plan_init(&plan, binding, gate, flags);
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
