#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/server.h"
#include "control/socket.h"

#include <cmocka.h>

/* A server that answers with the path, or with much. */
struct rig {
    struct server *server;
    struct loop *loop;
    struct socket_name name;
    unsigned requests;
};

#define MUCH (1u << 20)

static void answer(void *opaque, const struct http_request *request,
                   struct http_reply *reply)
{
    struct rig *rig = opaque;
    rig->requests++;
    bool is_much = request->path_length == 5 && memcmp(request->path, "/much", 5) == 0;
    reply->status = 200;
    reply->type = "text/plain";
    reply->length = is_much ? MUCH : request->path_length;
    reply->body = calloc(1, reply->length);
    memcpy(reply->body, request->path, request->path_length);
}

static int setup(void **state)
{
    struct rig *rig = calloc(1, sizeof(*rig));
    struct error err;
    char path[64];
    snprintf(path, sizeof(path), "/tmp/doppel-test-%d.sock", (int)getpid());
    rig->loop = loop_open(NULL, &err);
    rig->server = server_new(answer, rig, &err);
    int fd = socket_listen(path, &rig->name, &err);
    assert_true(fd >= 0);
    assert_int_equal(server_listen(rig->server, fd, &err), 0);
    assert_int_equal(server_attach(rig->server, rig->loop, &err), 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    server_free(rig->server);
    loop_close(rig->loop);
    socket_remove(&rig->name);
    free(rig);
    return 0;
}

static void stop(void *opaque)
{
    loop_stop(opaque);
}

static void turn(struct rig *rig)
{
    for (unsigned i = 0; i < 8; i++) {
        loop_post(rig->loop, stop, rig->loop);
        loop_run(rig->loop);
    }
}

static int client(struct rig *rig)
{
    struct error err;
    int fd = socket_connect(rig->name.path, &err);
    assert_true(fd >= 0);
    turn(rig);
    return fd;
}

static void say(struct rig *rig, int fd, const char *text)
{
    assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
    turn(rig);
}

/* What has come: its size. */
static ssize_t hear(int fd, char *data, size_t size)
{
    ssize_t got = recv(fd, data, size - 1, MSG_DONTWAIT);
    data[got > 0 ? got : 0] = '\0';
    return got;
}

static unsigned occurrences(const char *text, const char *word)
{
    unsigned count = 0;
    for (; (text = strstr(text, word)); text++) {
        count++;
    }
    return count;
}

static void test_requests_are_answered_in_order(void **state)
{
    struct rig *rig = *state;
    char data[4096];
    int fd = client(rig);
    say(rig, fd, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\nGET /c HTT");
    hear(fd, data, sizeof(data));
    assert_int_equal(occurrences(data, "HTTP/1.1 200 OK"), 2);
    assert_true(strstr(data, "/a") < strstr(data, "/b"));
    say(rig, fd, "P/1.1\r\nConnection: close\r\n\r\n");
    hear(fd, data, sizeof(data));
    assert_non_null(strstr(data, "/c"));
    assert_non_null(strstr(data, "Connection: close"));
    assert_int_equal(hear(fd, data, sizeof(data)), 0);
    close(fd);
    turn(rig);
    assert_int_equal(server_connections(rig->server), 0);
}

static void test_half_closed_gets_its_answer(void **state)
{
    struct rig *rig = *state;
    char data[4096];
    int fd = client(rig);
    assert_true(send(fd, "GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n", 38, 0) > 0);
    shutdown(fd, SHUT_WR);
    turn(rig);
    hear(fd, data, sizeof(data));
    assert_int_equal(occurrences(data, "HTTP/1.1 200 OK"), 2);
    close(fd);
}

static void test_a_refusal_ends_the_connection(void **state)
{
    struct rig *rig = *state;
    char data[4096];
    int fd = client(rig);
    say(rig, fd, "nonsense\r\nGET /a HTTP/1.1\r\n\r\n");
    hear(fd, data, sizeof(data));
    assert_int_equal(strncmp(data, "HTTP/1.1 400 ", 13), 0);
    assert_non_null(strstr(data, "{\"fault_message\":"));
    assert_int_equal(hear(fd, data, sizeof(data)), 0);
    assert_int_equal(rig->requests, 0);
    close(fd);
    turn(rig);
    assert_int_equal(server_connections(rig->server), 0);
}

static void test_the_body_can_be_asked_for(void **state)
{
    struct rig *rig = *state;
    char data[4096];
    int fd = client(rig);
    say(rig, fd, "PUT /x HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    hear(fd, data, sizeof(data));
    assert_string_equal(data, "HTTP/1.1 100 Continue\r\n\r\n");
    say(rig, fd, "{}");
    hear(fd, data, sizeof(data));
    assert_int_equal(strncmp(data, "HTTP/1.1 200 ", 13), 0);
    close(fd);
}

static void test_who_does_not_read_gets_one_answer_at_a_time(void **state)
{
    struct rig *rig = *state;
    static char data[65536];
    int fd = client(rig);
    for (unsigned i = 0; i < 20; i++) {
        say(rig, fd, "GET /much HTTP/1.1\r\n\r\n");
    }
    /* The socket's buffer holds less than one of them. */
    assert_int_equal(rig->requests, 1);
    size_t total = 0;
    for (unsigned i = 0; i < 2000 && total < 20u * MUCH; i++) {
        ssize_t got = hear(fd, data, sizeof(data));
        total += got > 0 ? (size_t)got : 0;
        turn(rig);
    }
    assert_int_equal(rig->requests, 20);
    close(fd);
}

static unsigned open_files(void)
{
    unsigned count = 0;
    DIR *list = opendir("/proc/self/fd");
    while (readdir(list)) {
        count++;
    }
    closedir(list);
    return count;
}

static void test_a_thousand_clients_leave_nothing(void **state)
{
    struct rig *rig = *state;
    unsigned before = open_files();
    for (unsigned i = 0; i < 1000; i++) {
        int fd = client(rig);
        if (i % 3) {
            say(rig, fd, i % 3 == 1 ? "GET /a HTTP/1.1\r\n\r\n" : "GET /much HTTP");
        }
        close(fd);
    }
    turn(rig);
    assert_int_equal(server_connections(rig->server), 0);
    assert_int_equal(open_files(), before);
}

static void test_the_longest_idle_makes_room(void **state)
{
    struct rig *rig = *state;
    int fds[SERVER_CONNECTIONS_MAX + 1];
    char data[256];
    for (unsigned i = 0; i < SERVER_CONNECTIONS_MAX; i++) {
        fds[i] = client(rig);
    }
    say(rig, fds[0], "GET /a HTTP/1.1\r\n\r\n");
    fds[SERVER_CONNECTIONS_MAX] = client(rig);
    assert_int_equal(server_connections(rig->server), SERVER_CONNECTIONS_MAX);
    assert_true(hear(fds[0], data, sizeof(data)) > 0);
    assert_int_equal(hear(fds[1], data, sizeof(data)), 0);
    say(rig, fds[SERVER_CONNECTIONS_MAX], "GET /b HTTP/1.1\r\n\r\n");
    assert_true(hear(fds[SERVER_CONNECTIONS_MAX], data, sizeof(data)) > 0);
    for (unsigned i = 0; i <= SERVER_CONNECTIONS_MAX; i++) {
        close(fds[i]);
    }
}

static void test_connections_move_to_another_loop(void **state)
{
    struct rig *rig = *state;
    char data[256];
    struct error err;
    int fd = client(rig);
    struct loop *old = rig->loop;
    rig->loop = loop_open(NULL, &err);
    assert_int_equal(server_attach(rig->server, rig->loop, &err), 0);
    loop_close(old);
    say(rig, fd, "GET /a HTTP/1.1\r\n\r\n");
    assert_true(hear(fd, data, sizeof(data)) > 0);
    close(fd);
    close(client(rig));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_requests_are_answered_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_half_closed_gets_its_answer, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_a_refusal_ends_the_connection, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_body_can_be_asked_for, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_does_not_read_gets_one_answer_at_a_time,
                                        setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_thousand_clients_leave_nothing, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_longest_idle_makes_room, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_connections_move_to_another_loop, setup,
                                        teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
