#!/usr/bin/env python3
"""Looking inside the translator: what it counts, what it makes of guest code.

usage: test_inside.py DOPPEL GUEST-CODE GUEST-SMP      two of tests/guest's programs
"""
import json
import os
import subprocess
import sys
import tempfile

from tap import Report, equal

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
    equal(inside["cache"]["dead_blocks"],
          sum(inside["invalidated_blocks"].values()))


def counts_of_others(machine, smp):
    inside = machine.stats(smp, "--cpus", "2", engine="interpreter")["totals"]["inside"]
    equal(sorted(inside), ["time", "tlb"])
    assert inside["tlb"]["filled"] > 0, inside


def main(doppel, code, smp):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        machine = Machine(doppel, work)
        with report.case("the translator's counts agree with each other"):
            counts(machine, code, smp)
        with report.case("the interpreter tells what it counts"):
            counts_of_others(machine, smp)
    report.end()


main(*sys.argv[1:])
