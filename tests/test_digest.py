"""The digest that a kept kernel is recognised by: every kind of change shows, wherever it is."""

import multiprocessing

import numpy as np
import pytest
import torch

from convolith import correlate
from convolith.planner import prepared_kernels
from convolith.planner.digest import BLOCK_ROWS, ROW, digest

BLOCK = BLOCK_ROWS * ROW
SIZES = [0, 1, 2, ROW - 1, ROW, ROW + 1, 5 * ROW + 7, BLOCK - 1, BLOCK, BLOCK + 2, 3 * BLOCK + 9 * ROW + 31]


def _bytes(size: int) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8)


@pytest.mark.parametrize("size", SIZES)
def test_a_digest_depends_on_every_byte(size: int) -> None:
    data = _bytes(size)
    before = digest(data)
    assert np.array_equal(before, digest(data.copy()))
    places = np.unique(np.random.default_rng(0).integers(0, size, 200)) if size else []
    for place in {0, size - 1, *places} if size else ():
        for bit in (1, 16, 128):
            data[place] ^= bit
            assert not np.array_equal(before, digest(data)), (place, bit)
            data[place] ^= bit
    assert np.array_equal(before, digest(data))


def test_it_is_small() -> None:
    assert digest(_bytes(64 * BLOCK)).size == 64 * ROW


CHANGES = {
    "other signs": np.negative,
    "two signs": lambda x: x * np.where(np.isin(np.arange(x.size), [5 * 64, 9 * 64]), -1, 1),
    "twice": lambda x: 2 * x,
    "zero": np.zeros_like,
    "reversed": lambda x: x[::-1].copy(),
    "two swapped": lambda x: np.concatenate([x[:1], x[65:66], x[2:65], x[1:2], x[66:]]),
    "rows swapped": lambda x: np.concatenate([x[64:128], x[:64], x[128:]]),
    "blocks swapped": lambda x: np.concatenate([x[BLOCK // 4 : BLOCK // 2], x[: BLOCK // 4], x[BLOCK // 2 :]]),
    "rolled": lambda x: np.roll(x, 64),
    "the last bit": lambda x: np.nextafter(x, np.float32(np.inf)),
    "alternating signs": lambda x: x * np.where(np.arange(x.size) // 64 % 2, -1, 1).astype(np.float32),
}


@pytest.mark.parametrize("values", ["random", "all one"])
@pytest.mark.parametrize("name", CHANGES)
def test_changes_of_many_numbers_show(name: str, values: str) -> None:
    x = np.random.default_rng(1).normal(size=BLOCK) if values == "random" else np.ones(BLOCK)
    x = x.astype(np.float32)
    changed = np.asarray(CHANGES[name](x), np.float32)
    same = np.array_equal(x, changed)
    assert np.array_equal(digest(x.view(np.uint8)), digest(changed.view(np.uint8))) == same


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing(threads: int) -> None:
    data, before = _bytes(7 * BLOCK + 3), torch.get_num_threads()
    expected = digest(data)
    torch.set_num_threads(threads)
    try:
        assert np.array_equal(digest(data), expected)
    finally:
        torch.set_num_threads(before)


def test_any_memory_will_do() -> None:
    raw = _bytes(BLOCK + 2)
    for shift in (1, 2):
        assert np.array_equal(digest(raw[shift : shift + BLOCK]), digest(raw[shift : shift + BLOCK].copy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("place", [0, 1, 12345, -1])
def test_writes_past_torch_s_count_reach_the_next_call(dtype: torch.dtype, place: int) -> None:
    x, k = torch.randn(1, 128, 6, 6, dtype=dtype), torch.randn(512, 128, 3, 3, dtype=dtype)
    assert k.nbytes >= prepared_kernels.DIGEST_BYTES
    prepared_kernels.forget()
    for _ in range(3):
        correlate(x, k, engine="winograd_2x2" if dtype == torch.float32 else "direct")
    k.data.view(-1)[place] += 100
    found = correlate(x, k, engine="winograd_2x2" if dtype == torch.float32 else "direct")
    expected = correlate(x, k.clone(), engine="reference")
    assert (found - expected).abs().max() < 1e-2 * expected.abs().max()


def _in_a_child(queue: "multiprocessing.SimpleQueue[bytes]", data: np.ndarray) -> None:
    queue.put(digest(data).tobytes())


def test_a_forked_child_computes_it() -> None:
    data = _bytes(5 * BLOCK)
    expected = digest(data)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(queue, data))
    child.start()
    found = queue.get()
    child.join()
    assert found == expected.tobytes()
