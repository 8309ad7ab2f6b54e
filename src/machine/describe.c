/* A machine as --dry-run and inspect show it. */
#include <errno.h>
#include <jansson.h>

#include "machine/board.h"
#include "machine/board_disk.h"
#include "machine/firmware.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/resolve.h"
#include "x86/paravirt.h"

static json_t *describe_firmware(const struct machine_config *config, struct error *err)
{
    struct image image;
    if (firmware_open(&image, config->firmware, err) < 0) {
        fail_within(err, "--firmware %.200s", config->firmware);
        return NULL;
    }
    image_close(&image);
    return json_pack("{s:s, s:I}", "firmware", config->firmware, "size",
                     (json_int_t)image.size);
}

static json_t *describe_boot(const struct machine_config *config, struct error *err)
{
    if (config->firmware) {
        return describe_firmware(config, err);
    }
    struct image image, initrd;
    struct boot_probe probe;
    if (image_open(&image, config->kernel, err) < 0) {
        fail_within(err, "cannot boot %.200s", config->kernel);
        return NULL;
    }
    const struct boot_protocol *protocol = kernel_detect(&image, &probe, err);
    image_close(&image);
    if (!protocol) {
        fail_within(err, "cannot boot %.200s", config->kernel);
        return NULL;
    }
    if (config->initrd) {
        if (image_open(&initrd, config->initrd, err) < 0) {
            fail_within(err, "--initrd %.200s", config->initrd);
            return NULL;
        }
        image_close(&initrd);
    }
    return json_pack("{s:s, s:s, s:s?, s:s}", "kernel", config->kernel, "protocol",
                     protocol->name, "initrd", config->initrd, "append",
                     config->append ? config->append : "");
}

static json_t *describe_memory_map(uint64_t memory)
{
    struct map_entry entries[MAP_ENTRIES_MAX];
    unsigned count = memory_map_build(memory, entries);
    json_t *list = json_array();
    for (unsigned i = 0; i < count; i++) {
        json_array_append_new(
            list, json_pack("{s:I, s:I, s:s}", "base", (json_int_t)entries[i].base,
                            "size", (json_int_t)entries[i].size, "kind",
                            entries[i].kind == MAP_KIND_RAM ? "ram" : "reserved"));
    }
    return list;
}

static void describe_rows(json_t *list, const struct board_device *devices,
                          const struct machine_config *config)
{
    for (const struct board_device *device = devices; device->name; device++) {
        if (device->is_optional && !config->debug_exit) {
            continue;
        }
        json_t *entry =
            json_pack("{s:s, s:s, s:I}", "name", device->name, "model", device->model,
                      device->is_mmio ? "address" : "port", (json_int_t)device->address);
        if (device->gsi >= 0) {
            json_object_set_new(entry, "irq", json_integer(device->gsi));
        }
        json_array_append_new(list, entry);
    }
}

static json_t *describe_devices(const struct machine_type *type,
                                const struct machine_config *config)
{
    json_t *list = json_array();
    describe_rows(list, board_devices, config);
    describe_rows(list, type->devices, config);
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct acpi_virtio place = board_disk_place(i);
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:I, s:i}", "name", board_disk_name(i), "model",
                            "virtio block device", "address", (json_int_t)place.base,
                            "irq", (int)place.gsi));
    }
    return list;
}

static json_t *describe_disk(const struct disk_config *config, struct error *err)
{
    const struct disk_options options = {.format = config->format,
                                         .is_readonly = config->is_readonly};
    struct disk *disk = disk_open(config->path, &options, NULL, err);
    if (!disk) {
        fail_within(err, "--disk");
        return NULL;
    }
    json_t *entry =
        json_pack("{s:s, s:s, s:I, s:b, s:s}", "file", config->path, "format",
                  disk->format->name, "size", (json_int_t)disk->size, "readonly",
                  config->is_readonly, "bus", disk_bus_name(config->bus));
    disk_close(disk);
    return entry ? entry : json_null();
}

static json_t *describe_disks(const struct machine_config *config, struct error *err)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < config->disk_count; i++) {
        json_t *entry = describe_disk(&config->disk[i], err);
        if (!entry) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, entry);
    }
    return list;
}

static json_t *describe_paravirt(uint32_t offered)
{
    json_t *list = json_array();
    uint32_t features;
    const char *name;
    for (unsigned i = 0; (name = paravirt_service_name(i, &features)); i++) {
        if ((offered & features) == features) {
            json_array_append_new(list, json_string(name));
        }
    }
    return list;
}

static const char *console_name(enum console_kind kind)
{
    static const char *const names[] = {
        [CONSOLE_STDIO] = "stdio",
        [CONSOLE_NONE] = "none",
        [CONSOLE_PTY] = "pty",
        [CONSOLE_SOCKET] = "socket",
    };
    return names[kind];
}

char *machine_describe(const struct machine_config *config, struct error *err)
{
    struct machine_choice choice;
    if (machine_resolve(&choice, config, err) < 0) {
        return NULL;
    }
    json_t *boot = describe_boot(config, err);
    if (!boot) {
        return NULL;
    }
    json_t *disks = describe_disks(config, err);
    if (!disks) {
        json_decref(boot);
        return NULL;
    }
    json_t *all = json_pack(
        "{s:s?, s:s, s:s, s:s, s:i, s:s, s:o, s:I, s:o, s:o, s:s, s:s?, s:b, s:b, s:o, "
        "s:o}",
        "name", config->name, "machine", choice.type->name, "engine", choice.engine->name,
        "engine_reason", choice.engine_reason, "cpus", (int)config->cpus, "cpu",
        config->cpu_model ? config->cpu_model : "host", "paravirt",
        describe_paravirt(choice.cpuid.paravirt), "memory", (json_int_t)config->memory,
        "boot", boot, "disks", disks, "console", console_name(config->console),
        "console_path", config->console_path, "debug_exit", config->debug_exit,
        "no_reboot", config->no_reboot, "memory_map", describe_memory_map(config->memory),
        "devices", describe_devices(choice.type, config));
    char *text = all ? json_dumps(all, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(all);
    if (!text) {
        /* jansson takes valid UTF-8 only; file names need not be. */
        fail_plain(err, EINVAL, "a name or the command line is not valid UTF-8");
    }
    return text;
}
