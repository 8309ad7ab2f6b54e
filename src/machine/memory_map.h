#pragma once
/* Guest-physical addresses and interrupt numbers of the PC-like machines. */

#include <stdint.h>

/* RAM below 4G ends here; the rest starts at 4G. */
#define MAP_LOW_RAM_END     0xc0000000ull
#define MAP_HIGH_RAM        0x100000000ull
#define MAP_BOOT_GDT        0x00000500ull
#define MAP_BOOT_PARAMS     0x00007000ull /* zero page (Linux), start info (PVH) */
#define MAP_BOOT_STACK      0x00008ff0ull
#define MAP_BOOT_TABLES     0x00009000ull /* identity page tables, 6 pages */
#define MAP_COMMAND_LINE    0x00020000ull
#define MAP_COMMAND_MAX     0x00010000ull /* with its final 0 */
#define MAP_BOOT_END        0x00030000ull /* what a loader writes below is ours */
#define MAP_MULTIBOOT       0x0008fc00ull /* multiboot's information, up to MAP_EBDA */
#define MAP_MULTIBOOT_SIZE  0x00010000ull
#define MAP_EBDA            0x0009fc00ull /* end of conventional RAM */
#define MAP_VGA             0x000a0000ull /* a display adapter's memory */
#define MAP_ADAPTER_ROMS    0x000c0000ull /* no memory up to the BIOS area */
#define MAP_BIOS_AREA       0x000e0000ull /* ACPI tables, RSDP; reserved in the E820 map */
#define MAP_BIOS_AREA_SIZE  0x00020000ull
#define MAP_KERNEL          0x00100000ull
#define MAP_IOAPIC          0xfec00000ull
#define MAP_LAPIC           0xfee00000ull
#define MAP_VIRTIO_MMIO     0xd0000000ull /* one 4K page per device */
#define MAP_PCI_MEMORY      0xe0000000ull /* what PCI's host bridge forwards */
#define MAP_PCI_MEMORY_END  0xfec00000ull
#define MAP_TEST_MEMORY     0xff000000ull /* pc-testdev's */
#define MAP_TEST_MEMORY_END 0xff010000ull

#define PORT_SERIAL         0x3f8
#define PORT_RTC            0x70
#define PORT_POST_CODE      0x80
#define PORT_DEBUG_CONSOLE  0xe9
#define PORT_PCI_CONFIG     0xcf8  /* address, data at +4 */
#define PORT_PCI            0xc000 /* what PCI's host bridge forwards, to the last port */
#define PORT_DEBUG_EXIT     0xf4
#define PORT_PANIC          0x505
#define PORT_ACPI_PM        0x600 /* event block 4, control block 2 at +4, timer 4 at +8 */
#define PORT_RESET          0xcf9

#define GSI_PIT             0 /* I/O APIC input 2 by an interrupt source override */
#define GSI_KEYBOARD        1
#define GSI_SERIAL          4
#define GSI_RTC             8
#define GSI_SCI             9
#define GSI_VIRTIO          16

/* What the firmware says about a range; the numbers are those of the E820 interface. */
enum map_kind {
    MAP_KIND_RAM = 1,
    MAP_KIND_RESERVED = 2,
};

struct map_entry {
    uint64_t base, size;
    enum map_kind kind;
};

#define MAP_ENTRIES_MAX 8

/* The memory map of a machine with ram bytes (at least 2M), as an operating system is
 * told of it. Returns the number of entries. */
unsigned memory_map_build(uint64_t ram, struct map_entry entries[MAP_ENTRIES_MAX]);

/* The end of the RAM below 4G. */
static inline uint64_t memory_map_low_end(uint64_t ram)
{
    return ram < MAP_LOW_RAM_END ? ram : MAP_LOW_RAM_END;
}
