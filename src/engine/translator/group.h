#pragma once
/* Groups of accesses that share a check, while they are looked for (group.c). */

#include "engine/translator/values.h"

/* An address: values of base and index, and the sum of all offsets. */
struct address {
    uint16_t base, index;
    uint8_t scale;
    int32_t offset;
};

struct group {
    struct address address; /* offset: of its lowest byte */
    int32_t end;
    uint8_t begin;       /* the instruction with its first access */
    uint8_t first, last; /* where its host address is known behind, and wanted yet */
    uint8_t count;       /* of accesses; 0: it is none */
    uint8_t slot;        /* struct access's */
    bool is_open, is_write;
    bool is_early;  /* checked at the block's head (early.c) */
    bool is_round;  /* or at each pass of an unrolled loop */
    bool is_spared; /* all code from the first to the last can do without r10 */
};

#define GROUPS_MAX 48

struct plan {
    struct guest_insn *insn;
    const struct splits *splits;      /* or NULL */
    struct address split[SPLITS_MAX]; /* where groups end, as far as it is known yet */
    unsigned split_count;
    struct values values;
    struct group group[GROUPS_MAX];
    unsigned group_count, early_count;
    int loop_end;   /* struct emit's */
    unsigned round; /* the same */
};

/* The access of an instruction that may be one of a group. */
struct member {
    struct address address;
    unsigned size;
    bool is_write;
};

/* member.c. Where the access of an instruction that may join is; false: it is not known.
 */
bool member_find(const struct plan *plan, const struct guest_insn *insn,
                 struct member *member);
/* Can the instruction's code do without r10, which is taken for a group? */
bool member_spares_base(const struct plan *plan, const struct guest_insn *insn,
                        const struct group *group);

/* early.c: which groups are checked at the block's head, all being known. */
bool early_is_of_rounds(const struct plan *plan, const struct group *group);
void early_choose(struct plan *plan, unsigned count);
/* What the head is to check then. */
void early_note(struct emit *emit, const struct plan *plan);
