/* The other processors: start them, have them run functions. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* Processors that this machine has, by CPUID. */
unsigned smp_count(void);

/* Starts all of them by INIT and start-up messages, each in the given APIC mode. */
void smp_start(bool x2apic);

/* Resets one by INIT and starts it again. */
void smp_restart(unsigned index);

/* Has a processor run function(argument), and does not wait for its end. */
void smp_call(unsigned index, void (*function)(void *), void *argument);
void smp_wait(unsigned index);

/* All processors run function(argument) at about the same time, this one too; waits. */
void smp_call_all(void (*function)(void *), void *argument);

/* All `count` processors wait for one another; `barrier` begins as 0. */
void smp_barrier(volatile uint32_t *barrier, unsigned count);

void ap_main(uint32_t index);
