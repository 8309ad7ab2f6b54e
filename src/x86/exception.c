/* Error codes and the meeting of exceptions (SDM 3A 6.15, tables 6-1, 6-4 and 6-5). */

#include "x86/exception.h"

/* #CP (21) exists on processors with CET; no engine raises it, a guest may still name it.
 */
#define VECTOR_CP 21

bool x86_exception_has_error(uint8_t vector)
{
    static const uint32_t with_error = 1u << X86_DF | 1u << X86_TS | 1u << X86_NP |
                                       1u << X86_SS_FAULT | 1u << X86_GP | 1u << X86_PF |
                                       1u << X86_AC_FAULT | 1u << VECTOR_CP;

    return vector < 32 && (with_error >> vector & 1);
}

enum exception_class { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum exception_class classify(uint8_t vector)
{
    switch (vector) {
    case X86_DE:
    case X86_TS:
    case X86_NP:
    case X86_SS_FAULT:
    case X86_GP:
    case VECTOR_CP:
        return CONTRIBUTORY;
    case X86_PF:
        return PAGE_FAULT;
    case X86_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

enum x86_meeting x86_exception_meets(const struct x86_event *first, uint8_t second)
{
    /* Rows: class of the first event; columns: of the second. A second #DF is never
     * raised as such: only combination makes one. */
    static const enum x86_meeting table[4][4] = {
        [CONTRIBUTORY] = {[CONTRIBUTORY] = X86_DOUBLE_FAULT},
        [PAGE_FAULT] =
            {[CONTRIBUTORY] = X86_DOUBLE_FAULT, [PAGE_FAULT] = X86_DOUBLE_FAULT},
        [DOUBLE_FAULT] =
            {[CONTRIBUTORY] = X86_TRIPLE_FAULT, [PAGE_FAULT] = X86_TRIPLE_FAULT},
    };

    /* Interrupts and INT n, INT1, INT3, INTO are benign whatever their vector. */
    if (first->type != X86_EVENT_EXCEPTION) {
        return X86_DELIVER_SECOND;
    }
    return table[classify(first->vector)][classify(second)];
}
