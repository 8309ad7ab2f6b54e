#pragma once
/*
 * A directory that appears whole or not at all: it is filled under another name beside
 * its place, flushed to disk and then renamed.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct directory {
    char *path;       /* where it is to appear, for messages */
    const char *name; /* the same beneath its parent */
    char *filled;     /* that of the one which is filled; NULL: not begun, or committed */
    int parent;
    int fd; /* of the one which is filled */
};

#define DIRECTORY_NONE          \
    {                           \
        .parent = -1, .fd = -1, \
    }

/* path must not exist, or be an empty directory. Its parent must exist. */
int directory_begin(struct directory *directory, const char *path, struct error *err);
/* The same with the parent open already, as where only that is within reach. */
int directory_begin_at(struct directory *directory, int parent, const char *path,
                       struct error *err);
/* A new file in it, for its owner alone. The caller closes the descriptor. */
int directory_create(struct directory *directory, const char *name, struct error *err);
int file_write(int fd, const void *data, uint64_t size, struct error *err);
/* Flushes the files written and the directory, and gives it its name. */
int directory_commit(struct directory *directory, struct error *err);
/* Removes what was not committed. Accepts DIRECTORY_NONE. */
void directory_fini(struct directory *directory);
