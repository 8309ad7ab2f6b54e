#include "interpreter/native_move.h"

bool native_move_bind(struct binding *binding, struct insn *insn)
{
    return false;
}
