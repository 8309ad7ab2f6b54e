"""Files for guests: kernels, initial RAM disks, and changed copies of them."""
import lzma
import os
import struct
import subprocess
import zlib

KERNELS = {"cloud": "linux-image-cloud-amd64", "amd64": "linux-image-amd64"}


class Files:
    def __init__(self, source, work):
        self.source = source
        self.work = work
        self.base = None

    def script(self, name, *arguments):
        """What scripts/NAME prints. A package that cannot be fetched is a failure: a test
        of kernels without kernels would be silently none."""
        done = subprocess.run([os.path.join(self.source, "scripts", name), *arguments],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=300, check=False)
        assert done.returncode == 0, f"scripts/{name} failed:\n{done.stderr}"
        return done.stdout.strip()

    def kernel(self, name="cloud"):
        return self.script("fetch-kernel", KERNELS[name])

    def initrd(self, name, program, files=None):
        """An initial RAM disk: busybox, and PROGRAM (a file of guest/) as /init."""
        if self.base is None:
            self.base = self.script("make-initramfs", os.path.join(self.work, "base.cpio"))
        with open(self.base, "rb") as file:
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
    """A newc cpio archive; the kernel unpacks one behind the other, the later file wins."""

    def __init__(self):
        self.data = b""
        self.number = 1000

    def add(self, name, content, mode=0o644):
        self.number += 1
        self._record(name, content, 0o100000 | mode)

    def add_folder(self, name):
        self.number += 1
        self._record(name, b"", 0o40755)

    def _record(self, name, content, mode):
        fields = [self.number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
        head = b"070701" + b"".join(b"%08X" % field for field in fields)
        self.data += pad(head + name.encode() + b"\0") + pad(content)

    def end(self):
        self._record("TRAILER!!!", b"", 0)
        return self.data


def pad(data):
    return data + bytes(-len(data) % 4)


# --- Linux images (Documentation/arch/x86/boot.rst) ---

SETUP_SECTS, PAYLOAD_OFFSET, PAYLOAD_LENGTH = 0x1f1, 0x248, 0x24c


def payload(image):
    """The kernel inside a bzImage, unpacked."""
    start = ((image[SETUP_SECTS] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, PAYLOAD_OFFSET)
    packed = bytes(image[start + offset:start + offset + length])
    if packed[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(packed)
    if packed[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(packed)
    raise AssertionError(f"a payload of an unknown kind: {packed[:6].hex()}")


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
