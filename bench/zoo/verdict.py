"""What a row of the zoo is to hold, and which of that it does not."""

from __future__ import annotations

from typing import Any

CALLS, SECONDS = 20.0, 2.0
"""`fold` is to take at most this many calls of the model, and seconds, in the median of the models."""
MOST_SECONDS = 15.0
"""`fold` is to take at most this long for any model."""
OUTPUT_ERROR = 1e-5
"""Largest difference of a folded model's outputs in float32, relative to the largest number of each."""
GRADIENT_ERROR = 1e-10
"""Largest difference of gradients in float64, relative to the largest number of each; or four times what torch's own
gradients differ by where the last bits of the input do."""
SHOWN = 3
"""Names of norms that a line lists at most."""


def failures(row: dict[str, Any]) -> list[str]:
    """Return every target that a row does not hold, in words; nothing for one that holds all, or was not run."""
    if row["stage"] == "missing":
        return []
    found = [f"{name}: {row[name]}" for name in row if name.endswith("problem")]
    if unnamed := row.get("norms unnamed"):
        found.append(f"{len(unnamed)} norms behind convolutions stay without a reason: {', '.join(unnamed[:SHOWN])}")
    published = row.get("published")
    if published is not None and row.get("convolutions after") not in (None, published):
        found.append(f"{row['convolutions after']} convolutions, the authors publish {published}")
    allowed = max(OUTPUT_ERROR, 4 * row.get("own error", 0.0))
    found += [
        f"outputs differ by {_number(error)} at {name}"
        for name, error in row.get("errors", {}).items()
        if error is None or not error <= allowed
    ]
    plain = row.get("plain", {})
    found += [f"{count} plain convolution {kind} after convert" for kind, count in plain.items() if count]
    error = row.get("gradient error", 0.0)
    if error is None or not error <= max(GRADIENT_ERROR, 4 * (row.get("own gradient error") or 0.0)):
        found.append(f"gradients differ by {_number(error)}")
    if row.get("fold seconds", 0.0) > row.get("most seconds", MOST_SECONDS):
        found.append(f"fold took {row['fold seconds']:.1f} s")
    return found


def _number(error: float | None) -> str:
    return "more than any number" if error is None else f"{error:.1e}"  # what is not finite is None in JSON
