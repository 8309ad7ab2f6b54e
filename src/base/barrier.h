#pragma once
/*
 * An asymmetric memory barrier: the rare side pays, the frequent side is free.
 *
 * When two threads each store one thing and then load what the other stored, a full fence
 * on both sides keeps them from missing each other. barrier_all_threads() makes every
 * running thread of the process pass a full fence, so that the frequent side needs only
 * barrier_light(), which keeps the compiler from reordering and costs nothing.
 */

/* Takes microseconds: it interrupts every processor that runs a thread of this process.
 */
void barrier_all_threads(void);

static inline void barrier_light(void)
{
    __asm__ volatile("" ::: "memory");
}
