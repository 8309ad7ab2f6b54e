#pragma once
/*
 * One test case: some instructions, the state they start from, and what came of them on
 * the host's processor or on one of our engines.
 *
 * Both sides see the same linear addresses, far below where the test program itself is:
 * three pages of code, the last of which can be written; then data and stack among pages
 * that are not mapped. A case that ends by itself runs into the breakpoints around it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

/* Where FS and GS point: into the first data page. */
#define ISA_FS_BASE (ISA_DATA + 0x400)
#define ISA_GS_BASE (ISA_DATA + 0x800)

#define ISA_OP_INT3 0xcc /* what fills the rest of the code pages: the way out */

/* The selectors of a Linux program, and of our guest's. */
#define ISA_CODE64 0x33u
#define ISA_CODE32 0x23u
#define ISA_DATA32 0x2bu /* in SS, DS and ES */
/* Of the LDT: 16-bit code at ISA_CODE, its data, and its stack, whose pointer is SP. */
#define ISA_CODE16  0x07u
#define ISA_DATA16  0x0fu
#define ISA_STACK16 0x17u
/* The same where they are at the top of their segments. */
#define ISA_DATA16_END  0x1fu
#define ISA_STACK16_END 0x27u

struct isa_case {
    uint64_t gpr[16];
    uint64_t vector_seed; /* of x87 and vector registers; 0: all zero */
    uint32_t flags;       /* the arithmetic ones, DF, TF, AC */
    uint32_t mxcsr;
    uint16_t fcw, fsw;
    uint8_t ftw;          /* as FXSAVE has it: bit i set: physical register i is in use */
    uint8_t bits;         /* 64, or in compatibility mode 32 or 16 */
    uint8_t image;        /* of memory */
    bool is_stepped;      /* our side: stepped by a debugger, if the engine can be */
    uint16_t code_length; /* in bytes */
    uint16_t code_offset; /* from ISA_CODE */
    uint8_t code[ISA_CODE_MAX];
    bool is_high; /* of 16-bit code: data and stack end with their segments */
};

/* x87, SSE and AVX as XSAVE64 has them, the header with all three in use. */
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
    uint64_t header[8];
    uint8_t ymm_high[16][16];
} __attribute__((aligned(64)));

/* What both sides are given: the case, and what follows from it. */
struct isa_input {
    struct isa_vector vector;
    uint64_t rip, flags;
    uint16_t selector, data_selector, stack_selector; /* of CS, of DS and ES, of SS */
    uint16_t unused;
    struct isa_case test;
};

enum isa_end {
    ISA_NOT_RUN,
    ISA_EXCEPTION = ISA_END_EXCEPTION, /* the normal end: #BP, or a fault */
    ISA_HUNG,
    ISA_DIED,    /* the child, or the engine: nothing is known about the result */
    ISA_SYSCALL, /* the code reached a system call */
};

enum { ISA_ES, ISA_CS, ISA_SS, ISA_DS, ISA_FS, ISA_GS, ISA_SEGMENTS };

struct isa_result {
    struct isa_vector vector;
    uint64_t gpr[16], rip, flags;
    uint64_t address; /* of a page fault */
    uint64_t fs_base, gs_base;
    uint32_t end; /* enum isa_end */
    uint32_t exception, error;
    uint16_t selector[ISA_SEGMENTS];
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

/* The linear address of the base of a case's code. */
static inline uint64_t isa_code_base(const struct isa_case *test)
{
    return test->bits == 16 ? ISA_CODE : 0;
}
static inline uint64_t isa_data_base(const struct isa_case *test)
{
    return test->bits != 16 ? 0 : test->is_high ? ISA_DATA16_TOP : ISA_DATA16_BASE;
}
static inline uint64_t isa_stack_base(const struct isa_case *test)
{
    return test->bits != 16 ? 0 : test->is_high ? ISA_STACK16_TOP : ISA_STACK16_BASE;
}
/* The linear address at which a case has ended. */
static inline uint64_t isa_linear_rip(const struct isa_result *result)
{
    return result->rip + (result->selector[ISA_CS] == ISA_CODE16 ? ISA_CODE : 0);
}

/* Fills what follows from input->test. */
void isa_input_complete(struct isa_input *input);

/* Interesting values: extremes, powers of two, pointers into the pages, or anything. */
uint64_t isa_value(uint64_t *random);
