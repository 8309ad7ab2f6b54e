#include "device/pc/calendar.h"

#define SECONDS_PER_DAY 86400
#define DAYS_PER_ERA    146097 /* 400 years */
#define DAYS_TO_1970    719468 /* from 0000-03-01 */

static int64_t floor_div(int64_t value, int64_t divisor)
{
    return value / divisor - (value % divisor < 0);
}

/* Years begin in March, which puts the leap day at their end; month 0 is March. */
static int days_before_month(int month)
{
    return (153 * month + 2) / 5;
}

struct calendar calendar_from_seconds(int64_t seconds)
{
    int64_t days = floor_div(seconds, SECONDS_PER_DAY);
    int second = (int)(seconds - days * SECONDS_PER_DAY);
    int64_t era = floor_div(days + DAYS_TO_1970, DAYS_PER_ERA);
    int day = (int)(days + DAYS_TO_1970 - era * DAYS_PER_ERA);
    int year = (day - day / 1460 + day / 36524 - day / (DAYS_PER_ERA - 1)) / 365;
    day -= 365 * year + year / 4 - year / 100;
    int month = (5 * day + 2) / 153;
    return (struct calendar){
        .year = (int)(era * 400) + year + (month >= 10),
        .month = month < 10 ? month + 3 : month - 9,
        .day = day - days_before_month(month) + 1,
        .weekday =
            (int)(days + 4 - 7 * floor_div(days + 4, 7)), /* 1970-01-01: Thursday */
        .hour = second / 3600,
        .minute = second / 60 % 60,
        .second = second % 60,
    };
}

int64_t calendar_to_seconds(const struct calendar *calendar)
{
    int month = calendar->month < 1 ? 1 : calendar->month > 12 ? 12 : calendar->month;
    int64_t year = calendar->year - (month <= 2);
    int64_t era = floor_div(year, 400);
    int year_of_era = (int)(year - era * 400);
    int64_t day =
        days_before_month(month > 2 ? month - 3 : month + 9) + calendar->day - 1;
    day += year_of_era * 365 + year_of_era / 4 - year_of_era / 100;
    int64_t days = era * DAYS_PER_ERA + day - DAYS_TO_1970;
    return ((days * 24 + calendar->hour) * 60 + calendar->minute) * 60 + calendar->second;
}
