#!/usr/bin/env python3
"""How virtual machines begin and end: boot protocols, sizes, reboot, panic, cache, users.

usage: test_life.py DOPPEL SOURCE-DIRECTORY
"""
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from doppel import Doppel, status_of_signal
from guestfiles import KERNELS, Files, forget_system_name, hide_payload
from tap import Report, Skip, equal, within

NOBODY = 65534
# The kernel speaks before it knows its own serial port.
EARLY = "earlyprintk=ttyS0"
# To fill. Linux gives out its highest memory first.
MEGABYTES = 24


def contents(path):
    with open(path, "rb") as file:
        return file.read()


class Lives:
    def __init__(self, doppel, source, work):
        self.report = Report()
        self.work = work
        os.chmod(work, 0o755)
        self.doppel = shutil.copy(doppel, os.path.join(work, "doppel"))
        self.files = Files(source, work)
        self.kernel = shutil.copy(self.files.kernel(), os.path.join(work, "vmlinuz"))
        os.chmod(self.kernel, 0o644)
        modules = os.path.join(self.files.script("fetch-kernel", "--modules",
                                                 KERNELS["cloud"]), "drivers/misc/pvpanic")
        self.initrd = self.files.initrd("job", "job", {
            "modules/" + name: contents(os.path.join(modules, name))
            for name in ("pvpanic.ko", "pvpanic-mmio.ko")})

    def command(self, job, *options, kernel=None, append="quiet", prefix=()):
        return [*prefix, self.doppel, "run", "--kernel", kernel or self.kernel, "--initrd",
                self.initrd, "--append", f"console=ttyS0 job={job} {append}", *options]

    def life(self, title, job, status, *shown, told="", seconds=150, **options):
        """Boots, sees what is shown, ends with the status; returns the output."""
        with self.report.case(title), Doppel(
                self.command(job, *options.pop("options", ()),
                             **{key: options.pop(key) for key in ("kernel", "append", "prefix")
                                if key in options}), **options) as machine:
            for pattern in shown:
                machine.expect(pattern, seconds)
            equal(machine.wait(seconds), status, f"exit status (stderr: {machine.messages})")
            assert told in machine.messages, f"stderr lacks {told!r}: {machine.messages}"
            self.report.note(f"{title}: {machine.elapsed:.1f} s")
            return machine.text
        return ""


def unpacked_kernel(lives):
    """The vmlinux in the bzImage, which the cache keeps behind a header of its own."""
    folder = os.path.join(lives.work, "unpacked")
    with Doppel(lives.command("none", append=EARLY),
                env=dict(os.environ, XDG_CACHE_HOME=folder)) as machine:
        machine.expect("Linux version", 60)
    (entry,) = cached_files(folder)
    return lives.files.changed(entry, "vmlinux", lambda data: data[data.index(b"\x7fELF"):])


def protocols(lives):
    off = "none"
    lives.life("the kernel's own decompressor", off, 0, "^@init 1$",
               kernel=lives.files.changed(lives.kernel, "hidden", hide_payload))
    vmlinux = unpacked_kernel(lives)
    lives.life("vmlinux", off, 0, "^@init 1$", kernel=vmlinux)
    lives.life("PVH", off, 0, "^@init 1$",
               kernel=lives.files.changed(vmlinux, "pvh", forget_system_name))


def ends(lives):
    text = lives.life("reboot, --no-reboot", "reboot", 0, "^@init", options=["--no-reboot"])
    with lives.report.case("it began once"):
        equal(text.count("@init"), 1)
    with lives.report.case("reboot begins again"), Doppel(lives.command("reboot")) as machine:
        first = machine.expect("^@init", 150).end()
        # The kernel's clock begins anew too.
        machine.expect("^@init", 150, start=first)
        machine.signal(signal.SIGTERM)
        equal(machine.wait(), status_of_signal("SIGTERM"), "exit status")
    lives.life("magic system request: reset", "reset", 0, options=["--no-reboot"])
    lives.life("magic system request: power off", "off", 0)
    panic = r"Kernel panic - not syncing: .*\n"
    lives.life("a panic that resets by a triple fault", "panic", 124, panic,
               told="triple fault", append="quiet panic=-1 reboot=t", options=["--no-reboot"])
    lives.life("/init ends: a panic, a reset after a second", "exit", 0, panic,
               append="quiet panic=1", options=["--no-reboot"])
    lives.life("a panic that the guest's driver reports", "report", 124, panic,
               told="the guest crashed: it reported a panic")
    with lives.report.case("a panic that waits: SIGINT"), Doppel(
            lives.command("panic")) as machine:
        machine.expect(panic, 150)
        machine.signal(signal.SIGINT)
        equal(machine.wait(), status_of_signal("SIGINT"), "exit status")
    with lives.report.case("an idle guest costs little; SIGHUP ends it"), Doppel(
            lives.command("idle", "--cpus", "2")) as machine:
        machine.expect("^@init 2$", 150)
        time.sleep(1)
        before = machine.cpu_seconds()
        time.sleep(2)
        used = machine.cpu_seconds() - before
        lives.report.note(f"an idle guest of 2 vCPUs: {used / 2:.1%} of a processor")
        within(used, 0, 1, "processor time of 2 s")
        machine.signal(signal.SIGHUP)
        equal(machine.wait(10), status_of_signal("SIGHUP"), "exit status")


def sizes(lives):
    lives.life("16 virtual processors", "none", 0, "^@init 16$", options=["--cpus", "16"])
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    for gibibytes in (3, 4, 5):
        title = f"{gibibytes}G of memory"
        if available <= gibibytes:
            with lives.report.case(title):
                raise Skip(f"this host has {available}G")
            continue
        text = lives.life(title, "memory", 0, "^@memory", "^@sum",
                          options=["--memory", f"{gibibytes}G"],
                          append=f"quiet megabytes={MEGABYTES}")
        with lives.report.case(title + ": all of it, and each byte"):
            kibibytes = int(re.search(r"@memory (\d+)", text)[1])
            within(kibibytes, (gibibytes << 20) * 0.95, gibibytes << 20, "MemTotal")
            equal(re.search(r"@sum (\w+)", text)[1], hashlib.md5(b"\125" * (MEGABYTES << 20)).hexdigest())


# --- The cache of unpacked kernels ---

def cached_files(folder):
    found = []
    for path, _, names in os.walk(folder):
        # The measurement of the host's KVM is kept there, too.
        found += [os.path.join(path, name) for name in names if name.endswith(".kernel")]
    return found


def cache(lives):
    folder = os.path.join(lives.work, "cache")
    environment = dict(os.environ, XDG_CACHE_HOME=folder)
    # Told early in the boot; the rest of it is no matter here.
    shown = r"Linux version"

    def start(title, environment=environment, prefix=(), check=lambda machine: None, **options):
        with lives.report.case(title), Doppel(
                lives.command("none", append=EARLY, prefix=prefix),
                env=environment, **options) as machine:
            machine.expect(shown, 60)
            lives.report.note(f"{title}: the kernel speaks after "
                              f"{time.monotonic() - machine.started:.2f} s")
            check(machine)
            machine.signal(signal.SIGTERM)
            machine.wait(20)

    def two_at_once(first):
        with Doppel(lives.command("none", append=EARLY),
                    env=environment) as second:
            second.expect(shown, 60)
            assert first.process.poll() is None, "the first has ended"
            second.signal(signal.SIGTERM)
            second.wait(20)

    start("an empty cache, two at once", check=two_at_once)
    with lives.report.case("one file of the cache, no other left"):
        equal(len(cached_files(folder)), 1, "files")
    start("a filled cache")
    entry = (cached_files(folder) or [None])[0]
    for name, damage in {"a changed byte": lambda data: data[:999] + b"?" + data[1000:],
                         "cut off": lambda data: data[:len(data) // 2],
                         "empty": lambda data: b""}.items():
        with open(entry, "rb") as file:
            good = file.read()
        with open(entry, "wb") as file:
            file.write(damage(good))
        start(f"a cache file damaged: {name}")
        with lives.report.case(f"the cache file is whole again: {name}"):
            with open(entry, "rb") as file:
                assert file.read() == good, "it still differs"
    shutil.rmtree(folder)
    for name, changes in {"no HOME": {"HOME": None, "XDG_CACHE_HOME": None},
                          "no such HOME": {"HOME": "/nonexistent", "XDG_CACHE_HOME": None},
                          "the cache is a file": {"XDG_CACHE_HOME": lives.kernel},
                          "the cache is a device": {"XDG_CACHE_HOME": "/dev/full"},
                          "a relative folder": {"HOME": None, "XDG_CACHE_HOME": "cache"},
                          "an odd TMPDIR": {"TMPDIR": "/nonexistent"}}.items():
        changed = {key: value for key, value in dict(environment, **changes).items()
                   if value is not None}
        start(f"cache: {name}", environment=changed)
    full_cache(lives, start)


def full_cache(lives, start):
    """A file system of its own, too small for a kernel, in a mount namespace."""
    folder = os.path.join(lives.work, "small")
    os.mkdir(folder)
    prefix = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c",
              'mount -t tmpfs -o size=10M small "$0" && exec "$@"', folder]
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        with lives.report.case("cache: a full file system"):
            raise Skip("no user namespaces here")
        return

    def nothing_left(machine):
        root = f"/proc/{machine.process.pid}/root" + folder
        equal(cached_files(root), [], "files in the full cache")

    start("cache: a full file system", prefix=prefix, check=nothing_left,
          environment=dict(os.environ, XDG_CACHE_HOME=folder))


def users(lives):
    title = "a user without rights, home and /dev/kvm"
    if os.geteuid() != 0:
        with lives.report.case(title):
            raise Skip("not root: all of these tests show it")
        return
    prefix = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups",
              "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    lives.life(title, "none", 0, "^@init 2$", prefix=prefix, options=["--cpus", "2"],
               env={"PATH": os.environ["PATH"]}, cwd="/")


def main(doppel, source, *parts):
    table = {"protocols": protocols, "ends": ends, "sizes": sizes, "cache": cache,
             "users": users}
    with tempfile.TemporaryDirectory() as work:
        lives = Lives(doppel, source, work)
        for part in parts or table:
            table[part](lives)
    lives.report.end()


main(*sys.argv[1:])
