#pragma once
/*
 * Guest time as a function of the host's time stamp counter: a chain of straight lines,
 * each for some milliseconds. Where a line ends is fixed when it is drawn, and the next
 * begins there or later, and not below: so each count of the host's has one guest time,
 * whoever computes it, however late, and a later count none that is earlier.
 */

#include <stdbool.h>
#include <stdint.h>

#define CLOCK_LINE_NS 10000000ull /* how long a line is */

/* ns + (ticks - start) * slope / 2^64, for length ticks from start on. length 0: none. */
struct clock_line {
    uint64_t start, length;
    uint64_t ns, slope;
};

static inline bool clock_line_covers(const struct clock_line *line, uint64_t ticks)
{
    return ticks - line->start < line->length;
}

static inline uint64_t clock_line_at(const struct clock_line *line, uint64_t ticks)
{
    return line->ns +
           (uint64_t)((unsigned __int128)(ticks - line->start) * line->slope >> 64);
}

/* One moment, as both of the host's clocks tell it. */
struct clock_sample {
    uint64_t ticks, ns;
};

/* How fast the host's clock runs against its counter: NTP changes that slowly. */
struct clock_pace {
    struct clock_sample last;
    uint64_t rate; /* 2^64ths of a nanosecond per tick, as last measured; 0: not yet */
    bool is_steady;
};

/* Forgets everything; the first sample. */
void clock_pace_init(struct clock_pace *pace, struct clock_sample sample);
/*
 * A later sample. True: two measurements, each over at least half a line, agree, so that
 * a line can be drawn. They do not behind a suspend of the host, which stops one of its
 * clocks only, nor with counters that differ between processors.
 */
bool clock_pace_note(struct clock_pace *pace, struct clock_sample sample);
/*
 * The line from sample.ticks on. wanted_ns is the host's opinion on guest time then,
 * floor_ns what has perhaps been read already: the line begins at the later, and if that
 * is not the host's, is as much flatter as makes it meet the host's at its end.
 */
struct clock_line clock_line_draw(const struct clock_pace *pace, uint64_t ticks,
                                  uint64_t wanted_ns, uint64_t floor_ns);
