#!/usr/bin/env python3
"""A Debian on a disk: boots to a shell, keeps what it is told to keep, and what goes wrong.

usage: test_disk.py DOPPEL SOURCE-DIRECTORY CPUS...
"""
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

from doppel import Doppel
from guestfiles import KERNELS, Files
from tap import Report, equal

PROMPT = r"^doppel:\S*# "
PATTERN_BYTES = 1 << 20


class Machine(Doppel):
    """A guest with a shell on the console."""

    def __init__(self, command, **options):
        super().__init__(command, terminal=True, **options)
        self.read = 0

    def prompt(self, seconds=120):
        match = self.expect(PROMPT, seconds, self.read)
        text = self.text[self.read:match.start()]
        self.read = match.end()
        return text

    def run(self, command, seconds=120):
        """Runs a command in the guest's shell: its lines of output, without its echo and what
        the kernel says."""
        self.send(command.encode() + b"\n")
        lines = self.prompt(seconds).split("\n")[1:]
        return [line.strip("\r") for line in lines
                if line.strip("\r") and not re.match(r"\[ *\d+\.\d+\] ", line)]

    def power_off(self):
        self.send(b"poweroff\n")
        equal(self.wait(60), 0, "exit status")


class Host:
    def __init__(self, doppel, source, work):
        files = Files(source, work)
        self.doppel, self.work = doppel, work
        self.kernel = files.kernel()
        self.initrd = files.script("make-initramfs", "--disk", KERNELS["cloud"],
                                   os.path.join(work, "disk.cpio"))
        self.rootfs = files.script("make-rootfs")

    def image(self, name):
        path = os.path.join(self.work, name)
        subprocess.run(["cp", "--sparse=always", self.rootfs, path], check=True)
        return path

    def command(self, *disks, cpus=1, append=""):
        command = [self.doppel, "run", "--kernel", self.kernel, "--initrd", self.initrd,
                   "--no-reboot", "--memory", "256M", "--cpus", str(cpus),
                   "--append", f"console=ttyS0 quiet root=/dev/vda {append}"]
        for disk in disks:
            command += ["--disk", disk]
        return command


def check_clean(image):
    """As e2fsck sees it, after the journal's replay if the guest was killed."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    done = subprocess.run(["e2fsck", "-fn", image], capture_output=True, text=True,
                          env={**os.environ, "PATH": path}, check=False)
    assert done.returncode == 0, f"e2fsck says {done.returncode}:\n{done.stdout}{done.stderr}"


def content(image, name):
    """A file of the image, read by the host."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    return subprocess.run(["debugfs", "-R", f"cat {name}", image], capture_output=True,
                          env={**os.environ, "PATH": path}, check=True).stdout


def test_keeps(report, host):
    image = host.image("keep.img")
    with report.case("a Debian boots from a disk to a shell"):
        with Machine(host.command(image)) as machine:
            assert "Debian GNU/Linux 12" in machine.prompt(), machine.tail()
            equal(machine.run("id -un; findmnt -no SOURCE,FSTYPE /"), ["root", "/dev/vda ext4"])
            machine.run("dd if=/dev/urandom of=/root/data bs=64k count=40 status=none")
            sum_inside = machine.run("sha256sum < /root/data")[0].split()[0]
            machine.run("echo written by the guest > /root/note")
            machine.run("for i in $(seq 100); do mkdir -p /srv/$i; echo $i > /srv/$i/n; done")
            machine.power_off()
    with report.case("the host finds a clean file system and the contents"):
        check_clean(image)
        equal(content(image, "/root/note"), b"written by the guest\n")
        equal(hashlib.sha256(content(image, "/root/data")).hexdigest(), sum_inside)
    with report.case("they are there at the next boot, read-only, too"):
        before = hashlib.sha256(open(image, "rb").read()).hexdigest()
        with Machine(host.command(f"{image},format=raw,readonly")) as machine:
            machine.prompt()
            equal(machine.run("cat /root/note /srv/77/n"), ["written by the guest", "77"])
            equal(machine.run("cat /sys/block/vda/ro"), ["1"])
            lines = machine.run("touch /root/x; dd if=/dev/zero of=/dev/vda count=1")
            assert any("Read-only" in line for line in lines), lines
            assert any("not permitted" in line for line in lines), lines
            machine.power_off()
        equal(hashlib.sha256(open(image, "rb").read()).hexdigest(), before)


def test_durable(report, host):
    image = host.image("durable.img")
    with report.case("what sync returned for survives the end of the VMM"):
        with Machine(host.command(image)) as machine:
            machine.prompt()
            machine.run("echo safe > /root/safe; dd if=/dev/urandom of=/root/data bs=64k "
                        "count=20 status=none")
            expected = machine.run("sha256sum < /root/data; sync")[0].split()[0]
            machine.process.kill()
            machine.process.wait()
        with Machine(host.command(image)) as machine:
            machine.prompt()
            equal(machine.run("cat /root/safe; sha256sum < /root/data"),
                  ["safe", f"{expected}  -"])
            machine.power_off()
        check_clean(image)


def test_parallel(report, host, cpus):
    root = host.image(f"root{cpus}.img")
    data = os.path.join(host.work, f"data{cpus}.img")
    blocks = [os.urandom(PATTERN_BYTES) for _ in range(4)]
    with open(data, "wb") as file:
        file.write(b"".join(blocks) + bytes(4 * PATTERN_BYTES))
    with report.case(f"{cpus} vCPU: parallel copies of a second disk are right"):
        with Machine(host.command(root, data, cpus=cpus)) as machine:
            machine.prompt()
            queues = machine.run("ls -d /sys/block/vdb/mq/*/ | wc -l; cat /sys/block/vdb/serial; echo")
            equal(queues, [str(cpus), "disk1"])
            machine.run("for i in 0 1 2 3; do dd if=/dev/vdb of=/dev/vdb bs=64k count=16 "
                        "skip=$((i * 16)) seek=$((64 + (3 - i) * 16)) iflag=direct "
                        "oflag=direct conv=notrunc status=none & done; wait", 180)
            sums = machine.run("for i in 0 1 2 3; do dd if=/dev/vdb bs=1M skip=$((4 + i)) "
                               "count=1 status=none | md5sum; done")
            equal(sums, [hashlib.md5(block).hexdigest() + "  -" for block in blocks[::-1]])
            machine.power_off()
    with report.case(f"{cpus} vCPU: and the host reads the same"):
        with open(data, "rb") as file:
            equal(hashlib.md5(file.read()).hexdigest(),
                  hashlib.md5(b"".join(blocks + blocks[::-1])).hexdigest())


def test_discard(report, host):
    root, data = host.image("trim.img"), os.path.join(host.work, "discard.img")
    with open(data, "wb") as file:
        file.write(b"x" * (4 << 20))
    with report.case("what the guest discards takes no room on the host"):
        with Machine(host.command(root, data)) as machine:
            machine.prompt()
            before = os.stat(data).st_blocks
            machine.run("blkdiscard -o 1M -l 2M /dev/vdb; blkdiscard -z -o 3M -l 64K /dev/vdb")
            machine.power_off()
        assert os.stat(data).st_blocks <= before - (2 << 20) // 512, os.stat(data).st_blocks
        with open(data, "rb") as file:
            bytes_left = file.read()
        equal(bytes_left[:1 << 20], b"x" * (1 << 20))
        equal(bytes_left[3 << 20:(3 << 20) + 65536], bytes(65536))
        equal(bytes_left[(3 << 20) + 65536:], b"x" * ((1 << 20) - 65536))


def test_full(report, host):
    """A limit on the size of files stands for a full file system: it needs no privilege."""
    root, data = host.image("full.img"), os.path.join(host.work, "sparse.img")
    with open(data, "wb") as file:
        file.truncate(1 << 30)
    limited = ["sh", "-c", 'ulimit -f 1048576; exec "$@"', "sh"]  # 512M, in blocks of 512
    with report.case("a host that has no room gives an I/O error, and the VM goes on"):
        with Machine(limited + host.command(root, data)) as machine:
            machine.prompt()
            lines = machine.run("dd if=/dev/zero of=/dev/vdb bs=64k count=4 seek=9000 "
                                "oflag=direct; echo status $?")
            assert any("error" in line.lower() for line in lines), lines
            equal(lines[-1], "status 1")
            assert "the guest gets an I/O error" in machine.text, machine.tail()
            equal(machine.run("dd if=/dev/zero of=/dev/vdb bs=64k count=4 oflag=direct "
                              "status=none; echo status $?"), ["status 0"])
            machine.power_off()


def test_mistakes(report, host):
    small = os.path.join(host.work, "small.img")
    good = os.path.join(host.work, "good.img")
    qcow = os.path.join(host.work, "image.qcow2")
    for path, head, size in ((small, b"", 1000), (good, b"", 4096), (qcow, b"QFI\xfb", 4096)):
        with open(path, "wb") as file:
            file.write(head)
            file.truncate(size)
    cases = [
        ("a missing image", "/nonexistent/a.img", 125, "/nonexistent/a.img: No such file"),
        ("a folder", host.work, 125, "is a directory"),
        ("a device that is no disk", "/dev/null", 125, "neither a regular file nor a block"),
        ("an odd size", small, 125, "truncate -s 1024"),
        ("another format", qcow, 125, "looks like a qcow2 image"),
        ("an unknown format", f"{good},format=rwa", 2, "did you mean raw?"),
        ("an unknown option", f"{good},raedonly", 2, "did you mean readonly?"),
        ("an unknown bus", f"{good},bus=ide", 2, "unknown bus 'ide'"),
        ("a disk twice", good, 125, "in use"),
    ]
    for name, disk, status, message in cases:
        with report.case(f"{name} is refused"):
            disks = (disk, disk) if name == "a disk twice" else (disk,)
            done = subprocess.run(host.command(*disks), capture_output=True, text=True,
                                  stdin=subprocess.DEVNULL, timeout=60, check=False)
            equal(done.returncode, status, done.stderr)
            assert message in done.stderr, done.stderr
            assert re.match(r"doppel: .*--disk", done.stderr), done.stderr
    with report.case("too many disks are refused"):
        done = subprocess.run(host.command(*[good] * 9), capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False)
        equal(done.returncode, 2)
        assert "at most 8 disks" in done.stderr, done.stderr
    with report.case("--dry-run shows the disks"):
        done = subprocess.run(host.command(f"{good},readonly") + ["--dry-run"],
                              capture_output=True, text=True, timeout=60, check=True)
        machine = json.loads(done.stdout)
        equal(machine["disks"], [{"file": good, "format": "raw", "size": 4096,
                                  "readonly": True, "bus": "virtio"}])
        assert {"name": "disk0", "model": "virtio block device", "address": 0xd0000000,
                "irq": 16} in machine["devices"], machine["devices"]


def main(doppel, source, *counts):
    report = Report()
    work = tempfile.mkdtemp()
    try:
        with report.case("files for the guest"):
            host = Host(doppel, source, work)
        if not report.failures:
            test_mistakes(report, host)
            test_keeps(report, host)
            test_durable(report, host)
            test_discard(report, host)
            test_full(report, host)
            for cpus in map(int, counts):
                test_parallel(report, host, cpus)
    finally:
        shutil.rmtree(work)
    report.end()


main(*sys.argv[1:])
