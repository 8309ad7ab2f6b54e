#include "trap.h"

#include "cpu.h"
#include "guest.h"
#include "page.h"

_Static_assert(offsetof(struct cpu, catch) == CPU_CATCH, "start.S knows this offset");
_Static_assert(offsetof(struct cpu, stack_top) == CPU_STACK_TOP,
               "start.S knows this offset");

#define GDT_SLOTS (TSS_BASE / 8 + 2 * CPU_MAX)
uint64_t gdt[GDT_SLOTS] __attribute__((aligned(16))) = {
    [KERNEL_CS / 8] = 0x00af9b000000ffff, [KERNEL_DS / 8] = 0x00cf93000000ffff,
    [USER_CS32 / 8] = 0x00cffb000000ffff, [USER_DS / 8] = 0x00cff3000000ffff,
    [USER_CS64 / 8] = 0x00affb000000ffff, [KERNEL_CS32 / 8] = 0x00cf9b000000ffff,
};
struct idt_gate idt[256] __attribute__((aligned(16)));
struct cpu cpus[CPU_MAX];

static trap_handler *handlers[256];
static uint8_t trap_stacks[CPU_MAX][2][STACK_SIZE] __attribute__((aligned(16)));
extern char vector_stubs[], user_start[];

struct cpu *cpu_self(void)
{
    uint64_t selector;
    __asm__ volatile("str %0" : "=r"(selector));
    return &cpus[(selector - TSS_BASE) / 16];
}

void trap_set_gate(uint8_t vector, uint8_t type, uint8_t ist)
{
    uint64_t offset = (uint64_t)vector_stubs + vector * 16;
    idt[vector] = (struct idt_gate){
        .offset_low = (uint16_t)offset,
        .offset_middle = (uint16_t)(offset >> 16),
        .offset_high = (uint32_t)(offset >> 32),
        .selector = KERNEL_CS,
        .type = type,
        .ist = ist,
    };
}

static void load_tables(uint32_t index)
{
    struct descriptor_pointer gdtr = {sizeof(gdt) - 1, (uint64_t)gdt};
    struct descriptor_pointer idtr = {sizeof(idt) - 1, (uint64_t)idt};

    __asm__ volatile("lgdt %0\n"
                     "lidt %1\n"
                     "push %2\n"
                     "lea 1f(%%rip), %%rax\n"
                     "push %%rax\n"
                     "lretq\n"
                     "1: mov %3, %%eax\n"
                     "mov %%eax, %%ss\n"
                     "mov %%eax, %%ds\n"
                     "mov %%eax, %%es\n"
                     "xor %%eax, %%eax\n"
                     "mov %%eax, %%fs\n"
                     "mov %%eax, %%gs\n"
                     "ltr %w4\n"
                     :
                     : "m"(gdtr), "m"(idtr), "i"(KERNEL_CS), "i"(KERNEL_DS),
                       "r"(TSS_BASE + 16 * index)
                     : "rax", "memory");
}

void trap_setup(uint32_t index)
{
    struct cpu *cpu = &cpus[index];
    uint64_t base = (uint64_t)&cpu->tss, limit = sizeof(cpu->tss) - 1;

    cpu->index = index;
    cpu->catch = 0;
    cpu->stack_top = (uint64_t)trap_stacks[index][0] + STACK_SIZE;
    cpu->tss.rsp[0] = cpu->stack_top;
    cpu->tss.ist[0] = (uint64_t)trap_stacks[index][1] + STACK_SIZE;
    cpu->tss.io_base = sizeof(cpu->tss); /* beyond the limit: no port is permitted */
    gdt[TSS_BASE / 8 + 2 * index] =
        limit | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
    gdt[TSS_BASE / 8 + 2 * index + 1] = base >> 32;
    for (unsigned i = 0; index == 0 && i < 256; i++) {
        trap_set_gate((uint8_t)i, i == VECTOR_USER ? 0xee : 0x8e, i == VECTOR_DF);
    }
    load_tables(index);
}

void trap_set_handler(uint8_t vector, trap_handler *handler)
{
    handlers[vector] = handler;
}

void trap_dispatch(struct trap_frame *frame)
{
    struct cpu *cpu = cpu_self();
    uint64_t cr2 = cr2_read();

    cpu->count[frame->vector & 0xff]++;
    if (handlers[frame->vector & 0xff]) {
        handlers[frame->vector & 0xff](frame);
        return;
    }
    if (!cpu->catch) {
        FAIL("processor %u: vector %lu, error 0x%lx, RIP 0x%lx, CR2 0x%lx, RSP 0x%lx, "
             "RFLAGS 0x%lx, CS 0x%lx",
             cpu->index, frame->vector, frame->error, frame->rip, cr2, frame->rsp,
             frame->rflags, frame->cs);
    }
    cpu->trap = *frame;
    cpu->trap_cr2 = cr2;
    frame->rip = (uint64_t)trap_resume;
    frame->cs = KERNEL_CS;
    frame->rflags = RFLAGS_FIXED;
    frame->rsp = cpu->catch;
    frame->ss = KERNEL_DS;
}

bool trap_try(trap_function *function, uint64_t argument)
{
    return trap_call(function, argument, cpu_self());
}

static uint64_t enter(uint64_t argument)
{
    user_enter((const struct user_start *)argument);
    return 0;
}

void user_run(const struct user_start *start)
{
    trap_try(enter, (uint64_t)start);
}

uint64_t user_address(const void *code)
{
    return USER_CODE + ((uint64_t)code - (uint64_t)user_start);
}

void user_call(const void *code, uint64_t argument)
{
    struct user_start start = {
        .rip = user_address(code),
        .rdi = argument,
        .rsp = USER_STACK + 4096 - 16,
        .rflags = RFLAGS_FIXED,
        .cs = USER_CS64,
        .ss = USER_DS,
    };
    user_run(&start);
}
