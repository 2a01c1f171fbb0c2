"""Pictures of the engines that need fewer products: separable kernels, Winograd, Fourier transforms, phases."""

from __future__ import annotations

import numpy as np

from docs.sheet import BLUE, GREEN, ORANGE, PURPLE, SKY, Sheet


def separable() -> Sheet:
    """Draw a kernel as column times row, and the two passes."""
    sheet = Sheet(26)
    sheet.title(1, 1.8, "A kernel of rank 1: column times row")
    weights = np.array([1, 6, 15, 20, 15, 6, 1]) / 20

    def shaded(x: float, y: float, values: np.ndarray, color: str) -> None:
        for (row, column), value in np.ndenumerate(values):
            sheet.box(x + 1.9 * column, y + 1.9 * row, 1.9, 1.9, color, alpha=max(float(value), 0.04), linewidth=0)
        sheet.grid(x, y, values.shape, 1.9)

    shaded(2, 5.5, np.outer(weights, weights), BLUE)
    sheet.text(8.7, 21.6, "49 products\nfor each output")
    sheet.text(17.6, 12.2, "=", size=13)
    shaded(20, 5.5, weights[:, None], ORANGE)
    sheet.text(24, 12.2, "x", size=13)
    shaded(26, 11.2, weights[None], GREEN)
    sheet.text(30, 21.6, "7 + 7 = 14 products\nfor each output")
    sheet.line([(42, 1), (42, 25)], width=0.5)
    sheet.title(44, 1.8, "Rows into a window, then columns")
    sheet.grid(44.5, 5.5, (7, 7), 1.9, lambda r, c: GREEN if r == 6 else None)
    sheet.text(51.2, 21.6, "image, a row\nat a time")
    sheet.arrow((58.4, 17.9), (61.2, 17.9), color=GREEN)
    sheet.grid(62, 5.5, (7, 5), 1.9, lambda r, c: ORANGE if c == 2 else GREEN if r == 6 else None)
    sheet.text(66.8, 21.6, "window of filtered\nrows, in the cache")
    sheet.arrow((72, 12.1), (74.2, 12.1), color=ORANGE)
    sheet.grid(75, 11.2, (1, 4), 1.9, lambda r, c: BLUE if c == 1 else None)
    sheet.text(78.8, 21.6, "a row of\noutputs")
    return sheet


def winograd() -> Sheet:
    """Draw the way of a tile through Winograd's transforms."""
    sheet = Sheet(37)
    sheet.title(1, 1.8, "F(4x4, 3x3): 16 outputs from 36 products instead of 144")
    cell, middle = 1.7, 12.1
    sheet.text(7.1, 5.3, "input tile, 6x6")
    sheet.grid(2, 7, (10, 6), cell, lambda r, c: ORANGE if r < 6 else None)
    below = 7 + 4 * cell
    sheet.line([(1.3, below), (12.9, below), (12.9, 7 + 10.3 * cell), (1.3, 7 + 10.3 * cell), (1.3, below)], style="--")
    sheet.text(7.1, 28.4, "the next tile is\n4 rows further")
    sheet.arrow((14, middle), (20.8, middle))
    sheet.text(17.3, 10.3, "B' x B", size=10.5)
    sheet.text(17.3, 14.2, "additions", size=9)
    sheet.text(27.1, 5.3, "V")
    sheet.grid(22, 7, (6, 6), cell, lambda r, c: SKY)
    sheet.arrow((33, middle), (37, middle))
    sheet.text(38.6, middle - 0.5, "*", size=17, weight="bold")
    sheet.arrow((40.2, middle), (44.2, middle))
    sheet.text(50.6, 5.3, "M, summed over channels")
    sheet.grid(45.5, 7, (6, 6), cell, lambda r, c: GREEN)
    sheet.arrow((57, middle), (63.8, middle))
    sheet.text(60.3, 10.3, "A' M A", size=10.5)
    sheet.text(60.3, 14.2, "additions", size=9)
    sheet.text(68.6, 5.3, "4x4 outputs")
    sheet.grid(65.2, 8.7, (4, 4), cell, lambda r, c: ORANGE)
    sheet.grid(20, 27.4, (3, 3), cell, lambda r, c: PURPLE)
    sheet.text(18.8, 29.9, "kernel", ha="right")
    sheet.arrow((26.2, 29.9), (32.3, 29.9))
    sheet.text(29.1, 28.1, "G k G'", size=10.5)
    sheet.text(29.1, 32, "once", size=9)
    sheet.grid(33.5, 24.8, (6, 6), cell, lambda r, c: BLUE)
    sheet.text(44.6, 29.9, "U", ha="left")
    sheet.arrow((38.6, 24.2), (38.6, 14.4))
    sheet.text(39.6, 20.6, "36 products", ha="left")
    sheet.text(
        49,
        29.9,
        "A transform of x serves all output channels,\none of y all input channels: where there are\n"
        "many, only the products count.",
        ha="left",
    )
    return sheet


def fft() -> Sheet:
    """Draw overlap-save tiles along a row of an image."""
    sheet = Sheet(37)
    sheet.title(1, 1.8, "Overlap-save: a tile gives the outputs whose windows lie inside it")
    left, right, n = 10.0, 82.0, 240
    places = np.linspace(0, 1, n)
    wave = np.sin(9 * places) + 0.6 * np.sin(23 * places + 1) + 0.35 * np.sin(57 * places)
    bell = np.hanning(41) / np.hanning(41).sum()
    smooth = np.convolve(np.pad(wave, 20, mode="edge"), bell, "valid")
    xs = left + places * (right - left)

    def draw(values: np.ndarray, y: float, until: float = right) -> None:
        keep = xs <= until
        sheet.axes.plot(xs[keep][::2], y - 1.25 * values[keep][::2], color=ORANGE, linewidth=1.8)

    sheet.text(8.5, 7.2, "input", ha="right")
    draw(wave, 7.2)
    overlap = 10.5
    step = (right - left - overlap) / 3
    sheet.brace((left, 11.4), (left + step - 0.2, 11.4), 0.7)
    sheet.text(left + step / 2, 10.3, "T - k + 1 outputs", size=9.5)
    sheet.brace((left + step + 0.2, 11.4), (left + step + overlap, 11.4), 0.7)
    sheet.text(left + step + overlap / 2, 10.3, "k - 1", size=9.5)
    for number, color in enumerate((BLUE, GREEN, PURPLE)):
        x, y = left + number * step, 13 + 4.6 * number
        sheet.box(x, y, step, 3.2, color, text="kept")
        sheet.box(x + step, y, overlap, 3.2, hatch="////")
        sheet.text(8.5, y + 1.6, f"tile {number + 1}", ha="right")
        sheet.line([(x, y + 3.2), (x, 29)], width=0.6, style=":")
        sheet.box(x, 29, step, 0.9, color, linewidth=0)
    sheet.line([(left + 3 * step, 25.4), (left + 3 * step, 29)], width=0.6, style=":")
    sheet.text(left + step + overlap + 1.5, 14.6, "dropped: it wraps around", ha="left")
    sheet.text(8.5, 33, "output", ha="right")
    draw(smooth, 33, left + 3 * step)
    return sheet


def transposed() -> Sheet:
    """Draw the two phases of a transposed layer of stride 2."""
    sheet = Sheet(35)
    sheet.title(1, 1.8, "Stride 2, a kernel of 4 taps: each output reads 2 of them")
    cell, left = 3.1, 22.0
    colors = (BLUE, ORANGE)
    sheet.text(20.5, 7.6, "input", ha="right")
    sheet.grid(left, 6, (1, 6), cell, None, lambda r, c: f"x{c}", size=10)
    sheet.grid(51, 6, (1, 4), cell, lambda r, c: colors[c % 2], lambda r, c: f"k{c}", size=10)
    sheet.text(64.6, 7.6, "kernel", ha="left")
    sheet.arrow((left + 2.5 * cell, 9.5), (left + 2.5 * cell, 13.2))
    sheet.arrow((57.2, 9.5), (57.2, 13.2))
    for phase, (color, taps) in enumerate(zip(colors, (("k2", "k0"), ("k3", "k1")), strict=True)):
        y = 13.8 + 5.4 * phase
        sheet.text(20.5, y + 1.6, f"phase {phase}", ha="right")
        sheet.grid(
            left, y, (1, 5), cell, lambda r, c, fill=color: fill, lambda r, c, p=phase: f"y{2 * c + 2 + p}", size=9.5
        )
        sheet.text(44.4, y + 1.6, "2 taps each:", size=10)
        sheet.grid(54.1, y, (1, 2), cell, lambda r, c, fill=color: fill, lambda r, c, t=taps: t[c], size=10)
        sheet.text(61.8, y + 1.6, f"y{2 + phase} = {taps[0]} x0 + {taps[1]} x1", ha="left")
    sheet.arrow((left + 2.5 * cell, 22.7), (left + 2.5 * cell, 26.4))
    sheet.text(20.5, 28.6, "interleaved", ha="right")
    sheet.grid(left, 27, (1, 10), cell, lambda r, c: colors[c % 2], lambda r, c: f"y{c + 2}", size=9.5)
    sheet.text(54.5, 28.6, "no zeros are inserted and multiplied", ha="left")
    sheet.text(left, 32.8, "both phases read the same pixels: they are two channels of one ordinary layer", ha="left")
    return sheet
