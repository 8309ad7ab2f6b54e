#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/hub.h"

#include <cmocka.h>

/* A hub whose serial port takes all, or less; a loop that runs for as long as asked. */
struct rig {
    struct hub *hub;
    struct loop *loop;
    struct console_port port;
    unsigned takes; /* of each write */
    char input[256];
    unsigned input_size, input_room;
};

static unsigned inner_write(void *opaque, const uint8_t *data, unsigned size)
{
    struct rig *rig = opaque;
    return size < rig->takes ? size : rig->takes;
}

static unsigned guest_input(void *opaque, const uint8_t *data, unsigned size)
{
    struct rig *rig = opaque;
    unsigned room = rig->input_room - rig->input_size;
    unsigned count = size < room ? size : room;
    memcpy(rig->input + rig->input_size, data, count);
    rig->input_size += count;
    return count;
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct error err;
    rig->takes = UINT32_MAX;
    rig->input_room = sizeof(rig->input);
    rig->loop = loop_open(NULL, &err);
    rig->hub = hub_new(&(struct console_port){.write = inner_write, .opaque = rig}, &err);
    rig->port = hub_port(rig->hub);
    assert_int_equal(hub_start(rig->hub, rig->loop, guest_input, rig, &err), 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    hub_free(rig->hub);
    loop_close(rig->loop);
    free(rig);
    return 0;
}

static void stop(void *opaque)
{
    loop_stop(opaque);
}

/* One turn of the loop: events that are there are served. */
static void turn(struct rig *rig)
{
    for (unsigned i = 0; i < 4; i++) {
        loop_post(rig->loop, stop, rig->loop);
        loop_run(rig->loop);
    }
}

static void guest_write(struct rig *rig, const char *text)
{
    rig->port.write(rig->port.opaque, (const uint8_t *)text, (unsigned)strlen(text));
}

static int attach(struct rig *rig)
{
    int fds[2];
    assert_int_equal(
        socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
    hub_attach(rig->hub, fds[0], "", 0);
    return fds[1];
}

static void assert_reads(struct rig *rig, int fd, const char *text)
{
    char data[256] = "";
    turn(rig);
    ssize_t size = read(fd, data, sizeof(data) - 1);
    assert_int_equal(size, strlen(text));
    assert_string_equal(data, text);
}

static void test_all_see_what_was_and_what_comes(void **state)
{
    struct rig *rig = *state;
    guest_write(rig, "before ");
    int first = attach(rig);
    assert_reads(rig, first, "before ");
    guest_write(rig, "between ");
    int second = attach(rig);
    assert_reads(rig, first, "between ");
    assert_reads(rig, second, "before between ");
    guest_write(rig, "after");
    assert_reads(rig, first, "after");
    assert_reads(rig, second, "after");
    close(first);
    close(second);
    turn(rig);
    assert_int_equal(hub_clients(rig->hub), 0);
}

static void test_only_what_was_taken_is_kept(void **state)
{
    struct rig *rig = *state;
    size_t size;
    rig->takes = 3;
    assert_int_equal(rig->port.write(rig->port.opaque, (const uint8_t *)"abcdef", 6), 3);
    char *kept = hub_copy(rig->hub, &size);
    assert_int_equal(size, 3);
    assert_memory_equal(kept, "abc", 3);
    free(kept);
}

static void test_the_last_of_much_is_kept(void **state)
{
    struct rig *rig = *state;
    static uint8_t data[HUB_KEPT + 100];
    size_t size;
    for (size_t i = 0; i < sizeof(data); i++) {
        data[i] = (uint8_t)(i * 7);
    }
    rig->port.write(rig->port.opaque, data, 1000);
    rig->port.write(rig->port.opaque, data, sizeof(data));
    char *kept = hub_copy(rig->hub, &size);
    assert_int_equal(size, HUB_KEPT);
    assert_memory_equal(kept, data + 100, HUB_KEPT);
    free(kept);
}

static void test_who_does_not_read_misses_and_is_told(void **state)
{
    struct rig *rig = *state;
    static uint8_t data[HUB_KEPT];
    static char read_data[2 * HUB_KEPT];
    int fd = attach(rig);
    memset(data, 'x', sizeof(data));
    for (unsigned i = 0; i < 8; i++) {
        rig->port.write(rig->port.opaque, data, sizeof(data));
        turn(rig);
    }
    bool is_told = false;
    for (unsigned i = 0; i < 200; i++) {
        ssize_t size = read(fd, read_data, sizeof(read_data) - 1);
        is_told |=
            size > 0 && memmem(read_data, (size_t)size, "bytes of output missed", 22);
        turn(rig);
    }
    assert_true(is_told);
    close(fd);
}

static void test_input_waits_for_the_guest(void **state)
{
    struct rig *rig = *state;
    rig->input_room = 2;
    int fd = attach(rig);
    assert_int_equal(write(fd, "hello", 5), 5);
    turn(rig);
    assert_int_equal(rig->input_size, 2);
    rig->input_room = sizeof(rig->input);
    turn(rig);
    assert_int_equal(rig->input_size, 2);
    rig->port.room(rig->port.opaque);
    turn(rig);
    assert_int_equal(rig->input_size, 5);
    assert_memory_equal(rig->input, "hello", 5);
    close(fd);
}

static void test_no_more_than_the_limit(void **state)
{
    struct rig *rig = *state;
    int fds[HUB_CLIENTS_MAX + 1];
    char byte;
    for (unsigned i = 0; i <= HUB_CLIENTS_MAX; i++) {
        fds[i] = attach(rig);
    }
    assert_int_equal(hub_clients(rig->hub), HUB_CLIENTS_MAX);
    assert_int_equal(read(fds[HUB_CLIENTS_MAX], &byte, 1), 0);
    for (unsigned i = 0; i <= HUB_CLIENTS_MAX; i++) {
        close(fds[i]);
    }
}

static void test_last_words_are_sent_at_the_end(void **state)
{
    struct rig *rig = *state;
    char data[32] = "";
    int fd = attach(rig);
    guest_write(rig, "Power down");
    hub_stop(rig->hub);
    assert_int_equal(read(fd, data, sizeof(data)), 10);
    assert_string_equal(data, "Power down");
    assert_int_equal(read(fd, data, sizeof(data)), 0);
    close(fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_see_what_was_and_what_comes, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_only_what_was_taken_is_kept, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_last_of_much_is_kept, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_does_not_read_misses_and_is_told, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_input_waits_for_the_guest, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_more_than_the_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_words_are_sent_at_the_end, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
