/* Control, debug and extended control registers: SDM 3A 2.5, 2.6, 17.2; SDM 2B "MOV". */

#include "interpreter/breakpoint.h"
#include "interpreter/operation.h"
#include "x86/paging.h"
#include "x86/segment.h"

/* ---- CR0 ---- */

#define CR0_WRITABLE                                                               \
    (X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_NE | X86_CR0_WP | \
     X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)

static bool cr0_is_valid(const struct cpu *cpu, uint64_t value)
{
    const struct x86_state *state = &cpu->state;
    if (value >> 32 || (value & X86_CR0_PG && !(value & X86_CR0_PE)) ||
        (value & X86_CR0_NW && !(value & X86_CR0_CD))) {
        return false;
    }
    bool is_paging = state->cr0 & X86_CR0_PG;
    if (!(value & X86_CR0_PG)) {
        return !is_paging || (!cpu->is_long64 && !(state->cr4 & X86_CR4_PCIDE));
    }
    if (!is_paging && state->efer & X86_EFER_LME) {
        /* SDM 3A 9.8.5: entering IA-32e mode. */
        unsigned tss = state->tr.access & X86_ACCESS_TYPE;
        return state->cr4 & X86_CR4_PAE && !(state->seg[X86_CS].access & X86_ACCESS_L) &&
               tss != X86_TYPE_TSS16_BUSY;
    }
    return true;
}

/* SDM 3A 4.4.1: those of the table that CR3 names, if PAE paging is used with these
 * values; a reserved bit in them is a #GP, before anything has changed. */
static bool load_pdptes(struct cpu *cpu, uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return !x86_is_pae(cr0, cr4, efer) || access_load_pdptes(cpu, cpu->state.cr3) ||
           cpu_raise(cpu, X86_GP, 0);
}

static bool set_cr0(struct cpu *cpu, uint64_t value)
{
    struct x86_state *state = &cpu->state;
    if (!cr0_is_valid(cpu, value)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    value = (value & CR0_WRITABLE) | X86_CR0_ET;
    uint64_t changed = state->cr0 ^ value;
    uint64_t efer = state->efer;
    if (changed & X86_CR0_PG && efer & X86_EFER_LME) {
        efer = (efer & ~X86_EFER_LMA) | (value & X86_CR0_PG ? X86_EFER_LMA : 0);
    }
    if (changed & (X86_CR0_CD | X86_CR0_NW | X86_CR0_PG) &&
        !load_pdptes(cpu, value, state->cr4, efer)) {
        return false;
    }
    state->cr0 = value;
    state->efer = efer;
    if (changed & (X86_CR0_PG | X86_CR0_PE | X86_CR0_WP)) {
        cpu_flush_all(cpu);
    }
    cpu_update_mode(cpu);
    return true;
}

/* ---- CR3, CR4, CR8 ---- */

static bool set_cr3(struct cpu *cpu, uint64_t value)
{
    struct x86_state *state = &cpu->state;
    bool keep = false;
    if (state->cr4 & X86_CR4_PCIDE) {
        keep = value & X86_CR3_NOFLUSH;
        value &= ~X86_CR3_NOFLUSH;
    }
    if (cpu->is_long && value >> cpu->cpuid->physical_bits) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (x86_is_pae(state->cr0, state->cr4, state->efer) &&
        !access_load_pdptes(cpu, value)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    state->cr3 = value;
    cpu_switch_context(cpu, keep);
    return true;
}

/* Bits of CR4 that come with a feature. */
static const struct {
    uint64_t bits;
    enum cpu_feature feature;
} cr4_features[] = {
    {X86_CR4_VME | X86_CR4_PVI, CPU_VME},
    {X86_CR4_TSD, CPU_TSC},
    {X86_CR4_DE, CPU_DE},
    {X86_CR4_PSE, CPU_PSE},
    {X86_CR4_PAE, CPU_PAE},
    {X86_CR4_MCE, CPU_MCE},
    {X86_CR4_PGE, CPU_PGE},
    {X86_CR4_OSFXSR, CPU_FXSR},
    {X86_CR4_OSXMMEXCPT, CPU_SSE},
    {X86_CR4_UMIP, CPU_UMIP},
    {X86_CR4_FSGSBASE, CPU_FSGSBASE},
    {X86_CR4_PCIDE, CPU_PCID},
    {X86_CR4_OSXSAVE, CPU_XSAVE},
    {X86_CR4_SMEP, CPU_SMEP},
    {X86_CR4_SMAP, CPU_SMAP},
    {X86_CR4_PKE, CPU_PKU},
};

static uint64_t cr4_writable(const struct cpuid_policy *policy)
{
    uint64_t writable = X86_CR4_PCE;
    for (unsigned i = 0; i < sizeof(cr4_features) / sizeof(cr4_features[0]); i++) {
        if (cpuid_has(policy, cr4_features[i].feature)) {
            writable |= cr4_features[i].bits;
        }
    }
    return writable;
}

static bool set_cr4(struct cpu *cpu, uint64_t value)
{
    static const uint64_t translation = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE |
                                        X86_CR4_PCIDE | X86_CR4_SMEP | X86_CR4_SMAP |
                                        X86_CR4_PKE;
    struct x86_state *state = &cpu->state;
    uint64_t changed = state->cr4 ^ value;
    bool leaves_pae = cpu->is_long && !(value & X86_CR4_PAE);
    /* SDM 3A 4.10.1: PCIDE may be set only in IA-32e mode with PCID 0 in force. */
    bool wrong_pcide =
        changed & value & X86_CR4_PCIDE && (!cpu->is_long || state->cr3 & 0xfff);
    if (value & ~cr4_writable(cpu->cpuid) || leaves_pae || wrong_pcide) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    static const uint64_t reloads =
        X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PSE | X86_CR4_SMEP;
    if (changed & reloads && !load_pdptes(cpu, state->cr0, value, state->efer)) {
        return false;
    }
    state->cr4 = value;
    if (changed & X86_CR4_DE) {
        breakpoint_update(cpu);
    }
    if (changed & translation) {
        cpu_flush_all(cpu);
        cpu_switch_context(cpu, false);
    }
    return true;
}

static bool set_cr8(struct cpu *cpu, uint64_t value)
{
    if (value & ~15ull) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu->hooks->set_cr8(cpu, value);
    return true;
}

/* dst: the GPR, aux: the number of the control or debug register. */
OPERATION(mov_from_cr)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    const struct x86_state *state = &cpu->state;
    uint64_t value;
    cpu->hooks->count(cpu, EXIT_CR);
    switch (insn->aux) {
    case 0:
        value = state->cr0;
        break;
    case 2:
        value = state->cr2;
        break;
    case 3:
        value = state->cr3;
        break;
    case 4:
        value = state->cr4;
        break;
    default:
        value = cpu->hooks->get_cr8(cpu);
    }
    reg_write(cpu, insn->dst, insn->size, value);
    return true;
}

OPERATION(mov_to_cr)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    uint64_t value = reg_read(cpu, insn->dst, insn->size);
    cpu->hooks->count(cpu, EXIT_CR);
    switch (insn->aux) {
    case 0:
        return set_cr0(cpu, value);
    case 2:
        cpu->state.cr2 = value;
        return true;
    case 3:
        return set_cr3(cpu, value);
    case 4:
        return set_cr4(cpu, value);
    default:
        return set_cr8(cpu, value);
    }
}

OPERATION(clts)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    cpu->hooks->count(cpu, EXIT_CR);
    cpu->state.cr0 &= ~X86_CR0_TS;
    return true;
}

/* Operand of 2 bytes from a register or memory. */
static bool read_operand16(struct cpu *cpu, const struct insn *insn, uint16_t *value)
{
    struct loaded loaded = {REG16(cpu, insn->dst), true};
    if (insn->aux) {
        loaded = access_load(cpu, insn_address(cpu, insn), 2);
    }
    *value = (uint16_t)loaded.value;
    return loaded.ok;
}

/* It can set PE but not clear it. */
OPERATION(lmsw)
{
    uint16_t value = 0;
    if (!operation_privileged(cpu) || !read_operand16(cpu, insn, &value)) {
        return false;
    }
    cpu->hooks->count(cpu, EXIT_CR);
    uint64_t kept = cpu->state.cr0 & ~(X86_CR0_MP | X86_CR0_EM | X86_CR0_TS);
    return set_cr0(cpu, kept | (value & 0xf));
}

OPERATION(smsw)
{
    if (!operation_umip(cpu)) {
        return false;
    }
    if (insn->aux) {
        return access_store(cpu, insn_address(cpu, insn), 2, cpu->state.cr0);
    }
    reg_write(cpu, insn->dst, insn->size, cpu->state.cr0);
    return true;
}

/* ---- Debug registers ---- */

#define DR6_WRITABLE 0xe00full
#define DR6_FIXED    0xffff0ff0ull
#define DR7_WRITABLE 0xffff23ffull
#define DR7_FIXED    0x400ull

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; 0 to 3, 6 or 7 in *number if all is well. */
static bool dr_access(struct cpu *cpu, const struct insn *insn, unsigned *number)
{
    *number = insn->aux;
    if (insn->aux == 4 || insn->aux == 5) {
        if (cpu->state.cr4 & X86_CR4_DE) {
            return cpu_raise(cpu, X86_UD, 0);
        }
        *number += 2;
    }
    if (!operation_privileged(cpu)) {
        return false;
    }
    if (cpu->state.dr7 & DR7_GD) {
        cpu_raise(cpu, X86_DB, 0);
        cpu->fault.address = DR6_BD;
        return false;
    }
    cpu->hooks->count(cpu, EXIT_DR);
    return true;
}

OPERATION(mov_from_dr)
{
    unsigned number = 0;
    if (!dr_access(cpu, insn, &number)) {
        return false;
    }
    const struct x86_state *state = &cpu->state;
    uint64_t value = number == 6   ? state->dr6
                     : number == 7 ? state->dr7
                                   : state->dr[number & 3];
    reg_write(cpu, insn->dst, insn->size, value);
    return true;
}

OPERATION(mov_to_dr)
{
    unsigned number = 0;
    if (!dr_access(cpu, insn, &number)) {
        return false;
    }
    struct x86_state *state = &cpu->state;
    uint64_t value = reg_read(cpu, insn->dst, insn->size);
    if (number < 4) {
        state->dr[number] = value;
        breakpoint_update(cpu);
    } else if (value >> 32) {
        return cpu_raise(cpu, X86_GP, 0);
    } else if (number == 6) {
        state->dr6 = (value & DR6_WRITABLE) | DR6_FIXED;
    } else {
        state->dr7 = (value & DR7_WRITABLE) | DR7_FIXED;
        breakpoint_update(cpu);
    }
    return true;
}

/* ---- XCR0 ---- */

static bool has_osxsave(struct cpu *cpu)
{
    return cpu->state.cr4 & X86_CR4_OSXSAVE || cpu_raise(cpu, X86_UD, 0);
}

/* SDM 1 13.3. */
static bool xcr0_is_valid(const struct cpu *cpu, uint64_t value)
{
    bool has_avx = value & X86_XCR0_AVX;
    return value & X86_XCR0_X87 && !(value & ~cpu->cpuid->xcr0_valid) &&
           (!has_avx || value & X86_XCR0_SSE);
}

static uint64_t edx_eax(const struct cpu *cpu)
{
    return cpu->reg[X86_RDX] << 32 | (uint32_t)cpu->reg[X86_RAX];
}

OPERATION(xsetbv)
{
    if (!has_osxsave(cpu) || !operation_privileged(cpu)) {
        return false;
    }
    if ((uint32_t)cpu->reg[X86_RCX] != 0 || !xcr0_is_valid(cpu, edx_eax(cpu))) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu->state.xcr0 = edx_eax(cpu);
    return true;
}

/* XCR1, the components in use: those enabled, since their initial state is not tracked
 * (SDM 1 13.6 permits it). */
OPERATION(xgetbv)
{
    if (!has_osxsave(cpu)) {
        return false;
    }
    uint32_t index = (uint32_t)cpu->reg[X86_RCX];
    if (index > 1 || (index == 1 && !cpuid_has(cpu->cpuid, CPU_XGETBV1))) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu->reg[X86_RAX] = (uint32_t)cpu->state.xcr0;
    cpu->reg[X86_RDX] = cpu->state.xcr0 >> 32;
    return true;
}

HANDLER(mov_from_cr)
ENDING_HANDLER(mov_to_cr)
HANDLER(mov_from_dr)
ENDING_HANDLER(mov_to_dr)
ENDING_HANDLER(clts)
ENDING_HANDLER(lmsw)
HANDLER(smsw)
ENDING_HANDLER(xsetbv)
HANDLER(xgetbv)

static bool is_register(const ZydisDecodedOperand *operand, ZydisRegisterClass class)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(operand->reg.value) == class;
}

/* MOV whose operand `which` is of the class, the other a GPR. */
static bool bind_special_move(struct binding *binding, const struct insn_row *row,
                              struct insn *insn, unsigned which, ZydisRegisterClass class)
{
    const ZydisDecodedOperand *special = &binding->operand[which];
    if (!is_register(special, class)) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->dst = bind_register(binding->operand[!which].reg.value);
    insn->size = (uint8_t)(binding->operand[!which].size / 8);
    insn->aux = (uint8_t)ZydisRegisterGetId(special->reg.value);
    return true;
}

static bool bind_to_cr(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    return bind_special_move(binding, row, insn, 0, ZYDIS_REGCLASS_CONTROL);
}

static bool bind_from_cr(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    return bind_special_move(binding, row, insn, 1, ZYDIS_REGCLASS_CONTROL);
}

static bool bind_to_dr(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    return bind_special_move(binding, row, insn, 0, ZYDIS_REGCLASS_DEBUG);
}

static bool bind_from_dr(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    return bind_special_move(binding, row, insn, 1, ZYDIS_REGCLASS_DEBUG);
}

/* aux: the operand is in memory. */
static bool bind_status_word(struct binding *binding, const struct insn_row *row,
                             struct insn *insn)
{
    insn->aux = binding->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    return bind_simple(binding, row, insn);
}

const struct insn_row insn_rows_control[] = {
    {ZYDIS_MNEMONIC_MOV, INSN_PRIVILEGED, bind_to_cr, mov_to_cr_routines, ROW_ENDS_BLOCK,
     "CR, r"},
    {ZYDIS_MNEMONIC_MOV, INSN_PRIVILEGED, bind_from_cr, mov_from_cr_routines, 0, "r, CR"},
    {ZYDIS_MNEMONIC_MOV, INSN_PRIVILEGED, bind_to_dr, mov_to_dr_routines, ROW_ENDS_BLOCK,
     "DR, r"},
    {ZYDIS_MNEMONIC_MOV, INSN_PRIVILEGED, bind_from_dr, mov_from_dr_routines, 0, "r, DR"},
    {ZYDIS_MNEMONIC_CLTS, INSN_PRIVILEGED, bind_simple, clts_routines, ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_LMSW, INSN_PRIVILEGED, bind_status_word, lmsw_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_SMSW, INSN_BEHAVIOUR_SENSITIVE, bind_status_word, smsw_routines, 0},
    {ZYDIS_MNEMONIC_XSETBV, INSN_PRIVILEGED, bind_simple, xsetbv_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_XGETBV, INSN_BEHAVIOUR_SENSITIVE, bind_simple, xgetbv_routines, 0},
    {0},
};
