"""Copies of a model for recording: separate module objects, shared parameters, and precomputed weights."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from convolith.folding.graph_copies import own_module, shallow_copy

HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
"""Attributes in which a module keeps its forward hooks and pre-hooks."""


def structural_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the module tree that shares the parameters and hooks; buffers are copied.

    Raises:
        ConvolithError: if the model cannot be copied.
    """
    return own_module(model, {id(p): p for p in model.parameters()})


def with_computed_weights(model: nn.Module) -> nn.Module:
    """Return a structural copy with precomputed parametrised weights (weight norm...), or the model if it has none."""
    if not any(map(_computes_weights, model.modules())):
        return model
    copied = structural_copy(model)
    for name, module in list(copied.named_modules()):
        if parametrize.is_parametrized(module):
            _set(copied, name, _unparametrised(module))
        elif _computes_weights(module):
            own = copy.deepcopy(module)
            for hook in list(own._forward_pre_hooks.values()):
                if _is_norm(hook):
                    _remove_norm(own, hook)
            _set(copied, name, own)
    return copied


def _computes_weights(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or any(map(_is_norm, module._forward_pre_hooks.values()))


def _unparametrised(module: nn.Module) -> nn.Module:
    """Return a module of the original class, with parametrised weights replaced by their present values.

    Torch's own function removes the weight from the class, which copies share with the user's module.
    """
    result: nn.Module = shallow_copy(module)
    result.__class__ = type(module).__bases__[0]
    parametrizations: Any = result._modules.pop("parametrizations")
    with torch.no_grad():
        for name, parametrization in parametrizations.items():
            learns = any(p.requires_grad for p in parametrization.parameters())
            result.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone(), learns))
    return result


def _remove_norm(module: nn.Module, hook: Any) -> None:
    """Remove a weight norm or spectral norm of torch's older kind, which is a hook."""
    with torch.no_grad():
        if type(hook).__name__ == "WeightNorm":
            nn.utils.remove_weight_norm(module, hook.name)
        else:
            nn.utils.remove_spectral_norm(module, hook.name)


def _is_norm(hook: Any) -> bool:
    return type(hook).__module__ in ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm")


def _set(model: nn.Module, name: str, module: nn.Module) -> None:
    if name:
        model.set_submodule(name, module)
    else:
        model.__class__, model.__dict__ = module.__class__, module.__dict__


def hooks_of(module: nn.Module) -> list[Any]:
    """Return a module's forward hooks and pre-hooks, without torch's own weight norms."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return [hook for hook in hooks if not _is_norm(hook)]


def hooked(model: nn.Module) -> dict[str, str]:
    """Return the names of modules with hooks that have to run in the folded model too, with the reason.

    Hooks that a package registers on its own models (transformers does so at the first call, to be able to return
    intermediate results) are not included.
    """
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "__main__"}
    return {
        name: "it has hooks, which run in the folded model too"
        for name, module in model.named_modules()
        if name and any(_package(hook) not in packages or not _is_installed(hook) for hook in hooks_of(module))
    }


def bookkeeping(model: nn.Module) -> list[str]:
    """Return the names of modules whose hooks come from their own package and are not carried over."""
    carried = hooked(model)
    return [name for name, module in model.named_modules() if name and name not in carried and hooks_of(module)]


def _package(hook: Any) -> str:
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "") or "").partition(".")[0]


def _is_installed(hook: Any) -> bool:
    """Return whether a hook's code is in an installed package, not in the user's own files."""
    function: Any = getattr(hook, "func", hook)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and any(part in code.co_filename for part in ("site-packages", "dist-packages"))


def without_hooks(module: nn.Module) -> nn.Module:
    """Return a shallow copy of a module without its own hooks; its submodules keep theirs."""
    bare: nn.Module = shallow_copy(module)
    drop_hooks(bare)
    return bare


def drop_hooks(module: nn.Module) -> None:
    """Remove all hooks of a module of a structural copy, in place."""
    for name in HOOKS:
        setattr(module, name, OrderedDict())
