#pragma once
/*
 * What a PC's firmware leaves behind for code in real mode, where a kernel is started
 * without any: interrupt vectors with handlers, the BIOS data area, the interrupt
 * controllers at their vectors, reached through the bootstrap processor's APIC, and the
 * timer ticking 18.2 times a second. No services: software interrupts return at once.
 */

#include "dispatcher/vm.h"

/* Memory by the VM's RAM, devices by their ports. Before the first vCPU runs. */
int bios_leave(struct vm *vm, struct error *err);
