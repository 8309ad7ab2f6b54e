#!/usr/bin/env python3
"""Debian's kernels boot, and what busybox computes in them is right.

usage: test_boot.py DOPPEL SOURCE-DIRECTORY KERNEL CPUS...
KERNEL: cloud, amd64, 686-pae, 686
"""
import bz2
import gzip
import hashlib
import lzma
import random
import re
import sys
import tempfile
import time
import zlib

from doppel import Doppel
from guestfiles import Files
from tap import Report, equal, within

MEMORY = 512
SIZE = 1 << 19


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def md5(data):
    return hashlib.md5(data).hexdigest()


class Data:
    """The guest's files, the same in each run."""

    def __init__(self):
        source = random.Random(1)
        self.random = source.randbytes(SIZE)
        self.numbers = "".join(f"{source.randrange(4000)}\n" for _ in range(8000)).encode()
        self.text = b"".join(b"line %d of the text\n" % (n * n) for n in range(8000))

    def files(self):
        return {"data/random": self.random, "data/numbers": self.numbers,
                "data/text.xz": lzma.compress(self.text),
                "data/text.bz2": bz2.compress(self.text),
                "data/text.gz": gzip.compress(self.text, mtime=0)}


def numeric_sort(data):
    return b"".join(sorted(data.splitlines(True), key=int))


def most_frequent(data):
    lines = data.split()
    return sorted((lines.count(line) for line in set(lines)), reverse=True)[:3]


def generator(count, factor, increment, modulus, value=0):
    for _ in range(count):
        value = (value * factor + increment) % modulus
    return value


def arithmetic():
    total = sum(1 / i for i in range(1, 20001))
    return [f"{total:.10f} {2 ** 53 - 1}",
            str(generator(5000, 69069, 12345, 2 ** 31)),
            f"{0x7fffffffffffffff // 1000003} -1 {1 << 62}"]


def pipeline():
    lines = (str(n).replace("7", "seven") for n in range(1, 20001))
    kept = [line.upper()[::-1] for line in lines if "9" not in line]
    return sha256("".join(line + "\n" for line in reversed(kept)).encode())


def share(data, seed):
    return (f"{generator(30000, 69069, 1, 2 ** 32, seed)} {sha256(data.numbers)} - "
            f"{md5(numeric_sort(data.numbers))} -")


def services(cpus):
    """What every kernel, the 32-bit ones included, says of the services that it uses."""
    several = [] if cpus == 1 else ["PV IPIs", "PV sched yield", "pv remote TLB flush"]
    return sorted(several + ["kvm-clock: Using msrs 4b564d01"])


def expectations(data, kernel, cpus):
    """What each of the guest's commands writes, line by line."""
    return {
        "system": ["Linux i686" if kernel.startswith("686") else "Linux x86_64"],
        "processors": [str(cpus), str(cpus), "0" if cpus == 1 else f"0-{cpus - 1}"],
        "clocksource": ["tsc"],
        "services": services(cpus),
        "hashes": [f"{digest}  /data/random" for digest in (
            sha256(data.random), hashlib.sha512(data.random).hexdigest(),
            hashlib.sha1(data.random).hexdigest(), md5(data.random))] +
        [f"{zlib.crc32(data.random):08x} /data/random"],
        "sorting": [sha256(numeric_sort(data.numbers)) + "  -"] +
        [str(count) for count in most_frequent(data.numbers)],
        "arithmetic": arithmetic(),
        "big_numbers": [str(2 ** 521 - 1)],
        "gzip_round": [sha256(data.random) + "  -", sha256(data.numbers) + "  -"],
        "unpacking": [sha256(data.text) + "  -"] * 3,
        "archives": ["part.0", sha256(data.random) + "  -"],
        "copying": [md5(bytes(2 << 20)) + "  -", md5(data.random[7000:307000]) + "  -"],
        "pipes": [pipeline() + "  -", "1000000"],
        "signals": ["got USR1", "status 143", "status 139"],
        "timer": ["1"],
        "parallel": [share(data, n) for n in range(cpus)] + [str(cpus)],
        "token_ring": [md5("".join(f"{n}\n" for n in range(1, 3001)).encode()) + "  -"],
        "faults": [],
    }


def lines_of(machine, name):
    """The output of one of the guest's commands, and when it came to its end."""
    block = re.search(rf"^@begin {name}\n(.*?)^@end (\d+)$", machine.text,
                      re.MULTILINE | re.DOTALL)
    assert block, f"no output of {name}:\n{machine.tail()}"
    equal(block[2], "0", f"status of {name}")
    # What the kernel says of itself may come between.
    return [line for line in block[1].splitlines() if not re.match(r"\[ *\d+\.\d+\] ", line)]


def boot(report, command, expected, title):
    with Doppel(command) as machine:
        with report.case(f"{title}: /init starts"):
            machine.expect(r"^@init ", 120)
            report.note(f"{title}: /init after {time.monotonic() - machine.started:.1f} s, "
                        f"{machine.cpu_seconds():.1f} s of processor time")
        with report.case(f"{title}: the clock is the host's"):
            machine.expect(r"^@begin clock\n(?:.*\n)*?@end", 120)
            within(int(lines_of(machine, "clock")[0]), time.time() - 10, time.time() + 5)
        with report.case(f"{title}: powers off with status 0"):
            machine.expect(r"^@done", 120)
            equal(machine.wait(), 0, "exit status")
            report.note(f"{title}: ended after {machine.elapsed:.1f} s")
            equal(machine.messages, "", "stderr")
        for name, lines in expected.items():
            with report.case(f"{title}: {name.replace('_', ' ')}"):
                equal(lines_of(machine, name), lines, name)
        with report.case(f"{title}: memory"):
            within(int(lines_of(machine, "memory")[0]), (MEMORY - 64) << 10, MEMORY << 10)
        with report.case(f"{title}: sleep 1.2 takes so long"):
            within(float(lines_of(machine, "sleeping")[0]), 1.19, 3.0)


def main(doppel, source, kernel, *counts):
    report = Report()
    data = Data()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        with report.case(f"{kernel}: files for the guest"):
            image = files.kernel(kernel)
            initrd = files.initrd("check", "check", data.files(), kernel)
        for cpus in map(int, counts if report.failures == 0 else ()):
            command = [doppel, "run", "--kernel", image, "--initrd", initrd, "--no-reboot",
                       "--memory", f"{MEMORY}M", "--cpus", str(cpus),
                       "--append", "console=ttyS0 quiet"]
            boot(report, command, expectations(data, kernel, cpus), f"{kernel}, {cpus} vCPU")
    report.end()


main(*sys.argv[1:])
