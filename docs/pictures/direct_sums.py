"""Pictures of direct sums, of depthwise layers, and of a kernel's gradient."""

from __future__ import annotations

from docs.sheet import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, Sheet

CHANNELS = (SKY, ORANGE, GREEN, PURPLE)


def direct() -> Sheet:
    """Draw a register tile over an image, and the loads that it saves."""
    sheet = Sheet(25)
    sheet.title(1, 1.8, "A tile of sums stays in registers")
    cell, top, out = 1.5, 5, 34.5
    sheet.grid(1, top, (8, 16), cell, lambda r, c: (RED if r == 3 else ORANGE) if 1 <= r < 7 and 1 <= c < 15 else None)
    sheet.text(13, 20.4, "6 rows of inputs are read,\na row at a time")
    row = top + 3.5 * cell
    for n in (0, 1, 2):
        sheet.arrow((25.6, row), (out - 0.4, top + (2.5 + n) * cell), color=RED, width=1.1, head=8)
    sheet.grid(out, top + 2 * cell, (4, 12), cell, lambda r, c: (SKY, BLUE, SKY)[c // 4])
    for n in range(3):
        sheet.text(out + (2 + 4 * n) * cell, top + 1.2 * cell, "vector", size=9)
    sheet.text(out + 9, 20.4, "12 vectors of sums: a row of x\nserves 3 of their 4 rows, 3x3")
    sheet.line([(56, 1), (56, 24)], width=0.5)
    sheet.title(58, 1.8, "Loads of x for each product")
    for n, (rows, sums) in enumerate(((1, "3 / 3"), (4, "6 / 12"), (12, "14 / 36"))):
        y, loads = 5 + 4.2 * n, (rows + 2) / (3 * rows)
        sheet.text(64.4, y + 1.2, f"{rows} row{'s' * (rows > 1)}", ha="right")
        sheet.box(65.2, y, 7.5 * loads, 2.4, BLUE, linewidth=0)
        sheet.text(66 + 7.5 * loads, y + 1.2, f"{sums} = {loads:.2g}", ha="left")
    sheet.text(70, 20.4, "rows of x read / rows of\nproducts, by rows of a tile")
    return sheet


def depthwise() -> Sheet:
    """Draw channels in the lanes of a vector, and below it the sums of a kernel's gradient."""
    sheet = Sheet(46)
    sheet.title(1, 1.8, "A channel in each lane")

    def planes(x: float, y: float) -> None:
        for n in reversed(range(4)):
            sheet.box(x + 0.9 * n, y - 0.9 * n, 6.4, 6.4, CHANNELS[n], linewidth=0.6, zorder=3 - 0.1 * n)

    def pixels(x: float, y: float, count: int) -> None:
        sheet.grid(x, y, (4, count), 1.15, lambda r, c: CHANNELS[r])

    planes(2.5, 9)
    sheet.text(7, 18.6, "an image, a\nplane per channel")
    sheet.arrow((12.8, 11.6), (18.2, 11.6))
    sheet.text(15.5, 9.6, "transpose", size=9)
    for row in range(3):
        pixels(19, 4.4 + 5.2 * row, 16)
    sheet.text(28.3, 21.2, "ring of 3 rows: a vector\nholds a pixel of all channels")
    sheet.arrow((38.6, 11.6), (46.6, 11.6))
    sheet.text(42.6, 9.6, "3x3 taps", size=9)
    pixels(48, 9.3, 8)
    sheet.text(52.6, 18.6, "8 pixels of sums,\nin registers")
    sheet.arrow((58.4, 11.6), (66.4, 11.6))
    sheet.text(62.4, 9.6, "transpose", size=9)
    planes(68, 9)
    sheet.text(72.5, 18.6, "outputs, a\nplane per channel")
    sheet.line([(1, 24.4), (83, 24.4)], width=0.5)
    sheet.title(1, 27.2, "The gradient of a kernel: each tap is one shift of a band")
    cell = 1.7
    sheet.grid(2, 30.4, (5, 14), cell, lambda r, c: ORANGE if 1 <= r < 4 and 2 <= c < 14 else SKY)
    sheet.box(2 + 2 * cell, 30.4 + cell, 12 * cell, 3 * cell, linewidth=2.2)
    sheet.text(13.9, 41.6, "a band of x with its padding\n(blue: read by other taps)")
    sheet.text(28.4, 34.6, "x", size=13)
    sheet.grid(31, 30.4 + cell, (3, 14), cell, lambda r, c: GREEN if c < 12 else None)
    sheet.text(42.9, 41.6, "a band of the output's gradient,\nwith zeros between its rows")
    sheet.arrow((56.6, 34.6), (62, 34.6))
    sheet.text(59.3, 32.8, "sum", size=9)
    sheet.grid(64, 30, (3, 3), 3.1, lambda r, c: PURPLE if (r, c) == (1, 2) else None)
    sheet.text(68.6, 41.6, "one tap of the\nkernel's gradient")
    return sheet
