#include "compare.h"

#include <stddef.h>
#include <string.h>

#include "form.h"
#include "host.h"
#include "undefined.h"
#include "x86/flags.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                          "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                          "r12", "r13", "r14", "r15"};

static bool has_open_order;

void compare_init(enum cpu_vendor vendor)
{
    has_open_order = vendor == CPU_VENDOR_AMD;
}

/* ---- Equality ---- */

/* The host's kernel adds P to faults beyond a program's part of the address space, which
 * ends a page before the upper half (no table of it is shown to programs). */
static uint32_t visible_error(const struct isa_result *result)
{
    bool is_upper =
        result->exception == X86_PF && result->address >= (1ull << 47) - ISA_PAGE;

    return is_upper ? result->error | X86_PF_P : result->error;
}

/* Not FOP, FIP and FDP: APM 2 11.4.4: XSAVE, by which the host's kernel shows them, need
 * not save them while no exception is pending. */
static bool has_equal_x87(const struct isa_vector *a, const struct isa_vector *b)
{
    for (unsigned i = 0; i < 8; i++) {
        if (memcmp(a->fx.st[i], b->fx.st[i], 10) != 0) {
            return false;
        }
    }
    return a->fx.fcw == b->fx.fcw && a->fx.fsw == b->fx.fsw && a->fx.ftw == b->fx.ftw;
}

static bool has_equal_vectors(const struct isa_vector *a, const struct isa_vector *b)
{
    return a->fx.mxcsr == b->fx.mxcsr &&
           memcmp(a->fx.xmm, b->fx.xmm, sizeof(a->fx.xmm)) == 0 &&
           memcmp(a->ymm_high, b->ymm_high, sizeof(a->ymm_high)) == 0;
}

/* A page fault on such an operand: its address and error code may be another byte's. */
static bool is_image_fault(const struct isa_case *test, const struct isa_result *native,
                           const struct isa_result *ours)
{
    return native->exception == X86_PF && ours->exception == X86_PF &&
           compare_has_image(test) &&
           (uint16_t)(native->address - ours->address + 512) < 1024;
}

/* What lies beyond the segment, or is not canonical. */
static bool is_limit_fault(const struct isa_result *result)
{
    return result->exception == X86_GP || result->exception == X86_SS_FAULT;
}

/* A page fault of a masked move: SDM 2B "MASKMOVDQU", 2C "VMASKMOV" do not tell which of
 * its bytes' addresses is reported, nor, with a mask of zeros, whether there is a fault.
 */
static bool is_masked_fault(const struct isa_case *test, const struct isa_result *native,
                            const struct isa_result *ours)
{
    if (!compare_has_masked_move(test)) {
        return false;
    }
    if (is_limit_fault(native) || is_limit_fault(ours)) {
        return native->exception == X86_PF || ours->exception == X86_PF;
    }
    return native->exception == X86_PF && ours->exception == X86_PF &&
           (uint16_t)(native->address - ours->address + 32) < 64;
}

/* A far transfer reads or writes several words and checks descriptors: which of several
 * faults comes first is the processor's choice (SDM 3A 6.9, the last class of table 6-2).
 */
static bool is_far_fault(const struct isa_case *test, const struct isa_result *native,
                         const struct isa_result *ours)
{
    const uint32_t faults =
        1u << X86_NP | 1u << X86_SS_FAULT | 1u << X86_GP | 1u << X86_PF;

    return faults >> native->exception & 1 && faults >> ours->exception & 1 &&
           compare_has_far_transfer(test);
}

/* An operand that goes beyond its segment's limit and is misaligned, or not mapped, has
 * two faults, whose order SDM 3A table 6-2 leaves open. */
static bool has_two_faults(const struct isa_case *test, const struct isa_result *native,
                           const struct isa_result *ours)
{
    const uint64_t last = 0xffffff00;
    uint64_t wrapped = compare_has_image(test) ? 512 : 0; /* the bytes behind the end */
    /* Of an image in several accesses one may find no page, and another the limit. */
    if (test->bits == 16 && compare_has_image(test) &&
        (is_limit_fault(native) || is_limit_fault(ours)) &&
        (native->exception == X86_PF || ours->exception == X86_PF)) {
        return true;
    }
    bool is_unmapped = (native->exception == X86_PF &&
                        (native->address >= last || native->address < wrapped)) ||
                       (ours->exception == X86_PF && ours->address >= last);
    return (is_limit_fault(native) || is_limit_fault(ours)) &&
           (is_unmapped ||
            (native->exception == X86_GP && ours->exception == X86_SS_FAULT));
}

static bool has_equal_fault(const struct isa_case *test, const struct isa_result *native,
                            const struct isa_result *ours)
{
    if (has_open_order &&
        ((test->bits != 64 && has_two_faults(test, native, ours)) ||
         is_image_fault(test, native, ours) || is_masked_fault(test, native, ours) ||
         is_far_fault(test, native, ours))) {
        return true;
    }
    if (native->exception != ours->exception) {
        return false;
    }
    return visible_error(native) == visible_error(ours) &&
           (native->exception != X86_PF || native->address == ours->address);
}

/* Null selectors are equal: the RPL of one is lost when the host interrupts the case (SDM
 * 2A "IRET", return to an outer level). */
static bool is_equal_selector(uint16_t a, uint16_t b)
{
    return a == b || (a < 4 && b < 4);
}

/* Selectors, and the bases of FS and GS where programs see them. */
static bool has_equal_segments(const struct isa_result *a, const struct isa_result *b)
{
    for (unsigned i = 0; i < ISA_SEGMENTS; i++) {
        if (!is_equal_selector(a->selector[i], b->selector[i])) {
            return false;
        }
    }
    return !host_shows_bases() || (a->fs_base == b->fs_base && a->gs_base == b->gs_base);
}

/* The upper halves are undefined after a change from 64-bit mode to compatibility mode
 * (SDM 1 3.4.1.1). */
static uint64_t defined_bits(const struct isa_case *test, const struct isa_result *native)
{
    bool has_changed = test->bits == 64 && native->selector[ISA_CS] == ISA_CODE32;

    return has_changed ? UINT32_MAX : UINT64_MAX;
}

static bool has_equal_registers(const struct isa_case *test, const struct isa_result *a,
                                const struct isa_result *b)
{
    uint64_t mask = defined_bits(test, a);

    for (unsigned i = 0; i < 16; i++) {
        if ((a->gpr[i] ^ b->gpr[i]) & mask) {
            return false;
        }
    }
    return true;
}

/* Flags that differ and are defined. */
static uint64_t different_flags(const struct isa_case *test,
                                const struct compare_side *native,
                                const struct compare_side *ours)
{
    uint64_t flags = native->result->flags ^ ours->result->flags;

    return flags ? flags & ~(uint64_t)undefined_at(test, isa_linear_rip(native->result))
                 : 0;
}

bool compare_equal(const struct isa_case *test, const struct compare_side *native_side,
                   const struct compare_side *our_side)
{
    const struct isa_result *native = native_side->result, *ours = our_side->result;

    if (native->end != ISA_EXCEPTION || native->end != ours->end) {
        return native->end == ours->end;
    }
    return has_equal_fault(test, native, ours) && native->rip == ours->rip &&
           !different_flags(test, native_side, our_side) &&
           memcmp(native_side->memory, our_side->memory, ISA_MEMORY_SIZE) == 0 &&
           has_equal_registers(test, native, ours) && has_equal_segments(native, ours) &&
           has_equal_x87(&native->vector, &ours->vector) &&
           has_equal_vectors(&native->vector, &ours->vector);
}

bool compare_is_void(const struct isa_case *test, const struct isa_result *native)
{
    /* SDM 2C "VPGATHERDD/VPGATHERDQ": a trap may come between two elements. (The
     * generator sets no TF before a gather, but POPF may.) */
    bool is_between = native->end == ISA_EXCEPTION && native->exception == X86_DB &&
                      compare_has_gather(test);
    /* The alignments that are checked were measured on Intel's processors. */
    bool is_alignment = has_open_order && native->end == ISA_EXCEPTION &&
                        native->exception == X86_AC_FAULT;

    return native->end == ISA_SYSCALL || native->end == ISA_DIED ||
           native->end == ISA_NOT_RUN || is_alignment || is_between;
}

/* ---- Printing ---- */

static void print_code(FILE *out, const struct isa_case *test)
{
    ZydisFormatter formatter;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    unsigned at = 0;

    ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    while (at < test->code_length) {
        char text[128] = "(undefined)";
        unsigned length = test->code_length - at;
        uint64_t rip = ISA_CODE + test->code_offset + at;

        if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(test->bits), test->code + at,
                                                length, &decoded, operand))) {
            length = decoded.length;
            ZydisFormatterFormatInstruction(&formatter, &decoded, operand,
                                            decoded.operand_count_visible, text,
                                            sizeof(text), rip, NULL);
        }
        fprintf(out, "  %#lx:", rip);
        for (unsigned i = 0; i < length; i++) {
            fprintf(out, " %02x", test->code[at + i]);
        }
        fprintf(out, "   %s\n", text);
        at += length;
    }
}

uint64_t compare_kind(const struct isa_case *test)
{
    ZydisDecodedInstruction decoded;
    uint64_t kind = test->bits;

    for (unsigned at = 0; at < test->code_length; at += decoded.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                form_decoder(test->bits), NULL, test->code + at, test->code_length - at,
                &decoded))) {
            break;
        }
        kind = (kind ^ (uint64_t)decoded.mnemonic) * 0x9e3779b97f4a7c15ull;
    }
    return kind;
}

void compare_print_case(FILE *out, const struct isa_case *test)
{
    print_code(out, test);
    for (unsigned i = 0; i < 16; i++) {
        fprintf(out, "  %s=%016lx%s", gpr_names[i], test->gpr[i], i % 4 == 3 ? "\n" : "");
    }
    fprintf(out, "  flags=%x mxcsr=%x fcw=%x fsw=%x ftw=%x vectors=%#lx image=%u%s%s%s\n",
            test->flags, test->mxcsr, test->fcw, test->fsw, test->ftw, test->vector_seed,
            test->image,
            test->bits == 64   ? ""
            : test->bits == 32 ? " compat"
                               : " 16-bit",
            test->is_stepped ? " stepped" : "", test->is_high ? " high" : "");
}

static void print_value(FILE *out, const char *name, uint64_t native, uint64_t ours)
{
    if (native != ours) {
        fprintf(out, "  %-8s processor %#lx, ours %#lx\n", name, native, ours);
    }
}

static void print_bytes(FILE *out, const char *name, unsigned number,
                        const uint8_t *native, const uint8_t *ours, unsigned size)
{
    if (memcmp(native, ours, size) == 0) {
        return;
    }
    fprintf(out, "  %s%u processor ", name, number);
    for (unsigned i = size; i-- > 0;) {
        fprintf(out, "%02x", native[i]);
    }
    fprintf(out, ", ours ");
    for (unsigned i = size; i-- > 0;) {
        fprintf(out, "%02x", ours[i]);
    }
    fprintf(out, "\n");
}

static void print_memory(FILE *out, const uint8_t *native, const uint8_t *ours)
{
    static const uint64_t starts[ISA_MEMORY_PAGES] = {
        ISA_CODE + ISA_FIXED_CODE * ISA_PAGE, ISA_DATA, ISA_DATA + ISA_PAGE,
        ISA_DATA + 2 * ISA_PAGE, ISA_STACK};
    unsigned shown = 0;

    for (unsigned i = 0; i < ISA_MEMORY_SIZE && shown < 16; i++) {
        if (native[i] != ours[i]) {
            fprintf(out, "  [%#lx] processor %02x, ours %02x\n",
                    starts[i / ISA_PAGE] + i % ISA_PAGE, native[i], ours[i]);
            shown++;
        }
    }
}

static void print_segments(FILE *out, const struct isa_result *native,
                           const struct isa_result *ours)
{
    static const char *const names[ISA_SEGMENTS] = {"es", "cs", "ss", "ds", "fs", "gs"};

    for (unsigned i = 0; i < ISA_SEGMENTS; i++) {
        print_value(out, names[i], native->selector[i], ours->selector[i]);
    }
    if (host_shows_bases()) {
        print_value(out, "fs base", native->fs_base, ours->fs_base);
        print_value(out, "gs base", native->gs_base, ours->gs_base);
    }
}

static void print_registers(FILE *out, const struct isa_case *test,
                            const struct compare_side *native_side,
                            const struct compare_side *our_side)
{
    const struct isa_result *native = native_side->result, *ours = our_side->result;

    print_value(out, "vector", native->exception, ours->exception);
    print_value(out, "error", visible_error(native), visible_error(ours));
    if (native->exception == X86_PF) {
        print_value(out, "address", native->address, ours->address);
    }
    print_value(out, "rip", native->rip, ours->rip);
    uint64_t defined = defined_bits(test, native);
    uint64_t compared = ~(uint64_t)undefined_at(test, isa_linear_rip(native));
    print_value(out, "flags", native->flags & compared, ours->flags & compared);
    for (unsigned i = 0; i < 16; i++) {
        print_value(out, gpr_names[i], native->gpr[i] & defined, ours->gpr[i] & defined);
    }
    print_segments(out, native, ours);
}

void compare_print(FILE *out, const struct isa_case *test,
                   const struct compare_side *native_side,
                   const struct compare_side *our_side)
{
    const struct isa_result *native = native_side->result, *ours = our_side->result;
    const struct isa_vector *a = &native->vector, *b = &ours->vector;

    print_value(out, "end", native->end, ours->end);
    if (native->end != ISA_EXCEPTION || ours->end != ISA_EXCEPTION) {
        return;
    }
    print_registers(out, test, native_side, our_side);
    print_value(out, "mxcsr", a->fx.mxcsr, b->fx.mxcsr);
    print_value(out, "fcw", a->fx.fcw, b->fx.fcw);
    print_value(out, "fsw", a->fx.fsw, b->fx.fsw);
    print_value(out, "ftw", a->fx.ftw, b->fx.ftw);
    for (unsigned i = 0; i < 8; i++) {
        print_bytes(out, "st", i, a->fx.st[i], b->fx.st[i], 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        print_bytes(out, "xmm", i, a->fx.xmm[i], b->fx.xmm[i], 16);
        print_bytes(out, "upper ymm", i, a->ymm_high[i], b->ymm_high[i], 16);
    }
    print_memory(out, native_side->memory, our_side->memory);
}

void compare_print_entry(FILE *out, const struct isa_case *test)
{
    fprintf(out,
            "    {.bits = %u, .code_offset = %#x, .code_length = %u,\n     .code = {",
            test->bits, test->code_offset, test->code_length);
    for (unsigned i = 0; i < test->code_length; i++) {
        fprintf(out, "%s0x%02x", i ? ", " : "", test->code[i]);
    }
    fprintf(out, "},\n     .gpr = {");
    for (unsigned i = 0; i < 16; i++) {
        if (test->gpr[i]) {
            fprintf(out, "[%u] = %#lx, ", i, test->gpr[i]);
        }
    }
    fprintf(out,
            "},\n     .flags = %#x, .mxcsr = %#x, .fcw = %#x, .fsw = %#x, .ftw = %#x,\n"
            "     .vector_seed = %#lx, .image = %u, .is_stepped = %d, .is_high = %d},\n",
            test->flags, test->mxcsr, test->fcw, test->fsw, test->ftw, test->vector_seed,
            test->image, test->is_stepped, test->is_high);
}
