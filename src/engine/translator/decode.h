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

/* Memory that a code cache needs for what it remembers; zero at first. */
size_t decode_size(void);

/* The instruction at insn->offset. False: its bytes do not make a whole one in its
 * place's pages. */
bool decode_insn(struct emit *emit, struct guest_insn *insn);

/* Decodes without asking what is to be made of it: NULL, or *decoded, or one that is
 * known, whose displacement and immediate may be others. */
const ZydisDecodedInstruction *decode_known(const struct emit *emit,
                                            const uint8_t bytes[INSN_BYTES_MAX],
                                            unsigned room,
                                            ZydisDecodedInstruction *decoded);
