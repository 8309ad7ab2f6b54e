/*
 * Arithmetic flags that the code behind overwrites unread, as an interrupt pushes them:
 * an engine need not keep them, but shows them all the same. What they are follows from
 * the registers that the handler finds. (As faults push them: tests/isa.)
 */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define VECTOR 0x51
#define TICKS  300
#define ARITH  0x8d5ul

/* RDI: rounds; RSI: what to read and write. Behind each label the flags are those of the
 * instruction before it. */
ASM_FUNCTION(spin_run, "mov $0x123456789, %rdx\n"
                       "spin_round:\n"
                       "cmp %rdx, %rdi\n"
                       "spin_compared:\n"
                       "mov (%rsi), %r8\n"
                       "lea 3(%rdi, %rdi, 4), %rax\n"
                       "jmp 1f\n"
                       "ud2\n"
                       "1: mov %rax, %rcx\n"
                       "xor %rdi, %rcx\n"
                       "spin_xored:\n"
                       "mov 8(%rsi), %r9\n"
                       "push %r9\n"
                       "pop %r9\n"
                       "jmp 2f\n"
                       "ud2\n"
                       "2: imul $77, %rdx, %rdx\n"
                       "spin_multiplied: add $13, %dl\n"
                       "spin_added:\n"
                       "mov %r8, 16(%rsi)\n"
                       "mov %rdx, %r8\n"
                       "mov 24(%rsi), %rax\n"
                       "sub $1, %rdi\n"
                       "spin_counted:\n"
                       "jnz spin_round\n"
                       "spin_end:\n");
extern char spin_round[], spin_compared[], spin_xored[], spin_multiplied[], spin_added[],
    spin_counted[], spin_end[];

#define FLAGS_OF(instruction, type, first, second)            \
    ({                                                        \
        type a_ = (type)(first), b_ = (type)(second);         \
        uint64_t flags_;                                      \
        __asm__ volatile(instruction " %2, %1; pushf; pop %0" \
                         : "=&r"(flags_), "+q"(a_)            \
                         : "q"(b_)                            \
                         : "cc", "memory");                   \
        flags_;                                               \
    })

static uint64_t expected_flags(const struct trap_frame *frame)
{
    const char *rip = (const char *)frame->rip;
    if (rip >= spin_counted || rip < spin_compared) {
        return FLAGS_OF("cmp", uint64_t, frame->rdi + 1, 1);
    }
    if (rip < spin_xored) {
        return FLAGS_OF("cmp", uint64_t, frame->rdi, frame->rdx);
    }
    if (rip < spin_added) {
        return FLAGS_OF("test", uint64_t, frame->rcx, frame->rcx);
    }
    return FLAGS_OF("add", uint8_t, frame->rdx - 13, 13);
}

static volatile uint64_t ticks;

static void tick(struct trap_frame *frame)
{
    const char *rip = (const char *)frame->rip;
    apic_eoi();
    /* Neither before the first round, nor where IMUL has left some undefined. */
    if (rip <= spin_round || rip >= spin_end || rip == spin_multiplied) {
        return;
    }
    uint64_t expected = expected_flags(frame);
    if ((frame->rflags ^ expected) & ARITH) {
        FAIL("at round + %lu: flags 0x%lx expected, actual 0x%lx",
             (uint64_t)(rip - spin_round), expected & ARITH, frame->rflags & ARITH);
    }
    ticks++;
}

static void try_interrupts(void)
{
    static uint64_t memory[4] = {1, 2, 3, 4};
    case_begin("interrupts in a loop that overwrites flags unread");
    apic_enable(true);
    trap_set_handler(VECTOR, tick);
    apic_write(APIC_LVT_TIMER, VECTOR | LVT_PERIODIC);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_TIMER_COUNT, cpuid(0x40000010, 0).ebx / 20);
    interrupts_enable();
    while (ticks < TICKS) {
        uint64_t rounds = 20000;
        __asm__ volatile("call spin_run"
                         : "+D"(rounds)
                         : "S"(memory)
                         : "rax", "rcx", "rdx", "r8", "r9", "memory", "cc");
    }
    interrupts_disable();
    apic_write(APIC_LVT_TIMER, LVT_MASKED);
    interrupts_window();
}

void guest_test(void)
{
    try_interrupts();
}
