#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "base/scope.h"
#include "engine/kvm/speed.h"
#include "engine/kvm/vcpu.h"
#include "engine/processor_cpu.h"

/* Pages that KVM needs for itself on processors that cannot run real mode (SDM 3C 26.3):
 * a page table and three pages of a TSS, where no machine has memory. */
#define IDENTITY_MAP 0xfeffc000ull
#define TSS_ADDRESS  0xfeffd000ull

/* What the engine cannot do without, and the Linux that has it. */
static const struct {
    int capability;
    const char *name;
    const char *since;
} required[] = {
    {KVM_CAP_USER_MEMORY, "user memory", "2.6"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit", "4.11"},
    {KVM_CAP_READONLY_MEM, "read-only memory", "3.7"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events", "2.6"},
    {KVM_CAP_DEBUGREGS, "debug registers", "2.6"},
    {KVM_CAP_XSAVE, "XSAVE", "2.6"},
    {KVM_CAP_XCRS, "XCRs", "2.6"},
    {KVM_CAP_USER_NMI, "NMI", "2.6"},
    {KVM_CAP_X86_USER_SPACE_MSR, "MSR exits", "5.10"},
    {KVM_CAP_X86_MSR_FILTER, "MSR filters", "5.10"},
};

static int check_capabilities(int device, struct error *err)
{
    for (unsigned i = 0; i < array_size(required); i++) {
        if (kvm_ioctl(device, KVM_CHECK_EXTENSION,
                      (unsigned long)required[i].capability) <= 0) {
            return fail_plain(err, ENOTSUP,
                              KVM_DEVICE " lacks %s, which Linux has since %s",
                              required[i].name, required[i].since);
        }
    }
    return 0;
}

static int kvm_probe(struct error *err)
{
    int device = kvm_open_device(err);
    if (device < 0) {
        return device;
    }
    int result = check_capabilities(device, err);
    kvm_host_close(device);
    return result;
}

static bool kvm_is_fast(char *reason, size_t size)
{
    struct kvm_speed speed;
    struct error err;
    if (kvm_speed_find(&speed, &err) < 0) {
        snprintf(reason, size, "%s", err.message);
        return false;
    }
    kvm_speed_describe(&speed, reason, size);
    return speed.ring0_mips >= KVM_WORTH_MIPS && speed.ring3_mips >= KVM_WORTH_MIPS;
}

static void kvm_close(struct engine *engine)
{
    if (!engine) {
        return;
    }
    if (engine->config.memory && engine->config.memory->engine_opaque == engine) {
        memory_set_engine(engine->config.memory, NULL, NULL);
    }
    kvm_host_close(engine->fd);
    kvm_host_close(engine->device);
    free(engine->cpuid);
    exclusive_fini(&engine->exclusive);
    pthread_mutex_destroy(&engine->apic_lock);
    pthread_mutex_destroy(&engine->tsc_lock);
    pthread_mutex_destroy(&engine->memory_lock);
    free(engine);
}

static int enable(struct engine *engine, uint32_t capability, uint64_t argument)
{
    struct kvm_enable_cap enable_cap = {.cap = capability, .args = {argument}};
    if (kvm_ioctl(engine->device, KVM_CHECK_EXTENSION, capability) <= 0) {
        return 0;
    }
    return kvm_ioctl_pointer(engine->fd, KVM_ENABLE_CAP, &enable_cap);
}

static int make_vm(struct engine *engine, struct error *err)
{
    engine->fd = kvm_ioctl(engine->device, KVM_CREATE_VM, 0);
    if (engine->fd < 0) {
        return fail(err, errno, "KVM_CREATE_VM");
    }
    uint64_t identity = IDENTITY_MAP;
    if (kvm_ioctl_pointer(engine->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0) {
        return fail(err, errno, "KVM_SET_IDENTITY_MAP_ADDR");
    }
    if (kvm_ioctl(engine->fd, KVM_SET_TSS_ADDR, TSS_ADDRESS) < 0) {
        return fail(err, errno, "KVM_SET_TSS_ADDR");
    }
    /* What KVM's emulator cannot do comes to us, in user mode, too. */
    if (enable(engine, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1) < 0) {
        return fail(err, errno, "KVM_CAP_EXIT_ON_EMULATION_FAILURE");
    }
    int size = kvm_ioctl(engine->device, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < (int)sizeof(struct kvm_run)) {
        return fail(err, size < 0 ? errno : EINVAL, "KVM_GET_VCPU_MMAP_SIZE");
    }
    engine->run_size = (size_t)size;
    int result = kvm_ring_init(engine, err);
    result = result < 0 ? result : kvm_apic_init(engine, err);
    return result < 0 ? result : kvm_msr_init(engine, err);
}

static const struct memory_listener listener = {
    .changed = kvm_memory_changed,
    .log = kvm_memory_log,
    .collect = kvm_memory_collect,
};

static int make_engine(struct engine *engine, struct error *err)
{
    engine->device = kvm_open_device(err);
    if (engine->device < 0) {
        return engine->device;
    }
    int result = check_capabilities(engine->device, err);
    result = result < 0 ? result : make_vm(engine, err);
    result = result < 0 ? result : kvm_cpuid_init(engine, err);
    result = result < 0 ? result : kvm_tsc_init(engine, err);
    result = result < 0 ? result : kvm_kick_init(err);
    if (result < 0) {
        return result;
    }
    if (engine->config.is_debugged) {
        engine->has_guest_debug = kvm_guest_debug_works();
        log_info("KVM: breakpoints and steps are %s",
                 engine->has_guest_debug
                     ? "its own"
                     : "the interpreter's, since this host does not deliver them");
    }
    memory_set_engine(engine->config.memory, &listener, engine);
    kvm_memory_changed(engine);
    if (engine->memory_failure.code) {
        *err = engine->memory_failure;
        return -err->code;
    }
    return 0;
}

static struct engine *kvm_open(const struct engine_config *config, struct error *err)
{
    struct error local;
    err = err ? err : &local;
    if (config->cpus > KVM_VCPUS_MAX) {
        fail_plain(err, EINVAL, "%u processors: this engine takes %d", config->cpus,
                   KVM_VCPUS_MAX);
        return NULL;
    }
    struct engine *engine = calloc(1, sizeof(*engine));
    if (!engine) {
        fail(err, ENOMEM, "cannot open KVM");
        return NULL;
    }
    engine->config = *config;
    engine->device = -1;
    engine->fd = -1;
    pthread_mutex_init(&engine->memory_lock, NULL);
    pthread_mutex_init(&engine->tsc_lock, NULL);
    pthread_mutex_init(&engine->apic_lock, NULL);
    exclusive_init(&engine->exclusive);
    if (make_engine(engine, err) < 0) {
        kvm_close(engine);
        return NULL;
    }
    return engine;
}

static void kvm_vcpu_close(struct engine_vcpu *vcpu)
{
    if (!vcpu) {
        return;
    }
    vcpu->engine->vcpu[vcpu->processor.config.index] = NULL;
    processor_cpu_close(&vcpu->processor);
    kvm_ring_close(vcpu);
    if (vcpu->run) {
        kvm_host_munmap(vcpu->run, vcpu->engine->run_size);
    }
    kvm_host_close(vcpu->fd);
    free(vcpu);
}

static int make_vcpu(struct engine_vcpu *vcpu, struct error *err)
{
    struct engine *engine = vcpu->engine;
    unsigned index = vcpu->processor.config.index;
    vcpu->fd = kvm_ioctl(engine->fd, KVM_CREATE_VCPU, index);
    if (vcpu->fd < 0) {
        return fail(err, errno, "KVM_CREATE_VCPU");
    }
    void *run = kvm_host_mmap(engine->run_size, vcpu->fd, 0);
    if (run == (void *)-1) {
        return fail(err, errno, "cannot map the state that KVM shares");
    }
    vcpu->run = run;
    /* Now: once the VM is confined, its memory for code can no longer be mapped. */
    int result = processor_cpu_open(&vcpu->processor, err);
    result = result < 0 ? result : kvm_ring_open(vcpu, err);
    result = result < 0 ? result : kvm_cpuid_set(vcpu, err);
    result = result < 0 ? result : kvm_tsc_set_rate(vcpu, err);
    if (result < 0) {
        return result;
    }
    x86_state_reset(&vcpu->state, vcpu->processor.config.is_bootstrap);
    vcpu->loaded_activity = X86_SHUTDOWN; /* unknown */
    kvm_state_load(vcpu);
    if (engine->has_apic) {
        kvm_apic_load(vcpu);
    }
    if (vcpu->failure.code) {
        *err = vcpu->failure;
        return -err->code;
    }
    return 0;
}

static struct engine_vcpu *
kvm_vcpu_open(struct engine *engine, const struct vcpu_config *config, struct error *err)
{
    struct error local;
    err = err ? err : &local;
    struct engine_vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu) {
        fail(err, ENOMEM, "cannot make virtual processor %u", config->index);
        return NULL;
    }
    vcpu->engine = engine;
    vcpu->processor = (struct processor){
        .engine = &engine->config,
        .config = *config,
        .tsc = kvm_tsc_now,
        .exclusive = &engine->exclusive,
        .interrupt_others = kvm_interrupt_others,
        .apic_begin = engine->has_apic ? kvm_apic_begin : NULL,
        .apic_end = engine->has_apic ? kvm_apic_end : NULL,
    };
    vcpu->fd = -1;
    if (make_vcpu(vcpu, err) < 0) {
        fail_within(err, "virtual processor %u", config->index);
        kvm_vcpu_close(vcpu);
        return NULL;
    }
    engine->vcpu[config->index] = vcpu;
    return vcpu;
}

static void kvm_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
    kvm_settle(vcpu);
    kvm_state_save(vcpu);
    if (vcpu->engine->has_apic) {
        kvm_apic_save(vcpu);
        kvm_apic_save_services(vcpu);
    }
    *state = vcpu->state;
}

static void kvm_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
    kvm_settle(vcpu);
    vcpu->state = *state;
    kvm_state_load(vcpu);
    if (vcpu->engine->has_apic) {
        kvm_apic_load(vcpu);
        kvm_apic_load_services(vcpu);
    }
}

static void kvm_debug_stop(struct engine_vcpu *vcpu, struct debug_stop *stop)
{
    *stop = vcpu->processor.stop;
}

static bool kvm_has_apics(const struct engine *engine)
{
    return engine->has_apic;
}

static void kvm_failure(struct engine_vcpu *vcpu, struct error *err)
{
    *err = vcpu->failure;
}

const struct engine_ops engine_kvm = {
    .name = "kvm",
    .summary = "the host's own virtualization, by " KVM_DEVICE,
    .role = JAIL_VCPU_KVM,
    .probe = kvm_probe,
    .way = kvm_way,
    .is_fast = kvm_is_fast,
    .missing = kvm_cpuid_missing,
    .fit = kvm_cpuid_fit,
    .open = kvm_open,
    .close = kvm_close,
    .vcpu_open = kvm_vcpu_open,
    .vcpu_close = kvm_vcpu_close,
    .run = kvm_run,
    .kick = kvm_kick,
    .get_state = kvm_get_state,
    .set_state = kvm_set_state,
    .debug = kvm_debug,
    .has_apics = kvm_has_apics,
    .send = kvm_apic_send,
    .route = kvm_apic_route,
    .doorbell = kvm_doorbell,
    .failure = kvm_failure,
    .debug_stop = kvm_debug_stop,
};
