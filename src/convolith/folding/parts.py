"""A model whose own code depends on the data, folded part by part, around the code that cannot be captured."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from convolith.errors import ConvolithError
from convolith.folding.capture import capture, hooks_of
from convolith.folding.copies import own_copy
from convolith.folding.report import Report, Rewrite, Skipped
from convolith.folding.rewriting import rewrite
from convolith.folding.sizes import Inputs, outputs


def fold_parts(
    model: nn.Module, inputs: Inputs, refusal: ConvolithError, *, measure: bool, everything: bool
) -> tuple[nn.Module, nn.Module, Report]:
    """A model whose largest parts that can be captured are folded, in float64 and in its own dtype, and the report.

    Raises:
        ConvolithError: the refusal of the whole, if no part has anything to fold.
    """
    calls = _calls(model, inputs)
    wide, result = copy.deepcopy(model).double(), copy.deepcopy(model)
    reports: dict[str, Report] = {}
    waiting = [name for name, _ in model.named_children()]
    while waiting:
        name = waiting.pop(0)
        part, given = model.get_submodule(name), calls.get(name)
        hooks = hooks_of(part)
        if given is not None and "" not in hooks:  # hooks of the part itself would go with it
            try:
                captured = capture(part, given, hooks)
                folded, report = rewrite(captured, given, measure=measure, everything=everything)
            except ConvolithError:
                pass
            else:
                own = own_copy(folded, given[0].dtype, like=captured.module)
                if report.rewrites and _replaced(result, name, own, inputs):
                    wide.set_submodule(name, folded)
                    reports[name] = report
                continue
        waiting += [f"{name}.{child}" for child, _ in part.named_children()]
    if not reports:
        raise refusal
    rewrites = [_renamed(rewrite, name) for name, report in reports.items() for rewrite in report.rewrites]
    skipped = [
        replace(entry, module=f"{name}.{entry.module}") for name, report in reports.items() for entry in report.skipped
    ]
    names = [name for name in Report.__dataclass_fields__ if name.endswith(("_before", "_after"))]
    sums: dict[str, Any] = {name: sum(getattr(report, name) for report in reports.values()) for name in names}
    others = dict(sum((Counter(report.others) for report in reports.values()), Counter()))
    whole = Skipped("-", "the model", f"{refusal}; only parts are folded, and counted", "kept")
    return wide, result, Report(tuple(rewrites), (whole, *skipped), others=others, **sums)


def _calls(model: nn.Module, inputs: Inputs) -> dict[str, Inputs]:
    """What each module is called with first, if that is float tensors only."""
    found: dict[str, Inputs] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            plain = args and not kwargs and all(isinstance(a, torch.Tensor) and a.is_floating_point() for a in args)
            if plain and name not in found:
                found[name] = tuple(a.detach().clone() for a in args)

        return hook

    handles = [m.register_forward_pre_hook(keep(name), with_kwargs=True) for name, m in model.named_modules() if name]
    try:
        with torch.no_grad():
            outputs(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _replaced(result: nn.Module, name: str, folded: nn.Module, inputs: Inputs) -> bool:
    """Whether the model runs with a part folded; it is put back where the model's code looks into it."""
    before = result.get_submodule(name)
    result.set_submodule(name, folded)
    try:
        with torch.no_grad():
            outputs(result, inputs)
    except Exception:  # noqa: BLE001 - whatever the model's own code raises
        result.set_submodule(name, before)
        return False
    return True


def _renamed(rewrite: Rewrite, name: str) -> Rewrite:
    return replace(
        rewrite, name=f"{name}.{rewrite.name}", modules=tuple(f"{name}.{module}" for module in rewrite.modules)
    )
