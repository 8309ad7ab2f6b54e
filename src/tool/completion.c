/* Shell completions, from the command and option tables. */

#include <string.h>

#include "tool/command.h"

static bool is_shown(const struct option_spec *spec)
{
    return spec->kind != OPTION_LATER;
}

/* The words of a choice function, blank-separated. */
static void print_words(FILE *out, const char *(*choice)(unsigned index))
{
    const char *word;
    for (unsigned i = 0; choice && (word = choice(i)); i++) {
        fprintf(out, "%s%s", i ? " " : "", word);
    }
}

/* Quotes for a single-quoted shell string: the texts of help may hold apostrophes. */
static void print_quoted(FILE *out, const char *text, const char *escape)
{
    for (; *text; text++) {
        if (*text == '\'') {
            fputs("'\\''", out);
        } else {
            if (strchr(escape, *text)) {
                fputc('\\', out);
            }
            fputc(*text, out);
        }
    }
}

/* Names of files, and what begins with one. */
static bool takes_file(const struct option_spec *spec)
{
    return spec->kind == OPTION_FILE || (spec->kind == OPTION_CUSTOM && !spec->choice);
}

static void bash_command(FILE *out, const struct command *command)
{
    fprintf(out, "    %s)\n        case $prev in\n", command->name);
    for (const struct option_spec *spec = command->options; spec->name; spec++) {
        if (!is_shown(spec) || !spec->argument) {
            continue;
        }
        fprintf(out, "        --%s) ", spec->name);
        if (takes_file(spec)) {
            fputs("COMPREPLY=($(compgen -f -- \"$cur\"))", out);
        } else {
            fputs("words='", out);
            print_words(out, spec->choice);
            fputs("' COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))", out);
        }
        fputs("; return ;;\n", out);
    }
    fputs("        esac\n        words='--help", out);
    for (const struct option_spec *spec = command->options; spec->name; spec++) {
        if (is_shown(spec)) {
            fprintf(out, " --%s", spec->name);
        }
    }
    if (command->operand) {
        fputc(' ', out);
        print_words(out, command->operand);
    }
    fputs("' ;;\n", out);
}

static void print_bash(FILE *out)
{
    fputs(
        "# bash completion for doppel\n_doppel()\n{\n"
        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words\n"
        "    COMPREPLY=()\n"
        "    if [ \"$COMP_CWORD\" = 1 ]; then\n        words='",
        out);
    print_words(out, command_name);
    fputs(" --help --version'\n"
          "        COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
          "        return\n    fi\n    case ${COMP_WORDS[1]} in\n",
          out);
    for (unsigned i = 0; command_table[i]; i++) {
        bash_command(out, command_table[i]);
    }
    fputs("    esac\n    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n}\n"
          "complete -o default -F _doppel doppel\n",
          out);
}

static void zsh_option(FILE *out, const struct option_spec *spec)
{
    fprintf(out, " \\\n            '%s--%s%s[", spec->kind == OPTION_COUNT ? "*" : "",
            spec->name, spec->argument ? "=" : "");
    print_quoted(out, spec->help, "[]:");
    fputc(']', out);
    if (spec->argument) {
        fprintf(out, ":%s:", spec->argument);
        if (takes_file(spec)) {
            fputs("_files", out);
        } else if (spec->choice) {
            fputc('(', out);
            print_words(out, spec->choice);
            fputc(')', out);
        }
    }
    fputc('\'', out);
}

static void print_zsh(FILE *out)
{
    fputs("#compdef doppel\n_doppel()\n{\n    if (( CURRENT == 2 )); then\n"
          "        local -a commands=(\n",
          out);
    for (unsigned i = 0; command_table[i]; i++) {
        fprintf(out, "            '%s:", command_table[i]->name);
        print_quoted(out, command_summary(command_table[i]), ":");
        fputs("'\n", out);
    }
    fputs("        )\n        _describe command commands\n        return\n    fi\n"
          "    local command=${words[2]}\n"
          "    shift words\n    (( CURRENT-- ))\n"
          "    case $command in\n",
          out);
    for (unsigned i = 0; command_table[i]; i++) {
        const struct command *command = command_table[i];
        fprintf(out, "    %s)\n        _arguments '--help[show help]'", command->name);
        for (const struct option_spec *spec = command->options; spec->name; spec++) {
            if (is_shown(spec)) {
                zsh_option(out, spec);
            }
        }
        if (command->operand) {
            fputs(" \\\n            '1:argument:(", out);
            print_words(out, command->operand);
            fputs(")'", out);
        }
        fputs(" ;;\n", out);
    }
    fputs("    esac\n}\ncompdef _doppel doppel\n", out);
}

static void fish_option(FILE *out, const char *command, const struct option_spec *spec)
{
    fprintf(out, "complete -c doppel -n '__fish_seen_subcommand_from %s' -l %s", command,
            spec->name);
    if (takes_file(spec)) {
        fputs(" -r -F", out);
    } else if (spec->argument) {
        fputs(" -x", out);
    }
    if (spec->choice) {
        fputs(" -a '", out);
        print_words(out, spec->choice);
        fputc('\'', out);
    }
    fputs(" -d '", out);
    print_quoted(out, spec->help, "");
    fputs("'\n", out);
}

static void print_fish(FILE *out)
{
    fputs("# fish completion for doppel\ncomplete -c doppel -f\n", out);
    for (unsigned i = 0; command_table[i]; i++) {
        const struct command *command = command_table[i];
        fprintf(out, "complete -c doppel -n __fish_use_subcommand -a %s -d '",
                command->name);
        print_quoted(out, command_summary(command), "");
        fputs("'\n", out);
        for (const struct option_spec *spec = command->options; spec->name; spec++) {
            if (is_shown(spec)) {
                fish_option(out, command->name, spec);
            }
        }
        if (command->operand) {
            fprintf(out, "complete -c doppel -n '__fish_seen_subcommand_from %s' -a '",
                    command->name);
            print_words(out, command->operand);
            fputs("'\n", out);
        }
    }
}

static const struct shell {
    const char *name;
    void (*print)(FILE *out);
} shells[] = {
    {"bash", print_bash},
    {"zsh", print_zsh},
    {"fish", print_fish},
    {NULL},
};

static const char *shell_name(unsigned index)
{
    return shells[index].name;
}

static int completion_run(const struct command *command, int argc, char **argv)
{
    int status;
    int operands = command_parse(command, argc, argv, NULL, &status);
    if (operands < 0) {
        return status;
    }
    for (unsigned i = 0; operands && shells[i].name; i++) {
        if (strcmp(shells[i].name, argv[0]) == 0) {
            shells[i].print(stdout);
            return STATUS_OK;
        }
    }
    return usage_error("%s%s; choose bash, zsh or fish",
                       operands ? "no completion for " : "which shell",
                       operands ? argv[0] : "");
}

static const struct command_example completion_examples[] = {
    {"completion bash > ~/.local/share/bash-completion/completions/doppel",
     "Installs it for bash."},
    {NULL},
};

static const struct option_spec no_options[] = {{NULL}};

const struct command completion_command = {
    .name = "completion",
    .operands = "bash|zsh|fish",
    .operands_max = 1,
    .summary = "Write a shell's completion script to standard output",
    .description = "",
    .examples = completion_examples,
    .options = no_options,
    .operand = shell_name,
    .run = completion_run,
};
