/* The stream: what is written comes back, and every damage is refused by name. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "state/stream_format.h"

#include <cmocka.h>

struct part {
    uint8_t byte;
    uint16_t half;
    uint32_t word;
    uint64_t list[3];
};

static const struct device_field part_fields[] = {
    DEVICE_FIELD(struct part, byte),
    DEVICE_FIELD(struct part, half),
    DEVICE_FIELD(struct part, word),
    DEVICE_FIELD_ARRAY(struct part, list),
    DEVICE_FIELD_END,
};

static const struct part part = {0x12, 0x3456, 0x789abcde, {1, UINT64_MAX, 3}};

static struct stream_writer writer;
static struct stream stream;
static struct error err;

static int teardown(void **state)
{
    stream_fini(&writer);
    stream_free(&stream);
    return 0;
}

static void put_part(const char *kind, const char *instance)
{
    stream_begin(&writer, kind, instance, 1, STREAM_REQUIRED);
    stream_put_fields(&writer, part_fields, &part);
    stream_end(&writer);
}

static void write_sample(void)
{
    stream_init(&writer);
    put_part("part", "first");
    stream_begin(&writer, "note", "", 7, 0);
    stream_put_text(&writer, "text", "any text\n");
    stream_put_u64(&writer, "number", 1234567890123u);
    stream_end(&writer);
    put_part("part", "second");
    assert_int_equal(stream_finish(&writer, &err), 0);
}

static void parse(void)
{
    if (stream_parse(&stream, writer.data, writer.size, &err) < 0) {
        fail_msg("%s", err.message);
    }
}

static void refuses(size_t size, const char *message)
{
    assert_true(stream_parse(&stream, writer.data, size, &err) < 0);
    assert_null(stream.section);
    if (!strstr(err.message, message)) {
        fail_msg("'%s' does not say '%s'", err.message, message);
    }
}

/* The checksums of the header and of the section whose header begins there. */
static void seal(size_t at)
{
    struct section_header section;
    struct stream_header header;
    memcpy(&section, writer.data + at, sizeof(section));
    section.data_checksum =
        XXH3_64bits(writer.data + at + sizeof(section), section.length);
    section.checksum = XXH3_64bits(&section, offsetof(struct section_header, checksum));
    memcpy(writer.data + at, &section, sizeof(section));
    memcpy(&header, writer.data, sizeof(header));
    header.checksum = XXH3_64bits(&header, offsetof(struct stream_header, checksum));
    memcpy(writer.data, &header, sizeof(header));
}

static void test_what_is_written_comes_back(void **state)
{
    write_sample();
    parse();
    assert_int_equal(stream.count, 3);
    assert_string_equal(stream.writer_version, DOPPEL_VERSION);
    struct part copy = {0};
    const struct stream_section *section = stream_find(&stream, "part", "second");
    assert_non_null(section);
    assert_int_equal(section_fields(section, part_fields, &copy, &err), 0);
    assert_int_equal(copy.byte, part.byte);
    assert_int_equal(copy.half, part.half);
    assert_int_equal(copy.word, part.word);
    assert_memory_equal(copy.list, part.list, sizeof(part.list));
}

static void test_text_and_numbers_come_back(void **state)
{
    write_sample();
    parse();
    const struct stream_section *note = stream_need(&stream, "note", "", 7, &err);
    assert_non_null(note);
    char *text;
    uint64_t number;
    assert_int_equal(section_text(note, "text", &text, &err), 0);
    assert_string_equal(text, "any text\n");
    free(text);
    assert_int_equal(section_u64(note, "number", &number, &err), 0);
    assert_int_equal(number, 1234567890123u);
}

static void test_flat_form_equals_the_struct(void **state)
{
    static const uint8_t flat[31] = {0x12, 0x56, 0x34, 0xde, 0xbc, 0x9a, 0x78, 1,
                                     0,    0,    0,    0,    0,    0,    0,    255,
                                     255,  255,  255,  255,  255,  255,  255,  3};
    uint8_t copy[31];
    write_sample();
    parse();
    assert_int_equal(
        section_flat(stream_find(&stream, "part", "first"), part_fields, copy, &err), 0);
    assert_memory_equal(copy, flat, sizeof(flat));
}

static void test_an_empty_stream_is_one(void **state)
{
    stream_init(&writer);
    assert_int_equal(stream_finish(&writer, &err), 0);
    parse();
    assert_int_equal(stream.count, 0);
}

static void test_every_truncation_is_refused(void **state)
{
    write_sample();
    for (size_t size = 0; size < writer.size; size++) {
        refuses(size, size < 8 ? "is not the saved state" : "is truncated");
    }
}

static void test_every_flipped_bit_is_refused(void **state)
{
    write_sample();
    for (size_t bit = 0; bit < writer.size * 8; bit++) {
        writer.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        refuses(writer.size, bit < 64 ? "is not the saved state" : "is damaged");
        writer.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    parse();
}

static void test_damage_names_its_section(void **state)
{
    write_sample();
    writer.data[writer.size - 1] ^= 1;
    refuses(writer.size, "section part 'second'");
}

static void test_bytes_behind_the_end_are_refused(void **state)
{
    write_sample();
    assert_true(writer.capacity > writer.size);
    writer.data[writer.size] = 0;
    refuses(writer.size + 1, "1 bytes follow");
}

static void test_a_newer_format_is_refused_by_both_versions(void **state)
{
    write_sample();
    struct stream_header *header = (struct stream_header *)writer.data;
    header->format = STREAM_FORMAT + 1;
    seal(sizeof(*header));
    refuses(writer.size, "has format 2, written by Doppel " DOPPEL_VERSION);
}

static void test_a_section_twice_is_refused(void **state)
{
    stream_init(&writer);
    put_part("part", "one");
    put_part("part", "one");
    assert_int_equal(stream_finish(&writer, &err), 0);
    refuses(writer.size, "section part 'one' twice");
}

static void test_an_absurd_count_of_sections_is_refused(void **state)
{
    write_sample();
    struct stream_header *header = (struct stream_header *)writer.data;
    header->section_count = UINT32_MAX;
    seal(sizeof(*header));
    refuses(writer.size, "4294967295 sections");
}

static void test_a_field_beyond_its_section_is_refused(void **state)
{
    write_sample();
    size_t at = sizeof(struct stream_header);
    struct field_header *field =
        (struct field_header *)(writer.data + at + sizeof(struct section_header));
    field->count = 1000;
    seal(at);
    refuses(writer.size, "section part 'first' is malformed at byte 0");
}

static void test_a_missing_section_is_named(void **state)
{
    write_sample();
    parse();
    assert_null(stream_need(&stream, "part", "third", 1, &err));
    assert_string_equal(err.message, "has no section part 'third'");
}

static void test_a_newer_section_is_named(void **state)
{
    write_sample();
    parse();
    assert_null(stream_need(&stream, "note", "", 6, &err));
    assert_non_null(strstr(err.message, "section note '' in version 7"));
}

/* A section that holds other fields than the reader's table. */
static void refuses_fields(const struct device_field *fields, const char *message)
{
    struct part copy = {.byte = 99};
    stream_init(&writer);
    stream_begin(&writer, "part", "x", 1, 0);
    stream_put_fields(&writer, fields, &part);
    stream_end(&writer);
    assert_int_equal(stream_finish(&writer, &err), 0);
    parse();
    assert_true(section_fields(&stream.section[0], part_fields, &copy, &err) < 0);
    assert_string_equal(err.message, message);
    assert_int_equal(copy.byte, 99);
}

static void test_a_missing_field_is_named(void **state)
{
    static const struct device_field fields[] = {
        DEVICE_FIELD(struct part, byte),
        DEVICE_FIELD(struct part, half),
        DEVICE_FIELD(struct part, word),
        DEVICE_FIELD_END,
    };
    refuses_fields(fields, "section part 'x': field list is missing");
}

static void test_an_unknown_field_is_named(void **state)
{
    static const struct device_field fields[] = {
        DEVICE_FIELD(struct part, byte),
        DEVICE_FIELD(struct part, half),
        DEVICE_FIELD(struct part, word),
        DEVICE_FIELD_ARRAY(struct part, list),
        {"colour", 0, 1, 1},
        DEVICE_FIELD_END,
    };
    refuses_fields(fields, "section part 'x': field colour is unknown to "
                           "Doppel " DOPPEL_VERSION);
}

static void test_a_field_of_another_shape_is_named(void **state)
{
    static const struct device_field fields[] = {
        DEVICE_FIELD(struct part, byte),
        {"half", 0, 4, 1},
        DEVICE_FIELD(struct part, word),
        DEVICE_FIELD_ARRAY(struct part, list),
        DEVICE_FIELD_END,
    };
    refuses_fields(fields, "section part 'x': field half has elements of 4 bytes, not 2");
}

static void test_an_array_of_another_length_is_named(void **state)
{
    static const struct device_field fields[] = {
        DEVICE_FIELD(struct part, byte),
        DEVICE_FIELD(struct part, half),
        DEVICE_FIELD(struct part, word),
        {"list", offsetof(struct part, list), 8, 2},
        DEVICE_FIELD_END,
    };
    refuses_fields(fields, "section part 'x': field list has 2 elements, not 3");
}

static void test_a_field_twice_is_refused(void **state)
{
    static const struct device_field fields[] = {
        DEVICE_FIELD(struct part, byte), DEVICE_FIELD(struct part, half),
        DEVICE_FIELD(struct part, word), DEVICE_FIELD_ARRAY(struct part, list),
        DEVICE_FIELD(struct part, half), DEVICE_FIELD_END,
    };
    refuses_fields(fields, "section part 'x' has a field twice");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_what_is_written_comes_back, teardown),
        cmocka_unit_test_teardown(test_text_and_numbers_come_back, teardown),
        cmocka_unit_test_teardown(test_flat_form_equals_the_struct, teardown),
        cmocka_unit_test_teardown(test_an_empty_stream_is_one, teardown),
        cmocka_unit_test_teardown(test_every_truncation_is_refused, teardown),
        cmocka_unit_test_teardown(test_every_flipped_bit_is_refused, teardown),
        cmocka_unit_test_teardown(test_damage_names_its_section, teardown),
        cmocka_unit_test_teardown(test_bytes_behind_the_end_are_refused, teardown),
        cmocka_unit_test_teardown(test_a_newer_format_is_refused_by_both_versions,
                                  teardown),
        cmocka_unit_test_teardown(test_a_section_twice_is_refused, teardown),
        cmocka_unit_test_teardown(test_an_absurd_count_of_sections_is_refused, teardown),
        cmocka_unit_test_teardown(test_a_field_beyond_its_section_is_refused, teardown),
        cmocka_unit_test_teardown(test_a_missing_section_is_named, teardown),
        cmocka_unit_test_teardown(test_a_newer_section_is_named, teardown),
        cmocka_unit_test_teardown(test_a_missing_field_is_named, teardown),
        cmocka_unit_test_teardown(test_an_unknown_field_is_named, teardown),
        cmocka_unit_test_teardown(test_a_field_of_another_shape_is_named, teardown),
        cmocka_unit_test_teardown(test_an_array_of_another_length_is_named, teardown),
        cmocka_unit_test_teardown(test_a_field_twice_is_refused, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
