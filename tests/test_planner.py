"""Plans: the choice by counted work, explained; bound kernels; out; threads; pickling."""

import copy
import gc
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import ConvolithError, ConvSpec
from convolith.engines import BY_NAME, TABLE, MachineLimits, phases
from convolith.planner import machine

LAYER = ConvSpec(in_channels=4, out_channels=8, size=(9, 9), kernel_size=3, padding=1)


PLANE = {"in_channels": 1, "out_channels": 1, "size": (300, 300)}
DEEP = {"in_channels": 64, "out_channels": 64, "size": (56, 56), "padding": 1}
CHOICES = {
    "tiny: torch's own is the shortest way": (PLANE | {"size": (8, 8), "kernel_size": 3}, "aten"),
    "one channel": (PLANE | {"kernel_size": 7}, "direct"),
    "one channel, large kernel": (PLANE | {"kernel_size": 101}, "fft"),
    "bytes": (PLANE | {"kernel_size": 3, "dtype": "uint8"}, "direct"),
    "half": (PLANE | {"kernel_size": 5, "dtype": "bfloat16"}, "direct"),
    "deep": (DEEP | {"kernel_size": 3}, "winograd_4x4"),
    "deep in float64": (DEEP | {"kernel_size": 3, "dtype": "float64"}, "winograd_4x4"),
    "transposed": (DEEP | {"kernel_size": 3, "transposed": True, "stride": 2}, "aten"),
}


@pytest.mark.parametrize(("options", "engine"), CHOICES.values(), ids=CHOICES)
def test_the_choice_by_estimate(options, engine):
    """The machine's shipped limits decide, the same everywhere and every time."""
    spec = ConvSpec(**options)
    assert cl.plan(spec).engine == engine
    assert cl.plan(spec) is cl.plan(spec)


def test_explain_shows_every_engine_and_its_reason():
    text = cl.plan(LAYER).explain()
    for engine in TABLE:
        assert engine.name in text
    assert "chosen" in text
    assert "kernel_size 3x3 is not 1" in text
    assert f"{8 * 81 * 4 * 9:,}" in text


def test_an_engine_that_needs_more_memory_than_there_is_gives_way(monkeypatch):
    """Torch writes out every window in float64: 309 GB for 101x101 on 2048x2048."""
    monkeypatch.setattr(machine, "memory_bytes", lambda: 16 * 2**30)
    cl.clear_caches()
    spec = ConvSpec(in_channels=1, out_channels=1, size=(2048, 2048), kernel_size=101, dtype="float64")
    chosen = cl.plan(spec)
    windows = next(c.work.memory.forward.workspace for c in chosen.candidates if c.engine == "aten")
    assert windows == 101**2 * 1948**2 * 8
    assert chosen.engine != "aten"
    assert "its workspace of 310 GB is over this machine's" in chosen.explain()


def test_bind_keeps_its_own_copy():
    x, k, b = torch.randn(1, 4, 9, 9), torch.randn(8, 4, 3, 3), torch.randn(8)
    bound = cl.plan(ConvSpec.of(x, k, b, padding=1)).bind(k, b)
    expected = cl.correlate(x, k, b, padding=1)
    k.zero_()
    b.zero_()
    torch.testing.assert_close(bound(x), expected)


@pytest.mark.parametrize("engine", ["aten", "reference"])
@pytest.mark.parametrize("accuracy", ["default", "double"])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_out_is_filled(engine, accuracy, kind):
    x, k = torch.randn(1, 4, 9, 9), torch.randn(8, 4, 3, 3)
    out = torch.full((1, 8, 9, 9), torch.nan)
    if kind == "numpy":
        x, k, out = x.numpy(), k.numpy(), out.numpy()
    ours = cl.plan(LAYER, engine=engine, accuracy=accuracy)
    assert ours(x, k, out=out) is out
    np.testing.assert_allclose(np.asarray(out), np.asarray(ours(x, k)), rtol=1e-5, atol=1e-5)


def test_plans_pickle():
    ours = pickle.loads(pickle.dumps(cl.plan(LAYER)))  # noqa: S301 - our own bytes
    assert ours == cl.plan(LAYER)


def test_many_threads_plan_and_run_at_once():
    x, k = torch.randn(2, 3, 16, 16), torch.randn(4, 3, 3, 3)
    for p in range(8):  # a kernel that comes again may be computed by another engine than one that is new
        cl.correlate(x, k, padding=p)
    expected = {p: cl.correlate(x, k, padding=p) for p in range(8)}
    wrong = []

    def work(padding: int) -> None:
        for _ in range(20):
            if not torch.equal(cl.correlate(x, k, padding=padding), expected[padding]):
                wrong.append(padding)

    threads = [threading.Thread(target=work, args=(p,)) for p in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_out_is_written_or_refused():
    """Never left as it was, and never written where writing is forbidden."""
    run = cl.plan(ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=3, dtype="float64"))
    x, k = np.ones((1, 1, 8)), np.ones((1, 1, 3))
    locked = np.zeros((1, 1, 6))
    locked.setflags(write=False)
    for out, why in {
        "reversed": (np.zeros((1, 1, 6))[:, :, ::-1], "out is byte-swapped or reversed"),
        "big-endian": (np.zeros((1, 1, 6), ">f8"), "out is byte-swapped or reversed"),
        "locked": (locked, "out is read-only"),
        "broadcast": (np.lib.stride_tricks.as_strided(np.zeros(1), (1, 1, 6), (0, 0, 0)), "out is a broadcast view"),
    }.values():
        with pytest.raises(ConvolithError, match=why):
            run(x, k, out=out)
        assert not out.any()
    strided = np.zeros((1, 1, 12))[:, :, ::2]
    assert run(x, k, out=strided) is strided
    assert (strided == 3).all()
    lazy = torch.zeros(1, 1, 6, dtype=torch.complex128).conj()
    complex_run = cl.plan(ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=3, dtype="complex128"))
    with pytest.raises(ConvolithError, match="out is a lazy conjugate"):
        complex_run(*(torch.ones(1, 1, n, dtype=torch.complex128) for n in (8, 3)), out=lazy)
    with pytest.raises(ConvolithError, match="spec is a str; expected ConvSpec.of"):
        cl.plan("abc")


def test_a_bound_kernel_may_be_overwritten_and_pickled():
    buffer = torch.ones(20)
    run = cl.plan(ConvSpec(in_channels=1, out_channels=1, size=6, kernel_size=3, padding=1)).bind(
        buffer[:3].view(1, 1, 3)
    )
    y = run(torch.ones(1, 1, 6), out=buffer[:6].view(1, 1, 6))
    assert y.flatten().tolist() == [2, 3, 3, 3, 3, 2]
    assert torch.equal(pickle.loads(pickle.dumps(run))(torch.ones(1, 1, 6)), y)  # noqa: S301 - our own bytes


def test_autocast_does_not_narrow_a_plan():
    x, k = torch.randn(1, 4, 9, 9), torch.randn(8, 4, 3, 3)
    expected = cl.plan(LAYER)(x, k)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(cl.plan(LAYER)(x, k), expected)
        assert cl.correlate(x.numpy(), k.numpy(), padding=1).dtype == np.float32


t, w = torch.ones(1, 3, 8, 8), torch.ones(2, 3, 3, 3)


def test_operands_that_a_plan_refuses():
    spec = ConvSpec(in_channels=3, out_channels=2, size=(8, 8), kernel_size=3)
    ours = cl.plan(spec)
    with pytest.raises(ConvolithError, match=r"x has shape \(1, 3, 9, 8\); the plan expects \(1, 3, 8, 8\)"):
        ours(torch.ones(1, 3, 9, 8), w)
    with pytest.raises(ConvolithError, match="k has dtype float64; the plan expects float32"):
        ours(t, w.double())
    with pytest.raises(ConvolithError, match="x requires gradients, which a plan does not record; call correlate"):
        ours(t.clone().requires_grad_(), w)
    with pytest.raises(ConvolithError, match=r"out has shape \(1, 2, 8, 8\)"):
        ours(t, w, out=torch.ones(1, 2, 8, 8))
    single = cl.plan(ConvSpec(in_channels=1, out_channels=1, size=8, kernel_size=1))
    shared = torch.ones(1, 1, 9)
    with pytest.raises(ConvolithError, match="out shares memory with x; pass an array of its own"):
        single(shared[..., :8], torch.ones(1, 1, 1), out=shared[..., 1:])


@pytest.mark.parametrize("engine", list(BY_NAME))
def test_what_every_engine_prepares_survives_a_copy(engine):
    transposed, line = engine == "phases", torch.tensor([1.0, 2.0, 1.0])
    size = 1 if engine == "pointwise" else 3
    channels = 16 if engine == "depthwise" else 8
    groups = channels if engine in ("separable", "depthwise") else 1
    spec = ConvSpec(
        in_channels=channels,
        out_channels=channels,
        size=(9, 9),
        kernel_size=size,
        groups=groups,
        transposed=transposed,
    )
    k = torch.outer(line, line).repeat(channels, 1, 1, 1) if groups > 1 else torch.randn(spec.kernel_shape)
    x = torch.randn(spec.input_shape)
    accuracy = "fast" if BY_NAME[engine].only_fast else "default"
    run = cl.plan(spec, k if groups > 1 else None, engine=engine, accuracy=accuracy).bind(k)
    expected = run(x)
    saved, copied = pickle.dumps(run), copy.deepcopy(run)
    del run
    gc.collect()
    [torch.full((1000,), torch.nan) for _ in range(100)]
    assert torch.equal(copied(x), expected)
    assert torch.equal(pickle.loads(saved)(x), expected)  # noqa: S301 - our own bytes


def test_the_largest_tiles_of_winograd_need_accuracy_fast():
    """Where torch's own bound is larger than theirs, too; they win on large images, and not on small ones."""
    large = ConvSpec(in_channels=64, out_channels=64, size=(256, 256), kernel_size=3, padding=1)
    small = replace(large, in_channels=512, out_channels=512, size=(14, 14))
    assert BY_NAME["winograd_6x6"].error_bound(small) < BY_NAME["aten"].error_bound(small)
    assert cl.plan(large, accuracy="fast").engine == "winograd_6x6"
    assert cl.plan(small, accuracy="fast").engine != "winograd_6x6"
    for accuracy in ("default", "exact", "double"):
        for spec in (large, small):
            reasons = {c.engine: c.reason for c in cl.plan(spec, accuracy=accuracy).candidates}
            assert reasons["winograd_6x6"] is not None
    with pytest.raises(ConvolithError, match='only accuracy "fast" allows it'):
        cl.plan(large, engine="winograd_6x6")


@pytest.mark.parametrize("channels", [64, 512])
@pytest.mark.parametrize(("kernel_size", "padding", "output_padding"), [(4, 1, 0), (2, 0, 0), (3, 1, 1)])
def test_upsampling_layers_have_the_engine_that_is_estimated_fastest(channels, kernel_size, padding, output_padding):
    for size in (8, 32, 64):
        spec = ConvSpec(
            in_channels=channels,
            out_channels=channels // 2,
            size=(size, size),
            kernel_size=kernel_size,
            stride=2,
            padding=padding,
            transposed=True,
            output_padding=output_padding,
        )
        inner = phases.layout(spec).spec
        rivals = [engine for engine in TABLE if engine.refuse(inner) is None and not engine.only_fast]
        fastest = min(rivals, key=lambda engine: engine.seconds(inner, MachineLimits()))
        assert phases.engine_of(spec) is fastest


def test_reasons_are_sentences_that_name_the_layers_property():
    layer = {"in_channels": 32, "out_channels": 32, "size": (9, 9), "kernel_size": 5}
    reasons = {c.engine: c.reason for c in cl.plan(ConvSpec(**layer)).candidates}
    assert reasons["separable"] == reasons["depthwise"] == "each output sums 32 channels, not one"
    reasons = {c.engine: c.reason for c in cl.plan(ConvSpec(**layer, transposed=True)).candidates}
    assert reasons["direct"] == reasons["separable"] == "not for transposed layers"
    reasons = {c.engine: c.reason for c in cl.plan(ConvSpec(**layer, dtype="int8")).candidates}
    assert reasons["im2col"] == "no code for int8"
    wide = {c.engine: c.reason for c in cl.plan(ConvSpec(**layer | {"out_channels": 64, "groups": 32})).candidates}
    assert wide["separable"] == wide["depthwise"] == "several output channels for an input channel"
