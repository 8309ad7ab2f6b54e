#pragma once
/* A VM of the scripted engine, with a device that records and asks for things, for the
 * tests of the dispatcher. */

#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <time.h>

/* Before cmocka.h, which makes a macro of fail. */
#include "dispatcher/vcpu.h"
#include "engine/script/script.h"

#include <cmocka.h>

#define APIC_TPR     0x80
#define APIC_LDR     0xd0
#define APIC_DFR     0xe0
#define APIC_SVR     0xf0
#define APIC_ICR     0x300
#define APIC_ICR2    0x310
#define APIC_LVT     0x320
#define APIC_COUNT   0x380
#define APIC_DIVIDE  0x3e0
#define LVT_PERIODIC 0x20000

#define SCRIPT_APIC_SET(offset, data)                           \
    {                                                           \
        .op = SCRIPT_APIC, .address = (offset), .value = (data) \
    }
#define SCRIPT_APIC_ON SCRIPT_APIC_SET(APIC_SVR, 0x1ff)
#define SCRIPT_DO(fn, argument)                                   \
    {                                                             \
        .op = SCRIPT_CALL, .function = (fn), .opaque = (argument) \
    }
#define SCRIPT_BACK_TO(step)                   \
    {                                          \
        .op = SCRIPT_REPEAT, .address = (step) \
    }

/* Ports of the recording device at 0x100. */
enum { PORT_COUNT = 0x100, PORT_END, PORT_RESET, PORT_ERROR };

struct recorder {
    struct device device;
    struct vm *vm;
    _Atomic unsigned writes; /* to PORT_COUNT */
    _Atomic unsigned resets;
    _Atomic unsigned sequence; /* of its last reset, from the counter below */
    _Atomic unsigned *order;
};

static inline void recorder_write(struct device *device, uint64_t offset, unsigned size,
                                  uint64_t value)
{
    struct recorder *recorder = (struct recorder *)device;
    switch (offset + 0x100) {
    case PORT_COUNT:
        atomic_fetch_add(&recorder->writes, 1);
        break;
    case PORT_END:
        vm_request_end(recorder->vm, VM_END_DEBUG_EXIT, (int)value, "written");
        break;
    case PORT_RESET:
        vm_request_reset(recorder->vm);
        break;
    case PORT_ERROR:
        vm_request_end(recorder->vm, VM_END_ERROR, (int)value, NULL);
        break;
    }
}

static inline void recorder_reset(struct device *device)
{
    struct recorder *recorder = (struct recorder *)device;
    atomic_fetch_add(&recorder->resets, 1);
    if (recorder->order) {
        recorder->sequence = atomic_fetch_add(recorder->order, 1);
    }
}

static inline void recorder_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_type recorder_type = {
    .name = "recorder", .reset = recorder_reset, .free = recorder_free};

static inline struct recorder *recorder_add(struct vm *vm, uint64_t ports)
{
    struct recorder *recorder = calloc(1, sizeof(*recorder));
    assert_non_null(recorder);
    recorder->vm = vm;
    device_init(&recorder->device, &recorder_type, "recorder");
    struct region region = {.device = &recorder->device,
                            .base = ports,
                            .size = 4,
                            .min_size = 1,
                            .max_size = 1,
                            .write = recorder_write};
    assert_int_equal(vm_add_device(vm, &recorder->device, NULL), 0);
    assert_int_equal(vm_add_ports(vm, &region, NULL), 0);
    return recorder;
}

static inline struct vm_config script_config(unsigned cpus)
{
    return (struct vm_config){
        .memory_limit = 1 << 20,
        .cpus = cpus,
        .engine = &engine_script,
        .cpuid = {.tsc_khz = 1000000, .cpus = cpus},
    };
}

static inline struct vm *vm_made(const struct vm_config *config)
{
    struct error err = {0};
    struct vm *vm = vm_new(config, &err);
    if (!vm) {
        fail_msg("%s", err.message);
    }
    return vm;
}

static inline struct vm *vm_scripted(const struct vm_config *config,
                                     const struct script_step *steps)
{
    struct vm *vm = vm_made(config);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        script_set(vm->vcpu[i]->engine, steps);
    }
    return vm;
}

/* vm_run in a thread of its own, for tests that act from outside. */
struct runner {
    struct vm *vm;
    struct vm_end end;
    pthread_t thread;
};

static inline void *runner_thread(void *opaque)
{
    struct runner *runner = opaque;
    runner->end = vm_run(runner->vm);
    return NULL;
}

static inline void runner_start(struct runner *runner, struct vm *vm)
{
    runner->vm = vm;
    assert_int_equal(vm_start(vm, NULL), 0);
    assert_int_equal(pthread_create(&runner->thread, NULL, runner_thread, runner), 0);
}

static inline struct vm_end runner_join(struct runner *runner)
{
    pthread_join(runner->thread, NULL);
    return runner->end;
}

static inline void sleep_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000}, NULL);
}

/* Waits until the condition holds; fails the test after ten seconds. */
#define await(condition)                               \
    do {                                               \
        unsigned waited_ms_ = 0;                       \
        while (!(condition) && waited_ms_++ < 10000) { \
            sleep_ms(1);                               \
        }                                              \
        assert_true(condition);                        \
    } while (0)
