#include "page.h"

#include "cpu.h"
#include "guest.h"
#include "layout.h"

uint64_t kernel_pml4[512] __attribute__((aligned(4096)));
static uint64_t identity_pdpt[512] __attribute__((aligned(4096)));
static uint64_t identity_pd[4][512] __attribute__((aligned(4096)));
static uint8_t user_stack[4096] __attribute__((aligned(4096)));
extern char guest_end[], user_start[], user_end[];
static uint64_t next_free;

void *page_new_run(uint64_t size)
{
    if (!next_free) {
        next_free = (uint64_t)guest_end;
    }
    next_free = (next_free + size - 1) & -size;
    void *run = (void *)next_free;
    next_free += size;
    return memset(run, 0, size);
}

void *page_new(void)
{
    return page_new_run(PAGE_SIZE);
}

uint64_t *page_entry(uint64_t *pml4, uint64_t address, unsigned level)
{
    uint64_t *table = pml4;
    for (unsigned i = 4; i > level; i--) {
        uint64_t *entry = &table[address >> (3 + 9 * i) & 0x1ff];
        if (!(*entry & PTE_P)) {
            *entry = (uint64_t)page_new() | PTE_P | PTE_W | PTE_U;
        }
        table = (uint64_t *)(*entry & PTE_ADDRESS);
    }
    return &table[address >> (3 + 9 * level) & 0x1ff];
}

void page_map(uint64_t address, uint64_t physical, uint64_t flags, unsigned level)
{
    *page_entry(kernel_pml4, address, level) =
        physical | flags | (level > 1 ? PTE_PS : 0);
    invlpg(address);
}

void page_setup(void)
{
    kernel_pml4[0] = (uint64_t)identity_pdpt | PTE_P | PTE_W | PTE_U;
    for (unsigned i = 0; i < 4; i++) {
        identity_pdpt[i] = (uint64_t)identity_pd[i] | PTE_P | PTE_W;
        for (uint64_t j = 0; j < 512; j++) {
            identity_pd[i][j] = (i * 512 + j) * PAGE_2M | PTE_P | PTE_W | PTE_PS;
        }
    }
    msr_write(MSR_EFER, msr_read(MSR_EFER) | EFER_NXE | EFER_SCE);
    cr3_write((uint64_t)kernel_pml4);
    cr0_write(cr0_read() | CR0_WP);
    for (char *page = user_start; page < user_end; page += PAGE_SIZE) {
        page_map(USER_CODE + (uint64_t)(page - user_start), (uint64_t)page,
                 PTE_P | PTE_W | PTE_U, 1);
    }
    page_map(USER_STACK, (uint64_t)user_stack, PTE_P | PTE_W | PTE_U, 1);
}
