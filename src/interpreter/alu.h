#pragma once
/*
 * Arithmetic on the host's own units: each primitive is the instruction itself, followed
 * by LAHF and SETO, so that every flag, the undefined ones included, is what the host's
 * processor makes it. Flags go in and out as arith_t.
 */

#include "interpreter/cpu.h"

/* X(bits, type, operand-size suffix, register modifier) */
#define ALU_SIZES(X, ...)                    \
    X(8, uint8_t, "b", "b", ##__VA_ARGS__)   \
    X(16, uint16_t, "w", "w", ##__VA_ARGS__) \
    X(32, uint32_t, "l", "k", ##__VA_ARGS__) \
    X(64, uint64_t, "q", "q", ##__VA_ARGS__)

#define ALU_SAVE_FLAGS "\n\tlahf\n\tseto %%al"
/* SF ZF AF PF CF from AH; OF is lost, for instructions that write or preserve none of it.
 */
#define ALU_LOAD_FLAGS "sahf\n\t"
/* All of them: 127 + OF overflows if OF was set. */
#define ALU_LOAD_ALL   "add $127, %%al\n\tsahf\n\t"
#define ALU_LOAD_CARRY "bt $8, %%eax\n\t"

#define ALU_BINARY_(bits, type, suffix, modifier, name, mnemonic)                    \
    static inline type alu_##name##bits(type a, type b, arith_t *flags)              \
    {                                                                                \
        __asm__(mnemonic suffix " %" modifier "[b], %" modifier "[a]" ALU_SAVE_FLAGS \
                : [a] "+r"(a), "=&a"(*flags)                                         \
                : [b] "r"(b)                                                         \
                : "cc");                                                             \
        return a;                                                                    \
    }                                                                                \
    static inline void alu_lock_##name##bits(uint8_t *host, type b, arith_t *flags)  \
    {                                                                                \
        __asm__ volatile(                                                            \
            "lock " mnemonic suffix " %" modifier "[b], %[m]" ALU_SAVE_FLAGS         \
            : [m] "+m"(*(type __attribute__((may_alias)) *)host), "=&a"(*flags)      \
            : [b] "r"(b)                                                             \
            : "cc", "memory");                                                       \
    }

#define ALU_CARRY_(bits, type, suffix, modifier, name, mnemonic)                    \
    static inline type alu_##name##bits(type a, type b, arith_t *flags)             \
    {                                                                               \
        __asm__(ALU_LOAD_CARRY mnemonic suffix " %" modifier "[b], %" modifier      \
                                               "[a]" ALU_SAVE_FLAGS                 \
                : [a] "+r"(a), "+&a"(*flags)                                        \
                : [b] "r"(b)                                                        \
                : "cc");                                                            \
        return a;                                                                   \
    }                                                                               \
    static inline void alu_lock_##name##bits(uint8_t *host, type b, arith_t *flags) \
    {                                                                               \
        __asm__ volatile(ALU_LOAD_CARRY "lock " mnemonic suffix " %" modifier       \
                                        "[b], %[m]" ALU_SAVE_FLAGS                  \
                         : [m] "+m"(*(type __attribute__((may_alias)) *)host),      \
                           "+&a"(*flags)                                            \
                         : [b] "r"(b)                                               \
                         : "cc", "memory");                                         \
    }

/* Without a result: CMP, TEST. */
#define ALU_COMPARE_(bits, type, suffix, modifier, name, mnemonic)                   \
    static inline type alu_##name##bits(type a, type b, arith_t *flags)              \
    {                                                                                \
        __asm__(mnemonic suffix " %" modifier "[b], %" modifier "[a]" ALU_SAVE_FLAGS \
                : "=&a"(*flags)                                                      \
                : [a] "r"(a), [b] "r"(b)                                             \
                : "cc");                                                             \
        return a;                                                                    \
    }

/* carry_mask: flags that keep their value (CF for INC and DEC, all for NOT). */
#define ALU_UNARY_(bits, type, suffix, modifier, name, mnemonic, kept)         \
    static inline type alu_##name##bits(type a, arith_t *flags)                \
    {                                                                          \
        arith_t made;                                                          \
        __asm__(mnemonic suffix " %" modifier "[a]" ALU_SAVE_FLAGS             \
                : [a] "+r"(a), "=&a"(made)                                     \
                :                                                              \
                : "cc");                                                       \
        *flags = (*flags & (kept)) | (made & ~(kept));                         \
        return a;                                                              \
    }                                                                          \
    static inline void alu_lock_##name##bits(uint8_t *host, arith_t *flags)    \
    {                                                                          \
        arith_t made;                                                          \
        __asm__ volatile("lock " mnemonic suffix " %[m]" ALU_SAVE_FLAGS        \
                         : [m] "+m"(*(type __attribute__((may_alias)) *)host), \
                           "=&a"(made)                                         \
                         :                                                     \
                         : "cc", "memory");                                    \
        *flags = (*flags & (kept)) | (made & ~(kept));                         \
    }

ALU_SIZES(ALU_BINARY_, add, "add")
ALU_SIZES(ALU_BINARY_, or, "or")
ALU_SIZES(ALU_BINARY_, and, "and")
ALU_SIZES(ALU_BINARY_, sub, "sub")
ALU_SIZES(ALU_BINARY_, xor, "xor")
ALU_SIZES(ALU_CARRY_, adc, "adc")
ALU_SIZES(ALU_CARRY_, sbb, "sbb")
ALU_SIZES(ALU_COMPARE_, cmp, "cmp")
ALU_SIZES(ALU_COMPARE_, test, "test")
ALU_SIZES(ALU_UNARY_, inc, "inc", ARITH_CF)
ALU_SIZES(ALU_UNARY_, dec, "dec", ARITH_CF)
ALU_SIZES(ALU_UNARY_, neg, "neg", 0u)
ALU_SIZES(ALU_UNARY_, not, "not", ~0u)

/* Shifts and rotates by a count that is not 0 after masking. */
#define ALU_SHIFT_(bits, type, suffix, modifier, name, mnemonic)                        \
    static inline type alu_##name##bits(type a, uint8_t count, arith_t *flags)          \
    {                                                                                   \
        __asm__(ALU_LOAD_FLAGS mnemonic suffix " %%cl, %" modifier "[a]" ALU_SAVE_FLAGS \
                : [a] "+r"(a), "+&a"(*flags)                                            \
                : "c"(count)                                                            \
                : "cc");                                                                \
        return a;                                                                       \
    }

ALU_SIZES(ALU_SHIFT_, shl, "shl")
ALU_SIZES(ALU_SHIFT_, shr, "shr")
ALU_SIZES(ALU_SHIFT_, sar, "sar")
ALU_SIZES(ALU_SHIFT_, rol, "rol")
ALU_SIZES(ALU_SHIFT_, ror, "ror")
ALU_SIZES(ALU_SHIFT_, rcl, "rcl")
ALU_SIZES(ALU_SHIFT_, rcr, "rcr")

/* The 16 conditions in encoding order, from the flags. */
static inline __attribute__((always_inline)) bool alu_condition(arith_t f,
                                                                unsigned condition)
{
    bool holds = false;
    switch (condition >> 1) {
    case 0:
        holds = f & ARITH_OF;
        break;
    case 1:
        holds = f & ARITH_CF;
        break;
    case 2:
        holds = f & ARITH_ZF;
        break;
    case 3:
        holds = f & (ARITH_CF | ARITH_ZF);
        break;
    case 4:
        holds = f & ARITH_SF;
        break;
    case 5:
        holds = f & ARITH_PF;
        break;
    case 6:
        holds = (f >> 15 ^ f) & 1;
        break;
    case 7:
        holds = (f & ARITH_ZF) || ((f >> 15 ^ f) & 1);
        break;
    }
    return holds != (condition & 1);
}

/* X(name, code) */
/* clang-format finds no stable form for this. */
/* clang-format off */
#define ALU_CONDITIONS(X, ...) \
    X(o, 0, ##__VA_ARGS__) \
    X(no, 1, ##__VA_ARGS__) \
    X(b, 2, ##__VA_ARGS__) \
    X(nb, 3, ##__VA_ARGS__) \
    X(z, 4, ##__VA_ARGS__) \
    X(nz, 5, ##__VA_ARGS__) \
    X(be, 6, ##__VA_ARGS__) \
    X(nbe, 7, ##__VA_ARGS__) \
    X(s, 8, ##__VA_ARGS__) \
    X(ns, 9, ##__VA_ARGS__) \
    X(p, 10, ##__VA_ARGS__) \
    X(np, 11, ##__VA_ARGS__) \
    X(l, 12, ##__VA_ARGS__) \
    X(nl, 13, ##__VA_ARGS__) \
    X(le, 14, ##__VA_ARGS__) \
    X(nle, 15, ##__VA_ARGS__)
/* clang-format on */
