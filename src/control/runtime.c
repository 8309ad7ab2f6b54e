#include "control/runtime.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/scope.h"

#define PATH_ROOM 108 /* of a socket's address */
#define SUFFIX    ".sock"

int runtime_check_name(const char *name, struct error *err)
{
    size_t length = strlen(name);
    bool is_good =
        length > 0 && length <= RUNTIME_NAME_MAX && *name != '.' && *name != '-';
    for (size_t i = 0; is_good && i < length; i++) {
        unsigned char c = (unsigned char)name[i];
        is_good = c < 0x80 && (isalnum(c) || strchr("._-", c));
    }
    if (!is_good) {
        return fail_plain(
            err, EINVAL,
            "'%.64s' cannot be a machine's name; use 1 to %d letters, digits "
            "and . _ -, beginning with a letter or digit",
            name, RUNTIME_NAME_MAX);
    }
    return 0;
}

static bool is_own_directory(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0 && S_ISDIR(status.st_mode) &&
           status.st_uid == geteuid();
}

/* The candidate's path; the parent of the last always exists. */
static void choose(char path[PATH_ROOM])
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    if (xdg && *xdg == '/' && strlen(xdg) < PATH_ROOM / 2 && is_own_directory(xdg)) {
        snprintf(path, PATH_ROOM, "%s/doppel", xdg);
        return;
    }
    snprintf(path, PATH_ROOM, "/run/user/%u", geteuid());
    if (is_own_directory(path)) {
        strcat(path, "/doppel");
        return;
    }
    snprintf(path, PATH_ROOM, "/tmp/doppel-%u", geteuid());
}

int runtime_directory(char path[PATH_ROOM], struct error *err)
{
    choose(path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST) {
        return fail(err, errno, "cannot make the runtime directory %s", path);
    }
    struct stat status;
    if (lstat(path, &status) < 0) {
        return fail(err, errno, "runtime directory %s", path);
    }
    if (!S_ISDIR(status.st_mode) || status.st_uid != geteuid() || status.st_mode & 077) {
        return fail_plain(
            err, EPERM,
            "runtime directory %s: it must be a folder of yours that nobody "
            "else can enter (mode 0700); remove it, or set "
            "XDG_RUNTIME_DIR to another place",
            path);
    }
    return 0;
}

int runtime_socket(const char *name, char path[PATH_ROOM], struct error *err)
{
    int result = runtime_check_name(name, err);
    if (result >= 0) {
        result = runtime_directory(path, err);
    }
    if (result < 0) {
        return result;
    }
    size_t used = strlen(path);
    if (used + 1 + strlen(name) + sizeof(SUFFIX) > PATH_ROOM) {
        return fail_plain(err, ENAMETOOLONG,
                          "the name '%s' is too long for a socket in %s; take a shorter "
                          "one",
                          name, path);
    }
    snprintf(path + used, PATH_ROOM - used, "/%s" SUFFIX, name);
    return 0;
}

/*
 * Who makes or removes sockets holds the directory: between a look at a stale one and its
 * removal nobody else can have put a living one there. Released with the descriptor.
 */
static int lock_directory(const char *path, struct error *err)
{
    SCOPE_FD int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        return fail(err, errno, "cannot lock the runtime directory %s", path);
    }
    return steal_fd(&fd);
}

int runtime_listen(const char *name, struct socket_name *socket, struct error *err)
{
    char directory[PATH_ROOM], path[PATH_ROOM];
    int result = runtime_socket(name, path, err);
    if (result >= 0) {
        result = runtime_directory(directory, err);
    }
    if (result < 0) {
        return result;
    }
    SCOPE_FD int lock = lock_directory(directory, err);
    if (lock < 0) {
        return lock;
    }
    result = socket_listen(path, socket, err);
    if (result == -EADDRINUSE) {
        return fail_plain(err, EADDRINUSE,
                          "a virtual machine named '%s' is running already; take another "
                          "name, or end that one with doppel stop %s",
                          name, name);
    }
    return result;
}

static int is_socket(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > strlen(SUFFIX) &&
           strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX) == 0;
}

/* The path of an entry; false if it is none of ours. */
static bool entry_path(const char *directory, const char *file, char path[PATH_ROOM])
{
    return strlen(file) - strlen(SUFFIX) <= RUNTIME_NAME_MAX &&
           snprintf(path, PATH_ROOM, "%s/%s", directory, file) < PATH_ROOM;
}

static void remove_stale(const char *directory, struct dirent **entries, int count)
{
    char path[PATH_ROOM];
    struct error err;
    SCOPE_FD int lock = lock_directory(directory, &err);
    for (int i = 0; lock >= 0 && i < count; i++) {
        if (entry_path(directory, entries[i]->d_name, path)) {
            socket_remove_stale(path);
        }
    }
}

static void visit(const char *directory, const char *file,
                  void (*found)(void *opaque, const char *name, int fd), void *opaque)
{
    char path[PATH_ROOM], name[RUNTIME_NAME_MAX + 1];
    if (!entry_path(directory, file, path)) {
        return;
    }
    size_t length = strlen(file) - strlen(SUFFIX);
    memcpy(name, file, length);
    name[length] = '\0';
    int fd = socket_connect(path, NULL);
    if (fd >= 0) {
        found(opaque, name, fd);
    }
}

int runtime_list(void (*found)(void *opaque, const char *name, int fd), void *opaque,
                 struct error *err)
{
    char directory[PATH_ROOM];
    int result = runtime_directory(directory, err);
    if (result < 0) {
        return result;
    }
    struct dirent **entries;
    int count = scandir(directory, &entries, is_socket, alphasort);
    if (count < 0) {
        return fail(err, errno, "cannot read the runtime directory %s", directory);
    }
    remove_stale(directory, entries, count);
    for (int i = 0; i < count; i++) {
        visit(directory, entries[i]->d_name, found, opaque);
        free(entries[i]);
    }
    free(entries);
    return 0;
}
