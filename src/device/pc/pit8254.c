/*
 * Only rising edges of channel 0 need a host timer.
 *
 * When the host is late, or gives the guest's processor no time, the periodic ticks that
 * were missed are owed to the guest, which may count time by them. They are delivered one
 * by one between the regular ones, at no more than eight times the programmed rate, and
 * none before the guest has taken the one before; the regular ones stay on their grid.
 * After more than a second's worth the rest is dropped. Ticks faster than the host's
 * limit are merged, as they would be in a processor that cannot keep up.
 */

#include "device/pc/pit8254.h"

#include <errno.h>

#include "device/pc/pit_counter.h"

#define CHANNELS        3
#define SPEAKER_CHANNEL 2

/* Edges of channel 0 are at least this far apart on the host. */
#define EDGE_SPACING_NS 50000u
/* Times the programmed rate: of what is owed, and of looks whether the guest takes it. */
#define CATCH_UP_RATE 8
#define WAITING_RATE  2

/* A refresh request, which port 61h bit 4 shows halved, comes every 18 ticks (15 us). */
#define REFRESH_TICKS   18

#define PORT_B_GATE     0x01
#define PORT_B_WRITABLE 0x0f
#define PORT_B_REFRESH  0x10
#define PORT_B_OUT      0x20

struct pit8254 {
    struct device device;
    struct irq_line irq;
    struct timer timer;
    struct pit_counter channel[CHANNELS];
    uint8_t port_b;
    uint64_t edge;         /* the next rising edge of channel 0, or PIT_NEVER */
    uint64_t owed;         /* edges passed, not delivered */
    uint64_t delivered_ns; /* guest time of the latest delivery */
    uint64_t dropped;
};

static uint64_t now_ns(const struct pit8254 *pit)
{
    return clock_now(timer_queue_clock(pit->timer.queue));
}

static uint64_t now_ticks(const struct pit8254 *pit)
{
    return scale_u64(now_ns(pit), PIT8254_HZ, NS_PER_SECOND);
}

/* The first nanosecond that belongs to the tick. */
static uint64_t tick_ns(uint64_t tick)
{
    unsigned __int128 ns = (unsigned __int128)tick * NS_PER_SECOND + PIT8254_HZ - 1;
    return (uint64_t)(ns / PIT8254_HZ);
}

/* Channel 0 as the clock of the guest. Its gate is always high. */

static uint64_t next_edge(const struct pit_counter *channel)
{
    if (!channel->is_loaded || pit_counter_is_triggered(channel)) {
        return PIT_NEVER;
    }
    return channel->start + channel->count + (channel->mode == 4);
}

/* Counts the edges up to now. */
static void accrue(struct pit8254 *pit, uint64_t now)
{
    struct pit_counter *channel = &pit->channel[0];
    if (pit->edge <= now && pit_counter_is_periodic(channel)) {
        uint64_t last = channel->switches < now ? channel->switches : now;
        if (pit->edge <= last) {
            uint64_t edges = (last - pit->edge) / channel->count + 1;
            pit->owed += edges;
            pit->edge += edges * channel->count;
        }
    } else if (pit->edge <= now) {
        pit->owed = 1;
        pit->edge = PIT_NEVER;
    }
    if (channel->switches <= now) {
        pit_counter_sync(channel, now);
        pit->edge = next_edge(channel);
        accrue(pit, now); /* once: no further switch is pending */
        return;
    }
    uint64_t limit = PIT8254_HZ / channel->count; /* a second's worth */
    if (tick_ns(channel->count) < EDGE_SPACING_NS || limit == 0) {
        limit = 1;
    }
    if (pit->owed > limit) {
        pit->dropped += pit->owed - limit;
        timer_note_missed(&pit->timer, pit->owed - limit);
        pit->owed = limit;
    }
}

/* A part of the period, but not less than the host's limit. */
static uint64_t edge_spacing_ns(const struct pit8254 *pit, unsigned part)
{
    uint64_t ns = tick_ns(pit->channel[0].count) / part;
    return ns > EDGE_SPACING_NS ? ns : EDGE_SPACING_NS;
}

/* May an edge be delivered at `now`? One-shot edges are not held back. */
static bool can_deliver(const struct pit8254 *pit, uint64_t now)
{
    return !pit_counter_is_periodic(&pit->channel[0]) ||
           (now >= pit->delivered_ns + edge_spacing_ns(pit, CATCH_UP_RATE) &&
            irq_get_state(&pit->irq) != IRQ_WAITING);
}

/* Delivers what is owed as far as the spacing and the guest's processor allow, and sets
 * the timer for the rest. */
static void deliver(struct pit8254 *pit)
{
    uint64_t now = now_ns(pit);
    accrue(pit, now_ticks(pit));
    if (pit->owed > 0 && can_deliver(pit, now)) {
        pit->owed--;
        pit->delivered_ns = now;
        /* The output stays high until the next edge, so that a guest that is late still
         * finds its request. */
        irq_set(&pit->irq, 0);
        irq_set(&pit->irq, 1);
    }
    uint64_t allowed = pit->delivered_ns + edge_spacing_ns(pit, CATCH_UP_RATE);
    if (pit->owed > 0 && allowed <= now) {
        /* The guest has not taken the last one; perhaps its processor has no time. */
        allowed = now + edge_spacing_ns(pit, WAITING_RATE);
    }
    uint64_t deadline = pit->owed > 0            ? allowed
                        : pit->edge == PIT_NEVER ? TIMER_NEVER
                                                 : tick_ns(pit->edge);
    if (deadline < allowed && pit_counter_is_periodic(&pit->channel[0])) {
        deadline = allowed;
    }
    timer_set(&pit->timer, deadline);
}

static void timer_expired(void *opaque)
{
    deliver(opaque);
}

/* Channel 0 has a new mode or counts anew: what was to come no longer comes. */
static void channel0_restarted(struct pit8254 *pit)
{
    const struct pit_counter *channel = &pit->channel[0];
    pit->owed = 0;
    pit->edge = next_edge(channel);
    irq_set(&pit->irq, channel->mode != 0);
    deliver(pit);
}

static void write_read_back(struct pit8254 *pit, uint64_t now, uint8_t value)
{
    for (unsigned n = 0; n < CHANNELS; n++) {
        if (!(value & 2u << n)) {
            continue;
        }
        if (!(value & 0x20)) {
            pit_counter_latch_count(&pit->channel[n], now);
        }
        if (!(value & 0x10)) {
            pit_counter_latch_status(&pit->channel[n], now);
        }
    }
}

static void write_control(struct pit8254 *pit, uint64_t now, uint8_t value)
{
    unsigned n = value >> 6;
    if (n == 3) {
        write_read_back(pit, now, value);
    } else if ((value >> 4 & 3) == 0) {
        pit_counter_latch_count(&pit->channel[n], now);
    } else {
        pit_counter_set_mode(&pit->channel[n], value);
        if (n == 0) {
            channel0_restarted(pit);
        }
    }
}

/* The state as of now, before an access. */
static uint64_t catch_up(struct pit8254 *pit)
{
    uint64_t now = now_ticks(pit);
    accrue(pit, now);
    for (unsigned n = 1; n < CHANNELS; n++) {
        pit_counter_sync(&pit->channel[n], now);
    }
    return now;
}

static uint64_t pit_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    uint64_t now = catch_up(pit);
    return offset < CHANNELS ? pit_counter_read(&pit->channel[offset], now) : 0xff;
}

static void pit_write(struct device *device, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    uint64_t now = catch_up(pit);
    if (offset >= CHANNELS) {
        write_control(pit, now, (uint8_t)value);
        return;
    }
    if (pit_counter_write(&pit->channel[offset], now, (uint8_t)value) && offset == 0) {
        channel0_restarted(pit);
    }
}

static uint64_t port_b_read(struct device *device, uint64_t offset, unsigned size)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    uint64_t now = catch_up(pit);
    return pit->port_b | (now / REFRESH_TICKS & 1 ? PORT_B_REFRESH : 0) |
           (pit_counter_out(&pit->channel[SPEAKER_CHANNEL], now) ? PORT_B_OUT : 0);
}

static void port_b_write(struct device *device, uint64_t offset, unsigned size,
                         uint64_t value)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    pit->port_b = value & PORT_B_WRITABLE;
    pit_counter_set_gate(&pit->channel[SPEAKER_CHANNEL], now_ticks(pit),
                         pit->port_b & PORT_B_GATE);
}

struct region pit8254_region(struct pit8254 *pit, uint64_t base)
{
    return (struct region){.device = &pit->device,
                           .base = base,
                           .size = 4,
                           .min_size = 1,
                           .max_size = 1,
                           .read = pit_read,
                           .write = pit_write};
}

struct region pit8254_port_b_region(struct pit8254 *pit, uint64_t base)
{
    return (struct region){.device = &pit->device,
                           .base = base,
                           .size = 1,
                           .min_size = 1,
                           .max_size = 1,
                           .read = port_b_read,
                           .write = port_b_write};
}

uint64_t pit8254_ticks_dropped(struct pit8254 *pit)
{
    pthread_mutex_lock(&pit->device.lock);
    uint64_t dropped = pit->dropped;
    pthread_mutex_unlock(&pit->device.lock);
    return dropped;
}

/* The data sheet leaves power-up undefined: no count, so no interrupt until programmed.
 */
static void pit_reset(struct device *device)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    for (unsigned n = 0; n < CHANNELS; n++) {
        pit->channel[n].gate = n != SPEAKER_CHANNEL;
        pit_counter_set_mode(&pit->channel[n], PIT_ACCESS_BOTH << 4 | 3 << 1);
    }
    pit->port_b = 0;
    channel0_restarted(pit);
}

static void pit_loaded(struct device *device)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    for (unsigned n = 0; n < CHANNELS; n++) {
        pit_counter_loaded(&pit->channel[n]);
    }
    struct pit_counter *channel = &pit->channel[0];
    uint64_t horizon = now_ticks(pit) + 0x20000; /* no edge lies further ahead */
    if (pit->edge != PIT_NEVER && pit->edge > horizon) {
        pit->edge = PIT_NEVER;
    }
    if (channel->switches != PIT_NEVER && channel->switches > horizon) {
        channel->switches = PIT_NEVER;
    }
    /* The level that was driven last: in mode 0 high once its edge was delivered, which a
     * counter that ran out just now still waits for. */
    bool is_delivered = pit->edge == PIT_NEVER && pit->owed == 0;
    irq_set(&pit->irq, channel->mode != 0 ||
                           (is_delivered && pit_counter_out(channel, now_ticks(pit))));
    timer_set(&pit->timer, pit->owed > 0            ? now_ns(pit)
                           : pit->edge == PIT_NEVER ? TIMER_NEVER
                                                    : tick_ns(pit->edge));
}

static void pit_free(struct device *device)
{
    struct pit8254 *pit = (struct pit8254 *)device;
    timer_fini(&pit->timer);
    device_fini(device);
    free(pit);
}

#define CHANNEL_FIELDS(n)                                     \
    DEVICE_FIELD(struct pit8254, channel[n].start),           \
        DEVICE_FIELD(struct pit8254, channel[n].held),        \
        DEVICE_FIELD(struct pit8254, channel[n].switches),    \
        DEVICE_FIELD(struct pit8254, channel[n].count),       \
        DEVICE_FIELD(struct pit8254, channel[n].next),        \
        DEVICE_FIELD(struct pit8254, channel[n].latch),       \
        DEVICE_FIELD(struct pit8254, channel[n].mode),        \
        DEVICE_FIELD(struct pit8254, channel[n].access),      \
        DEVICE_FIELD(struct pit8254, channel[n].is_bcd),      \
        DEVICE_FIELD(struct pit8254, channel[n].gate),        \
        DEVICE_FIELD(struct pit8254, channel[n].has_count),   \
        DEVICE_FIELD(struct pit8254, channel[n].is_loaded),   \
        DEVICE_FIELD(struct pit8254, channel[n].is_counting), \
        DEVICE_FIELD(struct pit8254, channel[n].write_low),   \
        DEVICE_FIELD(struct pit8254, channel[n].writes_high), \
        DEVICE_FIELD(struct pit8254, channel[n].reads_high),  \
        DEVICE_FIELD(struct pit8254, channel[n].latch_left),  \
        DEVICE_FIELD(struct pit8254, channel[n].status),      \
        DEVICE_FIELD(struct pit8254, channel[n].has_status)

static const struct device_field pit_fields[] = {
    CHANNEL_FIELDS(0),
    CHANNEL_FIELDS(1),
    CHANNEL_FIELDS(2),
    DEVICE_FIELD(struct pit8254, port_b),
    DEVICE_FIELD(struct pit8254, edge),
    DEVICE_FIELD(struct pit8254, owed),
    DEVICE_FIELD(struct pit8254, delivered_ns),
    DEVICE_FIELD_END,
};

static const struct device_type pit_type = {
    .name = "pit8254",
    .fields = pit_fields,
    .reset = pit_reset,
    .loaded = pit_loaded,
    .free = pit_free,
};

struct pit8254 *pit8254_new(const char *name, struct timer_queue *timers,
                            struct irq_line irq, struct error *err)
{
    struct pit8254 *pit = calloc(1, sizeof(*pit));
    if (!pit) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&pit->device, &pit_type, name);
    pit->irq = irq;
    timer_init(&pit->timer, timers, &pit->device.lock, timer_expired, pit);
    pit_reset(&pit->device);
    return pit;
}

struct device *pit8254_device(struct pit8254 *pit)
{
    return &pit->device;
}
