"""What executes workloads: a guest under an engine of Doppel or under QEMU, or the bare host."""
import os
import pathlib
import select
import shutil
import subprocess
import tempfile
import time

from .image import namespace


class MachineError(Exception):
    """A machine does not start, ended, or does not answer in time."""


class Result:
    """One execution of a workload; seconds. cpu is what the host spent: of the VMM's process,
    or of the workload itself where there is no VMM. The guest_ values are its own view."""

    def __init__(self, cpu, wall, guest_cpu=None, guest_wall=None, check=None, text='',
                 guest_user=None):
        self.cpu, self.wall = cpu, wall
        self.guest_cpu, self.guest_wall = guest_cpu, guest_wall
        self.guest_user = guest_user
        self.check, self.text = check, text


def process_tree(process):
    """The process and what it has started, as far as that still runs."""
    yield process
    try:
        for thread in pathlib.Path(f'/proc/{process}/task').iterdir():
            for child in (thread / 'children').read_text().split():
                yield from process_tree(int(child))
    except OSError:
        return  # it has ended


def process_cpu(process):
    """The clock of another process, clock_getcpuclockid(3): Linux makes its number of the id."""
    try:
        return time.clock_gettime(~process << 3 | 2)
    except OSError:
        return 0


class Machine:
    """A process with the guest's console on its standard input and output."""

    def __init__(self, command, prepare=None):
        self.log = tempfile.TemporaryFile()
        self.start = time.monotonic()
        # It ends with us, whatever ends us.
        words = ['setpriv', '--pdeathsig', 'KILL', '--', *map(str, command)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.log, preexec_fn=prepare)
        self.output = b''

    def cpu(self):
        """User and system seconds of the process and its children, ended threads included."""
        return sum(process_cpu(process) for process in process_tree(self.process.pid))

    def receive(self, deadline):
        """More output, or MachineError."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise MachineError('the time limit is over')
        if select.select([self.process.stdout], [], [], min(left, 1))[0]:
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                status = self.process.wait()
                raise MachineError(f'ended with status {status}{self.last_words()}')
            self.output += data

    def last_words(self):
        self.log.seek(0)
        errors = self.log.read()[-400:].decode(errors='replace').strip()
        output = self.output[-400:].decode(errors='replace').strip()
        return ''.join(f'; {name}: {text}' for name, text in
                       (('stderr', errors), ('console', output)) if text)

    def wait_for(self, text, limit):
        """Up to the first occurrence of a text, which is taken from the output."""
        deadline = time.monotonic() + limit
        while text not in self.output:
            self.receive(deadline)
        before, _, self.output = self.output.partition(text)
        return before

    def answer(self, word, limit):
        """The rest of the next line that begins with @WORD; @error is an error."""
        deadline = time.monotonic() + limit
        while True:
            line, newline, rest = self.output.partition(b'\n')
            if not newline:
                self.receive(deadline)
                continue
            self.output = rest
            text = line.decode(errors='replace').strip()
            at = text.find('@')
            if at >= 0 and text[at:].startswith('@' + word + ' '):
                return text[at + len(word) + 2:]
            if at >= 0 and text[at:].startswith('@error '):
                raise MachineError(text[at + 7:])

    def send(self, line):
        try:
            self.process.stdin.write(line.encode() + b'\n')
            self.process.stdin.flush()
        except OSError as error:
            raise MachineError(f'does not read: {error.strerror}{self.last_words()}') from error

    def run(self, name, command, limit):
        self.send(f'run {name} {command}')
        self.answer('begin', limit)
        cpu, wall = self.cpu(), time.monotonic()
        self.send('go')
        words = self.answer('done', limit).split(' ', 14)
        cpu, wall = self.cpu() - cpu, time.monotonic() - wall
        fields = dict(zip(words[1:-1:2], words[2::2]))
        if fields['status'] != '0':
            raise MachineError(f'status {fields["status"]}: {fields.get("text", "")}')
        guest_cpu = (int(fields['user']) + int(fields['system'])) / 1e6
        return Result(cpu, wall, guest_cpu, int(fields['wall']) / 1e9,
                      f'{fields["length"]}:{fields["hash"]}', fields.get('text', ''),
                      int(fields['user']) / 1e6)

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        try:
            self.process.stdin.close()
        except OSError:
            pass
        self.log.close()


class Guest(Machine):
    """A guest that waits for commands."""

    def __init__(self, command, limit):
        super().__init__(command)
        self.facts = None
        try:
            self.facts = self.answer('ready', limit)
        except MachineError:
            self.stop()
            raise


MOUNT = """set -e
mount -t tmpfs tmpfs "$2"
cp -a "$1/." "$2"
mount --rbind /dev "$2/dev"
mount -t proc proc "$2/proc"
mount --rbind /sys "$2/sys"
exec chroot "$2" /init native
"""


class Native(Machine):
    """The same files on the host: a tmpfs, as the guest's initramfs is, in a namespace; on as
    many processors as the guest would have."""

    def __init__(self, image, cpus, limit):
        self.mount = tempfile.mkdtemp(prefix='doppel-compare-')
        processors = sorted(os.sched_getaffinity(0))[-cpus:]
        super().__init__(namespace(image.root, MOUNT, self.mount),
                         lambda: os.sched_setaffinity(0, processors))
        self.facts = None
        try:
            self.facts = self.answer('ready', limit)
        except MachineError:
            self.stop()
            raise

    def run(self, name, command, limit):
        result = super().run(name, command, limit)
        result.cpu = result.guest_cpu
        return result

    def stop(self):
        super().stop()
        os.rmdir(self.mount)


MEMORY = '1G'
BENCH_APPEND = 'console=ttyS0 quiet panic=-1'
BOOT_APPEND = 'console=ttyS0 panic=-1'
BOOT_TEXT = b'Run /init as init process'


class Engine:
    """What a column of the table is: native, qemu, or an engine of a doppel binary."""

    def __init__(self, text, settings):
        self.name, _, binary = text.partition('@')
        self.label = text
        self.settings = settings
        self.doppel = binary or settings.doppel

    def check(self):
        """MachineError if this engine cannot work here."""
        if self.name == 'native':
            return
        if self.name == 'qemu':
            if not shutil.which(self.settings.image.qemu):
                raise MachineError(f'{self.settings.image.qemu} is missing; run scripts/deps bench')
            return
        if not pathlib.Path(self.doppel).exists():
            raise MachineError(f'{self.doppel} is missing; build it, or say --build')
        done = subprocess.run([str(word) for word in self.command(1, None, '')] + ['--dry-run'],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise MachineError(done.stderr.strip())

    def command(self, cpus, initramfs, append):
        append = f'{append} {self.settings.append}'.strip()
        initrd = ['-initrd' if self.name == 'qemu' else '--initrd', initramfs] if initramfs else []
        if self.name == 'qemu':
            return [self.settings.image.qemu, '-accel', 'tcg', '-cpu', 'max', '-m', MEMORY, '-smp',
                    cpus, '-nodefaults', '-display', 'none', '-serial', 'stdio', '-no-reboot',
                    '-kernel', self.settings.kernel, '-append', append, *initrd]
        return [self.doppel, 'run', '--engine', self.name, '--memory', MEMORY, '--cpus', cpus,
                '--no-reboot', '--kernel', self.settings.kernel, '--append', append, *initrd]

    def start(self, cpus):
        if self.name == 'native':
            return Native(self.settings.image, cpus, 60)
        return Guest(self.command(cpus, self.settings.image.initramfs, BENCH_APPEND),
                     self.settings.limit)

    def boot(self, limit):
        """None where there is nothing to boot."""
        if self.name == 'native':
            return None
        machine = Machine(self.command(1, self.settings.boot_initramfs, BOOT_APPEND))
        try:
            machine.wait_for(BOOT_TEXT, limit)
            return Result(machine.cpu(), time.monotonic() - machine.start)
        finally:
            machine.stop()
