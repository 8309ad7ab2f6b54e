/*
 * Differential test of an engine against the bare processor: regressions first, then
 * hand-written programs, then the cases of a seed (campaign.h).
 *
 *     isa_differential [--engine NAME] [--seed N] [--first N] [--cases N | --forever]
 *                      [--row MNEMONIC] [--failures N] [--coverage FILE] [--complete]
 *                      [--undefined] [--deterministic]
 *
 * Ends with 1 if anything differs, after printing each difference with its number (run it
 * again by --seed S --first N --cases 1), shrunk, and as an entry for regressions.c; and
 * if --complete was given and some form of an instruction was not executed.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "campaign.h"
#include "compare.h"
#include "coverage.h"
#include "form.h"
#include "guest.h"
#include "host.h"
#include "options.h"
#include "programs.h"
#include "regressions.h"
#include "shrink.h"
#include "undefined.h"

#define EXIT_SKIPPED     77 /* what Meson takes as "not on this host" */
#define PROGRESS_SECONDS 10

struct batch {
    unsigned count;
    struct isa_input input[ISA_BATCH];
    struct campaign_case made[ISA_BATCH];
};

struct run {
    struct host *host;
    struct guest *guest;
    struct campaign campaign;
    uint64_t done, voided, failed, shown;
    uint64_t end, next; /* numbers of cases */
    time_t started, told;
    struct options options;
    struct batch batch[2]; /* one being run, one being made */
};

/* ---- One case, both ways ---- */

static bool run_both(struct run *run, struct isa_input *input,
                     struct compare_side *native, struct compare_side *ours)
{
    isa_input_complete(input);
    host_start(run->host, input, 1);
    bool ok = guest_run(run->guest, input, 1);
    ok &= host_finish(run->host);
    *native = (struct compare_side){host_result(run->host, 0), host_memory(run->host, 0)};
    *ours =
        (struct compare_side){guest_result(run->guest, 0), guest_memory(run->guest, 0)};
    return ok;
}

static bool still_fails(void *opaque, const struct isa_case *test)
{
    struct isa_input input = {.test = *test};
    struct compare_side native, ours;

    return run_both(opaque, &input, &native, &ours) &&
           !compare_is_void(test, native.result) && !undefined_is_read(test) &&
           !compare_equal(test, &native, &ours);
}

#define KINDS_MAX  256
#define KIND_SHOWN 2 /* differences of one kind that are printed */

/* How often a case of these instructions was already different. */
static unsigned count_kind(const struct isa_case *test)
{
    static struct {
        uint64_t kind;
        unsigned count;
    } seen[KINDS_MAX];
    uint64_t kind = compare_kind(test);

    for (unsigned i = 0; i < KINDS_MAX; i++) {
        if (seen[i].count == 0 || seen[i].kind == kind) {
            seen[i].kind = kind;
            return seen[i].count++;
        }
    }
    return 0;
}

/* What both sides made of a case that differed among others, before it is run again. */
struct sides {
    struct isa_result result[2];
    uint8_t memory[2][ISA_MEMORY_SIZE];
};

static void keep_sides(struct sides *sides, const struct compare_side *native,
                       const struct compare_side *ours)
{
    sides->result[0] = *native->result;
    sides->result[1] = *ours->result;
    memcpy(sides->memory[0], native->memory, ISA_MEMORY_SIZE);
    memcpy(sides->memory[1], ours->memory, ISA_MEMORY_SIZE);
}

#define ALONE_RUNS 1000 /* of a case that differed once */

/* A difference that does not come again: what it was, and whose answer was not what that
 * side gives otherwise. */
static void print_unsteady(struct run *run, const struct isa_case *test,
                           const struct sides *sides)
{
    const struct compare_side native = {&sides->result[0], sides->memory[0]};
    const struct compare_side ours = {&sides->result[1], sides->memory[1]};
    unsigned others[2] = {0};

    printf("  only among others, not alone:\n");
    compare_print_case(stdout, test);
    compare_print(stdout, test, &native, &ours);
    for (unsigned i = 0; i < ALONE_RUNS; i++) {
        struct isa_input input = {.test = *test};
        struct compare_side native_now, ours_now;

        if (!run_both(run, &input, &native_now, &ours_now)) {
            return;
        }
        others[0] += !compare_equal(test, &native, &native_now);
        others[1] += !compare_equal(test, &ours, &ours_now);
    }
    printf("  of %d runs alone %u had another answer of the processor, %u another of "
           "ours\n",
           ALONE_RUNS, others[0], others[1]);
    compare_print_entry(stdout, test);
    fflush(stdout);
}

static void report(struct run *run, const struct isa_case *original,
                   const struct campaign_case *made, const struct sides *sides)
{
    struct isa_input input = {.test = *original};
    struct compare_side native, ours;

    run->failed++;
    bool is_alone = still_fails(run, original);
    if (is_alone) {
        shrink(&input.test, still_fails, run);
    }
    unsigned shown = count_kind(&input.test);
    if (shown >= KIND_SHOWN) {
        return;
    }
    run->shown++;
    printf("\nDIFFERENCE %lu", run->failed);
    if (made) {
        printf(": case %lu of seed %lu", made->number, run->campaign.seed);
    }
    printf("\n");
    if (!is_alone) {
        print_unsteady(run, original, sides);
        return;
    }
    run_both(run, &input, &native, &ours);
    compare_print_case(stdout, &input.test);
    printf("  end: vector %u at %#lx\n", native.result->exception, native.result->rip);
    compare_print(stdout, &input.test, &native, &ours);
    compare_print_entry(stdout, &input.test);
    fflush(stdout);
}

/* ---- Batches ---- */

static void note_case(struct run *run, const struct batch *batch, unsigned i)
{
    const struct isa_result *native = host_result(run->host, i);
    const struct isa_case *test = &batch->input[i].test;

    if (batch->made[i].form != CAMPAIGN_NO_FORM) {
        coverage_single(batch->made[i].form, test, native);
    } else if (batch->made[i].is_sequence) {
        coverage_sequence(test, native);
    }
}

static void compare_batch(struct run *run, struct batch *batch)
{
    static struct sides sides[ISA_BATCH]; /* of those that differ */
    bool is_different[ISA_BATCH] = {false};

    for (unsigned i = 0; i < batch->count; i++) {
        const struct compare_side native = {host_result(run->host, i),
                                            host_memory(run->host, i)};
        const struct compare_side ours = {guest_result(run->guest, i),
                                          guest_memory(run->guest, i)};

        if (compare_is_void(&batch->input[i].test, native.result)) {
            run->voided++;
            continue;
        }
        note_case(run, batch, i);
        is_different[i] = !compare_equal(&batch->input[i].test, &native, &ours);
        if (is_different[i]) {
            keep_sides(&sides[i], &native, &ours);
        }
    }
    run->done += batch->count;
    for (unsigned i = 0; i < batch->count && run->shown < run->options.failures_max;
         i++) {
        if (is_different[i]) {
            report(run, &batch->input[i].test,
                   batch->made[i].number ? &batch->made[i] : NULL, &sides[i]);
        }
    }
}

/* Both sides run the batch; meanwhile the next one is made. */
static bool run_batch(struct run *run, struct batch *batch,
                      void (*make_next)(struct run *, struct batch *), struct batch *next)
{
    for (unsigned i = 0; i < batch->count; i++) {
        isa_input_complete(&batch->input[i]);
    }
    host_start(run->host, batch->input, batch->count);
    bool ok = guest_run(run->guest, batch->input, batch->count);
    if (make_next) {
        make_next(run, next);
    }
    if (!host_finish(run->host) || !ok) {
        return false;
    }
    compare_batch(run, batch);
    return true;
}

static bool is_possible(const struct run *run, const struct isa_case *test)
{
    return test->bits == 64 || (test->bits == 32 && run->campaign.has_compat) ||
           (test->bits == 16 && run->campaign.has_16);
}

/* Those that the host can run. */
static bool run_fixed(struct run *run, const struct isa_case *tests, unsigned count)
{
    struct batch *batch = &run->batch[0];

    batch->count = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned at = batch->count;

        if (is_possible(run, &tests[i])) {
            batch->input[at].test = tests[i];
            batch->made[at] = (struct campaign_case){.form = CAMPAIGN_NO_FORM};
            batch->count++;
        }
        bool is_full = batch->count == ISA_BATCH || (batch->count && i + 1 == count);
        if (is_full && !run_batch(run, batch, NULL, NULL)) {
            return false;
        }
        batch->count = is_full ? 0 : batch->count;
    }
    return true;
}

static bool run_programs(struct run *run)
{
    struct isa_case test;

    for (unsigned i = 0; programs_make(i, &test); i++) {
        if (!run_fixed(run, &test, 1)) {
            return false;
        }
    }
    return true;
}

static void make_batch(struct run *run, struct batch *batch)
{
    batch->count = 0;
    while (batch->count < ISA_BATCH && run->next < run->end) {
        unsigned at = batch->count;

        batch->count += campaign_make(&run->campaign, run->next++, &batch->input[at].test,
                                      &batch->made[at]);
    }
}

static void tell_progress(struct run *run)
{
    time_t now = time(NULL);

    if (now - run->told < PROGRESS_SECONDS) {
        return;
    }
    run->told = now;
    printf("%s: seed %lu, case %lu: %lu cases, %lu differences, %lu/s\n",
           run->options.engine, run->campaign.seed, run->next, run->done, run->failed,
           run->done / (uint64_t)(now - run->started + 1));
    fflush(stdout);
}

static bool run_generated(struct run *run)
{
    struct batch *now = &run->batch[0], *next = &run->batch[1];

    make_batch(run, now);
    while (now->count > 0 && run->shown < run->options.failures_max) {
        if (!run_batch(run, now, make_batch, next)) {
            return false;
        }
        struct batch *done = now;
        now = next;
        next = done;
        if (run->options.is_endless) {
            tell_progress(run);
        }
    }
    return true;
}

/* ---- Reports ---- */

static bool print_coverage(const struct run *run)
{
    if (!run->options.coverage) {
        return true;
    }
    FILE *file = fopen(run->options.coverage, "w");
    if (!file) {
        perror(run->options.coverage);
        return false;
    }
    coverage_print(file);
    fclose(file);
    return true;
}

static void print_undefined(void)
{
    static const struct {
        uint32_t flag;
        const char *name;
    } flags[] = {{X86_FLAG_CF, "CF"}, {X86_FLAG_PF, "PF"}, {X86_FLAG_AF, "AF"},
                 {X86_FLAG_ZF, "ZF"}, {X86_FLAG_SF, "SF"}, {X86_FLAG_OF, "OF"}};
    const char *mnemonic, *section;
    uint32_t mask;

    for (unsigned n = 0; undefined_row(n, &mnemonic, &mask, &section); n++) {
        printf("%-8s", mnemonic);
        for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
            printf(" %s", mask & flags[i].flag ? flags[i].name : "  ");
        }
        printf("  %s\n", section);
    }
}

/* ---- The whole run ---- */

static bool has_row(ZydisMnemonic row)
{
    for (unsigned i = 0; i < form_group_count; i++) {
        if (form_groups[i].mnemonic == row && !form_groups[i].excluded) {
            return true;
        }
    }
    return row == ZYDIS_MNEMONIC_INVALID;
}

/* The other program lies beside this one. */
static const char *bare_path(void)
{
    static char path[4096];
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 16);
    char *slash = length > 0 ? memrchr(path, '/', (size_t)length) : NULL;

    strcpy(slash ? slash + 1 : path, "isa_bare");
    return path;
}

static bool set_up(struct run *run, const struct engine_ops *engine)
{
    isa_images_init();
    run->host = host_new(bare_path());
    run->guest = run->host ? guest_new(engine, run->options.is_deterministic) : NULL;
    if (!run->guest) {
        return false;
    }
    compare_init(guest_policy(run->guest)->vendor);
    run->started = run->told = time(NULL);
    run->campaign = (struct campaign){run->options.seed, host_runs(run->host, 32),
                                      host_runs(run->host, 16), run->options.row};
    run->next = run->options.first;
    run->end =
        run->options.is_endless ? UINT64_MAX : run->options.first + run->options.cases;
    return true;
}

static bool run_regressions(struct run *run)
{
    bool is_intel = guest_policy(run->guest)->vendor == CPU_VENDOR_INTEL;
    return run_fixed(run, regressions, regression_count) &&
           (!is_intel || run_fixed(run, intel_regressions, intel_regression_count));
}

static int run_all(struct run *run)
{
    const struct options *options = &run->options;

    if (!form_init(guest_policy(run->guest), run->campaign.has_compat,
                   run->campaign.has_16) ||
        !has_row(options->row)) {
        fprintf(stderr, "isa_differential: no such instruction here\n");
        return 2;
    }
    bool is_whole = options->first == 0;
    bool is_done = !is_whole || (run_regressions(run) && run_programs(run));
    is_done = is_done && run_generated(run) && print_coverage(run);
    bool is_complete =
        !options->must_be_complete ||
        coverage_is_complete(stdout, run->campaign.has_compat, run->campaign.has_16);
    printf("engine %s, seed %lu: %lu cases, %lu of them without an answer from the host, "
           "%lu differences\n",
           options->engine, options->seed, run->done, run->voided, run->failed);
    return is_done && is_complete && run->failed == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    static struct run run = {
        .options = {
            .engine = "interpreter", .seed = 1, .cases = 600000, .failures_max = 20}};

    if (!options_parse(&run.options, argc, argv)) {
        return 2;
    }
    if (run.options.wants_undefined) {
        print_undefined();
        return 0;
    }
    const struct engine_ops *engine = engine_find(run.options.engine);
    if (!engine) {
        fprintf(stderr, "%s: no engine %s\n", argv[0], run.options.engine);
        return 2;
    }
    int status = set_up(&run, engine) ? run_all(&run) : EXIT_SKIPPED;
    guest_free(run.guest);
    host_free(run.host);
    form_fini();
    return status;
}
