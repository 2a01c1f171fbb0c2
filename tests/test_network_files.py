"""Optimised networks in files, on the command line, and what is refused."""

import io
import json
import pathlib
import zipfile

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import convolith as cl
from bench.networks import NETWORKS
from convolith.cli import main
from convolith.network.graph_file import NotWritten
from convolith.network.saved import save


def small():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2),
    ]
    return nn.Sequential(*layers, nn.SiLU()).eval()


@pytest.fixture
def images():
    return torch.randn(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))


def test_a_saved_model_computes_the_same_at_every_size(tmp_path, images):
    model = small()
    cl.optimize(model, images, measure=False).save(tmp_path / "net.zip")
    loaded = cl.network.load(tmp_path / "net.zip")
    for x in (images, torch.randn(3, 3, 20, 24), torch.randn(1, 3, 33, 40)):
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_loaded_model_takes_the_engines_that_were_chosen(tmp_path, images):
    found = cl.optimize(small(), images, measure=False)
    found.save(tmp_path / "net.zip")
    loaded = cl.network.load(tmp_path / "net.zip")
    loaded(images)
    assert loaded.choices() == found.model.choices()
    with zipfile.ZipFile(tmp_path / "net.zip") as archive:
        assert json.loads(archive.read("choices.json"))["format"] == 1
        assert not [name for name in archive.namelist() if name.endswith(".pkl")]


def test_a_model_is_saved_to_an_open_file_and_replaces_a_complete_one(tmp_path, images):
    found = cl.optimize(small(), images, measure=False)
    path = tmp_path / "net.zip"
    path.write_bytes(b"before")
    with path.open("wb") as file:
        found.save(file)
    assert torch.equal(cl.network.load(path)(images), found.model.plain(images))


def test_files_that_are_damaged_or_of_another_version_are_refused(tmp_path, images):
    path = tmp_path / "net.zip"
    with pytest.raises(cl.ConvolithError, match="does not exist"):
        cl.network.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(cl.ConvolithError, match="damaged or no optimised model"):
        cl.network.load(path)
    cl.optimize(small(), images, measure=False).save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    choices, weights = json.loads(parts["choices.json"]), parts["weights.pt"]
    graph = parts["graph.json"].decode()
    for changes, words in (
        ({"choices.json": json.dumps(choices | {"format": 99})}, "a file of format 99"),
        ({"weights.pt": weights[: len(weights) // 2]}, "cannot read"),
        ({"graph.json": graph.replace("aten::silu_", "aten::soon")}, "calls aten::soon, which torch"),
        ({"graph.json": graph.replace("aten::silu_", "posix:system")}, "calls posix:system, which no saved model"),
        ({"graph.json": graph.replace("aten::silu_", "torch:load")}, "calls torch:load, which no saved model"),
        ({"graph.json": graph[:100]}, "cannot read"),
        ({"weights.pt": None}, "has no weights.pt"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in (parts | changes).items():
                if content is not None:
                    archive.writestr(name, content)
        with pytest.raises(cl.ConvolithError, match=words):
            cl.network.load(path)


class Several(nn.Module):
    """Containers of results, weights that are used twice, a constant, sizes in the arithmetic, names of all kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.full((1, 3, 1, 1), 0.5))
        self.register_buffer("shift", torch.full((1, 3, 1, 1), 0.25), persistent=False)
        self.constant = torch.arange(3.0).view(1, 3, 1, 1)

    def forward(self, x, z):
        y = torch.relu(self.first(x)) * self.scale + self.shift
        y = self.second(y) + self.constant
        half = y[..., : x.shape[-1] // 2, 1:].to(memory_format=torch.contiguous_format)
        return {"whole": y, "others": [half, (y.mean((2, 3)).to(torch.float64), z.flatten(1) / y.shape[2])]}


@pytest.mark.parametrize("whole", [True, False])
def test_containers_shared_weights_and_constants_are_saved(whole, tmp_path, monkeypatch):
    if not whole:  # torch's own form of a graph, for what ours does not hold, and of earlier versions
        monkeypatch.setattr("convolith.network.graph_file.written", refuse_to_write)
    model = Several().eval()
    inputs = torch.randn(1, 3, 20, 24), torch.randn(1, 3, 5)
    found = cl.optimize(model, inputs, measure=False)
    found.save(tmp_path / "net.zip")
    with zipfile.ZipFile(tmp_path / "net.zip") as archive:
        assert ("graph.json" in archive.namelist()) == whole
    if not whole:
        with pytest.raises(cl.ConvolithError, match="pass trusted=True"):
            cl.network.load(tmp_path / "net.zip")
    loaded = cl.network.load(tmp_path / "net.zip", trusted=not whole)
    for given in (inputs, (torch.randn(3, 3, 33, 40), torch.randn(3, 3, 5))):
        for _ in range(2):
            with torch.no_grad():
                torch.testing.assert_close(loaded(*given), model(*given), rtol=1e-4, atol=1e-5)
    assert set(loaded.plain.state_dict()) == set(found.model.plain.state_dict())


def rewritten(path, change):
    """Write a saved network anew with other parts."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


class Writes:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def test_a_file_that_can_hold_code_is_read_only_if_it_is_trusted(tmp_path, images, monkeypatch):
    path, ran = tmp_path / "net.zip", tmp_path / "ran"
    monkeypatch.setattr("convolith.network.graph_file.written", refuse_to_write)
    cl.optimize(small(), images, measure=False).save(path)

    def poison(parts):
        content = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(parts["model.pt2"])) as old, zipfile.ZipFile(content, "w") as new:
            for name in old.namelist():
                inner = io.BytesIO()
                torch.save(Writes(ran), inner)
                new.writestr(name, inner.getvalue() if "sample_inputs" in name else old.read(name))
        parts["model.pt2"] = content.getvalue()

    rewritten(path, poison)
    with pytest.raises(cl.ConvolithError, match=r"torch.export.load runs code .* pass trusted=True"):
        cl.network.load(path)
    assert not ran.exists()


EVIL = [
    (["call_function", "a", "_operator:call", [1], {"dict": {}}], "calls _operator:call"),
    (["call_function", "a", "_operator:attrgetter", ["__class__"], {"dict": {}}], "calls _operator:attrgetter"),
    (["call_function", "a", "math:__loader__", [], {"dict": {}}], "calls math:__loader__"),
    (["call_function", "a", "load_library::__call__.__call__", ["x.so"], {"dict": {}}], "calls load_library"),
    (["call_function", "a", "import_module::__call__.__call__", ["this"], {"dict": {}}], "calls import_module"),
    (["call_function", "a", "aten::from_file", ["/etc/hostname"], {"dict": {}}], "calls aten::from_file"),
    (["call_function", "a", "aten::relu", [{"node": "input_1"}], {"dict": {"x=print(1), y": 1}}], "no saved model has"),
    (["call_function", "a", "aten::relu", [{"dtype": "load"}], {"dict": {}}], "'load' as a dtype"),
    (["call_method", "a", "numpy", [{"node": "input_1"}], {"dict": {}}], "'call_method'"),
    (["call_module", "a", "0", [{"node": "input_1"}], {"dict": {}}], "'call_module'"),
    (["get_attr", "a", "__init__.__globals__", [], {"dict": {}}], "no saved model has"),
    (["get_attr", "a", 'x", 0) or print("', [], {"dict": {}}], "no saved model has"),
    (["placeholder", "a", "a=print(1)", [], {"dict": {}}], "'a=print"),
    (["placeholder", "a=print(1)", "a", [], {"dict": {}}], "'a=print"),
]


@pytest.mark.parametrize(("node", "words"), EVIL)
def test_a_graph_calls_only_what_computes(node, words, tmp_path, images):
    path = tmp_path / "net.zip"
    cl.optimize(small(), images, measure=False).save(path)

    def insert(parts):
        graph = json.loads(parts["graph.json"])
        graph["nodes"].insert(-1, node)
        parts["graph.json"] = json.dumps(graph)

    rewritten(path, insert)
    with pytest.raises(cl.ConvolithError, match=words):
        cl.network.load(path)


@pytest.mark.parametrize(
    ("kind", "context"),
    [
        ("collections.defaultdict", '{"default_factory_module": "this", "default_factory_name": "s"}'),
        ("builtins.dict", '[{"\\u005f_enum__": true, "fqn": "this:s", "name": "a"}]'),
    ],
)
def test_containers_of_a_graph_import_nothing(kind, context, tmp_path, images):
    path = tmp_path / "net.zip"
    cl.optimize(small(), images, measure=False).save(path)

    def change(parts):
        graph = json.loads(parts["graph.json"])
        leaf = {"type": None, "context": None, "children_spec": []}
        graph["trees"][1] = json.dumps([1, {"type": kind, "context": context, "children_spec": [leaf]}])
        parts["graph.json"] = json.dumps(graph)

    rewritten(path, change)
    with pytest.raises(cl.ConvolithError, match="a container that names a module"):
        cl.network.load(path)


def refuse_to_write(_):
    raise NotWritten("by the test")


@pytest.fixture
def always_faster(monkeypatch):
    """Let programs be faster than torch, whatever else the machine does."""
    monkeypatch.setattr("convolith.network.optimization._seconds", lambda *_: (1.0, 1.0, 0.5))


@pytest.mark.usefixtures("always_faster")
def test_choices_are_remembered(images, monkeypatch):
    first = cl.optimize(small(), images)
    monkeypatch.setattr("convolith.network.optimization.choose_fastest", lambda *_: pytest.fail("raced again"))
    again = cl.optimize(small(), images)
    assert [s.engine for s in again.report.steps] == [s.engine for s in first.report.steps]


def run(*arguments):
    return CliRunner().invoke(main, ["optimize", *map(str, arguments)])


def test_the_command_writes_a_model_and_a_page(tmp_path):
    name, shape = "bench.networks.ecb:ecbsr", NETWORKS["ecbsr"].input_shape
    size = ",".join(map(str, shape))
    result = run(name, "--input", size, "-o", tmp_path / "net.zip", "--html", tmp_path / "net.html", "--estimate")
    assert result.exit_code == 0, result.output
    assert "steps of generated code" in result.stdout
    x = torch.randn(shape)
    with torch.no_grad():
        expected = NETWORKS["ecbsr"].factory()(x)
    torch.testing.assert_close(cl.network.load(tmp_path / "net.zip")(x), expected, rtol=1e-4, atol=1e-4)
    page = (tmp_path / "net.html").read_text()
    assert "winograd" in page or "direct" in page
    listed = json.loads(run(name, "--input", size, "--json", "--threads", 1, "--budget-seconds", 1).stdout)
    assert {"steps", "islands", "error", "seconds_after"} <= set(listed)


@pytest.mark.usefixtures("always_faster")
def test_a_page_shows_where_the_time_is(tmp_path):
    size = ",".join(map(str, NETWORKS["ecbsr"].input_shape))
    result = run("bench.networks.ecb:ecbsr", "--input", size, "--html", tmp_path / "net.html", "--budget-seconds", 1)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "net.html").read_text()
    assert "Where the time is" in page
    assert "svg" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing:here", "--input", "1,3,8,8"), "cannot be imported"),
        (("bench.networks.ecb:ecbsr", "--input", "1,1,0,8"), "expected positive numbers"),
        (("bench.networks.ecb:ecbsr", "--input", "1,3,8,8"), "does not take example_input"),
        (("bench.networks.ecb:ecbsr", "--input", "1,1,8,8", "-o", "x.txt"), "expected a name that ends in .zip"),
        (("bench.networks.ecb:ecbsr", "--input", "1,1,8,8", "--budget-seconds", "0"), "budget-seconds"),
        (("bench.networks.ecb:ecbsr", "--input", "1,1,8,8", "--threads", "0"), "threads"),
    ],
)
def test_wrong_use_of_the_command_is_named(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_a_quantised_model_is_refused(images):
    class Linear(nn.Linear):
        pass

    Linear.__module__ = "torch.ao.nn.quantized.modules.linear"
    model = nn.Sequential(nn.Flatten(), Linear(3 * 20 * 24, 4)).eval()
    with pytest.raises(cl.ConvolithError, match="fold the float model"):
        cl.optimize(model, images)


@pytest.mark.parametrize("example", ["image", torch.ones(3, dtype=torch.int64), [], torch.ones(0, 3, 8, 8)])
def test_examples_that_are_no_images_are_refused(example):
    with pytest.raises(cl.ConvolithError, match="example_input"):
        cl.optimize(small(), example)


def test_an_example_of_another_rank_is_refused():
    with pytest.raises(cl.ConvolithError, match="does not take example_input"):
        cl.optimize(small(), torch.ones(2, 3))


def test_mixed_dtypes_are_computed_by_torch_where_they_differ(images):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3).double()

        def forward(self, x):
            return self.b(torch.relu(self.a(x)).double()).float() * 2

    model = Mixed().eval()
    found = cl.optimize(model, images, measure=False)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(found.model(images), model(images), rtol=1e-4, atol=1e-5)


def test_half_precision_goes_to_torch():
    model = small().to(torch.bfloat16)
    x = torch.randn(1, 3, 20, 24).to(torch.bfloat16)
    found = cl.optimize(model, x, measure=False)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(found.model(x), model(x), rtol=0.05, atol=0.05)


def test_a_budget_that_is_too_small_still_gives_a_right_model(images):
    model = small()
    found = cl.optimize(model, images, budget_seconds=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(found.model(images), model(images), rtol=1e-4, atol=1e-5)


def test_several_inputs_and_an_argument_that_is_left_out():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(2, 4, 3)

        def forward(self, x, y, scale=2.0):
            return scale * torch.relu(self.a(x) + self.b(y))

    model = Two().eval()
    x, y = torch.randn(2, 3, 12, 13), torch.randn(2, 2, 12, 13)
    found = cl.optimize(model, (x, y), measure=False)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(found.model(x, y), model(x, y), rtol=1e-4, atol=1e-5)


def test_code_that_looks_at_sizes_is_saved_for_one_size(tmp_path):
    class Evened(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)

        def forward(self, x):
            y = self.a(x)
            return self.b(nn.functional.pad(y, (0, 2), value=1.0) if y.shape[3] % 2 else y)

    model, x = Evened().eval(), torch.randn(1, 3, 15, 15)
    cl.optimize(model, x, measure=False).save(tmp_path / "net.zip")
    loaded = cl.network.load(tmp_path / "net.zip")
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(cl.ConvolithError, match="saved for .*15, 15.* alone, since its code looks at sizes"):
        loaded(torch.randn(1, 3, 15, 16))
    loaded.refresh()
    again = io.BytesIO()
    save(loaded, again)
