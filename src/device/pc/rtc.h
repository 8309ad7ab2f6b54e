#pragma once
/*
 * The PC's real-time clock and CMOS memory (Motorola MC146818A data sheet). It starts
 * with a given time and runs on the guest clock; guests may set it.
 */

#include "base/timer.h"
#include "device/device.h"
#include "device/irq.h"

#define RTC_CENTURY 0x32 /* index of the century, for the FADT */

struct rtc;

struct rtc_config {
    int64_t wall_ns;      /* ns since 1970 (UTC) when the guest clock reads 0 */
    uint64_t low_memory;  /* bytes of RAM below 4G, for the bytes firmware leaves */
    uint64_t high_memory; /* and above */
};

struct rtc *rtc_new(const char *name, struct timer_queue *timers, struct irq_line irq,
                    const struct rtc_config *config, struct error *err);
struct device *rtc_device(struct rtc *rtc);
/* Ports 70h (index; its NMI mask is ignored) and 71h (data). */
struct region rtc_region(struct rtc *rtc, uint64_t base);
