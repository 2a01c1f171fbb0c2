"""The optimised model: a torch module that runs compiled programs, and the plain model wherever these do not apply."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import torch

from convolith.errors import ConvolithError
from convolith.folding.capture import HOOKS
from convolith.folding.graph_copies import graph_of_parts, graph_parts
from convolith.folding.other_devices import cpu_by_default
from convolith.jit import at_most, thread_count
from convolith.network.execution.compiled import Compiled
from convolith.network.execution.runtime import Unlike
from convolith.network.execution.schedule import Prepared
from convolith.network.graph.trace import NotTraced, has_own_code
from convolith.torch_private import dispatch_modes, is_forked, needs_torch_operators, on_own_thread, versions_of

Example = tuple[tuple[tuple[int, ...], torch.dtype], ...]
"""Shapes and dtypes of a model's inputs."""
Sizes = tuple[tuple[int | None, ...], ...] | None
"""Shapes of the only inputs that a model takes, with None along the axes that have any size; None for any inputs."""
MOST_SIZES = 8
"""Largest number of input sizes that stay compiled; the least recently used is dropped."""


class Optimized(torch.nn.Module):
    """A model as compiled programs, one for each input size.

    Inputs that need gradients, other dtypes and devices, autocast, `torch.compile` and `torch.export` go to `plain`, an
    ordinary torch module with the parameters; these are copies that need no gradients, until `requires_grad_(True)` is
    called. Weights that are changed in a way that torch counts are noticed at the next call, and everything is prepared
    anew; writes through `.data` or NumPy, and parameters that are replaced by others, are not noticed: call
    `refresh()`.

    It is the `model` of an `Optimization`; the arguments but `example` are attributes too.

    Args:
        plain: the folded model, a torch module; the model's own hooks are this module's.
        accuracy: as in `plan`.
        threads: largest number of threads of the programs; None for torch's.
        example: shape and dtype of each input for which it was optimised.
    """

    def __init__(
        self, plain: torch.nn.Module, accuracy: str, threads: int | None = None, example: Example = ()
    ) -> None:
        super().__init__()
        for name in HOOKS:
            getattr(self, name).update(getattr(plain, name))
            getattr(plain, name).clear()
        for tensor in plain.parameters():
            if tensor.is_leaf:
                tensor.requires_grad = False
            else:  # in a copy of a scripted module
                tensor.detach_()
        self.plain = plain
        self._example = example
        self.accuracy = accuracy
        self.threads = threads
        self._plain_only = False
        self._chosen: dict[str, list[str] | None] = {}
        self.avoided: frozenset[tuple[str, str]] = frozenset()
        """Nodes, and engines that they are not computed by, since these differed from torch."""
        self.sizes: Sizes = None
        """Shapes of the only inputs that a model of a file takes; None along the axes that have any size."""
        self.refresh()
        self.training = False

    def refresh(self) -> None:
        """Forget everything that was prepared from the weights; the next call prepares it anew."""
        self._sizes: OrderedDict[Any, Compiled | None] = OrderedDict()
        self._lock = threading.RLock()
        tensors = (*self.plain.parameters(), *self.plain.buffers())
        self._watched = [tensor for tensor in tensors if not tensor.is_inference()]
        self._versions = versions_of(self._watched)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters and buffers, and forget what was prepared from the old ones."""
        found = super().load_state_dict(*args, **kwargs)
        self.refresh()
        return found

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """Convert the parameters (torch's `to`, `double` and the like), and forget what was prepared from them."""
        found = super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]  # torch has no types here
        self.refresh()
        return found

    def _needs_gradients(self, inputs: tuple[torch.Tensor, ...]) -> bool:
        """Return whether an input or a parameter needs gradients."""
        given = (x for x in inputs if isinstance(x, torch.Tensor))
        return any(tensor.requires_grad for tensor in (*given, *self._watched))

    def train(self, mode: bool = True) -> Optimized:  # noqa: FBT001, FBT002 - torch's own signature
        """Refuse training mode.

        Args:
            mode: True for training mode, False for evaluation mode, which the module has.

        Raises:
            ConvolithError: in training mode; train the original model, and optimise it again.
        """
        if mode:
            raise ConvolithError(
                "an optimised model is for inference; train the original model, then call optimize(model.eval(), ...)"
            )
        super().train(mode=False)
        return self

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Return the model's result for its inputs.

        Args:
            inputs: tensors, as the given model takes them.

        Raises:
            ConvolithError: inputs of other sizes than a model of a file takes.
        """
        if self.sizes is not None and not fits(inputs, self.sizes):
            wanted = [str(shape).replace("None", "any") for shape in self.sizes]
            raise ConvolithError(
                f"inputs of {[tuple(x.shape) for x in inputs]} were given, but the file was saved for "
                f"{', '.join(wanted)} alone, since its code looks at sizes; optimise and save it for these inputs"
            )
        if is_forked():
            return on_own_thread(self.plain, *inputs)
        if self._plain_only or not self._applies(inputs):
            return self.plain(*inputs)
        with at_most(self.threads):
            compiled = self._compiled(inputs)
            if isinstance(compiled, Compiled):
                try:
                    with torch.no_grad():
                        return compiled(inputs)
                except Unlike:  # a module's result depends on values
                    self.remember(inputs, None)
                    compiled = None
        return self.plain(*inputs) if compiled is None else compiled[0]

    def _applies(self, inputs: tuple[Any, ...]) -> bool:
        """Return whether compiled programs can compute a call."""
        if torch.compiler.is_compiling() or dispatch_modes() or needs_torch_operators():
            return False
        for x in inputs:
            if not isinstance(x, torch.Tensor) or not x.is_cpu or x.layout is not torch.strided or not x.numel():
                return False
        return not (torch.is_grad_enabled() and self._needs_gradients(inputs))

    def _compiled(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        """Return the network for a size: compiled, None where it cannot be, or a first result in a tuple."""
        with self._lock:
            if versions_of(self._watched) != self._versions:
                self.refresh()
            key = self._key(inputs)
            if key in self._sizes:
                self._sizes.move_to_end(key)
                return self._sizes[key]
            try:
                choice = self._chosen.get(_size_of(inputs), [])
                if choice is None:
                    raise NotTraced("the folded model was faster")
                with cpu_by_default():
                    known = self._prepared()
                    compiled = Compiled(self.plain, inputs, self.accuracy, choice or None, self.avoided, known)
            except NotTraced:
                self._sizes[key] = None
                return None
            result, compiled.first_result = compiled.first_result, None
            self.remember(inputs, compiled)
            return (result,)

    def _key(self, inputs: tuple[torch.Tensor, ...]) -> Any:
        return tuple((tuple(x.shape), x.dtype) for x in inputs), thread_count()

    def _prepared(self) -> dict[tuple[Any, ...], Prepared]:
        """Return what was prepared from the weights for the sizes so far."""
        found = [compiled.prepared() for compiled in self._sizes.values() if compiled is not None]
        return {key: one for each in found for key, one in each.items()}

    def program(self, inputs: tuple[torch.Tensor, ...]) -> Compiled | None:
        """Return the network that is kept for a size, or None."""
        return None if self._plain_only else self._sizes.get(self._key(inputs))

    def remember(self, inputs: tuple[torch.Tensor, ...], compiled: Compiled | None) -> None:
        """Keep the network for a size; None where the plain model is to be used."""
        self._sizes[self._key(inputs)] = compiled
        while len(self._sizes) > MOST_SIZES:
            self._sizes.popitem(last=False)

    @property
    def is_plain(self) -> bool:
        """Whether torch computes every call."""
        return self._plain_only

    def give_up(self) -> None:
        """Leave every call to the plain model."""
        self._plain_only = True

    def choices(self) -> dict[str, list[str] | None]:
        """Return the engines of all layers for each input size, or None where torch computes it."""
        sizes = {repr(key[0]): compiled for key, compiled in self._sizes.items()}
        return self._chosen | {size: None if found is None else found.engines() for size, found in sizes.items()}

    def choose(self, sizes: dict[str, list[str] | None]) -> None:
        """Take the engines of `choices` at the first call of each input size."""
        self._chosen = dict(sizes)

    def has_code(self) -> bool:
        """Return whether code of the model's own runs beside torch's layers; it may do something else at each size."""
        fixed = self.sizes is not None and all(n is not None for shape in self.sizes for n in shape)
        return fixed or any(map(has_own_code, self.plain.modules()))

    def with_hooks(self) -> torch.nn.Module:
        """Return the plain model, with the model's own hooks if it has any, which run when it is called."""
        if not any(getattr(self, name) for name in HOOKS):
            return self.plain
        hooked = _Called(self.plain)
        for name in HOOKS:
            setattr(hooked, name, getattr(self, name))
        return _Called(hooked)  # the hooks of the outermost module are not exported

    def example(self) -> tuple[torch.Tensor, ...]:
        """Return zeros of the example's size; of two images at least unless the model has code of its own."""
        least = 1 if self.has_code() else 2
        return tuple(
            torch.zeros((max(shape[0], least), *shape[1:]), dtype=dtype, device="cpu") for shape, dtype in self._example
        )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for name in ("_sizes", "_lock", "_watched", "_versions"):
            del state[name]
        parts = graph_parts(self.plain)
        if parts is not None:
            state["_modules"] = {**state["_modules"], "plain": None}
            state["parts"] = parts
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        parts = state.pop("parts", None)
        self.__dict__.update(state)
        if parts is not None:
            self._modules["plain"] = graph_of_parts(*parts)
        self.refresh()


class _Called(torch.nn.Module):
    """Module that calls another one."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model
        self.training = False

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.model(*inputs)


def fits(inputs: tuple[torch.Tensor, ...], sizes: tuple[tuple[int | None, ...], ...]) -> bool:
    """Return whether inputs have some shapes; None along an axis stands for any size."""
    return len(inputs) == len(sizes) and all(
        x.ndim == len(shape) and all(n in (m, None) for m, n in zip(x.shape, shape, strict=True))
        for x, shape in zip(inputs, sizes, strict=True)
    )


def _size_of(inputs: tuple[torch.Tensor, ...]) -> str:
    return repr(tuple((tuple(x.shape), x.dtype) for x in inputs))
