/* What all devices share: their lock, and saving and loading by the table of fields. */

#include "device/device.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

void device_init(struct device *device, const struct device_type *type, const char *name)
{
    device->type = type;
    device->name = name;
    int rc = pthread_mutex_init(&device->lock, NULL);
    assert(rc == 0);
}

void device_fini(struct device *device)
{
    pthread_mutex_destroy(&device->lock);
}

void device_reset(struct device *device)
{
    pthread_mutex_lock(&device->lock);
    device->type->reset(device);
    pthread_mutex_unlock(&device->lock);
}

static void drain_locked(struct device *device)
{
    if (device->type->drain) {
        device->type->drain(device);
    }
}

void device_drain(struct device *device)
{
    pthread_mutex_lock(&device->lock);
    drain_locked(device);
    pthread_mutex_unlock(&device->lock);
}

size_t device_state_size(const struct device_type *type)
{
    size_t size = 0;
    for (const struct device_field *field = type->fields; field->name; field++) {
        size += (size_t)field->size * field->count;
    }
    return size;
}

static uint64_t element_read(const void *element, unsigned size)
{
    switch (size) {
    case 1:
        return *(const uint8_t *)element;
    case 2:
        return *(const uint16_t *)element;
    case 4:
        return *(const uint32_t *)element;
    default:
        assert(size == 8);
        return *(const uint64_t *)element;
    }
}

static void element_write(void *element, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        *(uint8_t *)element = (uint8_t)value;
        break;
    case 2:
        *(uint16_t *)element = (uint16_t)value;
        break;
    case 4:
        *(uint32_t *)element = (uint32_t)value;
        break;
    default:
        assert(size == 8);
        *(uint64_t *)element = value;
        break;
    }
}

void device_save(struct device *device, uint8_t *buffer)
{
    pthread_mutex_lock(&device->lock);
    drain_locked(device);
    for (const struct device_field *field = device->type->fields; field->name; field++) {
        const uint8_t *element = (const uint8_t *)device + field->offset;
        for (uint32_t i = 0; i < field->count; i++, element += field->size) {
            uint64_t value = element_read(element, field->size);
            for (unsigned byte = 0; byte < field->size; byte++) {
                *buffer++ = (uint8_t)(value >> (8 * byte));
            }
        }
    }
    pthread_mutex_unlock(&device->lock);
}

int device_load(struct device *device, const uint8_t *buffer, size_t size,
                struct error *err)
{
    size_t expected = device_state_size(device->type);
    if (size != expected) {
        return fail_plain(err, EINVAL, "state of device %s has %zu bytes instead of %zu",
                          device->name, size, expected);
    }
    pthread_mutex_lock(&device->lock);
    drain_locked(device);
    for (const struct device_field *field = device->type->fields; field->name; field++) {
        uint8_t *element = (uint8_t *)device + field->offset;
        for (uint32_t i = 0; i < field->count; i++, element += field->size) {
            uint64_t value = 0;
            for (unsigned byte = 0; byte < field->size; byte++) {
                value |= (uint64_t)*buffer++ << (8 * byte);
            }
            element_write(element, field->size, value);
        }
    }
    if (device->type->loaded) {
        device->type->loaded(device);
    }
    pthread_mutex_unlock(&device->lock);
    return 0;
}
