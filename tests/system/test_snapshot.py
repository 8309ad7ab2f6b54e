#!/usr/bin/env python3
"""Linux is saved while it works and goes on in another process: its jobs, its timers, its
clock.

usage: test_snapshot.py DOPPEL SOURCE
"""
import hashlib
import os
import re
import subprocess
import sys
import tempfile

from doppel import Doppel
from guestfiles import Files
from tap import Report, equal, within

SUM = "".join(f"{n}\n" for n in range(1, 100001)).encode()
TICK = re.compile(r"tick (\d+) at ([0-9.]+)")


def main(doppel, source):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        saved = os.path.join(work, "saved")
        environment = dict(os.environ, XDG_RUNTIME_DIR=work)
        command = [doppel, "run", "--name", "linux", "--cpus", "2", "--memory", "256M",
                   "--kernel", files.kernel(), "--initrd", files.initrd("ticks", "ticks"),
                   "--append", "console=ttyS0 quiet"]
        with report.case("saved while it works"):
            with Doppel(command, env=environment) as first:
                first.expect("tick 3 at")
                for arguments in (["pause", "linux"], ["snapshot", "linux", saved],
                                  ["kill", "linux"]):
                    done = subprocess.run([doppel, *arguments], env=environment, timeout=60,
                                          capture_output=True, text=True, check=False)
                    equal(done.returncode, 0, f"{arguments}: {done.stderr}")
                first.wait()
                before = first.text
        for number in (1, 2):
            with report.case(f"goes on where it was saved, time {number}"):
                with Doppel([doppel, "restore", saved], env=environment) as second:
                    equal(second.wait(), 0, "exit status")
                    check(before, second.text)
    report.end()


def check(before, after):
    equal("sum " + hashlib.md5(SUM).hexdigest() in after, True, "the job's result in " + after)
    ticks = TICK.findall(before + after)
    equal([int(number) for number, _ in ticks], list(range(1, 9)), "ticks")
    times = [float(time) for _, time in ticks]
    for earlier, later in zip(times, times[1:]):
        within(later - earlier, 0.29, 10, "seconds between ticks")



main(*sys.argv[1:])
