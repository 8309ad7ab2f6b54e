#pragma once
/*
 * A VM of 64 KiB with one processor, to try what this host's KVM does: long-mode page
 * tables map it to address 0, and code runs in ring 0 or 3 (with I/O privilege, so that
 * it can end by a port access).
 */

#include <linux/kvm.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#include "engine/kvm/host.h"

#define KVM_BENCH_MEMORY   0x10000u
#define KVM_BENCH_CODE     0x4000u
#define KVM_BENCH_LIMIT_NS 3000000u

struct kvm_bench {
    int device, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
    timer_t timer;
    bool has_timer;
    sigset_t signals; /* before */
};

/* From then on, for this thread, until it is closed, KVM_RUN returns with EINTR if it
 * takes longer than the limit. Close it also if this fails. */
int kvm_bench_open(struct kvm_bench *bench, struct error *err);
void kvm_bench_close(struct kvm_bench *bench);
void kvm_bench_put(struct kvm_bench *bench, const uint8_t *code, size_t size);
/* At the code's start. */
bool kvm_bench_start(struct kvm_bench *bench, unsigned ring, uint64_t rcx);
/* KVM_RUN, entered again when the limit was over, a few times. Negative: it did not come
 * back by itself; else run->exit_reason says why it did. */
int kvm_bench_run(struct kvm_bench *bench);
