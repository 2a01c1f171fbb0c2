"""Pictures of whole networks: programs, folding, counting."""

from __future__ import annotations

from docs.sheet import BLUE, DARK, GREEN, ORANGE, PURPLE, RED, SKY, Sheet


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
    sheet = Sheet(39)
    sheet.title(1, 1.8, "Tensors between the steps share one block of memory")
    left, bottom, wide, scale = 12.5, 30.5, 6.0, 24 / arena
    right = left + wide * len(steps)
    colors = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, BLUE)
    for number, words in enumerate(steps):
        x = left + wide * number
        sheet.line([(x, 6), (x, bottom + 0.6)], width=0.5)
        sheet.text(x + wide / 2, bottom + 1.9, f"{number + 1}")
        sheet.text(x + wide / 2, bottom + 3.6, words, size=9, va="top")
    sheet.line([(right, 6), (right, bottom + 0.6)], width=0.5)
    sheet.line([(left, bottom), (right, bottom)], width=1.0)
    sheet.text(left - 1, bottom + 1.9, "step", ha="right")
    for (name, size, first, last), buffer, color in zip(named, buffers, colors, strict=True):
        x, w = left + wide * first, wide * (last - first + 1)
        top = bottom - (buffer.offset / kib + size) * scale
        sheet.box(x + 0.15, top + 0.12, w - 0.3, size * scale - 0.24, color, text=f"{name}: {size} KiB", linewidth=0)
    sheet.brace((left - 1.0, bottom - arena * scale), (left - 1.0, bottom), 0.7)
    sheet.text(left - 2, bottom - arena * scale / 2, f"arena:\n{arena} KiB", ha="right")
    sheet.text(right + 2, 9, f"{total} KiB if each tensor\nhad its own memory", ha="left")
    sheet.text(right + 2, 16, "a box is as long as its\ntensor is needed, and\nas high as it is large", ha="left")
    sheet.text(right + 2, 24, "between two steps, the\nthreads wait for each\nother, without Python", ha="left")
    return sheet


def folding() -> Sheet:
    """Draw two kernels in a row as one, and where padding makes it wrong."""
    sheet = Sheet(40)
    sheet.title(1, 1.8, "Two layers in a row: taps i and j meet at i + j")
    cell, left = 3.2, 9.0
    sheet.text(7, 7.6, "x", size=12)
    sheet.grid(left, 6, (1, 9), cell, lambda r, c: ORANGE if 2 <= c < 7 else None)
    sheet.text(7, 16.6, "h", size=12)
    sheet.grid(left + cell, 15, (1, 7), cell, lambda r, c: SKY if 2 <= c < 5 else None)
    sheet.text(7, 25.6, "y", size=12)
    sheet.grid(left + 2 * cell, 24, (1, 5), cell, lambda r, c: BLUE if c == 2 else None)
    for h in range(3):
        sheet.arrow(
            (left + (3.5 + h) * cell, 18.4), (left + (4.2 + 0.3 * h) * cell, 23.7), color=GREEN, width=1.0, head=7
        )
        for x in range(3):
            end = left + (3.2 + h + 0.3 * x) * cell
            sheet.arrow((left + (2.5 + h + x) * cell, 9.4), (end, 14.7), color=RED, width=0.8, head=6)
    sheet.text(36, 12.2, "k1, 3 taps", color=RED, ha="left", size=10.5)
    sheet.text(32.5, 21.2, "k2, 3 taps", color=GREEN, ha="left", size=10.5)
    sheet.text(1, 30.4, "one kernel of 5 taps, from x to y:", ha="left")
    sums = (
        "k2[0] k1[0]",
        "k2[0] k1[1]\n+ k2[1] k1[0]",
        "k2[0] k1[2]\n+ k2[1] k1[1]\n+ k2[2] k1[0]",
        "k2[1] k1[2]\n+ k2[2] k1[1]",
        "k2[2] k1[2]",
    )
    for number, words in enumerate(sums):
        sheet.box(1 + 9.6 * number, 32, 9.6, 7, text=words, size=8.5)
    sheet.line([(51.5, 1), (51.5, 39)], width=0.5)
    sheet.title(53.5, 1.8, "With padding, a ring differs")
    cell, left, top, n = 1.25, 56.5, 5.2, 20
    sheet.grid(left, top, (n, n), cell, lambda r, c: RED if {r, c} & {0, n - 1} else GREEN)
    sheet.text(69, 34.6, "3x3 after 3x3, both padded by 1:\nexact in the middle; 76 of the 400\noutputs are corrected")
    return sheet


def counting() -> Sheet:
    """Draw products with and without the padding's zeros; the memory of a training step."""
    sheet = Sheet(35)
    sheet.title(1, 1.8, "Products of each output")
    counts = {9: GREEN, 6: SKY, 4: ORANGE}

    def count(r: int, c: int) -> int:
        return (2 if r in (0, 6) else 3) * (2 if c in (0, 6) else 3)

    sheet.grid(4, 5, (7, 7), 3.0, lambda r, c: counts[count(r, c)], lambda r, c: str(count(r, c)), size=11)
    sheet.text(14.5, 30.5, "3x3 on 7x7, padding 1\ndense: 49 x 9 = 441 products\neffective, without zeros: 361")
    sheet.line([(32, 1), (32, 34)], width=0.5)
    sheet.title(34, 1.8, "Memory of a training step")
    left, bottom, wide, high = 35.0, 26.0, 2.5, 1.3
    phases: list[tuple[str, list[float]]] = [
        (BLUE, [6, 8, 10, 11, 12, 12.5]),
        (ORANGE, [14.5, 14, 13, 12, 10.5, 9]),
        (GREEN, [9, 9, 6]),
    ]
    heights = [(height, color) for color, found in phases for height in found]
    for number, (height, color) in enumerate(heights):
        sheet.box(left + wide * number, bottom - height * high, wide, height * high, color, linewidth=0)
    end = left + wide * len(heights)
    sheet.line([(left, bottom), (end, bottom)])
    sheet.axes.plot([left, end], [bottom - 6 * high] * 2, color=DARK, linewidth=1.1, linestyle="--", zorder=4)
    sheet.text(left + wide * 3, bottom + 1.9, "forward")
    sheet.text(left + wide * 9, bottom + 1.9, "backward")
    sheet.text(left + wide * 13.5, bottom + 1.9, "update")
    sheet.text(left + wide * 6.5, bottom - 14.5 * high - 1.2, "peak", size=11, weight="bold")
    sheet.text(end + 1, bottom - 3.9, "weights and\nthe optimizer's\nstate", ha="left")
    sheet.text(
        34, 31.6, "forward keeps what backward needs;\neach operator of backward gives some of it back", ha="left"
    )
    return sheet
