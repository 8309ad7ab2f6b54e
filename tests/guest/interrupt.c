/* When interrupts are taken: shadows, NMI blocking, priorities, EOI, spurious ones; APIC
 * in both modes. */
#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "trap.h"

#define LOW_VECTOR  0x41
#define HIGH_VECTOR 0x61

static uint64_t seen_rip[8], seen_vector[8], seen_count, nmi_depth, nmi_depth_max;

static void note(struct trap_frame *frame)
{
    if (seen_count < COUNT_OF(seen_rip)) {
        seen_rip[seen_count] = frame->rip;
        seen_vector[seen_count] = frame->vector;
    }
    seen_count++;
    apic_eoi();
}

static void send_self(uint8_t vector)
{
    apic_send(ICR_TO_SELF | ICR_ASSERT | vector, 0);
}

static void reset(void)
{
    seen_count = 0;
    trap_set_handler(LOW_VECTOR, note);
    trap_set_handler(HIGH_VECTOR, note);
}

/* SDM 3A 6.8.3, APM 2 8.2: exactly one instruction runs after STI and MOV SS. */
ASM_FUNCTION(sti_nop, "sti\nnop\n.globl sti_nop_at\nsti_nop_at: nop\ncli");
ASM_FUNCTION(sti_cli, "sti\ncli\nnop");
ASM_FUNCTION(sti_hlt, "sti\nhlt\n.globl sti_hlt_at\nsti_hlt_at: cli");
ASM_FUNCTION(sti_jump, "sti\njmp 1f\nnop\n1: .globl sti_jump_at\nsti_jump_at: nop\ncli");
ASM_FUNCTION(popf_if,
             "pushf\norl $0x200, (%rsp)\npopf\n.globl popf_if_at\npopf_if_at: nop\ncli");
ASM_FUNCTION(mov_ss_step,
             "mov %ss, %eax\npushf\norl $0x100, (%rsp)\npopf\n"
             "mov %eax, %ss\nnop\n.globl mov_ss_step_at\nmov_ss_step_at: nop");
/* SDM 3A table 6-2: what waits comes behind IRET and POPF, TF's trap behind the next one.
 */
ASM_FUNCTION(popf_step, "pushf\norl $0x300, (%rsp)\npopf\n.globl popf_step_at\n"
                        "popf_step_at: nop\n.globl popf_step_end\npopf_step_end: nop");
ASM_FUNCTION(iret_step, "mov %rsp, %rdx\nmov %ss, %eax\npush %rax\npush %rdx\npushf\n"
                        "orl $0x300, (%rsp)\nmov %cs, %eax\npush %rax\n"
                        "lea iret_step_at(%rip), %rax\npush %rax\niretq\n"
                        ".globl iret_step_at\niret_step_at: nop\n"
                        ".globl iret_step_end\niret_step_end: nop");
extern char popf_step_at[], popf_step_end[], iret_step_at[], iret_step_end[];
extern char sti_nop_at[], sti_hlt_at[], sti_jump_at[], popf_if_at[], mov_ss_step_at[];

static void try_shadow(trap_function *function, char *expected_rip)
{
    reset();
    send_self(LOW_VECTOR);
    ASSERT_EQ(seen_count, 0);
    function(0);
    ASSERT_EQ(seen_count, expected_rip ? 1 : 0);
    if (expected_rip) {
        ASSERT_EQ(seen_rip[0], expected_rip);
    } else {
        interrupts_window();
        ASSERT_EQ(seen_count, 1);
    }
}

static void try_shadows(void)
{
    case_begin("STI: one more instruction");
    try_shadow(sti_nop, sti_nop_at);
    try_shadow(sti_jump, sti_jump_at);
    case_begin("STI, CLI lets nothing through");
    try_shadow(sti_cli, NULL);
    case_begin("STI, HLT wakes up at once");
    try_shadow(sti_hlt, sti_hlt_at);
    case_begin("POPF has no shadow");
    try_shadow(popf_if, popf_if_at);
    case_begin("MOV SS keeps a single-step trap away for one instruction");
    ASSERT(trap_try(mov_ss_step, 0));
    ASSERT_TRAP(VECTOR_DB, 0, mov_ss_step_at);
}

static void try_step(trap_function *function, const char *at, const char *end)
{
    reset();
    send_self(LOW_VECTOR);
    ASSERT(trap_try(function, 0));
    ASSERT_TRAP(VECTOR_DB, 0, end);
    ASSERT_EQ(seen_count, 1);
    ASSERT_EQ(seen_rip[0], at);
}

static void try_steps(void)
{
    case_begin("POPF of IF and TF: an interrupt, one instruction, the trap");
    for (unsigned i = 0; i < 20; i++) {
        try_step(popf_step, popf_step_at, popf_step_end);
    }
    case_begin("IRET likewise");
    for (unsigned i = 0; i < 20; i++) {
        try_step(iret_step, iret_step_at, iret_step_end);
    }
}

static void on_nmi(struct trap_frame *frame)
{
    (void)frame;
    nmi_depth++;
    if (nmi_depth > nmi_depth_max) {
        nmi_depth_max = nmi_depth;
    }
    if (seen_count++ == 0) {
        apic_send(ICR_NMI | ICR_ASSERT, apic_id());
        apic_send(ICR_NMI | ICR_ASSERT, apic_id()); /* only one is remembered */
        for (unsigned i = 0; i < 100; i++) {
            pause();
        }
        /* Exceptions in the handler are delivered, and their IRET ends the blocking: the
         * second comes now (SDM 3A 6.7.1). */
        if (seen_vector[0] == VECTOR_BP) {
            nmi_depth--;
            __asm__ volatile("int3");
            nmi_depth++;
        }
    }
    nmi_depth--;
}

static void on_bp(struct trap_frame *frame)
{
    (void)frame;
    ASSERT_EQ(seen_count, 1);
}

static void try_nmi(void)
{
    case_begin("NMIs are blocked until IRET");
    seen_count = nmi_depth = nmi_depth_max = 0;
    seen_vector[0] = 0;
    trap_set_handler(VECTOR_NMI, on_nmi);
    apic_send(ICR_NMI | ICR_ASSERT, apic_id());
    ASSERT_EQ(seen_count, 2);
    ASSERT_EQ(nmi_depth_max, 1);

    case_begin("the IRET of an exception ends the blocking");
    seen_count = nmi_depth = nmi_depth_max = 0;
    seen_vector[0] = VECTOR_BP;
    trap_set_handler(VECTOR_BP, on_bp);
    apic_send(ICR_NMI | ICR_ASSERT, apic_id());
    ASSERT_EQ(seen_count, 2);
    trap_set_handler(VECTOR_BP, NULL);
    trap_set_handler(VECTOR_NMI, NULL);
}

static void try_priorities(void)
{
    case_begin("CR8 is the TPR's upper half");
    for (uint64_t priority = 0; priority < 16; priority++) {
        cr8_write(priority);
        ASSERT_EQ(cr8_read(), priority);
        ASSERT_EQ(apic_read(APIC_TPR), priority << 4);
        ASSERT_EQ(apic_read(APIC_PPR), priority << 4);
    }
    apic_write(APIC_TPR, 0x35);
    ASSERT_EQ(cr8_read(), 3);

    case_begin("the TPR holds back its class and those below");
    for (unsigned priority = 0; priority < 16; priority++) {
        reset();
        cr8_write(priority);
        send_self(LOW_VECTOR);
        interrupts_window();
        ASSERT_EQ(seen_count, priority < LOW_VECTOR >> 4);
        ASSERT_EQ(apic_bit(APIC_IRR, LOW_VECTOR), priority >= LOW_VECTOR >> 4);
        cr8_write(0);
        interrupts_window();
        ASSERT_EQ(seen_count, 1);
        ASSERT(!apic_bit(APIC_IRR, LOW_VECTOR));
    }

    case_begin("the higher vector comes first");
    reset();
    send_self(LOW_VECTOR);
    send_self(HIGH_VECTOR);
    send_self(HIGH_VECTOR); /* merges with the one that waits */
    __asm__ volatile("sti; nop; nop; nop; nop; cli" : : : "memory");
    ASSERT_EQ(seen_count, 2);
    ASSERT_EQ(seen_vector[0], HIGH_VECTOR);
    ASSERT_EQ(seen_vector[1], LOW_VECTOR);
}

static uint8_t nested_vector;
static uint64_t nested_count;

/* Without an EOI, an interrupt of a lower class waits, of a higher one does not. */
static void hold_isr(struct trap_frame *frame)
{
    (void)frame;
    trap_set_handler(LOW_VECTOR + 0x10, NULL);
    ASSERT(apic_bit(APIC_ISR, LOW_VECTOR + 0x10));
    ASSERT_EQ(apic_read(APIC_PPR), (LOW_VECTOR + 0x10) & 0xf0);
    send_self(nested_vector);
    interrupts_window();
    nested_count = seen_count;
    apic_eoi();
    ASSERT(!apic_bit(APIC_ISR, LOW_VECTOR + 0x10));
}

static void try_in_service(void)
{
    case_begin("in service: lower ones wait for EOI, higher ones do not");
    for (unsigned i = 0; i < 2; i++) {
        reset();
        nested_vector = i ? HIGH_VECTOR : LOW_VECTOR;
        trap_set_handler(LOW_VECTOR + 0x10, hold_isr);
        send_self(LOW_VECTOR + 0x10);
        interrupts_window();
        ASSERT_EQ(nested_count, i);
        interrupts_window();
        ASSERT_EQ(seen_count, 1);
    }
}

static void try_illegal_vector(void)
{
    case_begin("illegal vectors are errors");
    apic_write(APIC_LVT_ERROR, HIGH_VECTOR);
    reset();
    apic_write(APIC_ESR, 0);
    send_self(0x0f);
    apic_write(APIC_ESR, 0);
    uint32_t errors = apic_read(APIC_ESR);
    if (errors == 0 && guest_option("may-lack")) {
        case_skip("this KVM's APIC does not report them");
    } else {
        ASSERT(errors & (1u << 5 | 1u << 6));
        interrupts_window();
        ASSERT_EQ(seen_count, 1);
    }
    apic_write(APIC_LVT_ERROR, LVT_MASKED);
    apic_write(APIC_ESR, 0);
}

static uint64_t write_self_ipi(uint64_t value)
{
    msr_write(0x83f, value);
    return 0;
}

static void try_mode(bool x2apic)
{
    apic_enable(x2apic);
    print("# %s\n", x2apic ? "x2APIC" : "xAPIC");
    try_shadows();
    try_steps();
    try_nmi();
    try_priorities();
    try_in_service();
    try_illegal_vector();
    case_begin("the self-IPI register");
    reset();
    if (x2apic) {
        write_self_ipi(LOW_VECTOR);
        interrupts_window();
        ASSERT_EQ(seen_count, 1);
    }
    ASSERT_EQ(trap_try(write_self_ipi, 0x100), true);
    ASSERT_EQ(cpu_self()->trap.vector, VECTOR_GP);
}

void guest_test(void)
{
    try_mode(false);
    try_mode(true);
}
