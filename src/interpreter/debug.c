#include "interpreter/debug.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "interpreter/block.h"

static bool is_same(const struct debug_control *a, const struct debug_control *b)
{
    return a->count == b->count &&
           !memcmp(a->point, b->point, a->count * sizeof(a->point[0]));
}

int debug_set(struct cpu *cpu, const struct debug_control *control)
{
    static const struct debug_control none;
    control = control ? control : &none;
    if (!cpu->debug) {
        if (!control->count) {
            return 0;
        }
        cpu->debug = calloc(1, sizeof(*cpu->debug));
        if (!cpu->debug) {
            return -ENOMEM;
        }
    }
    struct cpu_debug *debug = cpu->debug;
    if (is_same(&debug->control, control)) {
        return 0;
    }
    debug->control = *control;
    debug->has_breakpoints = debug->has_watchpoints = false;
    for (unsigned i = 0; i < control->count; i++) {
        bool is_breakpoint = control->point[i].kind == DEBUG_EXECUTE;
        debug->has_breakpoints |= is_breakpoint;
        debug->has_watchpoints |= !is_breakpoint;
    }
    block_cache_empty(cpu);
    cpu_flush_all(cpu);
    cpu_update_mode(cpu);
    return 0;
}

gva_t debug_address(const struct cpu *cpu)
{
    return cpu->is_long64 ? cpu->rip : (uint32_t)(cpu->state.seg[X86_CS].base + cpu->rip);
}

void debug_resume(struct cpu *cpu)
{
    if (debug_has_stopped(cpu)) {
        cpu->debug->stop.reason = DEBUG_NONE;
        cpu->debug->skips_breakpoint = true;
        cpu->debug->skip_address = debug_address(cpu);
    }
}

void debug_skip(struct cpu *cpu)
{
    if (cpu->debug) {
        cpu->debug->skips_breakpoint = true;
        cpu->debug->skip_address = debug_address(cpu);
    }
}

bool debug_has_offset(const struct cpu *cpu, unsigned offset)
{
    const struct debug_control *control = &cpu->debug->control;
    for (unsigned i = 0; i < control->count; i++) {
        if (control->point[i].kind == DEBUG_EXECUTE &&
            control->point[i].address % FRAME_SIZE == offset) {
            return true;
        }
    }
    return false;
}

static void stop(struct cpu *cpu, enum debug_kind kind, gva_t address)
{
    if (cpu->debug->stop.reason != DEBUG_NONE) {
        return; /* the first one counts */
    }
    cpu->debug->stop = (struct debug_stop){DEBUG_POINT, kind, address};
    cpu_set_attention(cpu);
}

bool debug_breaks_at(struct cpu *cpu, gva_t address)
{
    struct cpu_debug *debug = cpu->debug;
    bool is_skipped = debug->skips_breakpoint && debug->skip_address == address;
    debug->skips_breakpoint = false;
    for (unsigned i = 0; i < debug->control.count && !is_skipped; i++) {
        const struct debug_point *point = &debug->control.point[i];
        if (point->kind == DEBUG_EXECUTE && point->address == address) {
            stop(cpu, DEBUG_EXECUTE, address);
            return true;
        }
    }
    return false;
}

static bool overlaps(const struct debug_point *point, gva_t gva, uint64_t size)
{
    /* Distances instead of ends: either range may reach the end of the address space. */
    return point->kind != DEBUG_EXECUTE &&
           (gva - point->address < point->size || point->address - gva < size);
}

bool debug_watches_page(const struct cpu *cpu, gva_t page)
{
    const struct debug_control *control = &cpu->debug->control;
    for (unsigned i = 0; i < control->count; i++) {
        if (overlaps(&control->point[i], page & -(gva_t)FRAME_SIZE, FRAME_SIZE)) {
            return true;
        }
    }
    return false;
}

void debug_note_access(struct cpu *cpu, gva_t gva, unsigned size, bool is_write)
{
    const struct debug_control *control = &cpu->debug->control;
    for (unsigned i = 0; i < control->count; i++) {
        const struct debug_point *point = &control->point[i];
        bool is_wanted = point->kind == DEBUG_ACCESS ||
                         point->kind == (is_write ? DEBUG_WRITE : DEBUG_READ);
        if (is_wanted && overlaps(point, gva, size)) {
            stop(cpu, point->kind, point->address);
            return;
        }
    }
}
