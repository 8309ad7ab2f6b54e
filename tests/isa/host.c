#include "host.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bare.h"

#define HUNG_NS         60000000l /* processor time that no case needs */
#define ASLEEP_TICKS    250       /* of 20 ms at whose ends the program slept */
#define HWCAP2_FSGSBASE (1u << 1)

struct host {
    const char *program;
    struct bare_shared *shared;
    int shared_fd, pages_fd;
    pid_t child;
    bool is_over; /* no program can be started */
};

static _Noreturn void become(const struct host *host)
{
    char *const argv[] = {(char *)host->program, NULL}, *const none[] = {NULL};

    /* Above the two places first: they may be in each other's. */
    int shared = fcntl(host->shared_fd, F_DUPFD, 10);
    int pages = fcntl(host->pages_fd, F_DUPFD, 10);
    if (dup2(shared, BARE_SHARED_FD) >= 0 && dup2(pages, BARE_PAGES_FD) >= 0) {
        close_range(BARE_PAGES_FD + 1, ~0u, 0);
        execve(host->program, argv, none);
    }
    perror(host->program);
    _exit(127);
}

static bool spawn(struct host *host)
{
    fflush(NULL);
    host->child = fork();
    if (host->child == 0) {
        become(host);
    }
    if (host->child < 0) {
        perror("isa: cannot fork");
        host->is_over = true;
    }
    return host->child > 0;
}

static void reap(struct host *host)
{
    if (host->child > 0) {
        kill(host->child, SIGKILL);
        waitpid(host->child, NULL, 0);
        host->child = 0;
    }
}

static int memory_file(const char *name, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fd >= 0 && ftruncate(fd, (off_t)size) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}

struct host *host_new(const char *program)
{
    struct host *host = calloc(1, sizeof(*host));

    if (!host) {
        return NULL;
    }
    host->program = program;
    host->pages_fd = memory_file("isa-pages", ISA_PAGES * ISA_PAGE);
    host->shared_fd = memory_file("isa-shared", sizeof(*host->shared));
    host->shared = mmap(NULL, sizeof(*host->shared), PROT_READ | PROT_WRITE, MAP_SHARED,
                        host->shared_fd, 0);
    if (host->shared == MAP_FAILED || host->pages_fd < 0 || !spawn(host)) {
        perror("isa: no shared memory");
        host_free(host);
        return NULL;
    }
    return host;
}

void host_free(struct host *host)
{
    if (!host) {
        return;
    }
    reap(host);
    if (host->shared != MAP_FAILED) {
        munmap(host->shared, sizeof(*host->shared));
    }
    close(host->pages_fd);
    close(host->shared_fd);
    free(host);
}

void host_start(struct host *host, const struct isa_input *inputs, unsigned count)
{
    struct bare_shared *shared = host->shared;

    memcpy(shared->input, inputs, count * sizeof(*inputs));
    for (unsigned i = 0; i < count; i++) {
        shared->result[i].end = ISA_NOT_RUN;
    }
    atomic_store(&shared->count, count);
    atomic_store(&shared->first, 0);
    atomic_store(&shared->current, 0);
    atomic_fetch_add(&shared->posted, 1);
    syscall(SYS_futex, &shared->posted, FUTEX_WAKE, 1, NULL, NULL, 0);
}

/* The case on which the program hangs or died gets that as its result. */
static bool replace(struct host *host, enum isa_end end)
{
    struct bare_shared *shared = host->shared;
    uint32_t current = atomic_load(&shared->current);

    reap(host);
    if (current >= atomic_load(&shared->count) ||
        shared->result[current].end == ISA_DIED) {
        fprintf(stderr, "isa: %s dies before it begins\n", host->program);
        host->is_over = true;
        return false;
    }
    shared->result[current].end = end;
    atomic_store(&shared->first, current + 1);
    return spawn(host);
}

/* Processor time, in nanoseconds: a program that waits for its turn does not hang. */
static int64_t used(const struct host *host)
{
    struct timespec time = {0};
    clockid_t clock;

    if (clock_getcpuclockid(host->child, &clock) != 0 ||
        clock_gettime(clock, &time) < 0) {
        return 0;
    }
    return time.tv_sec * 1000000000l + time.tv_nsec;
}

/* Does the program sleep? Its cases do so where the host's kernel makes them, which it
 * does for 10 ms at each access that it takes for a split lock, for ever if it is none
 * (IRET at a misaligned stack that loads AC). */
static bool is_asleep(const struct host *host)
{
    char path[32], text[256] = "";
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)host->child);
    FILE *file = fopen(path, "r");
    if (!file) {
        return false;
    }
    size_t size = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[size] = 0;
    const char *name_end = strrchr(text, ')');
    return name_end && strncmp(name_end, ") S", 3) == 0;
}

bool host_finish(struct host *host)
{
    struct bare_shared *shared = host->shared;
    const struct timespec tick = {0, 20000000};
    uint32_t batch = atomic_load(&shared->posted);
    uint32_t seen = UINT32_MAX;
    int64_t since = 0;
    unsigned asleep = 0;

    while (!host->is_over) {
        uint32_t finished = atomic_load(&shared->finished);
        if (finished == batch) {
            return true;
        }
        syscall(SYS_futex, &shared->finished, FUTEX_WAIT, finished, &tick, NULL, 0);
        uint32_t current = atomic_load(&shared->current);
        if (atomic_load(&shared->finished) == batch) {
            continue;
        }
        if (waitpid(host->child, NULL, WNOHANG) == host->child) {
            host->child = 0;
            replace(host, ISA_DIED);
            seen = UINT32_MAX;
        } else if (current != seen) {
            seen = current;
            since = used(host);
            asleep = 0;
        } else if (is_asleep(host)) {
            /* Not in the case's code: its processor time is the kernel's. */
            since = used(host);
            if (++asleep > ASLEEP_TICKS) {
                replace(host, ISA_DIED);
                seen = UINT32_MAX;
            }
        } else if (used(host) - since > HUNG_NS) {
            replace(host, ISA_HUNG);
            seen = UINT32_MAX;
        }
    }
    return false;
}

const struct isa_result *host_result(const struct host *host, unsigned index)
{
    return &host->shared->result[index];
}

const uint8_t *host_memory(const struct host *host, unsigned index)
{
    return host->shared->memory[index];
}

bool host_runs(struct host *host, unsigned bits)
{
    /* 64-bit: mov al, 1; 32-bit: dec eax, then that; 16-bit: dec ax. */
    struct isa_input input = {.test = {.bits = (uint8_t)bits,
                                       .fcw = 0x37f,
                                       .mxcsr = 0x1f80,
                                       .code_length = 3,
                                       .code = {0x48, 0xb0, 0x01}}};

    isa_input_complete(&input);
    host_start(host, &input, 1);
    if (!host_finish(host)) {
        return false;
    }
    const struct isa_result *result = host_result(host, 0);
    return result->end == ISA_EXCEPTION && result->exception == 3 &&
           result->gpr[0] == (bits == 32 ? 0xffffff01 : 0xff01);
}

bool host_shows_bases(void)
{
    return getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE;
}

uint64_t host_processor_segment(void)
{
    uint32_t rights = 0;

    __asm__("lar %1, %0" : "+r"(rights) : "r"(0x7b) : "cc");
    return (uint64_t)rights << 32;
}
