/* Host time-stamp cycles per guest instruction for what native.c and x87.c execute: runs
 * of equal instructions in one block, the dispatch included. */
#include <stdio.h>
#include <x86intrin.h>

#include "base/scope.h"
#include "processor.h"

#define COUNT  256
#define ROUNDS 2000

static const struct insn *end(struct cpu *cpu, const struct insn *insn)
{
    return NULL;
}

static uint64_t measure(struct processor *processor, const uint8_t *bytes)
{
    static struct insn run[COUNT + 1];
    struct prepared prepared;
    if (!processor_decode(processor, &prepared, bytes, 15) ||
        !processor_bind(processor, &prepared, bytes)) {
        return 0;
    }
    for (unsigned i = 0; i < COUNT; i++) {
        run[i] = prepared.insn[0];
    }
    run[COUNT] = (struct insn){.exec = end};
    uint64_t best = UINT64_MAX;
    for (unsigned i = 0; i < ROUNDS; i++) {
        uint64_t start = __rdtsc();
        const struct insn *insn = run;
        while (insn != NULL) {
            insn = insn->exec(processor->cpu, insn);
        }
        uint64_t took = __rdtsc() - start;
        best = took < best ? took : best;
    }
    return best;
}

int main(void)
{
    static const struct {
        const char *name;
        uint8_t bytes[16];
    } rows[] = {
        {"movups xmm1, [rbx]", {0x0f, 0x10, 0x0b}},
        {"movups [rbx], xmm1", {0x0f, 0x11, 0x0b}},
        {"pxor xmm1, xmm1", {0x66, 0x0f, 0xef, 0xc9}},
        {"paddb xmm1, xmm2", {0x66, 0x0f, 0xfc, 0xca}},
        {"paddb xmm1, [rbx]", {0x66, 0x0f, 0xfc, 0x0b}},
        {"pmovmskb eax, xmm1", {0x66, 0x0f, 0xd7, 0xc1}},
        {"vpaddb ymm1, ymm2, ymm3", {0xc5, 0xed, 0xfc, 0xcb}},
        {"vmovdqu [rbx], ymm1", {0xc5, 0xfe, 0x7f, 0x0b}},
        {"mulps xmm1, xmm2", {0x0f, 0x59, 0xca}},
        {"mulsd xmm1, [rbx]", {0xf2, 0x0f, 0x59, 0x0b}},
        {"andn eax, ecx, edx", {0xc4, 0xe2, 0x70, 0xf2, 0xc2}},
        {"tzcnt eax, ecx", {0xf3, 0x0f, 0xbc, 0xc1}},
        {"shlx rax, rcx, rdx", {0xc4, 0xe2, 0xe9, 0xf7, 0xc1}},
        {"fmul st0, st1", {0xd8, 0xc9}},
    };
    struct processor processor;
    processor_init(&processor);
    processor.cpu->reg[X86_RBX] = DATA_PAGE;
    for (unsigned i = 0; i < array_size(rows); i++) {
        uint64_t cycles = measure(&processor, rows[i].bytes);
        printf("%-26s %6.1f\n", rows[i].name, (double)cycles / COUNT);
    }
    processor_fini(&processor);
    return 0;
}
