#include "engine/sampler.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/counter.h"

/* No multiple of the ticks of common kernels, 1 and 4 and 10 ms: what happens at each of
 * the guest's ticks must not be met always or never. */
#define INTERVAL_NS 4700000ull

static const char *const names[WHERE_COUNT] = {
    [WHERE_ENGINE] = "engine",           [WHERE_GUEST] = "guest",
    [WHERE_INTERPRETER] = "interpreter", [WHERE_TRANSLATION] = "translation",
    [WHERE_MISS] = "tlb_misses",         [WHERE_DEVICE] = "devices",
};

__thread volatile uint8_t sampler_where;

/* The thread's own; NULL: it is not sampled. */
static __thread struct sampler *current __attribute__((tls_model("initial-exec")));

const char *where_name(enum where where)
{
    return names[where];
}

static void on_sample(int number, siginfo_t *info, void *context)
{
    struct sampler *sampler = current;
    if (!sampler || info->si_code != SI_TIMER) {
        return;
    }
    const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    bool is_guest = (uintptr_t)registers[REG_RIP] - sampler->code < sampler->code_size;
    unsigned where = is_guest ? WHERE_GUEST : sampler_where;
    counter_add(&sampler->samples[where], 1 + (uint64_t)info->si_overrun);
}

static void install(void)
{
    /* On the alternate stack: host code that is the guest's has another use for the
     * stack pointer. */
    struct sigaction action = {.sa_sigaction = on_sample,
                               .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGPROF, &action, NULL);
}

void sampler_begin(struct sampler *sampler)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGPROF};
    event._sigev_un._tid = (pid_t)syscall(SYS_gettid);
    if (timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &sampler->timer) < 0) {
        return;
    }
    sampler->is_running = true;
    current = sampler;
    sigset_t own;
    sigemptyset(&own);
    sigaddset(&own, SIGPROF);
    pthread_sigmask(SIG_UNBLOCK, &own, NULL);
    const struct timespec interval = {.tv_nsec = INTERVAL_NS};
    const struct itimerspec setting = {interval, interval};
    timer_settime(sampler->timer, 0, &setting, NULL);
}

void sampler_end(struct sampler *sampler)
{
    if (sampler->is_running) {
        timer_delete(sampler->timer);
        sampler->is_running = false;
    }
}

uint64_t sampler_ns(const struct sampler *sampler, enum where where)
{
    return counter_get(&sampler->samples[where]) * INTERVAL_NS;
}
