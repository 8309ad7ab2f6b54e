#pragma once
/* Code that works on the guest's state beyond its registers, in struct cpu. */

#include "engine/translator/emit.h"

#define CPU(field) ((int32_t)offsetof(struct cpu, field))

/* Host r8 = struct cpu. */
static inline void state_load_cpu(struct emit *emit)
{
    host_fs(&emit->code, true, HOST_MOV_LOAD, HOST_R8, FRAME(cpu));
}

static inline struct host_mem state_at_r8(int32_t offset)
{
    return (struct host_mem){HOST_R8, HOST_NONE, 0, offset};
}

/* OR or AND of a field with a constant. */
#define STATE_OR  1
#define STATE_AND 4
static inline void state_change(struct emit *emit, unsigned operation, int32_t offset,
                                uint32_t value)
{
    struct host_mem mem = state_at_r8(offset);
    host_op_mem(&emit->code, false, 0x81, operation, &mem);
    code32(&emit->code, value);
}

/* An interrupt waits for IF: the interpreter lets it in. r8 is struct cpu. */
void state_leave_if_wanted(struct emit *emit);
/* Host r9d = arithmetic flags as RFLAGS has them, from frame.arith; clobbers r10. */
void state_load_arith(struct emit *emit);
/* frame.arith = those of an RFLAGS image in r10; clobbers r9 and r10. */
void state_store_arith(struct emit *emit);
