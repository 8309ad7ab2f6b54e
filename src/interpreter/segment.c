/* Segment registers and the registers of descriptor tables: SDM 3A chapters 2.4, 3, 5. */

#include "interpreter/part.h"
#include "interpreter/selector.h"
#include "interpreter/transfer.h"
#include "x86/paging.h"

/* ---- MOV, PUSH, POP, LDS and its like ---- */

/* dst: GPR, src: segment register. */
OPERATION(mov_from_segment)
{
    return selector_write(cpu, insn, cpu->state.seg[insn->src].selector);
}

/* dst: segment register, src: GPR. */
OPERATION(mov_to_segment)
{
    uint16_t selector = 0;
    return selector_read(cpu, insn, insn->src, &selector) &&
           transfer_load_segment(cpu, insn->dst, selector);
}

/* SDM 2B "PUSH": with an operand size of 32 bits a selector is zero-extended, or 16 bits
 * of the place are written and the others left. Intel's processors do the latter, AMD's
 * the former. */
OPERATION(push_segment)
{
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    unsigned stored = insn->size == 4 && !is_amd ? 2 : insn->size;
    return stack_push_part(cpu, insn->size, stored, cpu->state.seg[insn->src].selector);
}

/* Intel's processors read the selector's 16 bits only. */
OPERATION(pop_segment)
{
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    struct loaded selector = stack_peek(cpu, 0, is_amd ? insn->size : 2);
    unsigned bits = cpu->stack_bits;
    uint64_t rsp = cpu->reg[X86_RSP] + insn->size;
    if (!selector.ok ||
        !transfer_load_segment(cpu, insn->dst, (uint16_t)selector.value)) {
        return false;
    }
    transfer_set_rsp(cpu, rsp, bits);
    return true;
}

/* dst: GPR of size bytes, src: segment register; the selector lies behind the offset. */
OPERATION(load_far_pointer)
{
    uint8_t pointer[10];
    unsigned size = insn->aux;
    const struct parts parts = {.alignment = insn->aux, .count = 2, {insn->aux, 2}};
    if (!part_read(cpu, insn, &parts, pointer) ||
        !transfer_load_segment(cpu, insn->src, *(const u16_any *)(pointer + size))) {
        return false;
    }
    reg_write(cpu, insn->dst, size, access_host_load(pointer, size));
    return true;
}

/* SDM 3A 6.8.3: after loading SS one instruction runs uninterrupted, so that the stack
 * pointer can follow. */
static const struct insn *exec_mov_to_segment(struct cpu *cpu, const struct insn *insn)
{
    if (!mov_to_segment(cpu, insn)) {
        return insn_fault(cpu, insn);
    }
    if (insn->dst == X86_SS) {
        operation_stack_shadow(cpu, insn);
    }
    return insn_leave(cpu, insn);
}

static const struct insn *exec_pop_segment(struct cpu *cpu, const struct insn *insn)
{
    if (!pop_segment(cpu, insn)) {
        return insn_fault(cpu, insn);
    }
    if (insn->dst == X86_SS) {
        operation_stack_shadow(cpu, insn);
    }
    return insn_leave(cpu, insn);
}

static insn_exec *const mov_to_segment_routines[] = {exec_mov_to_segment};
static insn_exec *const pop_segment_routines[] = {exec_pop_segment};

/* ---- GDTR, IDTR ---- */

static unsigned table_base_size(const struct cpu *cpu)
{
    return cpu->is_long64 ? 8 : 4;
}

/* imm: width of the base that is loaded; 16-bit operand size takes 24 bits of it. */
static bool load_table(struct cpu *cpu, const struct insn *insn, struct x86_table *table)
{
    uint8_t image[10] = {0};
    unsigned size = table_base_size(cpu);
    if (!operation_privileged(cpu) ||
        !access_read(cpu, insn_address(cpu, insn), image, 2 + size)) {
        return false;
    }
    uint64_t base = access_host_load(image + 2, size);
    if (insn->imm == 2) {
        base &= 0xffffff;
    }
    if (!x86_canonical(base)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    table->limit = *(const u16_any *)image;
    table->base = base;
    return true;
}

OPERATION(lgdt)
{
    return load_table(cpu, insn, &cpu->state.gdtr);
}

OPERATION(lidt)
{
    return load_table(cpu, insn, &cpu->state.idtr);
}

static bool store_table(struct cpu *cpu, const struct insn *insn,
                        const struct x86_table *table)
{
    uint8_t image[10];
    unsigned size = table_base_size(cpu);
    *(u16_any *)image = table->limit;
    access_host_store(image + 2, size, table->base);
    uint64_t ea = insn_address(cpu, insn);
    return operation_umip(cpu) && access_check_alignment(cpu, ea, 4) &&
           access_write(cpu, ea, image, 2 + size);
}

OPERATION(sgdt)
{
    return store_table(cpu, insn, &cpu->state.gdtr);
}

OPERATION(sidt)
{
    return store_table(cpu, insn, &cpu->state.idtr);
}

/* ---- LDTR, TR ---- */

OPERATION(sldt)
{
    return selector_require_protected(cpu) && operation_umip(cpu) &&
           selector_write(cpu, insn, cpu->state.ldtr.selector);
}

OPERATION(str)
{
    return selector_require_protected(cpu) && operation_umip(cpu) &&
           selector_write(cpu, insn, cpu->state.tr.selector);
}

/* A present system descriptor of the GDT, for LLDT and LTR. */
static bool fetch_system(struct cpu *cpu, uint16_t selector,
                         struct transfer_descriptor *descriptor)
{
    if (selector & X86_SELECTOR_TI) {
        return cpu_raise(cpu, X86_GP, selector & 0xfffcu);
    }
    return transfer_fetch(cpu, selector, X86_GP, descriptor);
}

static bool check_present_system(struct cpu *cpu,
                                 const struct transfer_descriptor *descriptor)
{
    const struct x86_segment *segment = &descriptor->segment;
    if (!(segment->access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, segment->selector & 0xfffcu);
    }
    if (cpu->is_long && !x86_canonical(segment->base)) {
        return cpu_raise(cpu, X86_GP, segment->selector & 0xfffcu);
    }
    return true;
}

OPERATION(lldt)
{
    uint16_t selector = 0;
    if (!selector_require_protected(cpu) || !operation_privileged(cpu) ||
        !selector_read(cpu, insn, insn->dst, &selector)) {
        return false;
    }
    if (!(selector & 0xfffcu)) {
        cpu->state.ldtr = x86_segment_null(selector);
        return true;
    }
    struct transfer_descriptor descriptor;
    if (!fetch_system(cpu, selector, &descriptor)) {
        return false;
    }
    if ((descriptor.segment.access & (X86_ACCESS_S | X86_ACCESS_TYPE)) != X86_TYPE_LDT) {
        return cpu_raise(cpu, X86_GP, selector & 0xfffcu);
    }
    if (!check_present_system(cpu, &descriptor)) {
        return false;
    }
    cpu->state.ldtr = descriptor.segment;
    return true;
}

OPERATION(ltr)
{
    uint16_t selector = 0;
    if (!selector_require_protected(cpu) || !operation_privileged(cpu) ||
        !selector_read(cpu, insn, insn->dst, &selector)) {
        return false;
    }
    if (!(selector & 0xfffcu)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    struct transfer_descriptor descriptor;
    if (!fetch_system(cpu, selector, &descriptor)) {
        return false;
    }
    uint32_t type = descriptor.segment.access & (X86_ACCESS_S | X86_ACCESS_TYPE);
    if (type != X86_TYPE_TSS && (cpu->is_long || type != X86_TYPE_TSS16)) {
        return cpu_raise(cpu, X86_GP, selector & 0xfffcu);
    }
    uint32_t busy = type | 2;
    if (!check_present_system(cpu, &descriptor) ||
        !transfer_write_type(cpu, &descriptor, busy)) {
        return false;
    }
    descriptor.segment.access |= 2;
    cpu->state.tr = descriptor.segment;
    return true;
}

/* ---- FS and GS bases ---- */

static const struct insn *exec_swapgs(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(cpu->cpl > 0)) {
        return insn_raise(cpu, insn, X86_GP, 0);
    }
    uint64_t base = cpu->state.seg[X86_GS].base;
    cpu->state.seg[X86_GS].base = cpu->state.kernel_gs_base;
    cpu->state.kernel_gs_base = base;
    NEXT(cpu, insn);
}

/* aux: the segment register. */
static const struct insn *exec_read_base(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!(cpu->state.cr4 & X86_CR4_FSGSBASE))) {
        return insn_raise(cpu, insn, X86_UD, 0);
    }
    reg_write(cpu, insn->dst, insn->size, cpu->state.seg[insn->aux].base);
    NEXT(cpu, insn);
}

static const struct insn *exec_write_base(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!(cpu->state.cr4 & X86_CR4_FSGSBASE))) {
        return insn_raise(cpu, insn, X86_UD, 0);
    }
    uint64_t base = reg_read(cpu, insn->dst, insn->size);
    if (unlikely(!x86_canonical(base))) {
        return insn_raise(cpu, insn, X86_GP, 0);
    }
    cpu->state.seg[insn->aux].base = base;
    NEXT(cpu, insn);
}

HANDLER(mov_from_segment)
HANDLER(push_segment)
ENDING_HANDLER(load_far_pointer)
ENDING_HANDLER(lgdt)
ENDING_HANDLER(lidt)
HANDLER(sgdt)
HANDLER(sidt)
HANDLER(sldt)
HANDLER(str)
ENDING_HANDLER(lldt)
ENDING_HANDLER(ltr)

/* ---- Operand forms ---- */

static bool is_segment(const ZydisDecodedOperand *operand)
{
    return operand->type == ZYDIS_OPERAND_TYPE_REGISTER &&
           ZydisRegisterGetClass(operand->reg.value) == ZYDIS_REGCLASS_SEGMENT;
}

static uint8_t segment_of(const ZydisDecodedOperand *operand)
{
    return (uint8_t)ZydisRegisterGetId(operand->reg.value);
}

static bool bind_mov_from(struct binding *binding, const struct insn_row *row,
                          struct insn *insn)
{
    if (!is_segment(&binding->operand[1])) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->src = segment_of(&binding->operand[1]);
    selector_bind_operand(binding, insn, &binding->operand[0], &insn->dst);
    return true;
}

static bool bind_mov_to(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    if (!is_segment(&binding->operand[0])) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->dst = segment_of(&binding->operand[0]);
    selector_bind_operand(binding, insn, &binding->operand[1], &insn->src);
    return true;
}

static bool bind_stack(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    if (!is_segment(&binding->operand[0])) {
        return false;
    }
    insn->exec = row->exec[0];
    insn->src = insn->dst = segment_of(&binding->operand[0]);
    insn->size = binding->decoded->operand_width / 8;
    return true;
}

/* The segment register is the hidden third operand. */
static bool bind_far_pointer(struct binding *binding, const struct insn_row *row,
                             struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->dst = bind_register(binding->operand[0].reg.value);
    insn->src = segment_of(&binding->operand[2]);
    bind_memory(binding, insn, &binding->operand[1]);
    insn->aux = (uint8_t)(binding->operand[0].size / 8);
    return true;
}

static bool bind_table(struct binding *binding, const struct insn_row *row,
                       struct insn *insn)
{
    insn->exec = row->exec[0];
    bind_memory(binding, insn, &binding->operand[0]);
    /* Decoders give the size of 32-bit mode's image; what is accessed depends on the mode
     * alone. */
    insn->size = binding->cpu->is_long64 ? 10 : 6;
    insn->imm = binding->decoded->operand_width / 8;
    return true;
}

static bool bind_base(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bool is_fs = row->mnemonic == ZYDIS_MNEMONIC_RDFSBASE ||
                 row->mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
    insn->aux = is_fs ? X86_FS : X86_GS;
    return bind_simple(binding, row, insn);
}

#define ROUTINE(name)    \
    (insn_exec *const[]) \
    {                    \
        exec_##name      \
    }
#define ROW(name, class, bind, routines, flags)                    \
    {                                                              \
        ZYDIS_MNEMONIC_##name, INSN_##class, bind, routines, flags \
    }
#define FORM_ROW(name, form, class, bind, routines, flags)               \
    {                                                                    \
        ZYDIS_MNEMONIC_##name, INSN_##class, bind, routines, flags, form \
    }
#define FAR_POINTER_ROW(name)                                                 \
    ROW(name, CONTROL_SENSITIVE, bind_far_pointer, load_far_pointer_routines, \
        ROW_ENDS_BLOCK)

/* Selectors and tables read without privilege show where the VMM has put things: the
 * behaviour-sensitive rows. Loads of segment registers depend on the privilege level. */
const struct insn_row insn_rows_segment[] = {
    FORM_ROW(MOV, "r/m, Sreg", BEHAVIOUR_SENSITIVE, bind_mov_from,
             mov_from_segment_routines, 0),
    FORM_ROW(MOV, "Sreg, r/m", CONTROL_SENSITIVE, bind_mov_to, mov_to_segment_routines,
             ROW_ENDS_BLOCK),
    FORM_ROW(PUSH, "Sreg", BEHAVIOUR_SENSITIVE, bind_stack, push_segment_routines, 0),
    FORM_ROW(POP, "Sreg", CONTROL_SENSITIVE, bind_stack, pop_segment_routines,
             ROW_ENDS_BLOCK),
    FAR_POINTER_ROW(LDS),
    FAR_POINTER_ROW(LES),
    FAR_POINTER_ROW(LSS),
    FAR_POINTER_ROW(LFS),
    FAR_POINTER_ROW(LGS),
    ROW(LGDT, PRIVILEGED, bind_table, lgdt_routines, ROW_ENDS_BLOCK),
    ROW(LIDT, PRIVILEGED, bind_table, lidt_routines, ROW_ENDS_BLOCK),
    ROW(SGDT, BEHAVIOUR_SENSITIVE, bind_table, sgdt_routines, 0),
    ROW(SIDT, BEHAVIOUR_SENSITIVE, bind_table, sidt_routines, 0),
    ROW(LLDT, PRIVILEGED, selector_bind, lldt_routines, ROW_ENDS_BLOCK),
    ROW(LTR, PRIVILEGED, selector_bind, ltr_routines, ROW_ENDS_BLOCK),
    ROW(SLDT, BEHAVIOUR_SENSITIVE, selector_bind, sldt_routines, 0),
    ROW(STR, BEHAVIOUR_SENSITIVE, selector_bind, str_routines, 0),
    ROW(SWAPGS, PRIVILEGED, bind_simple, ROUTINE(swapgs), 0),
    ROW(RDFSBASE, BEHAVIOUR_SENSITIVE, bind_base, ROUTINE(read_base), 0),
    ROW(RDGSBASE, BEHAVIOUR_SENSITIVE, bind_base, ROUTINE(read_base), 0),
    ROW(WRFSBASE, CONTROL_SENSITIVE, bind_base, ROUTINE(write_base), 0),
    ROW(WRGSBASE, CONTROL_SENSITIVE, bind_base, ROUTINE(write_base), 0),
    {0},
};
