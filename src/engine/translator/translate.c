/* From guest code to a block: which instructions, and their code. */
#include <string.h>

#include "base/scope.h"
#include "engine/translator/decode.h"
#include "engine/translator/soften.h"
#include "engine/translator/target.h"
#include "engine/translator/unroll.h"

#define WATCH_STEP 64u
#define JCC_MAX    4 /* conditional branches that a block goes on behind */

struct translation {
    struct guest_insn insn[LOOP_INSN_MAX];
    struct peeked peeked[BLOCK_INSN_MAX];
    struct found found[BLOCK_INSN_MAX];
    unsigned count;
    unsigned end;       /* offset behind the last instruction */
    unsigned loop_last; /* MODE_LOOP: offset of the instruction that closes it */
    struct emit emit;
};

/* Too large for a vCPU thread's stack to be polite; one at a time, under the lock. */
static struct translation scratch;

/* ---- instructions ----------------------------------------------------------------- */

/* Marks the lines to be read; false: the guest stored to them meanwhile. */
static bool watch(struct translation *translation, unsigned *watched, unsigned start,
                  unsigned end)
{
    struct emit *emit = &translation->emit;
    struct block_source *source = &emit->block->source;
    while (*watched < FRAME_SIZE && *watched < end) {
        uint32_t now =
            memory_code_watch(emit->cache->memory, source->frame, *watched, WATCH_STEP);
        if (*watched > (start & -WATCH_STEP) && now != source->version) {
            return false;
        }
        source->version = now;
        *watched += WATCH_STEP;
    }
    return true;
}

/* Does the block go on behind an instruction that ends others, where a CALL returns to?
 * A CALL to there asks for an address, and is not returned to. */
static bool goes_on(const struct emit *emit, const struct guest_insn *insn,
                    const struct found *found, unsigned *calls)
{
    static const uint8_t call_next[] = {0xe8, 0, 0, 0, 0};
    return found->is_call && !emit->cache->counts && ++*calls <= BLOCK_CALLS_MAX &&
           memcmp(insn->bytes, call_next, sizeof(call_next)) != 0;
}

/* So many instructions are read before the first one's kind is looked for. */
#define READ_MAX 4u

/* Reads those that seem to come at a place, as far as they lie in lines that are watched:
 * so many there are then. */
static unsigned read_some(struct translation *translation, unsigned count, unsigned place,
                          unsigned watched)
{
    unsigned end = count + READ_MAX < BLOCK_INSN_MAX ? count + READ_MAX : BLOCK_INSN_MAX;
    unsigned length;
    do {
        struct guest_insn *insn = &translation->insn[count];
        insn->offset = (uint16_t)place;
        length = decode_read(&translation->emit, insn, &translation->peeked[count]);
        place += length;
        count++;
    } while (length && count < end && place + INSN_BYTES_MAX <= watched);
    return count;
}

static void decode_block(struct translation *translation, unsigned start)
{
    struct emit *emit = &translation->emit;
    struct block_source *second = block_source(emit->block, 1);
    unsigned watched = start & -WATCH_STEP, place = start, branches = 0;
    unsigned count = 0, calls = 0, read = 0;
    decode_begin(emit);
    if (second) {
        second->version =
            memory_code_watch(emit->cache->memory, second->frame, 0, INSN_BYTES_MAX);
    }
    while (count < BLOCK_INSN_MAX && place < FRAME_SIZE) {
        struct guest_insn *insn = &translation->insn[count];
        struct found *found = &translation->found[count];
        if (count == read) {
            if (!watch(translation, &watched, start, place + INSN_BYTES_MAX)) {
                break;
            }
            read = read_some(translation, count, place, watched);
        }
        if (!decode_find(emit, insn, &translation->peeked[count], found)) {
            break;
        }
        count++;
        place += found->length;
        if (count < read && translation->insn[count].offset != place) {
            read = count; /* the guess was wrong */
        }
        branches += found->is_jcc;
        if (emit->mode & MODE_LOOP && insn->offset == translation->loop_last) {
            break;
        }
        if ((found->ends_block && !goes_on(emit, insn, found, &calls)) ||
            (found->is_jcc && branches == JCC_MAX)) {
            break;
        }
    }
    for (unsigned i = 0; i < count; i++) {
        decode_take(emit, &translation->insn[i], &translation->found[i]);
        translation->insn[i].soft_at = translation->insn[i].soft_size = 0;
    }
    translation->count = count;
    translation->end = place;
    emit->watched_end = watched;
}

/* The rounds of a loop; false: its code has changed, and is no such loop any more. */
static bool repeat(struct translation *translation)
{
    struct emit *emit = &translation->emit;
    struct guest_insn *insn = translation->insn;
    unsigned round = translation->count;
    bool is_loop = insn[round - 1].offset == translation->loop_last &&
                   unroll_find_end(emit, insn, round) == round - 1;
    if (is_loop) {
        emit->round = (uint8_t)round;
        translation->count = round * unroll_copy(insn, round);
    }
    return is_loop;
}

/* ---- code ------------------------------------------------------------------------- */

/* One instruction less; flags stay. */
static void emit_count(struct emit *emit)
{
    scratch_overwrite(emit, HOST_R8);
    host_fs(&emit->code, true, HOST_MOV_LOAD, HOST_R8, FRAME(budget));
    host_lea(&emit->code, HOST_R8, HOST_R8, -1);
    host_fs(&emit->code, true, HOST_MOV_STORE, HOST_R8, FRAME(budget));
}

static void find_groups(struct translation *translation)
{
    struct emit *emit = &translation->emit;
    bool has_bases = !emit->is_64 && !(emit->mode & MODE_FLAT);
    if (!has_bases && !(emit->mode & MODE_PLAIN)) {
        group_accesses(emit, translation->insn, translation->count);
    }
}

static bool has_members(const struct translation *translation)
{
    for (unsigned i = 0; i < translation->count; i++) {
        if (translation->insn[i].access.kind == ACCESS_MEMBER) {
            return true;
        }
    }
    return false;
}

/* The flags that are live at the beginning of a loop if none can be computed anew, as in
 * its first block. */
static uint32_t find_live_without(const struct translation *translation)
{
    uint32_t live = X86_FLAGS_ARITH;
    for (unsigned i = translation->emit.round; i-- > 0;) {
        const struct guest_insn *insn = &translation->insn[i];
        live = (live & ~insn->flags_kill) | insn->flags_read;
        if (insn->shows != SHOWS_NOTHING || insn->stores || insn->emit == emit_jcc) {
            live = X86_FLAGS_ARITH;
        }
    }
    return live;
}

/* Groups want to know which flags are live. Members of one cannot leave, and so show
 * none, which may make fewer live. */
static void find_flags_and_groups(struct translation *translation)
{
    struct emit *emit = &translation->emit;
    unsigned count = translation->count;
    uint32_t live = X86_FLAGS_ARITH;
    emit->ahead = 0;
    emit->ahead_at = emit->ahead_size = 0;
    if (!emit->round) {
        live = flags_find_end(emit, translation->insn, count, translation->end);
    }
    for (unsigned i = 0; i < count; i++) {
        translation->insn[i].access = (struct access){.kind = ACCESS_ALONE, .group = -1};
        translation->insn[i].keeps_base = translation->insn[i].needs_base = false;
    }
    emit->early_count = 0;
    emit->loop_end = -1;
    recover_find(emit, translation->insn, count);
    flags_find_live(translation->insn, count, live);
    uint32_t live_alone = translation->insn[0].flags_live_before;
    find_groups(translation);
    if (has_members(translation)) {
        flags_find_live(translation->insn, count, live);
    }
    if (emit->round) {
        bool is_dead = !translation->insn[0].flags_live_before &&
                       (emit->round_recovery ||
                        (!emit->cache->counts && !find_live_without(translation)));
        emit->round_spills = !is_dead;
        emit->loop_end = (int8_t)(count - 1);
        return;
    }
    if (emit->early_count) { /* who finds a check failed goes on with each alone */
        translation->insn[0].flags_live_before |= live_alone;
    }
}

static unsigned find_host_flags(const struct emit *emit, const struct guest_insn *insn)
{
    return insn->host_flags | (insn->needs_base ? INSN_NEEDS_BASE : 0) |
           (insn->access.kind == ACCESS_ALONE ? insn->host_flags_alone : 0u) |
           (emit->flags_in_memory ? 0 : INSN_FLAGS_START | INSN_FLAGS_FAULT);
}

static bool emit_insn(struct translation *translation, struct guest_insn *insn)
{
    struct emit *emit = &translation->emit;
    struct block_insn *place = &emit->block->insn[emit->ordinal];
    if (emit->stack_moves && !emit_moves_later(insn)) {
        emit_settle_stack(emit);
    }
    scratch_begin(emit, insn);
    *place = (struct block_insn){
        .offset = insn->offset,
        .length = insn->decoded.length,
        .mnemonic = insn->decoded.mnemonic,
        .host = (uint16_t)(emit->code.at - emit->cache->write - block_start(emit->block)),
        .host_flags = (uint8_t)find_host_flags(emit, insn),
        .recovery = insn->flags_live_before ? 0 : insn->recovery,
        .soft_at = insn->soft_at,
        .soft_size = insn->soft_size,
    };
    emit->block->is_soft |= insn->soft_size != 0;
    if (emit->round && emit->ordinal == 0 && !emit->round_spills) {
        /* Who leaves by the look comes here, too. */
        place->recovery = emit->round_recovery;
    }
    emit->settles = emit->ordinal == translation->count - 1 ? emit->ahead : 0;
    if (insn->access.is_early && !emit->round) {
        emit->block->early |= 1ull << emit->ordinal;
        place->group_size = insn->access.group_size;
        place->group_offset = insn->access.offset;
    }
    emit->keeps_base = insn->keeps_base;
    emit->ended = false;
    if (emit->cache->counts) {
        emit_count(emit);
    }
    if (insn->emit && !insn->emit(emit, insn)) {
        if (insn->soft_size) {
            insn->soft_size = 0; /* no register was left for it */
        } else {
            insn->emit = NULL;
        }
        return false;
    }
    if (!insn->emit) {
        emit_leave(emit, LEAVE_INTERPRET);
        emit->flags_in_memory = false; /* whoever comes back has put them there */
        emit->ended |= insn->ends_block;
    } else if (insn->emit == emit_call && !emit_is_last(emit)) {
        emit_gate_again(emit, insn->offset + insn->decoded.length);
    }
    return true;
}

/* False: an instruction turned out to be the interpreter's, which changes what flags are
 * live. */
static bool emit_block(struct translation *translation)
{
    struct emit *emit = &translation->emit;
    struct block *block = emit->block;
    if (emit->round) {
        emit_round_head(emit, translation->insn);
    } else {
        emit_head(emit, translation->insn);
        if (emit->cache->counts) {
            emit_spill_flags(emit, X86_FLAGS_ARITH);
            emit_limit(emit);
        }
    }
    for (unsigned i = 0; i < translation->count; i++) {
        emit->ordinal = i;
        if (!emit_insn(translation, &translation->insn[i])) {
            flags_find(emit, &translation->insn[i]);
            return false;
        }
    }
    emit->ordinal = translation->count - 1;
    emit->keeps_base = false;
    emit_settle_stack(emit);
    scratch_save(emit);
    scratch_clear(emit);
    if (!emit->ended) {
        emit_goto(emit, -1, translation->end, X86_FLAGS_ARITH);
    }
    block->cold = (uint32_t)(emit->code.at - emit->cache->write);
    emit_colds(emit);
    block->end = (uint32_t)(emit->code.at - emit->cache->write);
    return true;
}

static bool is_current(const struct emit *emit)
{
    const struct block_source *source;
    for (unsigned i = 0; (source = block_source(emit->block, i)); i++) {
        if (FRAME_VERSION(emit->cache->memory->frame[source->frame]) != source->version) {
            return false;
        }
    }
    return true;
}

/* Behind the block's instructions: what it was made of (change.c). */
static void keep_bytes(struct translation *translation)
{
    const struct emit *emit = &translation->emit;
    struct block *block = emit->block;
    struct block_source *source = &block->source, *second = block_source(block, 1);
    uint8_t *at = (uint8_t *)&block->insn[block->count];
    unsigned last = translation->insn[translation->count - 1].decoded.length;
    unsigned end = translation->end + (last ? 0 : INSN_BYTES_MAX);
    source->start = block->place.offset;
    source->end = (uint16_t)(end > FRAME_SIZE ? FRAME_SIZE : end);
    if (second) {
        second->end = INSN_BYTES_MAX;
    }
    source->ahead = emit->ahead_at;
    source->ahead_end = emit->ahead_at + emit->ahead_size;
    /* Which bytes make no instruction is not told, and what crosses a page's end is two
     * frames', and rare. */
    if (!last || second) {
        return;
    }
    block->has_kept = true;
    unsigned count = emit->round ? emit->round : translation->count;
    for (unsigned i = 0; i < count; i++) {
        const struct guest_insn *insn = &translation->insn[i];
        memcpy(at, insn->bytes, 16); /* too many are fast, and overwritten */
        at += insn->decoded.length;
    }
    memcpy(at, emit->ahead_bytes, emit->ahead_size);
}

static size_t size_of(const struct block *block)
{
    const struct block_source *source = &block->source;
    size_t size = sizeof(*block) + block->count * sizeof(block->insn[0]);
    if (block->has_kept) {
        size += source->end - source->start + source->ahead_end - source->ahead;
    }
    return (size + 15) & ~(size_t)15;
}

static void find_soft(struct translation *translation)
{
    struct block *block = translation->emit.block;
    const struct block *before = code_before(translation->emit.cache, &block->place);
    if (before) {
        block->changes = before->changes + (before->changes < UINT8_MAX);
    }
    soften_find(translation->insn, translation->count, before);
}

/* What most blocks write comes to the host's processor while their code is looked for. */
static void prefetch(const struct code_cache *cache)
{
    for (unsigned i = 0; i < 512; i += 64) {
        __builtin_prefetch(cache->write + cache->used + i, 1);
        __builtin_prefetch(cache->metadata + cache->metadata_used + i, 1);
    }
}

static struct block_more *make_more(struct code_cache *cache,
                                    const struct code_place *place,
                                    const struct splits *splits)
{
    if (!splits && place->next == FRAME_NONE) {
        return NULL;
    }
    struct block_more *more = code_metadata(cache, sizeof(*more));
    memset(more, 0, sizeof(*more));
    more->source.frame = place->next;
    if (splits) {
        more->splits = *splits;
    }
    return more;
}

struct block *translate(struct code_cache *cache, struct cpu *cpu,
                        const struct code_place *place, const struct block *former,
                        const struct splits *splits, bool *is_full)
{
    struct translation *translation = &scratch;
    struct emit *emit = &translation->emit;
    if (!code_make_room(cache)) {
        *is_full = true;
        return NULL;
    }
    prefetch(cache);
    size_t metadata_mark = cache->metadata_used;
    if (former && former->more && !splits) {
        splits = &former->more->splits;
    }
    struct block_more *more = make_more(cache, place, splits);
    struct block *block = code_metadata(cache, sizeof(*block));
    memset(block, 0, sizeof(*block));
    block->place = *place;
    block->source.frame = place->frame;
    block->more = more;
    block->number = cache->block_count;
    if (former) {
        memcpy(block->target, former->target, sizeof(block->target));
        block->target_count = former->has_learnt ? former->target_count : 0;
    }
    block->has_learnt = (former && former->has_learnt) || !target_is_asked(cache, place);
    emit->cache = cache;
    emit->cpu = cpu;
    emit->block = block;
    emit->mode = place->mode;
    emit->is_64 = !(place->mode & MODE_32);
    emit->is_fixed = code_is_fixed(place->mode);
    emit->width = emit->is_64 ? 8 : 4;
    emit->page = place->page;
    uint32_t link_mark = cache->link_count;
    decode_block(translation, place->offset);
    if (translation->count == 0) {
        cache->metadata_used = metadata_mark;
        return NULL;
    }
    emit->round = emit->round_recovery = 0;
    find_soft(translation);
    if (place->mode & MODE_LOOP && !repeat(translation)) {
        cache->metadata_used = metadata_mark;
        return NULL;
    }
    block->count = (uint8_t)translation->count;
    block->round = emit->round;
    do {
        block->back = (uint8_t)(emit->round ? translation->count - 1
                                            : unroll_find_end(emit, translation->insn,
                                                              translation->count));
        find_flags_and_groups(translation); /* anew, if one was the interpreter's */
        emit->code.at = cache->write + cache->used;
        emit->cold_count = emit->ordinal = 0;
        emit->stack_moves = 0;
        memset(emit->held, 0, sizeof(emit->held));
        emit->is_held = false;
        emit->ended = emit->flags_in_memory = emit->keeps_base = false;
        emit->has_branched = false;
        emit->round_failed = NULL;
        cache->link_count = link_mark;
    } while (!emit_block(translation));
    keep_bytes(translation);
    cache->metadata_used =
        (uint32_t)((uint8_t *)block - cache->metadata + size_of(block));
    size_t recovery_size = emit->recovery_count * sizeof(emit->recovery[0]);
    block->recovery =
        memcpy(code_metadata(cache, recovery_size), emit->recovery, recovery_size);
    if (!is_current(emit)) {
        cache->metadata_used = metadata_mark;
        cache->link_count = link_mark;
        return NULL;
    }
    cache->used = block->end;
    cache->block[cache->block_count++] = block;
    code_publish(cache, block);
    return block;
}

struct block *translate_loop(struct code_cache *cache, struct cpu *cpu,
                             const struct block *block)
{
    bool is_full = false;
    struct code_place place = block->place;
    place.mode |= MODE_LOOP;
    scratch.loop_last = block->insn[block->back].offset;
    struct block *loop = code_find(cache, &place);
    if (!loop) {
        loop = code_revive(cache, &place);
    }
    if (!loop) {
        loop = translate(cache, cpu, &place, NULL, NULL, &is_full);
    }
    return loop && loop->insn[loop->back].offset == scratch.loop_last ? loop : NULL;
}
