#include "jail/files.h"

#include <errno.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/scope.h"

/* Of later versions than the headers' (Linux Documentation/userspace-api/landlock). */
#define FS_REFER          (1ull << 13)
#define FS_TRUNCATE       (1ull << 14)
#define FS_IOCTL_DEV      (1ull << 15)
#define NET_BIND_TCP      (1ull << 0)
#define NET_CONNECT_TCP   (1ull << 1)
#define SCOPE_ABSTRACT    (1ull << 0)
#define SCOPE_SIGNAL      (1ull << 1)
#define VERSION_REFER     2
#define VERSION_TRUNCATE  3
#define VERSION_NET       4
#define VERSION_IOCTL_DEV 5
#define VERSION_SCOPE     6

struct ruleset {
    uint64_t handled_access_fs;
    uint64_t handled_access_net; /* VERSION_NET */
    uint64_t scoped;             /* VERSION_SCOPE */
};

static const uint64_t right_table[] = {
    [JAIL_READ] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    [JAIL_REMOVE] = LANDLOCK_ACCESS_FS_REMOVE_FILE,
    [JAIL_MAKE] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR |
                  LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                  LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                  LANDLOCK_ACCESS_FS_MAKE_REG,
};

int files_version(void)
{
    long version =
        syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return version > 0 ? (int)version : 0;
}

/*
 * Everything the kernel can deny, is. Signals are not scoped: before Linux 6.15 threads
 * of one process with different rules could not have kicked each other, and the filters
 * keep signals within the process anyway.
 */
int files_open(void)
{
    int version = files_version();
    struct ruleset ruleset = {
        .handled_access_fs = LANDLOCK_ACCESS_FS_MAKE_SYM * 2 - 1, /* all of version 1 */
    };
    size_t size = sizeof(ruleset.handled_access_fs);
    if (version >= VERSION_REFER) {
        ruleset.handled_access_fs |= FS_REFER;
    }
    if (version >= VERSION_TRUNCATE) {
        ruleset.handled_access_fs |= FS_TRUNCATE;
    }
    if (version >= VERSION_IOCTL_DEV) {
        ruleset.handled_access_fs |= FS_IOCTL_DEV;
    }
    if (version >= VERSION_NET) {
        ruleset.handled_access_net = NET_BIND_TCP | NET_CONNECT_TCP;
        size = offsetof(struct ruleset, scoped);
    }
    if (version >= VERSION_SCOPE) {
        ruleset.scoped = SCOPE_ABSTRACT;
        size = sizeof(ruleset);
    }
    int fd = (int)syscall(SYS_landlock_create_ruleset, &ruleset, size, 0);
    return fd < 0 ? -errno : fd;
}

int files_allow(int rules, int directory, enum jail_right right)
{
    const struct landlock_path_beneath_attr rule = {
        .allowed_access = right_table[right],
        .parent_fd = directory,
    };
    return syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0
               ? -errno
               : 0;
}

int files_enter(int rules)
{
    return syscall(SYS_landlock_restrict_self, rules, 0) < 0 ? -errno : 0;
}
