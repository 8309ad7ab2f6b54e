#include "engine/translator/target.h"

#include "engine/sampler.h"
#include "engine/translator/emit.h"
#include "engine/translator/run.h"

/* So often a JMP is asked. */
#define ASKED_MAX 12

/* False: there is no more to learn. No target, if one lies in another page, where it has
 * to be looked up, or there are many, which the host predicts better by one jump. */
static bool add_target(struct code_cache *cache, struct block *block, uint64_t offset)
{
    unsigned i = 0;
    while (i < block->target_count && block->target[i] != offset) {
        i++;
    }
    if (offset >= FRAME_SIZE || i == BLOCK_TARGETS_MAX ||
        code_crosses(cache, &block->place, (unsigned)offset)) {
        block->target_count = 0;
        return false;
    }
    if (i == block->target_count) {
        block->target[block->target_count++] = (uint16_t)offset;
    }
    return ++block->targets_asked < ASKED_MAX;
}

void target_learn(struct translator_cpu *translator, struct block *block, uint64_t page,
                  uint64_t linear)
{
    struct code_cache *cache = translator->cache;
    enum where before = where_enter(WHERE_TRANSLATION);
    pthread_mutex_lock(&cache->lock);
    if (!block->is_dead && !block->has_learnt &&
        !add_target(cache, block, linear - page)) {
        block->has_learnt = true;
        if (block->target_count) {
            bool is_full = false;
            code_retire(cache, block, BY_VARIANT);
            translate(cache, translator->cpu, &block->place, block, NULL, &is_full);
        } else {
            code_patch(cache, block->target_place,
                       cache->jump[code_jump_kind(block->place.mode)]);
        }
    }
    pthread_mutex_unlock(&cache->lock);
    where_enter(before);
}
