/*
 * The local APICs in KVM ("split irqchip"), where it has them: interrupts, messages
 * between processors, halts and the APIC's timer then cost no exit. The 8259s, the I/O
 * APIC and the 8254 stay ours: guests touch them rarely, KVM's show other registers than
 * ours, and they are the larger part of what a guest could attack in the host's kernel.
 *
 * The state travels in struct lapic, as for every engine. While a vCPU is outside of
 * run(), its timer stands still in KVM and struct lapic has the deadline, so that pauses
 * and snapshots find guest time, not the host's. Whoever changes an APIC from outside
 * stops the other processors and the senders of messages first: between KVM_GET_LAPIC and
 * KVM_SET_LAPIC nothing may arrive, since it would be lost.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"
#include "engine/kvm/vcpu.h"
#include "x86/paravirt.h"

#define IOAPIC_INPUTS 24

/* SDM 3A 11.11: a message-signalled interrupt. */
#define MSI_ADDRESS           0xfee00000u
#define MSI_DESTINATION_SHIFT 12
#define MSI_LOGICAL           0x4u
#define MSI_MODE_SHIFT        8
#define MSI_ASSERT            0x4000u
#define MSI_LEVEL             0x8000u

static const int needed[] = {
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_SIGNAL_MSI, KVM_CAP_IRQ_ROUTING,
    KVM_CAP_MP_STATE,      KVM_CAP_X2APIC_API, KVM_CAP_TSC_DEADLINE_TIMER,
};

bool kvm_apic_is_offered(int device)
{
    for (unsigned i = 0; i < array_size(needed); i++) {
        if (kvm_ioctl(device, KVM_CHECK_EXTENSION, (unsigned long)needed[i]) <= 0) {
            return false;
        }
    }
    return true;
}

/* What the guest gets of an input: nothing, or a level-triggered vector, whose EOI the
 * I/O APIC has to see. */
static int set_routes(struct engine *engine)
{
    struct {
        struct kvm_irq_routing header;
        struct kvm_irq_routing_entry entry[IOAPIC_INPUTS];
    } table = {0};
    for (unsigned i = 0; i < IOAPIC_INPUTS; i++) {
        if (engine->route[i].address_lo) {
            table.entry[table.header.nr++] = (struct kvm_irq_routing_entry){
                .gsi = i, .type = KVM_IRQ_ROUTING_MSI, .u.msi = engine->route[i]};
        }
    }
    return kvm_ioctl_pointer(engine->fd, KVM_SET_GSI_ROUTING, &table);
}

int kvm_apic_init(struct engine *engine, struct error *err)
{
    if (engine->config.is_debugged || !kvm_apic_is_offered(engine->device)) {
        return 0;
    }
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {IOAPIC_INPUTS}};
    struct kvm_enable_cap ids = {
        .cap = KVM_CAP_X2APIC_API,
        .args = {KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK}};
    if (kvm_ioctl_pointer(engine->fd, KVM_ENABLE_CAP, &split) < 0) {
        return fail(err, errno, "KVM_CAP_SPLIT_IRQCHIP");
    }
    if (kvm_ioctl_pointer(engine->fd, KVM_ENABLE_CAP, &ids) < 0) {
        return fail(err, errno, "KVM_CAP_X2APIC_API");
    }
    if (set_routes(engine) < 0) {
        return fail(err, errno, "KVM_SET_GSI_ROUTING");
    }
    engine->has_apic = true;
    return 0;
}

static void make_msi(const struct apic_message *message, uint32_t *address,
                     uint32_t *data)
{
    *address = MSI_ADDRESS | message->destination << MSI_DESTINATION_SHIFT |
               (message->is_logical ? MSI_LOGICAL : 0);
    *data = message->vector | (uint32_t)message->mode << MSI_MODE_SHIFT |
            (message->is_level ? MSI_LEVEL | MSI_ASSERT : 0);
}

/* The first failure counts. Whoever executes guest code hears of it now. */
static void fail_locked(struct engine *engine, int code, const char *format, ...)
{
    if (engine->apic_failure.code) {
        return;
    }
    char message[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    fail(&engine->apic_failure, code, "%s", message);
    engine->has_apic_failure = true;
    for (unsigned i = 0; i < engine->config.cpus; i++) {
        if (engine->vcpu[i]) {
            kvm_kick(engine->vcpu[i], false);
        }
    }
}

/* ExtINT is not KVM's: the 8259s are ours. A message to nobody is EPERM, and lost as on
 * any bus. */
bool kvm_apic_send(struct engine *engine, const struct apic_message *message)
{
    if (!engine->has_apic || message->mode == APIC_EXTINT) {
        return false;
    }
    struct kvm_msi msi = {0};
    make_msi(message, &msi.address_lo, &msi.data);
    pthread_mutex_lock(&engine->apic_lock);
    if (kvm_ioctl_pointer(engine->fd, KVM_SIGNAL_MSI, &msi) < 0 && errno != EPERM) {
        fail_locked(engine, errno, "KVM: cannot send interrupt %u", message->vector);
    }
    pthread_mutex_unlock(&engine->apic_lock);
    return true;
}

void kvm_apic_route(struct engine *engine, unsigned input,
                    const struct apic_message *message)
{
    if (!engine->has_apic || input >= IOAPIC_INPUTS) {
        return;
    }
    struct kvm_irq_routing_msi msi = {0};
    if (message) {
        make_msi(message, &msi.address_lo, &msi.data);
    }
    pthread_mutex_lock(&engine->apic_lock);
    if (memcmp(&engine->route[input], &msi, sizeof(msi)) != 0) {
        engine->route[input] = msi;
        if (set_routes(engine) < 0) {
            fail_locked(engine, errno, "KVM: cannot route the I/O APIC's input %u",
                        input);
        }
    }
    pthread_mutex_unlock(&engine->apic_lock);
}

/* --- State --- */

static bool get_image(struct engine_vcpu *vcpu, struct kvm_lapic_state *image)
{
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_LAPIC, image) < 0) {
        kvm_fail(vcpu, errno, "KVM_GET_LAPIC");
        return false;
    }
    return true;
}

/* Where the timer runs in KVM: it comes along. */
static void take(struct engine_vcpu *vcpu)
{
    struct lapic *lapic = vcpu->processor.config.lapic;
    struct kvm_lapic_state image;
    if (!get_image(vcpu, &image)) {
        return;
    }
    uint64_t now = processor_now(&vcpu->processor), deadline = 0;
    lapic_import(lapic, (uint8_t *)image.regs);
    lapic->base = vcpu->state.apic_base;
    if (lapic_import_timer(lapic, now, (uint8_t *)image.regs)) {
        if (!kvm_msr_get(vcpu, MSR_TSC_DEADLINE, &deadline)) {
            kvm_fail(vcpu, errno, "KVM: cannot read the APIC timer");
        }
        lapic_import_deadline(
            lapic, now, processor_tsc(&vcpu->processor, &vcpu->state, now), deadline);
    }
}

static void give(struct engine_vcpu *vcpu, bool has_timer)
{
    struct lapic *lapic = vcpu->processor.config.lapic;
    struct kvm_lapic_state image;
    lapic_export(lapic, processor_now(&vcpu->processor), has_timer,
                 (uint8_t *)image.regs);
    if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_LAPIC, &image) < 0) {
        kvm_fail(vcpu, errno, "KVM_SET_LAPIC");
        return;
    }
    /* Refused, and without effect, in the other modes. */
    uint64_t deadline = has_timer ? lapic->tsc_deadline : 0;
    if (!kvm_msr_set(vcpu, MSR_TSC_DEADLINE, deadline) && deadline) {
        kvm_fail(vcpu, errno, "KVM: cannot set the APIC timer");
    }
}

/* Nobody else runs, and no message arrives. */
static void begin(struct engine_vcpu *vcpu)
{
    processor_exclusive_begin(&vcpu->processor);
    pthread_mutex_lock(&vcpu->engine->apic_lock);
}

static void end(struct engine_vcpu *vcpu)
{
    pthread_mutex_unlock(&vcpu->engine->apic_lock);
    processor_exclusive_end(&vcpu->processor);
}

void kvm_apic_stop(struct engine_vcpu *vcpu)
{
    begin(vcpu);
    take(vcpu);
    give(vcpu, false);
    vcpu->is_timer_stopped = true;
    end(vcpu);
}

void kvm_apic_start(struct engine_vcpu *vcpu)
{
    if (vcpu->is_timer_stopped) {
        begin(vcpu);
        kvm_apic_save(vcpu);
        processor_take_eoi(
            &vcpu->processor); /* offered by the engine it was saved under */
        give(vcpu, true);
        vcpu->is_timer_stopped = false;
        end(vcpu);
    }
}

void kvm_apic_save(struct engine_vcpu *vcpu)
{
    struct kvm_lapic_state image;
    if (get_image(vcpu, &image)) {
        lapic_import(vcpu->processor.config.lapic, (uint8_t *)image.regs);
    }
}

void kvm_apic_load(struct engine_vcpu *vcpu)
{
    give(vcpu, false);
    vcpu->is_timer_stopped = true;
}

/* --- Services that go with the APIC --- */

static const struct {
    uint32_t index, service;
    size_t field;
} services[] = {
    {MSR_PARAVIRT_STEAL, PARAVIRT_STEAL, offsetof(struct paravirt_registers, steal)},
    {MSR_PARAVIRT_EOI, PARAVIRT_EOI, offsetof(struct paravirt_registers, eoi)},
};

static void *service_value(struct engine_vcpu *vcpu, unsigned i)
{
    struct paravirt_registers *registers = vcpu->processor.config.paravirt;
    bool is_offered =
        vcpu->engine->config.cpuid->paravirt & services[i].service && registers;
    return is_offered ? (uint8_t *)registers + services[i].field : NULL;
}

void kvm_apic_save_services(struct engine_vcpu *vcpu)
{
    for (unsigned i = 0; i < array_size(services); i++) {
        uint64_t value = 0;
        void *kept = service_value(vcpu, i);
        if (kept && !kvm_msr_get(vcpu, services[i].index, &value)) {
            kvm_fail(vcpu, errno, "KVM: cannot read MSR %#x", services[i].index);
        } else if (kept) {
            memcpy(kept, &value, sizeof(value));
        }
    }
}

/* An address that KVM does not like is the guest's fault, whom the service then does not
 * reach; none of ours was refused to it. */
void kvm_apic_load_services(struct engine_vcpu *vcpu)
{
    for (unsigned i = 0; i < array_size(services); i++) {
        uint64_t value;
        void *kept = service_value(vcpu, i);
        if (kept) {
            memcpy(&value, kept, sizeof(value));
            if (!kvm_msr_set(vcpu, services[i].index, value) &&
                (errno != EINVAL || !value)) {
                kvm_fail(vcpu, errno, "KVM: cannot load MSR %#x", services[i].index);
            }
        }
    }
}

/* --- What the interpreter does in KVM's stead --- */

void kvm_apic_begin(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    begin(vcpu);
    take(vcpu);
}

void kvm_apic_end(struct processor *processor)
{
    struct engine_vcpu *vcpu = container_of(processor, struct engine_vcpu, processor);
    give(vcpu, true);
    end(vcpu);
}

/* --- Events --- */

static const uint32_t mp_states[] = {
    [X86_RUNNING] = KVM_MP_STATE_RUNNABLE,
    [X86_HALTED] = KVM_MP_STATE_HALTED,
    [X86_WAIT_SIPI] = KVM_MP_STATE_INIT_RECEIVED,
    [X86_SHUTDOWN] = KVM_MP_STATE_RUNNABLE,
};

void kvm_apic_save_activity(struct engine_vcpu *vcpu)
{
    struct kvm_mp_state mp;
    if (vcpu->state.activity == X86_SHUTDOWN) {
        return;
    }
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_MP_STATE, &mp) < 0) {
        kvm_fail(vcpu, errno, "KVM_GET_MP_STATE");
        return;
    }
    vcpu->state.activity = mp.mp_state == KVM_MP_STATE_HALTED ? X86_HALTED
                           : mp.mp_state == KVM_MP_STATE_INIT_RECEIVED ||
                                   mp.mp_state == KVM_MP_STATE_UNINITIALIZED
                               ? X86_WAIT_SIPI
                               : X86_RUNNING;
    vcpu->loaded_activity = vcpu->state.activity;
}

void kvm_apic_load_activity(struct engine_vcpu *vcpu)
{
    struct kvm_mp_state mp = {.mp_state = mp_states[vcpu->state.activity]};
    if (vcpu->state.activity != vcpu->loaded_activity &&
        kvm_ioctl_pointer(vcpu->fd, KVM_SET_MP_STATE, &mp) < 0) {
        kvm_fail(vcpu, errno, "KVM_SET_MP_STATE");
    }
    vcpu->loaded_activity = vcpu->state.activity;
}

/* The 8259's interrupt, as one that was recognised: so it is saved, too, if it is not
 * delivered at once. */
static void inject_extint(struct engine_vcpu *vcpu)
{
    int vector = processor_acknowledge(&vcpu->processor, LAPIC_EXTINT);
    struct kvm_vcpu_events events;
    if (vector < 0) {
        return;
    }
    if (kvm_ioctl_pointer(vcpu->fd, KVM_GET_VCPU_EVENTS, &events) < 0) {
        kvm_fail(vcpu, errno, "KVM_GET_VCPU_EVENTS");
        return;
    }
    events.interrupt.injected = 1;
    events.interrupt.nr = (uint8_t)vector;
    events.interrupt.soft = 0;
    struct kvm_mp_state running = {.mp_state = KVM_MP_STATE_RUNNABLE};
    if (kvm_ioctl_pointer(vcpu->fd, KVM_SET_VCPU_EVENTS, &events) < 0 ||
        kvm_ioctl_pointer(vcpu->fd, KVM_SET_MP_STATE, &running) < 0) {
        kvm_fail(vcpu, errno, "KVM: cannot inject interrupt %d", vector);
    }
    vcpu->can_inject = false;
    processor_count(&vcpu->processor, EXIT_INTERRUPT);
}

void kvm_apic_take_events(struct engine_vcpu *vcpu)
{
    if (vcpu->engine->has_apic_failure) {
        vcpu->failure = vcpu->engine->apic_failure;
        return;
    }
    const uint32_t asks = LAPIC_SIGNAL_EXTINT | LAPIC_SIGNAL_EXTINT_MESSAGE;
    struct lapic *lapic = vcpu->processor.config.lapic;
    if (atomic_load(&lapic->signals) & asks && vcpu->can_inject) {
        inject_extint(vcpu);
    }
    vcpu->run->request_interrupt_window = (atomic_load(&lapic->signals) & asks) != 0;
}

void kvm_apic_exit_eoi(struct engine_vcpu *vcpu)
{
    struct vcpu_exit exit = {.reason = EXIT_EOI, .eoi_vector = vcpu->run->eoi.vector};
    processor_exit(&vcpu->processor, &exit);
}
