#include "interpreter/cpu.h"

#include <cpuid.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "interpreter/block.h"
#include "interpreter/breakpoint.h"
#include "interpreter/debug.h"
#include "interpreter/hold.h"
#include "interpreter/native.h"

/* Behind entries without a frame: stores to them take the slow path. */
static const _Atomic uint64_t watched_always = FRAME_WATCH_ANY;

/* A TLB in which nothing is ever found. */
static struct tlb_entry tlb_never[TLB_SIZE];

void cpu_clear_entry(struct tlb_entry *entry, unsigned index)
{
    entry->read = entry->write = cpu_never(index);
    entry->frame = &watched_always;
}

void cpu_clear_stack(struct tlb_area *area)
{
    area->stack = (struct tlb_entry){STACK_NEVER, STACK_NEVER, NULL, &watched_always};
}

static void make_never(void)
{
    for (unsigned i = 0; i < TLB_SIZE; i++) {
        cpu_clear_entry(&tlb_never[i], i);
    }
}

static void *lazy_zeroes(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

#define CONTEXTS_SIZE (TLB_CONTEXTS * sizeof(struct tlb_context))
#define JUMP_SIZE     (JUMP_COUNT * sizeof(struct jump_entry))
#define FETCH_SIZE    (FETCH_COUNT * sizeof(struct fetch_entry))

/* alu.h takes flags from the host's by LAHF. The first processors with 64-bit mode, and
 * the plainest models of virtual ones, lack it there (SDM 2A "LAHF"). */
int cpu_check_host(struct error *err)
{
    unsigned eax, ebx, ecx = 0, edx;
    if (!__get_cpuid(0x80000001, &eax, &ebx, &ecx, &edx) || !(ecx & bit_LAHF_LM)) {
        return fail_plain(err, ENOTSUP,
                          "the interpreter needs LAHF in 64-bit mode, which this "
                          "processor lacks (CPUID 80000001H, ECX bit 0); in a virtual "
                          "machine choose a CPU model that has it, such as x86-64-v2");
    }
    return 0;
}

struct cpu *cpu_new(struct memory *memory, const struct cpuid_policy *cpuid,
                    struct lapic *lapic, const struct cpu_hooks *hooks, void *opaque,
                    struct error *err)
{
    if (cpu_check_host(err) < 0) {
        return NULL;
    }
    struct cpu *cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~63ul);
    if (!cpu) {
        fail(err, ENOMEM, "cannot make a virtual processor");
        return NULL;
    }
    memset(cpu, 0, sizeof(*cpu));
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_never);
    insn_index_rows();
    cpu->memory = memory;
    cpu->cpuid = cpuid;
    cpu->lapic = lapic;
    cpu->hooks = hooks;
    cpu->opaque = opaque;
    cpu->limit = UINT64_MAX;
    cpu->tlb_contexts = lazy_zeroes(CONTEXTS_SIZE);
    cpu->jump = lazy_zeroes(JUMP_SIZE);
    cpu->fetch = lazy_zeroes(FETCH_SIZE);
    if (!cpu->tlb_contexts || !cpu->jump || !cpu->fetch) {
        fail(err, ENOMEM, "cannot make a virtual processor's caches");
        cpu_free(cpu);
        return NULL;
    }
    cpu->blocks = block_cache_new(cpuid, err);
    cpu->native = cpu->blocks ? native_new(err) : NULL;
    if (!cpu->native) {
        cpu_free(cpu);
        return NULL;
    }
    struct x86_state state;
    x86_state_reset(&state, true);
    cpu_sync_in(cpu, &state);
    return cpu;
}

void cpu_free(struct cpu *cpu)
{
    if (!cpu) {
        return;
    }
    free(cpu->debug);
    block_cache_free(cpu->blocks);
    native_free(cpu->native);
    hold_end(cpu);
    if (cpu->tlb_contexts) {
        munmap(cpu->tlb_contexts, CONTEXTS_SIZE);
    }
    if (cpu->jump) {
        munmap(cpu->jump, JUMP_SIZE);
    }
    if (cpu->fetch) {
        munmap(cpu->fetch, FETCH_SIZE);
    }
    free(cpu);
}

void cpu_sync_in(struct cpu *cpu, const struct x86_state *state)
{
    cpu->state = *state;
    memcpy(cpu->reg, state->gpr, sizeof(state->gpr));
    cpu->reg[REG_ZERO] = 0;
    cpu->rip = state->rip;
    cpu->arith = arith_from_flags(state->rflags);
    cpu->state.rflags &= ~(uint64_t)X86_FLAGS_ARITH;
    cpu->shadow_rip = state->rip;
    cpu->has_fault = false;
    cpu->wants_window = false;
    cpu->layout = cpu->memory->layout;
    cpu_flush_all(cpu);
    cpu_switch_context(cpu, false);
    breakpoint_update(cpu);
    cpu->debug_traps = state->held_debug;
    if (state->rflags & X86_FLAG_RF) {
        cpu_set_resume(cpu);
    }
    cpu_set_attention(cpu);
}

void cpu_sync_out(struct cpu *cpu, struct x86_state *state)
{
    memcpy(cpu->state.gpr, cpu->reg, sizeof(cpu->state.gpr));
    cpu->state.rip = cpu->rip;
    *state = cpu->state;
    state->rflags = cpu_rflags(cpu) & ~(uint64_t)X86_FLAG_RF;
    state->rflags |= cpu_resumes(cpu) ? X86_FLAG_RF : 0;
    state->interrupt_shadow =
        cpu->rip == cpu->shadow_rip ? cpu->state.interrupt_shadow : X86_SHADOW_NONE;
    state->held_debug = cpu_is_behind_ss(cpu) ? cpu->debug_traps : 0;
}

static uint8_t code_width(const struct cpu *cpu)
{
    const struct x86_segment *cs = &cpu->state.seg[X86_CS];
    if (cpu->is_long64) {
        return 64;
    }
    return cs->access & X86_ACCESS_DB ? 32 : 16;
}

/* SDM 3A 6.15, interrupt 17. */
static bool checks_alignment(const struct cpu *cpu)
{
    return cpu->cpl == 3 && cpu->state.rflags & X86_FLAG_AC &&
           cpu->state.cr0 & X86_CR0_AM;
}

static uint8_t needs_interpreter(const struct cpu *cpu)
{
    const struct cpu_debug *debug = cpu->debug;
    bool breaks = cpu->break_execute || (debug && debug->has_breakpoints);
    bool watches =
        cpu->break_data || cpu->break_port || (debug && debug->has_watchpoints);
    return (cpu->single_step || cpu->state.rflags & X86_FLAG_TF ? NEEDS_STEP : 0) |
           (breaks ? NEEDS_BREAK : 0) | (watches ? NEEDS_WATCH : 0) |
           (checks_alignment(cpu) ? NEEDS_ALIGNMENT : 0);
}

static void update_needs(struct cpu *cpu)
{
    uint8_t needs = needs_interpreter(cpu);
    if (needs & ~cpu->needs_interpreter) {
        cpu_set_attention(cpu);
    }
    cpu->needs_interpreter = needs;
}

void cpu_update_mode(struct cpu *cpu)
{
    const struct x86_state *state = &cpu->state;
    bool is_pe = state->cr0 & X86_CR0_PE;
    bool is_vm86 = is_pe && (state->rflags & X86_FLAG_VM);
    cpu->is_protected = is_pe && !is_vm86;
    cpu->is_long = state->efer & X86_EFER_LMA;
    cpu->is_long64 = cpu->is_long && (state->seg[X86_CS].access & X86_ACCESS_L);
    cpu->cpl = is_vm86 ? 3 : is_pe ? x86_cpl(state) : 0;
    cpu->code_bits = code_width(cpu);
    cpu->stack_bits = cpu->is_long64                              ? 64
                      : state->seg[X86_SS].access & X86_ACCESS_DB ? 32
                                                                  : 16;
    enum tlb_view view = cpu->cpl == 3                 ? TLB_USER
                         : state->rflags & X86_FLAG_AC ? TLB_KERNEL_AC
                                                       : TLB_KERNEL;
    cpu->tlb = cpu->tlb_context->view[view].entry;
    update_needs(cpu);
    if (unlikely(cpu->needs_interpreter & NEEDS_ALIGNMENT)) {
        cpu->tlb = tlb_never; /* every access is looked at, through TLB_USER */
    }
    /* A code segment that ends below 4 GiB is checked instruction by instruction. */
    bool is_limited = !cpu->is_long64 && state->seg[X86_CS].limit != UINT32_MAX;
    bool is_watched = cpu->needs_interpreter & NEEDS_WATCH;
    cpu->code_mode =
        (cpu->code_bits == 64 ? 2 : cpu->code_bits == 32) |
        (cpu->cpl == 3 ? CODE_MODE_USER : 0) | (cpu->is_protected ? 0 : CODE_MODE_REAL) |
        (cpu->single_step || is_limited || is_watched ? CODE_MODE_SINGLE : 0);
    cpu->code_key = cpu->tlb_context->generation << CODE_MODE_BITS | cpu->code_mode;
    if (!cpu->is_long64) {
        /* The same RIP means other bytes when CS moves: the base becomes part of the key.
         */
        cpu->code_key ^= state->seg[X86_CS].base << 24;
    }
}

void cpu_set_single(struct cpu *cpu, bool is_single)
{
    cpu->single_step = is_single;
    cpu->needs_interpreter = needs_interpreter(cpu); /* asks for no attention */
    cpu_update_mode(cpu);
}

void cpu_set_rflags(struct cpu *cpu, uint64_t rflags)
{
    uint64_t changed = cpu->state.rflags ^ rflags;
    cpu->arith = arith_from_flags(rflags);
    cpu->state.rflags = (rflags & (X86_FLAGS_VALID & ~X86_FLAGS_ARITH)) | X86_FLAG_1;
    if (rflags & X86_FLAG_TF || (changed & rflags & X86_FLAG_IF && cpu->wants_window)) {
        cpu_set_attention(cpu);
    }
    if (changed & (X86_FLAG_AC | X86_FLAG_TF | X86_FLAG_VM)) {
        cpu_update_mode(cpu);
    }
}

void cpu_set_ac(struct cpu *cpu, bool ac)
{
    cpu->state.rflags =
        (cpu->state.rflags & ~(uint64_t)X86_FLAG_AC) | (ac ? X86_FLAG_AC : 0);
    cpu->tlb = cpu->tlb_context->view[ac ? TLB_KERNEL_AC : TLB_KERNEL].entry;
}

bool cpu_raise(struct cpu *cpu, uint8_t vector, uint32_t error)
{
    cpu->has_fault = true;
    cpu->fault_noncanonical = false;
    cpu->fault = (struct x86_exception){
        .vector = vector,
        .has_error = x86_exception_has_error(vector) && cpu->is_protected,
        .error = error,
    };
    return false;
}

bool cpu_raise_page_fault(struct cpu *cpu, const struct x86_exception *fault)
{
    cpu->has_fault = true;
    cpu->fault_noncanonical = false;
    cpu->fault = *fault;
    return false;
}
