"""Data as whole tensors on the device, out of which batches are taken by index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from curvescope._core.checks import describe, message
from curvescope._core.fingerprints import checksum
from curvescope._core.memory import available_memory, format_bytes
from curvescope._core.processes import ALONE
from curvescope.problem.batches import BatchSource, default_adapter

_CHUNK = 1024


class PerModel(tuple[Any, ...]):
    """Data of many networks, one each: ``PerModel([(X1, y1), (X2, y2)])``.

    All must have the same shapes, such as one set under several draws of label noise.
    """


@dataclass(frozen=True)
class Samples:
    """Inputs and targets; with ``each``, a first dimension runs over the networks."""

    inputs: Any
    targets: Any
    num_samples: int
    each: bool = False

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of inputs and targets."""
        leaves, _ = tree_flatten((self.inputs, self.targets))
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def fingerprint(self) -> str:
        """Return a hash of all data."""
        return checksum(self.tensors)

    def take(self, index: Tensor | slice) -> tuple[Any, Any]:
        """Return the samples of an index ``(B,)``, or ``(R, B)`` for each network."""
        if not self.each:
            inputs, targets = tree_map(lambda t: t[index], (self.inputs, self.targets))
            return inputs, targets
        if isinstance(index, slice):
            inputs, targets = tree_map(
                lambda t: t[:, index], (self.inputs, self.targets)
            )
            return inputs, targets
        rows = torch.arange(len(index), device=index.device)[:, None]
        inputs, targets = tree_map(
            lambda t: t[rows, index], (self.inputs, self.targets)
        )
        return inputs, targets


def read_samples(
    data: Any, *, device: torch.device, dtype: torch.dtype, argument: str = "data"
) -> Samples:
    """Read data once, as they come, into tensors on the device.

    Args:
        data: Whatever a `Problem` takes; or `PerModel`, of as many as there are models.
        device: Where to.
        dtype: Of floating-point tensors.
        argument: Its name, for errors.

    Returns:
        The samples.

    Raises:
        TypeError: If the data are of no known kind.
        ValueError: If they hold no samples, have different shapes, or do not fit the
            memory.
    """
    if not isinstance(data, PerModel):
        return _read_one(data, device, dtype, argument)
    parts = [_read_one(one, device, dtype, argument) for one in data]
    shapes = {tuple(tuple(t.shape) for t in part.tensors) for part in parts}
    if len(shapes) != 1:
        contract = "hold data of one shape, one a model"
        raise ValueError(message(argument, contract, f"{len(shapes)} shapes"))
    inputs = tree_map(lambda *t: torch.stack(t), *[part.inputs for part in parts])
    targets = torch.stack([part.targets for part in parts])
    return Samples(inputs, targets, parts[0].num_samples, each=True)


def _read_one(
    data: Any, device: torch.device, dtype: torch.dtype, argument: str
) -> Samples:
    whole = getattr(data, "tensors", None)
    source = BatchSource(
        data=whole() if callable(whole) else data,
        adapter=default_adapter,
        batch_size=_CHUNK,
        device=device,
        dtype=dtype,
        limit=available_memory(device) // 3,
    )
    num_samples, _ = source.read(ALONE)
    if source.kept is None:
        got = f"more than {format_bytes(source.limit)}"
        remedy = "Train on fewer samples."
        raise ValueError(message(argument, "fit the memory", got, remedy))
    joined = _joined([(b.inputs, b.targets) for b in source.kept], argument)
    return Samples(*joined, num_samples=num_samples)


def _joined(batches: Sequence[tuple[Any, Any]], argument: str) -> tuple[Any, Any]:
    leaves, _ = tree_flatten(batches[0])
    odd = [leaf for leaf in leaves if not isinstance(leaf, Tensor) or not leaf.ndim]
    if odd:
        contract = "hold tensors whose first dimension counts samples"
        raise TypeError(message(argument, contract, describe(odd[0])))
    try:
        joined = tree_map(lambda *parts: torch.cat(parts), *batches)
    except RuntimeError as error:
        contract = "have samples of one shape"
        raise ValueError(message(argument, contract, str(error))) from None
    inputs, targets = joined
    return inputs, targets
