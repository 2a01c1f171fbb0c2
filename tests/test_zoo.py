"""The zoo bench's own checks, on small modules; the models of other packages run in the bench."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import convolith as cl
from bench import zoo
from bench.networks.authors import AUTHORS
from bench.networks.randomise import randomised
from bench.zoo import checks
from bench.zoo.models import MODELS, Model
from bench.zoo.row import measured, shape_at
from bench.zoo.verdict import failures

X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Calls(nn.Module):
    """A convolution and a norm, called by a function of the two and the input."""

    def __init__(self, call) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.wide = nn.BatchNorm2d(8)
        self.register_buffer("scale", torch.rand(1, 4, 1, 1))
        self.call = call

    def forward(self, x):
        return self.call(self, x)


@pytest.mark.parametrize(
    ("call", "behind"),
    [
        (lambda m, x: m.norm(m.conv(x)), 1),
        (lambda m, x: m.norm(nn.functional.dropout(m.conv(x), 0.5, m.training)), 1),
        (lambda m, x: m.norm(m.conv(x).flatten(2).unsqueeze(-1)), 1),
        (lambda m, x: m.norm(m.conv(x).relu()), 0),
        (lambda m, x: m.norm(m.conv(x).relu_()), 0),
        (lambda m, x: m.wide(torch.cat([m.conv(x), m.conv(x)], 1)), 1),
        (lambda m, x: m.wide(torch.cat([m.conv(x), m.conv(x).relu()], 1)), 0),
        (lambda m, x: m.conv(x) * m.scale + m.scale, 1),
        (lambda m, x: m.conv(x) * m.scale, 0),
        (lambda m, x: m.conv(x).relu() * m.scale + m.scale, 0),
        (lambda m, x: (y := m.conv(x)) * y.mean((2, 3), keepdim=True), 0),
    ],
)
def test_norms_behind_convolutions_are_counted(call, behind):
    assert len(checks.watched(Calls(call).eval(), X).behind) == behind


def test_norms_that_stay_are_named():
    """By their module; those called as functions by entries of their own."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    watch = checks.watched(model, X)
    assert watch.behind == ["1"]
    for module, node, unnamed in (("1", "_1", []), ("0", "batch_norm", ["1"])):
        report = SimpleNamespace(skipped=[SimpleNamespace(module=module, node=node, kind="norm")])
        assert checks.unnamed_norms(watch.behind, report) == unnamed
    assert checks.unnamed_norms(["", ""], report) == [""]
    report.skipped[0].kind, report.skipped[0].node = "kept", "relu"
    assert checks.unnamed_norms(["", ""], report) == ["", ""]


def test_norms_that_only_folding_puts_behind_a_convolution_are_no_miss():
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4)).eval()
    straight = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.BatchNorm2d(4)).eval()
    before, after = (checks.watched(model, X) for model in (pooled, straight))
    assert (before.behind, after.behind) == ([], ["2"])
    assert checks.norms_left(before, after) == []
    assert checks.norms_left(after, after) == ["2"]


def test_plain_convolutions_are_modules_and_calls():
    model = Calls(lambda m, x: nn.functional.conv2d(m.conv(x), torch.ones(4, 1, 3, 3), groups=4)).eval()
    assert checks.plain_layers(model, X) == {"modules": 1, "calls": 2}
    assert checks.plain_layers(cl.nn.convert(model), X) == {"modules": 0, "calls": 1}


def test_gradients_of_a_converted_model(monkeypatch):
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Conv2d(4, 2, 1)))
    x = torch.cat([X, X + 1])
    assert checks.gradient_error(model, x) < 1e-12

    def wrong(converted):
        converted[3].weight.data *= 1 + 1e-6
        return converted

    monkeypatch.setattr(cl.nn, "convert", wrong)
    assert checks.gradient_error(model, x) > 1e-8


def test_outputs_that_differ_are_seen():
    assert checks.difference([X], [X.clone()]) == 0
    assert checks.difference([X], [X * 1.5]) == pytest.approx(0.5)
    assert checks.difference([X], [X[:, :2]]) == float("inf")
    assert checks.difference([X], [X * float("nan")]) != 0


def small(norm=nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU())


def test_a_row_from_end_to_end():
    *_, row = measured(Model("torch", "small", small, (1, 3, 40, 40), convolutions=1), None)
    assert row["stage"] == "done"
    assert (row["norms behind"], row["norms after"], row["convolutions after"]) == (1, 0, 1)
    assert set(row["errors"]) == {"batch 3", "batch 2, other size"}
    assert not failures(row)
    assert failures(row | {"published": 2})


def test_a_row_that_fold_refuses_is_trained_all_the_same(monkeypatch):
    def refuse(*args, **options):
        raise cl.ConvolithError("model cannot be captured")

    monkeypatch.setattr(cl, "fold", refuse)
    *_, row = measured(Model("torch", "small", small, (1, 3, 40, 40)), None)
    assert row["stage"] == "done"
    assert row["gradient error"] < 1e-12
    assert failures(row) == [f"fold problem: {row['fold problem']}"]
    assert "model cannot be captured" in row["fold problem"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"norms after": 2, "norms unnamed": ["a.bn"]}, "1 norms"),
        ({"errors": {"batch 3": 1e-3}}, "outputs differ"),
        ({"errors": {"batch 3": None}}, "outputs differ"),
        ({"plain": {"modules": 0, "calls": 3}}, "3 plain"),
        ({"gradient error": 1e-9}, "gradients"),
        ({"gradient error": None}, "gradients"),
        ({"fold seconds": 15.5}, "15.5 s"),
        ({"problem": "stopped after 3 s in fold"}, "stopped"),
    ],
)
def test_each_target_that_is_missed_is_named(change, word):
    row = {"stage": "done", "norms after": 1, "norms unnamed": [], "errors": {"batch 3": 1e-7}, "gradient error": 0.0}
    assert not failures(row)
    assert word in " ".join(failures(row | change))


@pytest.mark.slow
def test_one_process_for_each_model():
    """A package that is missing, and a process that ends, are rows."""
    absent = Model("no_such_package", "m", small)
    assert zoo.run(absent, 60, None)["stage"] == "missing"
    row = zoo.run(Model("torch", "not in the table", small), 60, None)
    assert "the process ended with 1" in row["problem"]
    row = zoo.run(Model("torch", "not in the table", small), 0.01, None)
    assert "stopped after 0.01 s" in row["problem"]


def test_runs_of_two_environments_are_one_table(tmp_path):
    held = {"package": "a", "model": "m", "stage": "done", "fold seconds": 3.0, "call seconds": 0.1, "norms behind": 4}
    first = [held, {"package": "b", "model": "n", "stage": "missing"}]
    second = [{"package": "a", "model": "m", "stage": "missing"}, {**held, "package": "b", "model": "n"}]
    paths = []
    for name, rows in {"one": first, "two": second}.items():
        paths.append(str(tmp_path / name))
        (tmp_path / name).write_text(json.dumps({"details": rows}))
    result = CliRunner().invoke(zoo.zoo, ["--merge", *paths], catch_exceptions=False)
    assert "models: 2 of 2 packages" in result.output
    assert "in calls of the model: 10.0 in the median" in result.output
    assert "missing" not in result.output
    assert "missing: b" in CliRunner().invoke(zoo.zoo, ["--merge", paths[0]]).output
    assert CliRunner().invoke(zoo.zoo, ["--only", "none/such"]).exit_code == 2
    assert CliRunner().invoke(zoo.zoo, [paths[0]]).exit_code == 2


def test_the_table_of_models():
    titles = [model.title for model in MODELS]
    assert len(set(titles)) == len(titles) >= 60
    assert len({model.package for model in MODELS}) >= 4
    volume = Model("torch", "volume", small, (1, 3, 64, 64, 64), smallest=32)
    assert shape_at(volume, 16) == (1, 3, 32, 32, 32)
    assert shape_at(volume._replace(sizes=False), 16) == volume.shape
    assert shape_at(Model("torch", "audio", small, (1, 16000), smallest=4000), 4000) == (1, 4000)


@pytest.mark.parametrize("name", AUTHORS)
def test_authors_networks_have_the_published_convolutions(name):
    network = AUTHORS[name]
    x = torch.randn(*network.input_shape[:2], 32, 32, generator=torch.Generator().manual_seed(0))
    model = network.factory()
    assert checks.watched(model, x).operators["convolution"] == network.trained_convolutions
    listed = {m.name: m.convolutions for m in MODELS if m.package == "authors"}
    assert listed[name] == network.deployed_convolutions
    with torch.no_grad():
        assert torch.isfinite(model(x)).all()


def test_factories_are_lazy():
    """The table is read without the packages."""
    assert all(isinstance(model.factory, partial) for model in MODELS)
