#pragma once
/* What `doppel stats` and --exit-stats tell of the translator; docs/translator.md says
 * what each number means. */

#include "engine/engine.h"
#include "engine/translator/run.h"

/* Of a vCPU. Any thread. */
void translator_stats_tell(const struct translator_cpu *translator, engine_stat_fn *each,
                           void *opaque);
/* Of the cache; takes its lock. */
void code_stats_tell(struct code_cache *cache, engine_stat_fn *each, void *opaque);
