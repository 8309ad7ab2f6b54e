/*
 * Programs for the differential test, written by hand for what random instructions seldom
 * meet. RSI and RDI point into the data pages, RSP into the stack page, RBP beside it;
 * everything else is anything. At most ISA_CODE_MAX bytes each.
 *
 * To add one: program BITS, the instructions, finish.
 */
        .intel_syntax noprefix
        .section .note.GNU-stack, "", @progbits

        .macro program bits
        .section .data.rel.ro.programs, "aw"
        .quad 8f, 9f, \bits
        .section .rodata
        .if \bits == 32
        .code32
        .else
        .code64
        .endif
8:
        .endm

        .macro finish
9:
        .endm

        .section .data.rel.ro.programs, "aw"
        .balign 8
        .globl isa_programs
isa_programs:

/* Carry chains. */
        program 64
        add rax, rbx
        adc rcx, rdx
        adc r8d, r9d
        adc r10w, r11w
        adc r12b, r13b
        sbb r14, r15
        sbb eax, [rsi]
        adc qword ptr [rdi], -1
        sbb byte ptr [rdi + 9], 0x80
        setc bl
        finish

        program 64
        xor eax, eax
        adcx r8, r9
        adox r10, r11
        adcx r12d, [rsi]
        adox r13d, [rsi + 8]
        adcx rbx, rax
        adox rcx, rax
        mulx r14, r15, [rsi + 16]
        adcx r14, r15
        finish

        program 64
        rcl rax, 1
        rcr rbx, 63
        rcl ecx, 31
        rcr r8w, 16
        rcl r9w, 17
        rcl r10b, 9
        rcr r11b, 8
        rcr word ptr [rdi], 17
        rcl byte ptr [rdi + 3], 10
        sbb rdx, rdx
        finish

/* Shift counts at and beyond the width; nothing changes flags for a count of 0. */
        program 64
        shld rax, rbx, 63
        shrd rcx, rdx, 1
        shld r8d, r9d, 31
        shrd r10d, r11d, 33
        mov cl, 64
        shld r12, r13, cl
        shl eax, cl
        mov cl, 0x5f
        shrd [rdi], r14, cl
        shld dword ptr [rdi + 8], ebx, cl
        sar r15, cl
        mov cl, 32
        shrd eax, ebx, cl
        pushfq
        finish

/* Bit offsets far from the operand, on both sides. */
        program 64
        mov eax, 8000
        bts [rsi], rax
        neg rax
        btr [rdi + 2000], rax
        btc [rdi + 1024], eax
        mov bx, -77
        bts word ptr [rdi + 64], bx
        mov rdx, -1
        lock btc [rdi + 64], rdx
        bt qword ptr [rsi], 200
        adc r8, 0
        finish

/* Compare and exchange: equal, unequal, misaligned. */
        program 64
        mov eax, [rdi]
        mov edx, [rdi + 4]
        lock cmpxchg8b [rdi]
        cmpxchg8b [rdi + 8]
        setz bl
        mov rax, [rdi + 64]
        mov rdx, [rdi + 72]
        and rdi, -16
        lock cmpxchg16b [rdi + 64]
        pushfq
        cmpxchg16b [rdi + 80]
        cmpxchg16b [rdi + 8]
        finish

        program 64
        mov eax, [rdi]
        lock cmpxchg [rdi], ecx
        cmpxchg [rdi + 1], r8
        cmpxchg [rdi], r9b
        cmpxchg edx, ebx
        cmpxchg r10w, r11w
        lock xadd [rdi], r12
        xadd r13b, r13b
        xchg [rdi + 3], r14w
        finish

/* Locked across a page, a line, and from there into the page that is only read. One only:
 * a host may slow down programs that do it. */
        program 64
        mov rdi, 0x20000ffe
        lock xadd dword ptr [rdi], eax
        finish

        program 64
        mov rdi, 0x20000fbd
        lock neg qword ptr [rdi]
        finish

        program 64
        mov rdi, 0x20001ffd
        lock or dword ptr [rdi], 1
        finish

/* Strings: overlap both ways, a fault in the middle, both widths of the count. */
        program 64
        lea rdi, [rsi + 1]
        mov ecx, 40
        rep movsb
        lea rsi, [rdi + 3]
        mov ecx, 9
        rep movsq
        std
        lea rdi, [rsi - 2]
        mov ecx, 11
        rep movsw
        cld
        mov rdi, 0x20001fe0
        mov ecx, 100
        rep stosd
        finish

        program 64
        mov rsi, 0x20002ff0
        mov rdi, 0x20000ff4
        mov ecx, 77
        rep movsb
        finish

        program 64
        mov rsi, 0x20000010
        mov rdi, 0x20000010
        mov ecx, 50
        std
        repe cmpsd
        finish

        program 64
        mov ecx, 0
        cmp eax, ebx
        repe cmpsb
        pushfq
        rep lodsq
        mov ecx, 30
        repne scasb
        pushfq
        mov rcx, 0x100000003
        addr32 rep stosw
        finish

/* PUSH and POP of and through RSP. */
        program 64
        push rsp
        push qword ptr [rsp]
        pop rax
        pop qword ptr [rsp + 8]
        push qword ptr [rsp - 8]
        push ax
        pop word ptr [rsp]
        pop bx
        push -2
        push 0x12345678
        pop rsp
        push rax
        finish

        program 64
        enter 16, 0
        enter 8, 1
        enter 24, 4
        leave
        enter 0, 31
        enter 5, 35
        leave
        leave
        finish

        program 32
        enter 16, 0
        enter 8, 2
        enter 0, 31
        leave
        pusha
        popa
        pushaw
        popaw
        push esp
        pop [esp + 4]
        push es
        pushfw
        popfd
        finish

/* Flags in and out: what ring 3 may change, and what stays. */
        program 64
        push rax
        and qword ptr [rsp], ~0x100
        popfq
        pushfq
        mov rax, [rsp]
        lahf
        not ah
        sahf
        pushfq
        mov word ptr [rsp], 0x7ed7
        popfw
        pushfq
        cmc
        cld
        pushfw
        finish

        program 32
        aaa
        aas
        daa
        das
        aam 10
        aad 7
        aam 0x11
        .byte 0xd6
        sahf
        pushfd
        popfd
        bound esi, [edi]
        finish

/* x87: the stack over- and underflows, masked and not. */
        program 64
        fninit
        .rept 9
        fld1
        .endr
        fnstsw ax
        .rept 9
        fstp st(0)
        .endr
        fnstsw [rdi + 64]
        fadd st, st(3)
        fxch st(2)
        ffree st(1)
        fincstp
        fdecstp
        fst st(4)
        fnstsw [rdi + 66]
        finish

        program 64
        fninit
        push 0x37e
        fldcw [rsp]
        fld1
        fadd st, st(1)
        fnstsw ax
        fld1
        finish

/* Denormals, division by zero and overflow with each exception unmasked in turn. */
        program 64
        fninit
        push 0x37d
        fldcw [rsp]
        push 1
        fld qword ptr [rsp]
        fadd st, st
        fwait
        finish

        program 64
        fninit
        push 0x37b
        fldcw [rsp]
        fld1
        fldz
        fdivp
        fnstsw ax
        fnclex
        push 0x33f - 0x20
        fldcw [rsp]
        fld1
        fldpi
        fdivp
        fstp dword ptr [rdi]
        fnstsw [rdi + 64]
        fwait
        finish

        program 64
        push 0x1f80 - 0x100
        ldmxcsr [rsp]
        push 1
        movsd xmm0, [rsp]
        addsd xmm0, xmm0
        finish

        program 64
        push 0x1f80 + 0x8040
        ldmxcsr [rsp]
        push 1
        movsd xmm0, [rsp]
        movsd xmm1, [rsi]
        addsd xmm0, xmm1
        mulps xmm2, xmm3
        divpd xmm4, xmm5
        stmxcsr [rdi]
        finish

/* The four roundings, of the same operands. */
        .irp mxcsr, 0x1f80, 0x3f80, 0x5f80, 0x7f80
        program 64
        push \mxcsr
        ldmxcsr [rsp]
        cvtpd2ps xmm0, xmm1
        cvtps2dq xmm2, xmm3
        cvtsd2si rax, xmm4
        cvtsi2ss xmm5, rbx
        sqrtpd xmm6, xmm1
        divss xmm7, xmm3
        roundpd xmm8, xmm1, 4
        roundss xmm9, xmm3, 1
        vaddps ymm10, ymm3, ymm11
        cvttss2si ecx, xmm3
        stmxcsr [rdi]
        finish
        .endr

        .irp fcw, 0x37f, 0x77f, 0xb7f, 0xf7f, 0x07f, 0x27f
        program 64
        fninit
        push \fcw
        fldcw [rsp]
        fld qword ptr [rsi]
        fild qword ptr [rsi + 8]
        fmul st, st(1)
        frndint
        fist dword ptr [rdi]
        fisttp qword ptr [rdi + 8]
        fld1
        fldl2t
        fdivp
        fstp tbyte ptr [rdi + 16]
        fsqrt
        fstp dword ptr [rdi + 32]
        fnstsw ax
        finish
        .endr

        .section .data.rel.ro.programs, "aw"
        .quad 0, 0, 0
