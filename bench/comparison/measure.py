"""Runs workloads under engines in turn and keeps what comes out."""
import dataclasses
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

from .machines import MachineError


@dataclasses.dataclass
class Settings:
    image: object
    doppel: pathlib.Path
    kernel: str
    boot_initramfs: str
    append: str
    scale: float
    limit: float
    runs: int


def processor():
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return platform.machine()


def version(command):
    try:
        return subprocess.run(command, capture_output=True, text=True,
                              check=False).stdout.splitlines()[0]
    except (OSError, IndexError):
        return None


class Comparison:
    """results is what --json writes: facts of the host, and of each workload and engine the
    lists of cpu, wall, guest_cpu and guest_wall seconds, the check of its output, errors."""

    def __init__(self, settings, engines, workloads, output):
        self.settings, self.engines, self.workloads, self.output = \
            settings, engines, workloads, output
        self.machines = {}
        self.results = {
            'host': {'processor': processor(), 'processors': os.cpu_count(),
                     'kernel': platform.release(), 'load': list(os.getloadavg()),
                     'qemu': version(['qemu-system-x86_64', '--version']),
                     'doppel': version([str(settings.doppel), '--version']),
                     'guest': pathlib.Path(settings.kernel).name,
                     'date': time.strftime('%Y-%m-%d')},
            'settings': {'runs': settings.runs, 'scale': settings.scale,
                         'append': settings.append},
            'engines': [engine.label for engine in engines],
            'facts': {},
            'workloads': {workload.name: {'group': workload.group, 'title': workload.title,
                                          'engines': {}} for workload in workloads},
        }

    def run(self):
        """An interrupted comparison still has what was measured."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for number in range(self.settings.runs):
                self.run_once(number)
        except KeyboardInterrupt:
            print('\ncompare: interrupted; this is what there is', file=sys.stderr)
        finally:
            self.stop_all()

    def run_once(self, number):
        """Each run has machines of its own, and another engine begins."""
        count = len(self.engines)
        turn = [self.engines[(number + i) % count] for i in range(count)]
        for position, workload in enumerate(self.workloads):
            where = f'run {number + 1}/{self.settings.runs}, {workload.name}'
            for engine in turn:
                self.show(f'{where} ({position + 1}/{len(self.workloads)}), {engine.label}')
                self.measure(workload, engine)
            self.report(where, workload)
            self.save()
        self.stop_all()
        self.show('')

    def measure(self, workload, engine):
        rows = self.results['workloads'][workload.name]['engines']
        row = rows.setdefault(engine.label, {'cpu': [], 'wall': [], 'guest_cpu': [],
                                             'guest_wall': [], 'check': None, 'errors': []})
        key = (engine.label, workload.cpus)
        try:
            if workload.name == 'boot':
                result = engine.boot(self.settings.limit)
            else:
                if key not in self.machines:
                    self.machines[key] = engine.start(workload.cpus)
                    self.results['facts'][f'{engine.label}, {workload.cpus}'] = \
                        self.machines[key].facts
                for _ in range(1 + workload.is_repeated):
                    result = self.machines[key].run(workload.name,
                                                    workload.text(self.settings.scale),
                                                    self.settings.limit)
        except MachineError as error:
            row['errors'].append(str(error))
            self.show('')
            print(f'compare: {workload.name} under {engine.label}: {error}', file=sys.stderr)
            self.stop(key)
            return
        if not result:
            del rows[engine.label]
            return
        for name in ('cpu', 'wall', 'guest_cpu', 'guest_wall'):
            value = getattr(result, name)
            if value is not None:
                row[name].append(round(value, 6))
        if row['check'] not in (None, result.check):
            row['errors'].append(f'another result than before: {result.text}')
        row['check'] = row['check'] or result.check

    def stop(self, key):
        machine = self.machines.pop(key, None)
        if machine:
            machine.stop()

    def stop_all(self):
        for key in list(self.machines):
            self.stop(key)

    def report(self, where, workload):
        """For whoever reads this in a file: CPU seconds as they come."""
        rows = self.results['workloads'][workload.name]['engines']
        if not sys.stderr.isatty():
            parts = [f'{name} {row["cpu"][-1]:.3f}' for name, row in rows.items() if row['cpu']]
            print(f'{where}: {", ".join(parts)}', file=sys.stderr, flush=True)

    def show(self, text):
        """One line on a terminal, which the next one replaces."""
        if sys.stderr.isatty():
            print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)

    def save(self):
        """In one step: whoever reads it meanwhile finds a whole one."""
        if self.output:
            new = self.output.with_name(self.output.name + '.new')
            new.write_text(json.dumps(self.results, indent=1) + '\n')
            new.rename(self.output)
