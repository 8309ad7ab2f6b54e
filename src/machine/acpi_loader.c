#include "machine/acpi_loader.h"

#include <string.h>

#define BASE           0x10000u /* where the tables are built; offsets count from it */
#define TABLES_MAX     16384u
#define COMMANDS_MAX   24u

#define FILE_TABLES    "etc/acpi/tables"
#define FILE_RSDP      "etc/acpi/rsdp"
#define FILE_COMMANDS  "etc/table-loader"
#define FILE_NAME_SIZE 56

enum command_kind {
    COMMAND_ALLOCATE = 1,
    COMMAND_ADD_POINTER,
    COMMAND_ADD_CHECKSUM,
};

enum zone {
    ZONE_HIGH = 1, /* anywhere below 4G */
    ZONE_FSEG,     /* where operating systems look for the RSDP */
};

struct command {
    uint32_t kind;
    union {
        struct {
            char file[FILE_NAME_SIZE];
            uint32_t alignment;
            uint8_t zone;
        } __attribute__((packed)) allocate;
        struct {
            char file[FILE_NAME_SIZE], to[FILE_NAME_SIZE];
            uint32_t offset;
            uint8_t size;
        } __attribute__((packed)) pointer;
        struct {
            char file[FILE_NAME_SIZE];
            uint32_t offset, start, length;
        } __attribute__((packed)) checksum;
        uint8_t room[124];
    };
} __attribute__((packed));

_Static_assert(sizeof(struct command) == 128, "a command of the loader");

/* Places in the tables (ACPI 6.5, tables 5.3, 5.4, 5.9). */
#define RSDP_CHECKSUM          8u
#define RSDP_XSDT              24u
#define RSDP_EXTENDED_CHECKSUM 32u
#define RSDP_SIZE              36u
#define RSDP_FIRST_SIZE        20u /* what the first checksum covers */
#define TABLE_LENGTH           4u
#define TABLE_CHECKSUM         9u
#define TABLE_HEADER           36u
#define FADT_FACS              36u
#define FADT_DSDT              40u
#define FADT_X_FACS            132u
#define FADT_X_DSDT            140u

struct loader {
    uint8_t tables[TABLES_MAX];
    struct command command[COMMANDS_MAX];
    unsigned count;
};

static struct command *add(struct loader *loader, enum command_kind kind)
{
    struct command *command = &loader->command[loader->count++];
    command->kind = kind;
    return command;
}

static void allocate(struct loader *loader, const char *file, uint32_t alignment,
                     enum zone zone)
{
    struct command *command = add(loader, COMMAND_ALLOCATE);
    strcpy(command->allocate.file, file);
    command->allocate.alignment = alignment;
    command->allocate.zone = (uint8_t)zone;
}

static void sum_up(struct loader *loader, const char *file, uint32_t offset,
                   uint32_t start, uint32_t length)
{
    struct command *command = add(loader, COMMAND_ADD_CHECKSUM);
    strcpy(command->checksum.file, file);
    command->checksum.offset = offset;
    command->checksum.start = start;
    command->checksum.length = length;
}

/* Makes a pointer at an offset in the tables (RSDP included) one that the loader can
 * move. Returns the offset that it points to; 0: it points nowhere. */
static uint32_t point(struct loader *loader, const char *file, uint32_t offset,
                      uint8_t size)
{
    uint64_t target = 0;
    memcpy(&target, loader->tables + offset, size);
    if (target == 0) {
        return 0;
    }
    target -= BASE;
    memcpy(loader->tables + offset, &target, size);
    struct command *command = add(loader, COMMAND_ADD_POINTER);
    strcpy(command->pointer.file, file);
    strcpy(command->pointer.to, FILE_TABLES);
    command->pointer.offset = offset;
    command->pointer.size = size;
    return (uint32_t)target;
}

static void sum_up_table(struct loader *loader, uint32_t table)
{
    uint32_t length;
    memcpy(&length, loader->tables + table + TABLE_LENGTH, sizeof(length));
    sum_up(loader, FILE_TABLES, table + TABLE_CHECKSUM, table, length);
}

static void move_tables(struct loader *loader)
{
    uint32_t xsdt = point(loader, FILE_RSDP, RSDP_XSDT, 8), length;
    memcpy(&length, loader->tables + xsdt + TABLE_LENGTH, sizeof(length));
    for (uint32_t i = TABLE_HEADER; i < length; i += 8) {
        uint32_t table = point(loader, FILE_TABLES, xsdt + i, 8);
        if (memcmp(loader->tables + table, "FACP", 4) == 0) {
            point(loader, FILE_TABLES, table + FADT_FACS, 4);
            point(loader, FILE_TABLES, table + FADT_DSDT, 4);
            point(loader, FILE_TABLES, table + FADT_X_FACS, 8);
            point(loader, FILE_TABLES, table + FADT_X_DSDT, 8);
            sum_up_table(loader, table);
        }
    }
    sum_up_table(loader, xsdt);
    sum_up(loader, FILE_RSDP, RSDP_CHECKSUM, 0, RSDP_FIRST_SIZE);
    sum_up(loader, FILE_RSDP, RSDP_EXTENDED_CHECKSUM, 0, RSDP_SIZE);
}

int acpi_loader_add(struct fw_cfg *fw_cfg, const struct acpi_config *config,
                    struct error *err)
{
    struct loader loader = {.count = 0};
    int size = acpi_build(config, BASE, loader.tables, sizeof(loader.tables), err);
    if (size < 0) {
        return size;
    }
    allocate(&loader, FILE_RSDP, 16, ZONE_FSEG);
    allocate(&loader, FILE_TABLES, 64, ZONE_HIGH);
    move_tables(&loader);
    /* The RSDP is first in what was built; in the tables' file its place stays empty. */
    int result = fw_cfg_add_file(fw_cfg, FILE_RSDP, loader.tables, RSDP_SIZE, err);
    memset(loader.tables, 0, RSDP_SIZE);
    if (result >= 0) {
        result = fw_cfg_add_file(fw_cfg, FILE_TABLES, loader.tables, (uint32_t)size, err);
    }
    if (result >= 0) {
        result = fw_cfg_add_file(fw_cfg, FILE_COMMANDS, loader.command,
                                 loader.count * sizeof(loader.command[0]), err);
    }
    return result;
}
