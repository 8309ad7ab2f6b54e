/*
 * Runs a fuzz target without libFuzzer, so that every build exercises it: first the files
 * of its corpus, then pseudo-random inputs and mutations of the corpus, the same at every
 * run. If the target dies, the number of the input is printed:
 *
 *     fuzz_x [--first N] [--runs N] [FILE | FOLDER]...
 */

#include <dirent.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "input.h"

#define DEFAULT_RUNS 20000
#define SIZE_MAX_RUN 1024
#define FILES_MAX    4096

struct file {
    char *path;
    uint8_t *data;
    size_t size;
};

static struct file files[FILES_MAX];
static unsigned file_count;

/* What is being run, for the signal handler. */
static char current[512];

static void describe(const char *what, unsigned long number)
{
    snprintf(current, sizeof(current), "fuzz driver: died in %s %lu\n", what, number);
}

static void on_death(int signal)
{
    ssize_t ignored = write(STDERR_FILENO, current, strlen(current));

    (void)ignored;
    raise(signal); /* the default action now: SA_RESETHAND */
}

static void catch_deaths(void)
{
    static const int signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
    struct sigaction action = {.sa_handler = on_death,
                               .sa_flags = SA_RESETHAND | SA_NODEFER};

    for (unsigned i = 0; i < sizeof(signals) / sizeof(signals[0]); i++) {
        sigaction(signals[i], &action, NULL);
    }
}

static int add_file(const char *path)
{
    struct file *file = &files[file_count];
    FILE *stream = fopen(path, "rb");
    struct stat status;

    if (!stream || fstat(fileno(stream), &status) < 0 || file_count == FILES_MAX) {
        fprintf(stderr, "fuzz driver: cannot read %s\n", path);
        return -1;
    }
    file->path = strdup(path);
    file->size = (size_t)status.st_size;
    file->data = malloc(file->size + 1);
    bool done = fread(file->data, 1, file->size, stream) == file->size;
    fclose(stream);
    file_count++;
    return done ? 0 : -1;
}

static int not_hidden(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int add_path(const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, not_hidden, alphasort), result = 0;

    if (count < 0) {
        return add_file(path);
    }
    for (int i = 0; i < count; i++) {
        char name[4096];

        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        result |= add_file(name);
        free(entries[i]);
    }
    free(entries);
    return result;
}

/* splitmix64: good enough bits from any seed. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ull;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* A copy of exactly the size, so that AddressSanitizer sees the first byte beyond it. */
static void run_copy(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1);

    if (size) {
        memcpy(copy, data, size);
    }
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
}

/* Input number n depends on n alone. */
static void run_random(unsigned long n)
{
    static uint8_t buffer[SIZE_MAX_RUN];
    uint64_t state = n * 0x2545f4914f6cdd1dull + 1;
    size_t size = next_random(&state) % (SIZE_MAX_RUN + 1);

    for (size_t i = 0; i < size; i++) {
        buffer[i] = (uint8_t)next_random(&state);
    }
    if (file_count && n % 2) {
        const struct file *seed = &files[next_random(&state) % file_count];

        size = seed->size < SIZE_MAX_RUN ? seed->size : SIZE_MAX_RUN;
        memcpy(buffer, seed->data, size);
        for (uint64_t i = next_random(&state) % 8 + 1; size && i > 0; i--) {
            uint64_t random = next_random(&state);

            buffer[random % size] ^= (uint8_t)(1u << (random >> 32) % 8);
        }
    }
    run_copy(buffer, size);
}

int main(int argc, char **argv)
{
    unsigned long first = 0, runs = DEFAULT_RUNS;

    for (int i = 1; i < argc; i++) {
        if (i + 1 < argc && !strcmp(argv[i], "--first")) {
            first = strtoul(argv[++i], NULL, 0);
        } else if (i + 1 < argc && !strcmp(argv[i], "--runs")) {
            runs = strtoul(argv[++i], NULL, 0);
        } else if (add_path(argv[i]) < 0) {
            return 1;
        }
    }
    catch_deaths();
    for (unsigned i = 0; i < file_count; i++) {
        snprintf(current, sizeof(current), "fuzz driver: died in %s\n", files[i].path);
        run_copy(files[i].data, files[i].size);
    }
    for (unsigned long n = first; n < first + runs; n++) {
        describe("input --first", n);
        run_random(n);
    }
    printf("%u files and %lu inputs\n", file_count, runs);
    for (unsigned i = 0; i < file_count; i++) {
        free(files[i].path);
        free(files[i].data);
    }
    return 0;
}
