/* Instructions that C has no words for, and the names of their bits. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define RFLAGS_FIXED    0x2u
#define RFLAGS_CF       0x1u
#define RFLAGS_ZF       0x40u
#define RFLAGS_TF       0x100u
#define RFLAGS_IF       0x200u
#define RFLAGS_DF       0x400u
#define RFLAGS_IOPL     0x3000u
#define RFLAGS_NT       0x4000u
#define RFLAGS_RF       0x10000u
#define RFLAGS_AC       0x40000u

#define CR0_MP          (1ull << 1)
#define CR0_EM          (1ull << 2)
#define CR0_TS          (1ull << 3)
#define CR0_WP          (1ull << 16)
#define CR0_AM          (1ull << 18)
#define CR4_TSD         (1ull << 2)
#define CR4_PGE         (1ull << 7)
#define CR4_OSFXSR      (1ull << 9)
#define CR4_OSXMMEXCPT  (1ull << 10)
#define CR4_UMIP        (1ull << 11)
#define CR4_FSGSBASE    (1ull << 16)
#define CR4_PCIDE       (1ull << 17)
#define CR4_SMEP        (1ull << 20)
#define CR4_SMAP        (1ull << 21)

#define MSR_TSC_ADJUST  0x3b
#define MSR_APIC_BASE   0x1b
#define MSR_SYSENTER_CS 0x174
#define MSR_SYSENTER_SP 0x175
#define MSR_SYSENTER_IP 0x176
#define MSR_DEADLINE    0x6e0
#define MSR_EFER        0xc0000080
#define MSR_STAR        0xc0000081
#define MSR_LSTAR       0xc0000082
#define MSR_CSTAR       0xc0000083
#define MSR_FMASK       0xc0000084
#define MSR_FS_BASE     0xc0000100
#define MSR_GS_BASE     0xc0000101
#define MSR_KERNEL_GS   0xc0000102

#define EFER_SCE        (1ull << 0)
#define EFER_NXE        (1ull << 11)

struct cpuid {
    uint32_t eax, ebx, ecx, edx;
};

struct descriptor_pointer {
    uint16_t limit;
    uint64_t base;
} __attribute__((packed));

#define DEFINE_CONTROL_REGISTER(name)                                   \
    static inline uint64_t name##_read(void)                            \
    {                                                                   \
        uint64_t value;                                                 \
        __asm__ volatile("mov %%" #name ", %0" : "=r"(value));          \
        return value;                                                   \
    }                                                                   \
    static inline void name##_write(uint64_t value)                     \
    {                                                                   \
        __asm__ volatile("mov %0, %%" #name : : "r"(value) : "memory"); \
    }

DEFINE_CONTROL_REGISTER(cr0)
DEFINE_CONTROL_REGISTER(cr2)
DEFINE_CONTROL_REGISTER(cr3)
DEFINE_CONTROL_REGISTER(cr4)
DEFINE_CONTROL_REGISTER(cr8)
DEFINE_CONTROL_REGISTER(dr6)
DEFINE_CONTROL_REGISTER(dr7)

static inline struct cpuid cpuid(uint32_t leaf, uint32_t subleaf)
{
    struct cpuid result;
    __asm__ volatile("cpuid"
                     : "=a"(result.eax), "=b"(result.ebx), "=c"(result.ecx),
                       "=d"(result.edx)
                     : "a"(leaf), "c"(subleaf));
    return result;
}

static inline uint64_t msr_read(uint32_t index)
{
    uint32_t low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index) : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void msr_write(uint32_t index, uint64_t value)
{
    __asm__ volatile("wrmsr"
                     :
                     : "c"(index), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
                     : "memory");
}

static inline void port_write8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline uint8_t port_read8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline uint32_t port_read32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port) : "memory");
    return value;
}

static inline void port_write32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void invlpg(uint64_t address)
{
    __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline void cr3_reload(void)
{
    cr3_write(cr3_read());
}

static inline uint64_t flags_read(void)
{
    uint64_t flags;
    __asm__ volatile("pushf; pop %0" : "=r"(flags) : : "memory");
    return flags;
}

static inline void flags_write(uint64_t flags)
{
    __asm__ volatile("push %0; popf" : : "r"(flags) : "memory", "cc");
}

static inline uint64_t tsc_read(void)
{
    uint32_t low, high;
    __asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

static inline void pause(void)
{
    __asm__ volatile("pause" : : : "memory");
}

static inline void interrupts_enable(void)
{
    __asm__ volatile("sti" : : : "memory");
}

static inline void interrupts_disable(void)
{
    __asm__ volatile("cli" : : : "memory");
}

/* One instruction's worth of open window, then closed: pending interrupts are taken. */
static inline void interrupts_window(void)
{
    __asm__ volatile("sti; nop; nop; cli" : : : "memory");
}

/* A byte by volatile access: exactly one instruction of that size. */
#define READ_ONCE(object)         (*(const volatile __typeof__(object) *)&(object))
#define WRITE_ONCE(object, value) (*(volatile __typeof__(object) *)&(object) = (value))
