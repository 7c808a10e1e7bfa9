"""The plot of docs/benchmarks.md: how fast, and at what cost, every contestant and every round."""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contestants import TITLES
from benchmarks.goals import Results

PANELS = (
    ("small", "stages_per_s", "Stages per second, 22 bytes"),
    ("1-mib", "stages_per_s", "Stages per second, 1 MiB"),
    ("small", "cpu_s_per_1000", "CPU seconds for 1,000 stages, 22 bytes"),
    ("small", "peak_rss_mb", "Peak memory in MB"),
)
OURS, THEIRS, INK = "#1f6f54", "#b8bec4", "#24292f"


def draw(results: Results, file: Path) -> None:
    """A bar for each median, a dot for each round; the same contestants in the same order in every panel."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "benchmarks", "font.size": 9, "text.color": INK}
    from matplotlib import pyplot

    speed = {name: it for name in TITLES if (it := results.median("small", name, "stages_per_s")) is not None}
    names = sorted(speed, key=lambda name: speed[name])
    figure, axes = pyplot.subplots(2, 2, figsize=(9.6, 0.6 * len(names) + 1.6), sharey=True, layout="constrained")
    for panel, (load, key, title) in zip(axes.flat, PANELS, strict=True):
        _draw_panel(panel, results, names, load, key)
        panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes[0][0].set_yticks(range(len(names)), [TITLES[name] for name in names])
    figure.savefig(file, metadata={"Date": None})


def _draw_panel(panel: Any, results: Results, names: list[str], load: str, key: str) -> None:
    for place, name in enumerate(names):
        if rounds := list(results.rounds(load, name, key).values()):
            middle = median(rounds)
            panel.barh(place, middle, height=0.62, color=OURS if name.startswith("ulos") else THEIRS)
            panel.plot(rounds, [place] * len(rounds), "o", color=INK, markersize=2.5, zorder=3)
            digits = 0 if middle >= 20 else 1
            panel.annotate(f"{middle:.{digits}f}", (max(rounds), place), (5, 0), None, "offset points", va="center")
    panel.spines[["top", "right", "bottom", "left"]].set_visible(False)
    panel.tick_params(length=0)
    panel.set_xticks([])
    panel.margins(x=0.12)
