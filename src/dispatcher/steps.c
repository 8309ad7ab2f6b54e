#include "dispatcher/steps.h"

#include "dispatcher/lifecycle.h"

static uint64_t retired(const struct vm *vm)
{
    return atomic_load_explicit(&vm->vcpu[0]->stats.retired, memory_order_relaxed);
}

/* The step at which somebody besides the guest's code has to act: at once if jobs wait.
 */
static uint64_t next_stop(const struct vm *vm)
{
    uint64_t now_ns = clock_now(&vm->clock);
    uint64_t next_ns = timer_queue_next(vm->timers);
    if ((vm->jobs && worker_pool_has_jobs(vm->jobs)) || next_ns <= now_ns) {
        return retired(vm);
    }
    uint64_t wait = next_ns == TIMER_NEVER ? UINT64_MAX : next_ns - now_ns;
    uint64_t limit = wait > UINT64_MAX - retired(vm) ? UINT64_MAX : retired(vm) + wait;
    return limit < vm->stop_at ? limit : vm->stop_at;
}

/* A timer was set, or a job posted: on the vCPU's thread, as a rule within an exit, or
 * while the vCPU does not run. */
static void set_limit(void *opaque)
{
    struct vm *vm = opaque;
    vm->engine_ops->set_limit(vm->vcpu[0]->engine, next_stop(vm));
}

void steps_init(struct vm *vm)
{
    clock_set_counter(&vm->clock, &vm->vcpu[0]->stats.retired);
    timer_queue_set_wake(vm->timers, set_limit, vm);
}

void steps_take_jobs(struct vm *vm, struct worker_pool *pool)
{
    vm->jobs = pool;
    worker_pool_set_posted(pool, set_limit, vm);
}

static void stop_here(struct vm *vm)
{
    vm_hold(vm, 0, true);
    loop_stop(vm->loop);
}

bool steps_begin(struct vm *vm)
{
    timer_queue_run(vm->timers);
    if (retired(vm) >= vm->stop_at) {
        stop_here(vm);
        return false;
    }
    set_limit(vm);
    return true;
}

void steps_end(struct vm *vm)
{
    if (vm->jobs) {
        worker_pool_run(vm->jobs);
    }
}

bool steps_skip(struct vm *vm)
{
    uint64_t now_ns = clock_now(&vm->clock);
    uint64_t next_ns = timer_queue_next(vm->timers);
    if (next_ns == TIMER_NEVER) {
        if (vm->stop_at != UINT64_MAX) {
            stop_here(vm);
        }
        return false;
    }
    if (next_ns > now_ns) {
        clock_advance(&vm->clock, next_ns - now_ns);
    }
    return true;
}

int steps_go(struct vm *vm, uint64_t stop_at, struct error *err)
{
    vm->stop_at = stop_at;
    if (vm_get_status(vm) == VM_CREATED) {
        return vm_start(vm, err);
    }
    vm_hold(vm, 0, false);
    return 0;
}

/* Has the vCPU stopped by itself? Then it is on its way to the gate, which is waited for.
 */
static bool is_there(struct vm *vm)
{
    struct vcpu *vcpu = vm->vcpu[0];
    pthread_mutex_lock(&vm->lock);
    while (vcpu->is_held && !vcpu->is_parked) {
        pthread_cond_wait(&vm->changed, &vm->lock);
    }
    bool is_held = vcpu->is_held;
    pthread_mutex_unlock(&vm->lock);
    return is_held;
}

enum vm_status steps_wait(struct vm *vm)
{
    while (vm_get_status(vm) != VM_STOPPED) {
        loop_run(vm->loop);
        vm_serve_requests(vm);
        if (vm_get_status(vm) != VM_STOPPED && is_there(vm)) {
            return VM_RUNNING;
        }
    }
    vm_stop(vm);
    return VM_STOPPED;
}
