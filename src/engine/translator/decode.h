#pragma once
/*
 * Guest instructions with what is known of them before code is made: decoded, their
 * function found, their flags. Programs use few kinds of instructions over and over,
 * which differ by a displacement and an immediate alone: a kind is worked out once, and
 * remembered by its bytes up to there.
 *
 * Under the code cache's lock.
 */
#include "engine/translator/emit.h"
#include "engine/translator/kind_head.h"

/* Memory that a code cache needs for what it remembers; zero at first. */
size_t decode_size(void);

/* Before the instructions of a block; what was found for another is void. */
void decode_begin(struct emit *emit);

/* What decode_read knows before decode_find. */
struct peeked {
    struct head head;
    const struct set *set; /* decode.c's, where its kind is if it is known */
    unsigned room;         /* so many bytes there are */
};

/* What decode_find knows before decode_take. */
struct found {
    uint32_t place; /* of what is to be taken, in the cache's memory, in lines; 0: none */
    uint8_t mode;   /* decode.c's */
    uint8_t length;
    uint8_t operands; /* that users may look at */
    bool ends_block : 1, is_jcc : 1,
        is_call : 1; /* call: behind which the block may go on */
};

/*
 * The instruction at insn->offset, in three steps, each for several of them, so that what
 * the next one wants is on its way to the processor meanwhile: first its bytes are read.
 * Its length, a guess, to read the next one; 0: nobody knows what comes behind it.
 */
unsigned decode_read(const struct emit *emit, struct guest_insn *insn,
                     struct peeked *peeked);
/* What its kind is. False: its bytes do not make a whole one in its place's pages. */
bool decode_find(const struct emit *emit, struct guest_insn *insn,
                 const struct peeked *peeked, struct found *found);
/* And what is known of it. */
void decode_take(const struct emit *emit, struct guest_insn *insn,
                 const struct found *found);

/* Decodes without asking what is to be made of it: NULL, or what holds until the next
 * call; its displacement and immediate may be another's of its kind. */
const struct decoded *decode_ahead(const struct emit *emit,
                                   const uint8_t bytes[INSN_BYTES_MAX], unsigned room);
