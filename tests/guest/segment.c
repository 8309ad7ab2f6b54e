/*
 * 32-bit code in compatibility mode, at CPL 0 and 3: with flat segments, with segments
 * whose bases are anything, also such that addresses wrap around at 4 GiB; limits and
 * rights of segments; segment registers and code segments that change all the time; the
 * same bytes as 32- and 64-bit code.
 *
 * The code is a copy of what lies between code_start and code_end, which finds its way by
 * EIP and the registers that it is given. An int $0x80 ends it.
 */
#include "apic.h"
#include "code32.h"
#include "cpu.h"
#include "guest.h"

#define ROUNDS       300
#define VECTOR_TIMER 0x50
#define OFFSET_DATA  0x800u /* in the data's second page */

extern char code_start[], code_end[], code_work[], code_moffs_load[], code_moffs_store[],
    code_strings[], code_switch[], code_reload[], code_far[], code_far_target[],
    code_read[], code_write[], code_push[], code_cs_read[], code_cs_write[],
    code_fs_read[], code_gs_read[], code_patch[], code_patched[], code_wait[],
    code_flags[], code_twin[], code_twin_32[];
uint64_t twins_run(uint64_t count, void *twin, const void *pointer);

__asm__(
    ".text\n.code32\ncode_start:\n"
    /* EBX: data; ECX: rounds. ESI: 141 for each of them. */
    "code_work:\n"
    "cld; call 1f\n"
    "1: pop %ebp\n"
    "lea fib - 1b(%ebp), %eax; mov %eax, (%ebx)\n"
    "xor %esi, %esi\n"
    "2: push %ecx\n"
    "mov $7, %eax; call *(%ebx); add %eax, %esi\n"
    "lea fib - 1b(%ebp), %edx\n"
    "mov $6, %eax; call *%edx; add %eax, %esi\n"
    "push $5; call times_three; add %eax, %esi\n"
    "pushl $-3; pushl 4(%ebx); pop %eax; pop %edx; add %edx, %esi; add %eax, %esi\n"
    "pusha; xor %eax, %eax; popa\n"
    "inc %esi; dec %esi; inc %esi\n"
    ".byte 0x82, 0x43, 0x08, 0x01\n" /* addb $1, 8(%ebx) */
    "mov %esp, %edi; push %ebp; mov %esp, %ebp; sub $16, %esp; leave; sub %esp, %edi\n"
    "add %edi, %esi\n"
    "movb 9(%ebx), %ah; movb %ah, 10(%ebx); movzbl %ah, %eax; add %eax, %esi\n"
    "code_moffs_load: .byte 0xa1; .long 0\n" /* mov 12 behind the data, %eax */
    "inc %eax\n"
    "code_moffs_store: .byte 0xa3; .long 0\n"
    "pop %ecx; loop 2b\n"
    "jecxz 3f; ud2\n"
    "3: int $0x80\n"
    "fib: cmp $2, %eax; jb 1f\n"
    "push %ebx; push %eax; dec %eax; call fib; mov %eax, %ebx; pop %eax\n"
    "sub $2, %eax; push %ebx; call fib; pop %ebx; add %ebx, %eax; pop %ebx\n"
    "1: ret\n"
    "times_three: mov 4(%esp), %eax; lea (%eax, %eax, 2), %eax; ret $4\n"
    /* ESI: data in DS; EDI: the same in ES; over the page's end. */
    "code_strings:\n"
    "cld; mov $0x11223344, %eax\n"
    "push %edi; mov $600, %ecx; rep stosl; pop %edi\n"
    "push %esi; lodsl; pop %esi; mov %eax, %ebx\n"
    "movl $0x55667788, (%esi)\n"
    "push %esi; push %edi; add $8, %edi; mov $3, %ecx; rep movsl; movsb; movsw\n"
    "pop %edi; pop %esi\n"
    "push %esi; push %edi; mov $8, %ecx; add $8, %esi; repe cmpsb; pop %edi; pop %esi\n"
    "mov $0x66, %al; push %edi; xor %ecx, %ecx; dec %ecx; repne scasb; not %ecx\n"
    "pop %edi; mov %ecx, %edx\n"
    "lodsb; scasb; int $0x80\n"
    /* EDX, EBP: selectors for DS; ECX: rounds; EBX: offset. */
    "code_switch:\n"
    "xor %esi, %esi\n"
    "1: mov %edx, %ds; add (%ebx), %esi; incl 4(%ebx); xchg %edx, %ebp; loop 1b\n"
    "int $0x80\n"
    /* The same selector in EDX, whose descriptor's base changes at ES:EDI. */
    "code_reload:\n"
    "xor %esi, %esi\n"
    "1: mov %edx, %ds; add (%ebx), %esi; mov %edx, %ds; add (%ebx), %esi\n"
    "push %ds; pop %ds; add (%ebx), %esi; mov %ds, %eax; sub %edx, %eax; add %eax, %esi\n"
    "xorb $0x20, %es:(%edi); loop 1b\n"
    "int $0x80\n"
    /* EBX: two far pointers to code_far_target; ECX: rounds. EDI counts the calls of what
     * is called near from every code segment. */
    "code_far: call 1f\n"
    "1: pop %ebp; add $near_target - 1b, %ebp; xor %esi, %esi\n"
    "2: lcall *(%ebx); mov %cs, %eax; add %eax, %esi; call *%ebp; lcall *8(%ebx)\n"
    "loop 2b\n"
    "int $0x80\n"
    "code_far_target: call 1f\n"
    "1: pop %eax; add $near_target - 1b, %eax; call *%eax; lret\n"
    "near_target: inc %edi; ret\n"
    "code_read: mov (%ebx), %eax; int $0x80\n"
    "code_write: mov %eax, (%ebx); int $0x80\n"
    "code_push: push %eax; int $0x80\n"
    "code_cs_read: mov %cs:(%ebx), %eax; int $0x80\n"
    "code_cs_write: mov %eax, %cs:(%ebx); int $0x80\n"
    "code_fs_read: mov %fs:(%ebx), %eax; int $0x80\n"
    "code_gs_read: mov %gs:(%ebx), %eax; int $0x80\n"
    /* EDX: where the immediate is in DS; ECX: rounds. */
    "code_patch: xor %esi, %esi\n"
    "1: mov %cl, (%edx); xor %eax, %eax\n"
    "code_patched: mov $0, %al; add %eax, %esi; loop 1b\n"
    "int $0x80\n"
    /* Until somebody changes (%ebx). */
    "code_wait: cmpl $0, (%ebx); je code_wait; int $0x80\n"
    "code_flags: stc; pushf; cli; pushf; sti; nop; pushf; popl %eax; popl %ebx\n"
    "popf; sbb %ecx, %ecx; pushf; popl %edx; cli; int $0x80\n"
    /* inc rax, or dec eax and inc eax */
    "code_twin: .byte 0x48, 0xff, 0xc0; ret\n"
    "code_twin_32: call *%ebx; lret\n"
    "code_end:\n"
    ".code64\n"
    /* The twin as 64-bit and as 32-bit code in turn, by indirect calls. */
    "twins_run: push %rbx; mov %rsi, %rbx; mov %rdi, %rcx; xor %eax, %eax\n"
    "1: call *%rbx; lcall *(%rdx); loop 1b\n"
    "pop %rbx; ret\n.previous\n");

static uint32_t get32(const void *from)
{
    uint32_t value;
    memcpy(&value, from, 4);
    return value;
}

static void put32(void *to, uint32_t value)
{
    memcpy(to, &value, 4);
}

static void try_work(const struct place *place)
{
    uint8_t *here = code32_data + 0x1000 + OFFSET_DATA;
    code32_begin(code_start, code_end);
    put32(here + 4, 100);
    here[9] = 7;
    uint32_t counter = linear(here) + 12 - place->data;
    put32(copy_of(code_moffs_load) + 1, counter);
    put32(copy_of(code_moffs_store) + 1, counter);
    struct run what = run_at(place, code_work);
    const struct trap_frame *trap = run_code32(
        &what, (struct registers){.ebx = linear(here) - place->data, .ecx = ROUNDS});
    expect_end(trap);
    ASSERT_EQ(trap->rsi, 141 * ROUNDS);
    ASSERT_EQ(trap->rcx, 0);
    ASSERT_EQ(trap->rsp, what.esp);
    ASSERT_EQ(here[8], ROUNDS & 0xff);
    ASSERT_EQ(here[10], 7);
    ASSERT_EQ(get32(here + 12), ROUNDS);
    code32_end();
}

static void try_strings(const struct place *place)
{
    uint8_t *here = code32_data + 0x1000 - 24;
    code32_begin(code_start, code_end);
    struct run what = run_at(place, code_strings);
    const struct trap_frame *trap =
        run_code32(&what, (struct registers){.esi = linear(here) - place->data,
                                             .edi = linear(here) - place->extra});
    expect_end(trap);
    ASSERT_EQ(trap->rbx, 0x11223344);
    ASSERT_EQ(get32(here), 0x55667788);
    ASSERT_EQ(get32(here + 8), 0x55667788);
    ASSERT_EQ(get32(here + 12), 0x11223344);
    ASSERT_EQ(get32(here + 16), 0x55667788); /* it copies what it has just copied */
    ASSERT_EQ(get32(here + 20), 0x11223344); /* 44, then 33 44 */
    ASSERT_EQ(get32(here + 599 * 4), 0x11223344);
    ASSERT_EQ(get32(here + 600 * 4), 0);
    ASSERT_EQ(trap->rdx, 3); /* 88 77 66 */
    ASSERT_EQ(trap->rax & 0xff, 0x88);
    ASSERT(trap->rflags & RFLAGS_ZF);
    ASSERT_EQ(trap->rdi, linear(here) + 1 - place->extra);
    code32_end();
}

static void try_switch(const struct place *place)
{
    uint8_t *one = code32_data + 0x100, *other = code32_data + 0x1f00;
    uint32_t dpl = place->is_user ? DPL_3 : 0;
    code32_begin(code_start, code_end);
    put32(one, 3);
    put32(other, 5);
    struct run what = run_at(place, code_switch);
    const struct trap_frame *trap = run_code32(
        &what, (struct registers){
                   .ebx = 0x40000000,
                   .ecx = 2 * ROUNDS,
                   .edx = describe(linear(one) - 0x40000000, 0xfffff, DATA_32 | dpl),
                   .ebp = describe(linear(other) - 0x40000000, 0xfffff, DATA_32 | dpl),
               });
    expect_end(trap);
    ASSERT_EQ(trap->rsi, 8 * ROUNDS);
    ASSERT_EQ(get32(one + 4), ROUNDS);
    ASSERT_EQ(get32(other + 4), ROUNDS);
    code32_end();
}

static void try_reload(const struct place *place)
{
    uint8_t *one = code32_data + 0x100;
    uint32_t dpl = place->is_user ? DPL_3 : 0;
    code32_begin(code_start, code_end);
    uint32_t base = linear(one) - 0x40000000;
    uint8_t *other = base & 0x2000 ? one - 0x2000 : one + 0x2000;
    if (other < one) {
        one += 0x2000;
        other += 0x2000;
        base += 0x2000;
    }
    put32(one, 3);
    put32(other, 5);
    struct run what = run_at(place, code_reload);
    uint32_t selector = describe(base, 0xfffff, DATA_32 | dpl);
    uint32_t changed = linear(descriptor_of(selector)) + 3; /* bits 8 to 15 of the base */
    const struct trap_frame *trap = run_code32(&what, (struct registers){
                                                          .ebx = 0x40000000,
                                                          .ecx = 2 * ROUNDS,
                                                          .edx = selector,
                                                          .edi = changed - place->extra,
                                                      });
    expect_end(trap);
    ASSERT_EQ(trap->rsi, 3 * 8 * ROUNDS);
    code32_end();
}

/* From one code segment into two others and into itself, in which the same code has other
 * addresses. */
static void try_far(const struct place *place)
{
    uint32_t dpl = place->is_user ? DPL_3 : 0;
    uint32_t base[2] = {place->code ^ 0x12340, 0};
    uint8_t *here = code32_data + 0x200;
    code32_begin(code_start, code_end);
    struct run what = run_at(place, code_far);
    for (unsigned i = 0; i < 2; i++) {
        struct far_pointer pointer = {
            linear(copy_of(code_far_target)) - base[i],
            (uint16_t)describe(base[i], 0xfffff, CODE_32 | dpl),
        };
        memcpy(here + i * 8, &pointer, sizeof(pointer));
    }
    const struct trap_frame *trap = run_code32(
        &what, (struct registers){.ebx = linear(here) - place->data, .ecx = ROUNDS});
    expect_end(trap);
    ASSERT_EQ(trap->rdi, 3 * ROUNDS);
    ASSERT_EQ(trap->rsi, what.cs * ROUNDS);
    ASSERT_EQ(trap->rsp, what.esp);
    code32_end();
}

static void try_patch(const struct place *place)
{
    code32_begin(code_start, code_end);
    struct run what = run_at(place, code_patch);
    uint32_t patched = linear(copy_of(code_patched)) + 1 - place->data;
    const struct trap_frame *trap =
        run_code32(&what, (struct registers){.edx = patched, .ecx = 200});
    expect_end(trap);
    ASSERT_EQ(trap->rsi, 200 * 201 / 2);
    code32_end();
}

static void on_timer(struct trap_frame *frame)
{
    put32(code32_data, 1);
    apic_eoi();
}

static void try_interrupt(const struct place *place)
{
    code32_begin(code_start, code_end);
    apic_write(APIC_LVT_TIMER, VECTOR_TIMER);
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    struct run what = run_at(place, code_wait);
    what.has_interrupts = true;
    apic_write(APIC_TIMER_COUNT, cpuid(0x40000010, 0).ebx); /* a millisecond */
    expect_end(
        run_code32(&what, (struct registers){.ebx = linear(code32_data) - place->data}));
    ASSERT_EQ(cpu_self()->trap.rsp, what.esp);
    code32_end();
}

static void try_place(const struct place *place)
{
    case_begin("%s: calls, stack, registers", place->name);
    try_work(place);
    case_begin("%s: strings", place->name);
    try_strings(place);
    case_begin("%s: DS that changes", place->name);
    try_switch(place);
    case_begin("%s: a descriptor that changes", place->name);
    try_reload(place);
    case_begin("%s: far calls", place->name);
    try_far(place);
    case_begin("%s: code that changes", place->name);
    try_patch(place);
    case_begin("%s: an interrupt of a tight loop", place->name);
    try_interrupt(place);
}

/* ---- what segments refuse ---------------------------------------------------------- */

static const struct place *refusing;

/* A piece with one instruction that accesses offset; the segment register that is not the
 * place's is in *which. Expects it to fault, or to go well (vector VECTOR_USER). */
static void expect(const char *piece, uint32_t ds, uint32_t offset, unsigned vector)
{
    struct run what = run_at(refusing, piece);
    what.ds = ds;
    descriptor_forget(4);
    const struct trap_frame *trap = run_code32(&what, (struct registers){.ebx = offset});
    if (trap->vector != vector || trap->error != 0 ||
        (vector != VECTOR_USER && trap->rip != what.eip)) {
        FAIL("offset 0x%x: expected vector %u at 0x%x; actual %lu, error 0x%lx, at 0x%lx",
             offset, vector, what.eip, trap->vector, trap->error, trap->rip);
    }
}

static void try_data_rights(uint32_t dpl)
{
    uint32_t base = linear(code32_data), ds;
    case_begin("%s: limits", refusing->name);
    code32_begin(code_start, code_end);
    ds = describe(base, 0xfff, DATA_BYTES | dpl);
    for (unsigned twice = 0; twice < 2; twice++) {
        expect(code_read, ds, 0xffc, VECTOR_USER);
        expect(code_read, ds, 0xffd, VECTOR_GP);
        expect(code_write, ds, 0, VECTOR_USER);
        expect(code_write, ds, 0xffffffff, VECTOR_GP);
    }
    ds = describe(base, 0xfff, 0x4097 | dpl);
    expect(code_read, ds, 0x1000, VECTOR_USER);
    expect(code_read, ds, 0xfff, VECTOR_GP);
    case_begin("%s: read-only, null, of another kind", refusing->name);
    ds = describe(base, 0xfffff, DATA_READ_ONLY | dpl);
    expect(code_read, ds, 4, VECTOR_USER);
    expect(code_write, ds, 4, VECTOR_GP);
    expect(code_read, 0, 4, VECTOR_GP);
    ds = describe(base, 0xfffff, CODE_32 | dpl);
    expect(code_read, ds, 4, VECTOR_USER);
    expect(code_write, ds, 4, VECTOR_GP);
    code32_end();
}

static void try_code_rights(uint32_t dpl)
{
    uint32_t offset = linear(code32_data) - refusing->code;
    case_begin("%s: data in the code segment", refusing->name);
    code32_begin(code_start, code_end);
    uint32_t ds = describe(0, 0xfffff, DATA_32 | dpl);
    put32(code32_data, 0x1234);
    expect(code_cs_read, ds, offset, VECTOR_USER);
    ASSERT_EQ(cpu_self()->trap.rax, 0x1234);
    expect(code_cs_write, ds, offset, VECTOR_GP);
    struct run what = run_at(refusing, code_cs_read);
    what.cs = describe(refusing->code, 0xfffff, CODE_UNREAD | dpl);
    const struct trap_frame *trap = run_code32(&what, (struct registers){.ebx = offset});
    ASSERT_TRAP(VECTOR_GP, 0, what.eip);
    ASSERT_EQ(trap->cs, what.cs);
    code32_end();
}

static void try_fs_gs(uint32_t dpl)
{
    case_begin("%s: FS and GS", refusing->name);
    code32_begin(code_start, code_end);
    put32(code32_data + 0x10, 0xabcd);
    put32(code32_data + 0x20, 0xef01);
    uint32_t fs = describe(linear(code32_data) + 0x100, 0xfffff, DATA_32 | dpl);
    uint32_t gs = describe(linear(code32_data) + 0x20, 0, DATA_BYTES | dpl);
    for (unsigned i = 0; i < 3; i++) {
        set_based(fs, fs);
        expect(code_fs_read, 0, (uint32_t)-0xf0, VECTOR_USER);
        ASSERT_EQ(cpu_self()->trap.rax, 0xabcd);
        expect(code_gs_read, 0, (uint32_t)-0xe0, VECTOR_USER);
        ASSERT_EQ(cpu_self()->trap.rax, 0xef01);
        set_based(0, gs);
        expect(code_fs_read, 0, (uint32_t)-0xf0, VECTOR_GP);
        expect(code_gs_read, 0, 0, VECTOR_GP); /* one byte long */
    }
    code32_end();
}

static void try_stacks(uint32_t dpl)
{
    case_begin("%s: limits of the stack", refusing->name);
    code32_begin(code_start, code_end);
    struct run what = run_at(refusing, code_push);
    what.ss = describe(linear(code32_stack), 0xffb, DATA_BYTES | dpl);
    for (uint32_t esp = 0xffc; esp <= 0x1004; esp += 4) {
        what.esp = esp;
        const struct trap_frame *trap =
            run_code32(&what, (struct registers){.eax = 0x99});
        if (esp == 0xffc) {
            expect_end(trap);
            ASSERT_EQ(trap->rsp, 0xff8);
            ASSERT_EQ(get32(code32_stack + 0xff8), 0x99);
        } else {
            ASSERT_TRAP(VECTOR_SS, 0, what.eip);
            ASSERT_EQ(trap->rsp, esp);
        }
    }
    case_begin("%s: a 16-bit stack", refusing->name);
    what.ss = describe(linear(code32_stack), 0xffff, STACK_16 | dpl);
    what.esp = 0xabcd0100;
    expect_end(run_code32(&what, (struct registers){.eax = 0x77}));
    ASSERT_EQ(cpu_self()->trap.rsp & 0xffff, 0xfc);
    ASSERT_EQ(get32(code32_stack + 0xfc), 0x77);
    code32_end();
}

/* ---- other things -------------------------------------------------------------------
 */

static void try_flags(const struct place *place)
{
    case_begin("%s: PUSHF, POPF, CLI, STI", place->name);
    code32_begin(code_start, code_end);
    struct run what = run_at(place, code_flags);
    const struct trap_frame *trap = run_code32(&what, (struct registers){0});
    expect_end(trap);
    ASSERT_EQ(trap->rax & (RFLAGS_IF | RFLAGS_CF), RFLAGS_IF | RFLAGS_CF);
    ASSERT_EQ(trap->rbx & (RFLAGS_IF | RFLAGS_CF), RFLAGS_CF);
    ASSERT_EQ(trap->rcx, 0xffffffff);
    ASSERT_EQ(trap->rdx & (RFLAGS_IF | RFLAGS_CF), RFLAGS_CF);
    code32_end();
}

static void try_twins(void)
{
    case_begin("the same bytes as 64- and 32-bit code");
    code32_begin(code_start, code_end);
    uint32_t cs = describe(0, 0xfffff, CODE_32);
    uint32_t ss = describe(0, 0xfffff, DATA_32);
    struct far_pointer pointer = {linear(copy_of(code_twin_32)), (uint16_t)cs};
    memcpy(code32_data, &pointer, sizeof(pointer));
    set_data(ss, ss);
    __asm__ volatile("mov %0, %%ss" : : "r"(ss));
    ASSERT_EQ(twins_run(10 * ROUNDS, copy_of(code_twin), code32_data), 10 * ROUNDS);
    __asm__ volatile("mov %0, %%ss" : : "r"(KERNEL_DS));
    code32_end();
}

static void prepare(void)
{
    code32_prepare();
    trap_set_gate(VECTOR_TIMER, 0x8e, 1);
    trap_set_handler(VECTOR_TIMER, on_timer);
    apic_enable(false);
    pic_setup(0x20);
}

void guest_test(void)
{
    static const struct place places[] = {
        {"flat, CPL 0", 0, 0, 0, 0, false},
        {"flat, CPL 3", 0, 0, 0, 0, true},
        {"bases, CPL 0", 0x10123, 0x20456, 0x30abc, 0x1000, false},
        {"bases, CPL 3", 0x10123, 0x20456, 0x30abc, 0x1000, true},
        {"around 4G, CPL 0", 0xfffff123, 0xffff0000, 0x80000001, 0xf0000000, false},
        {"around 4G, CPL 3", 0xfffff123, 0xffff0000, 0x80000001, 0xf0000000, true},
    };
    prepare();
    for (unsigned i = 0; i < COUNT_OF(places); i++) {
        try_place(&places[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        refusing = &places[i];
        uint32_t dpl = refusing->is_user ? DPL_3 : 0;
        try_data_rights(dpl);
        try_code_rights(dpl);
        try_fs_gs(dpl);
        try_stacks(dpl);
    }
    try_flags(&places[0]);
    try_flags(&places[2]);
    try_twins();
}
