#include "interpreter/part.h"

static unsigned total_of(const struct parts *parts)
{
    unsigned total = 0;
    for (unsigned i = 0; i < parts->count; i++) {
        total += parts->size[i];
    }
    return total;
}

uint64_t part_address(struct cpu *cpu, const struct insn *insn, unsigned offset,
                      unsigned size)
{
    return insn_linear(cpu, insn, insn_offset(cpu, insn) + offset, size);
}

/* What comes before the first transfer. */
static bool begin(struct cpu *cpu, const struct insn *insn, const struct parts *parts,
                  bool is_write)
{
    uint64_t first = part_address(cpu, insn, 0, parts->size[0]);
    if (!access_check_alignment(cpu, first, parts->alignment)) {
        return false;
    }
    if (!parts->has_end_first) {
        return true;
    }
    return access_probe(cpu, first, parts->size[0], is_write) &&
           access_probe(cpu, part_address(cpu, insn, total_of(parts) - 1, 1), 1,
                        is_write);
}

static bool transfer(struct cpu *cpu, uint64_t ea, uint8_t *buffer, unsigned size,
                     bool is_write)
{
    return is_write ? access_write(cpu, ea, buffer, size)
                    : access_read(cpu, ea, buffer, size);
}

static bool transfer_parts(struct cpu *cpu, const struct insn *insn,
                           const struct parts *parts, uint8_t *buffer, bool is_write)
{
    if (cpu->cpuid->vendor == CPU_VENDOR_AMD) {
        unsigned total = total_of(parts);
        uint64_t ea = part_address(cpu, insn, 0, total);
        return access_check_alignment(cpu, ea, parts->alignment) &&
               transfer(cpu, ea, buffer, total, is_write);
    }
    if (!begin(cpu, insn, parts, is_write)) {
        return false;
    }
    for (unsigned i = 0, at = 0; i < parts->count; at += parts->size[i++]) {
        unsigned size = parts->size[i];
        uint64_t ea = part_address(cpu, insn, at, size);
        if (!transfer(cpu, ea, buffer + at, size, is_write)) {
            return false;
        }
    }
    return true;
}

bool part_read(struct cpu *cpu, const struct insn *insn, const struct parts *parts,
               void *buffer)
{
    return transfer_parts(cpu, insn, parts, buffer, false);
}

bool part_write(struct cpu *cpu, const struct insn *insn, const struct parts *parts,
                const void *buffer)
{
    return transfer_parts(cpu, insn, parts, (uint8_t *)(uintptr_t)buffer, true);
}
