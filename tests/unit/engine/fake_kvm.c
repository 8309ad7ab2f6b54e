#include "fake_kvm.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#include "engine/kvm/host.h"
#include "x86/flags.h"

struct fake_kvm fake_kvm;
static struct kvm_run *run_page;
static int64_t tsc_offset;

#define REQUEST(NAME) \
    {                 \
        NAME, #NAME   \
    }
const struct fake_request fake_requests[] = {
    REQUEST(KVM_GET_API_VERSION),
    REQUEST(KVM_CHECK_EXTENSION),
    REQUEST(KVM_GET_SUPPORTED_CPUID),
    REQUEST(KVM_GET_VCPU_MMAP_SIZE),
    REQUEST(KVM_CREATE_VM),
    REQUEST(KVM_SET_IDENTITY_MAP_ADDR),
    REQUEST(KVM_SET_TSS_ADDR),
    REQUEST(KVM_ENABLE_CAP),
    REQUEST(KVM_X86_SET_MSR_FILTER),
    REQUEST(KVM_SET_USER_MEMORY_REGION),
    REQUEST(KVM_GET_DIRTY_LOG),
    REQUEST(KVM_RESET_DIRTY_RINGS),
    REQUEST(KVM_SET_GSI_ROUTING),
    REQUEST(KVM_SIGNAL_MSI),
    REQUEST(KVM_IOEVENTFD),
    REQUEST(KVM_CREATE_VCPU),
    REQUEST(KVM_SET_CPUID2),
    REQUEST(KVM_GET_CPUID2),
    REQUEST(KVM_SET_TSC_KHZ),
    REQUEST(KVM_SET_DEVICE_ATTR),
    REQUEST(KVM_RUN),
    REQUEST(KVM_INTERRUPT),
    REQUEST(KVM_NMI),
    REQUEST(KVM_SET_GUEST_DEBUG),
    REQUEST(KVM_GET_REGS),
    REQUEST(KVM_SET_REGS),
    REQUEST(KVM_GET_SREGS),
    REQUEST(KVM_SET_SREGS),
    REQUEST(KVM_GET_XSAVE),
    REQUEST(KVM_SET_XSAVE),
    REQUEST(KVM_GET_XCRS),
    REQUEST(KVM_SET_XCRS),
    REQUEST(KVM_GET_DEBUGREGS),
    REQUEST(KVM_SET_DEBUGREGS),
    REQUEST(KVM_GET_VCPU_EVENTS),
    REQUEST(KVM_SET_VCPU_EVENTS),
    REQUEST(KVM_GET_MSRS),
    REQUEST(KVM_SET_MSRS),
    REQUEST(KVM_GET_LAPIC),
    REQUEST(KVM_SET_LAPIC),
    REQUEST(KVM_GET_MP_STATE),
    REQUEST(KVM_SET_MP_STATE),
    {0, NULL},
};

unsigned fake_request_index(unsigned long request)
{
    unsigned i = 0;
    while (fake_requests[i].name && fake_requests[i].request != request) {
        i++;
    }
    assert(fake_requests[i].name);
    return i;
}

static bool must_fail(unsigned long request)
{
    if (++fake_kvm.calls != fake_kvm.fail_at) {
        return false;
    }
    fake_kvm.failed_request = request;
    errno = EIO;
    return true;
}

static int fake_open(const char *path, int flags)
{
    return must_fail(0) ? -1 : eventfd(0, EFD_CLOEXEC);
}

static int create_vcpu(void)
{
    int fd = memfd_create("fake-vcpu", MFD_CLOEXEC);
    return fd >= 0 && ftruncate(fd, FAKE_RUN_SIZE) == 0 ? fd : -1;
}

static int run(void)
{
    int code = 0;
    fake_kvm.runs++;
    if (fake_kvm.run) {
        code = fake_kvm.run(run_page);
    } else if (run_page->immediate_exit) {
        code = EINTR;
    } else {
        run_page->exit_reason = KVM_EXIT_HLT;
    }
    errno = code;
    return code ? -1 : 0;
}

static struct kvm_msr_entry *find_msr(uint32_t index)
{
    for (unsigned i = 0; i < fake_kvm.msr_count; i++) {
        if (fake_kvm.msr[i].index == index) {
            return &fake_kvm.msr[i];
        }
    }
    fake_kvm.msr[fake_kvm.msr_count].index = index;
    return &fake_kvm.msr[fake_kvm.msr_count++];
}

/* One at a time, as the engine asks. */
static int access_msr(struct kvm_msrs *msrs, bool is_write)
{
    struct kvm_msr_entry *kept = find_msr(msrs->entries[0].index);
    if (is_write) {
        kept->data = msrs->entries[0].data;
    } else if (kept->index == MSR_TSC) {
        msrs->entries[0].data = __rdtsc() + (uint64_t)tsc_offset;
    } else {
        msrs->entries[0].data = kept->data;
    }
    return 1;
}

static int keep(void *kept, const void *given, size_t size)
{
    memcpy(kept, given, size);
    return 0;
}

static int get_dirty_log(struct kvm_dirty_log *log)
{
    uint64_t *bitmap = log->dirty_bitmap;
    *bitmap = log->slot == 0 && fake_kvm.has_dirty_page ? 2 : 0;
    fake_kvm.has_dirty_page &= log->slot != 0;
    return 0;
}

/* Supports every bit of every leaf that the engine knows. */
static int get_supported(struct kvm_cpuid2 *cpuid)
{
    static const uint32_t leaves[][2] = {
        {1, 0},          {6, 0},          {7, 0},          {0xd, 0},       {0xd, 1},
        {0x80000001, 0}, {0x80000007, 0}, {0x80000008, 0}, {0x40000001, 0}};
    cpuid->nent = sizeof(leaves) / sizeof(leaves[0]);
    for (unsigned i = 0; i < cpuid->nent; i++) {
        cpuid->entries[i] = (struct kvm_cpuid_entry2){
            .function = leaves[i][0],
            .index = leaves[i][1],
            .flags = leaves[i][0] == 7 || leaves[i][0] == 0xd
                         ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX
                         : 0,
            .eax = UINT32_MAX &
                   ~(leaves[i][0] == 0x40000001 ? fake_kvm.unsupported_services : 0),
            .ebx = UINT32_MAX & ~(leaves[i][0] == 7 ? fake_kvm.unsupported_ebx7 : 0),
            .ecx = UINT32_MAX,
            .edx = UINT32_MAX,
        };
    }
    return 0;
}

static int set_cpuid(const struct kvm_cpuid2 *cpuid)
{
    size_t size = sizeof(*cpuid) + cpuid->nent * sizeof(cpuid->entries[0]);
    memcpy(&fake_kvm.cpuid, cpuid, size);
    for (unsigned i = 0; i < cpuid->nent; i++) {
        if (cpuid->entries[i].function == 7) {
            fake_kvm.cpuid.entry[i].ebx |= fake_kvm.forced_ebx7;
        }
    }
    return 0;
}

static int set_filter(const struct kvm_msr_filter *filter)
{
    fake_kvm.filter.range_count = 0;
    for (unsigned i = 0; i < KVM_MSR_FILTER_MAX_RANGES; i++) {
        if (filter->ranges[i].nmsrs) {
            unsigned next = fake_kvm.filter.range_count++;
            fake_kvm.filter.first[next] = filter->ranges[i].base;
            fake_kvm.filter.count[next] = filter->ranges[i].nmsrs;
        }
    }
    return 0;
}

#define KEPT(NAME, field)                                           \
    case KVM_GET_##NAME:                                            \
        return keep(data, &fake_kvm.field, sizeof(fake_kvm.field)); \
    case KVM_SET_##NAME:                                            \
        return keep(&fake_kvm.field, data, sizeof(fake_kvm.field))

static int fake_ioctl(int fd, unsigned long request, unsigned long argument)
{
    void *data = (void *)argument;
    fake_request_index(request);
    if (must_fail(request)) {
        return -1;
    }
    switch (request) {
    case KVM_GET_API_VERSION:
        return KVM_API_VERSION;
    case KVM_CHECK_EXTENSION:
        if (argument == KVM_CAP_DIRTY_LOG_RING_ACQ_REL) {
            return fake_kvm.has_ring ? 1 << 20 : 0;
        }
        if (argument == KVM_CAP_SET_GUEST_DEBUG2) {
            return fake_kvm.has_guest_debug ? (int)KVM_GUESTDBG_BLOCKIRQ : 0;
        }
        return argument != KVM_CAP_SPLIT_IRQCHIP || fake_kvm.has_apic;
    case KVM_RESET_DIRTY_RINGS:
        fake_kvm.ring_resets++;
        return 1;
    case KVM_SIGNAL_MSI:
        fake_kvm.msi = *(struct kvm_msi *)data;
        return 1;
    case KVM_SET_GSI_ROUTING:
        fake_kvm.route_count = ((struct kvm_irq_routing *)data)->nr;
        fake_kvm.route = ((struct kvm_irq_routing *)data)->entries[0];
        return 0;
    case KVM_CREATE_VM:
        return eventfd(0, EFD_CLOEXEC);
    case KVM_CREATE_VCPU:
        return create_vcpu();
    case KVM_GET_VCPU_MMAP_SIZE:
        return FAKE_RUN_SIZE;
    case KVM_GET_SUPPORTED_CPUID:
        return get_supported(data);
    case KVM_SET_CPUID2:
        return set_cpuid(data);
    case KVM_GET_CPUID2:
        return keep(data, &fake_kvm.cpuid, sizeof(fake_kvm.cpuid));
    case KVM_SET_USER_MEMORY_REGION:
        memcpy(&fake_kvm.region[((struct kvm_userspace_memory_region *)data)->slot], data,
               sizeof(fake_kvm.region[0]));
        return 0;
    case KVM_GET_DIRTY_LOG:
        return get_dirty_log(data);
    case KVM_SET_DEVICE_ATTR:
        memcpy(&tsc_offset, (void *)((struct kvm_device_attr *)data)->addr, 8);
        return 0;
    case KVM_GET_MSRS:
    case KVM_SET_MSRS:
        return access_msr(data, request == KVM_SET_MSRS);
    case KVM_X86_SET_MSR_FILTER:
        return set_filter(data);
    case KVM_SET_GUEST_DEBUG:
        return keep(&fake_kvm.guest_debug, data, sizeof(fake_kvm.guest_debug));
    case KVM_IOEVENTFD:
        fake_kvm.doorbell = *(struct kvm_ioeventfd *)data;
        return 0;
    case KVM_INTERRUPT:
        fake_kvm.interrupt = ((struct kvm_interrupt *)data)->irq;
        return 0;
    case KVM_NMI:
        fake_kvm.nmis++;
        return 0;
    case KVM_RUN:
        return run();
        KEPT(REGS, regs);
        KEPT(LAPIC, lapic);
        KEPT(MP_STATE, mp);
        KEPT(SREGS, sregs);
        KEPT(XSAVE, xsave);
        KEPT(XCRS, xcrs);
        KEPT(DEBUGREGS, debugregs);
        KEPT(VCPU_EVENTS, events);
    default:
        return 0;
    }
}

static void *fake_mmap(size_t size, int fd, long offset)
{
    if (must_fail(0)) {
        return MAP_FAILED;
    }
    if (offset == KVM_DIRTY_LOG_PAGE_OFFSET * 4096L) {
        fake_kvm.ring =
            mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        return fake_kvm.ring;
    }
    run_page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    return run_page;
}

static const struct kvm_calls fake_calls = {
    .open = fake_open,
    .ioctl = fake_ioctl,
    .mmap = fake_mmap,
    .munmap = munmap,
    .close = close,
};

void fake_kvm_install(void)
{
    memset(&fake_kvm, 0, sizeof(fake_kvm));
    run_page = NULL;
    tsc_offset = 0;
    kvm_set_calls(&fake_calls);
}
