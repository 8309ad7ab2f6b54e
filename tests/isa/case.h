#pragma once
/*
 * One test case: a few instructions, the state they start from, and what came of them on
 * the host's processor or on ours.
 *
 * Both sides see the same linear addresses, far below where the test program itself is:
 * two pages of code, then data and stack among pages that are not mapped.
 */

#include <stdbool.h>
#include <stdint.h>

#define ISA_PAGE       4096u
#define ISA_CODE       0x10000000u /* two pages, read and execute */
#define ISA_DATA       0x20000000u /* two pages, read and write; the third only read */
#define ISA_STACK      0x30000000u /* one page, read and write */

#define ISA_CODE_PAGES 2u
#define ISA_DATA_PAGES 3u
/* Data and stack, in this order; the code is apart. */
#define ISA_MEMORY_PAGES (ISA_DATA_PAGES + 1)
#define ISA_MEMORY_SIZE  (ISA_MEMORY_PAGES * ISA_PAGE)

/* Where FS and GS point: into the first data page. */
#define ISA_FS_BASE     (ISA_DATA + 0x400)
#define ISA_GS_BASE     (ISA_DATA + 0x800)

#define ISA_CODE_MAX    120
#define ISA_IMAGE_COUNT 8 /* different contents of memory to start with */

#define ISA_OP_INT3     0xcc /* what fills the rest of the code pages: the way out */

struct isa_case {
    uint64_t gpr[16];
    uint64_t vector_seed; /* of x87 and vector registers; 0: all zero */
    uint32_t flags;       /* the arithmetic ones, DF, TF */
    uint32_t mxcsr;
    uint16_t fcw, fsw;
    uint8_t ftw;          /* as FXSAVE has it: bit i set: physical register i is in use */
    uint8_t bits;         /* 64, or 32: compatibility mode */
    uint8_t image;        /* of memory */
    uint8_t code_length;  /* in bytes */
    uint16_t code_offset; /* from ISA_CODE */
    bool is_stepped;      /* our side: instruction by instruction, not in blocks */
    uint8_t code[ISA_CODE_MAX];
};

/* x87 and SSE as FXSAVE64 has it, and the upper halves of the AVX registers. */
struct isa_vector {
    struct {
        uint16_t fcw, fsw;
        uint8_t ftw, zero;
        uint16_t fop;
        uint64_t fip, fdp;
        uint32_t mxcsr, mxcsr_mask;
        uint8_t st[8][16];
        uint8_t xmm[16][16];
        uint8_t unused[96];
    } fx;
    uint8_t ymm_high[16][16];
};

_Static_assert(sizeof(struct isa_vector) == 512 + 256, "layout of FXSAVE64");

enum isa_end {
    ISA_NOT_RUN,
    ISA_EXCEPTION, /* the normal end: #BP behind the last instruction, or a fault */
    ISA_HUNG,
    ISA_DIED,    /* the child: nothing is known about the result */
    ISA_SYSCALL, /* the code reached a system call */
};

struct isa_result {
    uint32_t end; /* enum isa_end */
    uint32_t vector, error;
    uint64_t address; /* of a page fault */
    uint64_t gpr[16], rip, flags;
    uint64_t memory; /* hash of the pages */
    struct isa_vector state;
};

/* The same bits at every run. */
static inline uint64_t isa_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* Contents of the memory pages; made once, before the first use. */
extern uint8_t isa_images[ISA_IMAGE_COUNT][ISA_MEMORY_SIZE];
void isa_images_init(void);

/* The x87 and vector registers that a case starts with. */
void isa_vector_fill(struct isa_vector *vector, const struct isa_case *test);

/* Interesting values: extremes, powers of two, pointers into the pages, or anything. */
uint64_t isa_value(uint64_t *random);

/* A hash over the memory pages. */
static inline __attribute__((always_inline)) uint64_t isa_hash(uint64_t hash,
                                                               const uint8_t *page)
{
    const uint64_t *word = (const uint64_t *)(const void *)page;
    uint64_t lane[4] = {hash, 1, 2, 3};

    for (unsigned i = 0; i < ISA_PAGE / 8; i += 4) {
        for (unsigned k = 0; k < 4; k++) {
            lane[k] = (lane[k] ^ word[i + k]) * 0x9e3779b97f4a7c15ull;
            lane[k] ^= lane[k] >> 29;
        }
    }
    return lane[0] ^ lane[1] << 1 ^ lane[2] << 2 ^ lane[3] << 3;
}
