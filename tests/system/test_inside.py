#!/usr/bin/env python3
"""Looking inside the translator: what it counts, what it makes of guest code.

usage: test_inside.py DOPPEL SOURCE CODE SMP FLOOD looks|evictions

CODE, SMP and FLOOD are programs of tests/guest.
"""
import filecmp
import json
import os
import re
import subprocess
import sys
import tempfile

from doppel import Doppel
from guestfiles import Files
from tap import Report, equal, within

PASSED = 1  # --debug-exit of a guest that wrote 0


class Machine:
    def __init__(self, doppel, work):
        self.doppel = doppel
        self.work = work
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=work)

    def run(self, kernel, *options, engine="translator"):
        """Runs a guest program to its end."""
        return subprocess.run([self.doppel, "run", "--engine", engine, "--debug-exit",
                               "--no-reboot", "--kernel", kernel, *options],
                              env=self.environment, stdin=subprocess.DEVNULL, timeout=100,
                              capture_output=True, text=True, check=False)

    def stats(self, kernel, *options, engine="translator"):
        path = os.path.join(self.work, "stats.json")
        equal(self.run(kernel, *options, "--exit-stats", path, engine=engine).returncode, PASSED)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def counts(machine, code, smp):
    """Numbers that belong together agree."""
    stats = machine.stats(smp, "--cpus", "2")
    inside = stats["totals"]["inside"]
    equal(sum(inside["left_translated_code"].values()), inside["dispatcher"]["entries"])
    equal(inside["translated"]["blocks"], inside["dispatcher"]["blocks_made"])
    equal(inside["cache"]["blocks"], inside["translated"]["blocks"])
    assert inside["translated"]["instructions"] > inside["translated"]["blocks"], inside
    assert inside["translated"]["host_bytes"] > inside["translated"]["guest_bytes"], inside
    assert inside["cache"]["code_bytes"] >= inside["translated"]["host_bytes"], inside
    equal(inside["evictions"], {"count": 0, "stopped_ns": 0, "longest_stop_ns": 0})
    assert inside["tlb"]["filled"] >= inside["tlb"]["misses_filled"] > 0, inside
    assert 0 < sum(inside["interpreted_instructions"].values()) <= \
        inside["interpreted"]["instructions"], inside
    assert inside["interpreted_instructions"]["out"] > 0, inside
    for group, name in (("dispatcher", "entries"), ("tlb", "filled")):
        equal(sum(vcpu["inside"][group][name] for vcpu in stats["vcpus"]), inside[group][name])
    # The processor's own stores to code, counted as such.
    inside = machine.stats(code)["totals"]["inside"]
    assert inside["invalidated_blocks"]["by_store"] > 0, inside
    equal(inside["invalidated_blocks"]["by_overflow"], 0)
    assert inside["revived"]["blocks"] > 0, inside
    equal(inside["cache"]["dead_blocks"] + inside["revived"]["blocks"],
          sum(inside["invalidated_blocks"].values()))


def counts_of_others(machine, smp):
    inside = machine.stats(smp, "--cpus", "2", engine="interpreter")["totals"]["inside"]
    equal(sorted(inside), ["time", "tlb"])
    assert inside["tlb"]["filled"] > 0, inside


BLOCK = re.compile(r"block \d+ ([0-9a-f]+) (\S+): frame 0x[0-9a-f]+, (kernel|user)(?:, 32 bits)?"
                   r"(?:, AVX)?, (\d+) instructions, (\d+) guest bytes, (\d+) host bytes")


def blocks(text):
    """The blocks of a listing: address, name, instructions, and the two columns."""
    for part in text.strip().split("\n\n"):
        first, *rows = part.split("\n")
        match = BLOCK.fullmatch(first)
        assert match, first
        columns = [row.split("|", 1) for row in rows]
        yield int(match[1], 16), match[2], int(match[4]), \
            [left.strip() for left, right in columns if left.strip()], \
            [right.strip() for left, right in columns if right.strip()]


def lists(machine, smp):
    """Guest and host code of the chosen functions, whole, and of no other."""
    path = os.path.join(machine.work, "trace")
    done = machine.run(smp, "--symbols", smp, "--trace", "format_to,guest_main", "--trace-file", path)
    equal(done.returncode, PASSED, done.stderr)
    with open(path, encoding="utf-8") as file:
        listed = list(blocks(file.read()))
    equal({name.split("+")[0] for address, name, *_ in listed}, {"format_to", "guest_main"})
    for address, name, count, guest, host in listed:
        equal(guest[0], "(head)")
        equal(guest[-1], "(behind)")
        equal(len(guest), count + 2)
        assert guest[1].startswith(f"{address:x} "), guest
        places = [int(row.split()[0], 16) for row in host]
        equal(places, sorted(set(places)))
        assert not any("(undefined)" in row for row in guest + host), (guest, host)
    pushes = [row for *_, guest, host in listed for row in guest if " push r" in row]
    assert pushes, listed
    # The same by addresses, on stderr.
    address = listed[0][0]
    done = machine.run(smp, "--trace", f"{address:#x}+1,{address:#x}-{address + 1:#x}")
    equal(done.returncode, PASSED, done.stderr)
    equal([block[0] for block in blocks(done.stderr)], [address])
    done = machine.run(smp, "--trace", "0x1-0x2")
    equal((done.returncode, done.stderr), (PASSED, ""))


def maps(machine, smp):
    """perf's map: every block of the cache, with names."""
    stats = os.path.join(machine.work, "stats.json")
    command = [machine.doppel, "run", "--engine", "translator", "--debug-exit", "--no-reboot",
               "--kernel", smp, "--perf-map", "--symbols", smp, "--exit-stats", stats]
    with Doppel(command, env=machine.environment) as vm:
        path = f"/tmp/perf-{vm.process.pid}.map"
        equal(vm.wait(100), PASSED, vm.messages)
    try:
        equal(os.stat(path).st_mode & 0o777, 0o600)
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(" ", 2) for line in file]
    finally:
        os.unlink(path)
    with open(stats, encoding="utf-8") as file:
        inside = json.load(file)["totals"]["inside"]
    own = [line for line in lines if line[2].startswith("guest:(")]
    equal([line[2] for line in own], ["guest:(enter and leave)", "guest:(look up a jump)"])
    equal(len(lines) - len(own), inside["translated"]["blocks"])
    assert any(re.fullmatch(r"guest:[0-9a-f]+ guest_main\+0x0", line[2]) for line in lines), lines
    end = 0
    for start, size, _ in lines:
        assert int(start, 16) >= end and int(size, 16) > 0, (start, size)
        end = int(start, 16) + int(size, 16)


def refusals(machine, smp):
    text = os.path.join(machine.work, "text")
    with open(text, "w", encoding="utf-8") as file:
        file.write("ffffffff81000000 T _text\n" * 100)
    for options, words in (
            (["--trace", ""], ("--trace", "0xSTART")),
            (["--trace", "guest_main"], ("--trace", "'guest_main'", "--symbols")),
            (["--trace", "1000-2000"], ("--trace", "0xSTART")),
            (["--trace", "0x2000-0x1000"], ("--trace", "empty")),
            (["--trace", "0x2000-0x2000"], ("--trace", "empty")),
            (["--trace", "0x2000+0x0"], ("--trace", "empty")),
            (["--trace", "0xffffffffffffffff+0x2"], ("--trace", "last address")),
            (["--trace", "0x10000000000000000"], ("--trace", "0xSTART")),
            (["--trace", "0x1-0x2-0x3"], ("--trace", "0xSTART")),
            (["--trace", "0x1,,0x2"], ("--trace", "0xSTART")),
            (["--trace", ",".join(["0x1"] * 33)], ("--trace", "more than 32")),
            (["--trace", "nobody", "--symbols", smp], ("'nobody'", "--symbols")),
            (["--trace", "0x1", "--trace-file", "/nonexistent/file"],
             ("--trace-file", "/nonexistent/file", "No such file")),
            (["--perf-map", "--symbols", "/nonexistent"], ("--symbols", "/nonexistent")),
            (["--perf-map", "--symbols", text], ("--symbols", "no ELF", "kernel-symbols")),
            (["--symbols", smp], ("--symbols does nothing", "--trace", "--perf-map")),
            (["--trace-file", "x"], ("--trace-file does nothing", "--trace"))):
        done = machine.run(smp, *options)
        equal(done.returncode, 125, f"{options}: {done.stderr}")
        for word in words:
            assert word in done.stderr, f"{options}: no {word!r} in {done.stderr}"
    done = machine.run(smp, "--code-cache", "512K")
    equal(done.returncode, 2, done.stderr)
    assert "--code-cache" in done.stderr and "1M" in done.stderr, done.stderr
    for option in (["--perf-map"], ["--trace", "0x1"], ["--code-cache", "8M"]):
        done = machine.run(smp, *option, engine="interpreter")
        equal(done.returncode, 125, done.stderr)
        assert option[0] in done.stderr and "--engine translator" in done.stderr, done.stderr


def evicts(machine, files, programs):
    """A cache that is far too small: everything is made again and again, and goes on."""
    for program, cpus in programs:
        stats = machine.stats(program, "--cpus", cpus, "--code-cache", "1M")
        inside = stats["totals"]["inside"]
        within(inside["cache"]["code_bytes"], 1, 1 << 20)
        within(inside["cache"]["used_percent"], 0, 100)
        equal(inside["cache"]["code_limit_bytes"], 1 << 20)
    assert inside["evictions"]["count"] > 0, inside
    assert inside["invalidated_blocks"]["by_overflow"] > 0, inside
    equal(inside["translated"]["blocks"],
          inside["cache"]["blocks"] - inside["cache"]["dead_blocks"] +
          sum(inside["invalidated_blocks"].values()) - inside["revived"]["blocks"])
    boots(machine, files, "2M", "--cpus", "4")
    # And what the guest sees is the same, instruction by instruction.
    traces = [os.path.join(machine.work, name) for name in ("small", "large")]
    for trace, size in zip(traces, ("1M", None)):
        boots(machine, files, size, "--deterministic", "--trace-exits", trace)
    assert filecmp.cmp(*traces, shallow=False), "another run with a smaller cache"


def boots(machine, files, size, *options):
    stats = os.path.join(machine.work, "stats.json")
    options += ("--code-cache", size) if size else ()
    done = subprocess.run([machine.doppel, "run", "--engine", "translator", "--memory", "256M",
                           "--kernel", files.kernel(), "--initrd",
                           files.script("make-initramfs"), "--append",
                           "console=ttyS0 quiet demo=check", "--exit-stats", stats, *options],
                          env=machine.environment, stdin=subprocess.DEVNULL, timeout=150,
                          capture_output=True, text=True, check=False)
    equal(done.returncode, 0, done.stderr)
    assert "DOPPEL-DEMO-OK" in done.stdout, done.stdout[-1000:]
    with open(stats, encoding="utf-8") as file:
        evictions = json.load(file)["totals"]["inside"]["evictions"]["count"]
    within(evictions, 10 if size else 0, 100000 if size else 0)


def main(doppel, source, code, smp, flood, part):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        machine = Machine(doppel, work)
        if part == "evictions":
            with report.case("a cache that overflows drops its oldest part"):
                evicts(machine, Files(source, work), ((smp, "4"), (code, "4"), (flood, "1")))
            report.end()
        with report.case("the translator's counts agree with each other"):
            counts(machine, code, smp)
        with report.case("the interpreter tells what it counts"):
            counts_of_others(machine, smp)
        with report.case("--trace lists guest and host code side by side"):
            lists(machine, smp)
        with report.case("--perf-map names every block for perf"):
            maps(machine, smp)
        with report.case("what cannot be looked at is refused"):
            refusals(machine, smp)
    report.end()


main(*sys.argv[1:])
