#pragma once
/* Exceptions as values, their classes, and what happens when one meets another (SDM
 * 3A 6.15). */

#include <stdbool.h>
#include <stdint.h>

#include "x86/state.h"

/* What a failing instruction or access leaves behind. For #PF, address goes to CR2 on
 * delivery. */
struct x86_exception {
    uint8_t vector;
    bool has_error;
    uint32_t error;
    gva_t address;
};

/* Does this vector push an error code in protected and long mode? */
bool x86_exception_has_error(uint8_t vector);

enum x86_meeting {
    X86_DELIVER_SECOND, /* benign: handle them one after the other */
    X86_DOUBLE_FAULT,
    X86_TRIPLE_FAULT,
};

/* An exception with vector second was raised while an event with vector first was being
 * delivered. */
enum x86_meeting x86_exception_meets(const struct x86_event *first, uint8_t second);
