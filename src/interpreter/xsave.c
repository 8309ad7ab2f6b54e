/* FXSAVE, XSAVE and their kind; MXCSR. SDM 1 10.5 and 13; 2A "FXSAVE"; 2D "XRSTOR". */
#include "interpreter/key.h"
#include "interpreter/native.h"
#include "interpreter/operation.h"
#include "interpreter/part.h"
#include "interpreter/x87.h"

#include <string.h>

#include "x86/paging.h"

/* Places in the save area. */
#define AREA_FIP        8u
#define AREA_FDP        16u
#define AREA_MXCSR      24u
#define AREA_ST         32u
#define AREA_XMM        160u
#define AREA_LEGACY     512u
#define AREA_XSTATE_BV  512u
#define AREA_XCOMP_BV   520u
#define AREA_YMM        576u
#define AREA_TOTAL      832u /* behind YMM's upper halves */
#define PKRU_SIZE       8u

#define XCOMP_COMPACTED (1ull << 63)

static unsigned vector_count(const struct cpu *cpu)
{
    return cpu->is_long64 ? 16 : 8;
}

uint32_t xsave_mxcsr_mask(const struct cpu *cpu)
{
    /* Every processor with SSE2 has DAZ; AMD's MM bit comes with its feature. */
    return cpuid_has(cpu->cpuid, CPU_MISALIGNSSE) ? 0x2ffff : 0xffff;
}

/* ---- components to and from an image ---------------------------------------------- */

static void save_x87(const struct cpu *cpu, bool is_wide, uint8_t *area)
{
    const struct x86_fpu *fpu = &cpu->state.fpu;
    memcpy(area, &fpu->fcw, 2);
    memcpy(area + 2, &fpu->fsw, 2);
    area[4] = fpu->ftw;
    area[5] = 0;
    memcpy(area + 6, &fpu->fop, 2);
    memcpy(area + AREA_FIP, &fpu->fip, 8);
    memcpy(area + AREA_FDP, &fpu->fdp, 8);
    if (!is_wide) {
        bool has_selectors = !cpuid_has(cpu->cpuid, CPU_ZERO_FCS_FDS);
        uint32_t fcs = has_selectors ? fpu->fcs : 0, fds = has_selectors ? fpu->fds : 0;
        memcpy(area + AREA_FIP + 4, &fcs, 4);
        memcpy(area + AREA_FDP + 4, &fds, 4);
    }
    /* APM 2 11.4.4: AMD's processors save the error pointers of a pending exception
     * only. */
    if (cpu->cpuid->vendor == CPU_VENDOR_AMD && !(fpu->fsw & X87_FSW_ES)) {
        memset(area + 6, 0, 2);
        memset(area + AREA_FIP, 0, 16);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(area + AREA_ST + i * 16, fpu->st[i], 10);
        memset(area + AREA_ST + i * 16 + 10, 0, 6);
    }
}

/* What the host's unit makes of a FIP, through FXRSTOR64 and FXSAVE64. */
static uint64_t pass_fip(uint64_t fip)
{
    uint8_t image[AREA_LEGACY] __attribute__((aligned(16)));

    __asm__ volatile("fninit\n\tfxsave64 %0" : "=m"(image));
    /* With an exception pending, for AMD's (see above): FCW without IM, FSW with IE. */
    image[0] = 0x7e;
    image[2] = X87_FSW_ES | 1;
    memcpy(image + AREA_FIP, &fip, 8);
    __asm__ volatile("fxrstor64 %0\n\tfxsave64 %0\n\tfninit"
                     : "+m"(image)
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
                       "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14",
                       "xmm15");
    memcpy(&fip, image + AREA_FIP, 8);
    return fip;
}

/* FIP as a processor keeps it. On Intel's it is as wide as a linear address may be, 48 or
 * 57 bits, and what is above are copies of the highest one; no manual tells. Measured,
 * since a guest's x87 state also goes through the host's unit. */
static uint64_t kept_fip(uint64_t fip)
{
    static _Atomic int spare = -1;

    if (spare < 0) {
        const uint64_t ones = UINT64_MAX >> 1, above = 1ull << 48;
        bool is_whole = pass_fip(ones) == ones;
        spare = is_whole ? 0 : pass_fip(above) == above ? 64 - 57 : 64 - 48;
    }
    return (uint64_t)((int64_t)(fip << spare) >> spare);
}

static void restore_x87(struct x86_fpu *fpu, bool is_wide, const uint8_t *area)
{
    memcpy(&fpu->fcw, area, 2);
    memcpy(&fpu->fsw, area + 2, 2);
    fpu->fcw = (fpu->fcw & 0x1f3f) | 0x40;
    fpu->ftw = area[4];
    memcpy(&fpu->fop, area + 6, 2);
    fpu->fop &= 0x7ff;
    memcpy(&fpu->fip, area + AREA_FIP, 8);
    memcpy(&fpu->fdp, area + AREA_FDP, 8);
    fpu->fcs = fpu->fds = 0;
    if (!is_wide) {
        fpu->fcs = (uint16_t)(fpu->fip >> 32);
        fpu->fds = (uint16_t)(fpu->fdp >> 32);
        fpu->fip = (uint32_t)fpu->fip;
        fpu->fdp = (uint32_t)fpu->fdp;
    }
    fpu->fip = kept_fip(fpu->fip);
    for (unsigned i = 0; i < 8; i++) {
        memset(fpu->st[i], 0, 16);
        memcpy(fpu->st[i], area + AREA_ST + i * 16, 10);
    }
    x87_update_summary(fpu);
}

static void save_mxcsr(const struct cpu *cpu, uint8_t *area)
{
    uint32_t mask = xsave_mxcsr_mask(cpu);
    memcpy(area + AREA_MXCSR, &cpu->state.fpu.mxcsr, 4);
    memcpy(area + AREA_MXCSR + 4, &mask, 4);
}

/* One half of each vector register: 0 for XMM, 16 for what YMM adds. */
static void save_half(const struct cpu *cpu, unsigned half, uint8_t *to)
{
    for (unsigned i = 0; i < vector_count(cpu); i++) {
        memcpy(to + i * 16, cpu->state.vec[i].u8 + half, 16);
    }
}

/* from NULL: zeroes. */
static void restore_half(struct cpu *cpu, unsigned half, const uint8_t *from)
{
    for (unsigned i = 0; i < vector_count(cpu); i++) {
        if (from != NULL) {
            memcpy(cpu->state.vec[i].u8 + half, from + i * 16, 16);
        } else {
            memset(cpu->state.vec[i].u8 + half, 0, 16);
        }
    }
}

static bool is_half_used(const struct cpu *cpu, unsigned half)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < 16; i++) {
        any |= cpu->state.vec[i].u64[half / 8] | cpu->state.vec[i].u64[half / 8 + 1];
    }
    return any != 0;
}

static bool is_x87_used(const struct x86_fpu *fpu)
{
    static const uint8_t zero[sizeof(fpu->st)];
    return fpu->fcw != X87_FCW_INIT || fpu->fsw || fpu->ftw || fpu->fop || fpu->fip ||
           fpu->fdp || fpu->fcs || fpu->fds || memcmp(fpu->st, zero, sizeof(zero)) != 0;
}

uint64_t xsave_in_use(const struct cpu *cpu)
{
    return (is_x87_used(&cpu->state.fpu) ? X86_XCR0_X87 : 0) |
           (is_half_used(cpu, 0) ? X86_XCR0_SSE : 0) |
           (is_half_used(cpu, 16) ? X86_XCR0_AVX : 0) |
           (cpu->state.pkru ? X86_XCR0_PKRU : 0);
}

/* ---- FXSAVE ----------------------------------------------------------------------- */

static bool check_fxsave(struct cpu *cpu, uint64_t ea)
{
    if (cpu->state.cr0 & X86_CR0_EM) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    if (cpu->state.cr0 & X86_CR0_TS) {
        return cpu_raise(cpu, X86_NM, 0);
    }
    if (cpu->has_fault) {
        return false;
    }
    if (cpu->is_long64 && !x86_canonical(ea)) {
        return true; /* the access tells, with #SS if it goes through SS */
    }
    /* SDM 3A 6.15, interrupt 17: which of the two it is, is the processor's choice. Those
     * at hand look at multiples of 4 first. */
    return access_check_alignment(cpu, ea, 4) &&
           (!(ea & 15) || cpu_raise(cpu, X86_GP, 0));
}

/* The area of FXSAVE and FXRSTOR. Intel's processors look at its last byte first, then at
 * the first four; where the address size ends, it goes on at 0 (part.h). */
static uint64_t legacy_address(struct cpu *cpu, const struct insn *insn)
{
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    return part_address(cpu, insn, 0, is_amd ? AREA_LEGACY : 4);
}

/* That a segment cannot be written is told behind the alignment, by Intel's processors.
 */
static uint64_t address_to_save(struct cpu *cpu, const struct insn *insn)
{
    struct insn reads = *insn;
    if (cpu->cpuid->vendor != CPU_VENDOR_AMD) {
        reads.special &= (uint8_t)~INSN_WRITES;
    }
    return legacy_address(cpu, &reads);
}

static bool probe_legacy(struct cpu *cpu, const struct insn *insn, uint64_t ea,
                         bool is_write)
{
    if (cpu->cpuid->vendor == CPU_VENDOR_AMD) {
        return access_probe(cpu, ea, AREA_LEGACY, is_write);
    }
    uint64_t last = part_address(cpu, insn, AREA_LEGACY - 1, 1);
    return access_probe(cpu, last, 1, is_write) && access_probe(cpu, ea, 1, is_write);
}

static bool transfer_legacy(struct cpu *cpu, const struct insn *insn, uint8_t *area,
                            unsigned size, bool is_write)
{
    bool may_wrap = insn->special && cpu->cpuid->vendor != CPU_VENDOR_AMD;
    unsigned step = may_wrap ? 16 : size;
    for (unsigned at = 0; at < size; at += step) {
        uint64_t ea = part_address(cpu, insn, at, step);
        if (!(is_write ? access_write(cpu, ea, area + at, step)
                       : access_read(cpu, ea, area + at, step))) {
            return false;
        }
    }
    return true;
}

/* Without CR4.OSFXSR the XMM registers stay out (APM 2 11.4.4). Bytes behind the last
 * register are the system's own and are not written. */
OPERATION(save_legacy)
{
    uint8_t area[AREA_LEGACY];
    uint64_t ea = address_to_save(cpu, insn);
    /* The whole area must be writable, whatever is written. */
    if (!check_fxsave(cpu, ea) || !probe_legacy(cpu, insn, ea, true)) {
        return false;
    }
    unsigned size = AREA_XMM;
    save_x87(cpu, insn->aux & X87_WIDE, area);
    save_mxcsr(cpu, area);
    if (cpu->state.cr4 & X86_CR4_OSFXSR) {
        save_half(cpu, 0, area + AREA_XMM);
        size += vector_count(cpu) * 16;
    }
    if (!transfer_legacy(cpu, insn, area, size, true)) {
        return false;
    }
    return true;
}

SHARED_HANDLER(xsave_fxsave, save_legacy)

static bool check_mxcsr(struct cpu *cpu, uint32_t mxcsr)
{
    return !(mxcsr & ~xsave_mxcsr_mask(cpu)) || cpu_raise(cpu, X86_GP, 0);
}

static uint32_t mxcsr_of(const uint8_t *area)
{
    uint32_t mxcsr;
    memcpy(&mxcsr, area + AREA_MXCSR, 4);
    return mxcsr;
}

OPERATION(restore_legacy)
{
    uint8_t area[AREA_LEGACY];
    uint64_t ea = legacy_address(cpu, insn);
    bool has_sse = cpu->state.cr4 & X86_CR4_OSFXSR;
    if (!check_fxsave(cpu, ea) || !probe_legacy(cpu, insn, ea, false) ||
        !transfer_legacy(cpu, insn, area, sizeof(area), false) ||
        (has_sse && !check_mxcsr(cpu, mxcsr_of(area)))) {
        return false;
    }
    restore_x87(&cpu->state.fpu, insn->aux & X87_WIDE, area);
    if (has_sse) {
        cpu->state.fpu.mxcsr = mxcsr_of(area);
        restore_half(cpu, 0, area + AREA_XMM);
    }
    return true;
}

SHARED_HANDLER(xsave_fxrstor, restore_legacy)

/* ---- XSAVE ------------------------------------------------------------------------ */

static bool check_xsave(struct cpu *cpu, uint64_t ea)
{
    if (!(cpu->state.cr4 & X86_CR4_OSXSAVE)) {
        return cpu_raise(cpu, X86_UD, 0);
    }
    if (cpu->state.cr0 & X86_CR0_TS) {
        return cpu_raise(cpu, X86_NM, 0);
    }
    return !cpu->has_fault && access_check_alignment(cpu, ea, 4) &&
           (!(ea & 63) || cpu_raise(cpu, X86_GP, 0));
}

/* The components asked for. */
static uint64_t requested(const struct cpu *cpu)
{
    uint64_t mask = (uint32_t)cpu->reg[X86_RDX];
    return (mask << 32 | (uint32_t)cpu->reg[X86_RAX]) & cpu->state.xcr0;
}

/* Where PKRU lies (SDM 1 13.4.2, 13.4.3): `compacted` is XCOMP_BV, 0 in the standard
 * form. */
static unsigned pkru_place(const struct cpu *cpu, uint64_t compacted)
{
    if (!compacted) {
        return cpuid_pkru_offset(cpu->cpuid);
    }
    return compacted & X86_XCR0_AVX ? AREA_TOTAL : AREA_YMM;
}

/* Bytes up to the end of the last component. All of it lies in two pages at most, the
 * first and the last, whatever is between. */
static unsigned area_size(const struct cpu *cpu, uint64_t components, uint64_t compacted)
{
    if (components & X86_XCR0_PKRU) {
        return pkru_place(cpu, compacted) + PKRU_SIZE;
    }
    return components & X86_XCR0_AVX ? AREA_TOTAL : AREA_YMM;
}

static bool write_pkru(struct cpu *cpu, uint64_t ea)
{
    uint64_t pkru = cpu->state.pkru;
    return access_write(cpu, ea, &pkru, PKRU_SIZE);
}

/* Writes the components in which; with_mxcsr apart, since AVX shares it with SSE. */
static bool write_components(struct cpu *cpu, uint64_t ea, uint64_t which,
                             bool with_mxcsr, bool is_wide)
{
    uint8_t area[AREA_TOTAL];
    unsigned vectors = vector_count(cpu) * 16;
    if (which & X86_XCR0_X87) {
        save_x87(cpu, is_wide, area);
        if (!access_write(cpu, ea, area, AREA_MXCSR) ||
            !access_write(cpu, ea + AREA_ST, area + AREA_ST, AREA_XMM - AREA_ST)) {
            return false;
        }
    }
    if (with_mxcsr) {
        save_mxcsr(cpu, area);
        if (!access_write(cpu, ea + AREA_MXCSR, area + AREA_MXCSR, 8)) {
            return false;
        }
    }
    if (which & X86_XCR0_SSE) {
        save_half(cpu, 0, area + AREA_XMM);
        if (!access_write(cpu, ea + AREA_XMM, area + AREA_XMM, vectors)) {
            return false;
        }
    }
    if (which & X86_XCR0_AVX) {
        save_half(cpu, 16, area + AREA_YMM);
        return access_write(cpu, ea + AREA_YMM, area + AREA_YMM, vectors);
    }
    return true;
}

/* XSAVE and XSAVEOPT, which may leave out components in their initial state. */
static const struct insn *save_standard(struct cpu *cpu, const struct insn *insn,
                                        bool optimise)
{
    uint64_t ea = insn_address(cpu, insn);
    if (!check_xsave(cpu, ea)) {
        return insn_fault(cpu, insn);
    }
    uint64_t components = requested(cpu);
    uint64_t used = xsave_in_use(cpu);
    uint64_t written = optimise ? components & used : components;
    if (!access_probe(cpu, ea, area_size(cpu, components, 0), true)) {
        return insn_fault(cpu, insn);
    }
    struct loaded header = access_load(cpu, ea + AREA_XSTATE_BV, 8);
    uint64_t bits = (header.value & ~components) | (components & used);
    if (!header.ok ||
        !write_components(cpu, ea, written, components & (X86_XCR0_SSE | X86_XCR0_AVX),
                          insn->aux & X87_WIDE) ||
        (written & X86_XCR0_PKRU && !write_pkru(cpu, ea + pkru_place(cpu, 0))) ||
        !access_store(cpu, ea + AREA_XSTATE_BV, 8, bits)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

const struct insn *xsave_xsave(struct cpu *cpu, const struct insn *insn)
{
    return save_standard(cpu, insn, false);
}

const struct insn *xsave_xsaveopt(struct cpu *cpu, const struct insn *insn)
{
    return save_standard(cpu, insn, true);
}

/* Compacted: the places are those of the standard form but for PKRU's. SDM 1 13.10: a
 * changed MXCSR alone makes SSE count as in use. */
const struct insn *xsave_xsavec(struct cpu *cpu, const struct insn *insn)
{
    uint64_t ea = insn_address(cpu, insn);
    if (!check_xsave(cpu, ea)) {
        return insn_fault(cpu, insn);
    }
    uint64_t components = requested(cpu);
    uint64_t used = xsave_in_use(cpu);
    used |= cpu->state.fpu.mxcsr != MXCSR_INIT ? X86_XCR0_SSE : 0;
    used &= components;
    uint64_t compacted = components | XCOMP_COMPACTED;
    if (!access_probe(cpu, ea, area_size(cpu, components, compacted), true) ||
        !write_components(cpu, ea, used, used & X86_XCR0_SSE, insn->aux & X87_WIDE) ||
        (used & X86_XCR0_PKRU && !write_pkru(cpu, ea + pkru_place(cpu, compacted))) ||
        !access_store(cpu, ea + AREA_XSTATE_BV, 8, used) ||
        !access_store(cpu, ea + AREA_XCOMP_BV, 8, compacted)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

struct xsave_header {
    uint64_t xstate_bv, xcomp_bv, reserved[6];
};

/* SDM 1 13.8: what makes a header #GP. */
static bool is_header_valid(const struct cpu *cpu, const struct xsave_header *header)
{
    uint64_t reserved = 0;
    for (unsigned i = 0; i < 6; i++) {
        /* The standard form leaves the bytes behind XCOMP_BV's 16 alone. */
        reserved |=
            header->xcomp_bv & XCOMP_COMPACTED || i == 0 ? header->reserved[i] : 0;
    }
    if (header->xcomp_bv & XCOMP_COMPACTED) {
        uint64_t present = header->xcomp_bv & ~XCOMP_COMPACTED;
        return cpuid_has(cpu->cpuid, CPU_XSAVEC) && !(present & ~cpu->state.xcr0) &&
               !(header->xstate_bv & ~present) && !reserved;
    }
    return !header->xcomp_bv && !(header->xstate_bv & ~cpu->state.xcr0) && !reserved;
}

static void init_x87(struct x86_fpu *fpu)
{
    x87_init(fpu);
    memset(fpu->st, 0, sizeof(fpu->st));
}

static void restore_components(struct cpu *cpu, uint64_t components, uint64_t present,
                               bool is_wide, const uint8_t *area)
{
    if (components & X86_XCR0_X87) {
        if (present & X86_XCR0_X87) {
            restore_x87(&cpu->state.fpu, is_wide, area);
        } else {
            init_x87(&cpu->state.fpu);
        }
    }
    if (components & X86_XCR0_SSE) {
        restore_half(cpu, 0, present & X86_XCR0_SSE ? area + AREA_XMM : NULL);
    }
    if (components & X86_XCR0_AVX) {
        restore_half(cpu, 16, present & X86_XCR0_AVX ? area + AREA_YMM : NULL);
    }
}

OPERATION(restore_area)
{
    uint8_t area[AREA_TOTAL];
    struct xsave_header header;
    uint64_t ea = insn_address(cpu, insn);
    if (!check_xsave(cpu, ea) || !access_read(cpu, ea, area, AREA_YMM)) {
        return false;
    }
    memcpy(&header, area + AREA_XSTATE_BV, sizeof(header));
    if (!is_header_valid(cpu, &header)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint64_t components = requested(cpu);
    uint64_t present = header.xstate_bv;
    if (components & present & X86_XCR0_AVX &&
        !access_read(cpu, ea + AREA_YMM, area + AREA_YMM, AREA_TOTAL - AREA_YMM)) {
        return false;
    }
    uint64_t pkru = 0;
    if (components & present & X86_XCR0_PKRU &&
        !access_read(cpu, ea + pkru_place(cpu, header.xcomp_bv), &pkru, PKRU_SIZE)) {
        return false;
    }
    uint32_t mxcsr = mxcsr_of(area);
    bool is_compacted = header.xcomp_bv & XCOMP_COMPACTED;
    bool sets_mxcsr =
        components & (is_compacted ? X86_XCR0_SSE : X86_XCR0_SSE | X86_XCR0_AVX);
    if (is_compacted && !(present & X86_XCR0_SSE)) {
        mxcsr = MXCSR_INIT;
    }
    if (sets_mxcsr && !check_mxcsr(cpu, mxcsr)) {
        return false;
    }
    cpu->state.fpu.mxcsr = sets_mxcsr ? mxcsr : cpu->state.fpu.mxcsr;
    restore_components(cpu, components, present, insn->aux & X87_WIDE, area);
    if (components & X86_XCR0_PKRU) {
        key_set_rights(cpu, (uint32_t)pkru);
    }
    return true;
}

SHARED_HANDLER(xsave_xrstor, restore_area)

/* ---- MXCSR ------------------------------------------------------------------------ */

static const struct insn *load_mxcsr(struct cpu *cpu, const struct insn *insn)
{
    struct loaded loaded = access_load(cpu, insn_address(cpu, insn), 4);
    if (!loaded.ok || !check_mxcsr(cpu, (uint32_t)loaded.value)) {
        return insn_fault(cpu, insn);
    }
    cpu->state.fpu.mxcsr = (uint32_t)loaded.value;
    NEXT(cpu, insn);
}

static const struct insn *store_mxcsr(struct cpu *cpu, const struct insn *insn)
{
    if (!access_store(cpu, insn_address(cpu, insn), 4, cpu->state.fpu.mxcsr)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

const struct insn *xsave_ldmxcsr(struct cpu *cpu, const struct insn *insn)
{
    return native_check_sse(cpu) ? load_mxcsr(cpu, insn) : insn_fault(cpu, insn);
}

const struct insn *xsave_stmxcsr(struct cpu *cpu, const struct insn *insn)
{
    return native_check_sse(cpu) ? store_mxcsr(cpu, insn) : insn_fault(cpu, insn);
}

const struct insn *xsave_vldmxcsr(struct cpu *cpu, const struct insn *insn)
{
    return native_check_avx(cpu) ? load_mxcsr(cpu, insn) : insn_fault(cpu, insn);
}

const struct insn *xsave_vstmxcsr(struct cpu *cpu, const struct insn *insn)
{
    return native_check_avx(cpu) ? store_mxcsr(cpu, insn) : insn_fault(cpu, insn);
}
