#include "base/loop.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

/* Timers called before descriptors get their turn again. */
#define TIMERS_PER_TURN 256
#define EVENTS_PER_TURN 32

struct source {
    struct source *next;
    int fd;
    loop_fd_fn fn;
    void *opaque;
    bool is_removed;
};

struct post {
    struct post *next;
    void (*fn)(void *opaque);
    void *opaque;
};

struct loop {
    int epoll_fd;
    int event_fd; /* wakes the loop for posts and stop */
    int timer_fd;
    struct timer_queue *timers;
    _Atomic bool is_stopped;

    pthread_mutex_t lock; /* sources, removed, posts */
    struct source *sources;
    struct source *removed; /* perhaps named by an event already fetched */
    struct post *posts, **posts_end;

    pthread_mutex_t arm_lock; /* armed_ns and the timer_fd's setting */
    uint64_t armed_ns;        /* host time; TIMER_NEVER when the timer_fd is not set */
};

/*
 * Sets the timer_fd for the queue's earliest deadline; called whenever that, or the
 * clock, changed. The deadline is read under arm_lock, so of two racing callers the later
 * sees what both have set. One that is already set to fire sooner is left alone: the loop
 * then looks again, which is cheaper than a system call each time a timer moves back.
 */
static void loop_arm(void *opaque)
{
    struct loop *loop = opaque;
    pthread_mutex_lock(&loop->arm_lock);
    struct clock *clock = timer_queue_clock(loop->timers);
    uint64_t next_ns = timer_queue_next(loop->timers);
    uint64_t host_ns = TIMER_NEVER;
    if (next_ns != TIMER_NEVER && !clock_is_paused(clock)) {
        host_ns = clock_host_deadline(clock, next_ns);
    }
    if (host_ns < loop->armed_ns) {
        loop->armed_ns = host_ns;
        struct itimerspec when = {
            .it_value.tv_sec = (time_t)(host_ns / NS_PER_SECOND),
            /* All zero would disarm it. */
            .it_value.tv_nsec = (long)(host_ns % NS_PER_SECOND) | (host_ns == 0),
        };
        int result = timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
        assert(result == 0);
    }
    pthread_mutex_unlock(&loop->arm_lock);
}

static void loop_run_timers(struct loop *loop)
{
    uint64_t expirations;
    (void)!read(loop->timer_fd, &expirations, sizeof(expirations));
    pthread_mutex_lock(&loop->arm_lock);
    loop->armed_ns = TIMER_NEVER;
    pthread_mutex_unlock(&loop->arm_lock);
    timer_queue_run_some(loop->timers, TIMERS_PER_TURN);
    loop_arm(loop);
}

static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    (void)!write(loop->event_fd, &one, sizeof(one));
}

static int add_internal(struct loop *loop, int *fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, *fd, &event);
}

struct loop *loop_open(struct timer_queue *timers, struct error *err)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    if (!loop) {
        fail(err, ENOMEM, "cannot make an event loop");
        return NULL;
    }
    loop->posts_end = &loop->posts;
    loop->armed_ns = TIMER_NEVER;
    pthread_mutex_init(&loop->lock, NULL);
    pthread_mutex_init(&loop->arm_lock, NULL);
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (loop->epoll_fd < 0 || loop->event_fd < 0 || loop->timer_fd < 0 ||
        add_internal(loop, &loop->event_fd) < 0 ||
        add_internal(loop, &loop->timer_fd) < 0) {
        fail(err, errno, "cannot make an event loop");
        loop_close(loop);
        return NULL;
    }
    if (timers) {
        loop->timers = timers;
        timer_queue_set_wake(timers, loop_arm, loop);
        clock_set_changed(timer_queue_clock(timers), loop_arm, loop);
        loop_arm(loop);
    }
    return loop;
}

static void free_sources(struct source *list)
{
    while (list) {
        struct source *next = list->next;
        free(list);
        list = next;
    }
}

static void close_fd(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
}

void loop_close(struct loop *loop)
{
    if (!loop) {
        return;
    }
    if (loop->timers) {
        timer_queue_set_wake(loop->timers, NULL, NULL);
        clock_set_changed(timer_queue_clock(loop->timers), NULL, NULL);
    }
    while (loop->posts) {
        struct post *post = loop->posts;
        loop->posts = post->next;
        free(post);
    }
    free_sources(loop->sources);
    free_sources(loop->removed);
    close_fd(loop->timer_fd);
    close_fd(loop->event_fd);
    close_fd(loop->epoll_fd);
    pthread_mutex_destroy(&loop->arm_lock);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

/* The link that points to the descriptor's source, or to the NULL at the list's end. */
static struct source **find_locked(struct loop *loop, int fd)
{
    struct source **link = &loop->sources;
    while (*link && (*link)->fd != fd) {
        link = &(*link)->next;
    }
    return link;
}

int loop_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
             struct error *err)
{
    struct source *source = calloc(1, sizeof(*source));
    if (!source) {
        return fail(err, ENOMEM, "cannot watch descriptor %d", fd);
    }
    source->fd = fd;
    source->fn = fn;
    source->opaque = opaque;
    struct epoll_event event = {.events = events, .data.ptr = source};
    pthread_mutex_lock(&loop->lock);
    int result = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    int code = errno;
    if (result == 0) {
        source->next = loop->sources;
        loop->sources = source;
    }
    pthread_mutex_unlock(&loop->lock);
    if (result < 0) {
        free(source);
        return fail(err, code, "cannot watch descriptor %d", fd);
    }
    return 0;
}

int loop_modify(struct loop *loop, int fd, uint32_t events)
{
    pthread_mutex_lock(&loop->lock);
    struct source *source = *find_locked(loop, fd);
    struct epoll_event event = {.events = events, .data.ptr = source};
    int result = -ENOENT;
    if (source) {
        result = epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, fd, &event) < 0 ? -errno : 0;
    }
    pthread_mutex_unlock(&loop->lock);
    return result;
}

void loop_remove(struct loop *loop, int fd)
{
    pthread_mutex_lock(&loop->lock);
    struct source **link = find_locked(loop, fd);
    struct source *source = *link;
    if (source) {
        epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
        *link = source->next;
        source->is_removed = true;
        source->next = loop->removed;
        loop->removed = source;
    }
    pthread_mutex_unlock(&loop->lock);
}

int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque)
{
    struct post *post = malloc(sizeof(*post));
    if (!post) {
        return -ENOMEM;
    }
    *post = (struct post){.fn = fn, .opaque = opaque};
    pthread_mutex_lock(&loop->lock);
    *loop->posts_end = post;
    loop->posts_end = &post->next;
    pthread_mutex_unlock(&loop->lock);
    loop_wake(loop);
    return 0;
}

/* Calls what was posted before it began; what those calls post waits for the next turn.
 */
static void loop_run_posts(struct loop *loop)
{
    uint64_t wakes;
    (void)!read(loop->event_fd, &wakes, sizeof(wakes));
    pthread_mutex_lock(&loop->lock);
    struct post *post = loop->posts;
    loop->posts = NULL;
    loop->posts_end = &loop->posts;
    pthread_mutex_unlock(&loop->lock);
    while (post) {
        struct post *next = post->next;
        post->fn(post->opaque);
        free(post);
        post = next;
    }
}

static void loop_dispatch(struct loop *loop, const struct epoll_event *event)
{
    if (event->data.ptr == &loop->event_fd) {
        loop_run_posts(loop);
    } else if (event->data.ptr == &loop->timer_fd) {
        loop_run_timers(loop);
    } else {
        struct source *source = event->data.ptr;
        pthread_mutex_lock(&loop->lock);
        bool is_removed = source->is_removed;
        pthread_mutex_unlock(&loop->lock);
        if (!is_removed) {
            source->fn(source->opaque, source->fd, event->events);
        }
    }
}

/* Only between turns does no fetched event name a removed source. */
static void free_removed(struct loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct source *removed = loop->removed;
    loop->removed = NULL;
    pthread_mutex_unlock(&loop->lock);
    free_sources(removed);
}

void loop_run(struct loop *loop)
{
    while (!loop->is_stopped) {
        struct epoll_event events[EVENTS_PER_TURN];
        int count = epoll_wait(loop->epoll_fd, events, EVENTS_PER_TURN, -1);
        assert(count >= 0 || errno == EINTR);
        for (int i = 0; i < count; i++) {
            loop_dispatch(loop, &events[i]);
        }
        free_removed(loop);
    }
    loop_run_posts(loop);
    loop->is_stopped = false;
}

void loop_stop(struct loop *loop)
{
    int saved_errno = errno;
    loop->is_stopped = true;
    loop_wake(loop);
    errno = saved_errno;
}
