"""Starts the real binary as a user does, watches what it says and takes care of its end."""
import atexit
import os
import pty
import re
import select
import signal
import subprocess
import termios
import time

CONTROL_SEQUENCE = re.compile(r"\x1b(\[[0-9;?]*([A-Za-z]|$)|$)")
running = set()


@atexit.register
def end_all():
    for process in list(running):
        process.kill()


class Doppel:
    """A running doppel. With terminal=True it has a pseudoterminal of its own on stdin,
    stdout and stderr; otherwise stdout and stderr are pipes, and stdin is what is given."""

    def __init__(self, command, terminal=False, stdin=subprocess.DEVNULL, **options):
        self.output = b""
        self.errors = b""
        self.started = time.monotonic()
        self.master = None
        if terminal:
            self.master, slave = pty.openpty()
            self.slave_name = os.ttyname(slave)
            self.mode_before = termios.tcgetattr(slave)
            self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave,
                                            start_new_session=True,
                                            preexec_fn=take_terminal, **options)
            # Our own hold on the slave keeps what was written readable after the end.
            self.slave = slave
            self.sources = {self.master: "output"}
        else:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE,
                                            stderr=subprocess.PIPE, **options)
            self.sources = {self.process.stdout.fileno(): "output",
                            self.process.stderr.fileno(): "errors"}
        running.add(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        running.discard(self.process)
        if self.master is not None:
            os.close(self.master)
            os.close(self.slave)
        else:
            self.process.stdout.close()
            self.process.stderr.close()
            if self.process.stdin:
                self.process.stdin.close()

    @property
    def text(self):
        """The output without a terminal's control sequences, also without half a one."""
        text = CONTROL_SEQUENCE.sub("", self.output.decode(errors="replace"))
        return re.sub("\r+\n", "\n", text)

    @property
    def messages(self):
        return self.errors.decode(errors="replace")

    def take(self, seconds):
        """Reads what comes within that time, once; False if there is nothing any more."""
        if not self.sources:
            time.sleep(min(seconds, 0.02))
            return False
        ready, _, _ = select.select(list(self.sources), [], [], max(0, seconds))
        for source in ready:
            try:
                data = os.read(source, 1 << 16)
            except OSError:
                data = b""
            if self.sources[source] == "output":
                self.output += data
            else:
                self.errors += data
            if not data:
                del self.sources[source]
        return bool(ready)

    def expect(self, pattern, seconds=120, start=0):
        """Waits for the pattern in the output from the offset on; returns the match."""
        deadline = time.monotonic() + seconds
        expression = re.compile(pattern, re.MULTILINE)
        while True:
            match = expression.search(self.text, start)
            if match:
                return match
            left = deadline - time.monotonic()
            assert left > 0, f"no {pattern!r} within {seconds} s in:\n{self.tail()}"
            is_over = self.process.poll() is not None
            if not self.take(min(left, 0.5)) and is_over:
                raise AssertionError(f"ended with status {self.process.returncode} "
                                     f"before {pattern!r}:\n{self.tail()}")

    def send(self, data, chunk=1 << 12):
        """Writes to the terminal or the pipe; reads meanwhile, so that nobody blocks."""
        target = self.master if self.master is not None else self.process.stdin.fileno()
        while data:
            _, writable, _ = select.select([], [target], [], 0)
            if writable:
                data = data[os.write(target, data[:chunk]):]
            self.take(0 if writable else 0.05)

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=120):
        """The exit status, with everything read."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None:
            left = deadline - time.monotonic()
            if left <= 0:
                self.process.kill()
                raise AssertionError(f"still running after {seconds} s:\n{self.tail()}")
            self.take(min(left, 0.1))
        while self.take(0):
            pass
        self.elapsed = time.monotonic() - self.started
        return self.process.returncode

    def cpu_seconds(self):
        """Processor time used so far, of all threads."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def tail(self):
        lines = (self.text + self.messages).splitlines()
        return "\n".join(lines[-20:])


def take_terminal():
    """In the child: the pseudoterminal on stdin becomes the controlling terminal."""
    import fcntl
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def status_of_signal(number):
    return 128 + int(getattr(signal, number))
