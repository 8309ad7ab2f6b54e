/* Runs one workload. usage: work NAME ROUNDS */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "work.h"

static const struct {
    const char *name;
    work_run *run;
} works[] = {
    {"hash", hash_run},
    {"sort", sort_run},
    {"calls", calls_run},
    {"chase", chase_run},
    {"sieve", sieve_run},
    {"dispatch", dispatch_run},
    {"nbody", nbody_run},
    {"matmul-sse2", matmul_sse2_run},
    {"matmul-avx2", matmul_avx2_run},
    {"x87", x87_run},
    {"syscall", syscall_run},
    {"fork", fork_run},
    {"exec", exec_run},
    {"pipe", pipe_run},
    {"switch", switch_run},
    {"fault", fault_run},
    {"map", map_run},
    {"signal", signal_run},
    {"protect", protect_run},
    {"clock", clock_run},
    {"modify", modify_run},
    {"jit", jit_run},
    {"parallel1", parallel1_run},
    {"parallel2", parallel2_run},
};

void work_fail(const char *what)
{
    fprintf(stderr, "work: %s: %s\n", what, strerror(errno));
    exit(1);
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "nothing")) { /* what exec_run executes */
        return 0;
    }
    if (argc != 3) {
        fprintf(stderr, "usage: work NAME ROUNDS\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof(works) / sizeof(works[0]); i++) {
        if (!strcmp(argv[1], works[i].name)) {
            printf("%016" PRIx64 "\n", works[i].run(strtoull(argv[2], NULL, 0)));
            return 0;
        }
    }
    fprintf(stderr, "work: no workload '%s'\n", argv[1]);
    return 2;
}
