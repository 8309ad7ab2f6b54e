/* Instructions that ask the machine around: MSRs, CPUID, time, HLT, TLB and caches,
 * ports, random numbers, hypercalls; and those that do nothing. */

#include "interpreter/operation.h"
#include "interpreter/port.h"
#include "x86/msr.h"
#include "x86/paging.h"
#include "x86/random.h"

static void set_edx_eax(struct cpu *cpu, uint64_t value)
{
    cpu->reg[X86_RAX] = (uint32_t)value;
    cpu->reg[X86_RDX] = value >> 32;
}

/* ---- MSRs ---- */

/* Those that the interpreter's own caches or addresses depend on. */
static bool is_own_msr(uint32_t index)
{
    return index == MSR_EFER || index == MSR_FS_BASE || index == MSR_GS_BASE;
}

OPERATION(rdmsr)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    uint32_t index = (uint32_t)cpu->reg[X86_RCX];
    uint64_t value = 0;
    cpu->hooks->count(cpu, EXIT_RDMSR);
    bool is_known = is_own_msr(index)
                        ? msr_read(cpu->cpuid, &cpu->state, 0, index, &value) == MSR_OK
                        : cpu->hooks->msr_read(cpu, index, &value);
    if (!is_known) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    set_edx_eax(cpu, value);
    return true;
}

static bool write_own_msr(struct cpu *cpu, uint32_t index, uint64_t value)
{
    unsigned effects = 0;
    if (msr_write(cpu->cpuid, &cpu->state, 0, index, value, &effects) != MSR_OK) {
        return false;
    }
    if (effects & MSR_EFFECT_PAGING) {
        cpu_flush_all(cpu);
        cpu_update_mode(cpu);
    }
    return true;
}

OPERATION(wrmsr)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    uint32_t index = (uint32_t)cpu->reg[X86_RCX];
    uint64_t value = cpu->reg[X86_RDX] << 32 | (uint32_t)cpu->reg[X86_RAX];
    cpu->hooks->count(cpu, EXIT_WRMSR);
    bool is_accepted = is_own_msr(index) ? write_own_msr(cpu, index, value)
                                         : cpu->hooks->msr_write(cpu, index, value);
    return is_accepted || cpu_raise(cpu, X86_GP, 0);
}

/* ---- Identification and time ---- */

OPERATION(cpuid)
{
    uint32_t out[4];
    cpu->hooks->count(cpu, EXIT_CPUID);
    cpuid_execute(cpu->cpuid, &cpu->state, cpu->lapic ? cpu->lapic->id : 0,
                  (uint32_t)cpu->reg[X86_RAX], (uint32_t)cpu->reg[X86_RCX], out);
    cpu->reg[X86_RAX] = out[0];
    cpu->reg[X86_RBX] = out[1];
    cpu->reg[X86_RCX] = out[2];
    cpu->reg[X86_RDX] = out[3];
    return true;
}

static bool read_tsc(struct cpu *cpu)
{
    if (cpu->state.cr4 & X86_CR4_TSD && cpu->cpl > 0) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu->hooks->count(cpu, EXIT_RDTSC);
    set_edx_eax(cpu, cpu->hooks->tsc(cpu));
    return true;
}

OPERATION(rdtsc)
{
    return read_tsc(cpu);
}

OPERATION(rdtscp)
{
    if (!read_tsc(cpu)) {
        return false;
    }
    cpu->reg[X86_RCX] = (uint32_t)cpu->state.tsc_aux;
    return true;
}

static const struct insn *exec_rdpid(struct cpu *cpu, const struct insn *insn)
{
    REG64(cpu, insn->dst) = (uint32_t)cpu->state.tsc_aux;
    NEXT(cpu, insn);
}

/* No performance counters are offered, so every index is out of range. */
static const struct insn *exec_rdpmc(struct cpu *cpu, const struct insn *insn)
{
    return insn_raise(cpu, insn, X86_GP, 0);
}

OPERATION(hlt)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    cpu->hooks->count(cpu, EXIT_HLT);
    cpu->state.activity = X86_HALTED;
    return true;
}

/* ---- Translations ---- */

OPERATION(invlpg)
{
    if (!operation_privileged(cpu)) {
        return false;
    }
    uint64_t ea = insn_address(cpu, insn);
    if (cpu->has_fault) {
        return false;
    }
    cpu->hooks->count(cpu, EXIT_INVLPG);
    /* SDM 2A "INVLPG": nothing happens for a non-canonical address. */
    if (x86_canonical(ea)) {
        cpu_flush_page(cpu, ea);
    }
    return true;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_SINGLE, INVPCID_ALL_GLOBAL, INVPCID_ALL };

OPERATION(invpcid)
{
    uint64_t descriptor[2] = {0, 0};
    uint64_t type = reg_read(cpu, insn->dst, cpu->is_long64 ? 8 : 4);
    if (!operation_privileged(cpu) ||
        !access_read(cpu, insn_address(cpu, insn), descriptor, sizeof(descriptor))) {
        return false;
    }
    uint64_t pcid = descriptor[0];
    uint64_t gva = descriptor[1];
    bool has_pcid = cpu->state.cr4 & X86_CR4_PCIDE;
    if (type > INVPCID_ALL || pcid >> 12 ||
        (type <= INVPCID_SINGLE && pcid && !has_pcid) ||
        (type == INVPCID_ADDRESS && !x86_canonical(gva))) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    cpu->hooks->count(cpu, EXIT_INVLPG);
    if (type == INVPCID_ADDRESS) {
        cpu_flush_page(cpu, gva);
    } else if (type == INVPCID_SINGLE && has_pcid) {
        cpu_flush_pcid(cpu, (unsigned)pcid);
    } else if (type == INVPCID_ALL) {
        cpu_flush_spaces(cpu);
    } else {
        cpu_flush_all(cpu);
    }
    return true;
}

/* ---- Caches and order ---- */

/* Guest memory is coherent host memory: nothing to write back. */
OPERATION(wbinvd)
{
    return operation_privileged(cpu);
}

/* SDM 2A "CLFLUSH": checked as a load of the byte. */
static const struct insn *exec_clflush(struct cpu *cpu, const struct insn *insn)
{
    if (unlikely(!access_probe(cpu, insn_address(cpu, insn), 1, false))) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

static const struct insn *exec_mfence(struct cpu *cpu, const struct insn *insn)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    NEXT(cpu, insn);
}

/* Non-temporal guest stores are the host's. */
static const struct insn *exec_sfence(struct cpu *cpu, const struct insn *insn)
{
    __builtin_ia32_sfence();
    NEXT(cpu, insn);
}

static const struct insn *exec_lfence(struct cpu *cpu, const struct insn *insn)
{
    __builtin_ia32_lfence();
    NEXT(cpu, insn);
}

static const struct insn *exec_pause(struct cpu *cpu, const struct insn *insn)
{
    cpu->hooks->count(cpu, EXIT_PAUSE);
    NEXT(cpu, insn);
}

static const struct insn *exec_nop(struct cpu *cpu, const struct insn *insn)
{
    NEXT(cpu, insn);
}

/* ---- Random numbers ---- */

struct random_number {
    uint64_t value;
    uint8_t is_valid;
};

/* The width matters: the host's unit is asked for as much as the guest asked. */
static struct random_number host_rdrand(unsigned size)
{
    struct random_number random = {0, 0};
    if (size == 8) {
        __asm__ volatile("rdrand %0; setc %1"
                         : "=r"(random.value), "=qm"(random.is_valid)
                         :
                         : "cc");
    } else {
        uint32_t value;
        __asm__ volatile("rdrand %0; setc %1"
                         : "=r"(value), "=qm"(random.is_valid)
                         :
                         : "cc");
        random.value = value;
    }
    return random;
}

static struct random_number host_rdseed(unsigned size)
{
    struct random_number random = {0, 0};
    if (size == 8) {
        __asm__ volatile("rdseed %0; setc %1"
                         : "=r"(random.value), "=qm"(random.is_valid)
                         :
                         : "cc");
    } else {
        uint32_t value;
        __asm__ volatile("rdseed %0; setc %1"
                         : "=r"(value), "=qm"(random.is_valid)
                         :
                         : "cc");
        random.value = value;
    }
    return random;
}

static void store_random(struct cpu *cpu, const struct insn *insn,
                         struct random_number random)
{
    reg_write(cpu, insn->dst, insn->size, random.is_valid ? random.value : 0);
    cpu->arith = arith_from_flags(random.is_valid ? X86_FLAG_CF : 0);
}

static struct random_number repeatable(struct cpu *cpu)
{
    return (struct random_number){x86_random(cpu->hooks->now(cpu)), 1};
}

OPERATION(rdrand)
{
    store_random(cpu, insn, cpu->is_counting ? repeatable(cpu) : host_rdrand(insn->size));
    return true;
}

OPERATION(rdseed)
{
    store_random(cpu, insn, cpu->is_counting ? repeatable(cpu) : host_rdseed(insn->size));
    return true;
}

/* ---- Hypercalls ---- */

OPERATION(hypercall)
{
    return cpu->hooks->hypercall(cpu) || cpu_raise(cpu, X86_UD, 0);
}

static const struct insn *exec_undefined(struct cpu *cpu, const struct insn *insn)
{
    return insn_raise(cpu, insn, X86_UD, 0);
}

HANDLER(rdmsr)
ENDING_HANDLER(wrmsr)
ENDING_HANDLER(cpuid)
HANDLER(rdtsc)
HANDLER(rdtscp)
ENDING_HANDLER(hlt)
ENDING_HANDLER(invlpg)
ENDING_HANDLER(invpcid)
HANDLER(wbinvd)
HANDLER(rdrand)
HANDLER(rdseed)
ENDING_HANDLER(hypercall)

static bool bind_nothing(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    insn->exec = row->exec[0];
    return true;
}

/* A cache line is named by one byte. */
static bool bind_line(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bind_simple(binding, row, insn);
    insn->size = 1;
    return true;
}

#define ROUTINE(name)    \
    (insn_exec *const[]) \
    {                    \
        exec_##name      \
    }
#define NOP_ROW(name)                                                        \
    {                                                                        \
        ZYDIS_MNEMONIC_##name, INSN_INNOCUOUS, bind_nothing, ROUTINE(nop), 0 \
    }
#define UNDEFINED_ROW(name, class)                                                     \
    {                                                                                  \
        ZYDIS_MNEMONIC_##name, class, bind_nothing, ROUTINE(undefined), ROW_ENDS_BLOCK \
    }

const struct insn_row insn_rows_system[] = {
    {ZYDIS_MNEMONIC_RDMSR, INSN_PRIVILEGED, bind_nothing, rdmsr_routines, 0},
    {ZYDIS_MNEMONIC_WRMSR, INSN_PRIVILEGED, bind_nothing, wrmsr_routines, ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_CPUID, INSN_BEHAVIOUR_SENSITIVE, bind_nothing, cpuid_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_RDTSC, INSN_BEHAVIOUR_SENSITIVE, bind_nothing, rdtsc_routines, 0},
    {ZYDIS_MNEMONIC_RDTSCP, INSN_BEHAVIOUR_SENSITIVE, bind_nothing, rdtscp_routines, 0},
    {ZYDIS_MNEMONIC_RDPID, INSN_BEHAVIOUR_SENSITIVE, bind_simple, ROUTINE(rdpid), 0},
    {ZYDIS_MNEMONIC_RDPMC, INSN_PRIVILEGED, bind_nothing, ROUTINE(rdpmc), ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_HLT, INSN_PRIVILEGED, bind_nothing, hlt_routines, ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_IN, INSN_PRIVILEGED, port_bind, port_in_routines, ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_OUT, INSN_PRIVILEGED, port_bind, port_out_routines, ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_INVLPG, INSN_PRIVILEGED, bind_simple, invlpg_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_INVPCID, INSN_PRIVILEGED, bind_simple, invpcid_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_WBINVD, INSN_PRIVILEGED, bind_nothing, wbinvd_routines, 0},
    {ZYDIS_MNEMONIC_INVD, INSN_PRIVILEGED, bind_nothing, wbinvd_routines, 0},
    {ZYDIS_MNEMONIC_CLFLUSH, INSN_INNOCUOUS, bind_line, ROUTINE(clflush), 0},
    {ZYDIS_MNEMONIC_CLFLUSHOPT, INSN_INNOCUOUS, bind_line, ROUTINE(clflush), 0},
    {ZYDIS_MNEMONIC_CLWB, INSN_INNOCUOUS, bind_line, ROUTINE(clflush), 0},
    {ZYDIS_MNEMONIC_MFENCE, INSN_INNOCUOUS, bind_nothing, ROUTINE(mfence), 0},
    {ZYDIS_MNEMONIC_SFENCE, INSN_INNOCUOUS, bind_nothing, ROUTINE(sfence), 0},
    {ZYDIS_MNEMONIC_LFENCE, INSN_INNOCUOUS, bind_nothing, ROUTINE(lfence), 0},
    {ZYDIS_MNEMONIC_PAUSE, INSN_INNOCUOUS, bind_nothing, ROUTINE(pause), 0},
    {ZYDIS_MNEMONIC_RDRAND, INSN_INNOCUOUS, bind_simple, rdrand_routines, 0},
    {ZYDIS_MNEMONIC_RDSEED, INSN_INNOCUOUS, bind_simple, rdseed_routines, 0},
    {ZYDIS_MNEMONIC_VMCALL, INSN_CONTROL_SENSITIVE, bind_nothing, hypercall_routines,
     ROW_ENDS_BLOCK},
    {ZYDIS_MNEMONIC_VMMCALL, INSN_CONTROL_SENSITIVE, bind_nothing, hypercall_routines,
     ROW_ENDS_BLOCK},
    NOP_ROW(NOP),
    NOP_ROW(ENDBR32),
    NOP_ROW(ENDBR64),
    NOP_ROW(RDSSPD), /* without CET it leaves its register as it is */
    NOP_ROW(RDSSPQ),
    NOP_ROW(CLDEMOTE),
    NOP_ROW(PREFETCH),
    NOP_ROW(PREFETCHW),
    NOP_ROW(PREFETCHWT1),
    NOP_ROW(PREFETCHNTA),
    NOP_ROW(PREFETCHT0),
    NOP_ROW(PREFETCHT1),
    NOP_ROW(PREFETCHT2),
    UNDEFINED_ROW(UD0, INSN_INNOCUOUS),
    UNDEFINED_ROW(UD1, INSN_INNOCUOUS),
    UNDEFINED_ROW(UD2, INSN_INNOCUOUS),
    UNDEFINED_ROW(RSM, INSN_PRIVILEGED), /* outside system management mode */
    UNDEFINED_ROW(MONITOR, INSN_PRIVILEGED),
    UNDEFINED_ROW(MWAIT, INSN_PRIVILEGED),
    {0},
};
