#include "device/pci/pci.h"

#include <string.h>

#define BAR_IO           0x1u
#define COMMAND_WRITABLE 0x0547u /* I/O, memory, master, parity, SERR#, INTx disable */

static void put(uint8_t *bytes, unsigned offset, uint32_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        bytes[offset + i] = (uint8_t)(value >> (8 * i));
    }
}

static uint32_t get(const uint8_t *bytes, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint32_t)bytes[offset + i] << (8 * i);
    }
    return value;
}

/* The bits of the header that do not change. */
static void put_identity(uint8_t *config, const struct pci_identity *identity)
{
    put(config, PCI_VENDOR, identity->vendor, 2);
    put(config, PCI_DEVICE, identity->device, 2);
    put(config, PCI_REVISION, identity->revision, 1);
    put(config, PCI_CLASS, identity->class_code, 3);
    put(config, PCI_SUBSYSTEM_VENDOR, identity->subsystem_vendor, 2);
    put(config, PCI_SUBSYSTEM, identity->subsystem, 2);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        put(config, PCI_BAR + 4 * i, identity->bar[i].is_io ? BAR_IO : 0, 4);
    }
}

void pci_function_init(struct pci_function *function, struct device *device,
                       const struct pci_identity *identity)
{
    *function = (struct pci_function){.device = device, .identity = identity};
    put(function->writable, PCI_COMMAND, COMMAND_WRITABLE, 2);
    put(function->writable, PCI_CACHE_LINE, 0xff, 1);
    put(function->writable, PCI_LATENCY, 0xff, 1);
    put(function->writable, PCI_INTERRUPT_LINE, 0xff, 1);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        /* 6.2.5.1: software finds the size by the bits that stay 0. */
        uint32_t size = identity->bar[i].size;
        put(function->writable, PCI_BAR + 4 * i, size ? ~(size - 1) : 0, 4);
    }
    put_identity(function->config, identity);
}

void pci_function_reset(struct pci_function *function)
{
    memset(function->config, 0, sizeof(function->config));
    put_identity(function->config, function->identity);
}

void pci_function_loaded(struct pci_function *function)
{
    uint8_t constant[PCI_CONFIG_SIZE] = {0};
    put_identity(constant, function->identity);
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
        function->config[i] = (function->config[i] & function->writable[i]) |
                              (constant[i] & ~function->writable[i]);
    }
}

uint32_t pci_config_read(const struct pci_function *function, unsigned offset,
                         unsigned size)
{
    return get(function->config, offset, size);
}

void pci_config_write(struct pci_function *function, unsigned offset, unsigned size,
                      uint32_t value)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t *byte = &function->config[offset + i];
        uint8_t mask = function->writable[offset + i];
        *byte = (*byte & ~mask) | ((uint8_t)(value >> (8 * i)) & mask);
    }
    if (function->written) {
        function->written(function, offset, size);
    }
}

const struct pci_bar *pci_bar_find(const struct pci_function *function, bool is_io,
                                   uint64_t address, uint64_t *offset)
{
    uint32_t command = get(function->config, PCI_COMMAND, 2);
    if (!(command & (is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY))) {
        return NULL;
    }
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_bar *bar = &function->identity->bar[i];
        if (bar->size == 0 || bar->is_io != is_io) {
            continue;
        }
        uint32_t base = get(function->config, PCI_BAR + 4 * i, 4) & ~(bar->size - 1);
        if (address >= base && address - base < bar->size) {
            *offset = address - base;
            return bar;
        }
    }
    return NULL;
}
