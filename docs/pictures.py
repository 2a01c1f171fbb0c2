"""`python -m docs.pictures`: draws the pictures of the section "How it works" as docs/images/how-NAME.svg.

Backgrounds are transparent, and all colours can be read on white and on dark pages. Equal inputs give equal files: no
date, no random identifiers.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np

from docs.sheet import BLUE, DARK, GREEN, ORANGE, PURPLE, RED, SKY, STYLE, Sheet

IMAGES = Path(__file__).parent / "images"


def index() -> Sheet:
    """Draw the way of a call to its result."""
    s = Sheet(28)
    steps: list[tuple[str, str, str | None, float]] = [
        ("", "cl.correlate(x, k)", None, 15.5),
        ("Check", "shapes, dtypes,\noptions", BLUE, 13.2),
        ("Choose", "the engine with\nthe least time", ORANGE, 13.2),
        ("Prepare", "what depends on\nthe kernel alone", GREEN, 13.8),
        ("Run", "machine code\non all threads", SKY, 12.6),
        ("", "y", None, 4.0),
    ]
    gap, x, top = 2.0, 0.8, 8.5
    places = []
    for head, words, color, width in steps:
        s.panel(x, top, width, 8.4, words, color, head)
        places.append((x, x + width))
        x += width + gap
    for before, after in pairwise(places):
        s.arrow((before[1] + 0.15, top + 4.2), (after[0] - 0.15, top + 4.2))
    start, end = places[0][0] + 7.7, places[4][0] + 6.3
    s.line([(start, top - 0.3), (start, 4), (end, 4), (end, top - 1)], style="--")
    s.arrow((end, top - 1.2), (end, top - 0.2))
    s.text((start + end) / 2, 2.4, "a call like one before, with the same kernel: found again in some microseconds")
    stores = [
        (2, "measured times,\nthis machine's limits\n(disk)"),
        (3, "kernels that came\nback, up to 512 MB\n(memory)"),
        (4, "compiled code,\nfor any image size\n(disk)"),
    ]
    for number, words in stores:
        middle = sum(places[number]) / 2
        s.arrow((middle, top + 8.7), (middle, top + 11.4))
        s.arrow((middle, top + 11.4), (middle, top + 8.7))
        s.text(middle, top + 15, words)
    return s


def direct() -> Sheet:
    """Draw a register tile over an image; channels in the lanes of a vector."""
    s = Sheet(36)
    s.title(1, 1.8, "A tile of sums stays in registers")
    cell, top, out = 1.6, 5, 36.5
    s.grid(1, top, (8, 16), cell, lambda r, c: (RED if r == 3 else ORANGE) if 1 <= r < 7 and 1 <= c < 15 else None)
    s.text(13.8, 20.2, "6 rows of inputs are read,\na row at a time")
    row = top + 3.5 * cell
    for n in (0, 1, 2):
        s.arrow((27, row), (out - 0.4, top + (2.5 + n) * cell), color=RED, width=1.1, head=8)
    s.grid(out, top + 2 * cell, (4, 12), 1.55, lambda r, c: (SKY, BLUE, SKY)[c // 4])
    for n in range(3):
        s.text(out + (2 + 4 * n) * 1.55, top + 1.2 * cell, "vector", size=9)
    s.text(out + 9.3, 20.2, "12 vectors of sums: a row of x\nserves 3 of their 4 rows, 3x3")
    s.line([(57.5, 1), (57.5, 25)], width=0.5)
    s.title(59.5, 1.8, "Depthwise layers")
    colors = (SKY, ORANGE, GREEN, PURPLE)
    for n in reversed(range(4)):
        s.box(59.5 + 0.8 * n, 8.4 - 0.8 * n, 6.4, 6.4, colors[n], linewidth=0.6, zorder=3 - 0.1 * n)
    s.arrow((69.2, 11.4), (72.6, 11.4))
    for pixel in range(3):
        for n in range(4):
            s.box(73.6 + 2.1 * n, 7.2 + 3.2 * pixel, 2.1, 2.1, colors[n], linewidth=0.6)
    s.text(70.8, 20.2, "a vector holds a pixel of as\nmany channels as it has lanes")
    s.line([(1, 25.6), (83, 25.6)], width=0.5)
    s.text(
        1,
        28.3,
        "loads of x for each product = (rows of the tile + rows of the kernel - 1) / "
        "(rows of the tile x rows of the kernel)",
        ha="left",
        size=9.5,
    )
    for n, (rows, loads) in enumerate(((1, "3 / 3 = 1"), (4, "6 / 12 = 0.5"), (12, "14 / 36 = 0.39"))):
        s.text(2 + 27.5 * n, 32.4, f"{rows} row{'s' * (rows > 1)} at a time:  {loads}", ha="left")
    return s


def pointwise() -> Sheet:
    """Draw a matrix product over channels; windows gathered as its columns."""
    s = Sheet(44)
    s.title(1, 1.8, "1x1 layer: a matrix product over the channels")
    cell = 1.4
    s.grid(2, 8, (8, 6), cell, lambda r, c: BLUE if r < 4 else None)
    s.text(6.2, 6.3, "input channels", size=9.5)
    s.text(6.2, 21, "kernel")
    s.text(13.9, 13.2, "x", size=13)
    s.grid(17.4, 8, (6, 20), cell, lambda r, c: ORANGE if 4 <= c < 16 else None)
    s.text(31.4, 6.3, "positions: all pixels in one row", size=9.5)
    s.text(31.4, 18.2, "x, a row for each input channel")
    s.text(48.6, 13.2, "=", size=13)
    s.grid(52, 8, (8, 20), cell, lambda r, c: GREEN if r < 4 and 4 <= c < 16 else None)
    s.text(66, 6.3, "a tile of sums, in registers", size=9.5)
    s.text(66, 21, "y, a row for each output channel")
    s.line([(1, 23.6), (83, 23.6)], width=0.5)
    s.title(1, 26.4, "3x3 layer: the same product over taps, gathered for some positions at a time")
    taps = [SKY, SKY, SKY, PURPLE, PURPLE, PURPLE, ORANGE, ORANGE, ORANGE]
    s.grid(2, 29.6, (7, 9), 1.6, lambda r, c: taps[3 * (r - 2) + c - 3] if 2 <= r < 5 and 3 <= c < 6 else None)
    s.text(9.2, 42.4, "an input channel")
    s.arrow((17.2, 35.2), (21, 35.2))
    s.grid(22, 29.4, (9, 30), 1.25, lambda r, c: taps[r] if 9 <= c < 15 else None)
    s.text(40.8, 42.4, "a row for each tap, a column for each position")
    s.text(61.5, 32, "coloured: gathered,\nin a cache now", ha="left")
    s.text(61.5, 37.2, "blank: never stored\nas a whole", ha="left")
    return s


def separable() -> Sheet:
    """Draw a kernel as column times row, and the two passes."""
    s = Sheet(26)
    s.title(1, 1.8, "A kernel of rank 1: column times row")
    weights = np.array([1, 6, 15, 20, 15, 6, 1]) / 20

    def shaded(x: float, y: float, values: np.ndarray, color: str) -> None:
        for (row, column), value in np.ndenumerate(values):
            s.box(x + 1.9 * column, y + 1.9 * row, 1.9, 1.9, color, alpha=max(float(value), 0.04), linewidth=0)
        s.grid(x, y, values.shape, 1.9)

    shaded(2, 5.5, np.outer(weights, weights), BLUE)
    s.text(8.7, 21.6, "49 products\nfor each output")
    s.text(17.6, 12.2, "=", size=13)
    shaded(20, 5.5, weights[:, None], ORANGE)
    s.text(24, 12.2, "x", size=13)
    shaded(26, 11.2, weights[None], GREEN)
    s.text(30, 21.6, "7 + 7 = 14 products\nfor each output")
    s.line([(42, 1), (42, 25)], width=0.5)
    s.title(44, 1.8, "Rows into a window, then columns")
    s.grid(44.5, 5.5, (7, 7), 1.9, lambda r, c: GREEN if r == 6 else None)
    s.text(51.2, 21.6, "image, a row\nat a time")
    s.arrow((58.4, 17.9), (61.2, 17.9), color=GREEN)
    s.grid(62, 5.5, (7, 5), 1.9, lambda r, c: ORANGE if c == 2 else GREEN if r == 6 else None)
    s.text(66.8, 21.6, "window of filtered\nrows, in the cache")
    s.arrow((72, 12.1), (74.2, 12.1), color=ORANGE)
    s.grid(75, 11.2, (1, 4), 1.9, lambda r, c: BLUE if c == 1 else None)
    s.text(78.8, 21.6, "a row of\noutputs")
    return s


def winograd() -> Sheet:
    """Draw the way of a tile through Winograd's transforms."""
    s = Sheet(37)
    s.title(1, 1.8, "F(4x4, 3x3): 16 outputs from 36 products instead of 144")
    cell, middle = 1.7, 12.1
    s.text(7.1, 5.3, "input tile, 6x6")
    s.grid(2, 7, (10, 6), cell, lambda r, c: ORANGE if r < 6 else None)
    below = 7 + 4 * cell
    s.line([(1.3, below), (12.9, below), (12.9, 7 + 10.3 * cell), (1.3, 7 + 10.3 * cell), (1.3, below)], style="--")
    s.text(7.1, 28.4, "the next tile is\n4 rows further")
    s.arrow((14, middle), (20.8, middle))
    s.text(17.3, 10.3, "B' x B", size=10.5)
    s.text(17.3, 14.2, "additions", size=9)
    s.text(27.1, 5.3, "V")
    s.grid(22, 7, (6, 6), cell, lambda r, c: SKY)
    s.arrow((33, middle), (37, middle))
    s.text(38.6, middle - 0.5, "*", size=17, weight="bold")
    s.arrow((40.2, middle), (44.2, middle))
    s.text(50.6, 5.3, "M, summed over channels")
    s.grid(45.5, 7, (6, 6), cell, lambda r, c: GREEN)
    s.arrow((57, middle), (63.8, middle))
    s.text(60.3, 10.3, "A' M A", size=10.5)
    s.text(60.3, 14.2, "additions", size=9)
    s.text(68.6, 5.3, "4x4 outputs")
    s.grid(65.2, 8.7, (4, 4), cell, lambda r, c: ORANGE)
    s.grid(20, 27.4, (3, 3), cell, lambda r, c: PURPLE)
    s.text(18.8, 29.9, "kernel", ha="right")
    s.arrow((26.2, 29.9), (32.3, 29.9))
    s.text(29.1, 28.1, "G k G'", size=10.5)
    s.text(29.1, 32, "once", size=9)
    s.grid(33.5, 24.8, (6, 6), cell, lambda r, c: BLUE)
    s.text(44.6, 29.9, "U", ha="left")
    s.arrow((38.6, 24.2), (38.6, 14.4))
    s.text(39.6, 20.6, "36 products", ha="left")
    s.text(
        49,
        29.9,
        "A transform of x serves all output channels,\none of y all input channels: where there are\n"
        "many, only the products count.",
        ha="left",
    )
    return s


def fft() -> Sheet:
    """Draw overlap-save tiles along a row of an image."""
    s = Sheet(37)
    s.title(1, 1.8, "Overlap-save: a tile gives the outputs whose windows lie inside it")
    left, right, n = 10.0, 82.0, 240
    places = np.linspace(0, 1, n)
    wave = np.sin(9 * places) + 0.6 * np.sin(23 * places + 1) + 0.35 * np.sin(57 * places)
    bell = np.hanning(41) / np.hanning(41).sum()
    smooth = np.convolve(np.pad(wave, 20, mode="edge"), bell, "valid")
    xs = left + places * (right - left)

    def draw(values: np.ndarray, y: float, until: float = right) -> None:
        keep = xs <= until
        s.axes.plot(xs[keep][::2], y - 1.25 * values[keep][::2], color=ORANGE, linewidth=1.8)

    s.text(8.5, 7.2, "input", ha="right")
    draw(wave, 7.2)
    overlap = 10.5
    step = (right - left - overlap) / 3
    s.brace((left, 11.4), (left + step - 0.2, 11.4), 0.7)
    s.text(left + step / 2, 10.3, "T - k + 1 outputs", size=9.5)
    s.brace((left + step + 0.2, 11.4), (left + step + overlap, 11.4), 0.7)
    s.text(left + step + overlap / 2, 10.3, "k - 1", size=9.5)
    for number, color in enumerate((BLUE, GREEN, PURPLE)):
        x, y = left + number * step, 13 + 4.6 * number
        s.box(x, y, step, 3.2, color, text="kept")
        s.box(x + step, y, overlap, 3.2, hatch="////")
        s.text(8.5, y + 1.6, f"tile {number + 1}", ha="right")
        s.line([(x, y + 3.2), (x, 29)], width=0.6, style=":")
        s.box(x, 29, step, 0.9, color, linewidth=0)
    s.line([(left + 3 * step, 25.4), (left + 3 * step, 29)], width=0.6, style=":")
    s.text(left + step + overlap + 1.5, 14.6, "dropped: it wraps around", ha="left")
    s.text(8.5, 33, "output", ha="right")
    draw(smooth, 33, left + 3 * step)
    return s


def transposed() -> Sheet:
    """Draw the two phases of a transposed layer of stride 2."""
    s = Sheet(35)
    s.title(1, 1.8, "Stride 2, a kernel of 4 taps: each output reads 2 of them")
    cell, left = 3.1, 22.0
    colors = (BLUE, ORANGE)
    s.text(20.5, 7.6, "input", ha="right")
    s.grid(left, 6, (1, 6), cell, None, lambda r, c: f"x{c}", size=10)
    s.grid(51, 6, (1, 4), cell, lambda r, c: colors[c % 2], lambda r, c: f"k{c}", size=10)
    s.text(64.6, 7.6, "kernel", ha="left")
    s.arrow((left + 2.5 * cell, 9.5), (left + 2.5 * cell, 13.2))
    s.arrow((57.2, 9.5), (57.2, 13.2))
    for phase, (color, taps) in enumerate(zip(colors, (("k2", "k0"), ("k3", "k1")), strict=True)):
        y = 13.8 + 5.4 * phase
        s.text(20.5, y + 1.6, f"phase {phase}", ha="right")
        s.grid(
            left, y, (1, 5), cell, lambda r, c, fill=color: fill, lambda r, c, p=phase: f"y{2 * c + 2 + p}", size=9.5
        )
        s.text(44.4, y + 1.6, "2 taps each:", size=10)
        s.grid(54.1, y, (1, 2), cell, lambda r, c, fill=color: fill, lambda r, c, t=taps: t[c], size=10)
        s.text(61.8, y + 1.6, f"y{2 + phase} = {taps[0]} x0 + {taps[1]} x1", ha="left")
    s.arrow((left + 2.5 * cell, 22.7), (left + 2.5 * cell, 26.4))
    s.text(20.5, 28.6, "interleaved", ha="right")
    s.grid(left, 27, (1, 10), cell, lambda r, c: colors[c % 2], lambda r, c: f"y{c + 2}", size=9.5)
    s.text(54.5, 28.6, "no zeros are inserted and multiplied", ha="left")
    s.text(left, 32.8, "both phases read the same pixels: they are two channels of one ordinary layer", ha="left")
    return s


class Rival(NamedTuple):
    """An engine in the picture of the planner: its time in milliseconds, or the reason why it is left out."""

    engine: str
    milliseconds: float | None
    reason: str = ""


RIVALS = (
    Rival("winograd_4x4", 0.50),
    Rival("winograd_2x2", 0.82),
    Rival("fft", 0.98),
    Rival("im2col", 1.56),
    Rival("aten", 1.66),
    Rival("direct", 1.82),
    Rival("winograd_6x6", None, 'less accurate: accuracy="fast" alone allows it'),
    Rival("pointwise", None, "the kernel is not 1x1"),
    Rival("separable", None, "the channels are summed"),
)
"""The planner's estimates for this layer, by the limits that are shipped and with 512-bit vectors."""


def planner() -> Sheet:
    """Draw the engines of a layer: refused, or with their times."""
    s = Sheet(43)
    s.title(1, 1.8, "64 -> 64 channels, 3x3, 56x56: which engine?")
    for number, rival in enumerate(RIVALS):
        y = 5 + 3.2 * number
        s.text(15, y + 1.05, rival.engine, ha="right", weight="bold" if number == 0 else "normal")
        if rival.milliseconds is None:
            s.text(16.5, y + 1.05, rival.reason, ha="left", style="italic")
            continue
        s.box(16.5, y, 26 * rival.milliseconds, 2.1, GREEN if number == 0 else SKY, linewidth=0)
        words = f"{rival.milliseconds:.2f} ms" + (", chosen" if number == 0 else "")
        s.text(17.3 + 26 * rival.milliseconds, y + 1.05, words, ha="left")
    s.line([(1, 34.6), (83, 34.6)], width=0.5)
    s.text(1, 37.2, "estimated time = a call + the longer of", ha="left")
    s.panel(33.5, 35.8, 19.5, 2.8, "products / their rate", SKY)
    s.text(55.5, 37.2, "and")
    s.panel(58, 35.8, 24.5, 2.8, "bytes moved / their rate", ORANGE)
    s.text(1, 41.2, 'effort="measure" times them in turn instead, and remembers their times on disk', ha="left")
    return s


def programs() -> Sheet:
    """Draw the lifetimes of a small network's tensors, placed in one arena as `cl.optimize` places them."""
    import torch

    from convolith.network.execution.placement import ARENA, Buffer, Placement, arrange

    steps = ("3x3", "1x1", "3x3", "1x1\n+ add", "3x3,\nstride 2", "1x1", "1x1\n+ add", "mean")
    kib = 1 << 10
    named = [  # name, KiB, step that makes it, last step that reads it
        ("a", 128, 0, 3),
        ("b", 256, 1, 2),
        ("c", 256, 2, 3),
        ("d", 128, 3, 4),
        ("e", 96, 4, 6),
        ("f", 192, 5, 6),
        ("g", 96, 6, 7),
    ]
    buffers = [Buffer(ARENA, size * kib, torch.uint8, first, last) for _, size, first, last in named]
    placement = Placement(buffers, {})
    arrange(placement)
    arena, total = placement.arena_bytes // kib, sum(size for _, size, *_ in named)
    s = Sheet(39)
    s.title(1, 1.8, "Tensors between the steps share one block of memory")
    left, bottom, wide, scale = 12.5, 30.5, 6.0, 24 / arena
    right = left + wide * len(steps)
    colors = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLUE)
    for number, words in enumerate(steps):
        x = left + wide * number
        s.line([(x, 6), (x, bottom + 0.6)], width=0.5)
        s.text(x + wide / 2, bottom + 1.9, f"{number + 1}")
        s.text(x + wide / 2, bottom + 3.6, words, size=9, va="top")
    s.line([(right, 6), (right, bottom + 0.6)], width=0.5)
    s.line([(left, bottom), (right, bottom)], width=1.0)
    s.text(left - 1, bottom + 1.9, "step", ha="right")
    for (name, size, first, last), buffer, color in zip(named, buffers, colors, strict=True):
        x, w = left + wide * first, wide * (last - first + 1)
        top = bottom - (buffer.offset / kib + size) * scale
        s.box(x + 0.15, top + 0.12, w - 0.3, size * scale - 0.24, color, text=f"{name}: {size} KiB", linewidth=0)
    s.brace((left - 1.0, bottom - arena * scale), (left - 1.0, bottom), 0.7)
    s.text(left - 2, bottom - arena * scale / 2, f"arena:\n{arena} KiB", ha="right")
    s.text(right + 2, 9, f"{total} KiB if each tensor\nhad its own memory", ha="left")
    s.text(right + 2, 16, "a box is as long as its\ntensor is needed, and\nas high as it is large", ha="left")
    s.text(right + 2, 24, "between two steps, the\nthreads wait for each\nother, without Python", ha="left")
    return s


def folding() -> Sheet:
    """Draw two kernels in a row as one, and where padding makes it wrong."""
    s = Sheet(40)
    s.title(1, 1.8, "Two layers in a row: taps i and j meet at i + j")
    cell, left = 3.2, 9.0
    s.text(7, 7.6, "x", size=12)
    s.grid(left, 6, (1, 9), cell, lambda r, c: ORANGE if 2 <= c < 7 else None)
    s.text(7, 16.6, "h", size=12)
    s.grid(left + cell, 15, (1, 7), cell, lambda r, c: SKY if 2 <= c < 5 else None)
    s.text(7, 25.6, "y", size=12)
    s.grid(left + 2 * cell, 24, (1, 5), cell, lambda r, c: BLUE if c == 2 else None)
    for h in range(3):
        s.arrow((left + (3.5 + h) * cell, 18.4), (left + (4.2 + 0.3 * h) * cell, 23.7), color=GREEN, width=1.0, head=7)
        for x in range(3):
            end = left + (3.2 + h + 0.3 * x) * cell
            s.arrow((left + (2.5 + h + x) * cell, 9.4), (end, 14.7), color=RED, width=0.8, head=6)
    s.text(36, 12.2, "k1, 3 taps", color=RED, ha="left", size=10.5)
    s.text(32.5, 21.2, "k2, 3 taps", color=GREEN, ha="left", size=10.5)
    s.text(1, 30.4, "one kernel of 5 taps, from x to y:", ha="left")
    sums = (
        "k2[0] k1[0]",
        "k2[0] k1[1]\n+ k2[1] k1[0]",
        "k2[0] k1[2]\n+ k2[1] k1[1]\n+ k2[2] k1[0]",
        "k2[1] k1[2]\n+ k2[2] k1[1]",
        "k2[2] k1[2]",
    )
    for number, words in enumerate(sums):
        s.box(1 + 9.6 * number, 32, 9.6, 7, text=words, size=8.5)
    s.line([(51.5, 1), (51.5, 39)], width=0.5)
    s.title(53.5, 1.8, "With padding, a ring differs")
    cell, left, top, n = 1.25, 56.5, 5.2, 20
    s.grid(left, top, (n, n), cell, lambda r, c: RED if {r, c} & {0, n - 1} else GREEN)
    s.text(69, 34.6, "3x3 after 3x3, both padded by 1:\nexact in the middle; 76 of the 400\noutputs are corrected")
    return s


def gram() -> Sheet:
    """Draw pairs of pixels of a window by their lag."""
    s = Sheet(35)
    chosen = {(0, 1): ORANGE, (1, -1): SKY, (0, 0): GREEN}

    def lag(u: int, v: int) -> tuple[int, int]:
        low, high = sorted((u, v))
        return high // 3 - low // 3, high % 3 - low % 3

    s.title(1, 1.8, "Slide the window")
    cell, left, top = 2.3, 1.5, 6.5
    s.grid(left, top, (9, 9), cell)
    for row, column, color, name in ((2, 3, ORANGE, "u"), (2, 4, ORANGE, "v"), (3, 4, SKY, "u"), (4, 3, SKY, "v")):
        s.box(left + cell * column, top + cell * row, cell, cell, color, text=name)
    s.box(left + 2 * cell, top + 2 * cell, 3 * cell, 3 * cell, linewidth=2.4)
    s.text(11.9, 31, "sum of x[p + u] x[p + v]\nover all windows p")
    s.arrow((23.2, 17), (26.8, 17))
    s.title(28, 1.8, "One sum for each lag")
    s.grid(
        28.5,
        8.4,
        (5, 5),
        3.5,
        lambda r, c: chosen.get((r - 2, c - 2)) or chosen.get((2 - r, 2 - c)),
        lambda r, c: f"{r - 2}, {c - 2}",
        size=8.5,
    )
    s.text(37.2, 31, "lag = v - u: 25 in all,\n13 by symmetry")
    s.arrow((47.2, 17), (50.8, 17))
    s.title(53, 1.8, "Fill the 9x9 matrix")
    s.grid(55.5, 5.2, (9, 9), 2.6, lambda r, c: chosen.get(lag(r, c)))
    s.text(67.2, 31, "equal lags have equal sums, up to strips\nat the border, which are subtracted exactly")
    return s


def counting() -> Sheet:
    """Draw products with and without the padding's zeros; the memory of a training step."""
    s = Sheet(35)
    s.title(1, 1.8, "Products of each output")
    counts = {9: GREEN, 6: SKY, 4: ORANGE}

    def count(r: int, c: int) -> int:
        return (2 if r in (0, 6) else 3) * (2 if c in (0, 6) else 3)

    s.grid(4, 5, (7, 7), 3.0, lambda r, c: counts[count(r, c)], lambda r, c: str(count(r, c)), size=11)
    s.text(14.5, 30.5, "3x3 on 7x7, padding 1\ndense: 49 x 9 = 441 products\neffective, without zeros: 361")
    s.line([(32, 1), (32, 34)], width=0.5)
    s.title(34, 1.8, "Memory of a training step")
    left, bottom, wide, high = 35.0, 26.0, 2.5, 1.3
    phases = [
        (BLUE, [6, 8, 10, 11, 12, 12.5]),
        (ORANGE, [14.5, 14, 13, 12, 10.5, 9]),
        (GREEN, [9, 9, 6]),
    ]
    heights = [(height, color) for color, found in phases for height in found]
    for number, (height, color) in enumerate(heights):
        s.box(left + wide * number, bottom - height * high, wide, height * high, color, linewidth=0)
    end = left + wide * len(heights)
    s.line([(left, bottom), (end, bottom)])
    s.axes.plot([left, end], [bottom - 6 * high] * 2, color=DARK, linewidth=1.1, linestyle="--", zorder=4)
    s.text(left + wide * 3, bottom + 1.9, "forward")
    s.text(left + wide * 9, bottom + 1.9, "backward")
    s.text(left + wide * 13.5, bottom + 1.9, "update")
    s.text(left + wide * 6.5, bottom - 14.5 * high - 1.2, "peak", size=11, weight="bold")
    s.text(end + 1, bottom - 3.9, "weights and\nthe optimizer's\nstate", ha="left")
    s.text(34, 31.6, "forward keeps what backward needs;\neach operator of backward gives some of it back", ha="left")
    return s


PICTURES: dict[str, Callable[[], Sheet]] = {
    "index": index,
    "direct": direct,
    "pointwise": pointwise,
    "separable": separable,
    "winograd": winograd,
    "fft": fft,
    "transposed": transposed,
    "planner": planner,
    "programs": programs,
    "folding": folding,
    "gram": gram,
    "counting": counting,
}
"""Picture of each page of docs/how, by the page's name."""


def draw(folder: Path, names: Sequence[str] = tuple(PICTURES)) -> None:
    """Draw pictures into a folder."""
    with mpl.rc_context(STYLE):
        for name in names:
            PICTURES[name]().save(folder / f"how-{name}.svg")


def main() -> None:
    """Draw the pictures that the command line names, or all."""
    parser = argparse.ArgumentParser(prog="python -m docs.pictures", description="Draw the pictures of docs/how.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)}; all by default")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the pictures (docs/images)")
    options = parser.parse_args()
    draw(options.out, options.names or tuple(PICTURES))


if __name__ == "__main__":
    main()
