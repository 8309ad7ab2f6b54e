/* What only a kernel can do. */
#include "workload.h"

#include "apic.h"
#include "cpu.h"
#include "guest.h"
#include "page.h"
#include "trap.h"

#define FAULT_ADDRESS 0x5000000000

static uint64_t *fault_entry;

static void on_page_fault(struct trap_frame *frame)
{
    (void)frame;
    *fault_entry |= PTE_P;
}

uint64_t fault_run(uint64_t rounds)
{
    page_map(FAULT_ADDRESS, (uint64_t)page_new(), PTE_P | PTE_W, 1);
    fault_entry = page_entry(kernel_pml4, FAULT_ADDRESS, 1);
    trap_set_handler(VECTOR_PF, on_page_fault);
    volatile uint64_t *word = (volatile uint64_t *)FAULT_ADDRESS;
    for (uint64_t i = 0; i < rounds; i++) {
        *fault_entry &= ~PTE_P;
        invlpg(FAULT_ADDRESS);
        *word = i;
    }
    return *word;
}

/* The kernel's side of a null system call. */
__asm__(".text\n"
        "syscall_entry:\n"
        "    sysretq\n"
        ".previous");
extern char syscall_entry[];

USER_FUNCTION(user_syscalls, "0: syscall\n"
                             "   dec %rdi\n"
                             "   jnz 0b\n"
                             "   int $0x80\n");

uint64_t syscall_run(uint64_t rounds)
{
    if (rounds == 0) {
        return 0;
    }
    /* SYSRET loads CS = base + 16 and SS = base + 8, both with RPL 3. */
    msr_write(MSR_STAR,
              (uint64_t)((USER_CS32 | 3) & 0xffff) << 48 | (uint64_t)KERNEL_CS << 32);
    msr_write(MSR_LSTAR, (uint64_t)syscall_entry);
    msr_write(MSR_FMASK, RFLAGS_IF | RFLAGS_TF | RFLAGS_DF);
    msr_write(MSR_EFER, msr_read(MSR_EFER) | EFER_SCE);
    user_call(user_syscalls, rounds);
    return cpu_self()->trap.vector;
}

uint64_t port_run(uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        sum += port_read32(PM_TIMER_PORT);
    }
    return sum;
}

uint64_t mmio_run(uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        sum += *(volatile uint32_t *)0xfec00000;
    }
    return sum;
}
