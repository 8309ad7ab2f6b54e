/*
 * The dirty log as a ring for each vCPU, where KVM has it: what was stored to is told
 * page by page, and a look at the log costs what was dirtied, not what the guest's memory
 * measures. Only where there is none, KVM's bitmap is the log (memory.c).
 */

#include <errno.h>
#include <stdatomic.h>

#include "engine/kvm/vcpu.h"

#define RING_ENTRIES 4096u /* a power of 2; a full ring is an exit */
#define RING_BYTES   (RING_ENTRIES * sizeof(struct kvm_dirty_gfn))

int kvm_ring_init(struct engine *engine, struct error *err)
{
    int largest =
        kvm_ioctl(engine->device, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    if (largest < (int)RING_BYTES) {
        return 0;
    }
    struct kvm_enable_cap ring = {.cap = KVM_CAP_DIRTY_LOG_RING_ACQ_REL,
                                  .args = {RING_BYTES}};
    if (kvm_ioctl_pointer(engine->fd, KVM_ENABLE_CAP, &ring) < 0) {
        return fail(err, errno, "KVM_CAP_DIRTY_LOG_RING_ACQ_REL");
    }
    engine->has_ring = true;
    return 0;
}

int kvm_ring_open(struct engine_vcpu *vcpu, struct error *err)
{
    if (!vcpu->engine->has_ring) {
        return 0;
    }
    void *ring =
        kvm_host_mmap(RING_BYTES, vcpu->fd, KVM_DIRTY_LOG_PAGE_OFFSET * (long)FRAME_SIZE);
    if (ring == (void *)-1) {
        return fail(err, errno, "cannot map the log that KVM shares");
    }
    vcpu->ring = ring;
    return 0;
}

void kvm_ring_close(struct engine_vcpu *vcpu)
{
    if (vcpu->ring) {
        kvm_host_munmap(vcpu->ring, RING_BYTES);
        vcpu->ring = NULL;
    }
}

static void mark(struct engine *engine, const struct kvm_dirty_gfn *entry)
{
    uint32_t index = entry->slot & 0xffff; /* above it: the address space, always 0 */
    if (index >= KVM_SLOTS_MAX || !engine->slot[index].is_used) {
        return;
    }
    const struct kvm_slot *slot = &engine->slot[index];
    if (entry->offset < slot->size / FRAME_SIZE) {
        memory_dirty_mark(engine->config.memory, slot->frame + (frame_t)entry->offset, 1,
                          NULL);
    }
}

/* Documentation/virt/kvm/api.rst 8.29: KVM sets DIRTY behind the rest of an entry, and
 * reuses it after RESET and KVM_RESET_DIRTY_RINGS, which protects its page again. */
static unsigned harvest(struct engine_vcpu *vcpu)
{
    unsigned count = 0;
    for (; count < RING_ENTRIES; count++) {
        struct kvm_dirty_gfn *entry = &vcpu->ring[vcpu->ring_next % RING_ENTRIES];
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
        if (!(flags & KVM_DIRTY_GFN_F_DIRTY)) {
            break;
        }
        mark(vcpu->engine, entry);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        vcpu->ring_next++;
    }
    return count;
}

void kvm_ring_harvest_locked(struct engine *engine)
{
    unsigned count = 0;
    for (unsigned i = 0; i < engine->config.cpus; i++) {
        if (engine->vcpu[i] && engine->vcpu[i]->ring) {
            count += harvest(engine->vcpu[i]);
        }
    }
    if (count && kvm_ioctl(engine->fd, KVM_RESET_DIRTY_RINGS, 0) < 0 &&
        engine->memory_failure.code == 0) {
        fail(&engine->memory_failure, errno, "KVM_RESET_DIRTY_RINGS");
    }
}

void kvm_ring_exit_full(struct engine_vcpu *vcpu)
{
    kvm_memory_collect(vcpu->engine);
    if (vcpu->engine->memory_failure.code) {
        vcpu->failure = vcpu->engine->memory_failure;
    }
}
