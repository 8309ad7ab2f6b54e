/* Vector workloads, for the guest and for the host; built with AVX2 and FMA. */
#include "workload.h"

#include <immintrin.h>

uint64_t sse2_run(uint64_t rounds)
{
    static float x[1024] __attribute__((aligned(16))),
        y[1024] __attribute__((aligned(16)));
    for (uint64_t i = 0; i < rounds; i++) {
        for (unsigned j = 0; j < 1024; j += 4) {
            /* The two-operand encodings, which intrinsics would turn into AVX here. */
            __asm__ volatile("movaps (%0), %%xmm0\n\t"
                             "mulps %%xmm1, %%xmm0\n\t"
                             "addps (%1), %%xmm0\n\t"
                             "movaps %%xmm0, (%1)"
                             :
                             : "r"(x + j), "r"(y + j)
                             : "xmm0", "memory");
        }
    }
    return (uint64_t)y[0];
}

uint64_t matmul_run(uint64_t rounds)
{
    enum { SIZE = 32 };
    static double a[SIZE][SIZE], b[SIZE][SIZE], c[SIZE][SIZE];
    for (uint64_t round = 0; round < rounds; round++) {
        for (unsigned i = 0; i < SIZE; i++) {
            for (unsigned j = 0; j < SIZE; j += 4) {
                __m256d sum = _mm256_setzero_pd();
                for (unsigned k = 0; k < SIZE; k++) {
                    sum = _mm256_fmadd_pd(_mm256_broadcast_sd(&a[i][k]),
                                          _mm256_loadu_pd(&b[k][j]), sum);
                }
                _mm256_storeu_pd(&c[i][j], sum);
            }
        }
        a[0][round % SIZE] += 1;
        __asm__ volatile("" : : : "memory");
    }
    return (uint64_t)c[0][0];
}
