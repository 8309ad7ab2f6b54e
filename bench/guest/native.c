/* The same workloads on the bare host, for reference. usage: bench_native NAME ROUNDS */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "workload.h"

static const struct {
    const char *name;
    workload_run *run;
} workloads[] = {
    {"loop", loop_run},     {"chase", chase_run},   {"stride", stride_run},
    {"branch", branch_run}, {"string", string_run}, {"modify", modify_run},
    {"sse2", sse2_run},     {"matmul", matmul_run},
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv)
{
    modify_page = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (argc != 3 || modify_page == MAP_FAILED) {
        fprintf(stderr, "usage: bench_native NAME ROUNDS\n");
        return 2;
    }
    for (unsigned i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
        if (!strcmp(argv[1], workloads[i].name)) {
            uint64_t rounds = strtoull(argv[2], NULL, 0), start = now();
            uint64_t result = workloads[i].run(rounds);
            printf("%s %lu rounds %lu ns checksum %lx\n", argv[1], rounds, now() - start,
                   result);
            return 0;
        }
    }
    fprintf(stderr, "bench_native: no such workload: %s\n", argv[1]);
    return 2;
}
