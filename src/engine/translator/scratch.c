/*
 * What host r8, r9 and r10 hold between instructions: guest registers that lie in the
 * frame, perhaps newer than there, and the host address of a group's bytes.
 *
 * Whoever is in C sees the frame alone, and what comes back from there finds nothing in
 * scratch registers. So what is newer is stored before an instruction where translated
 * code may be left, and nothing is held where it may come back to: such an instruction
 * begins anew, or the next one is come to when it has been interpreted. Only behind the
 * first access of a group nobody comes back, for its members count on its check.
 */
#include <assert.h>

#include "base/scope.h"
#include "engine/translator/emit.h"

static struct held *held_in(struct emit *emit, unsigned host)
{
    return &emit->held[host - HOST_R8];
}

static void store(struct emit *emit, unsigned host)
{
    struct held *held = held_in(emit, host);
    if (held->is_newer) {
        host_fs(&emit->code, true, HOST_MOV_STORE, host, frame_gpr(held->what));
        held->is_newer = false;
    }
}

unsigned scratch_find_held(const struct emit *emit, unsigned what)
{
    for (unsigned i = 0; i < array_size(emit->held); i++) {
        if (emit->held[i].what == what) {
            return HOST_R8 + i;
        }
    }
    return HOST_NONE;
}

void scratch_overwrite_held(struct emit *emit, unsigned host)
{
    if (host >= HOST_R8 && host <= HOST_R10) {
        store(emit, host);
        held_in(emit, host)->what = HELD_NOTHING;
    }
}

void scratch_release(struct emit *emit, unsigned what)
{
    unsigned host = scratch_find(emit, what);
    if (host != HOST_NONE) {
        scratch_overwrite(emit, host);
    }
}

void scratch_forget(struct emit *emit, unsigned what)
{
    unsigned host = scratch_find(emit, what);
    if (host != HOST_NONE) {
        *held_in(emit, host) = (struct held){.what = HELD_NOTHING};
    }
}

void scratch_save(struct emit *emit)
{
    if (!emit->is_held) {
        return;
    }
    for (unsigned host = HOST_R8; host <= HOST_R10; host++) {
        store(emit, host);
    }
}

void scratch_clear(struct emit *emit)
{
    emit->is_held = false;
    for (unsigned i = 0; i < array_size(emit->held); i++) {
        assert(!emit->held[i].is_newer);
        emit->held[i].what = HELD_NOTHING;
    }
}

void scratch_hold(struct emit *emit, unsigned host, unsigned what, bool is_newer)
{
    struct held *held = held_in(emit, host);
    assert(held->what == what || !held->is_newer);
    *held =
        (struct held){(uint8_t)what, is_newer || (held->what == what && held->is_newer),
                      (uint8_t)emit->ordinal};
    emit->is_held = true;
    if (!emit->holds) {
        store(emit, host);
        held->what = HELD_NOTHING;
    }
}

unsigned scratch_choose(const struct emit *emit, unsigned free)
{
    unsigned best = HOST_NONE;
    for (unsigned host = HOST_R10; host >= HOST_R8; host--) {
        const struct held *held = &emit->held[host - HOST_R8];
        if (!(free & 1u << host)) {
            continue;
        }
        if (held->what == HELD_NOTHING) {
            return host;
        }
        if (best == HOST_NONE || held->used < emit->held[best - HOST_R8].used) {
            best = host;
        }
    }
    return best;
}

/* ---- instructions ----------------------------------------------------------------- */

/* Does its function know of what is held? */
static bool knows(const struct guest_insn *insn)
{
    return insn->knows_held && insn->emit && !insn->soft_size;
}

/* Does somebody come back to what is behind it, as it may be left? */
static bool is_way_in(const struct guest_insn *insn)
{
    return insn->is_way_in || insn->access.kind != ACCESS_FIRST || insn->access.look_size;
}

void scratch_begin(struct emit *emit, const struct guest_insn *insn)
{
    bool leaves = group_may_leave(insn) || insn->access.look_size;
    /* Where a branch leads elsewhere it does so for good. */
    emit->holds = knows(insn) && (!leaves || insn->is_branch || !is_way_in(insn));
    if (!emit->is_held) {
        return;
    }
    if (leaves || !emit->holds) {
        scratch_save(emit);
    }
    if (!emit->holds || (leaves && !insn->is_branch)) {
        scratch_clear(emit);
    }
}
