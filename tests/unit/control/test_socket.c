#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"
#include "control/runtime.h"

#include <cmocka.h>

static char directory[64];

static int setup(void **state)
{
    strcpy(directory, "/tmp/doppel-test-XXXXXX");
    assert_non_null(mkdtemp(directory));
    return setenv("XDG_RUNTIME_DIR", directory, 1);
}

static int teardown(void **state)
{
    char command[96];
    snprintf(command, sizeof(command), "rm -rf %s", directory);
    return system(command);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void test_a_name_is_held_once(void **state)
{
    struct socket_name first, second = {0};
    struct error err;
    struct stat status;
    int fd = runtime_listen("web", &first, &err);
    assert_true(fd >= 0);
    assert_int_equal(stat(first.path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0600);
    assert_int_equal(runtime_listen("web", &second, &err), -EADDRINUSE);
    assert_non_null(strstr(err.message, "'web' is running already"));
    assert_true(exists(first.path));

    /* The process dies: its socket is stale, and the name free again. */
    close(fd);
    fd = runtime_listen("web", &second, &err);
    assert_true(fd >= 0);
    /* The first one's end does not take the second one's socket away. */
    char path[108];
    strcpy(path, second.path);
    first.inode++;
    socket_remove(&first);
    assert_true(exists(path));
    socket_remove(&second);
    assert_false(exists(path));
    close(fd);
}

static void test_what_is_no_socket_stays(void **state)
{
    char path[96];
    struct socket_name name = {0};
    struct error err;
    snprintf(path, sizeof(path), "%s/file", directory);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    assert_int_equal(socket_listen(path, &name, &err), -EADDRINUSE);
    socket_remove_stale(path);
    assert_true(exists(path));
    assert_int_equal(socket_listen("/nonexistent/x", &name, &err), -ENOENT);
    assert_int_equal(socket_listen("", &name, &err), -ENAMETOOLONG);
}

static void test_names(void **state)
{
    static const char *const good[] = {"a", "web-1", "A.b_c", "0"};
    static const char *const bad[] = {"",    ".",   "..",       "-a",
                                      "a/b", "a b", "\xc3\xa4", "a\n"};
    struct error err;
    for (unsigned i = 0; i < array_size(good); i++) {
        assert_int_equal(runtime_check_name(good[i], &err), 0);
    }
    for (unsigned i = 0; i < array_size(bad); i++) {
        assert_int_equal(runtime_check_name(bad[i], &err), -EINVAL);
    }
    char name[RUNTIME_NAME_MAX + 2];
    memset(name, 'a', sizeof(name));
    name[RUNTIME_NAME_MAX + 1] = '\0';
    assert_int_equal(runtime_check_name(name, &err), -EINVAL);
}

static void test_a_directory_of_others_is_refused(void **state)
{
    char path[108];
    struct error err;
    assert_int_equal(runtime_directory(path, &err), 0);
    chmod(path, 0750);
    assert_int_equal(runtime_directory(path, &err), -EPERM);
    assert_non_null(strstr(err.message, "0700"));
    rmdir(path);
    assert_int_equal(symlink("/tmp", path), 0);
    assert_int_equal(runtime_directory(path, &err), -EPERM);
    unlink(path);
}

static void count(void *opaque, const char *name, int fd)
{
    char *names = opaque;
    strcat(strcat(names, name), " ");
    close(fd);
}

static void test_the_list_drops_the_stale(void **state)
{
    struct socket_name a, b, c;
    struct error err;
    char names[64] = "", file[128];
    int fd_b = runtime_listen("b", &b, &err);
    int fd_a = runtime_listen("a", &a, &err);
    int fd_c = runtime_listen("c", &c, &err);
    close(fd_b);
    snprintf(file, sizeof(file), "%s/doppel/notes", directory);
    close(open(file, O_WRONLY | O_CREAT, 0600));
    assert_int_equal(runtime_list(count, names, &err), 0);
    assert_string_equal(names, "a c ");
    assert_false(exists(b.path));
    assert_true(exists(file));
    close(fd_a);
    close(fd_c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_name_is_held_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_what_is_no_socket_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_directory_of_others_is_refused, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_the_list_drops_the_stale, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
