/* Which function makes an instruction's code. What is not here is the interpreter's:
 * whatever is sensitive, and what is rare. */
#include "engine/translator/emit.h"

#include <string.h>

#include "base/scope.h"
#include "interpreter/insn.h"
#include "interpreter/isa.h"
#include "interpreter/native.h"

struct emit_row {
    ZydisMnemonic mnemonic;
    emit_fn *emit;
};

#define COPY(name)                       \
    {                                    \
        ZYDIS_MNEMONIC_##name, emit_copy \
    }
#define NOTHING(name)                       \
    {                                       \
        ZYDIS_MNEMONIC_##name, emit_nothing \
    }
#define JCC(name)                       \
    {                                   \
        ZYDIS_MNEMONIC_##name, emit_jcc \
    }

/* clang-format off */
static const struct emit_row rows[] = {
    COPY(ADC), COPY(ADD), COPY(AND), COPY(BSF), COPY(BSR), COPY(BSWAP), COPY(BT),
    COPY(BTC), COPY(BTR), COPY(BTS), COPY(CBW), COPY(CDQ), COPY(CDQE), COPY(CLC),
    COPY(CMC), COPY(CMOVB), COPY(CMOVBE), COPY(CMOVL), COPY(CMOVLE), COPY(CMOVNB),
    COPY(CMOVNBE), COPY(CMOVNL), COPY(CMOVNLE), COPY(CMOVNO), COPY(CMOVNP),
    COPY(CMOVNS), COPY(CMOVNZ), COPY(CMOVO), COPY(CMOVP), COPY(CMOVS), COPY(CMOVZ),
    COPY(CMP), COPY(CMPXCHG), COPY(CMPXCHG16B), COPY(CMPXCHG8B), COPY(CQO), COPY(CWD),
    COPY(CWDE), COPY(DEC), COPY(DIV), COPY(IDIV), COPY(IMUL), COPY(INC), COPY(LAHF),
    COPY(MOV), COPY(MOVSX), COPY(MOVSXD), COPY(MOVZX), COPY(MUL), COPY(NEG), COPY(NOT),
    COPY(OR), COPY(RCL), COPY(RCR), COPY(ROL), COPY(ROR), COPY(SAHF), COPY(SAR),
    COPY(SBB), COPY(SETB), COPY(SETBE), COPY(SETL), COPY(SETLE), COPY(SETNB),
    COPY(SETNBE), COPY(SETNL), COPY(SETNLE), COPY(SETNO), COPY(SETNP), COPY(SETNS),
    COPY(SETNZ), COPY(SETO), COPY(SETP), COPY(SETS), COPY(SETZ), COPY(SHL), COPY(SHLD),
    COPY(SHR), COPY(SHRD), COPY(STC), COPY(SUB), COPY(TEST), COPY(XADD), COPY(XCHG),
    COPY(XOR), COPY(LFENCE), COPY(MFENCE), COPY(SFENCE),
    NOTHING(NOP), NOTHING(PREFETCH), NOTHING(PREFETCHNTA), NOTHING(PREFETCHT0),
    NOTHING(PREFETCHT1), NOTHING(PREFETCHT2), NOTHING(PREFETCHW),
    {ZYDIS_MNEMONIC_LEA, emit_lea},
    {ZYDIS_MNEMONIC_CLI, emit_cli}, {ZYDIS_MNEMONIC_STI, emit_sti},
    {ZYDIS_MNEMONIC_RDTSC, emit_rdtsc}, {ZYDIS_MNEMONIC_RDTSCP, emit_rdtsc},
    {ZYDIS_MNEMONIC_STAC, emit_ac}, {ZYDIS_MNEMONIC_CLAC, emit_ac},
    {ZYDIS_MNEMONIC_IRETQ, emit_quick}, {ZYDIS_MNEMONIC_IRETD, emit_quick},
    {ZYDIS_MNEMONIC_SYSENTER, emit_quick}, {ZYDIS_MNEMONIC_SYSEXIT, emit_quick},
    {ZYDIS_MNEMONIC_SYSCALL, emit_syscall}, {ZYDIS_MNEMONIC_SYSRET, emit_sysret},
    {ZYDIS_MNEMONIC_CLD, emit_cld}, {ZYDIS_MNEMONIC_SWAPGS, emit_swapgs},
    {ZYDIS_MNEMONIC_RDPKRU, emit_rdpkru},
    {ZYDIS_MNEMONIC_PUSHFQ, emit_pushf}, {ZYDIS_MNEMONIC_POPFQ, emit_popf},
    {ZYDIS_MNEMONIC_PUSHFD, emit_pushf}, {ZYDIS_MNEMONIC_POPFD, emit_popf},
    {ZYDIS_MNEMONIC_STOSB, emit_stos}, {ZYDIS_MNEMONIC_STOSW, emit_stos},
    {ZYDIS_MNEMONIC_STOSD, emit_stos}, {ZYDIS_MNEMONIC_STOSQ, emit_stos},
    {ZYDIS_MNEMONIC_MOVSB, emit_movs}, {ZYDIS_MNEMONIC_MOVSW, emit_movs},
    {ZYDIS_MNEMONIC_MOVSQ, emit_movs}, {ZYDIS_MNEMONIC_LODSB, emit_lods},
    {ZYDIS_MNEMONIC_LODSW, emit_lods}, {ZYDIS_MNEMONIC_LODSD, emit_lods},
    {ZYDIS_MNEMONIC_LODSQ, emit_lods}, {ZYDIS_MNEMONIC_SCASB, emit_scas},
    {ZYDIS_MNEMONIC_SCASW, emit_scas}, {ZYDIS_MNEMONIC_SCASD, emit_scas},
    {ZYDIS_MNEMONIC_SCASQ, emit_scas}, {ZYDIS_MNEMONIC_CMPSB, emit_cmps},
    {ZYDIS_MNEMONIC_CMPSW, emit_cmps}, {ZYDIS_MNEMONIC_CMPSQ, emit_cmps},
    {ZYDIS_MNEMONIC_PUSH, emit_push}, {ZYDIS_MNEMONIC_POP, emit_pop},
    {ZYDIS_MNEMONIC_LEAVE, emit_leave_frame},
    {ZYDIS_MNEMONIC_CALL, emit_call}, {ZYDIS_MNEMONIC_RET, emit_ret},
    {ZYDIS_MNEMONIC_JMP, emit_jmp}, {ZYDIS_MNEMONIC_LOOP, emit_loop},
    {ZYDIS_MNEMONIC_JRCXZ, emit_jrcxz}, {ZYDIS_MNEMONIC_JECXZ, emit_jrcxz},
    JCC(JB), JCC(JBE), JCC(JL), JCC(JLE), JCC(JNB), JCC(JNBE), JCC(JNL), JCC(JNLE),
    JCC(JNO), JCC(JNP), JCC(JNS), JCC(JNZ), JCC(JO), JCC(JP), JCC(JS), JCC(JZ),
    /* x87, but for what loads or shows the environment */
    COPY(F2XM1), COPY(FABS), COPY(FADD), COPY(FADDP), COPY(FBLD), COPY(FBSTP), COPY(FCHS),
    COPY(FCMOVB), COPY(FCMOVBE), COPY(FCMOVE), COPY(FCMOVNB), COPY(FCMOVNBE),
    COPY(FCMOVNE), COPY(FCMOVNU), COPY(FCMOVU), COPY(FCOM), COPY(FCOMI), COPY(FCOMIP),
    COPY(FCOMP), COPY(FCOMPP), COPY(FCOS), COPY(FDECSTP), COPY(FDIV), COPY(FDIVP),
    COPY(FDIVR), COPY(FDIVRP), COPY(FFREE), COPY(FIADD), COPY(FICOM), COPY(FICOMP),
    COPY(FIDIV), COPY(FIDIVR), COPY(FILD), COPY(FIMUL), COPY(FINCSTP), COPY(FIST),
    COPY(FISTP), COPY(FISTTP), COPY(FISUB), COPY(FISUBR), COPY(FLD), COPY(FLD1),
    COPY(FLDL2E), COPY(FLDL2T), COPY(FLDLG2), COPY(FLDLN2), COPY(FLDPI), COPY(FLDZ),
    COPY(FMUL), COPY(FMULP), COPY(FNOP), COPY(FNSTCW), COPY(FNSTSW), COPY(FPATAN),
    COPY(FPREM), COPY(FPREM1), COPY(FPTAN), COPY(FRNDINT), COPY(FSCALE), COPY(FSIN),
    COPY(FSINCOS), COPY(FSQRT), COPY(FST), COPY(FSTP), COPY(FSUB), COPY(FSUBP),
    COPY(FSUBR), COPY(FSUBRP), COPY(FTST), COPY(FUCOM), COPY(FUCOMI), COPY(FUCOMIP),
    COPY(FUCOMP), COPY(FUCOMPP), COPY(FWAIT), COPY(FXAM), COPY(FXCH), COPY(FXTRACT),
    COPY(FYL2X), COPY(FYL2XP1),
    /* What may unmask exceptions, LDMXCSR, is the interpreter's. */
    COPY(STMXCSR), COPY(VSTMXCSR),
};
/* clang-format on */

static emit_fn *by_mnemonic[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void index_rows(void)
{
    for (unsigned i = 0; i < array_size(rows); i++) {
        by_mnemonic[rows[i].mnemonic] = rows[i].emit;
    }
}

/* Instructions on the host's own vector units are copied. */
static bool is_native(ZydisMnemonic mnemonic)
{
    const struct insn_row *row;
    for (unsigned i = 0; (row = insn_find_row(mnemonic, i)); i++) {
        if (row->bind == native_bind || row->bind == native_bind_zero) {
            return true;
        }
    }
    return false;
}

/* Of the copied instructions that are not the integer unit's, whatever their operands
 * are: they use MXCSR, and exist only while vector state is switched on. */
static bool is_vector_insn(const struct guest_insn *insn)
{
    switch (insn->decoded.meta.isa_ext) {
    case ZYDIS_ISA_EXT_AES:
    case ZYDIS_ISA_EXT_AVX:
    case ZYDIS_ISA_EXT_AVX2:
    case ZYDIS_ISA_EXT_AVX2GATHER:
    case ZYDIS_ISA_EXT_AVXAES:
    case ZYDIS_ISA_EXT_F16C:
    case ZYDIS_ISA_EXT_FMA:
    case ZYDIS_ISA_EXT_GFNI:
    case ZYDIS_ISA_EXT_PCLMULQDQ:
    case ZYDIS_ISA_EXT_SHA:
    case ZYDIS_ISA_EXT_SSE:
    case ZYDIS_ISA_EXT_SSE2:
    case ZYDIS_ISA_EXT_SSE3:
    case ZYDIS_ISA_EXT_SSE4:
    case ZYDIS_ISA_EXT_SSE4A:
    case ZYDIS_ISA_EXT_SSSE3:
    case ZYDIS_ISA_EXT_VAES:
    case ZYDIS_ISA_EXT_VPCLMULQDQ:
        break;
    default:
        return false;
    }
    switch (insn->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_MOVNTI:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
        return false;
    default:
        return insn->decoded.meta.category != ZYDIS_CATEGORY_PREFETCH;
    }
}

static bool is_vector_class(ZydisRegisterClass class)
{
    return class == ZYDIS_REGCLASS_XMM || class == ZYDIS_REGCLASS_YMM;
}

/* Which of the host's units it works on. */
static void find_units(struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        const struct operand *operand = &insn->operand[i];
        if (operand->type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        ZydisRegisterClass class = ZydisRegisterGetClass(operand->reg.value);
        insn->uses_vector |= is_vector_class(class);
        insn->uses_fpu |= class == ZYDIS_REGCLASS_MMX || class == ZYDIS_REGCLASS_X87;
    }
    ZydisInstructionCategory category = insn->decoded.meta.category;
    insn->uses_fpu |= category == ZYDIS_CATEGORY_X87_ALU ||
                      category == ZYDIS_CATEGORY_FCMOV ||
                      insn->decoded.mnemonic == ZYDIS_MNEMONIC_FWAIT;
    insn->uses_vector |= is_vector_insn(insn);
}

static bool is_of_class(const struct operand *operand, ZydisRegisterClass class)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(operand->reg.value) == class;
}

static bool is_segment(const struct operand *operand)
{
    return is_of_class(operand, ZYDIS_REGCLASS_SEGMENT);
}

static bool has_special_register(const struct guest_insn *insn)
{
    for (unsigned i = 0; i < insn->decoded.operand_count_visible; i++) {
        if (insn->operand[i].type != ZYDIS_OPERAND_TYPE_REGISTER) {
            continue;
        }
        switch (ZydisRegisterGetClass(insn->operand[i].reg.value)) {
        case ZYDIS_REGCLASS_SEGMENT:
        case ZYDIS_REGCLASS_CONTROL:
        case ZYDIS_REGCLASS_DEBUG:
        case ZYDIS_REGCLASS_TEST:
            return true;
        default:
            break;
        }
    }
    return false;
}

/* BT and its kind with a register for the bit reach beyond the operand. */
static bool is_bit_string(const struct guest_insn *insn)
{
    ZydisMnemonic mnemonic = insn->decoded.mnemonic;
    return (mnemonic == ZYDIS_MNEMONIC_BT || mnemonic == ZYDIS_MNEMONIC_BTC ||
            mnemonic == ZYDIS_MNEMONIC_BTR || mnemonic == ZYDIS_MNEMONIC_BTS) &&
           insn->operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
           insn->operand[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* Of a mnemonic's rows the sensitive ones (MOV to a control register, a far JMP) are not
 * what the table's function is for, unless that is not a copy, or emit_find knows them.
 */
enum engine_way emit_way(const struct insn_row *row)
{
    pthread_once(&once, index_rows);
    if (row->form && (strstr(row->form, "Sreg") || strcmp(row->form, "r, CR") == 0)) {
        return WAY_TRANSLATED;
    }
    emit_fn *emit = by_mnemonic[row->mnemonic];
    if (row->bind == native_bind || row->bind == native_bind_zero) {
        return WAY_COPIED;
    }
    bool is_copied = emit == emit_copy || emit == emit_jmp || emit == emit_call ||
                     emit == emit_ret || emit == emit_push || emit == emit_pop;
    if (!emit || (row->class != INSN_INNOCUOUS && is_copied)) {
        return WAY_ROUTINE;
    }
    return emit == emit_copy ? WAY_COPIED : WAY_TRANSLATED;
}

/* Outside 64-bit mode 16-bit addresses wrap around otherwise, and of CS little is known:
 * it may be execute-only. */
static bool has_odd_address(const struct guest_insn *insn)
{
    if (insn->decoded.machine_mode == ZYDIS_MACHINE_MODE_LONG_64) {
        return false;
    }
    for (unsigned i = 0; i < insn->decoded.operand_count; i++) {
        if (insn->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
            insn->operand[i].mem.segment == ZYDIS_REGISTER_CS) {
            return true;
        }
    }
    return insn->decoded.address_width == 16;
}

/* MOV, PUSH and POP of a segment register that have functions of their own. */
static emit_fn *find_segment(const struct guest_insn *insn)
{
    const struct operand *to = &insn->operand[0], *from = &insn->operand[1];
    bool is_loaded = is_segment(to);
    /* Behind a load of SS and of CS more is different than a register. */
    if (is_loaded &&
        (to->reg.value == ZYDIS_REGISTER_SS || to->reg.value == ZYDIS_REGISTER_CS)) {
        is_loaded = false;
    }
    switch (insn->decoded.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return is_segment(to) ? emit_push_segment : NULL;
    case ZYDIS_MNEMONIC_POP:
        return is_loaded ? emit_load_segment : NULL;
    case ZYDIS_MNEMONIC_MOV:
        return is_loaded          ? emit_load_segment
               : is_segment(from) ? emit_read_segment
                                  : NULL;
    default:
        return NULL;
    }
}

emit_fn *emit_find(struct guest_insn *insn)
{
    pthread_once(&once, index_rows);
    const struct decoded *decoded = &insn->decoded;
    emit_fn *segment = find_segment(insn);
    if (segment) {
        return has_odd_address(insn) ? NULL : segment;
    }
    if (has_special_register(insn)) {
        bool is_read = decoded->mnemonic == ZYDIS_MNEMONIC_MOV &&
                       is_of_class(&insn->operand[1], ZYDIS_REGCLASS_CONTROL);
        return is_read ? emit_read_control : NULL;
    }
    bool is_string = decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
                     decoded->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT &&
                     (decoded->meta.category == ZYDIS_CATEGORY_STRINGOP);
    emit_fn *emit =
        is_bit_string(insn) ? emit_bit_string : by_mnemonic[decoded->mnemonic];
    if (emit != emit_nothing && has_odd_address(insn)) {
        return NULL;
    }
    if (is_string && (decoded->opcode & 0xfc) == 0xa4) {
        /* MOVSD and CMPSD are not the vector instructions of these names. */
        emit = decoded->opcode & 2 ? emit_cmps : emit_movs;
    }
    if (!emit && !is_string && is_native(decoded->mnemonic)) {
        emit = emit_copy;
    }
    if (emit) {
        find_units(insn);
    }
    return emit;
}
