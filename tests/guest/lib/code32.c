#include "code32.h"

#include "cpu.h"
#include "guest.h"
#include "page.h"

#define FIRST_SELECTOR 0x140 /* behind the library's */
#define SELECTORS      16

static uint64_t table[FIRST_SELECTOR / 8 + SELECTORS];
static unsigned selectors;
static const char *source;
uint8_t *code32_code, *code32_data, *code32_stack;

uint32_t describe(uint32_t base, uint32_t limit, uint32_t rights)
{
    unsigned slot = FIRST_SELECTOR / 8 + selectors++;
    ASSERT(selectors <= SELECTORS);
    table[slot] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
                  (uint64_t)(rights & 0xff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
                  (uint64_t)(rights >> 12) << 52 | (uint64_t)(base >> 24) << 56;
    return slot * 8 | (rights & DPL_3 ? 3 : 0);
}

void *descriptor_of(uint32_t selector)
{
    return &table[selector / 8];
}

void descriptor_forget(unsigned count)
{
    selectors -= count;
}

void set_data(uint32_t ds, uint32_t es)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %1, %%es" : : "r"(ds), "r"(es));
}

void set_based(uint32_t fs, uint32_t gs)
{
    __asm__ volatile("mov %0, %%fs\n\tmov %1, %%gs" : : "r"(fs), "r"(gs));
}

uint8_t *copy_of(const char *piece)
{
    return code32_code + (piece - source);
}

void code32_begin(const char *start, const char *end)
{
    source = start;
    memcpy(table, gdt, FIRST_SELECTOR);
    selectors = 0;
    struct descriptor_pointer pointer = {sizeof(table) - 1, (uint64_t)table};
    __asm__ volatile("lgdt %0" : : "m"(pointer));
    memcpy(code32_code, start, (size_t)(end - start));
    memset(code32_data, 0, CODE32_DATA_SIZE);
}

void code32_end(void)
{
    set_data(KERNEL_DS, KERNEL_DS);
    set_based(0, 0);
    trap_setup(0);
}

struct run run_at(const struct place *place, const char *piece)
{
    uint32_t dpl = place->is_user ? DPL_3 : 0;
    return (struct run){
        .cs = describe(place->code, 0xfffff, CODE_32 | dpl),
        .ss = describe(place->stack, 0xfffff, DATA_32 | dpl),
        .ds = describe(place->data, 0xfffff, DATA_32 | dpl),
        .es = describe(place->extra, 0xfffff, DATA_32 | dpl),
        .eip = linear(copy_of(piece)) - place->code,
        .esp = linear(code32_stack) + CODE32_STACK_TOP - place->stack,
    };
}

/* Like user_enter, with what it lacks. */
static uint64_t enter(uint64_t argument)
{
    const struct {
        const struct run *run;
        const struct registers *registers;
    } *both = (const void *)argument;
    const struct run *run = both->run;
    uint64_t flags = RFLAGS_FIXED | run->flags | (run->has_interrupts ? RFLAGS_IF : 0);
    uint64_t frame[5] = {run->eip, run->cs, flags, run->esp, run->ss};
    set_data(run->ds, run->es);
    const struct registers *r = both->registers;
    /* The upper halves are rubbish that 32-bit code must not see. */
    uint64_t rubbish = 0xdeadbeef00000000;
    __asm__ volatile("mov %[bp], %%rbp\n\t"
                     "mov %[frame], %%rsp\n\t"
                     "iretq"
                     :
                     : [frame] "r"(frame), [bp] "r"(rubbish | r->ebp),
                       "a"(rubbish | r->eax), "b"(rubbish | r->ebx),
                       "c"(rubbish | r->ecx), "d"(rubbish | r->edx),
                       "S"(rubbish | r->esi), "D"(rubbish | r->edi), "m"(frame)
                     : "memory");
    return 0;
}

const struct trap_frame *run_code32(const struct run *run, struct registers registers)
{
    const struct {
        const struct run *run;
        const struct registers *registers;
    } both = {run, &registers};
    trap_try(enter, (uint64_t)&both);
    set_data(KERNEL_DS, KERNEL_DS);
    return &cpu_self()->trap;
}

void expect_end(const struct trap_frame *trap)
{
    if (trap->vector != VECTOR_USER) {
        FAIL("vector %lu, error 0x%lx, RIP 0x%lx, RAX 0x%lx, RBX 0x%lx, CR2 0x%lx",
             trap->vector, trap->error, trap->rip, trap->rax, trap->rbx,
             cpu_self()->trap_cr2);
    }
}

/* Ring 3 sees what lies in these pages of the identity map. */
void code32_prepare(void)
{
    code32_code = page_new_run(0x8000);
    code32_data = code32_code + 0x1000;
    code32_stack = code32_data + CODE32_DATA_SIZE;
    uint8_t *trap_stack = code32_stack + 0x1000;
    for (unsigned level = 2; level <= 4; level++) {
        *page_entry(kernel_pml4, linear(code32_code), level) |= PTE_U;
    }
    cr3_reload();
    cpu_self()->tss.ist[0] = (uint64_t)trap_stack + 0x2000;
    for (unsigned vector = 0; vector < 32; vector++) {
        trap_set_gate((uint8_t)vector, 0x8e, 1);
    }
    trap_set_gate(VECTOR_USER, 0xee, 1);
}
