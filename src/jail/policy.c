#include "jail/policy.h"

#include <asm/termbits.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "base/scope.h"

#define CALL(name)              \
    {                           \
        .call = SCMP_SYS(name), \
    }
/* Only with these arguments. */
#define CALL_IF(name, ...)                                                              \
    {                                                                                   \
        .call = SCMP_SYS(name),                                                         \
        .checks =                                                                       \
            sizeof((struct scmp_arg_cmp[]){__VA_ARGS__}) / sizeof(struct scmp_arg_cmp), \
        .argument = {__VA_ARGS__},                                                      \
    }
#define IS(number, value)                                                     \
    {                                                                         \
        .arg = (number), .op = SCMP_CMP_EQ, .datum_a = (scmp_datum_t)(value), \
    }
/* Of the bits in the mask, these and no others. */
#define MASKED(number, mask, value)                                                 \
    {                                                                               \
        .arg = (number), .op = SCMP_CMP_MASKED_EQ, .datum_a = (scmp_datum_t)(mask), \
        .datum_b = (value),                                                         \
    }

#define WITHOUT(number, mask) MASKED(number, mask, 0)
/* On this process alone: a thread's kick, abort(). */
#define CALL_OWN(name)                          \
    {                                           \
        .call = SCMP_SYS(name), .is_own = true, \
    }
#define DENY(name)                                     \
    {                                                  \
        .call = SCMP_SYS(name), .answer = POLICY_DENY, \
    }
#define DENY_IF(name, ...)                                          \
    {                                                               \
        .call = SCMP_SYS(name), .answer = POLICY_DENY, .checks = 1, \
        .argument = {__VA_ARGS__},                                  \
    }
#define IOCTL(request) CALL_IF(ioctl, IS(1, request))
#define END                     \
    {                           \
        .call = __NR_SCMP_ERROR \
    }

/* What the C library needs in every thread. Memory may be had, but none that is
 * executable: code caches are mapped before the jail closes, and each thread's stack was.
 */
static const struct policy_rule every_thread[] = {
    CALL(brk),
    CALL_IF(mmap, WITHOUT(2, PROT_EXEC)),
    CALL_IF(mprotect, WITHOUT(2, PROT_EXEC)),
    CALL(munmap),
    CALL(mremap),
    CALL(madvise),
    CALL(futex),
    CALL(sched_yield),
    CALL(sched_getaffinity),
    CALL(rt_sigprocmask),
    CALL(rt_sigreturn),
    CALL(restart_syscall),
    CALL(sigaltstack),
    CALL(clock_gettime),
    CALL(clock_nanosleep),
    CALL(nanosleep),
    CALL(gettimeofday),
    CALL(time),
    CALL(getcpu),
    CALL(getpid),
    CALL(gettid),
    CALL(getrandom),
    CALL(membarrier),
    CALL_OWN(tgkill),
    CALL(exit),
    CALL(exit_group),
    /* The log, and the eventfds by which threads wake each other. */
    CALL(write),
    CALL(read),
    /* A terminal is put back also by the thread that dies; the C library looks whether
     * it was. */
    IOCTL(TCSETS),
    IOCTL(TCGETS),
    END,
};

/* The C library asks /proc and /sys how to trim memory, and does without the answer. */
static const struct policy_rule no_files[] = {
#if !DOPPEL_SANITIZED
    DENY(openat),
    DENY(open),
#endif
    END,
};

/* Interrupts, raised by whatever thread a device works in. */
static const struct policy_rule kvm_interrupts[] = {
    IOCTL(KVM_IRQ_LINE),
    IOCTL(KVM_IRQ_LINE_STATUS),
    IOCTL(KVM_SIGNAL_MSI),
    END,
};

/* All that is done to a machine that exists; what makes one is not among it. */
static const struct policy_rule kvm_machine[] = {
    IOCTL(KVM_CHECK_EXTENSION),   IOCTL(KVM_SET_USER_MEMORY_REGION),
    IOCTL(KVM_GET_DIRTY_LOG),     IOCTL(KVM_CLEAR_DIRTY_LOG),
    IOCTL(KVM_RESET_DIRTY_RINGS), IOCTL(KVM_GET_CLOCK),
    IOCTL(KVM_SET_CLOCK),         IOCTL(KVM_GET_IRQCHIP),
    IOCTL(KVM_SET_IRQCHIP),       IOCTL(KVM_GET_PIT2),
    IOCTL(KVM_SET_PIT2),          IOCTL(KVM_REINJECT_CONTROL),
    IOCTL(KVM_SET_GSI_ROUTING),   IOCTL(KVM_IRQFD),
    IOCTL(KVM_IOEVENTFD),         END,
};

static const struct policy_rule kvm_processor[] = {
    IOCTL(KVM_RUN),
    IOCTL(KVM_INTERRUPT),
    IOCTL(KVM_NMI),
    IOCTL(KVM_TRANSLATE),
    IOCTL(KVM_GET_REGS),
    IOCTL(KVM_SET_REGS),
    IOCTL(KVM_GET_SREGS),
    IOCTL(KVM_SET_SREGS),
    IOCTL(KVM_GET_SREGS2),
    IOCTL(KVM_SET_SREGS2),
    IOCTL(KVM_GET_MSRS),
    IOCTL(KVM_SET_MSRS),
    IOCTL(KVM_GET_FPU),
    IOCTL(KVM_SET_FPU),
    IOCTL(KVM_GET_XSAVE),
    IOCTL(KVM_GET_XSAVE2),
    IOCTL(KVM_SET_XSAVE),
    IOCTL(KVM_GET_XCRS),
    IOCTL(KVM_SET_XCRS),
    IOCTL(KVM_GET_DEBUGREGS),
    IOCTL(KVM_SET_DEBUGREGS),
    IOCTL(KVM_GET_VCPU_EVENTS),
    IOCTL(KVM_SET_VCPU_EVENTS),
    IOCTL(KVM_GET_MP_STATE),
    IOCTL(KVM_SET_MP_STATE),
    IOCTL(KVM_GET_LAPIC),
    IOCTL(KVM_SET_LAPIC),
    IOCTL(KVM_SET_GUEST_DEBUG),
    IOCTL(KVM_SET_SIGNAL_MASK),
    IOCTL(KVM_GET_TSC_KHZ),
    IOCTL(KVM_SET_TSC_KHZ),
    IOCTL(KVM_GET_DEVICE_ATTR),
    IOCTL(KVM_SET_DEVICE_ATTR),
    IOCTL(KVM_HAS_DEVICE_ATTR),
    IOCTL(KVM_KVMCLOCK_CTRL),
    IOCTL(KVM_SET_CPUID2),
    IOCTL(KVM_GET_CPUID2),
    END,
};

/* Devices work in the threads of virtual processors: timers are set, memory is given back
 * to the host, waiting time is read. */
static const struct policy_rule processor[] = {
    CALL(pread64),
    CALL(timerfd_settime),
    CALL(epoll_ctl),
    CALL(fallocate),
    CALL(arch_prctl), /* GS, where user code may not set it */
    /* A fault that is not the guest's: the handler steps aside, and it happens again. */
    CALL_IF(rt_sigaction, IS(0, SIGFPE)),
    CALL_IF(rt_sigaction, IS(0, SIGSEGV)),
    CALL_IF(rt_sigaction, IS(0, SIGBUS)),
    END,
};

static const struct policy_rule disk[] = {
    CALL(preadv),    CALL(pwritev),         CALL(pread64),
    CALL(pwrite64),  CALL(fdatasync),       CALL(fsync),
    CALL(fallocate), CALL(timerfd_settime), END,
};

static const struct policy_rule console[] = {
    CALL(poll),
    CALL(timerfd_settime),
    END,
};

static const struct policy_rule ram[] = {
    CALL(poll),
    CALL(pread64),
    CALL(close),
    IOCTL(UFFDIO_COPY),
    IOCTL(UFFDIO_ZEROPAGE),
    IOCTL(UFFDIO_WAKE),
    IOCTL(UFFDIO_UNREGISTER),
    END,
};

static const struct policy_rule loop[] = {
    CALL(pread64),
    CALL(preadv),
    CALL(pwrite64),
    CALL(pwritev),
    CALL(writev),
    CALL(lseek),
    CALL(fstat),
    CALL(lstat),
    CALL(stat),
    CALL(newfstatat),
    CALL(statx),
    CALL(access),
    CALL(fsync),
    CALL(fdatasync),
    CALL(fallocate),
    CALL(ftruncate),
    CALL(close),
    CALL(dup),
    CALL_IF(fcntl, IS(1, F_GETFD)),
    CALL_IF(fcntl, IS(1, F_SETFD)),
    CALL_IF(fcntl, IS(1, F_GETFL)),
    CALL_IF(fcntl, IS(1, F_SETFL)),
    CALL_IF(fcntl, IS(1, F_DUPFD_CLOEXEC)),
    /* Without a right of Landlock these find nothing. */
    CALL_IF(openat, WITHOUT(2, O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)),
    CALL(getdents64),
    CALL(unlinkat),
    CALL(poll),
    CALL(ppoll),
    CALL(epoll_ctl),
    CALL(epoll_wait),
    CALL(epoll_pwait),
    CALL(epoll_create1),
    CALL(eventfd2),
    CALL(timerfd_create),
    CALL(timerfd_settime),
    CALL(timerfd_gettime),
    CALL(timer_delete), /* by which a virtual processor's time was looked at */
    /* Sockets that exist, and those they accept. */
    CALL(accept4),
    CALL(recvfrom),
    CALL(recvmsg),
    CALL(sendto),
    CALL(sendmsg),
    CALL(shutdown),
    CALL(getsockopt),
    CALL(setsockopt),
    CALL(getsockname),
    CALL(getuid),
    CALL(geteuid),
    CALL(getgid),
    CALL(getegid),
    CALL(getpgrp),
    CALL(uname),
    CALL(sysinfo),
    CALL(getrusage),
    CALL_IF(prlimit64, IS(2, 0)),
    CALL(rt_sigaction),
    CALL(rt_sigpending),
    CALL(rt_sigtimedwait),
    IOCTL(TCSETSW),
    IOCTL(TCSETSF),
    IOCTL(TIOCGPGRP),
    IOCTL(TIOCGWINSZ),
    IOCTL(FIONREAD),
    IOCTL(FIONBIO),
    END,
};

/* The kernel cache, when the guest is reset, is read and no longer filled. */
static const struct policy_rule makes_no_files[] = {
#if !DOPPEL_SANITIZED
    DENY_IF(openat, MASKED(2, O_CREAT, O_CREAT)),
#endif
    DENY(mkdir),
    DENY(utimensat),
    END,
};

static const struct policy_rule makes_files[] = {
    CALL(openat), CALL(mkdir), CALL(mkdirat), CALL(renameat), CALL(renameat2), END,
};

/* What the runtime of -fsanitize needs: its own memory, its reports, and the thread that
 * looks for leaks at the end, which stops and traces the others. Such a build is for
 * tests; jail_prepare says that its jail is a wider one. */
#if DOPPEL_SANITIZED
static const struct policy_rule sanitizer[] = {
    CALL(open),
    CALL(getdents),
    CALL(openat),
    CALL(close),
    CALL(readlink),
    CALL(readlinkat),
    CALL(fstat),
    CALL(newfstatat),
    CALL(getdents64),
    CALL(clone),
    CALL(clone3),
    CALL(ptrace),
    CALL(wait4),
    CALL(prctl),
    CALL(getppid),
    CALL(rt_sigaction),
    CALL(kill),
    CALL(prlimit64),
    CALL(getrlimit),
    CALL(process_vm_readv),
    CALL(lseek),
    CALL(pipe2),
    CALL(set_robust_list),
    CALL(rseq),
    CALL(personality),
    CALL(fcntl),
    CALL(sched_getscheduler),
    CALL(arch_prctl),
    CALL(tkill),
    CALL(uname),
    CALL(pipe),
    CALL(poll),
    CALL(writev),
    CALL(access),
    CALL(mincore),
    CALL(msync),
    IOCTL(TCGETS),
    IOCTL(TIOCGWINSZ),
    END,
};
#else
static const struct policy_rule sanitizer[] = {END};
#endif

#define GROUPS_MAX 8

static const struct policy_rule *const policy_table[JAIL_ROLES][GROUPS_MAX] = {
    [JAIL_LOOP] = {every_thread, loop, kvm_interrupts, kvm_machine, kvm_processor},
    [JAIL_VCPU] = {every_thread, no_files, processor},
    [JAIL_VCPU_KVM] = {every_thread, no_files, processor, kvm_processor, kvm_interrupts,
                       kvm_machine},
    [JAIL_VCPU_STEPS] = {every_thread, no_files, processor, disk},
    [JAIL_DISK] = {every_thread, no_files, disk, kvm_interrupts},
    [JAIL_CONSOLE] = {every_thread, no_files, console, kvm_interrupts},
    [JAIL_RAM] = {every_thread, no_files, ram},
};

static int each_rule(const struct policy_rule *rules,
                     int (*each)(void *opaque, const struct policy_rule *rule),
                     void *opaque)
{
    int result = 0;
    for (; result >= 0 && rules->call != __NR_SCMP_ERROR; rules++) {
        result = each(opaque, rules);
    }
    return result;
}

int policy_each(enum jail_role role, bool files,
                int (*each)(void *opaque, const struct policy_rule *rule), void *opaque)
{
    int result = each_rule(sanitizer, each, opaque);
    if (result >= 0 && role == JAIL_LOOP) {
        result = each_rule(files ? makes_files : makes_no_files, each, opaque);
    }
    for (unsigned i = 0; result >= 0 && i < GROUPS_MAX && policy_table[role][i]; i++) {
        result = each_rule(policy_table[role][i], each, opaque);
    }
    return result;
}
