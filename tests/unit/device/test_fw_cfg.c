/* The firmware configuration device: items and files, by ports and by DMA. */

#include <endian.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "device/pc/fw_cfg.h"

#include <cmocka.h>

#define RAM 0x4000u

static struct memory *memory;
static struct fw_cfg *fw_cfg;
static struct region ports, dma;
static struct error err;

static int setup(void **state)
{
    memory = memory_new(RAM, NULL);
    int64_t frame = memory_add_frames(memory, RAM, NULL);
    assert_int_equal(memory_map(memory, 0, RAM, (frame_t)frame, SLOT_RAM, NULL), 0);
    fw_cfg = fw_cfg_new("fw-cfg", memory, &err);
    assert_non_null(fw_cfg);
    ports = fw_cfg_region(fw_cfg, FW_CFG_PORT);
    dma = fw_cfg_dma_region(fw_cfg, FW_CFG_DMA_PORT);
    return 0;
}

static int teardown(void **state)
{
    fw_cfg_device(fw_cfg)->type->free(fw_cfg_device(fw_cfg));
    memory_free(memory);
    return 0;
}

static void select_key(uint16_t key)
{
    ports.write(ports.device, 0, 2, key);
}

static uint8_t next_byte(void)
{
    return (uint8_t)ports.read(ports.device, 1, 1);
}

static uint64_t next_number(unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++) {
        value |= (uint64_t)next_byte() << (8 * i);
    }
    return value;
}

static void test_signature_and_identification(void **state)
{
    select_key(FW_CFG_SIGNATURE);
    assert_int_equal(next_number(4), 0x554d4551); /* "QEMU" */
    assert_int_equal(next_byte(), 0);             /* behind the end */
    select_key(FW_CFG_ID);
    assert_int_equal(next_number(4), 3); /* ports and DMA */
}

static void test_numbers_are_little_endian(void **state)
{
    fw_cfg_add_number(fw_cfg, FW_CFG_RAM_SIZE, 0x123456789a, 8, &err);
    select_key(FW_CFG_RAM_SIZE);
    assert_int_equal(next_number(8), 0x123456789a);
}

static void test_an_item_that_is_not_there_is_zeros(void **state)
{
    select_key(0x1234);
    assert_int_equal(next_number(8), 0);
}

static void test_directory_lists_files(void **state)
{
    fw_cfg_add_file(fw_cfg, "etc/one", "1", 1, &err);
    fw_cfg_add_file(fw_cfg, "etc/two", "22", 2, &err);
    select_key(FW_CFG_DIRECTORY);
    assert_int_equal(be32toh((uint32_t)next_number(4)), 2);
    assert_int_equal(be32toh((uint32_t)next_number(4)), 1);
    assert_int_equal(be16toh((uint16_t)next_number(2)), FW_CFG_FILES);
    next_number(2);
    char name[56];
    for (unsigned i = 0; i < sizeof(name); i++) {
        name[i] = (char)next_byte();
    }
    assert_string_equal(name, "etc/one");
    assert_int_equal(be32toh((uint32_t)next_number(4)), 2);
    select_key(FW_CFG_FILES + 1);
    assert_int_equal(next_number(2), 0x3232);
}

static void put_command(gpa_t at, uint32_t control, uint32_t length, uint64_t address)
{
    struct {
        uint32_t control, length;
        uint64_t address;
    } command = {htobe32(control), htobe32(length), htobe64(address)};
    assert_true(ram_write(memory, at, &command, sizeof(command)));
}

static uint32_t control_of(gpa_t at)
{
    uint32_t control;
    assert_true(ram_read(memory, at, &control, sizeof(control)));
    return be32toh(control);
}

static void start_dma(uint64_t address)
{
    dma.write(dma.device, 0, 4, htobe32((uint32_t)(address >> 32)));
    dma.write(dma.device, 4, 4, htobe32((uint32_t)address));
}

static void test_dma_selects_and_reads(void **state)
{
    char content[16];
    memset(content, 'x', sizeof(content));
    fw_cfg_add_file(fw_cfg, "etc/file", "the content", 11, &err);
    ram_write(memory, 0x200, content, sizeof(content));
    put_command(0x100, FW_CFG_FILES << 16 | 0x08 | 0x02, 14, 0x200);
    start_dma(0x100);
    assert_int_equal(control_of(0x100), 0);
    ram_read(memory, 0x200, content, sizeof(content));
    /* Zeros behind the item's end, and nothing behind the length. */
    assert_memory_equal(content, "the content\0\0\0xx", 16);
}

static void test_dma_skips(void **state)
{
    fw_cfg_add_file(fw_cfg, "etc/file", "the content", 11, &err);
    put_command(0x100, FW_CFG_FILES << 16 | 0x08 | 0x04, 4, 0);
    start_dma(0x100);
    assert_int_equal(next_byte(), 'c');
}

static void test_dma_by_one_write(void **state)
{
    put_command(0x3000, 0x08, 0, 0);
    dma.write(dma.device, 0, 8, htobe64(0x3000));
    assert_int_equal(next_byte(), 'Q');
}

static void test_dma_signature(void **state)
{
    uint64_t value = dma.read(dma.device, 0, 8);
    assert_memory_equal(&value, "QEMU CFG", 8);
    assert_int_equal(dma.read(dma.device, 4, 4), value >> 32);
}

static void test_dma_errors(void **state)
{
    static const struct {
        uint32_t control, length;
        uint64_t address;
    } bad[] = {
        {0x08 | 0x02, 4, RAM - 2},    /* to where no memory is */
        {0x08 | 0x02, 0xffffffff, 0}, /* longer than memory */
        {0x08 | 0x02, 4, UINT64_MAX}, /* wraps around */
        {0x08 | 0x10, 1, 0x200},      /* nothing can be written */
    };
    for (unsigned i = 0; i < array_size(bad); i++) {
        put_command(0x100, bad[i].control, bad[i].length, bad[i].address);
        if (bad[i].length == 0xffffffff) {
            put_command(RAM - 16, bad[i].control, bad[i].length, 0x100);
            start_dma(RAM - 16);
            assert_int_equal(control_of(RAM - 16), 1);
            continue;
        }
        start_dma(0x100);
        assert_int_equal(control_of(0x100), 1);
    }
    start_dma(RAM - 8); /* the command is not in memory: nothing happens */
    start_dma(UINT64_MAX - 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_signature_and_identification, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_numbers_are_little_endian, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_item_that_is_not_there_is_zeros, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_directory_lists_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_selects_and_reads, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_skips, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_by_one_write, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_signature, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dma_errors, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
