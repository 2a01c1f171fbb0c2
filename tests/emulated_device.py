"""A device that is none: tensors that say that they are on it, and are computed on the CPU; for `test_cuda.py` without a GPU.

As a plugin of pytest (`-p tests.emulated_device`) it registers the device "emulated". Operators of tensors on two devices are
refused, and so are matrix products and convolutions of integers, as on a GPU. `numpy()` has no meaning there, either.
"""

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from convolith import torch_private
from convolith.correlation import functional

NAME = "emulated"
MOVING = ("_to_copy", "copy_", "set_", "index", "index_put", "index_put_", "_index_put_impl_", "lift_fresh")
"""Operators that take tensors of the CPU beside those of a device."""
PRODUCTS = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm", "mv", "dot")
"""Operators that a GPU does not have for integers."""
VALUES = ("_local_scalar_dense", "equal", "is_same_size")
"""Operators that give no tensor."""


class Elsewhere(torch.Tensor):
    """Tensor on the device; `inner` has its values."""

    @staticmethod
    def __new__(cls, inner):
        shape = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, inner.size(), device=torch.device(NAME, 0), **shape)
        made.inner = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


class Mode(TorchDispatchMode):
    """Mode that sees tensors of the CPU on their way to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return computed(func, args, kwargs or {})


def computed(func, args, kwargs):
    """Call an operator on the values, and put the result onto the device if an operand or the caller says so."""
    name = func._schema.name.split("::")[1]
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    if there and name not in MOVING and any(t.ndim and not isinstance(t, Elsewhere) for t in tensors):
        raise RuntimeError(f"{name}: tensors on two devices")
    if there and name in PRODUCTS and not (there[0].inner.is_floating_point() or there[0].inner.is_complex()):
        raise RuntimeError(f"{name}: not implemented for integers")
    if name == "device":
        return tensors[0].device
    wanted = kwargs.get("device")
    wanted = None if wanted is None else torch.device(wanted).type
    if wanted == NAME:
        kwargs = kwargs | {"device": torch.device("cpu")}
    out = func(*tree_map(bare, args), **tree_map(bare, kwargs))
    if name.endswith("_") and not isinstance(out, tuple | list):
        return args[0]
    onto = bool(there) if wanted is None else wanted == NAME
    return tree_map(placed, out) if onto and name not in VALUES else out


def bare(leaf):
    return leaf.inner if isinstance(leaf, Elsewhere) else leaf


def placed(leaf):
    return Elsewhere(leaf) if isinstance(leaf, torch.Tensor) and not isinstance(leaf, Elsewhere) else leaf


class Module(backend_registration._DummyBackendModule):
    """What torch asks of a device."""

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed): ...


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=Module())
Mode().__enter__()  # for the rest of this process
torch_private._count_modes = lambda: torch._C._len_torch_dispatch_stack() - 1
functional.DEVICES[torch.float64] += (NAME,)
