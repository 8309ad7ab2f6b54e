#pragma once
/* The ACPI tables of the PC-like machines (ACPI 6.5 chapter 5), built as bytes. */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* The SLP_TYP value that means soft-off, in \_S5 and in the PM1 control register. */
#define ACPI_SLEEP_S5 5

/* A virtio device behind a memory-mapped transport. */
struct acpi_virtio {
    uint64_t base; /* below 4G; one page */
    unsigned gsi;
};

struct acpi_config {
    unsigned cpus;
    bool has_pci; /* a host bridge with the windows of memory_map.h */
    unsigned virtio_count;
    const struct acpi_virtio *virtio;
};

/*
 * Builds all tables for the guest-physical address base, a multiple of 64: RSDP first,
 * then FACS, XSDT, FADT, MADT, DSDT. Returns the size used, or -ENOSPC.
 */
int acpi_build(const struct acpi_config *config, uint64_t base, uint8_t *buffer,
               unsigned capacity, struct error *err);
