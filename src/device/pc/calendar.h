#pragma once
/* The Gregorian calendar: seconds since 1970-01-01 00:00:00 to a date and back. */

#include <stdint.h>

struct calendar {
    int year;
    int month;   /* 1 to 12 */
    int day;     /* 1 to 31 */
    int weekday; /* 0 is Sunday; ignored on the way back */
    int hour, minute, second;
};

struct calendar calendar_from_seconds(int64_t seconds);
/* Months outside 1 to 12 are taken for the nearest; other fields carry over. */
int64_t calendar_to_seconds(const struct calendar *calendar);
