/*
 * Cases on the bare processor: a program of its own, so that nothing but the cases' pages
 * and its own few are in the address space. Every case is entered by a return from a
 * signal handler and ends in one, so that the kernel loads and shows all of its state. A
 * filter refuses every system call but the few that this needs, and those of the tested
 * code altogether.
 *
 * Started by host.c with the descriptors of bare.h. Never built with sanitizers.
 */

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "bare.h"

#define XSTATE_ALL 7u /* x87, SSE, AVX */
#define XSTATE_AVX 4u
/* Of the image on the signal frame, the kernel's own words are behind these. */
#define XSTATE_LEGACY   offsetof(struct isa_vector, fx.unused)
#define HWCAP2_FSGSBASE (1u << 1)

/* Nothing that runs between cases may use thread-local storage: FS points into the test's
 * page. */
#define BARE __attribute__((no_stack_protector))

static struct {
    struct bare_shared *shared;
    uint8_t *pages;  /* a writable view */
    uint32_t batch;  /* the one being run */
    uint32_t index;  /* of the case being run */
    bool is_running; /* false: the first entry */
    bool has_bases;  /* RDFSBASE and its like work */
    unsigned old_offset, old_length;
} child;

/* In the order of our registers. */
static const uint8_t gpr_order[16] = {
    REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
    REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

BARE static void copy(void *to, const void *from, size_t size)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
}

BARE static void fill(void *to, uint8_t value, size_t size)
{
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
}

BARE static long futex(_Atomic uint32_t *word, int operation, uint32_t value)
{
    register long no_timeout __asm__("r10") = 0;
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_futex), "D"(word), "S"(operation), "d"(value),
                       "r"(no_timeout)
                     : "rcx", "r11", "memory");
    return result;
}

BARE static void set_base(int which, uint64_t base)
{
    long result;

    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_arch_prctl), "D"(which), "S"(base)
                     : "rcx", "r11", "memory");
}

BARE static void end_segments(struct isa_result *result)
{
    uint32_t es, ds, fs, gs;

    __asm__ volatile("mov %%es, %0\n\tmov %%ds, %1\n\tmov %%fs, %2\n\tmov %%gs, %3"
                     : "=r"(es), "=r"(ds), "=r"(fs), "=r"(gs));
    result->selector[ISA_ES] = (uint16_t)es;
    result->selector[ISA_DS] = (uint16_t)ds;
    result->selector[ISA_FS] = (uint16_t)fs;
    result->selector[ISA_GS] = (uint16_t)gs;
    if (child.has_bases) {
        __asm__ volatile("rdfsbase %0\n\trdgsbase %1"
                         : "=r"(result->fs_base), "=r"(result->gs_base));
    }
}

/* Null selectors take the bases away, so these come last. */
BARE static void begin_segments(uint32_t data)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(data));
    if (child.has_bases) {
        __asm__ volatile("mov %0, %%fs\n\tmov %0, %%gs" : : "r"(0));
        __asm__ volatile("wrfsbase %0\n\twrgsbase %1"
                         :
                         : "r"((uint64_t)ISA_FS_BASE), "r"((uint64_t)ISA_GS_BASE));
    }
}

BARE static void end_case(const ucontext_t *context, int number)
{
    struct isa_result *result = &child.shared->result[child.index];
    const greg_t *greg = context->uc_mcontext.gregs;
    const struct isa_vector *vector = (const void *)context->uc_mcontext.fpregs;
    uint64_t selectors = (uint64_t)greg[REG_CSGSFS];

    for (unsigned i = 0; i < 16; i++) {
        result->gpr[i] = (uint64_t)greg[gpr_order[i]];
    }
    result->rip = (uint64_t)greg[REG_RIP];
    result->flags = (uint64_t)greg[REG_EFL];
    result->exception = (uint32_t)greg[REG_TRAPNO];
    result->error = (uint32_t)greg[REG_ERR];
    result->address = (uint64_t)greg[REG_CR2];
    result->selector[ISA_CS] = (uint16_t)selectors;
    result->selector[ISA_SS] = (uint16_t)(selectors >> 48);
    end_segments(result);
    copy(&result->vector, vector, sizeof(*vector));
    if (!(vector->header[0] & XSTATE_AVX)) {
        fill(result->vector.ymm_high, 0, sizeof(vector->ymm_high));
    }
    copy(child.shared->memory[child.index], child.pages + ISA_FIXED_CODE * ISA_PAGE,
         ISA_MEMORY_SIZE);
    result->end = number == SIGSYS ? ISA_SYSCALL : ISA_EXCEPTION;
}

BARE static void await_batch(void)
{
    struct bare_shared *shared = child.shared;

    while (atomic_load(&shared->posted) == child.batch) {
        futex(&shared->posted, FUTEX_WAIT, child.batch);
    }
    child.batch = atomic_load(&shared->posted);
    child.index = atomic_load(&shared->first);
}

BARE static void begin_case(ucontext_t *context)
{
    const struct isa_input *input = &child.shared->input[child.index];
    const struct isa_case *test = &input->test;
    greg_t *greg = context->uc_mcontext.gregs;
    struct isa_vector *vector = (void *)context->uc_mcontext.fpregs;

    atomic_store(&child.shared->current, child.index);
    fill(child.pages + child.old_offset, ISA_OP_INT3, child.old_length);
    copy(child.pages + ISA_FIXED_CODE * ISA_PAGE, isa_images[test->image],
         ISA_MEMORY_SIZE);
    copy(child.pages + test->code_offset, test->code, test->code_length);
    child.old_offset = test->code_offset;
    child.old_length = test->code_length;
    for (unsigned i = 0; i < 16; i++) {
        greg[gpr_order[i]] = (greg_t)test->gpr[i];
    }
    greg[REG_RIP] = (greg_t)input->rip;
    greg[REG_EFL] = (greg_t)input->flags;
    greg[REG_CSGSFS] = (greg_t)(input->selector | (uint64_t)input->stack_selector << 48);
    copy(vector, &input->vector, offsetof(struct isa_vector, fx.mxcsr_mask));
    copy(vector->fx.st, input->vector.fx.st,
         XSTATE_LEGACY - offsetof(struct isa_vector, fx.st));
    vector->header[0] = XSTATE_ALL;
    copy(vector->ymm_high, input->vector.ymm_high, sizeof(vector->ymm_high));
    begin_segments(input->data_selector);
}

BARE static void on_signal(int number, siginfo_t *info, void *opaque)
{
    /* The kernel keeps NT, AC and ID across a return from a signal; a case may have set
     * them. */
    __asm__ volatile("pushfq\n\tandq $~0x244000, (%%rsp)\n\tpopfq" ::: "memory", "cc");
    if (!child.is_running) {
        child.is_running = true;
        await_batch();
    } else {
        end_case(opaque, number);
        child.index++;
    }
    while (child.index >= atomic_load(&child.shared->count)) {
        atomic_store(&child.shared->finished, child.batch);
        futex(&child.shared->finished, FUTEX_WAKE, 1);
        await_batch();
    }
    begin_case(opaque);
}

/* Where the host's kernel has no LDTs the selectors mean nothing, and 16-bit cases end at
 * once (host_runs). */
static void make_segment(unsigned selector, uint64_t base, bool is_code)
{
    struct user_desc segment = {
        .entry_number = selector / 8,
        .base_addr = (unsigned)base,
        .limit = ISA_LIMIT16,
        .contents = is_code ? MODIFY_LDT_CONTENTS_CODE : MODIFY_LDT_CONTENTS_DATA,
    };

    syscall(SYS_modify_ldt, 0x11, &segment, sizeof(segment));
}

/* Only what the handler needs, and only from the program's own code: the cases' code lies
 * below 4 GiB. */
static int confine(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS,
                 offsetof(struct seccomp_data, instruction_pointer) + 4),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 4, 0),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_futex, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_arch_prctl, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return -1;
    }
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static bool map_at(uint64_t address, unsigned pages, int protection, unsigned first)
{
    void *wanted = (void *)address;

    return mmap(wanted, (size_t)pages * ISA_PAGE, protection,
                MAP_SHARED | MAP_FIXED_NOREPLACE, BARE_PAGES_FD,
                (off_t)first * ISA_PAGE) == wanted;
}

static bool map_pages(void)
{
    const int readable = PROT_READ, writable = PROT_READ | PROT_WRITE;
    const unsigned last = ISA_CODE_PAGES + ISA_DATA_PAGES - 1;

    return map_at(ISA_CODE, ISA_FIXED_CODE, readable | PROT_EXEC, 0) &&
           map_at(ISA_CODE + ISA_FIXED_CODE * ISA_PAGE, 1, writable | PROT_EXEC,
                  ISA_FIXED_CODE) &&
           map_at(ISA_DATA, ISA_DATA_PAGES - 1, writable, ISA_CODE_PAGES) &&
           map_at(ISA_DATA + (ISA_DATA_PAGES - 1) * ISA_PAGE, 1, readable, last) &&
           map_at(ISA_STACK, 1, writable, last + 1);
}

static bool map_shared(void)
{
    const int writable = PROT_READ | PROT_WRITE;

    child.shared =
        mmap(NULL, sizeof(*child.shared), writable, MAP_SHARED, BARE_SHARED_FD, 0);
    child.pages =
        mmap(NULL, ISA_PAGES * ISA_PAGE, writable, MAP_SHARED, BARE_PAGES_FD, 0);
    return child.shared != MAP_FAILED && child.pages != MAP_FAILED;
}

static bool catch_signals(void)
{
    static const int signals[] = {SIGSEGV, SIGILL, SIGFPE, SIGBUS, SIGTRAP, SIGSYS};
    static uint8_t stack[65536] __attribute__((aligned(64)));
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof(stack)};
    struct sigaction action = {.sa_sigaction = on_signal,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};

    if (sigaltstack(&alternate, NULL) < 0) {
        return false;
    }
    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        if (sigaction(signals[i], &action, NULL) < 0) {
            return false;
        }
    }
    return true;
}

/* Every page has to be there before the first case, or the host's faults show. */
static void touch_pages(void)
{
    volatile uint8_t *code = (volatile uint8_t *)(uintptr_t)ISA_CODE;
    volatile uint8_t *data = (volatile uint8_t *)(uintptr_t)ISA_DATA;
    volatile uint8_t *stack = (volatile uint8_t *)(uintptr_t)ISA_STACK;

    for (unsigned i = 0; i < ISA_CODE_PAGES; i++) {
        (void)code[i * ISA_PAGE];
    }
    code[ISA_FIXED_CODE * ISA_PAGE] = ISA_OP_INT3;
    for (unsigned i = 0; i + 1 < ISA_DATA_PAGES; i++) {
        data[i * ISA_PAGE] = 0;
    }
    (void)data[(ISA_DATA_PAGES - 1) * ISA_PAGE];
    stack[0] = 0;
}

/* Compatibility mode uses the segment registers that 64-bit mode leaves null; then FS and
 * GS, after which nothing of the C library works. */
BARE static _Noreturn void enter(void)
{
    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(ISA_DATA32));
    set_base(ARCH_SET_GS, ISA_GS_BASE);
    set_base(ARCH_SET_FS, ISA_FS_BASE);
    for (;;) {
        __asm__ volatile("int3");
    }
}

int main(void)
{
    const struct rlimit none = {0, 0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &none);
    isa_images_init();
    if (!map_shared() || !map_pages() || !catch_signals()) {
        perror("isa_bare: no pages or signals");
        return 1;
    }
    /* A new program finds its batch already posted. */
    child.batch = atomic_load(&child.shared->finished);
    child.has_bases = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
    memset(child.pages, ISA_OP_INT3, ISA_FIXED_CODE * ISA_PAGE);
    touch_pages();
    make_segment(ISA_CODE16, ISA_CODE, true);
    make_segment(ISA_DATA16, ISA_DATA16_BASE, false);
    make_segment(ISA_STACK16, ISA_STACK16_BASE, false);
    make_segment(ISA_DATA16_END, ISA_DATA16_TOP, false);
    make_segment(ISA_STACK16_END, ISA_STACK16_TOP, false);
    if (confine() < 0) {
        perror("isa_bare: no filter for system calls");
        return 1;
    }
    enter();
}
