#include "interpreter/native_move.h"

#include <emmintrin.h>

static inline bool is_open(const struct cpu *cpu)
{
    return !(cpu->state.cr0 & (X86_CR0_EM | X86_CR0_TS)) &&
           cpu->state.cr4 & X86_CR4_OSFXSR;
}

static __attribute__((noinline)) const struct insn *closed(struct cpu *cpu,
                                                           const struct insn *insn)
{
    native_check_sse(cpu);
    return insn_fault(cpu, insn);
}

/* dst: number of the register. The stub behind insn->extra serves the slow path. */
static inline __m128i *vector(struct cpu *cpu, uint8_t number)
{
    return (__m128i *)&cpu->state.vec[number];
}

/* MOVUPS, MOVAPS, MOVDQU, MOVDQA and the like from memory. */
static const struct insn *load_16(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!is_open(cpu))) {
        return closed(cpu, insn);
    }
    uint64_t ea = insn_address(cpu, insn);
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->read;
    if (unlikely(offset > FRAME_SIZE - 16 || ea & insn->aux & NATIVE_ALIGNMENT)) {
        return native_load_slow(cpu, insn, ea);
    }
    const void *host = entry->host + offset;
    _mm_store_si128(vector(cpu, insn->dst), _mm_loadu_si128(host));
    NEXT(cpu, insn);
}

static const struct insn *store_16(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!is_open(cpu))) {
        return closed(cpu, insn);
    }
    uint64_t ea = insn_address(cpu, insn);
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->write;
    if (unlikely(offset > FRAME_SIZE - 16 || ea & insn->aux & NATIVE_ALIGNMENT)) {
        return native_store_slow(cpu, insn, ea);
    }
    void *host = entry->host + offset;
    _mm_storeu_si128(host, _mm_load_si128(vector(cpu, insn->dst)));
    if (unlikely(*entry->frame & FRAME_WATCH_ANY)) {
        access_store_watched(cpu, host, 16);
    }
    NEXT(cpu, insn);
}

static const struct insn *copy_16(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!is_open(cpu))) {
        return closed(cpu, insn);
    }
    _mm_store_si128(vector(cpu, insn->dst), _mm_load_si128(vector(cpu, insn->src)));
    NEXT(cpu, insn);
}

static const struct insn *zero_16(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!is_open(cpu))) {
        return closed(cpu, insn);
    }
    _mm_store_si128(vector(cpu, insn->dst), _mm_setzero_si128());
    NEXT(cpu, insn);
}

static bool is_whole_move(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQA:
        return true;
    default:
        return false;
    }
}

static uint8_t number_of(const ZydisDecodedOperand *operand)
{
    return (uint8_t)ZydisRegisterGetId(operand->reg.value);
}

void native_move_bind(struct binding *binding, struct insn *insn)
{
    const ZydisDecodedOperand *operand = binding->operand;
    ZydisMnemonic mnemonic = binding->decoded->mnemonic;
    bool is_register[2] = {operand[0].type == ZYDIS_OPERAND_TYPE_REGISTER,
                           operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER};
    if (is_whole_move(mnemonic)) {
        if (is_register[0] && is_register[1]) {
            insn->src = number_of(&operand[1]);
            insn->exec = copy_16;
        } else {
            insn->exec = is_register[0] ? load_16 : store_16;
        }
        insn->dst = number_of(&operand[is_register[0] ? 0 : 1]);
        return;
    }
    bool is_xor = mnemonic == ZYDIS_MNEMONIC_PXOR || mnemonic == ZYDIS_MNEMONIC_XORPS ||
                  mnemonic == ZYDIS_MNEMONIC_XORPD;
    if (is_xor && is_register[1] && operand[0].reg.value == operand[1].reg.value &&
        ZydisRegisterGetClass(operand[0].reg.value) == ZYDIS_REGCLASS_XMM) {
        insn->dst = number_of(&operand[0]);
        insn->exec = zero_16;
    }
}
