/* The engine's numbers for people. Rates of what translated code does by itself (links
 * followed, TLB hits) are not counted: counting would cost more than the thing. What
 * leaves translated code is, whole. */
#include "engine/translator/stats.h"

#include "base/counter.h"
#include "base/scope.h"

static const char *const leave_names[LEAVE_COUNT] = {
    [LEAVE_HEAD] = "attention_or_gate",  [LEAVE_LINK] = "exit_not_linked",
    [LEAVE_JUMP] = "jump_unknown",       [LEAVE_READ] = "read_missed",
    [LEAVE_WRITE] = "write_missed",      [LEAVE_INTERPRET] = "instruction_not_translated",
    [LEAVE_QUICK] = "quick_instruction", [LEAVE_PLAIN] = "group_watched",
    [LEAVE_WATCHED] = "store_watched",   [LEAVE_TARGET] = "jump_asked",
};

struct row {
    const char *name;
    uint64_t value;
};

static void tell_rows(const char *group, const struct row *rows, size_t count,
                      engine_stat_fn *each, void *opaque)
{
    for (size_t i = 0; i < count; i++) {
        const struct engine_stat stat = {group, rows[i].name, rows[i].value};
        each(opaque, &stat);
    }
}

void translator_stats_tell(const struct translator_cpu *translator, engine_stat_fn *each,
                           void *opaque)
{
    const struct translator_stats *stats = &translator->stats;
    struct row left[LEAVE_COUNT];
    for (unsigned i = 0; i < LEAVE_COUNT; i++) {
        left[i] = (struct row){leave_names[i], counter_get(&stats->left[i])};
    }
    tell_rows("left_translated_code", left, LEAVE_COUNT, each, opaque);
    const struct row dispatcher[] = {
        {"entries", counter_get(&stats->entered)},
        {"jumps_found", counter_get(&stats->jumps_found)},
        {"blocks_found", counter_get(&stats->blocks_found)},
        {"blocks_made", counter_get(&stats->blocks_made)},
        {"links_made", counter_get(&stats->links_made)},
        {"jumps_noted", counter_get(&stats->jumps_noted)},
        {"jump_tables_emptied", counter_get(&stats->jumps_emptied)},
        {"return_stacks_emptied", counter_get(&stats->returns_emptied)},
    };
    tell_rows("dispatcher", dispatcher, array_size(dispatcher), each, opaque);
    const struct row misses[] = {
        {"misses_filled", counter_get(&stats->misses_filled)},
        {"misses_to_interpreter", counter_get(&stats->misses_interpreted)},
    };
    tell_rows("tlb", misses, array_size(misses), each, opaque);
    const struct row interpreted[] = {
        {"instructions", counter_get(&stats->interpreted)},
        {"blocks_of_closed_gates", counter_get(&stats->interpreted_blocks)},
        {"stretches_of_other_modes", counter_get(&stats->interpreted_elsewhere)},
    };
    tell_rows("interpreted", interpreted, array_size(interpreted), each, opaque);
    for (unsigned i = 0; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        const char *name = ZydisMnemonicGetString((ZydisMnemonic)i);
        const struct row row = {name, counter_get(&stats->mnemonic[i])};
        if (row.value && name) {
            tell_rows("interpreted_instructions", &row, 1, each, opaque);
        }
    }
}

static uint64_t percent(uint64_t part, uint64_t whole)
{
    return whole ? part * 100 / whole : 0;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

void code_stats_tell(struct code_cache *cache, engine_stat_fn *each, void *opaque)
{
    pthread_mutex_lock(&cache->lock);
    const struct code_counters counters = cache->counters;
    uint64_t used[CODE_RESOURCES], share = 0;
    for (unsigned i = 0; i < CODE_RESOURCES; i++) {
        used[i] = code_usage(cache, i);
        share = larger(share, percent(used[i], code_limit(cache, i)));
    }
    pthread_mutex_unlock(&cache->lock);
    const struct row now[] = {
        {"blocks", used[CODE_BLOCKS]},
        {"dead_blocks", counters.dead_now},
        {"direct_exits", used[CODE_LINKS]},
        {"code_bytes", used[CODE_BYTES]},
        {"code_limit_bytes", cache->size},
        {"tables_bytes", used[CODE_TABLES]},
        {"used_percent", share},
    };
    tell_rows("cache", now, array_size(now), each, opaque);
    const struct row translated[] = {
        {"blocks", counters.blocks},         {"unrolled_loops", counters.loops},
        {"instructions", counters.insns},    {"guest_bytes", counters.guest_bytes},
        {"host_bytes", counters.host_bytes},
    };
    tell_rows("translated", translated, array_size(translated), each, opaque);
    const struct row invalidated[] = {
        {"by_store", counters.invalidated[BY_STORE]},
        {"by_device", counters.invalidated[BY_DEVICE]},
        {"by_overflow", counters.invalidated[BY_OVERFLOW]},
        {"by_variant", counters.invalidated[BY_VARIANT]},
    };
    const struct row revived[] = {{"blocks", counters.revived}};
    tell_rows("revived", revived, array_size(revived), each, opaque);
    tell_rows("invalidated_blocks", invalidated, array_size(invalidated), each, opaque);
    const struct row evictions[] = {
        {"count", counters.flushes},
        {"stopped_ns", counters.stopped_ns},
        {"longest_stop_ns", counters.longest_stop_ns},
    };
    tell_rows("evictions", evictions, array_size(evictions), each, opaque);
}
