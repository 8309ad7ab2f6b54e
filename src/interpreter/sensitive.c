#include "interpreter/sensitive.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "base/scope.h"

struct reason {
    ZydisMnemonic mnemonic;
    const char *form;
    const char *why;
};

/* Robin & Irvine 2000, 3.2 found the 17 that are sensitive and do not trap; SDM 3A 5.9
 * lists the privileged ones. SDM 2A to 2D: each instruction's own page. */
#define WHY(name, why)                   \
    {                                    \
        ZYDIS_MNEMONIC_##name, NULL, why \
    }
#define WHY_FORM(name, form, why)        \
    {                                    \
        ZYDIS_MNEMONIC_##name, form, why \
    }

/* clang-format off */
static const struct reason reasons[] = {
    /* Shown to everybody: system registers. */
    WHY(SGDT, "stores GDTR at any CPL without CR4.UMIP"),
    WHY(SIDT, "stores IDTR at any CPL without CR4.UMIP"),
    WHY(SLDT, "stores LDTR's selector at any CPL without CR4.UMIP"),
    WHY(STR, "stores TR's selector at any CPL without CR4.UMIP"),
    WHY(SMSW, "stores CR0's low word at any CPL without CR4.UMIP"),
    WHY(CPUID, "shows the processor, and in part CR4, XCR0 and the APIC"),
    WHY(RDTSC, "shows the real time unless CR4.TSD"),
    WHY(RDTSCP, "shows the real time and IA32_TSC_AUX unless CR4.TSD"),
    WHY(RDPID, "shows IA32_TSC_AUX"),
    WHY(XGETBV, "shows XCR0"),
    WHY(RDPKRU, "shows the rights of protection keys; undefined without CR4.PKE"),
    WHY(WRPKRU, "sets the rights of protection keys; undefined without CR4.PKE"),
    /* Flags. */
    WHY(PUSHF, "shows IF and IOPL as they really are"),
    WHY(PUSHFD, "shows IF and IOPL as they really are"),
    WHY(PUSHFQ, "shows IF and IOPL as they really are"),
    WHY(POPF, "leaves IF and IOPL as they are, without a trap, where CPL may not change them"),
    WHY(POPFD, "leaves IF and IOPL as they are, without a trap, where CPL may not change them"),
    WHY(POPFQ, "leaves IF and IOPL as they are, without a trap, where CPL may not change them"),
    WHY(CLI, "masks interrupts; traps if CPL > IOPL"),
    WHY(STI, "unmasks interrupts; traps if CPL > IOPL"),
    WHY(STAC, "opens user pages to the supervisor; undefined outside CPL 0"),
    WHY(CLAC, "closes user pages to the supervisor; undefined outside CPL 0"),
    /* Segments and the protection system. */
    WHY_FORM(MOV, "r/m, Sreg", "shows CPL and RPL in the selector"),
    WHY_FORM(MOV, "Sreg, r/m", "checks CPL and RPL against the descriptor; reads GDT and LDT"),
    WHY_FORM(PUSH, "Sreg", "shows CPL and RPL in the selector"),
    WHY_FORM(POP, "Sreg", "checks CPL and RPL against the descriptor; reads GDT and LDT"),
    WHY(LDS, "loads a segment register as MOV to it"),
    WHY(LES, "loads a segment register as MOV to it"),
    WHY(LSS, "loads a segment register as MOV to it"),
    WHY(LFS, "loads a segment register as MOV to it"),
    WHY(LGS, "loads a segment register as MOV to it"),
    WHY(LAR, "what it tells of a descriptor depends on CPL"),
    WHY(LSL, "what it tells of a descriptor depends on CPL"),
    WHY(VERR, "what it tells of a descriptor depends on CPL"),
    WHY(VERW, "what it tells of a descriptor depends on CPL"),
    WHY(RDFSBASE, "shows the FS base; undefined without CR4.FSGSBASE"),
    WHY(RDGSBASE, "shows the GS base; undefined without CR4.FSGSBASE"),
    WHY(WRFSBASE, "sets the FS base; undefined without CR4.FSGSBASE"),
    WHY(WRGSBASE, "sets the GS base; undefined without CR4.FSGSBASE"),
    WHY(SWAPGS, "sets the GS base from an MSR"),
    WHY(LGDT, "sets the table of segments"),
    WHY(LIDT, "sets the table of interrupts"),
    WHY(LLDT, "sets the table of local segments"),
    WHY(LTR, "sets the task"),
    /* Transfers of control between privilege levels. */
    WHY_FORM(CALL, "far", "changes CS, and by gates CPL, stack and task"),
    WHY_FORM(JMP, "far", "changes CS, and by gates the task"),
    WHY_FORM(RET, "far", "changes CS and CPL"),
    WHY(INT, "enters the kernel by the IDT, if the gate's DPL lets it"),
    WHY(INT1, "enters the kernel by the IDT, and sets DR6"),
    WHY(INT3, "enters the kernel by the IDT, if the gate's DPL lets it"),
    WHY(INTO, "enters the kernel by the IDT, if the gate's DPL lets it"),
    WHY(IRET, "changes CS, CPL and flags; IF and IOPL only as CPL lets it"),
    WHY(IRETD, "changes CS, CPL and flags; IF and IOPL only as CPL lets it"),
    WHY(IRETQ, "changes CS, CPL and flags; IF and IOPL only as CPL lets it"),
    WHY(SYSCALL, "enters the kernel at IA32_LSTAR"),
    WHY(SYSENTER, "enters the kernel at IA32_SYSENTER_EIP"),
    WHY(SYSRET, "leaves the kernel"),
    WHY(SYSEXIT, "leaves the kernel"),
    WHY(RSM, "leaves system management mode; undefined outside of it"),
    /* The processor's own registers. */
    WHY_FORM(MOV, "CR, r", "sets modes, paging, task priority"),
    WHY_FORM(MOV, "r, CR", "shows modes, page table, fault address"),
    WHY_FORM(MOV, "DR, r", "sets breakpoints"),
    WHY_FORM(MOV, "r, DR", "shows breakpoints"),
    WHY(CLTS, "clears CR0.TS"),
    WHY(LMSW, "sets CR0's low bits"),
    WHY(XSETBV, "sets XCR0"),
    WHY(RDMSR, "shows model-specific registers"),
    WHY(WRMSR, "sets model-specific registers"),
    WHY(RDPMC, "shows performance counters; allowed to all by CR4.PCE"),
    /* What it saves and loads is chosen by registers that are not the program's. */
    WHY(FXSAVE, "what is saved depends on CR4.OSFXSR, and on AMD on EFER.FFXSR and CPL"),
    WHY(FXSAVE64, "what is saved depends on CR4.OSFXSR, and on AMD on EFER.FFXSR and CPL"),
    WHY(FXRSTOR, "what is loaded depends on CR4.OSFXSR, and on AMD on EFER.FFXSR and CPL"),
    WHY(FXRSTOR64, "what is loaded depends on CR4.OSFXSR, and on AMD on EFER.FFXSR and CPL"),
    WHY(XSAVE, "what is saved depends on XCR0"),
    WHY(XSAVE64, "what is saved depends on XCR0"),
    WHY(XSAVEC, "what is saved, and where, depends on XCR0"),
    WHY(XSAVEC64, "what is saved, and where, depends on XCR0"),
    WHY(XSAVEOPT, "what is saved depends on XCR0, and on what was loaded before"),
    WHY(XSAVEOPT64, "what is saved depends on XCR0, and on what was loaded before"),
    WHY(XRSTOR, "what is loaded depends on XCR0"),
    WHY(XRSTOR64, "what is loaded depends on XCR0"),
    /* The machine around. */
    WHY(HLT, "stops the processor"),
    WHY(MONITOR, "arms a wake-up; not offered, so undefined"),
    WHY(MWAIT, "stops the processor; not offered, so undefined"),
    WHY(IN, "reads a device; traps if CPL > IOPL and the task's I/O map does not allow it"),
    WHY(OUT, "writes a device; traps if CPL > IOPL and the task's I/O map does not allow it"),
    WHY(INSB, "reads a device, as IN"),
    WHY(INSW, "reads a device, as IN"),
    WHY(INSD, "reads a device, as IN"),
    WHY(OUTSB, "writes a device, as OUT"),
    WHY(OUTSW, "writes a device, as OUT"),
    WHY(OUTSD, "writes a device, as OUT"),
    WHY(INVLPG, "ends the validity of a translation"),
    WHY(INVPCID, "ends the validity of translations"),
    WHY(INVD, "empties caches without writing them back"),
    WHY(WBINVD, "empties caches"),
    WHY(VMCALL, "asks the control program itself"),
    WHY(VMMCALL, "asks the control program itself"),
};
/* clang-format on */

static bool is_form(const char *a, const char *b)
{
    return a == b || (a && b && strcmp(a, b) == 0);
}

const char *insn_why_sensitive(const struct insn_row *row)
{
    for (unsigned i = 0; i < array_size(reasons); i++) {
        if (reasons[i].mnemonic == row->mnemonic && is_form(reasons[i].form, row->form)) {
            return reasons[i].why;
        }
    }
    return NULL;
}

const char *insn_class_name(enum insn_class class)
{
    static const char *const names[] = {
        [INSN_INNOCUOUS] = "innocuous",
        [INSN_CONTROL_SENSITIVE] = "control-sensitive",
        [INSN_BEHAVIOUR_SENSITIVE] = "behaviour-sensitive",
        [INSN_PRIVILEGED] = "privileged",
    };
    return names[class];
}

void insn_row_name(const struct insn_row *row, char name[INSN_NAME_SIZE])
{
    snprintf(name, INSN_NAME_SIZE, "%s%s%s", ZydisMnemonicGetString(row->mnemonic),
             row->form ? " " : "", row->form ? row->form : "");
    for (char *at = name; *at && *at != ' '; at++) {
        *at = (char)toupper((unsigned char)*at);
    }
}
