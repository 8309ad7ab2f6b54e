#pragma once
/*
 * Where the processor time of a vCPU's thread goes. The thread notes in one byte what it
 * is about to do; a timer of its processor time, which does not run while it sleeps,
 * looks every few milliseconds. So knowing costs a store where something begins and a
 * signal now and then, and guest code is not slowed at all: it is told by its address.
 */

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

/* To add one: a row here and in sampler.c's table. */
enum where {
    WHERE_ENGINE,      /* between the others: the engine's own loop, events, waiting */
    WHERE_GUEST,       /* guest code as host code */
    WHERE_INTERPRETER, /* routines of the interpreter */
    WHERE_TRANSLATION, /* making host code */
    WHERE_MISS,        /* walks for the software TLB, asked for by host code */
    WHERE_DEVICE,      /* exits: devices, interrupt controllers */
    WHERE_COUNT,
};

/* "engine", "guest", ... */
const char *where_name(enum where where);

extern __thread volatile uint8_t sampler_where __attribute__((tls_model("initial-exec")));

/* From now on this thread is there; returns where it was, to be put back. */
static inline enum where where_enter(enum where where)
{
    enum where before = (enum where)sampler_where;
    sampler_where = (uint8_t)where;
    return before;
}

struct sampler {
    uintptr_t code; /* addresses that are WHERE_GUEST, whatever the byte says */
    uint64_t code_size;
    bool is_running;
    timer_t timer;
    _Atomic uint64_t samples[WHERE_COUNT];
};

/* The calling thread's time counts from now on, if the host gives a timer; before its
 * jail closes. code and code_size have been set. */
void sampler_begin(struct sampler *sampler);
/* Any thread. Accepts one that never began. */
void sampler_end(struct sampler *sampler);
/* Processor time at a place, in ns, as precise as the samples are many. */
uint64_t sampler_ns(const struct sampler *sampler, enum where where);
