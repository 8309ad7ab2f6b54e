#include "engine/exclusive.h"

void exclusive_init(struct exclusive *exclusive)
{
    pthread_mutex_init(&exclusive->lock, NULL);
    pthread_cond_init(&exclusive->changed, NULL);
    exclusive->is_active = false;
    exclusive->inside = 0;
}

void exclusive_fini(struct exclusive *exclusive)
{
    pthread_cond_destroy(&exclusive->changed);
    pthread_mutex_destroy(&exclusive->lock);
}

static void leave_locked(struct exclusive *exclusive)
{
    exclusive->inside--;
    pthread_cond_broadcast(&exclusive->changed);
}

static void enter_locked(struct exclusive *exclusive)
{
    while (exclusive->is_active) {
        pthread_cond_wait(&exclusive->changed, &exclusive->lock);
    }
    exclusive->inside++;
}

void exclusive_enter(struct exclusive *exclusive)
{
    pthread_mutex_lock(&exclusive->lock);
    enter_locked(exclusive);
    pthread_mutex_unlock(&exclusive->lock);
}

void exclusive_leave(struct exclusive *exclusive)
{
    pthread_mutex_lock(&exclusive->lock);
    leave_locked(exclusive);
    pthread_mutex_unlock(&exclusive->lock);
}

void exclusive_yield(struct exclusive *exclusive)
{
    if (exclusive->is_active) {
        pthread_mutex_lock(&exclusive->lock);
        leave_locked(exclusive);
        enter_locked(exclusive);
        pthread_mutex_unlock(&exclusive->lock);
    }
}

void exclusive_begin(struct exclusive *exclusive, void (*interrupt)(void *opaque),
                     void *opaque)
{
    pthread_mutex_lock(&exclusive->lock);
    /* Two at once: the loser steps out of the winner's way first. */
    leave_locked(exclusive);
    enter_locked(exclusive);
    exclusive->is_active = true;
    interrupt(opaque);
    while (exclusive->inside > 1) {
        pthread_cond_wait(&exclusive->changed, &exclusive->lock);
    }
    pthread_mutex_unlock(&exclusive->lock);
}

void exclusive_end(struct exclusive *exclusive)
{
    pthread_mutex_lock(&exclusive->lock);
    exclusive->is_active = false;
    pthread_cond_broadcast(&exclusive->changed);
    pthread_mutex_unlock(&exclusive->lock);
}
