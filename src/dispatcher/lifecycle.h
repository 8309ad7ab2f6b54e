#pragma once
/* The life cycle of a VM as its own vCPU threads and its destructor see it; what others
 * may do is in vm.h. */

#include "dispatcher/vcpu.h"

/* On the vCPU's thread, before each run(): waits while the VM is paused or reset. False:
 * the VM has stopped, end the thread. */
bool vm_gate_pass(struct vcpu *vcpu);
/* The vCPU's engine reported a triple fault: a reset, or the end of the VM. */
void vm_report_shutdown(struct vcpu *vcpu);
/* The vCPU's engine stopped for the debugger: it is held, and the debugger told. */
void vm_report_debug(struct vcpu *vcpu);
/* The vCPU's engine cannot go on: its registers are logged, and the VM ends. */
void vm_report_failure(struct vcpu *vcpu);
/* Carries out what was requested, in the event loop's thread. */
void vm_serve_requests(struct vm *vm);
/* Ends the VM, whatever it is doing; its threads are joined when this returns. Not from a
 * vCPU's thread. */
void vm_stop(struct vm *vm);
