"""The plot of docs/benchmarks.md, as SVG: a bar for each median, a dot for each round."""

import itertools
from collections.abc import Iterator
from html import escape
from statistics import median

from benchmarks.contestants import TITLES
from benchmarks.goals import Results

PANELS = (
    ("small", "stages_per_s", "Stages per second, 22 bytes"),
    ("1-mib", "stages_per_s", "Stages per second, 1 MiB"),
    ("small", "cpu_s_per_1000", "CPU seconds for 1,000 stages, 22 bytes"),
    ("small", "peak_rss_mb", "Peak memory, MB"),
)
ROW, BAR, HEAD, LABEL, LENGTH, PANEL = 24, 16, 34, 130, 250, 450
"""Heights and widths, in pixels: a row and its bar, a title, a name, the longest bar, a panel."""
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 }
.ours { fill: #2a8c6a } .theirs { fill: #c3c9d0 } .round { fill: #24292f } .absent { opacity: 0.5 }
@media (prefers-color-scheme: dark) { text, .round { fill: #e6edf3 } .theirs { fill: #57606a } }
"""


def plot(results: Results) -> str:
    """The same contestants in the same order in every panel, the fastest first."""
    speeds = {name: it for name in TITLES if (it := results.median("small", name, "stages_per_s")) is not None}
    names = sorted(speeds, key=lambda name: -speeds[name])
    height = HEAD + ROW * len(names)
    drawn = []
    for place, (load, figure, title) in enumerate(PANELS):
        x, y = place % 2 * PANEL, place // 2 * (height + ROW)
        drawn += [f'<g transform="translate({x} {y})">', *_panel(results, names, load, figure, title), "</g>"]
    size = f'width="{2 * PANEL}" height="{2 * height + ROW}"'
    return "\n".join(
        [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>", *drawn, "</svg>\n"]
    )


def _panel(results: Results, names: list[str], load: str, figure: str, title: str) -> Iterator[str]:
    yield f'<text class="title" x="0" y="20">{escape(title)}</text>'
    measured = {name: list(results.rounds(load, name, figure).values()) for name in names}
    scale = LENGTH / max(itertools.chain.from_iterable(measured.values()), default=1)
    for place, (name, rounds) in enumerate(measured.items()):
        top = HEAD + place * ROW
        middle = top + BAR / 2
        yield f'<text x="0" y="{middle + 4:g}">{escape(TITLES[name])}</text>'
        if not rounds:
            yield f'<text class="absent" x="{LABEL}" y="{middle + 4:g}">not measured</text>'
            continue
        kind, typical = "ours" if name.startswith("ulos") else "theirs", median(rounds)
        yield f'<rect class="{kind}" x="{LABEL}" y="{top}" width="{typical * scale:.1f}" height="{BAR}" rx="2"/>'
        for each in rounds:
            yield f'<circle class="round" cx="{LABEL + each * scale:.1f}" cy="{middle:g}" r="2"/>'
        shown = f"{typical:.0f}" if typical >= 20 else f"{typical:.1f}"
        yield f'<text x="{LABEL + max(rounds) * scale + 8:.1f}" y="{middle + 4:g}">{shown}</text>'
