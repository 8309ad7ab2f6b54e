#include "compare.h"

#include <stddef.h>
#include <string.h>

#include "form.h"
#include "x86/flags.h"

static const char *const gpr_names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp",
                                          "rsi", "rdi", "r8",  "r9",  "r10", "r11",
                                          "r12", "r13", "r14", "r15"};

/* ---- Equality ---- */

/* The host's kernel adds P to faults beyond a program's part of the address space, which
 * ends a page before the upper half (no table of it is shown to programs). */
static uint32_t visible_error(const struct isa_result *result)
{
    bool is_upper =
        result->vector == X86_PF && result->address >= (1ull << 47) - ISA_PAGE;

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
    return native->vector == X86_PF && ours->vector == X86_PF &&
           compare_has_image(test) && native->address - ours->address + 512 < 1024;
}

/* An operand that goes beyond its segment's limit and is misaligned, or not mapped, has
 * two faults, whose order SDM 3A table 6-2 leaves open. */
static bool has_two_faults(const struct isa_case *test, const struct isa_result *native,
                           const struct isa_result *ours)
{
    const uint64_t last = 0xffffff00;
    uint64_t wrapped = compare_has_image(test) ? 512 : 0; /* the bytes behind the end */
    bool is_unmapped = (native->vector == X86_PF &&
                        (native->address >= last || native->address < wrapped)) ||
                       (ours->vector == X86_PF && ours->address >= last);
    bool is_limit = native->vector == X86_GP || ours->vector == X86_GP ||
                    native->vector == X86_SS_FAULT || ours->vector == X86_SS_FAULT;

    return is_limit &&
           (is_unmapped || (native->vector == X86_GP && ours->vector == X86_SS_FAULT));
}

static bool has_equal_fault(const struct isa_case *test, const struct isa_result *native,
                            const struct isa_result *ours)
{
    if (test->bits == 32 && has_two_faults(test, native, ours)) {
        return true;
    }
    if (native->vector != ours->vector || is_image_fault(test, native, ours)) {
        return native->vector == ours->vector;
    }
    return visible_error(native) == visible_error(ours) &&
           (native->vector != X86_PF || native->address == ours->address);
}

bool compare_equal(const struct isa_case *test, const struct isa_result *native,
                   const struct isa_result *ours)
{
    uint64_t undefined = compare_undefined_flags(test);

    if (native->end != ISA_EXCEPTION || native->end != ours->end) {
        return native->end == ours->end;
    }
    return has_equal_fault(test, native, ours) && native->rip == ours->rip &&
           !((native->flags ^ ours->flags) & ~undefined) &&
           native->memory == ours->memory &&
           memcmp(native->gpr, ours->gpr, sizeof(native->gpr)) == 0 &&
           has_equal_x87(&native->state, &ours->state) &&
           has_equal_vectors(&native->state, &ours->state);
}

bool compare_is_void(const struct isa_result *native)
{
    /* Alignment checks are not part of the processor yet. */
    bool is_alignment = native->end == ISA_EXCEPTION && native->vector == X86_AC_FAULT;

    return native->end == ISA_SYSCALL || native->end == ISA_DIED ||
           native->end == ISA_NOT_RUN || is_alignment;
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

void compare_print_case(FILE *out, const struct isa_case *test)
{
    print_code(out, test);
    for (unsigned i = 0; i < 16; i++) {
        fprintf(out, "  %s=%016lx%s", gpr_names[i], test->gpr[i], i % 4 == 3 ? "\n" : "");
    }
    fprintf(out, "  flags=%x mxcsr=%x fcw=%x fsw=%x ftw=%x vectors=%#lx image=%u%s%s\n",
            test->flags, test->mxcsr, test->fcw, test->fsw, test->ftw, test->vector_seed,
            test->image, test->bits == 32 ? " compat" : "",
            test->is_stepped ? " stepped" : "");
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
    unsigned shown = 0;

    for (unsigned i = 0; i < ISA_MEMORY_SIZE && shown < 16; i++) {
        if (native[i] != ours[i]) {
            uint64_t address = i < ISA_DATA_PAGES * ISA_PAGE
                                   ? ISA_DATA + i
                                   : ISA_STACK + i - ISA_DATA_PAGES * ISA_PAGE;
            fprintf(out, "  [%#lx] processor %02x, ours %02x\n", address, native[i],
                    ours[i]);
            shown++;
        }
    }
}

void compare_print(FILE *out, const struct isa_case *test,
                   const struct isa_result *native, const struct isa_result *ours,
                   const uint8_t *native_memory, const uint8_t *our_memory)
{
    const struct isa_vector *a = &native->state, *b = &ours->state;

    print_value(out, "end", native->end, ours->end);
    if (native->end != ISA_EXCEPTION || ours->end != ISA_EXCEPTION) {
        return;
    }
    print_value(out, "vector", native->vector, ours->vector);
    print_value(out, "error", visible_error(native), visible_error(ours));
    if (native->vector == X86_PF) {
        print_value(out, "address", native->address, ours->address);
    }
    print_value(out, "rip", native->rip, ours->rip);
    print_value(out, "flags", native->flags & ~(uint64_t)compare_undefined_flags(test),
                ours->flags & ~(uint64_t)compare_undefined_flags(test));
    for (unsigned i = 0; i < 16; i++) {
        print_value(out, gpr_names[i], native->gpr[i], ours->gpr[i]);
    }
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
    if (native_memory && native->memory != ours->memory) {
        print_memory(out, native_memory, our_memory);
    }
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
            "     .vector_seed = %#lx, .image = %u, .is_stepped = %d},\n",
            test->flags, test->mxcsr, test->fcw, test->fsw, test->ftw, test->vector_seed,
            test->image, test->is_stepped);
}
