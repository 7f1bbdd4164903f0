"""Which parameters the matrix is of."""

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from curvescope._core.checks import describe, message
from curvescope.autodiff.layout import Layout

Selection = (
    None
    | str
    | re.Pattern[str]
    | Iterable[str]
    | Callable[[str, Tensor], bool]
    | Mapping[str, Tensor]
    | Tensor
    | nn.Module
)


def select(model: nn.Module, params: Any) -> Layout:
    """Return the layout of the parameters that ``params`` selects.

    Args:
        model: The module; its ``named_parameters()`` give names and order.
        params: ``None`` (those with ``requires_grad``), ``"all"``, ``"weights"`` (those
            of two or more dimensions), a glob or several, a compiled regular expression,
            a predicate of name and parameter, a submodule, or a mask: a mapping of
            names to boolean tensors, or one boolean vector over all parameters.

    Raises:
        ValueError: If nothing is selected or a selected parameter is not real.
        TypeError: If ``params`` is of no known kind.
    """
    named = dict(model.named_parameters())
    if not named:
        raise ValueError(message("model", "have parameters", type(model).__name__))
    layout = _masked(named, params) if _is_mask(params) else None
    if layout is None:
        chosen = _predicate(model, params)
        # A tied parameter has several names, of which any selects it.
        aliases: dict[int, list[str]] = {}
        for alias, p in model.named_parameters(remove_duplicate=False):
            aliases.setdefault(id(p), []).append(alias)
        layout = Layout.of(
            {
                n: p
                for n, p in named.items()
                if any(chosen(a, p) for a in aliases[id(p)])
            }
        )
    if layout.size == 0:
        shown = ", ".join(list(named)[:8]) + (", ..." if len(named) > 8 else "")
        remedy = f"The model has {shown}."
        if params is None:
            remedy = f'All are frozen; pass `params="all"`. {remedy}'
        raise ValueError(
            message("params", "select at least one parameter", repr(params), remedy)
        )
    for name in layout.names:
        if not named[name].is_floating_point():
            got = f"{name} of {named[name].dtype}"
            raise ValueError(message("params", "select floating-point parameters", got))
    return layout


def _is_mask(params: Any) -> bool:
    return isinstance(params, (Tensor, Mapping))


def _masked(
    named: Mapping[str, Tensor], params: Mapping[str, Tensor] | Tensor
) -> Layout:
    if isinstance(params, Tensor):
        total = sum(p.numel() for p in named.values())
        if params.dtype != torch.bool or params.numel() != total:
            contract = f"be a boolean vector over all {total} parameters"
            raise ValueError(message("params", contract, describe(params)))
        pieces = params.reshape(-1).split([p.numel() for p in named.values()])
        params = {n: m for n, m in zip(named, pieces, strict=True) if bool(m.any())}
    unknown = sorted(set(params) - set(named))
    if unknown:
        raise ValueError(message("params", "name parameters of the model", unknown))
    kept = {name: p for name, p in named.items() if name in params}
    if any(
        params[n].dtype != torch.bool or params[n].numel() != p.numel()
        for n, p in kept.items()
    ):
        contract = "map names to boolean masks of the parameters' shapes"
        got = {n: describe(params[n]) for n in kept}
        raise ValueError(message("params", contract, got))
    if not kept:
        return Layout((), ())
    mask = torch.cat([params[n].reshape(-1) for n in kept])
    device = next(iter(kept.values())).device
    return Layout.of(kept, entries=mask.nonzero()[:, 0].to(device))


def _predicate(model: nn.Module, params: Any) -> Callable[[str, Tensor], bool]:
    if params is None:
        return lambda _, p: p.requires_grad
    if isinstance(params, nn.Module):
        inside = {id(p) for p in params.parameters()}
        return lambda _, p: id(p) in inside
    if isinstance(params, re.Pattern):
        return lambda name, _: params.search(name) is not None
    if isinstance(params, str):
        if params == "all":
            return lambda _, __: True
        if params == "weights":
            return lambda _, p: p.ndim > 1
        return lambda name, _: _glob(name, params)
    if callable(params):
        return lambda name, p: bool(params(name, p))
    try:
        patterns = tuple(params)
    except TypeError:
        contract = "be a glob, a pattern, a predicate, a submodule or a mask"
        raise TypeError(message("params", contract, describe(params))) from None
    names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    dead = [p for p in patterns if not any(_glob(n, p) for n in names)]
    if dead:
        remedy = f"The model has {', '.join(names[:8])}."
        raise ValueError(
            message("params", "match parameters of the model", dead, remedy)
        )
    return lambda name, _: any(_glob(name, p) for p in patterns)


def _glob(name: str, pattern: str) -> bool:
    """Match a name, or everything inside the module of that name."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def layers(layout: Layout) -> dict[str, tuple[str, ...]]:
    """Group a layout's parameters by the module that owns them, in order."""
    groups: dict[str, list[str]] = {}
    for name in layout.names:
        owner = name.rpartition(".")[0] or "(top)"
        groups.setdefault(owner, []).append(name)
    return {owner: tuple(names) for owner, names in groups.items()}
