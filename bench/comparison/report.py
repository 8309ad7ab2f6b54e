"""Tables and the place in docs/performance.md, made of what measure.py wrote."""
import json
import math
import statistics
import sys

from .chart import draw
from .workloads import GROUPS


def load(path):
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        sys.exit(f'compare: cannot read {path}: {error}')


def median(results, workload, engine, name='cpu'):
    row = results['workloads'][workload]['engines'].get(engine)
    return statistics.median(row[name]) if row and row[name] else None


def quotient(above, below):
    return above / below if above and below else None


def geometric_mean(values):
    values = [value for value in values if value]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def number(value, width, digits=2):
    return f'{"-" if value is None else f"{value:.{digits}f}":>{width}}'


def engine_named(results, name):
    """The label of the column of native or qemu, or None."""
    return name if name in results['engines'] else None


def table(results):
    """Of each engine CPU and wall seconds, CPU as a multiple of native's, speed as a multiple of
    QEMU's."""
    native, qemu = engine_named(results, 'native'), engine_named(results, 'qemu')
    width = max(len(name) for name in results['workloads'])
    width = max(width, 14)
    lines = ['', '']
    lines[0] = ' ' * width
    lines[1] = f'{"workload":{width}}'
    for engine in results['engines']:
        part = f'{"CPU s":>9}{"wall s":>8}'
        if native and engine != native:
            part += f'{"x native":>9}'
        if qemu and engine not in (native, qemu):
            part += f'{"x qemu":>8}'
        lines[0] += f'  {engine[-len(part) + 2:]:^{len(part) - 2}}'
        lines[1] += part
    for name in results['workloads']:
        line = f'{name:{width}}'
        for engine in results['engines']:
            cpu = median(results, name, engine)
            line += number(cpu, 9, 3) + number(median(results, name, engine, 'wall'), 8)
            if native and engine != native:
                line += number(quotient(cpu, median(results, name, native)), 9, 1)
            if qemu and engine not in (native, qemu):
                line += number(quotient(median(results, name, qemu), cpu), 8)
        lines.append(line)
    lines += means(results, native, qemu, width)
    lines += slowest(results, qemu)
    lines += two_processors(results)
    lines += unsteady(results)
    lines += troubles(results)
    return '\n'.join(lines)


def means(results, native, qemu, width):
    """Geometric means of groups and of all."""
    lines = []
    groups = {workload['group'] for workload in results['workloads'].values()}
    for group in [group for group in GROUPS if group in groups and len(groups) > 1] + [None]:
        names = [name for name, workload in results['workloads'].items()
                 if group in (None, workload['group'])]
        line = f'{"all" if group is None else GROUPS[group]:{width}}'
        for engine in results['engines']:
            line += ' ' * 17
            if native and engine != native:
                line += number(geometric_mean(
                    quotient(median(results, name, engine), median(results, name, native))
                    for name in names), 9, 1)
            if qemu and engine not in (native, qemu):
                line += number(geometric_mean(
                    quotient(median(results, name, qemu), median(results, name, engine))
                    for name in names), 8)
        lines.append(line.rstrip())
    return ['', 'geometric means', *lines]


def slowest(results, qemu):
    """The workload that is worst off against QEMU."""
    lines = []
    for engine in results['engines'] if qemu else []:
        ratios = {name: quotient(median(results, name, qemu), median(results, name, engine))
                  for name in results['workloads']}
        ratios = {name: ratio for name, ratio in ratios.items() if ratio}
        if ratios and engine not in (qemu, 'native'):
            name = min(ratios, key=ratios.get)
            lines.append(f'least x qemu of {engine}: {number(ratios[name], 0)} ({name})')
    return lines and ['', *lines]


def unsteady(results):
    """Medians that say little: half of the runs' CPU times are further apart than a tenth."""
    names = []
    for name, workload in results['workloads'].items():
        for engine, row in workload['engines'].items():
            if len(row['cpu']) >= 3:
                low, middle, high = statistics.quantiles(row['cpu'], n=4, method='inclusive')
                if high - low > middle / 10:
                    names.append(f'{name} {engine} ({low:.3f} to {high:.3f})')
    return names and ['', 'half of the runs are further apart than a tenth: ' + ', '.join(names)]


def two_processors(results):
    """CPU seconds of two processors as a multiple of one's."""
    if not {'parallel1', 'parallel2'} <= set(results['workloads']):
        return []
    parts = []
    for engine in results['engines']:
        ratio = quotient(median(results, 'parallel2', engine), median(results, 'parallel1', engine))
        parts.append(f'{engine} {number(ratio, 0)}')
    return ['', 'CPU seconds of two processors against one: ' + ', '.join(parts)]


def troubles(results):
    """What failed, and what differs between engines."""
    lines = []
    for name, workload in results['workloads'].items():
        checks = {}
        for engine, row in workload['engines'].items():
            for error in dict.fromkeys(row['errors']):
                lines.append(f'FAILED: {name} under {engine}: {error}')
            if row['check']:
                checks.setdefault(row['check'], []).append(engine)
        if len(checks) > 1:
            lines.append(f'DIFFERENT RESULTS: {name}: ' +
                         ', '.join(f'{check} under {" and ".join(engines)}'
                                   for check, engines in checks.items()))
    return lines


def chart(results):
    """Against the bare host if it was measured, else against QEMU."""
    base = engine_named(results, 'native') or engine_named(results, 'qemu')
    engines = [engine for engine in results['engines'] if engine != base]
    rows = []
    for name, workload in results['workloads'].items():
        ratios = {engine: quotient(median(results, name, engine), median(results, name, base))
                  for engine in engines}
        ratios = {engine: ratio for engine, ratio in ratios.items() if ratio}
        if ratios:
            rows.append((workload['group'], name, ratios))
    if not rows:
        sys.exit('compare: a chart needs two engines, one of them native or qemu')
    title = 'CPU time as a multiple of ' + ('the bare host\'s' if base == 'native' else 'QEMU\'s')
    return draw(rows, engines, title + ' (logarithmic; left is faster)', conditions(results))


def conditions(results):
    host, settings = results['host'], results['settings']
    scale = '' if settings['scale'] == 1 else f', amounts of work times {settings["scale"]:g}'
    append = f', kernels with {settings["append"]}' if settings['append'] else ''
    load = ' '.join(f'{value:.1f}' for value in host['load'])
    counts = sorted({len(row['cpu']) for workload in results['workloads'].values()
                     for row in workload['engines'].values()})
    runs = ' to '.join(str(count) for count in sorted({counts[0], counts[-1]})) if counts else '0'
    return (f'{host["date"]}, {host["processors"]} processors ({host["processor"]}), Linux '
            f'{host["kernel"]}, load at the beginning {load}; guest {host["guest"]}; '
            f'{host["qemu"] or "no QEMU"}; {"one run" if runs == "1" else f"medians of {runs} runs"}{scale}{append}.')


BEGIN, END = '<!-- bench/compare writes from here -->\n', '<!-- to here -->\n'


def write_docs(results, folder):
    """The part of performance.md between two marks, and the chart that it shows."""
    path = folder / 'performance.md'
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f'compare: {path} has lost the marks that tell where the table goes')
    (folder / 'performance.svg').write_text(chart(results))
    path.write_text(f'{before}{begin}\n{conditions(results)}\n\n```\n{table(results)}\n```\n\n'
                    f'![CPU time as a multiple of the bare host\'s](performance.svg)\n\n{end}{after}')
