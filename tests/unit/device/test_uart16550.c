#include "device/pc/uart16550.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

struct fixture {
    struct clock clock;
    struct timer_queue *timers;
    struct uart16550 *uart;
    struct region ports;
    int level;
    unsigned rooms;
    unsigned capacity; /* what the sink still takes */
    char sent[256];
    unsigned sent_size;
};

static void record_line(void *opaque, unsigned number, int level)
{
    ((struct fixture *)opaque)->level = level;
}

static unsigned take(void *opaque, const uint8_t *data, unsigned size)
{
    struct fixture *f = opaque;
    unsigned taken = size < f->capacity ? size : f->capacity;
    memcpy(f->sent + f->sent_size, data, taken);
    f->sent_size += taken;
    f->capacity -= taken;
    return taken;
}

static void count_room(void *opaque)
{
    ((struct fixture *)opaque)->rooms++;
}

static uint8_t in(struct fixture *f, unsigned port)
{
    return (uint8_t)f->ports.read(f->ports.device, port, 1);
}

static void out(struct fixture *f, unsigned port, uint8_t value)
{
    f->ports.write(f->ports.device, port, 1, value);
}

static unsigned input(struct fixture *f, const char *text)
{
    return uart16550_input(f->uart, (const uint8_t *)text, (unsigned)strlen(text));
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error err;
    struct uart16550_sink sink = {take, count_room, f};
    clock_init_virtual(&f->clock);
    f->timers = timer_queue_new(&f->clock);
    f->uart = uart16550_new("serial", f->timers, (struct irq_line){record_line, f, 4},
                            &sink, &err);
    assert_non_null(f->uart);
    f->ports = uart16550_region(f->uart, 0x3f8);
    f->capacity = 200;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct device *device = uart16550_device(f->uart);
    device->type->free(device);
    timer_queue_free(f->timers);
    free(f);
    return 0;
}

/* The probes by which drivers tell a 16550A from its relatives. */
static void test_identifies_as_16550a(void **state)
{
    struct fixture *f = *state;
    out(f, IER, 0xff);
    assert_int_equal(in(f, IER), 0x0f); /* no sleep mode, no extra enables */
    out(f, IER, 0);
    out(f, MCR, 0x1a); /* loop: RTS shows as CTS, OUT2 as DCD */
    assert_int_equal(in(f, MSR) & 0xf0, 0x90);
    out(f, MCR, 0);
    out(f, FCR, 0x01);
    assert_int_equal(in(f, IIR) >> 6, 3);
    out(f, LCR, 0xbf);
    assert_int_equal(in(f, IIR) & 0x3f, 1); /* no extended feature register */
    out(f, LCR, 0);
    out(f, FCR, 0x21);
    assert_int_equal(in(f, IIR) >> 5, 6); /* no 64-byte FIFO */
    out(f, FCR, 0x00);
    assert_int_equal(in(f, IIR) >> 6, 0);
    out(f, SCR, 0xa5);
    assert_int_equal(in(f, SCR), 0xa5);
}

static void test_fifo_size_by_loopback(void **state)
{
    struct fixture *f = *state;
    out(f, FCR, 0x07);
    out(f, MCR, 0x10);
    for (unsigned i = 0; i < 256; i++) {
        out(f, DATA, (uint8_t)i);
    }
    unsigned count = 0;
    assert_int_equal(in(f, LSR) & 0x02, 0x02); /* overrun */
    while (in(f, LSR) & 1) {
        assert_int_equal(in(f, DATA), count++);
    }
    assert_int_equal(count, 16);
    assert_int_equal(f->sent_size, 0);
}

static void test_divisor(void **state)
{
    struct fixture *f = *state;
    out(f, LCR, 0x83);
    out(f, DATA, 0x34);
    out(f, IER, 0x12);
    assert_int_equal(in(f, DATA), 0x34);
    assert_int_equal(in(f, IER), 0x12);
    out(f, LCR, 0x03);
    assert_int_equal(in(f, IER), 0);
}

static void test_output_and_its_interrupt(void **state)
{
    struct fixture *f = *state;
    out(f, MCR, 0x08);
    out(f, IER, 0x02);
    assert_int_equal(f->level, 1); /* empty when enabled */
    assert_int_equal(in(f, IIR), 0x02);
    assert_int_equal(f->level, 0); /* reading the source clears it */
    assert_int_equal(in(f, IIR), 0x01);
    out(f, IER, 0x00);
    out(f, IER, 0x02);
    assert_int_equal(in(f, IIR), 0x02); /* enabling again raises it again */
    out(f, DATA, 'x');
    assert_int_equal(f->level, 1);
    assert_int_equal(f->sent_size, 1);
    assert_int_equal(f->sent[0], 'x');
}

static void test_out2_gates_the_line(void **state)
{
    struct fixture *f = *state;
    out(f, IER, 0x02);
    assert_int_equal(f->level, 0);
    assert_int_equal(in(f, IIR), 0x02); /* pending all the same */
    out(f, IER, 0x00);
    out(f, IER, 0x02);
    out(f, MCR, 0x08);
    assert_int_equal(f->level, 1);
    out(f, MCR, 0x18);
    assert_int_equal(f->level, 0);
}

static void test_full_sink_stalls_the_transmitter(void **state)
{
    struct fixture *f = *state;
    f->capacity = 2;
    out(f, FCR, 0x01);
    out(f, MCR, 0x08);
    out(f, IER, 0x02);
    for (const char *c = "hello"; *c; c++) {
        out(f, DATA, (uint8_t)*c);
    }
    assert_int_equal(in(f, LSR) & 0x60, 0);
    assert_int_equal(f->level, 0);
    f->capacity = 1;
    uart16550_ready(f->uart);
    assert_int_equal(in(f, LSR) & 0x60, 0);
    f->capacity = 10;
    uart16550_ready(f->uart);
    assert_int_equal(in(f, LSR) & 0x60, 0x60);
    assert_int_equal(f->level, 1);
    assert_memory_equal(f->sent, "hello", 5);
}

static void test_trigger_level_and_timeout(void **state)
{
    struct fixture *f = *state;
    out(f, LCR, 0x83);
    out(f, DATA, 1); /* 115200 baud */
    out(f, IER, 0);
    out(f, LCR, 0x03);
    out(f, FCR, 0x41); /* trigger at 4 */
    out(f, MCR, 0x08);
    out(f, IER, 0x01);
    assert_int_equal(input(f, "abc"), 3);
    assert_int_equal(f->level, 0);
    clock_advance(&f->clock, 347000); /* just below 40 bits */
    timer_queue_run(f->timers);
    assert_int_equal(f->level, 0);
    clock_advance(&f->clock, 1000);
    timer_queue_run(f->timers);
    assert_int_equal(in(f, IIR), 0xcc);
    assert_int_equal(in(f, DATA), 'a');
    assert_int_equal(f->level, 0); /* the time starts anew */
    assert_int_equal(input(f, "de"), 2);
    assert_int_equal(in(f, IIR), 0xc4);
    assert_int_equal(in(f, DATA), 'b');
    assert_int_equal(f->level, 0); /* below the trigger again */
}

static void test_input_is_never_lost(void **state)
{
    struct fixture *f = *state;
    out(f, FCR, 0x01);
    assert_int_equal(input(f, "0123456789abcdefgh"), 16);
    assert_int_equal(f->rooms, 0);
    for (unsigned i = 0; i < 16; i++) {
        assert_int_equal(in(f, DATA), "0123456789abcdef"[i]);
    }
    assert_int_equal(f->rooms, 1);
    assert_int_equal(input(f, "gh"), 2);
    assert_int_equal(in(f, DATA), 'g');
    assert_int_equal(in(f, DATA), 'h');
    assert_int_equal(f->rooms, 1); /* nobody waits */
    assert_int_equal(in(f, LSR) & 0x02, 0);
}

static void test_loopback_disconnects_input(void **state)
{
    struct fixture *f = *state;
    out(f, MCR, 0x10);
    assert_int_equal(input(f, "a"), 0);
    out(f, MCR, 0x00);
    assert_int_equal(f->rooms, 1);
    assert_int_equal(input(f, "a"), 1);
}

static void test_modem_status(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(in(f, MSR), 0xb0);
    out(f, IER, 0x08);
    out(f, MCR, 0x14); /* loop with OUT1 alone */
    assert_int_equal(in(f, IIR), 0x00);
    assert_int_equal(in(f, MSR), 0x4b); /* RI; CTS, DSR, DCD have changed */
    assert_int_equal(in(f, IIR), 0x01);
    out(f, MCR, 0x10);
    assert_int_equal(in(f, MSR), 0x04); /* RI has ended */
}

static void test_interrupt_priority(void **state)
{
    struct fixture *f = *state;
    out(f, MCR, 0x10);
    out(f, DATA, 'a');
    out(f, DATA, 'b'); /* no FIFO: overruns */
    out(f, IER, 0x0f);
    assert_int_equal(in(f, IIR), 0x06);
    assert_int_equal(in(f, LSR) & 0x02, 0x02);
    assert_int_equal(in(f, IIR), 0x04);
    assert_int_equal(in(f, DATA), 'b');
    assert_int_equal(in(f, IIR), 0x02);
    assert_int_equal(in(f, IIR), 0x00);
    in(f, MSR);
    assert_int_equal(in(f, IIR), 0x01);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_identifies_as_16550a),
        TEST(test_fifo_size_by_loopback),
        TEST(test_divisor),
        TEST(test_output_and_its_interrupt),
        TEST(test_out2_gates_the_line),
        TEST(test_full_sink_stalls_the_transmitter),
        TEST(test_trigger_level_and_timeout),
        TEST(test_input_is_never_lost),
        TEST(test_loopback_disconnects_input),
        TEST(test_modem_status),
        TEST(test_interrupt_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
