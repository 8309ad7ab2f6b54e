#pragma once
/*
 * The functions of an ELF file by their addresses, for people who look at addresses: a
 * vmlinux with symbols, or what scripts/kernel-symbols makes of /proc/kallsyms.
 */

#include <stdint.h>

#include "base/error.h"

struct symbols;

/* Fails for what is no 64-bit ELF file, is damaged, or has no symbols. */
struct symbols *symbols_load(const char *path, struct error *err);
/* Accepts NULL. */
void symbols_free(struct symbols *symbols);

/* The function that holds an address, and how far behind its beginning; NULL: none, or
 * symbols is NULL. */
const char *symbols_find(const struct symbols *symbols, uint64_t address,
                         uint64_t *offset);
/* The range [*start, *end) of a function by its name; -1: there is none. */
int symbols_range(const struct symbols *symbols, const char *name, uint64_t *start,
                  uint64_t *end);
