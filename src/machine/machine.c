#include "machine/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysinfo.h>

#include "base/log.h"
#include "base/size.h"
#include "device/pc/acpi_pm.h"
#include "device/pc/uart16550.h"
#include "machine/board.h"
#include "machine/board_disk.h"
#include "machine/firmware.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/micro.h"
#include "machine/patient_console.h"
#include "machine/pc.h"
#include "x86/paravirt.h"

const struct machine_type *const machine_table[] = {
    &machine_micro,
    &machine_pc,
    NULL,
};

const struct machine_type *machine_find(const char *name)
{
    for (unsigned i = 0; machine_table[i]; i++) {
        if (strcmp(machine_table[i]->name, name) == 0) {
            return machine_table[i];
        }
    }
    return NULL;
}

/* A configuration with every choice made. */
struct resolved {
    const struct machine_type *type;
    const struct engine_ops *engine;
    char engine_reason[ENGINE_REASON_SIZE]; /* why it */
    struct cpuid_policy cpuid;
};

static int check_memory(uint64_t memory, struct error *err)
{
    char text[SIZE_TEXT], limit[SIZE_TEXT];
    size_format(memory, text);
    if (memory < CONFIG_MEMORY_MIN) {
        return fail_plain(err, EINVAL, "--memory %s: must be at least %s", text,
                          size_format(CONFIG_MEMORY_MIN, limit));
    }
    if (memory % FRAME_SIZE) {
        return fail_plain(err, EINVAL, "--memory %s: must be a multiple of 4K", text);
    }
    struct sysinfo info;
    if (sysinfo(&info) < 0) {
        return fail(err, errno, "--memory %s: cannot tell how much this host has", text);
    }
    uint64_t unit = info.mem_unit ? info.mem_unit : 1;
    uint64_t ram = info.totalram * unit, swap = info.totalswap * unit;
    if (memory > ram + swap) {
        return fail_plain(err, ENOMEM,
                          "--memory %s: this host has %" PRIu64 "M of RAM and %" PRIu64
                          "M of swap",
                          text, ram >> 20, swap >> 20);
    }
    return 0;
}

static int check_address_space(uint64_t memory, unsigned physical_bits, struct error *err)
{
    char text[SIZE_TEXT];
    uint64_t low = memory_map_low_end(memory);
    uint64_t end = memory > low ? MAP_HIGH_RAM + (memory - low) : low;
    if (physical_bits < 64 && end > 1ull << physical_bits) {
        return fail_plain(err, EINVAL,
                          "--memory %s: the processor model has addresses of %u bits",
                          size_format(memory, text), physical_bits);
    }
    return 0;
}

static int check_deterministic(const struct machine_config *config, const char *name,
                               struct error *err)
{
    const struct engine_ops *engine = engine_find(name);
    if (config->cpus != 1) {
        return fail_plain(
            err, EINVAL, "--deterministic: %u processors are never in step; use --cpus 1",
            config->cpus);
    }
    if (engine && !engine->set_limit) {
        return fail_plain(err, ENOTSUP,
                          "--deterministic: the engine %s cannot count instructions; use "
                          "--engine interpreter",
                          engine->name);
    }
    return 0;
}

static int find_engine(const char *name, bool is_deterministic, struct resolved *resolved,
                       struct error *err)
{
    if (is_deterministic && strcmp(name, "auto") == 0) {
        resolved->engine = engine_choose_counting(resolved->engine_reason, err);
        return resolved->engine ? 0 : -err->code;
    }
    if (strcmp(name, "auto") == 0) {
        resolved->engine = engine_choose(resolved->engine_reason, err);
        return resolved->engine ? 0 : -err->code;
    }
    resolved->engine = engine_find(name);
    if (!resolved->engine) {
        return fail_plain(err, EINVAL, "--engine %.64s: there is no such engine", name);
    }
    if (resolved->engine->probe(err) < 0) {
        return fail_within(err, "--engine %s", name);
    }
    snprintf(resolved->engine_reason, sizeof(resolved->engine_reason), "asked for");
    return 0;
}

/* One tick an instruction, and a nanosecond. */
#define DETERMINISTIC_TSC_KHZ 1000000u

static int make_cpuid(struct cpuid_policy *policy, const struct machine_config *config,
                      struct error *err)
{
    const char *model = config->cpu_model ? config->cpu_model : "host";
    struct cpuid_config cpuid = {
        .model = config->cpuid ? NULL : model,
        .cpus = config->cpus,
        /* The host's rate is measured, each time a little differently. */
        .tsc_khz = config->deterministic ? DETERMINISTIC_TSC_KHZ : 0,
    };
    int result =
        paravirt_parse(config->paravirt ? config->paravirt : "all", &cpuid.paravirt, err);
    if (result < 0) {
        return fail_within(err, "--paravirt");
    }
    cpuid.hide_hypervisor = cpuid.paravirt == 0;
    if (cpuid_policy_init(policy, &cpuid, err) < 0) {
        return fail_within(err, "--cpu %.64s", model);
    }
    if (config->cpuid) {
        result = cpuid_policy_check(config->cpuid, policy, err);
        if (result < 0) {
            return result;
        }
        *policy = *config->cpuid;
    }
    return 0;
}

/* What a guest has seen stays; what was asked for by name is given or refused; of what
 * this host has, the guest gets what the engine can give. The model in force is what a
 * snapshot keeps, so that other engines resume it as it was. */
static int fit_engine(struct resolved *resolved, const struct machine_config *config,
                      struct error *err)
{
    const struct engine_ops *engine = resolved->engine;
    const struct cpuid_policy asked = resolved->cpuid;
    char names[200];
    const struct engine_config use = {.cpuid = &asked,
                                      .is_debugged = config->gdb != NULL};
    if (!engine->missing || !engine->missing(&use, names, sizeof(names))) {
        return 0;
    }
    if (config->cpuid) {
        return fail_plain(
            err, ENOTSUP,
            "the guest knows features that the engine %s does not have here "
            "(%s); use --engine interpreter, or start the guest with a --cpu "
            "and --paravirt that fit both",
            engine->name, names);
    }
    int result = engine->fit(&use, &resolved->cpuid, err);
    if (result < 0) {
        return result;
    }
    bool is_model = config->cpu_model && strcmp(config->cpu_model, "host") != 0;
    bool is_list = config->paravirt && strcmp(config->paravirt, "all") != 0;
    if (is_model &&
        memcmp(asked.features, resolved->cpuid.features, sizeof(asked.features)) != 0) {
        return fail_plain(err, ENOTSUP,
                          "--cpu %.64s: the engine %s does not have all of it here (%s)",
                          config->cpu_model, engine->name, names);
    }
    if (is_list && asked.paravirt != resolved->cpuid.paravirt) {
        return fail_plain(err, ENOTSUP,
                          "--paravirt %.64s: the engine %s does not have all of it here "
                          "(%s)",
                          config->paravirt, engine->name, names);
    }
    return 0;
}

static int check_boot(const struct machine_type *type,
                      const struct machine_config *config, struct error *err)
{
    if (!config->kernel && !config->firmware) {
        return fail_plain(err, EINVAL,
                          "nothing to boot: give a kernel with --kernel FILE (a Linux "
                          "bzImage or vmlinux, a PVH or a multiboot image)");
    }
    if (config->firmware && !type->has_firmware) {
        return fail_plain(err, EINVAL,
                          "--firmware: the machine %s has none; use --machine pc",
                          type->name);
    }
    if (config->firmware && (config->kernel || config->initrd)) {
        return fail_plain(err, EINVAL,
                          "--firmware boots what it finds itself; give it or --%s",
                          config->kernel ? "kernel" : "initrd");
    }
    return 0;
}

static int check_code(const struct engine_ops *engine,
                      const struct machine_config *config, struct error *err)
{
    const struct engine_look *look = &config->look;
    const char *option = look->perf_map       ? "--perf-map"
                         : look->trace        ? "--trace"
                         : look->trace_file   ? "--trace-file"
                         : look->symbols      ? "--symbols"
                         : config->code_cache ? "--code-cache"
                                              : NULL;
    if (!option || engine->makes_code) {
        return 0;
    }
    return fail_plain(err, EINVAL,
                      "%s: the engine %s makes no code; use --engine "
                      "translator",
                      option, engine->name);
}

static int resolve_engine(struct resolved *resolved, const struct machine_config *config,
                          struct error *err)
{
    const char *engine = config->engine ? config->engine : "auto";
    int result = 0;
    if (config->deterministic) {
        result = check_deterministic(config, engine, err);
    }
    if (result >= 0) {
        result = find_engine(engine, config->deterministic, resolved, err);
    }
    return result < 0 ? result : check_code(resolved->engine, config, err);
}

static int resolve(struct resolved *resolved, const struct machine_config *config,
                   struct error *err)
{
    const char *machine = config->machine ? config->machine : machine_table[0]->name;
    resolved->type = machine_find(machine);
    if (!resolved->type) {
        return fail_plain(err, EINVAL, "--machine %.64s: there is no such machine",
                          machine);
    }
    if (config->cpus < 1 || config->cpus > VM_CPUS_MAX) {
        return fail_plain(err, EINVAL, "--cpus %u: must be 1 to %d", config->cpus,
                          VM_CPUS_MAX);
    }
    int result = check_memory(config->memory, err);
    if (result < 0) {
        return result;
    }
    result = check_boot(resolved->type, config, err);
    if (result < 0) {
        return result;
    }
    result = resolve_engine(resolved, config, err);
    if (result < 0) {
        return result;
    }
    result = make_cpuid(&resolved->cpuid, config, err);
    result = result < 0 ? result : fit_engine(resolved, config, err);
    if (result < 0) {
        return result;
    }
    return check_address_space(config->memory, resolved->cpuid.physical_bits, err);
}

struct vm *machine_new(const struct machine_config *config,
                       const struct console_port *console, struct error *err)
{
    struct resolved resolved;
    if (resolve(&resolved, config, err) < 0) {
        return NULL;
    }
    log_info("engine %s; %s", resolved.engine->name, resolved.engine_reason);
    const struct vm_config vm_config = {
        .memory_limit = board_memory_size(config),
        .cpus = config->cpus,
        .engine = resolved.engine,
        .cpuid = resolved.cpuid,
        .no_reboot = config->no_reboot,
        .is_deterministic = config->deterministic,
        .is_debugged = config->gdb != NULL,
        .look = config->look,
        .code_cache = config->code_cache,
    };
    struct vm *vm = vm_new(&vm_config, err);
    if (vm && resolved.type->build(vm, config, console, err) < 0) {
        vm_free(vm);
        return NULL;
    }
    return vm;
}

/* What is refused is taken all the same: nobody is to wait for it. */
static void refuse_input(struct vm *vm)
{
    static atomic_flag was_told = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&was_told)) {
        log_warning("input is refused: nothing from outside reaches the guest of a "
                    "deterministic run");
    }
}

unsigned machine_console_input(struct vm *vm, const uint8_t *data, unsigned size)
{
    if (vm->config.is_deterministic) {
        refuse_input(vm);
        return size;
    }
    return uart16550_input(board_serial(board_find(vm)), data, size);
}

void machine_console_ready(struct vm *vm)
{
    if (vm->config.is_deterministic) {
        patient_console_wake(board_patient_console(board_find(vm)));
    } else {
        uart16550_ready(board_serial(board_find(vm)));
    }
}

void machine_console_resume(struct vm *vm)
{
    uart16550_ready(board_serial(board_find(vm)));
}

int machine_power_button(struct vm *vm, struct error *err)
{
    if (vm->config.is_deterministic) {
        return fail_plain(err, EPERM,
                          "the machine's run is deterministic: nothing from outside "
                          "reaches its guest; doppel kill ends it");
    }
    acpi_pm_power_button(board_pm(board_find(vm)));
    return 0;
}

/* --- Description --- */

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
    struct resolved resolved;
    if (resolve(&resolved, config, err) < 0) {
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
        "name", config->name, "machine", resolved.type->name, "engine",
        resolved.engine->name, "engine_reason", resolved.engine_reason, "cpus",
        (int)config->cpus, "cpu", config->cpu_model ? config->cpu_model : "host",
        "paravirt", describe_paravirt(resolved.cpuid.paravirt), "memory",
        (json_int_t)config->memory, "boot", boot, "disks", disks, "console",
        console_name(config->console), "console_path", config->console_path, "debug_exit",
        config->debug_exit, "no_reboot", config->no_reboot, "memory_map",
        describe_memory_map(config->memory), "devices",
        describe_devices(resolved.type, config));
    char *text = all ? json_dumps(all, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(all);
    if (!text) {
        /* jansson takes valid UTF-8 only; file names need not be. */
        fail_plain(err, EINVAL, "a name or the command line is not valid UTF-8");
    }
    return text;
}
