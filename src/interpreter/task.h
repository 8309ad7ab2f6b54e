#pragma once
/* Task switches through TSS descriptors and task gates: SDM 3A chapter 8 (7 in older
 * editions). Outside long mode only. */

#include "interpreter/cpu.h"

enum task_cause {
    TASK_JUMP,
    TASK_CALL,
    TASK_INTERRUPT, /* also exceptions */
    TASK_RETURN,    /* IRET with NT set */
};

struct task_switch {
    enum task_cause cause;
    uint16_t selector;   /* of the new task's TSS */
    uint64_t return_rip; /* where the old task will go on */
    uint64_t flags;      /* what the old task saves as its EFLAGS */
    bool has_error;      /* an exception with an error code, pushed in the new task */
    uint32_t error;
};

enum task_result {
    TASK_REFUSED, /* fault recorded, in the old task, nothing changed */
    TASK_SWITCHED,
    TASK_FAULTED, /* fault recorded, in the new task, whose first instruction is at RIP */
};

/* The selector's descriptor must name an available TSS (TASK_RETURN: a busy one);
 * privilege has been checked. Ends with cpu->rip at the new task's instruction. */
enum task_result task_switch(struct cpu *cpu, const struct task_switch *request);
/* The same for an instruction: what faults in the new task is delivered there. False: the
 * instruction itself faulted. */
bool task_switch_and_fault(struct cpu *cpu, const struct task_switch *request);
