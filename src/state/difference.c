#include "state/difference.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/scope.h"
#include "state/part.h"

/* Lines of a kind; what follows is the consequence of these as a rule. */
#define LINES_MAX 12

struct report {
    char *text;
    size_t length;
    unsigned lines;
};

static __attribute__((format(printf, 2, 3))) void tell(struct report *report,
                                                       const char *format, ...)
{
    if (report->lines++ >= LINES_MAX || report->length >= DIFFERENCE_TEXT - 1) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(report->text + report->length,
                           DIFFERENCE_TEXT - report->length, format, arguments);
    va_end(arguments);
    report->length += (size_t)length;
    if (report->length >= DIFFERENCE_TEXT) {
        report->length = DIFFERENCE_TEXT - 1;
    }
}

/* --- The parts of the state --- */

static uint64_t element(const struct stream_field *field, uint32_t index)
{
    uint64_t value = 0;
    memcpy(&value, field->data + (size_t)index * field->size, field->size);
    return value;
}

static void tell_field(struct report *report, const struct stream_section *section,
                       const struct stream_field *a, const struct stream_field *b)
{
    for (uint32_t i = 0; i < a->count; i++) {
        if (element(a, i) == element(b, i)) {
            continue;
        }
        char index[16] = "";
        if (a->count > 1) {
            snprintf(index, sizeof(index), "[%" PRIu32 "]", i);
        }
        tell(report, "%s %s: %s%s: %#" PRIx64 " / %#" PRIx64 "\n", section->kind,
             section->instance, a->name, index, element(a, i), element(b, i));
    }
}

/* Both were written by the same code, so fields come in the same order. */
static void tell_section(struct report *report, const struct stream_section *a,
                         const struct stream_section *b)
{
    struct stream_field left, right;
    size_t at_left = 0, at_right = 0;
    while (section_next(a, &at_left, &left) && section_next(b, &at_right, &right)) {
        if (left.size != right.size || left.count != right.count) {
            tell(report, "%s %s: %s has another shape\n", a->kind, a->instance,
                 left.name);
        } else if (memcmp(left.data, right.data, (size_t)left.size * left.count)) {
            tell_field(report, a, &left, &right);
        }
    }
}

static int tell_streams(struct report *report, const struct stream_writer writer[2],
                        struct error *err)
{
    struct stream stream[2];
    int result = stream_parse(&stream[0], writer[0].data, writer[0].size, err);
    if (result < 0) {
        return result;
    }
    result = stream_parse(&stream[1], writer[1].data, writer[1].size, err);
    if (result >= 0) {
        unsigned count = stream[0].count;
        if (stream[1].count != count) {
            tell(report, "they are not machines of the same kind\n");
            count = 0;
        }
        for (unsigned i = 0; i < count; i++) {
            tell_section(report, &stream[0].section[i], &stream[1].section[i]);
        }
        stream_free(&stream[1]);
    }
    stream_free(&stream[0]);
    return result;
}

static int compare_state(struct vm *const vm[2], struct report *report, struct error *err)
{
    struct stream_writer writer[2];
    int result = 0;
    for (unsigned i = 0; i < 2; i++) {
        stream_init(&writer[i]);
        state_save(vm[i], &writer[i]);
        if (result >= 0) {
            result = stream_finish(&writer[i], err);
        }
    }
    if (result >= 0 && (writer[0].size != writer[1].size ||
                        memcmp(writer[0].data, writer[1].data, writer[0].size))) {
        result = tell_streams(report, writer, err);
    }
    stream_fini(&writer[0]);
    stream_fini(&writer[1]);
    return result;
}

/* --- Memory --- */

static gpa_t address_of(const struct memory *memory, frame_t frame)
{
    const struct slot_table *table = memory->slots;
    for (unsigned i = 0; i < table->count; i++) {
        const struct slot *slot = &table->slot[i];
        if (frame >= slot->frame && frame - slot->frame < slot->size / FRAME_SIZE) {
            return slot->gpa + (gpa_t)(frame - slot->frame) * FRAME_SIZE;
        }
    }
    return (gpa_t)frame * FRAME_SIZE;
}

static void compare_frame(struct vm *const vm[2], frame_t frame, struct report *report)
{
    const uint8_t *a = memory_host(vm[0]->memory, frame);
    const uint8_t *b = memory_host(vm[1]->memory, frame);
    if (memcmp(a, b, FRAME_SIZE) == 0) {
        return;
    }
    for (unsigned i = 0; i < FRAME_SIZE; i += 8) {
        uint64_t left, right;
        memcpy(&left, a + i, 8);
        memcpy(&right, b + i, 8);
        if (left != right) {
            tell(report, "memory %#" PRIx64 ": %016" PRIx64 " / %016" PRIx64 "\n",
                 address_of(vm[0]->memory, frame) + i, left, right);
        }
    }
}

static int compare_memory(struct vm *const vm[2], bool is_whole, struct report *report,
                          struct error *err)
{
    frame_t count = vm[0]->memory->frame_count;
    uint64_t words = (count + 63ull) / 64;
    SCOPE_FREE uint64_t *dirty = calloc(words * 2, sizeof(*dirty));
    if (!dirty || vm[1]->memory->frame_count != count) {
        return fail(err, dirty ? EINVAL : ENOMEM, "cannot compare the machines' memory");
    }
    memory_dirty_fetch(vm[0]->memory, 0, count, dirty);
    memory_dirty_fetch(vm[1]->memory, 0, count, dirty + words);
    for (frame_t frame = 0; frame < count; frame++) {
        uint64_t bits = dirty[frame / 64] | dirty[words + frame / 64];
        if (bits == 0 && !is_whole) {
            frame |= 63;
        } else if (is_whole || bits >> frame % 64 & 1) {
            compare_frame(vm, frame, report);
        }
    }
    return 0;
}

int difference_find(struct vm *a, struct vm *b, bool is_whole, char text[DIFFERENCE_TEXT],
                    struct error *err)
{
    struct vm *const vm[2] = {a, b};
    struct report report = {.text = text};
    text[0] = '\0';
    int result = compare_state(vm, &report, err);
    unsigned in_state = report.lines;
    report.lines = 0;
    if (result >= 0) {
        result = compare_memory(vm, is_whole, &report, err);
    }
    return result < 0 ? result : in_state + report.lines > 0;
}
