"""Tables as text and on a terminal, plain data, pages."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

import convolith as cl
from convolith.report.html_page import Section, page
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


def results():
    x = np.random.default_rng(0).normal(size=(1, 40, 40))
    y = cl.correlate(x, np.ones((1, 1, 3, 3)))
    plan = cl.plan(cl.ConvSpec(in_channels=3, out_channels=8, size=(32, 32), kernel_size=3))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    varying = cl.fit_varying(x, y, kernel_size=3, degree=1, background_degree=0)
    return {
        "Plan((1, 3, 32, 32) * (8, 3, 3, 3) -> (1, 8, 30, 30), engine=": plan,
        "BoundPlan((1, 3, 32, 32) * (8, 3, 3, 3)": plan.bind(torch.ones(8, 3, 3, 3)),
        "Gram(1 -> 1, kernel_size=(3, 3), equations=1,444)": cl.Gram(3).update(x, y),
        "VaryingGram(1 -> 1, kernel_size=(3, 3), equations=0)": cl.VaryingGram(3, degree=1),
        "Fit(kernel of (1, 1, 3, 3), offset, residual_rms=": cl.fit(x, y, kernel_size=3, offset=True),
        "Fit(kernel of (1, 1, 3, 3), residual_rms=": cl.fit(x, y, kernel_size=3, method="gd", steps=200),
        "VaryingFit(VaryingKernel((1, 1, 3, 3), degree=1, background_degree=0, modulation='output'), ": varying,
        "Folded(convolutions 1 -> 1, norms 1 -> 0; ": cl.fold(model, torch.ones(1, 3, 8, 8)),
        "ModelCost(Sequential, forward 3,888 MACs, backward ": cl.cost(model, input_shape=(1, 3, 8, 8)),
        "LayerCost((1, 1, 8, 8) -> (1, 1, 6, 6), forward 324 MACs": cl.cost(cl.Conv(np.ones((1, 1, 3, 3))), input_shape=(1, 1, 8, 8)),
    }  # fmt: skip


def test_results_are_shown_in_one_short_line():
    for beginning, value in results().items():
        assert repr(value).startswith(beginning)
        assert len(repr(value)) < 160
        assert "\n" not in repr(value)


X = np.random.default_rng(0).normal(size=(1, 30, 31))
BLURRED = cl.correlate(X, np.ones((1, 1, 3, 3)) / 9)


def shown_in_notebooks():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    return {
        "fit": cl.fit(X, BLURRED, kernel_size=3),
        "fit of a signal": cl.fit(X[0, :1], X[0, :1], kernel_size=(3,)),
        "plan": cl.plan(cl.ConvSpec.of(X[None], np.ones((1, 1, 3, 3)))),
        "decomposition": cl.decompose([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]),
        "fold": cl.fold(model, torch.ones(1, 3, 8, 8)).report,
        "cost": cl.cost(model, input_shape=(1, 3, 8, 8)),
    }


@pytest.mark.parametrize("name", ["fit", "fit of a signal", "plan", "decomposition", "fold", "cost"])
def test_results_are_tables_and_pictures_in_notebooks_and_short_on_a_line(name):
    value = shown_in_notebooks()[name]
    html = value._repr_html_()
    assert html.count("<table>") == html.count("</table>") >= 1
    assert ("data:image/png" in html) == name.startswith("fit")
    assert len(repr(value).splitlines()) <= 10
    assert len(str(value)) > 20


def test_plain_text_in_a_notebook_has_the_whole_table(monkeypatch):
    """There rich displays tables, instead of writing them into the text that is asked for."""
    table = Table("Title", [{"name": "a", "value": 1.0}])
    expected = table.text()
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *given: pytest.fail("displayed, not written"))
    assert table.text() == expected
    assert "1" in expected


def test_figures_of_results(tmp_path):
    values = shown_in_notebooks()
    varying = cl.fit_varying(X, BLURRED, kernel_size=3, degree=1).kernel
    wave = cl.fit_varying(X[0, :1], X[0, :1], kernel_size=(3,), degree=1).kernel
    for at, one in enumerate((values["fit"], values["fit of a signal"], values["plan"], varying, wave)):
        file = tmp_path / f"{at}.png"
        figure = one.plot()
        figure.savefig(file)
        assert figure._repr_png_().startswith(b"\x89PNG")  # shown by notebooks that have not imported pyplot
        assert file.stat().st_size > 5000
    volume = np.random.default_rng(1).normal(size=(1, 9, 9, 9))
    solid = cl.fit(volume, volume, kernel_size=(1, 1, 3))
    with pytest.raises(cl.ConvolithError, match="the kernel has 3 axes; plot shows kernels of one or two"):
        solid.plot()


def test_columns_without_a_value_are_left_out():
    table = Table("t", [{"a": 1, "b": None}, {"a": None, "b": None, "c": 2}])
    assert table.columns == ["a", "c"]


def test_brackets_in_cells_and_headers_are_no_markup():
    text = Table("Extras", [{"[x]": "pip install 'convolith[fits]'", "y": "[/bold]"}]).text()
    assert "pip install 'convolith[fits]'" in text
    assert "[x]" in text
    assert "[/bold]" in text
