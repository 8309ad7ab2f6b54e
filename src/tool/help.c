/* Help texts and docs/cli.md, from the command and option tables. */

#include <string.h>

#include "control/operation.h"
#include "tool/command.h"

#define TEXT_COLUMN 26
#define LINE_WIDTH  88

/* Words from the current column on, further lines indented. */
static void print_wrapped(FILE *out, const char *text, int column, int indent)
{
    const char *gap = "";
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (*gap && column + 1 + length > LINE_WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
            gap = "";
        }
        column += fprintf(out, "%s%.*s", gap, length, text);
        gap = " ";
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void print_row(FILE *out, const char *name, const char *text)
{
    int column = fprintf(out, "  %s", name);
    if (column > TEXT_COLUMN - 2) {
        fprintf(out, "\n%*s", TEXT_COLUMN, "");
    } else {
        fprintf(out, "%*s", TEXT_COLUMN - column, "");
    }
    print_wrapped(out, text, TEXT_COLUMN, TEXT_COLUMN);
}

/* "--memory SIZE" and its explanation with the choices and the range. */
static void describe_option(const struct option_spec *spec, char *name, size_t name_size,
                            char *text, size_t text_size)
{
    snprintf(name, name_size, "--%s%s%s", spec->name, spec->argument ? " " : "",
             spec->argument ? spec->argument : "");
    snprintf(text, text_size, "%s", spec->help);
    if (spec->kind == OPTION_CHOICE) {
        const char *choice;
        for (unsigned i = 0; (choice = spec->choice(i)); i++) {
            size_t used = strlen(text);
            snprintf(text + used, text_size - used, "%s%s", i ? ", " : ": ", choice);
        }
    } else if (spec->kind == OPTION_UNSIGNED && spec->max) {
        size_t used = strlen(text);
        snprintf(text + used, text_size - used, ", %llu to %llu",
                 (unsigned long long)spec->min, (unsigned long long)spec->max);
    }
}

void help_program(FILE *out)
{
    fputs("usage: doppel COMMAND [OPTIONS]\n\n"
          "Doppel runs unmodified operating systems in virtual machines, by software "
          "alone\nwhere the host offers no hardware virtualization.\n\ncommands:\n",
          out);
    for (unsigned i = 0; command_table[i]; i++) {
        print_row(out, command_table[i]->name, command_summary(command_table[i]));
    }
    fputs("\ndoppel help COMMAND explains one; doppel --version names the version.\n",
          out);
}

void help_command_print(const struct command *command, FILE *out)
{
    bool has_options = command->options[0].name;
    fprintf(out, "usage: doppel %s%s%s%s\n\n%s\n", command->name,
            has_options ? " [OPTIONS]" : "", *command->operands ? " " : "",
            command->operands, command_summary(command));
    if (*command->description) {
        fprintf(out, "\n%s\n", command->description);
    }
    fputs("\noptions:\n", out);
    for (const struct option_spec *spec = command->options; spec->name; spec++) {
        if (spec->kind != OPTION_LATER) {
            char name[64], text[512];
            describe_option(spec, name, sizeof(name), text, sizeof(text));
            print_row(out, name, text);
        }
    }
    print_row(out, "--help", "show this text");
    if (command->examples[0].line) {
        fputs("\nexamples:\n", out);
    }
    for (const struct command_example *example = command->examples; example->line;
         example++) {
        fprintf(out, "  doppel %s\n      %s\n", example->line, example->meaning);
    }
}

/* A bar would end the cell of a table. */
static void markdown_cell(FILE *out, const char *text)
{
    for (; *text; text++) {
        fprintf(out, "%s%c", *text == '|' ? "\\" : "", *text);
    }
}

static void markdown_command(const struct command *command, FILE *out)
{
    fprintf(out, "\n## doppel %s\n\n%s.\n\n```\n", command->name,
            command_summary(command));
    fprintf(out, "doppel %s%s%s%s\n```\n", command->name,
            command->options[0].name ? " [OPTIONS]" : "", *command->operands ? " " : "",
            command->operands);
    if (*command->description) {
        fprintf(out, "\n%s\n", command->description);
    }
    fputs("\n| option | meaning |\n|---|---|\n", out);
    for (const struct option_spec *spec = command->options; spec->name; spec++) {
        if (spec->kind != OPTION_LATER) {
            char name[64], text[512];
            describe_option(spec, name, sizeof(name), text, sizeof(text));
            fprintf(out, "| `%s` | ", name);
            markdown_cell(out, text);
            fputs(" |\n", out);
        }
    }
    fputs("| `--help` | show this text |\n", out);
    for (const struct command_example *example = command->examples; example->line;
         example++) {
        fprintf(out, "\n`doppel %s`: %s\n", example->line, example->meaning);
    }
}

void help_markdown(FILE *out)
{
    fputs("# The command line\n\n"
          "Written by `doppel help --markdown` from the tables the program itself uses; "
          "a test\nkeeps it current. Options are `--name VALUE` or `--name=VALUE`; `--` "
          "ends them; of an\noption given twice the last counts.\n\n"
          "| exit status | meaning |\n|---|---|\n"
          "| 0 | the guest powered off, or the user ended the VM with Ctrl-A X |\n"
          "| 1 | `doctor`: no VM can run on this host |\n"
          "| 2 | usage: the command line is wrong |\n"
          "| 124 | the guest crashed: a triple fault with `--no-reboot`, or a panic it "
          "reported |\n"
          "| 125 | host or configuration error; the message says what to do |\n"
          "| 128+N | ended by signal N |\n"
          "| (V<<1)\\|1 | with `--debug-exit`: the guest wrote V to port 0xf4 |\n",
          out);
    for (unsigned i = 0; command_table[i]; i++) {
        markdown_command(command_table[i], out);
    }
}

struct help_options {
    bool markdown, api;
};

static const struct option_spec help_options[] = {
    {"markdown", NULL, "write docs/cli.md: every command as one Markdown document",
     OPTION_FLAG, offsetof(struct help_options, markdown)},
    {"api", NULL, "write docs/api.md: every operation of the control socket", OPTION_FLAG,
     offsetof(struct help_options, api)},
    {NULL},
};

static int help_run(const struct command *command, int argc, char **argv)
{
    struct help_options options = {0};
    int status;
    int operands = command_parse(command, argc, argv, &options, &status);
    if (operands < 0) {
        return status;
    }
    if (options.markdown) {
        help_markdown(stdout);
        return STATUS_OK;
    }
    if (options.api) {
        operation_markdown(stdout);
        return STATUS_OK;
    }
    if (operands == 0) {
        help_program(stdout);
        return STATUS_OK;
    }
    const struct command *other = command_find(argv[0]);
    if (!other) {
        return command_unknown(argv[0]);
    }
    help_command_print(other, stdout);
    return STATUS_OK;
}

static const struct command_example help_examples[] = {
    {"help run", "Explains the options of run."},
    {NULL},
};

const struct command help_command = {
    .name = "help",
    .operands = "[COMMAND]",
    .operands_max = 1,
    .summary = "Explain the program or one of its commands",
    .description = "",
    .examples = help_examples,
    .options = help_options,
    .operand = command_name,
    .run = help_run,
};
