#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "base/scope.h"
#include "tool/writer.h"

#include <cmocka.h>

struct events {
    int room_fd[2]; /* a byte for each call */
    _Atomic int failure;
};

static void on_room(void *opaque)
{
    struct events *events = opaque;
    assert_int_equal(write(events->room_fd[1], "r", 1), 1);
}

static void on_failure(void *opaque, int code)
{
    struct events *events = opaque;
    events->failure = code;
}

struct fixture {
    struct events events;
    int pipe[2];
    struct writer *writer;
};

static int setup(void **state)
{
    static struct fixture fixture;
    signal(SIGPIPE, SIG_IGN);
    fixture = (struct fixture){0};
    assert_int_equal(pipe(fixture.events.room_fd), 0);
    assert_int_equal(pipe(fixture.pipe), 0);
    const struct writer_events events = {on_room, on_failure, &fixture.events};
    fixture.writer = writer_new(fixture.pipe[1], false, &events, NULL);
    assert_non_null(fixture.writer);
    *state = &fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    writer_free(fixture->writer);
    for (unsigned i = 0; i < 2; i++) {
        close(fixture->pipe[i]);
        close(fixture->events.room_fd[i]);
    }
    return 0;
}

static void read_all(int fd, uint8_t *data, size_t size)
{
    for (size_t at = 0; at < size;) {
        ssize_t count = read(fd, data + at, size - at);
        assert_true(count > 0);
        at += (size_t)count;
    }
}

static void test_bytes_arrive_in_order(void **state)
{
    struct fixture *fixture = *state;
    char text[12] = {0};
    assert_int_equal(writer_put(fixture->writer, "hello ", 6), 6);
    assert_int_equal(writer_put(fixture->writer, "world", 5), 5);
    assert_true(writer_flush(fixture->writer, 5000));
    read_all(fixture->pipe[0], (uint8_t *)text, 11);
    assert_string_equal(text, "hello world");
}

/* Nobody reads: the ring fills, takes no more, and announces room once somebody does. */
static void test_backpressure_loses_nothing(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t sent[1 << 20], received[1 << 20];
    for (unsigned i = 0; i < sizeof(sent); i++) {
        sent[i] = (uint8_t)(i * 7 + i / 251);
    }
    /* Exactly what the pipe and the ring hold; the writer needs its time to move it. */
    unsigned at = 0, capacity = (unsigned)fcntl(fixture->pipe[1], F_GETPIPE_SZ) + 65536;
    assert_true(capacity < sizeof(sent));
    while (at < capacity) {
        at += writer_put(fixture->writer, sent + at, sizeof(sent) - at);
        usleep(100);
    }
    assert_int_equal(at, capacity);
    assert_int_equal(writer_put(fixture->writer, sent + at, 1), 0);
    assert_false(writer_flush(fixture->writer, 10));

    unsigned done = 0;
    while (done < sizeof(sent)) {
        read_all(fixture->pipe[0], received + done, at - done);
        done = at;
        while (at == done && at < sizeof(sent)) {
            char room;
            assert_int_equal(read(fixture->events.room_fd[0], &room, 1), 1);
            at += writer_put(fixture->writer, sent + at, sizeof(sent) - at);
        }
    }
    assert_memory_equal(sent, received, sizeof(sent));
    assert_int_equal(fixture->events.failure, 0);
}

static void test_failure_is_told_once_and_the_rest_dropped(void **state)
{
    struct fixture *fixture = *state;
    close(fixture->pipe[0]);
    fixture->pipe[0] = -1;
    assert_int_equal(writer_put(fixture->writer, "x", 1), 1);
    assert_true(writer_flush(fixture->writer, 5000));
    for (unsigned i = 0; i < 1000 && !fixture->events.failure; i++) {
        usleep(1000);
    }
    assert_int_equal(fixture->events.failure, EPIPE);
    assert_int_equal(writer_put(fixture->writer, "y", 1), 1);
    assert_true(writer_flush(fixture->writer, 5000));
}

static void test_free_does_not_wait_for_a_reader(void **state)
{
    struct fixture *fixture = *state;
    static uint8_t data[1 << 18];
    unsigned taken = 0;
    for (unsigned i = 0; i < 50; i++) {
        taken += writer_put(fixture->writer, data, sizeof(data));
        usleep(1000);
    }
    assert_true(taken > 0);
    writer_free(fixture->writer); /* the pipe is full, the thread waits in it */
    fixture->writer = NULL;
}

static void test_descriptor_can_change(void **state)
{
    struct fixture *fixture = *state;
    char text[3] = {0};
    writer_set_fd(fixture->writer, -1);
    writer_put(fixture->writer, "lost", 4);
    assert_true(writer_flush(fixture->writer, 5000));
    writer_set_fd(fixture->writer, fixture->pipe[1]);
    writer_put(fixture->writer, "ok", 2);
    read_all(fixture->pipe[0], (uint8_t *)text, 2);
    assert_string_equal(text, "ok");
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(test_bytes_arrive_in_order),
        CASE(test_backpressure_loses_nothing),
        CASE(test_failure_is_told_once_and_the_rest_dropped),
        CASE(test_free_does_not_wait_for_a_reader),
        CASE(test_descriptor_can_change),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
