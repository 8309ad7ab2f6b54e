#include "engine/kvm/bench.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "engine/kvm/vcpu.h"

#define MEMORY_SIZE   KVM_BENCH_MEMORY
#define PML4_AT       0x1000u
#define PDPT_AT       0x2000u
#define PD_AT         0x3000u
#define CODE_SELECTOR 8u
#define DATA_SELECTOR 16u
/* P, W, U; and PS for the page. */
#define TABLE_ENTRY 7u
#define PAGE_ENTRY  0x87u

void kvm_bench_close(struct kvm_bench *bench)
{
    if (bench->has_timer) {
        timer_delete(bench->timer);
        pthread_sigmask(SIG_SETMASK, &bench->signals, NULL);
    }
    if (bench->run) {
        kvm_host_munmap(bench->run, bench->run_size);
    }
    kvm_host_close(bench->vcpu);
    kvm_host_close(bench->vm);
    kvm_host_close(bench->device);
    if (bench->memory) {
        munmap(bench->memory, MEMORY_SIZE);
    }
}

static int bench_map(struct kvm_bench *bench, struct error *err)
{
    void *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return fail(err, errno, "cannot try KVM");
    }
    bench->memory = memory;
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE,
                                                 .userspace_addr = (uintptr_t)memory};
    if (kvm_ioctl_pointer(bench->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        return fail(err, errno, "KVM_SET_USER_MEMORY_REGION");
    }
    return 0;
}

static int open_parts(struct kvm_bench *bench, struct error *err)
{
    *bench = (struct kvm_bench){.device = -1, .vm = -1, .vcpu = -1};
    bench->device = kvm_open_device(err);
    if (bench->device < 0) {
        return bench->device;
    }
    bench->vm = kvm_ioctl(bench->device, KVM_CREATE_VM, 0);
    if (bench->vm < 0) {
        return fail(err, errno, "KVM_CREATE_VM");
    }
    int size = kvm_ioctl(bench->device, KVM_GET_VCPU_MMAP_SIZE, 0);
    bench->vcpu = kvm_ioctl(bench->vm, KVM_CREATE_VCPU, 0);
    if (bench->vcpu < 0 || size < 0) {
        return fail(err, errno, "KVM_CREATE_VCPU");
    }
    bench->run_size = (size_t)size;
    void *run = kvm_host_mmap(bench->run_size, bench->vcpu, 0);
    if (run == MAP_FAILED) {
        return fail(err, errno, "cannot map the state that KVM shares");
    }
    bench->run = run;
    return bench_map(bench, err);
}

void kvm_bench_put(struct kvm_bench *bench, const uint8_t *code, size_t size)
{
    uint64_t pml4 = PDPT_AT | TABLE_ENTRY, pdpt = PD_AT | TABLE_ENTRY, pd = PAGE_ENTRY;
    memcpy(bench->memory + PML4_AT, &pml4, sizeof(pml4));
    memcpy(bench->memory + PDPT_AT, &pdpt, sizeof(pdpt));
    /* One page of 2M: what it maps beyond the memory is not touched. */
    memcpy(bench->memory + PD_AT, &pd, sizeof(pd));
    memcpy(bench->memory + KVM_BENCH_CODE, code, size);
}

bool kvm_bench_start(struct kvm_bench *bench, unsigned ring, uint64_t rcx)
{
    struct kvm_sregs sregs;
    if (kvm_ioctl_pointer(bench->vcpu, KVM_GET_SREGS, &sregs) < 0) {
        return false;
    }
    struct kvm_segment code = {
        .selector = (uint16_t)(CODE_SELECTOR | ring),
        .limit = UINT32_MAX,
        .type = 11,
        .present = 1,
        .dpl = (uint8_t)ring,
        .s = 1,
        .l = 1,
        .g = 1,
    };
    struct kvm_segment data = code;
    data.selector = (uint16_t)(DATA_SELECTOR | ring);
    data.type = 3;
    data.l = 0;
    data.db = 1;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
    sregs.cr3 = PML4_AT;
    sregs.cr4 = X86_CR4_PAE;
    sregs.efer = X86_EFER_LME | X86_EFER_LMA;
    struct kvm_regs regs = {
        .rip = KVM_BENCH_CODE,
        .rcx = rcx,
        .rflags = X86_FLAG_1 | X86_FLAG_IOPL,
        .rsp = MEMORY_SIZE,
    };
    return kvm_ioctl_pointer(bench->vcpu, KVM_SET_SREGS, &sregs) >= 0 &&
           kvm_ioctl_pointer(bench->vcpu, KVM_SET_REGS, &regs) >= 0;
}

/* A busy or a nested host may need the time of several: who asks again must be told the
 * same. */
#define LIMITS_MOST 10u

int kvm_bench_run(struct kvm_bench *bench)
{
    int result = -1;
    for (unsigned i = 0; result < 0 && i < LIMITS_MOST; i++) {
        result = kvm_ioctl(bench->vcpu, KVM_RUN, 0);
        if (result < 0 && errno != EINTR) {
            break;
        }
    }
    return result;
}

/* The kick signal, to this thread, again and again from KVM_BENCH_LIMIT_NS on. */
static int start_limit(struct kvm_bench *bench, struct error *err)
{
    sigset_t kick;
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    struct itimerspec when = {.it_value.tv_nsec = KVM_BENCH_LIMIT_NS,
                              .it_interval.tv_nsec = KVM_BENCH_LIMIT_NS};
    int result = kvm_kick_init(err);
    if (result < 0) {
        return result;
    }
    if (timer_create(CLOCK_MONOTONIC, &event, &bench->timer) < 0) {
        return fail(err, errno, "cannot try KVM: timer_create");
    }
    bench->has_timer = true;
    sigemptyset(&kick);
    sigaddset(&kick, SIGURG);
    pthread_sigmask(SIG_UNBLOCK, &kick, &bench->signals);
    timer_settime(bench->timer, 0, &when, NULL);
    return 0;
}

int kvm_bench_open(struct kvm_bench *bench, struct error *err)
{
    int result = open_parts(bench, err);
    return result < 0 ? result : start_limit(bench, err);
}
