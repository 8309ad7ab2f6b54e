/* What cannot be compared with the bare processor, and what may differ. */
#include "compare.h"
#include "form.h"

#define ENVIRONMENT "reads the machine that it runs on"
#define KERNEL      "enters the host's kernel"
#define PROCESSOR   "a segment of the host's kernel tells on which processor it runs"
#define HYPERVISOR  "a hypervisor below the host may report another address"
#define EMULATED    "a host kernel may answer it in the processor's place"
#define KEYS        "protection keys are the host's kernel's to give"

static const struct {
    ZydisMnemonic mnemonic;
    const char *reason;
} excluded[] = {
    {ZYDIS_MNEMONIC_CPUID, ENVIRONMENT},    {ZYDIS_MNEMONIC_RDTSC, ENVIRONMENT},
    {ZYDIS_MNEMONIC_RDTSCP, ENVIRONMENT},   {ZYDIS_MNEMONIC_RDPID, ENVIRONMENT},
    {ZYDIS_MNEMONIC_RDPMC, ENVIRONMENT},    {ZYDIS_MNEMONIC_RDRAND, ENVIRONMENT},
    {ZYDIS_MNEMONIC_RDSEED, ENVIRONMENT},   {ZYDIS_MNEMONIC_XGETBV, ENVIRONMENT},
    {ZYDIS_MNEMONIC_XSAVE, ENVIRONMENT},    {ZYDIS_MNEMONIC_XSAVE64, ENVIRONMENT},
    {ZYDIS_MNEMONIC_XSAVEC, ENVIRONMENT},   {ZYDIS_MNEMONIC_XSAVEC64, ENVIRONMENT},
    {ZYDIS_MNEMONIC_XSAVEOPT, ENVIRONMENT}, {ZYDIS_MNEMONIC_XSAVEOPT64, ENVIRONMENT},
    {ZYDIS_MNEMONIC_XRSTOR, ENVIRONMENT},   {ZYDIS_MNEMONIC_XRSTOR64, ENVIRONMENT},
    {ZYDIS_MNEMONIC_VMCALL, ENVIRONMENT},   {ZYDIS_MNEMONIC_VMMCALL, ENVIRONMENT},
    {ZYDIS_MNEMONIC_LSL, PROCESSOR},        {ZYDIS_MNEMONIC_SYSCALL, KERNEL},
    {ZYDIS_MNEMONIC_SYSENTER, KERNEL},      {ZYDIS_MNEMONIC_INT1, HYPERVISOR},
    {ZYDIS_MNEMONIC_SGDT, EMULATED},        {ZYDIS_MNEMONIC_SIDT, EMULATED},
    {ZYDIS_MNEMONIC_SLDT, EMULATED},        {ZYDIS_MNEMONIC_SMSW, EMULATED},
    {ZYDIS_MNEMONIC_STR, EMULATED},         {ZYDIS_MNEMONIC_RDPKRU, KEYS},
    {ZYDIS_MNEMONIC_WRPKRU, KEYS},
};

const char *form_excluded(ZydisMnemonic mnemonic)
{
    for (unsigned i = 0; i < sizeof(excluded) / sizeof(excluded[0]); i++) {
        if (excluded[i].mnemonic == mnemonic) {
            return excluded[i].reason;
        }
    }
    return NULL;
}

const char *form_absent(ZydisMnemonic mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_RDSSPD:
    case ZYDIS_MNEMONIC_RDSSPQ:
        return "without CET an encoding of NOP, and tested as that (SDM 1 17.1)";
    default:
        return form_is_withheld(mnemonic) ? "the CPU model does not offer it" : NULL;
    }
}

const char *form_left_out(const struct form *form)
{
    bool is_repeat = form->prefix == 0xf2 || form->prefix == 0xf3;
    bool is_loop =
        form->mnemonic == ZYDIS_MNEMONIC_LOOPE || form->mnemonic == ZYDIS_MNEMONIC_LOOPNE;

    bool is_far_call =
        form->mnemonic == ZYDIS_MNEMONIC_CALL &&
        (form->opcode == 0x9a || (form->opcode == 0xff && form->reg_mask == 1u << 3));

    /* Intel's processors have been seen, and far.c does as they do. */
    if (is_far_call && __builtin_cpu_is("amd")) {
        return "SDM 2A CALL: what a far call has pushed when its target faults is open";
    }
    return is_repeat && is_loop ? "SDM 2A 2.1.1: the repeat prefixes are reserved there"
                                : NULL;
}

/* Calls visit for each instruction of the case; true if it ever said so. */
static bool any_instruction(const struct isa_case *test,
                            bool (*visit)(const ZydisDecodedInstruction *))
{
    ZydisDecodedInstruction decoded;
    bool result = false;

    for (unsigned at = 0; at < test->code_length; at += decoded.length) {
        if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(
                form_decoder(test->bits), NULL, test->code + at, test->code_length - at,
                &decoded))) {
            break;
        }
        result |= visit(&decoded);
    }
    return result;
}

static bool is_image(const ZydisDecodedInstruction *decoded)
{
    static const ZydisMnemonic images[] = {
        ZYDIS_MNEMONIC_FLDENV, ZYDIS_MNEMONIC_FNSAVE,   ZYDIS_MNEMONIC_FNSTENV,
        ZYDIS_MNEMONIC_FRSTOR, ZYDIS_MNEMONIC_FXRSTOR,  ZYDIS_MNEMONIC_FXRSTOR64,
        ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64,
    };

    for (unsigned i = 0; i < sizeof(images) / sizeof(images[0]); i++) {
        if (images[i] == decoded->mnemonic) {
            return true;
        }
    }
    return false;
}

static bool is_masked_move(const ZydisDecodedInstruction *decoded)
{
    static const ZydisMnemonic moves[] = {
        ZYDIS_MNEMONIC_MASKMOVQ,   ZYDIS_MNEMONIC_MASKMOVDQU, ZYDIS_MNEMONIC_VMASKMOVDQU,
        ZYDIS_MNEMONIC_VMASKMOVPS, ZYDIS_MNEMONIC_VMASKMOVPD, ZYDIS_MNEMONIC_VPMASKMOVD,
        ZYDIS_MNEMONIC_VPMASKMOVQ,
    };

    for (unsigned i = 0; i < sizeof(moves) / sizeof(moves[0]); i++) {
        if (moves[i] == decoded->mnemonic) {
            return true;
        }
    }
    return false;
}

bool compare_has_masked_move(const struct isa_case *test)
{
    return any_instruction(test, is_masked_move);
}

static bool is_far(const ZydisDecodedInstruction *decoded)
{
    return decoded->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
           decoded->mnemonic == ZYDIS_MNEMONIC_IRET ||
           decoded->mnemonic == ZYDIS_MNEMONIC_IRETD ||
           decoded->mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

bool compare_has_far_transfer(const struct isa_case *test)
{
    return any_instruction(test, is_far);
}

static bool is_gather(const ZydisDecodedInstruction *decoded)
{
    return decoded->meta.category == ZYDIS_CATEGORY_AVX2GATHER;
}

bool compare_has_gather(const struct isa_case *test)
{
    return any_instruction(test, is_gather);
}

bool compare_has_image(const struct isa_case *test)
{
    return any_instruction(test, is_image);
}
