"""Picture of the sums of a fit."""

from __future__ import annotations

from docs.sheet import GREEN, ORANGE, SKY, Sheet


def gram() -> Sheet:
    """Draw pairs of pixels of a window by their lag."""
    sheet = Sheet(35)
    chosen = {(0, 1): ORANGE, (1, -1): SKY, (0, 0): GREEN}

    def lag(u: int, v: int) -> tuple[int, int]:
        low, high = sorted((u, v))
        return high // 3 - low // 3, high % 3 - low % 3

    sheet.title(1, 1.8, "Slide the window")
    cell, left, top = 2.3, 1.5, 6.5
    sheet.grid(left, top, (9, 9), cell)
    for row, column, color, name in ((2, 3, ORANGE, "u"), (2, 4, ORANGE, "v"), (3, 4, SKY, "u"), (4, 3, SKY, "v")):
        sheet.box(left + cell * column, top + cell * row, cell, cell, color, text=name)
    sheet.box(left + 2 * cell, top + 2 * cell, 3 * cell, 3 * cell, linewidth=2.4)
    sheet.text(11.9, 31, "sum of x[p + u] x[p + v]\nover all windows p")
    sheet.arrow((23.2, 17), (26.8, 17))
    sheet.title(28, 1.8, "One sum for each lag")
    sheet.grid(
        28.5,
        8.4,
        (5, 5),
        3.5,
        lambda r, c: chosen.get((r - 2, c - 2)) or chosen.get((2 - r, 2 - c)),
        lambda r, c: f"{r - 2}, {c - 2}",
        size=8.5,
    )
    sheet.text(37.2, 31, "lag = v - u: 25 in all,\n13 by symmetry")
    sheet.arrow((47.2, 17), (50.8, 17))
    sheet.title(53, 1.8, "Fill the 9x9 matrix")
    sheet.grid(55.5, 5.2, (9, 9), 2.6, lambda r, c: chosen.get(lag(r, c)))
    sheet.text(67.2, 31, "equal lags have equal sums, up to strips\nat the border, which are subtracted exactly")
    return sheet
