#include "tool/terminal.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/fatal.h"
#include "base/scope.h"

static struct {
    volatile sig_atomic_t is_raw;
    int fd;
    struct termios saved;
} terminal;

static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGILL,  SIGFPE,
                                    SIGABRT, SIGSYS, SIGTRAP, SIGQUIT};

/* tcsetattr and sigprocmask are async-signal-safe (POSIX.1-2017, 2.4.3). */
void terminal_leave(void)
{
    if (!terminal.is_raw) {
        return;
    }
    terminal.is_raw = 0;
    int saved_errno = errno;
    /* A job in the background is stopped by SIGTTOU for this call, unless it is blocked.
     */
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &block, &before);
    tcsetattr(terminal.fd, TCSANOW, &terminal.saved);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved_errno;
}

static void leave_and_die(int number)
{
    terminal_leave();
    /* SA_RESETHAND has put the default back: this time it ends the process. */
    raise(number);
}

/* Only where nobody else, a sanitizer or an engine, handles the signal already; engines
 * call the hook. */
static void handlers_install(void)
{
    fatal_set_hook(terminal_leave);
    for (unsigned i = 0; i < array_size(fatal_signals); i++) {
        struct sigaction old;
        if (sigaction(fatal_signals[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL &&
            !(old.sa_flags & SA_SIGINFO)) {
            struct sigaction action = {.sa_handler = leave_and_die,
                                       .sa_flags = SA_RESETHAND};
            sigaction(fatal_signals[i], &action, NULL);
        }
    }
    atexit(terminal_leave);
}

bool terminal_enter(int fd)
{
    static bool is_guarded;
    if (!isatty(fd) || tcgetpgrp(fd) != getpgrp()) {
        return false;
    }
    if (terminal.is_raw) {
        return true;
    }
    if (tcgetattr(fd, &terminal.saved) < 0) {
        return false;
    }
    if (!is_guarded) {
        handlers_install();
        is_guarded = true;
    }
    struct termios raw = terminal.saved;
    cfmakeraw(&raw);
    /* Output processing stays: the guest's \r\n passes unharmed, and our own messages do
     * not form stairs. */
    raw.c_oflag = terminal.saved.c_oflag;
    terminal.fd = fd;
    terminal.is_raw = 1;
    if (tcsetattr(fd, TCSANOW, &raw) < 0) {
        terminal.is_raw = 0;
        return false;
    }
    return true;
}
