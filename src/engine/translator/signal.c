/*
 * Faults of translated code. What may not be divided, must be aligned and is not, or asks
 * the x87 for what it cannot do faults on the host where it would on the guest: the
 * instruction is left to the interpreter, which raises the guest's fault. A full return
 * stack begins anew. A head that is to be left, for attention is wanted, reads where
 * nobody can.
 */
#include "engine/translator/run.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <ucontext.h>

#include "base/fatal.h"
#include "base/scope.h"

#define CACHES_MAX 16

static const struct code_cache *_Atomic caches[CACHES_MAX];

static const int numbers[] = {SIGFPE, SIGSEGV, SIGBUS};
static struct sigaction previous[array_size(numbers)];

static void forward(int number, siginfo_t *info, void *context)
{
    for (unsigned i = 0; i < array_size(numbers); i++) {
        if (numbers[i] != number) {
            continue;
        }
        const struct sigaction *before = &previous[i];
        if (before->sa_flags & SA_SIGINFO) {
            before->sa_sigaction(number, info, context);
        } else if (before->sa_handler == SIG_DFL || before->sa_handler == SIG_IGN) {
            fatal_run_hook();
            /* A fault happens again, now without a handler. */
            sigaction(number, before, NULL);
            if (info->si_code <= 0) {
                raise(number);
            }
        } else {
            before->sa_handler(number);
        }
    }
}

static const struct code_cache *cache_of(uintptr_t address)
{
    for (unsigned i = 0; i < CACHES_MAX; i++) {
        const struct code_cache *cache = caches[i];
        if (cache && address - (uintptr_t)cache->execute < cache->size) {
            return cache;
        }
    }
    return NULL;
}

/* Does a CALL, or a PUSH before it, lack room? The guard lies below the stack. */
static bool is_stack_full(const greg_t *registers, uintptr_t address)
{
    uintptr_t rsp = (uintptr_t)registers[REG_RSP];
    return rsp - address <= 16 && translator_frame.stack_base - rsp <= RETURN_STACK_SIZE;
}

/* Did the head of a block read where frame.poll says? */
static bool is_poll(const struct code_cache *cache, const struct block *block,
                    uintptr_t rip)
{
    uint32_t place = block->patch[0].place + HEAD_POLL_SIZE;
    return rip == (uintptr_t)code_address(cache, place);
}

static bool recover(greg_t *registers, uintptr_t address, int number)
{
    uintptr_t rip = (uintptr_t)registers[REG_RIP];
    const struct code_cache *cache = cache_of(rip);
    if (!cache) {
        return false;
    }
    if (number == SIGSEGV && is_stack_full(registers, address)) {
        registers[REG_RSP] = (greg_t)translator_frame.stack_base;
        return true;
    }
    unsigned ordinal;
    const struct block *block = code_at(cache, rip, &ordinal);
    if (!block) {
        return false;
    }
    if (is_poll(cache, block, rip)) {
        registers[REG_RIP] =
            (greg_t)(uintptr_t)code_address(cache, block->patch[0].target);
        return true;
    }
    bool from_host = block->insn[ordinal].host_flags & INSN_FLAGS_FAULT;
    translator_frame.exit_info = EXIT_INFO(block->number, ordinal);
    registers[REG_RIP] =
        (greg_t)(uintptr_t)code_address(cache, cache->leave[LEAVE_INTERPRET][from_host]);
    return true;
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    /* What somebody sends is not a fault (sigaction(2): si_code). */
    bool is_fault = info->si_code > 0;
    if (!is_fault || !recover(registers, (uintptr_t)info->si_addr, number)) {
        forward(number, info, context);
    }
}

/* Once, and again where somebody has put another handler there since. */
static void install(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction action = {.sa_sigaction = on_fault,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&lock);
    for (unsigned i = 0; i < array_size(numbers); i++) {
        struct sigaction now;
        sigaction(numbers[i], NULL, &now);
        if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_fault) {
            previous[i] = now;
            sigaction(numbers[i], &action, NULL);
        }
    }
    pthread_mutex_unlock(&lock);
}

int signal_watch_cache(const struct code_cache *cache, struct error *err)
{
    install();
    for (unsigned i = 0; i < CACHES_MAX; i++) {
        const struct code_cache *none = NULL;
        if (atomic_compare_exchange_strong(&caches[i], &none, cache)) {
            return 0;
        }
    }
    return fail_plain(err, ENOSPC, "more than %d code caches in one process", CACHES_MAX);
}

void signal_forget_cache(const struct code_cache *cache)
{
    for (unsigned i = 0; i < CACHES_MAX; i++) {
        const struct code_cache *same = cache;
        atomic_compare_exchange_strong(&caches[i], &same, NULL);
    }
}

void signal_prepare_thread(struct translator_cpu *translator)
{
    stack_t now;
    if (sigaltstack(NULL, &now) == 0 && !(now.ss_flags & SS_DISABLE)) {
        return; /* a sanitizer's, or the thread's own */
    }
    stack_t stack = {.ss_sp = translator->signal_stack, .ss_size = SIGNAL_STACK_SIZE};
    sigaltstack(&stack, NULL);
}
