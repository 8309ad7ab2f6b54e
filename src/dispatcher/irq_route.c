/* Interrupt routing: lines, messages, and which vCPU's APIC they reach. */

#include <assert.h>
#include <stdatomic.h>

#include "base/log.h"
#include "dispatcher/vcpu.h"

/* SDM 3A 11.11.1: message address register. */
#define MSI_ADDRESS_MASK        0xfff00000u
#define MSI_ADDRESS_BASE        0xfee00000u
#define MSI_DESTINATION(addr)   ((uint32_t)(addr) >> 12 & 0xff)
#define MSI_REDIRECTION_HINT    0x8u
#define MSI_DESTINATION_LOGICAL 0x4u
/* 11.11.2: message data register. */
#define MSI_VECTOR(data)        ((uint8_t)(data))
#define MSI_DELIVERY_MODE(data) ((data) >> 8 & 7)
#define MSI_LEVEL_ASSERT        0x4000u
#define MSI_TRIGGER_LEVEL       0x8000u

static void set_gsi(void *opaque, unsigned number, int level)
{
    struct vm *vm = opaque;
    irq_set(&vm->gsi[number].pic, level);
    irq_set(&vm->gsi[number].ioapic, level);
}

/* Of the two controllers the one counts that lets an edge through. */
static enum irq_state gsi_state(void *opaque, unsigned number)
{
    struct vm *vm = opaque;
    enum irq_state pic =
        vm->gsi[number].pic.set ? irq_get_state(&vm->gsi[number].pic) : IRQ_MASKED;
    enum irq_state ioapic =
        vm->gsi[number].ioapic.set ? irq_get_state(&vm->gsi[number].ioapic) : IRQ_MASKED;
    if (pic == IRQ_TAKEN || ioapic == IRQ_TAKEN) {
        return IRQ_TAKEN;
    }
    return pic == IRQ_WAITING || ioapic == IRQ_WAITING ? IRQ_WAITING : IRQ_MASKED;
}

struct irq_line vm_gsi(struct vm *vm, unsigned gsi)
{
    assert(gsi < VM_GSI_COUNT);
    return (struct irq_line){
        .set = set_gsi, .opaque = vm, .number = gsi, .state = gsi_state};
}

static void post(struct vcpu *vcpu, const struct apic_message *message)
{
    if (lapic_post(&vcpu->lapic, message)) {
        vcpu_kick(vcpu);
    }
}

/*
 * Lowest priority: the processor with the smallest priority of those addressed (SDM 3A
 * 11.6.2.4). Equals take turns: the search begins one further each time.
 */
static struct vcpu *arbitrate(struct vm *vm, const struct apic_message *message,
                              uint32_t sender_id)
{
    struct vcpu *winner = NULL;
    unsigned lowest = 0;
    unsigned turn = atomic_fetch_add_explicit(&vm->arbitration, 1, memory_order_relaxed);
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        struct vcpu *vcpu = vm->vcpu[(turn + i) % vm->cpu_count];
        if (!lapic_accepts(&vcpu->lapic, message, sender_id)) {
            continue;
        }
        unsigned priority = lapic_priority(&vcpu->lapic);
        if (!winner || priority < lowest) {
            winner = vcpu;
            lowest = priority;
        }
    }
    return winner;
}

void vm_apic_route(struct vm *vm, unsigned input, const struct apic_message *message)
{
    if (vm->engine_ops->route) {
        vm->engine_ops->route(vm->engine, input, message);
    }
}

void vm_apic_send(struct vm *vm, const struct apic_message *message, int sender)
{
    if (vm->engine_ops->send && vm->engine_ops->send(vm->engine, message)) {
        return;
    }
    uint32_t sender_id = sender < 0 ? UINT32_MAX : vm->vcpu[sender]->lapic.id;
    if (message->mode == APIC_LOWEST) {
        struct vcpu *winner = arbitrate(vm, message, sender_id);
        if (winner) {
            post(winner, message);
        }
        return;
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        if (lapic_accepts(&vm->vcpu[i]->lapic, message, sender_id)) {
            post(vm->vcpu[i], message);
        }
    }
}

bool vm_apic_is_waiting(struct vm *vm, const struct apic_message *message)
{
    if (vm->engine_ops->has_apics && vm->engine_ops->has_apics(vm->engine)) {
        return false; /* it takes messages at once */
    }
    for (unsigned i = 0; i < vm->cpu_count; i++) {
        const struct lapic *lapic = &vm->vcpu[i]->lapic;
        if (lapic_accepts(lapic, message, UINT32_MAX) &&
            lapic_is_waiting(lapic, message)) {
            return true;
        }
    }
    return false;
}

static void send_msi(void *opaque, uint64_t address, uint32_t data)
{
    struct vm *vm = opaque;
    if (address >> 32 || (address & MSI_ADDRESS_MASK) != MSI_ADDRESS_BASE) {
        log_guest("message-signalled interrupt to %#llx, which is not an APIC",
                  (unsigned long long)address);
        return;
    }
    struct apic_message message = {
        .destination = MSI_DESTINATION(address),
        .is_logical = address & MSI_DESTINATION_LOGICAL,
        .shorthand = APIC_DEST_FIELD,
        .mode = (enum apic_delivery_mode)MSI_DELIVERY_MODE(data),
        .vector = MSI_VECTOR(data),
        .is_level = data & MSI_TRIGGER_LEVEL,
        .is_assert = !(data & MSI_TRIGGER_LEVEL) || (data & MSI_LEVEL_ASSERT),
    };
    if (message.is_level && !message.is_assert) {
        return; /* the end of a level interrupt changes nothing in an APIC */
    }
    /* 11.11.1: with the hint set, a logical destination means one processor of it. */
    if ((address & MSI_REDIRECTION_HINT) && message.is_logical &&
        message.mode == APIC_FIXED) {
        message.mode = APIC_LOWEST;
    }
    vm_apic_send(vm, &message, -1);
}

struct msi_sink vm_msi(struct vm *vm)
{
    return (struct msi_sink){.send = send_msi, .opaque = vm};
}

void vm_set_extint(void *opaque, unsigned number, int level)
{
    struct vm *vm = opaque;
    lapic_set_extint(&vm->vcpu[0]->lapic, level);
    if (level) {
        vcpu_kick(vm->vcpu[0]);
    }
}
