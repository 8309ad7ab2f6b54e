#!/usr/bin/env python3
"""Deterministic runs of Linux: twice the same, on two engines the same, from a snapshot the
same, and nothing from outside comes in.

usage: test_deterministic.py DOPPEL SOURCE
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

END = re.compile(r"^(\d+) end state [0-9a-f]{16} memory [0-9a-f]{16}$")


def main(doppel, source):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        environment = dict(os.environ, XDG_RUNTIME_DIR=work)
        boot = ["--memory", "256M", "--kernel", files.kernel(), "--initrd",
                files.initrd("ticks", "ticks"), "--append", "console=ttyS0 quiet"]
        machine = Machine(doppel, work, environment, boot)
        with report.case("two boots are the same, exit by exit"):
            machine.boots_twice()
        with report.case("two engines are the same for a whole boot"):
            machine.compares(boot)
        with report.case("a saved machine goes on deterministically"):
            machine.saves()
        with report.case("two engines are the same from a snapshot on"):
            machine.compares([machine.saved])
        with report.case("input, and the power button, are refused"):
            machine.refuses()
    report.end()


class Machine:
    def __init__(self, doppel, work, environment, boot):
        self.doppel = doppel
        self.work = work
        self.environment = environment
        self.boot = boot
        self.saved = os.path.join(work, "saved")

    def call(self, *arguments):
        return subprocess.run([self.doppel, *arguments], env=self.environment, timeout=240,
                              capture_output=True, text=True, check=False)

    def boots_twice(self):
        outputs = []
        for number in (1, 2):
            trace = os.path.join(self.work, f"trace{number}")
            with Doppel([self.doppel, "run", "--deterministic", "--no-reboot", "--trace-exits",
                         trace, *self.boot], env=self.environment) as run:
                equal(run.wait(240), 0, "exit status: " + run.tail())
                outputs.append(run.text)
        equal(outputs[0], outputs[1], "output")
        equal("tick 8 at" in outputs[0], True, "ticks in " + outputs[0])
        traces = [os.path.join(self.work, f"trace{number}") for number in (1, 2)]
        equal(filecmp.cmp(*traces, shallow=False), True, "the same exits")
        with open(traces[0], encoding="ascii") as file:
            lines = file.read().splitlines()
        end = END.match(lines[-1])
        equal(bool(end), True, f"last line {lines[-1]!r}")
        within(int(end.group(1)), 10 ** 8, 10 ** 11, "steps")
        within(len(lines), 10000, 10 ** 7, "exits")

    def compares(self, what):
        done = self.call("compare", "--json", *what)
        equal(done.returncode, 0, done.stderr + done.stdout)
        result = json.loads(done.stdout)
        equal(result["same"], True, "same")
        equal(result["end"], "powered off", "end")

    def saves(self):
        with Doppel([self.doppel, "run", "--name", "linux", *self.boot],
                    env=self.environment) as run:
            run.expect("tick 1 at")
            for arguments in (["pause", "linux"], ["snapshot", "linux", self.saved],
                              ["kill", "linux"]):
                done = self.call(*arguments)
                equal(done.returncode, 0, f"{arguments}: {done.stderr}")
            run.wait()
        traces = [os.path.join(self.work, f"restored{number}") for number in (1, 2)]
        for trace in traces:
            with Doppel([self.doppel, "restore", "--deterministic", "--trace-exits", trace,
                         self.saved], env=self.environment) as run:
                equal(run.wait(240), 0, "exit status: " + run.tail())
                equal("tick 8 at" in run.text, True, "ticks in " + run.text)
        equal(filecmp.cmp(*traces, shallow=False), True, "the same exits")

    def refuses(self):
        """While it boots; a machine that is asked for nothing more than its end."""
        command = [self.doppel, "run", "--deterministic", "--name", "deaf", *self.boot]
        with Doppel(command, stdin=subprocess.PIPE, env=self.environment) as run:
            run.send(b"hello\n")
            while "input is refused" not in run.messages:
                run.take(0.1)
                equal(run.process.poll(), None, "end: " + run.tail())
            done = self.call("stop", "deaf")
            equal(done.returncode != 0, True, "refusal of stop")
            equal("deterministic" in done.stderr, True, done.stderr)
            equal(self.call("kill", "deaf").returncode, 0, "kill")
            equal(run.wait(), 137, "exit status")


main(*sys.argv[1:])
