#include "state/part.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state/processor.h"

/* --- Time, and what else belongs to no device --- */

#define VM_VERSION 1

static void vm_save(struct vm *vm, struct stream_writer *writer)
{
    stream_begin(writer, "vm", "", VM_VERSION, STREAM_REQUIRED);
    stream_put_u64(writer, "clock_ns", clock_now(&vm->clock));
    stream_put_u64(writer, "arbitration", vm->arbitration);
    stream_end(writer);
}

static int vm_check(const struct vm *vm, struct stream *stream, struct state_image *image,
                    struct error *err)
{
    const struct stream_section *section = stream_need(stream, "vm", "", VM_VERSION, err);
    if (!section) {
        return -err->code;
    }
    int result = section_u64(section, "clock_ns", &image->clock_ns, err);
    if (result >= 0) {
        result = section_u64(section, "arbitration", &image->arbitration, err);
    }
    if (result >= 0 && image->clock_ns > INT64_MAX) {
        return fail_plain(err, EINVAL, "has a clock beyond 292 years");
    }
    return result;
}

static void vm_apply(struct vm *vm, const struct state_image *image)
{
    clock_set(&vm->clock, image->clock_ns);
    vm->arbitration = (unsigned)image->arbitration;
}

static const struct state_part vm_part = {"vm", vm_save, vm_check, vm_apply};

/* --- Devices: by their own tables --- */

#define DEVICE_VERSION 1

static void device_put(struct device *device, struct stream_writer *writer)
{
    SCOPE_FREE uint8_t *flat = malloc(device_state_size(device->type) + 1);
    if (!flat) {
        writer->is_short_of_memory = true;
        return;
    }
    device_save(device, flat);
    stream_begin(writer, device->type->name, device->name, DEVICE_VERSION,
                 STREAM_REQUIRED);
    stream_put_flat(writer, device->type->fields, flat);
    stream_end(writer);
}

static void devices_save(struct vm *vm, struct stream_writer *writer)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        device_put(vm->device[i], writer);
    }
}

static int devices_check(const struct vm *vm, struct stream *stream,
                         struct state_image *image, struct error *err)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        const struct device *device = vm->device[i];
        const struct stream_section *section =
            stream_need(stream, device->type->name, device->name, DEVICE_VERSION, err);
        if (!section) {
            return -err->code;
        }
        image->device[i] = malloc(device_state_size(device->type) + 1);
        if (!image->device[i]) {
            return fail(err, ENOMEM, "cannot be loaded");
        }
        int result = section_flat(section, device->type->fields, image->device[i], err);
        if (result < 0) {
            return result;
        }
    }
    return 0;
}

static void devices_apply(struct vm *vm, const struct state_image *image)
{
    for (unsigned i = 0; i < vm->device_count; i++) {
        struct device *device = vm->device[i];
        int result =
            device_load(device, image->device[i], device_state_size(device->type), NULL);
        assert(result == 0); /* it fails for a wrong size alone */
    }
}

static const struct state_part device_part = {"devices", devices_save, devices_check,
                                              devices_apply};

/* --- Processors --- */

#define VCPU_VERSION     3
#define LAPIC_VERSION    1
#define PARAVIRT_VERSION 1

static void put_fields(struct stream_writer *writer, const char *kind, unsigned index,
                       uint32_t version, const struct device_field *fields,
                       const void *object)
{
    char instance[12];
    snprintf(instance, sizeof(instance), "%u", index);
    stream_begin(writer, kind, instance, version, STREAM_REQUIRED);
    stream_put_fields(writer, fields, object);
    stream_end(writer);
}

static int get_fields(struct stream *stream, const char *kind, unsigned index,
                      uint32_t newest, const struct device_field *fields, void *object,
                      struct error *err)
{
    char instance[12];
    snprintf(instance, sizeof(instance), "%u", index);
    const struct stream_section *section =
        stream_need(stream, kind, instance, newest, err);
    return section ? section_fields(section, fields, object, err) : -err->code;
}

static void vcpus_save(struct vm *vm, struct stream_writer *writer)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct x86_state state;
        struct lapic lapic;
        vcpu_save(vm->vcpu[i], &state, &lapic);
        put_fields(writer, "vcpu", i, VCPU_VERSION, processor_fields, &state);
        put_fields(writer, "lapic", i, LAPIC_VERSION, lapic_fields, &lapic);
        put_fields(writer, "paravirt", i, PARAVIRT_VERSION, paravirt_fields,
                   &vm->vcpu[i]->paravirt);
    }
}

static int vcpu_check(const struct vm *vm, struct stream *stream,
                      struct state_image *image, unsigned i, struct error *err)
{
    struct x86_state *state = &image->cpu[i].state;
    struct lapic *lapic = &image->cpu[i].lapic;
    int result =
        get_fields(stream, "vcpu", i, VCPU_VERSION, processor_fields, state, err);
    if (result >= 0) {
        result = get_fields(stream, "lapic", i, LAPIC_VERSION, lapic_fields, lapic, err);
    }
    if (result >= 0) {
        result = get_fields(stream, "paravirt", i, PARAVIRT_VERSION, paravirt_fields,
                            &image->cpu[i].paravirt, err);
    }
    if (result < 0) {
        return result;
    }
    const char *bad = processor_bad_part(state, &vm->config.cpuid);
    if (bad) {
        return fail_plain(err, EINVAL,
                          "section vcpu '%u' is no state of this processor: %s", i, bad);
    }
    bad = lapic_bad_part(lapic, i, state, &vm->config.cpuid);
    if (bad) {
        return fail_plain(err, EINVAL, "section lapic '%u' is no state of an APIC: %s", i,
                          bad);
    }
    return 0;
}

static int vcpus_check(const struct vm *vm, struct stream *stream,
                       struct state_image *image, struct error *err)
{
    int result = 0;
    for (unsigned i = 0; result >= 0 && i < vm->cpu_count; i++) {
        result = vcpu_check(vm, stream, image, i, err);
    }
    return result;
}

static void vcpus_apply(struct vm *vm, const struct state_image *image)
{
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        const struct paravirt *saved = &image->cpu[i].paravirt;
        struct paravirt *paravirt = &vm->vcpu[i]->paravirt;
        for (const struct device_field *field = paravirt_fields; field->name; field++) {
            memcpy((uint8_t *)paravirt + field->offset,
                   (const uint8_t *)saved + field->offset,
                   (size_t)field->size * field->count);
        }
        vcpu_load(vm->vcpu[i], &image->cpu[i].state, &image->cpu[i].lapic);
    }
}

static const struct state_part vcpu_part = {"vcpus", vcpus_save, vcpus_check,
                                            vcpus_apply};

/* Deadlines are derived from the clock, so it comes first. A device that drives a line as
 * it is loaded may reach a local APIC, whose saved state has seen that already: APICs
 * come last. */
const struct state_part *const state_parts[] = {
    &vm_part,
    &device_part,
    &vcpu_part,
    NULL,
};

void state_image_fini(struct state_image *image)
{
    for (unsigned i = 0; i < array_size(image->device); i++) {
        free(image->device[i]);
        image->device[i] = NULL;
    }
}

void state_save(struct vm *vm, struct stream_writer *writer)
{
    for (unsigned i = 0; state_parts[i]; i++) {
        state_parts[i]->save(vm, writer);
    }
}

int state_check(const struct vm *vm, struct stream *stream, struct state_image *image,
                struct error *err)
{
    int result = 0;
    for (unsigned i = 0; result >= 0 && state_parts[i]; i++) {
        result = state_parts[i]->check(vm, stream, image, err);
    }
    return result;
}

void state_apply(struct vm *vm, const struct state_image *image)
{
    for (unsigned i = 0; state_parts[i]; i++) {
        state_parts[i]->apply(vm, image);
    }
}
