/* Doorbells by KVM's ioeventfd: the store ends in KVM, and the guest goes on. */

#include <errno.h>
#include <inttypes.h>

#include "engine/kvm/vcpu.h"

int kvm_doorbell(struct engine *engine, const struct engine_doorbell *bell, bool is_on,
                 struct error *err)
{
    struct kvm_ioeventfd ioeventfd = {
        .addr = bell->gpa,
        .len = sizeof(bell->value),
        .fd = bell->fd,
        .datamatch = bell->value,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (is_on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };
    if (kvm_ioctl(engine->device, KVM_CHECK_EXTENSION, KVM_CAP_IOEVENTFD) <= 0) {
        return fail_plain(err, ENOTSUP, KVM_DEVICE " has no ioeventfd");
    }
    if (kvm_ioctl_pointer(engine->fd, KVM_IOEVENTFD, &ioeventfd) < 0) {
        return fail(err, errno, "KVM_IOEVENTFD at 0x%" PRIx64, bell->gpa);
    }
    return 0;
}
