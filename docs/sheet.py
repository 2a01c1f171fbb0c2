"""A sheet on which the pictures of the documentation are drawn; its colours can be read on white and on dark pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Line

WIDTH = 84.0
"""Width of every picture; a unit is a tenth of an inch."""
INK = "#737d8b"
"""Colour of lines and of text without a background: its contrast is above 4 on white and on #14181d."""
DARK, LIGHT = "#14181d", "#ffffff"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
"""Colours that colour-blind readers can tell from each other (Okabe and Ito 2008)."""
ON = {BLUE: LIGHT, ORANGE: DARK, GREEN: DARK, RED: LIGHT, PURPLE: DARK, SKY: DARK}
"""Colour of text on each of them."""
STYLE = {"svg.hashsalt": "convolith", "svg.fonttype": "none", "font.family": "sans-serif", "path.simplify": False}
"""Settings under which a sheet is drawn: equal drawings give equal files, and text stays text."""
NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))
Fill = Callable[[int, int], str | None]
Text = Callable[[int, int], str]


class Sheet:
    """A picture in the making; x runs to the right and y down, from 0, in tenths of an inch."""

    def __init__(self, height: float) -> None:
        self.figure = pyplot.figure(figsize=(WIDTH / 10, height / 10))
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, WIDTH), ylim=(height, 0))
        self.axes.axis("off")

    def text(self, x: float, y: float, text: str, *, size: float = 10, color: str = INK, **options: Any) -> None:
        """Write text, centred at a point unless `ha` and `va` say otherwise."""
        given = {"ha": "center", "va": "center_baseline", "linespacing": 1.4} | options
        lifted = 0.0 if given["va"] == "top" else 0.016 * size  # capitals, not the whole line, are in the middle
        self.axes.text(x, y - lifted, text, fontsize=size, color=color, **given)

    def title(self, x: float, y: float, text: str, **options: Any) -> None:
        """Write the heading of a part, from the left."""
        self.text(x, y, text, size=11.5, weight="bold", **({"ha": "left"} | options))

    def box(self, x: float, y: float, w: float, h: float, fill: str | None = None, **options: Any) -> None:
        """Draw a rectangle, with `text` in it if there is one, in a colour that can be read on it."""
        words, size, alpha = options.pop("text", ""), options.pop("size", 10), options.pop("alpha", None)
        line: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.8, "zorder": 3} | options
        if fill is not None:
            self.axes.add_patch(Rectangle((x, y), w, h, facecolor=fill, edgecolor="none", alpha=alpha, zorder=3))
        if line["linewidth"]:
            self.axes.add_patch(Rectangle((x, y), w, h, facecolor="none", **line))
        if words:
            color = INK if fill is None or alpha is not None else ON[fill]
            self.text(x + w / 2, y + h / 2, words, size=size, color=color, zorder=4)

    def panel(self, x: float, y: float, w: float, h: float, text: str, fill: str | None = None, head: str = "") -> None:
        """Draw a box with round corners, with a bold line and text in it."""
        style = "round,pad=0,rounding_size=0.8"
        face = "none" if fill is None else fill
        self.axes.add_patch(FancyBboxPatch((x, y), w, h, style, facecolor=face, edgecolor=fill or INK, linewidth=1))
        color, middle = INK if fill is None else ON[fill], y + h / 2
        if head:
            self.text(x + w / 2, middle - 2.4, head, color=color, weight="bold")
            middle += 1.1
        self.text(x + w / 2, middle, text, color=color)

    def grid(
        self,
        x: float,
        y: float,
        shape: tuple[int, int],
        cell: float,
        fill: Fill | None = None,
        text: Text | None = None,
        size: float = 9,
    ) -> None:
        """Draw rows and columns of square cells, some of them filled or with text."""
        rows, columns = shape
        filled: dict[str, list[tuple[float, float, float, float]]] = {}
        for row in range(rows):
            for column in range(columns):
                color = None if fill is None else fill(row, column)
                left, top = x + column * cell, y + row * cell
                if color is not None:
                    filled.setdefault(color, []).append((left, top, left + cell, top + cell))
                if text is not None and (words := text(row, column)):
                    on = INK if color is None else ON[color]
                    self.text(left + cell / 2, top + cell / 2, words, size=size, color=on, zorder=4)
        for color, cells in filled.items():
            corners = [((a, b), (c, b), (c, d), (a, d), (a, b)) for a, b, c, d in cells]
            self._path(corners, facecolor=color, edgecolor="none")
        across = [((x, y + n * cell), (x + columns * cell, y + n * cell)) for n in range(rows + 1)]
        down = [((x + n * cell, y), (x + n * cell, y + rows * cell)) for n in range(columns + 1)]
        self._path([*across, *down], facecolor="none", edgecolor=INK, linewidth=0.6)

    def _path(self, lines: Sequence[Sequence[tuple[float, float]]], **options: Any) -> None:
        """Draw several lines as one path, which keeps files small."""
        points = [point for line in lines for point in line]
        codes = [Line.MOVETO if n == 0 else Line.LINETO for line in lines for n in range(len(line))]
        self.axes.add_patch(PathPatch(Line(points, codes), **options))

    def line(
        self, points: Sequence[tuple[float, float]], *, width: float = 1.0, color: str = INK, style: str = "-"
    ) -> None:
        """Draw a line through points."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs, ys, color=color, linewidth=width, linestyle=style, solid_capstyle="butt", zorder=1)

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        *,
        color: str = INK,
        bend: float = 0.0,
        width: float = 1.3,
        head: float = 9,
        style: str = "-",
    ) -> None:
        """Draw an arrow, bent to the left of its direction by a share of its length."""
        shape: dict[str, Any] = {
            "arrowstyle": "-|>",
            "mutation_scale": head,
            "shrinkA": 0,
            "shrinkB": 0,
            "linestyle": style,
        }
        curve = f"arc3,rad={bend}"
        self.axes.add_patch(FancyArrowPatch(start, end, connectionstyle=curve, color=color, linewidth=width, **shape))

    def brace(self, start: tuple[float, float], end: tuple[float, float], tick: float) -> None:
        """Mark a range between two points, with ticks to the right or down (to the left or up if below zero)."""
        (x0, y0), (x1, y1) = start, end
        right, down = (tick, 0.0) if x0 == x1 else (0.0, tick)
        self.line([(x0 + right, y0 + down), start, end, (x1 + right, y1 + down)])

    def save(self, path: Path) -> None:
        """Write the picture as an SVG file, and forget it."""
        self.figure.savefig(path, transparent=True, metadata=NO_METADATA)
        pyplot.close(self.figure)
