#include "dispatcher/paravirt.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "dispatcher/vcpu.h"
#include "x86/paravirt.h"

const struct device_field paravirt_fields[] = {
    DEVICE_FIELD(struct paravirt, registers.wall_clock),
    DEVICE_FIELD(struct paravirt, registers.clock),
    DEVICE_FIELD(struct paravirt, registers.steal),
    DEVICE_FIELD(struct paravirt, registers.eoi),
    DEVICE_FIELD(struct paravirt, registers.eoi_is_offered),
    DEVICE_FIELD(struct paravirt, tsc_offset),
    DEVICE_FIELD(struct paravirt, clock_version),
    DEVICE_FIELD_END,
};

void paravirt_init(struct paravirt *paravirt)
{
    *paravirt = (struct paravirt){.schedstat = -1};
}

void paravirt_fini(struct paravirt *paravirt)
{
    if (paravirt->schedstat >= 0) {
        close(paravirt->schedstat);
        paravirt->schedstat = -1;
    }
}

void paravirt_reset(struct paravirt *paravirt)
{
    int schedstat = paravirt->schedstat;
    uint64_t delay_ns = paravirt->delay_ns;
    *paravirt = (struct paravirt){.schedstat = schedstat, .delay_ns = delay_ns};
}

/* Documentation/scheduler/sched-stats.rst: ns on a processor, ns waiting for one, slices.
 */
static bool read_delay(const struct paravirt *paravirt, uint64_t *delay_ns)
{
    char text[80];
    ssize_t size = paravirt->schedstat >= 0
                       ? pread(paravirt->schedstat, text, sizeof(text) - 1, 0)
                       : -1;
    if (size <= 0) {
        return false;
    }
    text[size] = '\0';
    unsigned long long run, delay;
    if (sscanf(text, "%llu %llu", &run, &delay) != 2) {
        return false;
    }
    *delay_ns = delay;
    return true;
}

void paravirt_attach(struct paravirt *paravirt)
{
    if (paravirt->schedstat < 0) {
        paravirt->schedstat = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    }
    read_delay(paravirt, &paravirt->delay_ns);
}

/* The clock page. The TSC is the guest's clock at another rate, so one function serves
 * all vCPUs for ever, unless a guest moves its TSC. */
static void publish_clock(struct vcpu *vcpu)
{
    struct paravirt *paravirt = &vcpu->paravirt;
    if (!(paravirt->registers.clock & PARAVIRT_ENABLED)) {
        return;
    }
    struct paravirt_clock_page page = {
        .version = paravirt->clock_version + 1,
        .tsc_timestamp = paravirt->tsc_offset,
        .flags = PARAVIRT_CLOCK_PAGE_STABLE,
    };
    paravirt_clock_scale(vcpu->vm->config.cpuid.tsc_khz, &page.multiplier, &page.shift);
    struct memory *memory = vcpu->vm->memory;
    gpa_t gpa = paravirt->registers.clock & ~(gpa_t)PARAVIRT_ENABLED;
    ram_write(memory, gpa, &page, sizeof(page));
    page.version++;
    ram_write(memory, gpa, &page.version, sizeof(page.version));
    paravirt->clock_version = page.version;
}

static void publish_wall_clock(struct vcpu *vcpu)
{
    uint64_t ns = (uint64_t)vm_wall_ns(vcpu->vm) - clock_now(&vcpu->vm->clock);
    struct paravirt_wall_clock page = {
        .version = 1,
        .seconds = (uint32_t)(ns / NS_PER_SECOND),
        .nanoseconds = (uint32_t)(ns % NS_PER_SECOND),
    };
    gpa_t gpa = vcpu->paravirt.registers.wall_clock;
    ram_write(vcpu->vm->memory, gpa, &page, sizeof(page));
    page.version++;
    ram_write(vcpu->vm->memory, gpa, &page.version, sizeof(page.version));
}

/* Its steal page, or NULL; to be given back by ram_unmap. */
static struct paravirt_steal_page *map_steal(struct vcpu *vcpu)
{
    uint64_t steal = vcpu->paravirt.registers.steal;
    return steal & PARAVIRT_ENABLED ? ram_map(vcpu->vm->memory, steal & ~(gpa_t)63,
                                              sizeof(struct paravirt_steal_page), true)
                                    : NULL;
}

/* What was stolen so far is in the page, whoever kept it before. */
static void publish_steal(struct vcpu *vcpu, uint64_t stolen_ns)
{
    struct paravirt_steal_page *page = map_steal(vcpu);
    if (!page) {
        return;
    }
    uint32_t version = (__atomic_load_n(&page->version, __ATOMIC_RELAXED) + 1) | 1;
    __atomic_store_n(&page->version, version, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_release);
    uint64_t steal_ns = __atomic_load_n(&page->steal_ns, __ATOMIC_RELAXED) + stolen_ns;
    __atomic_store_n(&page->steal_ns, steal_ns, __ATOMIC_RELAXED);
    __atomic_store_n(&page->version, version + 1, __ATOMIC_RELEASE);
    ram_unmap(vcpu->vm->memory, page, sizeof(*page));
}

/* Engines with APICs of their own keep the steal page themselves, since a processor halts
 * there without anybody else hearing of it. */
static bool is_kept_by_engine(const struct vcpu *vcpu)
{
    const struct vm *vm = vcpu->vm;
    return vm->engine_ops->has_apics && vm->engine_ops->has_apics(vm->engine);
}

void paravirt_account(struct vcpu *vcpu)
{
    struct paravirt *paravirt = &vcpu->paravirt;
    uint64_t delay_ns;
    if (!(paravirt->registers.steal & PARAVIRT_ENABLED) || is_kept_by_engine(vcpu) ||
        !read_delay(paravirt, &delay_ns) || delay_ns == paravirt->delay_ns) {
        return;
    }
    uint64_t stolen_ns = delay_ns - paravirt->delay_ns;
    paravirt->delay_ns = delay_ns;
    publish_steal(vcpu, stolen_ns);
}

static bool offers_flush(const struct vcpu *vcpu)
{
    return vcpu->vm->config.cpuid.paravirt & PARAVIRT_TLB_FLUSH &&
           !is_kept_by_engine(vcpu);
}

void paravirt_sleep(struct vcpu *vcpu)
{
    struct paravirt_steal_page *page = offers_flush(vcpu) ? map_steal(vcpu) : NULL;
    if (page) {
        atomic_store(&page->preempted, PARAVIRT_PREEMPTED);
        ram_unmap(vcpu->vm->memory, page, sizeof(*page));
    }
}

void paravirt_wake(struct vcpu *vcpu)
{
    struct paravirt_steal_page *page = offers_flush(vcpu) ? map_steal(vcpu) : NULL;
    if (page) {
        uint8_t asked = atomic_exchange(&page->preempted, 0);
        ram_unmap(vcpu->vm->memory, page, sizeof(*page));
        if (asked & PARAVIRT_FLUSH) {
            vcpu->vm->engine_ops->flush_tlb(vcpu->engine);
        }
    }
}

void paravirt_tsc_moved(struct vcpu *vcpu, uint64_t tsc_offset)
{
    vcpu->paravirt.tsc_offset = tsc_offset;
    publish_clock(vcpu);
}

static void enable_clock(struct vcpu *vcpu, uint64_t value)
{
    vcpu->paravirt.registers.clock = value;
    publish_clock(vcpu);
}

static void set_wall_clock(struct vcpu *vcpu, uint64_t value)
{
    vcpu->paravirt.registers.wall_clock = value;
    publish_wall_clock(vcpu);
}

static void enable_steal(struct vcpu *vcpu, uint64_t value)
{
    struct paravirt *paravirt = &vcpu->paravirt;
    paravirt->registers.steal = value;
    if (value & PARAVIRT_ENABLED) {
        read_delay(paravirt, &paravirt->delay_ns);
        publish_steal(vcpu, 0);
    }
}

/* The engine has looked at the word, and goes on with the new one. */
static void enable_eoi(struct vcpu *vcpu, uint64_t value)
{
    vcpu->paravirt.registers.eoi = value;
}

struct paravirt_msr {
    uint32_t index;
    uint32_t feature;
    uint64_t reserved; /* bits whose setting raises #GP */
    size_t field;
    void (*write)(struct vcpu *vcpu, uint64_t value);
};

#define FIELD(name) offsetof(struct paravirt_registers, name)

static const struct paravirt_msr msrs[] = {
    {MSR_PARAVIRT_WALL_CLOCK, PARAVIRT_CLOCK, 0, FIELD(wall_clock), set_wall_clock},
    {MSR_PARAVIRT_CLOCK, PARAVIRT_CLOCK, 0, FIELD(clock), enable_clock},
    {MSR_PARAVIRT_WALL_CLOCK_OLD, PARAVIRT_CLOCK_OLD, 0, FIELD(wall_clock),
     set_wall_clock},
    {MSR_PARAVIRT_CLOCK_OLD, PARAVIRT_CLOCK_OLD, 0, FIELD(clock), enable_clock},
    {MSR_PARAVIRT_STEAL, PARAVIRT_STEAL, 0x3e, FIELD(steal), enable_steal},
    {MSR_PARAVIRT_EOI, PARAVIRT_EOI, 0x2, FIELD(eoi), enable_eoi},
};

bool paravirt_msr(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    for (unsigned i = 0; i < array_size(msrs); i++) {
        const struct paravirt_msr *msr = &msrs[i];
        if (msr->index != exit->msr.index ||
            !(vcpu->vm->config.cpuid.paravirt & msr->feature)) {
            continue;
        }
        if (exit->reason == EXIT_MSR_READ) {
            memcpy(&exit->msr.value, (uint8_t *)&vcpu->paravirt.registers + msr->field,
                   sizeof(uint64_t));
        } else if (exit->msr.value & msr->reserved) {
            exit->msr.is_fault = true;
        } else {
            vcpu->paravirt.tsc_offset = exit->msr.tsc_offset;
            msr->write(vcpu, exit->msr.value);
        }
        return true;
    }
    return false;
}

/* Up to 128 APIC IDs in two bitmaps, counted from a lowest one; the rest is the ICR's low
 * word. */
static int64_t send_ipi(struct vcpu *vcpu, const uint64_t argument[4])
{
    struct apic_message message = {
        .is_x2apic = true,
        .mode = (enum apic_delivery_mode)(argument[3] >> 8 & 7),
        .vector = (uint8_t)argument[3],
        .is_assert = true,
    };
    if (message.mode != APIC_FIXED && message.mode != APIC_NMI) {
        return HYPERCALL_INVALID;
    }
    int64_t sent = 0;
    for (unsigned bit = 0; bit < 128; bit++) {
        uint64_t id = (uint32_t)argument[2] + (uint64_t)bit;
        if (argument[bit / 64] >> bit % 64 & 1 && id < vcpu->vm->cpu_count) {
            message.destination = (uint32_t)id;
            vm_apic_send(vcpu->vm, &message, (int)vcpu->index);
            sent++;
        }
    }
    return sent;
}

void paravirt_hypercall(struct vcpu *vcpu, struct vcpu_exit *exit)
{
    uint32_t features = vcpu->vm->config.cpuid.paravirt;
    int64_t result = HYPERCALL_UNKNOWN;
    if (!features) {
        exit->hypercall.is_undefined = true;
        return;
    }
    if (exit->hypercall.cpl != 0) {
        result = HYPERCALL_NOT_PERMITTED;
    } else if (exit->hypercall.number == HYPERCALL_SEND_IPI && features & PARAVIRT_IPI) {
        result = send_ipi(vcpu, exit->hypercall.argument);
    } else if (exit->hypercall.number == HYPERCALL_SCHED_YIELD &&
               features & PARAVIRT_YIELD) {
        sched_yield();
        result = 0;
    }
    exit->hypercall.result = (uint64_t)result;
}
