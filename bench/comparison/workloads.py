"""What is measured: commands for the guest's shell, with amounts that are the same everywhere.

To add a workload: a row here, and its function in ../programs if it is code of our own.
{n} in a command is the amount, chosen so that QEMU's TCG needs one to three seconds for it.
"""
import dataclasses

GROUPS = {
    'boot': 'starting',
    'programs': 'programs',
    'compute': 'computing',
    'control': 'calls and jumps',
    'system': 'system',
    'code': 'changing code',
    'parallel': 'two processors',
}


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    group: str
    amount: int
    command: str
    title: str
    cpus: int = 1
    is_repeated: bool = False  # executed once before it is measured

    def text(self, scale):
        return self.command.format(n=max(1, round(self.amount * scale)))


def work(name, group, amount, title, **more):
    """A function of ../programs."""
    return Workload(name, group, amount, f'exec /bench/work {name} {{n}}', title, **more)


def times(command):
    """A command that the shell repeats."""
    return f'i=0; while [ $i -lt {{n}} ]; do {command}; i=$((i+1)); done'


DATA = '/bench/data'

WORKLOADS = [
    Workload('boot', 'boot', 1, '', "Debian's cloud kernel to /init"),

    Workload('shell', 'programs', 80, times('x=$(echo $i); /usr/bin/true') + '; echo $x',
             'dash: command substitution, fork and exec'),
    Workload('sha256', 'programs', 16,
             times(f'set -- "$@" {DATA}') + '; openssl dgst -sha256 -r "$@"',
             'openssl dgst, 4 MiB each'),
    Workload('aes', 'programs', 8,
             times(f'openssl enc -aes-256-cbc -K 0123456789abcdef -iv 00 -in {DATA} -out x '
                   '2>/dev/null') + '; tail -c 16 x | od -An -tx1', 'openssl enc, CBC, 4 MiB each'),
    Workload('rsa', 'programs', 200, 'exec python3 /bench/rsa.py {n} /bench/key.pem',
             'libcrypto: signatures of 2048 bits'),
    Workload('gzip', 'programs', 2, times(f'gzip -n -c {DATA} >x') + '; cksum <x',
             'gzip, 4 MiB each'),
    Workload('gunzip', 'programs', 8, times(f'gzip -d -c {DATA}.gz >x') + '; cksum <x',
             'gzip -d, 4 MiB each'),
    Workload('python', 'programs', 10, times('python3 -c pass'), 'python3 -c pass'),
    Workload('pycompute', 'programs', 150, 'exec python3 /bench/compute.py {n}',
             'Python: dictionaries, classes, strings'),
    Workload('sqlite', 'programs', 10000, 'sed s/ROWS/{n}/g /bench/query.sql | sqlite3',
             'sqlite: joins, indexes, changes'),
    Workload('gcc', 'programs', 1,
             times('gcc-12 -O2 -c /bench/compute.c -I/bench -o x.o') + '; cksum <x.o',
             'gcc -O2 of a C file of 260 lines'),

    work('hash', 'compute', 2000000, 'hash table of strings'),
    work('sort', 'compute', 100, 'quicksort and qsort()'),
    work('sieve', 'compute', 50, 'sieve of Eratosthenes'),
    work('chase', 'compute', 6000000, 'pointers through 8 MiB'),
    work('nbody', 'compute', 600000, 'planets in scalar doubles'),
    work('matmul-sse2', 'compute', 300, 'product of matrices of doubles, SSE2'),
    work('matmul-avx2', 'compute', 300, 'product of matrices of doubles, AVX2 and FMA'),
    work('x87', 'compute', 1500000, 'differential equation in 80-bit numbers'),

    work('calls', 'control', 5000, 'recursive calls'),
    work('dispatch', 'control', 6000000, "an interpreter's indirect jumps"),

    work('syscall', 'system', 2500000, 'getppid'),
    work('clock', 'system', 5000000, 'clock_gettime'),
    work('fork', 'system', 1000, 'fork, exit, wait'),
    work('exec', 'system', 300, 'fork, exec, exit, wait'),
    work('pipe', 'system', 20000, 'a byte there and back between processes'),
    work('switch', 'system', 120000, 'sched_yield between two processes'),
    work('fault', 'system', 100000, 'first touch of a page'),
    work('map', 'system', 5000, 'mmap of 64 KiB, touch, munmap'),
    work('signal', 'system', 60000, 'a signal and its handler'),
    work('protect', 'system', 40000, 'write to a protected page, handler, mprotect'),

    work('modify', 'code', 300000, 'an instruction rewritten before each call'),
    work('jit', 'code', 2500, 'pages of code made anew'),

    # One is set against the other. By then the guest of one processor has executed all that is
    # above, while that of two has just booted: the latter would translate the shell and the
    # kernel's part besides, which is as long as the work itself where amounts are small.
    work('parallel1', 'parallel', 40000000, 'one thread, one processor', is_repeated=True),
    work('parallel2', 'parallel', 40000000, 'the same work by two threads on two processors',
         cpus=2, is_repeated=True),
]

BY_NAME = {workload.name: workload for workload in WORKLOADS}
