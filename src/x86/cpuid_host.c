#include "x86/cpuid_host.h"

#include <cpuid.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "base/clock.h"
#include "base/scope.h"
#include "x86/cpuid.h"

/* So many leaves are remembered; those that are asked for are fewer. */
#define KNOWN_MAX 64

/* Where the host is a virtual machine itself CPUID leaves it, and takes microseconds; of
 * the same leaf much is asked. */
static void read_processor(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf,
                           uint32_t out[4])
{
    static _Thread_local struct {
        uint32_t leaf, subleaf, out[4];
    } known[KNOWN_MAX];
    static _Thread_local unsigned count;
    for (unsigned i = 0; i < count; i++) {
        if (known[i].leaf == leaf && known[i].subleaf == subleaf) {
            memcpy(out, known[i].out, sizeof(known[i].out));
            return;
        }
    }
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
    if (count < KNOWN_MAX) {
        known[count].leaf = leaf;
        known[count].subleaf = subleaf;
        memcpy(known[count].out, out, sizeof(known[count].out));
        count++;
    }
}

static uint64_t read_xcr0(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

/* What the host's kernel says it is not affected by, and the bits that tell a guest so
 * (SDM 4, table 2-2, IA32_ARCH_CAPABILITIES). */
static const struct {
    const char *name;
    uint64_t bits;
} immunities[] = {
    {"meltdown", 1ull << 0},
    {"l1tf", 1ull << 3},
    {"spec_store_bypass", 1ull << 4},
    {"mds", 1ull << 5},
    {"itlb_multihit", 1ull << 6},
    {"tsx_async_abort", 1ull << 8},
    {"mmio_stale_data", 7ull << 13},
    {"gather_data_sampling", 1ull << 26},
    {"reg_file_data_sampling", 1ull << 27},
};

static bool is_immune(const char *name)
{
    static const char unaffected[] = "Not affected";
    char path[128], text[sizeof(unaffected)] = "";
    snprintf(path, sizeof(path), "/sys/devices/system/cpu/vulnerabilities/%s", name);
    FILE *file = fopen(path, "re");
    if (!file) {
        return false;
    }
    size_t length = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    return length == sizeof(text) - 1 && memcmp(text, unaffected, length) == 0;
}

static uint64_t read_immunities(void)
{
    uint64_t bits = 0;
    for (unsigned i = 0; i < array_size(immunities); i++) {
        bits |= is_immune(immunities[i].name) ? immunities[i].bits : 0;
    }
    return bits;
}

void cpuid_host_init(struct cpuid_host *host)
{
    uint32_t out[4];
    host->read = read_processor;
    host->immunities = read_immunities();
    read_processor(host, 1, 0, out);
    host->xcr0 = out[2] & bit_OSXSAVE ? read_xcr0() : 0;
}

void cpuid_host_read(const struct cpuid_host *host, uint32_t leaf, uint32_t subleaf,
                     uint32_t out[4])
{
    /* The first leaf of each range tells its last. Beyond it Intel repeats another. */
    host->read(host, leaf & 0xffff0000u, 0, out);
    if (leaf > out[0]) {
        memset(out, 0, 4 * sizeof(out[0]));
        return;
    }
    host->read(host, leaf, subleaf, out);
}

/* The rate as a hypervisor below us tells it (its leaf 0x40000010), or 0. */
static uint32_t khz_from_hypervisor(const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 1, 0, out);
    if (!(out[2] >> 31)) {
        return 0;
    }
    cpuid_host_read(host, 0x40000010, 0, out);
    return out[0];
}

/* SDM 3B 18.7.3: crystal clock times ratio. Without the crystal's rate it says too
 * little; leaf 0x16 knows only full megahertz, which a measurement betters. */
static uint32_t khz_from_crystal(const struct cpuid_host *host)
{
    uint32_t out[4];
    cpuid_host_read(host, 0x15, 0, out);
    if (out[0] == 0 || out[1] == 0 || out[2] == 0) {
        return 0;
    }
    return (uint32_t)(scale_u64(out[2], out[1], out[0]) / 1000);
}

struct instant {
    uint64_t tsc, ns;
};

/* Both clocks at one moment: of several attempts the one that took the least time, so
 * that an interruption between the two does not count. */
static struct instant sample(void)
{
    struct instant best = {0};
    uint64_t best_cycles = UINT64_MAX;
    for (int i = 0; i < 8; i++) {
        uint64_t before = __rdtsc();
        uint64_t ns = clock_host_ns();
        uint64_t cycles = __rdtsc() - before;
        if (cycles < best_cycles) {
            best_cycles = cycles;
            best = (struct instant){.tsc = before + cycles / 2, .ns = ns};
        }
    }
    return best;
}

/* Half a millisecond tells the rate within some 100 ppm: nothing is timed by it, since
 * the software engines make the guest's TSC from its clock, and KVM knows the rate
 * itself. */
static uint32_t khz_measured(void)
{
    const struct timespec wait = {.tv_nsec = 500000};
    struct instant first = sample();
    nanosleep(&wait, NULL);
    struct instant last = sample();
    return (uint32_t)scale_u64(last.tsc - first.tsc, 1000000, last.ns - first.ns);
}

static bool is_sane(uint32_t khz)
{
    return khz >= 100000 && khz <= 10000000;
}

uint32_t cpuid_host_tsc_khz(void)
{
    static _Atomic uint32_t cached;
    uint32_t khz = cached;
    if (khz == 0) {
        struct cpuid_host host;
        cpuid_host_init(&host);
        khz = khz_from_hypervisor(&host);
        if (!is_sane(khz)) {
            khz = khz_from_crystal(&host);
        }
        if (!is_sane(khz)) {
            khz = khz_measured();
        }
        cached = khz;
    }
    return khz;
}
