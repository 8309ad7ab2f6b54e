#pragma once
/* Names of architectural bits and vectors: RFLAGS, control registers, EFER, page tables,
 * exceptions, MSRs. */

#define X86_FLAG_CF         (1u << 0)
#define X86_FLAG_1          (1u << 1) /* always set */
#define X86_FLAG_PF         (1u << 2)
#define X86_FLAG_AF         (1u << 4)
#define X86_FLAG_ZF         (1u << 6)
#define X86_FLAG_SF         (1u << 7)
#define X86_FLAG_TF         (1u << 8)
#define X86_FLAG_IF         (1u << 9)
#define X86_FLAG_DF         (1u << 10)
#define X86_FLAG_OF         (1u << 11)
#define X86_FLAG_IOPL       (3u << 12)
#define X86_FLAG_IOPL_SHIFT 12
#define X86_FLAG_NT         (1u << 14)
#define X86_FLAG_RF         (1u << 16)
#define X86_FLAG_VM         (1u << 17)
#define X86_FLAG_AC         (1u << 18)
#define X86_FLAG_VIF        (1u << 19)
#define X86_FLAG_VIP        (1u << 20)
#define X86_FLAG_ID         (1u << 21)
#define X86_FLAGS_ARITH \
    (X86_FLAG_CF | X86_FLAG_PF | X86_FLAG_AF | X86_FLAG_ZF | X86_FLAG_SF | X86_FLAG_OF)
/* Every flag that exists. */
#define X86_FLAGS_VALID                                                          \
    (X86_FLAGS_ARITH | X86_FLAG_TF | X86_FLAG_IF | X86_FLAG_DF | X86_FLAG_IOPL | \
     X86_FLAG_NT | X86_FLAG_RF | X86_FLAG_VM | X86_FLAG_AC | X86_FLAG_VIF |      \
     X86_FLAG_VIP | X86_FLAG_ID)

#define X86_CR0_PE (1ull << 0)
#define X86_CR0_MP (1ull << 1)
#define X86_CR0_EM (1ull << 2)
#define X86_CR0_TS (1ull << 3)
#define X86_CR0_ET (1ull << 4)
#define X86_CR0_NE (1ull << 5)
#define X86_CR0_WP (1ull << 16)
#define X86_CR0_AM (1ull << 18)
#define X86_CR0_NW (1ull << 29)
#define X86_CR0_CD (1ull << 30)
#define X86_CR0_PG (1ull << 31)

#define X86_CR3_NOFLUSH \
    (1ull << 63) /* MOV to CR3 with CR4.PCIDE: keep this PCID's entries */

#define X86_CR4_VME        (1ull << 0)
#define X86_CR4_PVI        (1ull << 1)
#define X86_CR4_TSD        (1ull << 2)
#define X86_CR4_DE         (1ull << 3)
#define X86_CR4_PSE        (1ull << 4)
#define X86_CR4_PAE        (1ull << 5)
#define X86_CR4_MCE        (1ull << 6)
#define X86_CR4_PGE        (1ull << 7)
#define X86_CR4_PCE        (1ull << 8)
#define X86_CR4_OSFXSR     (1ull << 9)
#define X86_CR4_OSXMMEXCPT (1ull << 10)
#define X86_CR4_UMIP       (1ull << 11)
#define X86_CR4_LA57       (1ull << 12)
#define X86_CR4_FSGSBASE   (1ull << 16)
#define X86_CR4_PCIDE      (1ull << 17)
#define X86_CR4_OSXSAVE    (1ull << 18)
#define X86_CR4_SMEP       (1ull << 20)
#define X86_CR4_SMAP       (1ull << 21)
#define X86_CR4_PKE        (1ull << 22)

#define X86_EFER_SCE       (1ull << 0)
#define X86_EFER_LME       (1ull << 8)
#define X86_EFER_LMA       (1ull << 10)
#define X86_EFER_NXE       (1ull << 11)
#define X86_EFER_FFXSR     (1ull << 14)

/* IA32_MISC_ENABLE */
#define X86_MISC_LIMIT_CPUID (1ull << 22)
#define X86_MISC_XD_DISABLE  (1ull << 34)

#define X86_XCR0_X87         (1ull << 0)
#define X86_XCR0_SSE         (1ull << 1)
#define X86_XCR0_AVX         (1ull << 2)
#define X86_XCR0_PKRU        (1ull << 9)

#define X86_PTE_P            (1ull << 0)
#define X86_PTE_W            (1ull << 1)
#define X86_PTE_U            (1ull << 2)
#define X86_PTE_PWT          (1ull << 3)
#define X86_PTE_PCD          (1ull << 4)
#define X86_PTE_A            (1ull << 5)
#define X86_PTE_D            (1ull << 6)
#define X86_PTE_PS           (1ull << 7) /* large page, in a page directory (pointer) entry */
#define X86_PTE_G            (1ull << 8)
#define X86_PTE_KEY_SHIFT    59 /* of four bits */
#define X86_PTE_NX           (1ull << 63)

/* PKRU: two bits for each key. */
#define X86_PKRU_AD 1u
#define X86_PKRU_WD 2u

/* Page-fault error code, SDM 3A 4.7. */
#define X86_PF_P    (1u << 0)
#define X86_PF_W    (1u << 1)
#define X86_PF_U    (1u << 2)
#define X86_PF_RSVD (1u << 3)
#define X86_PF_I    (1u << 4)
#define X86_PF_PK   (1u << 5)

enum x86_vector_number {
    X86_DE = 0,
    X86_DB = 1,
    X86_NMI = 2,
    X86_BP = 3,
    X86_OF = 4,
    X86_BR = 5,
    X86_UD = 6,
    X86_NM = 7,
    X86_DF = 8,
    X86_TS = 10,
    X86_NP = 11,
    X86_SS_FAULT = 12,
    X86_GP = 13,
    X86_PF = 14,
    X86_MF = 16,
    X86_AC_FAULT = 17,
    X86_MC = 18,
    X86_XM = 19,
};

/* SDM 3B 18.2.3, 18.2.4 */
#define DR6_HITS              0xfu /* B0 to B3 */
#define DR6_BD                (1u << 13)
#define DR6_BS                (1u << 14)
#define DR6_BT                (1u << 15)
#define DR7_GD                (1ull << 13)

#define MSR_TSC               0x00000010u
#define MSR_PLATFORM_ID       0x00000017u
#define MSR_APIC_BASE         0x0000001bu
#define MSR_ARCH_CAPABILITIES 0x0000010au
#define MSR_FEATURE_CONTROL   0x0000003au
#define MSR_TSC_ADJUST        0x0000003bu
#define MSR_SPEC_CTRL         0x00000048u
#define MSR_PRED_CMD          0x00000049u
#define MSR_UCODE_REV         0x0000008bu
#define MSR_PLATFORM_INFO     0x000000ceu
#define MSR_MTRRCAP           0x000000feu
#define MSR_SYSENTER_CS       0x00000174u
#define MSR_SYSENTER_ESP      0x00000175u
#define MSR_SYSENTER_EIP      0x00000176u
#define MSR_MCG_CAP           0x00000179u
#define MSR_MCG_STATUS        0x0000017au
#define MSR_MISC_ENABLE       0x000001a0u
#define MSR_DEBUGCTL          0x000001d9u
#define DEBUGCTL_LBR          (1ull << 0)
#define DEBUGCTL_BTF          (1ull << 1)
#define MSR_MTRR_PHYSBASE0    0x00000200u /* base, mask pairs up to 0x20f */
#define MSR_MTRR_FIX64K       0x00000250u
#define MSR_MTRR_FIX16K_80    0x00000258u
#define MSR_MTRR_FIX16K_A0    0x00000259u
#define MSR_MTRR_FIX4K_C0     0x00000268u /* eight up to 0x26f */
#define MSR_PAT               0x00000277u
#define MSR_MTRR_DEF_TYPE     0x000002ffu
#define MSR_MC0_CTL           0x00000400u
#define MSR_TSC_DEADLINE      0x000006e0u
#define MSR_X2APIC_FIRST      0x00000800u
#define MSR_X2APIC_LAST       0x000008ffu
#define MSR_XSS               0x00000da0u
#define MSR_EFER              0xc0000080u
#define MSR_STAR              0xc0000081u
#define MSR_LSTAR             0xc0000082u
#define MSR_CSTAR             0xc0000083u
#define MSR_SFMASK            0xc0000084u
#define MSR_FS_BASE           0xc0000100u
#define MSR_GS_BASE           0xc0000101u
#define MSR_KERNEL_GS_BASE    0xc0000102u
#define MSR_TSC_AUX           0xc0000103u

/* AMD's (PPR of family 19h, and APM 2 appendix A). */
#define MSR_AMD_EVNTSEL0       0xc0010000u
#define MSR_AMD_SYSCFG         0xc0010010u
#define MSR_AMD_HWCR           0xc0010015u
#define MSR_AMD_TOP_MEM        0xc001001au
#define MSR_AMD_TOP_MEM2       0xc001001du
#define MSR_AMD_NB_CFG         0xc001001fu
#define MSR_AMD_INT_PENDING    0xc0010055u
#define MSR_AMD_MMIO_CONF_BASE 0xc0010058u
#define MSR_AMD_DE_CFG         0xc0011029u
#define MSR_AMD_BU_CFG2        0xc001102au
