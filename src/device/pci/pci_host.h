#pragma once
/*
 * The host bridge of a PCI bus, function 0 of device 0, in the form of the 82441FX
 * (Intel 440FX data sheet 290549): configuration mechanism 1 (PCI Local Bus Specification
 * 3.0, 3.2.2.3.2) and the windows through which the processors reach what base address
 * registers show. Its PAM registers say what the memory from 0xc0000 to 1M is.
 */

#include "device/pci/pci.h"

#define PCI_PORT_ADDRESS 0xcf8
#define PCI_PORT_DATA    0xcfc

/* What reads and writes of a range below 1M reach (290549, 3.2.18), by its two bits. */
#define PCI_PAM_READ   1u /* reads from RAM; else from ROM */
#define PCI_PAM_WRITE  2u /* writes to RAM; else they are lost */
#define PCI_PAM_RANGES 13u

struct pci_host;

struct pci_host_config {
    /* The windows; their sizes are powers of two or not, as the machine wants. */
    uint64_t port_base, port_size, memory_base, memory_size;
    /* The device that answers bytes at port cf9h; device NULL: none. */
    struct region reset;
    /* Attributes (PCI_PAM_*) of one of the 13 ranges have changed: 0xc0000-0xeffff in 12
     * of 16 KiB, then 0xf0000-0xfffff. Called with the bridge's lock held; may be NULL.
     */
    void (*pam_changed)(void *opaque, unsigned range, unsigned attributes);
    void *opaque;
};

struct pci_host *pci_host_new(const char *name, const struct pci_host_config *config,
                              struct error *err);
struct device *pci_host_device(struct pci_host *host);
struct region pci_host_address_region(struct pci_host *host);
struct region pci_host_data_region(struct pci_host *host);
struct region pci_host_port_window(struct pci_host *host);
struct region pci_host_memory_window(struct pci_host *host);

/* Puts a function at device 1 to 31, function 0; before the machine runs. */
void pci_host_add(struct pci_host *host, unsigned device, struct pci_function *function);

/* What firmware does: gives every base address register a place in the windows, lowest
 * device first, and switches decoding on. Fails if a window is too small. */
int pci_host_assign(struct pci_host *host, struct error *err);

/* Base and size of the ith PAM range; its attributes now. */
void pci_host_pam_range(unsigned range, uint64_t *base, uint64_t *size);
unsigned pci_host_pam(struct pci_host *host, unsigned range);
/* Sets them, as a write of the register does. */
void pci_host_set_pam(struct pci_host *host, unsigned range, unsigned attributes);
