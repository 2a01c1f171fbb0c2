"""Errors and warnings of the library in the words of a command: files and options instead of arguments."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from convolith.errors import ConvolithError

Words = Sequence[tuple[str, str]]
"""Regular expressions, and what is said instead."""

GENERAL: Words = (
    (
        r"\baxes is \(([-\d]+), ([-\d]+)\) but kernel has 1; expected .*$",
        "--axes is not given and KERNEL has one axis; pass the axis of INPUT that it runs along, such as --axes 0",
    ),
    (r"\baxes is \(([^)]*)\)", r"--axes is \1"),
    (r"^axes is\b", "--axes is"),
    (r"^(stride|padding|dilation|groups|engine|accuracy)(?= (is|has)\b)", r"--\1"),
    (r"; convert x to a float dtype first$", "; pass --dtype float32"),
    (r"^origin is\b", "--origin is"),
    (r"\bpass channel_axis=-1\b", "pass --axes 0,1"),
    (r"\baxes=\(([-\d]+), ([-\d]+), ([-\d]+)\)", r"--axes \1,\2,\3"),
    (r"\baxes=\(([-\d]+), ([-\d]+)\)", r"--axes \1,\2"),
    (r"\baxes=\(([-\d]+),\)", r"--axes \1"),
    (r"\bpadding_mode='(\w+)'", r"--padding-mode \1"),
    (r"\bpadding_mode\b(?!=)", "--padding-mode"),
    (r"\bpadding_value\b(?!=)", "--padding-value"),
    (r"\bengine='auto'", "--engine auto"),
    (r"two different float dtypes; convert one of them, .* in torch$", "two different float dtypes; convert one file"),
    (r" \(k\.shape\[1\] \* groups\)", " (its channels, times --groups)"),
    (r"; add the missing axes with x\[None\]", "; name the axes that KERNEL runs along, such as --axes 0"),
    (r"^x has", "INPUT has"),
    (r"^dtype is\b", "--dtype is"),
    (r"\bpass dtype=numpy\.(\w+)", r"pass --dtype \1"),
    (r"\bnan=[\"'](\w+)[\"']", r"--nan \1"),
    (r"^mask has\b", "--mask has"),
    (r"\bwith padding '(\w+)' and stride\b", r"with --padding \1 and --stride"),
    (
        r"\bapplies to padding 'same' and stride 1; elsewhere give padding as \(before, after\) pairs",
        "applies to --padding same and --stride 1; elsewhere give --padding as before:after",
    ),
    (r"\ball pixels of (image|x) are", "all pixels of INPUT are"),
    (r"\bsince (image|x)\b", "since INPUT"),
    (r"\bsince (kernel|k)\b", "since KERNEL"),
    (r"\b(INPUT) and (kernel|k) have values", r"\1 and KERNEL have values"),
    (r", as k has\b", ", as KERNEL has"),
    (r"^(k|kernel|conv|weight) (has|is|sums)", r"KERNEL \2"),
    (r"\bbut (k|kernel) (has|expects|is)\b", r"but KERNEL \2"),
    (r"^image has", "INPUT has"),
    (r"\bof x\b", "of INPUT"),
)
"""Words of `correlate` and `filter_image`."""


@contextmanager
def in_words_of_the_command(words: Words = GENERAL) -> Iterator[list[str]]:
    """Return a context in which errors and warnings name files and options instead of arguments.

    The list that it gives has the warnings once the context ends.
    """
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", RuntimeWarning)
        try:
            yield texts
        except ConvolithError as error:
            raise ConvolithError(translated(str(error), words)) from None
    for one in said:
        if issubclass(one.category, RuntimeWarning):
            texts.append(translated(str(one.message), words))
            click.echo(f"warning: {texts[-1]}", err=True)


def translated(text: str, words: Words = GENERAL) -> str:
    """Return a message in the words of a command."""
    for pattern, word in words:
        text = re.sub(pattern, word, text)
    return text
