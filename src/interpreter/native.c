/* Binding of instructions to stubs, and the handlers that check state and memory operand
 * before a stub runs. */
#include "interpreter/native.h"

#include <string.h>

#include "base/scope.h"
#include "interpreter/native_move.h"
#include "interpreter/native_stub.h"
#include "interpreter/x87.h"

/* ---- state checks ----------------------------------------------------------------- */

static inline __attribute__((always_inline)) bool is_open(const struct cpu *cpu,
                                                          enum stub_gate gate)
{
    const struct x86_state *state = &cpu->state;
    switch (gate) {
    case STUB_SSE:
        return !(state->cr0 & (X86_CR0_EM | X86_CR0_TS)) && state->cr4 & X86_CR4_OSFXSR;
    case STUB_AVX:
        return !(state->cr0 & X86_CR0_TS) && state->cr4 & X86_CR4_OSXSAVE &&
               !(~state->xcr0 & (X86_XCR0_SSE | X86_XCR0_AVX));
    case STUB_MMX:
        return !(state->cr0 & (X86_CR0_EM | X86_CR0_TS)) &&
               !(state->fpu.fsw & X87_FSW_ES);
    default:
        return true;
    }
}

/* SDM 3A 14.1, table 14-1; 2A 2.4 for the order. */
bool native_check_sse(struct cpu *cpu)
{
    if (cpu->state.cr0 & X86_CR0_EM || !(cpu->state.cr4 & X86_CR4_OSFXSR)) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    return !(cpu->state.cr0 & X86_CR0_TS) || cpu_raise(cpu, X86_NM, 0);
}

bool native_check_avx(struct cpu *cpu)
{
    uint64_t needed = X86_XCR0_SSE | X86_XCR0_AVX;
    if (!(cpu->state.cr4 & X86_CR4_OSXSAVE) || (cpu->state.xcr0 & needed) != needed) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    return !(cpu->state.cr0 & X86_CR0_TS) || cpu_raise(cpu, X86_NM, 0);
}

bool native_check_mmx(struct cpu *cpu)
{
    if (cpu->state.cr0 & X86_CR0_EM) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    if (cpu->state.cr0 & X86_CR0_TS) {
        return cpu_raise(cpu, X86_NM, 0);
    }
    return !(cpu->state.fpu.fsw & X87_FSW_ES) || cpu_raise(cpu, X86_MF, 0);
}

void native_enter_mmx(struct cpu *cpu)
{
    x87_set_top(&cpu->state.fpu, 0);
    cpu->state.fpu.ftw = 0xff;
}

/* ---- handlers --------------------------------------------------------------------- */

static __attribute__((noinline)) const struct insn *
closed(struct cpu *cpu, const struct insn *insn, enum stub_gate gate)
{
    if (gate == STUB_SSE) {
        native_check_sse(cpu);
    } else if (gate == STUB_AVX) {
        native_check_avx(cpu);
    } else {
        native_check_mmx(cpu);
    }
    return insn_fault(cpu, insn);
}

static inline native_stub *stub_of(const struct insn *insn)
{
    return (native_stub *)(uintptr_t)insn->extra;
}

/* Beyond the limit and misaligned: SDM 3A table 6-2 leaves the order open. Intel's
 * processors look at the alignment first. */
static bool prefer_alignment(struct cpu *cpu, const struct insn *insn, unsigned mask)
{
    uint64_t ea = insn_linear(cpu, insn, insn_offset(cpu, insn), 0);
    if (ea & mask) {
        cpu->fault.vector = X86_GP;
        cpu->fault.error = 0;
    }
    return true;
}

/* aux: the alignment the operand needs, less one. AMD processors can be told not to ask
 * for it (APM 4 1.5, MXCSR.MM), but for moves that are aligned by name. */
static bool check_alignment(struct cpu *cpu, const struct insn *insn, uint64_t ea)
{
    unsigned mask = insn->aux & NATIVE_ALIGNMENT;
    if (insn->size <= 8 && !(insn->aux & NATIVE_ANYWHERE)) {
        return access_check_alignment(cpu, ea, insn->size);
    }
    if (cpu->has_fault && cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        return prefer_alignment(cpu, insn, mask);
    }
    if (!(ea & mask) || cpu->has_fault) {
        return true;
    }
    if (!(insn->aux & NATIVE_STRICT) && cpu->state.fpu.mxcsr & MXCSR_MM) {
        return true;
    }
    return cpu_raise(cpu, X86_GP, 0);
}

static const struct insn *load_slow(struct cpu *cpu, const struct insn *insn, uint64_t ea,
                                    enum stub_gate gate)
{
    if (!check_alignment(cpu, insn, ea) ||
        !access_read(cpu, ea, cpu->operand, insn->size)) {
        return insn_fault(cpu, insn);
    }
    if (gate == STUB_MMX) {
        native_enter_mmx(cpu); /* not before the last fault */
    }
    return stub_of(insn)(cpu, insn, cpu->operand, NULL);
}

static const struct insn *store_slow(struct cpu *cpu, const struct insn *insn,
                                     uint64_t ea, enum stub_gate gate)
{
    /* Intel's processors compute first and then find that the store faults: MXCSR's flags
     * (VCVTPS2PH) and MMX's TOP of 0 stay, though SDM 3A 6.5 has a fault leave no trace.
     * TOP does at an alignment check, too.
     */
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    if (is_amd &&
        (!check_alignment(cpu, insn, ea) || !access_probe(cpu, ea, insn->size, true))) {
        return insn_fault(cpu, insn);
    }
    if (gate == STUB_MMX) {
        x87_set_top(&cpu->state.fpu, 0);
    }
    if (!is_amd && !check_alignment(cpu, insn, ea)) {
        return insn_fault(cpu, insn);
    }
    if (stub_of(insn)(cpu, insn, cpu->operand, NULL) == NULL) {
        return NULL;
    }
    if (!access_probe(cpu, ea, insn->size, true) ||
        !access_write(cpu, ea, cpu->operand, insn->size)) {
        return insn_fault(cpu, insn);
    }
    if (gate == STUB_MMX) {
        native_enter_mmx(cpu);
    }
    NEXT(cpu, insn);
}

const struct insn *native_load_slow(struct cpu *cpu, const struct insn *insn, uint64_t ea)
{
    return load_slow(cpu, insn, ea, STUB_OPEN);
}

const struct insn *native_store_slow(struct cpu *cpu, const struct insn *insn,
                                     uint64_t ea)
{
    return store_slow(cpu, insn, ea, STUB_OPEN);
}

static inline __attribute__((always_inline)) const struct insn *
load(struct cpu *cpu, const struct insn *insn, enum stub_gate gate)
{
    if (unlikely(!is_open(cpu, gate))) {
        return closed(cpu, insn, gate);
    }
    uint64_t ea = insn_address(cpu, insn);
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->read;
    if (likely(offset <= FRAME_SIZE - insn->size &&
               !(ea & insn->aux & NATIVE_ALIGNMENT))) {
        if (gate == STUB_MMX) {
            native_enter_mmx(cpu);
        }
        return stub_of(insn)(cpu, insn, entry->host + offset, NULL);
    }
    return load_slow(cpu, insn, ea, gate);
}

static inline __attribute__((always_inline)) const struct insn *
store(struct cpu *cpu, const struct insn *insn, enum stub_gate gate)
{
    if (unlikely(!is_open(cpu, gate))) {
        return closed(cpu, insn, gate);
    }
    uint64_t ea = insn_address(cpu, insn);
    const struct tlb_entry *entry = access_entry(cpu, ea);
    uint64_t offset = ea - entry->write;
    if (unlikely(offset > FRAME_SIZE - insn->size || ea & insn->aux & NATIVE_ALIGNMENT)) {
        return store_slow(cpu, insn, ea, gate);
    }
    if (gate == STUB_MMX) {
        native_enter_mmx(cpu);
    }
    if (unlikely(stub_of(insn)(cpu, insn, entry->host + offset, NULL) == NULL)) {
        return NULL;
    }
    if (unlikely(*entry->frame & FRAME_WATCH_ANY)) {
        access_store_watched(cpu, entry->host + offset, insn->size);
    }
    NEXT(cpu, insn);
}

#define HANDLERS(name, gate)                                                         \
    static const struct insn *load_##name(struct cpu *cpu, const struct insn *insn)  \
    {                                                                                \
        return load(cpu, insn, gate);                                                \
    }                                                                                \
    static const struct insn *store_##name(struct cpu *cpu, const struct insn *insn) \
    {                                                                                \
        return store(cpu, insn, gate);                                               \
    }

HANDLERS(open, STUB_OPEN)
HANDLERS(sse, STUB_SSE)
HANDLERS(avx, STUB_AVX)
HANDLERS(mmx, STUB_MMX)

static const struct insn *registers_mmx(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!is_open(cpu, STUB_MMX))) {
        return closed(cpu, insn, STUB_MMX);
    }
    /* MOVQ2DQ and its kind need both. */
    if (insn->dst && !native_check_sse(cpu)) {
        return insn_fault(cpu, insn);
    }
    native_enter_mmx(cpu);
    return stub_of(insn)(cpu, insn, NULL, NULL);
}

/* ---- binding ---------------------------------------------------------------------- */

bool native_is_unaligned(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_LDDQU:
    case ZYDIS_MNEMONIC_PCMPESTRI:
    case ZYDIS_MNEMONIC_PCMPESTRM:
    case ZYDIS_MNEMONIC_PCMPISTRI:
    case ZYDIS_MNEMONIC_PCMPISTRM:
        return true;
    default:
        return false;
    }
}

static uint8_t alignment_of(const ZydisDecodedInstruction *decoded, unsigned size,
                            enum cpu_vendor vendor)
{
    ZydisExceptionClass class = decoded->meta.exception_class;
    if (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX) {
        if (class == ZYDIS_EXCEPTION_CLASS_AVX11) {
            return NATIVE_ANYWHERE; /* SDM 2A table 2-28: F16C has no #AC */
        }
        return class == ZYDIS_EXCEPTION_CLASS_AVX1 ? (size - 1) | NATIVE_STRICT : 0;
    }
    if (size != 16 || native_is_unaligned(decoded->mnemonic)) {
        return 0;
    }
    /* AMD's processors do not ask it of SHA, Intel's do. */
    if (decoded->meta.isa_set == ZYDIS_ISA_SET_SHA && vendor == CPU_VENDOR_AMD) {
        return 0;
    }
    return 15 | (class == ZYDIS_EXCEPTION_CLASS_SSE1 ? NATIVE_STRICT : 0);
}

static const ZydisDecodedOperand *memory_operand(const struct binding *binding)
{
    for (unsigned i = 0; i < binding->decoded->operand_count_visible; i++) {
        if (binding->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            return &binding->operand[i];
        }
    }
    return NULL;
}

static bool has_vector(const struct binding *binding)
{
    for (unsigned i = 0; i < binding->decoded->operand_count_visible; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
            ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_XMM) {
            return true;
        }
    }
    return false;
}

static bool bind_registers(struct binding *binding, struct insn *insn,
                           enum stub_gate gate)
{
    native_stub *stub = native_stub_find(binding, gate, STUB_CHECKED);
    if (stub == NULL) {
        return false;
    }
    insn->extra = (const void *)(uintptr_t)stub;
    if (gate == STUB_MMX) {
        insn->dst = has_vector(binding);
        insn->exec = registers_mmx;
    } else {
        insn->exec = (insn_exec *)(uintptr_t)stub;
    }
    return true;
}

static bool bind_operand(struct binding *binding, struct insn *insn, enum stub_gate gate,
                         const ZydisDecodedOperand *operand)
{
    static insn_exec *const loads[] = {load_open, load_sse, load_avx, load_mmx};
    static insn_exec *const stores[] = {store_open, store_sse, store_avx, store_mmx};
    bool is_store = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    native_stub *stub =
        native_stub_find(binding, gate, STUB_MEMORY | (is_store ? STUB_CALLED : 0));
    if (stub == NULL) {
        return false;
    }
    bind_memory(binding, insn, operand);
    insn->aux = alignment_of(binding->decoded, insn->size, binding->cpu->cpuid->vendor);
    insn->extra = (const void *)(uintptr_t)stub;
    insn->exec = is_store ? stores[gate] : loads[gate];
    return true;
}

/* Outside 64-bit mode VEX.W is ignored in them by Intel's processors (SDM 2B "PEXTRD"),
 * and undefined on AMD's. */
static bool is_wide_element(const struct binding *binding)
{
    bool is_element = binding->decoded->mnemonic == ZYDIS_MNEMONIC_VPEXTRD ||
                      binding->decoded->mnemonic == ZYDIS_MNEMONIC_VPINSRD;
    return is_element && binding->decoded->raw.vex.W && !binding->cpu->is_long64 &&
           binding->cpu->cpuid->vendor == CPU_VENDOR_AMD;
}

bool native_bind(struct binding *binding, const struct insn_row *row, struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    if (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT) {
        return false; /* MOVSD and CMPSD are string instructions, too */
    }
    if (decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK ||
        (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
         !binding->cpu->is_protected) ||
        is_wide_element(binding)) {
        return false;
    }
    enum stub_gate gate = native_stub_gate(binding);
    const ZydisDecodedOperand *operand = memory_operand(binding);
    bool is_bound = operand != NULL ? bind_operand(binding, insn, gate, operand)
                                    : bind_registers(binding, insn, gate);
    if (is_bound) {
        native_move_bind(binding, insn);
    }
    return is_bound;
}
