#pragma once
/*
 * The states in which a boot image gets the bootstrap processor, with the tables in low
 * memory that they need. Interrupts are off, all other registers 0.
 */

#include "allocator/memory.h"
#include "base/error.h"
#include "x86/state.h"

#define ENTRY_CS 0x10 /* Linux's __BOOT_CS, __BOOT_DS */
#define ENTRY_DS 0x18

/* 64-bit mode, the first 4 GiB mapped to themselves; rsi as the protocol wants it. */
int entry_long_mode(struct x86_state *entry, struct memory *memory, gpa_t rip,
                    uint64_t rsi, struct error *err);
/* 32-bit protected mode without paging, flat segments; ebx as the protocol wants it. */
int entry_protected_mode(struct x86_state *entry, struct memory *memory, uint32_t eip,
                         uint32_t ebx, struct error *err);
