/* The processor's own debugging: breakpoints of each kind, single steps, steps by
 * branches, RF and GD. */
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define DR6_NONE     0xffff0ff0u
#define DR6_BD       (1u << 13)
#define DR6_BS       (1u << 14)
#define DR7_NONE     0x400u
#define DR7_GD       (1u << 13)
#define DR7(i, kind) ((2ull << (i)*2) | (uint64_t)(kind) << (16 + (i)*4))
#define ON_EXECUTE   0x0
#define ON_WRITE_4   0xd
#define ON_PORT_1    0x2
#define ON_ACCESS_8  0xb
#define CR4_DE       (1ull << 3)
#define MSR_DEBUGCTL 0x1d9
#define DEBUGCTL_BTF 2u

#define PORT         0x80

static struct {
    unsigned count;
    uint64_t rip, flags, dr6, dr7;
} seen;
static bool sets_rf, stops_stepping;
static volatile uint64_t data[2] __attribute__((aligned(16)));

static void on_debug(struct trap_frame *frame)
{
    seen.count++;
    seen.rip = frame->rip;
    seen.flags = frame->rflags;
    seen.dr6 = dr6_read();
    seen.dr7 = dr7_read();
    dr6_write(DR6_NONE);
    if (sets_rf) {
        frame->rflags |= RFLAGS_RF;
    }
    if (stops_stepping) {
        frame->rflags &= ~(uint64_t)RFLAGS_TF;
    }
}

static void arm(unsigned i, uint64_t address, uint64_t dr7)
{
    switch (i) {
    case 0:
        __asm__ volatile("mov %0, %%dr0" : : "r"(address));
        break;
    default:
        __asm__ volatile("mov %0, %%dr3" : : "r"(address));
    }
    memset(&seen, 0, sizeof(seen));
    dr6_write(DR6_NONE);
    dr7_write(DR7_NONE | dr7);
}

static void disarm(void)
{
    dr7_write(DR7_NONE);
}

extern char at_nop[], behind_store[], behind_load[], behind_out[], at_mov_dr[],
    at_target[], behind_step[];
ASM_FUNCTION(run_nop, "at_nop: nop");
ASM_FUNCTION(run_store, "movl $7, (%rdi)\nbehind_store: nop");
ASM_FUNCTION(run_load, "mov (%rdi), %al\nbehind_load: nop");
ASM_FUNCTION(run_out, "out %al, $0x80\nbehind_out: nop");
ASM_FUNCTION(run_mov_dr, "at_mov_dr: mov %dr3, %rax");
ASM_FUNCTION(run_steps, "pushf\norl $0x100, (%rsp)\npopf\nnop\nbehind_step: nop\nnop");
ASM_FUNCTION(run_branches, "pushf\norl $0x100, (%rsp)\npopf\nnop\nxor %eax, %eax\n"
                           "jnz 1f\nnop\njz 1f\nnop\n1:\nat_target: nop");
ASM_FUNCTION(run_fill, "mov $10, %ecx\nxor %eax, %eax\ncld\nrep stosb");

static void try_execute(void)
{
    case_begin("an instruction breakpoint is a fault, and RF steps over it");
    sets_rf = true;
    arm(0, (uint64_t)at_nop, DR7(0, ON_EXECUTE));
    run_nop(0);
    disarm();
    sets_rf = false;
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, at_nop);
    ASSERT_EQ(seen.dr6, DR6_NONE | 1);
    ASSERT_EQ(seen.flags & RFLAGS_RF, 0);
}

static void try_data(void)
{
    case_begin("a write traps behind the instruction");
    arm(3, (uint64_t)data, DR7(3, ON_WRITE_4));
    run_load((uint64_t)data);
    ASSERT_EQ(seen.count, 0);
    run_store((uint64_t)data + 3);
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, behind_store);
    ASSERT_EQ(seen.dr6, DR6_NONE | 8);
    run_store((uint64_t)data + 4);
    ASSERT_EQ(seen.count, 1);
    disarm();
    case_begin("so does a read, where both are watched");
    arm(0, (uint64_t)data + 8, DR7(0, ON_ACCESS_8));
    run_load((uint64_t)data + 15);
    disarm();
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, behind_load);
    case_begin("a repetition stops behind its element");
    arm(0, (uint64_t)data + 4, DR7(0, ON_WRITE_4));
    run_fill((uint64_t)data);
    disarm();
    ASSERT_BETWEEN(seen.count, 1, 4); /* bytes 4 to 7: processors may report a group */
}

static void try_port(void)
{
    case_begin("an I/O breakpoint traps behind the instruction");
    cr4_write(cr4_read() | CR4_DE);
    arm(3, PORT, DR7(3, ON_PORT_1));
    run_out(0);
    disarm();
    cr4_write(cr4_read() & ~CR4_DE);
    if (seen.count == 0 && guest_option("may-lack")) {
        case_skip("this KVM does not look at breakpoints for accesses that leave it");
        return;
    }
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, behind_out);
    ASSERT_EQ(seen.dr6, DR6_NONE | 8);
}

static void try_general_detect(void)
{
    case_begin("general detect, which the exception switches off");
    arm(3, (uint64_t)data, DR7_GD);
    run_mov_dr(0);
    disarm();
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, at_mov_dr);
    ASSERT_EQ(seen.dr6, DR6_NONE | DR6_BD);
    ASSERT_EQ(seen.dr7 & DR7_GD, 0);
}

static void try_steps(void)
{
    case_begin("a single step");
    stops_stepping = true;
    arm(0, 0, 0);
    run_steps(0);
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, behind_step);
    ASSERT_EQ(seen.dr6, DR6_NONE | DR6_BS);
    case_begin("steps from branch to branch");
    arm(0, 0, 0);
    msr_write(MSR_DEBUGCTL, DEBUGCTL_BTF);
    run_branches(0);
    ASSERT_EQ(seen.count, 1);
    ASSERT_EQ(seen.rip, at_target);
    ASSERT_EQ(msr_read(MSR_DEBUGCTL) & DEBUGCTL_BTF, 0);
    stops_stepping = false;
}

void guest_test(void)
{
    trap_set_handler(VECTOR_DB, on_debug);
    try_execute();
    try_data();
    try_port();
    try_general_detect();
    try_steps();
}
