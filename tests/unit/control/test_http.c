#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "control/http.h"

#include <cmocka.h>

static int parse(const char *text, struct http_request *request)
{
    const char *reason;
    return http_parse(text, strlen(text), request, &reason);
}

static void test_a_request_is_taken_apart(void **state)
{
    static const char text[] = "PUT /drives/a?x=1 HTTP/1.1\r\nHost: h\r\n"
                               "content-length:  4 \r\n\r\nbodyGET / HTTP/1.1\r\n";
    struct http_request request;
    assert_int_equal(parse(text, &request), strstr(text, "GET") - text);
    assert_int_equal(request.method, HTTP_PUT);
    assert_int_equal(request.path_length, 9);
    assert_memory_equal(request.path, "/drives/a", 9);
    assert_int_equal(request.body_length, 4);
    assert_memory_equal(request.body, "body", 4);
    assert_true(request.is_persistent);
    assert_false(request.upgrades_to_console);
}

static void test_what_keeps_a_connection(void **state)
{
    static const struct {
        const char *text;
        bool is_persistent, upgrades, expects;
    } cases[] = {
        {"GET / HTTP/1.1\r\n\r\n", true, false, false},
        {"GET / HTTP/1.0\r\n\r\n", false, false, false},
        {"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true, false, false},
        {"GET / HTTP/1.1\r\nConnection: x, close\r\n\r\n", false, false, false},
        {"GET / HTTP/1.1\nConnection: upgrade\nUpgrade: doppel-console\n\n", true, true,
         false},
        {"GET / HTTP/1.1\r\nUpgrade: doppel-console\r\n\r\n", true, false, false},
        {"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", true, false,
         false},
        {"GET / HTTP/1.1\r\nExpect: 100-Continue\r\n\r\n", true, false, true},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct http_request request;
        assert_int_equal(parse(cases[i].text, &request), strlen(cases[i].text));
        assert_int_equal(request.is_persistent, cases[i].is_persistent);
        assert_int_equal(request.upgrades_to_console, cases[i].upgrades);
        assert_int_equal(request.expects_continue, cases[i].expects);
    }
}

static void test_every_shorter_piece_asks_for_more(void **state)
{
    static const char text[] =
        "\r\nPUT /vm HTTP/1.1\r\nA: b\r\nContent-Length: 3\r\n\r\nabc";
    struct http_request request;
    const char *reason;
    for (size_t size = 0; size < sizeof(text) - 1; size++) {
        assert_int_equal(http_parse(text, size, &request, &reason), 0);
    }
    assert_int_equal(parse(text, &request), sizeof(text) - 1);
}

static void test_refusals(void **state)
{
    static const struct {
        const char *text;
        int status;
    } cases[] = {
        {"hello\r\n\r\n", 400},
        {" GET / HTTP/1.1\r\n\r\n", 400},
        {"GET\r\n\r\n", 400},
        {"GET  / HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/1.1 \r\n\r\n", 400},
        {"GET http://h/ HTTP/1.1\r\n\r\n", 400},
        {"GET /a\x01 HTTP/1.1\r\n\r\n", 400},
        {"GET /\xff HTTP/1.1\r\n\r\n", 400},
        {"GET / HTTP/2.0\r\n\r\n", 505},
        {"GET / HTTP/1.1x\r\n\r\n", 400},
        {"get / HTTP/1.1\r\n\r\n", 501},
        {"BREW / HTTP/1.1\r\n\r\n", 501},
        {"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nName : v\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nA: b\r\n folded\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nA: b\rc\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length: 0x1\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length:\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", 413},
        {"GET / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413},
        {"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
        {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411},
        {"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
         400},
        {"GET / HTTP/1.1\r\nExpect: a miracle\r\n\r\n", 417},
    };
    for (unsigned i = 0; i < array_size(cases); i++) {
        struct http_request request;
        int result = parse(cases[i].text, &request);
        if (result != -cases[i].status) {
            print_message("%s\n", cases[i].text);
        }
        assert_int_equal(result, -cases[i].status);
    }
}

static void test_a_zero_byte_is_no_end(void **state)
{
    static const char text[] = "GET /\0 HTTP/1.1\r\n\r\n";
    struct http_request request;
    const char *reason;
    assert_int_equal(http_parse(text, sizeof(text) - 1, &request, &reason), -400);
}

static void test_limits(void **state)
{
    static char text[HTTP_HEAD_MAX + 16];
    struct http_request request;
    const char *reason;
    memset(text, 'a', sizeof(text));
    assert_int_equal(http_parse(text, HTTP_HEAD_MAX - 1, &request, &reason), 0);
    assert_int_equal(http_parse(text, HTTP_HEAD_MAX, &request, &reason), -431);

    /* A head that is as long as it may be, then one byte longer. */
    for (unsigned excess = 0; excess < 2; excess++) {
        size_t size = HTTP_HEAD_MAX + excess;
        memset(text, 'a', size);
        memcpy(text, "GET / HTTP/1.1\r\nA: ", 19);
        memcpy(text + size - 4, "\r\n\r\n", 4);
        assert_int_equal(http_parse(text, size, &request, &reason),
                         excess ? -431 : (int)HTTP_HEAD_MAX);
    }

    for (unsigned headers = HTTP_HEADERS_MAX; headers <= HTTP_HEADERS_MAX + 1;
         headers++) {
        size_t size = (size_t)sprintf(text, "GET / HTTP/1.1\r\n");
        for (unsigned i = 0; i < headers; i++) {
            size += (size_t)sprintf(text + size, "A: b\r\n");
        }
        size += (size_t)sprintf(text + size, "\r\n");
        assert_int_equal(http_parse(text, size, &request, &reason),
                         headers > HTTP_HEADERS_MAX ? -431 : (int)size);
    }
}

static void test_responses(void **state)
{
    char head[HTTP_RESPONSE_HEAD_MAX];
    int status;
    size_t length;
    size_t size = http_format_head(head, 200, "text/plain", 12, true);
    assert_int_equal(http_parse_response(head, size, &status, &length), size);
    assert_int_equal(status, 200);
    assert_int_equal(length, 12);
    assert_int_equal(http_parse_response(head, size - 1, &status, &length), 0);

    size = http_format_head(head, 204, NULL, 0, false);
    assert_int_equal(http_parse_response(head, size, &status, &length), size);
    assert_int_equal(status, 204);
    assert_int_equal(length, SIZE_MAX);
    assert_null(memmem(head, size, "Content-Length", 14));

    size = http_format_head(head, 101, NULL, 0, true);
    assert_non_null(memmem(head, size, "Upgrade: doppel-console\r\n", 25));
    assert_int_equal(http_parse_response("SSH-2.0-x\r\n", 11, &status, &length), -1);
    assert_int_equal(http_parse_response("HTTP/1.1 2\r\n", 12, &status, &length), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_is_taken_apart),
        cmocka_unit_test(test_what_keeps_a_connection),
        cmocka_unit_test(test_every_shorter_piece_asks_for_more),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_a_zero_byte_is_no_end),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_responses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
