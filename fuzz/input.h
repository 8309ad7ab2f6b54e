#pragma once
/* A fuzz target's input as a cursor: what is not there any more reads as 0. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct input {
    const uint8_t *data;
    size_t size;
};

static inline void input_bytes(struct input *input, void *to, size_t size)
{
    size_t there = input->size < size ? input->size : size;

    memset(to, 0, size);
    if (there) {
        memcpy(to, input->data, there);
    }
    input->data += there;
    input->size -= there;
}

static inline uint8_t input_u8(struct input *input)
{
    uint8_t value;

    input_bytes(input, &value, sizeof(value));
    return value;
}

static inline uint64_t input_u64(struct input *input)
{
    uint64_t value;

    input_bytes(input, &value, sizeof(value));
    return value;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
