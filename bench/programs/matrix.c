/*
 * A product of matrices, compiled once for each width of vectors: MATMUL names the
 * function, LANES is the number of doubles in a register.
 */
#include "work.h"

#define SIZE 96

typedef double vector __attribute__((vector_size(LANES * sizeof(double))));

static vector left[SIZE][SIZE / LANES], right[SIZE][SIZE / LANES],
    product[SIZE][SIZE / LANES];

static double *row_of(vector matrix[SIZE][SIZE / LANES], int row)
{
    return (double *)matrix[row];
}

static void multiply(void)
{
    for (int i = 0; i < SIZE; i++) {
        for (int j = 0; j < SIZE / LANES; j += 4) {
            vector sum[4] = {0};
            for (int k = 0; k < SIZE; k++) {
                double factor = row_of(left, i)[k];
                for (int column = 0; column < 4; column++) {
                    sum[column] += factor * right[k][j + column];
                }
            }
            for (int column = 0; column < 4; column++) {
                product[i][j + column] = sum[column];
            }
        }
    }
}

uint64_t MATMUL(uint64_t rounds)
{
    for (int i = 0; i < SIZE; i++) {
        for (int j = 0; j < SIZE; j++) {
            row_of(left, i)[j] = (i * 7 + j * 3) % 11 - 5;
            row_of(right, i)[j] = (i * 5 + j * 2) % 13 - 6;
        }
    }
    double total = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        row_of(left, (int)(i % SIZE))[i % 7] = (double)(i % 17);
        multiply();
        total += row_of(product, (int)(i % SIZE))[i * 5 % SIZE];
    }
    /* All numbers are whole and small: the sum is exact with and without FMA. */
    return (uint64_t)(int64_t)total;
}
