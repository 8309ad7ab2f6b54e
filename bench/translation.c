/*
 * What translating guest code costs, without a guest: the code of an ELF file's
 * executable segment is translated block by block, from its beginning to its end, as
 * position-independent code of users or as a kernel's. Each round translates all of it;
 * the first learns the kinds of instructions. --cold: before each block as much memory is
 * read as drives the host's nearer caches out, as a guest does between two blocks. The
 * hash is that of the code made: two builds that make the same code print the same.
 *
 *     bench_translation [--kernel] [--cold KIB] [--rounds N] [--limit KIB] FILE
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <x86intrin.h>
#include <xxhash.h>

#include "base/scope.h"
#include "engine/translator/emit.h"
#include "interpreter/insn.h"

#define CODE_SIZE (64u << 20)

struct bench {
    struct memory *memory;
    struct code_cache *cache;
    struct cpuid_policy cpuid;
    struct cpu *cpu;
    unsigned mode;
    frame_t frame;
    uint64_t page; /* linear address of the first */
    size_t size;   /* of the code */
    uint64_t *cold;
    size_t cold_words, cold_at;
};

struct total {
    uint64_t blocks, insns, code, tables, ticks, hash;
};

/* ---- code ------------------------------------------------------------------------- */

static const uint8_t *map_file(const char *path, size_t *size)
{
    SCOPE_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status)) {
        return NULL;
    }
    *size = (size_t)status.st_size;
    const void *file = mmap(NULL, *size, PROT_READ, MAP_PRIVATE, fd, 0);
    return file == MAP_FAILED ? NULL : file;
}

/* The first executable segment; NULL: there is none. */
static const Elf64_Phdr *find_code(const uint8_t *file, size_t size)
{
    const Elf64_Ehdr *header = (const void *)file;
    if (size < sizeof(*header) || memcmp(file, ELFMAG, SELFMAG) != 0 ||
        header->e_machine != EM_X86_64 || header->e_phoff > size ||
        header->e_phnum > (size - header->e_phoff) / sizeof(Elf64_Phdr)) {
        return NULL;
    }
    const Elf64_Phdr *segment = (const void *)(file + header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++) {
        if (segment[i].p_type == PT_LOAD && segment[i].p_flags & PF_X &&
            segment[i].p_offset <= size &&
            segment[i].p_filesz <= size - segment[i].p_offset) {
            return &segment[i];
        }
    }
    return NULL;
}

static int load(struct bench *bench, const char *path, size_t limit, struct error *err)
{
    size_t size;
    const uint8_t *file = map_file(path, &size);
    if (!file) {
        return fail(err, errno, "cannot read %s", path);
    }
    const Elf64_Phdr *code = find_code(file, size);
    if (!code) {
        return fail(err, ENOEXEC, "%s is no ELF file with 64-bit code", path);
    }
    bench->size = code->p_filesz < limit ? code->p_filesz : limit;
    bench->page = code->p_vaddr & -(uint64_t)FRAME_SIZE;
    uint64_t room = (bench->size + 2 * FRAME_SIZE) & -(uint64_t)FRAME_SIZE;
    bench->memory = memory_new(room, err);
    if (!bench->memory) {
        return -ENOMEM;
    }
    int64_t frame = memory_add_frames(bench->memory, room, err);
    if (frame < 0) {
        return (int)frame;
    }
    bench->frame = (frame_t)frame;
    memcpy(memory_host(bench->memory, bench->frame), file + code->p_offset, bench->size);
    munmap((void *)(uintptr_t)file, size);
    bench->cache =
        code_cache_new(bench->memory, &bench->cpuid, CODE_SIZE, false, false, err);
    return bench->cache ? 0 : -ENOMEM;
}

/* ---- rounds ----------------------------------------------------------------------- */

static void make_cold(struct bench *bench)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < bench->cold_words; i += 8) {
        sum += bench->cold[i];
    }
    bench->cold_at += sum; /* so that it is not in vain */
}

static struct code_place place_at(const struct bench *bench, size_t offset)
{
    struct code_place place = {
        .frame = bench->frame + (frame_t)(offset / FRAME_SIZE),
        .next = FRAME_NONE,
        .offset = offset % FRAME_SIZE,
        .mode = (uint8_t)bench->mode,
        .page = bench->page + (offset & -(size_t)FRAME_SIZE),
    };
    if (code_crosses(bench->cache, &place, place.offset)) {
        place.next = place.frame + 1;
    }
    return place;
}

/* Behind a block's last instruction. */
static size_t end_of(const struct block *block)
{
    const struct block_insn *last = &block->insn[block->count - 1];
    return last->offset + (last->length ? last->length : 1u);
}

static void count(struct total *total, const struct code_cache *cache,
                  const struct block *block, uint64_t ticks, uint32_t tables)
{
    total->blocks++;
    total->insns += block->count;
    total->code += block->end - block_start(block);
    total->tables += cache->metadata_used - tables +
                     (block->last_link - block->first_link) * sizeof(struct link);
    total->ticks += ticks;
    total->hash = XXH64(cache->write + block_start(block),
                        block->end - block_start(block), total->hash);
    total->hash = XXH64(block->insn, block->count * sizeof(block->insn[0]), total->hash);
}

static bool run_round(struct bench *bench, struct total *total)
{
    struct code_cache *cache = bench->cache;
    struct total zero = {0};
    *total = zero;
    for (size_t at = 0; at < bench->size;) {
        struct code_place place = place_at(bench, at);
        if (bench->cold) {
            make_cold(bench);
        }
        if (!code_make_room(cache)) {
            code_evict(cache);
        }
        bool is_full = false;
        uint32_t tables = cache->metadata_used;
        uint64_t start = __rdtsc();
        struct block *block = translate(cache, bench->cpu, &place, NULL, NULL, &is_full);
        uint64_t ticks = __rdtsc() - start;
        if (!block) {
            fprintf(stderr, "bench_translation: no block at %zx\n", at);
            return false;
        }
        count(total, cache, block, ticks, tables);
        at += end_of(block) - place.offset;
        /* Nothing stands by for the next round. */
        code_retire(cache, block, BY_VARIANT);
    }
    return true;
}

static void report(unsigned round, const struct total *total)
{
    double insns = (double)total->insns;
    printf("%5u  %7lu  %8lu  %9.1f  %10.1f  %9.1f  %7.3f  %016lx\n", round,
           (unsigned long)total->blocks, (unsigned long)total->insns,
           (double)total->code / insns, (double)total->tables / insns,
           (double)total->ticks / insns,
           (double)total->ticks / insns * 1e3 / (double)cpuid_host_tsc_khz(),
           (unsigned long)total->hash);
}

static int usage(FILE *out, int status)
{
    fputs("usage: bench_translation [OPTIONS] FILE\n"
          "\n"
          "Translates the code of an ELF file, without a guest, and tells what an "
          "instruction "
          "costs.\n"
          "\n"
          "  --kernel      as a kernel's; a program's otherwise\n"
          "  --cold KIB    memory that is touched between blocks, to drive what "
          "translation "
          "needs\n"
          "                out of the host's caches; 0\n"
          "  --rounds N    3; in the first one kinds of instructions are learnt\n"
          "  --limit KIB   of code; 1024\n"
          "\n"
          "example: bench_translation --cold 4096 /usr/bin/python3\n",
          out);
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"kernel", no_argument, NULL, 'k'},       {"cold", required_argument, NULL, 'c'},
        {"rounds", required_argument, NULL, 'r'}, {"limit", required_argument, NULL, 'l'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    struct bench bench = {.mode = MODE_USER};
    struct error err = {0};
    size_t limit = 1024, cold = 0;
    unsigned rounds = 3;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        switch (option) {
        case 'k':
            bench.mode = 0;
            break;
        case 'c':
            cold = strtoul(optarg, NULL, 0);
            break;
        case 'r':
            rounds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'l':
            limit = strtoul(optarg, NULL, 0);
            break;
        case 'h':
            return usage(stdout, 0);
        default:
            return usage(stderr, 2);
        }
    }
    if (optind + 1 != argc) {
        return usage(stderr, 2);
    }
    struct cpuid_config config = {.cpus = 1};
    insn_index_rows();
    bench.cpu = calloc(1, sizeof(*bench.cpu));
    if (cpuid_policy_init(&bench.cpuid, &config, &err) ||
        load(&bench, argv[optind], limit << 10, &err) || !bench.cpu) {
        fprintf(stderr, "bench_translation: %s\n", err.message);
        return 1;
    }
    bench.cpu->cpuid = &bench.cpuid;
    bench.cold_words = (cold << 10) / 8;
    bench.cold = cold ? calloc(bench.cold_words, 8) : NULL;
    puts("round   blocks     insns  code/insn  table/insn  tick/insn  us/insn            "
         "  hash");
    for (unsigned round = 0; round < rounds; round++) {
        struct total total;
        if (!run_round(&bench, &total)) {
            return 1;
        }
        report(round, &total);
    }
    code_cache_free(bench.cache);
    memory_free(bench.memory);
    free(bench.cpu);
    free(bench.cold);
    return 0;
}
