"""Pictures of a simulated file: from above, and in space, with a colour for each layer."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from gcode.parsing import shown
from gcode.simulation import OUTSIDE, Simulation

TRAVEL, WRONG, START, END, EDGE, GRID = "#8c8c8c", "#d55e00", "#009e73", "#000000", "#404040", "#e6e6e6"
"""Of Okabe and Ito's colours, which can be told apart by everybody; so can those of viridis."""
LAYERS = ListedColormap(mpl.colormaps["viridis"](np.linspace(0, 0.92, 256)))
"""From the lowest to the highest; the yellow at its end would be pale on white."""
ALONE = LAYERS(0.3)
"""Of a single layer."""
SPARE = 0.5
"""Of the printer's size: how far a move that leaves it can be followed."""
PIECE = 32
"""Points of a line that are drawn at once: Agg takes far longer for a long one that crosses itself."""
MOST_COLOURS = 64
"""More layers than that share them: nobody would see the difference."""
MOST_VECTORS = 20_000
"""Points up to which the lines of an SVG are lines: 1 MB. Above it they are an image inside it."""
DPI = 140
TURN, TILT = np.radians(30), np.radians(35)
"""From where space is seen: X runs to the right and to the front, Y to the right and to the back."""
PROJECTION = np.array(
    [
        [np.cos(TURN), -np.sin(TURN) * np.sin(TILT)],
        [np.sin(TURN), np.cos(TURN) * np.sin(TILT)],
        [0, np.cos(TILT)],
    ]
)
STYLE = {
    "font.size": 10,
    "figure.titlesize": 13,
    "axes.titlesize": 11,
    "axes.edgecolor": "#b0b0b0",
    "grid.color": GRID,
    "xtick.color": "#505050",
    "ytick.color": "#505050",
    "axes.axisbelow": True,
    "svg.hashsalt": "gcode",
}


class Drawing:
    """The way of one file, cut into what is drawn alike.

    Args:
        simulation: The file, after it was run.
        name: What it is called in the titles.
    """

    def __init__(self, simulation: Simulation, name: str) -> None:
        self._simulation = simulation
        self._printer = simulation.printer
        self._name = shown(name, 60)
        path = simulation.path
        self._points = np.column_stack([np.frombuffer(axis, np.float32) for axis in (path.x, path.y, path.z)])
        kinds = np.frombuffer(path.kinds, np.uint8)
        self._wrong = kinds >= OUTSIDE
        self._is_work = kinds % OUTSIDE == simulation.work
        self._work = self._is_work & ~self._wrong
        self._travel = np.isin(kinds, simulation.travel)
        self._heights = np.unique(self._points[self._work, 2].round(3))
        self._is_heavy = len(self._points) > MOST_VECTORS
        self._dashes = "solid" if self._is_heavy else (0, (6, 4))  # each dash is a line to be drawn

    def save(self, path: Path) -> list[tuple[str, Path]]:
        """Write every picture as PNG and as SVG.

        Args:
            path: Where, and how the names of the files begin.

        Returns:
            What the pictures show, and the PNG of each.
        """
        saved = []
        with mpl.rc_context(STYLE):
            for title, ending, make in (("top view", "top", self._top), ("3D view", "3d", self._space)):
                figure = make()
                png = path.with_name(f"{path.name}-{ending}.png")
                figure.savefig(png, dpi=DPI)
                figure.set_layout_engine(None)  # all has its place now; to look for it again would draw all lines twice
                figure.savefig(png.with_suffix(".svg"), dpi=DPI, metadata={"Date": None})
                saved.append((title, png))
        return saved

    def _top(self) -> Figure:
        """From above: the whole bed, and the work alone, larger."""
        figure = self._figure("from above", (12, 6.8))
        bed, close = figure.subplots(1, 2)
        word = "print" if self._simulation.extrudes else "drawing"
        low, high = self._corners()
        middle, half = (low + high) / 2, 0.55 * max(np.ptp([low, high], 0)[:2].max(), 1)
        for axes, title, x, y in (
            (bed, "The whole bed", self._bed(0), self._bed(1)),
            (close, f"The {word} alone", *(middle[:2, None] + [-half, half])),
        ):
            axes.set_title(title)
            axes.set_aspect("equal")
            axes.set_xlim(*x)
            axes.set_ylim(*y)
            axes.set_xlabel("X (mm)")
            axes.set_ylabel("Y (mm)")
            axes.grid()
            axes.add_patch(Rectangle((0, 0), self._printer.max_x, self._printer.max_y, fill=False, color=EDGE))
            self._draw(axes, np.eye(3)[:, :2], points_per_mm=350 / np.ptp(x))
        self._explain(figure, [bed, close])
        return figure

    def _space(self) -> Figure:
        """In space, on a piece of the bed; the highest layer is drawn last, for it hides the others."""
        low, high = self._corners()
        size = np.ptp([low, high], axis=0)
        size = np.maximum(size, [max(size[:2].max() / 4, 1)] * 2 + [0])  # not a line, whatever is drawn
        low, high = (low + high - size) / 2, (low + high + size) / 2
        low[2], high[2] = 0, max(high[2], 0.1)
        ticks = [MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(*ends) for ends in zip(low, high, strict=True)]
        (left, *_, right), (front, *_, back), (_, *_, above) = ticks
        box = np.array([[x, y, z] for x in (left, right) for y in (front, back) for z in (0, above)]) @ PROJECTION
        width, height = np.ptp(box, axis=0)
        reach = max(width, height)
        figure = self._figure("in space", (9, float(np.clip(7 * height / width, 4, 8)) + 1.5))
        axes = figure.subplots()
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_xlim(box[:, 0].min() - 0.1 * reach, box[:, 0].max() + 0.08 * reach)
        axes.set_ylim(box[:, 1].min() - 0.1 * reach, box[:, 1].max() + 0.05 * reach)
        beside = 0.035 * reach
        for x in ticks[0]:
            self._segment(axes, (x, front, 0), (x, back, 0))
            self._label(axes, (x, front - beside, 0), f"{x:g}")
        for y in ticks[1]:
            self._segment(axes, (left, y, 0), (right, y, 0))
            self._label(axes, (right + beside, y, 0), f"{y:g}")
        self._segment(axes, (left, front, 0), (left, front, above))
        for z in ticks[2][1:] if above > 0.2 * reach else [above]:
            self._label(axes, (left - beside, front, z), f"{z:g}")
        self._label(axes, ((left + right) / 2, front - 3.2 * beside, 0), "X (mm)")
        self._label(axes, (right + 3.2 * beside, (front + back) / 2, 0), "Y (mm)")
        self._label(axes, (left - beside, front, above + 1.5 * beside), "Z (mm)")
        self._draw(axes, PROJECTION, points_per_mm=500 / reach)
        self._explain(figure, axes)
        return figure

    def _segment(self, axes: Axes, begin: tuple[float, ...], end: tuple[float, ...]) -> None:
        axes.plot(*(np.array([begin, end]) @ PROJECTION).T, color=GRID, linewidth=0.8, zorder=0)

    def _label(self, axes: Axes, place: tuple[float, ...], text: str) -> None:
        axes.text(*(np.array(place) @ PROJECTION), text, ha="center", va="center", color="#505050")

    def _figure(self, seen: str, size: tuple[float, float]) -> Figure:
        title = f"{self._name}, {seen}"
        if self._simulation.drawn_to is not None:
            title += f" (drawn up to line {self._simulation.drawn_to:,})"
        figure = Figure(figsize=size, layout="compressed")
        figure.suptitle(title, parse_math=False)  # a name with two dollar signs is no formula
        return figure

    def _draw(self, axes: Axes, projection: Any, points_per_mm: float) -> None:
        width = float(np.clip(self._printer.nozzle_diameter * points_per_mm, 0.3, 2.5))
        points = self._points @ projection
        self._lines(axes, points, self._travel, color=TRAVEL, linewidth=0.6, linestyle=self._dashes)
        for heights in np.array_split(self._heights, min(len(self._heights), MOST_COLOURS) or 1):
            if len(heights):
                z = self._points[:, 2].round(3)
                layer = self._work & (z >= heights[0]) & (z <= heights[-1])
                self._lines(axes, points, layer, color=self._colour(heights.mean()), linewidth=width)
        self._lines(axes, points, self._wrong, color=WRONG, linewidth=max(width, 1.2))
        drawn = np.flatnonzero(self._work | self._travel | self._wrong)
        if not len(drawn):
            return
        for index, colour, marker in ((drawn[0] - 1, START, "o"), (drawn[-1], END, "s")):
            # Both may be in one place.
            axes.plot(*points[index], marker, color=colour, ms=11 if marker == "o" else 6, mec="white", zorder=5)

    def _lines(self, axes: Axes, points: Any, mask: Any, **style: Any) -> None:
        """Draw the ways to all points in `mask`."""
        ends = np.flatnonzero(mask)
        pieces = [
            points[run[first] - 1 : run[min(first + PIECE, len(run)) - 1] + 1]
            for run in np.split(ends, np.flatnonzero(np.diff(ends) > 1) + 1)
            for first in range(0, len(run), PIECE)
        ]
        lines = LineCollection(pieces, capstyle="round", rasterized=self._is_heavy, **style)
        axes.add_collection(lines, autolim=False)

    def _corners(self) -> tuple[Any, Any]:
        """The least and the greatest coordinates of the work, or of the printer if there is none."""
        top = np.array([self._printer.max_x, self._printer.max_y, self._printer.max_z])
        points = self._points[self._is_work | np.append(self._is_work[1:], False)]
        if not len(points):
            return np.zeros(3), top
        return np.clip(points.min(0), -SPARE * top, top), np.clip(points.max(0), 0, (1 + SPARE) * top)

    def _bed(self, axis: int) -> tuple[float, float]:
        """What is shown of an axis: the bed, and some more where moves leave it."""
        limit = (self._printer.max_x, self._printer.max_y)[axis]
        values = self._points[:, axis]
        low, high = max(values.min(), -SPARE * limit), min(values.max(), (1 + SPARE) * limit)
        return min(low, 0) - 0.04 * limit, max(high, limit) + 0.04 * limit

    def _scale(self) -> Normalize:
        return Normalize(*self._heights[[0, -1]])

    def _colour(self, height: float) -> Any:
        return LAYERS(self._scale()(height)) if len(self._heights) > 1 else ALONE

    def _explain(self, figure: Figure, axes: Any) -> None:
        done = "printed" if self._simulation.extrudes else "drawn"
        several = len(self._heights) > 1
        entries = [
            Line2D([], [], color=LAYERS(0.5), linewidth=2, label=f"{done}, coloured by Z")
            if several
            else Line2D([], [], color=ALONE, linewidth=2, label=done),
            Line2D([], [], color=TRAVEL, linewidth=1, linestyle=self._dashes, label="travel"),
            Line2D([], [], color=START, marker="o", linestyle="", label="start"),
            Line2D([], [], color=END, marker="s", linestyle="", label="end"),
        ]
        if self._wrong.any():
            entries.append(Line2D([], [], color=WRONG, linewidth=2, label="leaves the printer"))
        figure.legend(handles=entries, loc="outside lower center", ncols=len(entries), frameon=False)
        if several:
            ticks = self._heights if len(self._heights) <= 12 else None
            bar = figure.colorbar(ScalarMappable(self._scale(), LAYERS), ax=axes, ticks=ticks, shrink=0.7, pad=0.02)
            bar.set_label("Z of the layer (mm)")
            bar.outline.set_visible(False)
