#pragma once
/* The instruction a processor executes next, as text. */

#include "allocator/virtual.h"

#define INSTRUCTION_TEXT 192

/* "ffffffff81000010: 48 89 e5  mov rbp, rsp"; what cannot be read or decoded is told so.
 */
void instruction_at(const struct virtual_space *space, char text[INSTRUCTION_TEXT]);
