#include "interpreter/native_plan.h"

#include <assert.h>
#include <string.h>

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
    case ZYDIS_MNEMONIC_VPCMPESTRI:
    case ZYDIS_MNEMONIC_VPCMPESTRM:
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
    bool has_register = decoded->operand_count_visible == 4 &&
                        binding->operand[3].encoding == ZYDIS_OPERAND_ENCODING_IS4;
    if (has_register && decoded->machine_mode != ZYDIS_MACHINE_MODE_LONG_64) {
        plan->key.imm[0] &= 0x7f; /* SDM 2B "BLENDVPS": bit 7 is ignored */
    }
}

void native_plan_init(struct stub_plan *plan, const struct binding *binding,
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
