#include "device/pc/fw_cfg.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

#define ID_PORTS      1u
#define ID_DMA        2u

#define DMA_SIGNATURE 0x51454d5520434647ull /* "QEMU CFG" */
#define DMA_ERROR     0x01u
#define DMA_READ      0x02u
#define DMA_SKIP      0x04u
#define DMA_SELECT    0x08u
#define DMA_WRITE     0x10u

#define DMA_LOW       4 /* offset of the address's lower half, which starts it */

struct item {
    uint16_t key;
    uint32_t size;
    uint8_t *data; /* owned */
};

struct file { /* in the directory; big-endian */
    uint32_t size;
    uint16_t key, reserved;
    char name[FW_CFG_NAME_MAX + 1];
};

struct directory {
    uint32_t count; /* big-endian */
    struct file file[FW_CFG_FILES_MAX];
};

struct dma_command { /* big-endian */
    uint32_t control, length;
    uint64_t address;
};

struct fw_cfg {
    struct device device;
    struct memory *memory;
    unsigned count, file_count;
    struct item item[FW_CFG_ITEMS_MAX];
    struct directory directory;
    uint64_t dma_address;
    uint32_t offset; /* inside the selected item */
    uint16_t key;
};

static struct item *item_find(struct fw_cfg *fw_cfg, uint16_t key)
{
    for (unsigned i = 0; i < fw_cfg->count; i++) {
        if (fw_cfg->item[i].key == key) {
            return &fw_cfg->item[i];
        }
    }
    return NULL;
}

static void select_item(struct fw_cfg *fw_cfg, uint16_t key)
{
    fw_cfg->key = key;
    fw_cfg->offset = 0;
}

/* What is left of the selected item, which *data is set to. */
static uint32_t rest_of_item(struct fw_cfg *fw_cfg, const uint8_t **data)
{
    const struct item *item = item_find(fw_cfg, fw_cfg->key);
    if (!item || fw_cfg->offset >= item->size) {
        return 0;
    }
    *data = item->data + fw_cfg->offset;
    return item->size - fw_cfg->offset;
}

/* Only to the item's end: reading on gives zeros, however long. */
static void advance(struct fw_cfg *fw_cfg, uint32_t count)
{
    const uint8_t *data;
    uint32_t rest = rest_of_item(fw_cfg, &data);
    fw_cfg->offset += count < rest ? count : rest;
}

static uint64_t port_read(struct device *device, uint64_t offset, unsigned size)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    const uint8_t *data;
    if (offset != 1 || rest_of_item(fw_cfg, &data) == 0) {
        return 0;
    }
    advance(fw_cfg, 1);
    return *data;
}

static void port_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    if (size == 2) {
        select_item((struct fw_cfg *)device, (uint16_t)value);
    }
}

struct region fw_cfg_region(struct fw_cfg *fw_cfg, uint64_t base)
{
    return (struct region){&fw_cfg->device, base,      FW_CFG_PORT_COUNT, 1, 2,
                           port_read,       port_write};
}

/* --- DMA --- */

/* Fills guest memory from the item, and with zeros behind its end. */
static bool dma_fill(struct fw_cfg *fw_cfg, uint64_t address, uint32_t length)
{
    static const uint8_t zeros[FRAME_SIZE];
    while (length > 0) {
        const uint8_t *data = zeros;
        uint32_t size = rest_of_item(fw_cfg, &data);
        if (size == 0) {
            size = sizeof(zeros);
        }
        if (size > length) {
            size = length;
        }
        if (!ram_write(fw_cfg->memory, address, data, size)) {
            return false;
        }
        advance(fw_cfg, size);
        address += size;
        length -= size;
    }
    return true;
}

static bool dma_execute(struct fw_cfg *fw_cfg, const struct dma_command *command)
{
    uint32_t control = be32toh(command->control), length = be32toh(command->length);
    if (control & DMA_SELECT) {
        select_item(fw_cfg, (uint16_t)(control >> 16));
    }
    if (control & DMA_READ) {
        return dma_fill(fw_cfg, be64toh(command->address), length);
    }
    if (control & DMA_WRITE) { /* nothing can be written */
        return length == 0;
    }
    if (control & DMA_SKIP) {
        advance(fw_cfg, length);
    }
    return true;
}

/* The guest learns of the end by the control field, of which the error bit is left. */
static void dma_run(struct fw_cfg *fw_cfg)
{
    struct dma_command command;
    uint64_t address = fw_cfg->dma_address;
    fw_cfg->dma_address = 0;
    if (ram_read(fw_cfg->memory, address, &command, sizeof(command))) {
        uint32_t control = htobe32(dma_execute(fw_cfg, &command) ? 0 : DMA_ERROR);
        ram_write(fw_cfg->memory, address, &control, sizeof(control));
    }
}

static uint64_t dma_read(struct device *device, uint64_t offset, unsigned size)
{
    return htobe64(DMA_SIGNATURE) >> (8 * offset);
}

static void dma_write(struct device *device, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    if (size == 8) {
        fw_cfg->dma_address = be64toh(value);
    } else if (offset == 0) {
        fw_cfg->dma_address = (uint64_t)be32toh((uint32_t)value) << 32;
        return;
    } else {
        fw_cfg->dma_address =
            (fw_cfg->dma_address & ~0xffffffffull) | be32toh((uint32_t)value);
    }
    dma_run(fw_cfg);
}

struct region fw_cfg_dma_region(struct fw_cfg *fw_cfg, uint64_t base)
{
    return (struct region){&fw_cfg->device, base,     FW_CFG_DMA_PORT_SIZE, 4, 8,
                           dma_read,        dma_write};
}

/* --- Items --- */

int fw_cfg_add(struct fw_cfg *fw_cfg, uint16_t key, const void *data, uint32_t size,
               struct error *err)
{
    assert(fw_cfg->count < FW_CFG_ITEMS_MAX && !item_find(fw_cfg, key));
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy) {
        return fail(err, ENOMEM, "cannot make %s", fw_cfg->device.name);
    }
    memcpy(copy, data, size);
    fw_cfg->item[fw_cfg->count++] = (struct item){key, size, copy};
    return 0;
}

int fw_cfg_add_number(struct fw_cfg *fw_cfg, uint16_t key, uint64_t value, uint32_t size,
                      struct error *err)
{
    uint64_t number = htole64(value);
    return fw_cfg_add(fw_cfg, key, &number, size, err);
}

int fw_cfg_add_file(struct fw_cfg *fw_cfg, const char *path, const void *data,
                    uint32_t size, struct error *err)
{
    assert(fw_cfg->file_count < FW_CFG_FILES_MAX && strlen(path) <= FW_CFG_NAME_MAX);
    uint16_t key = (uint16_t)(FW_CFG_FILES + fw_cfg->file_count);
    int result = fw_cfg_add(fw_cfg, key, data, size, err);
    if (result < 0) {
        return result;
    }
    struct file *file = &fw_cfg->directory.file[fw_cfg->file_count++];
    *file = (struct file){.size = htobe32(size), .key = htobe16(key)};
    memcpy(file->name, path, strlen(path));
    fw_cfg->directory.count = htobe32(fw_cfg->file_count);
    struct item *item = item_find(fw_cfg, FW_CFG_DIRECTORY);
    memcpy(item->data, &fw_cfg->directory, sizeof(fw_cfg->directory));
    item->size = (uint32_t)(sizeof(fw_cfg->directory.count) +
                            fw_cfg->file_count * sizeof(struct file));
    return 0;
}

/* --- The device --- */

static void fw_cfg_reset(struct device *device)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    select_item(fw_cfg, 0);
    fw_cfg->dma_address = 0;
}

static void fw_cfg_free(struct device *device)
{
    struct fw_cfg *fw_cfg = (struct fw_cfg *)device;
    for (unsigned i = 0; i < fw_cfg->count; i++) {
        free(fw_cfg->item[i].data);
    }
    device_fini(device);
    free(fw_cfg);
}

static const struct device_field fw_cfg_fields[] = {
    DEVICE_FIELD(struct fw_cfg, dma_address),
    DEVICE_FIELD(struct fw_cfg, offset),
    DEVICE_FIELD(struct fw_cfg, key),
    DEVICE_FIELD_END,
};

static const struct device_type fw_cfg_type = {
    .name = "fw_cfg",
    .fields = fw_cfg_fields,
    .reset = fw_cfg_reset,
    .free = fw_cfg_free,
};

struct fw_cfg *fw_cfg_new(const char *name, struct memory *memory, struct error *err)
{
    struct fw_cfg *fw_cfg = calloc(1, sizeof(*fw_cfg));
    if (!fw_cfg) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&fw_cfg->device, &fw_cfg_type, name);
    fw_cfg->memory = memory;
    if (fw_cfg_add(fw_cfg, FW_CFG_SIGNATURE, "QEMU", 4, err) < 0 ||
        fw_cfg_add_number(fw_cfg, FW_CFG_ID, ID_PORTS | ID_DMA, 4, err) < 0 ||
        fw_cfg_add(fw_cfg, FW_CFG_DIRECTORY, &fw_cfg->directory,
                   sizeof(fw_cfg->directory), err) < 0) {
        fw_cfg_free(&fw_cfg->device);
        return NULL;
    }
    item_find(fw_cfg, FW_CFG_DIRECTORY)->size = sizeof(fw_cfg->directory.count);
    return fw_cfg;
}

struct device *fw_cfg_device(struct fw_cfg *fw_cfg)
{
    return &fw_cfg->device;
}
