/* What this host would give, found out without a change to the calling process. */

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "jail/files.h"
#include "jail/filter.h"
#include "jail/jail.h"
#include "jail/namespace.h"

static int probe(enum jail_mechanism mechanism)
{
    bool is_root = geteuid() == 0;
    switch (mechanism) {
    case JAIL_NO_NEW_PRIVILEGES:
        return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) < 0 ? -errno : 0;
    case JAIL_USER_NAMESPACE:
        return is_root ? 1 : namespace_try(true, 0);
    case JAIL_NETWORK_NAMESPACE:
        return namespace_try(!is_root, CLONE_NEWNET);
    case JAIL_IPC_NAMESPACE:
        return namespace_try(!is_root, CLONE_NEWIPC);
    case JAIL_LANDLOCK:
        return files_version() ? 0 : -EOPNOTSUPP;
    case JAIL_SECCOMP:
        return filter_probe();
    default:
        return 0; /* giving up capabilities is always allowed */
    }
}

struct jail_finding jail_probe(enum jail_mechanism mechanism)
{
    struct jail_finding finding = {.state = JAIL_ON};
    int result = probe(mechanism);
    if (result < 0) {
        finding.state = JAIL_REFUSED;
        snprintf(finding.note, sizeof(finding.note), "%s", strerror(-result));
    } else if (result > 0) {
        finding.state = JAIL_OFF;
        snprintf(finding.note, sizeof(finding.note), "not needed by root");
    } else if (mechanism == JAIL_LANDLOCK) {
        snprintf(finding.note, sizeof(finding.note), "version %d", files_version());
    }
    return finding;
}
