#include "case.h"

#include <string.h>

#include "x86/flags.h"
#include "x86/state.h"

uint8_t isa_images[ISA_IMAGE_COUNT][ISA_MEMORY_SIZE];

static uint64_t pick(uint64_t *random, uint64_t below)
{
    return isa_random(random) % below;
}

/* Selectors of programs, of the kernel, of system segments, null ones, and of the LDT,
 * beyond what it has. */
static uint64_t selector(uint64_t *random)
{
    static const uint16_t selectors[] = {
        ISA_CODE32, ISA_CODE64, ISA_DATA32, ISA_CODE32, ISA_CODE64, ISA_DATA32,
        0,          3,          0x08,       0x10,       0x18,       0x1b,
        0x28,       0x40,       0x43,       0x2f,       0x63,       0xfff8};

    return selectors[pick(random, sizeof(selectors) / sizeof(selectors[0]))];
}

uint64_t isa_value(uint64_t *random)
{
    static const uint64_t edges[] = {
        0,
        1,
        2,
        3,
        0x7f,
        0x80,
        0xff,
        0x100,
        0x7fff,
        0x8000,
        0xffff,
        0x10000,
        0x7fffffff,
        0x80000000,
        0xffffffff,
        0x100000000,
        0x7fffffffffffffff,
        0x8000000000000000,
        0xffffffffffffffff,
        0xfffffffffffffffe,
        0xffffffff80000000,
        0xffffffffffff8000,
        0xffffffffffffff80,
        0x5555555555555555,
        0xaaaaaaaaaaaaaaaa,
        0x0123456789abcdef,
    };
    uint64_t value = isa_random(random);

    switch (pick(random, 9)) {
    case 8:
        return selector(random) | (value & 1 ? value & ~0xffffull : 0);
    case 0:
    case 1:
        return edges[value % (sizeof(edges) / sizeof(edges[0]))];
    case 2:
        return 1ull << value % 64;
    case 3:
        return (1ull << value % 64) - 1;
    case 4:
        return value % 256;
    case 5:
        return ISA_DATA + value % (2 * ISA_PAGE);
    case 6:
        return (uint64_t)(int64_t)(int32_t)value;
    default:
        return value;
    }
}

/* Floating-point numbers of both formats on both sides of every border. */
static uint32_t single(uint64_t *random)
{
    static const uint32_t edges[] = {
        0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
        0x7fc00000, 0xffc00000, 0x7f800001, 0x7fbfffff, 0x00000001, 0x007fffff,
        0x80000001, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x4f000000, 0xcf000000,
        0x5f000000, 0x3f000000, 0x3fc00000, 0x40200000,
    };
    uint64_t value = isa_random(random);

    switch (pick(random, 4)) {
    case 0:
        return edges[value % (sizeof(edges) / sizeof(edges[0]))];
    case 1:
        return (uint32_t)(value & 0x80ffffff) | 0x3f000000; /* near 1 */
    case 2:
        return (uint32_t)(value & 0x807fffff) | (uint32_t)(value >> 32 & 3) << 23;
    default:
        return (uint32_t)value;
    }
}

static uint64_t wide(uint64_t *random)
{
    static const uint64_t edges[] = {
        0,
        0x8000000000000000,
        0x3ff0000000000000,
        0xbff0000000000000,
        0x7ff0000000000000,
        0xfff0000000000000,
        0x7ff8000000000000,
        0xfff8000000000000,
        0x7ff0000000000001,
        0x7ff7ffffffffffff,
        1,
        0x000fffffffffffff,
        0x8000000000000001,
        0x0010000000000000,
        0x7fefffffffffffff,
        0xffefffffffffffff,
        0x41dfffffffc00000,
        0xc1e0000000000000,
        0x43e0000000000000,
        0x36a0000000000000,
        0x47efffffe0000000,
        0x3fe0000000000000,
    };
    uint64_t value = isa_random(random);

    switch (pick(random, 4)) {
    case 0:
        return edges[value % (sizeof(edges) / sizeof(edges[0]))];
    case 1:
        return (value & 0x801fffffffffffff) | 0x3fe0000000000000;
    case 2:
        return (value & 0x800fffffffffffff) | (value >> 32 & 3) << 52;
    default:
        return value;
    }
}

static void fill_lanes(uint64_t *random, uint8_t *to, unsigned kind)
{
    for (unsigned i = 0; i < 2; i++) {
        uint64_t value;

        switch (kind) {
        case 0:
            value = single(random) | (uint64_t)single(random) << 32;
            break;
        case 1:
            value = wide(random);
            break;
        case 2: /* small numbers: shift counts, indexes */
            value = isa_random(random) & 0x000000ff000000ff;
            break;
        case 3:
            value = isa_value(random);
            break;
        default:
            value = isa_random(random);
            break;
        }
        memcpy(to + i * 8, &value, 8);
    }
}

/* The 80-bit format: exponent and sign, explicit integer bit; also what no processor
 * makes any more (unnormals, pseudo-infinities), and packed BCD. */
static void fill_extended(uint64_t *random, uint8_t *to)
{
    static const uint16_t exponents[] = {0,      1,      0x3ffe, 0x3fff, 0x4000, 0x403d,
                                         0x403e, 0x403f, 0x7ffe, 0x7fff, 0x3c01, 0x3f81};
    uint64_t mantissa = isa_random(random) | 1ull << 63;
    uint16_t exponent = exponents[pick(random, sizeof(exponents) / 2)];

    switch (pick(random, 8)) {
    case 0:
        mantissa = 1ull << 63;
        break;
    case 1:
        mantissa = pick(random, 2) ? 0xc000000000000000 : 0;
        break;
    case 2:
        mantissa &= ~(1ull << 63);
        break;
    case 3:
        exponent = (uint16_t)(isa_random(random) & 0x7fff);
        break;
    default:
        break;
    }
    exponent |= (uint16_t)(pick(random, 2) << 15);
    memset(to, 0, 16);
    memcpy(to, &mantissa, 8);
    memcpy(to + 8, &exponent, 2);
}

static void fill_vector(struct isa_vector *vector, const struct isa_case *test)
{
    uint64_t random = test->vector_seed;

    memset(vector, 0, sizeof(*vector));
    vector->fx.fcw = test->fcw;
    vector->fx.fsw = test->fsw;
    vector->fx.ftw = test->ftw;
    vector->fx.mxcsr = test->mxcsr;
    vector->header[0] = 7; /* XSTATE_BV: x87, SSE, AVX */
    if (!random) {
        return;
    }
    unsigned kind = (unsigned)pick(&random, 6);
    for (unsigned i = 0; i < 8; i++) {
        fill_extended(&random, vector->fx.st[i]);
    }
    for (unsigned i = 0; i < 16; i++) {
        fill_lanes(&random, vector->fx.xmm[i], kind);
        fill_lanes(&random, vector->ymm_high[i], kind);
    }
}

void isa_input_complete(struct isa_input *input)
{
    const struct isa_case *test = &input->test;

    if (test->bits == 16) {
        uint64_t *rsp = &input->test.gpr[X86_RSP];
        *rsp = (*rsp & ISA_LIMIT16) | ISA_STACK16_HIGH;
    }
    fill_vector(&input->vector, test);
    input->rip = ISA_CODE + test->code_offset - isa_code_base(test);
    input->flags = test->flags | X86_FLAG_1 | X86_FLAG_IF;
    input->selector = test->bits == 64   ? ISA_CODE64
                      : test->bits == 32 ? ISA_CODE32
                                         : ISA_CODE16;
    input->data_selector = test->bits != 16 ? ISA_DATA32
                           : test->is_high  ? ISA_DATA16_END
                                            : ISA_DATA16;
    input->stack_selector = test->bits != 16 ? ISA_DATA32
                            : test->is_high  ? ISA_STACK16_END
                                             : ISA_STACK16;
}

static uint64_t image_word(uint64_t *random)
{
    switch (pick(random, 10)) {
    case 8: /* far pointers of 16:32 bits */
        return (ISA_CODE + pick(random, 2 * ISA_PAGE)) | selector(random) << 32;
    case 9:
        return selector(random);
    case 0:
        return single(random) | (uint64_t)single(random) << 32;
    case 1:
        return wide(random);
    case 2:
        return ISA_CODE + pick(random, 2 * ISA_PAGE);
    case 3:
        return ISA_DATA + pick(random, 2 * ISA_PAGE);
    case 4:
        return 0;
    case 5:
        return isa_random(random);
    default:
        return isa_value(random);
    }
}

void isa_images_init(void)
{
    uint64_t random = 1;

    for (unsigned image = 0; image < ISA_IMAGE_COUNT; image++) {
        memset(isa_images[image], ISA_OP_INT3, ISA_PAGE);
        for (unsigned i = ISA_PAGE; i < ISA_MEMORY_SIZE; i += 8) {
            uint64_t word = image_word(&random);

            memcpy(&isa_images[image][i], &word, 8);
        }
    }
}
