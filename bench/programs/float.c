/* Floating-point numbers one by one: SSE2's doubles and the x87's 80 bits. */
#include <math.h>
#include <string.h>

#include "work.h"

static uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

#define BODIES 5

struct body {
    double position[3], speed[3], mass;
};

static void advance(struct body *bodies, double step)
{
    for (int i = 0; i < BODIES; i++) {
        for (int j = i + 1; j < BODIES; j++) {
            double away[3], square = 0.01;
            for (int k = 0; k < 3; k++) {
                away[k] = bodies[i].position[k] - bodies[j].position[k];
                square += away[k] * away[k];
            }
            double pull = step / (square * sqrt(square));
            for (int k = 0; k < 3; k++) {
                bodies[i].speed[k] -= away[k] * bodies[j].mass * pull;
                bodies[j].speed[k] += away[k] * bodies[i].mass * pull;
            }
        }
    }
    for (int i = 0; i < BODIES; i++) {
        for (int k = 0; k < 3; k++) {
            bodies[i].position[k] += step * bodies[i].speed[k];
        }
    }
}

uint64_t nbody_run(uint64_t rounds)
{
    struct body bodies[BODIES];
    for (int i = 0; i < BODIES; i++) {
        bodies[i] = (struct body){{i * 3.0, i * i * 0.5, 4.0 - i},
                                  {0.1 * i, 0.2 - 0.05 * i, 0.03 * i},
                                  i ? 0.5 / i : 40};
    }
    for (uint64_t i = 0; i < rounds; i++) {
        advance(bodies, 0.001);
    }
    return bits_of(bodies[0].position[0]) ^ bits_of(bodies[4].speed[2]);
}

uint64_t x87_run(uint64_t rounds)
{
    long double x = 0.1L, y = 0, z = 0, total = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        /* Lorenz's attractor, and its distance from the middle. */
        long double dx = 10 * (y - x), dy = x * (28 - z) - y, dz = x * y - z * 8 / 3;
        x += dx / 1024;
        y += dy / 1024;
        z += dz / 1024;
        total += sqrtl(x * x + y * y + z * z) / (1 + fabsl(x));
    }
    return bits_of((double)total) ^ bits_of((double)x);
}
