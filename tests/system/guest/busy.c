/*
 * What test_busy.py takes snapshots of: a process each for x87, AVX, signals, single
 * steps by TF, ptrace with single steps and a watchpoint, system calls with FS or GS, and
 * page faults, all going on for ever. Says "busy" when it begins, and "failed" if what
 * one of them sees is wrong.
 */
#include <asm/ldt.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static void expect(int is_right, const char *what)
{
    if (!is_right) {
        printf("failed: %s\n", what);
        fflush(stdout);
    }
}

static void run_x87(void)
{
    uint8_t image[512] __attribute__((aligned(64))), environment[28], state[108];
    for (unsigned n = 0;; n++) {
        long double angle = n * 0.37L, sine;
        uint16_t control = n & 64 ? 0x27f : 0x37f;
        __asm__ volatile("fldcw %2\n\tfldt %1\n\tfsin\n\tfstpt %0"
                         : "=m"(sine)
                         : "m"(angle), "m"(control));
        expect(sine >= -1 && sine <= 1, "fsin");
        __asm__ volatile("fldpi\n\tfld1\n\tfxsave %0\n\tfnstenv %1\n\tfldenv %1\n\t"
                         "fnsave %2\n\tfrstor %2\n\tfxrstor %0\n\t"
                         "fstp %%st\n\tfstp %%st\n\tfwait"
                         : "+m"(image), "+m"(environment), "+m"(state));
        if (n % 3 == 0) {
            syscall(SYS_getppid); /* the unit may hold what is the program's */
        }
    }
}

static void run_avx(void)
{
    static float a[8] = {1, 2, 3, 4, 5, 6, 7, 8}, b[8] = {8, 7, 6, 5, 4, 3, 2, 1};
    for (unsigned n = 0; __builtin_cpu_supports("avx2"); n++) {
        uint32_t mxcsr;
        __asm__ volatile(
            "vmovups %0, %%ymm0\n\tvmovups %1, %%ymm1\n\t"
            "vaddps %%ymm0, %%ymm1, %%ymm2\n\tvpaddd %%ymm0, %%ymm2, %%ymm3\n\t"
            "vextractf128 $1, %%ymm3, %%xmm4\n\t"
            "vmaskmovps %%ymm3, %%ymm1, %0\n\tvmovups %%ymm2, %1"
            : "+m"(a), "+m"(b));
        if (n % 3 == 0) {
            __asm__ volatile("vzeroupper");
        }
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        mxcsr ^= 0x6000;
        __asm__ volatile("ldmxcsr %0" : : "m"(mxcsr));
        if (n % 100 == 0) {
            syscall(SYS_getppid);
        }
    }
}

static volatile double product = 1;

static void on_alarm(int number)
{
    product *= 1.0001;
}

static void run_signals(void)
{
    const struct itimerval often = {{0, 1000}, {0, 1000}};
    double sum = 1;
    signal(SIGALRM, on_alarm);
    signal(SIGUSR1, on_alarm);
    setitimer(ITIMER_REAL, &often, NULL);
    for (;;) {
        double before = sum;
        sum = sum * 1.0000001 + 0.1;
        kill(getpid(), SIGUSR1);
        expect(sum > before, "a sum");
        sum = sum > 1e9 ? 1 : sum;
        product = product > 1e9 ? 1 : product;
    }
}

static volatile sig_atomic_t steps;

static void on_step(int number)
{
    steps++;
}

/* From a POPF to another, a system call, x87, and a load of SS, which is not trapped,
 * between. */
static void run_steps(void)
{
    signal(SIGTRAP, on_step);
    for (;;) {
        sig_atomic_t before = steps;
#ifdef __x86_64__
        __asm__ volatile(
            "lea -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\t"
            "nop\n\tmov %0, %%eax\n\tsyscall\n\tfld1\n\tfstp %%st\n\t"
            "mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tnop\n\t"
            "pushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp"
            :
            : "i"(SYS_getpid)
            : "rax", "rcx", "r11", "memory", "cc");
#else
        __asm__ volatile("pushf\n\torl $0x100, (%%esp)\n\tpopf\n\t"
                         "nop\n\tmov %0, %%eax\n\tint $0x80\n\tfld1\n\tfstp %%st\n\t"
                         "mov %%ss, %%eax\n\tmov %%eax, %%ss\n\tnop\n\t"
                         "pushf\n\tandl $~0x100, (%%esp)\n\tpopf"
                         :
                         : "i"(SYS_getpid)
                         : "eax", "memory", "cc");
#endif
        expect(steps - before == 9, "single steps");
        for (volatile unsigned i = 0; i < 2000; i++) {
        }
    }
}

static volatile long watched;

static void be_traced(void)
{
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    for (;;) {
        watched++;
        for (volatile unsigned i = 0; i < 50; i++) {
        }
        syscall(SYS_getppid);
    }
}

static void go_on(pid_t child, int request)
{
    int status;
    ptrace(request, child, 0, 0);
    waitpid(child, &status, 0);
    expect(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP, "a stop under ptrace");
}

static void set_register(pid_t child, unsigned number, uintptr_t value)
{
    size_t offset = offsetof(struct user, u_debugreg) + number * sizeof(long);
    expect(ptrace(PTRACE_POKEUSER, child, offset, value) == 0, "a debug register");
}

static void run_tracer(void)
{
    for (;;) {
        int status;
        pid_t child = fork();
        if (child == 0) {
            be_traced();
        }
        waitpid(child, &status, 0);
        for (unsigned i = 0; i < 300; i++) {
            go_on(child, PTRACE_SINGLESTEP);
        }
        set_register(child, 0, (uintptr_t)&watched);
        set_register(child, 7, 0xd0001); /* writes of four bytes */
        for (unsigned i = 0; i < 100; i++) {
            go_on(child, PTRACE_CONT);
        }
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
}

/* A segment register that belongs to no one else, and its base. */
static void use_segment(unsigned n)
{
#ifdef __x86_64__
    unsigned long base = 0;
    syscall(SYS_arch_prctl, 0x1001, (unsigned long)n * PAGE); /* ARCH_SET_GS */
    syscall(SYS_arch_prctl, 0x1004, &base);                   /* ARCH_GET_GS */
    expect(base == (unsigned long)n * PAGE, "the base of GS");
#else
    static struct user_desc segment = {
        .entry_number = -1, .limit = 0xfffff, .limit_in_pages = 1, .seg_32bit = 1};
    segment.base_addr = n * PAGE;
    expect(syscall(SYS_set_thread_area, &segment) == 0, "a segment");
    uint16_t selector = (uint16_t)(segment.entry_number * 8 + 3), now;
    __asm__ volatile("mov %1, %%fs\n\tmov %%fs, %0" : "=r"(now) : "r"(selector));
    expect(now == selector, "FS");
#endif
}

static void run_calls(void)
{
    int to[2], back[2], status;
    char byte = 1;
    expect(pipe(to) == 0 && pipe(back) == 0, "pipes");
    if (fork() == 0) {
        while (read(to[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) {
        }
        _exit(0);
    }
    for (unsigned n = 0;; n++) {
        struct timespec now;
        expect(write(to[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1, "a pipe");
        clock_gettime(CLOCK_MONOTONIC, &now);
        use_segment(n);
        if (n % 50 == 0) {
            pid_t child = fork();
            if (child == 0) {
                _exit(3);
            }
            waitpid(child, &status, 0);
            expect(WIFEXITED(status) && WEXITSTATUS(status) == 3, "a child");
        }
    }
}

static void on_fault(int number, siginfo_t *info, void *context)
{
    void *page = (void *)((uintptr_t)info->si_addr & -(uintptr_t)PAGE);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
}

static void run_faults(void)
{
    const struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    volatile uint8_t *pages =
        mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(SIGSEGV, &action, NULL);
    for (;;) {
        mprotect((void *)(uintptr_t)pages, 16 * PAGE, PROT_READ);
        for (unsigned i = 0; i < 16; i++) {
            pages[i * PAGE + 7]++;
        }
        expect(pages[7] == pages[15 * PAGE + 7], "pages");
    }
}

int main(void)
{
    static void (*const work[])(void) = {run_x87,    run_avx,   run_signals, run_steps,
                                         run_tracer, run_calls, run_faults};
    for (unsigned i = 0; i < sizeof(work) / sizeof(work[0]); i++) {
        if (fork() == 0) {
            work[i]();
            _exit(0);
        }
    }
    printf("busy\n");
    fflush(stdout);
    for (;;) {
        pause();
    }
}
