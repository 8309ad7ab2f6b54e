#include "fixture.h"

/* Deterministic: the vCPUs have no threads; what reached an APIC is asked of the APIC. */

static void write_apic(struct vm *vm, unsigned index, uint32_t offset, uint32_t value)
{
    struct lapic_effect effect = {0};
    lapic_mmio_write(&vm->vcpu[index]->lapic, 0, offset, value, &effect);
}

static struct vm *vm_of(unsigned cpus)
{
    struct vm_config config = script_config(cpus);
    struct vm *vm = vm_made(&config);
    for (unsigned i = 0; i < cpus; i++) {
        write_apic(vm, i, APIC_SVR, 0x1ff);
        write_apic(vm, i, APIC_DFR, 0xffffffff);
        write_apic(vm, i, APIC_LDR, 1u << (24 + i));
    }
    return vm;
}

/* A bit for each vCPU that has the vector pending; takes and ends it. */
static unsigned take(struct vm *vm, int vector)
{
    unsigned who = 0;
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct lapic *lapic = &vm->vcpu[i]->lapic;
        if (lapic_pending(lapic) == vector) {
            lapic_acknowledge(lapic, vector);
            write_apic(vm, i, 0xb0, 0);
            who |= 1u << i;
        }
    }
    return who;
}

static void send(struct vm *vm, int sender, struct apic_message message)
{
    message.is_assert = true;
    vm_apic_send(vm, &message, sender);
}

static void test_destinations(void **state)
{
    static const struct {
        struct apic_message message;
        int sender;
        unsigned who;
    } cases[] = {
        {{.destination = 2}, -1, 1u << 2},
        {{.destination = 9}, -1, 0},
        {{.destination = 0xff}, -1, 0xf},
        {{.destination = 0xffffffff, .is_x2apic = true}, 0, 0xf},
        {{.destination = 0xa, .is_logical = true}, 0, 0xa},
        {{.shorthand = APIC_DEST_SELF}, 3, 1u << 3},
        {{.shorthand = APIC_DEST_ALL}, 1, 0xf},
        {{.shorthand = APIC_DEST_OTHERS}, 1, 0xd},
        {{.destination = 1}, 1, 1u << 1},
    };
    struct vm *vm = vm_of(4);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct apic_message message = cases[i].message;
        message.vector = 0x40;
        send(vm, cases[i].sender, message);
        assert_int_equal(take(vm, 0x40), cases[i].who);
    }
    vm_free(vm);
}

static void test_lowest_priority_takes_turns_among_equals(void **state)
{
    struct vm *vm = vm_of(4);
    struct apic_message message = {
        .destination = 0xf, .is_logical = true, .mode = APIC_LOWEST, .vector = 0x50};
    unsigned seen = 0;
    for (unsigned i = 0; i < 4; i++) {
        send(vm, -1, message);
        unsigned who = take(vm, 0x50);
        assert_int_equal(__builtin_popcount(who), 1);
        seen |= who;
    }
    assert_int_equal(seen, 0xf);

    /* The one with the lowest task priority of those addressed. */
    for (unsigned i = 0; i < 4; i++) {
        write_apic(vm, i, APIC_TPR, i == 2 ? 0x10 : 0x30);
    }
    for (unsigned i = 0; i < 4; i++) {
        send(vm, -1, message);
        assert_int_equal(take(vm, 0x50), 1u << 2);
    }
    message.destination = 0x0;
    send(vm, -1, message);
    assert_int_equal(take(vm, 0x50), 0);
    vm_free(vm);
}

static void test_signals(void **state)
{
    struct vm *vm = vm_of(2);
    struct lapic *lapic = &vm->vcpu[1]->lapic;
    uint32_t before = vm->vcpu[1]->kick_sequence;
    send(vm, 0, (struct apic_message){.destination = 1, .mode = APIC_INIT});
    send(vm, 0,
         (struct apic_message){.destination = 1, .mode = APIC_STARTUP, .vector = 0x9a});
    send(vm, 0, (struct apic_message){.destination = 1, .mode = APIC_NMI});
    assert_int_equal(lapic->signals & (LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_NMI),
                     LAPIC_SIGNAL_INIT | LAPIC_SIGNAL_NMI);
    assert_int_equal(lapic->signals & LAPIC_SIGNAL_SIPI, LAPIC_SIGNAL_SIPI);
    assert_int_equal(lapic->sipi_vector, 0x9a);
    assert_true(vm->vcpu[1]->kick_sequence - before >= 3);
    assert_int_equal(vm->vcpu[0]->lapic.signals, 0);
    vm_free(vm);
}

struct wire {
    unsigned number;
    int level;
    unsigned calls;
};

static void set_wire(void *opaque, unsigned number, int level)
{
    struct wire *wire = opaque;
    wire->number = number;
    wire->level = level;
    wire->calls++;
}

static void test_gsi_drives_both_controllers(void **state)
{
    struct vm *vm = vm_of(1);
    struct wire pic = {0};
    struct wire ioapic = {0};
    vm->gsi[4].pic = (struct irq_line){set_wire, &pic, 4};
    vm->gsi[4].ioapic = (struct irq_line){set_wire, &ioapic, 4};
    vm->gsi[20].ioapic = (struct irq_line){set_wire, &ioapic, 20};
    struct irq_line serial = vm_gsi(vm, 4);
    irq_set(&serial, 1);
    assert_int_equal(pic.level, 1);
    assert_int_equal(ioapic.level, 1);
    irq_set(&serial, 0);
    assert_int_equal(pic.level, 0);
    struct irq_line high = vm_gsi(vm, 20);
    irq_set(&high, 1);
    assert_int_equal(pic.calls, 2);
    assert_int_equal(ioapic.number, 20);
    struct irq_line none = vm_gsi(vm, 23);
    irq_set(&none, 1);
    vm_free(vm);
}

static void test_msi_address_and_data(void **state)
{
    static const struct {
        uint64_t address;
        uint32_t data;
        int vector;
        unsigned who;
    } cases[] = {
        {0xfee01000, 0x0041, 0x41, 0x2}, /* physical 1, fixed */
        {0xfeeff000, 0x0042, 0x42, 0xf}, /* physical broadcast */
        {0xfee06004, 0x0043, 0x43, 0x6}, /* logical */
        {0xfee02000, 0xc044, 0x44, 0x4}, /* level, asserted */
        {0xfee02000, 0x8045, 0x45, 0x0}, /* level, no longer */
        {0xfed01000, 0x0046, 0x46, 0x0}, /* not an APIC's address */
        {0x1fee01000, 0x0046, 0x46, 0x0},
        {0xfee02000, 0x0146, 0x46, 0x4}, /* lowest priority, one candidate */
    };
    struct vm *vm = vm_of(4);
    struct msi_sink msi = vm_msi(vm);
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        msi.send(msi.opaque, cases[i].address, cases[i].data);
        assert_int_equal(take(vm, cases[i].vector), cases[i].who);
    }
    /* Redirection hint: one of those the logical destination names. */
    msi.send(msi.opaque, 0xfee0700c, 0x47);
    assert_int_equal(__builtin_popcount(take(vm, 0x47) & 0x7), 1);
    vm_free(vm);
}

static void test_extint_reaches_the_bootstrap_processor(void **state)
{
    struct vm *vm = vm_of(2);
    write_apic(vm, 0, 0x350, 0x700); /* LINT0: ExtINT, not masked */
    vm_set_extint(vm, 0, 1);
    assert_int_equal(lapic_pending(&vm->vcpu[0]->lapic), LAPIC_EXTINT);
    assert_int_equal(lapic_pending(&vm->vcpu[1]->lapic), LAPIC_NONE);
    vm_set_extint(vm, 0, 0);
    assert_int_equal(lapic_pending(&vm->vcpu[0]->lapic), LAPIC_NONE);
    vm_free(vm);
}

static enum irq_state tell(void *opaque, unsigned number)
{
    return *(enum irq_state *)opaque;
}

static void ignore(void *opaque, unsigned number, int level)
{
}

/* Of a line at two controllers the one counts that would let an edge through. */
static void test_gsi_waits_while_nobody_takes_its_edges(void **state)
{
    static const enum irq_state expected[3][3] = {
        [IRQ_MASKED] = {IRQ_MASKED, IRQ_TAKEN, IRQ_WAITING},
        [IRQ_TAKEN] = {IRQ_TAKEN, IRQ_TAKEN, IRQ_TAKEN},
        [IRQ_WAITING] = {IRQ_WAITING, IRQ_TAKEN, IRQ_WAITING},
    };
    struct vm *vm = vm_of(1);
    struct irq_line line = vm_gsi(vm, 3);
    enum irq_state pic, ioapic;
    assert_int_equal(irq_get_state(&line), IRQ_MASKED); /* to no controller */
    vm->gsi[3].pic = (struct irq_line){ignore, &pic, 0, tell};
    vm->gsi[3].ioapic = (struct irq_line){ignore, &ioapic, 0, tell};
    for (pic = IRQ_MASKED; pic <= IRQ_WAITING; pic++) {
        for (ioapic = IRQ_MASKED; ioapic <= IRQ_WAITING; ioapic++) {
            assert_int_equal(irq_get_state(&line), expected[pic][ioapic]);
        }
    }
    vm_free(vm);
}

static void test_a_message_waits_until_it_is_taken(void **state)
{
    struct vm *vm = vm_of(2);
    struct apic_message message = {.destination = 1, .vector = 0x45, .is_assert = true};
    assert_false(vm_apic_is_waiting(vm, &message));
    vm_apic_send(vm, &message, -1);
    assert_true(vm_apic_is_waiting(vm, &message));
    message.destination = 0;
    assert_false(vm_apic_is_waiting(vm, &message));
    message.destination = 1;
    message.mode = APIC_NMI;
    assert_false(vm_apic_is_waiting(vm, &message));
    message.mode = APIC_FIXED;
    assert_int_equal(take(vm, 0x45), 2);
    assert_false(vm_apic_is_waiting(vm, &message));
    vm_free(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_lowest_priority_takes_turns_among_equals),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_gsi_drives_both_controllers),
        cmocka_unit_test(test_msi_address_and_data),
        cmocka_unit_test(test_gsi_waits_while_nobody_takes_its_edges),
        cmocka_unit_test(test_a_message_waits_until_it_is_taken),
        cmocka_unit_test(test_extint_reaches_the_bootstrap_processor),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
