/* The architectural state between its common form and KVM's. */

#include <errno.h>
#include <string.h>

#include "allocator/virtual.h"
#include "base/scope.h"
#include "engine/kvm/vcpu.h"
#include "x86/exception.h"
#include "x86/paging.h"

/* The XSAVE image's standard format (SDM 1 13.4). */
#define XSAVE_FCW           0
#define XSAVE_FSW           2
#define XSAVE_FTW           4
#define XSAVE_FOP           6
#define XSAVE_FIP           8
#define XSAVE_FDP           16
#define XSAVE_MXCSR         24
#define XSAVE_ST            32
#define XSAVE_XMM           160
#define XSAVE_BV            512
#define XSAVE_YMM           576
#define FCW_INITIAL         0x37f

#define LOAD(from, at, to)  memcpy(&(to), (from) + (at), sizeof(to))
#define STORE(from, to, at) memcpy((to) + (at), &(from), sizeof(from))

static bool get(struct engine_vcpu *vcpu, unsigned long request, void *data,
                const char *name)
{
    if (kvm_ioctl_pointer(vcpu->fd, request, data) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot read a virtual processor's state (%s)", name);
        return false;
    }
    return true;
}

static bool set(struct engine_vcpu *vcpu, unsigned long request, const void *data,
                const char *name)
{
    if (kvm_ioctl_pointer(vcpu->fd, request, data) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot load a virtual processor's state (%s)", name);
        return false;
    }
    return true;
}

/* General registers: KVM's order is its own. */

static const size_t gpr_offsets[X86_GPR_COUNT] = {
    [X86_RAX] = offsetof(struct kvm_regs, rax),
    [X86_RCX] = offsetof(struct kvm_regs, rcx),
    [X86_RDX] = offsetof(struct kvm_regs, rdx),
    [X86_RBX] = offsetof(struct kvm_regs, rbx),
    [X86_RSP] = offsetof(struct kvm_regs, rsp),
    [X86_RBP] = offsetof(struct kvm_regs, rbp),
    [X86_RSI] = offsetof(struct kvm_regs, rsi),
    [X86_RDI] = offsetof(struct kvm_regs, rdi),
    [X86_R8] = offsetof(struct kvm_regs, r8),
    [X86_R9] = offsetof(struct kvm_regs, r9),
    [X86_R10] = offsetof(struct kvm_regs, r10),
    [X86_R11] = offsetof(struct kvm_regs, r11),
    [X86_R12] = offsetof(struct kvm_regs, r12),
    [X86_R13] = offsetof(struct kvm_regs, r13),
    [X86_R14] = offsetof(struct kvm_regs, r14),
    [X86_R15] = offsetof(struct kvm_regs, r15),
};

static __u64 *gpr_field(struct kvm_regs *regs, unsigned index)
{
    return (__u64 *)(void *)((char *)regs + gpr_offsets[index]);
}

static void save_registers(struct engine_vcpu *vcpu)
{
    struct kvm_regs regs;
    if (get(vcpu, KVM_GET_REGS, &regs, "KVM_GET_REGS")) {
        for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
            vcpu->state.gpr[i] = *gpr_field(&regs, i);
        }
        vcpu->state.rip = regs.rip;
        vcpu->state.rflags = regs.rflags;
    }
}

static void load_registers(struct engine_vcpu *vcpu)
{
    struct kvm_regs regs = {.rip = vcpu->state.rip, .rflags = vcpu->state.rflags};
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        *gpr_field(&regs, i) = vcpu->state.gpr[i];
    }
    set(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

/* Segments, tables, control registers. */

static struct x86_segment segment_from_kvm(const struct kvm_segment *segment)
{
    return (struct x86_segment){
        .selector = segment->selector,
        .base = segment->base,
        .limit = segment->limit,
        .access = segment->type | (segment->s ? X86_ACCESS_S : 0) |
                  (uint32_t)segment->dpl << X86_ACCESS_DPL_SHIFT |
                  (segment->present ? X86_ACCESS_P : 0) |
                  (segment->avl ? X86_ACCESS_AVL : 0) | (segment->l ? X86_ACCESS_L : 0) |
                  (segment->db ? X86_ACCESS_DB : 0) | (segment->g ? X86_ACCESS_G : 0) |
                  (segment->unusable ? X86_ACCESS_UNUSABLE : 0),
    };
}

static struct kvm_segment segment_to_kvm(const struct x86_segment *segment)
{
    uint32_t access = segment->access;
    return (struct kvm_segment){
        .selector = segment->selector,
        .base = segment->base,
        .limit = segment->limit,
        .type = access & X86_ACCESS_TYPE,
        .s = !!(access & X86_ACCESS_S),
        .dpl = (access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT,
        .present = !!(access & X86_ACCESS_P),
        .avl = !!(access & X86_ACCESS_AVL),
        .l = !!(access & X86_ACCESS_L),
        .db = !!(access & X86_ACCESS_DB),
        .g = !!(access & X86_ACCESS_G),
        .unusable = !!(access & X86_ACCESS_UNUSABLE),
    };
}

static const size_t segment_offsets[X86_SEGMENT_COUNT] = {
    [X86_ES] = offsetof(struct kvm_sregs, es), [X86_CS] = offsetof(struct kvm_sregs, cs),
    [X86_SS] = offsetof(struct kvm_sregs, ss), [X86_DS] = offsetof(struct kvm_sregs, ds),
    [X86_FS] = offsetof(struct kvm_sregs, fs), [X86_GS] = offsetof(struct kvm_sregs, gs),
};

static struct kvm_segment *segment_field(struct kvm_sregs *sregs, unsigned index)
{
    return (struct kvm_segment *)(void *)((char *)sregs + segment_offsets[index]);
}

/* KVM_GET_SREGS does not show them, and KVM_SET_SREGS loads them from memory: so does
 * this. */
static void save_pdptes(struct engine_vcpu *vcpu)
{
    struct x86_state *state = &vcpu->state;
    const struct engine_config *config = &vcpu->engine->config;
    memset(state->pdpte, 0, sizeof(state->pdpte));
    if (x86_is_pae(state->cr0, state->cr4, state->efer)) {
        virtual_load_pdptes(config->memory, state->cr3, config->cpuid->physical_bits,
                            state->pdpte);
    }
}

static void save_system(struct engine_vcpu *vcpu)
{
    struct x86_state *state = &vcpu->state;
    struct kvm_sregs sregs;
    if (!get(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS")) {
        return;
    }
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->seg[i] = segment_from_kvm(segment_field(&sregs, i));
    }
    state->ldtr = segment_from_kvm(&sregs.ldt);
    state->tr = segment_from_kvm(&sregs.tr);
    state->gdtr = (struct x86_table){sregs.gdt.base, sregs.gdt.limit};
    state->idtr = (struct x86_table){sregs.idt.base, sregs.idt.limit};
    state->cr0 = sregs.cr0;
    state->cr2 = sregs.cr2;
    state->cr3 = sregs.cr3;
    state->cr4 = sregs.cr4;
    state->efer = sregs.efer;
    save_pdptes(vcpu);
    if (vcpu->engine->has_apic) {
        state->apic_base = sregs.apic_base;
        vcpu->processor.config.lapic->base = sregs.apic_base;
    }
}

static void load_system(struct engine_vcpu *vcpu)
{
    struct x86_state *state = &vcpu->state;
    struct kvm_sregs sregs = {
        .ldt = segment_to_kvm(&state->ldtr),
        .tr = segment_to_kvm(&state->tr),
        .gdt = {.base = state->gdtr.base, .limit = state->gdtr.limit},
        .idt = {.base = state->idtr.base, .limit = state->idtr.limit},
        .cr0 = state->cr0,
        .cr2 = state->cr2,
        .cr3 = state->cr3,
        .cr4 = state->cr4,
        .cr8 = lapic_get_cr8(vcpu->processor.config.lapic),
        .efer = state->efer,
        .apic_base = state->apic_base,
    };
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        *segment_field(&sregs, i) = segment_to_kvm(&state->seg[i]);
    }
    set(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
}

/* x87, SSE, AVX and PKRU. */

/* What the image does not hold is in its initial state (SDM 1 13.6). */
static void save_vectors(struct engine_vcpu *vcpu)
{
    struct x86_fpu *fpu = &vcpu->state.fpu;
    struct kvm_xsave xsave;
    if (!get(vcpu, KVM_GET_XSAVE, &xsave, "KVM_GET_XSAVE")) {
        return;
    }
    const uint8_t *image = (const uint8_t *)xsave.region;
    uint64_t held;
    LOAD(image, XSAVE_BV, held);
    *fpu = (struct x86_fpu){.fcw = FCW_INITIAL};
    memset(vcpu->state.vec, 0, sizeof(vcpu->state.vec));
    vcpu->state.pkru = 0;
    LOAD(image, XSAVE_MXCSR, fpu->mxcsr);
    const struct cpuid_policy *cpuid = vcpu->engine->config.cpuid;
    if (held & cpuid->xcr0_valid & X86_XCR0_PKRU) {
        LOAD(image, cpuid_pkru_offset(cpuid), vcpu->state.pkru);
    }
    if (held & X86_XCR0_X87) {
        LOAD(image, XSAVE_FCW, fpu->fcw);
        LOAD(image, XSAVE_FSW, fpu->fsw);
        LOAD(image, XSAVE_FTW, fpu->ftw);
        LOAD(image, XSAVE_FOP, fpu->fop);
        LOAD(image, XSAVE_FIP, fpu->fip);
        LOAD(image, XSAVE_FDP, fpu->fdp);
        LOAD(image, XSAVE_ST, fpu->st);
    }
    for (unsigned i = 0; i < array_size(vcpu->state.vec); i++) {
        uint8_t *vector = vcpu->state.vec[i].u8;
        if (held & X86_XCR0_SSE) {
            memcpy(vector, image + XSAVE_XMM + 16 * i, 16);
        }
        if (held & X86_XCR0_AVX) {
            memcpy(vector + 16, image + XSAVE_YMM + 16 * i, 16);
        }
    }
}

static void load_vectors(struct engine_vcpu *vcpu)
{
    const struct x86_fpu *fpu = &vcpu->state.fpu;
    struct kvm_xsave xsave = {0};
    uint8_t *image = (uint8_t *)xsave.region;
    const struct cpuid_policy *cpuid = vcpu->engine->config.cpuid;
    uint64_t held = X86_XCR0_X87 | X86_XCR0_SSE |
                    (cpuid->xcr0_valid & (X86_XCR0_AVX | X86_XCR0_PKRU));
    if (held & X86_XCR0_PKRU) {
        STORE(vcpu->state.pkru, image, cpuid_pkru_offset(cpuid));
    }
    STORE(held, image, XSAVE_BV);
    STORE(fpu->fcw, image, XSAVE_FCW);
    STORE(fpu->fsw, image, XSAVE_FSW);
    STORE(fpu->ftw, image, XSAVE_FTW);
    STORE(fpu->fop, image, XSAVE_FOP);
    STORE(fpu->fip, image, XSAVE_FIP);
    STORE(fpu->fdp, image, XSAVE_FDP);
    STORE(fpu->mxcsr, image, XSAVE_MXCSR);
    STORE(fpu->st, image, XSAVE_ST);
    for (unsigned i = 0; i < array_size(vcpu->state.vec); i++) {
        const uint8_t *vector = vcpu->state.vec[i].u8;
        memcpy(image + XSAVE_XMM + 16 * i, vector, 16);
        if (held & X86_XCR0_AVX) {
            memcpy(image + XSAVE_YMM + 16 * i, vector + 16, 16);
        }
    }
    set(vcpu, KVM_SET_XSAVE, &xsave, "KVM_SET_XSAVE");
}

static void save_xcr0(struct engine_vcpu *vcpu)
{
    struct kvm_xcrs xcrs = {0};
    /* A guest may have set more than its model has: see kvm_cpuid_excess. */
    if (get(vcpu, KVM_GET_XCRS, &xcrs, "KVM_GET_XCRS") && xcrs.nr_xcrs > 0) {
        vcpu->state.xcr0 = xcrs.xcrs[0].value;
    }
}

static void load_xcr0(struct engine_vcpu *vcpu)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0}}};
    xcrs.xcrs[0].value = vcpu->state.xcr0;
    if (vcpu->engine->config.cpuid->xcr0_valid) {
        set(vcpu, KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS");
    }
}

static void save_debug(struct engine_vcpu *vcpu)
{
    struct kvm_debugregs debug;
    if (get(vcpu, KVM_GET_DEBUGREGS, &debug, "KVM_GET_DEBUGREGS")) {
        for (unsigned i = 0; i < 4; i++) {
            vcpu->state.dr[i] = debug.db[i];
        }
        vcpu->state.dr6 = debug.dr6;
        vcpu->state.dr7 = debug.dr7;
    }
}

static void load_debug(struct engine_vcpu *vcpu)
{
    const struct x86_state *state = &vcpu->state;
    struct kvm_debugregs debug = {
        .db = {state->dr[0], state->dr[1], state->dr[2], state->dr[3]},
        .dr6 = state->dr6,
        .dr7 = state->dr7,
    };
    set(vcpu, KVM_SET_DEBUGREGS, &debug, "KVM_SET_DEBUGREGS");
}

/* The MSRs that KVM keeps. */

static uint64_t *msr_field(struct engine_vcpu *vcpu, const struct kvm_msr_field *msr)
{
    return (uint64_t *)(void *)((char *)&vcpu->state + msr->offset);
}

/* One that this KVM does not have keeps its value here. */
static void save_msrs(struct engine_vcpu *vcpu)
{
    for (const struct kvm_msr_field *msr = kvm_msr_list; msr->index; msr++) {
        uint64_t value = 0;
        if (kvm_msr_get(vcpu, msr->index, &value)) {
            *msr_field(vcpu, msr) = value;
        }
    }
}

static void load_msrs(struct engine_vcpu *vcpu)
{
    for (const struct kvm_msr_field *msr = kvm_msr_list; msr->index; msr++) {
        uint64_t value = *msr_field(vcpu, msr);
        if (!kvm_msr_set(vcpu, msr->index, value) && value != 0) {
            kvm_fail(vcpu, errno, "KVM: cannot load a virtual processor's state (MSR %s)",
                     msr->name);
        }
    }
}

/* Events that were recognised and not delivered. */

static void save_events(struct engine_vcpu *vcpu)
{
    struct kvm_vcpu_events events;
    struct x86_event *event = &vcpu->state.event;
    if (!get(vcpu, KVM_GET_VCPU_EVENTS, &events, "KVM_GET_VCPU_EVENTS")) {
        return;
    }
    *event = (struct x86_event){0};
    if (events.exception.injected || events.exception.pending) {
        *event = (struct x86_event){
            .pending = true,
            .vector = events.exception.nr,
            .type = X86_EVENT_EXCEPTION,
            .has_error = events.exception.has_error_code,
            .error = events.exception.error_code,
        };
    } else if (events.nmi.injected || events.nmi.pending) {
        *event =
            (struct x86_event){.pending = true, .vector = X86_NMI, .type = X86_EVENT_NMI};
    } else if (events.interrupt.injected && !events.interrupt.soft) {
        *event = (struct x86_event){
            .pending = true, .vector = events.interrupt.nr, .type = X86_EVENT_EXTERNAL};
    }
    vcpu->state.nmi_blocked = events.nmi.masked && !events.nmi.injected;
    vcpu->state.interrupt_shadow = events.interrupt.shadow & KVM_X86_SHADOW_INT_MOV_SS
                                       ? X86_SHADOW_SS
                                   : events.interrupt.shadow ? X86_SHADOW_STI
                                                             : X86_SHADOW_NONE;
}

static void load_events(struct engine_vcpu *vcpu)
{
    const struct x86_state *state = &vcpu->state;
    const struct x86_event *event = &state->event;
    struct kvm_vcpu_events events = {
        .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
        .nmi.masked = state->nmi_blocked,
    };
    if (state->interrupt_shadow) {
        events.interrupt.shadow = state->interrupt_shadow == X86_SHADOW_SS
                                      ? KVM_X86_SHADOW_INT_MOV_SS
                                      : KVM_X86_SHADOW_INT_STI;
    }
    if (event->pending && event->type == X86_EVENT_EXCEPTION) {
        events.exception.injected = 1;
        events.exception.nr = event->vector;
        events.exception.has_error_code = event->has_error;
        events.exception.error_code = event->error;
    } else if (event->pending && event->type == X86_EVENT_NMI) {
        events.nmi.pending = 1;
    } else if (event->pending && event->type == X86_EVENT_EXTERNAL) {
        events.interrupt.injected = 1;
        events.interrupt.nr = event->vector;
    }
    set(vcpu, KVM_SET_VCPU_EVENTS, &events, "KVM_SET_VCPU_EVENTS");
}

void kvm_state_save(struct engine_vcpu *vcpu)
{
    save_registers(vcpu);
    save_system(vcpu);
    save_xcr0(vcpu);
    save_vectors(vcpu);
    save_debug(vcpu);
    save_msrs(vcpu);
    save_events(vcpu);
    if (vcpu->engine->has_apic) {
        kvm_apic_save_activity(vcpu);
    }
}

/* KVM has no place for a debug exception that a load of SS holds back: it comes an
 * instruction early. What its delivery changes has been done when an exception is
 * injected.
 */
static void release_held_debug(struct x86_state *state)
{
    if (!state->held_debug || state->event.pending) {
        return;
    }
    state->event = (struct x86_event){
        .pending = true, .vector = X86_DB, .type = X86_EVENT_EXCEPTION};
    state->dr6 = (state->dr6 & ~(uint64_t)DR6_HITS) | state->held_debug;
    state->dr7 &= ~(uint64_t)DR7_GD;
    state->debugctl &= ~(uint64_t)DEBUGCTL_BTF;
    state->held_debug = 0;
    state->interrupt_shadow = X86_SHADOW_NONE;
}

/* System registers first: what the others may hold depends on CR4, EFER and XCR0. */
void kvm_state_load(struct engine_vcpu *vcpu)
{
    const struct x86_state *state = &vcpu->state;
    release_held_debug(&vcpu->state);
    load_system(vcpu);
    load_msrs(vcpu);
    load_xcr0(vcpu);
    load_vectors(vcpu);
    load_debug(vcpu);
    load_registers(vcpu);
    load_events(vcpu);
    vcpu->can_inject = (state->rflags & X86_FLAG_IF) && !state->interrupt_shadow &&
                       !state->event.pending;
    vcpu->must_set_base = false;
    if (vcpu->engine->has_apic) {
        kvm_apic_load_activity(vcpu);
    }
}
