/* Each call of the system that saving and restoring make fails in turn: a clear error,
 * nothing left behind, the original VM unharmed. */

#include "fixture.h"

#include <jansson.h>

/* The library's calls come here. Only the test's own thread is failed. */
static _Thread_local bool is_armed;
static unsigned calls, fail_call;
static int fail_code;

static const char *failed_call;

static bool fails_now(const char *name)
{
    if (!is_armed || ++calls != fail_call) {
        return false;
    }
    errno = fail_code;
    failed_call = name;
    return true;
}

static bool is_file(int fd)
{
    struct stat status;
    return fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
}

/* Those that wake a thread through an eventfd do not fail. */
ssize_t write(int fd, const void *data, size_t size)
{
    return is_file(fd) && fails_now(__func__) ? -1 : syscall(SYS_write, fd, data, size);
}

ssize_t read(int fd, void *data, size_t size)
{
    return fails_now(__func__) ? -1 : syscall(SYS_read, fd, data, size);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    return fails_now(__func__) ? -1 : syscall(SYS_pread64, fd, data, size, offset);
}

int fsync(int fd)
{
    return fails_now(__func__) ? -1 : (int)syscall(SYS_fsync, fd);
}

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
    return fails_now(__func__) ? -1
                               : (int)syscall(SYS_renameat, from_dir, from, to_dir, to);
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    return fails_now(__func__) ? -1 : (int)syscall(SYS_open, path, flags, mode);
}

int openat(int dir, const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    return fails_now(__func__) ? -1 : (int)syscall(SYS_openat, dir, path, flags, mode);
}

/* Without failures: how many calls there are. */
static unsigned count_calls(int (*action)(void))
{
    calls = fail_call = 0;
    is_armed = true;
    int result = action();
    is_armed = false;
    if (result < 0) {
        fail_msg("%s", err.message);
    }
    return calls;
}

static int fail_at(unsigned call, int code, int (*action)(void))
{
    calls = 0;
    fail_call = call;
    fail_code = code;
    is_armed = true;
    int result = action();
    is_armed = false;
    return result;
}

static int save(void)
{
    return vm_snapshot(vm, saved, &err);
}

/* With all the pages that it will ever have, so that each saving makes the same calls. */
static void start_counting_vm(void)
{
    start_vm();
    wait_for_count(vm, 1000);
    vm_pause(vm); /* both threads have begun then, and hold what they hold */
    vm_resume(vm);
}

static int load(void)
{
    int result = restore();
    is_armed = false; /* ending it makes calls, too, which cannot fail like that */
    vm_free(copy);
    copy = NULL;
    return result;
}

static void test_saving(void **state)
{
    static const int codes[] = {ENOSPC, EIO, EDQUOT};
    unsigned call = 1;
    start_counting_vm();
    struct resources before = count_resources();
    for (;; call++) {
        int code = codes[call % array_size(codes)];
        int result = fail_at(call, code, save);
        assert_int_equal(vm_get_status(vm), VM_RUNNING);
        if (calls < call) {
            assert_int_equal(result, 0); /* there are not that many */
            break;
        }
        if (result != -code) {
            fail_msg("call %u: %s is lost", call, failed_call);
        }
        assert_non_null(strstr(err.message, strerror(code)));
        assert_non_null(strstr(err.message, "cannot save the virtual machine"));
        assert_resources(&before);
    }
    assert_true(call > 20);
    assert_int_equal(load(), 0);
}

static void test_interrupted_calls_are_repeated(void **state)
{
    start_counting_vm();
    unsigned total = count_calls(save), repeated = 0;
    for (unsigned call = 1; call <= total; call++) {
        remove_all(saved);
        repeated += fail_at(call, EINTR, save) == 0;
    }
    assert_true(repeated >= 4); /* the writes; opening and flushing need not */
}

static void test_loading(void **state)
{
    start_vm();
    vm_pause(vm);
    snapshot();
    unsigned total = count_calls(load), failed = 0;
    assert_true(total > 10);
    struct resources before = count_resources();
    for (unsigned call = 1; call <= total; call++) {
        /* What is looked for on the host, userfaultfd say, may be absent. */
        failed += fail_at(call, EIO, load) < 0;
        assert_resources(&before);
    }
    assert_true(failed > 8);
    assert_int_equal(load(), 0);
    assert_resources(&before);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_saving),
        TEST(test_interrupted_calls_are_repeated),
        TEST(test_loading),
    };
    json_object_seed(1); /* or the library would read one, and do without if it fails */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
