#include "fixture.h"

#include <fcntl.h>
#include <jansson.h>
#include <sys/mman.h>
#include <unistd.h>

static json_t *stats_of(const struct vm *vm)
{
    int fd = memfd_create("stats", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(vm_write_exit_stats(vm, fd, NULL), 0);
    lseek(fd, 0, SEEK_SET);
    json_t *root = json_loadfd(fd, 0, NULL);
    close(fd);
    assert_non_null(root);
    return root;
}

static json_int_t number(json_t *root, const char *object, const char *reason,
                         const char *what)
{
    json_t *exits = json_object_get(json_object_get(root, object), "exits");
    return json_integer_value(json_object_get(json_object_get(exits, reason), what));
}

static void test_counts_by_vcpu_and_in_total(void **state)
{
    struct vm_config config = script_config(2);
    struct vm *vm = vm_made(&config);
    vm->vcpu[0]->stats.exit[EXIT_IO].count = 3;
    vm->vcpu[0]->stats.exit[EXIT_IO].ns = 700;
    vm->vcpu[1]->stats.exit[EXIT_IO].count = 4;
    vm->vcpu[1]->stats.retired = 99;
    json_t *root = stats_of(vm);
    assert_int_equal(json_integer_value(json_object_get(root, "version")), 1);
    assert_string_equal(json_string_value(json_object_get(root, "engine")), "script");
    assert_int_equal(json_integer_value(json_object_get(root, "wall_ns")), 0);
    assert_int_equal(number(root, "totals", "io", "count"), 7);
    assert_int_equal(number(root, "totals", "io", "ns"), 700);
    json_t *totals = json_object_get(root, "totals");
    assert_int_equal(json_object_size(json_object_get(totals, "exits")),
                     EXIT_REASON_COUNT);
    /* The scripted engine does not count instructions. */
    assert_true(json_is_null(json_object_get(totals, "retired")));
    json_t *vcpus = json_object_get(root, "vcpus");
    assert_int_equal(json_array_size(vcpus), 2);
    json_t *second = json_array_get(vcpus, 1);
    assert_int_equal(json_integer_value(json_object_get(second, "index")), 1);
    json_t *io = json_object_get(json_object_get(second, "exits"), "io");
    assert_int_equal(json_integer_value(json_object_get(io, "count")), 4);
    json_decref(root);
    vm_free(vm);
}

static void test_retired_where_the_engine_counts(void **state)
{
    struct engine_ops counting = engine_script;
    counting.counts_retired = true;
    struct vm_config config = script_config(2);
    config.engine = &counting;
    struct vm *vm = vm_made(&config);
    vm->vcpu[0]->stats.retired = 1;
    vm->vcpu[1]->stats.retired = 99;
    json_t *root = stats_of(vm);
    json_t *totals = json_object_get(root, "totals");
    assert_int_equal(json_integer_value(json_object_get(totals, "retired")), 100);
    json_decref(root);
    vm_free(vm);
}

/* An engine that counts: 10 and 20 of its vCPUs, 5 of its own. */
static void tell_some(struct engine *engine, struct engine_vcpu *vcpu,
                      engine_stat_fn *each, void *opaque)
{
    static unsigned calls;
    const struct engine_stat of_vcpu = {"things", "seen", 10 * (1 + calls++ % 2)};
    const struct engine_stat of_all = {"things", "made", 5}, other = {"rest", "x", 1};
    each(opaque, vcpu ? &of_vcpu : &of_all);
    each(opaque, &other);
}

static json_int_t inside(json_t *object, const char *group, const char *name)
{
    json_t *groups = json_object_get(object, "inside");
    return json_integer_value(json_object_get(json_object_get(groups, group), name));
}

static void test_what_the_engine_counts_of_its_own(void **state)
{
    struct engine_ops telling = engine_script;
    telling.stats = tell_some;
    struct vm_config config = script_config(2);
    config.engine = &telling;
    struct vm *vm = vm_made(&config);
    json_t *root = stats_of(vm), *vcpus = json_object_get(root, "vcpus");
    json_t *totals = json_object_get(root, "totals");
    assert_int_equal(inside(json_array_get(vcpus, 0), "things", "seen"), 10);
    assert_int_equal(inside(json_array_get(vcpus, 1), "things", "seen"), 20);
    assert_int_equal(inside(totals, "things", "seen"), 30);
    assert_int_equal(inside(totals, "things", "made"), 5);
    assert_int_equal(inside(totals, "rest", "x"), 3);
    json_decref(root);
    vm_free(vm);
}

static void test_nothing_inside_of_an_engine_that_counts_nothing(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_made(&config);
    json_t *root = stats_of(vm);
    json_t *groups = json_object_get(json_object_get(root, "totals"), "inside");
    assert_true(json_is_object(groups));
    assert_int_equal(json_object_size(groups), 0);
    json_decref(root);
    vm_free(vm);
}

static void test_lateness_of_timers(void **state)
{
    struct vm_config config = script_config(2);
    struct vm *vm = vm_made(&config);
    lateness_note(&vm->vcpu[0]->stats.timer, 5000);
    lateness_note(&vm->vcpu[1]->stats.timer, 50000);
    lateness_note_missed(&vm->vcpu[1]->stats.timer, 7);
    json_t *root = stats_of(vm), *late, *devices;
    json_int_t count, missed, worst_ns, within_ns, first;
    assert_int_equal(json_unpack(root, "{s:{s:{s:I, s:I, s:I, s:o}}, s:o}", "totals",
                                 "timer", "count", &count, "missed", &missed, "worst_ns",
                                 &worst_ns, "late", &late, "device_timers", &devices),
                     0);
    assert_int_equal(count, 2);
    assert_int_equal(missed, 7);
    assert_int_equal(worst_ns, 50000);
    assert_int_equal(json_array_size(late), LATENESS_GRADES);
    assert_int_equal(json_unpack(json_array_get(late, 0), "{s:I, s:I}", "within_ns",
                                 &within_ns, "count", &first),
                     0);
    assert_int_equal(within_ns, lateness_limit(0));
    assert_int_equal(first, 1);
    assert_true(json_is_null(
        json_object_get(json_array_get(late, LATENESS_GRADES - 1), "within_ns")));
    assert_int_equal(json_integer_value(json_object_get(devices, "count")), 0);
    json_decref(root);
    vm_free(vm);
}

static void test_says_why_it_cannot_write(void **state)
{
    struct vm_config config = script_config(1);
    struct vm *vm = vm_made(&config);
    struct error err;
    int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_int_equal(vm_write_exit_stats(vm, fd, &err), -ENOSPC);
    assert_non_null(strstr(err.message, "exit statistics"));
    close(fd);
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts_by_vcpu_and_in_total),
        cmocka_unit_test(test_retired_where_the_engine_counts),
        cmocka_unit_test(test_what_the_engine_counts_of_its_own),
        cmocka_unit_test(test_nothing_inside_of_an_engine_that_counts_nothing),
        cmocka_unit_test(test_lateness_of_timers),
        cmocka_unit_test(test_says_why_it_cannot_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
