"""Pictures of layers as matrix products."""

from __future__ import annotations

from docs.sheet import BLUE, GREEN, ORANGE, PURPLE, SKY, Sheet


def pointwise() -> Sheet:
    """Draw a matrix product over channels."""
    sheet = Sheet(23)
    sheet.title(1, 1.8, "1x1 layer: a matrix product over the channels")
    cell = 1.4
    sheet.grid(2, 8, (8, 6), cell, lambda r, c: BLUE if r < 4 else None)
    sheet.text(6.2, 6.3, "input channels", size=9.5)
    sheet.text(6.2, 21, "kernel")
    sheet.text(13.9, 13.2, "x", size=13)
    sheet.grid(17.4, 8, (6, 20), cell, lambda r, c: ORANGE if 4 <= c < 16 else None)
    sheet.text(31.4, 6.3, "positions: all pixels in one row", size=9.5)
    sheet.text(31.4, 18.2, "x, a row for each input channel")
    sheet.text(48.6, 13.2, "=", size=13)
    sheet.grid(52, 8, (8, 20), cell, lambda r, c: GREEN if r < 4 and 4 <= c < 16 else None)
    sheet.text(66, 6.3, "a tile of sums, in registers", size=9.5)
    sheet.text(66, 21, "y, a row for each output channel")
    return sheet


def im2col() -> Sheet:
    """Draw windows that are gathered as the columns of a matrix."""
    sheet = Sheet(21)
    sheet.title(1, 1.8, "3x3 layer: a matrix product over taps, gathered for some positions at a time")
    taps = [SKY, SKY, SKY, PURPLE, PURPLE, PURPLE, ORANGE, ORANGE, ORANGE]
    sheet.grid(2, 5, (7, 9), 1.6, lambda r, c: taps[3 * (r - 2) + c - 3] if 2 <= r < 5 and 3 <= c < 6 else None)
    sheet.text(9.2, 18.8, "an input channel")
    sheet.arrow((17.2, 10.6), (21, 10.6))
    sheet.grid(22, 4.8, (9, 30), 1.25, lambda r, c: taps[r] if 9 <= c < 15 else None)
    sheet.text(40.8, 18.8, "a row for each tap, a column for each position")
    sheet.text(61.5, 7.4, "coloured: gathered,\nin a cache now", ha="left")
    sheet.text(61.5, 12.6, "blank: never stored\nas a whole", ha="left")
    return sheet
