#include "tool/check.h"

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/membarrier.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/scope.h"
#include "base/size.h"
#include "engine/kvm/kvm.h"
#include "engine/kvm/speed.h"
#include "jail/jail.h"

__attribute__((format(printf, 3, 4))) static void
found(struct finding *finding, enum check_state state, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    finding->state = state;
    vsnprintf(finding->value, sizeof(finding->value), format, args);
    va_end(args);
}

__attribute__((format(printf, 2, 3))) static void remedy(struct finding *finding,
                                                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(finding->remedy, sizeof(finding->remedy), format, args);
    va_end(args);
}

/* The first line of a small file of /proc or /sys; false if it cannot be read. */
static bool read_line(const char *path, char *text, size_t size)
{
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, size - 1);
    if (length < 0) {
        return false;
    }
    text[length] = '\0';
    text[strcspn(text, "\n")] = '\0';
    return true;
}

static bool read_number(const char *path, uint64_t *value)
{
    char text[64];
    bool is_read = read_line(path, text, sizeof(text));
    *value = is_read ? strtoull(text, NULL, 10) : 0;
    return is_read;
}

/* A container may be without it. */
static void cannot_tell(struct finding *finding)
{
    found(finding, CHECK_WARNING, "cannot be told: there is no /proc");
    remedy(finding, "mount -t proc proc /proc");
}

/* The value of "Key:   N kB" in /proc/meminfo, in bytes; 0 if it is not told. */
static uint64_t meminfo(const char *key)
{
    uint64_t kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && fgets(line, sizeof(line), file)) {
        size_t length = strlen(key);
        if (strncmp(line, key, length) == 0 && line[length] == ':') {
            kib = strtoull(line + length + 1, NULL, 10);
            break;
        }
    }
    if (file) {
        fclose(file);
    }
    return kib << 10;
}

/* The psABI's micro-architecture levels (x86-64 psABI 3.1.1). */
static unsigned x86_64_level(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt") ||
        !__builtin_cpu_supports("ssse3")) {
        return 1;
    }
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("bmi") ||
        !__builtin_cpu_supports("bmi2") || !__builtin_cpu_supports("fma")) {
        return 2;
    }
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512cd") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl")) {
        return 3;
    }
    return 4;
}

static void probe_processor(struct finding *finding)
{
    unsigned brand[12] = {0}, eax = 0, ebx, ecx, edx;
    __get_cpuid(0x80000000, &eax, &ebx, &ecx, &edx);
    for (unsigned i = 0; eax >= 0x80000004 && i < 3; i++) {
        __get_cpuid(0x80000002 + i, &brand[4 * i], &brand[4 * i + 1], &brand[4 * i + 2],
                    &brand[4 * i + 3]);
    }
    char name[sizeof(brand) + 1] = {0};
    memcpy(name, brand, sizeof(brand));
    unsigned level = x86_64_level();
    found(finding, level >= 3 ? CHECK_OK : CHECK_WARNING, "%s, x86-64-v%u",
          name[0] ? name + strspn(name, " ") : "x86-64 without a name", level);
    if (level < 3) {
        remedy(finding, "guests see fewer instruction sets; software built for x86-64-v3 "
                        "will not run in them here");
    }
}

static void probe_processors(struct finding *finding)
{
    found(finding, CHECK_OK, "%ld on line", sysconf(_SC_NPROCESSORS_ONLN));
}

/* What is in the way of /dev/kvm, and what to do about it. */
static bool find_kvm(struct finding *finding)
{
    if (access("/dev/kvm", F_OK) < 0) {
        found(finding, CHECK_OK, "absent");
        remedy(finding, "for speed: enable virtualization in the firmware (or nested "
                        "virtualization in the outer hypervisor), modprobe kvm_intel or "
                        "kvm_amd");
        return false;
    }
    if (access("/dev/kvm", R_OK | W_OK) < 0) {
        found(finding, CHECK_WARNING, "present, no permission");
        remedy(finding, "usermod -aG kvm USER and log in again; in a container: pass the "
                        "device in");
        return false;
    }
    return true;
}

static void probe_kvm(struct finding *finding)
{
    struct kvm_speed speed;
    struct error err;
    char text[120];
    if (!find_kvm(finding)) {
        return;
    }
    if (engine_kvm.probe(&err) < 0 || kvm_speed_find(&speed, &err) < 0) {
        found(finding, CHECK_WARNING, "unusable");
        remedy(finding, "%.190s", err.message);
        return;
    }
    kvm_speed_describe(&speed, text, sizeof(text));
    bool is_interpreting = kvm_speed_is_interpreting(&speed);
    found(finding, is_interpreting ? CHECK_WARNING : CHECK_OK, "%s%s", text,
          speed.is_nested ? "; nested" : "");
    if (is_interpreting) {
        remedy(finding, "kernels run faster under Doppel's own engines here; hardware "
                        "virtualization needs another host or a setting of the outer "
                        "hypervisor");
    } else if (speed.is_nested) {
        remedy(finding, "exits pass through the outer hypervisor and are slow; a host "
                        "that is not itself a guest is faster");
    }
}

/* Compared with the CPU model that guests get by default. */
static void probe_kvm_features(struct finding *finding)
{
    struct cpuid_policy policy;
    struct error err;
    const struct cpuid_config config = {.cpus = 1};
    char names[120];
    if (engine_kvm.probe(&err) < 0 || cpuid_policy_init(&policy, &config, &err) < 0) {
        found(finding, CHECK_OK, "not looked at: KVM cannot be used");
        return;
    }
    const struct engine_config use = {.cpuid = &policy};
    unsigned count = kvm_cpuid_missing(&use, names, sizeof(names));
    bool is_cut = strlen(names) == sizeof(names) - 1;
    found(finding, CHECK_OK, "%s%s", count ? names : "nothing", is_cut ? "..." : "");
    if (count) {
        remedy(finding,
               "guests of the engine kvm do not see these %u features of the processor, "
               "which the other engines offer",
               count);
    }
}

static void probe_kvm_excess(struct finding *finding)
{
    struct cpuid_policy policy;
    struct error err;
    const struct cpuid_config config = {.cpus = 1};
    char names[120];
    if (engine_kvm.probe(&err) < 0 || cpuid_policy_init(&policy, &config, &err) < 0) {
        found(finding, CHECK_OK, "not looked at: KVM cannot be used");
        return;
    }
    unsigned count = kvm_cpuid_excess(&policy, names, sizeof(names));
    found(finding, count ? CHECK_WARNING : CHECK_OK, "%s", count ? names : "nothing");
    if (count) {
        remedy(finding,
               "guests that use them under the engine kvm cannot be saved, and a "
               "--cpu of less is not kept to; other engines keep to the model");
    }
}

static void probe_memfd(struct finding *finding)
{
    SCOPE_FD int fd = memfd_create("doppel-doctor", MFD_CLOEXEC);
    if (fd >= 0 && ftruncate(fd, 4096) == 0) {
        found(finding, CHECK_OK, "works");
        return;
    }
    found(finding, CHECK_MISSING, "refused: %s", strerror(errno));
    remedy(finding, "allow memfd_create in the sandbox, container or seccomp profile");
}

static void probe_membarrier(struct finding *finding)
{
    long commands = syscall(SYS_membarrier, MEMBARRIER_CMD_QUERY, 0, 0);
    if (commands >= 0 && (commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED)) {
        found(finding, CHECK_OK, "works");
        return;
    }
    found(finding, CHECK_WARNING, "absent");
    remedy(finding, "allow membarrier; a slower way replaces it");
}

static void probe_userfaultfd(struct finding *finding)
{
    SCOPE_FD int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd >= 0) {
        found(finding, CHECK_OK, "works");
        return;
    }
    found(finding, CHECK_WARNING, "refused: %s", strerror(errno));
    remedy(finding,
           "in a container allow userfaultfd(2); until then a restored machine's "
           "memory is read before it starts");
}

static void probe_io_uring(struct finding *finding)
{
    /* An impossible argument: EINVAL says that the call is there. */
    long result = syscall(SYS_io_uring_setup, 0, NULL);
    if (result < 0 && (errno == EINVAL || errno == EFAULT)) {
        found(finding, CHECK_OK, "works");
        return;
    }
    found(finding, CHECK_WARNING, "refused: %s", strerror(errno));
    remedy(finding, "nothing in this version needs it; sysctl kernel.io_uring_disabled");
}

/* What the jail would get here (docs/jail.md). */
static void probe_jail(struct finding *finding, enum jail_mechanism mechanism,
                       const char *what_to_do)
{
    struct jail_finding jail = jail_probe(mechanism);
    if (jail.state == JAIL_REFUSED) {
        found(finding, CHECK_WARNING, "refused: %s", jail.note);
        remedy(finding, "%s", what_to_do);
    } else {
        found(finding, CHECK_OK, "%s", *jail.note ? jail.note : "works");
    }
}

static void probe_no_new_privileges(struct finding *finding)
{
    probe_jail(finding, JAIL_NO_NEW_PRIVILEGES, "use a kernel of version 3.5 or later");
}

static void probe_seccomp(struct finding *finding)
{
    probe_jail(
        finding, JAIL_SECCOMP,
        "use a kernel with CONFIG_SECCOMP_FILTER, in a container allow seccomp(2); "
        "until then a machine's threads can make every system call");
}

static void probe_landlock(struct finding *finding)
{
    probe_jail(finding, JAIL_LANDLOCK,
               "add landlock to the kernel's lsm= list, in a container allow its calls; "
               "until then a machine can read what its user can");
}

static void probe_user_namespaces(struct finding *finding)
{
    probe_jail(finding, JAIL_USER_NAMESPACE,
               "sysctl user.max_user_namespaces=10000 kernel.unprivileged_userns_clone=1 "
               "kernel.apparmor_restrict_unprivileged_userns=0 (those there are)");
}

static void probe_other_namespaces(struct finding *finding)
{
    probe_jail(finding, JAIL_NETWORK_NAMESPACE,
               "allow user namespaces; until then only filters keep a machine from the "
               "host's network");
}

static void probe_tun(struct finding *finding)
{
    SCOPE_FD int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        found(finding, CHECK_OK, "works");
        return;
    }
    found(finding, CHECK_WARNING, "%s", strerror(errno));
    remedy(finding, "nothing in this version needs it; modprobe tun provides it");
}

static void probe_huge_pages(struct finding *finding)
{
    char transparent[64] = "absent", shared[96] = "absent";
    read_line("/sys/kernel/mm/transparent_hugepage/enabled", transparent,
              sizeof(transparent));
    read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shared,
              sizeof(shared));
    bool is_offered = strstr(shared, "[advise]") || strstr(shared, "[always]") ||
                      strstr(shared, "[within_size]");
    found(finding, is_offered ? CHECK_OK : CHECK_WARNING, "shared memory: %s", shared);
    if (!is_offered) {
        remedy(finding, "for speed: echo advise > "
                        "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    }
}

static void probe_overcommit(struct finding *finding)
{
    static const char *const modes[] = {"heuristic", "always", "strict"};
    uint64_t mode;
    if (!read_number("/proc/sys/vm/overcommit_memory", &mode)) {
        cannot_tell(finding);
        return;
    }
    found(finding, mode == 2 ? CHECK_WARNING : CHECK_OK, "%s",
          mode < array_size(modes) ? modes[mode] : "unknown");
    if (mode == 2) {
        remedy(finding, "guest memory counts in full when a VM starts; sysctl "
                        "vm.overcommit_memory=0 counts what is touched");
    }
}

static void probe_map_count(struct finding *finding)
{
    uint64_t count;
    if (!read_number("/proc/sys/vm/max_map_count", &count)) {
        cannot_tell(finding);
        return;
    }
    found(finding, count >= 65530 ? CHECK_OK : CHECK_WARNING, "%" PRIu64, count);
    if (count < 65530) {
        remedy(finding, "sysctl vm.max_map_count=65530");
    }
}

static void probe_limit(struct finding *finding, int resource, const char *flag,
                        uint64_t wanted, bool is_size)
{
    struct rlimit limit;
    char text[SIZE_TEXT];
    getrlimit((__rlimit_resource_t)resource, &limit);
    if (limit.rlim_cur == RLIM_INFINITY) {
        found(finding, CHECK_OK, "unlimited");
        return;
    }
    if (is_size) {
        size_format(limit.rlim_cur, text);
    } else {
        snprintf(text, sizeof(text), "%" PRIu64, (uint64_t)limit.rlim_cur);
    }
    found(finding, limit.rlim_cur >= wanted ? CHECK_OK : CHECK_WARNING, "%s", text);
    if (limit.rlim_cur < wanted) {
        remedy(finding, "raise it: %s", flag);
    }
}

static void probe_nofile(struct finding *finding)
{
    probe_limit(finding, RLIMIT_NOFILE, "ulimit -n 1024", 256, false);
}

static void probe_memlock(struct finding *finding)
{
    probe_limit(finding, RLIMIT_MEMLOCK, "ulimit -l", 64 << 10, true);
}

static void probe_address_space(struct finding *finding)
{
    probe_limit(finding, RLIMIT_AS, "ulimit -v unlimited", 4ull << 30, true);
}

static void probe_memory(struct finding *finding)
{
    uint64_t available = meminfo("MemAvailable"), total = meminfo("MemTotal");
    bool is_enough = available >= 256ull << 20;
    if (total == 0) {
        cannot_tell(finding);
        return;
    }
    found(finding, is_enough ? CHECK_OK : CHECK_WARNING,
          "%" PRIu64 "M available of %" PRIu64 "M", available >> 20, total >> 20);
    if (!is_enough) {
        remedy(finding, "end other programs, or give guests less with --memory");
    }
}

/* The first existing folder on the way to path must be writable. */
static void probe_cache(struct finding *finding)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char path[160];
    if (base && *base == '/') {
        snprintf(path, sizeof(path), "%s/doppel", base);
    } else if (home && *home) {
        snprintf(path, sizeof(path), "%s/.cache/doppel", home);
    } else {
        found(finding, CHECK_WARNING, "HOME is not set");
        remedy(finding, "set HOME or XDG_CACHE_HOME; kernels are unpacked at each start");
        return;
    }
    char part[sizeof(path)];
    snprintf(part, sizeof(part), "%s", path);
    while (access(part, F_OK) < 0 && strrchr(part, '/') > part) {
        *strrchr(part, '/') = '\0';
    }
    bool is_writable = access(part, W_OK | X_OK) == 0;
    found(finding, is_writable ? CHECK_OK : CHECK_WARNING, "%s", path);
    if (!is_writable) {
        remedy(finding, "make it writable or set XDG_CACHE_HOME; until then kernels are "
                        "unpacked at each start");
    }
}

const struct check check_table[] = {
    {"processor", "executes the guest's vector instructions", true, probe_processor},
    {"processors", "virtual processors beyond this number share them", true,
     probe_processors},
    {"/dev/kvm", "hardware virtualization", false, probe_kvm},
    {"kvm lacks", "features of the processor model that KVM cannot give", false,
     probe_kvm_features},
    {"kvm adds", "features that KVM shows guests whatever their model", false,
     probe_kvm_excess},
    {"memfd", "holds guest memory", true, probe_memfd},
    {"membarrier", "makes waking a virtual processor cheap", false, probe_membarrier},
    {"userfaultfd", "brings in a restored machine's memory as it is touched", false,
     probe_userfaultfd},
    {"io_uring", "will serve disks", false, probe_io_uring},
    {"no_new_privs", "keeps machines from gaining rights", false,
     probe_no_new_privileges},
    {"seccomp", "confines a machine's threads to the system calls they need", false,
     probe_seccomp},
    {"landlock", "confines a machine to the files it needs", false, probe_landlock},
    {"user namespaces", "confine machines without root", false, probe_user_namespaces},
    {"net namespaces", "take the host's network from machines", false,
     probe_other_namespaces},
    {"tun", "will connect guests to host networks", false, probe_tun},
    {"huge pages", "make guest memory faster", false, probe_huge_pages},
    {"overcommit", "lets untouched guest memory cost nothing", false, probe_overcommit},
    {"max_map_count", "limits the mappings of a process", false, probe_map_count},
    {"open files", "ulimit -n", false, probe_nofile},
    {"locked memory", "ulimit -l", false, probe_memlock},
    {"address space", "ulimit -v; guest memory needs room in it", false,
     probe_address_space},
    {"memory", "for guests", false, probe_memory},
    {"cache", "keeps unpacked kernels", false, probe_cache},
    {NULL},
};

const char *check_state_name(enum check_state state)
{
    static const char *const names[] = {"ok", "warning", "missing"};
    return names[state];
}
