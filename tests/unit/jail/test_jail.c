#include "jail_rig.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

/* Closing it, and a VM without it. */

static _Atomic bool has_entered;

static void *slow_thread(void *opaque)
{
    usleep(50000);
    atomic_store(&has_entered, true);
    jail_enter(JAIL_DISK);
    for (;;) {
        nanosleep(&(struct timespec){.tv_sec = 100}, NULL);
    }
    return NULL;
}

static void *short_thread(void *opaque)
{
    return NULL;
}

static void do_wait(void *opaque)
{
    pthread_t slow, gone;
    prepare(false);
    CHECK(jail_thread_create(&slow, slow_thread, NULL) == 0);
    CHECK(jail_thread_create(&gone, short_thread, NULL) == 0);
    enter(JAIL_LOOP);
    CHECK(atomic_load(&has_entered));
}

/* Closing waits for those outside, and not for those that have ended. */
static void test_wait(void **state)
{
    works(do_wait, NULL);
}

static void *guilty_thread(void *opaque)
{
    jail_enter(JAIL_CONSOLE);
    call_socket();
    return NULL;
}

static void do_guilty(void *opaque)
{
    pthread_t thread;
    prepare(false);
    CHECK(jail_thread_create(&thread, guilty_thread, NULL) == 0);
    pthread_join(thread, NULL);
}

/* One thread's violation ends the process. */
static void test_guilty(void **state)
{
    assert_int_equal(in_child(do_guilty, NULL), STOPPED);
    assert_non_null(strstr(said, "role 'console' called socket"));
}

static void do_without(void *opaque)
{
    pthread_t thread;
    struct error err;
    CHECK(jail_thread_create(&thread, guilty_thread, NULL) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(jail_close(&err) == 0);
    CHECK(!jail_is_closed());
    CHECK(open("/etc/passwd", O_RDONLY) >= 0);
}

/* Not prepared, nothing changes: --no-jail. */
static void test_without(void **state)
{
    works(do_without, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_wait),
        cmocka_unit_test(test_guilty),
        cmocka_unit_test(test_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
