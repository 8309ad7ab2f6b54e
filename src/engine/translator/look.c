#include "engine/translator/look.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/scope.h"
#include "base/symbols.h"
#include "engine/translator/listing.h"
#include "engine/translator/perf_map.h"

#define RANGES_MAX 32

struct range {
    uint64_t first, last; /* addresses, both in it */
};

struct look {
    struct symbols *symbols; /* NULL: numbers alone */
    struct perf_map *perf_map;
    FILE *listing;
    const char *listing_path; /* NULL: stderr */
    struct range range[RANGES_MAX];
    unsigned range_count;
};

void look_name(const struct look *look, const struct block *block,
               char name[LOOK_NAME_SIZE])
{
    uint64_t address = look_address(block, 0), offset;
    const char *symbol = symbols_find(look->symbols, address, &offset);
    if (symbol) {
        snprintf(name, LOOK_NAME_SIZE, "%" PRIx64 " %.150s+0x%" PRIx64, address, symbol,
                 offset);
    } else {
        snprintf(name, LOOK_NAME_SIZE, "%" PRIx64 " %s", address,
                 block->place.mode & MODE_USER ? "user" : "kernel");
    }
}

/* ---- ranges ----------------------------------------------------------------------- */

/* "0x1000", or, where it may be, "4096". */
static bool parse_number(const char **text, bool is_address, uint64_t *value)
{
    char *end;
    bool is_hexadecimal = strncmp(*text, "0x", 2) == 0 && isxdigit((*text)[2]);
    if (!is_hexadecimal && (is_address || !isdigit(**text))) {
        return false;
    }
    errno = 0;
    *value = strtoull(*text, &end, is_hexadecimal ? 16 : 10);
    *text = end;
    return errno == 0;
}

/* START-END (END not in it), START+SIZE, START alone, or a function's name. */
static int parse_range(const struct look *look, const char *text, struct range *range,
                       struct error *err)
{
    const char *at = text;
    uint64_t start, end;
    if (symbols_range(look->symbols, text, &start, &end) == 0) {
        *range = (struct range){start, end - 1};
        return 0;
    }
    if (!parse_number(&at, true, &start)) {
        return fail_plain(err, EINVAL,
                          look->symbols ? "'%.80s' is neither a range of addresses "
                                          "(0xSTART-0xEND or 0xSTART+SIZE) nor a "
                                          "function of --symbols"
                                        : "'%.80s' is no range of addresses "
                                          "(0xSTART-0xEND or 0xSTART+SIZE); for names "
                                          "of functions give --symbols",
                          text);
    }
    char kind = *at;
    at += kind != '\0';
    uint64_t value = 1;
    if (kind && ((kind != '-' && kind != '+') ||
                 !parse_number(&at, kind == '-', &value) || *at)) {
        return fail_plain(err, EINVAL,
                          "'%.80s' is no range of addresses (0xSTART-0xEND or "
                          "0xSTART+SIZE)",
                          text);
    }
    uint64_t last = kind == '-' ? value - 1 : start + value - 1;
    if (last < start || value == 0) {
        return fail_plain(err, EINVAL,
                          "'%.80s' is empty, or goes beyond the last address", text);
    }
    *range = (struct range){start, last};
    return 0;
}

static int parse_ranges(struct look *look, const char *list, struct error *err)
{
    SCOPE_FREE char *copy = strdup(list);
    if (!copy) {
        return fail(err, ENOMEM, "cannot read it");
    }
    char *rest = copy;
    while (rest) {
        const char *part = strsep(&rest, ",");
        if (look->range_count == RANGES_MAX) {
            return fail_plain(err, E2BIG, "there are more than %d ranges", RANGES_MAX);
        }
        int result = parse_range(look, part, &look->range[look->range_count], err);
        if (result < 0) {
            return result;
        }
        look->range_count++;
    }
    return 0;
}

static bool is_chosen(const struct look *look, const struct block *block)
{
    const struct block_insn *end = &block->insn[block->count - 1];
    uint64_t first = look_address(block, 0);
    uint64_t last =
        block->place.page + end->offset + (end->length ? end->length - 1u : 0);
    for (unsigned i = 0; i < look->range_count; i++) {
        if (first <= look->range[i].last && last >= look->range[i].first) {
            return true;
        }
    }
    return false;
}

/* ---- opening and closing ---------------------------------------------------------- */

static int open_listing(struct look *look, const struct engine_look *config,
                        struct error *err)
{
    int result = parse_ranges(look, config->trace, err);
    if (result < 0) {
        return fail_within(err, "--trace");
    }
    look->listing_path = config->trace_file;
    int fd = config->trace_file ? open(config->trace_file,
                                       O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)
                                : fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    look->listing = fd < 0 ? NULL : fdopen(fd, "w");
    if (!look->listing) {
        fail(err, errno, "--trace-file: cannot write %.200s",
             config->trace_file ? config->trace_file : "to stderr");
        if (fd >= 0) {
            close(fd);
        }
        return -err->code;
    }
    setvbuf(look->listing, NULL, _IOFBF, BUFSIZ);
    return 0;
}

static int open_parts(struct look *look, const struct engine_look *config,
                      struct error *err)
{
    if (config->symbols) {
        look->symbols = symbols_load(config->symbols, err);
        if (!look->symbols) {
            return fail_within(err, "--symbols");
        }
    }
    if (config->perf_map) {
        look->perf_map = perf_map_open(err);
        if (!look->perf_map) {
            return -err->code;
        }
    }
    return config->trace ? open_listing(look, config, err) : 0;
}

int look_open(struct look **out, const struct code_cache *cache,
              const struct engine_look *config, struct error *err)
{
    *out = NULL;
    if (!config->perf_map && !config->trace) {
        const char *useless = config->symbols      ? "--symbols"
                              : config->trace_file ? "--trace-file"
                                                   : NULL;
        return useless ? fail_plain(err, EINVAL, "%s does nothing without --trace%s",
                                    useless, config->symbols ? " or --perf-map" : "")
                       : 0;
    }
    struct look *look = calloc(1, sizeof(*look));
    if (!look) {
        return fail(err, ENOMEM, "cannot look at what is translated");
    }
    int result = open_parts(look, config, err);
    if (result < 0) {
        look_close(look, cache);
        return result;
    }
    *out = look;
    return 0;
}

void look_close(struct look *look, const struct code_cache *cache)
{
    if (!look) {
        return;
    }
    perf_map_close(look->perf_map, look, cache);
    if (look->listing) {
        bool has_failed = ferror(look->listing);
        has_failed |= fclose(look->listing) != 0;
        if (has_failed) {
            log_warning("--trace: cannot write %.200s completely",
                        look->listing_path ? look->listing_path : "to stderr");
        }
    }
    symbols_free(look->symbols);
    free(look);
}

void look_block(struct look *look, const struct code_cache *cache,
                const struct block *block)
{
    if (look->perf_map) {
        perf_map_block(look->perf_map, look, cache, block);
    }
    if (look->listing && is_chosen(look, block)) {
        listing_block(look->listing, look, cache, block);
        fflush(look->listing);
    }
}

void look_evicted(struct look *look)
{
    if (look->perf_map) {
        perf_map_outdated(look->perf_map);
    }
}
