#include "jail_rig.h"

#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "jail/capability.h"

/* What the process and its threads give up besides, also in a container. */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_privileges),
        cmocka_unit_test(test_execute),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_container),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
