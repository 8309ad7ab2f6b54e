#pragma once
/* Guest-physical addresses and interrupt numbers of the PC-like machines. */

/* RAM below 4G ends here; the rest starts at 4G. */
#define MAP_LOW_RAM_END    0xc0000000ull
#define MAP_HIGH_RAM       0x100000000ull
#define MAP_BOOT_PARAMS    0x00007000ull /* zero page (Linux), start info (PVH) */
#define MAP_BOOT_GDT       0x00000500ull
#define MAP_BOOT_TABLES    0x00009000ull /* identity page tables, 6 pages */
#define MAP_BOOT_STACK     0x00008ff0ull
#define MAP_COMMAND_LINE   0x00020000ull
#define MAP_EBDA           0x0009fc00ull /* end of conventional RAM */
#define MAP_BIOS_AREA      0x000e0000ull /* ACPI tables, RSDP; reserved in the E820 map */
#define MAP_BIOS_AREA_SIZE 0x00020000ull
#define MAP_KERNEL         0x00100000ull
#define MAP_IOAPIC         0xfec00000ull
#define MAP_LAPIC          0xfee00000ull
#define MAP_VIRTIO_MMIO    0xd0000000ull /* one 4K page per device */

#define PORT_DEBUG_CONSOLE 0xe9
#define PORT_DEBUG_EXIT    0xf4
#define PORT_ACPI_PM       0x600 /* event block 4, control block 2 at +4, timer 4 at +8 */
#define PORT_RESET         0xcf9

#define GSI_PIT            0 /* I/O APIC input 2 by an interrupt source override */
#define GSI_KEYBOARD       1
#define GSI_SERIAL         4
#define GSI_RTC            8
#define GSI_SCI            9
#define GSI_VIRTIO         16
