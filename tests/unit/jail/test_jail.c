/* Each test has the jail in a child, since there is no way out of one. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/scope.h"
#include "jail/capability.h"
#include "jail/jail.h"

#include <cmocka.h>

#define STOPPED 125 /* by a filter */
#define FAILED  9   /* CHECK */

/* In the child, where cmocka's assertions would end nothing. */
#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            dprintf(STDERR_FILENO, "line %d: %s (errno %d)\n", __LINE__, #condition, \
                    errno);                                                          \
            _exit(FAILED);                                                           \
        }                                                                            \
    } while (0)

static char said[4096]; /* by the child on stderr */

static int in_child(void (*action)(void *), void *opaque)
{
    int ends[2], status;
    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        action(opaque);
        _exit(0);
    }
    close(ends[1]);
    size_t size = 0;
    ssize_t got;
    while ((got = read(ends[0], said + size, sizeof(said) - 1 - size)) > 0) {
        size += (size_t)got;
    }
    said[size] = '\0';
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void works(void (*action)(void *), void *opaque)
{
    int status = in_child(action, opaque);
    if (status != 0) {
        fail_msg("status %d: %s", status, said);
    }
}

/* --- Filters --- */

static void stop(void)
{
    _exit(STOPPED);
}

static void prepare(bool makes_files)
{
    const struct jail_config config = {.makes_files = makes_files, .end = stop};
    struct error err = {0};
    if (jail_prepare(&config, &err) < 0) {
        dprintf(STDERR_FILENO, "%s\n", err.message);
        _exit(FAILED);
    }
}

static void enter(enum jail_role role)
{
    struct error err = {0};
    if (role != JAIL_LOOP) {
        jail_enter(role);
    }
    /* Tells of a failure of jail_enter's, too. */
    if (role == JAIL_LOOP && jail_close(&err) < 0) {
        dprintf(STDERR_FILENO, "%s\n", err.message);
        _exit(FAILED);
    }
}

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

static void call_socket(void)
{
    socket(AF_INET, SOCK_STREAM, 0);
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

/* --- Privileges --- */

/* A line of a status file that was opened before. */
static unsigned long long field(int fd, const char *name, int base)
{
    char text[8192];
    ssize_t size = pread(fd, text, sizeof(text) - 1, 0);
    CHECK(size > 0);
    text[size] = '\0';
    const char *at = strstr(text, name);
    CHECK(at);
    return strtoull(at + strlen(name), NULL, base);
}

static void do_privileges(void *opaque)
{
    int status = open("/proc/thread-self/status", O_RDONLY);
    bool is_root = geteuid() == 0;
    prepare(false);
    enter(*(enum jail_role *)opaque);
    CHECK(field(status, "NoNewPrivs:", 10) == 1);
    CHECK(field(status, "Seccomp:", 10) == 2);
    CHECK(field(status, "CapInh:", 16) == 0);
    CHECK(field(status, "CapPrm:", 16) == 0);
    CHECK(field(status, "CapEff:", 16) == 0);
    CHECK(field(status, "CapAmb:", 16) == 0);
    CHECK(!is_root || field(status, "CapBnd:", 16) == 0);
}

static void test_privileges(void **state)
{
    enum jail_role roles[] = {JAIL_VCPU, JAIL_VCPU_KVM, JAIL_LOOP, JAIL_RAM, JAIL_DISK};
    for (unsigned i = 0; i < array_size(roles); i++) {
        works(do_privileges, &roles[i]);
    }
}

/* Root is root again by execve(2), unless the bounds are gone (capabilities(7)). */
static void do_execute(void *opaque)
{
    CHECK(capability_drop_bounds() == 0 || geteuid() != 0);
    CHECK(capability_drop() == 0);
    CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    char *arguments[] = {"/bin/sh", "-c",
                         "grep -Eq 'CapEff:.0*$' /proc/self/status && "
                         "grep -Eq 'CapPrm:.0*$' /proc/self/status",
                         NULL};
    execv(arguments[0], arguments);
    CHECK(!"executed");
}

static void test_execute(void **state)
{
    works(do_execute, NULL);
}

static void do_numbers(void *opaque)
{
    uid_t uid = geteuid();
    gid_t gid = getegid();
    struct stat before, after;
    CHECK(stat("/proc/self/ns/net", &before) == 0);
    prepare(false);
    CHECK(geteuid() == uid && getegid() == gid);
    enter(JAIL_LOOP);
    CHECK(geteuid() == uid && getegid() == gid);
    bool is_left = jail_finding(JAIL_NETWORK_NAMESPACE).state == JAIL_ON;
    CHECK(stat("/proc/self/ns/net", &after) == 0);
    CHECK(is_left == (before.st_ino != after.st_ino));
}

static void do_numbers_as_nobody(void *opaque)
{
    CHECK(setgid(65534) == 0 && setuid(65534) == 0);
    do_numbers(NULL);
}

/* The process keeps its user and group, in the namespaces that it could get. */
static void test_numbers(void **state)
{
    works(do_numbers, NULL);
    if (geteuid() == 0) {
        works(do_numbers_as_nobody, NULL);
    }
}

/* A user namespace in which no other may be made stands for a container. */
static void do_container(void *opaque)
{
    CHECK(unshare(CLONE_NEWUSER) == 0);
    int fd = open("/proc/sys/user/max_user_namespaces", O_WRONLY);
    CHECK(fd >= 0 && write(fd, "0", 1) == 1);
    close(fd);
    CHECK(capability_drop() == 0);
    prepare(false);
    enter(JAIL_LOOP);
    CHECK(jail_finding(JAIL_USER_NAMESPACE).state == JAIL_REFUSED);
    CHECK(*jail_finding(JAIL_USER_NAMESPACE).note);
    CHECK(jail_finding(JAIL_NETWORK_NAMESPACE).state == JAIL_REFUSED);
    CHECK(jail_finding(JAIL_SECCOMP).state == JAIL_ON);
    CHECK(jail_is_closed());
    call_socket();
}

static void test_container(void **state)
{
    if (jail_probe(JAIL_USER_NAMESPACE).state == JAIL_REFUSED) {
        print_message("# this is such a place already\n");
        skip();
    }
    assert_int_equal(in_child(do_container, NULL), STOPPED);
}

/* --- Files --- */

static char folder[64];

static void make_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void make_folder(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int make_files(void **state)
{
    strcpy(folder, "/tmp/doppel-jail-XXXXXX");
    assert_non_null(mkdtemp(folder));
    make_folder("read");
    make_folder("remove");
    make_folder("make");
    make_folder("other");
    make_file("read/file");
    make_file("remove/file");
    make_file("other/file");
    return 0;
}

static int remove_files(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

static int let_in(const char *name, enum jail_right right)
{
    char path[128];
    struct error err;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_PATH | O_DIRECTORY);
    CHECK(fd >= 0 && jail_allow(fd, right, &err) == 0);
    return fd;
}

static void do_files(void *opaque)
{
    prepare(true);
    int readable = let_in("read", JAIL_READ);
    int removable = let_in("remove", JAIL_REMOVE);
    int made = let_in("make", JAIL_MAKE);
    char other[128];
    snprintf(other, sizeof(other), "%s/other", folder);
    int denied = open(other, O_PATH | O_DIRECTORY);
    enter(JAIL_LOOP);
    /* What was let in, and no more of it. */
    CHECK(openat(readable, "file", O_RDONLY) >= 0);
    CHECK(openat(readable, "file", O_WRONLY) < 0 && errno == EACCES);
    CHECK(unlinkat(readable, "file", 0) < 0 && errno == EACCES);
    CHECK(openat(removable, "file", O_RDONLY) < 0 && errno == EACCES);
    CHECK(unlinkat(removable, "file", 0) == 0);
    CHECK(mkdirat(made, "x", 0700) == 0);
    CHECK(openat(made, "x/file", O_WRONLY | O_CREAT, 0600) >= 0);
    CHECK(renameat(made, "x", made, "y") == 0);
    /* Everything else. */
    CHECK(openat(denied, "file", O_RDONLY) < 0 && errno == EACCES);
    CHECK(openat(denied, "new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
    CHECK(unlinkat(denied, "file", 0) < 0 && errno == EACCES);
    CHECK(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
}

static void test_files(void **state)
{
    if (jail_probe(JAIL_LANDLOCK).state != JAIL_ON) {
        print_message("# this host has no Landlock\n");
        skip();
    }
    works(do_files, NULL);
}

static void do_no_files(void *opaque)
{
    prepare(false);
    int readable = let_in("read", JAIL_READ);
    enter(JAIL_LOOP);
    CHECK(openat(readable, "file", O_RDONLY) >= 0);
    CHECK(openat(readable, "new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
}

/* Without makes_files the filter refuses before Landlock is asked. */
static void test_no_files(void **state)
{
    works(do_no_files, NULL);
}

/* --- Threads --- */

static _Atomic bool has_entered;

static void *slow_thread(void *opaque)
{
    usleep(50000);
    atomic_store(&has_entered, true);
    jail_enter(JAIL_DISK);
    for (;;) {
        nanosleep(&(struct timespec){.tv_sec = 100}, NULL);
    }
    return NULL;
}

static void *short_thread(void *opaque)
{
    return NULL;
}

static void do_wait(void *opaque)
{
    pthread_t slow, gone;
    prepare(false);
    CHECK(jail_thread_create(&slow, slow_thread, NULL) == 0);
    CHECK(jail_thread_create(&gone, short_thread, NULL) == 0);
    enter(JAIL_LOOP);
    CHECK(atomic_load(&has_entered));
}

/* Closing waits for those outside, and not for those that have ended. */
static void test_wait(void **state)
{
    works(do_wait, NULL);
}

static void *guilty_thread(void *opaque)
{
    jail_enter(JAIL_CONSOLE);
    call_socket();
    return NULL;
}

static void do_guilty(void *opaque)
{
    pthread_t thread;
    prepare(false);
    CHECK(jail_thread_create(&thread, guilty_thread, NULL) == 0);
    pthread_join(thread, NULL);
}

/* One thread's violation ends the process. */
static void test_guilty(void **state)
{
    assert_int_equal(in_child(do_guilty, NULL), STOPPED);
    assert_non_null(strstr(said, "role 'console' called socket"));
}

static void do_without(void *opaque)
{
    pthread_t thread;
    struct error err;
    CHECK(jail_thread_create(&thread, guilty_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(jail_close(&err) == 0);
    CHECK(!jail_is_closed());
    CHECK(open("/etc/passwd", O_RDONLY) >= 0);
}

/* Not prepared, nothing changes: --no-jail. */
static void test_without(void **state)
{
    works(do_without, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_listed),
        cmocka_unit_test(test_unlisted),
        cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_blocked),
        cmocka_unit_test(test_privileges),
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_container),
        cmocka_unit_test_setup_teardown(test_files, make_files, remove_files),
        cmocka_unit_test_setup_teardown(test_no_files, make_files, remove_files),
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_guilty),
        cmocka_unit_test(test_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
