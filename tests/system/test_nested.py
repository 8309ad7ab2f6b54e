#!/usr/bin/env python3
"""Doppel in a guest of Doppel: a Debian that runs guest programs, on processors of the host's
model and on plainer ones, where the software engines have fewer units to lean on.

usage: test_nested.py DOPPEL SOURCE-DIRECTORY PROGRAM
"""
import os
import subprocess
import sys

from tap import Report


def nested(doppel, source, model, program):
    command = [os.path.join(source, "scripts", "nested"), "--doppel", doppel, "--cpu", model,
               "--program", program]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=400, check=False)
    output = done.stdout + done.stderr
    assert "nested: level 1: first program" in output, output[-3000:]
    return done.returncode, output


def main():
    doppel, source, program = [os.path.abspath(argument) for argument in sys.argv[1:]]
    report = Report()
    for model in ["host", "x86-64-v2"]:
        with report.case(f"a guest program at level 2, CPU model {model} at level 1"):
            status, output = nested(doppel, source, model, program)
            assert status == 0 and "not ok" not in output, output[-3000:]
    with report.case("a CPU model that lacks what the interpreter needs is named"):
        status, output = nested(doppel, source, "x86-64-v1", program)
        assert status == 1 and "the interpreter needs LAHF in 64-bit mode" in output, \
            output[-3000:]
        assert "the program ended with status 125" in output, output[-3000:]
    report.end()


main()
