#pragma once
/*
 * An asymmetric memory barrier: the rare side pays, the frequent side is free.
 *
 * When two threads each store one thing and then load what the other stored, a full fence
 * on both sides keeps them from missing each other. barrier_all_threads() makes every
 * running thread of the process pass a full fence, so that the frequent side needs only
 * barrier_light(), which keeps the compiler from reordering and costs nothing.
 */

/* Optional, before the process has threads: the first use registers with the kernel,
 * which takes 10 ms once there are several. */
void barrier_prepare(void);

/* Takes microseconds: it interrupts every processor that runs a thread of this process.
 */
void barrier_all_threads(void);

static inline void barrier_light(void)
{
    __asm__ volatile("" ::: "memory");
}
