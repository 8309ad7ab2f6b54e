/* How KVM supervises the sensitive instructions: what of VMX (SDM 3C 24, 25) or SVM (APM
 * 2 15) it uses for each. Where a guest's ring 0 is interpreted by the KVM of a host
 * without either, that does the same in software. */

#include "engine/kvm/kvm.h"

#include <string.h>

#include "base/scope.h"
#include "interpreter/insn.h"

#define TABLES  "own table registers"
#define CONTROL "masks and shadows of CR0 and CR4; own CR3; exits for the rest"
#define DEBUGS  "exits until the guest's own are loaded"
#define FLAGS   "own flags; an exit when interrupts can be taken"
#define SEGMENT "own segments and descriptor tables"
#define IDT     "own IDT"
#define MSRS    "own MSRs, loaded on entry"
#define XCR0    "own XCR0, loaded on entry"
#define PKRU    "own PKRU, loaded on entry"
#define BITMAP  "MSR bitmap; exits for the rest"
#define PORTS   "exits"
#define PAGING  "own translations"
#define EXITS   "exits"

#define MEANS(name, means)           \
    {                                \
        ZYDIS_MNEMONIC_##name, means \
    }

/* clang-format off */
static const struct {
    ZydisMnemonic mnemonic;
    const char *means;
} by_mnemonic[] = {
    MEANS(SGDT, TABLES), MEANS(SIDT, TABLES), MEANS(SLDT, TABLES), MEANS(STR, TABLES),
    MEANS(LGDT, TABLES), MEANS(LIDT, TABLES), MEANS(LLDT, TABLES), MEANS(LTR, TABLES),
    MEANS(SMSW, CONTROL), MEANS(LMSW, CONTROL), MEANS(CLTS, CONTROL),
    MEANS(CPUID, EXITS), MEANS(RDTSC, "own offset of the TSC"),
    MEANS(RDTSCP, "own offset of the TSC"), MEANS(RDPID, MSRS), MEANS(XGETBV, XCR0),
    MEANS(PUSHF, FLAGS), MEANS(PUSHFD, FLAGS), MEANS(PUSHFQ, FLAGS), MEANS(POPF, FLAGS),
    MEANS(POPFD, FLAGS), MEANS(POPFQ, FLAGS), MEANS(CLI, FLAGS), MEANS(STI, FLAGS),
    MEANS(STAC, FLAGS), MEANS(CLAC, FLAGS), MEANS(IRET, FLAGS), MEANS(IRETD, FLAGS),
    MEANS(IRETQ, FLAGS),
    MEANS(MOV, SEGMENT), MEANS(PUSH, SEGMENT), MEANS(POP, SEGMENT), MEANS(LDS, SEGMENT),
    MEANS(LES, SEGMENT), MEANS(LSS, SEGMENT), MEANS(LFS, SEGMENT), MEANS(LGS, SEGMENT),
    MEANS(LAR, SEGMENT), MEANS(LSL, SEGMENT), MEANS(VERR, SEGMENT), MEANS(VERW, SEGMENT),
    MEANS(RDFSBASE, SEGMENT), MEANS(RDGSBASE, SEGMENT), MEANS(WRFSBASE, SEGMENT),
    MEANS(WRGSBASE, SEGMENT), MEANS(SWAPGS, MSRS), MEANS(CALL, SEGMENT),
    MEANS(JMP, SEGMENT), MEANS(RET, SEGMENT),
    MEANS(INT, IDT), MEANS(INT1, IDT), MEANS(INT3, IDT), MEANS(INTO, IDT),
    MEANS(SYSCALL, MSRS), MEANS(SYSENTER, MSRS), MEANS(SYSRET, MSRS),
    MEANS(SYSEXIT, MSRS), MEANS(RSM, EXITS), MEANS(XSETBV, EXITS), MEANS(RDMSR, BITMAP),
    MEANS(WRMSR, BITMAP), MEANS(RDPMC, EXITS),
    MEANS(FXSAVE, CONTROL), MEANS(FXSAVE64, CONTROL), MEANS(FXRSTOR, CONTROL),
    MEANS(FXRSTOR64, CONTROL), MEANS(XSAVE, XCR0), MEANS(XSAVE64, XCR0),
    MEANS(XSAVEC, XCR0), MEANS(XSAVEC64, XCR0), MEANS(XSAVEOPT, XCR0),
    MEANS(XSAVEOPT64, XCR0), MEANS(XRSTOR, XCR0), MEANS(XRSTOR64, XCR0),
    MEANS(RDPKRU, PKRU), MEANS(WRPKRU, PKRU),
    MEANS(HLT, EXITS), MEANS(MONITOR, EXITS), MEANS(MWAIT, EXITS), MEANS(IN, PORTS),
    MEANS(OUT, PORTS), MEANS(INSB, PORTS), MEANS(INSW, PORTS), MEANS(INSD, PORTS),
    MEANS(OUTSB, PORTS), MEANS(OUTSW, PORTS), MEANS(OUTSD, PORTS),
    MEANS(INVLPG, PAGING), MEANS(INVPCID, PAGING), MEANS(INVD, EXITS),
    MEANS(WBINVD, EXITS), MEANS(VMCALL, EXITS), MEANS(VMMCALL, EXITS),
};
/* clang-format on */

/* The rows of MOV that are no segment's say which register it is. */
static const char *means_of(const struct insn_row *row)
{
    if (row->mnemonic == ZYDIS_MNEMONIC_MOV && row->class == INSN_PRIVILEGED) {
        return strstr(row->form, "CR") ? CONTROL : DEBUGS;
    }
    for (unsigned i = 0; i < array_size(by_mnemonic); i++) {
        if (by_mnemonic[i].mnemonic == row->mnemonic) {
            return by_mnemonic[i].means;
        }
    }
    return NULL;
}

enum engine_way kvm_way(const struct insn_row *row, const char **means)
{
    if (row->class == INSN_INNOCUOUS) {
        return WAY_COPIED;
    }
    *means = means_of(row);
    return WAY_HARDWARE;
}
