#include "base/clock_line.h"

/* Measurements further apart than 1 / 512, some 2000 ppm, are not of one rate. The kernel
 * corrects its clock by at most 500 ppm, and by as much again (adjtimex(2)). */
#define AGREEMENT_SHIFT 9

void clock_pace_init(struct clock_pace *pace, struct clock_sample sample)
{
    *pace = (struct clock_pace){.last = sample};
}

static bool agree(uint64_t a, uint64_t b)
{
    uint64_t difference = a > b ? a - b : b - a;
    return difference <= a >> AGREEMENT_SHIFT;
}

bool clock_pace_note(struct clock_pace *pace, struct clock_sample sample)
{
    uint64_t ns = sample.ns - pace->last.ns;
    uint64_t ticks = sample.ticks - pace->last.ticks;
    if (ns < CLOCK_LINE_NS / 2) {
        return pace->is_steady; /* too short to tell */
    }
    /* Not faster than 1 GHz, or backwards. */
    bool is_sane = ticks > ns && (int64_t)ticks > 0;
    uint64_t rate = is_sane ? (uint64_t)(((unsigned __int128)ns << 64) / ticks) : 0;
    pace->is_steady = is_sane && pace->rate && agree(pace->rate, rate);
    pace->rate = rate;
    pace->last = sample;
    return pace->is_steady;
}

struct clock_line clock_line_draw(const struct clock_pace *pace, uint64_t ticks,
                                  uint64_t wanted_ns, uint64_t floor_ns)
{
    struct clock_line line = {
        .start = ticks,
        .length = (uint64_t)(((unsigned __int128)CLOCK_LINE_NS << 64) / pace->rate),
        .ns = wanted_ns,
        .slope = pace->rate,
    };
    if (floor_ns > wanted_ns) {
        uint64_t ahead = floor_ns - wanted_ns;
        uint64_t most = CLOCK_LINE_NS / 2;
        line.ns = floor_ns;
        line.slope -= (uint64_t)((unsigned __int128)line.slope *
                                 (ahead < most ? ahead : most) / CLOCK_LINE_NS);
    }
    return line;
}
