#include "tool/escape.h"

enum escape_action escape_filter(struct escape *escape, const uint8_t *data,
                                 unsigned size, unsigned *used, uint8_t *out,
                                 unsigned *kept)
{
    *kept = 0;
    for (*used = 0; *used < size;) {
        uint8_t byte = data[(*used)++];
        if (!escape->is_pending) {
            if (byte == ESCAPE_KEY) {
                escape->is_pending = true;
            } else {
                out[(*kept)++] = byte;
            }
            continue;
        }
        escape->is_pending = false;
        if (escape->takes_d && (byte == 'd' || byte == 'D')) {
            return ESCAPE_QUIT;
        }
        switch (byte) {
        case 'x':
        case 'X':
            return ESCAPE_QUIT;
        case 'h':
        case 'H':
        case '?':
            return ESCAPE_HELP;
        case ESCAPE_KEY:
            out[(*kept)++] = ESCAPE_KEY;
            break;
        default:
            out[(*kept)++] = ESCAPE_KEY;
            out[(*kept)++] = byte;
        }
    }
    return ESCAPE_NONE;
}
