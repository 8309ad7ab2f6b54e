/* Code that is changed while it is used. */
#include <string.h>
#include <sys/mman.h>

#include "work.h"

#define PAGE  4096
#define PAGES 64

static unsigned char *map_code(size_t size)
{
    unsigned char *code = mmap(NULL, size, PROT_READ | PROT_WRITE | PROT_EXEC,
                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (code == MAP_FAILED) {
        work_fail("mmap of executable memory");
    }
    return code;
}

static uint32_t call(unsigned char *code, uint32_t argument)
{
    uint32_t (*function)(uint32_t);
    memcpy(&function, &code, sizeof(function));
    return function(argument);
}

uint64_t modify_run(uint64_t rounds)
{
    /* lea eax, [rdi + imm32]; ret */
    static const unsigned char body[] = {0x8d, 0x87, 0, 0, 0, 0, 0xc3};
    unsigned char *code = map_code(PAGE);
    memcpy(code, body, sizeof(body));
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        uint32_t value = (uint32_t)i * 2654435761u;
        memcpy(code + 2, &value, sizeof(value));
        sum = sum * 3 + call(code, (uint32_t)i);
    }
    return sum;
}

/* A page of additions, exclusive ors and rotations that depend on the seed. */
static void generate(unsigned char *code, uint32_t seed)
{
    unsigned char *at = code;
    *at++ = 0x89; /* mov eax, edi */
    *at++ = 0xf8;
    while (at < code + PAGE - 16) {
        seed = seed * 1664525 + 1013904223;
        switch (seed >> 30) {
        case 0:
            *at++ = 0x05; /* add eax, imm32 */
            memcpy(at, &seed, sizeof(seed));
            at += 4;
            break;
        case 1:
            *at++ = 0x35; /* xor eax, imm32 */
            memcpy(at, &seed, sizeof(seed));
            at += 4;
            break;
        case 2:
            *at++ = 0xc1; /* rol eax, imm8 */
            *at++ = 0xc0;
            *at++ = seed >> 8 & 31;
            break;
        default:
            *at++ = 0x0f; /* imul eax, edi */
            *at++ = 0xaf;
            *at++ = 0xc7;
            break;
        }
    }
    *at = 0xc3; /* ret */
}

uint64_t jit_run(uint64_t rounds)
{
    unsigned char *code = map_code(PAGES * PAGE);
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        unsigned char *page = code + i % PAGES * PAGE;
        generate(page, (uint32_t)i);
        for (uint32_t j = 0; j < 4; j++) {
            sum = sum * 5 + call(page, (uint32_t)i + j);
        }
    }
    return sum;
}
