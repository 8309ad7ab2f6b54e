#include "device/pc/pic8259.h"

#include <errno.h>

/* Interrupt inputs that are always edge-triggered: timer, keyboard, cascade; RTC, FPU. */
#define ELCR_MASTER_WRITABLE 0xf8
#define ELCR_SLAVE_WRITABLE  0xde

#define CASCADE_INPUT        2
#define SPURIOUS_INPUT       7
#define NO_INPUT             (-1)

#define ICW1_ICW4            0x01
#define ICW1_SINGLE          0x02
#define ICW1_LEVEL           0x08
#define ICW1                 0x10
#define ICW4_AEOI            0x02
#define ICW4_SFNM            0x10
#define OCW3                 0x08

/* Which initialization word the data port expects next. */
enum init_step { INIT_DONE, INIT_ICW2, INIT_ICW3, INIT_ICW4 };

struct chip {
    uint8_t lines;   /* levels of the inputs */
    uint8_t latched; /* rising edges not yet acknowledged */
    uint8_t isr, imr;
    uint8_t elcr;
    uint8_t level_mode; /* ICW1.LTIM: all inputs are level-triggered */
    uint8_t vector_base;
    uint8_t icw3;
    uint8_t init_step;
    uint8_t wants_icw4, is_single;
    uint8_t lowest; /* the input with the lowest priority */
    uint8_t auto_eoi, rotate_on_auto_eoi;
    uint8_t special_mask, special_fully_nested;
    uint8_t reads_isr, polled;
};

struct pic8259 {
    struct device device;
    struct irq_line output;
    struct chip chip[2];
};

static uint8_t level_triggered(const struct chip *chip)
{
    return chip->level_mode ? 0xff : chip->elcr;
}

static uint8_t chip_irr(const struct chip *chip)
{
    uint8_t level = level_triggered(chip);
    return (chip->lines & level) | (chip->latched & ~level);
}

/* The input of highest priority within set, or NO_INPUT. */
static int chip_highest(const struct chip *chip, uint8_t set)
{
    for (unsigned i = 1; i <= 8; i++) {
        unsigned input = (chip->lowest + i) & 7;
        if (set & (1u << input)) {
            return (int)input;
        }
    }
    return NO_INPUT;
}

static unsigned chip_rank(const struct chip *chip, int input)
{
    return (unsigned)(input - chip->lowest - 1) & 7;
}

/* The input the chip asks the processor to serve, or NO_INPUT. */
static int chip_request(const struct chip *chip, bool is_master)
{
    if (chip->init_step != INIT_DONE) {
        return NO_INPUT;
    }
    int input = chip_highest(chip, chip_irr(chip) & ~chip->imr);
    uint8_t in_service = chip->isr;
    if (chip->special_mask) {
        in_service &= ~chip->imr;
    }
    int serving = chip_highest(chip, in_service);
    if (input == NO_INPUT || serving == NO_INPUT) {
        return input;
    }
    if (is_master && chip->special_fully_nested && input == CASCADE_INPUT &&
        serving == CASCADE_INPUT) {
        return input; /* the slave has a request above the one in service */
    }
    return chip_rank(chip, input) < chip_rank(chip, serving) ? input : NO_INPUT;
}

/* A level on an input. An edge-triggered request lasts while the input stays high (data
 * sheet: otherwise the acknowledge yields the spurious input 7). */
static void chip_set_input(struct chip *chip, unsigned input, int level)
{
    uint8_t bit = (uint8_t)(1u << input);
    if (level) {
        chip->latched |= bit & ~chip->lines;
        chip->lines |= bit;
    } else {
        chip->latched &= ~bit;
        chip->lines &= ~bit;
    }
}

static void pic_update(struct pic8259 *pic)
{
    chip_set_input(&pic->chip[0], CASCADE_INPUT,
                   chip_request(&pic->chip[1], false) != NO_INPUT);
    irq_set(&pic->output, chip_request(&pic->chip[0], true) != NO_INPUT);
}

static void chip_end(struct chip *chip, int input, bool rotates)
{
    if (input == NO_INPUT) {
        return;
    }
    chip->isr &= ~(1u << input);
    if (rotates) {
        chip->lowest = (uint8_t)input;
    }
}

/* Acknowledge cycle of one chip: the input served, SPURIOUS_INPUT if there is none. */
static int chip_acknowledge(struct pic8259 *pic, unsigned n)
{
    struct chip *chip = &pic->chip[n];
    int input = chip_request(chip, n == 0);
    if (input == NO_INPUT) {
        return SPURIOUS_INPUT;
    }
    chip->latched &= ~(1u << input);
    if (chip->auto_eoi) {
        if (chip->rotate_on_auto_eoi) {
            chip->lowest = (uint8_t)input;
        }
    } else {
        chip->isr |= 1u << input;
    }
    if (n == 1) {
        /* INT falls during the acknowledge, so a further request is a new edge. */
        chip_set_input(&pic->chip[0], CASCADE_INPUT, 0);
    }
    return input;
}

int pic8259_acknowledge(struct pic8259 *pic)
{
    pthread_mutex_lock(&pic->device.lock);
    const struct chip *chip = &pic->chip[0];
    int input = chip_acknowledge(pic, 0);
    if (input == CASCADE_INPUT && !chip->is_single) {
        chip = &pic->chip[1];
        input = chip_acknowledge(pic, 1);
    }
    int vector = chip->vector_base | input;
    pic_update(pic);
    pthread_mutex_unlock(&pic->device.lock);
    return vector;
}

static void pic_set_input(void *opaque, unsigned number, int level)
{
    struct pic8259 *pic = opaque;
    if (number == CASCADE_INPUT) {
        return;
    }
    pthread_mutex_lock(&pic->device.lock);
    chip_set_input(&pic->chip[number >> 3], number & 7, level);
    pic_update(pic);
    pthread_mutex_unlock(&pic->device.lock);
}

static enum irq_state pic_input_state(void *opaque, unsigned number)
{
    struct pic8259 *pic = opaque;
    pthread_mutex_lock(&pic->device.lock);
    const struct chip *chip = &pic->chip[number >> 3];
    uint8_t bit = (uint8_t)(1u << (number & 7));
    enum irq_state state = chip->init_step != INIT_DONE || chip->imr & bit ? IRQ_MASKED
                           : chip_irr(chip) & bit                          ? IRQ_WAITING
                                                                           : IRQ_TAKEN;
    pthread_mutex_unlock(&pic->device.lock);
    return state;
}

struct irq_line pic8259_input(struct pic8259 *pic, unsigned n)
{
    return (struct irq_line){pic_set_input, pic, n & 15, pic_input_state};
}

/* What the data sheet lists under ICW1; an input must rise again to be seen. */
static void chip_write_icw1(struct chip *chip, uint8_t value)
{
    chip->latched = 0;
    chip->isr = 0;
    chip->imr = 0;
    chip->lowest = 7;
    chip->special_mask = 0;
    chip->reads_isr = 0;
    chip->polled = 0;
    chip->auto_eoi = 0;
    chip->rotate_on_auto_eoi = 0;
    chip->special_fully_nested = 0;
    chip->level_mode = (value & ICW1_LEVEL) != 0;
    chip->wants_icw4 = (value & ICW1_ICW4) != 0;
    chip->is_single = (value & ICW1_SINGLE) != 0;
    chip->init_step = INIT_ICW2;
}

/* R, SL, EOI in bits 7 to 5, a level in bits 2 to 0. */
static void chip_write_ocw2(struct chip *chip, uint8_t value)
{
    int level = value & 7;
    uint8_t in_service = chip->isr;
    if (chip->special_mask) {
        in_service &= ~chip->imr; /* not reached by a non-specific EOI in this mode */
    }
    switch (value >> 5) {
    case 0:
        chip->rotate_on_auto_eoi = 0;
        break;
    case 1:
        chip_end(chip, chip_highest(chip, in_service), false);
        break;
    case 3:
        chip_end(chip, level, false);
        break;
    case 4:
        chip->rotate_on_auto_eoi = 1;
        break;
    case 5:
        chip_end(chip, chip_highest(chip, in_service), true);
        break;
    case 6:
        chip->lowest = (uint8_t)level;
        break;
    case 7:
        chip_end(chip, level, true);
        break;
    default: /* 2: no operation */
        break;
    }
}

static void chip_write_ocw3(struct chip *chip, uint8_t value)
{
    chip->polled = (value & 0x04) != 0;
    if (value & 0x02) {
        chip->reads_isr = value & 0x01;
    }
    if (value & 0x40) {
        chip->special_mask = (value & 0x20) != 0;
    }
}

static void chip_write_data(struct chip *chip, uint8_t value)
{
    switch (chip->init_step) {
    case INIT_ICW2:
        chip->vector_base = value & 0xf8;
        chip->init_step = !chip->is_single   ? INIT_ICW3
                          : chip->wants_icw4 ? INIT_ICW4
                                             : INIT_DONE;
        break;
    case INIT_ICW3:
        chip->icw3 = value;
        chip->init_step = chip->wants_icw4 ? INIT_ICW4 : INIT_DONE;
        break;
    case INIT_ICW4:
        chip->auto_eoi = (value & ICW4_AEOI) != 0;
        chip->special_fully_nested = (value & ICW4_SFNM) != 0;
        chip->init_step = INIT_DONE;
        break;
    default:
        chip->imr = value;
        break;
    }
}

static void pic_write(struct pic8259 *pic, unsigned n, uint64_t offset, uint8_t value)
{
    struct chip *chip = &pic->chip[n];
    if (offset & 1) {
        chip_write_data(chip, value);
    } else if (value & ICW1) {
        chip_write_icw1(chip, value);
    } else if (value & OCW3) {
        chip_write_ocw3(chip, value);
    } else {
        chip_write_ocw2(chip, value);
    }
    pic_update(pic);
}

/* A poll takes the place of the acknowledge cycle (data sheet, "Poll Command"). */
static uint8_t chip_poll(struct pic8259 *pic, unsigned n)
{
    struct chip *chip = &pic->chip[n];
    chip->polled = 0;
    if (chip_request(chip, n == 0) == NO_INPUT) {
        return 0;
    }
    uint8_t result = (uint8_t)(0x80 | chip_acknowledge(pic, n));
    pic_update(pic);
    return result;
}

static uint8_t pic_read(struct pic8259 *pic, unsigned n, uint64_t offset)
{
    struct chip *chip = &pic->chip[n];
    if (chip->polled) {
        return chip_poll(pic, n);
    }
    if (offset & 1) {
        return chip->imr;
    }
    return chip->reads_isr ? chip->isr : chip_irr(chip);
}

static uint64_t master_read(struct device *device, uint64_t offset, unsigned size)
{
    return pic_read((struct pic8259 *)device, 0, offset);
}

static void master_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    pic_write((struct pic8259 *)device, 0, offset, (uint8_t)value);
}

static uint64_t slave_read(struct device *device, uint64_t offset, unsigned size)
{
    return pic_read((struct pic8259 *)device, 1, offset);
}

static void slave_write(struct device *device, uint64_t offset, unsigned size,
                        uint64_t value)
{
    pic_write((struct pic8259 *)device, 1, offset, (uint8_t)value);
}

static uint64_t elcr_read(struct device *device, uint64_t offset, unsigned size)
{
    return ((struct pic8259 *)device)->chip[offset & 1].elcr;
}

static void elcr_write(struct device *device, uint64_t offset, unsigned size,
                       uint64_t value)
{
    struct pic8259 *pic = (struct pic8259 *)device;
    uint8_t writable = offset & 1 ? ELCR_SLAVE_WRITABLE : ELCR_MASTER_WRITABLE;
    pic->chip[offset & 1].elcr = (uint8_t)value & writable;
    pic_update(pic);
}

struct region pic8259_region(struct pic8259 *pic, enum pic8259_block block, uint64_t base)
{
    static const struct {
        uint64_t (*read)(struct device *, uint64_t, unsigned);
        void (*write)(struct device *, uint64_t, unsigned, uint64_t);
    } access[] = {
        [PIC8259_MASTER] = {master_read, master_write},
        [PIC8259_SLAVE] = {slave_read, slave_write},
        [PIC8259_ELCR] = {elcr_read, elcr_write},
    };
    return (struct region){.device = &pic->device,
                           .base = base,
                           .size = 2,
                           .min_size = 1,
                           .max_size = 1,
                           .read = access[block].read,
                           .write = access[block].write};
}

/* The data sheet leaves power-up undefined; masked, nothing is delivered to vectors that
 * nobody has set. The inputs' levels are the other devices'. */
static void pic_reset(struct device *device)
{
    struct pic8259 *pic = (struct pic8259 *)device;
    for (unsigned n = 0; n < 2; n++) {
        struct chip *chip = &pic->chip[n];
        *chip = (struct chip){.lines = chip->lines, .imr = 0xff, .lowest = 7};
    }
    pic_update(pic);
}

static void pic_loaded(struct device *device)
{
    struct pic8259 *pic = (struct pic8259 *)device;
    for (unsigned n = 0; n < 2; n++) {
        struct chip *chip = &pic->chip[n];
        chip->lowest &= 7;
        chip->init_step &= 3;
    }
    pic_update(pic);
}

static void pic_free(struct device *device)
{
    device_fini(device);
    free(device);
}

#define CHIP_FIELDS(n)                                              \
    DEVICE_FIELD(struct pic8259, chip[n].lines),                    \
        DEVICE_FIELD(struct pic8259, chip[n].latched),              \
        DEVICE_FIELD(struct pic8259, chip[n].isr),                  \
        DEVICE_FIELD(struct pic8259, chip[n].imr),                  \
        DEVICE_FIELD(struct pic8259, chip[n].elcr),                 \
        DEVICE_FIELD(struct pic8259, chip[n].level_mode),           \
        DEVICE_FIELD(struct pic8259, chip[n].vector_base),          \
        DEVICE_FIELD(struct pic8259, chip[n].icw3),                 \
        DEVICE_FIELD(struct pic8259, chip[n].init_step),            \
        DEVICE_FIELD(struct pic8259, chip[n].wants_icw4),           \
        DEVICE_FIELD(struct pic8259, chip[n].is_single),            \
        DEVICE_FIELD(struct pic8259, chip[n].lowest),               \
        DEVICE_FIELD(struct pic8259, chip[n].auto_eoi),             \
        DEVICE_FIELD(struct pic8259, chip[n].rotate_on_auto_eoi),   \
        DEVICE_FIELD(struct pic8259, chip[n].special_mask),         \
        DEVICE_FIELD(struct pic8259, chip[n].special_fully_nested), \
        DEVICE_FIELD(struct pic8259, chip[n].reads_isr),            \
        DEVICE_FIELD(struct pic8259, chip[n].polled)

static const struct device_field pic_fields[] = {
    CHIP_FIELDS(0),
    CHIP_FIELDS(1),
    DEVICE_FIELD_END,
};

static const struct device_type pic_type = {
    .name = "pic8259",
    .fields = pic_fields,
    .reset = pic_reset,
    .loaded = pic_loaded,
    .free = pic_free,
};

struct pic8259 *pic8259_new(const char *name, struct irq_line output, struct error *err)
{
    struct pic8259 *pic = calloc(1, sizeof(*pic));
    if (!pic) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&pic->device, &pic_type, name);
    pic->output = output;
    pic_reset(&pic->device);
    return pic;
}

struct device *pic8259_device(struct pic8259 *pic)
{
    return &pic->device;
}
