"""Figures for notebooks: addresses of layers and folds, what they refuse, and the widget without a browser."""

import re
import subprocess
import sys
from html import escape
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import convolith as cl
from convolith.costing import cost
from convolith.errors import ConvolithError
from convolith.report.html_page import Section, page
from convolith.widget import figures
from convolith.widget.addresses import cost_address, fold_address, look_address
from convolith.widget.frames import explorer_frame, explorer_page
from convolith.widget.sections import cost_section, fold_section

RNG = np.random.default_rng(0)
X, K = RNG.normal(size=(2, 6, 5)), RNG.normal(size=(3, 2, 3, 2))
NEEDS_ANYWIDGET = pytest.mark.skipif(find_spec("anywidget") is None, reason="not installed: anywidget")


def fields(address):
    return dict(part.split("=") for part in address.removeprefix("#").split("&"))


@pytest.mark.parametrize(
    "make", [np.asarray, torch.as_tensor, lambda a: np.asarray(a).tolist(), lambda a: np.asarray(a)[None]]
)
def test_a_layer_of_any_kind_of_array_has_one_address(make):
    x = make(X)
    k = torch.as_tensor(K) if isinstance(x, torch.Tensor) else K
    address = look_address(x, k, stride=(2, 1), padding="same", flip=True)
    found = fields(address)
    assert found["view"] == "look"
    assert found["stride"] == "2x1"
    assert found["padding"] == "0x1x0x1"  # "same" with a stride depends on the size of x
    assert found["flip"] == "1"
    assert [float(n) for n in found["x"].split("_")] == X.ravel().tolist()
    assert [float(n) for n in found["k"].split("_")] == K.ravel().tolist()


def test_a_conv_brings_its_own_options():
    conv = cl.Conv(K.swapaxes(0, 1), np.array([1.0, 2, 3]), stride=2, transposed=True, output_padding=1)
    found = fields(look_address(X, conv))
    assert (found["transposed"], found["outpad"], found["b"], found["channels"]) == ("1", "1x1", "1_2_3", "2x3")
    with pytest.raises(ConvolithError, match="stride was given together with a Conv"):
        look_address(X, conv, stride=2)
    with pytest.raises(ConvolithError, match="bias was given together with a Conv"):
        look_address(X, conv, np.ones(3))


def test_numbers_are_written_without_loss():
    x = np.array([[[1e-300, -1e100, 0.1, 5e-324, -0.0, 12345678901234567.0]]])
    written = fields(look_address(x, np.ones((1, 1, 1, 1))))["x"].split("_")
    assert [float(n) for n in written] == x.ravel().tolist()
    assert all(re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", n) for n in written)


REFUSED = {
    "at most 6": (lambda: look_address(np.ones((7, 4, 4)), np.ones((1, 7, 2, 2))), "7 input channels"),
    "outputs": (lambda: look_address(np.ones((1, 4, 4)), np.ones((8, 1, 2, 2))), r"8 output channels.*pass k\[:6\]"),
    "size": (lambda: look_address(np.ones((1, 17, 4)), np.ones((1, 1, 2, 2))), "17x4 elements; the figure draws at most 16"),
    "length": (lambda: look_address(np.ones((1, 33)), np.ones((1, 1, 2))), "33 elements; the figure draws at most 32"),
    "taps": (lambda: look_address(np.ones((1, 16, 16)), np.ones((1, 1, 8, 8))), "8x8 taps; the figure draws at most 7"),
    "stride": (lambda: look_address(X, K, stride=5), "stride is 5x5; the figure draws at most 4"),
    "padding": (lambda: look_address(X, K, padding=13), "padding is 13x13x13x13"),
    "cells": (lambda: look_address(np.ones((6, 16, 16)), np.ones((6, 6, 7, 7)), padding=12), "cells; it draws at most 6,000"),
    "axes": (lambda: look_address(np.ones((1, 3, 3, 3)), np.ones((1, 1, 2, 2, 2))), "3 spatial axes"),
    "batch": (lambda: look_address(np.ones((2, 1, 3, 3)), np.ones((1, 1, 2, 2))), r"2 images.*pass x\[0\]"),
    "values": (lambda: look_address(np.full((1, 3, 3), np.nan), np.ones((1, 1, 2, 2))), "x has values that are not finite"),
    "large": (lambda: look_address(np.full((1, 3, 3), 1e101), np.ones((1, 1, 2, 2))), "beyond 1e\\+100"),
    "complex": (lambda: look_address(np.ones((1, 3, 3), complex), np.ones((1, 1, 2, 2), complex)), "x is complex"),
    "text": (lambda: look_address("abc", np.ones((1, 1, 2, 2))), "x is a str; expected a NumPy array"),
    "mode": (lambda: look_address(X, K, padding=1, padding_mode="constant"), '"constant"'),
    "fits": (lambda: look_address(np.ones((1, 2, 2)), np.ones((1, 1, 3, 3))), "kernel"),
    "fold channels": (lambda: fold_address(np.ones((4, 1, 3, 3)), np.ones((1, 4, 3, 3))), "first has 4 output channels"),
    "fold taps": (lambda: fold_address(np.ones((1, 1, 3, 3)), np.ones((1, 1, 6, 6))), "second has 6 taps"),
    "fold sides": (lambda: fold_address(np.ones((1, 1, 3, 2)), np.ones((1, 1, 3, 3))), "rows, columns and sides are equal"),
    "fold meets": (lambda: fold_address(np.ones((2, 1, 3, 3)), np.ones((1, 3, 3, 3))), "first gives 2 channels"),
    "fold branches": (lambda: fold_address(np.ones((2, 1, 3, 3)), np.ones((1, 1, 3, 3)), arrangement="branches"), "expected equal ones"),
    "fold arrangement": (lambda: fold_address(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), arrangement="loop"), "one of row, branches"),
    "fold x": (lambda: fold_address(np.ones((1, 1, 3, 3)), np.ones((1, 1, 3, 3)), x=np.ones((1, 11, 11))), r"x has shape \(1, 11, 11\)"),
    "fold size": (lambda: fold_address(cl.Conv(np.ones((1, 1, 5, 5)), dilation=3), np.ones((1, 1, 2, 2))), "need an input of 14 x 14"),
    "fold modes": (lambda: fold_address(cl.Conv(np.ones((1, 1, 3, 3)), padding=1, padding_mode="reflect"), cl.Conv(np.ones((1, 1, 3, 3)), padding=1)), "modes are reflect and zeros"),
    "fold axes": (lambda: fold_address(np.ones((1, 1, 3)), np.ones((1, 1, 3))), "first is of 1 axes"),
    "fold transposed": (lambda: fold_address(cl.Conv(np.ones((1, 1, 3, 3)), transposed=True), np.ones((1, 1, 3, 3))), "first is transposed"),
    "cost channels": (lambda: cost_address(cl.ConvSpec(in_channels=4096, out_channels=1, size=(4, 4), kernel_size=2)), "at most 2048"),
    "cost batch": (lambda: cost_address(cl.ConvSpec(batch=2000, in_channels=4, out_channels=1, size=(4, 4), kernel_size=2)), "2000 images"),
    "cost transposed": (lambda: cost_address(cl.ConvSpec(in_channels=4, out_channels=1, size=(4, 4), kernel_size=2, transposed=True)), "transposed"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_words(name):
    make, words = REFUSED[name]
    with pytest.raises(ConvolithError, match=words):
        make()


def test_without_anywidget_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(figures, "find_spec", lambda name: None)
    with pytest.raises(
        ConvolithError, match=r"needs anywidget, which is not installed.*pip install 'convolith\[notebook\]'"
    ):
        cl.widget.look(X, K)


def test_the_widget_is_imported_when_it_is_shown():
    script = "import sys, convolith as cl; cl.widget.look; assert 'anywidget' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)  # noqa: S603 - our own script


@NEEDS_ANYWIDGET
def test_a_figure_holds_its_address_and_is_saved(tmp_path):
    figure = cl.widget.look(X, K, height=500)
    assert figure.address == look_address(X, K)
    assert figure.page == explorer_page().text
    assert "export{" in figure._esm
    assert repr(figure) == "Figure(A convolution layer, cell by cell; height=500)"
    saved = figure.to_html(tmp_path / "figure.html")
    assert (tmp_path / "figure.html").read_text() == saved
    assert escape(figure.address) in saved
    figure.address = fold_address(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)))
    assert "view=fold" in figure.to_html()
    assert "view=fold" in cl.widget.fold(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2)), relu=True).address
    with pytest.raises(Exception, match="read-only"):
        figure.page = "<script>"


def test_saved_pages_have_a_policy_and_one_copy_of_the_script():
    text = page("Title", "", [Section("One", frame=explorer_frame('#v=1&x="<', 'a "title"', 400))])
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert 'name="#v=1&amp;x=&quot;&lt;"' in text
    assert text.count("sandbox=") == 1
    assert "script-src 'none'" in page("Title", "", [Section("One", "words")])
    assert len(explorer_page().text) < 250_000
    assert "<!--" not in explorer_page().script


class Net(torch.nn.Module):
    def __init__(self, channels=2):
        super().__init__()
        self.a, self.b = torch.nn.Conv2d(1, channels, 3, padding=1), torch.nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        return self.b(self.a(x))


def folded(model, size=8):
    model = model.eval()
    return fold_section(model, cl.fold(model, torch.randn(1, 1, size, size), force=True).report)


def test_a_fold_that_fits_is_drawn_as_it_is():
    section = folded(Net())
    assert "scaled" not in section.prose
    assert "a and b, one after the other" in section.prose
    assert fields(section.frame.name)["fold.channels"] == "1x2x1"


def test_a_larger_fold_is_scaled_down_and_says_so():
    model = Net(16)
    section = folded(model)
    assert "scaled down to the first 2 of 16 hidden channels." in section.prose
    weights = [float(n) for n in fields(section.frame.name)["fold.k1"].split("_")]
    assert weights == model.a.weight.double()[:2].flatten().tolist()


def test_a_fold_that_cannot_be_drawn_says_why():
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, (1, 3)), torch.nn.Conv2d(2, 1, 1))
    section = folded(model)
    assert section.frame is None
    assert "No fold of this model can be drawn" in section.prose


def test_branches_are_drawn_as_branches():
    class Branches(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return self.a(x) + self.b(x)

    section = folded(Branches())
    assert fields(section.frame.name)["fold"] == "branches"
    assert "side by side" in section.prose


def test_the_layer_with_the_most_products_is_drawn():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.Conv2d(16, 8, 3, stride=2, bias=False))
    section = cost_section(cost(model, input_shape=(2, 3, 40, 30)))
    found = fields(section.frame.name)
    assert section.prose.startswith("0, the convolution with the most products")
    assert found["cost.size"] == "40x30"
    assert (found["cost.batch"], found["cost.bias"], found["cost.first"]) == ("2", "1", "1")
    one = cost_section(cost(model[1:], input_shape=(2, 16, 40, 30), input_gradient=True))
    assert fields(one.frame.name)["cost.first"] == "0"
    assert cost_section(cost(torch.nn.Sequential(torch.nn.Linear(3, 4)), input_shape=(2, 3))) is None
    deep = cost(torch.nn.Sequential(torch.nn.Conv3d(1, 1, 2)), input_shape=(1, 1, 4, 4, 4))
    assert "No convolution of this model can be drawn" in cost_section(deep).prose
