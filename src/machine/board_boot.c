#include "machine/board_parts.h"

#include <errno.h>

#include "device/pci/pci_host.h"
#include "dispatcher/vcpu.h"
#include "machine/acpi.h"
#include "machine/bios.h"
#include "machine/kernel.h"
#include "machine/memory_map.h"
#include "machine/shadow.h"

/* What firmware leaves in the MTRRs: write-back but for the hole below 4G (SDM 3A 12.11).
 * All processors alike, or Linux complains. */
static void mtrr_init(struct x86_state *state, unsigned physical_bits)
{
    uint64_t addresses = (1ull << physical_bits) - 1;
    state->mtrr = (struct x86_mtrr){.default_type = 1u << 11 | 6 /* enabled, WB */};
    state->mtrr.variable[0].base = MAP_LOW_RAM_END; /* UC */
    state->mtrr.variable[0].mask =
        (addresses & ~(MAP_HIGH_RAM - MAP_LOW_RAM_END - 1)) | 1u << 11;
}

struct acpi_config board_acpi(const struct board *board)
{
    return (struct acpi_config){
        .cpus = board->vm->cpu_count,
        .has_pci = board->pci != NULL,
        .virtio_count = board->disks.count,
        .virtio = board->disks.place,
    };
}

static int put_acpi_tables(struct board *board, struct error *err)
{
    uint8_t tables[16384];
    const struct acpi_config config = board_acpi(board);
    int size = acpi_build(&config, MAP_BIOS_AREA, tables, sizeof(tables), err);
    if (size < 0) {
        return size;
    }
    if (!ram_write(board->vm->memory, MAP_BIOS_AREA, tables, (uint64_t)size)) {
        return fail_plain(err, ENOMEM, "no guest memory for the ACPI tables");
    }
    return 0;
}

static void set_processors(struct vm *vm, const struct x86_state *entry)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct x86_state state;
        struct engine_vcpu *vcpu = vm->vcpu[i]->engine;
        if (i == 0) {
            state = *entry;
        } else {
            vm->engine_ops->get_state(vcpu, &state);
        }
        mtrr_init(&state, vm->config.cpuid.physical_bits);
        vm->engine_ops->set_state(vcpu, &state);
    }
}

int board_boot_firmware(void *opaque, struct vm *vm, struct error *err)
{
    return 0;
}

int board_boot(void *opaque, struct vm *vm, struct error *err)
{
    struct board *board = opaque;
    struct x86_state entry;
    int result = board->pci ? pci_host_assign(board->pci, err) : 0;
    if (result < 0) {
        return result;
    }
    if (board->plan->has_shadow) {
        shadow_open(board);
    }
    result = put_acpi_tables(board, err);
    if (result < 0) {
        return result;
    }
    if (board->plan->has_bios) {
        result = bios_leave(vm, err);
        if (result < 0) {
            return result;
        }
    }
    const struct boot_target target = {
        .memory = vm->memory,
        .ram = board->ram,
        .kernel_name = board->kernel_path,
        .command_line = board->command_line,
        .initrd = board->initrd_path ? &board->initrd : NULL,
        .rsdp = MAP_BIOS_AREA,
        .use_cache = true,
    };
    result = kernel_load(&board->kernel, &target, &entry, err);
    if (result < 0) {
        fail_within(err, "cannot boot %.200s", board->kernel_path);
        return result;
    }
    set_processors(vm, &entry);
    return 0;
}
