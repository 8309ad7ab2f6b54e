/* Descriptors to hidden parts and back, gates, and limit checks. */

#include "x86/segment.h"

/* The attribute bytes of a descriptor: bits 40-47 and 52-55. */
#define DESCRIPTOR_ACCESS(low) ((uint32_t)((low) >> 40) & 0xf0ffu)

#define FLAT_LIMIT             0xffffffffu
#define CODE_READABLE \
    (X86_ACCESS_CODE | X86_ACCESS_WRITABLE | X86_ACCESS_ACCESSED | X86_ACCESS_S)
#define DATA_WRITABLE (X86_ACCESS_WRITABLE | X86_ACCESS_ACCESSED | X86_ACCESS_S)

void x86_segment_unpack(struct x86_segment *segment, uint16_t selector, uint64_t low,
                        uint64_t high)
{
    uint32_t limit = (uint32_t)(low & 0xffff) | ((uint32_t)(low >> 32) & 0xf0000);
    uint32_t access = DESCRIPTOR_ACCESS(low);

    segment->selector = selector;
    segment->access = access;
    segment->limit = access & X86_ACCESS_G ? limit << 12 | 0xfff : limit;
    segment->base =
        (low >> 16 & 0xffffff) | (low >> 32 & 0xff000000) | (high & 0xffffffff) << 32;
}

uint64_t x86_segment_pack(const struct x86_segment *segment)
{
    uint64_t access = segment->access & 0xf0ff;
    uint64_t limit = access & X86_ACCESS_G ? segment->limit >> 12 : segment->limit;

    return (limit & 0xffff) | (limit & 0xf0000) << 32 | (segment->base & 0xffffff) << 16 |
           (segment->base & 0xff000000) << 32 | access << 40;
}

struct x86_segment x86_segment_flat_code(uint16_t selector, bool is_long, unsigned dpl)
{
    return (struct x86_segment){
        .selector = selector,
        .access = CODE_READABLE | dpl << X86_ACCESS_DPL_SHIFT | X86_ACCESS_P |
                  (is_long ? X86_ACCESS_L : X86_ACCESS_DB) | X86_ACCESS_G,
        .limit = FLAT_LIMIT,
    };
}

struct x86_segment x86_segment_flat_data(uint16_t selector, unsigned dpl)
{
    return (struct x86_segment){
        .selector = selector,
        .access = DATA_WRITABLE | dpl << X86_ACCESS_DPL_SHIFT | X86_ACCESS_P |
                  X86_ACCESS_DB | X86_ACCESS_G,
        .limit = FLAT_LIMIT,
    };
}

struct x86_segment x86_segment_real(uint16_t selector)
{
    /* SDM 3A table 10-1: present, read/write, accessed; for CS too, through which real
     * mode may write. */
    return (struct x86_segment){
        .selector = selector,
        .access = DATA_WRITABLE | X86_ACCESS_P,
        .limit = 0xffff,
        .base = (uint64_t)selector << 4,
    };
}

struct x86_segment x86_segment_null(uint16_t selector)
{
    return (struct x86_segment){.selector = selector, .access = X86_ACCESS_UNUSABLE};
}

void x86_gate_unpack(struct x86_gate *gate, uint64_t low, uint64_t high)
{
    uint32_t access = DESCRIPTOR_ACCESS(low) & 0xff;

    gate->selector = (uint16_t)(low >> 16);
    gate->access = access;
    gate->ist = low >> 32 & 7;
    gate->parameter_count = low >> 32 & 0x1f;
    gate->offset = low & 0xffff;
    /* Types 4 to 7 are the 80286's: their offset has 16 bits, the rest is ignored. */
    if (access & 8) {
        gate->offset |= (low >> 32 & 0xffff0000) | (high & 0xffffffff) << 32;
    }
}

bool x86_segment_within(const struct x86_segment *segment, uint64_t offset, unsigned size)
{
    uint32_t access = segment->access;
    uint64_t last = offset + (size - 1);

    if (access & X86_ACCESS_UNUSABLE || last < offset) {
        return false;
    }
    if ((access & (X86_ACCESS_CODE | X86_ACCESS_EXPAND)) != X86_ACCESS_EXPAND) {
        /* SDM 3A 5.3: whether a wrap around the end of a segment of 4 GB is a fault is
         * the processor's choice. To Intel's there is nothing beyond it. */
        return last <= segment->limit || segment->limit == UINT32_MAX;
    }
    /* SDM 3A 5.3: expand-down, valid above the limit up to what D/B says. */
    return offset > segment->limit &&
           last <= (access & X86_ACCESS_DB ? 0xffffffffu : 0xffffu);
}

bool x86_segment_allows(const struct x86_segment *segment, uint64_t offset, unsigned size,
                        bool is_write)
{
    uint32_t access = segment->access;
    bool is_code = access & X86_ACCESS_CODE;

    /* One bit means "writable" for data and "readable" for code; data can always be read
     * and code never be written. */
    bool permitted = is_write ? !is_code && (access & X86_ACCESS_WRITABLE)
                              : !is_code || (access & X86_ACCESS_WRITABLE);
    return permitted && x86_segment_within(segment, offset, size);
}
