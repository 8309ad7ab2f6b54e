#pragma once
/*
 * The architectural state of one processor, in the common form in which every engine
 * loads and saves it. Field meanings: Intel SDM volumes 1 and 3A, AMD APM volume 2.
 */

#include <stdbool.h>
#include <stdint.h>

#include "x86/flags.h"

typedef uint64_t gpa_t; /* guest-physical address */
typedef uint64_t gva_t; /* guest-virtual (linear) address */

enum x86_gpr {
    X86_RAX,
    X86_RCX,
    X86_RDX,
    X86_RBX,
    X86_RSP,
    X86_RBP,
    X86_RSI,
    X86_RDI,
    X86_R8,
    X86_R9,
    X86_R10,
    X86_R11,
    X86_R12,
    X86_R13,
    X86_R14,
    X86_R15,
    X86_GPR_COUNT,
};

/* In the order of instruction encodings (sreg field). */
enum x86_segment_register {
    X86_ES,
    X86_CS,
    X86_SS,
    X86_DS,
    X86_FS,
    X86_GS,
    X86_SEGMENT_COUNT,
};

/*
 * A segment register with its hidden part. access holds bits 8-15 and 20-23 of the
 * descriptor's second double word at bits 0-7 and 12-15 (type, S, DPL, P; AVL, L, D/B, G)
 * and X86_ACCESS_UNUSABLE, the layout of SDM 3C 24.4.1. limit is in bytes, inclusive,
 * granularity already applied.
 */
struct x86_segment {
    uint16_t selector;
    uint32_t access;
    uint32_t limit;
    uint64_t base;
};

#define X86_ACCESS_TYPE      0x000fu
#define X86_ACCESS_ACCESSED  0x0001u
#define X86_ACCESS_WRITABLE  0x0002u /* data segments; readable for code segments */
#define X86_ACCESS_EXPAND    0x0004u /* data: expand-down; code: conforming */
#define X86_ACCESS_CODE      0x0008u
#define X86_ACCESS_S         0x0010u /* code or data; clear for system segments */
#define X86_ACCESS_DPL       0x0060u
#define X86_ACCESS_DPL_SHIFT 5
#define X86_ACCESS_P         0x0080u
#define X86_ACCESS_AVL       0x1000u
#define X86_ACCESS_L         0x2000u
#define X86_ACCESS_DB        0x4000u
#define X86_ACCESS_G         0x8000u
#define X86_ACCESS_UNUSABLE  0x10000u /* loaded with a null selector */

struct x86_table {
    uint64_t base;
    uint16_t limit;
};

/* x87 and SSE control state; st[] in stack order (st[0] is ST(0)), each the 10 bytes of
 * the 80-bit format. */
struct x86_fpu {
    uint16_t fcw, fsw;
    uint8_t
        ftw; /* abridged as FXSAVE has it: bit i set = physical register i is not empty */
    uint16_t fop;
    uint64_t fip, fdp;
    uint16_t fcs, fds;
    uint32_t mxcsr;
    uint8_t st[8][16];
};

union x86_vector {
    uint8_t u8[32];
    uint16_t u16[16];
    uint32_t u32[8];
    uint64_t u64[4];
    float f32[8];
    double f64[4];
} __attribute__((aligned(32)));

enum x86_activity {
    X86_RUNNING,
    X86_HALTED,    /* HLT: until an interrupt, NMI, INIT or reset */
    X86_WAIT_SIPI, /* after INIT on an application processor */
    X86_SHUTDOWN,  /* triple fault */
};

/* An exception or interrupt that has been recognised but not delivered. */
struct x86_event {
    bool pending;
    uint8_t vector;
    enum x86_event_type {
        X86_EVENT_EXTERNAL = 0,
        X86_EVENT_NMI = 2,
        X86_EVENT_EXCEPTION = 3,           /* fault or trap raised by the processor */
        X86_EVENT_SOFTWARE = 4,            /* INT n */
        X86_EVENT_PRIVILEGED_SOFTWARE = 5, /* INT1 */
        X86_EVENT_SOFTWARE_EXCEPTION = 6,  /* INT3, INTO */
    } type;
    bool has_error;
    uint32_t error;
    uint8_t
        length; /* instruction length, for software events: the pushed RIP is behind it */
};

/* SDM 3A 6.8.3: behind STI, and behind a load of SS, which holds back #DB, too. */
enum x86_shadow { X86_SHADOW_NONE, X86_SHADOW_STI, X86_SHADOW_SS };

#define X86_MTRR_VARIABLE 8

struct x86_mtrr {
    uint64_t default_type; /* IA32_MTRR_DEF_TYPE */
    uint64_t fixed[11];
    struct {
        uint64_t base, mask;
    } variable[X86_MTRR_VARIABLE];
};

struct x86_state {
    uint64_t gpr[X86_GPR_COUNT];
    uint64_t rip;
    uint64_t rflags;

    struct x86_segment seg[X86_SEGMENT_COUNT];
    struct x86_segment ldtr, tr;
    struct x86_table gdtr, idtr;

    uint64_t cr0, cr2, cr3, cr4; /* CR8 is the APIC's TPR */
    uint64_t pdpte[4];           /* of PAE paging, as loaded: SDM 3A 4.4.1 */
    uint64_t xcr0;
    uint32_t pkru;
    uint64_t efer;
    uint64_t dr[4], dr6, dr7;

    uint64_t star, lstar, cstar, sfmask, kernel_gs_base;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, tsc_aux, misc_enable, spec_ctrl, xss;
    uint64_t debugctl;
    uint64_t tsc_offset; /* guest TSC = clock's TSC + tsc_offset */
    uint64_t tsc_adjust;
    uint64_t mcg_status;
    uint64_t apic_base; /* IA32_APIC_BASE; kept equal to the APIC's own copy */
    struct x86_mtrr mtrr;

    struct x86_fpu fpu;
    union x86_vector vec[16];

    enum x86_activity activity;
    struct x86_event event;
    uint8_t
        interrupt_shadow; /* enum x86_shadow: the next instruction is not interrupted */
    bool nmi_blocked;     /* between an NMI's delivery and IRET */
    uint32_t held_debug;  /* what X86_SHADOW_SS holds back: conditions, as in DR6 */
};

/* CR0, CR4, EFER, selector and other bit names are in x86/flags.h. */

/* Power-up or RESET# (SDM 3A 10.1.1, table 10-1): CS:RIP at FFFF:FFF0, real mode, caches
 * disabled; an application processor waits for SIPI. EDX, the processor's signature, is
 * for the caller to put in, who knows the CPU model. */
void x86_state_reset(struct x86_state *state, bool is_bootstrap);
/* INIT: as reset, but x87/SSE/AVX state, MSRs, MTRRs and CR0.CD/NW keep their values;
 * waits for SIPI unless is_bootstrap. */
void x86_state_init(struct x86_state *state, bool is_bootstrap);
/* Start-up IPI: runs at vector * 4096 in real mode. Ignored unless waiting for it. */
void x86_state_startup(struct x86_state *state, uint8_t vector);

static inline unsigned x86_cpl(const struct x86_state *state)
{
    return (state->seg[X86_SS].access & X86_ACCESS_DPL) >> X86_ACCESS_DPL_SHIFT;
}

enum x86_mode {
    X86_MODE_REAL,
    X86_MODE_VM86,
    X86_MODE_PROTECTED16,
    X86_MODE_PROTECTED32,
    X86_MODE_COMPAT16, /* long mode active, CS.L = 0, CS.D = 0 */
    X86_MODE_COMPAT32,
    X86_MODE_LONG64,
};

enum x86_mode x86_state_mode(const struct x86_state *state);

/* Writes the registers as text, for crash reports and traces. Returns the length as
 * snprintf does. */
int x86_state_format(const struct x86_state *state, char *buffer, unsigned size);
