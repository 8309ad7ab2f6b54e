/* The measurement of this boot of the host, in a file of one line. */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"
#include "engine/kvm/host.h"
#include "engine/kvm/speed.h"

#define FORMAT_VERSION 1
#define PATH_SIZE      512
#define LINE_SIZE      160

/* What a measurement is valid for: the boot, and the device as its module made it. */
struct identity {
    char boot[40];
    int64_t device_time;
};

static bool identity_find(struct identity *identity)
{
    struct stat status;
    SCOPE_FD int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, identity->boot, sizeof(identity->boot) - 1);
    if (length <= 0 || stat(KVM_DEVICE, &status) < 0) {
        return false;
    }
    identity->boot[length] = '\0';
    identity->boot[strcspn(identity->boot, "\n")] = '\0';
    identity->device_time = (int64_t)status.st_ctim.tv_sec;
    return true;
}

/* The folder: the runtime directory if the user has one, else the cache. */
static bool folder_find(char path[PATH_SIZE])
{
    static const struct {
        const char *variable, *below;
    } places[] = {{"XDG_RUNTIME_DIR", ""}, {"XDG_CACHE_HOME", ""}, {"HOME", "/.cache"}};
    for (unsigned i = 0; i < array_size(places); i++) {
        const char *base = getenv(places[i].variable);
        if (base && *base == '/' && access(base, W_OK | X_OK) == 0) {
            int length = snprintf(path, PATH_SIZE, "%s%s", base, places[i].below);
            if (length < PATH_SIZE - 32) {
                mkdir(path, 0700);
                snprintf(path + length, PATH_SIZE - (size_t)length, "/doppel");
                return true;
            }
        }
    }
    return false;
}

static bool cache_read(const char *folder, const struct identity *identity,
                       struct kvm_speed *speed)
{
    char path[PATH_SIZE + 32], line[LINE_SIZE], boot[40];
    int version, is_nested;
    int64_t device_time;
    snprintf(path, sizeof(path), "%s/kvm-speed", folder);
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t length = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (length <= 0) {
        return false;
    }
    line[length] = '\0';
    if (sscanf(line, "%d %39s %" SCNd64 " %lf %lf %d", &version, boot, &device_time,
               &speed->ring0_mips, &speed->ring3_mips, &is_nested) != 6) {
        return false;
    }
    speed->is_nested = is_nested;
    return version == FORMAT_VERSION && device_time == identity->device_time &&
           strcmp(boot, identity->boot) == 0;
}

/* Whoever cannot write measures again next time. */
static void cache_write(const char *folder, const struct identity *identity,
                        const struct kvm_speed *speed)
{
    char path[PATH_SIZE + 32], temporary[PATH_SIZE + 32], line[LINE_SIZE];
    mkdir(folder, 0700);
    snprintf(path, sizeof(path), "%s/kvm-speed", folder);
    snprintf(temporary, sizeof(temporary), "%s/kvm-speed.XXXXXX", folder);
    SCOPE_FD int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        return;
    }
    int length = snprintf(line, sizeof(line), "%d %s %" PRId64 " %.3f %.3f %d\n",
                          FORMAT_VERSION, identity->boot, identity->device_time,
                          speed->ring0_mips, speed->ring3_mips, speed->is_nested);
    if (write(fd, line, (size_t)length) != length || rename(temporary, path) < 0) {
        unlink(temporary);
    }
}

int kvm_speed_find(struct kvm_speed *speed, struct error *err)
{
    struct identity identity = {0};
    char folder[PATH_SIZE];
    bool has_cache = identity_find(&identity) && folder_find(folder);
    if (has_cache && access(KVM_DEVICE, R_OK | W_OK) == 0 &&
        cache_read(folder, &identity, speed)) {
        return 0;
    }
    int result = kvm_speed_measure(speed, err);
    if (result >= 0 && has_cache) {
        cache_write(folder, &identity, speed);
    }
    return result;
}
