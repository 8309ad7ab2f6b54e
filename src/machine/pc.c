#include "machine/pc.h"

#include <errno.h>

#include "device/pc/acpi_pm.h"
#include "device/pc/fw_cfg.h"
#include "device/pc/pc_testdev.h"
#include "device/pc/post_code.h"
#include "device/pci/pci_host.h"
#include "device/pci/pci_testdev.h"
#include "machine/acpi_loader.h"
#include "machine/board_parts.h"
#include "machine/memory_map.h"
#include "machine/shadow.h"

#define PORT_FIRMWARE_CONSOLE 0x402 /* where firmware for emulated machines writes */
#define PORT_POST_CODE_PS2    0x190 /* IBM's PS/2 machines have it there */
#define PORT_TEST_WORD        0xe0
#define PORT_TEST_FLUSH       0xe4
#define PORT_TEST_BYTE        0xe8
#define PORT_TEST_IRQ         0x2000

#define SLOT_TESTDEV          4 /* on the PCI bus */

static const struct board_device devices[] = {
    {"debug-console", "debug console", PORT_FIRMWARE_CONSOLE, false, -1, false},
    {"pci", "82441FX host bridge", PCI_PORT_ADDRESS, false, -1, false},
    {"fw-cfg", "firmware configuration", FW_CFG_PORT, false, -1, false},
    {"post-code", "diagnostic port", PORT_POST_CODE, false, -1, false},
    {"pc-testdev", "pc-testdev", PORT_TEST_WORD, false, -1, true},
    {"pci-testdev", "pci-testdev", MAP_PCI_MEMORY, true, -1, true},
    {NULL, NULL, 0, false, -1, false},
};

static int add_pci_bus(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct pci_host_config config = {
        .port_base = PORT_PCI,
        .port_size = 0x10000 - PORT_PCI,
        .memory_base = MAP_PCI_MEMORY,
        .memory_size = MAP_PCI_MEMORY_END - MAP_PCI_MEMORY,
        .reset = board->reset,
        .pam_changed = shadow_changed,
        .opaque = board,
    };
    board->pci = pci_host_new("pci", &config, err);
    if (!board->pci) {
        return -err->code;
    }
    const struct region ports[] = {
        pci_host_address_region(board->pci),
        pci_host_data_region(board->pci),
        pci_host_port_window(board->pci),
    };
    const struct region memory = pci_host_memory_window(board->pci);
    int result = board_add_device(board, pci_host_device(board->pci), ports,
                                  array_size(ports), err);
    return result < 0 ? result : vm_add_mmio(vm, &memory, err);
}

static int add_items(struct board *board, struct fw_cfg *fw_cfg, struct error *err)
{
    const struct {
        enum fw_cfg_key key;
        uint32_t size;
        uint64_t value;
    } items[] = {
        {FW_CFG_RAM_SIZE, 8, board->ram},           {FW_CFG_NO_DISPLAY, 2, 1},
        {FW_CFG_CPUS, 2, board->vm->cpu_count},     {FW_CFG_BOOT_MENU, 2, 0},
        {FW_CFG_CPUS_MAX, 2, board->vm->cpu_count}, {FW_CFG_IRQ0_OVERRIDE, 1, 1},
    };
    int result = 0;
    for (unsigned i = 0; result >= 0 && i < array_size(items); i++) {
        result =
            fw_cfg_add_number(fw_cfg, items[i].key, items[i].value, items[i].size, err);
    }
    return result;
}

static int add_fw_cfg(struct board *board, struct error *err)
{
    struct fw_cfg *fw_cfg = fw_cfg_new("fw-cfg", board->vm->memory, err);
    if (!fw_cfg) {
        return -err->code;
    }
    const struct region ports[] = {
        fw_cfg_region(fw_cfg, FW_CFG_PORT),
        fw_cfg_dma_region(fw_cfg, FW_CFG_DMA_PORT),
    };
    int result =
        board_add_device(board, fw_cfg_device(fw_cfg), ports, array_size(ports), err);
    if (result >= 0) {
        result = add_items(board, fw_cfg, err);
    }
    /* A kernel without firmware gets its tables from the board. */
    if (result >= 0 && board->firmware_path) {
        const struct acpi_config acpi = board_acpi(board);
        result = acpi_loader_add(fw_cfg, &acpi, err);
    }
    return result;
}

static int add_post_code(struct board *board, struct error *err)
{
    struct post_code *post_code =
        post_code_new("post-code", board->firmware_path != NULL, err);
    if (!post_code) {
        return -err->code;
    }
    const struct region ports[] = {
        post_code_region(post_code, PORT_POST_CODE),
        post_code_region(post_code, PORT_POST_CODE_PS2),
    };
    return board_add_device(board, post_code_device(post_code), ports, array_size(ports),
                            err);
}

static void forget_page(void *opaque, uint64_t gpa)
{
    ram_forget(opaque, gpa);
}

static int add_pc_testdev(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    const struct image *firmware = board_firmware(board);
    if (firmware && firmware->size > MAP_HIGH_RAM - MAP_TEST_MEMORY_END) {
        return fail_plain(err, EINVAL,
                          "--firmware %.200s: with --debug-exit it can have %llu KiB; a "
                          "test device is below that",
                          board->firmware_path,
                          (MAP_HIGH_RAM - MAP_TEST_MEMORY_END) >> 10);
    }
    struct pc_testdev_bus bus = {.forget_page = forget_page, .opaque = vm->memory};
    for (unsigned i = 0; i < PC_TESTDEV_LINES; i++) {
        bus.line[i] = vm_gsi(vm, i);
    }
    struct pc_testdev *testdev = pc_testdev_new("pc-testdev", &bus, err);
    if (!testdev) {
        return -err->code;
    }
    const struct region ports[] = {
        pc_testdev_region(testdev, PC_TESTDEV_WORD, PORT_TEST_WORD),
        pc_testdev_region(testdev, PC_TESTDEV_FLUSH, PORT_TEST_FLUSH),
        pc_testdev_region(testdev, PC_TESTDEV_BYTE, PORT_TEST_BYTE),
        pc_testdev_region(testdev, PC_TESTDEV_IRQ, PORT_TEST_IRQ),
    };
    const struct region memory =
        pc_testdev_region(testdev, PC_TESTDEV_MEMORY, MAP_TEST_MEMORY);
    int result = board_add_device(board, pc_testdev_device(testdev), ports,
                                  array_size(ports), err);
    return result < 0 ? result : vm_add_mmio(vm, &memory, err);
}

static int add_pci_testdev(struct board *board, struct error *err)
{
    struct pci_testdev *testdev = pci_testdev_new("pci-testdev", err);
    if (!testdev) {
        return -err->code;
    }
    pci_host_add(board->pci, SLOT_TESTDEV, pci_testdev_function(testdev));
    return board_add_device(board, pci_testdev_device(testdev), NULL, 0, err);
}

static int add_devices(struct board *board, const struct machine_config *config,
                       struct error *err)
{
    int result = add_pci_bus(board, err);
    if (result >= 0) {
        result = add_fw_cfg(board, err);
    }
    if (result >= 0) {
        result = add_post_code(board, err);
    }
    if (result >= 0 && config->debug_exit) {
        result = add_pc_testdev(board, err);
    }
    if (result >= 0 && config->debug_exit) {
        result = add_pci_testdev(board, err);
    }
    return result;
}

static const struct board_plan plan = {
    .debug_console = PORT_FIRMWARE_CONSOLE,
    .has_adapter_memory = true,
    .has_bios = true,
    .has_shadow = true,
    .add_devices = add_devices,
};

static int build(struct vm *vm, const struct machine_config *config,
                 const struct console_port *console, struct error *err)
{
    return board_build(vm, config, &plan, console, err);
}

const struct machine_type machine_pc = {
    .name = "pc",
    .summary =
        "a PC with PCI and the devices of emulated PCs that firmware and tests know",
    .has_firmware = true,
    .devices = devices,
    .build = build,
};
