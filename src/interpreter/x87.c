#include "interpreter/x87.h"

#include <string.h>

#include "interpreter/native_area.h"
#include "interpreter/native_stub.h"
#include "interpreter/part.h"

/* In insn->aux of arithmetic. */
#define RUN_LOADS    1u
#define RUN_STORES   2u
#define RUN_CONTROLS 4u /* leaves the pointers of the last instruction alone */

/* SDM 3A 2.5: EM or TS make every x87 instruction #NM. */
bool x87_check(struct cpu *cpu, bool waits)
{
    if (cpu->state.cr0 & (X86_CR0_EM | X86_CR0_TS)) {
        return cpu_raise(cpu, X86_NM, 0);
    }
    return !(waits && cpu->state.fpu.fsw & X87_FSW_ES) || cpu_raise(cpu, X86_MF, 0);
}

unsigned x87_top(const struct x86_fpu *fpu)
{
    return fpu->fsw >> 11 & 7;
}

void x87_set_top(struct x86_fpu *fpu, unsigned top)
{
    unsigned old = x87_top(fpu);
    if (old != top) {
        uint8_t stack[8][16];
        memcpy(stack, fpu->st, sizeof(stack));
        for (unsigned i = 0; i < 8; i++) {
            memcpy(fpu->st[(old + i - top) & 7], stack[i], sizeof(stack[i]));
        }
        fpu->fsw = (uint16_t)((fpu->fsw & ~X87_FSW_TOP) | top << 11);
    }
}

void x87_update_summary(struct x86_fpu *fpu)
{
    fpu->fsw &= (uint16_t) ~(X87_FSW_ES | X87_FSW_B);
    if (fpu->fsw & ~fpu->fcw & X87_FSW_FLAGS) {
        fpu->fsw |= X87_FSW_ES | X87_FSW_B;
    }
}

/* ---- arithmetic ------------------------------------------------------------------- */

static void image_from(uint8_t *image, const struct x86_fpu *fpu)
{
    uint32_t mxcsr = MXCSR_HOST;
    memset(image, 0, 32);
    memcpy(image, &fpu->fcw, 2);
    memcpy(image + 2, &fpu->fsw, 2);
    image[4] = fpu->ftw;
    memcpy(image + 24, &mxcsr, 4);
    memcpy(image + 32, fpu->st, sizeof(fpu->st));
}

static void image_to(const uint8_t *image, struct x86_fpu *fpu)
{
    memcpy(&fpu->fcw, image, 2);
    memcpy(&fpu->fsw, image + 2, 2);
    fpu->ftw = image[4];
    memcpy(fpu->st, image + 32, sizeof(fpu->st));
}

/* 80 bits: the significand, then the rest. SDM 3A table 6-7: extended precision counts as
 * 8 bytes; so does BCD. */
static const struct parts wide = {.alignment = 8, .count = 2, .size = {8, 2}};

static bool is_wide(const struct insn *insn)
{
    return insn->size > 8;
}

static bool run_load(struct cpu *cpu, const struct insn *insn)
{
    if (is_wide(insn)) {
        return part_read(cpu, insn, &wide, cpu->operand);
    }
    struct loaded loaded = access_load(cpu, insn_address(cpu, insn), insn->size);
    memcpy(cpu->operand, &loaded.value, sizeof(loaded.value));
    return loaded.ok;
}

static bool run_store(struct cpu *cpu, const struct insn *insn)
{
    const struct x86_fpu *fpu = &cpu->state.fpu;
    /* Unmasked exceptions but precision suppress the store (SDM 1 8.5), and whether it
     * would have faulted. */
    if (fpu->fsw & ~fpu->fcw & X87_FSW_FLAGS & ~X87_FSW_PE) {
        return true;
    }
    if (is_wide(insn)) {
        return part_write(cpu, insn, &wide, cpu->operand);
    }
    uint64_t value;
    memcpy(&value, cpu->operand, sizeof(value));
    return access_store(cpu, insn_address(cpu, insn), insn->size, value);
}

/* The last instruction's pointers (SDM 1 8.1.8, 8.1.9): the data's is an offset in its
 * segment. dst: ModRM, src: opcode. */
static void set_pointers(struct cpu *cpu, const struct insn *insn)
{
    struct x86_fpu *fpu = &cpu->state.fpu;
    bool has_exception = fpu->fsw & X87_FSW_ES;
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    if (is_amd || has_exception) {
        fpu->fop = (uint16_t)((insn->src & 7) << 8 | insn->dst);
    }
    fpu->fip = insn_rip(cpu, insn);
    fpu->fcs = cpu->state.seg[X86_CS].selector;
    bool sets_data = has_exception || !cpuid_has(cpu->cpuid, CPU_FDP_EXCEPTION_ONLY);
    if (sets_data && insn->aux & (RUN_LOADS | RUN_STORES)) {
        unsigned segment = insn->special ? insn->special & INSN_SEGMENT : X86_DS;
        fpu->fdp = insn_truncated_offset(cpu, insn);
        fpu->fds = cpu->state.seg[segment].selector;
    }
}

/* Which comes first, an unmasked exception or a fault of the store that it suppresses:
 * AMD's processors look at the memory first. */
static bool store_is_possible(struct cpu *cpu, const struct insn *insn)
{
    if (cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        return true;
    }
    uint64_t ea = insn_address(cpu, insn);
    return access_check_alignment(cpu, ea, is_wide(insn) ? wide.alignment : insn->size) &&
           access_probe(cpu, ea, insn->size, true);
}

static const struct insn *x87_run(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, true) || (insn->aux & RUN_LOADS && !run_load(cpu, insn)) ||
        (insn->aux & RUN_STORES && !store_is_possible(cpu, insn))) {
        return insn_fault(cpu, insn);
    }
    uint8_t *image = cpu->native->image;
    struct x86_fpu before = cpu->state.fpu;
    image_from(image, &cpu->state.fpu);
    ((native_stub *)(uintptr_t)insn->extra)(cpu, insn, cpu->operand, image);
    image_to(image, &cpu->state.fpu);
    if (insn->aux & RUN_STORES && !run_store(cpu, insn)) {
        cpu->state.fpu = before;
        return insn_fault(cpu, insn);
    }
    if (!(insn->aux & RUN_CONTROLS)) {
        set_pointers(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* Leaves the last instruction's pointers alone. FNOP, a control instruction to SDM 1
 * 8.3.11, sets them on all processors at hand. */
static bool is_control(const struct binding *binding)
{
    return binding->decoded->mnemonic == ZYDIS_MNEMONIC_FLDCW;
}

static bool bind_run(struct binding *binding, const struct insn_row *row,
                     struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    unsigned flags = STUB_CALLED;
    for (unsigned i = 0; i < decoded->operand_count_visible; i++) {
        const ZydisDecodedOperand *operand = &binding->operand[i];
        if (operand->type == ZYDIS_OPERAND_TYPE_MEMORY) {
            bool is_store = operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
            bind_memory(binding, insn, operand);
            insn->aux |= is_store ? RUN_STORES : RUN_LOADS;
            flags |= STUB_MEMORY;
        }
    }
    insn->aux |= is_control(binding) ? RUN_CONTROLS : 0;
    insn->dst = binding->bytes[decoded->raw.modrm.offset];
    insn->src = decoded->opcode;
    insn->extra = (const void *)(uintptr_t)native_stub_find(binding, STUB_X87, flags);
    insn->exec = x87_run;
    return insn->extra != NULL && !(decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK);
}

/* ---- rows ------------------------------------------------------------------------- */

static bool bind_control(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    unsigned choice = 0;
    for (unsigned i = 0; i < decoded->operand_count_visible; i++) {
        if (binding->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            bind_memory(binding, insn, &binding->operand[i]);
        } else {
            choice = 1; /* FNSTSW AX */
        }
    }
    if (decoded->raw.rex.W) {
        insn->aux |= X87_WIDE;
    }
    if (decoded->operand_width == 16) {
        insn->aux |= X87_16;
    }
    insn->exec = row->exec[choice];
    return !(decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK);
}

#define RUN(name)                                                \
    {                                                            \
        ZYDIS_MNEMONIC_##name, INSN_INNOCUOUS, bind_run, NULL, 0 \
    }
#define CONTROL(name, ...)                                   \
    {                                                        \
        ZYDIS_MNEMONIC_##name, INSN_INNOCUOUS, bind_control, \
            (insn_exec *const[]){__VA_ARGS__}, 0             \
    }

#define SENSITIVE(name, routine)                                       \
    {                                                                  \
        ZYDIS_MNEMONIC_##name, INSN_BEHAVIOUR_SENSITIVE, bind_control, \
            (insn_exec *const[]){routine}, 0                           \
    }

/* clang-format off */
const struct insn_row insn_rows_x87[] = {
    RUN(F2XM1), RUN(FABS), RUN(FADD), RUN(FADDP), RUN(FBLD), RUN(FBSTP), RUN(FCHS),
    RUN(FCMOVB), RUN(FCMOVBE), RUN(FCMOVE), RUN(FCMOVNB), RUN(FCMOVNBE), RUN(FCMOVNE),
    RUN(FCMOVNU), RUN(FCMOVU), RUN(FCOM), RUN(FCOMI), RUN(FCOMIP), RUN(FCOMP),
    RUN(FCOMPP), RUN(FCOS), RUN(FDECSTP), RUN(FDIV), RUN(FDIVP), RUN(FDIVR), RUN(FDIVRP),
    RUN(FFREE), RUN(FFREEP), RUN(FIADD), RUN(FICOM), RUN(FICOMP), RUN(FIDIV),
    RUN(FIDIVR), RUN(FILD), RUN(FIMUL), RUN(FINCSTP), RUN(FIST), RUN(FISTP), RUN(FISTTP),
    RUN(FISUB), RUN(FISUBR), RUN(FLD), RUN(FLD1), RUN(FLDCW), RUN(FLDL2E), RUN(FLDL2T),
    RUN(FLDLG2), RUN(FLDLN2), RUN(FLDPI), RUN(FLDZ), RUN(FMUL), RUN(FMULP), RUN(FNOP),
    RUN(FPATAN), RUN(FPREM), RUN(FPREM1), RUN(FPTAN), RUN(FRNDINT), RUN(FSCALE),
    RUN(FSIN), RUN(FSINCOS), RUN(FSQRT), RUN(FST), RUN(FSTP), RUN(FSTPNCE), RUN(FSUB),
    RUN(FSUBP), RUN(FSUBR), RUN(FSUBRP), RUN(FTST), RUN(FUCOM), RUN(FUCOMI),
    RUN(FUCOMIP), RUN(FUCOMP), RUN(FUCOMPP), RUN(FXAM), RUN(FXCH), RUN(FXTRACT),
    RUN(FYL2X), RUN(FYL2XP1),
    CONTROL(FNSTCW, x87_fnstcw),
    CONTROL(FNSTSW, x87_fnstsw, x87_fnstsw_ax),
    CONTROL(FNCLEX, x87_fnclex, x87_fnclex),
    CONTROL(FNINIT, x87_fninit, x87_fninit),
    CONTROL(FNSTENV, x87_fnstenv),
    CONTROL(FLDENV, x87_fldenv),
    CONTROL(FNSAVE, x87_fnsave),
    CONTROL(FRSTOR, x87_frstor),
    CONTROL(FWAIT, x87_fwait),
    CONTROL(FENI8087_NOP, x87_nop),
    CONTROL(FDISI8087_NOP, x87_nop),
    CONTROL(FSETPM287_NOP, x87_nop),
    CONTROL(EMMS, x87_emms),
    SENSITIVE(FXSAVE, xsave_fxsave),
    SENSITIVE(FXSAVE64, xsave_fxsave),
    SENSITIVE(FXRSTOR, xsave_fxrstor),
    SENSITIVE(FXRSTOR64, xsave_fxrstor),
    SENSITIVE(XSAVE, xsave_xsave),
    SENSITIVE(XSAVE64, xsave_xsave),
    SENSITIVE(XSAVEOPT, xsave_xsaveopt),
    SENSITIVE(XSAVEOPT64, xsave_xsaveopt),
    SENSITIVE(XSAVEC, xsave_xsavec),
    SENSITIVE(XSAVEC64, xsave_xsavec),
    SENSITIVE(XRSTOR, xsave_xrstor),
    SENSITIVE(XRSTOR64, xsave_xrstor),
    CONTROL(LDMXCSR, xsave_ldmxcsr),
    CONTROL(STMXCSR, xsave_stmxcsr),
    CONTROL(VLDMXCSR, xsave_vldmxcsr),
    CONTROL(VSTMXCSR, xsave_vstmxcsr),
    {0},
};
/* clang-format on */
