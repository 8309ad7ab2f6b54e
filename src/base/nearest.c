#include "base/nearest.h"

#include <stdint.h>
#include <string.h>

#define NAME_MAX_LENGTH 63

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

size_t name_distance(const char *a, const char *b)
{
    size_t rows = strlen(a), columns = strlen(b);
    if (rows > NAME_MAX_LENGTH || columns > NAME_MAX_LENGTH) {
        return SIZE_MAX;
    }
    uint8_t cost[NAME_MAX_LENGTH + 1][NAME_MAX_LENGTH + 1];
    for (size_t i = 0; i <= rows; i++) {
        cost[i][0] = (uint8_t)i;
    }
    for (size_t j = 0; j <= columns; j++) {
        cost[0][j] = (uint8_t)j;
    }
    for (size_t i = 1; i <= rows; i++) {
        for (size_t j = 1; j <= columns; j++) {
            size_t best = cost[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            best = min_size(best, cost[i - 1][j] + 1u);
            best = min_size(best, cost[i][j - 1] + 1u);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = min_size(best, cost[i - 2][j - 2] + 1u);
            }
            cost[i][j] = (uint8_t)best;
        }
    }
    return cost[rows][columns];
}

void nearest_init(struct nearest *nearest, const char *wanted)
{
    *nearest = (struct nearest){.wanted = wanted, .distance = SIZE_MAX};
}

void nearest_offer(struct nearest *nearest, const char *candidate)
{
    /* More than a third of the letters wrong is another word, not a slip. */
    size_t limit = 1 + strlen(nearest->wanted) / 3;
    size_t distance = name_distance(nearest->wanted, candidate);
    if (distance < nearest->distance && distance <= limit &&
        distance < strlen(candidate)) {
        nearest->distance = distance;
        nearest->best = candidate;
    }
}
