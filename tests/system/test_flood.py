#!/usr/bin/env python3
"""Guests that ask an engine for ever more of what it keeps (tests/guest/flood.c): the
process stays within bounds, and whoever wants something of it is answered.

usage: test_flood.py DOPPEL PROGRAM ENGINE...
"""
import json
import os
import signal
import subprocess
import sys
import tempfile

from doppel import Doppel, status_of_signal
from tap import Report, equal

SECONDS = 60
MEBI = 1 << 20
GUEST_MEMORY = 64 * MEBI
# Of all that is not guest memory. The translator's code and tables are the most (cache.h),
# and its code is mapped twice.
BOUND = 256 * MEBI
# What is asked for, and how many rounds are worth a look.
FLOODS = {"code": 3, "rewrites": 8, "patches": 4, "aliases": 4, "pages": 8, "spaces": 8,
          "faults": 4, "modes": 4, "calls": 8}
FORCED = status_of_signal("SIGKILL")


class Machine:
    def __init__(self, doppel, work):
        self.doppel = doppel
        self.environment = dict(os.environ, XDG_RUNTIME_DIR=work)

    def command(self, *arguments):
        done = subprocess.run([self.doppel, *arguments], env=self.environment,
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=SECONDS, check=False)
        equal(done.returncode, 0, f"status of {arguments} ({done.stderr})")
        return done.stdout

    def resident(self):
        return json.loads(self.command("stats", "flood", "--json"))["memory"]["process"]


def end_by_signal(host, machine):
    machine.signal(signal.SIGTERM)
    return status_of_signal("SIGTERM")


def end_by_kill(host, machine):
    host.command("kill", "flood")
    return FORCED


def end_by_stop(host, machine):
    host.command("stop", "flood", "--timeout", "0")
    return FORCED


def end_by_pause(host, machine):
    host.command("pause", "flood")
    host.command("kill", "flood")
    return FORCED


ENDS = (end_by_signal, end_by_kill, end_by_stop, end_by_pause)


def flood(report, host, program, engine, name, end):
    with report.case(f"{engine}: {name}, {end.__name__.replace('_', ' ')}"), \
            Doppel([host.doppel, "run", "--engine", engine, "--kernel", program, "--name",
                    "flood", "--memory", str(GUEST_MEMORY), "--cpus", "2", "--append",
                    f"forever {name}"], env=host.environment) as machine:
        rounds = FLOODS[name]
        machine.expect(f"^{name}: {rounds} rounds", SECONDS)
        host.command("pause", "flood")
        host.command("resume", "flood")
        resident = host.resident()
        report.note(f"{engine}: {name}: {resident / MEBI:.0f} MiB")
        assert resident < GUEST_MEMORY + BOUND, f"{resident / MEBI:.0f} MiB are resident"
        machine.expect(f"^{name}: {rounds + 1} rounds", SECONDS)
        status = end(host, machine)
        equal(machine.wait(SECONDS), status, "exit status")


def main():
    doppel, program, *engines = sys.argv[1:]
    report = Report()
    with tempfile.TemporaryDirectory(prefix="doppel-flood-") as work:
        host = Machine(doppel, work)
        for engine in engines:
            for i, name in enumerate(FLOODS):
                flood(report, host, program, engine, name, ENDS[i % len(ENDS)])
    report.end()


main()
