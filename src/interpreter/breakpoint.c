#include "interpreter/breakpoint.h"

#include "interpreter/access.h"
#include "interpreter/debug.h"
#include "interpreter/insn.h"

#define DR7_LOCAL 0x155ull /* L0 to L3, LE */

enum condition { /* DR7's R/W fields */
                 ON_EXECUTE = 0,
                 ON_WRITE = 1,
                 ON_PORT = 2, /* with CR4.DE; undefined without */
                 ON_ACCESS = 3,
};

static enum condition condition_of(const struct cpu *cpu, unsigned i)
{
    return cpu->state.dr7 >> (16 + i * 4) & 3;
}

/* SDM 3B 18.2.5: LEN 2 stands for 8 bytes; addresses are aligned to the length. */
static unsigned size_of(const struct cpu *cpu, unsigned i)
{
    static const uint8_t sizes[] = {1, 2, 8, 4};
    return sizes[cpu->state.dr7 >> (18 + i * 4) & 3];
}

static bool overlaps(const struct cpu *cpu, unsigned i, uint64_t address, uint64_t size)
{
    uint64_t length = size_of(cpu, i);
    uint64_t start = cpu->state.dr[i] & -length;
    return address - start < length || start - address < size;
}

static void clear_pages(struct cpu *cpu)
{
    for (unsigned i = 0; i < 4; i++) {
        if (cpu->break_data >> i & 1) {
            cpu_clear_page(cpu, cpu->state.dr[i]);
        }
    }
}

void breakpoint_update(struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    uint8_t had_execute = cpu->break_execute;
    cpu->break_execute = cpu->break_data = cpu->break_port = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint8_t bit = (uint8_t)(1u << i);
        if (!(state->dr7 >> (i * 2) & 3)) {
            continue;
        }
        switch (condition_of(cpu, i)) {
        case ON_EXECUTE:
            cpu->break_execute |= bit;
            break;
        case ON_PORT:
            cpu->break_port |= state->cr4 & X86_CR4_DE ? bit : 0;
            break;
        default:
            cpu->break_data |= bit;
        }
    }
    /* Where a page was watched, it may have been left out of the TLB: no harm. Where
     * blocks began at a breakpoint, neither. */
    cpu->drops_blocks |= (had_execute | cpu->break_execute) != 0;
    clear_pages(cpu);
    cpu_update_mode(cpu);
}

void breakpoint_switch_task(struct cpu *cpu, bool has_trap)
{
    cpu->state.dr7 &= ~DR7_LOCAL;
    breakpoint_update(cpu);
    cpu->debug_traps |= has_trap ? DR6_BT : 0;
}

bool breakpoint_has_offset(const struct cpu *cpu, unsigned offset)
{
    for (unsigned i = 0; i < 4; i++) {
        if (cpu->break_execute >> i & 1 && cpu->state.dr[i] % FRAME_SIZE == offset) {
            return true;
        }
    }
    return false;
}

uint32_t breakpoint_hits(const struct cpu *cpu)
{
    uint32_t hits = 0;
    gva_t address = debug_address(cpu);
    for (unsigned i = 0; i < 4 && !cpu_resumes(cpu); i++) {
        if (cpu->break_execute >> i & 1 && cpu->state.dr[i] == address) {
            hits |= 1u << i;
        }
    }
    return hits;
}

bool breakpoint_watches_page(const struct cpu *cpu, gva_t page)
{
    for (unsigned i = 0; i < 4; i++) {
        if (cpu->break_data >> i & 1 && (cpu->state.dr[i] ^ page) < FRAME_SIZE) {
            return true;
        }
    }
    return false;
}

/* Attention: blocks do not go on by themselves. */
static void note_hit(struct cpu *cpu, unsigned i)
{
    cpu->debug_traps |= 1u << i;
    cpu_set_attention(cpu);
}

void breakpoint_note_access(struct cpu *cpu, gva_t gva, unsigned size, bool is_write)
{
    for (unsigned i = 0; i < 4; i++) {
        bool is_wanted = is_write || condition_of(cpu, i) == ON_ACCESS;
        if (cpu->break_data >> i & 1 && is_wanted && overlaps(cpu, i, gva, size)) {
            note_hit(cpu, i);
        }
    }
}

void breakpoint_note_port(struct cpu *cpu, uint16_t port, unsigned size)
{
    for (unsigned i = 0; i < 4; i++) {
        if (cpu->break_port >> i & 1 && overlaps(cpu, i, port, size)) {
            note_hit(cpu, i);
        }
    }
}

enum branch_kind breakpoint_branch(struct cpu *cpu, uint64_t *next_rip)
{
    static const struct {
        ZydisMachineMode mode;
        ZydisStackWidth width;
    } modes[] = {{ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
                 {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
                 {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64}};
    uint8_t bytes[ZYDIS_MAX_INSTRUCTION_LENGTH];
    unsigned size = access_fetch(cpu, cpu->rip, bytes, sizeof(bytes));
    ZydisDecoder decoder;
    ZydisDecodedInstruction decoded;
    cpu->has_fault = false; /* the instruction itself will tell */
    ZydisDecoderInit(&decoder, modes[cpu->code_mode & 3].mode,
                     modes[cpu->code_mode & 3].width);
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeInstruction(&decoder, NULL, bytes, size, &decoded))) {
        return BRANCH_NONE;
    }
    *next_rip = cpu->rip + decoded.length;
    switch (decoded.meta.category) {
    case ZYDIS_CATEGORY_COND_BR:
        return BRANCH_CONDITIONAL;
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
        return BRANCH_ALWAYS;
    default:
        return BRANCH_NONE;
    }
}
