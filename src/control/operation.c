#include "control/operation.h"

#include <string.h>

#include "control/fields.h"

const struct operation *const operation_tables[] = {
    firecracker_operations,
    machine_operations,
    NULL,
};

const struct operation *operation_find(const char *name)
{
    for (unsigned t = 0; operation_tables[t]; t++) {
        for (const struct operation *row = operation_tables[t]; row->name; row++) {
            if (strcmp(row->name, name) == 0) {
                return row;
            }
        }
    }
    return NULL;
}

/* Segment by segment; the pattern's {...} takes one that is not empty. */
static bool path_matches(const char *pattern, const char *path, size_t length,
                         char id[OPERATION_ID_MAX + 1])
{
    const char *end = path + length;
    while (*pattern) {
        if (*pattern == '{') {
            const char *slash = memchr(path, '/', (size_t)(end - path));
            size_t size = (size_t)((slash ? slash : end) - path);
            if (size == 0 || size > OPERATION_ID_MAX) {
                return false;
            }
            memcpy(id, path, size);
            id[size] = '\0';
            path += size;
            pattern = strchr(pattern, '}') + 1;
        } else if (path < end && *path == *pattern) {
            path++;
            pattern++;
        } else {
            return false;
        }
    }
    return path == end;
}

const struct operation *operation_match(enum http_method method, const char *path,
                                        size_t length, char id[OPERATION_ID_MAX + 1],
                                        bool *path_exists)
{
    *path_exists = false;
    id[0] = '\0';
    for (unsigned t = 0; operation_tables[t]; t++) {
        for (const struct operation *row = operation_tables[t]; row->name; row++) {
            if (!path_matches(row->path, path, length, id)) {
                continue;
            }
            if (row->method == method) {
                return row;
            }
            *path_exists = true;
        }
    }
    return NULL;
}

static void markdown_fields(const struct option_spec *fields, FILE *out)
{
    fputs("\n| field | type | meaning |\n|---|---|---|\n", out);
    for (const struct option_spec *spec = fields; spec->name; spec++) {
        if (spec->kind == OPTION_LATER) {
            continue;
        }
        fprintf(out, "| `%s` | %s", spec->name, fields_type(spec));
        if (spec->kind == OPTION_UNSIGNED && spec->max) {
            fprintf(out, ", %llu to %llu", (unsigned long long)spec->min,
                    (unsigned long long)spec->max);
        }
        const char *choice;
        for (unsigned i = 0; spec->kind == OPTION_CHOICE && (choice = spec->choice(i));
             i++) {
            fprintf(out, "%s`%s`", i ? ", " : ": ", choice);
        }
        fprintf(out, " | %s |\n", spec->help);
    }
}

static void markdown_operation(const struct operation *row, FILE *out)
{
    fprintf(out, "\n### %s %s\n\n%s.%s%s", http_method_name(row->method), row->path,
            row->summary, *row->description ? " " : "", row->description);
    if (row->when != OPERATION_ANY) {
        fprintf(out, " Only %s the machine has been started.",
                row->when == OPERATION_BEFORE ? "before" : "after");
    }
    fputc('\n', out);
    if (row->fields) {
        markdown_fields(row->fields, out);
    }
    if (row->request) {
        fprintf(out, "\nExample: `%s`\n", row->request);
    }
    fprintf(out, "\nAnswer: %d %s%s%s\n", row->success, http_status_text(row->success),
            row->response ? "; " : "", row->response ? row->response : "");
}

void operation_markdown(FILE *out)
{
    static const char *const titles[] = {
        "## Firecracker's operations\n\nThe same paths, bodies and statuses as in "
        "Firecracker's API, for what exists here. What does not is refused by name: "
        "other "
        "paths and methods (networks,\nPATCH of drives, snapshots by its paths), and the "
        "fields `rate_limiter` and `socket` of a drive unless they are null.\n",
        "## Doppel's own\n",
    };
    fputs("# The control socket\n\n"
          "Written by `doppel help --api` from the table the server itself uses; a test "
          "keeps it\ncurrent.\n\n"
          "Every running machine listens on a Unix socket, `NAME.sock` in the runtime "
          "directory\n(`$XDG_RUNTIME_DIR/doppel`, else `/run/user/UID/doppel`, else "
          "`/tmp/doppel-UID`), and on\nthe one given with `--api-socket`. Both are for "
          "their owner and root alone. It speaks\nHTTP/1.1 with bodies of JSON:\n\n"
          "```\ncurl --unix-socket $XDG_RUNTIME_DIR/doppel/web.sock "
          "http://localhost/doppel/stats\n```\n\n"
          "An error is a status of 400 or more and `{\"fault_message\": \"what is wrong, "
          "and what to\ndo\"}`: 400 for a request that is wrong or comes at the wrong "
          "time, 404 and 405 for a path\nor method that does not exist, 408, 411, 413, "
          "431 and 501 for what the server does not\ntake: a request may have 8192 bytes "
          "of head, 64 headers and 51200 bytes of body with a\n`Content-Length`, and 10 "
          "seconds to arrive. Requests on one connection are answered in\norder. With "
          "more than 64 connections the one longest idle is closed.\n\n"
          "A machine started by `doppel run --api-socket PATH` without a kernel waits to "
          "be\nconfigured and started here; its other options are the defaults.\n",
          out);
    for (unsigned t = 0; operation_tables[t]; t++) {
        fprintf(out, "\n%s", titles[t]);
        for (const struct operation *row = operation_tables[t]; row->name; row++) {
            markdown_operation(row, out);
        }
    }
}
