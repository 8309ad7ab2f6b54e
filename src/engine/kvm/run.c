/*
 * The loop of a vCPU: events, KVM_RUN, the exit.
 *
 * Kicks. kvm_run->immediate_exit is cleared before the causes of a kick are looked at,
 * and set by the kicker after the cause was posted: a kick before the look is seen by it,
 * one after it makes KVM_RUN return at once. If KVM_RUN had read immediate_exit already,
 * the signal that follows interrupts it. No kick is lost, and none costs a system call
 * unless the vCPU is inside.
 */

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"
#include "interpreter/cpu.h"
#include "x86/exception.h"

/* Ignored by default, so that a stray one does no harm. */
#define KICK_SIGNAL SIGURG

static void on_kick_signal(int number)
{
}

int kvm_kick_init(struct error *err)
{
    struct sigaction before, action = {.sa_handler = on_kick_signal};
    if (sigaction(KICK_SIGNAL, NULL, &before) < 0) {
        return fail(err, errno, "cannot look at signal %d", KICK_SIGNAL);
    }
    if (before.sa_handler == on_kick_signal) {
        return 0;
    }
    if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
        return fail_plain(err, EBUSY, "signal %d is taken in this process", KICK_SIGNAL);
    }
    if (sigaction(KICK_SIGNAL, &action, NULL) < 0) {
        return fail(err, errno, "cannot take signal %d", KICK_SIGNAL);
    }
    return 0;
}

static void set_immediate_exit(struct engine_vcpu *vcpu, uint8_t value)
{
    __atomic_store_n(&vcpu->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void kvm_kick(struct engine_vcpu *vcpu, bool return_to_caller)
{
    if (return_to_caller) {
        atomic_store(&vcpu->processor.return_requested, true);
    }
    set_immediate_exit(vcpu, 1);
    if (atomic_load(&vcpu->is_interpreting)) {
        cpu_set_attention(vcpu->processor.cpu);
    }
    if (atomic_load(&vcpu->is_inside)) {
        syscall(SYS_tgkill, getpid(), vcpu->thread, KICK_SIGNAL);
    }
}

void kvm_interrupt_others(struct processor *processor)
{
    struct engine *engine = container_of(processor->engine, struct engine, config);
    for (unsigned i = 0; i < engine->config.cpus; i++) {
        struct engine_vcpu *vcpu = engine->vcpu[i];
        if (vcpu && &vcpu->processor != processor) {
            kvm_kick(vcpu, false);
        }
    }
}

void kvm_fail(struct engine_vcpu *vcpu, int code, const char *format, ...)
{
    if (vcpu->failure.code) {
        return;
    }
    char message[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    unsigned index = vcpu->processor.config.index;
    if (code) {
        fail(&vcpu->failure, code, "vCPU %u: %s", index, message);
    } else {
        fail_plain(&vcpu->failure, EIO, "vCPU %u: %s", index, message);
    }
}

/* KVM's TPR is the APIC's. */
static void take_tpr(struct engine_vcpu *vcpu)
{
    if (vcpu->run->cr8 != lapic_get_cr8(vcpu->processor.config.lapic)) {
        processor_set_cr8(&vcpu->processor, &vcpu->state, vcpu->run->cr8 & 15);
    }
}

/* True: an exit is to be answered. */
static bool enter(struct engine_vcpu *vcpu)
{
    vcpu->run->cr8 = lapic_get_cr8(vcpu->processor.config.lapic);
    atomic_store(&vcpu->is_inside, true);
    int result = kvm_ioctl(vcpu->fd, KVM_RUN, 0);
    int code = errno;
    atomic_store(&vcpu->is_inside, false);
    vcpu->must_settle = false;
    vcpu->can_inject = vcpu->run->ready_for_interrupt_injection;
    take_tpr(vcpu);
    if (result < 0 && code != EINTR && code != EAGAIN) {
        kvm_fail(vcpu, code, "KVM_RUN (%s)", kvm_exit_name(vcpu->run->exit_reason));
    }
    return result >= 0;
}

/* An instruction may leave KVM more than once. Causes of kicks must be looked at again
 * afterwards. */
void kvm_settle(struct engine_vcpu *vcpu)
{
    while (vcpu->must_settle && !vcpu->failure.code) {
        set_immediate_exit(vcpu, 1);
        if (enter(vcpu)) {
            kvm_exit_handle(vcpu);
        }
    }
}

static void load_changed(struct engine_vcpu *vcpu)
{
    kvm_state_load(vcpu);
    kvm_tsc_sync(vcpu);
}

/* INIT and SIPI find the processor between instructions. */
static void take_startup(struct engine_vcpu *vcpu)
{
    kvm_settle(vcpu);
    kvm_state_save(vcpu);
    processor_take_startup(&vcpu->processor, &vcpu->state);
    load_changed(vcpu);
}

static void inject(struct engine_vcpu *vcpu, int pending)
{
    int vector = processor_acknowledge(&vcpu->processor, pending);
    if (vector < 0) {
        return;
    }
    struct kvm_interrupt interrupt = {.irq = (uint32_t)vector};
    if (kvm_ioctl_pointer(vcpu->fd, KVM_INTERRUPT, &interrupt) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot inject interrupt %d", vector);
        return;
    }
    vcpu->can_inject = false;
    vcpu->state.activity = X86_RUNNING;
    processor_count(&vcpu->processor, EXIT_INTERRUPT);
    processor_offer_eoi(&vcpu->processor);
}

static void take_interrupt(struct engine_vcpu *vcpu)
{
    const struct lapic *lapic = vcpu->processor.config.lapic;
    if (lapic_has_request(lapic)) {
        processor_take_eoi(&vcpu->processor);
    }
    int pending = lapic_pending(lapic);
    if (pending != LAPIC_NONE && vcpu->can_inject) {
        inject(vcpu, pending);
        pending = lapic_pending(lapic);
    }
    vcpu->run->request_interrupt_window = pending != LAPIC_NONE;
}

static void take_nmi(struct engine_vcpu *vcpu)
{
    /* KVM keeps those that it cannot deliver yet, as many as a processor would. */
    while (lapic_take_nmi(vcpu->processor.config.lapic, false)) {
        if (kvm_ioctl(vcpu->fd, KVM_NMI, 0) < 0) {
            kvm_fail(vcpu, errno, "KVM: cannot inject an NMI");
            return;
        }
        vcpu->state.activity = X86_RUNNING;
        processor_count(&vcpu->processor, EXIT_INTERRUPT);
    }
}

/* One look at everything that may interrupt guest code. False: look again. */
static bool take_events(struct engine_vcpu *vcpu)
{
    if (vcpu->engine->has_apic) {
        kvm_apic_take_events(vcpu);
        return true;
    }
    if (processor_has_startup(&vcpu->processor)) {
        take_startup(vcpu);
        return false;
    }
    if (vcpu->must_set_base) {
        kvm_settle(vcpu);
        kvm_state_save(vcpu);
        load_changed(vcpu);
        return false;
    }
    processor_run_timer(&vcpu->processor);
    if (vcpu->state.activity == X86_RUNNING || vcpu->state.activity == X86_HALTED) {
        take_nmi(vcpu);
        take_interrupt(vcpu);
    }
    return true;
}

/* vCPU threads have every signal blocked that is not theirs. */
static void adopt_thread(struct engine_vcpu *vcpu)
{
    int thread = (int)syscall(SYS_gettid);
    if (vcpu->thread != thread) {
        sigset_t kick;
        sigemptyset(&kick);
        sigaddset(&kick, KICK_SIGNAL);
        pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
        vcpu->thread = thread;
    }
}

static bool has_failed(struct engine_vcpu *vcpu)
{
    struct engine *engine = vcpu->engine;
    if (vcpu->failure.code) {
        return true;
    }
    pthread_mutex_lock(&engine->memory_lock);
    if (engine->memory_failure.code) {
        vcpu->failure = engine->memory_failure;
    }
    pthread_mutex_unlock(&engine->memory_lock);
    return vcpu->failure.code;
}

static enum run_result run(struct engine_vcpu *vcpu)
{
    for (;;) {
        set_immediate_exit(vcpu, 0);
        if (atomic_exchange(&vcpu->processor.return_requested, false)) {
            kvm_settle(vcpu);
            return vcpu->failure.code ? RUN_FAILED : RUN_KICKED;
        }
        exclusive_yield(&vcpu->engine->exclusive);
        kvm_memory_follow(vcpu);
        bool is_stepped = vcpu->has_guest_debug && vcpu->control.step;
        if (!is_stepped && !take_events(vcpu) && !vcpu->failure.code) {
            continue;
        }
        if (vcpu->failure.code) {
            return RUN_FAILED;
        }
        if (vcpu->state.activity == X86_SHUTDOWN) {
            return RUN_SHUTDOWN;
        }
        if (vcpu->state.activity != X86_RUNNING && !vcpu->engine->has_apic) {
            return RUN_HALTED;
        }
        if (enter(vcpu)) {
            kvm_exit_handle(vcpu);
        }
        if (kvm_guest_debug_has_stopped(vcpu)) {
            return RUN_DEBUG;
        }
        if (vcpu->must_interpret) {
            return RUN_KICKED;
        }
    }
}

enum run_result kvm_run(struct engine_vcpu *vcpu)
{
    adopt_thread(vcpu);
    vcpu->engine->has_run = true;
    kvm_tsc_sync(vcpu);
    if (has_failed(vcpu)) {
        return RUN_FAILED;
    }
    if (vcpu->is_debugged && !(vcpu->fits_guest_debug && kvm_guest_debug_start(vcpu))) {
        return kvm_interpret(vcpu);
    }
    exclusive_enter(&vcpu->engine->exclusive);
    if (vcpu->engine->has_apic) {
        kvm_apic_start(vcpu);
    }
    enum run_result result = run(vcpu);
    if (vcpu->engine->has_apic) {
        kvm_apic_stop(vcpu);
    }
    exclusive_leave(&vcpu->engine->exclusive);
    if (vcpu->has_guest_debug) {
        kvm_guest_debug_end(vcpu);
    }
    if (vcpu->must_interpret) {
        vcpu->must_interpret = false;
        return kvm_interpret(vcpu);
    }
    return vcpu->failure.code ? RUN_FAILED : result;
}
