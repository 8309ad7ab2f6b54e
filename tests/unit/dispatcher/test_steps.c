#include "fixture.h"

#include "dispatcher/exit_trace.h"
#include "dispatcher/steps.h"
#include "engine/interp/interp.h"

/* Deterministic runs: what happens at which step. Real mode at 0000:1000. */

#define CODE_AT   0x1000u
#define NOTES_MAX 32u
#define PORT_JOB  0x200u

/* A device with a timer and a job, which notes when they were called. */
struct watcher {
    struct device device;
    struct vm *vm;
    struct timer timer;
    struct worker_job job;
    struct worker_pool *pool;
    uint64_t again_ns; /* the timer sets itself again after so long; 0: not */
    unsigned count;
    uint64_t retired[NOTES_MAX], now_ns[NOTES_MAX];
    const uint8_t *code;
    unsigned size;
};

static void note(struct watcher *watcher)
{
    if (watcher->count < NOTES_MAX) {
        watcher->retired[watcher->count] = watcher->vm->vcpu[0]->stats.retired;
        watcher->now_ns[watcher->count] = clock_now(&watcher->vm->clock);
        watcher->count++;
    }
}

static void expired(void *opaque)
{
    struct watcher *watcher = opaque;
    note(watcher);
    if (watcher->again_ns) {
        timer_set(&watcher->timer, clock_now(&watcher->vm->clock) + watcher->again_ns);
    }
}

static void run_job(struct worker_job *job)
{
    note(container_of(job, struct watcher, job));
}

/* An even value posts the job, an odd one sets the timer for so many ns from now. */
static void watcher_write(struct device *device, uint64_t offset, unsigned size,
                          uint64_t value)
{
    struct watcher *watcher = container_of(device, struct watcher, device);
    if (value % 2) {
        timer_set(&watcher->timer, clock_now(&watcher->vm->clock) + value);
    } else {
        worker_post(watcher->pool, &watcher->job);
    }
}

static void watcher_free(struct device *device)
{
    struct watcher *watcher = container_of(device, struct watcher, device);
    timer_fini(&watcher->timer);
    worker_pool_close(watcher->pool);
    device_fini(device);
    free(watcher);
}

static void watcher_reset(struct device *device)
{
}

static const struct device_type watcher_type = {
    .name = "watcher", .reset = watcher_reset, .free = watcher_free};

static int boot(void *opaque, struct vm *vm, struct error *err)
{
    struct watcher *watcher = opaque;
    assert_true(ram_write(vm->memory, CODE_AT, watcher->code, watcher->size));
    struct x86_state state;
    x86_state_reset(&state, true);
    state.seg[X86_CS].selector = 0;
    state.seg[X86_CS].base = 0;
    state.rip = CODE_AT;
    vm->engine_ops->set_state(vm->vcpu[0]->engine, &state);
    return 0;
}

static struct watcher *watcher_new(const void *code, unsigned size)
{
    struct vm_config config = script_config(1);
    config.engine = &engine_interp;
    config.is_deterministic = true;
    config.no_reboot = true;
    struct cpuid_config cpuid = {.cpus = 1, .tsc_khz = 1000000};
    assert_int_equal(cpuid_policy_init(&config.cpuid, &cpuid, NULL), 0);
    struct vm *vm = vm_made(&config);
    int64_t frame = memory_add_frames(vm->memory, 1 << 16, NULL);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(vm->memory, 0, 1 << 16, (frame_t)frame, SLOT_RAM, NULL),
                     0);
    struct watcher *watcher = calloc(1, sizeof(*watcher));
    assert_non_null(watcher);
    watcher->vm = vm;
    watcher->code = code;
    watcher->size = size;
    watcher->job.run = run_job;
    watcher->pool = worker_pool_open(&(struct worker_config){.name = "test"}, NULL);
    assert_non_null(watcher->pool);
    device_init(&watcher->device, &watcher_type, "watcher");
    timer_init(&watcher->timer, vm->timers, &watcher->device.lock, expired, watcher);
    assert_int_equal(vm_add_device(vm, &watcher->device, NULL), 0);
    const struct region ports = {.device = &watcher->device,
                                 .base = PORT_JOB,
                                 .size = 1,
                                 .min_size = 1,
                                 .max_size = 1,
                                 .write = watcher_write};
    assert_int_equal(vm_add_ports(vm, &ports, NULL), 0);
    steps_take_jobs(vm, watcher->pool);
    recorder_add(vm, 0x100);
    vm->boot = boot;
    vm->boot_opaque = watcher;
    return watcher;
}

static void go(struct watcher *watcher, uint64_t retired)
{
    assert_int_equal(steps_go(watcher->vm, retired, NULL), 0);
    assert_int_equal(steps_wait(watcher->vm), VM_RUNNING);
    assert_int_equal(watcher->vm->vcpu[0]->stats.retired, retired);
}

static const uint8_t loop_code[] = {0xeb, 0xfe}; /* jmp . */

static void test_time_is_steps(void **state)
{
    struct watcher *watcher = watcher_new(loop_code, sizeof(loop_code));
    static const uint64_t stops[] = {0, 1, 2, 1000, 54321};
    for (unsigned i = 0; i < array_size(stops); i++) {
        go(watcher, stops[i]);
        assert_int_equal(clock_now(&watcher->vm->clock), stops[i]);
    }
    vm_free(watcher->vm);
}

static void test_timers_come_at_their_step(void **state)
{
    struct watcher *watcher = watcher_new(loop_code, sizeof(loop_code));
    watcher->again_ns = 333;
    timer_set(&watcher->timer, 1000);
    go(watcher, 2500);
    assert_int_equal(watcher->count, 5);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(watcher->retired[i], 1000 + i * 333);
        assert_int_equal(watcher->now_ns[i], 1000 + i * 333);
    }
    vm_free(watcher->vm);
}

/* What a device asks for in an exit comes behind that instruction, or its time. */
static void test_jobs_and_timers_from_an_exit(void **state)
{
    /* mov $PORT, %dx; mov $2, %al; out; nop; mov $7, %al; out; jmp . */
    static const uint8_t code[] = {
        0xba, PORT_JOB & 0xff, PORT_JOB >> 8, 0xb0, 2, 0xee, 0x90, 0xb0, 7, 0xee, 0xeb,
        0xfe};
    struct watcher *watcher = watcher_new(code, sizeof(code));
    go(watcher, 100);
    assert_int_equal(watcher->count, 2);
    assert_int_equal(watcher->retired[0], 3);
    /* The second OUT begins after 5 steps. */
    assert_int_equal(watcher->retired[1], 5 + 7);
    vm_free(watcher->vm);
}

/* Halted: time jumps; without a timer it is over, and the machine still can be ended. */
static void test_halted(void **state)
{
    static const uint8_t code[] = {0x90, 0xf4, 0x90, 0xf4}; /* nop; hlt; nop; hlt */
    struct watcher *watcher = watcher_new(code, sizeof(code));
    timer_set(&watcher->timer, 1000000);
    assert_int_equal(steps_go(watcher->vm, 50, NULL), 0);
    assert_int_equal(steps_wait(watcher->vm), VM_RUNNING);
    assert_int_equal(watcher->vm->vcpu[0]->stats.retired, 2);
    assert_int_equal(watcher->count, 1);
    assert_int_equal(watcher->retired[0], 2);
    assert_int_equal(clock_now(&watcher->vm->clock), 1000000);
    vm_request_end(watcher->vm, VM_END_REQUEST, 9, NULL);
    assert_int_equal(steps_wait(watcher->vm), VM_STOPPED);
    assert_int_equal(watcher->vm->end.value, 9);
    vm_free(watcher->vm);
}

static void *kick_always(void *opaque)
{
    struct watcher *watcher = opaque;
    for (unsigned i = 0; i < 20000; i++) {
        vcpu_kick(watcher->vm->vcpu[0]);
    }
    return NULL;
}

/* Kicks, pauses: nothing that comes from outside at some time moves an event. */
static void test_kicks_change_nothing(void **state)
{
    struct watcher *watcher = watcher_new(loop_code, sizeof(loop_code));
    pthread_t kicker;
    watcher->again_ns = 100003;
    timer_set(&watcher->timer, 50);
    assert_int_equal(pthread_create(&kicker, NULL, kick_always, watcher), 0);
    go(watcher, 3000000);
    pthread_join(kicker, NULL);
    assert_int_equal(watcher->count, 30);
    for (unsigned i = 0; i < watcher->count; i++) {
        assert_int_equal(watcher->retired[i], 50 + i * 100003);
    }
    vm_free(watcher->vm);
}

/* vm_run, and the guest's own end. */
static void test_runs_to_its_end(void **state)
{
    /* mov $PORT_END, %dx; mov $9, %al; out */
    static const uint8_t code[] = {0xba, 0x01, 0x01, 0xb0, 0x09, 0xee, 0xeb, 0xfe};
    struct watcher *watcher = watcher_new(code, sizeof(code));
    assert_int_equal(vm_start(watcher->vm, NULL), 0);
    struct vm_end end = vm_run(watcher->vm);
    assert_int_equal(end.reason, VM_END_DEBUG_EXIT);
    assert_int_equal(end.value, 9);
    assert_int_equal(watcher->vm->vcpu[0]->stats.retired, 3);
    vm_free(watcher->vm);
}

static void test_wall_clock(void **state)
{
    struct watcher *watcher = watcher_new(loop_code, sizeof(loop_code));
    go(watcher, 12345);
    assert_int_equal(vm_wall_ns(watcher->vm), 946684800ll * 1000000000 + 12345);
    vm_free(watcher->vm);
}

/* --- Exits as lines --- */

static void test_lines(void **state)
{
    char line[EXIT_LINE_SIZE];
    uint8_t data[256] = {0x41, 0x42, 0x43};
    struct vcpu_exit exit = {
        .reason = EXIT_IO,
        .io = {.port = 0x3f8, .size = 1, .is_write = true, .count = 3, .data = data}};
    exit_trace_line(line, 12, &exit);
    assert_string_equal(line, "12 io out 0x3f8 3: 414243");
    exit.io.is_write = false;
    exit.io.size = 4;
    exit.io.count = 1;
    exit_trace_line(line, 1, &exit);
    assert_string_equal(line, "1 io in 0x3f8 4: 41424300");

    exit = (struct vcpu_exit){.reason = EXIT_MMIO,
                              .mmio = {.gpa = 0xfee00000, .size = 12, .data = data}};
    exit_trace_line(line, 7, &exit);
    assert_string_equal(line, "7 mmio read 0xfee00000 12: 4142430000000000 00000000");
    exit = (struct vcpu_exit){.reason = EXIT_MSR_READ,
                              .msr = {.index = 0x10, .is_fault = true}};
    exit_trace_line(line, 7, &exit);
    assert_string_equal(line, "7 msr_read 0x10: 0 #GP");
    exit = (struct vcpu_exit){.reason = EXIT_TIMER};
    exit_trace_line(line, 8, &exit);
    assert_string_equal(line, "8 timer");
    exit = (struct vcpu_exit){.reason = EXIT_INTACK, .intack_vector = -1};
    exit_trace_line(line, 8, &exit);
    assert_string_equal(line, "8 intack -1");
    /* The longest stays within its bounds. */
    exit = (struct vcpu_exit){.reason = EXIT_IO,
                              .io = {.size = 1, .count = 256, .data = data}};
    exit_trace_line(line, UINT64_MAX, &exit);
    assert_true(strlen(line) < EXIT_LINE_SIZE);
}

static void note_line(void *opaque, uint64_t retired, const struct vcpu_exit *exit)
{
    exit_trace_line(opaque, retired, exit);
}

static void test_trace_hears_exits(void **state)
{
    static const uint8_t code[] = {0xba, 0x00, 0x01, 0xb0, 0x09, 0xee, 0xeb, 0xfe};
    char line[EXIT_LINE_SIZE] = "";
    struct watcher *watcher = watcher_new(code, sizeof(code));
    watcher->vm->trace = (struct vm_trace){note_line, line};
    go(watcher, 10);
    assert_string_equal(line, "2 io out 0x100 1: 09");
    vm_free(watcher->vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_time_is_steps),
        cmocka_unit_test(test_timers_come_at_their_step),
        cmocka_unit_test(test_jobs_and_timers_from_an_exit),
        cmocka_unit_test(test_halted),
        cmocka_unit_test(test_kicks_change_nothing),
        cmocka_unit_test(test_runs_to_its_end),
        cmocka_unit_test(test_wall_clock),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_trace_hears_exits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
