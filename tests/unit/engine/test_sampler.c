#include "engine/sampler.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

/* Where the linker puts what is in the section of that name. */
extern const char __start_sampled[], __stop_sampled[];

/* Something to do at known addresses. */
static __attribute__((noinline, section("sampled"))) void work(void)
{
    for (volatile unsigned i = 0; i < 1000000; i++) {
    }
}

/* Until the sampler has met it. */
static void work_until_seen(const struct sampler *sampler, enum where where)
{
    while (sampler_ns(sampler, where) == 0) {
        work();
    }
}

static void *work_at_places(void *opaque)
{
    struct sampler *sampler = opaque;
    sampler_begin(sampler);
    assert_true(sampler->is_running);
    enum where before = where_enter(WHERE_DEVICE);
    work_until_seen(sampler, WHERE_DEVICE);
    assert_int_equal(where_enter(WHERE_MISS), WHERE_DEVICE);
    work_until_seen(sampler, WHERE_MISS);
    where_enter(before);
    return NULL;
}

static void test_tells_what_the_thread_noted(void **state)
{
    struct sampler sampler = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work_at_places, &sampler), 0);
    pthread_join(thread, NULL);
    sampler_end(&sampler);
    assert_true(sampler_ns(&sampler, WHERE_DEVICE) > 0);
    assert_true(sampler_ns(&sampler, WHERE_MISS) > 0);
    assert_int_equal(sampler_ns(&sampler, WHERE_GUEST), 0);
    assert_int_equal(sampler_ns(&sampler, WHERE_TRANSLATION), 0);
}

/* Code at known addresses is the guest's, whatever was noted. */
static void *work_in_guest_code(void *opaque)
{
    struct sampler *sampler = opaque;
    sampler_begin(sampler);
    where_enter(WHERE_DEVICE);
    work_until_seen(sampler, WHERE_GUEST);
    where_enter(WHERE_ENGINE);
    return NULL;
}

static void test_tells_guest_code_by_its_address(void **state)
{
    struct sampler sampler = {.code = (uintptr_t)__start_sampled,
                              .code_size = (uint64_t)(__stop_sampled - __start_sampled)};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, work_in_guest_code, &sampler), 0);
    pthread_join(thread, NULL);
    sampler_end(&sampler);
    assert_true(sampler_ns(&sampler, WHERE_GUEST) > 0);
}

static void *receive_a_signal(void *opaque)
{
    struct sampler *sampler = opaque;
    sampler_begin(sampler);
    sampler_end(sampler); /* its timer is silent from here */
    uint64_t before = sampler_ns(sampler, WHERE_ENGINE);
    syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGPROF);
    assert_int_equal(sampler_ns(sampler, WHERE_ENGINE), before);
    return NULL;
}

static void test_signals_of_others_are_no_samples(void **state)
{
    struct sampler sampler = {0};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, receive_a_signal, &sampler), 0);
    pthread_join(thread, NULL);
    /* And a thread that nobody samples survives one. */
    raise(SIGPROF);
}

static void test_one_that_never_began_ends(void **state)
{
    struct sampler sampler = {0};
    sampler_end(&sampler);
    assert_false(sampler.is_running);
}

static void test_places_have_names(void **state)
{
    for (unsigned i = 0; i < WHERE_COUNT; i++) {
        assert_non_null(where_name(i));
        for (unsigned j = 0; j < i; j++) {
            assert_string_not_equal(where_name(i), where_name(j));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tells_what_the_thread_noted),
        cmocka_unit_test(test_tells_guest_code_by_its_address),
        cmocka_unit_test(test_signals_of_others_are_no_samples),
        cmocka_unit_test(test_one_that_never_began_ends),
        cmocka_unit_test(test_places_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
