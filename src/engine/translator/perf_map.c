#include "engine/translator/perf_map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"

/* While the machine runs lines are added, for blocks that died or were dropped, too. */
#define SIZE_MAX_BYTES (64u << 20)

struct perf_map {
    FILE *file;
    char path[40];
    uint64_t size;
    bool is_full, is_outdated;
};

struct perf_map *perf_map_open(struct error *err)
{
    struct perf_map *map = calloc(1, sizeof(*map));
    if (!map) {
        fail(err, ENOMEM, "--perf-map");
        return NULL;
    }
    snprintf(map->path, sizeof(map->path), "/tmp/perf-%d.map", (int)getpid());
    /* An older process's, or a link that somebody laid: anybody may write in /tmp. */
    unlink(map->path);
    int fd = open(map->path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    map->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (!map->file) {
        fail(err, errno, "--perf-map: cannot make %s", map->path);
        if (fd >= 0) {
            close(fd);
        }
        free(map);
        return NULL;
    }
    /* Makes the buffer now: later the jail lets nobody ask what kind of file it is. */
    setvbuf(map->file, NULL, _IOFBF, BUFSIZ);
    return map;
}

static void write_line(struct perf_map *map, const struct code_cache *cache,
                       uint32_t start, uint32_t end, const char *name)
{
    int length = fprintf(map->file, "%" PRIxPTR " %" PRIx32 " guest:%s\n",
                         (uintptr_t)cache->execute + start, end - start, name);
    map->size += length > 0 ? (uint64_t)length : 0;
}

/* The ways in and out come first, look-ups of jumps behind them. */
static void write_trampolines(struct perf_map *map, const struct code_cache *cache)
{
    uint32_t first_jump = cache->reserved;
    for (unsigned kind = 0; kind < JUMP_KINDS; kind++) {
        if (cache->jump[kind] && cache->jump[kind] < first_jump) {
            first_jump = cache->jump[kind];
        }
    }
    write_line(map, cache, cache->enter, first_jump, "(enter and leave)");
    write_line(map, cache, first_jump, cache->reserved, "(look up a jump)");
}

static void write_block(struct perf_map *map, const struct look *look,
                        const struct code_cache *cache, const struct block *block)
{
    char name[LOOK_NAME_SIZE];
    if (map->size == 0) {
        write_trampolines(map, cache);
    }
    look_name(look, block, name);
    write_line(map, cache, block_start(block), block->end, name);
}

void perf_map_block(struct perf_map *map, const struct look *look,
                    const struct code_cache *cache, const struct block *block)
{
    if (map->is_full) {
        return;
    }
    write_block(map, look, cache, block);
    /* perf may read it while the machine runs. */
    fflush(map->file);
    if (map->size > SIZE_MAX_BYTES) {
        map->is_full = true;
        log_warning("%s is full: what is translated from now on has no name there until "
                    "the machine ends",
                    map->path);
    }
}

void perf_map_outdated(struct perf_map *map)
{
    map->is_outdated = true;
}

struct anew {
    struct perf_map *map;
    const struct look *look;
    const struct code_cache *cache;
};

static void write_again(void *opaque, const struct block *block)
{
    const struct anew *anew = opaque;
    write_block(anew->map, anew->look, anew->cache, block);
}

static void write_anew(struct perf_map *map, const struct look *look,
                       const struct code_cache *cache)
{
    rewind(map->file);
    if (ftruncate(fileno(map->file), 0) < 0) {
        log_warning("cannot write %s anew", map->path);
        return;
    }
    map->size = 0;
    struct anew anew = {map, look, cache};
    code_each(cache, write_again, &anew);
}

void perf_map_close(struct perf_map *map, const struct look *look,
                    const struct code_cache *cache)
{
    if (!map) {
        return;
    }
    if (map->is_outdated || map->is_full) {
        write_anew(map, look, cache);
    }
    bool has_failed = ferror(map->file);
    has_failed |= fclose(map->file) != 0;
    if (has_failed) {
        log_warning("cannot write %s completely", map->path);
    }
    free(map);
}
