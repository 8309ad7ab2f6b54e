#pragma once
/* What storm.c and its random code (storm_code.c) share. */
#include "guest.h"

#define AREA         0xa0000000ull /* below 4 GiB: 32-bit code reaches it */
#define PADS         6             /* pieces of code, each of which leads to later ones */
#define PAD_SIZE     0x180u
#define DATA_PAGE    4u
#define PAGES        14u
#define SLOTS        64u /* of the GDT */
#define FIRST_RANDOM 16u
#define LDT_SLOT     56u

extern uint64_t storm_table[SLOTS]; /* the GDT that cases may load */
/* What control registers go back to before each case. */
extern struct storm_base {
    uint64_t cr0, cr3, cr4, efer;
} storm_base;

/* Random numbers: the same for the same seed. */
extern uint64_t storm_seed;
uint64_t storm_next(void);
uint64_t storm_pick(uint64_t count); /* below count */
#define PICK(array) ((array)[storm_pick(COUNT_OF(array))])
/* One that an instruction may take for something: an address, a selector, flags ... */
uint64_t storm_value(void);

/* Where a piece of the case's code begins. */
uint64_t storm_pad_address(unsigned which, bool is_user);
/* Writes a case's code to its two pages, at code. */
void storm_make_code(uint8_t *code);
