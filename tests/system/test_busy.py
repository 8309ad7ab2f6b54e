#!/usr/bin/env python3
"""Snapshots at any points of a guest whose programs are busy with x87, AVX, signals, single
steps and watchpoints: from each on the two engines are the same.

usage: test_busy.py DOPPEL SOURCE KERNEL PROGRAM
"""
import json
import os
import subprocess
import sys
import tempfile
import time

from doppel import Doppel
from guestfiles import Files
from tap import Report, equal

SNAPSHOTS = 4
STEPS = "8000000"


def main(doppel, source, kernel, program):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        files = Files(source, work)
        with open(program, "rb") as file:
            initrd = files.initrd("busy", "busy", {"program": file.read()}, kernel)
        environment = dict(os.environ, XDG_RUNTIME_DIR=work)
        saved = [os.path.join(work, f"saved{number}") for number in range(SNAPSHOTS)]

        def call(*arguments):
            done = subprocess.run([doppel, *arguments], env=environment, timeout=240,
                                  capture_output=True, text=True, check=False)
            equal(done.returncode, 0, f"{arguments}: {done.stderr}{done.stdout}")
            return done.stdout

        with report.case(f"{kernel}: snapshots of busy programs, which see nothing wrong"):
            command = [doppel, "run", "--name", "busy", "--engine", "translator", "--memory",
                       "192M", "--kernel", files.kernel(kernel), "--initrd", initrd,
                       "--append", "console=ttyS0 quiet"]
            with Doppel(command, env=environment) as run:
                run.expect("busy")
                for folder in saved:
                    time.sleep(0.2)
                    call("pause", "busy")
                    call("snapshot", "busy", folder)
                    call("resume", "busy")
                call("kill", "busy")
                run.wait()
                equal("failed" in run.text, False, run.text)
        for number, folder in enumerate(saved):
            with report.case(f"{kernel}: two engines are the same from snapshot {number} on"):
                result = json.loads(call("compare", "--json", "--interval", "200000", "--until",
                                         STEPS, folder))
                equal(result["same"], True, "same")
                equal(result["steps"], int(STEPS), "steps")
    report.end()


main(*sys.argv[1:])
