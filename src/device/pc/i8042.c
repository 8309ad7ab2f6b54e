#include "device/pc/i8042.h"

#include <errno.h>

#define STATUS_OUTPUT_FULL 0x01
#define STATUS_SYSTEM      0x04
#define STATUS_COMMAND     0x08
#define STATUS_UNLOCKED    0x10
#define STATUS_TIMEOUT     0x40

#define CONFIG_INTERRUPT   0x01
#define CONFIG_SYSTEM      0x04
#define CONFIG_TRANSLATE   0x40

#define OUTPUT_NO_RESET    0x01
#define OUTPUT_A20         0x02
#define OUTPUT_FIXED       0xcc /* clock and data lines idle, bits 2 and 3 unused */
#define OUTPUT_FULL        0x10

#define PORT_A_RESET       0x01
#define PORT_A_A20         0x02

#define INPUT_UNLOCKED     0x80

#define SELF_TEST_PASSED   0x55
#define PORT_TEST_PASSED   0x00
#define PORT_TEST_CLOCK    0x01 /* clock line stuck low: nothing is connected */
#define KEYBOARD_RESEND    0xfe
#define COMMAND_NONE       0x00

struct i8042 {
    struct device device;
    struct irq_line irq;
    struct i8042_actions actions;
    uint8_t ram[32];     /* byte 0 is the command byte */
    uint8_t command;     /* waits for its parameter, or COMMAND_NONE */
    uint8_t was_command; /* the last write went to the command port */
    uint8_t output, is_full, has_timed_out;
    uint8_t a20;
};

static void update_irq(struct i8042 *i8042)
{
    irq_set(&i8042->irq, i8042->is_full && i8042->ram[0] & CONFIG_INTERRUPT);
}

/* Puts a byte where the processor reads; each is a new edge of the interrupt. */
static void respond(struct i8042 *i8042, uint8_t byte)
{
    irq_set(&i8042->irq, 0);
    i8042->output = byte;
    i8042->is_full = 1;
    i8042->has_timed_out = 0;
}

/* Nobody answers. */
static void time_out(struct i8042 *i8042)
{
    respond(i8042, KEYBOARD_RESEND);
    i8042->has_timed_out = 1;
}

static void set_a20(struct i8042 *i8042, bool is_enabled)
{
    i8042->a20 = is_enabled;
    if (i8042->actions.set_a20) {
        i8042->actions.set_a20(i8042->actions.opaque, is_enabled);
    }
}

static uint8_t output_port(const struct i8042 *i8042)
{
    return OUTPUT_FIXED | OUTPUT_NO_RESET | (i8042->a20 ? OUTPUT_A20 : 0) |
           (i8042->is_full ? OUTPUT_FULL : 0);
}

static void write_output_port(struct i8042 *i8042, uint8_t value)
{
    set_a20(i8042, value & OUTPUT_A20);
    if (!(value & OUTPUT_NO_RESET)) {
        i8042->actions.reset(i8042->actions.opaque);
    }
}

/* Commands whose low bits are an operand. */
static bool write_ranged_command(struct i8042 *i8042, uint8_t command)
{
    switch (command & 0xe0) {
    case 0x20:
        respond(i8042, i8042->ram[command & 31]);
        return true;
    case 0x60:
        i8042->command = command;
        return true;
    default:
        break;
    }
    if (command >= 0xf0) { /* pulse the output port's bits that are 0 */
        if (!(command & OUTPUT_NO_RESET)) {
            i8042->actions.reset(i8042->actions.opaque);
        }
        return true;
    }
    return false;
}

static void write_command(struct i8042 *i8042, uint8_t command)
{
    i8042->command = COMMAND_NONE;
    if (write_ranged_command(i8042, command)) {
        return;
    }
    switch (command) {
    case 0xa9: /* test the auxiliary port */
        respond(i8042, PORT_TEST_CLOCK);
        break;
    case 0xaa:
        i8042->ram[0] |= CONFIG_SYSTEM;
        respond(i8042, SELF_TEST_PASSED);
        break;
    case 0xab:
        respond(i8042, PORT_TEST_PASSED);
        break;
    case 0xad: /* disable, enable the keyboard: command byte, bit 4 */
        i8042->ram[0] |= 0x10;
        break;
    case 0xae:
        i8042->ram[0] &= ~0x10;
        break;
    case 0xc0:
        respond(i8042, INPUT_UNLOCKED);
        break;
    case 0xd0:
        respond(i8042, output_port(i8042));
        break;
    case 0xd1: /* these take a parameter */
    case 0xd2:
    case 0xd3:
    case 0xd4:
        i8042->command = command;
        break;
    case 0xdd:
        set_a20(i8042, false);
        break;
    case 0xdf:
        set_a20(i8042, true);
        break;
    default: /* the others act on what is not there, or do nothing */
        break;
    }
}

static void write_parameter(struct i8042 *i8042, uint8_t command, uint8_t value)
{
    switch (command) {
    case 0xd1:
        write_output_port(i8042, value);
        break;
    case 0xd2: /* as if from the keyboard */
    case 0xd3: /* as if from the mouse; without one, the byte is not marked as its */
        respond(i8042, value);
        break;
    case COMMAND_NONE: /* for the keyboard */
    case 0xd4:         /* for the mouse */
        time_out(i8042);
        break;
    default: /* 60h to 7fh */
        i8042->ram[command & 31] = value;
        break;
    }
}

static uint64_t data_read(struct device *device, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    i8042->is_full = 0;
    i8042->has_timed_out = 0;
    update_irq(i8042);
    return i8042->output;
}

static void data_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    uint8_t command = i8042->command;
    i8042->command = COMMAND_NONE;
    i8042->was_command = 0;
    write_parameter(i8042, command, (uint8_t)value);
    update_irq(i8042);
}

static uint64_t status_read(struct device *device, uint64_t offset, unsigned size)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    return STATUS_UNLOCKED | (i8042->is_full ? STATUS_OUTPUT_FULL : 0) |
           (i8042->ram[0] & CONFIG_SYSTEM ? STATUS_SYSTEM : 0) |
           (i8042->was_command ? STATUS_COMMAND : 0) |
           (i8042->has_timed_out ? STATUS_TIMEOUT : 0);
}

static void command_write(struct device *device, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    i8042->was_command = 1;
    write_command(i8042, (uint8_t)value);
    update_irq(i8042);
}

static uint64_t port_a_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct i8042 *)device)->a20 ? PORT_A_A20 : 0;
}

static void port_a_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    set_a20(i8042, value & PORT_A_A20);
    if (value & PORT_A_RESET) {
        i8042->actions.reset(i8042->actions.opaque);
    }
}

static struct region one_port(struct i8042 *i8042, uint64_t base)
{
    return (struct region){
        .device = &i8042->device, .base = base, .size = 1, .min_size = 1, .max_size = 1};
}

struct region i8042_data_region(struct i8042 *i8042, uint64_t base)
{
    struct region region = one_port(i8042, base);
    region.read = data_read;
    region.write = data_write;
    return region;
}

struct region i8042_command_region(struct i8042 *i8042, uint64_t base)
{
    struct region region = one_port(i8042, base);
    region.read = status_read;
    region.write = command_write;
    return region;
}

struct region i8042_port_a_region(struct i8042 *i8042, uint64_t base)
{
    struct region region = one_port(i8042, base);
    region.read = port_a_read;
    region.write = port_a_write;
    return region;
}

/* As firmware leaves it: tested, interrupt and translation on, A20 open. */
static void i8042_reset(struct device *device)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    for (unsigned i = 0; i < sizeof(i8042->ram); i++) {
        i8042->ram[i] = 0;
    }
    i8042->ram[0] = CONFIG_INTERRUPT | CONFIG_SYSTEM | CONFIG_TRANSLATE;
    i8042->command = COMMAND_NONE;
    i8042->was_command = 0;
    i8042->output = 0;
    i8042->is_full = 0;
    i8042->has_timed_out = 0;
    set_a20(i8042, true);
    update_irq(i8042);
}

static void i8042_loaded(struct device *device)
{
    struct i8042 *i8042 = (struct i8042 *)device;
    i8042->a20 = i8042->a20 != 0;
    set_a20(i8042, i8042->a20);
    update_irq(i8042);
}

static void i8042_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field i8042_fields[] = {
    DEVICE_FIELD_ARRAY(struct i8042, ram),   DEVICE_FIELD(struct i8042, command),
    DEVICE_FIELD(struct i8042, was_command), DEVICE_FIELD(struct i8042, output),
    DEVICE_FIELD(struct i8042, is_full),     DEVICE_FIELD(struct i8042, has_timed_out),
    DEVICE_FIELD(struct i8042, a20),         DEVICE_FIELD_END,
};

static const struct device_type i8042_type = {
    .name = "i8042",
    .fields = i8042_fields,
    .reset = i8042_reset,
    .loaded = i8042_loaded,
    .free = i8042_free,
};

struct i8042 *i8042_new(const char *name, struct irq_line irq,
                        const struct i8042_actions *actions, struct error *err)
{
    struct i8042 *i8042 = calloc(1, sizeof(*i8042));
    if (!i8042) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&i8042->device, &i8042_type, name);
    i8042->irq = irq;
    i8042->actions = *actions;
    i8042_reset(&i8042->device);
    return i8042;
}

struct device *i8042_device(struct i8042 *i8042)
{
    return &i8042->device;
}
