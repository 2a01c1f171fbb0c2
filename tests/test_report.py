"""Tables as text and on a terminal, plain data, pages."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from convolith.report.page import Section, page
from convolith.report.plain import to_json
from convolith.report.table import Table, quantity

TABLE = Table(
    "Title", [{"name": "a name of many words", "a long count": 123456789}, {"name": "b", "other": 0.00012345}]
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "yes"), (1234567, "1,234,567"), (2.0, "2"), (0.12345, "0.123"), (1e-12, "1e-12"), ("x", "x")],
)
def test_quantities(value, text):
    assert quantity(value) == text


def test_plain_text_is_aligned_and_whole():
    lines = TABLE.text().splitlines()
    assert lines[0] == "Title"
    assert lines[1].split() == ["name", "a", "long", "count", "other"]
    assert "123,456,789" in lines[2]
    assert "0.000123" in lines[3]
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("width", [20, 30, 60, 120])
def test_a_terminal_never_cuts_a_word(width):
    buffer = io.StringIO()
    TABLE.show(Console(file=buffer, width=width))
    shown = buffer.getvalue()
    assert "…" not in shown
    for cell in ("123,456,789", "0.000123", "other", "words"):
        assert cell in shown


def test_plain_data():
    data = {"array": np.arange(3), "number": np.float32(0.5), "nan": float("nan"), "complex": 1j, "pair": (1, 2)}
    expected = {"array": [0, 1, 2], "number": 0.5, "nan": None, "complex": [0, 1], "pair": [1, 2]}
    assert json.loads(to_json(data)) == expected


def test_pages_escape_what_they_show():
    text = page("<title>", "1 < 2 & 3", [Section("a > b", "prose", 'print("<script>")', (TABLE,))])
    assert "<script>" not in text
    assert "1 &lt; 2 &amp; 3" in text
    assert "123,456,789" in text
