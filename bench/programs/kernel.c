/* What a system does for its programs: calls, processes, memory, signals, time. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

#define PAGE 4096

static void *map_pages(size_t size)
{
    void *memory =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        work_fail("mmap");
    }
    return memory;
}

uint64_t syscall_run(uint64_t rounds)
{
    uint64_t parent = (uint64_t)getppid(), same = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        same += (uint64_t)syscall(SYS_getppid) == parent;
    }
    return same;
}

static uint64_t wait_for(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) != child) {
        work_fail("waitpid");
    }
    return (uint64_t)status >> 8;
}

uint64_t fork_run(uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        pid_t child = fork();
        if (child < 0) {
            work_fail("fork");
        }
        if (child == 0) {
            _exit(i & 63);
        }
        sum += wait_for(child);
    }
    return sum;
}

uint64_t exec_run(uint64_t rounds)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        pid_t child = fork();
        if (child < 0) {
            work_fail("fork");
        }
        if (child == 0) {
            execl("/proc/self/exe", "work", "nothing", (char *)NULL);
            _exit(99);
        }
        sum += wait_for(child) == 0;
    }
    return sum;
}

/* What comes in goes out again, one more, until the other end closes. */
static _Noreturn void echo_bytes(int in, int out)
{
    unsigned char byte;
    while (read(in, &byte, 1) == 1) {
        byte++;
        if (write(out, &byte, 1) != 1) {
            break;
        }
    }
    _exit(0);
}

uint64_t pipe_run(uint64_t rounds)
{
    int there[2], back[2];
    if (pipe(there) || pipe(back)) {
        work_fail("pipe");
    }
    pid_t child = fork();
    if (child < 0) {
        work_fail("fork");
    }
    if (child == 0) {
        close(there[1]);
        close(back[0]);
        echo_bytes(there[0], back[1]);
    }
    uint64_t sum = 0;
    unsigned char byte = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        if (write(there[1], &byte, 1) != 1 || read(back[0], &byte, 1) != 1) {
            work_fail("pipe");
        }
        sum += byte;
    }
    close(there[1]);
    return sum + wait_for(child);
}

/* Both on one processor, or there is nothing to switch between. */
uint64_t switch_run(uint64_t rounds)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    if (sched_setaffinity(0, sizeof(one), &one)) {
        work_fail("sched_setaffinity");
    }
    pid_t child = fork();
    if (child < 0) {
        work_fail("fork");
    }
    for (uint64_t i = 0; i < rounds; i++) {
        sched_yield();
    }
    if (child == 0) {
        _exit(5);
    }
    return wait_for(child);
}

uint64_t fault_run(uint64_t rounds)
{
    enum { PAGES = 2048 };
    unsigned char *memory = map_pages(PAGES * PAGE);
    uint64_t sum = 0;
    if (madvise(memory, PAGES * PAGE, MADV_NOHUGEPAGE) && errno != EINVAL) {
        work_fail("madvise"); /* EINVAL: a kernel without huge pages */
    }
    for (uint64_t i = 0; i < rounds; i++) {
        unsigned char *page = memory + i % PAGES * PAGE;
        sum += *page + 1u;
        *page = 1;
        if (i % PAGES == PAGES - 1 && madvise(memory, PAGES * PAGE, MADV_DONTNEED)) {
            work_fail("madvise");
        }
    }
    munmap(memory, PAGES * PAGE);
    return sum;
}

uint64_t map_run(uint64_t rounds)
{
    enum { SIZE = 64 * 1024 };
    uint64_t sum = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        unsigned char *memory = map_pages(SIZE);
        for (int j = 0; j < SIZE; j += PAGE) {
            memory[j] = (unsigned char)(i + 1);
            sum += memory[j];
        }
        if (munmap(memory, SIZE)) {
            work_fail("munmap");
        }
    }
    return sum;
}

static volatile uint64_t signals;

static void count_signal(int number)
{
    signals += (uint64_t)number;
}

uint64_t signal_run(uint64_t rounds)
{
    struct sigaction action = {.sa_handler = count_signal};
    sigaction(SIGUSR1, &action, NULL);
    pid_t self = getpid();
    for (uint64_t i = 0; i < rounds; i++) {
        kill(self, SIGUSR1);
    }
    return signals;
}

static unsigned char *protected;

static void allow_writing(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    if ((unsigned char *)info->si_addr != protected ||
        mprotect(protected, PAGE, PROT_READ | PROT_WRITE)) {
        _exit(98);
    }
    signals++;
}

uint64_t protect_run(uint64_t rounds)
{
    struct sigaction action = {.sa_sigaction = allow_writing, .sa_flags = SA_SIGINFO};
    protected = map_pages(PAGE);
    sigaction(SIGSEGV, &action, NULL);
    for (uint64_t i = 0; i < rounds; i++) {
        if (mprotect(protected, PAGE, PROT_READ)) {
            work_fail("mprotect");
        }
        *(volatile unsigned char *)protected += 1;
    }
    return signals * 1000 + *protected;
}

uint64_t clock_run(uint64_t rounds)
{
    struct timespec before = {0}, now;
    uint64_t backwards = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        if (clock_gettime(CLOCK_MONOTONIC, &now)) {
            work_fail("clock_gettime");
        }
        backwards += now.tv_sec < before.tv_sec ||
                     (now.tv_sec == before.tv_sec && now.tv_nsec < before.tv_nsec);
        before = now;
    }
    return backwards; /* 0 everywhere */
}
