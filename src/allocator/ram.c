/* How devices reach guest memory. */
#include "allocator/memory.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "allocator/source.h"
#include "base/barrier.h"

/* The first frame of what reads or writes of the slot reach, or FRAME_NONE. */
static frame_t reached(const struct slot *slot, bool is_write)
{
    struct slot_target target = slot_target(slot);
    return is_write ? target.write : target.read;
}

void *ram_map(struct memory *memory, gpa_t gpa, uint64_t size, bool is_write)
{
    const struct slot *slot = memory_find(memory, gpa);
    frame_t frame = slot ? reached(slot, is_write) : FRAME_NONE;
    if (frame == FRAME_NONE || size == 0) {
        return NULL;
    }
    uint64_t offset = gpa - slot->gpa;
    if (size > slot->size - offset) {
        return NULL;
    }
    uint8_t *host = memory_host(memory, frame) + offset;
    if (memory->loader) {
        memory_load_range(memory, host, size);
    }
    return host;
}

void ram_unmap(struct memory *memory, void *host, uint64_t written)
{
    uint64_t at = (uint64_t)((uint8_t *)host - memory->base);
    uint64_t limit = (uint64_t)memory->frame_count * FRAME_SIZE;
    assert(at <= limit && written <= limit - at);
    /* The data were stored before the watch bits are looked at: see code.c. */
    barrier_light();
    while (written > 0) {
        frame_t frame = (frame_t)(at >> FRAME_SHIFT);
        unsigned offset = (unsigned)(at % FRAME_SIZE);
        unsigned part = FRAME_SIZE - offset;
        if (part > written) {
            part = (unsigned)written;
        }
        if (memory->frame[frame] & FRAME_WATCH_ANY) {
            memory_written(memory, frame, offset, part);
        }
        at += part;
        written -= part;
    }
}

void ram_forget(struct memory *memory, gpa_t gpa)
{
    frame_t frame = memory_frame(memory, gpa, NULL);
    if (frame != FRAME_NONE) {
        /* The memfd keeps the page. A failure leaves the mapping, which is as right. */
        madvise(memory_host(memory, frame), FRAME_SIZE, MADV_DONTNEED);
    }
}

/* The part of [gpa, gpa + size) that lies in the slot. */
static uint64_t part_in(const struct slot *slot, gpa_t gpa, uint64_t size)
{
    uint64_t rest = slot->size - (gpa - slot->gpa);
    return rest < size ? rest : size;
}

/* Does all of it reach memory? */
static bool range_exists(const struct slot_table *table, gpa_t gpa, uint64_t size,
                         bool is_write)
{
    while (size > 0) {
        const struct slot *slot = slot_find(table, gpa);
        if (!slot || reached(slot, is_write) == FRAME_NONE) {
            return false;
        }
        uint64_t part = part_in(slot, gpa, size);
        gpa += part;
        size -= part;
    }
    return true;
}

/* One table for the check and the copy: another may be published between them. A slot
 * that is switched off between them ends the copy. */
static bool ram_copy(struct memory *memory, gpa_t gpa, uint8_t *buffer, uint64_t size,
                     bool is_write)
{
    const struct slot_table *table = memory->slots;
    if (!range_exists(table, gpa, size, is_write)) {
        return false;
    }
    while (size > 0) {
        const struct slot *slot = slot_find(table, gpa);
        uint64_t part = part_in(slot, gpa, size);
        frame_t frame = reached(slot, is_write);
        if (frame == FRAME_NONE) {
            return false;
        }
        uint8_t *host = memory_host(memory, frame) + (gpa - slot->gpa);
        if (is_write) {
            memcpy(host, buffer, part);
            ram_unmap(memory, host, part);
        } else {
            memcpy(buffer, host, part);
        }
        buffer += part;
        gpa += part;
        size -= part;
    }
    return true;
}

bool ram_read(struct memory *memory, gpa_t gpa, void *buffer, uint64_t size)
{
    return ram_copy(memory, gpa, buffer, size, false);
}

bool ram_write(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size)
{
    return ram_copy(memory, gpa, (uint8_t *)buffer, size, true);
}

static off_t file_offset(const struct memory *memory, const uint8_t *host)
{
    return (off_t)(host - memory->base);
}

/* While pages are still being loaded from a saved VM, their file is the loader's. */
static bool owns_file(const struct memory *memory)
{
    return memory->loader == NULL;
}

/* Through the file; by memory where that is refused. */
static void write_file(struct memory *memory, uint8_t *host, const uint8_t *data,
                       uint64_t size)
{
    uint64_t done = 0;
    while (done < size) {
        ssize_t part = pwrite(memory->fd, data + done, size - done,
                              file_offset(memory, host + done));
        if (part < 0 && errno == EINTR) {
            continue;
        }
        if (part <= 0) {
            memcpy(host + done, data + done, size - done);
            return;
        }
        done += (uint64_t)part;
    }
}

/* Whole pages become holes: they cost nothing until they are touched again. */
static void clear_file(struct memory *memory, uint8_t *host, uint64_t size)
{
    uint64_t at = (uint64_t)file_offset(memory, host);
    uint64_t first = (at + FRAME_SIZE - 1) & -(uint64_t)FRAME_SIZE;
    uint64_t end = (at + size) & -(uint64_t)FRAME_SIZE;
    if (first < end && fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                 (off_t)first, (off_t)(end - first)) == 0) {
        memset(host, 0, first - at);
        memset(memory->base + end, 0, at + size - end);
    } else {
        memset(host, 0, size);
    }
}

static bool is_zero(const uint8_t *data, uint64_t size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

/* How much at the start of the data, by pages, is all zero or all not. */
static uint64_t run_length(const uint8_t *host, const uint8_t *data, uint64_t size,
                           bool *zero)
{
    uint64_t length = 0;
    *zero = false;
    while (length < size) {
        uint64_t part = FRAME_SIZE - (uintptr_t)(host + length) % FRAME_SIZE;
        if (part > size - length) {
            part = size - length;
        }
        bool is_part_zero = is_zero(data + length, part);
        if (length > 0 && is_part_zero != *zero) {
            break;
        }
        *zero = is_part_zero;
        length += part;
    }
    return length;
}

bool ram_fill(struct memory *memory, gpa_t gpa, const void *buffer, uint64_t size)
{
    uint8_t *host = ram_map(memory, gpa, size, true);
    if (!host || !owns_file(memory)) {
        return ram_write(memory, gpa, buffer, size);
    }
    const uint8_t *data = buffer;
    uint64_t done = 0;
    while (done < size) {
        bool is_run_zero;
        uint64_t part = run_length(host + done, data + done, size - done, &is_run_zero);
        if (is_run_zero) {
            clear_file(memory, host + done, part);
        } else {
            write_file(memory, host + done, data + done, part);
        }
        done += part;
    }
    ram_unmap(memory, host, size);
    return true;
}

bool ram_clear(struct memory *memory, gpa_t gpa, uint64_t size)
{
    uint8_t *host = ram_map(memory, gpa, size, true);
    if (!host) {
        return size == 0;
    }
    if (owns_file(memory)) {
        clear_file(memory, host, size);
    } else {
        memset(host, 0, size);
    }
    ram_unmap(memory, host, size);
    return true;
}
