#include "allocator/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "allocator/source.h"
#include "base/barrier.h"
#include "base/scope.h"
#include "base/size.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008u
#endif

/* FRAME_NONE names no frame. */
#define LIMIT_MAX ((uint64_t)FRAME_NONE * FRAME_SIZE)

static int open_memfd(struct error *err)
{
    const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    /* Hosts may insist on the non-executable flag; those before Linux 6.3 refuse it. */
    int fd = memfd_create("guest-memory", flags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) {
        fd = memfd_create("guest-memory", flags);
    }
    if (fd < 0) {
        return fail(err, errno, "cannot make guest memory: memfd_create");
    }
    return fd;
}

/* Growing a file past RLIMIT_FSIZE would raise SIGXFSZ rather than fail. */
static int check_file_limit(uint64_t bytes, struct error *err)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < bytes) {
        return fail_plain(err, EFBIG,
                          "cannot make guest memory: it exceeds the file size limit of "
                          "this process; raise 'ulimit -f'");
    }
    return 0;
}

/* A memfd of that size whose size nobody it is passed to can change. */
static int open_backing(uint64_t bytes, struct error *err)
{
    if (check_file_limit(bytes, err) < 0) {
        return -EFBIG;
    }
    SCOPE_FD int fd = open_memfd(err);
    if (fd < 0) {
        return fd;
    }
    char size[SIZE_TEXT];
    if (ftruncate(fd, (off_t)bytes) < 0) {
        return fail(err, errno, "cannot size guest memory to %s bytes",
                    size_format(bytes, size));
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        return fail(err, errno, "cannot seal the size of guest memory");
    }
    return steal_fd(&fd);
}

/* Zeroed pages that cost nothing until touched; huge ones would cost 2 MB at a touch. */
static void *reserve_metadata(uint64_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        return NULL;
    }
    madvise(pages, bytes, MADV_NOHUGEPAGE);
    return pages;
}

static uint64_t frame_bytes(const struct memory *memory)
{
    return memory->frame_limit * sizeof(*memory->frame);
}

static uint64_t code_lines_bytes(const struct memory *memory)
{
    return memory->frame_limit * sizeof(*memory->code_lines);
}

static uint64_t dirty_bytes(const struct memory *memory)
{
    return (memory->frame_limit + 63ull) / 64 * sizeof(*memory->dirty);
}

static uint64_t populated_bytes(const struct memory *memory)
{
    uint64_t chunks = memory->frame_limit / POPULATE_FRAMES + 1;
    return (chunks + 63) / 64 * sizeof(*memory->populated);
}

static int reserve(struct memory *memory, struct error *err)
{
    uint64_t bytes = (uint64_t)memory->frame_limit * FRAME_SIZE;
    memory->fd = open_backing(bytes, err);
    if (memory->fd < 0) {
        return memory->fd;
    }
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                      memory->fd, 0);
    if (base != MAP_FAILED) {
        memory->base = base;
        /* A core dump is no place for a guest's secrets. */
        madvise(base, bytes, MADV_DONTDUMP);
        memory->frame = reserve_metadata(frame_bytes(memory));
        memory->code_lines = reserve_metadata(code_lines_bytes(memory));
        memory->dirty = reserve_metadata(dirty_bytes(memory));
        memory->populated = reserve_metadata(populated_bytes(memory));
    }
    if (!memory->base || !memory->frame || !memory->code_lines || !memory->dirty ||
        !memory->populated) {
        char size[SIZE_TEXT];
        return fail(err, errno,
                    "cannot reserve address space for %s bytes of guest memory (see "
                    "'ulimit -v' and vm.overcommit_memory)",
                    size_format(bytes, size));
    }
    return 0;
}

struct memory *memory_new(uint64_t limit, struct error *err)
{
    if (limit == 0 || limit > LIMIT_MAX) {
        char size[SIZE_TEXT];
        fail_plain(err, EINVAL,
                   "cannot make %s bytes of guest memory: the range is %u to "
                   "16T less one page",
                   size_format(limit, size), FRAME_SIZE);
        return NULL;
    }
    struct memory *memory = calloc(1, sizeof(*memory));
    struct slot_table *slots = calloc(1, sizeof(*slots));
    if (!memory || !slots) {
        free(memory);
        free(slots);
        fail(err, ENOMEM, "cannot make guest memory");
        return NULL;
    }
    barrier_prepare();
    pthread_mutex_init(&memory->lock, NULL);
    for (unsigned i = 0; i < MEMORY_CODE_LOCKS; i++) {
        pthread_mutex_init(&memory->code_lock[i], NULL);
    }
    memory->fd = -1;
    memory->frame_limit = (frame_t)((limit + FRAME_SIZE - 1) / FRAME_SIZE);
    memory->slots = slots;
    memory->bus_mask = ~0ull;
    if (reserve(memory, err) < 0) {
        memory_free(memory);
        return NULL;
    }
    return memory;
}

static void release(void *pages, uint64_t bytes)
{
    if (pages) {
        munmap(pages, bytes);
    }
}

void memory_free(struct memory *memory)
{
    if (!memory) {
        return;
    }
    memory_load_stop(memory);
    release((void *)memory->populated, populated_bytes(memory));
    release((void *)memory->dirty, dirty_bytes(memory));
    release((void *)memory->code_lines, code_lines_bytes(memory));
    release((void *)memory->frame, frame_bytes(memory));
    release(memory->base, (uint64_t)memory->frame_limit * FRAME_SIZE);
    if (memory->fd >= 0) {
        close(memory->fd);
    }
    while (memory->retired) {
        struct slot_table *older = memory->retired->older;
        free(memory->retired);
        memory->retired = older;
    }
    free((void *)memory->slots);
    for (unsigned i = 0; i < MEMORY_CODE_LOCKS; i++) {
        pthread_mutex_destroy(&memory->code_lock[i]);
    }
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

void memory_set_engine(struct memory *memory, const struct memory_listener *listener,
                       void *opaque)
{
    memory->listener = listener;
    memory->engine_opaque = opaque;
}

int64_t memory_add_frames(struct memory *memory, uint64_t size, struct error *err)
{
    char text[SIZE_TEXT];
    if (size == 0 || size % FRAME_SIZE != 0) {
        return fail_plain(err, EINVAL, "%s bytes of guest memory are not whole pages",
                          size_format(size, text));
    }
    pthread_mutex_lock(&memory->lock);
    frame_t first = memory->frame_count;
    bool fits = size / FRAME_SIZE <= memory->frame_limit - first;
    if (fits) {
        memory->frame_count = first + (frame_t)(size / FRAME_SIZE);
        memory_dirty_add_locked(memory, first);
    }
    pthread_mutex_unlock(&memory->lock);
    if (!fits) {
        return fail_plain(err, ENOSPC,
                          "no room for %s more bytes of guest memory: %u of %u pages are "
                          "taken",
                          size_format(size, text), first, memory->frame_limit);
    }
    return first;
}

uint64_t memory_resident(const struct memory *memory)
{
    struct stat status;
    /* st_blocks counts units of 512 bytes, whatever the page size. */
    return fstat(memory->fd, &status) == 0 ? (uint64_t)status.st_blocks * 512 : 0;
}
