/*
 * The measurement: a VM of 64 KiB whose long-mode page tables map it to address 0, and a
 * loop of two instructions in ring 0 and in ring 3 (with I/O privilege, so that it can
 * end by a port access). A timer's signal ends what takes too long.
 */
#include "engine/kvm/speed.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "engine/kvm/vcpu.h"

#define MEMORY_SIZE   0x10000u
#define PML4_AT       0x1000u
#define PDPT_AT       0x2000u
#define PD_AT         0x3000u
#define CODE_AT       0x4000u
#define CODE_SELECTOR 8u
#define DATA_SELECTOR 16u
/* P, W, U; and PS for the page. */
#define TABLE_ENTRY   7u
#define PAGE_ENTRY    0x87u

#define FEW_ROUNDS    400u
#define MANY_ROUNDS   400000u
#define MANY_IF_BELOW 100000u /* ns: a loop of few rounds that short tells nothing */
#define LIMIT_NS      3000000u

/* A VM with one processor, made for the measurement alone. */
struct bench {
    int device, vm, vcpu;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void bench_close(struct bench *bench)
{
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

static int bench_map(struct bench *bench, struct error *err)
{
    void *memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return fail(err, errno, "cannot measure KVM");
    }
    bench->memory = memory;
    struct kvm_userspace_memory_region region = {.memory_size = MEMORY_SIZE,
                                                 .userspace_addr = (uintptr_t)memory};
    if (kvm_ioctl_pointer(bench->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        return fail(err, errno, "KVM_SET_USER_MEMORY_REGION");
    }
    return 0;
}

static int bench_open(struct bench *bench, struct error *err)
{
    *bench = (struct bench){.device = -1, .vm = -1, .vcpu = -1};
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

static void put_code(struct bench *bench)
{
    /* loop: dec ecx; jnz loop; out 0x80, al; jmp $ */
    static const uint8_t code[] = {0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x80, 0xeb, 0xfe};
    uint64_t pml4 = PDPT_AT | TABLE_ENTRY, pdpt = PD_AT | TABLE_ENTRY, pd = PAGE_ENTRY;
    memcpy(bench->memory + PML4_AT, &pml4, sizeof(pml4));
    memcpy(bench->memory + PDPT_AT, &pdpt, sizeof(pdpt));
    /* One page of 2M: what it maps beyond the memory is not touched. */
    memcpy(bench->memory + PD_AT, &pd, sizeof(pd));
    memcpy(bench->memory + CODE_AT, code, sizeof(code));
}

static bool set_state(struct bench *bench, unsigned ring, uint32_t rounds)
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
        .rip = CODE_AT,
        .rcx = rounds,
        .rflags = X86_FLAG_1 | X86_FLAG_IOPL,
        .rsp = MEMORY_SIZE,
    };
    return kvm_ioctl_pointer(bench->vcpu, KVM_SET_SREGS, &sregs) >= 0 &&
           kvm_ioctl_pointer(bench->vcpu, KVM_SET_REGS, &regs) >= 0;
}

/* The time that a loop takes, or 0 if it did not come to its end. */
static uint64_t time_loop(struct bench *bench, unsigned ring, uint32_t rounds)
{
    if (!set_state(bench, ring, rounds)) {
        return 0;
    }
    uint64_t start = clock_host_ns();
    int result = kvm_ioctl(bench->vcpu, KVM_RUN, 0);
    uint64_t end = clock_host_ns();
    bool has_ended = result >= 0 && bench->run->exit_reason == KVM_EXIT_IO;
    return has_ended ? (end > start ? end - start : 1) : 0;
}

static double measure_ring(struct bench *bench, unsigned ring)
{
    uint32_t rounds = FEW_ROUNDS;
    /* The first entry builds what the host needs for it. */
    uint64_t ns = time_loop(bench, ring, 1) ? time_loop(bench, ring, rounds) : 0;
    if (ns && ns < MANY_IF_BELOW) {
        uint64_t few = ns;
        rounds = MANY_ROUNDS - FEW_ROUNDS;
        ns = time_loop(bench, ring, MANY_ROUNDS);
        ns = ns > few ? ns - few : ns;
    }
    return ns ? 2.0 * rounds * 1000 / (double)ns : 0;
}

/* The kick signal, to this thread, again and again from LIMIT_NS on. */
static int start_limit(timer_t *timer, struct error *err)
{
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGURG};
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    struct itimerspec when = {.it_value.tv_nsec = LIMIT_NS,
                              .it_interval.tv_nsec = LIMIT_NS};
    int result = kvm_kick_init(err);
    if (result < 0) {
        return result;
    }
    if (timer_create(CLOCK_MONOTONIC, &event, timer) < 0) {
        return fail(err, errno, "cannot measure KVM: timer_create");
    }
    timer_settime(*timer, 0, &when, NULL);
    return 0;
}

static bool is_host_virtual(void)
{
    unsigned eax, ebx, ecx = 0, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx >> 31;
}

int kvm_speed_measure(struct kvm_speed *speed, struct error *err)
{
    struct bench bench;
    sigset_t kick, before;
    timer_t timer;
    *speed = (struct kvm_speed){.is_nested = is_host_virtual()};
    int result = bench_open(&bench, err);
    result = result < 0 ? result : start_limit(&timer, err);
    if (result >= 0) {
        sigemptyset(&kick);
        sigaddset(&kick, SIGURG);
        pthread_sigmask(SIG_UNBLOCK, &kick, &before);
        put_code(&bench);
        speed->ring0_mips = measure_ring(&bench, 0);
        speed->ring3_mips = measure_ring(&bench, 3);
        timer_delete(timer);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
    }
    bench_close(&bench);
    return result;
}

void kvm_speed_describe(const struct kvm_speed *speed, char *text, size_t size)
{
    if (speed->ring0_mips == 0) {
        snprintf(text, size, "does not finish a short loop in ring 0 within %u ms",
                 LIMIT_NS / 1000000);
        return;
    }
    snprintf(text, size,
             "%s ring 0 at %.*f million instructions a second, executes ring 3 at %.0f",
             kvm_speed_is_interpreting(speed) ? "interprets" : "executes",
             speed->ring0_mips < 10 ? 1 : 0, speed->ring0_mips, speed->ring3_mips);
}
