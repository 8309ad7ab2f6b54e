#include "x86/msr.h"

#include <stddef.h>

#include "base/scope.h"
#include "x86/paging.h"

/* Bits of an address that fit the physical address space, above the page offset. */
#define PAGE_MASK         0xfffull

#define MTRR_COUNT        X86_MTRR_VARIABLE
#define MTRR_CAP_FIXED    (1u << 8)
#define MTRR_CAP_WC       (1u << 10)
#define MTRR_DEF_FIXED    (1ull << 10)
#define MTRR_DEF_ENABLE   (1ull << 11)
#define MTRR_MASK_VALID   (1ull << 11)
#define MTRR_TYPE         0xffull

#define MISC_FAST_STRINGS (1ull << 0)
#define MISC_THERMAL      (1ull << 3)
#define MISC_NO_BTS       (1ull << 11)
#define MISC_NO_PEBS      (1ull << 12)
#define MISC_EIST         (1ull << 16)
#define MISC_MONITOR      (1ull << 18)
#define MISC_NO_XTPR      (1ull << 23)
/* SDM 4, table 2-2. MONITOR and SpeedStep, which the model does not have, cannot be
 * noticed to be on; CPUID shows the last two. */
#define MISC_WRITABLE                                                             \
    (MISC_FAST_STRINGS | MISC_THERMAL | MISC_EIST | MISC_MONITOR | MISC_NO_XTPR | \
     X86_MISC_LIMIT_CPUID | X86_MISC_XD_DISABLE)

#define HWCR_TSC_FREQ_SEL (1ull << 24)
#define DE_CFG_LFENCE     (1ull << 1)
#define NB_CFG_CF8_EXT    (1ull << 46)

enum msr_vendor { ANY, INTEL, AMD };

/* What an access works on. */
struct msr_access {
    const struct cpuid_policy *policy;
    struct x86_state *state; /* not changed by reads */
    uint64_t tsc_now;
    uint32_t index;
};

struct msr_row {
    uint32_t first, last;
    enum cpu_feature
        feature; /* without it the MSR does not exist; CPU_FPU: it always does */
    enum msr_vendor vendor;
    /* Where it lives: a uint64_t of struct x86_state (the first of an array if there is
     * more than one MSR in the row), or nowhere, and then it reads as `fixed`. */
    bool is_field;
    bool is_read_only; /* every write is #GP, also of what it holds */
    size_t offset;
    uint64_t fixed;
    /* Bits that a write may change; #GP if it differs in others from what a read gives.
     * Without a field the change is dropped. */
    uint64_t writable;
    unsigned effect;
    /* Where the above does not say it all. valid: false for #GP. */
    bool (*valid)(const struct msr_access *access, uint64_t value);
    uint64_t (*read)(const struct msr_access *access);
    bool (*write)(const struct msr_access *access, uint64_t value);
};

static bool valid_canonical(const struct msr_access *access, uint64_t value)
{
    return x86_canonical(value);
}

/* SDM 3A 12.11.2.1: UC, WC, WT, WP and WB. */
static bool is_mtrr_type(uint64_t type)
{
    return type == 0 || type == 1 || (type >= 4 && type <= 6);
}

/* SDM 3A 12.12.2: those and UC-. */
static bool valid_pat(const struct msr_access *access, uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8) {
        uint64_t type = value >> i & 0xff;
        if (!is_mtrr_type(type) && type != 7) {
            return false;
        }
    }
    return true;
}

static bool valid_mtrr_fixed(const struct msr_access *access, uint64_t value)
{
    for (unsigned i = 0; i < 64; i += 8) {
        if (!is_mtrr_type(value >> i & 0xff)) {
            return false;
        }
    }
    return true;
}

static bool valid_mtrr_default(const struct msr_access *access, uint64_t value)
{
    return is_mtrr_type(value & MTRR_TYPE);
}

/* SDM 3A 12.11.2.3: even numbers are bases with a type, odd ones masks with a valid bit.
 */
static bool valid_mtrr_variable(const struct msr_access *access, uint64_t value)
{
    uint64_t address = ((1ull << access->policy->physical_bits) - 1) & ~PAGE_MASK;
    if (access->index & 1) {
        return !(value & ~(address | MTRR_MASK_VALID));
    }
    return !(value & ~(address | MTRR_TYPE)) && is_mtrr_type(value & MTRR_TYPE);
}

static uint64_t read_tsc(const struct msr_access *access)
{
    return access->tsc_now + access->state->tsc_offset;
}

/* SDM 3B 18.17.3: what is added to the one is added to the other. */
static void shift_tsc(struct x86_state *state, uint64_t delta)
{
    state->tsc_offset += delta;
    state->tsc_adjust += delta;
}

static bool write_tsc(const struct msr_access *access, uint64_t value)
{
    shift_tsc(access->state, value - read_tsc(access));
    return true;
}

static bool write_tsc_adjust(const struct msr_access *access, uint64_t value)
{
    shift_tsc(access->state, value - access->state->tsc_adjust);
    return true;
}

/* SDM 3A 2.2.1 and 9.8.5: LMA only tells; LME cannot change while paging is on. */
static bool write_efer(const struct msr_access *access, uint64_t value)
{
    struct x86_state *state = access->state;
    uint64_t allowed = X86_EFER_LMA;
    allowed |= cpuid_has(access->policy, CPU_SYSCALL) ? X86_EFER_SCE : 0;
    allowed |= cpuid_has(access->policy, CPU_LM) ? X86_EFER_LME : 0;
    bool has_nx =
        cpuid_has(access->policy, CPU_NX) && !(state->misc_enable & X86_MISC_XD_DISABLE);
    allowed |= has_nx ? X86_EFER_NXE : 0;
    allowed |= cpuid_has(access->policy, CPU_FXSR_OPT) ? X86_EFER_FFXSR : 0;
    bool changes_lme = (value ^ state->efer) & X86_EFER_LME;
    if (value & ~allowed || (changes_lme && state->cr0 & X86_CR0_PG)) {
        return false;
    }
    state->efer = (value & ~X86_EFER_LMA) | (state->efer & X86_EFER_LMA);
    return true;
}

/* SDM 4, MSR_PLATFORM_INFO: bits 15-8, the base ratio to a bus of 100 MHz. */
static uint64_t read_platform_info(const struct msr_access *access)
{
    uint64_t ratio = access->policy->tsc_khz / 100000;
    return (ratio & 0xff) << 8;
}

static uint64_t read_misc_enable(const struct msr_access *access)
{
    return access->state->misc_enable | MISC_NO_BTS | MISC_NO_PEBS;
}

static uint64_t read_arch_capabilities(const struct msr_access *access)
{
    return access->policy->immunities;
}

#define FIELD(name) .is_field = true, .offset = offsetof(struct x86_state, name)
#define ONE(index)  .first = (index), .last = (index)
#define ALL         UINT64_MAX
#define LOW32       0xffffffffull

/*
 * By number. The AMD rows without a field, and Intel's PLATFORM_ID, UCODE_REV and
 * MISC_ENABLE, are there because kernels read them without being ready for a #GP.
 * A few are absent for a reason: without SPEC_CTRL, PRED_CMD and AMD's
 * LS_CFG a guest uses the mitigations that cost no MSR write; without counters it does
 * not try to profile; with no machine-check banks (MCG_CAP) there are no bank registers.
 */
static const struct msr_row rows[] = {
    {ONE(MSR_TSC), .feature = CPU_TSC, .effect = MSR_EFFECT_TSC, .writable = ALL,
     .read = read_tsc, .write = write_tsc},
    {ONE(MSR_PLATFORM_ID), .vendor = INTEL, .is_read_only = true},
    {ONE(MSR_FEATURE_CONTROL), .vendor = INTEL, .is_read_only = true,
     .fixed = 1 /* locked, nothing enabled */},
    {ONE(MSR_TSC_ADJUST), .feature = CPU_TSC_ADJUST, .effect = MSR_EFFECT_TSC,
     FIELD(tsc_adjust), .writable = ALL, .write = write_tsc_adjust},
    /* SDM 3A 10.11.7.1: written as 0 before CPUID puts the revision into the high half.
     */
    {ONE(MSR_UCODE_REV), .vendor = INTEL, .fixed = 1ull << 32, .writable = ALL},
    {ONE(MSR_UCODE_REV), .vendor = AMD, .fixed = 0x01000065},
    {ONE(MSR_PLATFORM_INFO), .vendor = INTEL, .read = read_platform_info},
    {ONE(MSR_MTRRCAP), .feature = CPU_MTRR, .is_read_only = true,
     .fixed = MTRR_COUNT | MTRR_CAP_FIXED | MTRR_CAP_WC},
    {ONE(MSR_ARCH_CAPABILITIES), .feature = CPU_ARCH_CAPABILITIES, .is_read_only = true,
     .read = read_arch_capabilities},
    {ONE(MSR_SYSENTER_CS), .feature = CPU_SEP, FIELD(sysenter_cs), .writable = LOW32},
    {ONE(MSR_SYSENTER_ESP), .feature = CPU_SEP, FIELD(sysenter_esp), .writable = ALL,
     .valid = valid_canonical},
    {ONE(MSR_SYSENTER_EIP), .feature = CPU_SEP, FIELD(sysenter_eip), .writable = ALL,
     .valid = valid_canonical},
    {ONE(MSR_MCG_CAP), .feature = CPU_MCA, .is_read_only = true,
     .fixed = 0 /* no banks, no MCG_CTL */},
    {ONE(MSR_MCG_STATUS), .feature = CPU_MCA, FIELD(mcg_status),
     .writable = 7 /* RIPV, EIPV, MCIP */},
    {ONE(MSR_MISC_ENABLE), .vendor = INTEL, FIELD(misc_enable), .read = read_misc_enable,
     .writable = MISC_WRITABLE},
    {ONE(MSR_DEBUGCTL), FIELD(debugctl), .writable = DEBUGCTL_LBR | DEBUGCTL_BTF},
    {.first = MSR_MTRR_PHYSBASE0,
     .last = MSR_MTRR_PHYSBASE0 + 2 * MTRR_COUNT - 1,
     .feature = CPU_MTRR,
     FIELD(mtrr.variable),
     .writable = ALL,
     .valid = valid_mtrr_variable},
    {ONE(MSR_MTRR_FIX64K), .feature = CPU_MTRR, FIELD(mtrr.fixed[0]), .writable = ALL,
     .valid = valid_mtrr_fixed},
    {.first = MSR_MTRR_FIX16K_80,
     .last = MSR_MTRR_FIX16K_A0,
     .feature = CPU_MTRR,
     FIELD(mtrr.fixed[1]),
     .writable = ALL,
     .valid = valid_mtrr_fixed},
    {.first = MSR_MTRR_FIX4K_C0,
     .last = MSR_MTRR_FIX4K_C0 + 7,
     .feature = CPU_MTRR,
     FIELD(mtrr.fixed[3]),
     .writable = ALL,
     .valid = valid_mtrr_fixed},
    {ONE(MSR_PAT), .feature = CPU_PAT, FIELD(pat), .writable = ALL, .valid = valid_pat},
    {ONE(MSR_MTRR_DEF_TYPE), .feature = CPU_MTRR, FIELD(mtrr.default_type),
     .writable = MTRR_TYPE | MTRR_DEF_FIXED | MTRR_DEF_ENABLE,
     .valid = valid_mtrr_default},

    {ONE(MSR_EFER), FIELD(efer), .effect = MSR_EFFECT_PAGING, .writable = ALL,
     .write = write_efer},
    {ONE(MSR_STAR), .feature = CPU_SYSCALL, FIELD(star), .writable = ALL},
    {ONE(MSR_LSTAR), .feature = CPU_LM, FIELD(lstar), .writable = ALL,
     .valid = valid_canonical},
    {ONE(MSR_CSTAR), .feature = CPU_LM, FIELD(cstar), .writable = ALL,
     .valid = valid_canonical},
    {ONE(MSR_SFMASK), .feature = CPU_SYSCALL, FIELD(sfmask), .writable = LOW32},
    {ONE(MSR_FS_BASE), .feature = CPU_LM, FIELD(seg[X86_FS].base), .writable = ALL,
     .valid = valid_canonical, .effect = MSR_EFFECT_BASES},
    {ONE(MSR_GS_BASE), .feature = CPU_LM, FIELD(seg[X86_GS].base), .writable = ALL,
     .valid = valid_canonical, .effect = MSR_EFFECT_BASES},
    {ONE(MSR_KERNEL_GS_BASE), .feature = CPU_LM, FIELD(kernel_gs_base), .writable = ALL,
     .valid = valid_canonical},
    {ONE(MSR_TSC_AUX), .feature = CPU_RDTSCP, FIELD(tsc_aux), .writable = LOW32},

    {ONE(MSR_AMD_SYSCFG), .vendor = AMD},
    {ONE(MSR_AMD_HWCR), .vendor = AMD, .fixed = HWCR_TSC_FREQ_SEL},
    {ONE(MSR_AMD_TOP_MEM), .vendor = AMD},
    {ONE(MSR_AMD_TOP_MEM2), .vendor = AMD},
    {ONE(MSR_AMD_NB_CFG), .vendor = AMD, .writable = NB_CFG_CF8_EXT},
    {ONE(MSR_AMD_INT_PENDING), .vendor = AMD},
    {ONE(MSR_AMD_MMIO_CONF_BASE), .vendor = AMD},
    {ONE(MSR_AMD_DE_CFG), .vendor = AMD, .fixed = DE_CFG_LFENCE},
    {ONE(MSR_AMD_BU_CFG2), .vendor = AMD},
};

/*
 * Kernels write or read these to learn whether they are there (Linux: AMD's SBPB by
 * PRED_CMD, the counters of the K7), so the #GP is an answer and nothing to log.
 */
static const uint32_t probed[] = {MSR_PRED_CMD, MSR_AMD_EVNTSEL0};

static enum msr_result absent(uint32_t index)
{
    for (unsigned i = 0; i < array_size(probed); i++) {
        if (probed[i] == index) {
            return MSR_FAULT;
        }
    }
    return MSR_UNKNOWN;
}

static bool row_exists(const struct cpuid_policy *policy, const struct msr_row *row)
{
    if (row->vendor != ANY &&
        (row->vendor == AMD) != (policy->vendor == CPU_VENDOR_AMD)) {
        return false;
    }
    return cpuid_has(policy, row->feature);
}

static const struct msr_row *find_row(const struct cpuid_policy *policy, uint32_t index)
{
    size_t low = 0, high = array_size(rows);
    while (low < high) { /* the first row that does not end before index */
        size_t middle = (low + high) / 2;
        if (rows[middle].last < index) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    for (; low < array_size(rows) && rows[low].first <= index; low++) {
        if (row_exists(policy, &rows[low])) {
            return &rows[low];
        }
    }
    return NULL;
}

static uint64_t *row_field(const struct msr_row *row, const struct msr_access *access)
{
    char *field = (char *)access->state + row->offset;
    return (uint64_t *)(void *)field + (access->index - row->first);
}

static uint64_t row_read(const struct msr_row *row, const struct msr_access *access)
{
    if (row->read) {
        return row->read(access);
    }
    return row->is_field ? *row_field(row, access) : row->fixed;
}

static bool row_write(const struct msr_row *row, const struct msr_access *access,
                      uint64_t value)
{
    if (row->is_read_only || (value ^ row_read(row, access)) & ~row->writable) {
        return false;
    }
    if (row->valid && !row->valid(access, value)) {
        return false;
    }
    if (row->write) {
        return row->write(access, value);
    }
    if (row->is_field) {
        *row_field(row, access) = value;
    }
    return true;
}

enum msr_result msr_read(const struct cpuid_policy *policy, const struct x86_state *state,
                         uint64_t tsc_now, uint32_t index, uint64_t *value)
{
    const struct msr_row *row = find_row(policy, index);
    if (!row) {
        return absent(index);
    }
    const struct msr_access access = {policy, (struct x86_state *)state, tsc_now, index};
    *value = row_read(row, &access);
    return MSR_OK;
}

enum msr_result msr_write(const struct cpuid_policy *policy, struct x86_state *state,
                          uint64_t tsc_now, uint32_t index, uint64_t value,
                          unsigned *effects)
{
    *effects = 0;
    const struct msr_row *row = find_row(policy, index);
    if (!row) {
        return absent(index);
    }
    const struct msr_access access = {policy, state, tsc_now, index};
    if (!row_write(row, &access, value)) {
        return MSR_FAULT;
    }
    *effects = row->effect;
    return MSR_OK;
}
