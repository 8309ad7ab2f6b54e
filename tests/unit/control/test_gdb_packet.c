/* Framing of the GDB remote protocol. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "control/gdb_packet.h"

#include <cmocka.h>

static struct gdb_reader reader;

/* What the last of these bytes leads to. */
static enum gdb_event feed(const char *bytes, size_t size)
{
    enum gdb_event event = GDB_NOTHING;
    for (size_t i = 0; i < size; i++) {
        event = gdb_read(&reader, (uint8_t)bytes[i]);
    }
    return event;
}

static int reset(void **state)
{
    memset(&reader, 0, sizeof(reader));
    return 0;
}

static void test_a_packet_is_what_stands_in_its_frame(void **state)
{
    assert_int_equal(feed("+$g#67", 6), GDB_PACKET);
    assert_string_equal(reader.data, "g");
    assert_int_equal(feed("$#00", 4), GDB_PACKET);
    assert_int_equal(reader.size, 0);
}

static void test_a_wrong_checksum_is_noticed(void **state)
{
    assert_int_equal(feed("$g#68", 5), GDB_DAMAGED);
    assert_int_equal(feed("$g#6x", 5), GDB_DAMAGED);
    assert_int_equal(feed("$g#67", 5), GDB_PACKET);
}

static void test_interrupts_and_nacks_stand_outside_of_packets(void **state)
{
    assert_int_equal(feed("\x03", 1), GDB_INTERRUPT);
    assert_int_equal(feed("-", 1), GDB_NACK);
    assert_int_equal(feed("$\x03-#30", 6), GDB_PACKET);
}

static void test_the_longest_packet_and_one_longer(void **state)
{
    static char frame[2 * GDB_PACKET_MAX + 4], text[GDB_PACKET_MAX + 1];
    memset(text, 'a', sizeof(text));
    assert_int_equal(feed(frame, gdb_frame(frame, text, GDB_PACKET_MAX)), GDB_PACKET);
    assert_int_equal(reader.size, GDB_PACKET_MAX);
    assert_int_equal(feed(frame, gdb_frame(frame, text, GDB_PACKET_MAX + 1)),
                     GDB_TOO_LONG);
    assert_int_equal(feed("$g#67", 5), GDB_PACKET);
}

static void test_framed_binary_data_comes_back(void **state)
{
    char data[256], frame[2 * sizeof(data) + 4];
    for (unsigned i = 0; i < sizeof(data); i++) {
        data[i] = (char)i;
    }
    assert_int_equal(feed(frame, gdb_frame(frame, data, sizeof(data))), GDB_PACKET);
    assert_int_equal(gdb_unescape(reader.data, reader.size), sizeof(data));
    assert_memory_equal(reader.data, data, sizeof(data));
}

static void test_numbers(void **state)
{
    uint64_t value;
    const char *text = "ffffffffffffffff,";
    assert_true(gdb_parse_hex(&text, &value));
    assert_int_equal(value, UINT64_MAX);
    assert_int_equal(*text, ',');
    text = "10000000000000000";
    assert_false(gdb_parse_hex(&text, &value));
    text = "xyz";
    assert_false(gdb_parse_hex(&text, &value));
    uint8_t bytes[3];
    assert_true(gdb_parse_bytes("00fF7a", bytes, 3));
    assert_memory_equal(bytes, "\x00\xff\x7a", 3);
    assert_false(gdb_parse_bytes("00f", bytes, 2));
    assert_false(gdb_parse_bytes("0g", bytes, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_a_packet_is_what_stands_in_its_frame, reset),
        cmocka_unit_test_setup(test_a_wrong_checksum_is_noticed, reset),
        cmocka_unit_test_setup(test_interrupts_and_nacks_stand_outside_of_packets, reset),
        cmocka_unit_test_setup(test_the_longest_packet_and_one_longer, reset),
        cmocka_unit_test_setup(test_framed_binary_data_comes_back, reset),
        cmocka_unit_test_setup(test_numbers, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
