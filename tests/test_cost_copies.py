"""The copy that is counted: nothing of it is the model's, and it computes what the model computes."""

import dataclasses
import functools
import random
import sys
import types
import weakref
from collections import OrderedDict, defaultdict, deque, namedtuple
from enum import Enum

import numpy as np
import pytest
import torch
from torch import nn

from bench.networks.patterns import Of
from convolith import ConvolithError, cost
from convolith.costing.tracing.fake_models import model_copy
from convolith.costing.tracing.model_copies import named_places, structural_copy


def cloned(model, **options):
    return structural_copy(model, lambda tensor: tensor.detach().clone(), **options)


class Meter:
    """It has a count and a list, and knows the module that it belongs to."""

    def __init__(self, module):
        self.total, self.values, self.module = 0, [], module

    def __call__(self, module, inputs, output):
        self.total += 1
        self.values.append(output)


class Slots:
    __slots__ = ("missing", "value")

    def __init__(self):
        self.value = [1]


class Mode(Enum):
    ONE = 1


@dataclasses.dataclass
class Settings:
    names: list
    scale: torch.Tensor


Pair = namedtuple("Pair", "one two")
LIMIT = object()


class Holder(nn.Module):
    """It holds a list in every way there is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.holders = {
            "list": [[1]], "dict": {"a": [1]}, "tuple": ([1],), "set": {1}, "deque": deque([[1]], 5),
            "ordered": OrderedDict(a=[1]), "default": defaultdict(list, a=[1]), "pair": Pair([1], {}),
            "space": types.SimpleNamespace(a=[1]), "settings": Settings([1], torch.ones(2)), "slots": Slots(),
            "array": np.ones(3), "bytes": bytearray(b"a"), "random": random.Random(0),  # noqa: S311 - compared
            "generator": torch.Generator(),
            "weak": weakref.WeakKeyDictionary({self.layer: [1]}), "partial": functools.partial(max, [1]),
        }  # fmt: skip
        self.by_module, self.by_identity = {self.layer: [1]}, {id(self.layer): [1]}
        self.parent, self.bound = weakref.ref(self), self.layer.forward
        self.fixed = (Mode.ONE, LIMIT, torch.float32, sys, max, "name", 3.5, torch.Size([2]), nn.functional.relu)
        self.itself = [self.holders]
        self.itself.append(self.itself)

    def forward(self, x):
        return self.layer(x)


def test_what_can_change_is_copied_and_what_cannot_is_shared():
    model = Holder()
    made = cloned(model)
    assert type(made) is Holder
    assert made.layer is not model.layer
    for name, value in model.holders.items():
        copied = made.holders[name]
        assert type(copied) is type(value)
        assert copied is not value, name
    ours, theirs = made.holders, model.holders
    for name in ("list", "tuple", "deque"):
        assert ours[name][0] == [1]
        assert ours[name][0] is not theirs[name][0]
    for name in ("dict", "ordered", "default"):
        assert ours[name] == theirs[name]
        assert ours[name]["a"] is not theirs[name]["a"]
    assert ours["deque"].maxlen == 5
    assert ours["default"]["new"] == []
    assert "new" not in theirs["default"]
    assert ours["pair"].one is not theirs["pair"].one
    assert ours["slots"].value == [1]
    assert ours["slots"].value is not theirs["slots"].value
    assert ours["settings"].scale is not theirs["settings"].scale
    assert list(ours["weak"]) == [made.layer]
    assert ours["partial"].args[0] is not theirs["partial"].args[0]
    assert torch.rand(3, generator=ours["generator"]).equal(torch.rand(3, generator=theirs["generator"]))
    assert ours["random"].random() == theirs["random"].random()
    assert list(made.by_module) == [made.layer]
    assert list(made.by_identity) == [id(made.layer)]
    assert made.parent() is made
    assert made.bound.__self__ is made.layer
    assert all(new is old for new, old in zip(made.fixed, model.fixed))
    assert made.itself[0] is made.holders
    assert made.itself[1] is made.itself


def test_hooks_and_closures_write_into_the_copy():
    seen, calls = [], 0
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    meter = Meter(model)

    def count(module, inputs, output):
        nonlocal calls
        calls += 1
        seen.append(output)

    def scaled(x, module=model):
        return plain(x) * len([*seen, 1])

    plain = model[1].forward
    model[0].register_forward_hook(count)
    model[0].register_forward_hook(meter)
    model[1].forward = scaled
    once = model[1].register_forward_pre_hook(lambda module, inputs: once.remove())
    for options in ({}, {"optimizer": "sgd"}, {"backward": False}):
        counted = cost(model, input_shape=(2, 3), **options)
        assert counted.forward.macs == 18
        assert counted.forward.elementwise == 6
    assert (seen, calls) == ([], 0)
    assert (meter.values, meter.total) == ([], 0)
    assert len(model[1]._forward_pre_hooks) == 1
    model(torch.ones(2, 3))
    assert (len(seen), calls, meter.total) == (1, 1, 1)
    assert len(model[1]._forward_pre_hooks) == 0


def test_no_hook_is_registered_and_no_attribute_is_set_even_for_a_moment():
    """A module and containers that refuse every change at the moment of the change; their copies do not."""
    held = set()

    class Guarded(OrderedDict):
        def __setitem__(self, name, value):
            assert id(self) not in held, "the model was written to"
            super().__setitem__(name, value)

        def __delitem__(self, name):
            assert id(self) not in held, "the model was written to"
            super().__delitem__(name)

    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)

        def __setattr__(self, name, value):
            assert id(self) not in held, "the model was written to"
            super().__setattr__(name, value)

        def forward(self, x):
            return self.norm(self.layer(x))

    model = Watched()
    for module in model.modules():
        for name in ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"):
            guarded = vars(module)[name] = Guarded(vars(module)[name])
            held.add(id(guarded))
        held.add(id(module))
    with pytest.raises(AssertionError, match="was written to"):
        model.layer.register_forward_hook(lambda *_: None)
    before = {name: (tensor, tensor._version) for name, tensor in model.state_dict(keep_vars=True).items()}
    counted = cost(model, input_shape=(2, 3, 8, 8), optimizer="momentum")
    assert counted.scaled(channels=2, kernel_size=3).factor > 3
    assert counted.largest_batch(1e6) > 1
    cost(model, example_input=torch.ones(2, 3, 8, 8), run=True)
    after = model.state_dict(keep_vars=True)
    assert all(after[name] is tensor and after[name]._version == version for name, (tensor, version) in before.items())


def test_weights_have_no_copies_in_memory():
    model = nn.Sequential(nn.Linear(1000, 1000), nn.Linear(1000, 1000))
    copied, state = model_copy(model, None)
    assert sum(tensor.untyped_storage().nbytes() for tensor in state) == 2 * 4 * (1000 * 1000 + 1000)
    from convolith.torch_private import fake_mode

    with fake_mode() as fake:
        copied, state = model_copy(model, fake)
    assert all(type(tensor).__name__ == "FakeTensor" for tensor in state)
    assert copied[0].weight.shape == (1000, 1000)
    assert isinstance(copied[0].weight, nn.Parameter)


def test_memory_that_is_shared_is_shared_by_copies():
    model = nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))
    model[1].weight.data = model[0].weight.data.t()
    model[2].weight = model[0].weight
    copied, state = model_copy(model, None)
    assert copied[2].weight is copied[0].weight
    assert copied[1].weight.data_ptr() == copied[0].weight.data_ptr() != model[0].weight.data_ptr()
    assert torch.equal(copied[1].weight, model[1].weight)
    assert len(state) == 2


def shared():
    layer = nn.Linear(10, 10, bias=False)
    block = nn.Sequential(layer, nn.ReLU())
    return layer, block


def test_a_module_of_two_names_is_counted_under_both():
    layer, block = shared()
    by_name = {
        "in a row": nn.Sequential(layer, nn.ReLU(), layer),
        "in blocks": nn.Sequential(nn.Sequential(layer), nn.Sequential(layer, nn.ReLU())),
        "a block": nn.Sequential(nn.Sequential(block), nn.Sequential(block)),
    }
    expected = {
        "in a row": {"": 200, "0": 100, "1": 0, "2": 100},
        "in blocks": {"": 200, "0": 100, "0.0": 100, "1": 100, "1.0": 100, "1.1": 0},
        "a block": {"": 200, "0": 100, "0.0": 100, "0.0.0": 100, "0.0.1": 0, "1": 100, "1.0": 100, "1.0.0": 100, "1.0.1": 0},
    }  # fmt: skip
    for name, model in by_name.items():
        counted = cost(model, input_shape=(1, 10), input_gradient=True)
        assert {row.name: row.forward.macs for row in counted.rows} == expected[name]
        assert {row.name: row.backward.macs for row in counted.rows} == {
            key: 2 * n for key, n in expected[name].items()
        }
        assert counted.parameters == 100
        assert {row.parameters for row in counted.rows if row.forward.macs} == {100}
        assert counted.forward.macs == 200
    other = Of(lambda s, x: [module(x) for module in (s.b, s.a, s.b)][-1], a=layer, b=layer)
    assert {row.name: row.forward.macs for row in cost(other, input_shape=(1, 10)).rows} == {
        "": 300,
        "a": 100,
        "b": 200,
    }
    grown = cost(by_name["in blocks"], input_shape=(1, 10))
    assert grown.count_at((2, 10)).forward.macs == 400


def test_names_end_where_a_module_contains_itself():
    layer, block = shared()
    block.add_module("around", block)
    assert [".".join(path) for path, _ in named_places(block)] == ["", "0", "1"]
    for _ in range(20):  # 2 ** 20 names
        block = nn.Sequential(block, block)
    assert len(named_places(block)) == 23
    assert cost(nn.Sequential(layer), input_shape=(1, 10)).forward.macs == 100


class Buffers(nn.Module):
    def __init__(self, stride=2):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)
        self.register_buffer("stride", torch.tensor(stride))
        self.register_buffer("sizes", torch.tensor([4, 6]))
        self.register_buffer("ready", torch.tensor(False))
        self.register_buffer("table", torch.zeros(1000))
        self.plain = torch.tensor([3.0])

    def forward(self, x):
        if not self.ready:
            self.ready.fill_(True)
        y = self.layer(x)
        y = nn.functional.max_pool2d(y, int(self.stride))
        height, width = self.sizes.tolist()
        y = nn.functional.interpolate(y, size=(height + int(self.sizes[0] * 2), width))
        return y * self.plain.item() * (1 if self.ready else int(self.table[0]))


def test_buffers_are_constants():
    for stride in (1, 2):
        model = Buffers(stride)
        counted = cost(model, input_shape=(1, 3, 12, 12), optimizer="sgd")
        assert counted.output_shapes == ((1, 4, 12, 6),)
        assert counted.forward.macs == 144 * 4 * 27
        assert counted.forward.macs == cost(model, example_input=torch.ones(1, 3, 12, 12), run=True).forward.macs
        assert not model.ready
    norm = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=None)).train()
    assert cost(norm, input_shape=(2, 3, 4, 4)).forward.macs == 2 * 16 * 12
    assert norm[1].num_batches_tracked == 0
    with pytest.raises(ConvolithError, match="decides by values .*pass run=True"):
        cost(Of(lambda s, x: x[: int(s.table[0])], table=nn.Parameter(torch.ones(3))), input_shape=(3,))


def test_scripted_parts_are_copied():
    inner = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), inner)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    copied = cloned(model)
    for tensor in copied.state_dict().values():
        tensor.zero_()
    x = torch.ones(2, 3, 8, 8)
    cost(model, example_input=x, run=True)
    cost(model, input_shape=(2, 3, 8, 8), optimizer="sgd", verify=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_compiled_models_run_as_they_were_written():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    counted = cost(torch.compile(model, backend="eager"), input_shape=(1, 3, 8, 8))
    assert {row.name: row.forward.macs for row in counted.rows}["_orig_mod.0"] == counted.forward.macs == 36 * 4 * 27
    model.compile(backend="eager")
    assert cost(model, input_shape=(1, 3, 8, 8)).forward.macs == 36 * 4 * 27
    function = Of(lambda s, x: s.call(s.layer(x)), layer=nn.Conv2d(3, 4, 3))
    function.call = torch.compile(lambda y: y * 2, backend="eager")
    assert cost(function, input_shape=(1, 3, 8, 8), backward=False).forward.elementwise == 36 * 4


def test_objects_that_cannot_be_copied_are_shared():
    import threading

    model = nn.Sequential(nn.Linear(3, 3))
    model.lock, model.stream = threading.Lock(), sys.stdout
    model.lines = (n for n in range(3))
    made = cloned(model)
    assert made.lock is model.lock
    assert made.stream is sys.stdout
    assert made.lines is model.lines
    found = cost(model, input_shape=(1, 3), optimizer="sgd", verify=True).peak
    assert found.bytes == found.measured


def test_grown_copies_begin_without_what_the_first_run_made():
    class Caches(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other, self.ones = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1), None

        def forward(self, x):
            y = self.one(x)
            if self.ones is None:
                self.ones = torch.ones(y.shape[1], 1, 1)
            return self.other(y * self.ones)

    scaled = cost(Caches(), input_shape=(1, 3, 8, 8)).scaled(channels=2)
    assert scaled.after.forward.macs == 2 * scaled.before.forward.macs
