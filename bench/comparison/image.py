"""The guest's files: Debian packages, our own programs, and data, as a directory for the host's
namespace and as an initramfs for the guests. Both are made on first use and kept."""
import fcntl
import functools
import hashlib
import os
import pathlib
import shutil
import stat
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PROGRAMS = ROOT / 'bench/programs'
sys.path.insert(0, str(ROOT / 'tests/system'))
from guestfiles import Archive 

PACKAGES = ('dash', 'coreutils', 'sed', 'gzip', 'openssl', 'sqlite3', 'gcc-12', 'libc6-dev',
            'python3.11-minimal', 'libpython3.11-stdlib')

# By architecture: the end of our programs' names, the kernel's package, QEMU.
ARCHITECTURES = {
    'amd64': ('', 'linux-image-cloud-amd64', 'qemu-system-x86_64'),
    'i386': ('_32', 'linux-image-686-pae', 'qemu-system-i386'),
}

# What a compiler without linking, and everything else, does without.
UNUSED = ('usr/bin/*-lto-dump*', 'usr/bin/*-gold', 'usr/bin/*-ld.*', 'usr/bin/*-dwp',
          'usr/bin/*gprof*', 'usr/lib/gcc/*/12/lto*', 'usr/lib/gcc/*/12/*.a',
          'usr/lib/gcc/*/12/plugin', 'usr/lib/*-linux-gnu/lib*san.so*',
          'usr/lib/*-linux-gnu/*gprofng*', 'usr/lib/*-linux-gnu/*.a',
          'usr/lib/*-linux-gnu/perl*', 'usr/share/zoneinfo', 'usr/share/perl*',
          'usr/share/icons', 'usr/lib/python3.11/test', 'usr/lib/python3.11/lib2to3',
          'var/lib/dpkg/info')

PREPARE = """set -e
/usr/bin/python3 -m compileall -q --invalidation-mode unchecked-hash /usr/lib/python3.11
/usr/bin/openssl genrsa -out /bench/key.pem 2048 2>/dev/null
/usr/bin/gzip -n -c /bench/data >/bench/data.gz
"""


class ImageError(Exception):
    pass


def script(name, *arguments):
    """What one of scripts/ prints."""
    done = subprocess.run([ROOT / 'scripts' / name, *arguments], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ImageError(f'scripts/{name} failed')
    return done.stdout.strip()


def call(command, what):
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise ImageError(f'{what}:\n{done.stderr.strip() or done.stdout.strip()}')
    return done.stdout.strip()


@functools.cache
def unshare_options():
    """A user namespace makes an ordinary user root in it; where the host has none for
    anybody, root itself does without."""
    for options in (('--user', '--map-root-user'), ()):
        command = ['unshare', *options, '--mount', '--pid', '--fork', 'true']
        try:
            if not subprocess.run(command, capture_output=True, check=False).returncode:
                return options
        except OSError:
            raise ImageError('unshare is missing; run scripts/deps bench') from None
    raise ImageError('the guest image and the programs on the host need namespaces: be root, or '
                     'have user namespaces (doppel doctor tells about them)')


def namespace(root, shell, *words):
    """The command of a shell in namespaces of its own, where this user is root; ROOT is $1."""
    return ['unshare', *unshare_options(), '--mount', '--pid', '--fork', '--kill-child',
            'sh', '-c', shell, 'sh', str(root), *words]


class Image:
    def __init__(self, build, architecture='amd64'):
        self.build = pathlib.Path(build).resolve()
        self.architecture = architecture
        self.suffix, self.kernel, self.qemu = ARCHITECTURES[architecture]
        self.folder = self.build / f'bench/compare{self.suffix}'
        self.packages = self.folder / 'packages'
        self.root = self.folder / 'root'
        self.initramfs = self.folder / 'initramfs.cpio'
        self.lock = None

    def programs(self):
        return {name: self.build / f'bench/programs/compare_{name}{self.suffix}'
                for name in ('work', 'driver')}

    def arguments(self):
        """For scripts that fetch packages."""
        return [] if self.architecture == 'amd64' else ['--architecture', self.architecture]

    def stamp(self):
        """What the image is made of."""
        digest = hashlib.sha256()
        for path in (pathlib.Path(__file__), ROOT / 'scripts/unpack-packages',
                     *sorted(PROGRAMS.iterdir()), *self.programs().values()):
            if path.is_file():
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def make(self):
        """Makes what is missing or old. Nobody else changes it before this process ends."""
        for name, path in self.programs().items():
            if not path.exists():
                raise ImageError(f'{path} is missing; build it: ninja -C {self.build} '
                                 f'bench/programs/compare_{name}{self.suffix}'
                                 + (' (the compiler needs the package gcc-multilib when the '
                                    'build is set up)' if self.suffix else ''))
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = open(self.folder / 'lock', 'w')
        fcntl.flock(self.lock, fcntl.LOCK_SH)
        if not self.is_fresh():
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ImageError(f'another comparison uses {self.folder}, which is not made of '
                                 'these sources; wait for its end, or say --build') from None
            if not self.is_fresh():
                self.renew()
            fcntl.flock(self.lock, fcntl.LOCK_SH)

    def is_fresh(self):
        stamp = self.folder / 'stamp'
        return stamp.exists() and stamp.read_text() == self.stamp()

    def renew(self):
        stamp = self.folder / 'stamp'
        stamp.unlink(missing_ok=True)
        self.unpack()
        self.compose()
        write_archive(self.root, self.initramfs)
        stamp.write_text(self.stamp())

    def unpack(self):
        """The packages' files, without what nobody runs. They are fetched once."""
        names = self.folder / 'packages.names'
        if names.exists() and names.read_text() == ' '.join(PACKAGES + UNUSED):
            return
        names.unlink(missing_ok=True)
        remove(self.packages)
        print('compare: making the guest image (Debian packages, once)', file=sys.stderr)
        call([ROOT / 'scripts/unpack-packages', *self.arguments(), self.packages, *PACKAGES],
             'the guest image needs Debian packages')
        for pattern in UNUSED:
            for path in self.packages.glob(pattern):
                remove(path)
        names.write_text(' '.join(PACKAGES + UNUSED))

    def compose(self):
        remove(self.root)
        call(['cp', '-a', '--reflink=auto', self.packages, self.root], 'cannot copy the packages')
        for folder in ('dev', 'proc', 'sys', 'tmp', 'run', 'root', 'bench'):
            (self.root / folder).mkdir(exist_ok=True)
        shutil.copy(self.programs()['driver'], self.root / 'init')
        shutil.copy(self.programs()['work'], self.root / 'bench/work')
        for name in ('compute.c', 'work.h', 'compute.py', 'rsa.py', 'query.sql'):
            shutil.copy(PROGRAMS / name, self.root / 'bench')
        for name, target in (('sh', 'dash'), ('python3', 'python3.11')):
            link = self.root / 'usr/bin' / name
            if not link.is_symlink():
                link.symlink_to(target)
        (self.root / 'bench/data').write_bytes(sample(self.root))
        # The compiled library, key and archive come from the image's own programs.
        mounts = 'mount --rbind /dev "$1/dev" && mount -t proc proc "$1/proc" && '
        call(namespace(self.root, mounts + 'exec chroot "$1" /bin/sh -c "$2"', PREPARE),
             'cannot prepare the guest image')


def remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sample(root):
    """4 MiB to compress and hash: text, and a program's machine code."""
    folder = root / 'usr/lib/python3.11'
    text = b''.join(path.read_bytes() for path in sorted(folder.glob('*.py')))
    code = (root / 'usr/bin/python3.11').read_bytes()
    return (text[:3 << 20] + code[:2 << 20])[:4 << 20]


def write_archive(root, output):
    archive = Archive()
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders + files):
            path = pathlib.Path(folder, name)
            inside = str(path.relative_to(root))
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                archive.add_link(inside, os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                archive.add(inside, path.read_bytes(), stat.S_IMODE(status.st_mode),
                            int(status.st_mtime))
            elif stat.S_ISDIR(status.st_mode):
                archive.add_folder(inside)
    archive.add_console('dev/console')
    output.write_bytes(archive.end())
