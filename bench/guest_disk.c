/*
 * Runs in a guest: transfers blocks of a disk, past the page cache, and prints how many a
 * second. usage: guest_disk DEVICE SECONDS
 */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RANDOM_FACTOR 6364136223846793005ull

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Transfers a second, of size bytes each, at offsets that follow or are random. */
static double measure(int fd, off_t disk, size_t size, int is_random, int is_write,
                      double seconds)
{
    void *buffer;
    unsigned long long random = 1, count = 0, blocks = (unsigned long long)disk / size;
    if (posix_memalign(&buffer, 4096, size)) {
        return 0;
    }
    memset(buffer, 0x5a, size);
    double start = now(), end;
    do {
        random = random * RANDOM_FACTOR + 1;
        off_t at = (off_t)((is_random ? random >> 33 : count) % blocks * size);
        ssize_t done =
            is_write ? pwrite(fd, buffer, size, at) : pread(fd, buffer, size, at);
        if (done != (ssize_t)size) {
            perror("transfer");
            exit(1);
        }
        count++;
        end = now();
    } while (end - start < seconds);
    free(buffer);
    return (double)count / (end - start);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        size_t size;
        int is_random, is_write;
    } runs[] = {
        {"sequential-read-1M", 1 << 20, 0, 0}, {"sequential-write-1M", 1 << 20, 0, 1},
        {"sequential-read-4K", 4096, 0, 0},    {"sequential-write-4K", 4096, 0, 1},
        {"random-read-4K", 4096, 1, 0},        {"random-write-4K", 4096, 1, 1},
    };
    if (argc != 3) {
        return 2;
    }
    int fd = open(argv[1], O_RDWR | O_DIRECT);
    off_t disk = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    if (disk <= 0) {
        perror(argv[1]);
        return 1;
    }
    for (unsigned i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        printf("%s %.1f\n", runs[i].name,
               measure(fd, disk, runs[i].size, runs[i].is_random, runs[i].is_write,
                       atof(argv[2])));
    }
    puts("disk-done");
    return 0;
}
