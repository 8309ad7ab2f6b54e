#pragma once
/*
 * /tmp/perf-PID.map, in which perf looks for names of code that is in no file (its
 * Documentation/jit-interface.txt): a line for each block, "START SIZE NAME".
 */

#include "engine/translator/look.h"

struct perf_map;

struct perf_map *perf_map_open(struct error *err);
void perf_map_block(struct perf_map *map, const struct look *look,
                    const struct code_cache *cache, const struct block *block);
/* What was written names blocks that are no more. */
void perf_map_outdated(struct perf_map *map);
/* Outdated or incomplete, it is written anew from the cache. Accepts NULL. */
void perf_map_close(struct perf_map *map, const struct look *look,
                    const struct code_cache *cache);
