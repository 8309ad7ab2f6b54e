#include "engine/kvm/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static int call_open(const char *path, int flags)
{
    return open(path, flags);
}

static int call_ioctl(int fd, unsigned long request, unsigned long argument)
{
    return ioctl(fd, request, argument);
}

static void *call_mmap(size_t size, int fd, long offset)
{
    return mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
}

static const struct kvm_calls host_calls = {
    .open = call_open,
    .ioctl = call_ioctl,
    .mmap = call_mmap,
    .munmap = munmap,
    .close = close,
};

static const struct kvm_calls *calls = &host_calls;

void kvm_set_calls(const struct kvm_calls *replacement)
{
    calls = replacement ? replacement : &host_calls;
}

int kvm_host_open(const char *path, int flags)
{
    return calls->open(path, flags);
}

int kvm_ioctl(int fd, unsigned long request, unsigned long argument)
{
    return calls->ioctl(fd, request, argument);
}

void *kvm_host_mmap(size_t size, int fd, long offset)
{
    return calls->mmap(size, fd, offset);
}

void kvm_host_munmap(void *address, size_t size)
{
    calls->munmap(address, size);
}

void kvm_host_close(int fd)
{
    if (fd >= 0) {
        calls->close(fd);
    }
}

int kvm_open_device(struct error *err)
{
    int fd = kvm_host_open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    if (fd < 0 && (errno == EACCES || errno == EPERM)) {
        return fail(err, errno,
                    "cannot open " KVM_DEVICE " (add the user to the group that owns it, "
                    "usually kvm, and log in again)");
    }
    if (fd < 0) {
        return fail(err, errno,
                    "cannot open " KVM_DEVICE " (load the module kvm_intel or kvm_amd, "
                    "and enable virtualization in the firmware or the outer hypervisor)");
    }
    int version = kvm_ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION) {
        kvm_host_close(fd);
        return fail_plain(err, ENOTSUP,
                          KVM_DEVICE " speaks version %d of its interface, not %d",
                          version, KVM_API_VERSION);
    }
    return fd;
}
