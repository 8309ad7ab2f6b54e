#pragma once
/*
 * Which instructions a CPU model offers: the bridge from the decoder's instruction sets
 * to the features of the CPUID policy. What is not offered raises #UD.
 */

#include <Zydis/Zydis.h>

#include "x86/cpuid.h"

/*
 * May a guest with this policy execute the instruction? False for every extension the
 * policy has no feature for (AVX-512, AMX, XOP, VMX ...). Encodings that processors
 * without the extension execute as something older (ENDBR and RDSSP as NOP; LZCNT and
 * TZCNT as BSR and BSF, if the decoder was told so) are judged as decoded.
 */
bool native_isa_offered(const struct cpuid_policy *policy,
                        const ZydisDecodedInstruction *decoded);

/* A decoder of 16, 32 or 64-bit code as a processor of this model reads it. */
void isa_decoder_init(ZydisDecoder *decoder, unsigned width,
                      const struct cpuid_policy *cpuid);
