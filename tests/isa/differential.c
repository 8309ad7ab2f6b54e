/*
 * Differential test of the interpreter against the bare processor: regressions first,
 * then hand-written programs, then cases made from the table of all instruction forms.
 *
 *     isa_differential [--seed N] [--cases N] [--endless] [--row MNEMONIC] [--failures N]
 *                      [--list]
 *
 * Ends with 1 if anything differs, after printing each difference, shrunk, with an entry
 * for regressions.c.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "compare.h"
#include "form.h"
#include "generate.h"
#include "guest.h"
#include "interpreter/insn.h"
#include "native.h"
#include "programs.h"
#include "regressions.h"
#include "shrink.h"

#define EXIT_SKIPPED 77 /* what Meson takes as "not on this host" */

struct options {
    uint64_t seed, cases;
    bool is_endless, wants_list;
    ZydisMnemonic row; /* or ZYDIS_MNEMONIC_INVALID for all */
    unsigned failures_max;
};

struct run {
    struct native *native;
    struct guest *guest;
    bool has_compat;
    uint64_t done, voided, failed;
    struct options options;
    uint64_t random;
    uint64_t next; /* number of the case being made */
    unsigned batch_group[NATIVE_BATCH];
};

#define NO_GROUP UINT32_MAX

/* ---- One case, both ways ---- */

static bool run_one(struct run *run, const struct isa_case *test,
                    struct isa_result *native, struct isa_result *ours)
{
    native_cases(run->native)[0] = *test;
    native_start(run->native, 1);
    const struct isa_result *result = native_finish(run->native);
    if (!result) {
        return false;
    }
    *native = result[0];
    memset(ours, 0, sizeof(*ours));
    guest_run(run->guest, test, ours);
    return true;
}

static bool still_fails(void *opaque, const struct isa_case *test)
{
    struct isa_result native, ours;

    return run_one(opaque, test, &native, &ours) && !compare_is_void(&native) &&
           !compare_equal(test, &native, &ours);
}

static void report(struct run *run, struct isa_case test)
{
    struct isa_result native, ours;

    run->failed++;
    printf("\nDIFFERENCE %lu\n", run->failed);
    if (!still_fails(run, &test)) {
        printf("  only among others, not alone:\n");
        compare_print_case(stdout, &test);
        return;
    }
    shrink(&test, still_fails, run);
    run_one(run, &test, &native, &ours);
    compare_print_case(stdout, &test);
    printf("  end: vector %u at %#lx\n", native.vector, native.rip);
    compare_print(stdout, &test, &native, &ours, native_memory(run->native),
                  guest_memory(run->guest));
    compare_print_entry(stdout, &test);
    fflush(stdout);
}

/* ---- Batches ---- */

/* Compares what is in the native runner's batch. */
static bool run_batch(struct run *run, unsigned count)
{
    static struct isa_case tests[NATIVE_BATCH];
    static struct isa_result ours[NATIVE_BATCH];
    static bool is_different[NATIVE_BATCH];

    memcpy(tests, native_cases(run->native), count * sizeof(tests[0]));
    native_start(run->native, count);
    for (unsigned i = 0; i < count; i++) {
        guest_run(run->guest, &tests[i], &ours[i]);
    }
    const struct isa_result *native = native_finish(run->native);
    if (!native) {
        return false;
    }
    for (unsigned i = 0; i < count; i++) {
        bool is_void = compare_is_void(&native[i]);

        run->voided += is_void;
        is_different[i] = !is_void && !compare_equal(&tests[i], &native[i], &ours[i]);
    }
    run->done += count;
    for (unsigned i = 0; i < count && run->failed < run->options.failures_max; i++) {
        if (is_different[i]) {
            report(run, tests[i]);
        }
    }
    return true;
}

static bool run_fixed(struct run *run, const struct isa_case *tests, unsigned count)
{
    for (unsigned first = 0; first < count; first += NATIVE_BATCH) {
        unsigned part = count - first < NATIVE_BATCH ? count - first : NATIVE_BATCH;

        memcpy(native_cases(run->native), &tests[first], part * sizeof(tests[0]));
        if (!run_batch(run, part)) {
            return false;
        }
    }
    return true;
}

static bool run_programs(struct run *run)
{
    struct isa_case *tests = native_cases(run->native);
    unsigned next = 0, count;

    do {
        for (count = 0; count < NATIVE_BATCH && programs_make(next, &tests[count]);
             next++) {
            count += tests[count].bits == 64 || run->has_compat;
        }
        if (count && !run_batch(run, count)) {
            return false;
        }
    } while (count == NATIVE_BATCH);
    return true;
}

static struct form_group *choose_group(struct run *run)
{
    for (;;) {
        struct form_group *group =
            &form_groups[isa_random(&run->random) % form_group_count];
        bool is_wanted = run->options.row == ZYDIS_MNEMONIC_INVALID ||
                         run->options.row == group->mnemonic;

        if (is_wanted && !group->excluded) {
            return group;
        }
    }
}

/* Case number n of a seed depends on both alone: a batch is no border. */
static bool make_case(struct run *run, struct isa_case *test, unsigned *group_number)
{
    uint64_t kind = isa_random(&run->random) % 16;
    unsigned bits = run->has_compat && isa_random(&run->random) % 4 == 0 ? 32 : 64;

    *group_number = NO_GROUP;
    if (run->options.row == ZYDIS_MNEMONIC_INVALID && kind < 2) {
        return generate_sequence(&run->random, bits, test);
    }
    if (run->options.row == ZYDIS_MNEMONIC_INVALID && kind == 2 &&
        isa_random(&run->random) % 4 == 0) {
        return generate_undefined(&run->random, bits, test);
    }
    struct form_group *group = choose_group(run);
    unsigned form = group->first + isa_random(&run->random) % group->count;
    if (!generate_single(&form_table[form], &run->random, test)) {
        return false;
    }
    *group_number = (unsigned)(group - form_groups);
    return true;
}

static bool run_generated(struct run *run)
{
    uint64_t end = run->options.is_endless ? UINT64_MAX : run->options.cases;

    while (run->next < end && run->failed < run->options.failures_max) {
        struct isa_case *tests = native_cases(run->native);
        unsigned count = 0;

        while (count < NATIVE_BATCH && run->next < end) {
            run->random = run->options.seed * 0x2545f4914f6cdd1dull + run->next++;
            isa_random(&run->random);
            run->random = isa_random(&run->random);
            unsigned group;
            if (make_case(run, &tests[count], &group)) {
                count++;
                if (group != NO_GROUP) {
                    form_groups[group].cases++;
                }
            }
        }
        if (!run_batch(run, count)) {
            return false;
        }
        if (run->options.is_endless && run->next % (1024 * NATIVE_BATCH) == 0) {
            printf("%lu cases, %lu differences\n", run->done, run->failed);
            fflush(stdout);
        }
    }
    return true;
}

/* ---- Coverage ---- */

static void print_coverage(const struct run *run)
{
    unsigned excluded = 0, tested = 0, untested = 0, forms = 0;

    for (unsigned i = 0; i < form_group_count; i++) {
        const struct form_group *group = &form_groups[i];

        excluded += group->excluded != NULL;
        tested += group->cases > 0;
        untested += !group->excluded && group->cases == 0;
        forms += group->excluded ? 0 : group->count;
        if (run->options.wants_list) {
            printf("%-16s %3u forms %8lu cases%s%s\n",
                   ZydisMnemonicGetString(group->mnemonic), group->count, group->cases,
                   group->excluded ? "  not compared: " : "",
                   group->excluded ? group->excluded : "");
        }
    }
    printf("%u mnemonics in %u forms compared (%u not reached), %u left out%s\n", tested,
           forms, untested, excluded, run->has_compat ? "; 64- and 32-bit code" : "");
    printf("%lu cases, %lu of them without an answer from the host, %lu differences\n",
           run->done, run->voided, run->failed);
}

/* ---- Command line ---- */

static bool find_mnemonic(const char *name, ZydisMnemonic *mnemonic)
{
    for (unsigned i = 1; i <= ZYDIS_MNEMONIC_MAX_VALUE; i++) {
        if (strcasecmp(name, ZydisMnemonicGetString((ZydisMnemonic)i)) == 0) {
            *mnemonic = (ZydisMnemonic)i;
            return true;
        }
    }
    return false;
}

static bool parse(int argc, char **argv, struct options *options)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;

        if (strcmp(argv[i], "--endless") == 0) {
            options->is_endless = true;
        } else if (strcmp(argv[i], "--list") == 0) {
            options->wants_list = true;
        } else if (!value) {
            return false;
        } else if (strcmp(argv[i], "--seed") == 0) {
            options->seed = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--cases") == 0) {
            options->cases = strtoull(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--failures") == 0) {
            options->failures_max = (unsigned)strtoul(argv[++i], NULL, 0);
        } else if (strcmp(argv[i], "--row") != 0 ||
                   !find_mnemonic(argv[++i], &options->row)) {
            return false;
        }
    }
    return true;
}

static bool has_row(ZydisMnemonic row)
{
    for (unsigned i = 0; i < form_group_count; i++) {
        if (form_groups[i].mnemonic == row && !form_groups[i].excluded) {
            return true;
        }
    }
    return row == ZYDIS_MNEMONIC_INVALID;
}

int main(int argc, char **argv)
{
    struct run run = {.options = {.seed = 1, .cases = 500000, .failures_max = 20}};

    if (!parse(argc, argv, &run.options)) {
        fprintf(stderr,
                "usage: %s [--seed N] [--cases N] [--endless] [--row MNEMONIC] "
                "[--failures N] [--list]\n",
                argv[0]);
        return 2;
    }
    isa_images_init();
    run.native = native_runner_new();
    run.guest = guest_new();
    if (!run.native || !run.guest) {
        return EXIT_SKIPPED;
    }
    run.has_compat = native_runs_compat(run.native);
    if (!form_init(guest_policy(run.guest), run.has_compat) ||
        !has_row(run.options.row)) {
        fprintf(stderr, "%s: no such instruction here\n", argv[0]);
        return 2;
    }
    bool is_complete = run_fixed(&run, regressions, regression_count) &&
                       run_programs(&run) && run_generated(&run);
    print_coverage(&run);
    native_runner_free(run.native);
    guest_free(run.guest);
    form_fini();
    return is_complete && run.failed == 0 ? 0 : 1;
}
