#pragma once
/* The engine kvm over the KVM that is not there (fake_kvm.h): one vCPU, 64 KiB. */

#include "engine/kvm/host.h"
#include "engine/kvm/kvm.h"
#include "fake_kvm.h"

#define RAM_SIZE 0x10000u

struct fixture {
    struct memory *memory;
    struct clock clock;
    struct cpuid_policy cpuid;
    struct lapic lapic;
    struct paravirt_registers paravirt;
    struct vcpu_stats stats;
    struct engine *engine;
    struct engine_vcpu *vcpu;
    struct error err;
    bool is_debugged; /* before fixture_open */
    /* The last exit, and what reads are answered with. */
    struct vcpu_exit exit;
    uint8_t data[64], answer;
    unsigned exits;
};

/* Without an engine; the fake begins anew. */
struct fixture *fixture_new(void);
void fixture_free(struct fixture *f);
bool fixture_open(struct fixture *f);
void fixture_close(struct fixture *f);
/* cmocka's: a fixture with an engine. */
int setup(void **state);
int teardown(void **state);

/* The last one made, for the fake's run function, which takes no argument. */
extern struct fixture *current;

/* What run functions give first, and the HLT that ends them. */
bool is_first(void);
int halt(struct kvm_run *run);
/* KVM cannot do the first instruction. */
int run_emulation_failure(struct kvm_run *run);
/* A state in which every part differs from a reset's. */
void fill_state(struct x86_state *state);
/* The guest has stored to a page: an entry of the ring. */
void push_dirty(unsigned at, uint32_t slot, uint64_t page);
unsigned count_entries(const char *directory);
