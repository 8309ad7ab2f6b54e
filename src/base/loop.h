#pragma once
/* The event loop: one thread, epoll; descriptors, one timer queue, calls from other
 * threads. */

#include <stdint.h>

#include "base/error.h"
#include "base/timer.h"

struct loop;

typedef void (*loop_fd_fn)(void *opaque, int fd, uint32_t events /* EPOLL* */);

/*
 * timers may be NULL. The queue is borrowed and must outlive the loop, which sets its
 * wake function and its clock's changed function: open and close the loop while no other
 * thread uses either.
 */
struct loop *loop_open(struct timer_queue *timers, struct error *err);
/* What was posted and not called is dropped. Accepts NULL. */
void loop_close(struct loop *loop);
/* Events are level-triggered unless EPOLLET is given. Adding, modifying and removing are
 * thread-safe. */
int loop_add(struct loop *loop, int fd, uint32_t events, loop_fd_fn fn, void *opaque,
             struct error *err);
/* 0, -ENOENT for a descriptor that was not added, or another negative errno. */
int loop_modify(struct loop *loop, int fd, uint32_t events);
/* After it returns in the loop's own thread, fn is not called again for this descriptor.
 */
void loop_remove(struct loop *loop, int fd);
/* Has fn called once in the loop's thread; thread-safe and never blocks. Returns 0 or
 * -ENOMEM. */
int loop_post(struct loop *loop, void (*fn)(void *opaque), void *opaque);
/* Runs until loop_stop; one called before counts, too. */
void loop_run(struct loop *loop);
/* Thread- and signal-safe. */
void loop_stop(struct loop *loop);
