#include "interpreter/isa.h"

#include "base/scope.h"

/* Feature numbers moved up by two, so that a row never mentioned means "not offered". */
enum { ISA_ABSENT, ISA_BASE, ISA_FEATURE };

struct isa_need {
    uint8_t first, second; /* both; second may be ISA_ABSENT: nothing more */
};

#define NEED(set, feature) [ZYDIS_ISA_SET_##set] = {ISA_FEATURE + CPU_##feature, 0}
#define NEED2(set, one, two) \
    [ZYDIS_ISA_SET_##set] = {ISA_FEATURE + CPU_##one, ISA_FEATURE + CPU_##two}
#define BASE(set) [ZYDIS_ISA_SET_##set] = {ISA_BASE, 0}

static const struct isa_need isa_needs[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    /* Part of every x86-64 processor, whatever its CPUID says. */
    BASE(I86),
    BASE(I186),
    BASE(I286REAL),
    BASE(I286PROTECTED),
    BASE(I386),
    BASE(I486),
    BASE(I486REAL),
    BASE(PENTIUMREAL),
    BASE(PPRO),
    BASE(FAT_NOP),
    BASE(PAUSE),
    BASE(RDPMC),
    BASE(PREFETCH_NOP),
    BASE(PREFETCHWT1), /* SDM 2B "PREFETCHW": the 0F 0D group never faults */
    BASE(CLDEMOTE),    /* a NOP of the 0F 1C group where absent */

    NEED(ADOX_ADCX, ADX),
    NEED(AES, AES),
    NEED(AMD, SYSCALL),
    NEED(AVX, AVX),
    NEED(AVX2, AVX2),
    NEED(AVX2GATHER, AVX2),
    NEED2(AVXAES, AES, AVX),
    NEED(BMI1, BMI1),
    NEED(BMI2, BMI2),
    NEED(CLFLUSHOPT, CLFLUSHOPT),
    NEED(CLFSH, CLFLUSH),
    NEED(CLWB, CLWB),
    NEED(CMOV, CMOV),
    NEED(CMPXCHG16B, CX16),
    NEED(F16C, F16C),
    NEED2(FCMOV, FPU, CMOV),
    NEED(FMA, FMA),
    NEED(FXSAVE, FXSR),
    NEED2(FXSAVE64, FXSR, LM),
    NEED(INVPCID, INVPCID),
    NEED(LONGMODE, LM),
    NEED(LZCNT, ABM),
    NEED(MONITOR, MONITOR),
    NEED(MOVBE, MOVBE),
    NEED(PCLMULQDQ, PCLMULQDQ),
    NEED(PENTIUMMMX, MMX),
    NEED(PKU, PKU),
    NEED(POPCNT, POPCNT),
    NEED(RDPID, RDPID),
    NEED(RDRAND, RDRAND),
    NEED(RDSEED, RDSEED),
    NEED(RDTSCP, RDTSCP),
    NEED(RDWRFSGS, FSGSBASE),
    NEED(SHA, SHA),
    NEED(SMAP, SMAP),
    NEED(SSE, SSE),
    NEED(SSE2, SSE2),
    NEED(SSE2MMX, SSE2),
    NEED(SSE3, SSE3),
    NEED(SSE3X87, SSE3),
    NEED(SSE4, SSE4_1),
    NEED(SSE42, SSE4_2),
    NEED(SSE4A, SSE4A),
    NEED(SSEMXCSR, SSE),
    NEED(SSE_PREFETCH, SSE),
    NEED(SSSE3, SSSE3),
    NEED(SSSE3MMX, SSSE3),
    NEED(VAES, VAES),
    NEED(VPCLMULQDQ, VPCLMULQDQ),
    NEED(X87, FPU),
    NEED(XSAVE, XSAVE),
    NEED(XSAVEC, XSAVEC),
    NEED(XSAVEOPT, XSAVEOPT),
};

/* What an instruction needs besides: the decoder's sets of the older ones are those of
 * processors, and CPUID's features others. */
static const struct {
    ZydisMnemonic mnemonic;
    enum cpu_feature feature;
} mnemonic_needs[] = {
    {ZYDIS_MNEMONIC_CMPXCHG8B, CPU_CX8},
    {ZYDIS_MNEMONIC_FCOMI, CPU_CMOV}, /* SDM 2A "CPUID", table 3-11, CMOV */
    {ZYDIS_MNEMONIC_FCOMI, CPU_FPU},
    {ZYDIS_MNEMONIC_FCOMIP, CPU_CMOV},
    {ZYDIS_MNEMONIC_FCOMIP, CPU_FPU},
    {ZYDIS_MNEMONIC_FISTTP, CPU_FPU},
    {ZYDIS_MNEMONIC_FUCOMI, CPU_CMOV},
    {ZYDIS_MNEMONIC_FUCOMI, CPU_FPU},
    {ZYDIS_MNEMONIC_FUCOMIP, CPU_CMOV},
    {ZYDIS_MNEMONIC_FUCOMIP, CPU_FPU},
    {ZYDIS_MNEMONIC_RDMSR, CPU_MSR},
    {ZYDIS_MNEMONIC_RDTSC, CPU_TSC},
    {ZYDIS_MNEMONIC_SYSCALL, CPU_SYSCALL},
    {ZYDIS_MNEMONIC_SYSENTER, CPU_SEP},
    {ZYDIS_MNEMONIC_SYSEXIT, CPU_SEP},
    {ZYDIS_MNEMONIC_SYSRET, CPU_SYSCALL},
    {ZYDIS_MNEMONIC_VPCLMULQDQ, CPU_PCLMULQDQ},
    {ZYDIS_MNEMONIC_WRMSR, CPU_MSR},
    /* SSE's additions to MMX (SDM 1 10.4.4). */
    {ZYDIS_MNEMONIC_MASKMOVQ, CPU_SSE},
    {ZYDIS_MNEMONIC_MOVNTQ, CPU_SSE},
    {ZYDIS_MNEMONIC_PAVGB, CPU_SSE},
    {ZYDIS_MNEMONIC_PAVGW, CPU_SSE},
    {ZYDIS_MNEMONIC_PEXTRW, CPU_SSE},
    {ZYDIS_MNEMONIC_PINSRW, CPU_SSE},
    {ZYDIS_MNEMONIC_PMAXSW, CPU_SSE},
    {ZYDIS_MNEMONIC_PMAXUB, CPU_SSE},
    {ZYDIS_MNEMONIC_PMINSW, CPU_SSE},
    {ZYDIS_MNEMONIC_PMINUB, CPU_SSE},
    {ZYDIS_MNEMONIC_PMULHUW, CPU_SSE},
    {ZYDIS_MNEMONIC_PSADBW, CPU_SSE},
    {ZYDIS_MNEMONIC_PSHUFW, CPU_SSE},
};

static bool mnemonic_is_offered(const struct cpuid_policy *policy, ZydisMnemonic mnemonic)
{
    for (unsigned i = 0; i < array_size(mnemonic_needs); i++) {
        if (mnemonic_needs[i].mnemonic == mnemonic &&
            !cpuid_has(policy, mnemonic_needs[i].feature)) {
            return false;
        }
    }
    return true;
}

static bool isa_has(const struct cpuid_policy *policy, uint8_t need)
{
    return need < ISA_FEATURE ||
           cpuid_has(policy, (enum cpu_feature)(need - ISA_FEATURE));
}

bool native_isa_offered(const struct cpuid_policy *policy,
                        const ZydisDecodedInstruction *decoded)
{
    if (decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY &&
        decoded->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX) {
        return false;
    }
    /* APM 3 "PREFETCH": memory only; Intel's have a NOP there. */
    if (policy->vendor == CPU_VENDOR_AMD && decoded->opcode == 0x0d &&
        decoded->opcode_map == ZYDIS_OPCODE_MAP_0F && decoded->raw.modrm.mod == 3) {
        return false;
    }
    if (!mnemonic_is_offered(policy, decoded->mnemonic)) {
        return false;
    }
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_ENDBR32: /* SDM 1 17.3.8: NOPs without CET */
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_RDSSPD:
    case ZYDIS_MNEMONIC_RDSSPQ:
    case ZYDIS_MNEMONIC_VMCALL: /* the hypercall hook decides */
    case ZYDIS_MNEMONIC_VMMCALL:
        return true;
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
        return decoded->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 ||
               cpuid_has(policy, CPU_LAHF_LM);
    default:
        break;
    }
    if ((size_t)decoded->meta.isa_set >= array_size(isa_needs)) {
        return false;
    }
    const struct isa_need *need = &isa_needs[decoded->meta.isa_set];
    return need->first != ISA_ABSENT && isa_has(policy, need->first) &&
           isa_has(policy, need->second);
}

void isa_decoder_init(ZydisDecoder *decoder, unsigned width,
                      const struct cpuid_policy *cpuid)
{
    switch (width) {
    case 16:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
        break;
    case 32:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
        break;
    default:
        ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    }
    /* Without MPX and CET their encodings are NOPs (SDM 2B "NOP", table A-3); without the
     * others the F3 prefix is ignored: BSR, BSF and WBINVD (SDM 2A "LZCNT", 2B "TZCNT").
     */
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_WBNOINVD, ZYAN_FALSE);
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_LZCNT, cpuid_has(cpuid, CPU_ABM));
    ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_TZCNT, cpuid_has(cpuid, CPU_BMI1));
    if (width == 64 && cpuid->vendor == CPU_VENDOR_AMD) {
        ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_AMD_BRANCHES, ZYAN_TRUE);
    }
}
