/* Memory operands of which only chosen elements exist: masked moves and gathers. What is
 * masked out is not accessed and cannot fault. */
#include "interpreter/native.h"
#include "interpreter/native_stub.h"
#include "interpreter/part.h"

#include <string.h>

#include "x86/paging.h"

/* In insn->imm. */
struct masked {
    uint8_t mask, data, index; /* register numbers; data is stored, loaded or gathered */
    uint8_t element;           /* bytes */
    uint8_t index_size;        /* bytes */
    uint8_t count;             /* elements */
    uint8_t gate;
    uint8_t vector; /* bytes that VEX.L says */
};

_Static_assert(sizeof(struct masked) == sizeof(uint64_t), "it travels in insn->imm");

static struct masked masked_of(const struct insn *insn)
{
    struct masked masked;
    memcpy(&masked, &insn->imm, sizeof(masked));
    return masked;
}

static bool check_gate(struct cpu *cpu, enum stub_gate gate)
{
    return gate == STUB_MMX   ? native_check_mmx(cpu)
           : gate == STUB_SSE ? native_check_sse(cpu)
                              : native_check_avx(cpu);
}

/* An element counts if its most significant bit is set. */
static bool is_chosen(const uint8_t *mask, unsigned element, unsigned i)
{
    return mask[i * element + element - 1] >> 7;
}

/* Addresses wrap around, and segments end, element by element; but not at the end of 16
 * address bits, nor of 32 in 64-bit mode, on Intel's processors. */
static uint64_t element_address(struct cpu *cpu, const struct insn *insn,
                                const struct masked *masked, unsigned i)
{
    bool wraps = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    if (cpu->is_long64 && !wraps) {
        return insn_address(cpu, insn) + i * masked->element;
    }
    if (insn->special & INSN_ADDRESS16 && !wraps) {
        uint64_t first = insn_truncated_offset(cpu, insn);
        return insn_address_in_segment(cpu, insn, first + i * masked->element,
                                       masked->element);
    }
    uint64_t offset = insn_offset(cpu, insn) + i * masked->element;
    return insn_linear(cpu, insn, offset, masked->element);
}

/* Elements have no alignment (SDM 2A 2.8.6, 2.8.12: no #AC). */
static struct loaded load_element(struct cpu *cpu, uint64_t ea, unsigned size)
{
    struct loaded loaded = {0, true};
    if (likely(!(cpu->needs_interpreter & NEEDS_ALIGNMENT))) {
        return access_load(cpu, ea, size);
    }
    loaded.ok = access_read(cpu, ea, &loaded.value, size);
    return loaded;
}

static bool store_element(struct cpu *cpu, uint64_t ea, unsigned size, uint64_t value)
{
    if (likely(!(cpu->needs_interpreter & NEEDS_ALIGNMENT))) {
        return access_store(cpu, ea, size, value);
    }
    return access_write(cpu, ea, &value, size);
}

/* SDM 2C "VMASKMOV" does not tell in which order the chosen elements are looked at.
 * Intel's processors first ask whether the segment, or the canonical addresses, have the
 * highest, then for the page of the lowest; and before a store for that of the last byte.
 */
static bool probe_chosen(struct cpu *cpu, const struct insn *insn,
                         const struct masked *masked, const uint8_t *mask, bool is_write)
{
    unsigned low = 0, high = masked->count, size = masked->element;
    while (low < high && !is_chosen(mask, size, low)) {
        low++;
    }
    if (low == high) {
        return true;
    }
    while (!is_chosen(mask, size, high - 1)) {
        high--;
    }
    uint64_t last = element_address(cpu, insn, masked, high - 1) + size - 1;
    if (cpu->has_fault || !x86_canonical(last)) {
        return access_probe(cpu, last, 1, is_write);
    }
    return access_probe(cpu, element_address(cpu, insn, masked, low), 1, is_write) &&
           (!is_write || access_probe(cpu, last, 1, true));
}

static const struct insn *masked_load(struct cpu *cpu, const struct insn *insn)
{
    struct masked masked = masked_of(insn);
    if (!native_check_avx(cpu)) {
        return insn_fault(cpu, insn);
    }
    const uint8_t *mask = cpu->state.vec[masked.mask].u8;
    union x86_vector result = {0};
    if (cpu->cpuid->vendor != CPU_VENDOR_AMD &&
        !probe_chosen(cpu, insn, &masked, mask, false)) {
        return insn_fault(cpu, insn);
    }
    for (unsigned i = 0; i < masked.count; i++) {
        if (is_chosen(mask, masked.element, i)) {
            struct loaded loaded =
                load_element(cpu, element_address(cpu, insn, &masked, i), masked.element);
            if (!loaded.ok) {
                return insn_fault(cpu, insn);
            }
            memcpy(result.u8 + i * masked.element, &loaded.value, masked.element);
        }
    }
    cpu->state.vec[masked.data] = result;
    NEXT(cpu, insn);
}

static bool store_chosen(struct cpu *cpu, const struct insn *insn,
                         const struct masked *masked, const uint8_t *mask,
                         const uint8_t *data)
{
    if (cpu->cpuid->vendor != CPU_VENDOR_AMD &&
        !probe_chosen(cpu, insn, masked, mask, true)) {
        return false;
    }
    for (unsigned i = 0; i < masked->count; i++) {
        if (is_chosen(mask, masked->element, i) &&
            !access_probe(cpu, element_address(cpu, insn, masked, i), masked->element,
                          true)) {
            return false;
        }
    }
    for (unsigned i = 0; i < masked->count; i++) {
        uint64_t value = 0;
        memcpy(&value, data + i * masked->element, masked->element);
        if (is_chosen(mask, masked->element, i) &&
            !store_element(cpu, element_address(cpu, insn, masked, i), masked->element,
                           value)) {
            return false;
        }
    }
    return true;
}

/* SDM 2B "MASKMOVDQU": whether bytes that are masked out fault is the processor's choice.
 * Those at hand let them; Intel's look at the upper eight of sixteen first. */
static bool probe_bytes(struct cpu *cpu, const struct insn *insn,
                        const struct masked *masked)
{
    if (cpu->cpuid->vendor == CPU_VENDOR_AMD) {
        uint64_t ea = element_address(cpu, insn, masked, 0);
        return access_check_alignment(cpu, ea, 8) && access_probe(cpu, ea, 1, true) &&
               access_probe(cpu, insn_address(cpu, insn), masked->count, true);
    }
    for (unsigned at = masked->count; at > 0; at -= 8) {
        uint64_t ea = part_address(cpu, insn, at - 8, 8);
        if (!access_check_alignment(cpu, ea, 8) || !access_probe(cpu, ea, 8, true)) {
            return false;
        }
    }
    return true;
}

static const struct insn *masked_store(struct cpu *cpu, const struct insn *insn)
{
    struct masked masked = masked_of(insn);
    if (!check_gate(cpu, masked.gate)) {
        return insn_fault(cpu, insn);
    }
    const uint8_t *mask = cpu->state.vec[masked.mask].u8;
    const uint8_t *data = cpu->state.vec[masked.data].u8;
    if (masked.gate == STUB_MMX) {
        native_enter_mmx(cpu);
        mask = cpu->state.fpu.st[masked.mask];
        data = cpu->state.fpu.st[masked.data];
    }
    if (masked.element == 1 && !probe_bytes(cpu, insn, &masked)) {
        return insn_fault(cpu, insn);
    }
    if (!store_chosen(cpu, insn, &masked, mask, data)) {
        return insn_fault(cpu, insn);
    }
    NEXT(cpu, insn);
}

/* SDM 2C "VPGATHERDD", operation: before anything is loaded, each element of the mask
 * becomes all ones or zeros. What is behind its vector is cleared by then, too, on
 * Intel's processors; AMD's change nothing that a fault was in front of. */
static void gather_begin(const struct masked *masked, uint8_t *mask)
{
    unsigned size = masked->element, vector = masked->vector;
    for (unsigned i = 0; i < vector / size; i++) {
        memset(mask + i * size, is_chosen(mask, size, i) ? 0xff : 0, size);
    }
    memset(mask + vector, 0, 32 - vector);
}

/* SDM 2C "VPGATHERDD": an element that has arrived, or is not wanted, has its mask
 * cleared, so a fault in a later one restarts behind it. */
static const struct insn *gather(struct cpu *cpu, const struct insn *insn)
{
    struct masked masked = masked_of(insn);
    if (!native_check_avx(cpu)) {
        return insn_fault(cpu, insn);
    }
    uint8_t *mask = cpu->state.vec[masked.mask].u8;
    uint8_t *data = cpu->state.vec[masked.data].u8;
    const union x86_vector *index = &cpu->state.vec[masked.index];
    unsigned size = masked.element;
    uint64_t origin = insn_offset(cpu, insn);
    bool is_amd = cpu->cpuid->vendor == CPU_VENDOR_AMD;
    if (!is_amd) {
        gather_begin(&masked, mask);
    }
    for (unsigned i = 0; i < masked.count; i++) {
        if (is_chosen(mask, size, i)) {
            int64_t step =
                masked.index_size == 4 ? (int32_t)index->u32[i] : (int64_t)index->u64[i];
            uint64_t offset = origin + ((uint64_t)step << insn->scale);
            struct loaded loaded =
                load_element(cpu, insn_linear(cpu, insn, offset, size), size);
            if (!loaded.ok) {
                return insn_fault(cpu, insn);
            }
            memcpy(data + i * size, &loaded.value, size);
            if (!is_amd) { /* with the first element */
                memset(data + masked.vector, 0, 32 - masked.vector);
            }
        }
        memset(mask + i * size, 0, size);
    }
    memset(data + masked.count * size, 0, 32 - masked.count * size);
    memset(mask, 0, 32);
    NEXT(cpu, insn);
}

static const struct insn *zero_upper(struct cpu *cpu, const struct insn *insn)
{
    if (!native_check_avx(cpu)) {
        return insn_fault(cpu, insn);
    }
    for (unsigned i = 0; i < (cpu->is_long64 ? 16 : 8); i++) {
        cpu->state.vec[i].u64[2] = 0;
        cpu->state.vec[i].u64[3] = 0;
    }
    NEXT(cpu, insn);
}

static const struct insn *zero_all(struct cpu *cpu, const struct insn *insn)
{
    if (!native_check_avx(cpu)) {
        return insn_fault(cpu, insn);
    }
    memset(cpu->state.vec, 0, (cpu->is_long64 ? 16 : 8) * sizeof(union x86_vector));
    NEXT(cpu, insn);
}

bool native_bind_zero(struct binding *binding, const struct insn_row *row,
                      struct insn *insn)
{
    bool is_upper = row->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER;
    insn->exec = is_upper ? zero_upper : zero_all;
    return binding->cpu->is_protected;
}

static uint8_t number_of(const ZydisDecodedOperand *operand)
{
    return (uint8_t)ZydisRegisterGetId(operand->reg.value);
}

/* dst, [base + vector], mask */
static bool bind_gather(const struct binding *binding, struct masked *masked,
                        struct insn *insn)
{
    const ZydisDecodedOperand *operand = binding->operand;
    switch (binding->decoded->mnemonic) {
    case ZYDIS_MNEMONIC_VPGATHERDD:
    case ZYDIS_MNEMONIC_VPGATHERDQ:
    case ZYDIS_MNEMONIC_VGATHERDPS:
    case ZYDIS_MNEMONIC_VGATHERDPD:
        masked->index_size = 4;
        break;
    default:
        masked->index_size = 8;
    }
    bool is_double = binding->decoded->raw.vex.W;
    masked->element = is_double ? 8 : 4;
    unsigned widest =
        masked->element > masked->index_size ? masked->element : masked->index_size;
    masked->vector = binding->decoded->raw.vex.L ? 32 : 16;
    masked->count = (uint8_t)(masked->vector / widest);
    masked->data = number_of(&operand[0]);
    masked->index = (uint8_t)ZydisRegisterGetId(operand[1].mem.index);
    masked->mask = number_of(&operand[2]);
    insn->exec = gather;
    insn->index = REG_OFFSET(REG_ZERO);
    return masked->data != masked->index && masked->data != masked->mask &&
           masked->index != masked->mask;
}

/* VMASKMOV: load dst, mask, [mem]; store [mem], mask, src. */
static void bind_vmaskmov(const struct binding *binding, struct masked *masked,
                          struct insn *insn)
{
    const ZydisDecodedOperand *operand = binding->operand;
    bool is_store = operand[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
    bool is_double = binding->decoded->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
                     binding->decoded->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
    masked->element = is_double ? 8 : 4;
    masked->count = (uint8_t)((binding->decoded->raw.vex.L ? 32 : 16) / masked->element);
    masked->mask = number_of(&operand[1]);
    masked->data = number_of(&operand[is_store ? 2 : 0]);
    insn->exec = is_store ? masked_store : masked_load;
}

/* MASKMOVDQU data, mask, with [rDI] implied */
static void bind_maskmov(const struct binding *binding, struct masked *masked,
                         struct insn *insn)
{
    masked->gate = (uint8_t)native_stub_gate(binding);
    masked->element = 1;
    masked->count = masked->gate == STUB_MMX ? 8 : 16;
    masked->data = number_of(&binding->operand[0]);
    masked->mask = number_of(&binding->operand[1]);
    insn->exec = masked_store;
}

bool native_bind_masked(struct binding *binding, const struct insn_row *row,
                        struct insn *insn)
{
    const ZydisDecodedInstruction *decoded = binding->decoded;
    if (decoded->attributes & ZYDIS_ATTRIB_HAS_LOCK ||
        (decoded->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX &&
         !binding->cpu->is_protected)) {
        return false;
    }
    for (unsigned i = 0; i < decoded->operand_count; i++) {
        if (binding->operand[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
            bind_memory(binding, insn, &binding->operand[i]);
        }
    }
    struct masked masked = {.gate = STUB_AVX};
    switch (decoded->mnemonic) {
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
        bind_maskmov(binding, &masked, insn);
        break;
    case ZYDIS_MNEMONIC_VMASKMOVPS:
    case ZYDIS_MNEMONIC_VMASKMOVPD:
    case ZYDIS_MNEMONIC_VPMASKMOVD:
    case ZYDIS_MNEMONIC_VPMASKMOVQ:
        bind_vmaskmov(binding, &masked, insn);
        break;
    default:
        if (!bind_gather(binding, &masked, insn)) {
            return false;
        }
    }
    memcpy(&insn->imm, &masked, sizeof(masked));
    return true;
}
