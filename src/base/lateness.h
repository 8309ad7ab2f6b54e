#pragma once
/* How late the host was for what guest time had due: counts by size, the worst, and what
 * was lost by it. Written by one thread at a time, read by any. */

#include <stdint.h>

#define LATENESS_GRADES 6

struct lateness {
    _Atomic uint64_t count[LATENESS_GRADES]; /* see lateness_limit */
    _Atomic uint64_t worst_ns;
    _Atomic uint64_t missed; /* ticks that merged with another one */
};

/* One more, so many ns after it was due. */
void lateness_note(struct lateness *lateness, uint64_t ns);
/* Any thread. */
void lateness_note_missed(struct lateness *lateness, uint64_t ticks);
/* Adds what another has counted. */
void lateness_add(struct lateness *sum, const struct lateness *lateness);
uint64_t lateness_total(const struct lateness *lateness);
/* A grade holds what is at most so many ns late; the last one, whose limit is UINT64_MAX,
 * the rest. */
uint64_t lateness_limit(unsigned grade);
