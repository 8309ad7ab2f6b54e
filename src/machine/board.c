#include "machine/board_parts.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "machine/firmware.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/shadow.h"

static void board_reset(struct device *device)
{
}

static void board_free(struct device *device)
{
    struct board *board = container_of(device, struct board, device);
    patient_console_fini(&board->patient);
    board_disks_free(&board->disks);
    image_close(&board->kernel);
    image_close(&board->initrd);
    image_close(&board->firmware);
    free(board->name);
    free(board->machine);
    free(board->cpu_model);
    free(board->paravirt);
    free(board->kernel_path);
    free(board->initrd_path);
    free(board->firmware_path);
    free(board->command_line);
    device_fini(&board->device);
    free(board);
}

static const struct device_field board_fields[] = {DEVICE_FIELD_END};

static const struct device_type board_type = {
    .name = "board",
    .fields = board_fields,
    .reset = board_reset,
    .free = board_free,
};

struct board *board_find(struct vm *vm)
{
    assert(vm->device_count > 0 && vm->device[0]->type == &board_type);
    return container_of(vm->device[0], struct board, device);
}

struct uart16550 *board_serial(struct board *board)
{
    return board->serial;
}

struct patient_console *board_patient_console(struct board *board)
{
    return &board->patient;
}

struct acpi_pm *board_pm(struct board *board)
{
    return board->pm;
}

struct machine_config board_config(const struct board *board)
{
    return (struct machine_config){
        .name = board->name,
        .machine = board->machine,
        .engine = board->vm->engine_ops->name,
        .cpus = board->vm->cpu_count,
        .memory = board->ram,
        .cpu_model = board->cpu_model,
        .paravirt = board->paravirt,
        .firmware = board->firmware_path,
        .kernel = board->kernel_path,
        .initrd = board->initrd_path,
        .append = board->command_line,
        .disk = board->disks.config,
        .disk_count = board->disks.count,
        .debug_exit = board->has_debug_exit,
        .no_reboot = board->vm->config.no_reboot,
        .deterministic = board->vm->config.is_deterministic,
    };
}

const struct image *board_kernel(const struct board *board)
{
    return board->kernel_path ? &board->kernel : NULL;
}

const struct image *board_initrd(const struct board *board)
{
    return board->initrd_path ? &board->initrd : NULL;
}

const struct image *board_firmware(const struct board *board)
{
    return board->firmware_path ? &board->firmware : NULL;
}

/* --- Memory --- */

uint64_t board_memory_size(const struct machine_config *config)
{
    return config->memory + (config->firmware ? FIRMWARE_SIZE_MAX : 0);
}

static int add_ram(struct vm *vm, gpa_t start, gpa_t end, struct error *err)
{
    if (start >= end) {
        return 0;
    }
    int64_t frame = memory_add_frames(vm->memory, end - start, err);
    if (frame < 0) {
        return (int)frame;
    }
    return memory_map(vm->memory, start, end - start, (frame_t)frame, SLOT_RAM, err);
}

/* The firmware's ROM ends at 4G, and its last part shows below 1M. */
static int add_shadowed(struct board *board, struct error *err)
{
    if (!board->firmware_path) {
        return shadow_map(board, FRAME_NONE, 0, err);
    }
    int64_t first = firmware_map(&board->firmware, board->vm->memory, err);
    if (first < 0) {
        return (int)first;
    }
    uint64_t size = board->firmware.size, low = firmware_low_size(&board->firmware);
    return shadow_map(board, (frame_t)first + (frame_t)((size - low) / FRAME_SIZE), low,
                      err);
}

static int add_memory(struct board *board, struct error *err)
{
    struct vm *vm = board->vm;
    uint64_t low_end = memory_map_low_end(board->ram);
    int result = add_ram(vm, 0, MAP_VGA, err);
    if (result >= 0 && board->plan->has_adapter_memory) {
        result = add_ram(vm, MAP_VGA, MAP_ADAPTER_ROMS, err);
    }
    if (result >= 0 && board->plan->has_shadow) {
        result = add_shadowed(board, err);
    } else if (result >= 0) {
        result = add_ram(vm, MAP_BIOS_AREA, MAP_BIOS_AREA + MAP_BIOS_AREA_SIZE, err);
    }
    if (result >= 0) {
        result = add_ram(vm, MAP_KERNEL, low_end, err);
    }
    if (result >= 0) {
        result = add_ram(vm, MAP_HIGH_RAM, MAP_HIGH_RAM + (board->ram - low_end), err);
    }
    return result;
}

/* False when memory is short. */
static bool copy_text(char **copy, const char *text)
{
    *copy = text ? strdup(text) : NULL;
    return *copy || !text;
}

static int copy_config(struct board *board, const struct machine_config *config,
                       struct error *err)
{
    board->ram = config->memory;
    board->has_debug_exit = config->debug_exit;
    bool is_whole = copy_text(&board->name, config->name) &&
                    copy_text(&board->machine, config->machine) &&
                    copy_text(&board->cpu_model, config->cpu_model) &&
                    copy_text(&board->paravirt, config->paravirt) &&
                    copy_text(&board->kernel_path, config->kernel) &&
                    copy_text(&board->initrd_path, config->initrd) &&
                    copy_text(&board->firmware_path, config->firmware) &&
                    copy_text(&board->command_line, config->append ? config->append : "");
    return is_whole ? 0 : fail(err, ENOMEM, "cannot make the machine");
}

static int open_files(struct board *board, const struct machine_config *config,
                      struct error *err)
{
    struct boot_probe probe;
    if (config->firmware) {
        return firmware_open(&board->firmware, config->firmware, err) < 0
                   ? fail_within(err, "--firmware %.200s", config->firmware)
                   : 0;
    }
    if (image_open(&board->kernel, config->kernel, err) < 0 ||
        !kernel_detect(&board->kernel, &probe, err)) {
        return fail_within(err, "cannot boot %.200s", config->kernel);
    }
    if (config->initrd && image_open(&board->initrd, config->initrd, err) < 0) {
        return fail_within(err, "--initrd %.200s", config->initrd);
    }
    return 0;
}

int board_build(struct vm *vm, const struct machine_config *config,
                const struct board_plan *plan, const struct console_port *console,
                struct error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board) {
        return fail(err, ENOMEM, "cannot make the machine");
    }
    device_init(&board->device, &board_type, "board");
    board->vm = vm;
    board->plan = plan;
    patient_console_init(&board->patient, console, vm);
    board->console =
        vm->config.is_deterministic ? patient_console_port(&board->patient) : *console;
    board->kernel = board->initrd = board->firmware = (struct image)IMAGE_NONE;
    if (vm_add_device(vm, &board->device, err) < 0 ||
        copy_config(board, config, err) < 0 || open_files(board, config, err) < 0 ||
        add_memory(board, err) < 0 || board_add_devices(board, config, err) < 0) {
        return -err->code;
    }
    vm->boot = board->firmware_path ? board_boot_firmware : board_boot;
    vm->boot_opaque = board;
    return 0;
}
