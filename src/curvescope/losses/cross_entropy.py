"""Cross-entropy of logits, and the negative log-likelihood of log-probabilities."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from curvescope._core.checks import describe, message
from curvescope.losses.base import AbstractLoss, Product, Reduction


@final
@dataclass(frozen=True, kw_only=True)
class CrossEntropy(AbstractLoss):
    r"""Softmax cross-entropy of logits, as ``torch.nn.functional.cross_entropy``.

    .. math:: \ell = -w_y \log \operatorname{softmax}(f)_y,\quad
       D = \sum_n w_{y_n} [y_n \neq \text{ignore}]

    Attributes:
        weight: Weight of each class, shape ``(C,)``.
        ignore_index: Label whose positions do not count.
        label_smoothing: In [0, 1].
        class_dim: Where the classes are in the outputs; ``None`` finds it from the
            targets' shape: ``(N, C)``, ``(N, C, ...)`` or sequence logits ``(N, T, C)``.
        shift: Whether position t predicts label t + 1 (causal language models).
        reduction: Unit of the objective.
        name: For reports.
    """

    weight: Tensor | None = None
    ignore_index: int = -100
    label_smoothing: float = 0.0
    class_dim: int | None = None
    shift: bool = False
    reduction: Reduction = "mean"
    name: str = "cross_entropy"
    convex_in_outputs: ClassVar[bool] = True

    def _dim(self, outputs: Tensor, targets: Tensor) -> int:
        if self.class_dim is not None:
            return self.class_dim % outputs.ndim
        if outputs.ndim <= 2 or targets.shape == outputs.shape:
            return outputs.ndim - 1 if outputs.ndim <= 2 else 1
        first = tuple(targets.shape) == (outputs.shape[0], *outputs.shape[2:])
        last = tuple(targets.shape) == tuple(outputs.shape[:-1])
        if first and last:
            contract = "tell where the classes are when both places fit"
            remedy = "Pass `cs.losses.CrossEntropy(class_dim=1)` or `class_dim=-1`."
            raise ValueError(message("loss", contract, tuple(outputs.shape), remedy))
        return 1 if first else outputs.ndim - 1

    def _rows(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of shape (M, C) and labels of shape (M,) or (M, C)."""
        dim = self._dim(outputs, targets)
        soft = targets.is_floating_point()
        if outputs.ndim == 1:
            outputs, targets, dim = outputs[None], targets[None], 1
        logits = outputs.movedim(dim, -1)
        if soft:
            targets = targets.movedim(dim, -1)
        if self.shift:
            logits, targets = logits[:, :-1], targets[:, 1:]
        classes = logits.shape[-1]
        labels = targets.reshape(-1, classes) if soft else targets.reshape(-1)
        return logits.reshape(-1, classes), labels

    def _weight(self, like: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight.to(like)

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the weighted sum over all positions that count."""
        logits, labels = self._rows(outputs, targets)
        return F.cross_entropy(
            logits,
            labels if labels.is_floating_point() else labels.long(),
            weight=self._weight(logits),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="sum",
        )

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the labels' total class weight; with soft targets, their number."""
        _, labels = self._rows(outputs, targets)
        if labels.is_floating_point():
            return float(len(labels))
        counted = labels[labels != self.ignore_index].long()
        if self.weight is None:
            return float(counted.numel())
        return float(self.weight.double().to(labels.device)[counted].sum())

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check shapes and the labels' range."""
        if not isinstance(targets, Tensor):
            got = describe(targets)
            raise TypeError(message("targets", "be a tensor for cross-entropy", got))
        if outputs.ndim == 0:
            raise ValueError(message("outputs", "have a class dimension", "a scalar"))
        dim = self._dim(outputs, targets)
        expected = tuple(s for i, s in enumerate(outputs.shape) if i != dim)
        classes = outputs.shape[dim]
        if targets.is_floating_point():
            if targets.shape != outputs.shape:
                contract = f"be labels of shape {expected} or probabilities {tuple(outputs.shape)}"
                raise ValueError(message("targets", contract, describe(targets)))
            self._check_probabilities(targets)
        elif tuple(targets.shape) != expected:
            contract = (
                f"have shape {expected} for outputs of shape {tuple(outputs.shape)}"
            )
            raise ValueError(message("targets", contract, tuple(targets.shape)))
        if self.weight is not None and tuple(self.weight.shape) != (classes,):
            contract = f"have one entry for each of the {classes} classes"
            raise ValueError(message("weight", contract, tuple(self.weight.shape)))
        if not targets.is_floating_point():
            counted = targets[targets != self.ignore_index]
            if (
                counted.numel()
                and not 0 <= int(counted.min()) <= int(counted.max()) < classes
            ):
                got = f"labels from {int(counted.min())} to {int(counted.max())}"
                remedy = (
                    "Is the model's number of classes right, or are the labels 1-based?"
                )
                contract = f"lie in 0..{classes - 1} (or be {self.ignore_index})"
                raise ValueError(message("targets", contract, got, remedy))

    def _check_probabilities(self, targets: Tensor) -> None:
        """Refuse sequences of probabilities (N, T, C) that torch reads as (N, C, ...)."""
        if self.class_dim is not None or targets.ndim < 3 or not targets.numel():
            return

        def normalised(dim: int) -> bool:
            return bool((targets.sum(dim) - 1).abs().max() < 1e-3)

        if normalised(-1) and not normalised(1):
            contract = "tell where the classes are; these probabilities add up to 1 over the last dimension, and dimension 1 is taken"
            remedy = "Pass `cs.losses.CrossEntropy(class_dim=-1)`."
            raise ValueError(message("loss", contract, tuple(targets.shape), remedy))

    def _mass(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each row's total target weight: the factor of diag(p) - p p'."""
        classes = logits.shape[-1]
        weight = self._weight(logits)
        smooth = self.label_smoothing
        if labels.is_floating_point():
            target = labels.to(logits) * (1 - smooth) + smooth / classes
            return target.sum(-1) if weight is None else (target * weight).sum(-1)
        counted = labels != self.ignore_index
        if weight is None:
            return counted.to(logits)
        own = weight[labels.clamp(0, classes - 1).long()]
        return torch.where(counted, (1 - smooth) * own + smooth * weight.mean(), 0.0)

    def _stacked_rows(self, U: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Bring a stack of shape (k, *outputs.shape) to rows (k, M, C)."""
        if outputs.ndim == 1:
            return U.reshape(len(U), 1, -1)
        rows = U.movedim(self._dim(outputs, targets) + 1, -1)
        if self.shift:
            rows = rows[:, :, :-1]
        return rows.reshape(len(U), -1, rows.shape[-1])

    def _unrows(self, rows: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
        """Undo `_rows` for a stack of shape (k, M, C)."""
        dim = self._dim(outputs, targets)
        if outputs.ndim == 1:
            return rows.reshape(-1, *outputs.shape)
        shape = outputs.movedim(dim, -1).shape
        if self.shift:
            rows = rows.reshape(-1, shape[0], shape[1] - 1, *shape[2:])
            last = rows.new_zeros(rows.shape[0], shape[0], 1, *shape[2:])
            rows = torch.cat([rows, last], dim=2)
        return rows.reshape(-1, *shape).movedim(-1, dim + 1)

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Count the positions whose largest logit is the label's."""
        logits, labels = self._rows(outputs, targets)
        if labels.is_floating_point():
            labels = labels.argmax(-1)
        counted = labels != self.ignore_index
        right = (logits.argmax(-1) == labels) & counted
        return int(right.sum()), int(counted.sum())

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Count the positions whose largest logits are at the same class."""
        logits, labels = self._rows(outputs, targets)
        same = logits.argmax(-1) == self._rows(others, targets)[0].argmax(-1)
        if labels.is_floating_point():
            return int(same.sum()), same.numel()
        counted = labels != self.ignore_index
        same &= counted
        return int(same.sum()), int(counted.sum())

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with ``mass (diag p - p p')`` of every position."""
        logits, labels = self._rows(outputs.detach(), targets)
        p = torch.softmax(logits, -1)
        mass = self._mass(logits, labels)[:, None]

        def product(U: Tensor) -> Tensor:
            V = self._stacked_rows(U, outputs, targets)
            weighted = p * V
            rows = mass * (weighted - p * weighted.sum(-1, keepdim=True))
            return self._unrows(rows, outputs, targets)

        return product

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return ``sqrt(mass) diag(sqrt p) (I - 1 p')``, whose square is the Hessian."""
        if outputs.ndim != 2 or self.shift:
            return None
        logits, labels = self._rows(outputs.detach(), targets)
        log_p = torch.log_softmax(logits, -1)
        # 1 - p_k is summed from the others: near 1 the difference has no digits.
        off = -log_p.exp()[:, None, :].expand(-1, logits.shape[-1], -1).clone()
        off.diagonal(dim1=1, dim2=2).zero_()
        centred = off + torch.diag_embed(-off.sum(-1))
        mass = self._mass(logits, labels).sqrt()[:, None, None]
        return mass * (0.5 * log_p).exp()[:, :, None] * centred

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Draw labels from the softmax; the gradient is ``sqrt(mass) (p - e_y)``."""
        logits, labels = self._rows(outputs.detach(), targets)
        p = torch.softmax(logits, -1)
        uniform = torch.rand(
            num,
            len(p),
            1,
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        ).to(p.device)
        drawn = (p.double().cumsum(-1) < uniform).sum(-1).clamp_max(p.shape[-1] - 1)
        onehot = F.one_hot(drawn, p.shape[-1]).to(p)
        rows = self._mass(logits, labels).sqrt()[:, None] * (p - onehot)
        return self._unrows(rows, outputs, targets)


@final
@dataclass(frozen=True, kw_only=True)
class NLL(AbstractLoss):
    """Negative log-likelihood of log-probabilities ``(N, C)`` or ``(N, C, ...)``.

    It is linear in the outputs: the GGN of a network that ends in log-probabilities
    vanishes, and the functional Hessian is the whole Hessian.
    """

    linear_in_outputs: ClassVar[bool] = True
    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: Reduction = "mean"
    name: str = "nll"

    def _as_cross_entropy(self) -> CrossEntropy:
        return CrossEntropy(
            weight=self.weight, ignore_index=self.ignore_index, class_dim=1
        )

    def total(self, outputs: Tensor, targets: Any) -> Tensor:
        """Return the weighted sum over all positions that count."""
        weight = None if self.weight is None else self.weight.to(outputs)
        return F.nll_loss(
            outputs,
            targets,
            weight=weight,
            ignore_index=self.ignore_index,
            reduction="sum",
        )

    def denominator(self, outputs: Tensor, targets: Any) -> float:
        """Return the labels' total class weight."""
        return self._as_cross_entropy().denominator(outputs, targets)

    def check(self, outputs: Tensor, targets: Any) -> None:
        """Check shapes, the labels' range, and that the outputs are log-probabilities."""
        self._as_cross_entropy().check(outputs, targets)
        mass = torch.logsumexp(outputs.detach(), 1)
        if not bool((mass.abs() < 1e-2).all()):
            remedy = 'For logits use "cross_entropy".'
            got = f"a log-sum-exp of {float(mass.abs().max()):.3g}"
            raise ValueError(
                message("outputs", "be log-probabilities for nll", got, remedy)
            )

    def correct(self, outputs: Tensor, targets: Any) -> tuple[int, int] | None:
        """Count the positions whose largest log-probability is the label's."""
        return self._as_cross_entropy().correct(outputs, targets)

    def agreeing(
        self, outputs: Tensor, others: Tensor, targets: Any
    ) -> tuple[int, int] | None:
        """Count the positions whose largest log-probabilities are at the same class."""
        return self._as_cross_entropy().agreeing(outputs, others, targets)

    def output_hessian(self, outputs: Tensor, targets: Any) -> Product:
        """Return the product with zero."""
        return torch.zeros_like

    def output_factor(self, outputs: Tensor, targets: Any) -> Tensor | None:
        """Return zeros: the loss is linear in the outputs."""
        return None if outputs.ndim != 2 else torch.zeros_like(outputs)[:, None, :]

    def sampled_gradients(
        self, outputs: Tensor, targets: Any, *, num: int, generator: torch.Generator
    ) -> Tensor:
        """Draw labels from the model; the gradient is ``-sqrt(w) e_y``."""
        log_p = outputs.detach().movedim(1, -1)
        rows = log_p.reshape(-1, log_p.shape[-1])
        uniform = torch.rand(
            num,
            len(rows),
            1,
            generator=generator,
            device=generator.device,
            dtype=torch.float64,
        ).to(rows.device)
        drawn = (
            (rows.double().exp().cumsum(-1) < uniform)
            .sum(-1)
            .clamp_max(rows.shape[-1] - 1)
        )
        mass = self._as_cross_entropy()._mass(rows, targets.reshape(-1))
        onehot = -mass.sqrt()[:, None] * F.one_hot(drawn, rows.shape[-1]).to(rows)
        return onehot.reshape(num, *log_p.shape).movedim(-1, 2)
