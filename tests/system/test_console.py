#!/usr/bin/env python3
"""The guest's shell on a terminal: typing, pasting, editing, signals, the escape key.

usage: test_console.py DOPPEL SOURCE-DIRECTORY
"""
import hashlib
import os
import random
import signal
import sys
import subprocess
import tempfile
import termios

from doppel import Doppel, status_of_signal
from guestfiles import GUESTS, Files, elf64
from tap import Report, equal

PROMPT = r"guest# $"
LINES = 400


def is_raw(machine):
    return not termios.tcgetattr(machine.slave)[3] & (termios.ICANON | termios.ECHO)


def is_restored(machine):
    return termios.tcgetattr(machine.slave) == machine.mode_before


class Shell:
    def __init__(self, machine):
        self.machine = machine
        self.seen = 0

    def prompt(self, seconds=10):
        self.seen = self.machine.expect(PROMPT, seconds, self.seen).end()

    def type(self, text):
        self.machine.send(text.encode())

    def start(self, commands):
        """Starts what reads the terminal itself. Once it speaks it is in the foreground, and
        the shell has left the terminal to it."""
        self.type(f"sh -c 'echo going; {commands}'\n")
        self.machine.expect(r"^going\n", 20, self.seen)

    def ask(self, line, answer, seconds=10):
        """Types a line; it must be echoed, answered and followed by a prompt."""
        self.type(line + "\n")
        self.machine.expect(answer, seconds, self.seen)
        self.prompt(seconds)


def typing(report, shell):
    machine = shell.machine
    with report.case("a shell comes up on the terminal"):
        machine.expect("^@init 2", 150)
        shell.prompt(20)
        assert is_raw(machine), "the host's terminal still edits and echoes"
    with report.case("what is typed is echoed and executed"):
        shell.ask("uname -a", r"uname -a\nLinux .* x86_64 GNU/Linux\n")
        shell.ask("echo $((6 * 7)) | sed 's/$/!/'", r"^42!\n")
    with report.case("editing: erase, kill, completion, history"):
        shell.ask("echo wronf\x7fg", r"^wrong\n")
        shell.ask("rubbish\x15echo fresh", r"^fresh\n")
        shell.ask("cat /proc/uptim\t | wc -l", r"^1\n")
        shell.ask("\x1b[A", r"^1\n")
    with report.case("Ctrl-C interrupts, Ctrl-Z stops, Ctrl-D ends input"):
        shell.start("sleep 1000")
        shell.type("\x03")
        shell.prompt()
        shell.ask("echo $?", r"^130\n")
        shell.start("sleep 1000")
        shell.type("\x1a")
        machine.expect("Stopped", 20, shell.seen)
        shell.prompt()
        shell.ask("kill %1; wait; echo ended", r"^ended\n")
        shell.start("tr a-z A-Z")
        shell.type("shout\n\x04")
        machine.expect(r"^SHOUT\n", 20, shell.seen)
        shell.prompt()
    with report.case("each byte arrives"):
        shell.start("stty raw -echo; echo ready; head -c 256 | md5sum; stty sane")
        machine.expect(r"^ *ready\n", 20, shell.seen)
        # The escape key is doubled to reach the guest.
        machine.send(bytes(range(256)).replace(b"\x01", b"\x01\x01"))
        machine.expect(hashlib.md5(bytes(range(256))).hexdigest(), 20, shell.seen)
        shell.prompt()


def pasting(report, shell):
    with report.case("a long paste arrives whole"):
        source = random.Random(5)
        # Lines of a terminal in its normal mode have less than 4096 characters.
        lines = [f"{n:05} " + "".join(source.choices("abcdefghijklm nopq", k=70)).strip()
                 for n in range(LINES)]
        text = "\n".join(lines) + "\n"
        shell.start("stty -echo; echo ready; cat >/pasted; stty echo; md5sum /pasted")
        shell.machine.expect(r"^ready\n", 20, shell.seen)
        shell.machine.send(text.encode(), chunk=1 << 16)
        shell.type("\x04")
        shell.machine.expect(hashlib.md5(text.encode()).hexdigest(), 60, shell.seen)
        shell.prompt()
    with report.case("a long output arrives whole"):
        shell.ask("seq 1 20000 | md5sum", hashlib.md5(
            "".join(f"{n}\n" for n in range(1, 20001)).encode()).hexdigest())
        shell.type("seq 1 20000; echo all\n")
        shell.machine.expect(r"^all\n", 120, shell.seen)
        shown = shell.machine.text[shell.seen:].split("echo all\n", 1)[1]
        equal(shown.split("all\n")[0], "".join(f"{n}\n" for n in range(1, 20001)))
        shell.prompt()


def escapes(report, shell):
    machine = shell.machine
    with report.case("Ctrl-A H helps"):
        shell.type("\x01h")
        machine.expect("Ctrl-A X", 20, shell.seen)
    with report.case("SIGSTOP and SIGCONT: the terminal is raw again"):
        machine.signal(signal.SIGSTOP)
        machine.signal(signal.SIGCONT)
        shell.ask("echo back", r"^back\n")
        assert is_raw(machine), "the terminal is not raw"
    with report.case("Ctrl-A X ends it, the terminal as before"):
        shell.type("\x01x")
        equal(machine.wait(20), 0, "exit status")
        assert is_restored(machine), "the terminal's mode is another"


def restored(report, doppel, work):
    """Whatever ends the program, the terminal is as before."""
    for guest in ("spin", "talk"):
        path = os.path.join(work, guest + ".elf")
        with open(path, "wb") as file:
            file.write(elf64(GUESTS[guest]))
        for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGSEGV", "SIGABRT", "SIGQUIT"):
            with report.case(f"{number}: the terminal as before, guest {guest}"), Doppel(
                    [doppel, "run", "--kernel", path], terminal=True) as machine:
                machine.expect("Ctrl-A X", 20)
                for _ in range(200):
                    if is_raw(machine):
                        break
                    machine.take(0.02)
                assert is_raw(machine), "the terminal never was raw"
                machine.signal(getattr(signal, number))
                status = machine.wait(20)
                assert status in (status_of_signal(number), -getattr(signal, number)), status
                assert is_restored(machine), "the terminal's mode is another"


def piped(report, command):
    """Input from a pipe: executed as it comes, and its end is not the end of the guest."""
    with report.case("commands from a pipe, then its end"), Doppel(
            command, stdin=subprocess.PIPE) as machine:
        machine.expect(PROMPT, 150)
        machine.send(b"echo $((40 + 2)); poweroff -f\n")
        machine.process.stdin.close()
        machine.process.stdin = None
        equal(machine.wait(120), 0, "exit status")
        assert "\n42\n" in machine.text, machine.tail()


def main(doppel, source):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        with report.case("files for the guest"):
            kernel, initrd = files.kernel(), files.initrd("job", "job")
        command = [doppel, "run", "--kernel", kernel, "--initrd", initrd, "--append",
                   "console=ttyS0 quiet job=shell", "--cpus", "2"]
        if report.failures == 0:
            with Doppel(command, terminal=True) as machine:
                shell = Shell(machine)
                for part in (typing, pasting, escapes):
                    part(report, shell)
            piped(report, command)
        restored(report, doppel, work)
    report.end()


main(*sys.argv[1:])
