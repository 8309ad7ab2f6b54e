/* What no role may ever have, whatever else is added to the table. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/mman.h>

#include "base/scope.h"
#include "jail/policy.h"

#include <cmocka.h>

struct question {
    int call;
    unsigned found;
    bool is_open; /* by a rule without a check of arguments */
};

static int look(void *opaque, const struct policy_rule *rule)
{
    struct question *question = opaque;
    if (rule->call == question->call && rule->answer == POLICY_ALLOW) {
        question->found++;
        question->is_open |= rule->checks == 0 && !rule->is_own;
    }
    return 0;
}

static struct question ask(enum jail_role role, bool makes_files, int call)
{
    struct question question = {.call = call};
    assert_int_equal(policy_each(role, makes_files, look, &question), 0);
    return question;
}

/* New programs, other processes, new sockets, privileges, the kernel itself. */
static const int never[] = {
    SCMP_SYS(execve),
    SCMP_SYS(execveat),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(socket),
    SCMP_SYS(socketpair),
    SCMP_SYS(connect),
    SCMP_SYS(bind),
    SCMP_SYS(listen),
    SCMP_SYS(setuid),
    SCMP_SYS(setgid),
    SCMP_SYS(setresuid),
    SCMP_SYS(setgroups),
    SCMP_SYS(capset),
    SCMP_SYS(unshare),
    SCMP_SYS(setns),
    SCMP_SYS(mount),
    SCMP_SYS(umount2),
    SCMP_SYS(pivot_root),
    SCMP_SYS(chroot),
    SCMP_SYS(open_tree),
    SCMP_SYS(move_mount),
    SCMP_SYS(bpf),
    SCMP_SYS(perf_event_open),
    SCMP_SYS(io_uring_setup),
    SCMP_SYS(userfaultfd),
    SCMP_SYS(keyctl),
    SCMP_SYS(add_key),
    SCMP_SYS(init_module),
    SCMP_SYS(finit_module),
    SCMP_SYS(kexec_load),
    SCMP_SYS(open_by_handle_at),
    SCMP_SYS(process_vm_writev),
    SCMP_SYS(pidfd_open),
    SCMP_SYS(pidfd_getfd),
    SCMP_SYS(chmod),
    SCMP_SYS(fchmod),
    SCMP_SYS(chown),
    SCMP_SYS(link),
    SCMP_SYS(symlink),
    SCMP_SYS(mknod),
    SCMP_SYS(memfd_create),
    SCMP_SYS(modify_ldt),
    SCMP_SYS(iopl),
    SCMP_SYS(ioperm),
    SCMP_SYS(settimeofday),
    SCMP_SYS(shmget),
    SCMP_SYS(msgget),
#if !DOPPEL_SANITIZED
    SCMP_SYS(clone),
    SCMP_SYS(clone3),
    SCMP_SYS(ptrace),
    SCMP_SYS(kill),
    SCMP_SYS(prctl),
    SCMP_SYS(process_vm_readv),
#endif
};

static void test_never(void **state)
{
    for (unsigned role = 0; role < JAIL_ROLES; role++) {
        for (unsigned i = 0; i < array_size(never); i++) {
            if (ask(role, true, never[i]).found) {
                fail_msg("role %s has %s", jail_role_name(role),
                         seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, never[i]));
            }
        }
    }
}

/* These look at arguments, everywhere. */
static void test_checked(void **state)
{
    static const int calls[] = {SCMP_SYS(mmap), SCMP_SYS(mprotect), SCMP_SYS(ioctl),
                                SCMP_SYS(tgkill)};
    for (unsigned role = 0; role < JAIL_ROLES; role++) {
        for (unsigned i = 0; i < array_size(calls); i++) {
            struct question question = ask(role, true, calls[i]);
            assert_true(question.found > 0);
            assert_false(question.is_open);
        }
    }
}

#if !DOPPEL_SANITIZED
/* Files belong to the event loop, new ones only where they were asked for. */
static void test_files(void **state)
{
    static const int calls[] = {SCMP_SYS(openat), SCMP_SYS(unlinkat), SCMP_SYS(mkdirat),
                                SCMP_SYS(renameat), SCMP_SYS(accept4)};
    for (unsigned role = 0; role < JAIL_ROLES; role++) {
        for (unsigned i = 0; role != JAIL_LOOP && i < array_size(calls); i++) {
            assert_int_equal(ask(role, true, calls[i]).found, 0);
        }
    }
    assert_false(ask(JAIL_LOOP, false, SCMP_SYS(openat)).is_open);
    assert_int_equal(ask(JAIL_LOOP, false, SCMP_SYS(mkdirat)).found, 0);
    assert_int_equal(ask(JAIL_LOOP, false, SCMP_SYS(renameat)).found, 0);
    assert_true(ask(JAIL_LOOP, true, SCMP_SYS(renameat)).is_open);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_never),
        cmocka_unit_test(test_checked),
#if !DOPPEL_SANITIZED
        cmocka_unit_test(test_files),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
