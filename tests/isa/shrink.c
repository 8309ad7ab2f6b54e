#include "shrink.h"

#include <string.h>

#include "form.h"

#define MXCSR_DEFAULT 0x1f80
#define FCW_DEFAULT   0x37f

struct shrinking {
    struct isa_case *test;
    shrink_test *fails;
    void *opaque;
    bool has_changed;
};

/* Keeps the candidate if it is another case that fails too. */
static void attempt(struct shrinking *shrinking, const struct isa_case *candidate)
{
    if (memcmp(candidate, shrinking->test, sizeof(*candidate)) != 0 &&
        shrinking->fails(shrinking->opaque, candidate)) {
        *shrinking->test = *candidate;
        shrinking->has_changed = true;
    }
}

static unsigned length_at(const struct isa_case *test, unsigned at)
{
    ZydisDecodedInstruction decoded;

    return ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(form_decoder(test->bits), NULL,
                                                      test->code + at,
                                                      test->code_length - at, &decoded))
               ? decoded.length
               : test->code_length - at;
}

static void drop_instructions(struct shrinking *shrinking)
{
    unsigned at = 0;

    while (at < shrinking->test->code_length) {
        struct isa_case candidate = *shrinking->test;
        unsigned length = length_at(&candidate, at);

        if (length == candidate.code_length) {
            return;
        }
        memmove(candidate.code + at, candidate.code + at + length,
                ISA_CODE_MAX - at - length);
        memset(candidate.code + ISA_CODE_MAX - length, 0, length);
        candidate.code_length = (uint16_t)(candidate.code_length - length);
        attempt(shrinking, &candidate);
        if (shrinking->test->code_length != candidate.code_length) {
            at += length;
        }
    }
}

#define TRY(field, value)                              \
    do {                                               \
        struct isa_case candidate_ = *shrinking->test; \
        candidate_.field = (value);                    \
        attempt(shrinking, &candidate_);               \
    } while (0)

static void simplify_state(struct shrinking *shrinking)
{
    for (unsigned i = 0; i < 16; i++) {
        TRY(gpr[i], 0);
        TRY(gpr[i], shrinking->test->gpr[i] & 0xff);
        TRY(gpr[i], (uint32_t)shrinking->test->gpr[i]);
    }
    TRY(flags, 0);
    for (unsigned bit = 0; bit < 12; bit++) {
        TRY(flags, shrinking->test->flags & ~(1u << bit));
    }
    TRY(mxcsr, MXCSR_DEFAULT);
    TRY(vector_seed, 0);
    TRY(fcw, FCW_DEFAULT);
    TRY(fsw, 0);
    TRY(ftw, 0);
    TRY(ftw, 0xff);
    TRY(image, 0);
    TRY(code_offset, 0);
    TRY(is_stepped, false);
}

void shrink(struct isa_case *test, shrink_test *fails, void *opaque)
{
    struct shrinking shrinking = {test, fails, opaque, true};

    for (unsigned round = 0; round < 4 && shrinking.has_changed; round++) {
        shrinking.has_changed = false;
        drop_instructions(&shrinking);
        simplify_state(&shrinking);
    }
}
