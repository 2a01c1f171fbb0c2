"""Pictures of the way of a call, and of the choice of an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from typing import NamedTuple

from docs.sheet import BLUE, GREEN, ORANGE, SKY, Sheet


def index() -> Sheet:
    """Draw the way of a call to its result."""
    sheet = Sheet(28)
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
        sheet.panel(x, top, width, 8.4, words, color, head)
        places.append((x, x + width))
        x += width + gap
    for before, after in pairwise(places):
        sheet.arrow((before[1] + 0.15, top + 4.2), (after[0] - 0.15, top + 4.2))
    start, end = places[0][0] + 7.7, places[4][0] + 6.3
    sheet.line([(start, top - 0.3), (start, 4), (end, 4), (end, top - 1)], style="--")
    sheet.arrow((end, top - 1.2), (end, top - 0.2))
    sheet.text((start + end) / 2, 2.4, "a repeated call with the same kernel skips three stages")
    stores = [
        (2, "measured times,\nthis machine's limits\n(disk)"),
        (3, "prepared kernels,\nup to 512 MB\n(memory)"),
        (4, "compiled code,\nfor any image size\n(disk)"),
    ]
    for number, words in stores:
        middle = sum(places[number]) / 2
        sheet.arrow((middle, top + 8.7), (middle, top + 11.4))
        sheet.arrow((middle, top + 11.4), (middle, top + 8.7))
        sheet.text(middle, top + 15, words)
    return sheet


class Estimate(NamedTuple):
    """Answer of an engine for a layer: its estimated time in milliseconds, or the reason why it is refused."""

    engine: str
    milliseconds: float | None
    reason: str | None


ESTIMATES = """
import json
from functools import partial

import torch
from convolith import jit
from convolith.jit import target

jit.host = target.host = partial(target.host, "avx2")  # before an engine is imported
torch.set_num_threads(2)

import convolith as cl

plan = cl.plan(cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1))
rows = [(c.engine, None if c.reason else 1e3 * c.seconds, c.reason) for c in plan.candidates]
rows.sort(key=lambda row: (row[1] is None, row[1] or 0.0))
assert rows[0][0] == plan.engine
print(json.dumps(rows))
"""
"""Program that prints the plan of a layer for the machine whose limits the package contains."""


def estimates() -> list[Estimate]:
    """Return the estimates of all engines, the fastest first, with the limits in the package and 256-bit vectors."""
    environment = os.environ | {"CONVOLITH_CACHE_DIR": ""}  # nothing that was measured on this machine
    command = [sys.executable, "-c", ESTIMATES]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)  # noqa: S603 - ours
    return [Estimate(*row) for row in json.loads(done.stdout)]


def planner() -> Sheet:
    """Draw the engines of a layer: refused, or with their times."""
    rows = estimates()
    step, widest, across = 2.9, 46.0, 16.5
    usual = [row.milliseconds for row in rows if row.milliseconds is not None and row.engine != "reference"]
    scale = (widest - 4) / max(usual)
    bottom = 5 + step * len(rows)
    sheet = Sheet(bottom + 9.5)
    sheet.title(1, 1.8, "64 -> 64 channels, 3x3, 56x56: which engine?")
    for number, row in enumerate(rows):
        y = 5 + step * number
        sheet.text(across - 1.5, y + 1, row.engine, ha="right", weight="normal" if number else "bold")
        if row.milliseconds is None:
            sheet.text(across, y + 1, row.reason or "", ha="left", style="italic")
            continue
        length = min(scale * row.milliseconds, widest)
        sheet.box(across, y, length, 2, SKY if number else GREEN, linewidth=0)
        words = f"{row.milliseconds:.2f} ms" + ("" if number else ", chosen")
        if length == widest:
            sheet.text(across + length + 0.8, y + 1, f"... {row.milliseconds:.0f} ms, for tests", ha="left")
        else:
            sheet.text(across + length + 0.8, y + 1, words, ha="left")
    sheet.line([(1, bottom + 0.6), (83, bottom + 0.6)], width=0.5)
    sheet.text(1, bottom + 3.2, "estimated time = a call + the longer of", ha="left")
    sheet.panel(33.5, bottom + 1.8, 19.5, 2.8, "products / their rate", SKY)
    sheet.text(55.5, bottom + 3.2, "and")
    sheet.panel(58, bottom + 1.8, 24.5, 2.8, "bytes moved / their rate", ORANGE)
    sheet.text(1, bottom + 7.4, 'effort="measure" times them in turn instead, and stores the times on disk', ha="left")
    return sheet
