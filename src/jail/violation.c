#include "jail/violation.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/scope.h"
#include "jail/syscall_names.h"

static __thread enum jail_role own_role;
static void (*end_process)(void);

/* --- A line of text, made without the C library: the call may have come from within it.
 */

struct line {
    char text[256];
    size_t size;
};

static void put_text(struct line *line, const char *text)
{
    size_t room = sizeof(line->text) - line->size, length = strlen(text);
    memcpy(line->text + line->size, text, length < room ? length : room);
    line->size += length < room ? length : room;
}

static void put_number(struct line *line, unsigned long long value, unsigned base)
{
    char digits[24];
    unsigned at = sizeof(digits) - 1;
    digits[at] = '\0';
    do {
        digits[--at] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    put_text(line, base == 16 ? "0x" : "");
    put_text(line, digits + at);
}

static void write_line(const struct line *line)
{
    (void)!write(STDERR_FILENO, line->text, line->size);
}

static const char *call_name(int number)
{
    bool is_known = number >= 0 && (size_t)number < array_size(syscall_names);
    return is_known && syscall_names[number] ? syscall_names[number] : "a system call";
}

static void on_violation(int number, siginfo_t *info, void *context)
{
    const greg_t *reg = ((ucontext_t *)context)->uc_mcontext.gregs;
    struct line line = {.size = 0};
    put_text(&line, "doppel: jail: a thread of the role '");
    put_text(&line, jail_role_name(own_role));
    put_text(&line, "' called ");
    put_text(&line, call_name(info->si_syscall));
    put_text(&line, " (number ");
    put_number(&line, (unsigned)info->si_syscall, 10);
    put_text(&line, "; ");
    put_number(&line, (unsigned long long)reg[REG_RDI], 16);
    put_text(&line, ", ");
    put_number(&line, (unsigned long long)reg[REG_RSI], 16);
    put_text(&line, ", ");
    put_number(&line, (unsigned long long)reg[REG_RDX], 16);
    put_text(&line, "), which its filter does not allow; the machine is ended\n");
    write_line(&line);
    line.size = 0;
    put_text(&line,
             "doppel: jail: this is a defect of Doppel, or a guest that has broken "
             "out of it; please report it. --no-jail runs without filters, for "
             "guests that are trusted\n");
    write_line(&line);
    end_process();
}

int violation_catch(void (*end)(void), struct error *err)
{
    struct sigaction action = {.sa_sigaction = on_violation, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    end_process = end;
    return sigaction(SIGSYS, &action, NULL) < 0 ? fail(err, errno, "cannot take SIGSYS")
                                                : 0;
}

void violation_expect(enum jail_role role)
{
    sigset_t set;
    own_role = role;
    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}
