/*
 * Executes folders of single-step vectors on the interpreter and tells what differs.
 * usage: run_vectors [-v] FILE.MOO|FOLDER...
 * Exit status 0: every vector agrees or has a known reason not to.
 */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "known.h"

#define REASONS_MAX 64
#define SHOWN_MAX   5 /* differences told of one file */

struct reason {
    const char *text;
    unsigned long count;
};

struct tally {
    unsigned long files, tests, same, differ, known;
    struct reason reason[REASONS_MAX];
    bool is_verbose;
    bool has_failed; /* a file could not be read */
};

static void count_reason(struct tally *tally, const char *text)
{
    unsigned i = 0;
    while (tally->reason[i].text && strcmp(tally->reason[i].text, text)) {
        i++;
    }
    tally->reason[i].text = text;
    tally->reason[i].count++;
    tally->known++;
}

static void show(const char *path, unsigned long number, const struct moo_test *test,
                 const char *difference)
{
    printf("%s %lu: %s [", path, number, test->name);
    for (uint32_t i = 0; i < test->byte_count; i++) {
        printf("%s%02x", i ? " " : "", test->bytes[i]);
    }
    printf("] %s\n", difference);
}

static void run_file(struct tally *tally, struct vector_machine *machine,
                     const char *path)
{
    struct error err = {0};
    struct moo_file file;
    struct moo_test test;
    unsigned long shown = 0, number = 0;
    int status = moo_open(&file, path, &err);
    enum vector_family family =
        status == 0 && strstr(file.cpu, "286") ? FAMILY_80286 : FAMILY_8086;
    if (status == 0 && (!machine->cpu || machine->family != family)) {
        vector_machine_fini(machine);
        status = vector_machine_init(machine, family, &err);
    }
    while (status == 0 && (status = moo_next(&file, &test, &err)) == 1) {
        char difference[128] = "";
        struct known known = known_about(&test, family);
        status = 0;
        tally->tests++;
        if (vector_run(machine, &test, known.undefined, known.pushes_flags, difference,
                       sizeof(difference))) {
            tally->same++;
        } else if (known.difference) {
            count_reason(tally, known.difference);
        } else {
            tally->differ++;
            if (tally->is_verbose || shown++ < SHOWN_MAX) {
                show(path, number, &test, difference);
            }
        }
        number++;
    }
    if (status < 0) {
        printf("%s: %s\n", path, err.message);
        tally->has_failed = true;
    }
    tally->files++;
    moo_close(&file);
}

static int is_moo(const struct dirent *entry)
{
    size_t length = strlen(entry->d_name);
    return length > 4 && !strcmp(entry->d_name + length - 4, ".MOO");
}

static void run_path(struct tally *tally, struct vector_machine *machine,
                     const char *path)
{
    struct stat status;
    struct dirent **entries = NULL;
    if (stat(path, &status) == 0 && !S_ISDIR(status.st_mode)) {
        run_file(tally, machine, path);
        return;
    }
    int count = scandir(path, &entries, is_moo, alphasort);
    if (count <= 0) {
        printf("%s: no *.MOO files there (they are published compressed: gunzip them)\n",
               path);
        tally->has_failed = true;
    }
    for (int i = 0; i < count; i++) {
        char name[4096];
        snprintf(name, sizeof(name), "%s/%s", path, entries[i]->d_name);
        run_file(tally, machine, name);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    struct tally tally = {0};
    struct vector_machine machine = {0};
    int first = 1;
    if (argc > 1 && !strcmp(argv[1], "-v")) {
        tally.is_verbose = true;
        first = 2;
    }
    if (first >= argc) {
        printf("usage: %s [-v] FILE.MOO|FOLDER...\n", argv[0]);
        return 2;
    }
    for (int i = first; i < argc; i++) {
        run_path(&tally, &machine, argv[i]);
    }
    vector_machine_fini(&machine);
    printf("%lu files, %lu vectors: %lu agree, %lu have a known reason not to, %lu "
           "differ\n",
           tally.files, tally.tests, tally.same, tally.known, tally.differ);
    for (unsigned i = 0; tally.reason[i].text; i++) {
        printf("%8lu %s\n", tally.reason[i].count, tally.reason[i].text);
    }
    return tally.differ || tally.has_failed || !tally.tests;
}
