"""Which parameters make up a layer, or a group that the user names."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope.problem import Problem

Group = str | Iterable[str] | Callable[[str, Tensor], bool]
Groups = Mapping[str, Group] | Callable[[str], str | None]


def resolve_groups(
    problem: Problem, groups: Groups | None
) -> dict[str, tuple[str, ...]]:
    """Return the parameters' names of every layer, or of every group that is named.

    Args:
        problem: What the parameters are of.
        groups: By name globs (of parameters, or of modules with all that is in them) or
            a predicate of name and parameter; or a function from a parameter's name to
            its group's, ``None`` for no group. Without groups every module's own
            parameters are a layer.

    Raises:
        ValueError: If a group is empty, or there is none.
        TypeError: If ``groups`` is of another kind.
    """
    if groups is None:
        return problem.layers()
    selected = problem.layout.names
    if isinstance(groups, Mapping):
        found = {}
        for name, choice in groups.items():
            try:
                names = frozenset(problem.select(choice).layout.names)
            except ValueError as error:
                contract = f"find parameters for {name!r}"
                text = message("groups", contract, choice, str(error))
                raise ValueError(text) from None
            found[str(name)] = tuple(n for n in selected if n in names)
    elif callable(groups):
        found = {}
        for parameter in selected:
            group = groups(parameter)
            if group is not None:
                found[group] = (*found.get(group, ()), parameter)
    else:
        contract = "map names to globs or predicates, or be a function of a name"
        raise TypeError(message("groups", contract, describe(groups)))
    empty = [name for name, names in found.items() if not names]
    if empty or not found:
        shown = ", ".join(selected[:8]) + (", ..." if len(selected) > 8 else "")
        remedy = f"Selected are {shown}."
        got = f"{empty} without any" if empty else "no group"
        raise ValueError(message("groups", "hold selected parameters", got, remedy))
    return found


def restricted(problem: Problem, names: Iterable[str]) -> Problem:
    """Return the problem of some of its selected parameters, a mask's entries kept."""
    chosen = frozenset(names)
    entries = problem.layout.entries
    if entries is None:
        return problem.select(lambda name, _: name in chosen)
    kept = torch.zeros(problem.layout.full_size, dtype=torch.bool)
    kept[entries.cpu()] = True
    shapes = zip(problem.layout.names, problem.layout.shapes, strict=True)
    masks, start = {}, 0
    for name, shape in shapes:
        stop = start + shape.numel()
        if name in chosen and bool(kept[start:stop].any()):
            masks[name] = kept[start:stop].view(shape)
        start = stop
    return problem.select(masks)
