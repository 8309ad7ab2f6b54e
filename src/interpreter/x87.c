#include "interpreter/insn.h"

const struct insn_row insn_rows_x87[] = {
    {0},
};
