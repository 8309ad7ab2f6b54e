#include "tool/trace.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "dispatcher/exit_trace.h"
#include "dispatcher/vcpu.h"
#include "state/digest.h"

struct trace {
    FILE *file;
    const char *path; /* borrowed */
};

struct trace *trace_open(const char *path, struct error *err)
{
    struct trace *trace = calloc(1, sizeof(*trace));
    if (trace) {
        trace->path = path;
        trace->file = fopen(path, "we");
    }
    if (!trace || !trace->file) {
        fail(err, errno, "--trace-exits: cannot write %.200s", path);
        free(trace);
        return NULL;
    }
    /* Makes the buffer now: later the jail lets nobody ask what kind of file it is. */
    setvbuf(trace->file, NULL, _IOFBF, BUFSIZ);
    return trace;
}

static void note(void *opaque, uint64_t retired, const struct vcpu_exit *exit)
{
    struct trace *trace = opaque;
    char line[EXIT_LINE_SIZE];
    exit_trace_line(line, retired, exit);
    /* A failure sticks to the file and is told at the end. */
    fprintf(trace->file, "%s\n", line);
}

void trace_attach(struct trace *trace, struct vm *vm)
{
    vm->trace = (struct vm_trace){note, trace};
}

int trace_finish(struct trace *trace, struct vm *vm, struct error *err)
{
    struct digest digest;
    int result = digest_make(vm, &digest, err);
    if (result >= 0) {
        fprintf(trace->file,
                "%" PRIu64 " end state %016" PRIx64 " memory %016" PRIx64 "\n",
                (uint64_t)vm->vcpu[0]->stats.retired, digest.state, digest.memory);
    }
    bool has_failed = ferror(trace->file);
    has_failed |= fclose(trace->file) != 0;
    if (result >= 0 && has_failed) {
        result = fail(err, errno ? errno : EIO, "cannot write %.200s", trace->path);
    }
    free(trace);
    return result;
}

void trace_close(struct trace *trace)
{
    if (trace) {
        fclose(trace->file);
        free(trace);
    }
}
