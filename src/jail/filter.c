#include "jail/filter.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/scope.h"
#include "jail/policy.h"

static void scope_release(scmp_filter_ctx *context)
{
    if (*context) {
        seccomp_release(*context);
    }
}

/* Rules for what other kernels have and this library does not know are left out. */
static int add_rule(void *opaque, const struct policy_rule *rule)
{
    struct scmp_arg_cmp argument[POLICY_ARGS_MAX + 1];
    unsigned count = rule->checks;
    for (unsigned i = 0; i < count; i++) {
        argument[i] = rule->argument[i];
    }
    if (rule->is_own) {
        argument[count++] = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid());
    }
    uint32_t action =
        rule->answer == POLICY_DENY ? SCMP_ACT_ERRNO(EACCES) : SCMP_ACT_ALLOW;
    int result = seccomp_rule_add_array(*(scmp_filter_ctx *)opaque, action, rule->call,
                                        count, argument);
    return result == -EEXIST ? 0 : result;
}

/* The library writes the program into a file only. */
static int take_program(struct filter *filter, scmp_filter_ctx context)
{
    struct stat status;
    SCOPE_FD int fd = memfd_create("doppel-filter", MFD_CLOEXEC);
    if (fd < 0 || seccomp_export_bpf(context, fd) < 0 || fstat(fd, &status) < 0) {
        return -errno;
    }
    size_t size = (size_t)status.st_size;
    if (size == 0 || size / sizeof(*filter->code) > USHRT_MAX) {
        return -E2BIG;
    }
    SCOPE_FREE struct sock_filter *code = malloc(size);
    if (!code || pread(fd, code, size, 0) != (ssize_t)size) {
        return -ENOMEM;
    }
    filter->length = (unsigned short)(size / sizeof(*code));
    filter->code = steal(code);
    return 0;
}

int filter_make(struct filter *filter, enum jail_role role, bool makes_files,
                struct error *err)
{
    /* Stopped with a signal, whose handler says what was called (violation.c). A process
     * of another architecture's calls is none of ours. */
    __attribute__((cleanup(scope_release))) scmp_filter_ctx context =
        seccomp_init(SCMP_ACT_TRAP);
    int result = context ? 0 : -ENOMEM;
    if (result >= 0) {
        result =
            seccomp_attr_set(context, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    }
    if (result >= 0) {
        /* A binary tree: a processor in KVM passes it at each exit. */
        result = seccomp_attr_set(context, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    }
    if (result >= 0) {
        result = policy_each(role, makes_files, add_rule, &context);
    }
    if (result >= 0) {
        result = take_program(filter, context);
    }
    return result < 0 ? fail(err, -result, "cannot make the filter of system calls") : 0;
}

int filter_load(const struct filter *filter)
{
    struct sock_fprog program = {.len = filter->length, .filter = filter->code};
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) < 0 ? -errno : 0;
}

void filter_fini(struct filter *filter)
{
    free(filter->code);
    *filter = (struct filter){0};
}

int filter_probe(void)
{
    uint32_t action = SECCOMP_RET_TRAP;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) < 0 ? -errno : 0;
}
