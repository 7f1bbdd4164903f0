"""The metric in which an optimiser sees the curvature, and where its steps diverge.

An adaptive optimiser divides every entry of a step by its own scale ``d_i > 0``. On a
quadratic it moves as its plain counterpart does on ``D^-1/2 H D^-1/2``, whose largest
eigenvalue is the sharpness that decides whether it is stable.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, Optimizer, RMSprop

from curvescope._core.checks import describe, message
from curvescope._core.fingerprints import checksum
from curvescope.linop.base import LinearOperator, SymmetricOperator
from curvescope.problem import Problem

_SHOWN = 3
_NEAR_EPS = 10.0


@final
@dataclass(frozen=True, kw_only=True)
class StabilityLimit:
    r"""The curvature above which an optimiser's steps grow along an eigenvector.

    Attributes:
        value: The limit of :math:`\lambda_{\max}(D^{-1/2} H D^{-1/2})`, with D as
            `optimiser_scale` has it; infinite for a learning rate of 0.
        learning_rate: The largest of the parameter groups, now.
        formula: How the value follows from learning rate and momentum.
    """

    value: float
    learning_rate: float
    formula: str

    def __str__(self) -> str:
        return f"{self.formula} = {self.value:.6g} at eta = {self.learning_rate:.6g}"


def unwrapped_optimiser(optimizer: Any) -> Optimizer:
    """Return torch's own optimiser inside the wrappers of training frameworks.

    Raises:
        TypeError: If there is none.
    """
    inner = optimizer
    for _ in range(8):  # wrappers of wrappers; never a cycle
        if isinstance(inner, Optimizer) and type(inner).__module__.startswith("torch."):
            return inner
        deeper = getattr(inner, "optimizer", None)
        if deeper is None or deeper is inner:
            break
        inner = deeper
    if isinstance(inner, Optimizer):
        return inner
    raise TypeError(
        message("optimizer", "be a torch.optim.Optimizer", describe(optimizer))
    )


def optimiser_scale(optimizer: Any, problem: Problem) -> Tensor:
    r"""Return what the optimiser divides each entry of its step by.

    .. math:: d = \sqrt{\hat v} + \epsilon \ \text{(Adam, AdamW, RMSprop)}, \quad
        \sqrt{\textstyle\sum g^2} + \epsilon \ \text{(Adagrad)}, \quad 1 \ \text{(SGD)}

    with Adam's bias correction in the hat, as of the last step that was taken. Parameter
    groups with a learning rate below the largest have their scale raised by the ratio,
    so that one number, the largest rate, stands for all.

    Args:
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad of torch, also inside a wrapper
            with an ``optimizer`` attribute.
        problem: Its selected parameters are the vector's entries.

    Returns:
        A positive vector in the problem's order, dtype and device. A parameter that the
        optimiser has not met, because it never had a gradient, gets the largest entry
        of all: without a gradient its rows of the Hessian are zero.

    Raises:
        TypeError: If the optimiser's rule is not known here.
        ValueError: If it does not update one of the parameters, climbs instead of
            descends, or is adaptive and has not made a step.

    Cost:
        A few passes over the parameters; no products.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> data = (torch.eye(2), torch.zeros(2, 1))
        >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> optimiser_scale(sgd, Problem(model, "mse", data))
        tensor([1., 1., 1.])

    References:
        Cohen et al. (2022), arXiv:2207.14484.
    """
    optimizer = unwrapped_optimiser(optimizer)
    scale_of = _rule(optimizer)
    named = dict(problem.model.named_parameters())
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    _check_covered(problem, named, groups)
    largest = _largest_rate(optimizer)
    scales: dict[str, Tensor | None] = {}
    for name in problem.layout.names:
        group = groups[id(named[name])]
        state = optimizer.state.get(named[name], {})
        ratio = _rate_ratio(name, float(group["lr"]), largest)
        found = scale_of(group, state)
        scales[name] = None
        if found is not None:
            root, eps = found
            scales[name] = ratio * (root + eps).detach().double()
    return _flat(problem, scales)


def barely_scaled(
    optimizer: Any, problem: Problem, vector: Tensor
) -> dict[str, Any] | None:
    r"""Tell whether an eigenvector lies where the optimiser's scale is little but eps.

    A parameter without a gradient in training has :math:`\sqrt{\hat v} \approx 0`. If
    the probe set sees curvature there all the same, as it does for a bias in front of
    BatchNorm, which has another mode there, the preconditioned eigenvalue is that
    curvature over eps: true, and no limit of steps that are not taken.

    Args:
        optimizer: As for `optimiser_scale`, which it must have passed.
        problem: Likewise.
        vector: Eigenvector of the preconditioned Hessian, of unit length.

    Returns:
        The share of the vector's squares, and the number of such parameters in each
        layer; ``None`` where the share is below one half.
    """
    optimizer = unwrapped_optimiser(optimizer)
    scale_of = _rule(optimizer)
    named = dict(problem.model.named_parameters())
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    near, owner = [], []
    layers = problem.layers()
    layer_of = {n: i for i, names in enumerate(layers.values()) for n in names}
    for name in problem.layout.names:
        parameter = named[name]
        found = scale_of(groups[id(parameter)], optimizer.state.get(parameter, {}))
        mask = torch.zeros(parameter.shape, device=problem.device)
        if found is not None:
            mask = mask + (found[0] <= _NEAR_EPS * found[1]).to(mask)
        near.append(mask[None])
        owner.append(torch.full_like(mask, layer_of[name])[None])
    small = problem.layout.join(near)[0] > 0
    share = float(vector.double()[small].square().sum())
    if share < 0.5:
        return None
    numbers = problem.layout.join(owner)[0][small].long().bincount().tolist()
    counts = zip(layers, numbers, strict=False)
    return {"share": share, "layers": {n: count for n, count in counts if count}}


def barely_scaled_note(found: dict[str, Any], num_params: int) -> str:
    """Return what `barely_scaled` found, as a note."""
    layers = [f"{count} in {name}" for name, count in found["layers"].items()]
    shown = ", ".join(layers[:_SHOWN]) + (", ..." if len(layers) > _SHOWN else "")
    return (
        f"{sum(found['layers'].values())} of {num_params} parameters ({shown}) had next "
        f"to no gradient in training, so that their scale is within {_NEAR_EPS + 1:.0f} "
        "times the optimiser's eps, and the largest eigenvalue in its metric lies on them "
        f"({found['share']:.0%} of its eigenvector): it is curvature over eps, and bounds "
        "no step that the optimiser takes. A bias in front of BatchNorm is one, since "
        "the mode of the probe set is not that of training. Leave them out with `params=`"
    )


def stability_limit(optimizer: Any) -> StabilityLimit:
    r"""Return the preconditioned curvature above which the optimiser's steps diverge.

    On a quadratic with one eigenvalue, exactly:

    .. math:: \frac{2}{\eta},\quad \frac{2 (1 + \beta)}{\eta} \ \text{(momentum)},\quad
        \frac{2 (1 + \beta)}{(1 + 2 \beta)\,\eta} \ \text{(Nesterov)},\quad
        \frac{2 (1 + \beta_1)}{(1 - \beta_1)\,\eta} \ \text{(Adam, AdamW)}

    and for torch's dampening :math:`\tau` with :math:`\eta` replaced by
    :math:`(1 - \tau)\eta`. Adaptive scales are taken as constant over the steps that
    matter. Decoupled weight decay w lowers Adam's limit without momentum by w, and is
    left out; coupled weight decay is part of the Hessian of
    ``Problem(..., weight_decay=w)``.

    Args:
        optimizer: As for `optimiser_scale`.

    Returns:
        The limit for the largest learning rate, with the formula. Where groups differ in
        momentum the smallest is given.

    Raises:
        TypeError: If the optimiser's rule is not known here.
        ValueError: If it climbs instead of descends.

    Example:
        >>> weight = torch.nn.Parameter(torch.zeros(1))
        >>> print(stability_limit(torch.optim.SGD([weight], lr=0.1, momentum=0.5)))
        2 (1 + 0.5) / eta = 30 at eta = 0.1

    References:
        Cohen et al. (2021), arXiv:2103.00065, appendix B; Cohen et al. (2022),
        arXiv:2207.14484, for Adam.
    """
    optimizer = unwrapped_optimiser(optimizer)
    _rule(optimizer)
    rate = _largest_rate(optimizer)
    factors = [_factor(optimizer, group) for group in optimizer.param_groups]
    factor, formula = min(factors)
    value = factor / rate if rate > 0.0 else math.inf
    return StabilityLimit(value=value, learning_rate=rate, formula=formula)


def is_adaptive(optimizer: Any) -> bool:
    """Tell whether the optimiser scales each entry of its steps by itself."""
    return _rule(unwrapped_optimiser(optimizer)) is not _one


@final
class PreconditionedOperator(SymmetricOperator):
    """``D^-1/2 A D^-1/2`` with a positive diagonal ``D``.

    Args:
        A: Symmetric operator.
        scale: The diagonal of D, shape ``(n,)``, positive.
    """

    def __init__(self, A: LinearOperator, scale: Tensor) -> None:
        if not A.symmetric:
            raise ValueError(message("A", "be symmetric", repr(A)))
        if tuple(scale.shape) != (A.shape[0],):
            contract = f"have shape ({A.shape[0]},)"
            raise ValueError(message("scale", contract, describe(scale)))
        if not bool((torch.isfinite(scale) & (scale > 0)).all()):
            contract = "be finite and above 0 in every entry"
            raise ValueError(message("scale", contract, describe(scale)))
        super().__init__(
            A.shape,
            dtype=A.dtype,
            device=A.device,
            symmetric=True,
            positive_semidefinite=A.positive_semidefinite,
            info=dataclasses.replace(
                A.info,
                matrix=f"preconditioned {A.info.matrix}",
                unit="1 / learning rate",
            ),
            passes_per_product=A.passes_per_product,
            block_size=A.block_size,
        )
        self.A = A
        roots = scale.detach().double().rsqrt().to(dtype=A.dtype, device=A.device)
        self._roots = roots[:, None]

    def _matmat(self, V: Tensor) -> Tensor:
        return self._roots * self.A._matmat(self._roots * V)

    def refresh(self) -> str:
        """Refresh the operand."""
        return f"D({checksum([self._roots])})*{self.A.refresh()}"


# What it divides by and the eps that it adds, from a parameter's group and state;
# `None` where the optimiser has not met it.
_Scale = Callable[[dict[str, Any], dict[str, Any]], tuple[Tensor, float] | None]


def _rule(optimizer: Optimizer) -> _Scale:
    """Return how the optimiser scales a parameter's step."""
    for kind, scale_of in _RULES.items():
        # A subclass may have another rule; torch's own AdamW has Adam's.
        own = type(optimizer).__module__.startswith("torch.optim")
        if isinstance(optimizer, kind) and own:
            if any(group.get("maximize") for group in optimizer.param_groups):
                contract = "descend, for a limit of its steps"
                raise ValueError(message("optimizer", contract, "maximize=True"))
            return scale_of
    names = ", ".join(kind.__name__ for kind in _RULES)
    contract = f"be one of {names}, AdamW"
    remedy = "Of another optimiser track the Hessian itself: `optimizer=None`."
    raise TypeError(message("optimizer", contract, type(optimizer).__name__, remedy))


def _one(*_: Any) -> tuple[Tensor, float]:
    return torch.ones(()), 0.0


def _adam(group: dict[str, Any], state: dict[str, Any]) -> tuple[Tensor, float] | None:
    name = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
    if name not in state:
        return None
    correction = 1.0 - float(group["betas"][1]) ** float(state["step"])
    return (state[name].double() / correction).sqrt(), float(group["eps"])


def _rmsprop(
    group: dict[str, Any], state: dict[str, Any]
) -> tuple[Tensor, float] | None:
    if "square_avg" not in state:
        return None
    mean_square = state["square_avg"].double()
    if group.get("centered"):
        mean_square = mean_square - state["grad_avg"].double().square()
    return mean_square.clamp_min(0.0).sqrt(), float(group["eps"])


def _adagrad(
    group: dict[str, Any], state: dict[str, Any]
) -> tuple[Tensor, float] | None:
    # Adagrad makes its state, all zero, before the first step.
    if "sum" not in state or float(state["step"]) == 0.0:
        return None
    decay = 1.0 + (float(state["step"]) - 1.0) * float(group["lr_decay"])
    return decay * state["sum"].double().sqrt(), decay * float(group["eps"])


_RULES: dict[type[Optimizer], _Scale] = {
    SGD: _one,
    Adam: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
}


def _factor(optimizer: Optimizer, group: dict[str, Any]) -> tuple[float, str]:
    """Return the limit times the learning rate, and how it is written."""
    if isinstance(optimizer, Adam):
        beta = float(group["betas"][0])
        factor = 2.0 * (1.0 + beta) / (1.0 - beta)
        return factor, f"2 (1 + {beta:g}) / ((1 - {beta:g}) eta)"
    beta = float(group.get("momentum", 0.0))
    if beta == 0.0:
        return 2.0, "2 / eta"
    if group.get("nesterov"):
        factor = 2.0 * (1.0 + beta) / (1.0 + 2.0 * beta)
        return factor, f"2 (1 + {beta:g}) / ((1 + 2 * {beta:g}) eta)"
    dampening = float(group.get("dampening", 0.0))
    if dampening:
        if dampening >= 1.0:
            return math.inf, "no limit: every gradient is dampened to 0"
        factor = 2.0 * (1.0 + beta) / (1.0 - dampening)
        return factor, f"2 (1 + {beta:g}) / ((1 - {dampening:g}) eta)"
    return 2.0 * (1.0 + beta), f"2 (1 + {beta:g}) / eta"


def _largest_rate(optimizer: Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _rate_ratio(name: str, rate: float, largest: float) -> float:
    if largest == 0.0:  # a warm-up that begins at 0 for all of them
        return 1.0
    if rate == 0.0:
        got = f"a learning rate of 0 for {name}"
        remedy = "Leave what stays fixed out of the problem with `params=`."
        contract = "update all parameters of the problem"
        raise ValueError(message("optimizer", contract, got, remedy))
    return largest / rate


def _check_covered(
    problem: Problem, named: dict[str, Any], groups: dict[int, Any]
) -> None:
    missing = [n for n in problem.layout.names if id(named[n]) not in groups]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        got = f"one without {len(missing)} of them ({shown})"
        remedy = (
            "Is it the optimiser of this very model? Leave what it does not train out "
            "of the problem with `params=`."
        )
        contract = "update all parameters of the problem"
        raise ValueError(message("optimizer", contract, got, remedy))


def _flat(problem: Problem, scales: dict[str, Tensor | None]) -> Tensor:
    """Join the parameters' scales; those without any get the largest entry."""
    known = [s for s in scales.values() if s is not None and s.numel()]
    if not known:
        remedy = "Measure after the first step."
        contract = "have made a step, which sets its scales"
        raise ValueError(message("optimizer", contract, "no state", remedy))
    largest = max(float(s.max()) for s in known)
    named = dict(problem.model.named_parameters())
    parts = []
    for name, scale in scales.items():
        filled = torch.tensor(largest) if scale is None else scale
        entries = filled.to(problem.device).expand(named[name].shape)
        parts.append(entries.detach().double()[None])
    flat = problem.layout.join(parts)[0]
    smallest = torch.finfo(problem.dtype).tiny
    return flat.clamp_min(smallest).to(problem.dtype)
