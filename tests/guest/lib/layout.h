/* Numbers that the assembly and the C of the guest tests share. */
#pragma once

#define KERNEL_CS   0x08
#define KERNEL_DS   0x10
#define USER_CS32   0x1b /* SYSRET wants 32-bit code, data, 64-bit code in this order */
#define USER_DS     0x23
#define USER_CS64   0x2b
#define KERNEL_CS32 0x30
#define TSS_BASE    0x40 /* one 16-byte descriptor per processor: STR tells which */

#define CPU_MAX     16
#define STACK_SIZE  0x4000

#define TRAMPOLINE  0x30000 /* where application processors start, in real mode */

/* Where code and stack of ring 3 are mapped, beyond the identity map of 4 GiB. */
#define USER_CODE  0x4000000000
#define USER_STACK 0x4000200000 /* the lowest address; one page */

/* Offsets in struct cpu, checked by the C. */
#define CPU_CATCH     0
#define CPU_STACK_TOP 8
