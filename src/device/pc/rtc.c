/*
 * Time is a count of seconds at a moment of the guest clock; the registers are computed
 * from it when read. While the guest holds the clock (SET, or divider in reset) they are
 * plain bytes.
 */

#include "device/pc/rtc.h"

#include <errno.h>
#include <string.h>

#include "device/pc/calendar.h"

#define REG_SECONDS       0x00
#define REG_SECONDS_ALARM 0x01
#define REG_MINUTES       0x02
#define REG_MINUTES_ALARM 0x03
#define REG_HOURS         0x04
#define REG_HOURS_ALARM   0x05
#define REG_WEEKDAY       0x06
#define REG_DAY           0x07
#define REG_MONTH         0x08
#define REG_YEAR          0x09
#define REG_A             0x0a
#define REG_B             0x0b
#define REG_C             0x0c
#define REG_D             0x0d

#define A_UPDATING        0x80
#define A_DIVIDER         0x70
#define A_RUNNING         0x20 /* the divider's setting for 32768 Hz */
#define A_RATE            0x0f

#define B_SET             0x80
#define B_PERIODIC        0x40
#define B_ALARM           0x20
#define B_UPDATE          0x10
#define B_SQUARE          0x08
#define B_BINARY          0x04
#define B_24_HOURS        0x02

#define C_REQUEST         0x80
#define C_PERIODIC        0x40
#define C_ALARM           0x20
#define C_UPDATE          0x10

#define D_VALID           0x80

#define ALARM_ANY         0xc0
#define HOUR_PM           0x80
#define CRYSTAL_HZ        32768u
#define DAY_SECONDS       86400u

/* No guest can set a date so far from 1970. */
#define START_SECONDS_MAX 1000000000000

/* An update: announced 244 us ahead, takes 1984 us (data sheet, table 5). */
#define UPDATE_NS 2228000u

struct rtc {
    struct device device;
    struct irq_line irq;
    struct timer timer;
    uint8_t index;
    uint8_t cmos[128];
    /* While the clock runs, its reading is start_seconds at guest time start_ns (modulo
     * 2^64: it may lie before 0). */
    uint64_t start_ns;
    uint64_t start_seconds;
    uint64_t seen_seconds; /* updates since start_ns that the flags include */
    uint64_t seen_periods; /* and periods */
};

static uint64_t elapsed_ns(const struct rtc *rtc)
{
    return clock_now(timer_queue_clock(rtc->timer.queue)) - rtc->start_ns;
}

static bool divider_runs(const struct rtc *rtc)
{
    return (rtc->cmos[REG_A] & A_DIVIDER) == A_RUNNING;
}

static bool is_running(const struct rtc *rtc)
{
    return divider_runs(rtc) && !(rtc->cmos[REG_B] & B_SET);
}

static uint8_t encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->cmos[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 15);
}

static uint8_t encode_hour(const struct rtc *rtc, int hour)
{
    if (rtc->cmos[REG_B] & B_24_HOURS) {
        return encode(rtc, hour);
    }
    return encode(rtc, (hour + 11) % 12 + 1) | (hour >= 12 ? HOUR_PM : 0);
}

static int decode_hour(const struct rtc *rtc, uint8_t value)
{
    if (rtc->cmos[REG_B] & B_24_HOURS) {
        return decode(rtc, value);
    }
    return decode(rtc, value & (uint8_t)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

static void registers_from_seconds(struct rtc *rtc, uint64_t seconds)
{
    struct calendar time = calendar_from_seconds((int64_t)seconds);
    rtc->cmos[REG_SECONDS] = encode(rtc, time.second);
    rtc->cmos[REG_MINUTES] = encode(rtc, time.minute);
    rtc->cmos[REG_HOURS] = encode_hour(rtc, time.hour);
    rtc->cmos[REG_WEEKDAY] = encode(rtc, time.weekday + 1);
    rtc->cmos[REG_DAY] = encode(rtc, time.day);
    rtc->cmos[REG_MONTH] = encode(rtc, time.month);
    int year = (time.year % 10000 + 10000) % 10000;
    rtc->cmos[REG_YEAR] = encode(rtc, year % 100);
    rtc->cmos[RTC_CENTURY] = encode(rtc, year / 100);
}

static uint64_t seconds_from_registers(const struct rtc *rtc)
{
    struct calendar time = {
        .second = decode(rtc, rtc->cmos[REG_SECONDS]),
        .minute = decode(rtc, rtc->cmos[REG_MINUTES]),
        .hour = decode_hour(rtc, rtc->cmos[REG_HOURS]),
        .day = decode(rtc, rtc->cmos[REG_DAY]),
        .month = decode(rtc, rtc->cmos[REG_MONTH]),
        .year =
            decode(rtc, rtc->cmos[RTC_CENTURY]) * 100 + decode(rtc, rtc->cmos[REG_YEAR]),
    };
    return (uint64_t)calendar_to_seconds(&time);
}

static bool is_time_register(uint8_t index)
{
    return index == REG_SECONDS || index == REG_MINUTES || index == REG_HOURS ||
           (index >= REG_WEEKDAY && index <= REG_YEAR) || index == RTC_CENTURY;
}

/* Ticks of the crystal in a period of the periodic interrupt, 0 for none. */
static uint32_t period_ticks(const struct rtc *rtc)
{
    unsigned rate = rtc->cmos[REG_A] & A_RATE;
    if (rate == 0 || !divider_runs(rtc)) {
        return 0;
    }
    return 1u << (rate <= 2 ? rate + 6 : rate - 1);
}

/* Whether an alarm register can ever match, and the value it does. */
static bool alarm_field(const struct rtc *rtc, unsigned reg, int limit, int *value)
{
    uint8_t raw = rtc->cmos[reg];
    if ((raw & ALARM_ANY) == ALARM_ANY) {
        *value = -1;
        return true;
    }
    *value = reg == REG_HOURS_ALARM ? decode_hour(rtc, raw) : decode(rtc, raw);
    return *value < limit;
}

/* Seconds from a time of day to the first that the alarm matches, itself included, or
 * UINT64_MAX. */
static uint64_t seconds_to_alarm(const struct rtc *rtc, uint32_t time)
{
    int hour, minute, second;
    if (!alarm_field(rtc, REG_HOURS_ALARM, 24, &hour) ||
        !alarm_field(rtc, REG_MINUTES_ALARM, 60, &minute) ||
        !alarm_field(rtc, REG_SECONDS_ALARM, 60, &second)) {
        return UINT64_MAX;
    }
    for (uint32_t wait = 0; wait < 2 * DAY_SECONDS;) {
        uint32_t t = (time + wait) % DAY_SECONDS;
        if (hour >= 0 && (int)(t / 3600) != hour) {
            wait += 3600 - t % 3600;
        } else if (minute >= 0 && (int)(t / 60 % 60) != minute) {
            wait += 60 - t % 60;
        } else if (second >= 0 && (int)(t % 60) != second) {
            wait++;
        } else {
            return wait;
        }
    }
    return UINT64_MAX;
}

/* Seconds, counted from start_ns, of the first alarm after `seen`. */
static uint64_t next_alarm(const struct rtc *rtc, uint64_t seen)
{
    int64_t time = (int64_t)(rtc->start_seconds + seen + 1) % DAY_SECONDS;
    uint64_t wait =
        seconds_to_alarm(rtc, (uint32_t)(time < 0 ? time + DAY_SECONDS : time));
    return wait == UINT64_MAX ? UINT64_MAX : seen + 1 + wait;
}

/* Periods of the periodic interrupt since start_ns. */
static uint64_t elapsed_periods(const struct rtc *rtc)
{
    uint32_t period = period_ticks(rtc);
    return period ? scale_u64(elapsed_ns(rtc), CRYSTAL_HZ, NS_PER_SECOND) / period : 0;
}

/* Brings the flags of register C up to date. */
static void sync_flags(struct rtc *rtc)
{
    uint64_t periods = elapsed_periods(rtc);
    if (periods != rtc->seen_periods) {
        if (rtc->cmos[REG_B] & B_PERIODIC) {
            /* One interrupt stands for all of them, and for one that waits to be read. */
            bool is_waiting = rtc->cmos[REG_C] & C_PERIODIC;
            timer_note_missed(&rtc->timer, periods - rtc->seen_periods - 1 + is_waiting);
        }
        rtc->seen_periods = periods;
        rtc->cmos[REG_C] |= C_PERIODIC;
    }
    uint64_t seconds = elapsed_ns(rtc) / NS_PER_SECOND;
    if (is_running(rtc) && seconds != rtc->seen_seconds) {
        rtc->cmos[REG_C] |= C_UPDATE;
        if (next_alarm(rtc, rtc->seen_seconds) <= seconds) {
            rtc->cmos[REG_C] |= C_ALARM;
        }
        rtc->seen_seconds = seconds;
    }
}

static uint64_t earliest(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When the next enabled flag that is still clear gets set, in ns since start_ns. A flag
 * that is set needs no timer, so an interrupt nobody serves costs the host nothing. */
static uint64_t next_event(const struct rtc *rtc)
{
    uint8_t wanted = rtc->cmos[REG_B] & ~rtc->cmos[REG_C];
    uint64_t event = TIMER_NEVER;
    uint32_t period = period_ticks(rtc);
    if (wanted & B_PERIODIC && period) {
        uint64_t tick = (rtc->seen_periods + 1) * period;
        event = (uint64_t)(((unsigned __int128)tick * NS_PER_SECOND + CRYSTAL_HZ - 1) /
                           CRYSTAL_HZ);
    }
    if (is_running(rtc) && wanted & B_UPDATE) {
        event = earliest(event, (rtc->seen_seconds + 1) * NS_PER_SECOND);
    }
    if (is_running(rtc) && wanted & B_ALARM) {
        uint64_t alarm = next_alarm(rtc, rtc->seen_seconds);
        if (alarm != UINT64_MAX) {
            event = earliest(event, alarm * NS_PER_SECOND);
        }
    }
    return event;
}

static void arm_timer(struct rtc *rtc)
{
    uint64_t event = next_event(rtc);
    timer_set(&rtc->timer, event == TIMER_NEVER ? TIMER_NEVER : rtc->start_ns + event);
}

/* Drives the line and sets the timer after any change. */
static void update(struct rtc *rtc)
{
    sync_flags(rtc);
    uint8_t flags = rtc->cmos[REG_C] & (C_PERIODIC | C_ALARM | C_UPDATE);
    bool requests = flags & rtc->cmos[REG_B];
    rtc->cmos[REG_C] = flags | (requests ? C_REQUEST : 0);
    irq_set(&rtc->irq, requests);
    arm_timer(rtc);
}

static void timer_expired(void *opaque)
{
    update(opaque);
}

/* Starts counting anew: the reading is `seconds`, and its second began phase_ns ago. */
static void restart(struct rtc *rtc, uint64_t seconds, uint64_t phase_ns)
{
    rtc->start_ns = clock_now(timer_queue_clock(rtc->timer.queue)) - phase_ns;
    rtc->start_seconds = seconds;
    rtc->seen_seconds = 0;
    rtc->seen_periods = elapsed_periods(rtc);
}

static uint64_t current_seconds(const struct rtc *rtc)
{
    return rtc->start_seconds + elapsed_ns(rtc) / NS_PER_SECOND;
}

/* Register A or B: the clock may stop or start, and the format of the registers change.
 */
static void write_control(struct rtc *rtc, uint8_t index, uint8_t value)
{
    bool was_running = is_running(rtc), divider_ran = divider_runs(rtc);
    uint64_t seconds = current_seconds(rtc), phase = elapsed_ns(rtc) % NS_PER_SECOND;
    if (was_running) {
        registers_from_seconds(rtc, seconds);
    }
    rtc->cmos[index] = value;
    if (is_running(rtc) && !was_running) {
        /* The first update comes half a second after the divider's reset ends. */
        restart(rtc, seconds_from_registers(rtc),
                divider_ran ? phase : NS_PER_SECOND / 2);
    } else {
        rtc->seen_periods = elapsed_periods(rtc);
    }
}

static void write_register(struct rtc *rtc, uint8_t index, uint8_t value)
{
    switch (index) {
    case REG_A:
        write_control(rtc, index, value & ~A_UPDATING);
        break;
    case REG_B:
        write_control(rtc, index, value & B_SET ? value & ~B_UPDATE : value);
        break;
    case REG_C:
    case REG_D:
        break; /* read-only */
    default:
        if (is_running(rtc) && is_time_register(index)) {
            registers_from_seconds(rtc, current_seconds(rtc));
            rtc->cmos[index] = value;
            restart(rtc, seconds_from_registers(rtc), elapsed_ns(rtc) % NS_PER_SECOND);
        } else {
            rtc->cmos[index] = value;
        }
        break;
    }
}

static uint8_t read_register(struct rtc *rtc, uint8_t index)
{
    uint8_t value;
    switch (index) {
    case REG_A:
        value = rtc->cmos[REG_A];
        if (is_running(rtc) &&
            elapsed_ns(rtc) % NS_PER_SECOND >= NS_PER_SECOND - UPDATE_NS) {
            value |= A_UPDATING;
        }
        return value;
    case REG_C:
        value = rtc->cmos[REG_C];
        rtc->cmos[REG_C] = 0;
        return value;
    default:
        if (is_running(rtc) && is_time_register(index)) {
            registers_from_seconds(rtc, current_seconds(rtc));
        }
        return rtc->cmos[index];
    }
}

static uint64_t rtc_read(struct device *device, uint64_t offset, unsigned size)
{
    struct rtc *rtc = (struct rtc *)device;
    if (offset == 0) {
        return 0xff; /* the index is write-only */
    }
    update(rtc);
    uint8_t value = read_register(rtc, rtc->index);
    if (rtc->index == REG_C) {
        update(rtc);
    }
    return value;
}

static void rtc_write(struct device *device, uint64_t offset, unsigned size,
                      uint64_t value)
{
    struct rtc *rtc = (struct rtc *)device;
    if (offset == 0) {
        rtc->index = value & 0x7f;
        return;
    }
    sync_flags(rtc);
    write_register(rtc, rtc->index, (uint8_t)value);
    update(rtc);
}

struct region rtc_region(struct rtc *rtc, uint64_t base)
{
    return (struct region){.device = &rtc->device,
                           .base = base,
                           .size = 2,
                           .min_size = 1,
                           .max_size = 1,
                           .read = rtc_read,
                           .write = rtc_write};
}

/* The battery keeps time and memory; the RESET pin clears enables and flags. */
static void rtc_reset(struct device *device)
{
    struct rtc *rtc = (struct rtc *)device;
    sync_flags(rtc);
    write_control(rtc, REG_B,
                  rtc->cmos[REG_B] & ~(B_PERIODIC | B_ALARM | B_UPDATE | B_SQUARE));
    rtc->cmos[REG_C] = 0;
    rtc->index = 0;
    update(rtc);
}

static void rtc_loaded(struct device *device)
{
    struct rtc *rtc = (struct rtc *)device;
    rtc->index &= 0x7f;
    rtc->cmos[REG_A] &= ~A_UPDATING;
    rtc->cmos[REG_D] = D_VALID;
    int64_t start_seconds = (int64_t)rtc->start_seconds;
    if (elapsed_ns(rtc) > INT64_MAX || start_seconds < -START_SECONDS_MAX ||
        start_seconds > START_SECONDS_MAX) {
        restart(rtc, 0, 0);
    }
    rtc->seen_seconds = earliest(rtc->seen_seconds, elapsed_ns(rtc) / NS_PER_SECOND);
    rtc->seen_periods = earliest(rtc->seen_periods, elapsed_periods(rtc));
    irq_set(&rtc->irq, (rtc->cmos[REG_C] & C_REQUEST) != 0);
    arm_timer(rtc);
}

static void rtc_free(struct device *device)
{
    struct rtc *rtc = (struct rtc *)device;
    timer_fini(&rtc->timer);
    device_fini(device);
    free(rtc);
}

static void store16(struct rtc *rtc, unsigned index, uint64_t value)
{
    uint64_t limited = earliest(value, 0xffff);
    rtc->cmos[index] = (uint8_t)limited;
    rtc->cmos[index + 1] = (uint8_t)(limited >> 8);
}

/* Memory sizes where PC firmware leaves them. */
static void store_memory_sizes(struct rtc *rtc, const struct rtc_config *config)
{
    uint64_t above_1m =
        config->low_memory > 1u << 20 ? config->low_memory - (1u << 20) : 0;
    uint64_t above_16m =
        config->low_memory > 16u << 20 ? config->low_memory - (16u << 20) : 0;
    store16(rtc, 0x15, 640);
    store16(rtc, 0x17, above_1m >> 10);
    store16(rtc, 0x30, above_1m >> 10);
    store16(rtc, 0x34, above_16m >> 16);
    uint64_t high = earliest(config->high_memory >> 16, 0xffffff);
    rtc->cmos[0x5b] = (uint8_t)high;
    rtc->cmos[0x5c] = (uint8_t)(high >> 8);
    rtc->cmos[0x5d] = (uint8_t)(high >> 16);
}

static const struct device_field rtc_fields[] = {
    DEVICE_FIELD(struct rtc, index),
    DEVICE_FIELD_ARRAY(struct rtc, cmos),
    DEVICE_FIELD(struct rtc, start_ns),
    DEVICE_FIELD(struct rtc, start_seconds),
    DEVICE_FIELD(struct rtc, seen_seconds),
    DEVICE_FIELD(struct rtc, seen_periods),
    DEVICE_FIELD_END,
};

static const struct device_type rtc_type = {
    .name = "rtc",
    .fields = rtc_fields,
    .reset = rtc_reset,
    .loaded = rtc_loaded,
    .free = rtc_free,
};

struct rtc *rtc_new(const char *name, struct timer_queue *timers, struct irq_line irq,
                    const struct rtc_config *config, struct error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    if (!rtc) {
        fail(err, ENOMEM, "cannot make %s", name);
        return NULL;
    }
    device_init(&rtc->device, &rtc_type, name);
    rtc->irq = irq;
    timer_init(&rtc->timer, timers, &rtc->device.lock, timer_expired, rtc);
    rtc->cmos[REG_A] = A_RUNNING | 6; /* 1024 Hz, as firmware leaves it */
    rtc->cmos[REG_B] = B_24_HOURS;
    rtc->cmos[REG_D] = D_VALID;
    store_memory_sizes(rtc, config);
    uint64_t now = clock_now(timer_queue_clock(timers));
    uint64_t wall_ns = (uint64_t)config->wall_ns + now;
    restart(rtc, wall_ns / NS_PER_SECOND, wall_ns % NS_PER_SECOND);
    rtc_reset(&rtc->device);
    return rtc;
}

struct device *rtc_device(struct rtc *rtc)
{
    return &rtc->device;
}
