#include "state/processor.h"

#include <string.h>

#define ROW(name, member)                              \
    {                                                  \
        name, offsetof(struct x86_state, member),      \
            sizeof(((struct x86_state *)0)->member), 1 \
    }
#define ROWS(name, member, size)                             \
    {                                                        \
        name, offsetof(struct x86_state, member), size,      \
            sizeof(((struct x86_state *)0)->member) / (size) \
    }
#define SEGMENT(name, member)                                                   \
    ROW(name ".selector", member.selector), ROW(name ".access", member.access), \
        ROW(name ".limit", member.limit), ROW(name ".base", member.base)
#define TABLE(name, member) \
    ROW(name ".base", member.base), ROW(name ".limit", member.limit)

const struct device_field processor_fields[] = {
    ROWS("gpr", gpr, 8),
    ROW("rip", rip),
    ROW("rflags", rflags),
    SEGMENT("es", seg[X86_ES]),
    SEGMENT("cs", seg[X86_CS]),
    SEGMENT("ss", seg[X86_SS]),
    SEGMENT("ds", seg[X86_DS]),
    SEGMENT("fs", seg[X86_FS]),
    SEGMENT("gs", seg[X86_GS]),
    SEGMENT("ldtr", ldtr),
    SEGMENT("tr", tr),
    TABLE("gdtr", gdtr),
    TABLE("idtr", idtr),
    ROW("cr0", cr0),
    ROW("cr2", cr2),
    ROW("cr3", cr3),
    ROW("cr4", cr4),
    ROWS("pdpte", pdpte, 8),
    ROW("xcr0", xcr0),
    ROW("pkru", pkru),
    ROW("efer", efer),
    ROWS("dr", dr, 8),
    ROW("dr6", dr6),
    ROW("dr7", dr7),
    ROW("star", star),
    ROW("lstar", lstar),
    ROW("cstar", cstar),
    ROW("sfmask", sfmask),
    ROW("kernel_gs_base", kernel_gs_base),
    ROW("sysenter_cs", sysenter_cs),
    ROW("sysenter_esp", sysenter_esp),
    ROW("sysenter_eip", sysenter_eip),
    ROW("pat", pat),
    ROW("tsc_aux", tsc_aux),
    ROW("misc_enable", misc_enable),
    ROW("spec_ctrl", spec_ctrl),
    ROW("xss", xss),
    ROW("debugctl", debugctl),
    ROW("tsc_offset", tsc_offset),
    ROW("tsc_adjust", tsc_adjust),
    ROW("mcg_status", mcg_status),
    ROW("apic_base", apic_base),
    ROW("mtrr.default_type", mtrr.default_type),
    ROWS("mtrr.fixed", mtrr.fixed, 8),
    ROWS("mtrr.variable", mtrr.variable, 8),
    ROW("fpu.fcw", fpu.fcw),
    ROW("fpu.fsw", fpu.fsw),
    ROW("fpu.ftw", fpu.ftw),
    ROW("fpu.fop", fpu.fop),
    ROW("fpu.fip", fpu.fip),
    ROW("fpu.fdp", fpu.fdp),
    ROW("fpu.fcs", fpu.fcs),
    ROW("fpu.fds", fpu.fds),
    ROW("fpu.mxcsr", fpu.mxcsr),
    ROWS("fpu.st", fpu.st, 1),
    ROWS("vec", vec, 8),
    ROW("activity", activity),
    ROW("event.pending", event.pending),
    ROW("event.vector", event.vector),
    ROW("event.type", event.type),
    ROW("event.has_error", event.has_error),
    ROW("event.error", event.error),
    ROW("event.length", event.length),
    ROW("interrupt_shadow", interrupt_shadow),
    ROW("nmi_blocked", nmi_blocked),
    ROW("held_debug", held_debug),
    DEVICE_FIELD_END,
};

const struct device_field lapic_fields[] = {
    DEVICE_FIELD(struct lapic, id),
    DEVICE_FIELD(struct lapic, base),
    DEVICE_FIELD(struct lapic, tsc_khz),
    DEVICE_FIELD_ARRAY(struct lapic, regs),
    DEVICE_FIELD(struct lapic, signals),
    DEVICE_FIELD(struct lapic, sipi_vector),
    DEVICE_FIELD(struct lapic, timer_deadline_ns),
    DEVICE_FIELD(struct lapic, tsc_deadline),
    DEVICE_FIELD(struct lapic, esr_pending),
    DEVICE_FIELD_END,
};

#define HIGH_HALF 0xffffffff00000000ull
#define EFER_VALID \
    (X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_FFXSR)
#define MXCSR_VALID 0xffffu /* SDM 1 10.2.3; DAZ is everywhere that we run */

/* As loaded from bytes, before the compiler may take it for a bool. */
static bool is_bool(const bool *value)
{
    uint8_t byte;
    memcpy(&byte, value, 1);
    return byte <= 1;
}

static bool is_canonical(uint64_t address)
{
    return (uint64_t)((int64_t)(address << 16) >> 16) == address;
}

static bool is_event(const struct x86_event *event)
{
    uint32_t type;
    memcpy(&type, &event->type, sizeof(type));
    return is_bool(&event->pending) && is_bool(&event->has_error) &&
           type <= X86_EVENT_SOFTWARE_EXCEPTION && type != 1 && event->length <= 15;
}

/* Nothing but a load of SS holds back debug conditions: data breakpoints. */
static bool is_held_debug(const struct x86_state *state)
{
    return !state->held_debug ||
           (state->interrupt_shadow == X86_SHADOW_SS && state->held_debug <= 0xf);
}

static bool is_paging_mode(const struct x86_state *state)
{
    bool is_paging = state->cr0 & X86_CR0_PG;
    bool is_long = state->efer & X86_EFER_LMA;
    bool is_enabled = state->efer & X86_EFER_LME;
    if (is_paging && !(state->cr0 & X86_CR0_PE)) {
        return false;
    }
    return is_long == (is_paging && is_enabled) &&
           (!is_long || state->cr4 & X86_CR4_PAE) &&
           (is_long || !(state->cr4 & X86_CR4_PCIDE));
}

static bool is_code_mode(const struct x86_state *state)
{
    uint32_t access = state->seg[X86_CS].access;
    bool is_long64 = state->efer & X86_EFER_LMA && access & X86_ACCESS_L;
    if (is_long64 && (access & X86_ACCESS_DB || !is_canonical(state->rip))) {
        return false;
    }
    if (state->rflags & X86_FLAG_VM &&
        (state->efer & X86_EFER_LMA || !(state->cr0 & X86_CR0_PE))) {
        return false;
    }
    return is_long64 || !(state->rip & HIGH_HALF);
}

static bool is_xcr0(const struct x86_state *state, const struct cpuid_policy *policy)
{
    return state->xcr0 & 1 && !(state->xcr0 & ~(policy->xcr0_valid | 1)) &&
           (state->xcr0 & 6) != 4;
}

const char *processor_bad_part(const struct x86_state *state,
                               const struct cpuid_policy *policy)
{
    uint32_t activity;
    memcpy(&activity, &state->activity, sizeof(activity));
    const struct {
        const char *name;
        bool is_good;
    } checks[] = {
        {"activity", activity <= X86_SHUTDOWN},
        {"event", is_event(&state->event)},
        {"interrupt_shadow", state->interrupt_shadow <= X86_SHADOW_SS},
        {"held_debug", is_held_debug(state)},
        {"nmi_blocked", is_bool(&state->nmi_blocked)},
        {"rflags", state->rflags & X86_FLAG_1 &&
                       !(state->rflags & ~(uint64_t)(X86_FLAGS_VALID | X86_FLAG_1))},
        {"cr0", !(state->cr0 & HIGH_HALF)},
        {"cr4", !(state->cr4 & (HIGH_HALF | X86_CR4_LA57)) &&
                    (!(state->cr4 & X86_CR4_PKE) || cpuid_has(policy, CPU_PKU))},
        {"efer", !(state->efer & ~EFER_VALID)},
        {"cr0, cr4 and efer together", is_paging_mode(state)},
        {"rip and cs", is_code_mode(state)},
        {"cr3", !(state->cr3 >> policy->physical_bits)},
        {"dr6 and dr7", !((state->dr6 | state->dr7) & HIGH_HALF)},
        {"xcr0", is_xcr0(state, policy)},
        {"mxcsr", !(state->fpu.mxcsr & ~MXCSR_VALID)},
    };
    for (unsigned i = 0; i < array_size(checks); i++) {
        if (!checks[i].is_good) {
            return checks[i].name;
        }
    }
    return NULL;
}

/* The timer's mode (SDM 3A 11.5.4) and whether its deadline is one of that mode: a
 * counting timer without a count never comes. */
static bool is_timer(const struct lapic *lapic)
{
    uint32_t entry = lapic->regs[0x320 / 4], initial = lapic->regs[0x380 / 4];
    bool is_counting = !(entry & 1u << 18);
    return lapic->timer_deadline_ns == LAPIC_TIMER_STOPPED || !is_counting ||
           initial != 0;
}

#define SIGNALS_VALID                                                              \
    (LAPIC_SIGNAL_NMI | LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_SIPI | LAPIC_SIGNAL_SMI | \
     LAPIC_SIGNAL_EXTINT | LAPIC_SIGNAL_EXTINT_MESSAGE | LAPIC_SIGNAL_NMI_AGAIN)

const char *lapic_bad_part(const struct lapic *lapic, unsigned index,
                           const struct x86_state *state,
                           const struct cpuid_policy *policy)
{
    uint64_t base = lapic->base;
    uint64_t valid = LAPIC_BASE_BSP | LAPIC_BASE_X2APIC | LAPIC_BASE_ENABLE |
                     (LAPIC_BASE_ADDRESS & ((1ull << policy->physical_bits) - 1));
    const struct {
        const char *name;
        bool is_good;
    } checks[] = {
        {"id", lapic->id == index},
        {"base", !(base & ~valid) && base == state->apic_base &&
                     (base & LAPIC_BASE_ENABLE || !(base & LAPIC_BASE_X2APIC))},
        {"tsc_khz", lapic->tsc_khz == policy->tsc_khz},
        {"signals", !(lapic->signals & ~SIGNALS_VALID)},
        {"timer_deadline_ns", is_timer(lapic)},
    };
    for (unsigned i = 0; i < array_size(checks); i++) {
        if (!checks[i].is_good) {
            return checks[i].name;
        }
    }
    return NULL;
}
