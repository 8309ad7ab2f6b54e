#!/usr/bin/env python3
"""gdb in a stock kernel that runs, with the symbols that the kernel itself tells.

usage: test_gdb_kernel.py DOPPEL SOURCE ENGINE...
"""
import os
import re
import subprocess
import sys
import tempfile

from doppel import Doppel
from guestfiles import Files
from tap import Report, equal

SECONDS = 120
LIST = re.compile(r"^SYMBOLS\n(.*)^END\n", re.MULTILINE | re.DOTALL)


def found(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    assert match, f"no {pattern!r} in:\n{text}"
    return match


def gdb(symbols, where, *commands):
    arguments = ["gdb", "-nx", "-batch", "-ex", "set pagination off", "-ex", f"file {symbols}",
                 "-ex", f"target remote {where}"]
    for command in commands:
        arguments += ["-ex", command]
    return subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


def session(doppel, files, work, engine):
    where = os.path.join(work, f"gdb-{engine}")
    symbols = os.path.join(work, f"symbols-{engine}")
    command = [doppel, "run", "--engine", engine, "--cpus", "2", "--memory", "256M",
               "--kernel", files.kernel(), "--initrd", files.initrd("symbols", "symbols"),
               "--append", "console=ttyS0 quiet nokaslr", "--gdb", where]
    with Doppel(command, stdin=subprocess.PIPE) as vm:
        shown = LIST.search(vm.expect(LIST.pattern.replace("(.*)", "[^$]*"), SECONDS).string)
        script = os.path.join(files.source, "scripts", "kernel-symbols")
        done = subprocess.run([script, "-", symbols], input=shown.group(1), text=True,
                              capture_output=True, check=False)
        equal(done.returncode, 0, done.stderr)
        debugger = gdb(symbols, where, "print (char*)&linux_banner", "break *do_sys_openat2",
                       "continue", "x/s $rsi", "info symbol *(long*)$rsp", "stepi", "info symbol $pc",
                       "delete", "hbreak *do_filp_open", "continue", "info symbol $pc", "delete",
                       "watch *(long*)&jiffies", "continue", "delete", "detach")
        text = ""
        while '"Linux version' not in text:  # connected: the guest stands still
            line = debugger.stdout.readline()
            assert line, f"gdb said only:\n{text}"
            text += line
        vm.send(b"now\n")
        text += debugger.communicate(timeout=SECONDS)[0]
        found(r'"Linux version 6', text)
        found(r"Breakpoint 1, 0xffffffff\w+ in do_sys_openat2", text)
        found(r"the-file-that-is-opened-now", text)
        found(r"^__x64_sys_openat( \+|$)", text)
        found(r"^do_sys_openat2 \+ \d+ in section .text", text)
        found(r"Breakpoint 2, 0xffffffff\w+ in do_filp_open", text)
        found(r"Old value = \d+\s+New value = \d+", text)
        vm.expect("FINISHED", SECONDS)
        equal(vm.wait(SECONDS), 0, "status after detaching")


def bad_lists(files, work):
    script = os.path.join(files.source, "scripts", "kernel-symbols")
    for text, message in [("0000000000000000 T _stext\n", "no address is shown"),
                          ("hello\n", "line 1 is none of"), ("", "no address")]:
        done = subprocess.run([script, "-", os.path.join(work, "none")], input=text, text=True,
                              capture_output=True, check=False)
        equal(done.returncode, 1, "status")
        assert message in done.stderr, done.stderr


def main(doppel, source, *engines):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        for engine in engines:
            with report.case(f"{engine}: break, step, watch in the kernel"):
                session(doppel, files, work, engine)
        with report.case("what is no list of symbols"):
            bad_lists(files, work)
    report.end()


main(*sys.argv[1:])
