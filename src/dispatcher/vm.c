#include "dispatcher/vm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "dispatcher/doorbell.h"
#include "dispatcher/lifecycle.h"
#include "dispatcher/steps.h"
#include "dispatcher/vcpu.h"

static int make_engine(struct vm *vm, struct error *err)
{
    struct engine_config config = {
        .memory = vm->memory,
        .clock = &vm->clock,
        .cpuid = &vm->config.cpuid,
        .cpus = vm->config.cpus,
        .is_deterministic = vm->config.is_deterministic,
        .is_debugged = vm->config.is_debugged,
        .look = vm->config.look,
        .code_cache = vm->config.code_cache,
    };
    vm->engine_ops = vm->config.engine;
    vm->engine = vm->engine_ops->open(&config, err);
    if (!vm->engine) {
        return fail_within(err, "engine %s", vm->engine_ops->name);
    }
    for (unsigned i = 0; i < vm->config.cpus; i++) {
        vm->vcpu[i] = vcpu_new(vm, i, err);
        if (!vm->vcpu[i]) {
            return fail_within(err, "engine %s", vm->engine_ops->name);
        }
        vm->cpu_count++;
    }
    return 0;
}

static int make_parts(struct vm *vm, struct error *err)
{
    vm->memory = memory_new(vm->config.memory_limit, err);
    if (!vm->memory) {
        return fail_within(err, "guest memory");
    }
    vm->timers = timer_queue_new(&vm->clock);
    if (!vm->timers) {
        return fail(err, ENOMEM, "cannot make the timer queue");
    }
    /* In deterministic runs the vCPU's thread runs the timers. */
    vm->loop = loop_open(vm->config.is_deterministic ? NULL : vm->timers, err);
    if (!vm->loop) {
        return -err->code;
    }
    int result = make_engine(vm, err);
    if (result >= 0 && vm->config.is_deterministic) {
        steps_init(vm);
    }
    return result;
}

struct vm *vm_new(const struct vm_config *config, struct error *err)
{
    struct error local;
    err = err ? err : &local;
    if (config->cpus < 1 || config->cpus > VM_CPUS_MAX) {
        fail_plain(err, EINVAL, "%u vCPUs: a VM has 1 to %d", config->cpus, VM_CPUS_MAX);
        return NULL;
    }
    struct vm *vm = calloc(1, sizeof(*vm));
    if (!vm) {
        fail(err, ENOMEM, "cannot make a VM");
        return NULL;
    }
    assert(!config->is_deterministic ||
           (config->cpus == 1 && config->engine->set_limit != NULL));
    vm->config = *config;
    vm->stop_at = UINT64_MAX;
    pthread_mutex_init(&vm->lock, NULL);
    pthread_mutex_init(&vm->request_lock, NULL);
    pthread_cond_init(&vm->changed, NULL);
    bus_init(&vm->ports, "port");
    bus_init(&vm->mmio, "memory");
    vm->tsc_to_ns = scale_u64(1000000, 1ull << 32, cpuid_host_tsc_khz());
    if (config->virtual_clock || config->is_deterministic) {
        clock_init_virtual(&vm->clock);
    } else {
        clock_init(&vm->clock);
    }
    /* Guest time begins with vm_start. */
    clock_pause(&vm->clock);
    if (make_parts(vm, err) < 0) {
        vm_free(vm);
        return NULL;
    }
    return vm;
}

void vm_free(struct vm *vm)
{
    if (!vm) {
        return;
    }
    vm_stop(vm);
    vm_close_doorbells(vm);
    /* Devices lower their lines into vCPUs, and own timers of the queue. */
    while (vm->device_count > 0) {
        struct device *device = vm->device[--vm->device_count];
        device->type->free(device);
    }
    while (vm->cpu_count > 0) {
        vcpu_free(vm->vcpu[--vm->cpu_count]);
    }
    if (vm->engine) {
        vm->engine_ops->close(vm->engine);
    }
    loop_close(vm->loop);
    timer_queue_free(vm->timers);
    memory_free(vm->memory);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->request_lock);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

/* 2000-01-01 00:00:00 UTC: where deterministic runs begin. */
#define DETERMINISTIC_START_S 946684800ll

int64_t vm_wall_ns(const struct vm *vm)
{
    struct timespec now = {.tv_sec = DETERMINISTIC_START_S};
    if (!vm->config.is_deterministic) {
        clock_gettime(CLOCK_REALTIME, &now);
    }
    int64_t ns = now.tv_sec * (int64_t)NS_PER_SECOND + now.tv_nsec;
    return vm->config.is_deterministic ? ns + (int64_t)clock_now(&vm->clock) : ns;
}

int vm_add_device(struct vm *vm, struct device *device, struct error *err)
{
    const unsigned max = sizeof(vm->device) / sizeof(vm->device[0]);
    assert(vm->status == VM_CREATED);
    if (vm->device_count == max) {
        fail_plain(err, ENOSPC, "%s: more than %u devices", device->name, max);
        device->type->free(device);
        return -ENOSPC;
    }
    vm->device[vm->device_count++] = device;
    return 0;
}

int vm_add_ports(struct vm *vm, const struct region *region, struct error *err)
{
    assert(vm->status == VM_CREATED);
    return bus_add(&vm->ports, region, err);
}

int vm_add_mmio(struct vm *vm, const struct region *region, struct error *err)
{
    assert(vm->status == VM_CREATED);
    return bus_add(&vm->mmio, region, err);
}
