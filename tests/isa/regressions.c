/* To add one: the entry that a failing run printed. */
#include "regressions.h"

const struct isa_case regressions[] = {
    {.bits = 64, .code_length = 1, .code = {0x90}, .mxcsr = 0x1f80, .fcw = 0x37f},
};

const unsigned regression_count = sizeof(regressions) / sizeof(regressions[0]);
