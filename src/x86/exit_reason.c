#include "x86/exit_reason.h"

#include <assert.h>
#include <stddef.h>

static const char *const names[] = {
    [EXIT_IO] = "io",
    [EXIT_MMIO] = "mmio",
    [EXIT_IPI] = "ipi",
    [EXIT_EOI] = "eoi",
    [EXIT_INTACK] = "intack",
    [EXIT_TIMER] = "timer",
    [EXIT_MSR_READ] = "msr_read",
    [EXIT_MSR_WRITE] = "msr_write",
    [EXIT_TSC] = "tsc",
    [EXIT_HYPERCALL] = "hypercall",
    [EXIT_EXCEPTION] = "exception",
    [EXIT_INTERRUPT] = "interrupt",
    [EXIT_INTERRUPT_WINDOW] = "interrupt_window",
    [EXIT_KICK] = "kick",
    [EXIT_HLT] = "hlt",
    [EXIT_CPUID] = "cpuid",
    [EXIT_RDTSC] = "rdtsc",
    [EXIT_CR] = "cr",
    [EXIT_DR] = "dr",
    [EXIT_RDMSR] = "rdmsr",
    [EXIT_WRMSR] = "wrmsr",
    [EXIT_PAUSE] = "pause",
    [EXIT_INVLPG] = "invlpg",
    [EXIT_TRIPLE_FAULT] = "triple_fault",
};

/* A reason added at the end without a name does not compile; one in the middle fails the
 * unit test. */
static_assert(sizeof(names) / sizeof(names[0]) == EXIT_REASON_COUNT,
              "every exit reason has a name");

const char *exit_reason_name(enum exit_reason reason)
{
    assert(reason < EXIT_REASON_COUNT);
    return names[reason];
}
