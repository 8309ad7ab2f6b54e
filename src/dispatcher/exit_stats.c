/* Exit counts and times, summed and as JSON. */

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/counter.h"
#include "base/scope.h"
#include "dispatcher/vcpu.h"

void vm_exit_totals(const struct vm *vm, enum exit_reason reason, uint64_t *count,
                    uint64_t *ns)
{
    *count = 0;
    *ns = 0;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        *count += counter_get(&vm->vcpu[i]->stats.exit[reason].count);
        *ns += counter_get(&vm->vcpu[i]->stats.exit[reason].ns);
    }
}

static json_t *count_json(uint64_t count, uint64_t ns)
{
    return json_pack("{s:I, s:I}", "count", (json_int_t)count, "ns", (json_int_t)ns);
}

static json_t *retired_json(const struct vm *vm, uint64_t retired)
{
    return vm->engine_ops->counts_retired ? json_integer((json_int_t)retired)
                                          : json_null();
}

/* Grades in ascending order; the last one has no limit. */
static json_t *lateness_json(const struct lateness *lateness)
{
    json_t *grades = json_array();
    for (unsigned i = 0; i < LATENESS_GRADES; i++) {
        json_t *limit = i + 1 < LATENESS_GRADES
                            ? json_integer((json_int_t)lateness_limit(i))
                            : json_null();
        json_array_append_new(grades,
                              json_pack("{s:o, s:I}", "within_ns", limit, "count",
                                        (json_int_t)counter_get(&lateness->count[i])));
    }
    return json_pack("{s:I, s:I, s:I, s:o}", "count",
                     (json_int_t)lateness_total(lateness), "missed",
                     (json_int_t)counter_get(&lateness->missed), "worst_ns",
                     (json_int_t)counter_get(&lateness->worst_ns), "late", grades);
}

/* Adds to {"group": {"name": value, ...}, ...}. */
static void add_stat(void *opaque, const struct engine_stat *stat)
{
    json_t *root = opaque, *group = json_object_get(root, stat->group);
    if (!group) {
        group = json_object();
        json_object_set_new(root, stat->group, group);
    }
    json_int_t before = json_integer_value(json_object_get(group, stat->name));
    json_object_set_new(group, stat->name,
                        json_integer(before + (json_int_t)stat->value));
}

/* The engine's own numbers: of one vCPU, or, with NULL, of all and of the VM. */
static json_t *inside_json(const struct vm *vm, const struct vcpu *vcpu)
{
    json_t *root = json_object();
    const struct engine_ops *ops = vm->engine_ops;
    if (!ops->stats) {
        return root;
    }
    if (vcpu) {
        ops->stats(vm->engine, vcpu->engine, add_stat, root);
        return root;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        ops->stats(vm->engine, vm->vcpu[i]->engine, add_stat, root);
    }
    ops->stats(vm->engine, NULL, add_stat, root);
    return root;
}

static json_t *vcpu_json(const struct vm *vm, const struct vcpu *vcpu)
{
    json_t *exits = json_object();
    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++) {
        const struct exit_count *exit = &vcpu->stats.exit[i];
        json_object_set_new(
            exits, exit_reason_name(i),
            count_json(counter_get(&exit->count), counter_get(&exit->ns)));
    }
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "index", (json_int_t)vcpu->index,
                     "retired", retired_json(vm, counter_get(&vcpu->stats.retired)),
                     "exits", exits, "timer", lateness_json(&vcpu->stats.timer), "inside",
                     inside_json(vm, vcpu));
}

static json_t *totals_json(const struct vm *vm)
{
    uint64_t retired = 0;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        retired += counter_get(&vm->vcpu[i]->stats.retired);
    }
    json_t *exits = json_object();
    for (unsigned i = 0; i < EXIT_REASON_COUNT; i++) {
        uint64_t count;
        uint64_t ns;
        vm_exit_totals(vm, i, &count, &ns);
        json_object_set_new(exits, exit_reason_name(i), count_json(count, ns));
    }
    struct lateness timer = {0};
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        lateness_add(&timer, &vm->vcpu[i]->stats.timer);
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "retired", retired_json(vm, retired),
                     "exits", exits, "timer", lateness_json(&timer), "inside",
                     inside_json(vm, NULL));
}

/* Host time from the start to the end, or until now. */
static uint64_t wall_ns(const struct vm *vm)
{
    uint64_t started_ns = counter_get(&vm->started_ns);
    uint64_t stopped_ns = counter_get(&vm->stopped_ns);
    if (started_ns == 0) {
        return 0;
    }
    return (stopped_ns ? stopped_ns : clock_host_ns()) - started_ns;
}

struct json_t *vm_exit_stats(const struct vm *vm)
{
    json_t *vcpus = json_array();
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        json_array_append_new(vcpus, vcpu_json(vm, vm->vcpu[i]));
    }
    return json_pack("{s:i, s:s, s:I, s:o, s:o, s:o}", "version", 1, "engine",
                     vm->engine_ops->name, "wall_ns", (json_int_t)wall_ns(vm), "vcpus",
                     vcpus, "totals", totals_json(vm), "device_timers",
                     lateness_json(timer_queue_lateness(vm->timers)));
}

static char *stats_text(const struct vm *vm)
{
    json_t *root = vm_exit_stats(vm);
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    json_decref(root);
    return text;
}

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t done = write(fd, data, size);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        data += done;
        size -= (size_t)done;
    }
    return 0;
}

int vm_write_exit_stats(const struct vm *vm, int fd, struct error *err)
{
    SCOPE_FREE char *text = stats_text(vm);
    if (!text) {
        return fail(err, ENOMEM, "cannot format the exit statistics");
    }
    int result = write_all(fd, text, strlen(text));
    if (result == 0) {
        result = write_all(fd, "\n", 1);
    }
    if (result < 0) {
        return fail(err, -result, "cannot write the exit statistics");
    }
    return 0;
}
