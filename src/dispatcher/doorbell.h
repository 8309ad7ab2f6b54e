#pragma once
/*
 * Doorbells: registers whose store of one value says "look", as a virtio queue's
 * notification does. Where the engine can, such a store rings an eventfd instead of
 * leaving guest code, and the event loop makes the access; elsewhere, and when
 * descriptors are short, it is an access as any other.
 */

#include "x86/state.h"

struct vm;

/* A 4-byte store of value to gpa, within a region of the memory bus. Before the VM
 * starts; of each gpa and value one. */
void vm_add_doorbell(struct vm *vm, gpa_t gpa, uint32_t value);
/* Answers what was rung and not heard yet: before state is saved, in the event loop's
 * thread. */
void vm_hear_doorbells(struct vm *vm);
void vm_close_doorbells(struct vm *vm);
