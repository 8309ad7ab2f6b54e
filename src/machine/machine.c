#include "machine/machine.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

#include "base/log.h"
#include "device/pc/acpi_pm.h"
#include "device/pc/uart16550.h"
#include "machine/board.h"
#include "machine/micro.h"
#include "machine/patient_console.h"
#include "machine/pc.h"
#include "machine/resolve.h"

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

struct vm *machine_new(const struct machine_config *config,
                       const struct console_port *console, struct error *err)
{
    struct machine_choice choice;
    if (machine_resolve(&choice, config, err) < 0) {
        return NULL;
    }
    log_info("engine %s; %s", choice.engine->name, choice.engine_reason);
    const struct vm_config vm_config = {
        .memory_limit = board_memory_size(config),
        .cpus = config->cpus,
        .engine = choice.engine,
        .cpuid = choice.cpuid,
        .no_reboot = config->no_reboot,
        .is_deterministic = config->deterministic,
        .is_debugged = config->gdb != NULL,
        .look = config->look,
        .code_cache = config->code_cache,
    };
    struct vm *vm = vm_new(&vm_config, err);
    if (vm && choice.type->build(vm, config, console, err) < 0) {
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
