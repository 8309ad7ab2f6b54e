#pragma once
/*
 * A KVM that executes nothing: it keeps the state it is given, answers KVM_RUN with exits
 * that the test has prepared, and fails the call it is told to.
 */

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define FAKE_RUN_SIZE (3 * 4096u)

struct fake_kvm {
    unsigned calls;               /* so far */
    unsigned fail_at;             /* this call fails, counted from 1; 0: none */
    unsigned long failed_request; /* the ioctl that failed; 0: not an ioctl */

    /* Called for each KVM_RUN; 0, or an errno. NULL: EINTR when immediate_exit is set,
     * else HLT. */
    int (*run)(struct kvm_run *run);
    unsigned runs;

    bool has_apic;                      /* offers APICs of its own */
    struct kvm_msi msi;                 /* the last one */
    unsigned route_count;               /* of the I/O APIC's inputs */
    struct kvm_irq_routing_entry route; /* the first */
    struct kvm_lapic_state lapic;
    struct kvm_mp_state mp;
    struct kvm_regs regs;
    struct kvm_sregs sregs;
    uint8_t xsave[sizeof(struct kvm_xsave)];
    struct kvm_xcrs xcrs;
    struct kvm_debugregs debugregs;
    struct kvm_vcpu_events events;
    /* As last set; leaf 7 with forced_ebx7 and without what is not supported. */
    struct {
        struct kvm_cpuid2 header;
        struct kvm_cpuid_entry2 entry[64];
    } cpuid;
    uint32_t unsupported_ebx7, forced_ebx7;
    uint32_t unsupported_services; /* leaf 0x40000001 */
    struct {
        unsigned range_count;
        uint32_t first[KVM_MSR_FILTER_MAX_RANGES], count[KVM_MSR_FILTER_MAX_RANGES];
    } filter; /* the MSRs that it keeps */
    struct kvm_msr_entry msr[32];
    unsigned msr_count;
    struct kvm_userspace_memory_region region[8];
    unsigned interrupt; /* the last one injected */
    unsigned nmis;
    bool has_guest_debug; /* says that it can hold interrupts back in steps */
    struct kvm_guest_debug guest_debug;
    struct kvm_ioeventfd doorbell; /* the last one */
    bool has_ring;                 /* offers dirty rings */
    struct kvm_dirty_gfn *ring;
    unsigned ring_resets;
    bool has_dirty_page; /* of slot 0: its second */
};

extern struct fake_kvm fake_kvm;

/* Every request of the engine; any other is a defect of this test. index: in the table,
 * which a name of NULL ends. */
struct fake_request {
    unsigned long request;
    const char *name;
};
extern const struct fake_request fake_requests[];
unsigned fake_request_index(unsigned long request);

/* Begins anew, and stands in for the host's. */
void fake_kvm_install(void);
