#!/usr/bin/env python3
"""Bad files, odd hosts and hostile small guests: a clear message or what hardware does.

usage: test_input.py DOPPEL SOURCE-DIRECTORY
"""
import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

from doppel import Doppel, status_of_signal
from guestfiles import GUESTS, Files, elf64
from tap import Report, Skip, equal, within

USAGE, CRASH, HOST_ERROR = 2, 124, 125
NOBODY = 65534
# No case comes near it; a sanitizer or a busy host may.
SECONDS = 30


class Campaign:
    def __init__(self, doppel, source, work):
        self.report = Report()
        self.work = work
        os.chmod(work, 0o755)
        # Where others may execute it, whatever folder the sources are in.
        self.doppel = shutil.copy(doppel, self.path("doppel"))
        with open(doppel, "rb") as file:
            self.is_sanitized = b"__asan_init" in file.read()
        self.files = Files(source, work)
        self.environment = dict(os.environ, XDG_CACHE_HOME=self.path("cache"))
        self.guest = {name: self.file(name + ".elf", elf64(code))
                      for name, code in GUESTS.items()}

    def path(self, name):
        return os.path.join(self.work, name)

    def file(self, name, content=b"", mode=0o644):
        with open(self.path(name), "wb") as file:
            file.write(content)
        os.chmod(self.path(name), mode)
        return self.path(name)

    def sparse(self, name, size, head=b""):
        with open(self.path(name), "wb") as file:
            file.write(head)
            file.truncate(size)
        return self.path(name)

    def command(self, arguments, as_nobody=False):
        prefix = []
        if as_nobody and os.geteuid() == 0:
            prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return [*prefix, self.doppel, *arguments]

    def run(self, *arguments, as_nobody=False, environment=None, **options):
        """The exit status, what came on stdout and on stderr."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        done = subprocess.run(self.command(arguments, as_nobody), stderr=subprocess.PIPE,
                              env=dict(self.environment, **(environment or {})),
                              timeout=SECONDS, check=False, **options)
        return done.returncode, done.stdout or b"", done.stderr.decode(errors="replace")

    def refused(self, name, arguments, status, *told, **options):
        """The program says why, in whole lines that name what is told, and ends so."""
        with self.report.case(name):
            got, output, errors = self.run("run", *arguments, **options)
            equal((got, output), (status, b""), f"status and stdout (stderr: {errors})")
            assert errors, "nothing on stderr"
            for line in errors.splitlines():
                assert line.startswith("doppel: "), f"a stray line: {line}"
            for text in told:
                assert text in errors, f"stderr lacks {text!r}: {errors}"

    def runs(self, name, arguments, status=0, **options):
        with self.report.case(name):
            got, _, errors = self.run("run", *arguments, **options)
            equal(got, status, f"status (stderr: {errors})")


# --- Files ---

def special_files(campaign):
    os.mkfifo(campaign.path("fifo"))
    os.mkdir(campaign.path("folder"))
    os.symlink("nowhere", campaign.path("dangling"))
    os.symlink("loop", campaign.path("loop"))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(campaign.path("socket"))
    listener.close()
    return {
        "missing": ("/nonexistent/vmlinuz", "No such file"),
        "a folder": (campaign.path("folder"), "directory"),
        "a FIFO": (campaign.path("fifo"), "FIFO"),
        "a socket": (campaign.path("socket"), "socket"),
        "/dev/zero": ("/dev/zero", "device"),
        "/dev/null": ("/dev/null", "device"),
        "a dangling link": (campaign.path("dangling"), "No such file"),
        "a link to itself": (campaign.path("loop"), "symbolic links"),
        "a name too long": ("/tmp/" + "n" * 300, "name too long"),
        "a path too long": ("/tmp" + "/n" * 3000, "name too long"),
    }


def files_as_kernel(campaign):
    source = random.Random(2)
    contents = {
        "empty": (b"", "empty"),
        "one byte": (b"\x7f", "not a kernel"),
        "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        "script": (b"#!/bin/sh\necho\n", "script"),
        "PE": (b"MZ" + bytes(4000), "PE"),
        "ARM64 ELF": (elf64(b"\0" * 16, machine=183), ""),
        "shared object": (elf64(b"\0" * 16, kind=1), ""),
        "ELF of no size": (elf64(b"", size=0), "nothing to load"),
        "ELF head alone": (elf64(b"")[:64], "truncated"),
        "ELF truncated": (elf64(GUESTS["idle"] * 100)[:-50], "truncated"),
        "ELF above memory": (elf64(GUESTS["idle"], address=3 << 30), "memory"),
        "ELF beyond all memory": (elf64(GUESTS["idle"], address=2 ** 64 - 4096), ""),
        "ELF with a wrap-around": (elf64(GUESTS["idle"], memory_size=2 ** 64 - 1), ""),
        "ELF larger than memory": (elf64(GUESTS["idle"], memory_size=1 << 30), "--memory"),
        "random bytes": (source.randbytes(1 << 16), "not a kernel"),
        "cpio": (b"070701" + b"0" * 200, "--initrd"),
    }
    for name, (path, told) in special_files(campaign).items():
        campaign.refused(f"kernel: {name}", ["--kernel", path], HOST_ERROR, told)
    for name, (content, told) in contents.items():
        path = campaign.file("kernel." + name, content)
        campaign.refused(f"kernel: {name}", ["--kernel", path], HOST_ERROR, path, told)
    campaign.refused("kernel: an empty name", ["--kernel", ""], USAGE, "--kernel")
    huge = campaign.sparse("huge", 1 << 42, b"\x7fELF")
    campaign.refused("kernel: a huge file", ["--kernel", huge], HOST_ERROR, huge)
    secret = campaign.file("secret", elf64(GUESTS["idle"]), 0)
    campaign.refused("kernel: not readable", ["--kernel", secret], HOST_ERROR, secret,
                     "Permission denied", as_nobody=True)


def files_as_initrd(campaign):
    kernel = campaign.guest["power_off"]
    for name in ("fifo", "folder", "socket", "dangling", "loop"):
        path = campaign.path(name)
        campaign.refused(f"initrd: {name}", ["--kernel", kernel, "--initrd", path], HOST_ERROR,
                         "--initrd", path)
    for name in ("/nonexistent/initrd", "/dev/zero"):
        campaign.refused(f"initrd: {name}", ["--kernel", kernel, "--initrd", name], HOST_ERROR,
                         "--initrd", name)
    campaign.refused("initrd: not readable",
                     ["--kernel", kernel, "--initrd", campaign.path("secret")], HOST_ERROR,
                     "Permission denied", as_nobody=True)
    for size in (512 << 20, 1 << 42):
        large = campaign.sparse("large", size)
        campaign.refused(f"initrd: {size >> 20} MiB",
                         ["--kernel", kernel, "--initrd", large], HOST_ERROR, "--initrd", "--memory")
    campaign.runs("initrd: empty", ["--kernel", kernel, "--initrd", campaign.file("none")])
    campaign.runs("initrd: any bytes",
                  ["--kernel", kernel, "--initrd", campaign.file("some", b"#!/bin/sh\n" * 999)])


def truncated_kernels(campaign):
    """Each cut-off bzImage is refused; a cut in what follows the payload does no harm."""
    image = campaign.files.kernel()
    with open(image, "rb") as file:
        whole = file.read()
    setup = (whole[0x1f1] + 1) * 512
    sizes = [1, 2, 0x1f0, 0x1f2, 0x202, 0x206, 0x24f, 0x250, 0x268, 1024, 4096, setup - 1, setup,
             setup + 1, setup + 0x200, 1 << 20, len(whole) // 2, len(whole) - (1 << 20)]
    for size in sizes:
        path = campaign.file("short", whole[:size])
        campaign.refused(f"kernel: bzImage cut to {size}", ["--kernel", path], HOST_ERROR, path)
    source = random.Random(3)
    for number in range(12):
        damaged = bytearray(whole[:1 << 16])
        for _ in range(20):
            damaged[source.randrange(0x1f0, 0x290)] = source.randrange(256)
        path = campaign.file("damaged", damaged)
        with campaign.report.case(f"kernel: damaged setup header {number}"):
            status, _, errors = campaign.run("run", "--no-reboot", "--kernel", path)
            equal(status, HOST_ERROR, f"status (stderr: {errors})")
            assert path in errors, errors


# --- Numbers ---

def numbers(campaign):
    kernel = ["--kernel", campaign.guest["power_off"]]
    for value in ("0", "1", "1M", "-1", "1.5G", "G", "0x", "99999999999999999999", "1E", "1 G"):
        campaign.refused(f"--memory {value!r}", [*kernel, "--memory", value], USAGE, "--memory")
    for value in ("128T", "16383P", "100000M"):
        with campaign.report.case(f"--memory {value} is more than there is"):
            status, _, errors = campaign.run("run", *kernel, "--memory", value)
            assert status in (USAGE, HOST_ERROR) and "--memory" in errors, (status, errors)
    for value in ("100000001", "64M1"):
        with campaign.report.case(f"--memory {value}"):
            status, _, errors = campaign.run("run", *kernel, "--memory", value)
            assert status in (USAGE, HOST_ERROR) and "--memory" in errors, (status, errors)
    for value in ("0", "17", "1000", "-1", "1.5", "0x2", "", " ", "4294967297", "two"):
        campaign.refused(f"--cpus {value!r}", [*kernel, "--cpus", value], USAGE, "--cpus")
    for value in ("1", "16"):
        campaign.runs(f"--cpus {value}", [*kernel, "--cpus", value])
    for value in ("3G", "4G", "5G"):
        campaign.runs(f"--memory {value}", [*kernel, "--memory", value])
    campaign.refused("--append too long", [*kernel, "--append", "a" * 5000], HOST_ERROR,
                     "--append")


def descriptions(campaign):
    """--dry-run and doctor write valid JSON, whatever the options are."""
    kernel = campaign.guest["idle"]
    cases = {
        "plain": [],
        "5G and 16 processors": ["--memory", "5G", "--cpus", "16"],
        "quotes": ["--append", 'a "quoted\\" \n\t\x01 word', "--name", 'n"\\'],
        "all switches": ["--debug-exit", "--no-reboot", "--console", "none", "--engine",
                         "interpreter", "--machine", "micro", "--cpu", "host", "--initrd", kernel],
        "a socket": ["--console", "socket=/tmp/s \"x\""],
        "words of another script": ["--name", "機械", "--append", "größe=1"],
    }
    for name, arguments in cases.items():
        with campaign.report.case(f"--dry-run: {name}"):
            status, output, errors = campaign.run("run", "--dry-run", "--kernel", kernel,
                                                  *arguments)
            equal((status, errors), (0, ""))
            described = json.loads(output)
            if "--append" in arguments:
                equal(described["boot"]["append"], arguments[arguments.index("--append") + 1])
    campaign.refused("--dry-run: not UTF-8", ["--dry-run", "--kernel", kernel, "--name",
                                              b"\xff\xfe"], HOST_ERROR, "UTF-8")
    campaign.refused("--dry-run: a missing kernel", ["--dry-run", "--kernel", "/nonexistent"],
                     HOST_ERROR, "/nonexistent")
    for name, environment in {"plain": {}, "no folders": {"HOME": "", "XDG_CACHE_HOME": ""},
                              "a quoted folder": {"XDG_CACHE_HOME": '/tmp/"\\'}}.items():
        with campaign.report.case(f"doctor --json: {name}"):
            status, output, errors = campaign.run("doctor", "--json", environment=environment)
            equal((status, errors), (0, ""))
            json.loads(output)


# --- Streams and signals ---

def streams(campaign):
    talk = ["run", "--kernel", campaign.guest["talk"]]
    limit = 64 << 20
    cases = {"/dev/full": ("/dev/full", None),
             "at ulimit -f": (campaign.sparse("limited", limit - 10000),
                              lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))}
    for name, (path, prepare) in cases.items():
        with campaign.report.case(f"stdout is {name}"):
            with open(path, "ab") as output:
                status, _, errors = campaign.run(*talk, "--memory", "32M", stdout=output,
                                                 preexec_fn=prepare)
            equal(status, HOST_ERROR, f"status (stderr: {errors})")
            assert "standard output" in errors, errors
    with campaign.report.case("stdout's reader leaves"):
        with Doppel(campaign.command(talk), env=campaign.environment) as machine:
            machine.expect("x" * 1000)
            machine.process.stdout.close()
            del machine.sources[next(k for k, v in machine.sources.items() if v == "output")]
            equal(machine.wait(SECONDS), HOST_ERROR, "exit status")
            assert "standard output" in machine.messages, machine.messages
    for number in ("SIGTERM", "SIGINT", "SIGHUP"):
        with campaign.report.case(f"stdout is full, nobody reads, {number}"):
            reader, writer = os.pipe()
            process = subprocess.Popen(campaign.command(talk), stdin=subprocess.DEVNULL,
                                       stdout=writer, stderr=subprocess.PIPE,
                                       env=campaign.environment)
            os.close(writer)
            time.sleep(0.4)
            process.send_signal(getattr(signal, number))
            _, errors = process.communicate(timeout=SECONDS)
            os.close(reader)
            equal(process.returncode, status_of_signal(number), f"status ({errors})")
    closed_streams(campaign)


def closed_streams(campaign):
    """A closed standard descriptor is no place for the guest's memory or the console."""
    for closed in ((0,), (1,), (2,), (0, 1), (0, 1, 2)):
        def close(numbers=closed):
            for number in numbers:
                os.close(number)
        for guest, expected in {"talk": HOST_ERROR if 1 in closed else None,
                                "power_off": 0}.items():
            with campaign.report.case(f"descriptors {closed} closed: {guest}"):
                process = subprocess.Popen(
                    campaign.command(["run", "--kernel", campaign.guest[guest]]),
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                    env=campaign.environment, preexec_fn=close)
                if expected is None:
                    time.sleep(0.3)
                    process.terminate()
                    expected = status_of_signal("SIGTERM")
                output, errors = process.communicate(timeout=SECONDS)
                equal(process.returncode, expected, f"status (stderr: {errors})")
                if guest == "talk":
                    equal(set(output), set() if 1 in closed else {ord("x")}, "stdout")


def signals(campaign):
    """At every stage: while it starts, while it boots, when the guest idles or spins."""
    kernel = campaign.files.kernel()
    stages = {"spinning guest": (campaign.guest["spin"], (0.3,)),
              "idle guest": (campaign.guest["idle"], (0.3,)),
              "booting kernel": (kernel, (0.01, 0.03, 0.06, 0.1, 0.2, 0.5))}
    for name, (image, delays) in stages.items():
        for number in ("SIGINT", "SIGTERM", "SIGHUP"):
            for delay in delays:
                with campaign.report.case(f"{number} after {delay} s: {name}"):
                    with Doppel(campaign.command(["run", "--cpus", "2", "--kernel", image]),
                                env=campaign.environment) as machine:
                        time.sleep(delay)
                        machine.signal(getattr(signal, number))
                        status = machine.wait(SECONDS)
                        # Before the program has its handler, the kernel's default is the end.
                        assert status in (status_of_signal(number),
                                          -getattr(signal, number)), status
                        within(machine.elapsed, 0, SECONDS / 2, "seconds")
    with campaign.report.case("a SIGHUP that nohup ignores"):
        with Doppel(campaign.command(["run", "--kernel", campaign.guest["idle"]]),
                    env=campaign.environment,
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as machine:
            time.sleep(0.2)
            machine.signal(signal.SIGHUP)
            time.sleep(0.2)
            assert machine.process.poll() is None, "it ended"
            machine.signal(signal.SIGTERM)
            equal(machine.wait(SECONDS), status_of_signal("SIGTERM"))


# --- Guests ---

def guests(campaign):
    crashes = ("triple_fault", "wild_read", "jump_to_mmio")
    for name in crashes:
        campaign.refused(f"guest: {name}", ["--no-reboot", "--kernel", campaign.guest[name]],
                         CRASH, "triple fault")
    campaign.runs("guest: debug exit", ["--debug-exit", "--kernel", campaign.guest["debug_exit"]],
                  7)
    for name in ("power_off", "read_ports", "write_ports", "absurd_timers"):
        campaign.runs(f"guest: {name}", ["--kernel", campaign.guest[name]])
    campaign.runs("guest: reset", ["--no-reboot", "--kernel", campaign.guest["reset"]])
    source = random.Random(4)
    for number in range(20):
        path = campaign.file("garbage.elf", elf64(source.randbytes(4096)))
        with campaign.report.case(f"guest: garbage {number}"):
            with Doppel(campaign.command(["run", "--no-reboot", "--cpus", "2", "--kernel", path]),
                        env=campaign.environment) as machine:
                try:
                    machine.process.wait(0.2)
                except subprocess.TimeoutExpired:
                    machine.signal(signal.SIGTERM)
                status = machine.wait(SECONDS)
                # On a busy host the signal may come before anybody handles it.
                assert status in (0, CRASH, status_of_signal("SIGTERM"),
                                  -signal.SIGTERM), status
    for name in ("triple_fault", "power_off", "idle", "talk", "reset"):
        with campaign.report.case(f"--exit-stats after {name}"):
            stats = campaign.path("stats.json")
            with Doppel(campaign.command(["run", "--no-reboot", "--exit-stats", stats, "--kernel",
                                          campaign.guest[name]]),
                        env=campaign.environment) as machine:
                try:
                    machine.process.wait(0.3)
                except subprocess.TimeoutExpired:
                    machine.signal(signal.SIGTERM)
                machine.wait(SECONDS)
            with open(stats, encoding="utf-8") as file:
                json.load(file)
    for path in ("/nonexistent/stats", campaign.path("folder")):
        campaign.refused(f"--exit-stats {path}", ["--exit-stats", path, "--kernel",
                                                  campaign.guest["power_off"]], HOST_ERROR,
                         "--exit-stats", path)
    campaign.refused("--exit-stats /dev/full", ["--exit-stats", "/dev/full", "--kernel",
                                                campaign.guest["power_off"]], HOST_ERROR,
                     "--exit-stats /dev/full", "No space left")


# --- Hosts ---

def limits(campaign):
    kernel = ["run", "--kernel", campaign.guest["power_off"]]

    def limited(name, which, value):
        with campaign.report.case(f"ulimit {name} {value}"):
            status, output, errors = campaign.run(
                *kernel, preexec_fn=lambda: resource.setrlimit(which, (value, value)))
            assert status in (0, HOST_ERROR), (status, errors)
            assert status == 0 or errors.startswith("doppel: "), errors
            equal(output, b"", "stdout")

    for value in (8, 10, 12, 14, 16, 20, 64):
        limited("-n", resource.RLIMIT_NOFILE, value)
    limited("-f", resource.RLIMIT_FSIZE, 0)
    limited("-l", resource.RLIMIT_MEMLOCK, 0)
    with campaign.report.case("ulimit -v"):
        if campaign.is_sanitized:
            raise Skip("the sanitizer needs the address space")
    if not campaign.is_sanitized:
        for mebibytes in (40, 60, 100, 200, 400, 600, 1000, 4000):
            limited("-v", resource.RLIMIT_AS, mebibytes << 20)


def sockets(campaign):
    kernel = ["--kernel", campaign.guest["idle"]]
    path = campaign.path("console")
    with campaign.report.case("--console socket: nothing is left"):
        with Doppel(campaign.command(["run", *kernel, "--console", "socket=" + path]),
                    env=campaign.environment) as machine:
            deadline = time.monotonic() + SECONDS
            while not os.path.exists(path) and time.monotonic() < deadline:
                time.sleep(0.02)
            mode = os.stat(path).st_mode
            assert stat.S_ISSOCK(mode)
            equal(oct(stat.S_IMODE(mode)), "0o600", "the socket's rights")
            machine.signal(signal.SIGTERM)
            equal(machine.wait(SECONDS), status_of_signal("SIGTERM"))
        assert not os.path.exists(path), "the socket is still there"
    campaign.file("console", b"precious")
    campaign.refused("--console socket: a file in its place",
                     [*kernel, "--console", "socket=" + path], HOST_ERROR, path)
    with campaign.report.case("--console socket: the file is untouched"):
        with open(path, "rb") as file:
            equal(file.read(), b"precious")
    campaign.refused("--console socket: a path too long",
                     [*kernel, "--console", "socket=/tmp/" + "s" * 200], HOST_ERROR, "--console")
    with campaign.report.case("nothing is left in the folder"):
        left = [name for name in os.listdir(campaign.work) if name.startswith(".")]
        equal(left, [])


def main(doppel, source):
    with tempfile.TemporaryDirectory() as work:
        campaign = Campaign(doppel, source, work)
        for part in (files_as_kernel, files_as_initrd, truncated_kernels, numbers, descriptions,
                     streams, signals, guests, limits, sockets):
            part(campaign)
    campaign.report.end()


main(*sys.argv[1:])
