#pragma once
/* The names of what takes a processor out of guest code; engines and the dispatcher count
 * by them. */

/* Why a vCPU left guest code, in the field's categories. Those marked * are delivered to
 * vcpu_sink.exit and counted there; EXIT_KICK and EXIT_TRIPLE_FAULT are results of run(),
 * counted by its caller; the others are handled and counted inside the engine. */
enum exit_reason {
    EXIT_IO,   /* * port access */
    EXIT_MMIO, /* * access to guest-physical memory that is not RAM, or a write to ROM */
    EXIT_IPI,  /* * the local APIC sends a message */
    EXIT_EOI,  /* * end of a level-triggered interrupt */
    EXIT_INTACK,    /* * acknowledge cycle to the 8259 */
    EXIT_TIMER,     /* * the local APIC timer's deadline changed */
    EXIT_MSR_READ,  /* * an MSR that neither engine nor APIC knows */
    EXIT_MSR_WRITE, /* * */
    EXIT_TSC,       /* * the guest moved its TSC */
    EXIT_HYPERCALL, /* * VMCALL/VMMCALL */
    EXIT_EXCEPTION,
    EXIT_INTERRUPT, /* an interrupt was delivered to the guest */
    EXIT_INTERRUPT_WINDOW,
    EXIT_KICK, /* left because another thread asked */
    EXIT_HLT,
    EXIT_CPUID,
    EXIT_RDTSC,
    EXIT_CR, /* MOV to or from a control register, CLTS, LMSW */
    EXIT_DR,
    EXIT_RDMSR,
    EXIT_WRMSR,
    EXIT_PAUSE,
    EXIT_INVLPG,
    EXIT_EMULATED, /* an instruction that hardware or KVM left to the interpreter */
    EXIT_TRIPLE_FAULT,
    EXIT_REASON_COUNT,
};

/* "io", "mmio", ...: the names used in --exit-stats and metrics. */
const char *exit_reason_name(enum exit_reason reason);
/* "port I/O", "MMIO, EPT violation": the same for people. */
const char *exit_reason_title(enum exit_reason reason);
