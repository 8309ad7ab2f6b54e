#include "state/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <xxhash.h>

#include "base/scope.h"
#include "state/memory_file.h"
#include "state/part.h"

static int hash_state(struct vm *vm, uint64_t *hash, struct error *err)
{
    struct stream_writer writer;
    stream_init(&writer);
    state_save(vm, &writer);
    int result = stream_finish(&writer, err);
    if (result >= 0) {
        *hash = XXH3_64bits(writer.data, writer.size);
    }
    stream_fini(&writer);
    return result;
}

static int hash_memory(struct vm *vm, uint64_t *hash, struct error *err)
{
    XXH3_state_t *state = XXH3_createState();
    if (!state) {
        return fail(err, ENOMEM, "cannot read guest memory");
    }
    XXH3_64bits_reset(state);
    struct memory_source source;
    int result = memory_file_find(vm->memory, &source, err);
    for (uint32_t i = 0; result >= 0 && i < source.extent_count; i++) {
        const struct memory_extent *extent = &source.extent[i];
        XXH3_64bits_update(state, extent, sizeof(*extent));
        XXH3_64bits_update(state, memory_host(vm->memory, extent->frame),
                           (size_t)extent->count * FRAME_SIZE);
    }
    *hash = XXH3_64bits_digest(state);
    memory_source_fini(&source);
    XXH3_freeState(state);
    return result;
}

int digest_make(struct vm *vm, struct digest *digest, struct error *err)
{
    int result = hash_state(vm, &digest->state, err);
    return result < 0 ? result : hash_memory(vm, &digest->memory, err);
}
