/*
 * A debugger's points and steps by KVM (KVM_SET_GUEST_DEBUG), where this host's delivers
 * them and where they fit: four points as the processor's debug registers have them (SDM
 * 3B 18.2), none of which only reads, and no others of the guest's own, whose registers
 * KVM leaves without effect meanwhile. Everything else is the interpreter's (emulate.c).
 */

#include <errno.h>

#include "base/scope.h"
#include "engine/kvm/bench.h"
#include "engine/kvm/vcpu.h"
#include "x86/exception.h"

#define DR7_FIXED         0x400u
#define DR7_ENABLED       0xffu
#define DR7_ENABLE(i)     (2u << 2 * (i)) /* globally */
#define DR7_TYPE(i, type) ((uint64_t)(type) << (16 + 4 * (i)))
#define DR7_SIZE(i, size) ((uint64_t)(size) << (18 + 4 * (i)))
#define TYPE_EXECUTE      0u
#define TYPE_WRITE        1u
#define TYPE_ACCESS       3u

/* --- Does this host deliver? --- */

/* mov [0x5000], al; nop; out 0x80, al; jmp $ */
static const uint8_t code[] = {0x88, 0x04, 0x25, 0x00, 0x50, 0x00,
                               0x00, 0x90, 0xe6, 0x80, 0xeb, 0xfe};
#define STORED_AT 0x5000u
#define NOP_AT    (KVM_BENCH_CODE + 7)
#define OUT_AT    (KVM_BENCH_CODE + 8)

static bool set_debug(struct kvm_bench *bench, uint32_t control, uint64_t address,
                      uint64_t dr7)
{
    struct kvm_guest_debug debug = {
        .control = KVM_GUESTDBG_ENABLE | control,
        .arch.debugreg = {[0] = address, [7] = DR7_FIXED | dr7},
    };
    return kvm_ioctl_pointer(bench->vcpu, KVM_SET_GUEST_DEBUG, &debug) >= 0;
}

/* Does it stop at pc for this cause, next? */
static bool stops(struct kvm_bench *bench, uint64_t pc, uint64_t dr6)
{
    const struct kvm_debug_exit_arch *arch = &bench->run->debug.arch;
    return kvm_bench_run(bench) >= 0 && bench->run->exit_reason == KVM_EXIT_DEBUG &&
           arch->pc == pc && (arch->dr6 & (DR6_HITS | DR6_BS)) == dr6;
}

static bool goes_on_from_point(struct kvm_bench *bench)
{
    struct kvm_regs regs;
    if (kvm_ioctl_pointer(bench->vcpu, KVM_GET_REGS, &regs) < 0) {
        return false;
    }
    regs.rflags |= X86_FLAG_RF;
    return kvm_ioctl_pointer(bench->vcpu, KVM_SET_REGS, &regs) >= 0 &&
           kvm_bench_run(bench) >= 0 && bench->run->exit_reason == KVM_EXIT_IO;
}

static bool delivers(struct kvm_bench *bench, unsigned ring)
{
    const uint32_t step = KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
    return kvm_bench_start(bench, ring, 0) &&
           set_debug(bench, KVM_GUESTDBG_USE_HW_BP, NOP_AT, DR7_ENABLE(0)) &&
           stops(bench, NOP_AT, 1) && goes_on_from_point(bench) &&
           kvm_bench_start(bench, ring, 0) &&
           set_debug(bench, KVM_GUESTDBG_USE_HW_BP, STORED_AT,
                     DR7_ENABLE(0) | DR7_TYPE(0, TYPE_WRITE)) &&
           stops(bench, NOP_AT, 1) && kvm_bench_start(bench, ring, 0) &&
           set_debug(bench, step, 0, 0) && stops(bench, NOP_AT, DR6_BS) &&
           stops(bench, OUT_AT, DR6_BS);
}

bool kvm_guest_debug_works(void)
{
    struct kvm_bench bench;
    bool works = false;
    if (kvm_bench_open(&bench, NULL) >= 0 &&
        kvm_ioctl(bench.device, KVM_CHECK_EXTENSION, KVM_CAP_SET_GUEST_DEBUG2) &
            KVM_GUESTDBG_BLOCKIRQ) {
        kvm_bench_put(&bench, code, sizeof(code));
        works = delivers(&bench, 0) && delivers(&bench, 3);
    }
    kvm_bench_close(&bench);
    return works;
}

/* --- Which points fit --- */

static bool is_point_of_hardware(const struct debug_point *point)
{
    bool has_size =
        point->size == 1 || point->size == 2 || point->size == 4 || point->size == 8;
    return point->kind == DEBUG_EXECUTE ||
           (point->kind != DEBUG_READ && has_size && point->address % point->size == 0);
}

bool kvm_guest_debug_fits(const struct engine *engine,
                          const struct debug_control *control)
{
    if (!engine->has_guest_debug || control->count > KVM_POINTS) {
        return false;
    }
    for (unsigned i = 0; i < control->count; i++) {
        if (!is_point_of_hardware(&control->point[i])) {
            return false;
        }
    }
    return true;
}

/* SDM 3B 18.2.4: a size of 8 is the code 2. */
static uint64_t dr7_of(const struct debug_point *point, unsigned i)
{
    static const uint8_t sizes[] = {[1] = 0, [2] = 1, [4] = 3, [8] = 2};
    if (point->kind == DEBUG_EXECUTE) {
        return DR7_ENABLE(i) | DR7_TYPE(i, TYPE_EXECUTE);
    }
    return DR7_ENABLE(i) |
           DR7_TYPE(i, point->kind == DEBUG_WRITE ? TYPE_WRITE : TYPE_ACCESS) |
           DR7_SIZE(i, sizes[point->size]);
}

static void tell_kvm(struct engine_vcpu *vcpu)
{
    const struct debug_control *control = &vcpu->control;
    struct kvm_guest_debug debug = {.arch.debugreg[7] = DR7_FIXED};
    if (vcpu->has_guest_debug) {
        debug.control = KVM_GUESTDBG_ENABLE;
        debug.control |= control->count ? KVM_GUESTDBG_USE_HW_BP : 0;
        debug.control |=
            control->step ? KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ : 0;
    }
    for (unsigned i = 0; vcpu->has_guest_debug && i < control->count; i++) {
        debug.arch.debugreg[i] = control->point[i].address;
        debug.arch.debugreg[7] |= dr7_of(&control->point[i], i);
    }
    if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_GUEST_DEBUG, &debug) < 0) {
        kvm_fail(vcpu, errno, "KVM_SET_GUEST_DEBUG");
    }
}

/* --- Running --- */

/* The guest debugs itself, or is being stepped. */
static bool is_guest_debugging(struct engine_vcpu *vcpu)
{
    struct kvm_debugregs own;
    struct kvm_regs regs;
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_DEBUGREGS, &own) < 0 ||
        kvm_ioctl_pointer(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot read a virtual processor's state");
        return true;
    }
    return own.dr7 & DR7_ENABLED || regs.rflags & X86_FLAG_TF;
}

/* SDM 3B 18.3.1.1: RF keeps the point back under which it stopped. */
static void leave_point(struct engine_vcpu *vcpu)
{
    struct kvm_regs regs;
    if (!vcpu->has_stopped) {
        return;
    }
    vcpu->has_stopped = false;
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
        kvm_fail(vcpu, errno, "KVM_GET_REGS");
        return;
    }
    if (regs.rip == vcpu->stopped_rip) {
        regs.rflags |= X86_FLAG_RF;
        if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_REGS, &regs) < 0) {
            kvm_fail(vcpu, errno, "KVM_SET_REGS");
        }
    }
}

bool kvm_guest_debug_start(struct engine_vcpu *vcpu)
{
    kvm_settle(vcpu);
    vcpu->processor.stop.reason = DEBUG_NONE;
    vcpu->has_guest_debug = !is_guest_debugging(vcpu);
    tell_kvm(vcpu);
    if (vcpu->has_guest_debug) {
        leave_point(vcpu);
    }
    return vcpu->has_guest_debug;
}

void kvm_guest_debug_end(struct engine_vcpu *vcpu)
{
    vcpu->has_guest_debug = false;
    tell_kvm(vcpu);
}

static void note_stop(struct engine_vcpu *vcpu, const struct debug_point *point)
{
    struct debug_stop *stop = &vcpu->processor.stop;
    *stop = point ? (struct debug_stop){DEBUG_POINT, point->kind, point->address}
                  : (struct debug_stop){.reason = DEBUG_STEPPED};
}

/* One that is none of the debugger's: it goes to the guest, as the processor would. */
static void give_to_guest(struct engine_vcpu *vcpu, uint64_t dr6)
{
    struct kvm_vcpu_events events;
    struct kvm_debugregs own;
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0 ||
        kvm_ioctl_pointer(vcpu->fd, KVM_GET_DEBUGREGS, &own) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot read a virtual processor's state");
        return;
    }
    events.exception.injected = 1;
    events.exception.nr = (uint8_t)vcpu->run->debug.arch.exception;
    events.exception.has_error_code = 0;
    own.dr6 |= dr6 & (DR6_HITS | DR6_BS);
    if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) < 0 ||
        kvm_ioctl_pointer(vcpu->fd, KVM_SET_DEBUGREGS, &own) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot give a debug exception to the guest");
    }
}

void kvm_guest_debug_exit(struct engine_vcpu *vcpu)
{
    const struct debug_control *control = &vcpu->control;
    const struct kvm_debug_exit_arch *arch = &vcpu->run->debug.arch;
    if (!vcpu->has_guest_debug) {
        kvm_fail(vcpu, 0, "KVM: exit %u (debug), and nobody debugs", KVM_EXIT_DEBUG);
        return;
    }
    for (unsigned i = 0; i < control->count; i++) {
        if (arch->exception == X86_DB && arch->dr6 >> i & 1) {
            note_stop(vcpu, &control->point[i]);
            vcpu->has_stopped = control->point[i].kind == DEBUG_EXECUTE;
            break;
        }
    }
    bool is_step = control->step && arch->exception == X86_DB && arch->dr6 & DR6_BS;
    if (vcpu->processor.stop.reason == DEBUG_NONE && is_step) {
        note_stop(vcpu, NULL);
    }
    if (vcpu->processor.stop.reason == DEBUG_NONE) {
        give_to_guest(vcpu, arch->dr6);
        return;
    }
    struct kvm_regs regs;
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_REGS, &regs) < 0) {
        kvm_fail(vcpu, errno, "KVM_GET_REGS");
        return;
    }
    vcpu->stopped_rip = regs.rip;
}

bool kvm_guest_debug_has_stopped(struct engine_vcpu *vcpu)
{
    /* A halt is a step, and no exception comes behind it. */
    bool has_halted =
        vcpu->has_guest_debug && vcpu->control.step && vcpu->state.activity == X86_HALTED;
    if (has_halted && vcpu->run->exit_reason == KVM_EXIT_HLT) {
        note_stop(vcpu, NULL);
    }
    return vcpu->has_guest_debug && vcpu->processor.stop.reason != DEBUG_NONE;
}
