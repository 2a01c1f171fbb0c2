"""Engines by name at every entry point: each runs and is within its bound, or is refused with the reason."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import convolith as cl
from convolith import big
from convolith.engines import BY_NAME, TABLE
from convolith.errors import ConvolithError
from convolith.kernels import gaussian
from convolith.planner.prepared_kernels import _kept
from convolith.spec import ConvSpec
from tests.test_cli import refused, run

NAMES = [engine.name for engine in TABLE]


def refusal(engine, x, k, **options):
    """Return the reason why an engine does not compute a layer with this kernel, or None."""
    try:
        cl.plan(ConvSpec.of(x, k, **options), k, engine=engine)
    except ConvolithError as problem:
        return str(problem)
    return None


def by_correlate(x, k, engine, folder):
    return cl.correlate(x, k, engine=engine)


def by_correlate_into(x, k, engine, folder):
    out = np.empty(cl.correlate(x, k).shape, x.dtype)
    return cl.correlate(x, k, engine=engine, out=out)


def by_gradients(x, k, engine, folder):
    of_x, of_k = (torch.from_numpy(part).requires_grad_() for part in (x, k))
    y = cl.correlate(of_x, of_k, engine=engine)
    y.sum().backward()
    expected = [torch.from_numpy(part).double().requires_grad_() for part in (x, k)]
    torch.nn.functional.conv2d(*expected, groups=len(k)).sum().backward()
    for found, wanted in zip((of_x, of_k), expected, strict=True):
        torch.testing.assert_close(found.grad.double(), wanted.grad, rtol=1e-4, atol=1e-3)
    return y.detach().numpy()


def by_conv(x, k, engine, folder):
    return cl.Conv(k, groups=len(k))(x, engine=engine)


def by_filter_image(x, k, engine, folder):
    return np.stack(
        [cl.filter_image(x[:, c], k[c, 0], axes=(1, 2), padding="valid", engine=engine) for c in range(len(k))], 1
    )


def by_big_plan(x, k, engine, folder):
    big.plan(x, k, folder / "y.zarr", channel_axis=1, groups=len(k), engine=engine).run(progress=False)
    return pytest.importorskip("zarr").open_array(str(folder / "y.zarr"))[...]


def by_lazy(x, k, engine, folder):
    pytest.importorskip("dask")
    return big.correlate(x, k, channel_axis=1, groups=len(k), engine=engine).compute(scheduler="synchronous")


def by_compiled_operator(x, k, engine, folder):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):  # a dispatch mode, under which the registered operator runs
        return cl.correlate(torch.from_numpy(x), torch.from_numpy(k), engine=engine).numpy()


def by_command(x, k, engine, folder):
    np.save(folder / "x.npy", x)
    np.save(folder / "k.npy", k)
    options = ("--groups", len(k), "--padding", "valid", "--engine", engine)
    run("correlate", folder / "x.npy", folder / "k.npy", "-o", folder / "y.npy", *options)
    return np.load(folder / "y.npy")


ENTRIES = [
    by_correlate, by_correlate_into, by_gradients, by_conv, by_filter_image, by_big_plan, by_lazy,
    by_compiled_operator, by_command,
]  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.__name__)
@settings(max_examples=14, deadline=None)
@given(
    engine=st.sampled_from(NAMES),
    rank=st.sampled_from((1, 1, 5)),
    size=st.sampled_from((2, 3, 5, 9)),
    seed=st.integers(0, 3),
)
def test_every_engine_runs_or_is_refused_at_every_entry_point(entry, engine, rank, size, seed, tmp_path_factory):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 1, 24, 40)).astype(np.float32)
    k = sum(np.outer(*rng.normal(size=(2, size))) for _ in range(rank))[None, None].astype(np.float32)
    reason = refusal(engine, x, k)
    folder = tmp_path_factory.mktemp("y")
    if reason is None:
        found = entry(x, k, engine, folder)
        expected = cl.correlate(x.astype(float), k.astype(float), engine="reference")
        bound = BY_NAME[engine].error_bound(ConvSpec.of(x, k), torch.from_numpy(k))
        scale = float(np.abs(x).max() * np.abs(k).sum())
        assert np.abs(found - expected).max() <= (bound + 1e-6) * scale
        return
    if entry is by_command:
        np.save(folder / "x.npy", x)
        np.save(folder / "k.npy", k)
        said = refused("correlate", folder / "x.npy", folder / "k.npy", "--engine", engine)
        assert "use --engine auto" in said
        return
    with pytest.raises(ConvolithError, match=r"engine '\w+' cannot compute this: .+; use engine='auto'"):
        entry(x, k, engine, folder)


@pytest.mark.parametrize("nan", ["propagate", "omit", "interpolate"])
@pytest.mark.parametrize("engine", NAMES)
def test_every_engine_takes_missing_pixels_or_is_refused(engine, nan, tmp_path):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(1, 1, 24, 40)).astype(np.float32), rng.random((1, 1, 24, 40)) < 0.05
    k = np.outer(*rng.random((2, 3)) + 0.1)[None, None].astype(np.float32)
    wanted = {"engine": engine, "nan": nan, "mask": mask}
    if refusal(engine, x, k) is not None:
        with pytest.raises(ConvolithError, match=r"engine '\w+' cannot compute this: .+; use engine='auto'"):
            cl.correlate(x, k, **wanted)
        return
    expected = cl.correlate(x, k, **wanted | {"engine": "reference"})
    local = nan != "propagate" or BY_NAME[engine].keeps_nonfinite_local(ConvSpec.of(x, k))
    found = cl.correlate(x, k, **wanted)
    assert not local or (np.isnan(found) == np.isnan(expected)).all()
    np.testing.assert_allclose(found, np.where(np.isnan(found), np.nan, expected), atol=1e-4)


def test_separable_runs_by_name_with_the_kernel_that_it_is_given():
    before = set(_kept)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 1, 64, 64)).astype(np.float32)
    smooth, rough = gaussian(2.0)[None, None].astype(np.float32), rng.normal(size=(1, 1, 13, 13)).astype(np.float32)
    rough = rough[..., : smooth.shape[2], : smooth.shape[3]]
    for _ in range(3):  # a call that was seen before is that of another kernel too
        y = cl.correlate(x, smooth, engine="separable")
        np.testing.assert_allclose(y, cl.correlate(x, smooth, engine="reference"), atol=1e-5)
        with pytest.raises(
            ConvolithError, match=r"engine 'separable' cannot compute this: rank \d+: no fewer products"
        ):
            cl.correlate(x, rough, engine="separable")
        image = cl.filter_image(x[0, 0], smooth[0, 0], engine="separable")
        np.testing.assert_allclose(image, cl.filter_image(x[0, 0], smooth[0, 0], engine="reference"), atol=1e-5)
        with pytest.raises(ConvolithError, match=r"rank \d+: no fewer products"):
            cl.filter_image(x[0, 0], rough[0, 0], engine="separable")
    added = [_kept[key].requested for key in set(_kept) - before]
    assert not [
        plan for plan in added if plan.engine == "separable" and plan.by_name
    ]  # plans of one kernel fill no cache


def test_the_command_plans_for_a_kernel(tmp_path):
    np.save(tmp_path / "k.npy", gaussian(2.0))
    shown = json.loads(run("plan", "1,1,64,64", tmp_path / "k.npy", "--engine", "separable", "--json").stdout)
    assert shown["engine"] == "separable"
    assert "rank 3" in refused("plan", "1,1,64,64", "[[1,2,4],[3,5,9],[8,1,7]]", "--engine", "separable")
    said = refused("plan", "1,1,64,64", "1,1,9,9", "--engine", "separable")
    assert "depends on the kernel's values: give the kernel in place of K_SHAPE" in said
    assert "--dtype" not in said
