/*
 * The instructions that are sensitive and do not trap (Robin & Irvine 2000), as 32-bit
 * code has them, in ring 0 and in ring 3: with its own forms (PUSH and POP of CS, DS, ES
 * and SS, far pointers in the instruction, LES, INTO), 32 bits of table registers, frames
 * of 32 bits. sensitive.c is the same for 64-bit code.
 *
 * The code is a copy of what lies between code_start and code_end; an int $0x80 ends it.
 */
#include "code32.h"
#include "cpu.h"
#include "guest.h"

#define FLAGS_SEEN  (RFLAGS_IF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_CF | RFLAGS_VM)
#define RFLAGS_VM   0x20000u
#define VECTOR_FREE 0x21

extern char code_start[], code_end[], code_tables[], code_flags[], code_iret[],
    code_iret_inwards[], code_iret_at[], code_inspect[], code_segments[], code_mov_es[],
    code_mov_ss[], code_pop_es[], code_pop_es_at[], code_pop_fs[], code_pop_fs_at[],
    code_les[], code_les_at[], code_far_indirect[], code_far_call[], code_far_jump[],
    code_far_return[], code_far_return_at[], code_far_target[], code_far_landing[],
    code_gate[], code_gate_end[], code_int_n[], code_into[], code_into_at[], code_int3[];

__asm__(".text\n.code32\ncode_start:\n"
        "code_tables: sgdt (%ebx); sidt 8(%ebx); smsw 16(%ebx)\n"
        "sldt %eax; str %ecx; smsw %edx; int $0x80\n"
        /* EDI: the flags asked for. */
        "code_flags: pushf; popl %eax; pushl %edi; popf; pushf; popl %ecx; int $0x80\n"
        "code_iret: pushl %edi; pushl %cs; call 1f\n"
        "1: addl $2f - 1b, (%esp); iret\n"
        "2: pushf; popl %ecx; int $0x80\n"
        /* EDI: a selector. */
        "code_iret_inwards: pushf; pushl %edi; pushl $0\n"
        "code_iret_at: iret; int $0x80\n"
        "code_inspect: xor %eax, %eax; xor %ecx, %ecx\n"
        "lar %edi, %eax; setz (%ebx); lsl %edi, %ecx; setz 1(%ebx)\n"
        "verr %di; setz 2(%ebx); verw %di; setz 3(%ebx); int $0x80\n"
        "code_segments: mov %cs, %eax; mov %ss, %ecx; mov %ds, %edx; mov %es, %esi\n"
        "mov %fs, %edi; mov %gs, %ebp\n"
        "push %cs; popl (%ebx); push %ss; popl 4(%ebx); push %ds; popl 8(%ebx)\n"
        "push %es; popl 12(%ebx); push %fs; popl 16(%ebx); push %gs; popl 20(%ebx)\n"
        "int $0x80\n"
        "code_mov_es: mov %edi, %es; mov %es, %eax; int $0x80\n"
        "code_mov_ss: mov %edi, %ss; mov %ss, %eax; int $0x80\n"
        "code_pop_es: pushl %edi\ncode_pop_es_at: pop %es; mov %es, %eax; int $0x80\n"
        "code_pop_fs: pushl %edi\ncode_pop_fs_at: pop %fs; mov %fs, %eax; int $0x80\n"
        "code_les: movl $0x1234, (%ebx); mov %edi, 4(%ebx)\n"
        "code_les_at: les (%ebx), %ecx; mov %es, %eax; int $0x80\n"
        /* EBX: a far pointer; or patched in. */
        "code_far_indirect: lcall *(%ebx); int $0x80\n"
        "code_far_call: .byte 0x9a; .long 0; .word 0; int $0x80\n"
        "code_far_jump: .byte 0xea; .long 0; .word 0; ud2\n"
        "code_far_return: pushl %edi; pushl %ebx\ncode_far_return_at: lret; ud2\n"
        "code_far_target: mov 4(%esp), %eax; mov %cs, %ecx; lret\n"
        "code_far_landing: mov %cs, %ecx; int $0x80\n"
        "code_gate: mov %esp, %ebx; lcall *(%edi)\ncode_gate_end: int $0x80\n"
        "code_int_n: int $0x21; ud2\n"
        "code_into: mov $0x7fffffff, %eax; inc %eax\ncode_into_at: into; ud2\n"
        "code_int3: int3; ud2\n"
        "code_end:\n.code64\n.previous\n");

static struct registers at_data(const struct place *place, uint32_t edi)
{
    return (struct registers){.ebx = linear(code32_data) - place->data, .edi = edi};
}

static uint32_t eip_of(const struct place *place, const char *piece)
{
    return linear(copy_of(piece)) - place->code;
}

static const struct trap_frame *run_piece(const struct place *place, const char *piece,
                                          uint32_t edi)
{
    struct run what = run_at(place, piece);
    descriptor_forget(4);
    return run_code32(&what, at_data(place, edi));
}

/* Faults at a place with a selector as the error code. */
static void expect_fault(const struct place *place, const char *piece, const char *at,
                         uint32_t selector, uint32_t error)
{
    run_piece(place, piece, selector);
    ASSERT_TRAP(VECTOR_GP, error, eip_of(place, at));
    ASSERT_EQ(cpu_self()->trap.cs & 3, place->is_user ? 3 : 0);
}

static uint32_t data32(unsigned offset)
{
    uint32_t value;
    memcpy(&value, code32_data + offset, 4);
    return value;
}

static void begin(const struct place *place, const char *what)
{
    code32_begin(code_start, code_end);
    case_begin("%s: %s", place->name, what);
}

/* ---- registers that show where things are -------------------------------------------
 */

static void try_tables(const struct place *place)
{
    struct descriptor_pointer gdtr, idtr;
    begin(place, "SGDT, SIDT, SLDT, STR, SMSW");
    __asm__ volatile("sgdt %0\n\tsidt %1" : "=m"(gdtr), "=m"(idtr));
    memset(code32_data, 0xee, 24);
    const struct trap_frame *trap = run_piece(place, code_tables, 0);
    expect_end(trap);
    ASSERT_EQ(data32(0) & 0xffff, gdtr.limit);
    ASSERT_EQ(data32(2), (uint32_t)gdtr.base);
    ASSERT_EQ(data32(4) >> 16, 0xeeee);
    ASSERT_EQ(data32(8) & 0xffff, idtr.limit);
    ASSERT_EQ(data32(10), (uint32_t)idtr.base);
    ASSERT_EQ(data32(12) >> 16, 0xeeee);
    ASSERT_EQ(data32(16) & 0xffff, cr0_read() & 0xffff);
    ASSERT_EQ(data32(16) >> 16, 0xeeee);
    ASSERT_EQ(trap->rax & 0xffff, 0);
    ASSERT_EQ(trap->rcx & 0xffff, TSS_BASE);
    ASSERT_EQ(trap->rdx & 0xffff, cr0_read() & 0xffff);
    code32_end();
}

/* ---- flags ---------------------------------------------------------------------------
 */

/* What is asked for, and what a level may have (SDM 2B "POPF", table 4-15). */
static const struct {
    uint32_t start, asked, kernel, program;
} flags[] = {
    {RFLAGS_IF, 0, 0, RFLAGS_IF},
    {0, RFLAGS_IF, RFLAGS_IF, 0},
    {0, RFLAGS_IOPL | RFLAGS_CF, RFLAGS_IOPL | RFLAGS_CF, RFLAGS_CF},
    {RFLAGS_IOPL | RFLAGS_IF, 0, 0, RFLAGS_IOPL},
    {RFLAGS_IOPL, RFLAGS_IF, RFLAGS_IF, RFLAGS_IOPL | RFLAGS_IF},
    {0, RFLAGS_NT, RFLAGS_NT, RFLAGS_NT},
    {0, RFLAGS_VM, 0, 0},
};

static void try_flags(const struct place *place)
{
    for (unsigned i = 0; i < COUNT_OF(flags); i++) {
        uint32_t expected = place->is_user ? flags[i].program : flags[i].kernel;
        begin(place, "PUSHF, POPF, IRET");
        struct run what = run_at(place, code_flags);
        what.flags = flags[i].start;
        const struct trap_frame *trap = run_code32(&what, at_data(place, flags[i].asked));
        expect_end(trap);
        ASSERT_EQ(trap->rax & FLAGS_SEEN, flags[i].start);
        ASSERT_EQ(trap->rcx & FLAGS_SEEN, expected);
        ASSERT_EQ(trap->rflags & FLAGS_SEEN, expected);
        ASSERT_EQ(trap->rsp, what.esp);
        /* In long mode IRET cannot enter virtual-8086 mode (SDM 3A 20.2). */
        what.eip = eip_of(place, code_iret);
        trap = run_code32(&what, at_data(place, flags[i].asked));
        expect_end(trap);
        ASSERT_EQ(trap->rcx & FLAGS_SEEN, expected);
        ASSERT_EQ(trap->rsp, what.esp);
        code32_end();
    }
}

/* ---- descriptors and segment registers -----------------------------------------------
 */

static void try_inspection(const struct place *place)
{
    begin(place, "LAR, LSL, VERR, VERW");
    const struct {
        uint32_t selector, rights, limit;
        bool readable, writable;
    } seen[] = {
        {describe(0x1000, 0xfffff, CODE_32 | DPL_3), 0xcffb00, UINT32_MAX, true, false},
        {describe(0x1000, 0xfff, DATA_BYTES | DPL_3), 0x40f300, 0xfff, true, true},
        {describe(0, 0xfffff, DATA_READ_ONLY), 0xcf9100, UINT32_MAX, true, false},
        {describe(0, 0x12, CODE_UNREAD), 0xc09900, 0x12fff, false, false},
    };
    for (unsigned i = 0; i < COUNT_OF(seen); i++) {
        bool is_seen = !place->is_user || seen[i].selector & 3;
        const struct trap_frame *trap = run_piece(place, code_inspect, seen[i].selector);
        expect_end(trap);
        /* SDM 2A "LAR": bits 16 to 19 are undefined. */
        ASSERT_EQ(trap->rax & 0xf0ff00, is_seen ? seen[i].rights & 0xf0ff00 : 0);
        ASSERT_EQ(trap->rcx, is_seen ? seen[i].limit : 0);
        ASSERT_EQ(code32_data[0], is_seen);
        ASSERT_EQ(code32_data[1], is_seen);
        ASSERT_EQ(code32_data[2], is_seen && seen[i].readable);
        ASSERT_EQ(code32_data[3], is_seen && seen[i].writable);
    }
    code32_end();
}

static void try_segments(const struct place *place)
{
    begin(place, "MOV from and PUSH of segment registers");
    uint32_t fs = describe(0, 0xfffff, DATA_32 | DPL_3);
    uint32_t gs = describe(0, 0, DATA_32 | DPL_3);
    set_based(fs, gs);
    struct run what = run_at(place, code_segments);
    const struct trap_frame *trap = run_code32(&what, at_data(place, 0));
    const uint64_t moved[] = {trap->rax, trap->rcx, trap->rdx,
                              trap->rsi, trap->rdi, trap->rbp};
    const uint32_t expected[] = {what.cs, what.ss, what.ds, what.es, fs, gs};
    expect_end(trap);
    for (unsigned i = 0; i < COUNT_OF(expected); i++) {
        ASSERT_EQ(moved[i], expected[i]);
        ASSERT_EQ(data32(i * 4) & 0xffff,
                  expected[i]); /* SDM 2B "PUSH": the rest may stay */
    }
    ASSERT_EQ(expected[0] & 3, place->is_user ? 3 : 0);
    code32_end();
}

static void try_loads(const struct place *place)
{
    begin(place, "MOV to, POP and LES of segment registers");
    uint32_t open = describe(0, 0xfffff, DATA_32 | DPL_3);
    uint32_t closed = describe(0, 0xfffff, DATA_32);
    uint32_t code = describe(0, 0xfffff, CODE_UNREAD | DPL_3);
    static const struct {
        const char *name;
        const char *piece, *at;
    } loads[] = {{"MOV", code_mov_es, code_mov_es},
                 {"POP ES", code_pop_es, code_pop_es_at},
                 {"POP FS", code_pop_fs, code_pop_fs_at},
                 {"LES", code_les, code_les_at}};
    for (unsigned i = 0; i < COUNT_OF(loads); i++) {
        const struct trap_frame *trap = run_piece(place, loads[i].piece, open);
        expect_end(trap);
        ASSERT_EQ(trap->rax, open);
        expect_end(run_piece(place, loads[i].piece, 0));
        ASSERT_EQ(cpu_self()->trap.rax, 0);
        expect_fault(place, loads[i].piece, loads[i].at, code, code & ~3u);
        if (place->is_user) {
            expect_fault(place, loads[i].piece, loads[i].at, closed | 3, closed);
        } else {
            expect_end(run_piece(place, loads[i].piece, closed));
            ASSERT_EQ(cpu_self()->trap.rax, closed);
        }
    }
    expect_fault(place, code_mov_ss, code_mov_ss, 0, 0);
    expect_fault(place, code_mov_ss, code_mov_ss, place->is_user ? closed : open,
                 (place->is_user ? closed : open) & ~3u);
    code32_end();
}

/* ---- transfers -----------------------------------------------------------------------
 */

static void patch_far(const char *piece, uint32_t offset, uint32_t selector)
{
    struct far_pointer pointer = {offset, (uint16_t)selector};
    memcpy(copy_of(piece) + 1, &pointer, sizeof(pointer));
}

static void try_far(const struct place *place)
{
    begin(place, "far CALL, RET and JMP to the own ring");
    uint32_t dpl = place->is_user ? DPL_3 : 0;
    uint32_t other = describe(place->code ^ 0x1000, 0xfffff, CODE_32 | dpl);
    uint32_t target = linear(copy_of(code_far_target)) - (place->code ^ 0x1000);
    uint32_t landing = linear(copy_of(code_far_landing)) - (place->code ^ 0x1000);
    struct far_pointer pointer = {target, (uint16_t)other};
    memcpy(code32_data, &pointer, sizeof(pointer));
    patch_far(code_far_call, target, other);
    patch_far(code_far_jump, landing, other);
    const char *const calls[] = {code_far_indirect, code_far_call};
    for (unsigned i = 0; i < COUNT_OF(calls); i++) {
        struct run what = run_at(place, calls[i]);
        descriptor_forget(4);
        const struct trap_frame *trap = run_code32(&what, at_data(place, 0));
        expect_end(trap);
        ASSERT_EQ(trap->rax & 0xffff, what.cs);
        ASSERT_EQ(trap->rcx, other);
        ASSERT_EQ(trap->cs, what.cs);
        ASSERT_EQ(trap->rsp, what.esp);
    }
    expect_end(run_piece(place, code_far_jump, 0));
    ASSERT_EQ(cpu_self()->trap.rcx, other);
    struct run what = run_at(place, code_far_return);
    expect_end(run_code32(&what, (struct registers){.ebx = landing, .edi = other}));
    ASSERT_EQ(cpu_self()->trap.rcx, other);
    ASSERT_EQ(cpu_self()->trap.cs, other);
    code32_end();
}

/* To a level that the code is not at: conforming is none of these. */
static void try_far_beyond(const struct place *place)
{
    begin(place, "far CALL, RET, JMP and IRET to another ring");
    uint32_t dpl = place->is_user ? 0 : DPL_3;
    uint32_t other = describe(0, 0xfffff, CODE_32 | dpl) & ~3u;
    uint32_t asked = other | (place->is_user ? 3 : 0);
    struct far_pointer pointer = {0, (uint16_t)asked};
    memcpy(code32_data, &pointer, sizeof(pointer));
    patch_far(code_far_call, 0, asked);
    patch_far(code_far_jump, 0, asked);
    expect_fault(place, code_far_indirect, code_far_indirect, 0, other);
    expect_fault(place, code_far_call, code_far_call, 0, other);
    expect_fault(place, code_far_jump, code_far_jump, 0, other);
    /* Returns go outwards, so only the program's are refused. */
    expect_fault(place, code_far_return, code_far_return_at, other, other);
    expect_fault(place, code_iret_inwards, code_iret_at, other, other);
    code32_end();
}

/* Behind the call gate, which 32-bit code enters as 64-bit code: what was pushed, then
 * back. */
uint64_t gate32_frame[4], gate32_cs, gate32_rsp;
extern char gate32_entry[];
__asm__(".text\n"
        "gate32_entry:\n"
        "mov %rsp, gate32_rsp(%rip)\n"
        "mov (%rsp), %rax\n mov %rax, gate32_frame(%rip)\n"
        "mov 8(%rsp), %rax\n mov %rax, gate32_frame+8(%rip)\n"
        "mov 16(%rsp), %rax\n mov %rax, gate32_frame+16(%rip)\n"
        "mov 24(%rsp), %rax\n mov %rax, gate32_frame+24(%rip)\n"
        "mov %cs, %eax\n mov %rax, gate32_cs(%rip)\n"
        "rex64 lret\n"
        ".previous");

static void try_gate(const struct place *place)
{
    begin(place, "far CALL through a gate: the kernel's stack, and back");
    uint32_t selector = describe(0, 0, 0);
    describe(0, 0, 0);
    uint64_t entry = (uint64_t)gate32_entry;
    uint64_t gate[2] = {(entry & 0xffff) | (uint64_t)KERNEL_CS << 16 | 0xecull << 40 |
                            (entry >> 16 & 0xffff) << 48,
                        entry >> 32};
    memcpy(descriptor_of(selector), gate, sizeof(gate));
    struct far_pointer pointer = {0xdead, (uint16_t)(selector | 3)};
    memcpy(code32_data, &pointer, sizeof(pointer));
    struct run what = run_at(place, code_gate);
    gate32_cs = 0;
    expect_end(
        run_code32(&what, (struct registers){.edi = linear(code32_data) - place->data}));
    ASSERT_EQ(gate32_cs, KERNEL_CS);
    ASSERT_EQ(gate32_frame[0], eip_of(place, code_gate_end));
    ASSERT_EQ(gate32_frame[1], what.cs);
    ASSERT_EQ(gate32_frame[2], what.esp);
    ASSERT_EQ(gate32_frame[3], what.ss);
    ASSERT_EQ(gate32_rsp, cpu_self()->tss.rsp[0] - 32);
    ASSERT_EQ(cpu_self()->trap.cs, what.cs);
    ASSERT_EQ(cpu_self()->trap.ss, what.ss);
    ASSERT_EQ(cpu_self()->trap.rsp, what.esp);
    code32_end();
}

static void try_interrupts(const struct place *place)
{
    static const struct {
        const char *piece, *at;
        uint8_t vector, length;
    } traps[] = {{code_int_n, code_int_n, VECTOR_FREE, 2},
                 {code_into, code_into_at, VECTOR_OF, 1},
                 {code_int3, code_int3, VECTOR_BP, 1}};
    begin(place, "INT n, INTO, INT3: where the gate lets them");
    for (unsigned i = 0; i < COUNT_OF(traps); i++) {
        uint8_t vector = traps[i].vector;
        uint32_t behind = eip_of(place, traps[i].at) + traps[i].length;
        trap_set_gate(vector, 0x8e, 1);
        if (place->is_user) {
            expect_fault(place, traps[i].piece, traps[i].at, 0, vector * 8u + 2);
        } else {
            run_piece(place, traps[i].piece, 0);
            ASSERT_TRAP(vector, 0, behind);
        }
        trap_set_gate(vector, 0xee, 1);
        run_piece(place, traps[i].piece, 0);
        ASSERT_TRAP(vector, 0, behind);
        trap_set_gate(vector, 0x8e, 1);
    }
    code32_end();
}

static void try_place(const struct place *place)
{
    try_tables(place);
    try_flags(place);
    try_inspection(place);
    try_segments(place);
    try_loads(place);
    try_far(place);
    try_interrupts(place);
}

void guest_test(void)
{
    static const struct place places[] = {
        {"flat, CPL 0", 0, 0, 0, 0, false},
        {"flat, CPL 3", 0, 0, 0, 0, true},
        {"bases, CPL 0", 0x10123, 0x20456, 0x30abc, 0x1000, false},
        {"bases, CPL 3", 0x10123, 0x20456, 0x30abc, 0x1000, true},
    };
    code32_prepare();
    for (unsigned i = 0; i < COUNT_OF(places); i++) {
        for (unsigned twice = 0; twice < 2; twice++) {
            try_place(&places[i]);
            if (places[i].is_user) {
                try_far_beyond(&places[i]);
                try_gate(&places[i]);
            }
        }
    }
}
