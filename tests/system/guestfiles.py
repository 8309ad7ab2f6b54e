"""Files for guests: kernels, initial RAM disks, and changed copies of them."""
import os
import struct
import subprocess

KERNELS = {"cloud": "linux-image-cloud-amd64", "amd64": "linux-image-amd64",
           "686-pae": "linux-image-686-pae", "686": "linux-image-686"}


def architecture(kernel):
    """What scripts take for a kernel that is not the host's."""
    return ["--architecture", "i386"] if kernel.startswith("686") else []


class Files:
    def __init__(self, source, work):
        self.source = source
        self.work = work
        self.base = {}

    def script(self, name, *arguments):
        """What scripts/NAME prints. A package that cannot be fetched is a failure: a test
        of kernels without kernels would be silently none."""
        done = subprocess.run([os.path.join(self.source, "scripts", name), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300, check=False)
        assert done.returncode == 0, f"scripts/{name} failed:\n{done.stderr}"
        return done.stdout.strip()

    def kernel(self, name="cloud"):
        return self.script("fetch-kernel", *architecture(name), KERNELS[name])

    def initrd(self, name, program, files=None, kernel="cloud"):
        """An initial RAM disk: busybox as KERNEL runs it, and PROGRAM (a file of guest/) as
        /init."""
        kind = architecture(kernel)
        base = os.path.join(self.work, "-".join(["base", *kind[1:]]) + ".cpio")
        if base not in self.base:
            self.base[base] = self.script("make-initramfs", *kind, base)
        with open(self.base[base], "rb") as file:
            content = file.read()
        archive = Archive()
        with open(os.path.join(self.source, "tests", "system", "guest", program), "rb") as file:
            archive.add("init", file.read(), 0o755)
        for folder in sorted({os.path.dirname(file) for file in files or ()} - {""}):
            archive.add_folder(folder)
        for file_name, data in (files or {}).items():
            archive.add(file_name, data)
        path = os.path.join(self.work, name + ".cpio")
        with open(path, "wb") as file:
            file.write(content + archive.end())
        return path

    def changed(self, path, name, change):
        """A copy of a file, changed by a function of a bytearray."""
        with open(path, "rb") as file:
            data = bytearray(file.read())
        data = change(data) or data
        copy = os.path.join(self.work, name)
        with open(copy, "wb") as file:
            file.write(data)
        return copy


class Archive:
    """A newc cpio archive (buffer-format.rst in the kernel's documentation); the kernel
    unpacks one behind the other, the later file wins."""

    def __init__(self):
        self.data = bytearray()
        self.number = 1000

    def add(self, name, content, mode=0o644, modified=0):
        self._record(name, content, 0o100000 | mode, modified=modified)

    def add_folder(self, name):
        self._record(name, b"", 0o40755)

    def add_link(self, name, target):
        self._record(name, target.encode(), 0o120777)

    def add_console(self, name):
        self._record(name, b"", 0o20600, device=(5, 1))

    def _record(self, name, content, mode, device=(0, 0), modified=0):
        self.number += 1
        fields = [self.number, mode, 0, 0, 1, modified, len(content), 0, 0, *device,
                  len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.data += pad(head + name.encode() + b"\0")
        self.data += pad(content)

    def end(self):
        self._record("TRAILER!!!", b"", 0)
        return bytes(self.data)


def pad(data):
    return data + bytes(-len(data) % 4)


# --- Linux images (Documentation/arch/x86/boot.rst) ---

PAYLOAD_LENGTH = 0x24c


def hide_payload(image):
    """Without the payload's length a loader cannot unpack it. The kernel's own decompressor,
    which has it compiled in, can."""
    struct.pack_into("<I", image, PAYLOAD_LENGTH, 0)


def forget_system_name(image):
    """An ELF image with a PVH note that does not say that it is Linux boots by PVH: the note
    of owner Xen, type 6 (GUEST_OS) becomes one of an unknown type."""
    note = struct.pack("<III", 4, 6, 6) + b"Xen\0linux\0"
    at = image.find(note)
    assert at >= 0, "the kernel has no note that names its system"
    struct.pack_into("<I", image, at + 8, 0x7fff)


# --- Guests of a few instructions ---

LOAD_ADDRESS = 0x100000


def elf64(code, machine=62, kind=2, size=None, address=LOAD_ADDRESS, memory_size=None):
    """An ELF file with one segment, entered at its start in 64-bit mode."""
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", kind, machine, 1, address, 64, 0,
                       0, 64, 56, 1, 0, 0, 0)
    size = len(code) if size is None else size
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0x1000, address, address, size,
                          size if memory_size is None else memory_size, 0x1000)
    return (head + segment).ljust(0x1000, b"\0") + code


def code(text):
    return bytes.fromhex(text)


GUESTS = {
    # cli; hlt; jmp to hlt
    "idle": code("fa f4 ebfd"),
    # jmp to itself
    "spin": code("ebfe"),
    # mov dx, 0x3f8; mov al, 'x'; out dx, al; jmp to out
    "talk": code("66baf803 b078 ee ebfd"),
    # mov al, 3; mov dx, 0xf4; out dx, al; hlt
    "debug_exit": code("b003 66baf400 ee f4"),
    # mov dx, 0x604; mov ax, 0x3400 (SLP_TYP 5, SLP_EN); out dx, ax; hlt
    "power_off": code("66ba0406 66b80034 66ef f4"),
    # mov dx, 0xcf9; mov al, 6; out dx, al; hlt
    "reset": code("66baf90c b006 ee f4"),
    # ud2, without an interrupt descriptor table
    "triple_fault": code("0f0b"),
    # mov eax, 0xfec00000; jmp rax
    "jump_to_mmio": code("b80000c0fe ffe0"),
    # mov rax, 0x7000000000; mov al, [rax]: not mapped, and no handler
    "wild_read": code("48b80000000070000000 8a00"),
    # xor ecx, ecx; mov edx, ecx; in al, dx; in eax, dx; inc ecx; cmp ecx, 0x10000; jne back;
    # then power off
    "read_ports": code("31c9 89ca ec ed ffc1 81f900000100 75f2") +
    code("66ba0406 66b80034 66ef f4"),
    # The same with out dx, eax of all ones, the power-off, reset and exit ports spared by
    # beginning at 0x1000.
    "write_ports": code("b900100000 89ca 83c8ff ee ef ffc1 81f900000100 75ef") +
    code("66ba0406 66b80034 66ef f4"),
    # PIT channel 0 in mode 2 with count 1, PIT channel 2 with count 0 in mode 3, the APIC timer
    # periodic by 1 with divisor 1, the RTC at 8192 Hz; a loop; then power off
    "absurd_timers": code("b034 e643 b001 e640 b000 e640 b0b6 e643 b000 e642 e642") +
    code("be0000e0fe c786f0000000ff010000 c7862003000020000200") +
    code("c786e00300000b000000 c7868003000001000000 b00a e670 b021 e671") +
    code("b900001000 ffc9 75fc 66ba0406 66b80034 66ef f4"),
}
