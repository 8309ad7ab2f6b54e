#pragma once
/*
 * Where the indirect JMPs of user code go: those that stay in their page, as
 * interpreters' and switches' do, compare their target with the few that they have had,
 * and go on by links. Until these are known a JMP leaves translated code each time, which
 * is not often.
 */
#include "engine/translator/cache.h"

struct translator_cpu;

/* Does a block at a place ask where its indirect JMP goes? */
static inline bool target_is_asked(const struct code_cache *cache,
                                   const struct code_place *place)
{
    return place->mode & MODE_USER && !(place->mode & MODE_PLAIN) && !cache->counts;
}

/* The block's indirect JMP leads to a linear address; the block's page has another. */
void target_learn(struct translator_cpu *translator, struct block *block, uint64_t page,
                  uint64_t linear);
