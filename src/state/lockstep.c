#include "state/lockstep.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <xxhash.h>

#include "dispatcher/exit_trace.h"
#include "dispatcher/steps.h"
#include "dispatcher/vcpu.h"
#include "state/instruction_at.h"

/* Parts that a stride with a difference in it is divided into. */
#define STRIDES    64

#define LINES_KEPT 8

struct side {
    struct vm *vm;
    enum vm_status status;
    uint64_t exits, exits_hash; /* so far; of their lines */
    char line[LINES_KEPT][EXIT_LINE_SIZE];
};

struct lockstep {
    const struct lockstep_plan *plan;
    struct side side[2];
    struct x86_state before; /* where both were the same last */
    char instruction[INSTRUCTION_TEXT];
    uint64_t at;
    char difference[DIFFERENCE_TEXT];
    char seen[DIFFERENCE_TEXT]; /* the last one that was not empty */
};

static void note_exit(void *opaque, uint64_t retired, const struct vcpu_exit *exit)
{
    struct side *side = opaque;
    char *line = side->line[side->exits++ % LINES_KEPT];
    exit_trace_line(line, retired, exit);
    side->exits_hash = XXH3_64bits_withSeed(line, strlen(line), side->exits_hash);
}

static uint64_t steps_of(const struct side *side)
{
    return side->vm->vcpu[0]->stats.retired;
}

static void close_sides(struct lockstep *lockstep)
{
    for (unsigned i = 0; i < 2; i++) {
        vm_free(lockstep->side[i].vm);
        lockstep->side[i] = (struct side){0};
    }
}

static int open_sides(struct lockstep *lockstep, struct error *err)
{
    const struct lockstep_plan *plan = lockstep->plan;
    close_sides(lockstep);
    lockstep->at = 0;
    for (unsigned i = 0; i < 2; i++) {
        struct side *side = &lockstep->side[i];
        side->vm = plan->make(plan->opaque, plan->engine[i], err);
        if (!side->vm) {
            return -err->code;
        }
        side->vm->trace = (struct vm_trace){note_exit, side};
        side->status = VM_RUNNING;
        memory_dirty_start(side->vm->memory);
    }
    return 0;
}

static void remember(struct lockstep *lockstep)
{
    struct vm *vm = lockstep->side[0].vm;
    struct lapic unused;
    vcpu_save(vm->vcpu[0], &lockstep->before, &unused);
    const struct virtual_space space = {vm->memory, &lockstep->before,
                                        vm->config.cpuid.physical_bits};
    instruction_at(&space, lockstep->instruction);
}

static int advance(struct lockstep *lockstep, uint64_t to, struct error *err)
{
    for (unsigned i = 0; i < 2; i++) {
        struct side *side = &lockstep->side[i];
        if (side->status == VM_RUNNING && steps_go(side->vm, to, err) < 0) {
            return fail_within(err, "engine %s", lockstep->plan->engine[i]);
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        struct side *side = &lockstep->side[i];
        if (side->status == VM_RUNNING) {
            side->status = steps_wait(side->vm);
        }
    }
    lockstep->at = to;
    return 0;
}

/* Can they go on? Not after their end, nor when both are halted for good. */
static bool is_over(const struct lockstep *lockstep)
{
    const struct side *side = lockstep->side;
    return side[0].status == VM_STOPPED || side[1].status == VM_STOPPED ||
           steps_of(&side[0]) < lockstep->at || steps_of(&side[1]) < lockstep->at;
}

static bool is_same_end(const struct vm_end *a, const struct vm_end *b)
{
    return a->reason == b->reason && a->value == b->value;
}

/* Of two machines in the same state: did they come there the same way? */
static bool is_same_way(const struct lockstep *lockstep, char text[DIFFERENCE_TEXT])
{
    const struct side *a = &lockstep->side[0], *b = &lockstep->side[1];
    if (a->exits != b->exits || a->exits_hash != b->exits_hash) {
        snprintf(text, DIFFERENCE_TEXT,
                 "their exits differ: %" PRIu64 " and %" PRIu64 "\n", a->exits, b->exits);
    } else if (steps_of(a) != steps_of(b)) {
        snprintf(text, DIFFERENCE_TEXT,
                 "their steps differ: %" PRIu64 " and %" PRIu64 "\n", steps_of(a),
                 steps_of(b));
    } else if (a->status != b->status || !is_same_end(&a->vm->end, &b->vm->end)) {
        snprintf(
            text, DIFFERENCE_TEXT,
            "one goes on or ends otherwise: status %d and %d, end %d (%d) and %d (%d)\n",
            a->status, b->status, (int)a->vm->end.reason, (int)a->vm->end.value,
            (int)b->vm->end.reason, (int)b->vm->end.value);
    } else {
        return true;
    }
    return false;
}

/* 1: the same, 0: different. */
static int compare(struct lockstep *lockstep, struct error *err)
{
    const struct side *a = &lockstep->side[0], *b = &lockstep->side[1];
    int result =
        difference_find(a->vm, b->vm, is_over(lockstep), lockstep->difference, err);
    if (result < 0) {
        return result;
    }
    if (result > 0 || !is_same_way(lockstep, lockstep->difference)) {
        memcpy(lockstep->seen, lockstep->difference, sizeof(lockstep->seen));
        return 0;
    }
    return 1;
}

/* --- Looking for the first difference --- */

/* Both anew, up to where they were the same before. */
static int rewind_to(struct lockstep *lockstep, uint64_t step, struct error *err)
{
    int result = open_sides(lockstep, err);
    if (result >= 0) {
        result = advance(lockstep, step, err);
    }
    if (result >= 0) {
        result = compare(lockstep, err);
    }
    if (result == 0) {
        return fail_plain(err, EIO,
                          "the first %" PRIu64 " steps were the same before and are not "
                          "now: a run is not deterministic\n%s",
                          step, lockstep->difference);
    }
    return result < 0 ? result : 0;
}

/* They are the same after `same` steps, and not after `different`: comes to stand where
 * the two are next to each other. */
static int narrow(struct lockstep *lockstep, uint64_t same, uint64_t different,
                  struct error *err)
{
    assert(same < different);
    for (;;) {
        uint64_t stride = (different - same + STRIDES - 1) / STRIDES;
        int result = rewind_to(lockstep, same, err);
        for (uint64_t at = same; result >= 0 && at < different;) {
            remember(lockstep);
            uint64_t next = different - at < stride ? different : at + stride;
            result = advance(lockstep, next, err);
            if (result >= 0) {
                result = compare(lockstep, err);
            }
            if (result == 0) {
                different = next;
                break;
            }
            same = at = next;
        }
        if (result < 0 || (result == 0 && stride == 1)) {
            return result;
        }
        if (result > 0) {
            return fail_plain(err, EIO,
                              "what differed after %" PRIu64 " steps does not when the "
                              "run is stopped every %" PRIu64 " steps: a run is not "
                              "deterministic, or depends on where it is stopped\n%.250s",
                              different, stride, lockstep->seen);
        }
    }
}

/* --- The report --- */

struct writer {
    char *text;
    size_t length;
};

static __attribute__((format(printf, 2, 3))) void put(struct writer *writer,
                                                      const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(writer->text + writer->length,
                           LOCKSTEP_REPORT - writer->length, format, arguments);
    va_end(arguments);
    writer->length += (size_t)length;
    if (writer->length >= LOCKSTEP_REPORT) {
        writer->length = LOCKSTEP_REPORT - 1;
    }
}

static void put_registers(struct writer *writer, const char *title,
                          const struct x86_state *state)
{
    char text[4096];
    x86_state_format(state, text, sizeof(text));
    put(writer, "\n%s:\n%s", title, text);
}

static void put_side(struct writer *writer, const struct side *side, const char *engine)
{
    put(writer, "\n%s: %" PRIu64 " steps, %" PRIu64 " exits%s\n", engine, steps_of(side),
        side->exits, side->status == VM_STOPPED ? ", ended" : "");
    uint64_t first = side->exits > LINES_KEPT ? side->exits - LINES_KEPT : 0;
    for (uint64_t i = first; i < side->exits; i++) {
        put(writer, "    %s\n", side->line[i % LINES_KEPT]);
    }
}

static void write_report(struct lockstep *lockstep, struct lockstep_result *result)
{
    struct writer writer = {.text = result->report};
    const char *const *engine = lockstep->plan->engine;
    put(&writer, "%s\n\n%s", lockstep->instruction, lockstep->difference);
    for (unsigned i = 0; i < 2; i++) {
        put_side(&writer, &lockstep->side[i], engine[i]);
    }
    put_registers(&writer, "before, both", &lockstep->before);
    for (unsigned i = 0; i < 2; i++) {
        struct x86_state state;
        struct lapic unused;
        vcpu_save(lockstep->side[i].vm->vcpu[0], &state, &unused);
        put_registers(&writer, engine[i], &state);
    }
}

/* --- The run --- */

static int finish(struct lockstep *lockstep, struct lockstep_result *result,
                  struct error *err)
{
    const struct side *side = &lockstep->side[0];
    result->is_same = true;
    result->steps = steps_of(side);
    result->exits = side->exits;
    result->end = side->vm->end;
    return digest_make(side->vm, &result->digest, err);
}

static int explain(struct lockstep *lockstep, uint64_t same, uint64_t different,
                   struct lockstep_result *result, struct error *err)
{
    int code = different ? narrow(lockstep, same, different, err) : 0;
    if (code >= 0) {
        result->steps = different ? lockstep->at - 1 : 0;
        result->exits = lockstep->side[0].exits;
        write_report(lockstep, result);
    }
    return code;
}

static int run(struct lockstep *lockstep, struct lockstep_result *result,
               struct error *err)
{
    const struct lockstep_plan *plan = lockstep->plan;
    int code = open_sides(lockstep, err);
    if (code >= 0) {
        code = advance(lockstep, 0, err);
    }
    if (code >= 0) {
        remember(lockstep);
        code = compare(lockstep, err);
    }
    if (code == 0) {
        return explain(lockstep, 0, 0, result, err); /* before the first step */
    }
    while (code >= 0) {
        uint64_t same = lockstep->at;
        uint64_t next =
            plan->until - same < plan->interval ? plan->until : same + plan->interval;
        code = advance(lockstep, next, err);
        if (code >= 0) {
            code = compare(lockstep, err);
        }
        if (code == 0) {
            return explain(lockstep, same, next, result, err);
        }
        if (code > 0 && plan->progress) {
            plan->progress(plan->opaque, next);
        }
        if (code > 0 && (next == plan->until || is_over(lockstep))) {
            return finish(lockstep, result, err);
        }
    }
    return code;
}

int lockstep_run(const struct lockstep_plan *plan, struct lockstep_result *result,
                 struct error *err)
{
    struct lockstep lockstep = {.plan = plan};
    *result = (struct lockstep_result){0};
    int code = run(&lockstep, result, err);
    close_sides(&lockstep);
    return code < 0 ? code : 0;
}
