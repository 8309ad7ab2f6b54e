/* To add one: the entry that a failing run printed. */
#include "regressions.h"

const struct isa_case regressions[] = {
    {.bits = 64, .code_length = 1, .code = {0x90}, .mxcsr = 0x1f80, .fcw = 0x37f},
    /* CALL to where no code can be, its stack not mapped, or mapped: the push would fault
     * first on AMD's processors, but stores nothing. */
    {.bits = 64,
     .code_length = 2,
     .code = {0xff, 0xd0},
     .gpr = {[0] = 0x8000000000000000},
     .mxcsr = 0x1f80,
     .fcw = 0x37f,
     .ftw = 0xff},
    {.bits = 64,
     .code_length = 2,
     .code = {0xff, 0xd0},
     .gpr = {[0] = 0x8000000000000000, [4] = ISA_STACK + 0x800},
     .mxcsr = 0x1f80,
     .fcw = 0x37f,
     .ftw = 0xff},
    {.bits = 64,
     .code_length = 2,
     .code = {0xff, 0xd0},
     .gpr = {[0] = 0x8000000000000000, [4] = 0x8000000000000000},
     .mxcsr = 0x1f80,
     .fcw = 0x37f,
     .ftw = 0xff},
};

const unsigned regression_count = sizeof(regressions) / sizeof(regressions[0]);
