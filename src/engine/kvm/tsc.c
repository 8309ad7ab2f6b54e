/*
 * The guest's TSC under KVM is the host's, moved: the move is computed so that the TSC
 * agrees with the guest's clock at the moment the clock was last set going. From then on
 * both run by themselves, a few parts in a million apart at most, as on real hardware.
 */

#include <errno.h>
#include <stdlib.h>
#include <x86intrin.h>

#include "base/log.h"
#include "base/scope.h"
#include "engine/kvm/vcpu.h"

/* Rates closer than this are the same: parts in a million, as KVM's own tolerance. */
#define RATE_TOLERANCE 250

static uint64_t guest_rate_tsc(const struct engine *engine)
{
    uint64_t tsc = __rdtsc();
    return engine->is_tsc_scaled
               ? scale_u64(tsc, engine->config.cpuid->tsc_khz, engine->host_tsc_khz)
               : tsc;
}

int kvm_tsc_init(struct engine *engine, struct error *err)
{
    uint64_t wanted = engine->config.cpuid->tsc_khz;
    engine->host_tsc_khz = cpuid_host_tsc_khz();
    uint64_t host = engine->host_tsc_khz;
    uint64_t difference = wanted > host ? wanted - host : host - wanted;
    engine->is_tsc_scaled = difference * 1000000 > host * RATE_TOLERANCE;
    if (engine->is_tsc_scaled &&
        kvm_ioctl(engine->device, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) <= 0) {
        return fail_plain(err, ENOTSUP,
                          "this host's processor cannot run a guest's TSC at %u kHz "
                          "beside its own of %u kHz",
                          engine->config.cpuid->tsc_khz, engine->host_tsc_khz);
    }
    return 0;
}

int kvm_tsc_set_rate(struct engine_vcpu *vcpu, struct error *err)
{
    struct engine *engine = vcpu->engine;
    if (engine->is_tsc_scaled &&
        kvm_ioctl(vcpu->fd, KVM_SET_TSC_KHZ, engine->config.cpuid->tsc_khz) < 0) {
        return fail(err, errno, "KVM_SET_TSC_KHZ to %u kHz",
                    engine->config.cpuid->tsc_khz);
    }
    return 0;
}

/* All vCPUs use one base, so that their TSCs agree. The clock moves against the host's
 * only when it is paused and resumed, and then no vCPU runs. */
static void update_base(struct engine *engine)
{
    const struct clock *clock = engine->config.clock;
    pthread_mutex_lock(&engine->tsc_lock);
    if (!engine->has_tsc_base || engine->tsc_synced_ns != clock->offset_ns) {
        engine->tsc_synced_ns = clock->offset_ns;
        uint64_t best = UINT64_MAX;
        for (unsigned i = 0; i < 5; i++) {
            uint64_t before = guest_rate_tsc(engine);
            uint64_t now = clock_now(clock);
            uint64_t after = guest_rate_tsc(engine);
            if (after - before < best) {
                best = after - before;
                engine->tsc_base =
                    scale_u64(now, engine->config.cpuid->tsc_khz, 1000000) - before -
                    best / 2;
            }
        }
        engine->has_tsc_base = true;
    }
    pthread_mutex_unlock(&engine->tsc_lock);
}

uint64_t kvm_tsc_now(const struct processor *processor, uint64_t now_ns)
{
    const struct engine *engine = container_of(processor->engine, struct engine, config);
    return guest_rate_tsc(engine) + engine->tsc_base;
}

/* There are hosts that take the offset and do not apply it. */
static bool is_moved(struct engine_vcpu *vcpu, uint64_t offset)
{
    uint64_t expected = guest_rate_tsc(vcpu->engine) + offset;
    uint64_t found = 0;
    if (!kvm_msr_get(vcpu, MSR_TSC, &found)) {
        return true; /* it cannot be told */
    }
    uint64_t difference = found > expected ? found - expected : expected - found;
    return difference < vcpu->engine->config.cpuid->tsc_khz * 10ull; /* 10 ms */
}

/* Before Linux 5.16, by writing the register. */
static bool set_offset(struct engine_vcpu *vcpu, uint64_t offset)
{
    struct kvm_device_attr attribute = {
        .group = KVM_VCPU_TSC_CTRL,
        .attr = KVM_VCPU_TSC_OFFSET,
        .addr = (uintptr_t)&offset,
    };
    return kvm_ioctl_pointer(vcpu->fd, KVM_SET_DEVICE_ATTR, &attribute) >= 0 ||
           kvm_msr_set(vcpu, MSR_TSC, guest_rate_tsc(vcpu->engine) + offset);
}

/* The guest sees the host's TSC and nothing else: to everybody who asks, the guest has
 * moved its TSC to just there. */
static void accept_host_tsc(struct engine_vcpu *vcpu)
{
    uint64_t offset = 0 - vcpu->engine->tsc_base;
    if (vcpu->state.tsc_offset != offset) {
        vcpu->state.tsc_offset = offset;
        struct vcpu_exit moved = {.reason = EXIT_TSC, .tsc_offset = offset};
        processor_exit(&vcpu->processor, &moved);
    }
}

void kvm_tsc_sync(struct engine_vcpu *vcpu)
{
    struct engine *engine = vcpu->engine;
    update_base(engine);
    if (engine->is_tsc_fixed) {
        accept_host_tsc(vcpu);
        return;
    }
    uint64_t offset = engine->tsc_base + vcpu->state.tsc_offset;
    if (vcpu->has_tsc_offset && vcpu->tsc_offset == offset) {
        return;
    }
    if (!set_offset(vcpu, offset)) {
        kvm_fail(vcpu, errno, "KVM: cannot set the guest's TSC");
        return;
    }
    if (!vcpu->has_tsc_offset && !is_moved(vcpu, offset)) {
        log_info("KVM: this host does not move the guest's TSC; it shows the host's");
        engine->is_tsc_fixed = true;
        accept_host_tsc(vcpu);
    }
    vcpu->has_tsc_offset = true;
    vcpu->tsc_offset = offset;
}
