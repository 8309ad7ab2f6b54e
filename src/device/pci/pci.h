#pragma once
/*
 * PCI functions: the configuration space that every one has (PCI Local Bus Specification
 * 3.0, chapter 6) and its base address registers. A function's device embeds one struct
 * pci_function, puts `config` into its table of saved fields, and is reached through a
 * host bridge (pci_host.h), which holds the device's lock around each call.
 */

#include "device/device.h"

#define PCI_CONFIG_SIZE 256u
#define PCI_BARS        6u

/* Offsets in configuration space. */
#define PCI_VENDOR           0x00
#define PCI_DEVICE           0x02
#define PCI_COMMAND          0x04
#define PCI_STATUS           0x06
#define PCI_REVISION         0x08
#define PCI_CLASS            0x09 /* interface, subclass, class */
#define PCI_CACHE_LINE       0x0c
#define PCI_LATENCY          0x0d
#define PCI_HEADER_TYPE      0x0e
#define PCI_BAR              0x10
#define PCI_SUBSYSTEM_VENDOR 0x2c
#define PCI_SUBSYSTEM        0x2e
#define PCI_INTERRUPT_LINE   0x3c

#define PCI_COMMAND_IO       0x0001
#define PCI_COMMAND_MEMORY   0x0002
#define PCI_COMMAND_MASTER   0x0004

/* What a base address register shows; accesses have 1 to 4 bytes and are aligned. */
struct pci_bar {
    uint32_t size; /* a power of two, at least 16 for memory, 4 for ports; 0: not there */
    bool is_io;
    uint64_t (*read)(struct device *device, uint64_t offset, unsigned size);
    void (*write)(struct device *device, uint64_t offset, unsigned size, uint64_t value);
};

/* What a function is; constant. */
struct pci_identity {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; /* class, subclass, interface: 0x060000 */
    struct pci_bar bar[PCI_BARS];
};

struct pci_function {
    struct device *device;
    const struct pci_identity *identity;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE]; /* per bit; the device may add to it */
    /* Bytes [offset, offset + size) of the configuration have been written; may be NULL.
     */
    void (*written)(struct pci_function *function, unsigned offset, unsigned size);
};

void pci_function_init(struct pci_function *function, struct device *device,
                       const struct pci_identity *identity);
/* The header as after a hardware reset: nothing decoded, no addresses. What lies beyond
 * the header and is writable becomes 0. */
void pci_function_reset(struct pci_function *function);
/* After a load: the read-only bits become what they have to be. */
void pci_function_loaded(struct pci_function *function);

/* offset + size is at most PCI_CONFIG_SIZE. */
uint32_t pci_config_read(const struct pci_function *function, unsigned offset,
                         unsigned size);
void pci_config_write(struct pci_function *function, unsigned offset, unsigned size,
                      uint32_t value);

/* The register that shows address, if it is decoded; *offset is inside of it. */
const struct pci_bar *pci_bar_find(const struct pci_function *function, bool is_io,
                                   uint64_t address, uint64_t *offset);
