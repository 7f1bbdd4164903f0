"""Problem: model + loss + data -> the objective on a flat parameter vector.

    L(theta) = sum over samples of the loss / sum over samples of its denominator

whatever the batches are. The problem is about the weights as they are when a verb is
called; it knows no operators and no algorithms.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, TypeVar, final
from weakref import WeakSet

import torch
from torch import Tensor, nn

from curvescope._core import checks
from curvescope._core.checks import message
from curvescope._core.fingerprints import checksum, combine
from curvescope._core.processes import ALONE, Processes
from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.autodiff.network import Network, plain_tensor, unwrapped
from curvescope.autodiff.recording import ChainRecorder
from curvescope.losses.base import AbstractLoss
from curvescope.losses.base import fingerprint as loss_fingerprint
from curvescope.losses.resolve import resolve as resolve_loss
from curvescope.problem import inspection
from curvescope.problem.batches import Batch, BatchSource, default_adapter
from curvescope.problem.metering import AllocationMeter
from curvescope.problem.selection import layers, select
from curvescope.problem.shared import Account, Evaluation, Shared
from curvescope.results import Provenance

_T = TypeVar("_T")
_UNITS = {
    "mean": "loss (mean over the data) per parameter squared",
    "sum": "loss (sum over the data) per parameter squared",
}
# Before every product, and nearly always of the same parts.
_combined = functools.lru_cache(maxsize=256)(combine)


@final
class Problem:
    r"""A model, a loss and data: the objective whose curvature is asked for.

    .. math:: L(\theta) = \frac{\sum_n \ell(f_\theta(x_n), y_n)}{\sum_n d(y_n)}

    Args:
        model: Any module. It is always evaluated in eval mode, whatever mode it is in,
            and never changed.
        loss: A name (see `curvescope.losses.names`), a ``torch.nn`` loss module, or
            ``cs.Loss(fn, reduction=..., denominator=...)``.
        data: A pair of tensors, a Dataset, a DataLoader, batches; a batch is a pair or
            a mapping with a target key.
        params: Which parameters: ``None`` for those with ``requires_grad``, ``"all"``,
            ``"weights"``, globs, a regular expression, a predicate, a submodule, a mask.
        reduction: ``"mean"`` or ``"sum"``; the loss's own by default. It is the unit.
        weight_decay: ``w`` adds ``w/2 ||theta||^2`` to the objective.
        batch_adapter: From one of the data's batches to ``(inputs, targets)``.
        batch_size: For tensors and datasets, which have no batches of their own.
        device: Where to compute; the model's by default.
        dtype: In what to compute; the model's by default. The model stays as it is.
        memory_limit: Bytes for kept data, graphs, and what comes and goes in products,
            beside what libraries take; half of what is free by default. The least
            among processes.
        mode: ``"eval"``; ``"train"`` is possible where nothing couples or draws.
        check: Whether to check determinism, finiteness and additivity at once.
        processes: Those that share the data; see `curvescope.distributed.data_parallel`.

    Raises:
        ValueError: If model, loss, data or selection do not fit each other.
        TypeError: If one of them is of an unknown kind.

    Cost:
        Reading the data once and one forward pass over them, and four over one batch.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> X, y = torch.randn(8, 3), torch.randint(0, 2, (8,))
        >>> problem = Problem(torch.nn.Linear(3, 2), "cross_entropy", (X, y))
        >>> problem.num_params, problem.num_samples, problem.reduction
        (8, 8, 'mean')
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Any,
        data: Any,
        *,
        params: Any = None,
        reduction: Literal["mean", "sum"] | None = None,
        weight_decay: float = 0.0,
        batch_adapter: Callable[[Any], tuple[Any, Any]] | None = None,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        memory_limit: int | None = None,
        mode: Literal["eval", "train"] = "eval",
        check: bool = True,
        processes: Processes = ALONE,
    ) -> None:
        if not isinstance(model, nn.Module):
            got = checks.describe(model)
            raise TypeError(message("model", "be a torch.nn.Module", got))
        checks.one_of("mode", mode, ("eval", "train"))
        if reduction is not None:
            checks.one_of("reduction", reduction, ("mean", "sum"))
        model = unwrapped(model)
        resolved = resolve_loss(loss)
        self.layout = select(model, params)
        place, kind = inspection.device_and_dtype(model, self.layout, device, dtype)
        limit = inspection.least_limit(memory_limit, place, processes)
        source = BatchSource(
            data=data,
            adapter=batch_adapter or default_adapter,
            batch_size=checks.positive_int("batch_size", batch_size),
            device=place,
            dtype=kind,
            limit=limit // 2,
        )
        num_samples, content = source.read(processes)
        self._shared = Shared(
            network=Network(model, mode == "train", place),
            loss=resolved,
            source=source,
            reduction=reduction or resolved.reduction,
            dtype=kind,
            device=place,
            memory_limit=limit,
            processes=processes,
            num_samples=num_samples,
            content=content,
        )
        self.weight_decay = checks.real("weight_decay", weight_decay, minimum=0.0)
        if mode == "train":
            num_batches = sum(processes.gather(lambda: source.num_batches))
            inspection.check_train_mode(model, num_batches)
        inspection.check_same(processes.gather(lambda: self._checked(check=check)))
        self.evaluate()

    def _checked(self, *, check: bool) -> str:
        """Check the first batch of this process; return the problem's fingerprint."""
        fingerprint = self.refresh()
        first = next(self.own_batches(), None) if check else None
        if first is not None:
            # In train mode the samples of a single batch may be coupled.
            additive = not self.network.train
            with self.network.running():
                inspection.check_first_batch(self, first, additive=additive)
        return fingerprint

    @property
    def model(self) -> nn.Module:
        """The user's module."""
        return self._shared.network.model

    @property
    def network(self) -> Network:
        """The module as a pure function."""
        return self._shared.network

    @property
    def loss(self) -> AbstractLoss:
        """The loss, as sum and denominator."""
        return self._shared.loss

    @property
    def reduction(self) -> Literal["mean", "sum"]:
        """The unit of the objective."""
        return self._shared.reduction

    @property
    def dtype(self) -> torch.dtype:
        """What products are computed in."""
        return self._shared.dtype

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self._shared.device

    @property
    def num_params(self) -> int:
        """Length of the flat parameter vector."""
        return self.layout.size

    @property
    def num_samples(self) -> int:
        """Data points, those of other processes included."""
        return self._shared.num_samples

    @property
    def processes(self) -> Processes:
        """The processes that share the data; one of them is this."""
        return self._shared.processes

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Data points of every batch of this process."""
        return tuple(self._shared.source.sizes)

    @property
    def num_batches(self) -> int:
        """Batches of one pass of this process."""
        return self._shared.source.num_batches

    @property
    def denominator(self) -> float:
        """Sum of the loss's denominators over the data."""
        if math.isnan(self._shared.denominator):
            self.evaluate()
        return self._shared.denominator

    @property
    def scale(self) -> float:
        """What a sum over the data is multiplied by: 1, or 1 / denominator."""
        return 1.0 if self.reduction == "sum" else 1.0 / self.denominator

    @property
    def memory_limit(self) -> int:
        """Bytes for kept data, graphs and products together."""
        return self._shared.memory_limit

    @property
    def kept_data_bytes(self) -> int:
        """Bytes of the data that are kept."""
        source = self._shared.source
        return source.num_bytes if source.kept is not None else 0

    @property
    def forward_bytes(self) -> int:
        """Bytes of all tensors that a forward pass of a batch makes; 0 if not known."""
        return self._shared.forward_bytes

    @property
    def graph_bytes(self) -> int:
        """Bytes of the graphs that all operators of this problem keep."""
        return sum(account.num_bytes for account in self._shared.accounts)

    def open_account(self) -> Account:
        """Return where an operator notes what it keeps; it ends with the operator."""
        account = Account()
        self._shared.accounts.add(account)
        return account

    def remembered(self, key: Any, make: Callable[[], _T]) -> _T:
        """Return what was measured for these parameters; it outlives an operator.

        Args:
            key: What it is of.
            make: Returns what is remembered where nothing is.
        """
        place = (key, self.layout.names)
        return self._shared.measurements.setdefault(place, make())

    def batches(self) -> Iterator[Batch]:
        """Yield the batches of one pass over all data, on the device.

        Raises:
            ValueError: If other processes hold a share of them.
        """
        inspection.check_alone(self.processes)
        return self.own_batches()

    def own_batches(self) -> Iterator[Batch]:
        """Yield the batches of this process alone: what is summed goes to `summed`."""
        return iter(self._shared.source)

    def summed(self, compute: Callable[[], Tensor], like: Tensor, of: str) -> Tensor:
        """Return a sum over all data, in one message to the other processes, if any.

        Args:
            compute: Gives the sum over this process's own batches.
            like: What was multiplied; the sum has its shape, dtype and device.
            of: What it is a sum of, in words.
        """
        key = (of, self._shared.weights, self.layout.names)
        return self.processes.sum(compute, like, key=key)

    def layers(self) -> dict[str, tuple[str, ...]]:
        """Return the selected parameters' names, grouped by the module that owns them."""
        return layers(self.layout)

    def select(self, params: Any) -> "Problem":
        """Return the same problem as a function of other parameters; shares the data."""
        other = object.__new__(Problem)
        other._shared = self._shared
        other.layout = select(self.model, params)
        other.weight_decay = self.weight_decay
        return other

    def promoted(self) -> "Problem":
        """Return the same problem computed in float64, from the values kept here.

        What was rounded to a lower precision stays rounded; float64 is returned as is.
        """
        if self.dtype == torch.float64:
            return self
        source = self._shared.source.promoted()
        _, content = source.read(self.processes)
        other = object.__new__(Problem)
        other._shared = replace(
            self._shared,
            source=source,
            content=content,
            dtype=torch.float64,
            weights="",
            parameters=None,
            buffers=None,
            evaluation=None,
            denominator=math.nan,
            forward_bytes=2 * self._shared.forward_bytes,
            accounts=WeakSet(),
            measurements={},
        )
        other.layout = self.layout
        other.weight_decay = self.weight_decay
        other.refresh()
        return other

    def refresh(self) -> str:
        """Look at the weights as they are now; return the problem's fingerprint.

        Raises:
            ValueError: If a parameter or buffer is not finite.
        """
        shared = self._shared
        shared.processes.check()
        live = dict(self.model.named_parameters())
        buffers = dict(self.model.named_buffers())
        weights = shared.watch.checksum([*live.values(), *buffers.values()])
        if weights != shared.weights:
            inspection.check_finite(live, buffers)
            shared.parameters = {n: self._placed(p) for n, p in live.items()}
            shared.buffers = {n: self._placed(b) for n, b in buffers.items()}
            shared.weights, shared.evaluation = weights, None
        self._look_at_code()
        return _combined(
            weights,
            shared.content,
            shared.structure,
            shared.loss_options,
            self.reduction,
            self.weight_decay,
            self.layout.names,
            None if self.layout.entries is None else checksum([self.layout.entries]),
            str(self.dtype),
        )

    def _look_at_code(self) -> None:
        """Notice modules that were exchanged, and options of the loss that were edited."""
        shared = self._shared
        modules = tuple(map(id, self.model.modules()))
        if modules != shared.modules:
            shared.modules, shared.structure = modules, repr(self.model)
            shared.evaluation = None
        options = loss_fingerprint(shared.loss)
        if options != shared.loss_options:
            shared.loss_options, shared.evaluation = options, None
            shared.denominator = math.nan

    def _placed(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        with torch.inference_mode(mode=False):
            return plain_tensor(tensor).to(device=self.device, dtype=dtype)

    def leaves(self) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Return fresh leaves of the selected parameters, and all parameters by name."""
        assert self._shared.parameters is not None
        everything = dict(self._shared.parameters)
        for name in self.layout.names:
            everything[name] = everything[name].detach().requires_grad_()
        return tuple(everything[name] for name in self.layout.names), everything

    def outputs(
        self,
        batch: Batch,
        parameters: Mapping[str, Tensor],
        *,
        buffers: Mapping[str, Tensor] | None = None,
        folding: FoldedEvaluation | ChainRecorder | None = None,
    ) -> Tensor:
        """Run the model on a batch, inside ``network.running()``."""
        buffers = self.buffers if buffers is None else buffers
        return self.network.outputs(parameters, buffers, batch.inputs, folding=folding)

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The model's buffers as they were at the last look."""
        assert self._shared.buffers is not None
        return self._shared.buffers

    def _metered_outputs(
        self, batch: Batch, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """Run the model on a batch; the first time, see how much memory that makes."""
        if self._shared.forward_bytes:
            return self.outputs(batch, parameters)
        with AllocationMeter() as meter:
            outputs = self.outputs(batch, parameters)
        self._shared.forward_bytes = max(meter.made, 1)
        return outputs

    def parameter_vector(self) -> Tensor:
        """Return the selected parameters as one vector."""
        leaves, _ = self.leaves()
        return self.layout.join([p.detach()[None] for p in leaves])[0]

    def evaluate(self) -> Evaluation:
        """Return the objective and a classifier's accuracy at the present weights.

        Raises:
            ValueError: If the loss is not finite, or the data leave nothing to divide by.
        """
        self.refresh()
        shared = self._shared
        if shared.evaluation is not None:
            return shared.evaluation
        sums = torch.zeros(4, dtype=torch.float64)
        sums = self.summed(self._own_evaluation, sums, "evaluation")
        total, denominator, right, counted = sums.tolist()
        inspection.check_evaluation(total, denominator)
        shared.denominator = denominator
        shared.evaluation = Evaluation(
            loss=total * self.scale,
            accuracy=right / counted if counted else None,
            num_samples=self.num_samples,
            denominator=denominator,
        )
        return shared.evaluation

    def _own_evaluation(self) -> Tensor:
        """Return loss, denominator, right predictions and all, of this process's data."""
        total = denominator = 0.0
        right = counted = 0
        parameters = dict(self._shared.parameters or {})
        with self.network.running(), torch.no_grad():
            for batch in self.own_batches():
                outputs = self._metered_outputs(batch, parameters)
                self.loss.check(outputs, batch.targets)
                total += float(self.loss.total(outputs, batch.targets))
                denominator += self.loss.denominator(outputs, batch.targets)
                counts = self.loss.correct(outputs, batch.targets)
                if counts is not None:
                    right, counted = right + counts[0], counted + counts[1]
        values = (total, denominator, right, counted)
        return torch.tensor(values, dtype=torch.float64)

    def gradient(self) -> Tensor:
        """Return the objective's gradient as one vector; costs one pass."""
        self.refresh()
        zero = torch.zeros(self.num_params, dtype=self.dtype, device=self.device)
        total = self.summed(self._own_gradient, zero, "gradient")
        return total * self.scale + self.weight_decay * self.parameter_vector()

    def _own_gradient(self) -> Tensor:
        """Return the summed loss's gradient of this process's data."""
        total = torch.zeros(self.num_params, dtype=self.dtype, device=self.device)
        leaves, parameters = self.leaves()
        with self.network.running(), torch.enable_grad():
            for batch in self.own_batches():
                outputs = self.outputs(batch, parameters)
                value = self.loss.total(outputs, batch.targets)
                grads = torch.autograd.grad(
                    value, leaves, allow_unused=True, materialize_grads=True
                )
                total += self.layout.join([g[None] for g in grads])[0]
        return total

    def provenance(self, matrix: str) -> Provenance:
        """Return what a matrix of this problem is of, for its results."""
        return Provenance(
            matrix=matrix,
            description=(
                f"{type(self.model).__name__}, {self.loss.name}, "
                f"{self.num_samples} samples, {self.num_params} parameters"
            ),
            reduction=self.reduction,
            unit=_UNITS[self.reduction],
            num_params=self.num_params,
            num_samples=self.num_samples,
            denominator=self.denominator,
            slices=self.layout.slices(),
            fingerprint=self.refresh(),
        )

    def __repr__(self) -> str:
        return (
            f"Problem({type(self.model).__name__}, {self.loss.name}, "
            f"num_params={self.num_params}, num_samples={self.num_samples}, "
            f"reduction={self.reduction!r}, dtype={self.dtype}, device={self.device})"
        )
