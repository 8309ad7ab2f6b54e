"""A chart of CPU time as a multiple of the bare host's: one row for each workload, one mark for
each engine, a logarithmic axis. SVG, written here, so that nothing needs to be installed."""
import math
from xml.sax.saxutils import escape

from .workloads import GROUPS

# Colours that also the colour-blind tell apart (Okabe and Ito), and a shape each.
LOOKS = (('#6e6e6e', 'square'), ('#0072b2', 'circle'), ('#d55e00', 'diamond'),
         ('#009e73', 'triangle'), ('#cc79a7', 'circle'), ('#e69f00', 'square'))
WIDTH, LEFT, RIGHT, TOP, ROW = 860, 130, 30, 76, 20
SHAPES = {
    'circle': lambda x, y: f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5"/>',
    'square': lambda x, y: f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9"/>',
    'diamond': lambda x, y: polygon((x, y - 6), (x + 6, y), (x, y + 6), (x - 6, y)),
    'triangle': lambda x, y: polygon((x, y - 6), (x + 6, y + 5), (x - 6, y + 5)),
}


def polygon(*points):
    return '<polygon points="' + ' '.join(f'{x:.1f},{y:.1f}' for x, y in points) + '"/>'


def text(x, y, content, anchor='start', style=''):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(content)}</text>'


class Axis:
    """Logarithmic, with a line at 1, 2 and 5 times each power of ten."""

    def __init__(self, values):
        low, high = min(values + [1]), max(values + [2])
        steps = [step * 10.0 ** power for power in range(-4, 7) for step in (1, 2, 5)]
        first = max(i for i, step in enumerate(steps) if step <= low)
        last = min(i for i, step in enumerate(steps) if step >= high)
        self.lines = steps[first:last + 1]

    def place(self, value):
        low, high = math.log(self.lines[0]), math.log(self.lines[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * (math.log(value) - low) / (high - low)


def legend(engines, looks):
    parts, x = [], LEFT
    for engine in engines:
        color, shape = looks[engine]
        parts.append(f'<g fill="{color}">{SHAPES[shape](x + 6, 42)}</g>')
        parts.append(text(x + 18, 46, engine))
        x += 34 + 7 * len(engine)
    return parts


def draw(rows, engines, title, description):
    """rows: (group, name, {engine: ratio}) in their order."""
    axis = Axis([ratio for _, _, ratios in rows for ratio in ratios.values()])
    looks = {engine: LOOKS[i % len(LOOKS)] for i, engine in enumerate(engines)}
    parts, y, group = [], TOP, None
    for row_group, name, ratios in rows:
        if row_group != group:
            y += 8
            parts.append(text(8, y + 13, GROUPS[row_group], style=' class="group"'))
            y += ROW
            group = row_group
        middle = y + ROW / 2
        parts.append(text(LEFT - 10, middle + 4, name, 'end'))
        if ratios:
            ends = [axis.place(ratio) for ratio in (min(ratios.values()), max(ratios.values()))]
            parts.append(f'<path class="span" d="M{ends[0]:.1f} {middle:.1f}H{ends[1]:.1f}"/>')
        for engine in engines:
            if engine in ratios:
                color, shape = looks[engine]
                parts.append(f'<g fill="{color}">{SHAPES[shape](axis.place(ratios[engine]), middle)}'
                             f'<title>{escape(f"{name}, {engine}: {ratios[engine]:.2f}")}</title></g>')
        y += ROW
    grid = []
    for value in axis.lines:
        x = axis.place(value)
        kind = 'one' if value == 1 else 'grid'
        grid.append(f'<path class="{kind}" d="M{x:.1f} {TOP}V{y + 6:.1f}"/>')
        grid += [text(x, place, f'{value:g}', 'middle') for place in (TOP - 6, y + 22)]
    height = y + 32
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" role="img">',
        f'<title>{escape(title)}</title>', f'<desc>{escape(description)}</desc>',
        '<style>text{font:13px sans-serif;fill:#222}.group,.title{font-weight:bold}'
        '.grid{stroke:#ddd}.one{stroke:#222}.span{stroke:#bbb;stroke-width:2}</style>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        text(8, 20, title, style=' class="title"'), *legend(engines, looks), *grid, *parts,
        '</svg>', ''])
