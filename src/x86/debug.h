#pragma once
/*
 * What a debugger outside of the guest asks of an engine: breakpoints and watchpoints by
 * linear address, and why the processor stopped. The guest sees none of it; its own debug
 * registers are architectural state.
 */

#include <stdint.h>

#include "x86/state.h"

enum debug_kind {
    DEBUG_EXECUTE, /* stops before the instruction at address */
    DEBUG_WRITE, /* the others stop behind the instruction that accessed [address, address
                    + size) */
    DEBUG_READ,
    DEBUG_ACCESS,
};

struct debug_point {
    enum debug_kind kind;
    gva_t address;
    uint64_t size; /* in bytes; of no meaning for DEBUG_EXECUTE */
};

#define DEBUG_POINTS_MAX 64

/* What a vCPU is to do until it is told otherwise. */
struct debug_control {
    bool step; /* one instruction, with interrupts held back, then stop */
    unsigned count;
    struct debug_point point[DEBUG_POINTS_MAX];
};

struct debug_stop {
    enum debug_reason {
        DEBUG_NONE,
        DEBUG_STEPPED,
        DEBUG_POINT, /* which one, and the address that hit it: */
    } reason;
    enum debug_kind kind;
    gva_t address;
};
