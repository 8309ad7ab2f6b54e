/* The measurement: a loop of two instructions in ring 0 and in ring 3. */
#include "engine/kvm/speed.h"

#include <cpuid.h>
#include <stdio.h>

#include "base/clock.h"
#include "engine/kvm/bench.h"
#include "engine/kvm/vcpu.h"

#define FEW_ROUNDS    400u
#define MANY_ROUNDS   400000u
#define MANY_IF_BELOW 100000u /* ns: a loop of few rounds that short tells nothing */

/* The time that a loop takes, or 0 if it did not come to its end. */
static uint64_t time_loop(struct kvm_bench *bench, unsigned ring, uint32_t rounds)
{
    if (!kvm_bench_start(bench, ring, rounds)) {
        return 0;
    }
    uint64_t start = clock_host_ns();
    int result = kvm_ioctl(bench->vcpu, KVM_RUN, 0);
    uint64_t end = clock_host_ns();
    bool has_ended = result >= 0 && bench->run->exit_reason == KVM_EXIT_IO;
    return has_ended ? (end > start ? end - start : 1) : 0;
}

static double measure_ring(struct kvm_bench *bench, unsigned ring)
{
    uint32_t rounds = FEW_ROUNDS;
    /* The first entry builds what the host needs for it. */
    uint64_t ns = time_loop(bench, ring, 1) ? time_loop(bench, ring, rounds) : 0;
    if (ns && ns < MANY_IF_BELOW) {
        uint64_t few = ns;
        rounds = MANY_ROUNDS - FEW_ROUNDS;
        ns = time_loop(bench, ring, MANY_ROUNDS);
        ns = ns > few ? ns - few : ns;
    }
    return ns ? 2.0 * rounds * 1000 / (double)ns : 0;
}

static bool is_host_virtual(void)
{
    unsigned eax, ebx, ecx = 0, edx;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && ecx >> 31;
}

int kvm_speed_measure(struct kvm_speed *speed, struct error *err)
{
    /* loop: dec ecx; jnz loop; out 0x80, al; jmp $ */
    static const uint8_t code[] = {0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x80, 0xeb, 0xfe};
    struct kvm_bench bench;
    *speed = (struct kvm_speed){.is_nested = is_host_virtual()};
    int result = kvm_bench_open(&bench, err);
    if (result >= 0) {
        kvm_bench_put(&bench, code, sizeof(code));
        speed->ring0_mips = measure_ring(&bench, 0);
        speed->ring3_mips = measure_ring(&bench, 3);
    }
    kvm_bench_close(&bench);
    return result;
}

void kvm_speed_describe(const struct kvm_speed *speed, char *text, size_t size)
{
    if (speed->ring0_mips == 0) {
        snprintf(text, size, "does not finish a short loop in ring 0 within %u ms",
                 KVM_BENCH_LIMIT_NS / 1000000);
        return;
    }
    snprintf(text, size,
             "%s ring 0 at %.*f million instructions a second, executes ring 3 at %.0f",
             kvm_speed_is_interpreting(speed) ? "interprets" : "executes",
             speed->ring0_mips < 10 ? 1 : 0, speed->ring0_mips, speed->ring3_mips);
}
