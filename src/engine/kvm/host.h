#pragma once
/*
 * The host's KVM as this engine calls it: a table of functions, so that a test can make
 * each call fail in turn.
 */

#include <stddef.h>

#include "base/error.h"

#define KVM_DEVICE "/dev/kvm"

struct kvm_calls {
    int (*open)(const char *path, int flags);
    /* -1 and errno on failure, as ioctl has it. */
    int (*ioctl)(int fd, unsigned long request, unsigned long argument);
    void *(*mmap)(size_t size, int fd, long offset); /* shared, readable, writable */
    int (*munmap)(void *address, size_t size);
    int (*close)(int fd);
};

/* Tests only; NULL: the host's. Not while an engine is open. */
void kvm_set_calls(const struct kvm_calls *calls);

int kvm_host_open(const char *path, int flags);
int kvm_ioctl(int fd, unsigned long request, unsigned long argument);
static inline int kvm_ioctl_pointer(int fd, unsigned long request, const void *argument)
{
    return kvm_ioctl(fd, request, (unsigned long)argument);
}
void *kvm_host_mmap(size_t size, int fd, long offset);
void kvm_host_munmap(void *address, size_t size);
/* Accepts -1. */
void kvm_host_close(int fd);

/* Opens the device and checks its interface; the descriptor, or -errno with a message
 * that says what to do. */
int kvm_open_device(struct error *err);
