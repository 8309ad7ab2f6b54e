#pragma once
/*
 * The firmware configuration device of QEMU's PCs (docs/specs/fw_cfg): numbered items and
 * named files that tell firmware, and kernels without one, about the machine. By ports,
 * byte by byte, and by DMA. Items are read-only.
 */

#include "allocator/memory.h"
#include "device/device.h"

/* Items by number. */
enum fw_cfg_key {
    FW_CFG_SIGNATURE = 0x00,
    FW_CFG_ID = 0x01,
    FW_CFG_RAM_SIZE = 0x03,   /* 8 bytes */
    FW_CFG_NO_DISPLAY = 0x04, /* 2 bytes */
    FW_CFG_CPUS = 0x05,       /* 2 bytes */
    FW_CFG_BOOT_MENU = 0x0e,  /* 2 bytes */
    FW_CFG_CPUS_MAX = 0x0f,   /* 2 bytes */
    FW_CFG_DIRECTORY = 0x19,
    FW_CFG_FILES = 0x20, /* the first of FW_CFG_FILES_MAX */
    FW_CFG_IRQ0_OVERRIDE = 0x8002,
};

#define FW_CFG_FILES_MAX     16u
#define FW_CFG_ITEMS_MAX     (FW_CFG_FILES_MAX + 16u)
#define FW_CFG_NAME_MAX      55u /* of a file */

#define FW_CFG_PORT          0x510
#define FW_CFG_PORT_COUNT    2u
#define FW_CFG_DMA_PORT      0x514
#define FW_CFG_DMA_PORT_SIZE 8u

struct fw_cfg;

/* With the items that every one has: signature, identification, directory. */
struct fw_cfg *fw_cfg_new(const char *name, struct memory *memory, struct error *err);
struct device *fw_cfg_device(struct fw_cfg *fw_cfg);
struct region fw_cfg_region(struct fw_cfg *fw_cfg, uint64_t base);
struct region fw_cfg_dma_region(struct fw_cfg *fw_cfg, uint64_t base);

/* Before the machine runs. The data is copied. */
int fw_cfg_add(struct fw_cfg *fw_cfg, uint16_t key, const void *data, uint32_t size,
               struct error *err);
/* value as size bytes, little-endian. */
int fw_cfg_add_number(struct fw_cfg *fw_cfg, uint16_t key, uint64_t value, uint32_t size,
                      struct error *err);
int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *path, const void *data,
                    uint32_t size, struct error *err);
