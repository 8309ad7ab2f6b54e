#!/usr/bin/env python3
"""The real gdb against `run --gdb`: a bare-metal guest with symbols, and a stock kernel.

usage: test_gdb.py DOPPEL GUEST ENGINE...
"""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

from doppel import Doppel
from tap import Report, Skip, equal, within

SECONDS = 60
REGISTERS = 40 + 17 + 16 + 2 + 7


class Session:
    """A guest that waits for a debugger, and gdb with a list of commands."""

    def __init__(self, doppel, guest, engine, *options):
        self.guest = guest
        self.folder = tempfile.mkdtemp(prefix="doppel-gdb-")
        self.socket = os.path.join(self.folder, "gdb")
        self.vm = Doppel([doppel, "run", "--engine", engine, "--kernel", guest, "--debug-exit",
                          "--no-reboot", "--gdb", self.socket + ",wait", *options])

    def __enter__(self):
        self.vm.__enter__()
        while not os.path.exists(self.socket):
            assert self.vm.process.poll() is None, self.vm.tail()
            self.vm.take(0.02)
        return self

    def __exit__(self, *unused):
        self.vm.__exit__(*unused)
        shutil.rmtree(self.folder)

    def gdb(self, *commands):
        arguments = ["gdb", "-nx", "-batch", "-ex", "set pagination off", "-ex",
                     "set confirm off", "-ex", f"file {self.guest}", "-ex",
                     f"target remote {self.socket}"]
        for command in commands:
            arguments += ["-ex", command]
        result = subprocess.run(arguments, stdin=subprocess.DEVNULL, capture_output=True,
                                timeout=SECONDS, check=False)
        return (result.stdout + result.stderr).decode(errors="replace")


def found(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    assert match, f"no {pattern!r} in:\n{text}"
    return match


def breakpoints(session):
    text = session.gdb("break round_done if number == 5", "continue", "print rounds",
                       "print number", "backtrace", "delete", "tbreak square", "continue",
                       "finish", "print watched", "kill")
    found(r"hit Breakpoint 1, round_done", text)
    found(r"^\$1 = 5$", text)
    found(r"^\$2 = 5$", text)
    found(r"#1 .* in try_rounds", text)
    found(r"hit Temporary breakpoint 2, square", text)
    found(r"Value returned is \$3 = 49", text)
    found(r"^\$4 = 9$", text)
    equal(session.vm.wait(SECONDS), 0, "status after kill")


def watchpoints(session):
    text = session.gdb("watch watched", "continue", "continue", "print rounds", "delete",
                       "rwatch patched", "continue", "bt 1", "delete", "detach")
    found(r"Old value = 0\s+New value = 9", text)
    found(r"Old value = 9\s+New value = 49", text)
    found(r"^\$1 = 7$", text)
    found(r"Value = 1\s", text)
    equal(session.vm.wait(SECONDS), 1, "status of the guest after detaching")


def steps(session):
    text = session.gdb("break square", "continue", "delete", "print/x $rip", "stepi", "stepi",
                       "print/x $rip", "x/3i square", "stepi 20", "print $_thread",
                       "display/i $pc", "nexti", "kill")
    first = int(found(r"^\$1 = (0x\w+)", text).group(1), 16)
    second = int(found(r"^\$2 = (0x\w+)", text).group(1), 16)
    assert first != second, "two steps went nowhere"
    found(r"<square(\+\d+)?>:", text)


def registers(session):
    text = session.gdb("break round_done", "continue", "print/x $cs", "print/x $cr3 != 0",
                       "print/x $cr0 & 0x80000001", "print $fctrl", "print/x $mxcsr",
                       "set $xmm3.v2_int64[0] = 0x1122334455667788", "stepi",
                       "print/x $xmm3.v2_int64[0]", "set $rdi = 77", "print $rdi",
                       "print $fs_base", "info registers eflags", "p $st0",
                       "monitor registers", "maintenance print remote-registers", "kill")
    found(r"^\$2 = 0x1$", text)
    found(r"^\$3 = 0x80000001$", text)
    found(r"= 0x1122334455667788$", text)
    found(r"^\$\d+ = 77$", text)
    found(r"^RIP=", text)
    found(r"eflags .*\[.*\]", text)


def memory(session):
    """Through the page tables and past them; code and data; what is not mapped."""
    text = session.gdb("break round_done", "continue", "set variable patched = 5", "print patched",
                       "monitor physical on", "set variable patched = 1", "print patched",
                       "monitor physical off", "print patched",
                       "x/1bx 0xffff900000000000", "print *(char*)0x800000000000",
                       "delete", "detach")
    found(r"^\$1 = 5$", text)
    found(r"^\$2 = 1$", text)
    found(r"^\$3 = 1$", text)
    found(r"Cannot access memory at address 0xffff900000000000", text)
    equal(session.vm.wait(SECONDS), 1, "status of the guest: it found what was put back")


def changes(session):
    """A guest whose variable stays changed notices."""
    session.gdb("break round_done", "continue", "set variable patched = 6", "delete", "detach")
    equal(session.vm.wait(SECONDS), 3, "status of the guest that found a changed variable")


def threads(session):
    text = session.gdb("break count if argument == 2", "continue", "info threads",
                       "print $_thread", "thread 1", "bt 2", "thread 3", "print argument",
                       "delete", "set scheduler-locking on", "stepi", "print $_thread",
                       "set scheduler-locking off", "detach")
    found(r"Thread 4 \(vCPU 3, ", text)
    found(r"^\$1 = 3$", text)
    found(r"^\$2 = \(void \*\) 0x2$", text)
    found(r"^\$3 = 3$", text)
    equal(session.vm.wait(SECONDS), 1, "status of the guest")


def cannot_debug(doppel, guest, engine):
    """What doppel says if the engine has no debugger, else None."""
    with tempfile.TemporaryDirectory() as folder:
        with Doppel([doppel, "run", "--engine", engine, "--kernel", guest, "--debug-exit",
                     "--gdb", os.path.join(folder, "gdb")]) as vm:
            vm.wait(SECONDS)
            found_message = re.search(r"--gdb: .*cannot debug", vm.messages)
            return found_message.group(0) if found_message else None


def packet(text):
    return b"$%s#%02x" % (text, sum(text) % 256)


def rude_clients(session):
    """Whatever is sent, the VM lives and the next debugger is served."""
    session.gdb("break round_done", "continue", "set variable rounds = -100000000000",
                "delete", "detach")
    for data in [b"", b"$", b"\x03" * 1000, b"$" + b"a" * 100000 + b"#00", packet(b"m0,"),
                 packet(b"m0,ffffffffffffffff"), packet(b"Z0,zz,1"), packet(b"Z9,1,1"),
                 packet(b"vCont;c:99"), packet(b"vCont;"), packet(b"G00"), packet(b"Pffff=0"),
                 packet(b"X0,4:ab"), packet(b"qXfer:features:read:target.xml:ffffffffffffffff,1"),
                 packet(b"qRcmd,6") + packet(b"Hg99") + packet(b"T-1") + packet(b"H"),
                 os.urandom(4096), packet(b"m0,2000") * 200]:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(SECONDS)
            client.connect(session.socket)
            try:
                client.sendall(data)
                client.settimeout(0.1)
                client.recv(100)
            except (BrokenPipeError, ConnectionResetError, TimeoutError):
                pass
    # Where it stopped, the guest may have read the variable and not yet written it.
    text = session.gdb("print rounds < 0", "tbreak round_done", "continue",
                       "set variable rounds = 19", "detach")
    found(r"^\$1 = 1$", text)
    equal(session.vm.wait(SECONDS), 1, "status of the guest")


def answer(client, pattern):
    """Reads until the pattern has come."""
    text = b""
    while not re.search(pattern, text):
        data = client.recv(4096)
        assert data, f"closed after {text!r}"
        text += data


def interrupt(session):
    """What gdb sends for Ctrl-C, right behind the packet that lets the guest go on: on a terminal
    nobody can tell whether gdb takes it for itself."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(SECONDS)
        client.connect(session.socket)
        client.sendall(packet(b"?"))
        answer(client, rb"\$T05thread:1;#..")
        for _ in range(3):
            client.sendall(b"+" + packet(b"vCont;c") + b"\x03")
            answer(client, rb"\$T02thread:1;#..")
        client.sendall(b"+" + packet(b"k"))
    equal(session.vm.wait(SECONDS), 0, "status after kill")


def errors(doppel, guest):
    """What cannot be listened at."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = str(other.getsockname()[1])
        for where, pattern in [(taken, "cannot listen: Address already in use"),
                               ("nowhere", "give PORT, HOST:PORT or a socket's path"),
                               ("host.invalid:1", "--gdb host.invalid:1"),
                               ("/nonexistent/socket", "cannot listen there"),
                               ("/" + "a" * 200, "1 to 107 characters")]:
            with Doppel([doppel, "run", "--kernel", guest, "--gdb", where]) as vm:
                equal(vm.wait(SECONDS), 125, f"status for {where}")
                assert pattern in vm.messages, vm.messages


def main():
    doppel, guest, engines = sys.argv[1], sys.argv[2], sys.argv[3:]
    report = Report()
    cases = [("breakpoints", breakpoints, 2), ("watchpoints", watchpoints, 1),
             ("single steps", steps, 1), ("registers", registers, 1), ("memory", memory, 2),
             ("a changed guest", changes, 1), ("threads", threads, 4),
             ("rude clients", rude_clients, 1),
             ("interrupt", interrupt, 2)]
    for engine in engines:
        reason = cannot_debug(doppel, guest, engine)
        if reason:
            with report.case(f"{engine}: everything"):
                raise Skip(reason)
            continue
        for name, function, cpus in cases:
            with report.case(f"{engine}: {name}"):
                # The guest would have ended before a busy host looks at the interrupt.
                options = ["--append", "wait"] if function is interrupt else []
                with Session(doppel, guest, engine, "--cpus", str(cpus), *options) as session:
                    function(session)
    with report.case("addresses that are none"):
        errors(doppel, guest)
    report.end()


main()
