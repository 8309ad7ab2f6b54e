/* An access of translated code that is not in the software TLB. */
#include "base/counter.h"
#include "engine/sampler.h"
#include "engine/translator/run.h"
#include "interpreter/access.h"

/* An instruction with two operands may need one entry for both. */
#define MISSES_IN_A_ROW 4
/* No operand has more, so one that begins so far before a page's end lies in it; beyond
 * may be the end of the canonical addresses, which comes before a page fault. */
#define BYTES_MAX 64u

/* Fills the TLB for the access that missed, by a walk for writing only if writing is due.
 */
static enum miss fill(struct translator_cpu *translator, const struct block_insn *insn,
                      uint64_t ea, bool is_write, bool walks_for_write)
{
    struct cpu *cpu = translator->cpu;
    uint32_t info = translator_frame.exit_info;
    uint64_t page = ea >> FRAME_SHIFT;
    bool is_again = info == translator->miss_info && (page == translator->miss_page[0] ||
                                                      page == translator->miss_page[1]);
    translator->misses = is_again ? translator->misses + 1 : 0;
    translator->miss_info = info;
    translator->miss_page[1] = translator->miss_page[0];
    translator->miss_page[0] = page;
    if (translator->misses == MISSES_IN_A_ROW) {
        translator->miss_info = UINT32_MAX;
        return MISS_OTHER;
    }
    const struct tlb_entry *entry = access_entry(cpu, ea);
    if (ea - (is_write ? entry->write : entry->read) < FRAME_SIZE) {
        return MISS_OTHER; /* crosses the page's end */
    }
    if (!access_probe(cpu, ea, 1, walks_for_write)) {
        bool is_whole = ea % FRAME_SIZE <= FRAME_SIZE - BYTES_MAX;
        if (insn->host_flags & INSN_FAULTS && is_whole && cpu->fault.vector == X86_PF) {
            translator->misses = 0; /* the handler changes what is there */
            return MISS_FAULTS;
        }
        cpu->has_fault = false;
        cpu->fault_noncanonical = false;
        return MISS_OTHER;
    }
    bool is_filled = ea - (is_write ? entry->write : entry->read) < FRAME_SIZE;
    counter_add(&translator->stats.misses_filled, is_filled);
    return is_filled ? MISS_FILLED : MISS_OTHER;
}

/* May it fault, for want of alignment, before it would reach memory? Then no bit of a
 * page table tells of it. Of 16 bytes or 32: the interpreter knows. */
static bool may_be_misaligned(const struct block_insn *insn, uint64_t ea)
{
    return insn->host_flags & INSN_ALIGNED && ea & 31;
}

enum miss miss_fill(struct translator_cpu *translator, const struct block_insn *insn)
{
    const struct frame *frame = &translator_frame;
    bool is_write = frame->exit_reason == LEAVE_WRITE;
    /* A group's bytes are in one page, and what the first access does not need is not
     * done before its time: a page that is only read yet may be written if that leaves
     * no trace, being dirty. */
    if (insn->group_size &&
        frame->exit_value % FRAME_SIZE + insn->group_size > FRAME_SIZE) {
        return MISS_OTHER;
    }
    if (unlikely(may_be_misaligned(insn, frame->exit_value))) {
        return MISS_OTHER;
    }
    bool is_due = !insn->group_size || insn->host_flags & INSN_FILLS;
    enum where before = where_enter(WHERE_MISS);
    enum miss miss =
        fill(translator, insn, frame->exit_value, is_write, is_write && is_due);
    where_enter(before);
    return miss;
}
