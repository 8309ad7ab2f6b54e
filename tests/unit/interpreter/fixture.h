#pragma once
/*
 * A small machine around one interpreted processor: 2 MiB of RAM, mapped one to one,
 * descriptor tables and a TSS. Every vector's handler is a HLT of its own, so a test
 * reads from RIP which vector was delivered and finds its frame at RSP.
 */

#include "interpreter/cpu.h"
#include "x86/segment.h"

#define FIXTURE_RAM      0x200000u
#define FIXTURE_PAGES    0x4000u /* the page table: entry n maps page n */
#define FIXTURE_GDT      0x5000u
#define FIXTURE_IDT      0x6000u
#define FIXTURE_TSS      0x7000u
#define FIXTURE_HANDLERS 0x8000u /* 16 bytes a vector */
#define FIXTURE_CODE     0x10000u
#define FIXTURE_DATA     0x20000u
#define FIXTURE_STACK    0x40000u /* top of the first stack, ring 0 */
#define FIXTURE_RSP0     0x50000u
#define FIXTURE_DEVICE   0x10000000u /* guest-physical; not mapped */
#define FIXTURE_IST1     0x60000u
#define FIXTURE_USER     0x70000u /* top of the ring 3 stack */

/* Selectors of the GDT. */
enum {
    SEL_CODE64 = 0x08,
    SEL_DATA = 0x10,
    SEL_USER_CODE32 = 0x18 | 3,
    SEL_USER_DATA = 0x20 | 3,
    SEL_USER_CODE64 = 0x28 | 3,
    SEL_TSS = 0x30,
    SEL_CODE32 = 0x40,
    SEL_ABSENT = 0x48,
    SEL_CONFORMING = 0x50,
    SEL_BEYOND = 0x100,
};

struct fixture {
    struct memory *memory;
    struct cpuid_policy cpuid;
    struct cpu *cpu;
    uint8_t *ram;
    /* The last port access. */
    uint16_t port;
    uint32_t port_count;
    bool port_is_write;
    bool port_is_steady; /* reads give the port's number, however they are divided */
    uint8_t port_data[4096];
    uint8_t device[4096]; /* memory behind the bus, at FIXTURE_DEVICE */
};

/* 64-bit mode at FIXTURE_CODE, ring 0, IF clear. */
struct fixture *fixture_long(void);
/* With a named CPU model. */
struct fixture *fixture_long_model(const char *model);
/* The same in 32-bit protected mode without paging, and in real mode. */
struct fixture *fixture_protected(void);
struct fixture *fixture_real(void);
void fixture_free(struct fixture *fixture);

/* Copies code to FIXTURE_CODE and runs it until the processor halts or shuts down, at
 * most some thousand instructions; asserts that it does. */
void fixture_run(struct fixture *fixture, const void *code, size_t size);
#define RUN_BYTES(fixture, ...)                         \
    do {                                                \
        static const uint8_t bytes_[] = {__VA_ARGS__};  \
        fixture_run((fixture), bytes_, sizeof(bytes_)); \
    } while (0)
/* Goes on from where the processor is. */
void fixture_go(struct fixture *fixture);

/* The vector whose handler the processor has halted in, or -1. */
int fixture_vector(const struct fixture *fixture);
uint64_t fixture_read(const struct fixture *fixture, uint64_t gpa, unsigned size);
void fixture_write(struct fixture *fixture, uint64_t gpa, unsigned size, uint64_t value);
/* The nth 8-byte value of the frame at RSP. */
uint64_t fixture_frame(const struct fixture *fixture, unsigned n);

/* A 64-bit gate. */
void fixture_gate(struct fixture *fixture, uint8_t vector, uint64_t offset, unsigned type,
                  unsigned dpl, unsigned ist);
/* Replaces the page table's entry for an address (0: not present). */
void fixture_map(struct fixture *fixture, uint64_t gva, uint64_t flags);
