#pragma once
/* Delivery of exceptions, interrupts and software interrupts through the IDT (SDM 3A
 * chapter 6). */

#include "interpreter/cpu.h"

/*
 * Delivers one event. The saved RIP is cpu->rip (for software events the caller has set
 * it behind the instruction); faults push RFLAGS with RF set. Real mode through the IVT;
 * protected and long mode through gates, stack switch through the TSS and IST. Exceptions
 * during delivery combine to #DF and triple fault (state.activity becomes X86_SHUTDOWN;
 * the registers then show the state before delivery). Afterwards cpu->rip is the
 * handler's first instruction. Syncs nothing: works on the cpu's working form.
 */
void event_deliver(struct cpu *cpu, const struct x86_event *event, gva_t fault_address);

/* cpu->fault as an event, delivered; clears it. */
void event_deliver_fault(struct cpu *cpu);
