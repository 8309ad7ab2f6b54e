/* Fast system calls: SDM 2B "SYSCALL", "SYSENTER", AMD APM 3 for what differs. */

#include "interpreter/syscall.h"

#include "interpreter/operation.h"
#include "interpreter/transfer.h"
#include "x86/paging.h"

static bool is_amd(const struct cpu *cpu)
{
    return cpu->cpuid->vendor == CPU_VENDOR_AMD;
}

/* Intel's SYSCALL and SYSRET exist in 64-bit mode only; AMD's in all of protected mode.
 */
static bool syscall_exists(struct cpu *cpu)
{
    bool has_mode = cpu->is_long64 || (is_amd(cpu) && cpu->is_protected);
    return (cpu->state.efer & X86_EFER_SCE && has_mode) || cpu_raise(cpu, X86_UD, 0);
}

void syscall_enter(struct cpu *cpu, uint16_t cs, uint16_t ss, unsigned cpl, bool is_64)
{
    struct x86_segment code = x86_segment_flat_code(cs, is_64, cpl);
    cpu->state.seg[X86_SS] = x86_segment_flat_data(ss, cpl);
    transfer_set_cs(cpu, &code, cpl);
}

void syscall_enter_kernel(struct cpu *cpu, bool is_64)
{
    uint16_t cs = (uint16_t)(cpu->state.star >> 32) & ~3u;
    syscall_enter(cpu, cs, (uint16_t)(cs + 8), 0, is_64);
}

static uint16_t user_cs(const struct cpu *cpu, bool is_64)
{
    uint16_t base = (uint16_t)(cpu->state.star >> 48);
    return (uint16_t)(is_64 ? base + 16 : base) | 3;
}
static uint16_t user_ss(const struct cpu *cpu)
{
    return (uint16_t)((cpu->state.star >> 48) + 8) | 3;
}

void syscall_enter_user(struct cpu *cpu, bool is_64)
{
    syscall_enter(cpu, user_cs(cpu, is_64), user_ss(cpu), 3, is_64);
}

OPERATION(syscall)
{
    struct x86_state *state = &cpu->state;
    if (!syscall_exists(cpu)) {
        return false;
    }
    uint64_t flags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF;
    cpu->reg[X86_RCX] = operation_next_rip(cpu, insn);
    if (cpu->is_long) {
        cpu->reg[X86_R11] = flags;
        flags &= ~state->sfmask;
        cpu->rip = cpu->is_long64 ? state->lstar : state->cstar;
    } else {
        flags &= ~(uint64_t)(X86_FLAG_IF | X86_FLAG_VM);
        cpu->rip = (uint32_t)state->star;
    }
    syscall_enter_kernel(cpu, cpu->is_long);
    cpu_set_rflags(cpu, flags);
    /* A TF that was masked does not trap the kernel's first instruction (AMD APM 3,
     * SYSCALL). */
    cpu->hides_step = !(flags & X86_FLAG_TF);
    return true;
}

OPERATION(sysret)
{
    bool is_64 = insn->size == 8;
    if (!syscall_exists(cpu) || !operation_privileged(cpu)) {
        return false;
    }
    uint64_t rip = is_64 ? cpu->reg[X86_RCX] : (uint32_t)cpu->reg[X86_RCX];
    /* Intel checks here, still at CPL 0; AMD lets the fetch fault at CPL 3. */
    if (!is_amd(cpu) && !x86_canonical(rip)) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint64_t flags =
        cpu->is_long ? cpu->reg[X86_R11] & SYSRET_FLAGS : cpu_rflags(cpu) | X86_FLAG_IF;
    syscall_enter_user(cpu, is_64);
    cpu_set_rflags(cpu, flags);
    cpu->rip = rip;
    return true;
}

/* AMD has SYSENTER and SYSEXIT outside long mode only. */
static bool sysenter_exists(struct cpu *cpu)
{
    return !(is_amd(cpu) && cpu->is_long) || cpu_raise(cpu, X86_UD, 0);
}

bool syscall_sysenter(struct cpu *cpu)
{
    struct x86_state *state = &cpu->state;
    if (!sysenter_exists(cpu)) {
        return false;
    }
    uint16_t cs = (uint16_t)state->sysenter_cs & ~3u;
    if (!(state->cr0 & X86_CR0_PE) || !cs) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint64_t flags =
        cpu_rflags(cpu) & ~(uint64_t)(X86_FLAG_VM | X86_FLAG_IF | X86_FLAG_RF);
    /* VM first: CS then gets a selector of protected mode. */
    cpu_set_rflags(cpu, flags);
    syscall_enter(cpu, cs, (uint16_t)(cs + 8), 0, cpu->is_long);
    cpu->reg[X86_RSP] =
        cpu->is_long ? state->sysenter_esp : (uint32_t)state->sysenter_esp;
    cpu->rip = cpu->is_long ? state->sysenter_eip : (uint32_t)state->sysenter_eip;
    return true;
}

OPERATION(sysenter)
{
    return syscall_sysenter(cpu);
}

bool syscall_sysexit(struct cpu *cpu, bool is_64)
{
    struct x86_state *state = &cpu->state;
    /* The privilege counts first, also where the instruction does not exist. */
    if (cpu->cpl > 0) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    if (!sysenter_exists(cpu)) {
        return false;
    }
    uint16_t base = (uint16_t)state->sysenter_cs & ~3u;
    uint64_t rip = cpu->reg[X86_RDX];
    uint64_t rsp = cpu->reg[X86_RCX];
    if (!cpu->is_protected || !base ||
        (is_64 && (!x86_canonical(rip) || !x86_canonical(rsp)))) {
        return cpu_raise(cpu, X86_GP, 0);
    }
    uint16_t cs = (uint16_t)(base + (is_64 ? 32 : 16)) | 3;
    syscall_enter(cpu, cs, (uint16_t)(cs + 8), 3, is_64);
    cpu->reg[X86_RSP] = is_64 ? rsp : (uint32_t)rsp;
    cpu->rip = is_64 ? rip : (uint32_t)rip;
    return true;
}

OPERATION(sysexit)
{
    return syscall_sysexit(cpu, insn->size == 8);
}

#define SYSCALL_HANDLER(name)                                                       \
    static const struct insn *exec_##name(struct cpu *cpu, const struct insn *insn) \
    {                                                                               \
        return name(cpu, insn) ? insn_leave_to(cpu, insn, cpu->rip)                 \
                               : insn_fault(cpu, insn);                             \
    }                                                                               \
    static insn_exec *const name##_routines[] = {exec_##name};

SYSCALL_HANDLER(syscall)
SYSCALL_HANDLER(sysret)
SYSCALL_HANDLER(sysenter)
SYSCALL_HANDLER(sysexit)

static bool bind_syscall(struct binding *binding, const struct insn_row *row,
                         struct insn *insn)
{
    insn->exec = row->exec[0];
    insn->size = binding->decoded->operand_width / 8;
    return true;
}

#define ROW(name, class, routines)                                           \
    {                                                                        \
        ZYDIS_MNEMONIC_##name, class, bind_syscall, routines, ROW_ENDS_BLOCK \
    }

const struct insn_row insn_rows_syscall[] = {
    ROW(SYSCALL, INSN_CONTROL_SENSITIVE, syscall_routines),
    ROW(SYSRET, INSN_PRIVILEGED, sysret_routines),
    ROW(SYSENTER, INSN_CONTROL_SENSITIVE, sysenter_routines),
    ROW(SYSEXIT, INSN_PRIVILEGED, sysexit_routines),
    {0},
};
