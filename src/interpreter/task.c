/*
 * The switch in the order of SDM 3A 8.3: everything that can fail in the old task is
 * tried first (descriptors, limits, pages of both TSSs), then the old task is saved, then
 * the new one is loaded as a whole; what fails from there on fails in the new task, with
 * the segment registers that were not reached holding their selectors and nothing else.
 */

#include "interpreter/task.h"

#include "interpreter/access.h"
#include "interpreter/breakpoint.h"
#include "interpreter/event.h"
#include "interpreter/transfer.h"
#include "x86/paging.h"

#define SELECTOR_ERROR(selector) ((uint32_t)(selector)&0xfffcu)

#define TSS_BUSY                 2u /* in the type of a TSS descriptor */

/* The images in memory (SDM 3A 8.2.1 and 8.6): GPRs lie in the order of their numbers,
 * segment selectors in that of theirs. */
struct tss_layout {
    unsigned size; /* least size in bytes */
    unsigned word; /* of a value: 2 or 4 */
    unsigned eip, eflags, gpr, segment, segment_count, ldt;
};

static const struct tss_layout layout16 = {44, 2, 14, 16, 18, 34, 4, 42};
static const struct tss_layout layout32 = {104, 4, 32, 36, 40, 72, 6, 96};

#define TSS32_CR3      28
#define TSS32_TRAP     100 /* bit 0: T */
#define TSS_IMAGE_SIZE 104

struct tss {
    struct transfer_descriptor descriptor;
    const struct tss_layout *layout;
    uint64_t base;
};

static const struct tss_layout *layout_of(uint32_t access)
{
    return access & 8 ? &layout32 : &layout16;
}

/* ---- Before the switch ---- */

/* Faults of the return from a task name #TS, the others #GP. */
static bool find_new(struct cpu *cpu, const struct task_switch *request, struct tss *tss)
{
    bool is_return = request->cause == TASK_RETURN;
    uint8_t vector = is_return ? X86_TS : X86_GP;
    uint32_t error = SELECTOR_ERROR(request->selector);
    if (!error || request->selector & X86_SELECTOR_TI) {
        return cpu_raise(cpu, vector, error);
    }
    if (!transfer_fetch(cpu, request->selector, vector, &tss->descriptor)) {
        return false;
    }
    uint32_t access = tss->descriptor.segment.access;
    uint32_t type = access & (X86_ACCESS_S | X86_ACCESS_TYPE);
    uint32_t wanted = is_return ? TSS_BUSY : 0;
    if (type != (X86_TYPE_TSS | wanted) && type != (X86_TYPE_TSS16 | wanted)) {
        return cpu_raise(cpu, vector, error);
    }
    if (!(access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, error);
    }
    tss->layout = layout_of(access);
    tss->base = tss->descriptor.segment.base;
    if (tss->descriptor.segment.limit < tss->layout->size - 1) {
        return cpu_raise(cpu, X86_TS, error);
    }
    return true;
}

static bool find_old(struct cpu *cpu, struct tss *tss)
{
    const struct x86_segment *tr = &cpu->state.tr;
    tss->layout = layout_of(tr->access);
    tss->base = tr->base;
    if (tr->access & X86_ACCESS_UNUSABLE || tr->limit < tss->layout->size - 1) {
        return cpu_raise(cpu, X86_TS, SELECTOR_ERROR(tr->selector));
    }
    return transfer_fetch(cpu, tr->selector, X86_TS, &tss->descriptor);
}

static bool nests(const struct task_switch *request)
{
    return request->cause == TASK_CALL || request->cause == TASK_INTERRUPT;
}

/* Are all pages there that the switch reads and writes? SDM 3A 8.3, step 5. */
static bool probe(struct cpu *cpu, const struct task_switch *request,
                  const struct tss *old, const struct tss *new)
{
    unsigned saved = old->layout->ldt - old->layout->eip;
    return access_probe_system(cpu, old->base + old->layout->eip, saved, true) &&
           access_probe_system(cpu, new->base, new->layout->size, false) &&
           (!nests(request) || access_probe_system(cpu, new->base, 2, true)) &&
           access_probe_system(cpu, old->descriptor.address + 5, 1, true) &&
           access_probe_system(cpu, new->descriptor.address + 5, 1, true);
}

/* ---- The old task ---- */

static bool save_old(struct cpu *cpu, const struct task_switch *request,
                     const struct tss *old)
{
    const struct tss_layout *layout = old->layout;
    uint8_t image[TSS_IMAGE_SIZE] = {0};
    /* What is saved is one range from EIP to the last segment register; of each 4-byte
     * slot of a selector the upper half stays as it is in memory. */
    unsigned size = layout->ldt - layout->eip;
    if (!access_read_system(cpu, old->base + layout->eip, image + layout->eip, size)) {
        return false;
    }
    uint64_t flags = request->flags;
    if (request->cause == TASK_RETURN) {
        flags &= ~(uint64_t)X86_FLAG_NT;
    }
    access_host_store(image + layout->eip, layout->word, request->return_rip);
    access_host_store(image + layout->eflags, layout->word, flags);
    for (unsigned i = 0; i < 8; i++) {
        access_host_store(image + layout->gpr + i * layout->word, layout->word,
                          cpu->reg[i]);
    }
    for (unsigned i = 0; i < layout->segment_count; i++) {
        access_host_store(image + layout->segment + i * layout->word, 2,
                          cpu->state.seg[i].selector);
    }
    return access_write_system(cpu, old->base + layout->eip, image + layout->eip, size);
}

/* Busy bits, and the link that a nested task returns by. */
static bool mark(struct cpu *cpu, const struct task_switch *request,
                 const struct tss *old, struct tss *new)
{
    if (!nests(request)) {
        unsigned type = old->descriptor.segment.access & X86_ACCESS_TYPE & ~TSS_BUSY;
        if (!transfer_write_type(cpu, &old->descriptor, type)) {
            return false;
        }
    }
    if (request->cause != TASK_RETURN) {
        new->descriptor.segment.access |= TSS_BUSY;
        unsigned type = new->descriptor.segment.access &X86_ACCESS_TYPE;
        if (!transfer_write_type(cpu, &new->descriptor, type)) {
            return false;
        }
    }
    uint16_t link = cpu->state.tr.selector;
    return !nests(request) || access_write_system(cpu, new->base, &link, sizeof(link));
}

/* ---- The new task ---- */

/* Of registers that a 16-bit TSS has half of, the other half is undefined; it becomes all
 * ones, as software has come to expect. */
static uint64_t load_value(const struct tss_layout *layout, const uint8_t *image,
                           unsigned offset)
{
    uint64_t value = access_host_load(image + offset, layout->word);
    return layout->word == 2 ? value | 0xffff0000u : value;
}

/* A bad page-directory-pointer entry is the new task's #GP; CR3 then stays as it was. */
static bool load_address_space(struct cpu *cpu, const struct tss *new,
                               const uint8_t *image)
{
    struct x86_state *state = &cpu->state;
    if (new->layout != &layout32 || !(state->cr0 & X86_CR0_PG)) {
        return true;
    }
    uint64_t cr3 = access_host_load(image + TSS32_CR3, 4);
    if (cr3 != state->cr3 && x86_is_pae(state->cr0, state->cr4, state->efer) &&
        !access_load_pdptes(cpu, cr3)) {
        return false;
    }
    state->cr3 = cr3;
    cpu_switch_context(cpu, false);
    return true;
}

static void load_flags(struct cpu *cpu, const struct task_switch *request,
                       const struct tss *new, const uint8_t *image)
{
    uint64_t flags = access_host_load(image + new->layout->eflags, new->layout->word);
    if (nests(request)) {
        flags |= X86_FLAG_NT;
    }
    cpu_set_rflags(cpu, flags);
    cpu->resume_count = cpu->retired;
}

/* Registers and selectors; the segments behind these come later, and may fault. */
static void load_registers(struct cpu *cpu, const struct task_switch *request,
                           const struct tss *new, const uint8_t *image)
{
    const struct tss_layout *layout = new->layout;
    for (unsigned i = 0; i < 8; i++) {
        cpu->reg[i] = load_value(layout, image, layout->gpr + i * layout->word);
    }
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        uint16_t selector = 0;
        if (i < layout->segment_count) {
            selector = *(const u16_any *)(image + layout->segment + i * layout->word);
        }
        cpu->state.seg[i] = x86_segment_null(selector);
    }
    cpu->rip = access_host_load(image + layout->eip, layout->word);
    load_flags(cpu, request, new, image);
    /* The level comes from CS, whatever is found behind it. */
    unsigned cpl = X86_SELECTOR_RPL(cpu->state.seg[X86_CS].selector);
    cpu->state.seg[X86_SS].access |= cpl << X86_ACCESS_DPL_SHIFT;
    cpu->state.ldtr = x86_segment_null(*(const u16_any *)(image + layout->ldt));
    cpu_update_mode(cpu);
}

static bool load_ldt(struct cpu *cpu)
{
    uint16_t selector = cpu->state.ldtr.selector;
    uint32_t error = SELECTOR_ERROR(selector);
    if (!error) {
        return true;
    }
    if (selector & X86_SELECTOR_TI) {
        return cpu_raise(cpu, X86_TS, error);
    }
    struct transfer_descriptor descriptor;
    if (!transfer_fetch(cpu, selector, X86_TS, &descriptor)) {
        return false;
    }
    uint32_t access = descriptor.segment.access;
    if ((access & (X86_ACCESS_S | X86_ACCESS_TYPE)) != X86_TYPE_LDT ||
        !(access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_TS, error);
    }
    cpu->state.ldtr = descriptor.segment;
    return true;
}

/* SDM 3A table 8-1 looks at CS's level, then at SS, then at the rest of CS. */
static bool fetch_code(struct cpu *cpu, struct transfer_descriptor *descriptor)
{
    uint16_t selector = cpu->state.seg[X86_CS].selector;
    uint32_t error = SELECTOR_ERROR(selector);
    if (!error) {
        return cpu_raise(cpu, X86_TS, 0);
    }
    if (!transfer_fetch(cpu, selector, X86_TS, descriptor)) {
        return false;
    }
    uint32_t access = descriptor->segment.access;
    unsigned dpl = (access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
    bool is_code = access & X86_ACCESS_S && access & X86_ACCESS_CODE;
    bool is_conforming = access & X86_ACCESS_EXPAND;
    bool is_level = is_conforming ? dpl <= cpu->cpl : dpl == cpu->cpl;
    return (is_code && is_level) || cpu_raise(cpu, X86_TS, error);
}

static bool load_stack(struct cpu *cpu)
{
    struct x86_segment segment;
    if (!transfer_check_stack(cpu, cpu->state.seg[X86_SS].selector, cpu->cpl, X86_TS,
                              &segment)) {
        return false;
    }
    cpu->state.seg[X86_SS] = segment;
    cpu_update_mode(cpu);
    return true;
}

static bool load_code(struct cpu *cpu, struct transfer_descriptor *descriptor)
{
    if (!(descriptor->segment.access & X86_ACCESS_P)) {
        return cpu_raise(cpu, X86_NP, SELECTOR_ERROR(descriptor->segment.selector));
    }
    if (!transfer_mark_accessed(cpu, descriptor)) {
        return false;
    }
    cpu->state.seg[X86_CS] = descriptor->segment;
    cpu_update_mode(cpu);
    return true;
}

static void load_vm86(struct cpu *cpu)
{
    struct x86_segment *seg = cpu->state.seg;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        seg[i] = transfer_real_segment(cpu, i, seg[i].selector);
    }
    cpu_update_mode(cpu);
}

static bool load_segments(struct cpu *cpu)
{
    static const enum x86_segment_register data[] = {X86_DS, X86_ES, X86_FS, X86_GS};
    struct transfer_descriptor code;
    if (cpu->state.rflags & X86_FLAG_VM) {
        load_vm86(cpu);
        return true;
    }
    if (!fetch_code(cpu, &code) || !load_stack(cpu) || !load_code(cpu, &code)) {
        return false;
    }
    for (unsigned i = 0; i < 4; i++) {
        uint16_t selector = cpu->state.seg[data[i]].selector;
        if (!transfer_load_data(cpu, data[i], selector, X86_TS)) {
            return false;
        }
    }
    return true;
}

static bool push_error(struct cpu *cpu, const struct task_switch *request,
                       const struct tss *new)
{
    if (!request->has_error) {
        return true;
    }
    struct transfer_stack stack = transfer_current_stack(cpu);
    const uint64_t error = request->error;
    if (!transfer_push(cpu, &stack, &error, 1, new->layout->word)) {
        return false;
    }
    transfer_set_rsp(cpu, stack.rsp, stack.bits);
    return true;
}

enum task_result task_switch(struct cpu *cpu, const struct task_switch *request)
{
    struct tss old, new;
    uint8_t image[TSS_IMAGE_SIZE];
    if (!find_new(cpu, request, &new) || !find_old(cpu, &old) ||
        !probe(cpu, request, &old, &new) || !save_old(cpu, request, &old) ||
        /* Read behind the old one's write: they may overlap. */
        !access_read_system(cpu, new.base, image, new.layout->size) ||
        !mark(cpu, request, &old, &new)) {
        return TASK_REFUSED;
    }

    cpu->state.tr = new.descriptor.segment;
    bool has_tables = load_address_space(cpu, &new, image);
    load_registers(cpu, request, &new, image);
    cpu->state.cr0 |= X86_CR0_TS;
    breakpoint_switch_task(cpu, new.layout == &layout32 &&image[TSS32_TRAP] & 1);

    bool is_well = (has_tables || cpu_raise(cpu, X86_GP, 0)) && load_ldt(cpu) &&
                   load_segments(cpu) && push_error(cpu, request, &new) &&
                   transfer_check_target(cpu, &cpu->state.seg[X86_CS], cpu->rip);
    return is_well ? TASK_SWITCHED : TASK_FAULTED;
}

bool task_switch_and_fault(struct cpu *cpu, const struct task_switch *request)
{
    enum task_result result = task_switch(cpu, request);
    if (result == TASK_FAULTED) {
        event_deliver_fault(cpu);
    }
    return result != TASK_REFUSED;
}
