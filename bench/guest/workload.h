/*
 * Workloads: functions that do a number of rounds of one thing and return a checksum, so
 * that nothing is optimised away. Those in compute.c and vector.c need no more than a
 * processor in 64-bit mode: native.c runs the same code on the host for reference.
 * To add one: a function, a row in main.c (and in native.c if the host can run it).
 */
#pragma once

#include <stdint.h>

typedef uint64_t workload_run(uint64_t rounds);

/* compute.c */
workload_run loop_run;   /* integer loop with loads, stores and calls */
workload_run chase_run;  /* pointers through 1 MiB */
workload_run stride_run; /* pointers through 32 MiB, each in a page of its own */
workload_run branch_run; /* data-dependent branches */
workload_run string_run; /* REP MOVSB and STOSQ of 4 KiB */
workload_run modify_run; /* code that is rewritten before each call */

/* vector.c */
workload_run sse2_run;   /* saxpy over 4 KiB of floats */
workload_run matmul_run; /* 32 by 32 doubles, AVX2 and FMA */

/* system.c: the guest's only */
workload_run fault_run;   /* page fault, handler maps, INVLPG */
workload_run syscall_run; /* SYSCALL and SYSRET from ring 3 */
workload_run port_run;    /* IN from the power-management timer */
workload_run mmio_run;    /* read of the I/O APIC's index register */

/* Where modify_run may write code: a page that is writable and executable. */
extern uint8_t *modify_page;
