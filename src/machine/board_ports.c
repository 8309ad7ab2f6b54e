#include "machine/board_parts.h"

#include "machine/memory_map.h"

/*
 * Ports that software of the PC pokes without looking: nothing answers, and that is not
 * worth a message. DMA controllers and page registers (with the POST code and delay
 * ports), coprocessor latch, VGA, Super I/O, the other serial ports.
 */
static const struct {
    uint16_t base, size;
} quiet_ports[] = {
    {0x000, 0x10}, {0x02e, 2}, {0x04e, 2}, {0x081, 0x0f}, {0x0c0, 0x20}, {0x0ed, 1},
    {0x0f0, 2},    {0x2e8, 8}, {0x2f8, 8}, {0x3b0, 0x30}, {0x3e8, 8},    {0x3f0, 8},
};

#define PORT_PCI_ADDRESS 0xcf8 /* the reset register is its second byte */
#define PORT_PCI_DATA    0xcfc

static uint64_t quiet_read(struct device *device, uint64_t offset, unsigned size)
{
    return UINT64_MAX;
}

static void quiet_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
}

/* A double word is PCI's configuration address, which no bridge answers; only a byte at
 * the second port is the reset register (82371AB 4.1.4). */
static bool is_reset_register(uint64_t offset, unsigned size)
{
    return offset == PORT_RESET - PORT_PCI_ADDRESS && size == 1;
}

static uint64_t pci_address_read(struct device *device, uint64_t offset, unsigned size)
{
    struct board *board = container_of(device, struct board, device);
    const struct region *reset = &board->reset;
    if (!is_reset_register(offset, size)) {
        return UINT64_MAX;
    }
    pthread_mutex_lock(&reset->device->lock);
    uint64_t value = reset->read(reset->device, 0, 1);
    pthread_mutex_unlock(&reset->device->lock);
    return value;
}

static void pci_address_write(struct device *device, uint64_t offset, unsigned size,
                              uint64_t value)
{
    struct board *board = container_of(device, struct board, device);
    const struct region *reset = &board->reset;
    if (is_reset_register(offset, size)) {
        pthread_mutex_lock(&reset->device->lock);
        reset->write(reset->device, 0, 1, value);
        pthread_mutex_unlock(&reset->device->lock);
    }
}

static struct region pci_address_region(struct board *board)
{
    return (struct region){&board->device,   PORT_PCI_ADDRESS, 4, 1, 4,
                           pci_address_read, pci_address_write};
}

static int add_quiet_ports(struct board *board, uint16_t base, uint16_t size,
                           struct error *err)
{
    const struct region region = {&board->device, base,       size, 1, 4,
                                  quiet_read,     quiet_write};
    return vm_add_ports(board->vm, &region, err);
}

int board_add_quiet_ranges(struct board *board, struct error *err)
{
    /* Where adapters would have their memory and ROMs; operating systems search it. */
    const uint64_t base = board->plan->has_adapter_memory ? MAP_ADAPTER_ROMS : MAP_VGA;
    const uint64_t end = board->plan->has_shadow ? MAP_KERNEL : MAP_BIOS_AREA;
    const struct region adapters = {&board->device, base,       end - base, 1, 8,
                                    quiet_read,     quiet_write};
    int result = vm_add_mmio(board->vm, &adapters, err);
    for (unsigned i = 0; result >= 0 && i < array_size(quiet_ports); i++) {
        result = add_quiet_ports(board, quiet_ports[i].base, quiet_ports[i].size, err);
    }
    if (result >= 0 && !board->plan->has_bios) {
        result = add_quiet_ports(board, PORT_POST_CODE, 1, err);
    }
    if (result >= 0 && !board->pci) {
        const struct region address = pci_address_region(board);
        result = vm_add_ports(board->vm, &address, err);
        if (result >= 0) {
            result = add_quiet_ports(board, PORT_PCI_DATA, 4, err);
        }
    }
    return result;
}
