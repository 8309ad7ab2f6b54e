/*
 * Descriptor tables, exceptions and interrupts. A vector with a handler calls it and
 * goes on where the handler's frame says; one without ends the experiment that trap_try()
 * or user_run() began and is recorded; outside of one it fails the test.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

enum {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_BR = 5,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_XM = 19,
    VECTOR_USER = 0x80, /* the way back from ring 3 */
    VECTOR_WAKE = 0xf0, /* sent by smp_call */
    VECTOR_SPURIOUS = 0xff,
};

struct trap_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8;
    uint64_t rbp, rdi, rsi, rdx, rcx, rbx, rax;
    uint64_t vector, error;
    uint64_t rip, cs, rflags, rsp, ss;
};

struct tss {
    uint32_t reserved0;
    uint64_t rsp[3];
    uint64_t reserved1;
    uint64_t ist[7];
    uint64_t reserved2;
    uint16_t reserved3;
    uint16_t io_base;
    uint8_t io_bitmap[8193];
} __attribute__((packed));

struct cpu {
    uint64_t catch;     /* RSP that an experiment resumes with; 0: none is under way */
    uint64_t stack_top; /* for traps from ring 3 */
    uint32_t index;
    uint64_t count[256];    /* how often each vector came */
    struct trap_frame trap; /* the one that ended the last experiment */
    uint64_t trap_cr2;
    void *volatile call; /* smp_call's function and argument */
    void *call_argument;
    volatile uint32_t alive; /* times that it has started */
    struct tss tss;
};

/* Registers that user_enter loads. */
struct user_start {
    uint64_t rip, rdi, rsp, rflags, cs, ss, rsi, rdx, rcx;
};

struct idt_gate {
    uint16_t offset_low, selector;
    uint8_t ist, type;
    uint16_t offset_middle;
    uint32_t offset_high, reserved;
};

typedef void trap_handler(struct trap_frame *frame);
typedef uint64_t trap_function(uint64_t argument);

extern uint64_t gdt[];
extern struct idt_gate idt[256];
extern struct cpu cpus[CPU_MAX];

/* The processor this runs on, told by its task register. */
struct cpu *cpu_self(void);

/* Loads GDT, IDT and TSS of processor index. */
void trap_setup(uint32_t index);

void trap_set_handler(uint8_t vector, trap_handler *handler);

/* Gate types: 0x8e interrupt, 0x8f trap; 0x60 more for DPL 3. ist 0 to 7. */
void trap_set_gate(uint8_t vector, uint8_t type, uint8_t ist);

/* Calls function(argument); true if an exception ended it, recorded in cpu_self()->trap.
 */
bool trap_try(trap_function *function, uint64_t argument);

/* Runs ring 3 until anything without a handler brings it back; that is recorded. */
void user_run(const struct user_start *start);

/* The same with 64-bit code, the usual stack, IF set, and one argument. `code` is the
 * address of something in section .user, as linked. */
void user_call(const void *code, uint64_t argument);

/* Where ring 3 sees what is linked into section .user. */
uint64_t user_address(const void *code);

bool trap_call(trap_function *function, uint64_t argument, struct cpu *cpu);
void user_enter(const struct user_start *start);
extern char trap_resume[];
void trap_dispatch(struct trap_frame *frame);

#define ASSERT_TRAP(vector_, error_, rip_)                                         \
    do {                                                                           \
        const struct trap_frame *trap_ = &cpu_self()->trap;                        \
        if (trap_->vector != (vector_) || trap_->error != (uint64_t)(error_) ||    \
            trap_->rip != (uint64_t)(rip_)) {                                      \
            FAIL("expected vector %u, error 0x%lx, RIP 0x%lx; actual %lu, 0x%lx, " \
                 "0x%lx (CR2 0x%lx)",                                              \
                 (unsigned)(vector_), (uint64_t)(error_), (uint64_t)(rip_),        \
                 trap_->vector, trap_->error, trap_->rip, cpu_self()->trap_cr2);   \
        }                                                                          \
    } while (0)

/* Symbols of assembly inside C: TRY_ASM runs one body; `name` marks its address. */
#define ASM_FUNCTION(name, body)                                              \
    __asm__(".text\n.globl " #name "\n" #name ":\n" body "\nret\n.previous"); \
    uint64_t name(uint64_t argument)
#define USER_FUNCTION(name, body)                                         \
    __asm__(".section .user, \"ax\"\n.globl " #name "\n" #name ":\n" body \
            "\n.previous");                                               \
    extern char name[]
