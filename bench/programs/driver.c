/*
 * The first program of bench/compare's guest, and on the host the only one in its
 * namespace (then started as "driver native"). It executes the commands that come in on
 * the console, one at a time, and measures them from within:
 *
 *   <- run ID COMMAND...     COMMAND is the shell's
 *   -> @begin ID             the caller reads its clocks, then:
 *   <- go
 *   -> @done ID status N wall NS user US system US length N hash HEX text FIRST LINE
 *
 * length and hash are of all that the command wrote to its output. "quit", or the end of
 * the input, ends the guest.
 */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

#define SCRATCH "/tmp"

struct output {
    uint64_t length, hash; /* FNV-1a */
    char text[200];        /* the first line, or what fits */
    size_t text_length;
};

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

static uint64_t microseconds(struct timeval time)
{
    return (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_usec;
}

static int remove_entry(const char *path, const struct stat *status, int kind,
                        struct FTW *level)
{
    (void)status, (void)kind;
    if (level->level > 0) {
        remove(path);
    }
    return 0;
}

static void output_add(struct output *output, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        output->hash = (output->hash ^ bytes[i]) * 1099511628211u;
        if (output->length + i == output->text_length && bytes[i] >= ' ' &&
            bytes[i] < 127 && output->text_length < sizeof(output->text) - 1) {
            output->text[output->text_length++] = (char)bytes[i];
        }
    }
    output->length += count;
}

static _Noreturn void execute(const char *command, int out)
{
    int null = open("/dev/null", O_RDWR);
    dup2(null, 0);
    dup2(out, 1);
    dup2(out, 2);
    close(out);
    setsid();
    if (chdir(SCRATCH) == 0) {
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    }
    perror("driver: cannot execute /bin/sh");
    _exit(127);
}

static void run(const char *id, const char *command)
{
    char line[16];
    nftw(SCRATCH, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    printf("@begin %s\n", id);
    fflush(stdout);
    if (!fgets(line, sizeof(line), stdin) || strcmp(line, "go\n") != 0) {
        printf("@error expected go\n");
        return;
    }
    int ends[2];
    struct output output = {.hash = 14695981039346656037u};
    uint64_t start = now();
    pid_t child = pipe2(ends, O_CLOEXEC) ? -1 : fork();
    if (child < 0) {
        printf("@error cannot start a process: %s\n", strerror(errno));
        return;
    }
    if (child == 0) {
        execute(command, ends[1]);
    }
    close(ends[1]);
    unsigned char buffer[4096];
    ssize_t count;
    while ((count = read(ends[0], buffer, sizeof(buffer))) > 0) {
        output_add(&output, buffer, (size_t)count);
    }
    close(ends[0]);
    int status;
    struct rusage usage = {0};
    wait4(child, &status, 0, &usage);
    uint64_t wall = now() - start;
    printf("@done %s status %d wall %" PRIu64 " user %" PRIu64 " system %" PRIu64
           " length %" PRIu64 " hash %016" PRIx64 " text %s\n",
           id, WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), wall,
           microseconds(usage.ru_utime), microseconds(usage.ru_stime), output.length,
           output.hash, output.text);
    if (getpid() == 1) { /* what the command left behind */
        while (waitpid(-1, NULL, WNOHANG) > 0) {
        }
    }
}

/* The first line of a small file, or "-". */
static const char *first_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file || !fgets(line, (int)size, file)) {
        snprintf(line, size, "-");
    }
    if (file) {
        fclose(file);
    }
    line[strcspn(line, "\n")] = 0;
    return line;
}

static void mount_all(void)
{
    static const struct {
        const char *type, *path;
    } mounts[] = {{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}};
    for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        if (mount(mounts[i].type, mounts[i].path, mounts[i].type, 0, NULL) &&
            errno != EBUSY) {
            printf("@error cannot mount %s: %s\n", mounts[i].path, strerror(errno));
        }
    }
}

/* Lines as they are: no echo, no change of their ends. */
static void set_up_console(void)
{
    int console = open("/dev/console", O_RDWR);
    struct termios settings;
    if (console < 0 || tcgetattr(console, &settings)) {
        return;
    }
    settings.c_lflag &= ~(tcflag_t)(ECHO | ISIG);
    settings.c_oflag &= ~(tcflag_t)OPOST;
    tcsetattr(console, TCSANOW, &settings);
    for (int i = 0; i < 3; i++) {
        dup2(console, i);
    }
    klogctl(8, NULL, 1); /* SYSLOG_ACTION_CONSOLE_LEVEL: only a panic may break a line */
}

static void announce(void)
{
    char clock[64], meltdown[100];
    printf("@ready processors %ld clock %s meltdown %s\n", sysconf(_SC_NPROCESSORS_ONLN),
           first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource",
                      clock, sizeof(clock)),
           first_line("/sys/devices/system/cpu/vulnerabilities/meltdown", meltdown,
                      sizeof(meltdown)));
}

int main(int argc, char **argv)
{
    bool native = argc > 1 && !strcmp(argv[1], "native");
    static char line[8192];
    if (!native) {
        mount_all();
        set_up_console();
    }
    setvbuf(stdout, NULL, _IOFBF, 4096);
    setenv("PATH", "/usr/bin:/bin:/usr/sbin", 1);
    setenv("HOME", SCRATCH, 1);
    setenv("LC_ALL", "C.UTF-8", 1);
    setenv("PYTHONHASHSEED", "0", 1);
    announce();
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin) && strcmp(line, "quit\n") != 0) {
        char id[64];
        int command = 0;
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "run %63s %n", id, &command) == 1 && command) {
            run(id, line + command);
        } else {
            printf("@error unknown command: %s\n", line);
        }
        fflush(stdout);
    }
    if (!native) {
        sync();
        reboot(RB_POWER_OFF);
    }
    return 0;
}
