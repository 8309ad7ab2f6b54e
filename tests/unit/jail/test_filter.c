#include "jail_rig.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* The filters: what each role may call, and what becomes of the rest. */

static void call_every(int fd)
{
    char *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(page != MAP_FAILED);
    *page = 1;
    CHECK(mprotect(page, 4096, PROT_READ) == 0);
    CHECK(madvise(page, 4096, MADV_DONTNEED) == 0);
    CHECK(munmap(page, 4096) == 0);
    CHECK(sched_yield() == 0);
    CHECK(write(fd, "x", 1) == 1);
    CHECK(syscall(SYS_tgkill, getpid(), gettid(), 0) == 0);
    free(malloc(1 << 20));
}

static void call_pread(int fd)
{
    char byte;
    CHECK(pread(fd, &byte, 1, 0) == 1);
}

static void call_disk(int fd)
{
    char byte = 'x';
    struct iovec iov = {&byte, 1};
    CHECK(pwritev(fd, &iov, 1, 0) == 1);
    CHECK(preadv(fd, &iov, 1, 0) == 1);
    CHECK(fdatasync(fd) == 0);
}

static void call_poll(int fd)
{
    struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
    CHECK(poll(&poll_fd, 1, 0) == 1);
}

/* There is no such descriptor, which the kernel finds out behind the filter. */
static void call_kvm(int fd)
{
    CHECK(ioctl(-1, KVM_RUN, 0) < 0 && errno == EBADF);
    CHECK(ioctl(-1, KVM_GET_REGS, NULL) < 0 && errno == EBADF);
}

static void call_loop(int fd)
{
    int epoll = epoll_create1(0);
    CHECK(epoll >= 0);
    struct epoll_event event;
    CHECK(epoll_wait(epoll, &event, 1, 0) == 0);
    CHECK(fsync(fd) == 0);
    CHECK(close(epoll) == 0);
}

static const struct {
    enum jail_role role;
    void (*call)(int fd);
} listed[] = {
    {JAIL_VCPU, call_pread}, {JAIL_VCPU_KVM, call_kvm}, {JAIL_VCPU_STEPS, call_disk},
    {JAIL_LOOP, call_loop},  {JAIL_DISK, call_disk},    {JAIL_CONSOLE, call_poll},
    {JAIL_RAM, call_poll},
};
_Static_assert(array_size(listed) == JAIL_ROLES, "one for each role");

static int open_temporary(void)
{
    FILE *file = tmpfile();
    CHECK(file);
    CHECK(write(fileno(file), "y", 1) == 1);
    return fileno(file);
}

static void do_listed(void *opaque)
{
    unsigned index = *(unsigned *)opaque;
    int fd = open_temporary();
    prepare(false);
    enter(listed[index].role);
    call_every(fd);
    listed[index].call(fd);
}

static void test_listed(void **state)
{
    for (unsigned i = 0; i < array_size(listed); i++) {
        works(do_listed, &i);
    }
}

static void call_exec(void)
{
    char *arguments[] = {"/bin/true", NULL};
    execv(arguments[0], arguments);
}

static void call_map_code(void)
{
    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void call_make_code(void)
{
    static _Alignas(4096) char page[4096];
    mprotect(page, sizeof(page), PROT_READ | PROT_EXEC);
}

static pid_t parent;

static void call_kill_parent(void)
{
    syscall(SYS_tgkill, parent, parent, 0);
}

static void call_type_into_terminal(void)
{
    ioctl(-1, TIOCSTI, "x");
}

static void call_make_machine(void)
{
    ioctl(-1, KVM_CREATE_VM, 0);
}

static void call_become_root(void)
{
    syscall(SYS_setuid, 0);
}

#if !DOPPEL_SANITIZED
static void call_fork(void)
{
    if (syscall(SYS_fork) == 0) {
        syscall(SYS_exit_group, 0);
    }
}

static void call_trace(void)
{
    syscall(SYS_ptrace, 0, 0, 0, 0);
}
#endif

static const struct {
    const char *name; /* of the call, in the message */
    void (*call)(void);
} unlisted[] = {
    {"socket", call_socket},      {"execve", call_exec},
    {"mmap", call_map_code},      {"mprotect", call_make_code},
    {"tgkill", call_kill_parent}, {"ioctl", call_type_into_terminal},
    {"ioctl", call_make_machine}, {"setuid", call_become_root},
#if !DOPPEL_SANITIZED
    {"fork", call_fork},          {"ptrace", call_trace},
#endif
};

struct pair {
    enum jail_role role;
    unsigned call;
};

static void do_unlisted(void *opaque)
{
    const struct pair *pair = opaque;
    parent = getppid();
    prepare(false);
    enter(pair->role);
    unlisted[pair->call].call();
}

/* Stopped, and told: role, call, what to do. */
static void test_unlisted(void **state)
{
    for (unsigned role = 0; role < JAIL_ROLES; role++) {
        for (unsigned i = 0; i < array_size(unlisted); i++) {
            struct pair pair = {role, i};
            char expected[120];
            snprintf(expected, sizeof(expected), "role '%s' called %s (",
                     jail_role_name(role), unlisted[i].name);
            int status = in_child(do_unlisted, &pair);
            if (status != STOPPED || !strstr(said, expected) ||
                !strstr(said, "--no-jail")) {
                fail_msg("role %s, %s: status %d: %s", jail_role_name(role),
                         unlisted[i].name, status, said);
            }
        }
    }
}

/* Without the jail they do what they do. */
static void do_unlisted_free(void *opaque)
{
    parent = getppid();
    for (unsigned i = 0; i < array_size(unlisted); i++) {
        if (unlisted[i].call != call_exec) {
            unlisted[i].call();
        }
    }
}

static void test_control(void **state)
{
    works(do_unlisted_free, NULL);
}

/* The numbers of another ABI would pass a filter that looks at numbers alone. */
static void do_foreign(void *opaque)
{
    prepare(false);
    enter(JAIL_VCPU);
    syscall(0x40000000 | SYS_getpid); /* x32 */
}

static void test_foreign(void **state)
{
    assert_int_equal(in_child(do_foreign, NULL), 128 + SIGSYS);
}

/* What the C library tries is refused and does no harm. */
static void do_refused(void *opaque)
{
    prepare(false);
    enter(*(enum jail_role *)opaque);
    CHECK(open("/sys/devices/system/cpu/online", O_RDONLY) < 0 && errno == EACCES);
}

static void test_refused(void **state)
{
    for (unsigned role = 0; role < JAIL_ROLES; role++) {
        if (role != JAIL_LOOP || jail_probe(JAIL_LANDLOCK).state == JAIL_ON) {
            works(do_refused, &role);
        }
    }
}

/* Also where the thread has all signals blocked. */
static void do_blocked(void *opaque)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prepare(false);
    enter(JAIL_DISK);
    call_socket();
}

static void test_blocked(void **state)
{
    assert_int_equal(in_child(do_blocked, NULL), STOPPED);
    assert_non_null(strstr(said, "role 'disk' called socket"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control),  cmocka_unit_test(test_listed),
        cmocka_unit_test(test_unlisted), cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_blocked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
