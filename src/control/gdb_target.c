#include "control/gdb_target.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "allocator/virtual.h"

/* Where a register's value lives. */
enum place {
    PLACE_GPR,     /* index: enum x86_gpr */
    PLACE_STATE64, /* index: offset in struct x86_state */
    PLACE_FLAGS,
    PLACE_SELECTOR, /* index: enum x86_segment_register */
    PLACE_BASE,     /* likewise */
    PLACE_ST,
    PLACE_FPU, /* index: enum fpu_field */
    PLACE_XMM,
    PLACE_YMM_HIGH,
    PLACE_MXCSR,
    PLACE_CR8,
};

enum fpu_field { FCTRL, FSTAT, FTAG, FISEG, FIOFF, FOSEG, FOOFF, FOP };

struct gdb_register {
    const char *name;
    const char *type;
    enum place place;
    uint32_t index;
    uint16_t bits;
};

struct feature {
    const char *name;
    const char *preamble; /* type definitions */
    unsigned first;       /* of its registers; they go up to the next feature's */
};

#define GPR(name, reg)                    \
    {                                     \
        name, "int64", PLACE_GPR, reg, 64 \
    }
#define SELECTOR(name, reg)                    \
    {                                          \
        name, "int32", PLACE_SELECTOR, reg, 32 \
    }
#define ST(n)                                \
    {                                        \
        "st" #n, "i387_ext", PLACE_ST, n, 80 \
    }
#define FPU(name, field)                  \
    {                                     \
        name, "int", PLACE_FPU, field, 32 \
    }
#define XMM(n)                                \
    {                                         \
        "xmm" #n, "vec128", PLACE_XMM, n, 128 \
    }
#define YMMH(n)                                         \
    {                                                   \
        "ymm" #n "h", "uint128", PLACE_YMM_HIGH, n, 128 \
    }
#define SYSTEM(name, member)                                                 \
    {                                                                        \
        name, "int64", PLACE_STATE64, offsetof(struct x86_state, member), 64 \
    }

/* In the order that GDB's own features prescribe. */
static const struct gdb_register registers[] = {
    GPR("rax", X86_RAX),
    GPR("rbx", X86_RBX),
    GPR("rcx", X86_RCX),
    GPR("rdx", X86_RDX),
    GPR("rsi", X86_RSI),
    GPR("rdi", X86_RDI),
    GPR("rbp", X86_RBP),
    GPR("rsp", X86_RSP),
    GPR("r8", X86_R8),
    GPR("r9", X86_R9),
    GPR("r10", X86_R10),
    GPR("r11", X86_R11),
    GPR("r12", X86_R12),
    GPR("r13", X86_R13),
    GPR("r14", X86_R14),
    GPR("r15", X86_R15),
    {"rip", "code_ptr", PLACE_STATE64, offsetof(struct x86_state, rip), 64},
    {"eflags", "i386_eflags", PLACE_FLAGS, 0, 32},
    SELECTOR("cs", X86_CS),
    SELECTOR("ss", X86_SS),
    SELECTOR("ds", X86_DS),
    SELECTOR("es", X86_ES),
    SELECTOR("fs", X86_FS),
    SELECTOR("gs", X86_GS),
    ST(0),
    ST(1),
    ST(2),
    ST(3),
    ST(4),
    ST(5),
    ST(6),
    ST(7),
    FPU("fctrl", FCTRL),
    FPU("fstat", FSTAT),
    FPU("ftag", FTAG),
    FPU("fiseg", FISEG),
    FPU("fioff", FIOFF),
    FPU("foseg", FOSEG),
    FPU("fooff", FOOFF),
    FPU("fop", FOP),
#define CORE_END 40
    XMM(0),
    XMM(1),
    XMM(2),
    XMM(3),
    XMM(4),
    XMM(5),
    XMM(6),
    XMM(7),
    XMM(8),
    XMM(9),
    XMM(10),
    XMM(11),
    XMM(12),
    XMM(13),
    XMM(14),
    XMM(15),
    {"mxcsr", "i386_mxcsr", PLACE_MXCSR, 0, 32},
#define SSE_END (CORE_END + 17)
    YMMH(0),
    YMMH(1),
    YMMH(2),
    YMMH(3),
    YMMH(4),
    YMMH(5),
    YMMH(6),
    YMMH(7),
    YMMH(8),
    YMMH(9),
    YMMH(10),
    YMMH(11),
    YMMH(12),
    YMMH(13),
    YMMH(14),
    YMMH(15),
#define AVX_END (SSE_END + 16)
    {"fs_base", "int64", PLACE_BASE, X86_FS, 64},
    {"gs_base", "int64", PLACE_BASE, X86_GS, 64},
#define SEGMENTS_END (AVX_END + 2)
    SYSTEM("k_gs_base", kernel_gs_base),
    SYSTEM("cr0", cr0),
    SYSTEM("cr2", cr2),
    SYSTEM("cr3", cr3),
    SYSTEM("cr4", cr4),
    {"cr8", "int64", PLACE_CR8, 0, 64},
    SYSTEM("efer", efer),
};

#define REGISTER_COUNT (sizeof(registers) / sizeof(registers[0]))

static const char flags_type[] =
    "<flags id=\"i386_eflags\" size=\"4\">"
    "<field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"\" start=\"1\" end=\"1\"/>"
    "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"AF\" start=\"4\" end=\"4\"/>"
    "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" start=\"7\" end=\"7\"/>"
    "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/>"
    "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"OF\" start=\"11\" "
    "end=\"11\"/>"
    "<field name=\"NT\" start=\"14\" end=\"14\"/><field name=\"RF\" start=\"16\" "
    "end=\"16\"/>"
    "<field name=\"VM\" start=\"17\" end=\"17\"/><field name=\"AC\" start=\"18\" "
    "end=\"18\"/>"
    "<field name=\"VIF\" start=\"19\" end=\"19\"/><field name=\"VIP\" start=\"20\" "
    "end=\"20\"/>"
    "<field name=\"ID\" start=\"21\" end=\"21\"/></flags>";

static const char vector_types[] =
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>"
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>"
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>"
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/>"
    "<field name=\"v2_double\" type=\"v2d\"/><field name=\"v16_int8\" type=\"v16i8\"/>"
    "<field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" type=\"v4i32\"/>"
    "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/>"
    "</union><flags id=\"i386_mxcsr\" size=\"4\"><field name=\"IE\" start=\"0\" "
    "end=\"0\"/>"
    "<field name=\"DE\" start=\"1\" end=\"1\"/><field name=\"ZE\" start=\"2\" end=\"2\"/>"
    "<field name=\"OE\" start=\"3\" end=\"3\"/><field name=\"UE\" start=\"4\" end=\"4\"/>"
    "<field name=\"PE\" start=\"5\" end=\"5\"/><field name=\"DAZ\" start=\"6\" "
    "end=\"6\"/>"
    "<field name=\"IM\" start=\"7\" end=\"7\"/><field name=\"DM\" start=\"8\" end=\"8\"/>"
    "<field name=\"ZM\" start=\"9\" end=\"9\"/><field name=\"OM\" start=\"10\" "
    "end=\"10\"/>"
    "<field name=\"UM\" start=\"11\" end=\"11\"/><field name=\"PM\" start=\"12\" "
    "end=\"12\"/>"
    "<field name=\"FZ\" start=\"15\" end=\"15\"/></flags>";

static const struct feature features[] = {
    {"org.gnu.gdb.i386.core", flags_type, 0},
    {"org.gnu.gdb.i386.sse", vector_types, CORE_END},
    {"org.gnu.gdb.i386.avx", "", SSE_END},
    {"org.gnu.gdb.i386.segments", "", AVX_END},
    {"org.doppel.x86.system", "", SEGMENTS_END},
};

#define FEATURE_COUNT (sizeof(features) / sizeof(features[0]))

static char description[16384];

static void describe(void)
{
    FILE *out = fmemopen(description, sizeof(description), "w");
    if (!out) {
        return;
    }
    fputs("<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">"
          "<target version=\"1.0\"><architecture>i386:x86-64</architecture>",
          out);
    for (unsigned i = 0; i < FEATURE_COUNT; i++) {
        unsigned end = i + 1 < FEATURE_COUNT ? features[i + 1].first : REGISTER_COUNT;
        fprintf(out, "<feature name=\"%s\">%s", features[i].name, features[i].preamble);
        for (unsigned n = features[i].first; n < end; n++) {
            fprintf(out, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\" regnum=\"%u\"/>",
                    registers[n].name, registers[n].bits, registers[n].type, n);
        }
        fputs("</feature>", out);
    }
    fputs("</target>", out);
    fclose(out);
}

const char *gdb_target_description(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, describe);
    return description;
}

unsigned gdb_register_count(void)
{
    return REGISTER_COUNT;
}

unsigned gdb_register_size(unsigned number)
{
    return registers[number].bits / 8;
}

/* Two bits for each physical register: 3 is empty; the others are called valid, as
 * FXSAVE's form does not tell. */
static uint32_t full_tag(uint8_t abridged)
{
    uint32_t tag = 0;
    for (unsigned i = 0; i < 8; i++) {
        tag |= abridged >> i & 1 ? 0 : 3u << 2 * i;
    }
    return tag;
}

static uint8_t abridged_tag(uint32_t full)
{
    uint8_t tag = 0;
    for (unsigned i = 0; i < 8; i++) {
        tag |= (full >> 2 * i & 3) != 3 ? 1u << i : 0;
    }
    return tag;
}

static uint32_t fpu_get(const struct x86_fpu *fpu, enum fpu_field field)
{
    switch (field) {
    case FCTRL:
        return fpu->fcw;
    case FSTAT:
        return fpu->fsw;
    case FTAG:
        return full_tag(fpu->ftw);
    case FISEG:
        return fpu->fcs;
    case FIOFF:
        return (uint32_t)fpu->fip;
    case FOSEG:
        return fpu->fds;
    case FOOFF:
        return (uint32_t)fpu->fdp;
    case FOP:
        return fpu->fop;
    }
    return 0;
}

static void fpu_set(struct x86_fpu *fpu, enum fpu_field field, uint32_t value)
{
    switch (field) {
    case FCTRL:
        fpu->fcw = (uint16_t)value;
        break;
    case FSTAT:
        fpu->fsw = (uint16_t)value;
        break;
    case FTAG:
        fpu->ftw = abridged_tag(value);
        break;
    case FISEG:
        fpu->fcs = (uint16_t)value;
        break;
    case FIOFF:
        fpu->fip = value;
        break;
    case FOSEG:
        fpu->fds = (uint16_t)value;
        break;
    case FOOFF:
        fpu->fdp = value;
        break;
    case FOP:
        fpu->fop = (uint16_t)value;
        break;
    }
}

void gdb_register_get(const struct vcpu *vcpu, const struct x86_state *state,
                      unsigned number, uint8_t *value)
{
    const struct gdb_register *reg = &registers[number];
    uint64_t word = 0;
    const void *source = &word;
    switch (reg->place) {
    case PLACE_GPR:
        source = &state->gpr[reg->index];
        break;
    case PLACE_STATE64:
        source = (const uint8_t *)state + reg->index;
        break;
    case PLACE_FLAGS:
        word = state->rflags;
        break;
    case PLACE_SELECTOR:
        word = state->seg[reg->index].selector;
        break;
    case PLACE_BASE:
        source = &state->seg[reg->index].base;
        break;
    case PLACE_ST:
        source = state->fpu.st[reg->index];
        break;
    case PLACE_FPU:
        word = fpu_get(&state->fpu, reg->index);
        break;
    case PLACE_XMM:
        source = &state->vec[reg->index].u8[0];
        break;
    case PLACE_YMM_HIGH:
        source = &state->vec[reg->index].u8[16];
        break;
    case PLACE_MXCSR:
        word = state->fpu.mxcsr;
        break;
    case PLACE_CR8:
        word = lapic_get_cr8(&vcpu->lapic);
        break;
    }
    memcpy(value, source, reg->bits / 8);
}

/* Selectors, control registers and EFER do more than change a number when a processor
 * loads them: read only. */
bool gdb_register_set(struct x86_state *state, unsigned number, const uint8_t *value)
{
    const struct gdb_register *reg = &registers[number];
    uint32_t word;
    memcpy(&word, value, sizeof(word));
    switch (reg->place) {
    case PLACE_GPR:
        memcpy(&state->gpr[reg->index], value, 8);
        return true;
    case PLACE_STATE64:
        if (reg->index == offsetof(struct x86_state, rip)) {
            memcpy(&state->rip, value, 8);
            return true;
        }
        return false;
    case PLACE_FLAGS:
        state->rflags = (word & X86_FLAGS_VALID) | X86_FLAG_1;
        return true;
    case PLACE_BASE:
        memcpy(&state->seg[reg->index].base, value, 8);
        return true;
    case PLACE_ST:
        memcpy(state->fpu.st[reg->index], value, 10);
        return true;
    case PLACE_FPU:
        fpu_set(&state->fpu, reg->index, word);
        return true;
    case PLACE_XMM:
        memcpy(&state->vec[reg->index].u8[0], value, 16);
        return true;
    case PLACE_YMM_HIGH:
        memcpy(&state->vec[reg->index].u8[16], value, 16);
        return true;
    case PLACE_MXCSR:
        state->fpu.mxcsr = word & 0xffff;
        return true;
    default:
        return false;
    }
}

static struct virtual_space space_of(const struct vcpu *vcpu,
                                     const struct x86_state *state, bool is_physical)
{
    return (struct virtual_space){vcpu->vm->memory, is_physical ? NULL : state,
                                  vcpu->vm->config.cpuid.physical_bits};
}

size_t gdb_memory_read(struct vcpu *vcpu, const struct x86_state *state, bool is_physical,
                       uint64_t address, uint8_t *buffer, size_t size)
{
    const struct virtual_space space = space_of(vcpu, state, is_physical);
    return virtual_read(&space, address, buffer, size);
}

size_t gdb_memory_write(struct vcpu *vcpu, const struct x86_state *state,
                        bool is_physical, uint64_t address, const uint8_t *buffer,
                        size_t size)
{
    const struct virtual_space space = space_of(vcpu, state, is_physical);
    return virtual_write(&space, address, buffer, size);
}
