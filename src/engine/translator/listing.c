#include "engine/translator/listing.h"

#include <inttypes.h>
#include <string.h>

#include "base/scope.h"
#include "interpreter/cpu.h"

#define LINE_SIZE   160
#define GUEST_WIDTH 56

/* Fields of the frame (fs) and of the view (gs) that host code names by their offsets. */
struct field {
    int32_t offset;
    const char *name;
};

#define FRAME_FIELD(field, name)             \
    {                                        \
        offsetof(struct frame, field), name, \
    }
static const struct field frame_fields[] = {
    FRAME_FIELD(gpr[8], "r8"),
    FRAME_FIELD(gpr[9], "r9"),
    FRAME_FIELD(gpr[10], "r10"),
    FRAME_FIELD(gpr[11], "r11"),
    FRAME_FIELD(code_base, "code_base"),
    FRAME_FIELD(fs_base, "fs_base"),
    FRAME_FIELD(gs_base, "gs_base"),
    FRAME_FIELD(budget, "budget"),
    FRAME_FIELD(arith, "arith"),
    FRAME_FIELD(status[STATUS_FPU], "status: fpu"),
    FRAME_FIELD(status[STATUS_ATTENTION], "status: attention"),
    FRAME_FIELD(poll, "poll"),
    FRAME_FIELD(status[STATUS_VECTOR], "status: vector"),
    FRAME_FIELD(status[STATUS_ZERO], "status: fpu, vector"),
    FRAME_FIELD(host_rsp, "host_rsp"),
    FRAME_FIELD(stack_base, "stack_base"),
    FRAME_FIELD(level_base[0], "kernel's return stack"),
    FRAME_FIELD(level_base[1], "user's return stack"),
    FRAME_FIELD(user_rsp, "user_rsp"),
    FRAME_FIELD(level_view[0], "kernel's view"),
    FRAME_FIELD(level_view[1], "user's view"),
    FRAME_FIELD(view_ac, "view with AC"),
    FRAME_FIELD(view, "view"),
    FRAME_FIELD(has_levels, "has_levels"),
    FRAME_FIELD(moved, "moved"),
    FRAME_FIELD(target, "target"),
    FRAME_FIELD(exit_value, "exit_value"),
    FRAME_FIELD(scratch, "scratch"),
    FRAME_FIELD(spill[0], "spill"),
    FRAME_FIELD(spill[1], "spill"),
    FRAME_FIELD(spill[2], "spill"),
    FRAME_FIELD(group_base, "group_base"),
    FRAME_FIELD(group_frame, "group_frame"),
    FRAME_FIELD(exit_info, "exit_info"),
    FRAME_FIELD(last_branch, "last_branch"),
    FRAME_FIELD(cpu, "cpu"),
};

static const struct field area_fields[] = {
    {offsetof(struct tlb_entry, read), "tlb read"},
    {offsetof(struct tlb_entry, write), "tlb write"},
    {offsetof(struct tlb_entry, host), "tlb host"},
    {offsetof(struct tlb_entry, frame), "tlb frame"},
    {offsetof(struct tlb_area, stack.read), "stack read"},
    {offsetof(struct tlb_area, stack.write), "stack write"},
    {offsetof(struct tlb_area, stack.host), "stack host"},
};

static const char *field_name(const struct field *fields, size_t count, int64_t offset)
{
    for (size_t i = 0; i < count; i++) {
        if (fields[i].offset == offset) {
            return fields[i].name;
        }
    }
    return NULL;
}

static const char *operand_note(const ZydisDecodedOperand *operand)
{
    if (operand->type != ZYDIS_OPERAND_TYPE_MEMORY) {
        return NULL;
    }
    int64_t displacement = operand->mem.disp.value;
    if (operand->mem.segment == ZYDIS_REGISTER_FS) {
        return field_name(frame_fields, array_size(frame_fields),
                          displacement - frame_offset(0));
    }
    const int64_t jumps = offsetof(struct tlb_area, jump);
    if (operand->mem.segment == ZYDIS_REGISTER_GS && displacement >= jumps &&
        displacement < jumps + (int64_t)sizeof(((struct tlb_area *)0)->jump)) {
        size_t part = (size_t)(displacement - jumps) % sizeof(struct tlb_jump);
        return part == offsetof(struct tlb_jump, tag) ? "jump tag" : "jump target";
    }
    if (operand->mem.segment == ZYDIS_REGISTER_GS) {
        return field_name(area_fields, array_size(area_fields), displacement);
    }
    return NULL;
}

/* Where a jump leads that is none of the guest's. */
static const char *target_note(const struct code_cache *cache, uint64_t target)
{
    static const char *const reasons[LEAVE_COUNT] = {
        [LEAVE_HEAD] = "leave: head",           [LEAVE_LINK] = "leave: not linked",
        [LEAVE_JUMP] = "leave: jump",           [LEAVE_TARGET] = "leave: jump asked",
        [LEAVE_READ] = "leave: read missed",    [LEAVE_WRITE] = "leave: write missed",
        [LEAVE_INTERPRET] = "leave: interpret", [LEAVE_QUICK] = "leave: quick",
        [LEAVE_PLAIN] = "leave: plain variant", [LEAVE_WATCHED] = "leave: watched store",
    };
    for (unsigned i = 0; i < LEAVE_COUNT; i++) {
        if (target == cache->leave[i][0] || target == cache->leave[i][1]) {
            return reasons[i];
        }
    }
    for (unsigned i = 0; i < 2; i++) {
        if (target == cache->miss[i][0] || target == cache->miss[i][1]) {
            return reasons[i ? LEAVE_WRITE : LEAVE_READ];
        }
        if (target == cache->watch[i]) {
            return reasons[LEAVE_WATCHED];
        }
    }
    for (unsigned kind = 0; kind < array_size(cache->stack); kind++) {
        if (target == cache->stack[kind]) {
            return "another page of the stack";
        }
    }
    for (unsigned kind = 0; kind < JUMP_KINDS; kind++) {
        if (target == cache->jump[kind]) {
            return "look up r8";
        }
    }
    return NULL;
}

struct printer {
    FILE *out;
    const struct code_cache *cache;
    ZydisDecoder decoder; /* of host code */
    ZydisFormatter formatter;
};

/* One instruction of either side; its length, 0 if there is none. */
static unsigned format(const struct printer *printer, const ZydisDecoder *decoder,
                       const uint8_t *bytes, size_t size, uint64_t address,
                       char text[LINE_SIZE])
{
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operand[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(decoder, bytes, size, &decoded, operand)) ||
        !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(
            &printer->formatter, &decoded, operand, decoded.operand_count_visible, text,
            LINE_SIZE, address, NULL))) {
        snprintf(text, LINE_SIZE, "(undefined)");
        return 0;
    }
    if (decoder != &printer->decoder) {
        return decoded.length;
    }
    const char *note = NULL;
    for (unsigned i = 0; i < decoded.operand_count_visible && !note; i++) {
        ZyanU64 target;
        note = operand_note(&operand[i]);
        if (operand[i].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
            operand[i].imm.is_relative &&
            ZYAN_SUCCESS(
                ZydisCalcAbsoluteAddress(&decoded, &operand[i], address, &target))) {
            note = target_note(printer->cache, target);
        }
    }
    size_t length = strlen(text);
    if (note) {
        snprintf(text + length, LINE_SIZE - length, "  ; %s", note);
    }
    return decoded.length;
}

/* The host code [start, end) beside one line of the guest's. */
static void print_rows(const struct printer *printer, const char *guest, uint32_t start,
                       uint32_t end)
{
    if (start == end) {
        fprintf(printer->out, "  %-*s |\n", GUEST_WIDTH, guest);
    }
    while (start < end) {
        char text[LINE_SIZE];
        unsigned length = format(printer, &printer->decoder,
                                 printer->cache->write + start, end - start, start, text);
        fprintf(printer->out, "  %-*s | %07" PRIx32 "  %s\n", GUEST_WIDTH, guest, start,
                text);
        start += length ? length : end - start;
        guest = "";
    }
}

static void print_guest(const struct printer *printer, const struct block *block,
                        unsigned ordinal, uint32_t end)
{
    const struct block_insn *insn = &block->insn[ordinal];
    const struct code_cache *cache = printer->cache;
    uint64_t address = look_address(block, ordinal);
    char text[LINE_SIZE], line[LINE_SIZE + 24];
    /* What the guest has there now: it may just be storing something else. */
    uint8_t bytes[INSN_BYTES_MAX];
    code_read(cache, &block->place, insn->offset, bytes);
    format(printer, code_decoder(cache, block->place.mode), bytes, insn->length, address,
           text);
    snprintf(line, sizeof(line), "%" PRIx64 "  %s", address, text);
    print_rows(printer, line, block_host(block, ordinal), end);
}

static void init_formatter(ZydisFormatter *formatter)
{
    static const ZydisFormatterProperty paddings[] = {
        ZYDIS_FORMATTER_PROP_ADDR_PADDING_ABSOLUTE,
        ZYDIS_FORMATTER_PROP_ADDR_PADDING_RELATIVE,
        ZYDIS_FORMATTER_PROP_DISP_PADDING,
        ZYDIS_FORMATTER_PROP_IMM_PADDING,
    };
    ZydisFormatterInit(formatter, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(formatter, ZYDIS_FORMATTER_PROP_HEX_UPPERCASE, ZYAN_FALSE);
    for (unsigned i = 0; i < array_size(paddings); i++) {
        ZydisFormatterSetProperty(formatter, paddings[i], ZYDIS_PADDING_DISABLED);
    }
}

void listing_block(FILE *out, const struct look *look, const struct code_cache *cache,
                   const struct block *block)
{
    struct printer printer = {.out = out, .cache = cache};
    ZydisDecoderInit(&printer.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    init_formatter(&printer.formatter);
    char name[LOOK_NAME_SIZE];
    look_name(look, block, name);
    const struct block_insn *last = &block->insn[block->count - 1];
    fprintf(out,
            "block %" PRIu32 " %s: frame %#" PRIx32
            ", %s%s%s%s, %u instructions, %u guest "
            "bytes, %" PRIu32 " host bytes\n",
            block->number, name, block->place.frame,
            block->place.mode & MODE_USER ? "user" : "kernel",
            block->place.mode & MODE_32 ? ", 32 bits" : "",
            block->needs_avx ? ", AVX" : "", block->round ? ", unrolled loop" : "",
            block->count, last->offset + last->length - block->place.offset,
            block->end - block_start(block));
    print_rows(&printer, "(head)", block_start(block), block_host(block, 0));
    for (unsigned i = 0; i < block->count; i++) {
        uint32_t end = i + 1u < block->count ? block_host(block, i + 1) : block->cold;
        print_guest(&printer, block, i, end);
    }
    print_rows(&printer, "(behind)", block->cold, block->end);
    fputc('\n', out);
}
