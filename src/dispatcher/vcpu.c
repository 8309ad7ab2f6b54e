#include "dispatcher/vcpu.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/counter.h"
#include "dispatcher/lifecycle.h"
#include "dispatcher/steps.h"
#include "jail/jail.h"

/* In the event loop's thread, with timer_lock held. */
static void apic_timer_expired(void *opaque)
{
    struct vcpu *vcpu = opaque;
    vcpu->armed_ns = TIMER_NEVER;
    if (vcpu->deadline_ns > clock_now(&vcpu->vm->clock)) {
        vcpu->armed_ns = vcpu->deadline_ns;
        timer_set(&vcpu->apic_timer, vcpu->armed_ns);
        return;
    }
    vcpu->deadline_ns = TIMER_NEVER;
    vcpu_kick(vcpu);
}

struct vcpu *vcpu_new(struct vm *vm, unsigned index, struct error *err)
{
    struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu) {
        fail(err, ENOMEM, "cannot make vCPU %u", index);
        return NULL;
    }
    vcpu->vm = vm;
    vcpu->index = index;
    vcpu->deadline_ns = TIMER_NEVER;
    vcpu->armed_ns = TIMER_NEVER;
    paravirt_init(&vcpu->paravirt);
    pthread_mutex_init(&vcpu->timer_lock, NULL);
    timer_init(&vcpu->apic_timer, vm->timers, &vcpu->timer_lock, apic_timer_expired,
               vcpu);
    lapic_reset(&vcpu->lapic, index, vm->config.cpuid.tsc_khz);
    struct vcpu_config config = {
        .index = index,
        .is_bootstrap = index == 0,
        .lapic = &vcpu->lapic,
        .paravirt = &vcpu->paravirt.registers,
        .sink = {.exit = vcpu_exit_handle, .opaque = vcpu},
        .stats = &vcpu->stats,
    };
    vcpu->engine = vm->engine_ops->vcpu_open(vm->engine, &config, err);
    if (!vcpu->engine) {
        vcpu_free(vcpu);
        return NULL;
    }
    return vcpu;
}

void vcpu_free(struct vcpu *vcpu)
{
    if (!vcpu) {
        return;
    }
    assert(!vcpu->has_thread);
    /* The timer's function kicks the engine, so it goes first. */
    timer_fini(&vcpu->apic_timer);
    if (vcpu->engine) {
        vcpu->vm->engine_ops->vcpu_close(vcpu->engine);
    }
    paravirt_fini(&vcpu->paravirt);
    pthread_mutex_destroy(&vcpu->timer_lock);
    free(vcpu);
}

void vcpu_reset(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->timer_lock);
    vcpu->deadline_ns = TIMER_NEVER;
    vcpu->armed_ns = TIMER_NEVER;
    timer_cancel(&vcpu->apic_timer);
    pthread_mutex_unlock(&vcpu->timer_lock);
    lapic_reset(&vcpu->lapic, vcpu->index, vcpu->vm->config.cpuid.tsc_khz);
    paravirt_reset(&vcpu->paravirt);
    struct x86_state state;
    x86_state_reset(&state, vcpu->index == 0);
    vcpu->vm->engine_ops->set_state(vcpu->engine, &state);
}

void vcpu_save(struct vcpu *vcpu, struct x86_state *state, struct lapic *lapic)
{
    vcpu->vm->engine_ops->get_state(vcpu->engine, state);
    memcpy(lapic, &vcpu->lapic, sizeof(*lapic));
}

void vcpu_load(struct vcpu *vcpu, const struct x86_state *state,
               const struct lapic *lapic)
{
    memcpy(&vcpu->lapic, lapic, sizeof(*lapic));
    vcpu->vm->engine_ops->set_state(vcpu->engine, state);
    pthread_mutex_lock(&vcpu->timer_lock);
    vcpu->deadline_ns = vcpu->armed_ns = lapic_timer_deadline(&vcpu->lapic);
    timer_set(&vcpu->apic_timer, vcpu->armed_ns);
    pthread_mutex_unlock(&vcpu->timer_lock);
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value,
                  const struct timespec *until)
{
    return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, until, NULL,
                   FUTEX_BITSET_MATCH_ANY);
}

/*
 * The sleeper announces itself, then looks at the sequence (here and again in the
 * kernel); the kicker advances the sequence, then looks for a sleeper. Whichever order
 * the four take, the sleeper does not sleep or is woken.
 */
void vcpu_kick(struct vcpu *vcpu)
{
    atomic_fetch_add(&vcpu->kick_sequence, 1);
    vcpu->vm->engine_ops->kick(vcpu->engine, atomic_load(&vcpu->return_requested));
    if (atomic_load(&vcpu->is_sleeping)) {
        futex(&vcpu->kick_sequence, FUTEX_WAKE, 1, NULL);
    }
}

void vcpu_request_return(struct vcpu *vcpu)
{
    atomic_store(&vcpu->return_requested, true);
    vcpu_kick(vcpu);
}

/* The host's time at which the APIC timer fires; NULL: it does not. */
static const struct timespec *sleep_limit(struct vcpu *vcpu, struct timespec *until)
{
    uint64_t deadline_ns = lapic_timer_deadline(&vcpu->lapic);
    if (deadline_ns == TIMER_NEVER) {
        return NULL;
    }
    uint64_t host_ns = clock_host_deadline(&vcpu->vm->clock, deadline_ns);
    if (host_ns == UINT64_MAX) {
        return NULL; /* the clock stands still: whoever moves it runs apic_timer */
    }
    until->tv_sec = (time_t)(host_ns / NS_PER_SECOND);
    until->tv_nsec = (long)(host_ns % NS_PER_SECOND);
    return until;
}

/* Only the vCPU's own thread adds, so no locked instruction is needed. */
void vcpu_count(struct vcpu *vcpu, enum exit_reason reason, uint64_t ns)
{
    counter_add(&vcpu->stats.exit[reason].count, 1);
    counter_add(&vcpu->stats.exit[reason].ns, ns);
}

/* Until a kick after the sequence was read (before run() looked for work), or the APIC
 * timer. */
static void vcpu_sleep(struct vcpu *vcpu, uint32_t sequence)
{
    struct timespec until;
    const struct timespec *limit = sleep_limit(vcpu, &until);
    uint64_t start_ns = clock_host_ns();
    bool is_due = false;
    paravirt_sleep(vcpu);
    atomic_store(&vcpu->is_sleeping, true);
    while (!is_due && atomic_load(&vcpu->kick_sequence) == sequence) {
        long result = futex(&vcpu->kick_sequence, FUTEX_WAIT_BITSET, sequence, limit);
        is_due = result < 0 && errno == ETIMEDOUT;
    }
    atomic_store(&vcpu->is_sleeping, false);
    paravirt_wake(vcpu);
    if (is_due) {
        vcpu->vm->engine_ops->kick(vcpu->engine, false);
    }
    /* The engine has counted the HLT itself. */
    counter_add(&vcpu->stats.exit[EXIT_HLT].ns, clock_host_ns() - start_ns);
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    char name[16];
    snprintf(name, sizeof(name), "cpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    /* Timers as precise as the host's clock: the default slack is 50 us. */
    prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0);
    bool is_deterministic = vcpu->vm->config.is_deterministic;
    if (!is_deterministic) {
        paravirt_attach(&vcpu->paravirt);
    }
    if (vcpu->vm->engine_ops->begin) {
        vcpu->vm->engine_ops->begin(vcpu->engine);
    }
    /* Deterministic, it also does what the disks' workers would. */
    jail_enter(is_deterministic ? JAIL_VCPU_STEPS : vcpu->vm->engine_ops->role);
    bool has_run = false;
    while (vm_gate_pass(vcpu)) {
        if (!has_run) {
            paravirt_wake(vcpu); /* a saved guest's, of an engine where it slept */
            has_run = true;
        }
        uint32_t sequence = atomic_load(&vcpu->kick_sequence);
        if (is_deterministic && !steps_begin(vcpu->vm)) {
            continue;
        }
        enum run_result result = vcpu->vm->engine_ops->run(vcpu->engine);
        if (is_deterministic) {
            steps_end(vcpu->vm);
        }
        switch (result) {
        case RUN_KICKED:
            vcpu_count(vcpu, EXIT_KICK, 0);
            break;
        case RUN_HALTED:
            if (!is_deterministic || !steps_skip(vcpu->vm)) {
                vcpu_sleep(vcpu, sequence);
            }
            break;
        case RUN_FAILED:
            vm_report_failure(vcpu);
            break;
        case RUN_SHUTDOWN:
            vcpu_count(vcpu, EXIT_TRIPLE_FAULT, 0);
            vm_report_shutdown(vcpu);
            break;
        case RUN_DEBUG:
            vm_report_debug(vcpu);
            break;
        case RUN_LIMIT: /* steps_begin sets another */
            break;
        }
    }
    return NULL;
}

/* All signals belong to the thread that handles them, but for those an instruction of the
 * thread itself raises. */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGABRT};
    sigset_t blocked;
    sigfillset(&blocked);
    for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
        sigdelset(&blocked, own[i]);
    }
    pthread_sigmask(SIG_SETMASK, &blocked, before);
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
    sigset_t before;
    block_signals(&before);
    int code = jail_thread_create(&vcpu->thread, vcpu_thread, vcpu);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (code != 0) {
        return fail(err, code, "cannot start the thread of vCPU %u", vcpu->index);
    }
    vcpu->has_thread = true;
    return 0;
}

void vcpu_join(struct vcpu *vcpu)
{
    if (vcpu->has_thread) {
        pthread_join(vcpu->thread, NULL);
        vcpu->has_thread = false;
    }
}
