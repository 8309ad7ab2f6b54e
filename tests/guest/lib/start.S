/*
 * Entry of the bootstrap processor (64-bit), the real-mode trampoline of the others, the
 * stubs of all 256 vectors, and the jump buffer by which an exception ends an experiment.
 */
#include "layout.h"

    .section .text.start, "ax"
    .globl guest_start
guest_start:
    cli
    cld
    lea boot_stack_top(%rip), %rsp
    mov %rsi, boot_params(%rip)
    xor %ebp, %ebp
    call guest_main

/* Copied to TRAMPOLINE. Real mode, CS = TRAMPOLINE >> 4. */
    .code16
    .globl trampoline_start, trampoline_end
    .balign 16
trampoline_start:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl trampoline_gdtr - trampoline_start
    mov %cr0, %eax
    and $0x9fffffff, %eax /* caches on, PE */
    or $1, %eax
    mov %eax, %cr0
    ljmpl $KERNEL_CS32, $(TRAMPOLINE + trampoline_32 - trampoline_start)

    .code32
trampoline_32:
    mov $KERNEL_DS, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $kernel_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    mov $0x901, %eax /* NXE, LME, SCE */
    xor %edx, %edx
    wrmsr
    mov %cr0, %eax
    or $0x80010020, %eax /* PG, WP, NE */
    mov %eax, %cr0
    ljmpl $KERNEL_CS, $ap_start

    .balign 8
trampoline_gdtr:
    .word TSS_BASE + 16 * CPU_MAX - 1
    .long gdt
trampoline_end:

    .code64
ap_start:
    /* The index is the APIC ID, which is CPUID 1's for fewer than 256. */
    mov $1, %eax
    cpuid
    shr $24, %ebx
    mov $STACK_SIZE, %eax
    mul %ebx
    lea ap_stacks + STACK_SIZE(%rax), %rsp
    mov %ebx, %edi
    xor %ebp, %ebp
    call ap_main
0:  hlt
    jmp 0b

/* Vectors: the frame is struct trap_frame. */
    .text
    .balign 16
    .globl vector_stubs
vector_stubs:
    vector = 0
    .rept 256
    .balign 16
    .if !((vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21))
    push $0
    .endif
    push $vector
    jmp vector_common
    vector = vector + 1
    .endr

vector_common:
    cld
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call trap_dispatch
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

/*
 * bool trap_call(uint64_t (*function)(uint64_t), uint64_t argument, struct cpu *cpu):
 * false if the function returned, true if an exception ended it.
 */
    .globl trap_call, trap_resume
trap_call:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushf
    push %rdx
    push CPU_CATCH(%rdx)
    mov %rsp, CPU_CATCH(%rdx)
    mov %rdi, %rax
    mov %rsi, %rdi
    sub $8, %rsp
    call *%rax
    add $8, %rsp
    xor %eax, %eax
    jmp 1f
trap_resume: /* RSP is what CPU_CATCH said */
    mov $1, %eax
1:  mov 8(%rsp), %rdx
    pop CPU_CATCH(%rdx)
    pop %rdx
    popf
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

/* void user_enter(const struct user_start *): ring 3 with these registers; see trap.h. */
    .globl user_enter
user_enter:
    push 40(%rdi) /* SS */
    push 16(%rdi) /* RSP */
    push 24(%rdi) /* RFLAGS */
    push 32(%rdi) /* CS */
    push 0(%rdi)  /* RIP */
    mov 48(%rdi), %rsi
    mov 56(%rdi), %rdx
    mov 64(%rdi), %rcx
    mov 8(%rdi), %rdi
    iretq

/* Single accesses to (RDI), whose RIP a test knows. */
    .globl access_read, access_write, access_fetch
access_read:
    mov (%rdi), %al
    ret
access_write:
    movb %al, (%rdi)
    ret
access_fetch:
    jmp *%rdi

    .section .user, "ax"
    .globl user_read, user_write, user_fetch
user_read:
    mov (%rdi), %al
    int $0x80
user_write:
    movb %al, (%rdi)
    int $0x80
user_fetch:
    jmp *%rdi

    .bss
    .balign 4096
boot_stack:
    .skip STACK_SIZE
boot_stack_top:
ap_stacks:
    .skip STACK_SIZE * CPU_MAX
    .globl boot_params
boot_params:
    .skip 8

    .section .note.GNU-stack, "", @progbits
