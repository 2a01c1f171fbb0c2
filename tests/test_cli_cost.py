"""`convolith cost` of models: tables, files, pages, and what it refuses."""

import csv
import json

import pytest

from tests.test_cli import refused, run

MODELS = """
import torch
from torch import nn

def small():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )

def grown():
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True),
        nn.Sequential(nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )

def shrunk():
    return small()[:-1]

def attended():
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False)

class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(10, 4), nn.Linear(4, 3)
    def forward(self, x, words, mask):
        return self.out((self.words(words) + x) * mask)

def tokens():
    return nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 3))

class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 1e9 else x @ x

class Unknown(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)

def broken():
    raise OSError("no weights here")
"""


@pytest.fixture
def models(tmp_path, monkeypatch):
    (tmp_path / "costed_models.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    return "costed_models"


def test_a_model_is_counted(models):
    shown = run("cost", f"{models}:small", "--input", "1,3,32,32").stdout
    assert "in evaluation" in shown
    assert "backward, input gradient" in shown
    data = json.loads(run("cost", f"{models}:small", "--input", "1,3,32,32", "--train", "--json").stdout)
    assert data["forward"]["macs"] == 16 * 27 * 1024 + 32 * 144 * 225 + 320
    assert data["backward"]["macs"] == 2 * data["forward"]["macs"] - 16 * 27 * 1024
    assert data["training"]
    assert not data["lower_bound"]
    assert "workspace" not in json.dumps(data)
    forward = json.loads(run("cost", f"{models}:small", "--input", "1,3,32,32", "--forward-only", "--json").stdout)
    assert forward["backward"]["macs"] == forward["memory"]["backward"]["bytes"] == 0
    whole = json.loads(run("cost", f"{models}:small", "--input", "1,3,32,32", "--input-gradient", "--json").stdout)
    assert whole["backward"]["macs"] == 2 * data["forward"]["macs"]
    rows = run("cost", f"{models}:small", "--input", "1,3,32,32", "--sort", "macs", "--top", 2, "--depth", 1).stdout
    assert rows.split("Modules")[1].split("\n")[2].startswith("Sequential")
    assert rows.split("Modules")[1].split("\n")[3].startswith("3 ")
    tokens = json.loads(run("cost", f"{models}:tokens", "--input", "2,5", "--dtype", "int64", "--json").stdout)
    assert tokens["forward"]["macs"] == 120


def test_files_and_pages_of_a_model(models, tmp_path):
    run("cost", f"{models}:small", "--input", "1,3,32,32", "--csv", "rows.csv", "--html", "page.html")
    rows = list(csv.DictReader((tmp_path / "rows.csv").read_text().splitlines()))
    assert [row["module"] for row in rows] == ["Sequential", "0", "1", "2", "3", "3.0", "3.1", "4", "5", "6"]
    assert int(rows[0]["macs"]) == sum(int(row["macs"]) for row in rows if row["kind"] in ("Conv2d", "Linear"))
    page = (tmp_path / "page.html").read_text()
    assert all(words in page for words in ("What Sequential costs", "Where the products are", "data:image/svg"))
    assert "expected a name that ends in .csv" in refused(
        "cost", f"{models}:small", "--input", "1,3,9,9", "--csv", "rows.txt"
    )


def test_operators_without_a_rule_are_named(models):
    shown = run("cost", f"{models}:Unknown", "--input", "4,4").stdout
    assert "LOWER BOUNDS" in shown
    result = run("cost", f"{models}:Unknown", "--input", "4,4", "--strict", code=1)
    assert "--strict: operators without a rule: _linalg_svd" in result.stderr
    run("cost", f"{models}:small", "--input", "1,3,9,9", "--strict")


def test_values_that_decide_need_an_example(models):
    assert "pass --run" in refused("cost", f"{models}:Branching", "--input", "4,4")
    data = json.loads(run("cost", f"{models}:Branching", "--input", "4,4", "--run", "--json").stdout)
    assert data["forward"]["macs"] == 64


def test_what_a_cost_refuses(models):
    for arguments, message in {
        (f"{models}:small",): "--input is missing",
        (f"{models}:small", "8,3,3,3", "--input", "1,3,8,8"): "K_SHAPE was given together with the model",
        (f"{models}:small", "--input", "1,4,8,8"): "module 0 refuses (1, 4, 8, 8)",
        (f"{models}:small", "--input", "1,3,8,8", "--bias"): "--bias was given, but costed_models:small is a model",
        (f"{models}:small", "--input", "1,3,8,8", "--sort", "size"): "'size' is not one of 'order', 'macs'",
        (f"{models}:small", "--input", "1,3,8,8", "--dtype", "int99"): "--dtype is int99",
        (f"{models}:broken", "--input", "1,3,8,8"): "whose call raised OSError: no weights here",
        (f"{models}:missing", "--input", "1,3,8,8"): "cannot be imported from here",
        ("1,3,8,8",): "K_SHAPE is missing for the input 1,3,8,8",
        ("1,3,8,8", "8,3,3,3", "--train"): "--train was given, but 1,3,8,8 is a layer",
        ("1,3,8,8", "8,3,3,3", "--input", "1,3,8,8"): "--input was given, but 1,3,8,8 is a layer",
    }.items():
        assert message in refused("cost", *arguments), arguments


@pytest.mark.slow
def test_steps_budgets_and_baselines(models, tmp_path):
    shown = run("cost", f"{models}:small", "--input", "4,3,32,32", "--peak", "adam", "--fits", "50M", "--json").stdout
    data = json.loads(shown)
    assert data["peak"]["bytes"] > data["memory"]["backward"]["saved_activations"]
    assert data["largest_batch"] > 4
    assert (
        "Most memory of a training step"
        in run("cost", f"{models}:small", "--input", "1,3,32,32", "--peak", "sgd").stdout
    )
    scaled = run("cost", f"{models}:small", "--input", "1,3,32,32", "--scale", "channels=2", "--json").stdout
    assert 2 < json.loads(scaled)["scaled"]["factors"]["forward macs"] < 4
    assert "What if: size x 2" in run("cost", f"{models}:small", "--input", "1,3,32,32", "--scale", "size=2").stdout
    law = run("cost", f"{models}:small", "--input", "1,3,32,32", "--law", "--json").stdout
    assert "H*N*W" in json.loads(law)["law"]["forward macs"]
    assert "How it grows" in run("cost", f"{models}:small", "--input", "1,3,32,32", "--law").stdout
    run("cost", f"{models}:small", "--input", "1,3,32,32", "--max-macs", "5G", "--max-parameters", "1M")
    result = run("cost", f"{models}:small", "--input", "1,3,32,32", "--max-macs", "1M", code=1)
    assert "Over budget" in result.stdout
    assert "47.9%" in result.stdout
    result = run("cost", f"{models}:small", "--input", "1,3,32,32", "--peak", "sgd", "--max-peak-mb", "0.1", code=1)
    assert "peak, bytes" in result.stdout
    run("cost", f"{models}:small", "--input", "1,3,32,32", "--save-baseline", "base.json")
    same = run("cost", f"{models}:small", "--input", "1,3,32,32", "--baseline", "base.json").stdout
    assert "Changed" not in same
    grown = run("cost", f"{models}:grown", "--input", "1,3,32,32", "--baseline", "base.json", code=1).stdout
    assert "Changed since the baseline" in grown
    assert "+177.8%" in grown  # 25 taps for 9
    smaller = run("cost", f"{models}:shrunk", "--input", "1,3,32,32", "--baseline", "base.json").stdout
    assert "Forward macs of modules that changed" in smaller


def test_what_budgets_refuse(models, tmp_path):
    call = ("cost", f"{models}:small", "--input", "1,3,32,32")
    run(*call, "--save-baseline", "base.json")
    text = (tmp_path / "base.json").read_text()
    (tmp_path / "old.json").write_text(text.replace('"version": 2', '"version": 1'))
    (tmp_path / "cut.json").write_text(text[:100])
    (tmp_path / "text.json").write_text(text.replace('"parameters": 5434', '"parameters": "many"'))
    (tmp_path / "empty.json").write_text(json.dumps(json.loads(text) | {"totals": {}}))
    for options, message in {
        ("--baseline", "old.json"): "a convolith cost baseline of version 1; expected a convolith cost baseline of 2",
        ("--baseline", "cut.json"): "cut.json, which cannot be read as one",
        ("--baseline", "none.json"): "none.json, which cannot be read as one",
        ("--baseline", "text.json"): "text.json, which is damaged",
        ("--baseline", "empty.json"): "has no parameters",
        ("--baseline", "base.json", "--convention", "effective"): "count both in the same way",
        (
            "--baseline",
            "base.json",
            "--forward-only",
        ): "the baseline has passes forward and backward, but this has forward",
        ("--baseline", "base.json", "--train"): "the baseline has mode evaluation",
        ("--baseline", "base.json", "--peak", "sgd"): "the baseline has peak none, but this has sgd",
        ("--max-peak-mb", "0"): "--max-peak-mb was given without --peak",
        ("--fits", "0"): "--fits was given without --peak",
        ("--run", "--peak", "sgd"): "--peak was given together with --run",
        ("--run", "--law"): "--law was given together with --run",
        ("--run", "--scale", "size=2"): "--scale was given together with --run",
        ("--scale", "channels=nan"): "channels is scaled by nan; expected a finite number",
        ("--scale", "size=inf"): "size is scaled by inf; expected a finite number",
        ("--scale", "channels=-1"): "channels is scaled by -1.0; expected 0 or more",
        ("--law", "width"): "--law is 'width'; expected some of batch",
        ("--max-peak-mb", "3"): "--max-peak-mb was given without --peak",
        ("--fits", "3G"): "--fits was given without --peak",
        ("--verify",): "--verify was given without --peak",
        ("--peak", "lion"): "'lion' is not one of 'sgd', 'momentum', 'adam'",
        ("--max-macs", "5Q"): "is not a number such as 5G",
        ("--save-baseline", "base.txt"): "expected a name that ends in .json",
    }.items():
        assert message in refused(*call, *options), options
    assert "--max-macs was given, but 1,3,8,8 is a layer" in refused("cost", "1,3,8,8", "8,3,3,3", "--max-macs", "1")
    run("cost", f"{models}:tokens", "--input", "2,5:int64", "--save-baseline", "words.json")
    assert "the baseline has inputs [[2, 5]]" in refused(*call, "--baseline", "words.json")


def test_inputs_of_several_kinds(models):
    inputs = ("--input", "2,5,4", "--input", "2,5:int64", "--input", "5,1:bool")
    data = json.loads(run("cost", f"{models}:Both", *inputs, "--json").stdout)
    assert data["forward"]["macs"] == 2 * 5 * 4 * 3
    assert data["memory"]["forward"]["input"] == 4 * 40 + 8 * 10 + 5
    assert json.loads(run("cost", f"{models}:Both", *inputs, "--run", "--json").stdout)["forward"] == data["forward"]
    assert "--input has dtype int7" in refused("cost", f"{models}:tokens", "--input", "2:int7", "--run")
    single = json.loads(run("cost", f"{models}:tokens", "--input", "7:int64", "--json").stdout)
    assert single["forward"]["macs"] == 7 * 12


def test_short_cuts_hide_no_operator(models):
    call = ("cost", f"{models}:attended", "--input", "2,5,16")
    alone = json.loads(run(*call, "--forward-only", "--json").stdout)
    both = json.loads(run(*call, "--json").stdout)
    assert alone["forward"]["macs"] == both["forward"]["macs"] > 0
    assert not alone["lower_bound"]
    run(*call, "--forward-only", "--max-macs", "1", code=1)


def test_a_budget_says_that_it_saw_a_lower_bound(models):
    result = run("cost", f"{models}:Unknown", "--input", "3,3", "--max-macs", "1")
    assert "Warning: operators without a rule: _linalg_svd; the totals are lower bounds; what is" in result.stderr
    assert "--strict: operators" in run("cost", f"{models}:Unknown", "--input", "3,3", "--strict", code=1).stderr


@pytest.mark.slow
def test_the_page_has_everything_that_was_asked(models, tmp_path):
    call = ("cost", f"{models}:small", "--input", "1,3,32,32", "--html", "page.html")
    run(*call, "--peak", "sgd", "--law", "--scale", "channels=2", "--fits", "1G", "--max-macs", "1", code=1)
    text = (tmp_path / "page.html").read_text()
    parts = dict(part.split("</h2>", 1) for part in text.split("<h2>")[1:])
    assert "Most memory of a training step" in parts["Memory"]
    for told in ("How it grows", "What if: channels x 2", "The largest batch", "Over budget"):
        assert told in parts["Asked for"]
    assert "BatchNorm2d" in parts["Modules"]
    assert "Not counted" not in parts


EXITS = {
    "on import": ("import sys\nsys.exit(0)\n", "cannot be imported from here (SystemExit: 0)"),
    "without a code": ("raise SystemExit\n", "cannot be imported from here (SystemExit"),
    "in the factory": ("import sys\ndef made():\n    sys.exit()\n", "whose call raised SystemExit"),
}


@pytest.mark.parametrize("command", ["cost", "fold"])
@pytest.mark.parametrize(("code", "message"), EXITS.values(), ids=EXITS)
def test_a_factory_that_exits_is_no_success(command, code, message, tmp_path, monkeypatch, request):
    name = "exits_" + "".join(c for c in request.node.name if c.isalnum())
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    result = run(command, f"{name}:made", "--input", "1,3,8,8", code=2)
    assert message in result.stderr
    assert "Traceback" not in result.output


def test_a_model_that_exits_is_no_success(tmp_path, monkeypatch):
    code = "import sys\nfrom torch import nn\nclass Ends(nn.Module):\n    def forward(self, x):\n        sys.exit(0)\n"
    (tmp_path / "ending_models.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    result = run("cost", "ending_models:Ends", "--input", "1,3,8,8", code=2)
    assert "calls sys.exit(0); take the call out" in result.stderr
