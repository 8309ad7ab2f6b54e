#pragma once
/* A VM as the user described it: the options of `doppel run`, resolved. Strings are
 * borrowed. */

#include <stdbool.h>
#include <stdint.h>

#include "engine/engine.h"
#include "machine/disk_config.h"

struct cpuid_policy;

#define CONFIG_MEMORY_DEFAULT (512ull << 20)
#define CONFIG_MEMORY_MIN     (2ull << 20)

enum console_kind {
    CONSOLE_STDIO,
    CONSOLE_NONE,
    CONSOLE_PTY,
    CONSOLE_SOCKET,
};

struct machine_config {
    const char *name;    /* NULL: made from the process id */
    const char *machine; /* "micro" */
    const char *engine;  /* "auto" or an engine's name */
    unsigned cpus;
    uint64_t memory; /* bytes */
    const char *cpu_model;
    const char *paravirt; /* services, as x86/paravirt.h parses them; NULL: all */
    const char *firmware; /* path, in a kernel's place; NULL: none */
    const char *kernel, *initrd, *append; /* paths, command line; NULL where not given */
    const struct disk_config *disk;       /* borrowed */
    unsigned disk_count;
    enum console_kind console;
    const char *console_path; /* CONSOLE_SOCKET */
    bool debug_exit;
    bool no_reboot;
    bool deterministic;      /* see dispatcher/steps.h */
    const char *exit_stats;  /* path or NULL */
    const char *trace_exits; /* likewise */
    struct engine_look look; /* at code that the engine makes */
    uint64_t code_cache;     /* bytes of that code; 0: the engine's choice */
    const char *gdb;         /* control/gdb.h: ADDRESS[,wait]; NULL: no debugger */
    /* A restored VM's, which then takes cpu_model's place; NULL otherwise. */
    const struct cpuid_policy *cpuid;
};
