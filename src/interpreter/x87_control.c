/* The x87 instructions that only move control state: environment, status, control. They
 * need no floating-point unit. */
#include "interpreter/native.h"
#include "interpreter/operation.h"
#include "interpreter/part.h"
#include "interpreter/x87.h"

#include <string.h>

void x87_init(struct x86_fpu *fpu)
{
    x87_set_top(fpu, 0);
    fpu->fcw = X87_FCW_INIT;
    fpu->fsw = 0;
    fpu->ftw = 0;
    fpu->fop = 0;
    fpu->fip = fpu->fdp = 0;
    fpu->fcs = fpu->fds = 0;
}

const struct insn *x87_fnstcw(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false) ||
        !access_store(cpu, insn_address(cpu, insn), 2, cpu->state.fpu.fcw)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

const struct insn *x87_fnstsw(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false) ||
        !access_store(cpu, insn_address(cpu, insn), 2, cpu->state.fpu.fsw)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

const struct insn *x87_fnstsw_ax(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false)) {
        return insn_fault(cpu, insn);
    }
    reg_write(cpu, REG_OFFSET(X86_RAX), 2, cpu->state.fpu.fsw);
    NEXT(cpu, insn);
}

const struct insn *x87_fnclex(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false)) {
        return insn_fault(cpu, insn);
    }
    cpu->state.fpu.fsw &=
        (uint16_t) ~(X87_FSW_FLAGS | X87_FSW_SF | X87_FSW_ES | X87_FSW_B);
    NEXT(cpu, insn);
}

const struct insn *x87_fninit(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false)) {
        return insn_fault(cpu, insn);
    }
    x87_init(&cpu->state.fpu);
    NEXT(cpu, insn);
}

const struct insn *x87_nop(struct cpu *cpu, const struct insn *insn)
{
    if (!x87_check(cpu, false)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* SDM 2B "WAIT": #NM if both MP and TS are set; EM does not matter. */
const struct insn *x87_fwait(struct cpu *cpu, const struct insn *insn)
{
    uint64_t both = X86_CR0_MP | X86_CR0_TS;
    if ((cpu->state.cr0 & both) == both) {
        return insn_raise(cpu, insn, X86_NM, 0);
    }
    if (cpu->state.fpu.fsw & X87_FSW_ES) {
        return insn_raise(cpu, insn, X86_MF, 0);
    }
    NEXT(cpu, insn);
}

const struct insn *x87_emms(struct cpu *cpu, const struct insn *insn)
{
    if (!native_check_mmx(cpu)) {
        return insn_fault(cpu, insn);
    }
    x87_set_top(&cpu->state.fpu, 0);
    cpu->state.fpu.ftw = 0;
    NEXT(cpu, insn);
}

/* ---- environment: SDM 1 8.1.10, figures 8-9 to 8-12 ------------------------------- */

#define ENVIRONMENT_32 28u
#define STACK_BYTES    80u

/* 0 valid, 1 zero, 2 special, 3 empty. */
static unsigned full_tag(const struct x86_fpu *fpu, unsigned physical)
{
    if (!(fpu->ftw >> physical & 1)) {
        return 3;
    }
    const uint8_t *st = fpu->st[(physical - x87_top(fpu)) & 7];
    uint64_t significand;
    uint16_t exponent;
    memcpy(&significand, st, 8);
    memcpy(&exponent, st + 8, 2);
    exponent &= 0x7fff;
    if (exponent == 0 && significand == 0) {
        return 1;
    }
    return exponent == 0 || exponent == 0x7fff || !(significand >> 63) ? 2 : 0;
}

static uint16_t full_tags(const struct x86_fpu *fpu)
{
    unsigned tags = 0;
    for (unsigned i = 0; i < 8; i++) {
        tags |= full_tag(fpu, i) << (2 * i);
    }
    return (uint16_t)tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    unsigned abridged = 0;
    for (unsigned i = 0; i < 8; i++) {
        abridged |= (tags >> (2 * i) & 3) != 3 ? 1u << i : 0;
    }
    return (uint8_t)abridged;
}

/* The seven fields, whatever their width. */
struct environment {
    uint32_t field[7];
};

static bool is_real_format(const struct cpu *cpu)
{
    return !cpu->is_protected;
}

/* In real and virtual-8086 mode pointers are linear addresses, split over two fields. */
static struct environment environment_from(const struct cpu *cpu, bool is_16)
{
    const struct x86_fpu *fpu = &cpu->state.fpu;
    struct environment env = {{fpu->fcw, fpu->fsw, full_tags(fpu)}};
    if (is_real_format(cpu)) {
        uint32_t ip = (uint32_t)fpu->fip + fpu->fcs * 16u;
        uint32_t dp = (uint32_t)fpu->fdp + fpu->fds * 16u;
        env.field[3] = ip & 0xffff;
        env.field[4] = (ip >> 16) << 12 | fpu->fop;
        env.field[5] = dp & 0xffff;
        env.field[6] = (dp >> 16) << 12;
    } else {
        env.field[3] = (uint32_t)fpu->fip;
        /* SDM 1 8.1.8: or both selectors as 0. */
        bool has_selectors = !cpuid_has(cpu->cpuid, CPU_ZERO_FCS_FDS);
        env.field[4] = (has_selectors ? fpu->fcs : 0) | (uint32_t)fpu->fop << 16;
        env.field[5] = (uint32_t)fpu->fdp;
        env.field[6] = has_selectors ? fpu->fds : 0;
    }
    if (!is_16) {
        static const uint8_t reserved[] = {0, 1, 2, 6};
        for (unsigned i = 0; i < sizeof(reserved); i++) {
            env.field[reserved[i]] |=
                is_real_format(cpu) && reserved[i] == 6 ? 0 : 0xffff0000u;
        }
    }
    return env;
}

static void environment_to(struct cpu *cpu, const struct environment *env, bool is_16)
{
    struct x86_fpu *fpu = &cpu->state.fpu;
    uint16_t fsw = (uint16_t)env->field[1];
    x87_set_top(fpu, fsw >> 11 & 7);
    fpu->fcw = (env->field[0] & 0x1f3f) | 0x40;
    fpu->fsw = fsw;
    fpu->ftw = abridged_tags((uint16_t)env->field[2]);
    if (is_real_format(cpu)) {
        fpu->fip = (env->field[3] & 0xffff) | (env->field[4] >> 12) << 16;
        fpu->fop = env->field[4] & 0x7ff;
        fpu->fdp = (env->field[5] & 0xffff) | (env->field[6] >> 12) << 16;
        fpu->fcs = fpu->fds = 0;
    } else {
        fpu->fip = env->field[3];
        fpu->fcs = (uint16_t)env->field[4];
        fpu->fop = is_16 ? fpu->fop : env->field[4] >> 16 & 0x7ff;
        fpu->fdp = env->field[5];
        fpu->fds = (uint16_t)env->field[6];
    }
    x87_update_summary(fpu);
}

static unsigned environment_pack(const struct environment *env, bool is_16, uint8_t *to)
{
    unsigned width = is_16 ? 2 : 4;
    for (unsigned i = 0; i < 7; i++) {
        memcpy(to + i * width, &env->field[i], width);
    }
    return 7 * width;
}

static unsigned environment_unpack(struct environment *env, bool is_16,
                                   const uint8_t *from)
{
    unsigned width = is_16 ? 2 : 4;
    memset(env, 0, sizeof(*env));
    for (unsigned i = 0; i < 7; i++) {
        memcpy(&env->field[i], from + i * width, width);
    }
    return 7 * width;
}

/* In memory: by is_16. */
#define FIELDS(size) size, size, size, size, size, size, size
#define REGISTERS    8, 2, 8, 2, 8, 2, 8, 2, 8, 2, 8, 2, 8, 2, 8, 2
static const struct parts environment_parts[] = {
    {.alignment = 4, .has_end_first = true, .count = 7, .size = {FIELDS(4)}},
    {.alignment = 2, .has_end_first = true, .count = 7, .size = {FIELDS(2)}},
};
static const struct parts state_parts[] = {
    {.alignment = 4, .has_end_first = true, .count = 23, .size = {FIELDS(4), REGISTERS}},
    {.alignment = 2, .has_end_first = true, .count = 23, .size = {FIELDS(2), REGISTERS}},
};

OPERATION(store_environment)
{
    uint8_t bytes[ENVIRONMENT_32];
    bool is_16 = insn->aux & X87_16;
    if (!x87_check(cpu, false)) {
        return false;
    }
    struct environment env = environment_from(cpu, is_16);
    environment_pack(&env, is_16, bytes);
    if (!part_write(cpu, insn, &environment_parts[is_16], bytes)) {
        return false;
    }
    cpu->state.fpu.fcw |= X87_FCW_MASKS;
    x87_update_summary(&cpu->state.fpu);
    return true;
}

SHARED_HANDLER(x87_fnstenv, store_environment)

OPERATION(load_environment)
{
    uint8_t bytes[ENVIRONMENT_32];
    struct environment env;
    bool is_16 = insn->aux & X87_16;
    if (!x87_check(cpu, true) ||
        !part_read(cpu, insn, &environment_parts[is_16], bytes)) {
        return false;
    }
    environment_unpack(&env, is_16, bytes);
    environment_to(cpu, &env, is_16);
    return true;
}

SHARED_HANDLER(x87_fldenv, load_environment)

OPERATION(save_state)
{
    uint8_t bytes[ENVIRONMENT_32 + STACK_BYTES];
    bool is_16 = insn->aux & X87_16;
    if (!x87_check(cpu, false)) {
        return false;
    }
    struct environment env = environment_from(cpu, is_16);
    unsigned size = environment_pack(&env, is_16, bytes);
    for (unsigned i = 0; i < 8; i++) {
        memcpy(bytes + size + i * 10, cpu->state.fpu.st[i], 10);
    }
    if (!part_write(cpu, insn, &state_parts[is_16], bytes)) {
        return false;
    }
    x87_init(&cpu->state.fpu);
    return true;
}

SHARED_HANDLER(x87_fnsave, save_state)

OPERATION(restore_state)
{
    uint8_t bytes[ENVIRONMENT_32 + STACK_BYTES];
    struct environment env;
    bool is_16 = insn->aux & X87_16;
    if (!x87_check(cpu, true) || !part_read(cpu, insn, &state_parts[is_16], bytes)) {
        return false;
    }
    unsigned size = environment_unpack(&env, is_16, bytes);
    environment_to(cpu, &env, is_16);
    for (unsigned i = 0; i < 8; i++) {
        memset(cpu->state.fpu.st[i], 0, 16);
        memcpy(cpu->state.fpu.st[i], bytes + size + i * 10, 10);
    }
    return true;
}

SHARED_HANDLER(x87_frstor, restore_state)
