/*
 * Power-up, INIT and start-up states (SDM 3A 10.1.1, table 10-1), the mode that follows
 * from the registers, and the register dump.
 */

#include "x86/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "x86/paging.h"
#include "x86/segment.h"

#define RESET_CR0  (X86_CR0_CD | X86_CR0_NW | X86_CR0_ET)
#define RESET_DR6  0xffff0ff0u
#define RESET_DR7  0x400u
#define RESET_PAT  0x0007040600070406ull
#define RESET_EDX  0x600u /* family 6; who knows the CPU model puts its signature here */
#define RESET_FCW  0x0040
#define RESET_CSR  0x1f80
#define APIC_BASE  0xfee00000ull
#define APIC_BSP   (1ull << 8)
#define APIC_XAPIC (1ull << 11)

/* What RESET and INIT have in common: general, control, debug and segment registers. */
static void reset_core(struct x86_state *state, bool is_bootstrap)
{
    memset(state->gpr, 0, sizeof(state->gpr));
    state->gpr[X86_RDX] = RESET_EDX;
    state->rip = 0xfff0;
    state->rflags = X86_FLAG_1;

    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        state->seg[i] = x86_segment_real(0);
    }
    state->seg[X86_CS].selector = 0xf000;
    state->seg[X86_CS].base = 0xffff0000;
    state->ldtr = (struct x86_segment){
        .access = X86_ACCESS_P | X86_TYPE_LDT,
        .limit = 0xffff,
    };
    state->tr = (struct x86_segment){
        .access = X86_ACCESS_P | X86_TYPE_TSS_BUSY,
        .limit = 0xffff,
    };
    state->gdtr = (struct x86_table){.limit = 0xffff};
    state->idtr = (struct x86_table){.limit = 0xffff};

    state->cr2 = 0;
    state->cr3 = 0;
    state->cr4 = 0;
    memset(state->pdpte, 0, sizeof(state->pdpte));
    state->efer = 0;
    memset(state->dr, 0, sizeof(state->dr));
    state->dr6 = RESET_DR6;
    state->dr7 = RESET_DR7;

    state->activity = is_bootstrap ? X86_RUNNING : X86_WAIT_SIPI;
    state->event = (struct x86_event){0};
    state->interrupt_shadow = X86_SHADOW_NONE;
    state->nmi_blocked = false;
    state->held_debug = 0;
}

void x86_state_reset(struct x86_state *state, bool is_bootstrap)
{
    memset(state, 0, sizeof(*state));
    reset_core(state, is_bootstrap);
    state->cr0 = RESET_CR0;
    state->xcr0 = X86_XCR0_X87;
    state->pat = RESET_PAT;
    state->misc_enable = 1; /* fast strings */
    state->apic_base = APIC_BASE | APIC_XAPIC | (is_bootstrap ? APIC_BSP : 0);
    state->fpu.fcw = RESET_FCW;
    state->fpu.ftw = 0xff; /* tag word 5555h: every register holds +0.0 */
    state->fpu.mxcsr = RESET_CSR;
}

void x86_state_init(struct x86_state *state, bool is_bootstrap)
{
    reset_core(state, is_bootstrap);
    state->cr0 = (state->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
}

void x86_state_startup(struct x86_state *state, uint8_t vector)
{
    if (state->activity != X86_WAIT_SIPI) {
        return;
    }
    state->seg[X86_CS] = x86_segment_real((uint16_t)(vector << 8));
    state->rip = 0;
    state->activity = X86_RUNNING;
}

enum x86_mode x86_state_mode(const struct x86_state *state)
{
    uint32_t code = state->seg[X86_CS].access;

    if (state->efer & X86_EFER_LMA) {
        if (code & X86_ACCESS_L) {
            return X86_MODE_LONG64;
        }
        return code & X86_ACCESS_DB ? X86_MODE_COMPAT32 : X86_MODE_COMPAT16;
    }
    if (!(state->cr0 & X86_CR0_PE)) {
        return X86_MODE_REAL;
    }
    if (state->rflags & X86_FLAG_VM) {
        return X86_MODE_VM86;
    }
    return code & X86_ACCESS_DB ? X86_MODE_PROTECTED32 : X86_MODE_PROTECTED16;
}

/* A text that grows in a fixed buffer; length counts what did not fit, too. */
struct text {
    char *buffer;
    unsigned size, length;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *text,
                                                           const char *format, ...)
{
    bool fits = text->length < text->size;
    va_list arguments;

    va_start(arguments, format);
    int added = vsnprintf(fits ? text->buffer + text->length : NULL,
                          fits ? text->size - text->length : 0, format, arguments);
    va_end(arguments);
    text->length += added > 0 ? (unsigned)added : 0;
}

static void add_flags(struct text *text, uint64_t rflags)
{
    static const struct {
        uint32_t bit;
        char letters[4];
    } names[] = {
        {X86_FLAG_ID, "id"}, {X86_FLAG_VIP, "vip"}, {X86_FLAG_VIF, "vif"},
        {X86_FLAG_AC, "ac"}, {X86_FLAG_VM, "vm"},   {X86_FLAG_RF, "rf"},
        {X86_FLAG_NT, "nt"}, {X86_FLAG_OF, "o"},    {X86_FLAG_DF, "d"},
        {X86_FLAG_IF, "i"},  {X86_FLAG_TF, "t"},    {X86_FLAG_SF, "s"},
        {X86_FLAG_ZF, "z"},  {X86_FLAG_AF, "a"},    {X86_FLAG_PF, "p"},
        {X86_FLAG_CF, "c"},
    };

    text_add(text, "RFLAGS=%08llx [iopl%llu", (unsigned long long)rflags,
             (unsigned long long)(rflags & X86_FLAG_IOPL) >> X86_FLAG_IOPL_SHIFT);
    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (rflags & names[i].bit) {
            text_add(text, " %.3s", names[i].letters);
        }
    }
    text_add(text, "]\n");
}

static void add_segment(struct text *text, const char *name,
                        const struct x86_segment *segment)
{
    text_add(text, "%-4s=%04x base=%016llx limit=%08x access=%05x%s\n", name,
             segment->selector, (unsigned long long)segment->base, segment->limit,
             segment->access, segment->access & X86_ACCESS_UNUSABLE ? " unusable" : "");
}

static void add_table(struct text *text, const char *name, const struct x86_table *table)
{
    text_add(text, "%s=%016llx limit=%04x\n", name, (unsigned long long)table->base,
             table->limit);
}

int x86_state_format(const struct x86_state *state, char *buffer, unsigned size)
{
    static const char *const gpr[X86_GPR_COUNT] = {
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
        "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15",
    };
    static const char *const segment[X86_SEGMENT_COUNT] = {
        "ES", "CS", "SS", "DS", "FS", "GS",
    };
    static const char *const mode[] = {
        [X86_MODE_REAL] = "real",
        [X86_MODE_VM86] = "virtual-8086",
        [X86_MODE_PROTECTED16] = "16-bit protected",
        [X86_MODE_PROTECTED32] = "32-bit protected",
        [X86_MODE_COMPAT16] = "16-bit compatibility",
        [X86_MODE_COMPAT32] = "32-bit compatibility",
        [X86_MODE_LONG64] = "64-bit",
    };
    static const char *const activity[] = {
        [X86_RUNNING] = "running",
        [X86_HALTED] = "halted",
        [X86_WAIT_SIPI] = "waiting for SIPI",
        [X86_SHUTDOWN] = "shut down",
    };
    struct text text = {buffer, size, 0};

    for (unsigned i = 0; i < X86_GPR_COUNT; i++) {
        text_add(&text, "%s=%016llx%c", gpr[i], (unsigned long long)state->gpr[i],
                 i % 4 == 3 ? '\n' : ' ');
    }
    text_add(&text, "RIP=%016llx ", (unsigned long long)state->rip);
    add_flags(&text, state->rflags);
    text_add(&text, "%s mode, CPL %u, %s%s%s\n", mode[x86_state_mode(state)],
             x86_cpl(state), activity[state->activity],
             state->interrupt_shadow ? ", interrupt shadow" : "",
             state->nmi_blocked ? ", NMI blocked" : "");
    for (unsigned i = 0; i < X86_SEGMENT_COUNT; i++) {
        add_segment(&text, segment[i], &state->seg[i]);
    }
    add_segment(&text, "LDTR", &state->ldtr);
    add_segment(&text, "TR", &state->tr);
    add_table(&text, "GDTR", &state->gdtr);
    add_table(&text, "IDTR", &state->idtr);
    text_add(&text, "CR0=%08llx CR2=%016llx CR3=%016llx CR4=%08llx EFER=%04llx\n",
             (unsigned long long)state->cr0, (unsigned long long)state->cr2,
             (unsigned long long)state->cr3, (unsigned long long)state->cr4,
             (unsigned long long)state->efer);
    if (x86_is_pae(state->cr0, state->cr4, state->efer)) {
        text_add(&text, "PDPTE=%016llx %016llx %016llx %016llx\n",
                 (unsigned long long)state->pdpte[0], (unsigned long long)state->pdpte[1],
                 (unsigned long long)state->pdpte[2],
                 (unsigned long long)state->pdpte[3]);
    }
    text_add(&text, "DR0=%016llx DR1=%016llx DR2=%016llx DR3=%016llx\n",
             (unsigned long long)state->dr[0], (unsigned long long)state->dr[1],
             (unsigned long long)state->dr[2], (unsigned long long)state->dr[3]);
    text_add(&text, "DR6=%08llx DR7=%08llx XCR0=%llx PKRU=%08x\n",
             (unsigned long long)state->dr6, (unsigned long long)state->dr7,
             (unsigned long long)state->xcr0, state->pkru);
    if (state->event.pending) {
        text_add(&text, "pending: vector %u, type %u, error code %x\n",
                 state->event.vector, state->event.type, state->event.error);
    }
    if (state->held_debug) {
        text_add(&text, "held back: debug exception, conditions %x\n", state->held_debug);
    }
    return (int)text.length;
}
