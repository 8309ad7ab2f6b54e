#include "jail_rig.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The part of the file system that is left. */

static char folder[64];

static void make_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void make_folder(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    assert_int_equal(mkdir(path, 0700), 0);
}

static int make_files(void **state)
{
    strcpy(folder, "/tmp/doppel-jail-XXXXXX");
    assert_non_null(mkdtemp(folder));
    make_folder("read");
    make_folder("remove");
    make_folder("make");
    make_folder("other");
    make_file("read/file");
    make_file("remove/file");
    make_file("other/file");
    return 0;
}

static int remove_files(void **state)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    return system(command);
}

static int let_in(const char *name, enum jail_right right)
{
    char path[128];
    struct error err;
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    int fd = open(path, O_PATH | O_DIRECTORY);
    CHECK(fd >= 0 && jail_allow(fd, right, &err) == 0);
    return fd;
}

static void do_files(void *opaque)
{
    prepare(true);
    int readable = let_in("read", JAIL_READ);
    int removable = let_in("remove", JAIL_REMOVE);
    int made = let_in("make", JAIL_MAKE);
    char other[128];
    snprintf(other, sizeof(other), "%s/other", folder);
    int denied = open(other, O_PATH | O_DIRECTORY);
    enter(JAIL_LOOP);
    /* What was let in, and no more of it. */
    CHECK(openat(readable, "file", O_RDONLY) >= 0);
    CHECK(openat(readable, "file", O_WRONLY) < 0 && errno == EACCES);
    CHECK(unlinkat(readable, "file", 0) < 0 && errno == EACCES);
    CHECK(openat(removable, "file", O_RDONLY) < 0 && errno == EACCES);
    CHECK(unlinkat(removable, "file", 0) == 0);
    CHECK(mkdirat(made, "x", 0700) == 0);
    CHECK(openat(made, "x/file", O_WRONLY | O_CREAT, 0600) >= 0);
    CHECK(renameat(made, "x", made, "y") == 0);
    /* Everything else. */
    CHECK(openat(denied, "file", O_RDONLY) < 0 && errno == EACCES);
    CHECK(openat(denied, "new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
    CHECK(unlinkat(denied, "file", 0) < 0 && errno == EACCES);
    CHECK(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
}

static void test_files(void **state)
{
    if (jail_probe(JAIL_LANDLOCK).state != JAIL_ON) {
        print_message("# this host has no Landlock\n");
        skip();
    }
    works(do_files, NULL);
}

static void do_no_files(void *opaque)
{
    prepare(false);
    int readable = let_in("read", JAIL_READ);
    enter(JAIL_LOOP);
    CHECK(openat(readable, "file", O_RDONLY) >= 0);
    CHECK(openat(readable, "new", O_WRONLY | O_CREAT, 0600) < 0 && errno == EACCES);
}

/* Without makes_files the filter refuses before Landlock is asked. */
static void test_no_files(void **state)
{
    works(do_no_files, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files, make_files, remove_files),
        cmocka_unit_test_setup_teardown(test_no_files, make_files, remove_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
