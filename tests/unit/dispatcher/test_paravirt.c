/* The paravirtual services, through the exits that an engine delivers. */
#include "fixture.h"

#include "x86/paravirt.h"

#define RAM 0x10000u

static struct vm *vm_with(uint32_t features)
{
    struct vm_config config = script_config(3);
    config.cpuid.paravirt = features;
    struct vm *vm = vm_made(&config);
    int64_t frame = memory_add_frames(vm->memory, RAM, NULL);
    assert_true(frame >= 0);
    assert_int_equal(memory_map(vm->memory, 0, RAM, (frame_t)frame, SLOT_RAM, NULL), 0);
    return vm;
}

static bool wrmsr(struct vm *vm, uint32_t index, uint64_t value, uint64_t tsc_offset)
{
    struct vcpu_exit exit = {
        .reason = EXIT_MSR_WRITE,
        .msr = {.index = index, .value = value, .tsc_offset = tsc_offset}};
    vcpu_exit_handle(vm->vcpu[0], &exit);
    return !exit.msr.is_fault;
}

static bool rdmsr(struct vm *vm, uint32_t index, uint64_t *value)
{
    struct vcpu_exit exit = {.reason = EXIT_MSR_READ, .msr = {.index = index}};
    vcpu_exit_handle(vm->vcpu[0], &exit);
    *value = exit.msr.value;
    return !exit.msr.is_fault;
}

static struct vcpu_exit hypercall(struct vm *vm, uint64_t number, uint8_t cpl,
                                  uint64_t low, uint64_t first, uint64_t icr)
{
    struct vcpu_exit exit = {
        .reason = EXIT_HYPERCALL,
        .hypercall = {.number = number, .cpl = cpl, .argument = {low, 0, first, icr}}};
    vcpu_exit_handle(vm->vcpu[0], &exit);
    return exit;
}

/* The reader's side of the protocol (the kernel's Documentation/virt/kvm/x86/msr.rst). */
static uint64_t page_time(const struct paravirt_clock_page *page, uint64_t tsc)
{
    uint64_t delta = tsc - page->tsc_timestamp;
    delta = page->shift < 0 ? delta >> -page->shift : delta << page->shift;
    return page->system_time +
           (uint64_t)((unsigned __int128)delta * page->multiplier >> 32);
}

static void test_the_clock_page_tells_guest_time(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    const uint64_t offset = 12345;
    assert_true(wrmsr(vm, MSR_PARAVIRT_CLOCK, 0x2000 | 1, offset));
    struct paravirt_clock_page page;
    assert_true(ram_read(vm->memory, 0x2000, &page, sizeof(page)));
    assert_int_equal(page.version % 2, 0);
    assert_int_not_equal(page.version, 0);
    assert_int_equal(page.flags, PARAVIRT_CLOCK_PAGE_STABLE);
    /* The fixture's TSC runs at 1 GHz: a tick is a nanosecond. */
    assert_int_equal(page_time(&page, offset), 0);
    assert_int_equal(page_time(&page, offset + 123456789012), 123456789012);
    uint64_t value;
    assert_true(rdmsr(vm, MSR_PARAVIRT_CLOCK, &value));
    assert_int_equal(value, 0x2001);
    vm_free(vm);
}

static void test_the_clock_page_follows_the_tsc(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    struct paravirt_clock_page before, after;
    assert_true(wrmsr(vm, MSR_PARAVIRT_CLOCK_OLD, 0x2000 | 1, 0));
    assert_true(ram_read(vm->memory, 0x2000, &before, sizeof(before)));
    struct vcpu_exit exit = {.reason = EXIT_TSC, .tsc_offset = 777};
    vcpu_exit_handle(vm->vcpu[0], &exit);
    assert_true(ram_read(vm->memory, 0x2000, &after, sizeof(after)));
    assert_int_equal(after.tsc_timestamp, 777);
    assert_int_equal(after.version, before.version + 2);
    vm_free(vm);
}

static void test_scale_is_exact_over_a_day(void **state)
{
    static const uint32_t rates[] = {1000, 999999, 1000000, 2445455, 3999999, 6000001};
    const uint64_t day_ns = 86400 * NS_PER_SECOND;
    for (unsigned i = 0; i < array_size(rates); i++) {
        struct paravirt_clock_page page = {0};
        paravirt_clock_scale(rates[i], &page.multiplier, &page.shift);
        uint64_t ns = page_time(&page, scale_u64(day_ns, rates[i], 1000000));
        uint64_t error = ns > day_ns ? ns - day_ns : day_ns - ns;
        assert_in_range(error, 0,
                        day_ns >> 31); /* the multiplier's 32 bits, and a tick */
    }
}

static void test_wall_clock_is_that_of_the_host(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    assert_true(wrmsr(vm, MSR_PARAVIRT_WALL_CLOCK, 0x3000, 0));
    struct paravirt_wall_clock page;
    assert_true(ram_read(vm->memory, 0x3000, &page, sizeof(page)));
    assert_int_equal(page.version, 2);
    uint64_t told = page.seconds + clock_now(&vm->clock) / NS_PER_SECOND;
    assert_in_range(told, (uint64_t)now.tv_sec - 1, (uint64_t)now.tv_sec + 2);
    assert_in_range(page.nanoseconds, 0, NS_PER_SECOND - 1);
    vm_free(vm);
}

static void test_steal_time_goes_on(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    struct paravirt_steal_page page = {.steal_ns = 500, .version = 7};
    assert_true(ram_write(vm->memory, 0x4000, &page, sizeof(page)));
    assert_true(wrmsr(vm, MSR_PARAVIRT_STEAL, 0x4000 | 1, 0));
    assert_true(ram_read(vm->memory, 0x4000, &page, sizeof(page)));
    /* What another engine, or the host before a restart, had counted stays. */
    assert_int_equal(page.steal_ns, 500);
    assert_int_equal(page.version, 10);
    assert_int_equal(page.preempted, 0);
    assert_false(wrmsr(vm, MSR_PARAVIRT_STEAL, 0x4000 | 3, 0)); /* reserved bit */
    vm_free(vm);
}

static uint8_t *preempted(struct vm *vm)
{
    return memory_host(vm->memory, 4) + offsetof(struct paravirt_steal_page, preempted);
}

static void test_flushes_are_left_to_the_host(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    struct vcpu *vcpu = vm->vcpu[0];
    paravirt_sleep(vcpu); /* no page yet */
    assert_true(wrmsr(vm, MSR_PARAVIRT_STEAL, 0x4000 | 1, 0));
    paravirt_sleep(vcpu);
    assert_int_equal(*preempted(vm), PARAVIRT_PREEMPTED);
    paravirt_wake(vcpu);
    assert_int_equal(*preempted(vm), 0);
    assert_int_equal(script_flushes(vcpu->engine), 0);
    paravirt_sleep(vcpu);
    *preempted(vm) |= PARAVIRT_FLUSH;
    paravirt_wake(vcpu);
    assert_int_equal(*preempted(vm), 0);
    assert_int_equal(script_flushes(vcpu->engine), 1);
    vm_free(vm);
    vm = vm_with(PARAVIRT_STEAL);
    assert_true(wrmsr(vm, MSR_PARAVIRT_STEAL, 0x4000 | 1, 0));
    paravirt_sleep(vm->vcpu[0]);
    assert_int_equal(*preempted(vm), 0);
    vm_free(vm);
}

/* A halted vCPU says so until it is woken. */
static void test_halted_vcpus_sleep(void **state)
{
    static const struct script_step halt[] = {
        SCRIPT_APIC_ON, {.op = SCRIPT_HLT}, {.op = SCRIPT_END}};
    struct vm *vm = vm_with(PARAVIRT_ALL);
    assert_true(wrmsr(vm, MSR_PARAVIRT_STEAL, 0x4000 | 1, 0));
    *preempted(vm) = PARAVIRT_PREEMPTED | PARAVIRT_FLUSH; /* of a saved guest */
    script_set(vm->vcpu[0]->engine, halt);
    assert_int_equal(vm_start(vm, NULL), 0);
    while (script_flushes(vm->vcpu[0]->engine) == 0 ||
           *(volatile uint8_t *)preempted(vm) != PARAVIRT_PREEMPTED) {
        sched_yield();
    }
    *preempted(vm) = PARAVIRT_PREEMPTED | PARAVIRT_FLUSH;
    vcpu_kick(vm->vcpu[0]);
    while (script_flushes(vm->vcpu[0]->engine) == 1) {
        sched_yield();
    }
    vm_free(vm);
}

static void test_the_word_of_eois(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    uint64_t value;
    assert_true(wrmsr(vm, MSR_PARAVIRT_EOI, 0x5000 | 1, 0));
    assert_true(rdmsr(vm, MSR_PARAVIRT_EOI, &value));
    assert_int_equal(value, 0x5001);
    assert_false(wrmsr(vm, MSR_PARAVIRT_EOI, 0x5000 | 3, 0)); /* reserved bit */
    paravirt_init_signal(&vm->vcpu[0]->paravirt.registers);
    assert_true(rdmsr(vm, MSR_PARAVIRT_EOI, &value));
    assert_int_equal(value, 0);
    vm_free(vm);
    vm = vm_with(PARAVIRT_STEAL);
    assert_false(wrmsr(vm, MSR_PARAVIRT_EOI, 0x5001, 0));
    vm_free(vm);
}

static void test_addresses_outside_of_ram_do_no_harm(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    static const uint64_t places[] = {RAM - 8, RAM, 0xfee00000, UINT64_MAX - 63};
    for (unsigned i = 0; i < array_size(places); i++) {
        wrmsr(vm, MSR_PARAVIRT_CLOCK, places[i] | 1, 0);
        wrmsr(vm, MSR_PARAVIRT_WALL_CLOCK, places[i], 0);
        wrmsr(vm, MSR_PARAVIRT_STEAL, (places[i] & ~63ull) | 1, 0);
        paravirt_account(vm->vcpu[0]);
        paravirt_sleep(vm->vcpu[0]);
        paravirt_wake(vm->vcpu[0]);
    }
    uint64_t value;
    assert_true(rdmsr(vm, MSR_PARAVIRT_CLOCK, &value));
    assert_int_equal(value, (UINT64_MAX - 63) | 1);
    vm_free(vm);
}

static void test_one_hypercall_sends_many_interrupts(void **state)
{
    struct vm *vm = vm_with(PARAVIRT_ALL);
    for (unsigned i = 0; i < 3; i++) {
        struct lapic_effect effect = {0};
        lapic_mmio_write(&vm->vcpu[i]->lapic, 0, APIC_SVR, 0x1ff, &effect);
    }
    /* IDs 1 and 2, and one that does not exist. */
    struct vcpu_exit exit = hypercall(vm, HYPERCALL_SEND_IPI, 0, 0xb, 1, 0x45);
    assert_int_equal(exit.hypercall.result, 2);
    assert_int_equal(lapic_pending(&vm->vcpu[0]->lapic), LAPIC_NONE);
    assert_int_equal(lapic_pending(&vm->vcpu[1]->lapic), 0x45);
    assert_int_equal(lapic_pending(&vm->vcpu[2]->lapic), 0x45);
    /* Only fixed interrupts and NMIs; only the kernel. */
    exit = hypercall(vm, HYPERCALL_SEND_IPI, 0, 1, 0, 0x545);
    assert_int_equal((int64_t)exit.hypercall.result, HYPERCALL_INVALID);
    exit = hypercall(vm, HYPERCALL_SEND_IPI, 3, 1, 0, 0x45);
    assert_int_equal((int64_t)exit.hypercall.result, HYPERCALL_NOT_PERMITTED);
    exit = hypercall(vm, 4711, 0, 0, 0, 0);
    assert_int_equal((int64_t)exit.hypercall.result, HYPERCALL_UNKNOWN);
    vm_free(vm);
}

static void test_what_is_not_offered_does_not_exist(void **state)
{
    uint64_t value;
    struct vm *vm = vm_with(PARAVIRT_IPI);
    assert_false(wrmsr(vm, MSR_PARAVIRT_CLOCK, 0x2001, 0));
    assert_false(rdmsr(vm, MSR_PARAVIRT_STEAL, &value));
    assert_false(hypercall(vm, HYPERCALL_SCHED_YIELD, 0, 0, 0, 0).hypercall.is_undefined);
    vm_free(vm);
    vm = vm_with(0);
    assert_true(hypercall(vm, HYPERCALL_SEND_IPI, 0, 1, 0, 0x45).hypercall.is_undefined);
    vm_free(vm);
}

static void test_lists_of_services(void **state)
{
    uint32_t features;
    struct error err;
    assert_int_equal(paravirt_parse("none", &features, &err), 0);
    assert_int_equal(features, 0);
    assert_int_equal(paravirt_parse("ipi,steal", &features, &err), 0);
    assert_int_equal(features, PARAVIRT_IPI | PARAVIRT_STEAL);
    assert_int_equal(paravirt_parse("eoi,tlb-flush", &features, &err), 0);
    assert_int_equal(features, PARAVIRT_EOI | PARAVIRT_TLB_FLUSH | PARAVIRT_STEAL);
    assert_int_equal(paravirt_parse("all", &features, &err), 0);
    assert_true(features & PARAVIRT_CLOCK_STABLE);
    static const char *const bad[] = {"",     "clock,",     ",clock",
                                      "clok", "clock,,ipi", "All"};
    for (unsigned i = 0; i < array_size(bad); i++) {
        assert_int_equal(paravirt_parse(bad[i], &features, &err), -EINVAL);
        assert_non_null(strstr(err.message, "unknown service"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_clock_page_tells_guest_time),
        cmocka_unit_test(test_the_clock_page_follows_the_tsc),
        cmocka_unit_test(test_scale_is_exact_over_a_day),
        cmocka_unit_test(test_wall_clock_is_that_of_the_host),
        cmocka_unit_test(test_steal_time_goes_on),
        cmocka_unit_test(test_flushes_are_left_to_the_host),
        cmocka_unit_test(test_halted_vcpus_sleep),
        cmocka_unit_test(test_the_word_of_eois),
        cmocka_unit_test(test_addresses_outside_of_ram_do_no_harm),
        cmocka_unit_test(test_one_hypercall_sends_many_interrupts),
        cmocka_unit_test(test_what_is_not_offered_does_not_exist),
        cmocka_unit_test(test_lists_of_services),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
