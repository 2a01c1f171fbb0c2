"""A copy of a model to record: module objects of its own, the model's parameters, weights that are computed already."""

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
"""The attributes in which a module keeps the functions that run before and after it."""


def structural_copy(model: nn.Module) -> nn.Module:
    """Return a copy of the module tree that shares the parameters' memory and the hooks; buffers are copies.

    Raises:
        ConvolithError: a model that cannot be copied.
    """
    return own_module(model, {id(p): p for p in model.parameters()})


def with_computed_weights(model: nn.Module) -> nn.Module:
    """Return a structural copy with parametrised weights (weight norm, ...) as they are now; a plain model itself."""
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
    """Return a module of the class that was parametrised, with the weights as they are computed now.

    Torch's own function removes the weight from the class, which copies share with the user's module.
    """
    made: nn.Module = shallow_copy(module)
    made.__class__ = type(module).__bases__[0]
    parametrizations: Any = made._modules.pop("parametrizations")
    with torch.no_grad():
        for name, parametrization in parametrizations.items():
            learns = any(p.requires_grad for p in parametrization.parameters())
            made.register_parameter(name, nn.Parameter(getattr(module, name).detach().clone(), learns))
    return made


def _remove_norm(module: nn.Module, hook: Any) -> None:
    """Remove one of torch's older weight norms, which are hooks."""
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
    """Return the functions that run before and after a module, without torch's own weight norms."""
    found = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    return [hook for hook in found if not _is_norm(hook)]


def hooked(model: nn.Module) -> dict[str, str]:
    """Return the modules with hooks that have to run in the folded model too, with the reason.

    Hooks that a package registers on its own models (transformers does so at the first call, to be able to return
    intermediate results) are not among them.
    """
    packages = {type(module).__module__.partition(".")[0] for module in model.modules()} - {"torch", "__main__"}
    return {
        name: "it has hooks, which run in the folded model too"
        for name, module in model.named_modules()
        if name and any(_package(hook) not in packages or not _is_installed(hook) for hook in hooks_of(module))
    }


def bookkeeping(model: nn.Module) -> list[str]:
    """Return the modules whose hooks are their own package's, and are not carried over."""
    carried = hooked(model)
    return [name for name, module in model.named_modules() if name and name not in carried and hooks_of(module)]


def _package(hook: Any) -> str:
    function = getattr(hook, "func", hook)
    return str(getattr(function, "__module__", "") or "").partition(".")[0]


def _is_installed(hook: Any) -> bool:
    """Return whether a hook's code lies in an installed package, and not in the user's own files."""
    function: Any = getattr(hook, "func", hook)
    code = getattr(getattr(function, "__func__", function), "__code__", None)
    return code is not None and any(part in code.co_filename for part in ("site-packages", "dist-packages"))


def without_hooks(module: nn.Module) -> nn.Module:
    """Return the same module without its own hooks; those of its parts stay."""
    bare: nn.Module = shallow_copy(module)
    drop_hooks(bare)
    return bare


def drop_hooks(module: nn.Module) -> None:
    """Remove all hooks of a module of a structural copy, in place."""
    for name in HOOKS:
        setattr(module, name, OrderedDict())
