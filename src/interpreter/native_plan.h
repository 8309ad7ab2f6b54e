#pragma once
/* What a stub has to do for an instruction, before any code is made for it. */

#include "interpreter/native_stub.h"

/* Host registers a stub uses; the guest's vector registers come by their numbers. */
enum {
    HOST_RAX = 0,
    HOST_RDX = 2,
    HOST_R8 = 8,
    HOST_R9 = 9,
    HOST_R10 = 10,
    HOST_R11 = 11
};

/* Everything a stub's code depends on. */
struct stub_key {
    uint8_t gate, flags;
    uint8_t prefixes; /* KEY_* */
    uint8_t map, opcode;
    uint8_t reg, rm, vvvv; /* guest register numbers, or opcode extension */
    uint8_t imm[4];
    uint8_t imm_size;
    uint8_t shape; /* KEY_GPR_* */
    uint8_t spare[2];
};

_Static_assert(sizeof(struct stub_key) == 16, "keys keep the code aligned");

#define KEY_VEX     0x01u
#define KEY_66      0x02u
#define KEY_F2      0x04u
#define KEY_F3      0x08u
#define KEY_W       0x10u
#define KEY_L       0x20u
#define KEY_GPR_REG 0x01u
#define KEY_GPR_RM  0x02u
#define KEY_GPR_V   0x04u
#define KEY_HIGH    0x08u /* rm is AH..BH */

struct gpr_use {
    uint8_t host, offset; /* of the guest register in cpu->reg */
    bool load, store;
};

/* What has to be loaded before and stored after. */
struct stub_plan {
    struct stub_key key;
    uint16_t vec_load, vec_store;
    uint8_t mmx_load, mmx_store;
    struct gpr_use gpr[6];
    unsigned gpr_count;
    uint8_t memory_base; /* host register */
    bool flags_load, flags_store, mxcsr;
};

/* For the decoded instruction behind a gate, STUB_* flags. */
void native_plan_init(struct stub_plan *plan, const struct binding *binding,
                      enum stub_gate gate, unsigned flags);
