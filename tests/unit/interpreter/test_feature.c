/*
 * CPUID's feature bits and the instructions behind them, both ways: each bit that a model
 * can have leads to the instructions that the manuals give it (SDM 2A "CPUID" and the
 * "CPUID Feature Flag" columns of SDM 2; APM 3 appendix D), and each of those is
 * undefined without its bit, in the tables and when it is executed.
 */
#include "encodings.h"
#include "fixture.h"

#include <fnmatch.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/scope.h"
#include "interpreter/isa.h"
#include "interpreter/run.h"
#include "x86/cpuid_table.h"

/* WHOLE: these and no others; SOME: these and many more. `*` stands for any letters. */
enum extent { WHOLE, SOME };

static const struct {
    enum cpu_feature feature;
    enum extent extent;
    const char *names;
} instructions[] = {
    {CPU_FPU, SOME, "fld fstp fadd fsin fninit fnstcw fcomi fcmove fisttp"},
    {CPU_TSC, WHOLE, "rdtsc"},
    {CPU_MSR, WHOLE, "rdmsr wrmsr"},
    {CPU_CX8, WHOLE, "cmpxchg8b"},
    {CPU_SEP, WHOLE, "sysenter sysexit"},
    {CPU_CMOV, WHOLE, "cmov* fcmov* fcomi fcomip fucomi fucomip"},
    {CPU_CLFLUSH, WHOLE, "clflush"},
    {CPU_MMX, SOME, "emms paddb psrlq punpckhbw pmaddwd packssdw"},
    {CPU_FXSR, WHOLE, "fxsave fxsave64 fxrstor fxrstor64"},
    {CPU_SSE, SOME, "addps movaps rsqrtss ldmxcsr stmxcsr prefetchnta sfence maskmovq"},
    {CPU_SSE2, SOME, "addpd movdqa cvtpd2ps lfence mfence movnti pshufd maskmovdqu"},
    {CPU_SSE3, WHOLE,
     "addsubpd addsubps haddpd haddps hsubpd hsubps lddqu movddup movshdup movsldup "
     "fisttp"},
    {CPU_PCLMULQDQ, WHOLE, "pclmulqdq vpclmulqdq"},
    {CPU_MONITOR, WHOLE, "monitor mwait"},
    {CPU_SSSE3, WHOLE,
     "pabsb pabsw pabsd palignr phaddw phaddd phaddsw phsubw phsubd phsubsw pmaddubsw "
     "pmulhrsw pshufb psignb psignw psignd"},
    {CPU_FMA, WHOLE, "vfmadd* vfmsub* vfnmadd* vfnmsub*"},
    {CPU_CX16, WHOLE, "cmpxchg16b"},
    {CPU_SSE4_1, WHOLE,
     "blendpd blendps blendvpd blendvps dppd dpps extractps insertps movntdqa mpsadbw "
     "packusdw pblendvb pblendw pcmpeqq pextrb pextrd pextrq pextrw phminposuw pinsrb "
     "pinsrd pinsrq pmaxsb pmaxsd pmaxud pmaxuw pminsb pminsd pminud pminuw pmovsx* "
     "pmovzx* pmuldq pmulld ptest roundpd roundps roundsd roundss"},
    {CPU_SSE4_2, WHOLE, "crc32 pcmpestri pcmpestrm pcmpistri pcmpistrm pcmpgtq"},
    {CPU_MOVBE, WHOLE, "movbe"},
    {CPU_POPCNT, WHOLE, "popcnt"},
    {CPU_AES, WHOLE,
     "aesdec aesdeclast aesenc aesenclast aesimc aeskeygenassist vaesdec vaesdeclast "
     "vaesenc vaesenclast vaesimc vaeskeygenassist"},
    {CPU_XSAVE, WHOLE, "xsave xsave64 xrstor xrstor64 xgetbv xsetbv"},
    {CPU_AVX, SOME,
     "vaddps vmovaps vzeroupper vbroadcastss vmaskmovps vperm2f128 vtestps"},
    {CPU_F16C, WHOLE, "vcvtph2ps vcvtps2ph"},
    {CPU_RDRAND, WHOLE, "rdrand"},
    {CPU_FSGSBASE, WHOLE, "rdfsbase rdgsbase wrfsbase wrgsbase"},
    {CPU_BMI1, WHOLE, "andn bextr blsi blsmsk blsr tzcnt"},
    {CPU_AVX2, SOME, "vpbroadcastb vpgatherdd vgatherqpd vperm2i128 vpsllvd vpmaskmovd"},
    {CPU_BMI2, WHOLE, "bzhi mulx pdep pext rorx sarx shlx shrx"},
    {CPU_INVPCID, WHOLE, "invpcid"},
    {CPU_RDSEED, WHOLE, "rdseed"},
    {CPU_ADX, WHOLE, "adcx adox"},
    {CPU_SMAP, WHOLE, "clac stac"},
    {CPU_CLFLUSHOPT, WHOLE, "clflushopt"},
    {CPU_CLWB, WHOLE, "clwb"},
    {CPU_SHA, WHOLE,
     "sha1msg1 sha1msg2 sha1nexte sha1rnds4 sha256msg1 sha256msg2 sha256rnds2"},
    {CPU_PKU, WHOLE, "rdpkru wrpkru"},
    {CPU_VAES, WHOLE, "vaesdec vaesdeclast vaesenc vaesenclast"},
    {CPU_VPCLMULQDQ, WHOLE, "vpclmulqdq"},
    {CPU_RDPID, WHOLE, "rdpid"},
    {CPU_XSAVEOPT, WHOLE, "xsaveopt xsaveopt64"},
    {CPU_XSAVEC, WHOLE, "xsavec xsavec64"},
    {CPU_LAHF_LM, WHOLE, "lahf sahf"},
    {CPU_ABM, WHOLE, "lzcnt"},
    {CPU_SSE4A, WHOLE, "extrq insertq movntsd movntss"},
    {CPU_SYSCALL, WHOLE, "syscall sysret"},
    {CPU_RDTSCP, WHOLE, "rdtscp"},
    {CPU_LM, SOME, "swapgs"},
};

/* Bits that stand for something else than instructions. */
static const struct {
    enum cpu_feature feature;
    const char *what;
} others[] = {
    {CPU_VME, "virtual-8086 mode: test_vm86.c"},
    {CPU_DE, "CR4.DE: test_breakpoint.c"},
    {CPU_PSE, "CR4.PSE: test_paging.c"},
    {CPU_PAE, "CR4.PAE: test_paging.c"},
    {CPU_MCE, "CR4.MCE"},
    {CPU_APIC, "the local APIC: test_lapic.c"},
    {CPU_MTRR, "MSRs: test_msr.c"},
    {CPU_PGE, "CR4.PGE: test_paging.c"},
    {CPU_MCA, "MSRs: test_msr.c"},
    {CPU_PAT, "an MSR: test_msr.c"},
    {CPU_PSE36, "bits of a page-directory entry: test_paging.c"},
    {CPU_HTT, "what leaf 1 tells of processors"},
    {CPU_PCID, "CR4.PCIDE"},
    {CPU_X2APIC, "a mode of the APIC: test_lapic.c"},
    {CPU_TSC_DEADLINE, "a mode of the APIC's timer: test_lapic_timer.c"},
    {CPU_HYPERVISOR, "leaves from 40000000H"},
    {CPU_TSC_ADJUST, "an MSR: test_msr.c"},
    {CPU_FDP_EXCEPTION_ONLY, "when x87's data pointer is set"},
    {CPU_SMEP, "CR4.SMEP: test_paging.c"},
    {CPU_ERMS, "REP MOVSB and STOSB are fast"},
    {CPU_ZERO_FCS_FDS, "what x87 saves as selectors"},
    {CPU_UMIP, "CR4.UMIP"},
    {CPU_FSRM, "REP MOVSB is fast"},
    {CPU_ARCH_CAPABILITIES, "an MSR: test_msr.c"},
    {CPU_XGETBV1, "XGETBV with ECX = 1, a #GP without it"},
    {CPU_ARAT, "the APIC's timer does not stop"},
    {CPU_CMP_LEGACY, "what leaf 1 tells of processors"},
    {CPU_CR8_LEGACY, "never offered"},
    {CPU_MISALIGNSSE, "never offered"},
    {CPU_3DNOWPREFETCH, "PREFETCHW, which never faults: a NOP's encoding"},
    {CPU_NX, "EFER.NXE: test_paging.c"},
    {CPU_FXSR_OPT, "never offered"},
    {CPU_PDPE1GB, "1 GB pages: test_paging.c"},
    {CPU_INVARIANT_TSC, "the TSC does not stop"},
};

/* Without their bit they are BSR and BSF (SDM 2A "LZCNT", 2B "TZCNT"): test_isa.c. */
static bool has_older_meaning(ZydisMnemonic mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_LZCNT || mnemonic == ZYDIS_MNEMONIC_TZCNT;
}

#define MNEMONICS (ZYDIS_MNEMONIC_MAX_VALUE + 1)

/* Which mnemonics need each feature, in one of their forms at least. */
static bool needed[CPU_FEATURE_COUNT][MNEMONICS];
/* Those of the host's model that were executed without being undefined; and all. */
static bool ran[MNEMONICS], is_offered[MNEMONICS];
static unsigned executions;

static void set(struct cpuid_policy *policy, unsigned feature, bool value)
{
    uint64_t bit = 1ull << feature % 64;
    policy->features[feature / 64] &= ~bit;
    policy->features[feature / 64] |= value ? bit : 0;
}

struct walk {
    struct cpuid_policy all; /* has every bit */
    struct fixture *fixture; /* the host's model */
    struct x86_state start;
};

/* Everything that instructions ask for besides their bit is on. */
static struct x86_state ready_state(const struct fixture *fixture)
{
    struct x86_state state;
    cpu_sync_out(fixture->cpu, &state);
    state.cr4 |= X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_FSGSBASE | X86_CR4_PKE;
    state.cr4 |= fixture->cpuid.xcr0_valid ? X86_CR4_OSXSAVE : 0;
    state.xcr0 = fixture->cpuid.xcr0_valid;
    return state;
}

/* Executes it alone. */
static bool is_undefined(struct walk *walk, const struct encoding *encoding)
{
    struct fixture *f = walk->fixture;
    cpu_sync_in(f->cpu, &walk->start);
    assert_true(ram_write(f->memory, FIXTURE_CODE, encoding->bytes,
                          ZYDIS_MAX_INSTRUCTION_LENGTH));
    cpu_step(f->cpu);
    executions++;
    return f->cpu->rip == FIXTURE_HANDLERS + 16 * X86_UD;
}

static void look_at(void *opaque, const struct encoding *encoding)
{
    struct walk *walk = opaque;
    ZydisMnemonic mnemonic = encoding->decoded.mnemonic;
    if (!native_isa_offered(&walk->all, &encoding->decoded)) {
        return;
    }
    bool is_ours = native_isa_offered(&walk->fixture->cpuid, &encoding->decoded);
    bool has_needs = false;
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        set(&walk->all, i, false);
        bool needs = !native_isa_offered(&walk->all, &encoding->decoded);
        set(&walk->all, i, true);
        needed[i][mnemonic] |= needs;
        if (!needs || !is_ours || has_older_meaning(mnemonic)) {
            continue;
        }
        has_needs = true;
        set(&walk->fixture->cpuid, i, false);
        if (!is_undefined(walk, encoding)) {
            fail_msg("%s is executed without %s", ZydisMnemonicGetString(mnemonic),
                     cpuid_features[i].name);
        }
        set(&walk->fixture->cpuid, i, true);
    }
    if (is_ours && has_needs) {
        is_offered[mnemonic] = true;
        ran[mnemonic] = ran[mnemonic] || !is_undefined(walk, encoding);
    }
}

static int walk_everything(void **state)
{
    static struct walk walk;
    ZydisDecoder decoder;
    walk.fixture = fixture_long();
    walk.all = walk.fixture->cpuid;
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        set(&walk.all, i, true);
    }
    walk.start = ready_state(walk.fixture);
    isa_decoder_init(&decoder, 64, &walk.all);
    encodings_walk(&decoder, true, true, look_at, &walk);
    fixture_free(walk.fixture);
    return 0;
}

static bool is_listed(const char *names, const char *name)
{
    char list[1024];
    snprintf(list, sizeof(list), "%s", names);
    char *rest = list;
    for (char *item = strsep(&rest, " "); item; item = strsep(&rest, " ")) {
        if (fnmatch(item, name, 0) == 0) {
            return true;
        }
    }
    return false;
}

/* Does a mnemonic that this item stands for need the feature? */
static bool is_found(const char *item, enum cpu_feature feature)
{
    for (unsigned i = 0; i < MNEMONICS; i++) {
        if (needed[feature][i] && fnmatch(item, ZydisMnemonicGetString(i), 0) == 0) {
            return true;
        }
    }
    return false;
}

static void test_each_bit_has_its_instructions(void **state)
{
    for (unsigned i = 0; i < array_size(instructions); i++) {
        const char *feature = cpuid_features[instructions[i].feature].name;
        char list[1024];
        snprintf(list, sizeof(list), "%s", instructions[i].names);
        char *rest = list;
        for (char *item = strsep(&rest, " "); item; item = strsep(&rest, " ")) {
            if (!is_found(item, instructions[i].feature)) {
                fail_msg("%s does not need %s", item, feature);
            }
        }
        for (unsigned j = 0; j < MNEMONICS; j++) {
            const char *name = ZydisMnemonicGetString(j);
            if (instructions[i].extent == WHOLE && needed[instructions[i].feature][j] &&
                !is_listed(instructions[i].names, name)) {
                fail_msg("%s needs %s", name, feature);
            }
        }
    }
}

static void test_each_bit_is_accounted_for(void **state)
{
    for (unsigned i = 0; i < CPU_FEATURE_COUNT; i++) {
        unsigned rows = 0, has_needs = 0;
        for (unsigned j = 0; j < array_size(instructions); j++) {
            rows += instructions[j].feature == i;
        }
        for (unsigned j = 0; j < array_size(others); j++) {
            rows += others[j].feature == i;
        }
        if (rows != 1) {
            fail_msg("%s is in %u rows", cpuid_features[i].name, rows);
        }
        for (unsigned j = 0; j < MNEMONICS; j++) {
            has_needs += needed[i][j];
        }
        for (unsigned j = 0; j < array_size(others) && has_needs; j++) {
            assert_int_not_equal(others[j].feature, i);
        }
    }
}

/* What was undefined without its bit is not so with it. */
static void test_with_the_bit_it_is_executed(void **state)
{
    struct fixture *f = fixture_long();
    bool is_amd = f->cpuid.vendor == CPU_VENDOR_AMD;
    fixture_free(f);
    unsigned count = 0;
    for (unsigned i = 0; i < MNEMONICS; i++) {
        /* APM 3: undefined in long mode. */
        bool is_legacy = i == ZYDIS_MNEMONIC_SYSENTER || i == ZYDIS_MNEMONIC_SYSEXIT;
        if (is_offered[i] && !ran[i] && !(is_amd && is_legacy)) {
            fail_msg("%s is always undefined", ZydisMnemonicGetString(i));
        }
        count += is_offered[i];
    }
    printf("# %u mnemonics, %u executions\n", count, executions);
    assert_true(count > 300 && executions > 2 * count);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_bit_has_its_instructions),
        cmocka_unit_test(test_each_bit_is_accounted_for),
        cmocka_unit_test(test_with_the_bit_it_is_executed),
    };
    return cmocka_run_group_tests(tests, walk_everything, NULL);
}
