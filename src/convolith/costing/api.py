"""The function `cost`, which counts a layer in closed form and a model operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, overload

import numpy as np
import torch
from torch.nn.parameter import UninitializedParameter

from convolith.arrays import as_tensor
from convolith.conv import Conv
from convolith.costing.counting import UNGROWN
from convolith.costing.layer_cost import LayerCost, layer_cost
from convolith.costing.model_cost import ModelCost
from convolith.costing.module_counts import count_model
from convolith.costing.peak import Peak, peak_of
from convolith.costing.tracing.fake_models import Shape, check_lazy
from convolith.dtypes import check_dtype
from convolith.errors import ConvolithError, check_flag, check_option
from convolith.geometry import check_whole
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import safe_in_forks
from convolith.work import CONVENTIONS

LAYERS = (
    torch.nn.Conv1d,
    torch.nn.Conv2d,
    torch.nn.Conv3d,
    torch.nn.ConvTranspose1d,
    torch.nn.ConvTranspose2d,
    torch.nn.ConvTranspose3d,
)


_Convolution = (
    torch.nn.Conv1d
    | torch.nn.Conv2d
    | torch.nn.Conv3d
    | torch.nn.ConvTranspose1d
    | torch.nn.ConvTranspose2d
    | torch.nn.ConvTranspose3d
)


@overload
def cost(  # type: ignore[overload-overlap]  # a layer is a module with another return type
    subject: ConvSpec | Conv | _Convolution,
    *,
    input_shape: Any = None,
    convention: str = "dense",
    input_gradient: bool | None = None,
) -> LayerCost: ...


@overload
def cost(
    subject: torch.nn.Module,
    *,
    input_shape: Any = None,
    input_dtype: Any = None,
    example_input: Any = None,
    convention: str = "dense",
    backward: bool = True,
    input_gradient: bool | None = None,
    run: bool = False,
    optimizer: str | None = None,
    verify: bool = False,
) -> ModelCost: ...


@safe_in_forks
def cost(
    subject: Any,
    *,
    input_shape: Any = None,
    input_dtype: Any = None,
    example_input: Any = None,
    convention: str = "dense",
    backward: bool = True,
    input_gradient: bool | None = None,
    run: bool = False,
    optimizer: str | None = None,
    verify: bool = False,
) -> LayerCost | ModelCost:
    """Count the multiplications, additions and bytes of a layer or a model, forward and backward, before it runs.

    One rule counts every pass: multiplications are the products formed; additions are the products minus the elements
    of the result that receive at least one product, plus one per output if there is a bias. The gradients of input and
    weights form as many products as the forward pass; the gradient of the bias takes additions only. A layer is counted
    in closed form. A model runs once on tensors without memory, and every operator is counted as torch dispatches it;
    `ModelCost.unknown` lists operators that have no rule. `macs` are the products of convolutions, matrix products and
    attention.

    The model is not modified: a copy of its structure runs, with its own modules, containers, hooks and objects. Other
    threads may use or count the model meanwhile. Small tensors without gradients (such as buffers with a stride or a
    flag) keep their values, which the model's code may read. A module with several names is counted under the name by
    which it is called.

    Memory is in bytes: input + parameters + output (forward); gradients + tensors saved by autograd (backward).

    Args:
        subject: a `ConvSpec`, a `Conv`, a torch convolution, or any torch module, in training or evaluation mode.
        input_shape: (N, in_channels, *size) or (in_channels, *size); a list of shapes for a model with several inputs.
            Not for a `ConvSpec`.
        input_dtype: dtype of a model's inputs, by name: one for all, or one for each; by default the parameters' dtype.
        example_input: input of a model, in place of shapes: a tensor, a tuple of arguments, or a dict of keywords.
        convention: `"dense"` counts products with the zeros of the padding, as every tool does; `"effective"` leaves
            them out.
        backward: for a model, whether to count a backward pass, for the parameters that require gradients.
        input_gradient: whether to count the gradient of the input; by default yes for a layer, no for a model.
        run: whether to count a real run on `example_input`, for a model whose control flow depends on values.
        optimizer: for a model, `"sgd"`, `"momentum"` or `"adam"`; the peak memory of a training step is then predicted,
            with the sum of the outputs as the loss (`ModelCost.peak`).
        verify: whether also to run such a step on a copy of the model and measure its peak. The state of torch's random
            generator is restored.

    Returns:
        A `LayerCost` for a layer, a `ModelCost` for a model; both can be printed.

    Raises:
        ConvolithError: a subject that is neither a layer nor a model; a shape or an example that is missing or does not
            fit (the message names the module that raised), or both of them; an option of models for a layer; `run`
            without an example, `verify` without an optimizer, or `run` with one; lazy modules without shapes; a model
            whose control flow depends on values; with an optimizer, a model without trainable parameters, or, with
            `verify`, on another device than the CPU.

    Example:
        >>> import torch
        >>> import convolith as cl
        >>> layer = cl.cost(cl.ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1))
        >>> layer.forward.multiplications, layer.forward.additions
        (115605504, 115404800)
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.ReLU(), torch.nn.Flatten())
        >>> counted = cl.cost(model, input_shape=(1, 3, 10, 10))
        >>> counted.forward.macs, counted.forward.others, counted.backward.input_gradient.macs
        (13824, 512, 0)
    """
    check_option("convention", convention, CONVENTIONS)
    flags = {"backward": backward, "run": run, "verify": verify}
    backward, run, verify = (check_flag(name, value) for name, value in flags.items())
    input_gradient = None if input_gradient is None else check_flag("input_gradient", input_gradient)
    if isinstance(subject, torch.nn.Module) and not _is_layer(subject):
        if run and example_input is None:
            raise ConvolithError("run is True without an example_input, whose values would decide; pass one")
        if optimizer is None and verify:
            raise ConvolithError("verify is True without an optimizer, whose step would be run; pass one, such as sgd")
        if optimizer is not None and run:
            raise ConvolithError(
                "optimizer was given together with run=True, but a step's peak is predicted from shapes; leave one out"
            )
        arguments, keywords = _inputs(subject, input_shape, input_dtype, example_input)
        options = {"convention": convention, "backward": backward, "input_gradient": bool(input_gradient), "real": run}
        counted = _model_cost(subject, arguments, keywords, options)
        return (
            counted
            if optimizer is None
            else _with_peak(counted, subject, arguments, keywords, optimizer, verify=verify)
        )
    if example_input is not None or input_dtype is not None or run or not backward or optimizer is not None or verify:
        named = {"example_input": example_input, "input_dtype": input_dtype, "run": run or None}
        named |= {"optimizer": optimizer, "verify": verify or None}
        name = next((name for name, value in named.items() if value is not None), "backward=False")
        raise ConvolithError(
            f"{name} was given for a layer, which is counted in closed form; leave it out, or pass "
            "torch.nn.Sequential(layer), a model"
        )
    wanted = (input_gradient in (None, True), *_trained(subject))
    return layer_cost(_spec(subject, input_shape), convention=convention, gradients=wanted)


def _model_cost(model: torch.nn.Module, arguments: Any, keywords: Any, options: dict[str, Any]) -> ModelCost:
    """Count a model; if its only input is given by shape, the result can count it again at other shapes."""

    def at(one: Shape, growth: Any) -> ModelCost:
        def again(size: tuple[int, ...], more: Any = UNGROWN) -> ModelCost:
            grown = tuple(a * b for a, b in zip(growth, more, strict=True))
            try:
                return at(replace(one, size=size), grown)
            except ConvolithError as problem:
                if grown == UNGROWN:
                    raise
                times = f"{float(grown[0]):g} times the channels and {float(grown[1]):g} times the kernels' size"
                raise ConvolithError(f"with {times}, {problem}") from problem

        counted = count_model(model, (one,), keywords, **options, growth=growth)
        return replace(counted, input_shape=one.size, count_at=again)

    if len(arguments) == 1 and isinstance(arguments[0], Shape):
        return at(arguments[0], UNGROWN)
    return count_model(model, arguments, keywords, **options)


def _with_peak(
    counted: ModelCost, model: torch.nn.Module, arguments: Any, keywords: Any, optimizer: str, *, verify: bool
) -> ModelCost:
    """Add the peak memory of a training step to a cost."""

    def at(batch: int | None) -> Peak:
        resized = arguments if batch is None else _resized(arguments, keywords, batch)
        return peak_of(model, resized, keywords, optimizer, verify=verify and batch is None)

    return replace(counted, peak=at(None), peak_at=at)


def _is_layer(module: torch.nn.Module) -> bool:
    """Return whether a module is a convolution layer whose forward pass is neither overridden nor hooked."""
    own = next((cls for cls in LAYERS if isinstance(module, cls)), None)
    if own is None or isinstance(vars(module).get("_parameters", {}).get("weight"), UninitializedParameter):
        return own is not None
    conv_forward = getattr(type(module), "_conv_forward", None)
    inherited = type(module).__module__ == "convolith.nn" or (
        type(module).forward is own.forward and conv_forward is getattr(own, "_conv_forward", None)
    )
    hooked = module._forward_pre_hooks or module._forward_hooks
    return inherited and not hooked and "weight" in module._parameters


def _trained(subject: Any) -> tuple[bool, bool]:
    """Return whether the weights and the bias of a layer require gradients."""
    if not isinstance(subject, torch.nn.Module):
        return True, True
    check_lazy(subject)
    weight, bias = subject.weight, subject.bias
    return bool(weight.requires_grad), bias is not None and bool(bias.requires_grad)


def _shapes(given: Any) -> list[Any]:
    """Return one shape, or several, as a list.

    Raises:
        ConvolithError: a value that is neither a shape nor a sequence of shapes.
    """
    if isinstance(given, Sequence) and not isinstance(given, str):
        if all(isinstance(n, Integral) for n in given):
            return [given]
        if all(isinstance(one, Sequence) and not isinstance(one, str) for one in given):
            return list(given)
    raise ConvolithError(f"input_shape is {given!r}; expected a shape such as (1, 3, 224, 224), or one for each input")


def _resized(arguments: tuple[Any, ...], keywords: Mapping[str, Any], batch: int) -> tuple[Any, ...]:
    """Return the input shapes with another batch size.

    Raises:
        ConvolithError: inputs that were not given by shape.
    """
    if keywords or not all(isinstance(one, Shape) for one in arguments):
        raise ConvolithError("the batch can be changed only for inputs that are given by shape alone; pass input_shape")
    return tuple(replace(one, size=(batch, *one.size[1:])) for one in arguments)


def _spec(subject: Any, input_shape: Sequence[int] | None) -> ConvSpec:
    if isinstance(subject, ConvSpec):
        if input_shape is not None:
            raise ConvolithError("input_shape was given together with a ConvSpec, which has its own; leave it out")
        return subject
    if not isinstance(subject, Conv | torch.nn.Module):
        raise ConvolithError(f"subject is a {type(subject).__name__}; expected a ConvSpec, a Conv or a torch module")
    if input_shape is None:
        raise ConvolithError(
            f"input_shape is missing: a {type(subject).__name__} has none of its own; pass input_shape=(N, C, *size)"
        )
    return subject.spec(input_shape) if isinstance(subject, Conv) else ConvSpec.from_module(subject, input_shape)


def usual_dtype(model: torch.nn.Module) -> torch.dtype:
    """Return the dtype of a model's first real or complex parameter, or torch's default dtype if there is none."""
    kinds = (p.dtype for p in model.parameters() if p.is_floating_point() or p.is_complex())
    return next(kinds, torch.get_default_dtype())


def _dtypes(model: torch.nn.Module, given: Any, inputs: int) -> list[torch.dtype]:
    """Return the dtype of each input.

    Raises:
        ConvolithError: names that are not dtypes, or a list whose length is not the number of inputs.
    """
    if given is None:
        return [usual_dtype(model)] * inputs
    several = list(given) if isinstance(given, list | tuple) else [given] * inputs
    names = [str(one).removeprefix("torch.") for one in several]
    if len(names) != inputs:
        raise ConvolithError(f"input_dtype is {given!r}; expected one for all inputs, or one for each of {inputs}")
    return [model_dtype("input_dtype", name) for name in names]


def model_dtype(argument: str, name: str) -> torch.dtype:
    """Return the dtype of a model's input by its name: a dtype that layers take, or bool.

    Raises:
        ConvolithError: an unsupported name.
    """
    if name != "bool":
        check_dtype(argument, name)
    return torch_dtype(name)


def _inputs(
    model: torch.nn.Module, input_shape: Any, input_dtype: Any, example_input: Any
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the positional and keyword arguments of a model's call."""
    if (input_shape is None) == (example_input is None):
        came = "both" if input_shape is not None else "neither"
        raise ConvolithError(
            f"{came} of input_shape and example_input were given; expected one: a shape such as (1, 3, 224, 224), "
            "several, or tensors"
        )
    if example_input is None:
        shapes = _shapes(input_shape)
        sizes = [tuple(check_whole(f"an entry of input_shape {tuple(shape)}", n, 0) for n in shape) for shape in shapes]
        device = next((str(p.device) for p in model.parameters()), "cpu")
        dtypes = _dtypes(model, input_dtype, len(sizes))
        return tuple(Shape(size, dtype, device) for size, dtype in zip(sizes, dtypes, strict=True)), {}
    if input_dtype is not None:
        raise ConvolithError("input_dtype was given together with an example_input, which has its own; leave it out")
    if isinstance(example_input, Mapping):
        return (), dict(example_input)
    several = example_input if isinstance(example_input, tuple | list) else (example_input,)
    return tuple(as_tensor("example_input", one) if isinstance(one, np.ndarray) else one for one in several), {}
