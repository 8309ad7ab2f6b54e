#include "dispatcher/exit_trace.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Data beyond this is told by its length alone. */
#define DATA_SHOWN 64u

struct text {
    char *data;
    unsigned length;
};

static __attribute__((format(printf, 2, 3))) void add(struct text *text,
                                                      const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text->data + text->length, EXIT_LINE_SIZE - text->length,
                           format, arguments);
    va_end(arguments);
    text->length += (unsigned)length;
    if (text->length >= EXIT_LINE_SIZE) {
        text->length = EXIT_LINE_SIZE - 1;
    }
}

static void add_data(struct text *text, const uint8_t *data, uint64_t size)
{
    add(text, " %" PRIu64 ":", size);
    for (uint64_t i = 0; i < size && i < DATA_SHOWN; i++) {
        add(text, "%s%02x", i % 8 ? "" : " ", data[i]);
    }
}

static void add_message(struct text *text, const struct apic_message *message)
{
    add(text, " mode %d vector %#x to %#x%s shorthand %d%s", (int)message->mode,
        message->vector, message->destination, message->is_logical ? " logical" : "",
        (int)message->shorthand, message->is_assert ? "" : " deassert");
}

void exit_trace_line(char line[EXIT_LINE_SIZE], uint64_t retired,
                     const struct vcpu_exit *exit)
{
    struct text text = {line, 0};
    add(&text, "%" PRIu64 " %s", retired, exit_reason_name(exit->reason));
    switch (exit->reason) {
    case EXIT_IO:
        add(&text, " %s %#x", exit->io.is_write ? "out" : "in", exit->io.port);
        add_data(&text, exit->io.data, (uint64_t)exit->io.size * exit->io.count);
        break;
    case EXIT_MMIO:
        add(&text, " %s %#" PRIx64, exit->mmio.is_write ? "write" : "read",
            exit->mmio.gpa);
        add_data(&text, exit->mmio.data, exit->mmio.size);
        break;
    case EXIT_IPI:
        add_message(&text, &exit->ipi);
        break;
    case EXIT_EOI:
        add(&text, " %#x", exit->eoi_vector);
        break;
    case EXIT_INTACK:
        add(&text, " %d", exit->intack_vector);
        break;
    case EXIT_MSR_READ:
    case EXIT_MSR_WRITE:
        add(&text, " %#x: %#" PRIx64 "%s", exit->msr.index, exit->msr.value,
            exit->msr.is_fault ? " #GP" : "");
        break;
    case EXIT_TSC:
        add(&text, " %#" PRIx64, exit->tsc_offset);
        break;
    case EXIT_HYPERCALL:
        add(&text,
            " %#" PRIx64 "(%#" PRIx64 ", %#" PRIx64 ", %#" PRIx64 ", %#" PRIx64
            "): %#" PRIx64 "%s",
            exit->hypercall.number, exit->hypercall.argument[0],
            exit->hypercall.argument[1], exit->hypercall.argument[2],
            exit->hypercall.argument[3], exit->hypercall.result,
            exit->hypercall.is_undefined ? " #UD" : "");
        break;
    default: /* the timer's carries nothing; the others do not leave an engine */
        break;
    }
}
