/*
 * Bringing in saved guest memory: at once, or on first touch by userfaultfd. A thread
 * waits for the touches. It takes no lock that a toucher could hold, and touches no guest
 * memory itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "allocator/source.h"
#include "allocator/source_read.h"
#include "base/scope.h"
#include "jail/jail.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* Ranges are watched in units of this, so that memory in small pieces does not make more
 * mappings than a process may have. */
#define WATCH_FRAMES 512u

struct memory_loader {
    struct memory *memory;
    struct memory_source source;
    struct memory_load load;
    uint64_t *start;  /* source_index */
    uint64_t *loaded; /* one bit per chunk; the thread's own */
    uint64_t next;    /* chunk that finishing has come to */
    uint8_t *buffer;  /* SOURCE_CHUNK_BYTES */
    int uffd;
    int wake_fd; /* told to finish or to stop */
    pthread_t thread;
    bool has_failed;
    _Atomic bool must_finish, must_stop;
    pthread_mutex_t lock; /* what follows */
    pthread_cond_t finished;
    _Atomic bool is_done; /* nothing is owed any more */
    struct error error;
};

static uint64_t host_address(const struct memory_loader *loader, frame_t frame)
{
    return (uint64_t)(uintptr_t)memory_host(loader->memory, frame);
}

static void wake(struct memory_loader *loader, frame_t frame)
{
    struct uffdio_range range = {host_address(loader, frame), FRAME_SIZE};
    ioctl(loader->uffd, UFFDIO_WAKE, &range);
}

/* A page that is there already was brought in for another toucher. */
static int place_lazily(void *opaque, frame_t frame, uint32_t count, const uint8_t *data)
{
    struct memory_loader *loader = opaque;
    while (count > 0) {
        struct uffdio_copy copy = {
            .dst = host_address(loader, frame),
            .src = (uint64_t)(uintptr_t)data,
            .len = (uint64_t)count * FRAME_SIZE,
        };
        uint32_t done = count;
        if (ioctl(loader->uffd, UFFDIO_COPY, &copy) < 0) {
            done = copy.copy > 0 ? (uint32_t)(copy.copy / FRAME_SIZE) : 0;
            if (done == 0 && errno == EEXIST) {
                wake(loader, frame);
                done = 1;
            } else if (done == 0 && errno != EAGAIN) {
                return -errno;
            }
        }
        frame += done;
        count -= done;
        data += (uint64_t)done * FRAME_SIZE;
    }
    return 0;
}

static int place_now(void *opaque, frame_t frame, uint32_t count, const uint8_t *data)
{
    struct memory_loader *loader = opaque;
    memcpy(memory_host(loader->memory, frame), data, (uint64_t)count * FRAME_SIZE);
    return 0;
}

static void place_zeros(struct memory_loader *loader, frame_t frame)
{
    struct uffdio_zeropage zero = {
        .range = {host_address(loader, frame), FRAME_SIZE},
    };
    while (ioctl(loader->uffd, UFFDIO_ZEROPAGE, &zero) < 0 && errno == EAGAIN) {
    }
    wake(loader, frame);
}

static bool is_loaded(const struct memory_loader *loader, uint64_t chunk)
{
    return loader->loaded[chunk / 64] >> chunk % 64 & 1;
}

static int load_chunk(struct memory_loader *loader, uint64_t chunk, struct error *err)
{
    int result = source_read(&loader->source, chunk, loader->buffer, err);
    if (result < 0) {
        return result;
    }
    result = source_place(&loader->source, loader->start, chunk, loader->buffer,
                          loader->uffd >= 0 ? place_lazily : place_now, loader);
    if (result < 0) {
        return fail(err, -result, "saved guest memory cannot be placed");
    }
    loader->loaded[chunk / 64] |= 1ull << chunk % 64;
    return 0;
}

static void report(struct memory_loader *loader, const struct error *error)
{
    if (!loader->has_failed) {
        loader->has_failed = true;
        loader->load.failed(loader->load.opaque, error->message);
    }
}

static void serve_touch(struct memory_loader *loader, uint64_t address)
{
    struct error error;
    uint64_t offset = address - (uint64_t)(uintptr_t)loader->memory->base;
    frame_t frame = (frame_t)(offset >> FRAME_SHIFT);
    uint64_t page = source_page_of(&loader->source, loader->start, frame);
    if (page != SOURCE_NO_PAGE && !is_loaded(loader, page / SOURCE_CHUNK)) {
        if (load_chunk(loader, page / SOURCE_CHUNK, &error) >= 0) {
            return;
        }
        report(loader, &error);
    }
    place_zeros(loader, frame);
}

static void serve_touches(struct memory_loader *loader)
{
    struct uffd_msg messages[16];
    ssize_t size = read(loader->uffd, messages, sizeof(messages));
    for (ssize_t i = 0; i < size / (ssize_t)sizeof(messages[0]); i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT) {
            serve_touch(loader, messages[i].arg.pagefault.address);
        }
    }
}

/* The next chunk that nobody has touched; false when none is left. The first failure is
 * kept. */
static bool load_next(struct memory_loader *loader, struct error *first)
{
    struct error error;
    uint64_t chunks = memory_source_chunks(&loader->source);
    while (loader->next < chunks && is_loaded(loader, loader->next)) {
        loader->next++;
    }
    if (loader->next == chunks) {
        return false;
    }
    if (load_chunk(loader, loader->next++, &error) < 0 && !first->code) {
        *first = error;
    }
    return true;
}

/* Closing the descriptor ends the watch and wakes whoever still waits. */
static void end_watch(struct memory_loader *loader, const struct error *error)
{
    pthread_mutex_lock(&loader->lock);
    close(loader->uffd);
    loader->uffd = -1;
    loader->error = *error;
    atomic_store(&loader->is_done, true);
    pthread_cond_broadcast(&loader->finished);
    pthread_mutex_unlock(&loader->lock);
}

static void *loader_thread(void *opaque)
{
    struct memory_loader *loader = opaque;
    struct error error = {0};
    pthread_setname_np(pthread_self(), "ram");
    jail_enter(JAIL_RAM);
    while (!atomic_load(&loader->must_stop)) {
        bool is_finishing = atomic_load(&loader->must_finish);
        struct pollfd fds[] = {{loader->uffd, POLLIN, 0}, {loader->wake_fd, POLLIN, 0}};
        int ready = poll(fds, is_finishing ? 1 : 2, is_finishing ? 0 : -1);
        if (ready > 0 && fds[0].revents) {
            serve_touches(loader);
        } else if (is_finishing && !load_next(loader, &error)) {
            break;
        }
    }
    if (error.code) {
        report(loader, &error);
    }
    end_watch(loader, &error);
    return NULL;
}

/* --- Opening --- */

/* One that sees the kernel's own touches where we may have it; *sees_kernel tells. */
static int open_uffd(bool *sees_kernel)
{
    const int flags = O_CLOEXEC | O_NONBLOCK;
    *sees_kernel = true;
    int fd = (int)syscall(SYS_userfaultfd, flags);
    if (fd < 0) {
        SCOPE_FD int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        fd = device >= 0 ? ioctl(device, USERFAULTFD_IOC_NEW, flags) : -1;
    }
    if (fd < 0) {
        *sees_kernel = false;
        fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
    }
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM};
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool watch(struct memory_loader *loader, frame_t first, frame_t end)
{
    struct uffdio_register range = {
        .range = {host_address(loader, first), (uint64_t)(end - first) * FRAME_SIZE},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    return ioctl(loader->uffd, UFFDIO_REGISTER, &range) == 0;
}

static bool watch_extents(struct memory_loader *loader)
{
    frame_t first = 0, end = 0;
    for (uint32_t i = 0; i < loader->source.extent_count; i++) {
        const struct memory_extent *extent = &loader->source.extent[i];
        frame_t from = extent->frame / WATCH_FRAMES * WATCH_FRAMES;
        uint64_t to = (uint64_t)extent->frame + extent->count + WATCH_FRAMES - 1;
        to = to / WATCH_FRAMES * WATCH_FRAMES;
        if (to > loader->memory->frame_count) {
            to = loader->memory->frame_count;
        }
        if (from > end) {
            if (end > first && !watch(loader, first, end)) {
                return false;
            }
            first = from;
        }
        end = (frame_t)to;
    }
    return end == first || watch(loader, first, end);
}

static bool start_thread(struct memory_loader *loader)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int code = jail_thread_create(&loader->thread, loader_thread, loader);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code == 0;
}

/* False: this host cannot, and nothing is watched. */
static bool start_lazily(struct memory_loader *loader)
{
    bool sees_kernel;
    loader->uffd = open_uffd(&sees_kernel);
    loader->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    bool is_enough = sees_kernel || loader->load.mode != MEMORY_LOAD_LAZY_IN_KERNEL;
    if (loader->uffd >= 0 && loader->wake_fd >= 0 && is_enough && watch_extents(loader) &&
        start_thread(loader)) {
        return true;
    }
    if (loader->uffd >= 0) {
        close(loader->uffd);
        loader->uffd = -1;
    }
    return false;
}

static int load_now(struct memory_loader *loader, struct error *err)
{
    uint64_t chunks = memory_source_chunks(&loader->source);
    int result = 0;
    for (uint64_t chunk = 0; result >= 0 && chunk < chunks; chunk++) {
        result = load_chunk(loader, chunk, err);
    }
    return result;
}

static void loader_free(struct memory_loader *loader)
{
    if (loader->wake_fd >= 0) {
        close(loader->wake_fd);
    }
    memory_source_fini(&loader->source);
    pthread_cond_destroy(&loader->finished);
    pthread_mutex_destroy(&loader->lock);
    free(loader->start);
    free(loader->loaded);
    free(loader->buffer);
    free(loader);
}

static struct memory_loader *loader_new(struct memory *memory,
                                        struct memory_source *source,
                                        const struct memory_load *load)
{
    struct memory_loader *loader = calloc(1, sizeof(*loader));
    if (!loader) {
        memory_source_fini(source);
        return NULL;
    }
    loader->memory = memory;
    loader->source = *source;
    *source = (struct memory_source)MEMORY_SOURCE_NONE;
    loader->load = *load;
    loader->uffd = loader->wake_fd = -1;
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->finished, NULL);
    loader->start = source_index(&loader->source);
    loader->loaded = calloc(memory_source_chunks(&loader->source) / 64 + 1, 8);
    loader->buffer = aligned_alloc(FRAME_SIZE, SOURCE_CHUNK_BYTES);
    if (!loader->start || !loader->loaded || !loader->buffer) {
        loader_free(loader);
        return NULL;
    }
    return loader;
}

int memory_load(struct memory *memory, struct memory_source *source,
                const struct memory_load *load, struct error *err)
{
    struct memory_loader *loader = loader_new(memory, source, load);
    if (!loader) {
        return fail(err, ENOMEM, "cannot load guest memory");
    }
    if (load->mode != MEMORY_LOAD_NOW && start_lazily(loader)) {
        memory->loader = loader;
        return 1;
    }
    int result = load_now(loader, err);
    loader_free(loader);
    return result;
}

static void tell(struct memory_loader *loader, _Atomic bool *what)
{
    const uint64_t one = 1;
    atomic_store(what, true);
    if (write(loader->wake_fd, &one, sizeof(one)) < 0) {
        return; /* the counter is full: it has been told */
    }
}

int memory_load_finish(struct memory *memory, struct error *err)
{
    struct memory_loader *loader = memory->loader;
    if (!loader) {
        return 0;
    }
    pthread_mutex_lock(&loader->lock);
    tell(loader, &loader->must_finish);
    while (!atomic_load(&loader->is_done)) {
        pthread_cond_wait(&loader->finished, &loader->lock);
    }
    struct error error = loader->error;
    pthread_mutex_unlock(&loader->lock);
    return error.code ? fail_plain(err, error.code, "%s", error.message) : 0;
}

void memory_load_stop(struct memory *memory)
{
    struct memory_loader *loader = memory->loader;
    if (!loader) {
        return;
    }
    tell(loader, &loader->must_stop);
    pthread_join(loader->thread, NULL);
    loader_free(loader);
    memory->loader = NULL;
}

void memory_load_range(struct memory *memory, const uint8_t *host, uint64_t size)
{
    if (atomic_load_explicit(&memory->loader->is_done, memory_order_acquire)) {
        return;
    }
    for (uint64_t at = 0; at < size; at += FRAME_SIZE) {
        (void)*(const volatile uint8_t *)(host + at);
    }
    if (size > 0) {
        (void)*(const volatile uint8_t *)(host + size - 1);
    }
}
