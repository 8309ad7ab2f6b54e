/* Snapshots of a whole VM: what is saved comes back, and nothing damaged is let in. */

#include "fixture.h"

/* Leaves traces in memory and devices that differ from a fresh VM's. */
static void leave_traces(void)
{
    static const char text[] = "some text in guest memory";
    static const struct {
        uint16_t port;
        uint8_t value;
    } writes[] = {
        {0x20, 0x11}, {0x21, 0x40}, {0x21, 0x04}, {0x21, 0x01},  {0x21, 0xaa},
        {0x43, 0x34}, {0x40, 0x55}, {0x40, 0x66}, {0x3ff, 0x5a}, {0x3f9, 0x0f},
        {0x70, 0x0f}, {0x71, 0x77}, {0x64, 0x60}, {0x60, 0x30},  {0x602, 0x01},
    };
    assert_true(ram_write(vm->memory, 0x5ffff0, text, sizeof(text)));
    assert_true(ram_write(vm->memory, RAM - sizeof(text), text, sizeof(text)));
    for (unsigned i = 0; i < array_size(writes); i++) {
        uint8_t value = writes[i].value;
        bus_access(&vm->ports, writes[i].port, 1, true, &value);
    }
}

static void assert_same_memory(void)
{
    assert_int_equal(vm->memory->frame_count, copy->memory->frame_count);
    for (frame_t frame = 0; frame < vm->memory->frame_count; frame++) {
        assert_memory_equal(memory_host(vm->memory, frame),
                            memory_host(copy->memory, frame), FRAME_SIZE);
    }
}

static void assert_same_state(void)
{
    struct stream_writer one, other;
    stream_init(&one);
    stream_init(&other);
    state_save(vm, &one);
    state_save(copy, &other);
    assert_int_equal(one.size, other.size);
    assert_memory_equal(one.data, other.data, one.size);
    stream_fini(&one);
    stream_fini(&other);
}

static void test_all_comes_back(void **state)
{
    start_vm();
    vm_pause(vm);
    leave_traces();
    snapshot();
    assert_int_equal(restore(), 0);
    assert_same_state();
    assert_same_memory();
    assert_int_equal(copy->config.cpuid.tsc_khz, vm->config.cpuid.tsc_khz);
    assert_memory_equal(copy->config.cpuid.leaf, vm->config.cpuid.leaf,
                        sizeof(vm->config.cpuid.leaf));
    struct machine_config config = board_config(board_find(copy));
    assert_string_equal(config.name, "sample");
    assert_string_equal(config.append, "some words");
    assert_true(config.debug_exit);
}

static void test_both_go_on(void **state)
{
    start_vm();
    wait_for_count(vm, 1000);
    snapshot();
    assert_int_equal(vm_get_status(vm), VM_RUNNING);
    wait_for_count(vm, counter(vm));
    assert_int_equal(restore(), 0);
    uint64_t before = counter(copy), time = clock_now(&copy->clock);
    assert_true(before >= 1000);
    assert_true(before < counter(vm));
    assert_int_equal(vm_start(copy, &err), 0);
    wait_for_count(copy, before);
    assert_true(clock_now(&copy->clock) > time);
}

static void test_a_copy_can_be_saved(void **state)
{
    start_vm();
    wait_for_count(vm, 1000);
    vm_pause(vm);
    snapshot();
    assert_int_equal(restore(), 0);
    remove_all(saved);
    assert_int_equal(vm_start(copy, &err), 0);
    vm_pause(copy);
    vm_free(vm);
    vm = copy;
    copy = NULL;
    snapshot();
    assert_int_equal(restore(), 0);
    assert_same_state();
    assert_same_memory();
}

static void test_a_paused_vm_stays_paused(void **state)
{
    start_vm();
    vm_pause(vm);
    uint64_t time = clock_now(&vm->clock);
    snapshot();
    assert_int_equal(vm_get_status(vm), VM_PAUSED);
    assert_int_equal(clock_now(&vm->clock), time);
    assert_int_equal(restore(), 0);
    assert_int_equal(clock_now(&copy->clock), time);
}

static void refuses_to_save(const char *path, const char *message)
{
    assert_true(vm_snapshot(vm, path, &err) < 0);
    if (!strstr(err.message, message)) {
        fail_msg("'%s' does not say '%s'", err.message, message);
    }
}

static void test_where_it_may_be_saved(void **state)
{
    char path[128];
    start_vm();
    assert_int_equal(mkdir(saved, 0700), 0);
    snapshot(); /* into an empty directory */
    struct resources before = count_resources();
    refuses_to_save(saved, "exists already");
    refuses_to_save(kernel_path, "exists already");
    snprintf(path, sizeof(path), "%s/none/saved", folder);
    refuses_to_save(path, "No such file");
    assert_resources(&before);
    assert_int_equal(vm_get_status(vm), VM_RUNNING);
    assert_int_equal(restore(), 0);
}

static void test_only_a_running_vm_is_saved(void **state)
{
    make_vm();
    refuses_to_save(saved, "does not run");
    assert_int_equal(vm_start(vm, &err), 0);
    vm_request_end(vm, VM_END_REQUEST, 0, NULL);
    refuses_to_save(saved, "reset or ended");
    vm_run(vm);
    refuses_to_save(saved, "does not run");
}

/* --- Damage --- */

static void save_sample(void)
{
    start_vm();
    vm_pause(vm);
    snapshot();
}

static void test_every_damaged_section_is_named(void **state)
{
    size_t size;
    struct stream stream;
    char name[120];
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    assert_int_equal(stream_parse(&stream, data, size, &err), 0);
    struct resources before = count_resources();
    for (unsigned i = 0; i < stream.count; i++) {
        const struct stream_section *section = &stream.section[i];
        if (section->length == 0) {
            continue;
        }
        size_t at = (size_t)(section->data - data) + section->length / 2;
        data[at] ^= 0x10;
        write_file(SNAPSHOT_STATE, data, size);
        snprintf(name, sizeof(name), "section %s '%s'", section->kind, section->instance);
        refuses(name);
        data[at] ^= 0x10;
    }
    assert_resources(&before);
    write_file(SNAPSHOT_STATE, data, size);
    assert_int_equal(restore(), 0);
    stream_free(&stream);
    free(data);
}

static void test_truncation_of_the_state_is_refused(void **state)
{
    size_t size;
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    for (size_t length = 0; length < size; length += 1 + size / 199) {
        write_file(SNAPSHOT_STATE, data, length);
        refuses(length < 8 ? "is not the saved state" : "is truncated");
    }
    free(data);
}

static const char *const files[] = {SNAPSHOT_MEMORY, SNAPSHOT_KERNEL, SNAPSHOT_MANIFEST};

static void test_every_damaged_file_is_named(void **state)
{
    save_sample();
    for (unsigned i = 0; i < array_size(files); i++) {
        size_t size;
        uint8_t *data = read_file(files[i], &size);
        const char *name = strcmp(files[i], SNAPSHOT_MEMORY) == 0 ? "memory" : files[i];
        data[size / 2] ^= 1;
        write_file(files[i], data, size);
        refuses(name);
        assert_non_null(strstr(err.message, "damaged"));
        data[size / 2] ^= 1;
        write_file(files[i], data, size - 1);
        refuses(name);
        assert_non_null(strstr(err.message, "truncated"));
        write_file(files[i], data, size + 1);
        refuses(name);
        assert_non_null(strstr(err.message, "damaged"));
        write_file(files[i], data, size);
        free(data);
    }
    assert_int_equal(restore(), 0);
}

static void test_every_missing_file_is_named(void **state)
{
    static const char *const all[] = {SNAPSHOT_STATE, SNAPSHOT_MEMORY, SNAPSHOT_KERNEL,
                                      SNAPSHOT_MANIFEST};
    char path[128], away[128];
    save_sample();
    snprintf(away, sizeof(away), "%s/away", folder);
    for (unsigned i = 0; i < array_size(all); i++) {
        snprintf(path, sizeof(path), "%s/%s", saved, all[i]);
        assert_int_equal(rename(path, away), 0);
        refuses(all[i]);
        assert_int_equal(mkdir(path, 0700), 0);
        refuses(all[i]);
        assert_int_equal(rmdir(path), 0);
        assert_int_equal(rename(away, path), 0);
    }
    assert_int_equal(restore(), 0);
}

/* --- Intact streams that say something else --- */

struct edit {
    const char *kind, *instance; /* of the section that is changed */
    bool is_removed;
    uint32_t version;  /* 0: as it is */
    const char *field; /* whose first byte becomes `byte`; NULL: none */
    uint8_t byte;
    const char *extra; /* another section; NULL: none */
    uint32_t extra_flags;
};

static void put_edited(struct stream_writer *writer, const struct stream_section *section,
                       const struct edit *edit)
{
    struct stream_field field;
    stream_begin(writer, section->kind, section->instance,
                 edit && edit->version ? edit->version : section->version,
                 section->flags);
    for (size_t at = 0; section_next(section, &at, &field);) {
        size_t bytes = (size_t)field.size * field.count;
        uint8_t *data = malloc(bytes + 1);
        memcpy(data, field.data, bytes);
        if (edit && edit->field && strcmp(edit->field, field.name) == 0) {
            data[0] = edit->byte;
        }
        stream_put(writer, field.name, data, field.size, field.count);
        free(data);
    }
    stream_end(writer);
}

static void rewrite(const uint8_t *data, size_t size, const struct edit *edit)
{
    struct stream stream;
    struct stream_writer writer;
    stream_init(&writer);
    assert_int_equal(stream_parse(&stream, data, size, &err), 0);
    for (unsigned i = 0; i < stream.count; i++) {
        const struct stream_section *section = &stream.section[i];
        bool is_it = edit->kind && strcmp(section->kind, edit->kind) == 0 &&
                     strcmp(section->instance, edit->instance) == 0;
        if (!is_it || !edit->is_removed) {
            put_edited(&writer, section, is_it ? edit : NULL);
        }
    }
    if (edit->extra) {
        stream_begin(&writer, edit->extra, "x", 1, edit->extra_flags);
        stream_end(&writer);
    }
    assert_int_equal(stream_finish(&writer, &err), 0);
    write_file(SNAPSHOT_STATE, writer.data, writer.size);
    stream_fini(&writer);
    stream_free(&stream);
}

static void test_every_missing_section_is_named(void **state)
{
    size_t size;
    struct stream stream;
    char name[120];
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    assert_int_equal(stream_parse(&stream, data, size, &err), 0);
    struct resources before = count_resources();
    for (unsigned i = 0; i < stream.count; i++) {
        const struct stream_section *section = &stream.section[i];
        const struct edit edit = {
            .kind = section->kind, .instance = section->instance, .is_removed = true};
        rewrite(data, size, &edit);
        bool is_kernel = strcmp(section->instance, SNAPSHOT_KERNEL) == 0;
        snprintf(name, sizeof(name), "no section %s '%s'", section->kind,
                 section->instance);
        refuses(is_kernel ? "nothing to boot" : name);
    }
    assert_resources(&before);
    stream_free(&stream);
    free(data);
}

static void test_every_newer_section_is_named(void **state)
{
    size_t size;
    struct stream stream;
    char name[120];
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    assert_int_equal(stream_parse(&stream, data, size, &err), 0);
    struct resources before = count_resources();
    for (unsigned i = 0; i < stream.count; i++) {
        const struct stream_section *section = &stream.section[i];
        const struct edit edit = {
            .kind = section->kind, .instance = section->instance, .version = 1000};
        rewrite(data, size, &edit);
        snprintf(name, sizeof(name), "section %s '%s' in version 1000", section->kind,
                 section->instance);
        refuses(name);
    }
    assert_resources(&before);
    stream_free(&stream);
    free(data);
}

static void test_unknown_sections(void **state)
{
    size_t size;
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    rewrite(data, size, &(struct edit){.extra = "marvel", .extra_flags = 1});
    refuses("section marvel 'x'");
    rewrite(data, size, &(struct edit){.extra = "marvel"});
    assert_int_equal(restore(), 0);
    free(data);
}

static void test_impossible_states_are_named(void **state)
{
    static const struct {
        struct edit edit;
        const char *message;
    } cases[] = {
        {{.kind = "vcpu", .instance = "1", .field = "activity", .byte = 9}, "activity"},
        {{.kind = "vcpu", .instance = "0", .field = "event.pending", .byte = 2}, "event"},
        {{.kind = "vcpu", .instance = "0", .field = "rflags", .byte = 0}, "rflags"},
        {{.kind = "vcpu", .instance = "0", .field = "cr0", .byte = 0}, "cr0"},
        {{.kind = "vcpu", .instance = "0", .field = "xcr0", .byte = 0}, "xcr0"},
        {{.kind = "lapic", .instance = "1", .field = "id", .byte = 3}, "id"},
        {{.kind = "lapic", .instance = "1", .field = "tsc_khz", .byte = 1}, "tsc_khz"},
        {{.kind = "memory", .instance = "", .field = "slots", .byte = 1}, "memory map"},
        {{.kind = "memory", .instance = "", .field = "pages", .byte = 1}, "extents"},
        {{.kind = "cpu-model", .instance = "", .field = "vendor", .byte = 7}, "vendor"},
        {{.kind = "machine", .instance = "", .field = "config", .byte = '['}, "JSON"},
    };
    size_t size;
    save_sample();
    uint8_t *data = read_file(SNAPSHOT_STATE, &size);
    struct resources before = count_resources();
    for (unsigned i = 0; i < array_size(cases); i++) {
        rewrite(data, size, &cases[i].edit);
        refuses(cases[i].message);
    }
    assert_resources(&before);
    free(data);
}

static void refuses_config(uint64_t memory, bool debug_exit, const char *message)
{
    struct snapshot *opened = snapshot_open(saved, &err);
    assert_non_null(opened);
    struct machine_config config = snapshot_config(opened);
    config.engine = "interpreter";
    config.memory = memory;
    config.debug_exit = debug_exit;
    assert_null(vm_restore(opened, &config, &console, &err));
    if (!strstr(err.message, message)) {
        fail_msg("'%s' does not say '%s'", err.message, message);
    }
    snapshot_close(opened);
}

static void test_another_machine_is_refused(void **state)
{
    save_sample();
    refuses_config(RAM * 2, true, "another memory map");
    refuses_config(RAM, false, "section debug_exit 'debug-exit'");
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_setup, folder_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_all_comes_back),
        TEST(test_both_go_on),
        TEST(test_a_copy_can_be_saved),
        TEST(test_a_paused_vm_stays_paused),
        TEST(test_where_it_may_be_saved),
        TEST(test_only_a_running_vm_is_saved),
        TEST(test_every_damaged_section_is_named),
        TEST(test_truncation_of_the_state_is_refused),
        TEST(test_every_damaged_file_is_named),
        TEST(test_every_missing_file_is_named),
        TEST(test_every_missing_section_is_named),
        TEST(test_every_newer_section_is_named),
        TEST(test_unknown_sections),
        TEST(test_impossible_states_are_named),
        TEST(test_another_machine_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
