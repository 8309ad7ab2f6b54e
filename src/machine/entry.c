#include "machine/entry.h"

#include <errno.h>

#include "machine/memory_map.h"
#include "x86/segment.h"

#define TABLE_ENTRIES 512u
#define GDT_ENTRIES   6u
#define ENTRY_TSS     0x20

/* Page tables at MAP_BOOT_TABLES: one PML4, one PDPT, four page directories of 2M pages.
 * Accessed and dirty are set, so that walking them never writes. */
static int put_page_tables(struct memory *memory, struct error *err)
{
    const uint64_t table = X86_PTE_P | X86_PTE_W | X86_PTE_A;
    uint64_t page[TABLE_ENTRIES] = {0};
    gpa_t pml4 = MAP_BOOT_TABLES, pdpt = pml4 + FRAME_SIZE;
    page[0] = pdpt | table;
    bool ok = ram_write(memory, pml4, page, sizeof(page));
    for (unsigned i = 0; i < 4; i++) {
        page[i] = (pdpt + (i + 1) * FRAME_SIZE) | table;
    }
    ok = ok && ram_write(memory, pdpt, page, sizeof(page));
    for (unsigned i = 0; i < 4; i++) {
        for (uint64_t j = 0; j < TABLE_ENTRIES; j++) {
            page[j] = (uint64_t)i << 30 | j << 21 | table | X86_PTE_D | X86_PTE_PS;
        }
        ok = ok && ram_write(memory, pdpt + (i + 1) * FRAME_SIZE, page, sizeof(page));
    }
    return ok ? 0 : fail_plain(err, ENOMEM, "no guest memory for the page tables");
}

/* The GDT holds what the segment registers were loaded with. */
static int put_gdt(struct x86_state *entry, struct memory *memory, struct error *err)
{
    uint64_t gdt[GDT_ENTRIES] = {0};
    gdt[ENTRY_CS / 8] = x86_segment_pack(&entry->seg[X86_CS]);
    gdt[ENTRY_DS / 8] = x86_segment_pack(&entry->seg[X86_DS]);
    gdt[ENTRY_TSS / 8] = x86_segment_pack(&entry->tr);
    if (!ram_write(memory, MAP_BOOT_GDT, gdt, sizeof(gdt))) {
        return fail_plain(err, ENOMEM, "no guest memory for the descriptor table");
    }
    entry->gdtr = (struct x86_table){MAP_BOOT_GDT, sizeof(gdt) - 1};
    return 0;
}

static void entry_init(struct x86_state *entry, bool is_long)
{
    x86_state_reset(entry, true);
    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        entry->gpr[i] = 0;
    }
    entry->rflags = X86_FLAG_1;
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        entry->seg[i] = x86_segment_flat_data(ENTRY_DS, 0);
    }
    entry->seg[X86_CS] = x86_segment_flat_code(ENTRY_CS, is_long, 0);
    entry->tr = (struct x86_segment){
        .selector = ENTRY_TSS,
        .access = X86_TYPE_TSS_BUSY | X86_ACCESS_P,
        .limit = 0x67,
    };
    entry->ldtr = x86_segment_null(0);
    entry->idtr = (struct x86_table){0, 0};
}

int entry_long_mode(struct x86_state *entry, struct memory *memory, gpa_t rip,
                    uint64_t rsi, struct error *err)
{
    entry_init(entry, true);
    entry->cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_PG;
    entry->cr3 = MAP_BOOT_TABLES;
    entry->cr4 = X86_CR4_PAE;
    entry->efer = X86_EFER_LME | X86_EFER_LMA;
    entry->rip = rip;
    entry->gpr[X86_RSI] = rsi;
    entry->gpr[X86_RSP] = MAP_BOOT_STACK;
    int result = put_page_tables(memory, err);
    return result < 0 ? result : put_gdt(entry, memory, err);
}

int entry_protected_mode(struct x86_state *entry, struct memory *memory, uint32_t eip,
                         uint32_t ebx, struct error *err)
{
    entry_init(entry, false);
    entry->cr0 = X86_CR0_PE | X86_CR0_ET;
    entry->rip = eip;
    entry->gpr[X86_RBX] = ebx;
    entry->gpr[X86_RSP] = MAP_BOOT_STACK;
    return put_gdt(entry, memory, err);
}
