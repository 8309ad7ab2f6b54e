#pragma once
/*
 * Linux's boot_params ("zero page", Documentation/arch/x86/zero-page.rst) and the setup
 * header inside it (Documentation/arch/x86/boot.rst). Offsets are from the start of the
 * page, which for the setup header are those in a bzImage file.
 */

#include <stdint.h>
#include <string.h>

#include "machine/kernel.h"

#define ZERO_PAGE_SIZE 4096u

enum zero_page_offset {
    ZP_ACPI_RSDP = 0x070,      /* u64 */
    ZP_E820_COUNT = 0x1e8,     /* u8 */
    ZP_SETUP_SECTORS = 0x1f1,  /* u8; the setup header begins here */
    ZP_SYSTEM_SIZE = 0x1f4,    /* u32: protected-mode part in units of 16 bytes */
    ZP_VIDEO_MODE = 0x1fa,     /* u16 */
    ZP_BOOT_FLAG = 0x1fe,      /* u16 */
    ZP_JUMP = 0x200,           /* its second byte tells where the header ends */
    ZP_HEADER = 0x202,         /* u32 "HdrS" */
    ZP_VERSION = 0x206,        /* u16 */
    ZP_LOADER_TYPE = 0x210,    /* u8 */
    ZP_LOAD_FLAGS = 0x211,     /* u8 */
    ZP_RAMDISK_IMAGE = 0x218,  /* u32 */
    ZP_RAMDISK_SIZE = 0x21c,   /* u32 */
    ZP_COMMAND_LINE = 0x228,   /* u32 */
    ZP_INITRD_MAX = 0x22c,     /* u32 */
    ZP_KERNEL_ALIGN = 0x230,   /* u32 */
    ZP_RELOCATABLE = 0x234,    /* u8 */
    ZP_XLOAD_FLAGS = 0x236,    /* u16 */
    ZP_COMMAND_MAX = 0x238,    /* u32 */
    ZP_PAYLOAD_OFFSET = 0x248, /* u32, from the start of the protected-mode part */
    ZP_PAYLOAD_SIZE = 0x24c,   /* u32 */
    ZP_PREFERRED = 0x258,      /* u64 */
    ZP_INIT_SIZE = 0x260,      /* u32 */
    ZP_HEADER_MAX = 0x290,     /* behind the header's last field */
    ZP_E820 = 0x2d0,           /* 20 bytes each */
};

#define ZP_BOOT_FLAG_VALUE 0xaa55u
#define ZP_HEADER_VALUE    0x53726448u /* "HdrS" */
#define ZP_LOADED_HIGH     0x01u
#define ZP_XLF_KERNEL_64   0x01u

static inline uint16_t zp_u16(const uint8_t *page, enum zero_page_offset offset)
{
    uint16_t value;
    memcpy(&value, page + offset, sizeof(value));
    return value;
}

static inline uint32_t zp_u32(const uint8_t *page, enum zero_page_offset offset)
{
    uint32_t value;
    memcpy(&value, page + offset, sizeof(value));
    return value;
}

static inline uint64_t zp_u64(const uint8_t *page, enum zero_page_offset offset)
{
    uint64_t value;
    memcpy(&value, page + offset, sizeof(value));
    return value;
}

struct zero_page_config {
    const uint8_t *head;  /* a bzImage's first BOOT_HEAD_SIZE bytes, or NULL */
    uint64_t kernel_end;  /* the initrd goes above it */
    uint64_t initrd_max;  /* highest address of the initrd's last byte */
    uint64_t command_max; /* characters */
};

/* Places command line and initrd and writes the completed page to MAP_BOOT_PARAMS. */
int zero_page_put(const struct zero_page_config *config, const struct boot_target *target,
                  struct error *err);
