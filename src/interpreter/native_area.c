#include "interpreter/native_area.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/scope.h"

/* Address ranges of executable areas, searched by the signal handler without a lock. */
#define AREAS_MAX 512

static _Atomic uintptr_t areas[AREAS_MAX];
static struct sigaction previous;

static uintptr_t area_of(uintptr_t rip)
{
    for (unsigned i = 0; i < AREAS_MAX; i++) {
        uintptr_t start = areas[i];
        if (start != 0 && rip - start < AREA_SIZE) {
            return start;
        }
    }
    return 0;
}

/* Not ours: to whoever had the signal before. */
static void forward(int number, siginfo_t *info, void *context)
{
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
        /* Returning executes the instruction again, now without a handler. */
        sigaction(number, &previous, NULL);
    } else {
        previous.sa_handler(number);
    }
}

/* The kernel saved the guest's MXCSR, flags of the exception included, and restores it on
 * return: the fault exit stores it. */
static void on_sigfpe(int number, siginfo_t *info, void *context)
{
    greg_t *rip = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    uintptr_t area = area_of((uintptr_t)*rip);
    if (area != 0) {
        *rip = (greg_t)(area + AREA_EXIT_FAULT);
    } else {
        forward(number, info, context);
    }
}

static void install_handler(void)
{
    struct sigaction action = {.sa_sigaction = on_sigfpe,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigemptyset(&action.sa_mask);
    sigaction(SIGFPE, &action, &previous);
}

static bool register_area(struct native *native)
{
    for (unsigned i = 0; i < AREAS_MAX; i++) {
        uintptr_t empty = 0;
        if (__atomic_compare_exchange_n((uintptr_t *)&areas[i], &empty,
                                        (uintptr_t)native->execute, false,
                                        __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            native->slot = i;
            return true;
        }
    }
    return false;
}

static int map_area(struct native *native, struct error *err)
{
    SCOPE_FD int fd = memfd_create("doppel-stubs", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, AREA_SIZE) < 0) {
        return fail(err, errno, "cannot make memory for native code");
    }
    native->write = mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (native->write == MAP_FAILED) {
        native->write = NULL;
        return fail(err, errno, "cannot map memory for native code");
    }
    void *execute = mmap(NULL, AREA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (execute == MAP_FAILED) {
        return fail(err, errno,
                    "cannot map memory for native code as executable (a security policy "
                    "may forbid it)");
    }
    native->execute = execute;
    return 0;
}

/* SDM 3A 15.6: an unmasked SIMD exception is #XM if the system announced that it handles
 * those, else #UD. */
static const struct insn *raise_simd(struct cpu *cpu, const struct insn *insn)
{
    bool handled = cpu->state.cr4 & X86_CR4_OSXMMEXCPT;
    return insn_raise(cpu, insn, handled ? X86_XM : X86_UD, 0);
}

static const struct insn *closed_sse(struct cpu *cpu, const struct insn *insn)
{
    native_check_sse(cpu);
    return insn_fault(cpu, insn);
}

static const struct insn *closed_avx(struct cpu *cpu, const struct insn *insn)
{
    native_check_avx(cpu);
    return insn_fault(cpu, insn);
}

static void write_header(struct native *native)
{
    uint32_t mxcsr = MXCSR_HOST;
    memcpy(native->write + AREA_MXCSR, &mxcsr, sizeof(mxcsr));
    native_stub_exit(native, AREA_EXIT_FAULT, raise_simd, true);
    native_stub_exit(native, AREA_EXIT_SSE, closed_sse, false);
    native_stub_exit(native, AREA_EXIT_AVX, closed_avx, false);
    native->used = AREA_STUBS;
}

struct native *native_new(struct error *err)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install_handler);
    struct native *native = aligned_alloc(64, (sizeof(*native) + 63) & ~(size_t)63);
    if (native == NULL) {
        fail(err, ENOMEM, "cannot make a store of native code");
        return NULL;
    }
    memset(native, 0, sizeof(*native));
    native->slot = AREAS_MAX;
    native->table = calloc(STUB_TABLE, sizeof(*native->table));
    if (native->table == NULL) {
        fail(err, ENOMEM, "cannot make a store of native code");
        native_free(native);
        return NULL;
    }
    if (map_area(native, err) < 0) {
        native_free(native);
        return NULL;
    }
    if (!register_area(native)) {
        fail_plain(err, ENOSPC, "more than %d processors in one process", AREAS_MAX);
        native_free(native);
        return NULL;
    }
    write_header(native);
    return native;
}

void native_free(struct native *native)
{
    if (native == NULL) {
        return;
    }
    if (native->slot < AREAS_MAX) {
        areas[native->slot] = 0;
    }
    if (native->execute != NULL) {
        munmap((void *)(uintptr_t)native->execute, AREA_SIZE);
    }
    if (native->write != NULL) {
        munmap(native->write, AREA_SIZE);
    }
    free(native->table);
    free(native);
}

unsigned native_used(const struct native *native)
{
    return native->used;
}
