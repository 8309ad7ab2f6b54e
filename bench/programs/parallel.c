/* One amount of work, divided by whoever is free: chunks, a lock now and then, no
 * waiting. */
#include <pthread.h>
#include <stdatomic.h>

#include "work.h"

#define CHUNK 4096 /* rounds */
#define TABLE 65536

static struct {
    atomic_uint_fast64_t taken;
    uint64_t rounds;
    pthread_mutex_t lock;
    uint64_t sum; /* under lock */
    uint32_t table[TABLE];
} shared = {.lock = PTHREAD_MUTEX_INITIALIZER};

static uint64_t work_chunk(uint64_t first)
{
    uint64_t sum = 0, state = first * 2654435761 + 1;
    for (uint64_t i = 0; i < CHUNK; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        sum += shared.table[state % TABLE] ^ i;
    }
    return sum;
}

static void *work_thread(void *unused)
{
    for (;;) {
        uint64_t first = atomic_fetch_add(&shared.taken, CHUNK);
        if (first >= shared.rounds) {
            return unused;
        }
        uint64_t sum = work_chunk(first);
        pthread_mutex_lock(&shared.lock);
        shared.sum += sum;
        pthread_mutex_unlock(&shared.lock);
    }
}

static uint64_t run(uint64_t rounds, int count)
{
    pthread_t threads[2];
    shared.rounds = rounds;
    for (uint32_t i = 0; i < TABLE; i++) {
        shared.table[i] = i * 2246822519u;
    }
    for (int i = 0; i < count; i++) {
        if (pthread_create(&threads[i], NULL, work_thread, NULL)) {
            work_fail("pthread_create");
        }
    }
    for (int i = 0; i < count; i++) {
        pthread_join(threads[i], NULL);
    }
    return shared.sum;
}

uint64_t parallel1_run(uint64_t rounds)
{
    return run(rounds, 1);
}

uint64_t parallel2_run(uint64_t rounds)
{
    return run(rounds, 2);
}
