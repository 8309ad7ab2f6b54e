#pragma once
/* Rows of option tables that the commands which make a VM share. */

#include "base/option.h"
#include "engine/engine.h"

#define CODE_CACHE_OPTION(at)                                                       \
    {                                                                               \
        "code-cache", "SIZE",                                                       \
            "host code that the engine translator keeps at most; 64M if not given", \
            OPTION_SIZE, at, 1ull << 20, 1ull << 30                                 \
    }

/* Rows for a struct engine_look at an offset. */
#define LOOK_OPTIONS(at)                                                               \
    {"perf-map", NULL,                                                                 \
     "name translated code for perf in /tmp/perf-PID.map; with --engine translator",   \
     OPTION_FLAG, (at) + offsetof(struct engine_look, perf_map)},                      \
        {"trace", "RANGE[,RANGE]",                                                     \
         "list what is translated of these guest addresses, 0xSTART-0xEND, "           \
         "0xSTART+SIZE "                                                               \
         "or a function of --symbols, beside the host code made of it",                \
         OPTION_STRING, (at) + offsetof(struct engine_look, trace)},                   \
        {"trace-file", "FILE", "write the list of --trace there; stderr if not given", \
         OPTION_FILE, (at) + offsetof(struct engine_look, trace_file)},                \
    {                                                                                  \
        "symbols", "FILE",                                                             \
            "an ELF file whose functions name guest addresses for --trace and "        \
            "--perf-map: a "                                                           \
            "vmlinux, or what scripts/kernel-symbols makes",                           \
            OPTION_FILE, (at) + offsetof(struct engine_look, symbols)                  \
    }

const char *engine_choice(unsigned index);
const char *console_choice(unsigned index);
/* The field is a struct machine_config's console. */
int parse_console(const struct option_spec *spec, const char *value, void *target,
                  struct error *err);
