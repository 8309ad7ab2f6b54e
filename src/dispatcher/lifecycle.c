/*
 * Start, pause, resume, reset and end of a VM.
 *
 * Requests may come from anywhere, a device with its lock held included. They are noted
 * under request_lock, close the gate at once, so that the guest executes nothing behind
 * the instruction that asked, and are carried out by the event loop's thread, which holds
 * no lock.
 */

#include "dispatcher/lifecycle.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "jail/jail.h"

enum vm_status vm_get_status(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    enum vm_status status = vm->status;
    pthread_mutex_unlock(&vm->lock);
    return status;
}

static bool is_gate_closed_locked(struct vm *vm)
{
    return vm->gate_holds > 0 || atomic_load(&vm->request_pending);
}

/*
 * return_requested is cleared before the gate is looked at: who closes the gate does so
 * before setting it, so either this look sees the gate closed, or run() is left again.
 */
bool vm_gate_pass(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    if (!atomic_load(&vcpu->return_requested)) {
        return true;
    }
    pthread_mutex_lock(&vm->lock);
    atomic_store(&vcpu->return_requested, false);
    while (vm->status != VM_STOPPED && (vcpu->is_held || is_gate_closed_locked(vm))) {
        if (!vcpu->is_parked) {
            vcpu->is_parked = true;
            vm->parked_vcpus++;
            pthread_cond_broadcast(&vm->changed);
        }
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    if (vcpu->is_parked) {
        vcpu->is_parked = false;
        vm->parked_vcpus--;
    }
    bool is_running = vm->status != VM_STOPPED;
    pthread_mutex_unlock(&vm->lock);
    return is_running;
}

/* Sends every vCPU to the gate. Needs no lock. */
static void request_return(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vcpu_request_return(vm->vcpu[i]);
    }
}

static bool is_all_parked_locked(const struct vm *vm)
{
    return vm->parked_vcpus == vm->live_vcpus;
}

static void set_stopped(struct vm *vm, const struct vm_end *end)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->status != VM_STOPPED) {
        vm->status = VM_STOPPED;
        vm->end = *end;
        vm->stopped_ns = clock_host_ns();
    }
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    request_return(vm);
}

static void join_all(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vcpu_join(vm->vcpu[i]);
    }
    pthread_mutex_lock(&vm->lock);
    vm->live_vcpus = 0;
    pthread_mutex_unlock(&vm->lock);
}

void vm_stop(struct vm *vm)
{
    set_stopped(vm, &(struct vm_end){.reason = VM_END_NONE});
    join_all(vm);
}

static int start_threads_locked(struct vm *vm, struct error *err)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        int result = vcpu_start(vm->vcpu[i], err);
        if (result < 0) {
            return result;
        }
        vm->live_vcpus++;
    }
    return 0;
}

/* Every vCPU's thread goes to the gate first, which is closed, and enters its jail on the
 * way; then this thread does. So no guest code runs in a process that is not confined. */
static int start_confined(struct vm *vm, struct error *err)
{
    pthread_mutex_lock(&vm->lock);
    vm->status = VM_RUNNING;
    vm->gate_holds++;
    request_return(vm);
    int result = start_threads_locked(vm, err);
    while (result >= 0 && !is_all_parked_locked(vm)) {
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    pthread_mutex_unlock(&vm->lock);
    if (result >= 0) {
        result = jail_close(err);
    }
    pthread_mutex_lock(&vm->lock);
    if (result >= 0) { /* else it stays closed until the VM is stopped */
        vm->gate_holds--;
        vm->started_ns = clock_host_ns();
        clock_resume(&vm->clock);
        pthread_cond_broadcast(&vm->changed);
    }
    pthread_mutex_unlock(&vm->lock);
    return result;
}

int vm_start(struct vm *vm, struct error *err)
{
    if (vm_get_status(vm) != VM_CREATED) {
        return fail_plain(err, EINVAL, "the VM has been started before");
    }
    int result = vm->boot && !vm->is_restored ? vm->boot(vm->boot_opaque, vm, err) : 0;
    if (result < 0) {
        return result;
    }
    result = start_confined(vm, err);
    if (result < 0) {
        vm_stop(vm);
    }
    return result;
}

/* Devices first: what they still send reaches APICs that are reset afterwards. */
static int reset_parked(struct vm *vm, struct error *err)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        device_reset(vm->device[i]);
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        vcpu_reset(vm->vcpu[i]);
    }
    return vm->boot ? vm->boot(vm->boot_opaque, vm, err) : 0;
}

/* Requests for a reset from before everybody stood still ask for this very one. */
static void drop_reset_requests(struct vm *vm)
{
    pthread_mutex_lock(&vm->request_lock);
    vm->reset_requested = false;
    atomic_store(&vm->request_pending, vm->requested_end.reason != VM_END_NONE);
    pthread_mutex_unlock(&vm->request_lock);
}

/* In the event loop's thread, which alone stops a VM: it cannot stop meanwhile. */
static void vm_reset(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->gate_holds++;
    vm->is_resetting = true;
    pthread_mutex_unlock(&vm->lock);
    request_return(vm);
    pthread_mutex_lock(&vm->lock);
    while (!is_all_parked_locked(vm)) {
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    pthread_mutex_unlock(&vm->lock);

    drop_reset_requests(vm);
    struct error err = {0};
    if (reset_parked(vm, &err) < 0) {
        vm_request_end(vm, VM_END_ERROR, 0, err.message);
    }

    pthread_mutex_lock(&vm->lock);
    vm->gate_holds--;
    vm->is_resetting = false;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

/* A hold keeps the gate closed between taking a request and acting on it. */
void vm_serve_requests(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    vm->gate_holds++;
    pthread_mutex_unlock(&vm->lock);

    pthread_mutex_lock(&vm->request_lock);
    struct vm_end end = vm->requested_end;
    bool is_reset = vm->reset_requested;
    vm->reset_requested = false;
    atomic_store(&vm->request_pending, false);
    pthread_mutex_unlock(&vm->request_lock);

    bool is_alive = vm_get_status(vm) != VM_STOPPED;
    if (is_alive && end.reason != VM_END_NONE) {
        set_stopped(vm, &end);
        loop_stop(vm->loop);
    } else if (is_alive && is_reset) {
        vm_reset(vm);
    }

    pthread_mutex_lock(&vm->lock);
    vm->gate_holds--;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
}

static void serve_requests(void *opaque)
{
    vm_serve_requests(opaque);
}

/* After a request was noted. Without memory for a call the loop is stopped instead;
 * vm_run serves requests whenever the loop returns. */
static void submit(struct vm *vm)
{
    request_return(vm);
    if (loop_post(vm->loop, serve_requests, vm) < 0) {
        loop_stop(vm->loop);
    }
}

void vm_request_end(struct vm *vm, enum vm_end_reason reason, int value,
                    const char *message)
{
    pthread_mutex_lock(&vm->request_lock);
    struct vm_end *end = &vm->requested_end;
    if (end->reason == VM_END_NONE) {
        end->reason = reason;
        end->value = value;
        snprintf(end->message, sizeof(end->message), "%s", message ? message : "");
    }
    atomic_store(&vm->request_pending, true);
    pthread_mutex_unlock(&vm->request_lock);
    submit(vm);
}

bool vm_is_ending(struct vm *vm)
{
    pthread_mutex_lock(&vm->request_lock);
    bool is_ending = vm->requested_end.reason != VM_END_NONE;
    pthread_mutex_unlock(&vm->request_lock);
    return is_ending;
}

void vm_request_reset(struct vm *vm)
{
    if (vm->config.no_reboot) {
        vm_request_end(vm, VM_END_RESET, 0, "the guest asked for a reset");
        return;
    }
    pthread_mutex_lock(&vm->request_lock);
    vm->reset_requested = true;
    atomic_store(&vm->request_pending, true);
    pthread_mutex_unlock(&vm->request_lock);
    submit(vm);
}

static void log_state(enum log_level level, const struct x86_state *state)
{
    char text[4096];
    x86_state_format(state, text, sizeof(text));
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line; line = strsep(&rest, "\n")) {
        if (*line) {
            log_message(level, "%s", line);
        }
    }
}

void vm_report_shutdown(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct x86_state state;
    vm->engine_ops->get_state(vcpu->engine, &state);
    char message[128];
    snprintf(message, sizeof(message), "vCPU %u: triple fault at %04x:%#" PRIx64,
             vcpu->index, state.seg[X86_CS].selector, state.rip);
    if (!vm->config.no_reboot) {
        log_guest("%s, resetting", message);
        vm_request_reset(vm);
        return;
    }
    log_state(LOG_INFO, &state);
    vm_request_end(vm, VM_END_CRASH, 0, message);
}

void vm_report_failure(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    struct error err = {0};
    struct x86_state state;
    vm->engine_ops->failure(vcpu->engine, &err);
    vm->engine_ops->get_state(vcpu->engine, &state);
    log_state(LOG_ERROR, &state);
    fail_within(&err, "engine %s", vm->engine_ops->name);
    vm_request_end(vm, VM_END_ERROR, 0, err.message);
}

void vm_set_debugger(struct vm *vm, void (*stopped)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&vm->lock);
    vm->debug_stopped = stopped;
    vm->debug_opaque = opaque;
    pthread_mutex_unlock(&vm->lock);
}

void vm_hold(struct vm *vm, unsigned index, bool is_held)
{
    struct vcpu *vcpu = vm->vcpu[index];
    pthread_mutex_lock(&vm->lock);
    vcpu->is_held = is_held;
    pthread_cond_broadcast(&vm->changed);
    pthread_mutex_unlock(&vm->lock);
    if (is_held) {
        vcpu_request_return(vcpu);
    }
}

static void tell_debugger(void *opaque)
{
    struct vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    void (*stopped)(void *) = vm->debug_stopped;
    void *debugger = vm->debug_opaque;
    pthread_mutex_unlock(&vm->lock);
    if (stopped) {
        stopped(debugger);
    }
}

void vm_report_debug(struct vcpu *vcpu)
{
    struct vm *vm = vcpu->vm;
    pthread_mutex_lock(&vm->lock);
    bool is_watched = vm->debug_stopped;
    pthread_mutex_unlock(&vm->lock);
    if (is_watched) {
        vm_hold(vm, vcpu->index, true);
        if (loop_post(vm->loop, tell_debugger, vm) < 0) {
            log_error("no memory to tell the debugger of a stop");
            vm_hold(vm, vcpu->index, false);
        }
    }
}

void vm_pause(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    while (vm->is_resetting) {
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    if (vm->status == VM_RUNNING) {
        vm->status = VM_PAUSED;
        vm->gate_holds++;
        pthread_mutex_unlock(&vm->lock);
        request_return(vm);
        pthread_mutex_lock(&vm->lock);
    }
    while (vm->status == VM_PAUSED && !is_all_parked_locked(vm)) {
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    if (vm->status == VM_PAUSED) {
        clock_pause(&vm->clock);
    }
    pthread_mutex_unlock(&vm->lock);
}

void vm_resume(struct vm *vm)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->status == VM_PAUSED) {
        clock_resume(&vm->clock);
        vm->status = VM_RUNNING;
        vm->gate_holds--;
        pthread_cond_broadcast(&vm->changed);
    }
    pthread_mutex_unlock(&vm->lock);
}

struct vm_end vm_run(struct vm *vm)
{
    while (vm_get_status(vm) != VM_STOPPED) {
        loop_run(vm->loop);
        vm_serve_requests(vm);
    }
    join_all(vm);
    return vm->end;
}
