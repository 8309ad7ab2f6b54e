/* The asymmetric barrier: two threads that never both miss what the other stored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/barrier.h"

#define ROUNDS 2000

/* Each side stores its own and looks at the other's; a round in which both saw nothing is
 * what the barrier excludes. */
struct duel {
    _Atomic int round;        /* begun by the heavy side */
    _Atomic int finished;     /* by the light side */
    _Atomic int light, heavy; /* the round stored by each */
    _Atomic bool light_missed;
};

/* The other thread may want this very processor. */
static void wait_for(_Atomic int *counter, int round)
{
    for (int spins = 1; atomic_load_explicit(counter, memory_order_acquire) < round;
         spins++) {
        if (spins % 4096 == 0) {
            sched_yield();
        }
    }
}

static void *light_side(void *opaque)
{
    struct duel *duel = opaque;
    for (int round = 1; round <= ROUNDS; round++) {
        wait_for(&duel->round, round);
        atomic_store_explicit(&duel->light, round, memory_order_relaxed);
        barrier_light();
        int seen = atomic_load_explicit(&duel->heavy, memory_order_relaxed);
        atomic_store_explicit(&duel->light_missed, seen < round, memory_order_relaxed);
        atomic_store_explicit(&duel->finished, round, memory_order_release);
    }
    return NULL;
}

/* The number of rounds in which both missed, or -1. */
static int run_duel(void)
{
    struct duel duel = {0};
    pthread_t thread;
    int both_missed = 0;
    if (pthread_create(&thread, NULL, light_side, &duel) != 0) {
        return -1;
    }
    for (int round = 1; round <= ROUNDS; round++) {
        atomic_store_explicit(&duel.round, round, memory_order_release);
        atomic_store_explicit(&duel.heavy, round, memory_order_relaxed);
        barrier_all_threads();
        bool missed = atomic_load_explicit(&duel.light, memory_order_relaxed) < round;
        wait_for(&duel.finished, round);
        both_missed += missed && duel.light_missed;
    }
    pthread_join(thread, NULL);
    return both_missed;
}

/* From here on membarrier(2) fails with EPERM. */
static bool refuse_membarrier(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_membarrier, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* Runs the duel in a child, which refuses itself the system call before the barrier's
 * first use or after it. */
static int duel_without_membarrier(bool used_before)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(20);
        if (used_before) {
            barrier_all_threads();
        }
        if (!refuse_membarrier()) {
            _exit(77);
        }
        _exit(run_duel() == 0 ? 0 : 1);
    }
    int status = -1;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 99;
}

static void test_fallback(void **unused)
{
    int before = duel_without_membarrier(false);
    if (before == 77) {
        print_message("no seccomp here\n");
        skip();
    }
    assert_int_equal(before, 0);
    assert_int_equal(duel_without_membarrier(true), 0);
}

static void test_never_both_miss(void **unused)
{
    assert_int_equal(run_duel(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fallback), /* first: the child must not inherit its use */
        cmocka_unit_test(test_never_both_miss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
