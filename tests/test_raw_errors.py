"""What once ended in a raw error or ended the interpreter: each is computed, or refused in plain words."""

import compileall
import gzip
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import types
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import convolith as cl
from convolith import Conv, ConvolithError, storage
from convolith import __main__ as start
from convolith.cli import main
from convolith.cli.io import expansion
from convolith.jit import cache

x, k = np.ones((1, 3, 8, 8)), np.ones((2, 3, 3, 3))


def unaligned(array: np.ndarray, offset: int = 8) -> np.ndarray:
    """A copy whose memory begins so many bytes behind a multiple of 64."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    found = memory[begin : begin + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


UNALIGNED = """
import sys
import numpy as np, torch
import convolith as cl
from tests.test_raw_errors import unaligned
for dtype in ("complex128", "complex64", "float64", "float32", "int16"):
    for offset in (1, 8):
        x, k, b = (np.ones(s, dtype) for s in ((1, 3, 9, 9), (3, 3, 3, 3), (3,)))
        expected, b = cl.correlate(x, k), b if dtype != "int16" else b.astype("int64")
        X, K, B = (unaligned(a, offset) for a in (x, k, b))
        for as_ in (lambda a: a, torch.from_numpy):
            for y in (cl.correlate(as_(X), as_(K), as_(B)), cl.correlate(as_(X), cl.Conv(as_(K), as_(B)))):
                assert np.array_equal(np.asarray(y), expected + 1), (dtype, offset)
        plan = cl.plan(cl.ConvSpec.of(x, k, b))
        assert np.array_equal(plan.bind(K, B)(X), expected + 1)
        out = unaligned(np.zeros_like(expected), offset)
        if out.ctypes.data % out.itemsize:
            try:
                plan(x, k, b, out=out)
            except cl.ConvolithError as refusal:
                assert "not aligned" in str(refusal)
            else:
                raise AssertionError("written to memory that is not aligned")
image = unaligned(np.ones((20, 20)), 1)
assert cl.filter_image(image, unaligned(np.ones((3, 3)), 1)).max().round(9) == 9
first = cl.Conv(unaligned(np.ones((1, 1, 3, 3)), 1), unaligned(np.zeros(1), 1))
assert cl.compose(first, first)(image[None, None]).max().round(9) == 81
assert cl.decompose(first).parts
noise = unaligned(np.random.default_rng(0).normal(size=(1, 20, 20)), 1)
y = unaligned(cl.correlate(noise, first), 1)
weights = unaligned(np.ones((18, 18)), 1)
assert abs(cl.fit(noise, y, kernel_size=3, weights=weights).kernel - 1).max() < 1e-9
cl.Gram((3, 3)).update(noise, y, weights=weights).solve()
print("done")
"""


@pytest.mark.slow
def test_memory_that_is_not_aligned():
    ended = subprocess.run([sys.executable, "-c", UNALIGNED], capture_output=True, text=True, check=False)  # noqa: S603 - our own script
    assert ended.stdout.strip() == "done", ended.stderr


def test_unaligned_complex_tensors_have_no_gradient():
    tensor = torch.from_numpy(unaligned(np.ones((1, 1, 4), complex))).requires_grad_()
    with pytest.raises(ConvolithError, match="x is a complex tensor whose memory is not aligned"):
        cl.correlate(tensor, torch.ones(1, 1, 2, dtype=torch.complex128))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.complex64])
def test_double_accuracy_of_a_kernel_of_low_rank(dtype):
    image, kernel = torch.ones(1, 1, 40, 40, dtype=dtype), torch.ones(1, 1, 5, 5, dtype=dtype)
    assert torch.equal(cl.correlate(image, kernel, accuracy="double"), torch.full((1, 1, 36, 36), 25.0, dtype=dtype))


@pytest.mark.parametrize("shape", [(), (3,), (3, 3)])
@pytest.mark.parametrize("call", [cl.convolve, lambda *a: cl.correlate(*a, flip=True)])
def test_kernels_of_too_few_axes_are_not_flipped(call, shape):
    with pytest.raises(ConvolithError, match=r"k has shape .*; expected \(out_channels"):
        call(x, np.ones(shape))


def test_a_kernel_of_one_element_has_any_stride():
    kernel = torch.ones(8).as_strided((1, 1, 1, 1), (4, 3, 7, 2))
    for _ in range(2):
        assert torch.equal(cl.correlate(torch.ones(1, 1, 4, 4), kernel), torch.ones(1, 1, 4, 4))


def test_lazy_conjugates_at_every_call():
    kernel, image = torch.randn(1, 1, 3, 3, dtype=torch.complex64), torch.ones(1, 1, 8, 8, dtype=torch.int32)
    expected = cl.correlate(image, kernel.conj().resolve_conj())
    for _ in range(3):
        assert torch.equal(cl.correlate(image, kernel.conj()), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_layouts_are_looked_at_at_every_call():
    image, kernel = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3)
    bound = cl.plan(cl.ConvSpec.of(image, kernel)).bind(kernel)
    nested = torch.nested.nested_tensor([image, image])
    for call in (lambda a: cl.correlate(a, kernel), bound):
        call(image)
        for other, message in ((image.to_sparse(), "x is a torch.sparse_coo tensor"), (nested, "x is a nested tensor")):
            with pytest.raises(ConvolithError, match=message):
                call(other)


VALUES_OF_NO_KIND = {
    "flip": np.ones(2),
    "engine": np.array(["aten", "fft"]),
    "accuracy": [],
    "padding_mode": np.array([1, 2]),
    "stride": torch.empty(2, device="meta"),
    "padding": np.array(["a"]),
    "groups": np.array([1, 2]),
}


@pytest.mark.parametrize("name", VALUES_OF_NO_KIND)
def test_options_of_no_kind(name):
    with pytest.raises(ConvolithError, match=f"^{name} "):
        cl.correlate(x, k, **{name: VALUES_OF_NO_KIND[name]})


def test_results_beyond_the_machines_memory():
    for call in (
        lambda: cl.correlate(np.ones((1, 1, 1)), np.ones((1, 1, 1)), padding=2**38),
        lambda: cl.correlate(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), padding=10**7),
        lambda: cl.compose(Conv(np.ones((1, 1, 2, 2))), Conv(np.ones((1, 1, 2, 2)), dilation=10**7)),
        lambda: cl.plan(cl.ConvSpec(in_channels=1, out_channels=1, size=2**39, kernel_size=3), effort="measure"),
    ):
        with pytest.raises(ConvolithError, match="GB of memory; pass less at a time"):
            call()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("a.npy", np.ones((8, 8)))
    Path("raw_models.py").write_text(
        "import torch\n"
        "def ok(): return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()\n"
        "def ends(): raise SystemExit(0)\n"
        "class Branches(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.inner, self.own = ok(), lambda x: x\n"
        "    def forward(self, x):\n"
        "        return x if x.sum() > 1e9 else self.inner(x)\n"
        "def kept(): return Branches().eval()\n"
        "def whole():\n"
        "    model = ok()\n"
        "    model.own = lambda x: x\n"
        "    return model\n"
    )
    yield tmp_path
    sys.modules.pop("raw_models", None)


def run(*arguments: object):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


REFUSED = {
    "text in a list": (("correlate", "a.npy", '[["a"]]'), "expected a nested list such as .* of numbers"),
    "an object in a list": (("correlate", "a.npy", "[[1,{}]]"), "expected a nested list such as .* of numbers"),
    "true in a list": (("correlate", "a.npy", "[[true]]"), "expected a nested list such as .* of numbers"),
    "too large a number": (("correlate", "a.npy", "[[99999999999999999999]]"), "of at most 64 bits each"),
    "rows of a list": (("correlate", "a.npy", "[[1],[2,3]]"), "in rows of equal length"),
    "a large input": (("fold", "raw_models:ok", "--input", "1000000,3,1000,1000"), "the inputs, .* GB of memory"),
    "large paddings": (("compose", "[[1]]", "[[1]]", "--second-padding", "1000000"), "GB of memory"),
    "a large check": (("compose", "[[1,2],[3,4]]", "[[1]]", "--first-dilation", "1000000"), "GB of memory"),
    "a large layer": (("plan", "1,3,999999,999999", "4,3,3,3", "--measure"), "GB of memory"),
    "a factory that ends": (("cost", "raw_models:ends", "--input", "1,3,8,8"), "raised SystemExit: 0"),
    "no pickle": (
        ("fold", "raw_models:kept", "--input", "1,3,8,8", "-o", "n.pt"),
        "(?s)warning: .*cannot be pickled .* n.pt2 takes.*cannot be pickled .*write n.pt2",
    ),
}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_commands_refuse(folder, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output


def test_a_large_layer_is_planned(folder):
    assert run("plan", "1,3,99999999999,8", "4,3,3,3").exit_code == 0


def test_a_model_that_is_folded_whole_is_written_whatever_it_held(folder):
    result = run("fold", "raw_models:whole", "--input", "1,3,8,8", "-o", "n.pt")
    assert result.exit_code == 0
    assert isinstance(torch.load("n.pt", weights_only=False), torch.nn.Module)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_commands_that_are_cut_short(folder, monkeypatch, error):
    def cut(*_: object) -> None:
        raise error

    monkeypatch.setattr("convolith.cli.correlate.run.read_picture", cut)
    result = run("correlate", "a.npy", "[[1]]")
    expected = (130, "Interrupted\n") if error is KeyboardInterrupt else (2, "Error: there is not enough memory for")
    assert result.exit_code == expected[0]
    assert result.output.startswith(expected[1])
    assert len(result.output.splitlines()) == 1


def test_ctrl_c_while_the_command_line_is_imported(monkeypatch, capsys):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "convolith.cli", types.SimpleNamespace(main=interrupted))
    with pytest.raises(SystemExit) as ended:
        start.run()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "Interrupted\n"


def png_header(width: int, height: int) -> bytes:
    """A picture that says how large it is, and no more."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"")),
        (b"IEND", b""),
    ]
    chunks = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_pictures_that_would_expand_too_far(folder):
    Path("bomb.png").write_bytes(png_header(100_000, 100_000))
    assert "expand to 10,000,000,000 or more" in run("correlate", "bomb.png", "[[1]]").output


def test_large_pictures_have_no_other_limit(folder, monkeypatch):
    image_module = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(image_module, "MAX_IMAGE_PIXELS", 10)  # Pillow's own, which stops at 179 million
    import imageio.v3 as imageio

    imageio.imwrite("large.png", np.zeros((30, 30), np.uint8))
    assert run("correlate", "large.png", "[[1]]").exit_code == 0
    assert image_module.MAX_IMAGE_PIXELS == 10


def test_archives_that_would_expand_too_far(folder, monkeypatch):
    monkeypatch.setattr(expansion, "MAX_EXPANDED_BYTES", 10_000)
    np.savez_compressed("bomb.npz", a=np.zeros(100_000))
    np.savez("large.npz", a=np.ones((200, 200)))  # as large as it says
    Path("bomb.fits.gz").write_bytes(gzip.compress(bytes(1_000_000)))
    for name in ("bomb.npz", "bomb.fits.gz"):
        result = run("correlate", name, "[[1]]")
        assert result.exit_code == 2
        assert "bytes expand to" in result.output
    assert run("correlate", "large.npz", "[[1]]").exit_code == 0


def test_an_array_that_is_shorter_than_its_header_says(folder):
    header = {"descr": "<f8", "fortran_order": False, "shape": (10**6, 10**6)}
    with Path("long.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
    result = run("correlate", "long.npy", "[[1]]")
    assert "declares 8,000,000,000,000 bytes of values, and 0 are there" in result.output


def test_states_are_not_compressed(tmp_path):
    state = cl.Gram((3, 3))
    state.save(tmp_path / "state.npz")
    assert cl.Gram.load(tmp_path / "state.npz").equations == 0
    with np.load(tmp_path / "state.npz") as arrays:
        np.savez_compressed(tmp_path / "small.npz", **arrays)
    with pytest.raises(ConvolithError, match="and a state is not compressed"):
        cl.Gram.load(tmp_path / "small.npz")


def test_a_home_by_its_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", "~/kept")
    assert storage.cache_directory() == tmp_path / "kept"
    monkeypatch.delenv("CONVOLITH_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")  # to be ignored, by its standard
    assert storage.cache_directory() == tmp_path / ".cache" / "convolith"


def test_a_cache_that_is_a_file_is_one_warning(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CONVOLITH_CACHE_DIR", str(tmp_path / "file"))
    storage.warn_once.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name in ("a", "b", "c"):
            assert cache.read(name) is None
            cache.write(name, b"code")
    assert [str(one.message) for one in said] == [
        f"convolith's cache: {tmp_path / 'file'} is a file, so nothing is kept; change that, or name another directory in "
        "CONVOLITH_CACHE_DIR"
    ]
    assert said[0].filename == __file__


BARE = """
import importlib.metadata
def missing(name): raise importlib.metadata.PackageNotFoundError(name)
importlib.metadata.version = missing
import json, torch, convolith as cl
from convolith.jit import compile as compiling
from convolith.planner import store
for _ in range(2):
    y = cl.correlate(torch.ones(1, 1, 700, 700), torch.ones(1, 1, 3, 3), engine="direct")
store.add("machine", {}, lambda _: True)
print(json.dumps([cl.__file__, float(y[0, 0, 0, 0])]))
"""


@pytest.mark.slow
def test_a_package_without_sources_or_installation(tmp_path):
    package = tmp_path / "place" / "convolith"
    shutil.copytree(Path(cl.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    compileall.compile_dir(package, legacy=True, quiet=1)
    for source in package.rglob("*.py"):
        source.unlink()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "place"), "CONVOLITH_CACHE_DIR": str(tmp_path / "kept")}
    kept = []
    for _ in range(2):
        ended = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, "-c", BARE], capture_output=True, text=True, check=False, env=environment, cwd=tmp_path
        )
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == [str(package / "__init__.pyc"), 9.0]
        kept.append(sorted(path.name for path in (tmp_path / "kept").glob("*.o")))
    assert kept[0] == kept[1]
