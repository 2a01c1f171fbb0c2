"""The pictures of the section "How it works", which `python -m docs.pictures` draws as docs/images/how-NAME.svg.

Backgrounds are transparent, and all colours can be read on white and on dark pages. Equal inputs give equal files: no
date, no random identifiers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl

from docs.pictures.calls import index, planner
from docs.pictures.direct_sums import depthwise, direct
from docs.pictures.fewer_products import fft, separable, transposed, winograd
from docs.pictures.fitting import gram
from docs.pictures.matrix_products import im2col, pointwise
from docs.pictures.networks import counting, folding, programs
from docs.sheet import STYLE, Sheet

IMAGES = Path(__file__).parent.parent / "images"
PICTURES: dict[str, Callable[[], Sheet]] = {
    "index": index,
    "direct": direct,
    "depthwise": depthwise,
    "pointwise": pointwise,
    "im2col": im2col,
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
