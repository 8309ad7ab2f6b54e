/*
 * All devices of a PC, used as a hostile guest would: any access of any size to any
 * register at any time. An input is a series of 8-byte commands. Timers must not storm:
 * rig_advance checks that a step in time runs a bounded number of them.
 */

#include <stdlib.h>
#include <string.h>

#include "../tests/unit/device/rig.h"
#include "input.h"

#define COMMAND_SIZE 8

enum operation { READ, WRITE, ADVANCE, WRITE_TWICE, INPUT, ACKNOWLEDGE, RESET, RELOAD };

/* Saves a device and loads it back, which a guest must not be able to notice. */
static void reload(struct device *device)
{
    size_t size = device_state_size(device->type);
    uint8_t *buffer = malloc(size + 1);
    device_save(device, buffer);
    if (device_load(device, buffer, size, NULL) < 0) {
        abort();
    }
    free(buffer);
}

static void run_command(struct rig *rig, const uint8_t *command)
{
    unsigned region = command[1], size = 1u << (command[0] >> 3 & 3);
    uint16_t offset = (uint16_t)(command[2] | command[3] << 8);
    uint32_t value;
    memcpy(&value, command + 4, sizeof(value));
    struct device *device = rig->device[region % rig->device_count];
    switch ((enum operation)(command[0] & 7)) {
    case READ:
        rig_read(rig, region, offset, size);
        break;
    case WRITE:
        rig_write(rig, region, offset, size, value);
        break;
    case ADVANCE: /* from nanoseconds to weeks */
        rig_advance(rig, (uint64_t)value << (offset % 21));
        break;
    case WRITE_TWICE: /* an index and its data, a count's two bytes */
        rig_write(rig, region, offset, size, value & 0xff);
        rig_write(rig, region, offset ^ (value >> 24 & 1), size, value >> 8);
        break;
    case INPUT:
        uart16550_input(rig->uart, command, COMMAND_SIZE);
        uart16550_ready(rig->uart);
        break;
    case ACKNOWLEDGE:
        pic8259_acknowledge(rig->pic);
        ioapic_eoi(rig->ioapic, (uint8_t)value);
        break;
    case RESET:
        device_reset(device);
        break;
    case RELOAD:
        reload(device);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rig rig;
    rig_init(&rig);
    rig_assign(&rig);
    for (; size >= COMMAND_SIZE; data += COMMAND_SIZE, size -= COMMAND_SIZE) {
        run_command(&rig, data);
    }
    rig_fini(&rig);
    return 0;
}
