#!/usr/bin/env python3
"""Doppel in a guest of Doppel: a Debian that runs guest programs, on processors of the host's
model and on the plainest one, where the software engines have fewer units to lean on.

usage: test_nested.py DOPPEL SOURCE-DIRECTORY PROGRAM...
"""
import os
import subprocess
import sys

from tap import Report


def run(doppel, source, model, program):
    command = [os.path.join(source, "scripts", "nested"), "--doppel", doppel, "--cpu", model,
               "--program", program]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=400, check=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, f"exit status {done.returncode}:\n{output[-3000:]}"
    assert "not ok" not in output, output[-3000:]
    assert "nested: level 1: first program" in output, output[-3000:]


def main():
    doppel, source, *programs = sys.argv[1:]
    report = Report()
    for model in ["host", "x86-64-v1"]:
        for program in programs:
            name = f"{os.path.basename(program)} at level 2, CPU model {model} at level 1"
            with report.case(name):
                run(doppel, source, model, program)
    report.end()


main()
