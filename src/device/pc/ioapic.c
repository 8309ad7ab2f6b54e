#include "device/pc/ioapic.h"

#include <errno.h>

/* Offsets of the memory window. */
#define WINDOW_SELECT 0x00
#define WINDOW_DATA   0x10
#define WINDOW_EOI    0x40

/* Registers by index. */
#define REG_ID           0x00
#define REG_VERSION      0x01
#define REG_ARBITRATION  0x02
#define REG_ENTRY        0x10 /* two per input */

#define VERSION          (0x20u | (IOAPIC_INPUTS - 1) << 16)

#define ENTRY_VECTOR     0xffull
#define ENTRY_LOGICAL    (1ull << 11)
#define ENTRY_STATUS     (1ull << 12) /* delivery is immediate: always 0 */
#define ENTRY_REMOTE_IRR (1ull << 14)
#define ENTRY_LEVEL      (1ull << 15)
#define ENTRY_MASKED     (1ull << 16)
#define ENTRY_WRITABLE   (0xff0000000001ffffull & ~(ENTRY_STATUS | ENTRY_REMOTE_IRR))

struct ioapic {
    struct device device;
    struct ioapic_bus bus;
    uint8_t initial_id;
    uint8_t id;
    uint8_t select;
    uint32_t lines; /* levels of the inputs */
    uint64_t entry[IOAPIC_INPUTS];
};

static enum apic_delivery_mode entry_mode(uint64_t entry)
{
    return (enum apic_delivery_mode)(entry >> 8 & 7);
}

/* Only these modes wait for an EOI; the others are edge-triggered whatever bit 15 says.
 */
static bool entry_is_level(uint64_t entry)
{
    return entry & ENTRY_LEVEL &&
           (entry_mode(entry) == APIC_FIXED || entry_mode(entry) == APIC_LOWEST);
}

static struct apic_message entry_message(uint64_t entry)
{
    return (struct apic_message){
        .destination = (uint32_t)(entry >> 56),
        .is_logical = (entry & ENTRY_LOGICAL) != 0,
        .shorthand = APIC_DEST_FIELD,
        .mode = entry_mode(entry),
        .vector = entry & ENTRY_VECTOR,
        .is_level = entry_is_level(entry),
        .is_assert = true,
    };
}

static void send(struct ioapic *ioapic, uint64_t entry)
{
    struct apic_message message = entry_message(entry);
    if (message.mode == 3 || message.mode == APIC_STARTUP) {
        return; /* reserved */
    }
    ioapic->bus.send(ioapic->bus.opaque, &message);
}

/* A masked input counts, too: its interrupt may still be in service. */
static void tell_route(const struct ioapic *ioapic, unsigned n)
{
    if (ioapic->bus.route) {
        const struct apic_message message = entry_message(ioapic->entry[n]);
        ioapic->bus.route(ioapic->bus.opaque, n, message.is_level ? &message : NULL);
    }
}

/* Delivers an asserted level-triggered input that is neither masked nor in service. */
static void service_level(struct ioapic *ioapic, unsigned n)
{
    uint64_t *entry = &ioapic->entry[n];
    if (ioapic->lines & 1u << n && entry_is_level(*entry) &&
        !(*entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR))) {
        *entry |= ENTRY_REMOTE_IRR;
        send(ioapic, *entry);
    }
}

static void ioapic_set_input(void *opaque, unsigned n, int level)
{
    struct ioapic *ioapic = opaque;
    pthread_mutex_lock(&ioapic->device.lock);
    bool rises = level && !(ioapic->lines & 1u << n);
    if (level) {
        ioapic->lines |= 1u << n;
    } else {
        ioapic->lines &= ~(1u << n);
    }
    if (entry_is_level(ioapic->entry[n])) {
        service_level(ioapic, n);
    } else if (rises && !(ioapic->entry[n] & ENTRY_MASKED)) {
        send(ioapic, ioapic->entry[n]); /* an edge on a masked input is lost (3.2.4) */
    }
    pthread_mutex_unlock(&ioapic->device.lock);
}

static enum irq_state ioapic_input_state(void *opaque, unsigned n)
{
    struct ioapic *ioapic = opaque;
    enum irq_state state = IRQ_MASKED;
    pthread_mutex_lock(&ioapic->device.lock);
    uint64_t entry = ioapic->entry[n];
    if (!(entry & ENTRY_MASKED)) {
        struct apic_message message = entry_message(entry);
        bool is_waiting = ioapic->bus.is_waiting &&
                          ioapic->bus.is_waiting(ioapic->bus.opaque, &message);
        state = is_waiting ? IRQ_WAITING : IRQ_TAKEN;
    }
    pthread_mutex_unlock(&ioapic->device.lock);
    return state;
}

struct irq_line ioapic_input(struct ioapic *ioapic, unsigned n)
{
    return (struct irq_line){ioapic_set_input, ioapic, n % IOAPIC_INPUTS,
                             ioapic_input_state};
}

static void eoi_locked(struct ioapic *ioapic, uint8_t vector)
{
    for (unsigned n = 0; n < IOAPIC_INPUTS; n++) {
        uint64_t *entry = &ioapic->entry[n];
        if (*entry & ENTRY_REMOTE_IRR && (*entry & ENTRY_VECTOR) == vector) {
            *entry &= ~ENTRY_REMOTE_IRR;
            service_level(ioapic, n);
        }
    }
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
    pthread_mutex_lock(&ioapic->device.lock);
    eoi_locked(ioapic, vector);
    pthread_mutex_unlock(&ioapic->device.lock);
}

static uint32_t read_register(const struct ioapic *ioapic)
{
    unsigned index = ioapic->select;
    if (index >= REG_ENTRY && index < REG_ENTRY + 2 * IOAPIC_INPUTS) {
        uint64_t entry = ioapic->entry[(index - REG_ENTRY) / 2];
        return (uint32_t)(index & 1 ? entry >> 32 : entry);
    }
    switch (index) {
    case REG_ID:
    case REG_ARBITRATION: /* loaded with the ID; there is no serial bus to arbitrate */
        return (uint32_t)ioapic->id << 24;
    case REG_VERSION:
        return VERSION;
    default:
        return 0;
    }
}

static void write_entry(struct ioapic *ioapic, unsigned n, bool is_high, uint32_t value)
{
    uint64_t old = ioapic->entry[n];
    uint64_t entry = is_high ? (uint64_t)value << 32 | (uint32_t)old
                             : (old & 0xffffffff00000000ull) | value;
    entry = (entry & ENTRY_WRITABLE) | (old & ENTRY_REMOTE_IRR);
    if (!entry_is_level(entry)) {
        entry &=
            ~ENTRY_REMOTE_IRR; /* how software ends one on parts without EOI register */
    }
    ioapic->entry[n] = entry;
    tell_route(ioapic, n);
    service_level(ioapic, n);
}

static void write_register(struct ioapic *ioapic, uint32_t value)
{
    unsigned index = ioapic->select;
    if (index >= REG_ENTRY && index < REG_ENTRY + 2 * IOAPIC_INPUTS) {
        write_entry(ioapic, (index - REG_ENTRY) / 2, index & 1, value);
    } else if (index == REG_ID) {
        ioapic->id = value >> 24 & 0x0f;
    }
}

static uint64_t window_read(struct device *device, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    switch (offset) {
    case WINDOW_SELECT:
        return ioapic->select;
    case WINDOW_DATA:
        return read_register(ioapic);
    default:
        return 0;
    }
}

static void window_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    switch (offset) {
    case WINDOW_SELECT:
        ioapic->select = (uint8_t)value;
        break;
    case WINDOW_DATA:
        write_register(ioapic, (uint32_t)value);
        break;
    case WINDOW_EOI:
        eoi_locked(ioapic, (uint8_t)value);
        break;
    default:
        break;
    }
}

struct region ioapic_region(struct ioapic *ioapic, uint64_t base)
{
    return (struct region){.device = &ioapic->device,
                           .base = base,
                           .size = IOAPIC_MMIO_SIZE,
                           .min_size = 4,
                           .max_size = 4,
                           .read = window_read,
                           .write = window_write};
}

static void ioapic_reset(struct device *device)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    ioapic->id = ioapic->initial_id;
    ioapic->select = 0;
    for (unsigned n = 0; n < IOAPIC_INPUTS; n++) {
        ioapic->entry[n] = ENTRY_MASKED;
        tell_route(ioapic, n);
    }
}

/* Nothing is delivered here: what was, is in the saved local APICs. */
static void ioapic_loaded(struct device *device)
{
    struct ioapic *ioapic = (struct ioapic *)device;
    for (unsigned n = 0; n < IOAPIC_INPUTS; n++) {
        ioapic->entry[n] &= ENTRY_WRITABLE | ENTRY_REMOTE_IRR;
        tell_route(ioapic, n);
    }
    ioapic->lines &= (1u << IOAPIC_INPUTS) - 1;
}

static void ioapic_free(struct device *device)
{
    device_fini(device);
    free(device);
}

static const struct device_field ioapic_fields[] = {
    DEVICE_FIELD(struct ioapic, id),
    DEVICE_FIELD(struct ioapic, select),
    DEVICE_FIELD(struct ioapic, lines),
    DEVICE_FIELD_ARRAY(struct ioapic, entry),
    DEVICE_FIELD_END,
};

static const struct device_type ioapic_type = {
    .name = "ioapic",
    .fields = ioapic_fields,
    .reset = ioapic_reset,
    .loaded = ioapic_loaded,
    .free = ioapic_free,
};

struct ioapic *ioapic_new(const char *name, uint8_t id, const struct ioapic_bus *bus,
                          struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
    if (!ioapic) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&ioapic->device, &ioapic_type, name);
    ioapic->bus = *bus;
    ioapic->initial_id = id & 0x0f;
    ioapic_reset(&ioapic->device);
    return ioapic;
}

struct device *ioapic_device(struct ioapic *ioapic)
{
    return &ioapic->device;
}
