/*
 * Ring 0 of the guest in which cases run: for each case of a batch it restores the pages,
 * loads all registers and enters ring 3; every exception comes back here and stores what
 * there is. Halts when the batch is done, and before a case that is to be stepped.
 *
 * The same on every engine: all it needs is 64-bit mode, XSAVE and RAM. It is copied to
 * MONITOR and runs at KERNEL + MONITOR.
 */
#include "monitor.h"

#define ISA_MSR_FS_BASE 0xc0000100
#define ISA_MSR_GS_BASE 0xc0000101

        .intel_syntax noprefix
        .section .note.GNU-stack, "", @progbits
        .section .rodata
        .code64

        .globl isa_monitor, isa_monitor_handlers, isa_monitor_end
        .balign 64
isa_monitor:
next:
        cld
        mov rax, [KERNEL + CONTROL + CONTROL_CURRENT]
        cmp rax, [KERNEL + CONTROL + CONTROL_COUNT]
        jae done

        /* The code before this case becomes breakpoints, the memory its image. */
        mov rdi, [KERNEL + CONTROL + CONTROL_CODE]
        mov rcx, [KERNEL + CONTROL + CONTROL_LENGTH]
        mov al, 0xcc
        rep stosb
        mov rbx, [KERNEL + CONTROL + CONTROL_INPUT]
        movzx eax, byte ptr [rbx + INPUT_IMAGE]
        imul eax, eax, ISA_MEMORY_SIZE
        lea rsi, [rax + KERNEL + IMAGES]
        mov rdi, KERNEL + PAGES + ISA_FIXED_CODE * ISA_PAGE
        mov ecx, ISA_MEMORY_SIZE / 8
        rep movsq
        movzx edi, word ptr [rbx + INPUT_OFFSET]
        add rdi, KERNEL + PAGES
        movzx ecx, word ptr [rbx + INPUT_LENGTH]
        mov [KERNEL + CONTROL + CONTROL_CODE], rdi
        mov [KERNEL + CONTROL + CONTROL_LENGTH], rcx
        lea rsi, [rbx + INPUT_CODE]
        rep movsb

        /* Segments: null selectors in FS and GS take the bases away, so these come last. */
        movzx eax, word ptr [rbx + INPUT_DATA]
        mov ds, eax
        mov es, eax
        xor eax, eax
        mov fs, eax
        mov gs, eax
        xor edx, edx
        mov ecx, ISA_MSR_FS_BASE
        mov eax, ISA_DATA + 0x400
        wrmsr
        mov ecx, ISA_MSR_GS_BASE
        mov eax, ISA_DATA + 0x800
        wrmsr

        mov eax, 7
        xrstor64 [rbx]
        cmp byte ptr [rbx + INPUT_STEPPED], 0
        je enter
        hlt
enter:
        movzx eax, word ptr [rbx + INPUT_STACK]
        push rax
        push [rbx + INPUT_GPR + 4 * 8]
        push [rbx + INPUT_FLAGS]
        movzx eax, word ptr [rbx + INPUT_SELECTOR]
        push rax
        push [rbx + INPUT_RIP]
        mov rax, [rbx + INPUT_GPR + 0 * 8]
        mov rcx, [rbx + INPUT_GPR + 1 * 8]
        mov rdx, [rbx + INPUT_GPR + 2 * 8]
        mov rbp, [rbx + INPUT_GPR + 5 * 8]
        mov rsi, [rbx + INPUT_GPR + 6 * 8]
        mov rdi, [rbx + INPUT_GPR + 7 * 8]
        mov r8, [rbx + INPUT_GPR + 8 * 8]
        mov r9, [rbx + INPUT_GPR + 9 * 8]
        mov r10, [rbx + INPUT_GPR + 10 * 8]
        mov r11, [rbx + INPUT_GPR + 11 * 8]
        mov r12, [rbx + INPUT_GPR + 12 * 8]
        mov r13, [rbx + INPUT_GPR + 13 * 8]
        mov r14, [rbx + INPUT_GPR + 14 * 8]
        mov r15, [rbx + INPUT_GPR + 15 * 8]
        mov rbx, [rbx + INPUT_GPR + 3 * 8]
        iretq

done:
        hlt
        jmp next

/* The stack here: vector, error, then what the processor pushed. */
leave_case:
        push rdi
        mov rdi, [KERNEL + CONTROL + CONTROL_RESULT]
        mov [rdi + RESULT_GPR + 0 * 8], rax
        mov [rdi + RESULT_GPR + 1 * 8], rcx
        mov [rdi + RESULT_GPR + 2 * 8], rdx
        mov [rdi + RESULT_GPR + 3 * 8], rbx
        mov [rdi + RESULT_GPR + 5 * 8], rbp
        mov [rdi + RESULT_GPR + 6 * 8], rsi
        pop [rdi + RESULT_GPR + 7 * 8]
        mov [rdi + RESULT_GPR + 8 * 8], r8
        mov [rdi + RESULT_GPR + 9 * 8], r9
        mov [rdi + RESULT_GPR + 10 * 8], r10
        mov [rdi + RESULT_GPR + 11 * 8], r11
        mov [rdi + RESULT_GPR + 12 * 8], r12
        mov [rdi + RESULT_GPR + 13 * 8], r13
        mov [rdi + RESULT_GPR + 14 * 8], r14
        mov [rdi + RESULT_GPR + 15 * 8], r15
        pop rax
        mov [rdi + RESULT_EXCEPTION], eax
        pop rax
        mov [rdi + RESULT_ERROR], eax
        pop [rdi + RESULT_RIP]
        pop rax
        mov [rdi + RESULT_SELECTOR + 1 * 2], ax
        pop [rdi + RESULT_FLAGS]
        pop [rdi + RESULT_GPR + 4 * 8]
        pop rax
        mov [rdi + RESULT_SELECTOR + 2 * 2], ax
        mov eax, es
        mov [rdi + RESULT_SELECTOR + 0 * 2], ax
        mov eax, ds
        mov [rdi + RESULT_SELECTOR + 3 * 2], ax
        mov eax, fs
        mov [rdi + RESULT_SELECTOR + 4 * 2], ax
        mov eax, gs
        mov [rdi + RESULT_SELECTOR + 5 * 2], ax
        mov rax, cr2
        mov [rdi + RESULT_ADDRESS], rax
        mov ecx, ISA_MSR_FS_BASE
        rdmsr
        mov [rdi + RESULT_FS_BASE], eax
        mov [rdi + RESULT_FS_BASE + 4], edx
        mov ecx, ISA_MSR_GS_BASE
        rdmsr
        mov [rdi + RESULT_GS_BASE], eax
        mov [rdi + RESULT_GS_BASE + 4], edx
        mov eax, 7
        xor edx, edx
        xsave64 [rdi]
        mov dword ptr [rdi + RESULT_END], ISA_END_EXCEPTION

        cld
        mov rsi, KERNEL + PAGES + ISA_FIXED_CODE * ISA_PAGE
        mov rdi, [KERNEL + CONTROL + CONTROL_MEMORY]
        mov ecx, ISA_MEMORY_SIZE / 8
        rep movsq
        mov [KERNEL + CONTROL + CONTROL_MEMORY], rdi
        add qword ptr [KERNEL + CONTROL + CONTROL_RESULT], RESULT_SIZE
        add qword ptr [KERNEL + CONTROL + CONTROL_INPUT], INPUT_SIZE
        inc qword ptr [KERNEL + CONTROL + CONTROL_CURRENT]
        jmp next

/* 16 bytes a vector. Those with an error code: SDM 3A table 6-1. */
        .balign 16
isa_monitor_handlers:
        .set vector, 0
        .rept 256
        .balign 16
        .set has_error, 0
        .if vector < 32
        .set has_error, 0x00227d00 >> vector & 1
        .endif
        .if has_error == 0
        push 0
        .endif
        .byte 0x68
        .long vector
        jmp leave_case
        .set vector, vector + 1
        .endr
isa_monitor_end:
