/*
 * The guest: runs the workload that the command line names, as often as it says, and
 * prints how long that took by the machine's own clock. "none" is what has to be
 * subtracted from the counts that the host sees.
 */
#include "cpu.h"
#include "guest.h"
#include "apic.h"
#include "page.h"
#include "workload.h"

#define COMMAND_LINE 0x228 /* cmd_line_ptr in struct boot_params */

static uint64_t none_run(uint64_t rounds)
{
    return rounds;
}

static const struct {
    const char *name;
    workload_run *run;
} workloads[] = {
    {"none", none_run},     {"loop", loop_run},       {"chase", chase_run},
    {"stride", stride_run}, {"branch", branch_run},   {"string", string_run},
    {"modify", modify_run}, {"sse2", sse2_run},       {"matmul", matmul_run},
    {"fault", fault_run},   {"syscall", syscall_run}, {"port", port_run},
    {"mmio", mmio_run},
};

extern uint64_t boot_params;

/* Lets SSE and AVX execute (SDM 1 13.2). */
static void enable_vectors(void)
{
    cr4_write(cr4_read() | CR4_OSFXSR | CR4_OSXMMEXCPT);
    if (cpuid(1, 0).ecx & 1u << 26) {
        cr4_write(cr4_read() | 1u << 18); /* OSXSAVE */
        __asm__ volatile("xsetbv" : : "c"(0), "a"(cpuid(0xd, 0).eax & 7), "d"(0));
    }
}

/* The word at *text is `name`; steps over it and the blanks behind. */
static bool take_word(const char **text, const char *name)
{
    const char *at = *text;
    while (*name && *at == *name) {
        at++;
        name++;
    }
    if (*name || (*at && *at != ' ')) {
        return false;
    }
    while (*at == ' ') {
        at++;
    }
    *text = at;
    return true;
}

static uint64_t take_number(const char *text)
{
    uint64_t value = 0;
    for (; *text >= '0' && *text <= '9'; text++) {
        value = value * 10 + (uint64_t)(*text - '0');
    }
    return value;
}

void guest_test(void)
{
    const char *text =
        (const char *)(uint64_t) * (uint32_t *)(boot_params + COMMAND_LINE);
    enable_vectors();
    modify_page = page_new();
    for (unsigned i = 0; i < COUNT_OF(workloads); i++) {
        if (take_word(&text, workloads[i].name)) {
            uint64_t rounds = take_number(text);
            uint32_t start = port_read32(PM_TIMER_PORT);
            uint64_t result = workloads[i].run(rounds);
            uint64_t ticks = port_read32(PM_TIMER_PORT) - start;
            print("%s %lu rounds %lu ns checksum %lx\n", workloads[i].name, rounds,
                  ticks * 1000000000 / PM_TIMER_RATE, result);
            guest_exit(0);
        }
    }
    print("no such workload: %s\n", text);
    guest_exit(1);
}
