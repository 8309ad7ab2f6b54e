#include "machine/shadow.h"

#include "device/pci/pci_host.h"
#include "machine/memory_map.h"

/* The first frames of a range's RAM and ROM, the latter FRAME_NONE above none. */
static frame_t ram_of(const struct board *board, gpa_t base)
{
    return board->shadow_ram + (frame_t)((base - MAP_ADAPTER_ROMS) / FRAME_SIZE);
}

static frame_t rom_of(const struct board *board, gpa_t base)
{
    gpa_t first = MAP_KERNEL - board->shadow_rom_size;
    return base < first ? FRAME_NONE
                        : board->shadow_rom + (frame_t)((base - first) / FRAME_SIZE);
}

void shadow_changed(void *opaque, unsigned range, unsigned attributes)
{
    struct board *board = opaque;
    gpa_t base;
    uint64_t size;
    pci_host_pam_range(range, &base, &size);
    frame_t ram = ram_of(board, base);
    memory_switch(board->vm->memory, base,
                  attributes & PCI_PAM_READ ? ram : rom_of(board, base),
                  attributes & PCI_PAM_WRITE ? ram : FRAME_NONE);
}

int shadow_map(struct board *board, frame_t rom, uint64_t rom_size, struct error *err)
{
    struct memory *memory = board->vm->memory;
    int64_t ram = memory_add_frames(memory, MAP_KERNEL - MAP_ADAPTER_ROMS, err);
    if (ram < 0) {
        return (int)ram;
    }
    board->shadow_ram = (frame_t)ram;
    board->shadow_rom = rom;
    board->shadow_rom_size = rom_size;
    for (unsigned range = 0; range < PCI_PAM_RANGES; range++) {
        gpa_t base;
        uint64_t size;
        pci_host_pam_range(range, &base, &size);
        int result = memory_map(memory, base, size, ram_of(board, base), SLOT_RAM, err);
        if (result < 0) {
            return result;
        }
        shadow_changed(board, range, 0);
    }
    return 0;
}

void shadow_open(struct board *board)
{
    for (unsigned range = 0; range < PCI_PAM_RANGES; range++) {
        gpa_t base;
        uint64_t size;
        pci_host_pam_range(range, &base, &size);
        pci_host_set_pam(board->pci, range,
                         base < MAP_BIOS_AREA ? 0 : PCI_PAM_READ | PCI_PAM_WRITE);
    }
}
