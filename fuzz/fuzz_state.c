/*
 * A snapshot's stream. Either the input is the stream, or it says how an intact one is
 * changed, whose checksums are then made right again: what is behind them is a hostile
 * file's, too. A state that is accepted is loaded, must be accepted again when it is
 * saved, and must not hurt the engine, which executes a little from there.
 */

#include <assert.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/scope.h"
#include "machine/machine.h"
#include "state/config.h"
#include "state/memory_file.h"
#include "state/part.h"
#include "state/processor.h"
#include "state/snapshot_format.h"
#include "state/stream_format.h"

#include "input.h"

#define SECTIONS_MAX  64
#define EDITS_MAX     8
#define INSTRUCTIONS  200
#define TIME_LIMIT_US 50000

/* The intact stream, and its parts. */
static struct stream_writer base;
static struct stream_header head;
static struct {
    struct section_header header;
    const uint8_t *data;
} part[SECTIONS_MAX];
static unsigned part_count;

static int disk_fd = -1;

static unsigned swallow(void *opaque, const uint8_t *data, unsigned size)
{
    return size;
}

static struct vm *make_vm(void)
{
    static const struct console_port console = {swallow, NULL};
    struct error err;
    struct disk_config disk = {.format = "raw"};
    snprintf(disk.path, sizeof(disk.path), "/proc/self/fd/%d", disk_fd);
    const struct machine_config config = {
        .name = "fuzz",
        .engine = "interpreter",
        .cpus = 1,
        .memory = CONFIG_MEMORY_MIN,
        .cpu_model = "host",
        .kernel = disk.path, /* the file begins as an ELF file does */
        .append = "words",
        .disk = &disk,
        .disk_count = 1,
        .debug_exit = true,
        .deterministic = true,
    };
    struct vm *vm = machine_new(&config, &console, &err);
    if (!vm) {
        fprintf(stderr, "cannot make a machine: %s\n", err.message);
        abort();
    }
    return vm;
}

/* A disk that is a 64-bit ELF kernel at 1M, too: hlt. */
static void make_disk(void)
{
    static const uint8_t elf[0x82] = {
        0x7f,        'E',         'L',       'F',        2,
        1,           1,           [16] = 2,  [18] = 62,  [20] = 1,
        [26] = 0x10, [32] = 64,   [54] = 56, [56] = 1,   [64] = 1,
        [72] = 0x78, [90] = 0x10, [96] = 10, [104] = 10, [0x78] = 0xf4};
    disk_fd = memfd_create("fuzz-disk", MFD_CLOEXEC);
    assert(disk_fd >= 0 && pwrite(disk_fd, elf, sizeof(elf), 0) == sizeof(elf));
    assert(ftruncate(disk_fd, 1 << 16) == 0);
}

static void put_rest(struct vm *vm)
{
    struct error err;
    struct memory_source source;
    static const char config[] =
        "{\"machine\": \"micro\", \"cpus\": 1, \"memory\": 2097152}";
    stream_begin(&base, SECTION_MACHINE, "", MACHINE_VERSION, STREAM_REQUIRED);
    stream_put_text(&base, "config", config);
    stream_end(&base);
    cpu_model_put(&base, &vm->config.cpuid);
    assert(memory_file_find(vm->memory, &source, &err) >= 0);
    source.checksum = calloc(memory_source_chunks(&source) + 1, 8);
    memory_file_put(&base, vm->memory, &source);
    memory_source_fini(&source);
    stream_begin(&base, SECTION_FILE, "kernel", FILE_VERSION, STREAM_REQUIRED);
    stream_put_u64(&base, "size", 10);
    stream_put_u64(&base, "checksum", 11);
    stream_end(&base);
}

static void prepare(void)
{
    struct error err;
    make_disk();
    struct vm *vm = make_vm();
    stream_init(&base);
    state_save(vm, &base);
    put_rest(vm);
    assert(stream_finish(&base, &err) >= 0);
    memcpy(&head, base.data, sizeof(head));
    for (size_t at = sizeof(head); at < base.size; part_count++) {
        assert(part_count < SECTIONS_MAX);
        memcpy(&part[part_count].header, base.data + at, sizeof(part[0].header));
        part[part_count].data = base.data + at + sizeof(part[0].header);
        at += sizeof(part[0].header) + part[part_count].header.length;
    }
    vm_free(vm);
}

/* --- Changing --- */

struct edited {
    struct section_header header;
    uint8_t *data;
    bool is_absent, is_twice;
};

/* The place of an element of a field; 0: the section has none. Changed sections may be
 * malformed: then what the parser would still find. */
static uint8_t *find_element(struct edited *section, struct input *input, unsigned *size)
{
    const struct stream_section view = {.data = section->data,
                                        .length = section->header.length};
    struct stream_field field;
    unsigned count = 0;
    for (size_t at = 0; section_next(&view, &at, &field);) {
        count++;
    }
    unsigned chosen = count ? input_u8(input) % count : 0;
    size_t at = 0;
    for (unsigned i = 0; i <= chosen; i++) {
        if (!section_next(&view, &at, &field)) {
            return NULL;
        }
    }
    uint64_t element = input_u64(input);
    *size = field.size;
    return field.count ? (uint8_t *)field.data + element % field.count * field.size
                       : NULL;
}

/* A value of a field, all of it or a bit. */
static void edit_value(struct edited *section, struct input *input)
{
    static const uint64_t edges[] = {0, 1, UINT64_MAX, INT64_MAX, 1ull << 63, 1ull << 47};
    unsigned size;
    uint8_t *element = find_element(section, input, &size);
    if (!element) {
        return;
    }
    unsigned kind = input_u8(input);
    if (kind % 4 == 0) {
        input_bytes(input, element, size);
    } else if (kind % 4 == 1) {
        memcpy(element, &edges[kind / 4 % array_size(edges)], size);
    } else {
        unsigned bit = input_u8(input) % (8 * size);
        element[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
}

/* What holds the values. */
static void edit_form(struct edited *section, struct input *input)
{
    uint64_t length = section->header.length;
    unsigned kind = input_u8(input) % 5;
    uint64_t at = input_u64(input);
    uint8_t bit = (uint8_t)(1u << input_u8(input) % 8);
    switch (kind) {
    case 0:
        section->data[length ? at % length : 0] ^= bit;
        break;
    case 1:
        section->header.length = length ? at % length : 0;
        break;
    case 2:
        ((uint8_t *)&section->header)[at % offsetof(struct section_header, length)] ^=
            bit;
        break;
    case 3:
        section->is_absent = true;
        break;
    default:
        section->is_twice = true;
        break;
    }
}

static size_t emit(uint8_t *to, struct edited *section)
{
    struct section_header *header = &section->header;
    header->data_checksum = XXH3_64bits(section->data, header->length);
    header->checksum = XXH3_64bits(header, offsetof(struct section_header, checksum));
    memcpy(to, header, sizeof(*header));
    memcpy(to + sizeof(*header), section->data, header->length);
    return sizeof(*header) + header->length;
}

/* The changed stream; the caller frees it. */
static uint8_t *change(struct input *input, size_t *size)
{
    struct edited edited[SECTIONS_MAX] = {0};
    struct stream_header header = head;
    uint8_t *out = malloc(2 * base.size);
    for (unsigned i = 0; i < part_count; i++) {
        edited[i].header = part[i].header;
        edited[i].data = malloc(part[i].header.length + 1);
        memcpy(edited[i].data, part[i].data, part[i].header.length);
    }
    unsigned edits = input_u8(input) % EDITS_MAX + 1;
    bool is_form = input_u8(input) % 8 == 0;
    for (unsigned i = 0; input->size && i < edits; i++) {
        struct edited *section = &edited[input_u8(input) % part_count];
        (is_form ? edit_form : edit_value)(section, input);
    }
    size_t at = sizeof(header);
    header.section_count = 0;
    for (unsigned i = 0; i < part_count; i++) {
        unsigned copies = edited[i].is_absent ? 0 : edited[i].is_twice ? 2 : 1;
        header.section_count += copies;
        for (unsigned copy = 0; copy < copies; copy++) {
            at += emit(out + at, &edited[i]);
        }
        free(edited[i].data);
    }
    header.size = at;
    header.checksum = XXH3_64bits(&header, offsetof(struct stream_header, checksum));
    memcpy(out, &header, sizeof(header));
    *size = at;
    return out;
}

/* --- Reading --- */

static void read_fields(const struct stream *stream)
{
    for (unsigned i = 0; i < stream->count; i++) {
        struct stream_field field;
        volatile uint8_t last;
        for (size_t at = 0; section_next(&stream->section[i], &at, &field);) {
            if (field.count) {
                last = field.data[(size_t)field.size * field.count - 1];
            }
        }
        (void)last;
    }
}

static void read_config(struct stream *stream)
{
    struct machine_config config;
    struct disk_config disk[CONFIG_DISKS_MAX];
    struct error err;
    SCOPE_FREE char *text = NULL;
    const struct stream_section *section =
        stream_need(stream, SECTION_MACHINE, "", MACHINE_VERSION, &err);
    if (section && section_text(section, "config", &text, &err) >= 0) {
        json_t *json = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        if (json) {
            config_from_json(json, &config, disk, &err);
        }
        json_decref(json);
    }
}

static void read_rest(struct stream *stream, struct vm *vm)
{
    struct cpuid_policy policy;
    struct memory_source source;
    struct error err;
    cpu_model_get(stream, &policy, &err);
    if (memory_file_get(stream, vm->memory, &source, &err) >= 0) {
        memory_source_fini(&source);
    }
}

/* What was accepted once is accepted when it has been saved from the machine. */
static void save_again(struct vm *vm)
{
    struct stream_writer writer;
    struct stream stream;
    struct error err;
    struct state_image *image = calloc(1, sizeof(*image));
    stream_init(&writer);
    state_save(vm, &writer);
    assert(stream_finish(&writer, &err) >= 0);
    assert(stream_parse(&stream, writer.data, writer.size, &err) >= 0);
    if (state_check(vm, &stream, image, &err) < 0) {
        fprintf(stderr, "saved again, it is refused: %s\n", err.message);
        abort();
    }
    state_image_fini(image);
    free(image);
    stream_free(&stream);
    stream_fini(&writer);
}

/* A guest whose exceptions lead to nothing but exceptions retires no instruction: it
 * comes to no limit, and goes on until somebody wants it to stop. */
static struct vm *_Atomic running;
static volatile sig_atomic_t is_late;

static void stop(int number)
{
    struct vm *vm = running;
    is_late = 1;
    if (vm) {
        vm->engine_ops->kick(vm->vcpu[0]->engine, true);
    }
}

static void execute(struct vm *vm)
{
    struct vcpu *vcpu = vm->vcpu[0];
    struct itimerval limit = {{0, TIME_LIMIT_US}, {0, TIME_LIMIT_US}};
    vm->engine_ops->set_limit(vcpu->engine, vcpu->stats.retired + INSTRUCTIONS);
    signal(SIGALRM, stop);
    is_late = 0;
    running = vm;
    setitimer(ITIMER_REAL, &limit, NULL);
    unsigned turns = 0;
    while (!is_late && turns++ < 16 && vm->engine_ops->run(vcpu->engine) == RUN_KICKED) {
    }
    limit = (struct itimerval){{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &limit, NULL);
    running = NULL;
}

static void load(struct stream *stream)
{
    struct error err;
    struct vm *vm = make_vm();
    struct state_image *image = calloc(1, sizeof(*image));
    read_rest(stream, vm);
    if (state_check(vm, stream, image, &err) >= 0) {
        state_apply(vm, image);
        vm->is_restored = true;
        save_again(vm);
        execute(vm);
    }
    state_image_fini(image);
    free(image);
    vm_free(vm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stream stream;
    struct error err;
    struct input input = {data, size};
    if (!part_count) {
        prepare();
    }
    bool is_raw = input_u8(&input) % 8 == 0;
    size_t length = input.size;
    uint8_t *changed = is_raw ? NULL : change(&input, &length);
    if (stream_parse(&stream, is_raw ? input.data : changed, length, &err) >= 0) {
        read_fields(&stream);
        read_config(&stream);
        load(&stream);
        stream_free(&stream);
    }
    free(changed);
    return 0;
}
