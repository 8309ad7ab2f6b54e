#!/usr/bin/env python3
"""The machine `pc`: Debian's kernel and its PCI bus, a multiboot image, a firmware image.

usage: test_pc.py DOPPEL SOURCE-DIRECTORY
"""
import os
import re
import struct
import subprocess
import sys
import tempfile

from doppel import Doppel
from guestfiles import Files, code
from tap import Report, Skip, equal

MULTIBOOT = 0x1badb002
LOAD = 0x100000
SEABIOS = "/usr/share/seabios/bios-256k.bin"


def multiboot(program):
    """A flat image whose header says where it goes."""
    flags = 1 << 16
    header = struct.pack("<8I", MULTIBOOT, flags, -(MULTIBOOT + flags) & 0xffffffff, LOAD, LOAD,
                         0, 0, LOAD + 32)
    return header + program


def firmware(program):
    """64 KiB, the program at f000:0000; at the end a far jump to it."""
    return program.ljust(0xfff0, b"\xf4") + code("ea000000f0").ljust(16, b"\xf4")


# Writes the command line, which EBX's structure points to, to the serial port, then leaves
# by the debug exit port with EAX as it was at entry, shifted to its lowest byte.
TELL_COMMAND_LINE = code(
    "89c7"        # mov edi, eax
    "8b7310"      # mov esi, [ebx + 16]
    "66baf803"    # mov dx, 0x3f8
    "ac 84c0"     # lodsb; test al, al
    "7403"        # jz on
    "ee ebf8"     # out dx, al; jmp back
    "89f8 c1e818"  # mov eax, edi; shr eax, 24
    "66baf400 ee f4")  # mov dx, 0xf4; out dx, al; hlt

# In real mode: two POST codes, a letter to the serial port, then the reset register or, when
# the CMOS memory says that it has been here, the debug exit port.
RESET_ONCE = code(
    "b011 e680"          # mov al, 0x11; out 0x80, al
    "baf803 b052 ee"     # mov dx, 0x3f8; mov al, 'R'; out dx, al
    "b050 e670 e471"     # mov al, 0x50; out 0x70, al; in al, 0x71
    "3c77 740e"          # cmp al, 0x77; je on
    "b050 e670 b077 e671"  # the same; mov al, 0x77; out 0x71, al
    "b006 baf90c ee"     # mov al, 6; mov dx, 0xcf9; out dx, al
    "b022 ba9001 ee"     # mov al, 0x22; mov dx, 0x190; out dx, al
    "b005 e6f4 f4")      # mov al, 5; out 0xf4, al; hlt


# Closes the A20 gate, switches shadow RAM on at c0000, tells that it is there, and waits for a
# letter. Ends with it as the value, if 0x100500 still shows 0x500, and c0000 what was stored.
WAIT_FOR_LETTER = code(
    "31c0 e692 8ed8"       # xor ax, ax; out 0x92, al; mov ds, ax
    "c606000577"           # mov byte [0x500], 0x77
    "48 8ec0"              # dec ax; mov es, ax
    "66b858000080"         # mov eax, 0x80000058
    "baf80c 66ef"          # mov dx, 0xcf8; out dx, eax
    "bafe0c b003 ee"       # mov dx, 0xcfe; mov al, 3; out dx, al
    "b800c0 8ee0"          # mov ax, 0xc000; mov fs, ax
    "64c606000001"         # mov byte [fs:0], 1
    "baf803 b057 ee"       # mov dx, 0x3f8; mov al, 'W'; out dx, al
    "bafd03 ec a801 74fb"  # wait: mov dx, 0x3fd; in al, dx; test al, 1; jz wait
    "baf803 ec"            # mov dx, 0x3f8; in al, dx
    "268a261005"           # mov ah, [es:0x510]
    "642a260000 80ec76"    # sub ah, [fs:0]; sub ah, 0x76
    "00e0 e6f4 f4")        # add al, ah; out 0xf4, al; hlt


def write(work, name, content):
    path = os.path.join(work, name)
    with open(path, "wb") as file:
        file.write(content)
    return path


def test_linux(report, doppel, source, work):
    files = Files(source, work)
    command = [doppel, "run", "--machine", "pc", "--no-reboot", "--debug-exit", "--memory",
               "256M", "--cpus", "2", "--kernel", files.kernel("cloud"), "--initrd",
               files.initrd("pci", "pci"), "--append", "console=ttyS0 quiet"]
    with Doppel(command) as machine:
        with report.case("Linux boots on pc and powers off"):
            machine.expect(r"^done", 240)
            equal(machine.wait(), 0, "exit status")
            equal(machine.messages, "", "stderr")
        with report.case("Linux finds the functions on the PCI bus, and their addresses"):
            functions = re.findall(r"^function (\S+) (\S+) (\S+)", machine.text, re.MULTILINE)
            equal(functions, [("0000:00:00.0", "0x8086", "0x1237"),
                              ("0000:00:04.0", "0x1b36", "0x0005")], "functions")
            resources = re.findall(r"^resource 0x0*(\w+) 0x0*(\w+)", machine.text, re.MULTILINE)
            equal(resources[-2:], [("e0000000", "e0000fff"), ("c000", "c0ff")], "resources")
        with report.case("Linux learns the bridge's windows from ACPI"):
            for window in (r"\[io +0xc000-0xffff window\]",
                           r"\[mem 0xe0000000-0xfebfffff window\]", r"\[bus 00\]"):
                assert re.search("root bus resource " + window, machine.text), \
                    f"no {window}:\n{machine.tail()}"


def test_multiboot(report, doppel, work):
    image = write(work, "kernel", multiboot(TELL_COMMAND_LINE))
    with report.case("a multiboot image gets its command line and the magic number"):
        with Doppel([doppel, "run", "--machine", "pc", "--no-reboot", "--debug-exit",
                     "--kernel", image, "--append", "one two"]) as machine:
            equal(machine.wait(), 0x2b << 1 | 1, "exit status")
            equal(machine.text.strip(), f"{image} one two", "output")


def test_firmware(report, doppel, work):
    image = write(work, "rom", firmware(RESET_ONCE))
    with report.case("a firmware image runs from the reset vector, after a reset again"):
        with Doppel([doppel, "run", "--machine", "pc", "--debug-exit", "--verbose",
                     "--memory", "2M", "--firmware", image]) as machine:
            equal(machine.wait(), 5 << 1 | 1, "exit status")
            equal(machine.text.strip(), "RR", "output")
            codes = re.findall(r"POST code (\w\w)", machine.messages)
            equal(codes, ["11", "11", "22"], "POST codes")
    with report.case("firmware that cannot be used is refused"):
        for arguments, words in (
                (["--machine", "pc", "--firmware", write(work, "odd", b"x" * 65537)],
                 "multiple of 64 KiB"),
                (["--machine", "pc", "--firmware", os.path.join(work, "none")], "No such file"),
                (["--firmware", image], "--machine pc"),
                (["--machine", "pc", "--firmware", image, "--kernel", image], "--kernel")):
            with Doppel([doppel, "run"] + arguments) as machine:
                equal(machine.wait(), 125, f"exit status of {arguments}")
                assert words in machine.messages, machine.messages


def test_saved_firmware(report, doppel, work):
    image = write(work, "waiting", firmware(WAIT_FOR_LETTER))
    saved = os.path.join(work, "saved")
    environment = dict(os.environ, XDG_RUNTIME_DIR=work)
    with report.case("a machine with firmware is saved, and goes on without the file, its "
                     "shadow RAM and A20 gate as they were"):
        with Doppel([doppel, "run", "--name", "rom", "--machine", "pc", "--debug-exit", "--memory",
                     "2M", "--firmware", image],
                    stdin=subprocess.PIPE, env=environment) as first:
            first.expect("W")
            for arguments in (["pause", "rom"], ["snapshot", "rom", saved], ["kill", "rom"]):
                done = subprocess.run([doppel, *arguments], env=environment, timeout=60,
                                      capture_output=True, text=True, check=False)
                equal(done.returncode, 0, f"{arguments}: {done.stderr}")
            first.wait()
        os.remove(image)
        with Doppel([doppel, "restore", saved], stdin=subprocess.PIPE, env=environment) as second:
            second.send(b"A")
            equal(second.wait(), (ord("A") << 1 | 1) & 0xff, "exit status")


def test_seabios(report, doppel):
    with report.case("SeaBIOS runs from shadow RAM until it finds nothing to boot from"):
        if not os.path.exists(SEABIOS):
            raise Skip("the package seabios is not installed")
        with Doppel([doppel, "run", "--machine", "pc", "--cpus", "2", "--memory", "64M",
                     "--firmware", SEABIOS]) as machine:
            # What it shows on the serial console comes between what it tells by port 402h.
            machine.expect(r"(?s)enter handle_19.*enter handle_18.*enter handle_18", 60)
            assert "Found 2 cpu(s)" in machine.text, machine.tail()


# A boot sector that has the BIOS read the next one, and ends with its first byte as the value.
BOOT_SECTOR = code(
    "31c0 8ed8 8ec0 bc007c"  # xor ax, ax; mov ds, ax; mov es, ax; mov sp, 0x7c00
    "b80102 bb0080"          # mov ax, 0x201; mov bx, 0x8000
    "b90200 b600 cd13"       # mov cx, 2; mov dh, 0; int 0x13
    "7203 a00080"            # jc on; mov al, [0x8000]
    "e6f4 f4 ebfd")          # on: out 0xf4, al; hlt


def test_seabios_disk(report, doppel, work):
    with report.case("SeaBIOS boots from a virtio disk, which it finds by the ACPI tables"):
        if not os.path.exists(SEABIOS):
            raise Skip("the package seabios is not installed")
        sectors = BOOT_SECTOR.ljust(510, b"\0") + b"\x55\xaa" + b"\x2a"
        disk = write(work, "disk", sectors.ljust(1 << 20, b"\0"))
        with Doppel([doppel, "run", "--machine", "pc", "--debug-exit", "--memory", "64M",
                     "--firmware", SEABIOS, "--disk", disk]) as machine:
            equal(machine.wait(), 0x2a << 1 | 1, f"exit status after:\n{machine.tail()}")


def main(doppel, source):
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        test_multiboot(report, doppel, work)
        test_firmware(report, doppel, work)
        test_saved_firmware(report, doppel, work)
        test_seabios(report, doppel)
        test_seabios_disk(report, doppel, work)
        test_linux(report, doppel, source, work)
    report.end()


main(*sys.argv[1:])
