/*
 * The workloads of bench/compare that are programs of our own: each does a number of
 * rounds of one thing and returns a checksum, which must be the same wherever it runs.
 * They are linked statically into one program, work, so that a guest and the host execute
 * the very same instructions; what a file may be compiled to is said in ../meson.build.
 * To add one: a function, a row in work.c and one in ../comparison/workloads.py.
 */
#pragma once

#include <stdint.h>

typedef uint64_t work_run(uint64_t rounds);

/* compute.c: integer code, no calls of the kernel */
work_run hash_run;     /* string keys in a chained hash table */
work_run sort_run;     /* quicksort, and qsort() with its call for each comparison */
work_run calls_run;    /* fibonacci numbers by recursion */
work_run chase_run;    /* pointers through 8 MiB, in an order that caches cannot guess */
work_run sieve_run;    /* primes below a million */
work_run dispatch_run; /* an interpreter's loop: an indirect jump for each operation */

/* float.c, matrix.c */
work_run nbody_run;       /* planets, in scalar doubles of SSE2 */
work_run matmul_sse2_run; /* 96 by 96 doubles, 128-bit vectors */
work_run matmul_avx2_run; /* 96 by 96 doubles, 256-bit vectors and FMA */
work_run x87_run;         /* 80-bit numbers: sums, products, quotients, roots */

/* kernel.c: what a system does for programs */
work_run syscall_run; /* getppid */
work_run fork_run;    /* fork, exit and wait */
work_run exec_run;    /* fork, exec of this program, exit and wait */
work_run pipe_run;    /* a byte to another process and back */
work_run switch_run;  /* sched_yield between two processes */
work_run fault_run;   /* first touch of an anonymous page */
work_run map_run;     /* mmap of 64 KiB, touch, munmap */
work_run signal_run;  /* a signal to itself, handled */
work_run protect_run; /* a write to a protected page, handled by mprotect */
work_run clock_run;   /* clock_gettime */

/* code.c: code that changes */
work_run modify_run; /* an instruction rewritten before each call */
work_run jit_run;    /* pages of code made anew, each called a few times */

/* parallel.c: the same work by one thread and by two */
work_run parallel1_run;
work_run parallel2_run;

/* Ends the program with a message about the errno of what failed. */
_Noreturn void work_fail(const char *what);
