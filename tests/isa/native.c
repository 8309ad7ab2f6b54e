#include "native.h"

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
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define SELECTOR_CODE64  0x33u
#define SELECTOR_CODE32  0x23u
#define SELECTOR_DATA    0x2bu

#define XSTATE_HEADER    512u /* behind the legacy area: XSTATE_BV */
#define XSTATE_YMM       576u
#define XSTATE_ALL       7u /* x87, SSE, AVX */

#define WATCHDOG_SECONDS 2

/* Between the two processes. */
struct shared {
    _Atomic uint32_t posted;   /* batches given */
    _Atomic uint32_t finished; /* batches done */
    _Atomic uint32_t first;    /* where a new child goes on */
    _Atomic uint32_t current;  /* the case being run */
    _Atomic uint32_t count;
    struct isa_case test[NATIVE_BATCH];
    struct isa_result result[NATIVE_BATCH];
};

struct native {
    struct shared *shared;
    int code_fd, memory_fd;
    uint8_t *memory; /* the parent's own view of the memory pages */
    pid_t child;
    bool is_over; /* no child can be made */
};

/* ---- The child ----
 *
 * Nothing here may use thread-local storage (FS points into the test's page) or be
 * instrumented. */

#define BARE __attribute__((no_sanitize("address", "undefined"), no_stack_protector))

static struct {
    struct shared *shared;
    uint8_t *code, *memory; /* writable views */
    uint32_t batch;         /* the one being run */
    uint32_t index;         /* of the case being run */
    bool is_running;        /* false: the first entry */
    unsigned old_offset, old_length;
} child;

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

BARE static void end_case(const ucontext_t *context, int number)
{
    struct isa_result *result = &child.shared->result[child.index];
    const greg_t *greg = context->uc_mcontext.gregs;
    static const uint8_t order[16] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    const uint8_t *xsave = (const uint8_t *)context->uc_mcontext.fpregs;
    uint64_t hash = 0;

    for (unsigned i = 0; i < 16; i++) {
        result->gpr[i] = (uint64_t)greg[order[i]];
    }
    result->rip = (uint64_t)greg[REG_RIP];
    result->flags = (uint64_t)greg[REG_EFL];
    result->vector = (uint32_t)greg[REG_TRAPNO];
    result->error = (uint32_t)greg[REG_ERR];
    result->address = (uint64_t)greg[REG_CR2];
    copy(&result->state.fx, xsave, sizeof(result->state.fx));
    copy(result->state.ymm_high, xsave + XSTATE_YMM, sizeof(result->state.ymm_high));
    if (!(xsave[XSTATE_HEADER] & 4)) {
        fill(result->state.ymm_high, 0, sizeof(result->state.ymm_high));
    }
    for (unsigned i = 0; i < ISA_MEMORY_PAGES; i++) {
        hash = isa_hash(hash, child.memory + i * ISA_PAGE);
    }
    result->memory = hash;
    result->end = number == SIGSYS ? ISA_SYSCALL : ISA_EXCEPTION;
}

BARE static void await_batch(void)
{
    struct shared *shared = child.shared;

    while (atomic_load(&shared->posted) == child.batch) {
        futex(&shared->posted, FUTEX_WAIT, child.batch);
    }
    child.batch = atomic_load(&shared->posted);
    child.index = atomic_load(&shared->first);
}

BARE static void begin_case(ucontext_t *context)
{
    const struct isa_case *test = &child.shared->test[child.index];
    const struct isa_vector *vector = &child.shared->result[child.index].state;
    greg_t *greg = context->uc_mcontext.gregs;
    static const uint8_t order[16] = {
        REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
        REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    uint8_t *xsave = (uint8_t *)context->uc_mcontext.fpregs;
    const uint64_t features = XSTATE_ALL;
    uint64_t selectors = test->bits == 32 ? SELECTOR_CODE32 : SELECTOR_CODE64;

    atomic_store(&child.shared->current, child.index);
    fill(child.code + child.old_offset, ISA_OP_INT3, child.old_length);
    child.old_offset = test->code_offset;
    child.old_length = test->code_length;
    copy(child.code + test->code_offset, test->code, test->code_length);
    copy(child.memory, isa_images[test->image], ISA_MEMORY_SIZE);
    for (unsigned i = 0; i < 16; i++) {
        greg[order[i]] = (greg_t)test->gpr[i];
    }
    greg[REG_RIP] = ISA_CODE + test->code_offset;
    greg[REG_EFL] = (greg_t)(test->flags | 0x202);
    greg[REG_CSGSFS] = (greg_t)(selectors | (uint64_t)SELECTOR_DATA << 48);
    copy(xsave, &vector->fx, offsetof(struct isa_vector, fx.mxcsr_mask));
    copy(xsave + 32, vector->fx.st, sizeof(vector->fx.st) + sizeof(vector->fx.xmm));
    copy(xsave + XSTATE_HEADER, &features, sizeof(features));
    copy(xsave + XSTATE_YMM, vector->ymm_high, sizeof(vector->ymm_high));
}

BARE static void on_signal(int number, siginfo_t *info, void *opaque)
{
    /* The kernel keeps NT and ID across a return from a signal; a case may have set
     * them. */
    __asm__ volatile("pushfq\n\tandq $~0x204000, (%%rsp)\n\tpopfq" ::: "memory", "cc");
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

static bool map_at(uint64_t address, size_t size, int protection, int fd, off_t offset)
{
    void *wanted = (void *)address;

    return mmap(wanted, size, protection, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, offset) ==
           wanted;
}

static bool map_pages(const struct native *native)
{
    const off_t read_only = (ISA_DATA_PAGES - 1) * ISA_PAGE;

    return map_at(ISA_CODE, ISA_CODE_PAGES * ISA_PAGE, PROT_READ | PROT_EXEC,
                  native->code_fd, 0) &&
           map_at(ISA_DATA, (size_t)read_only, PROT_READ | PROT_WRITE, native->memory_fd,
                  0) &&
           map_at(ISA_DATA + (uint64_t)read_only, ISA_PAGE, PROT_READ, native->memory_fd,
                  read_only) &&
           map_at(ISA_STACK, ISA_PAGE, PROT_READ | PROT_WRITE, native->memory_fd,
                  ISA_DATA_PAGES * ISA_PAGE);
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

/* Compatibility mode uses the segment registers that 64-bit mode leaves null; then FS and
 * GS, after which nothing of the C library works. */
BARE static _Noreturn void enter(void)
{
    long result;

    __asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(SELECTOR_DATA));
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_arch_prctl), "D"(ARCH_SET_GS), "S"((long)ISA_GS_BASE)
                     : "rcx", "r11", "memory");
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(SYS_arch_prctl), "D"(ARCH_SET_FS), "S"((long)ISA_FS_BASE)
                     : "rcx", "r11", "memory");
    for (;;) {
        __asm__ volatile("int3");
    }
}

/* Every page has to be there before the first case, or the host's faults show. */
static void touch_pages(void)
{
    volatile uint8_t *data = (volatile uint8_t *)(uintptr_t)ISA_DATA;
    volatile uint8_t *stack = (volatile uint8_t *)(uintptr_t)ISA_STACK;

    for (unsigned i = 0; i + 1 < ISA_DATA_PAGES; i++) {
        data[i * ISA_PAGE] = 0;
    }
    (void)data[(ISA_DATA_PAGES - 1) * ISA_PAGE];
    stack[0] = 0;
}

static _Noreturn void child_main(struct native *native)
{
    const struct rlimit none = {0, 0};

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setrlimit(RLIMIT_CORE, &none);
    child.shared = native->shared;
    child.memory = native->memory;
    child.code = mmap(NULL, ISA_CODE_PAGES * ISA_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
                      native->code_fd, 0);
    /* A new child finds its batch already posted. */
    child.batch = atomic_load(&native->shared->finished);
    if (child.code == MAP_FAILED || !map_pages(native) || !catch_signals() ||
        confine() < 0) {
        perror("isa: the child cannot be set up");
        _exit(1);
    }
    memset(child.code, ISA_OP_INT3, ISA_CODE_PAGES * ISA_PAGE);
    touch_pages();
    enter();
}

/* ---- The parent ---- */

static bool spawn(struct native *native)
{
    fflush(NULL);
    native->child = fork();
    if (native->child == 0) {
        child_main(native);
    }
    if (native->child < 0) {
        perror("isa: cannot fork");
        native->is_over = true;
    }
    return native->child > 0;
}

static void reap(struct native *native)
{
    if (native->child > 0) {
        kill(native->child, SIGKILL);
        waitpid(native->child, NULL, 0);
        native->child = 0;
    }
}

static int memory_file(const char *name, off_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, size) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

struct native *native_runner_new(void)
{
    struct native *native = calloc(1, sizeof(*native));

    if (!native) {
        return NULL;
    }
    native->code_fd = memory_file("isa-code", ISA_CODE_PAGES * ISA_PAGE);
    native->memory_fd = memory_file("isa-memory", ISA_MEMORY_SIZE);
    native->shared = mmap(NULL, sizeof(*native->shared), PROT_READ | PROT_WRITE,
                          MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    native->memory = mmap(NULL, ISA_MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED,
                          native->memory_fd, 0);
    if (native->shared == MAP_FAILED || native->memory == MAP_FAILED || !spawn(native)) {
        perror("isa: no shared memory");
        free(native);
        return NULL;
    }
    return native;
}

void native_runner_free(struct native *native)
{
    if (!native) {
        return;
    }
    reap(native);
    munmap(native->shared, sizeof(*native->shared));
    munmap(native->memory, ISA_MEMORY_SIZE);
    close(native->code_fd);
    close(native->memory_fd);
    free(native);
}

struct isa_case *native_cases(struct native *native)
{
    return native->shared->test;
}

const uint8_t *native_memory(const struct native *native)
{
    return native->memory;
}

void native_start(struct native *native, unsigned count)
{
    struct shared *shared = native->shared;

    for (unsigned i = 0; i < count; i++) {
        shared->result[i].end = ISA_NOT_RUN;
        isa_vector_fill(&shared->result[i].state, &shared->test[i]);
    }
    atomic_store(&shared->count, count);
    atomic_store(&shared->first, 0);
    atomic_store(&shared->current, 0);
    atomic_fetch_add(&shared->posted, 1);
    futex(&shared->posted, FUTEX_WAKE, 1);
}

/* The case on which the child hangs or died gets that as its result. */
static bool replace(struct native *native, enum isa_end end)
{
    struct shared *shared = native->shared;
    uint32_t current = atomic_load(&shared->current);

    reap(native);
    if (current >= atomic_load(&shared->count) ||
        shared->result[current].end == ISA_DIED) {
        fprintf(stderr, "isa: the child dies before it begins\n");
        native->is_over = true;
        return false;
    }
    shared->result[current].end = end;
    atomic_store(&shared->first, current + 1);
    return spawn(native);
}

static time_t seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

const struct isa_result *native_finish(struct native *native)
{
    struct shared *shared = native->shared;
    const struct timespec tick = {1, 0};
    uint32_t batch = atomic_load(&shared->posted);
    uint32_t seen = UINT32_MAX;
    time_t since = 0;

    while (!native->is_over) {
        uint32_t finished = atomic_load(&shared->finished);
        if (finished == batch) {
            return shared->result;
        }
        syscall(SYS_futex, &shared->finished, FUTEX_WAIT, finished, &tick, NULL, 0);
        uint32_t current = atomic_load(&shared->current);
        if (atomic_load(&shared->finished) == batch) {
            continue;
        }
        if (waitpid(native->child, NULL, WNOHANG) == native->child) {
            native->child = 0;
            replace(native, ISA_DIED);
            seen = UINT32_MAX;
        } else if (current != seen) {
            seen = current;
            since = seconds();
        } else if (seconds() - since > WATCHDOG_SECONDS) {
            replace(native, ISA_HUNG);
            seen = UINT32_MAX;
        }
    }
    return NULL;
}

bool native_runs_compat(struct native *native)
{
    struct isa_case *test = native_cases(native);
    static const uint8_t code[] = {0x48, 0xb0,
                                   0x01}; /* 64-bit: mov al; 32: dec eax, ... */

    memset(test, 0, sizeof(*test));
    test->bits = 32;
    test->fcw = 0x37f;
    test->mxcsr = 0x1f80;
    test->code_length = sizeof(code);
    memcpy(test->code, code, sizeof(code));
    native_start(native, 1);
    const struct isa_result *result = native_finish(native);
    return result && result->end == ISA_EXCEPTION && result->vector == 3 &&
           result->gpr[0] == 0xffffff01;
}
