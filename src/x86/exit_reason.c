#include "x86/exit_reason.h"

#include <assert.h>
#include <stddef.h>

static const struct {
    const char *name, *title;
} reasons[] = {
    [EXIT_IO] = {"io", "port I/O"},
    [EXIT_MMIO] = {"mmio", "MMIO, EPT violation"},
    [EXIT_IPI] = {"ipi", "APIC: message sent"},
    [EXIT_EOI] = {"eoi", "APIC: end of interrupt"},
    [EXIT_INTACK] = {"intack", "8259 acknowledge"},
    [EXIT_TIMER] = {"timer", "APIC timer set"},
    [EXIT_MSR_READ] = {"msr_read", "RDMSR of an unknown register"},
    [EXIT_MSR_WRITE] = {"msr_write", "WRMSR of an unknown register"},
    [EXIT_TSC] = {"tsc", "TSC moved"},
    [EXIT_HYPERCALL] = {"hypercall", "hypercall"},
    [EXIT_EXCEPTION] = {"exception", "exception"},
    [EXIT_INTERRUPT] = {"interrupt", "external interrupt"},
    [EXIT_INTERRUPT_WINDOW] = {"interrupt_window", "interrupt window"},
    [EXIT_KICK] = {"kick", "kick"},
    [EXIT_HLT] = {"hlt", "HLT"},
    [EXIT_CPUID] = {"cpuid", "CPUID"},
    [EXIT_RDTSC] = {"rdtsc", "RDTSC"},
    [EXIT_CR] = {"cr", "MOV CR"},
    [EXIT_DR] = {"dr", "MOV DR"},
    [EXIT_RDMSR] = {"rdmsr", "RDMSR"},
    [EXIT_WRMSR] = {"wrmsr", "WRMSR"},
    [EXIT_PAUSE] = {"pause", "PAUSE"},
    [EXIT_INVLPG] = {"invlpg", "INVLPG"},
    [EXIT_EMULATED] = {"emulated", "emulated instruction"},
    [EXIT_TRIPLE_FAULT] = {"triple_fault", "triple fault"},
};

/* A reason added at the end without a name does not compile; one in the middle fails the
 * unit test. */
static_assert(sizeof(reasons) / sizeof(reasons[0]) == EXIT_REASON_COUNT,
              "every exit reason has a name");

const char *exit_reason_name(enum exit_reason reason)
{
    assert(reason < EXIT_REASON_COUNT);
    return reasons[reason].name;
}

const char *exit_reason_title(enum exit_reason reason)
{
    assert(reason < EXIT_REASON_COUNT);
    return reasons[reason].title;
}
