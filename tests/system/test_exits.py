#!/usr/bin/env python3
"""Exit statistics: each way out of guest code is counted in its category, on every engine.

usage: test_exits.py DOPPEL GUEST-EXITS GUEST-TRIPLE ENGINE...

The guest leaves in every way as often as it is told. What differs between two runs of
different numbers is what the difference of the numbers has caused.
"""
import json
import os
import subprocess
import sys
import tempfile

from tap import Report, Skip, equal

FEW, MANY = 3, 103
PASSED, CRASH = 1, 124

# category: times for each round; "or more" where waiting adds to it
EXACT = {"hypercall": 1, "cpuid": 1, "dr": 1, "invlpg": 1, "exception": 1, "interrupt": 2}
AT_LEAST = {"io": 1, "mmio": 2, "hlt": 1, "cr": 1, "rdtsc": 1, "rdmsr": 1, "wrmsr": 1, "pause": 1,
            "interrupt_window": 1}
# What leaves KVM for this process; the rest is between the guest and KVM.
OF_KVM = {"io", "mmio", "rdmsr", "wrmsr"}


def totals(doppel, engine, kernel, expected, *options):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "stats")
        result = subprocess.run([doppel, "run", "--engine", engine, "--kernel", kernel,
                                 "--debug-exit", "--no-reboot", "--console", "none",
                                 "--exit-stats", path, *options],
                                stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                timeout=60)
        equal(result.returncode, expected, f"exit status; {result.stderr}")
        with open(path, encoding="utf-8") as file:
            stats = json.load(file)
    equal(stats["engine"], engine, "engine")
    for vcpu in stats["vcpus"]:
        equal(set(vcpu["exits"]), set(stats["totals"]["exits"]), "categories")
    return {name: row["count"] for name, row in stats["totals"]["exits"].items()}


def categories(doppel, guest, engine):
    words = " plain" if engine == "kvm" else ""  # halts and hypercalls are its own
    few = totals(doppel, engine, guest, PASSED, "--append", str(FEW) + words)
    many = totals(doppel, engine, guest, PASSED, "--append", str(MANY) + words)
    rounds = MANY - FEW
    for table, is_exact in ((EXACT, True), (AT_LEAST, False)):
        for name, times in table.items():
            if engine == "kvm" and name not in OF_KVM:
                continue
            caused = many[name] - few[name]
            wanted = times * rounds
            assert caused == wanted if is_exact else caused >= wanted, (
                f"{name}: {caused} of {wanted}")
    return set(many)


def main():
    doppel, guest, triple, engines = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
    report = Report()
    names = {}
    for engine in engines:
        with report.case(f"{engine}: each category"):
            if engine == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
                raise Skip("/dev/kvm is absent or not permitted")
            names[engine] = categories(doppel, guest, engine)
        with report.case(f"{engine}: the triple fault"):
            if engine not in names:
                raise Skip("see above")
            equal(totals(doppel, engine, triple, CRASH)["triple_fault"], 1, "triple faults")
    with report.case("one table for all engines"):
        equal(len({frozenset(table) for table in names.values()}), 1, "tables")
    report.end()


main()
