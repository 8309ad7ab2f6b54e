#pragma once
/*
 * Stopping the other vCPUs at an instruction boundary, for the rare locked access that no
 * host instruction can do atomically (an operand across two pages).
 */

#include <pthread.h>
#include <stdbool.h>

struct exclusive {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    _Atomic bool is_active; /* somebody has or wants the machine to himself */
    unsigned inside;        /* vCPUs executing guest code */
};

void exclusive_init(struct exclusive *exclusive);
void exclusive_fini(struct exclusive *exclusive);

/* A vCPU begins and stops executing guest code; enter waits while another is alone. */
void exclusive_enter(struct exclusive *exclusive);
void exclusive_leave(struct exclusive *exclusive);
/* At an instruction boundary: gives way if somebody asked for it. */
void exclusive_yield(struct exclusive *exclusive);

/* Inside: alone from begin to end. interrupt makes every other vCPU come to
 * exclusive_yield soon. */
void exclusive_begin(struct exclusive *exclusive, void (*interrupt)(void *opaque),
                     void *opaque);
void exclusive_end(struct exclusive *exclusive);
