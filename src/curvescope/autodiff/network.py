"""Running a model as a function of its parameters, leaving it as it was.

Whatever mode the model is in, it runs in the mode that is asked (eval unless told
otherwise), on parameters and buffers that are passed in, with attention kernels that
have second derivatives; afterwards modes, buffers and random streams are as before.
"""

import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from curvescope._core.checks import describe, message
from curvescope.autodiff.folding import FoldedEvaluation
from curvescope.autodiff.recording import ChainRecorder
from curvescope.autodiff.repairs import RepairedFunctions


@contextmanager
def preserved_random_state(device: torch.device) -> Iterator[None]:
    """Give back the global random streams of torch, NumPy and Python as they were."""
    devices = [device] if device.type == "cuda" else []
    state_python, state_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(state_python)
            np.random.set_state(state_numpy)  # noqa: NPY002


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Switch off what changes dtypes, and the mode in which no gradient is recorded."""
    with ExitStack() as stack:
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        yield


@contextmanager
def _training_flags(
    model: nn.Module, modules: Sequence[nn.Module], *, train: bool
) -> Iterator[None]:
    flags = [(module, module.training) for module in modules]
    try:
        if any(flag != train for _, flag in flags):
            model.train(train)
        yield
    finally:
        for module, flag in flags:
            if module.training != flag:
                module.training = flag


@final
@dataclass(frozen=True)
class Network:
    """A model as a pure function of parameters, buffers and inputs.

    Attributes:
        model: The user's module; never changed.
        train: Whether it runs in train mode.
        device: Where it runs.
    """

    model: nn.Module
    train: bool
    device: torch.device

    @property
    def has_convolutions(self) -> bool:
        """Whether any 2-d convolution is inside."""
        return any(isinstance(m, nn.Conv2d) for m in self.model.modules())

    @property
    def has_own_derivatives(self) -> bool:
        """Whether there are layers that `FoldedEvaluation` knows a cheaper form of."""
        kinds = (nn.Conv2d, nn.LayerNorm)
        return any(isinstance(m, kinds) for m in self.model.modules())

    @property
    def is_dense(self) -> bool:
        """Whether all parameters are those of linear layers."""
        owners = [
            m for m in self.model.modules() if any(True for _ in m.parameters(False))
        ]
        return bool(owners) and all(isinstance(m, nn.Linear) for m in owners)

    @contextmanager
    def running(self, *, forward: bool = True) -> Iterator[None]:
        """Enter everything a pass of the model needs.

        Args:
            forward: Whether the model itself runs, and may draw random numbers; saving
                the random streams costs as much as a small product.
        """
        modules = list(self.model.modules())
        recurrent = any(isinstance(m, nn.RNNBase) for m in modules)
        with ExitStack() as stack:
            if forward:
                stack.enter_context(preserved_random_state(self.device))
            flags = _training_flags(self.model, modules, train=self.train)
            stack.enter_context(flags)
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if recurrent:  # cuDNN's RNN kernels have no second derivative
                stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            stack.enter_context(plain_arithmetic(self.device))
            if "torch._dynamo" in sys.modules:
                # Compiled code has no second derivative; without dynamo there is none.
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            yield

    def outputs(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Any,
        *,
        folding: FoldedEvaluation | ChainRecorder | None = None,
    ) -> Tensor:
        """Return the model's outputs for one batch of inputs, inside `running`."""
        args, kwargs = call_arguments(inputs)
        state = {**parameters, **{name: b.clone() for name, b in buffers.items()}}
        with RepairedFunctions():
            if folding is None:
                output = call_with(self.model, state, args, kwargs)
                return extract_output(output)
            with folding:
                output = call_with(self.model, state, args, kwargs)
            return extract_output(folding.compute(output))


def call_with(
    model: nn.Module,
    state: Mapping[str, Tensor],
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Any:
    """Call a model with other parameters and buffers, and leave it as it was.

    `torch.func.functional_call` does not where a module has two names: it replaces such
    a module's tensors twice, and puts back what it has put there itself. So every module
    gets its tensors once here, whatever it is called.

    Args:
        model: Any.
        state: Tensors by the names of ``named_parameters()`` and ``named_buffers()``.
        args: Of the model.
        kwargs: Of the model.
    """
    present = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    values = {id(t): state[name] for name, t in present.items() if name in state}
    each = {}
    for prefix, module in model.named_modules():  # every module by one name
        own = [
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ]
        for name, tensor in own:
            if id(tensor) in values:
                each[f"{prefix}.{name}" if prefix else name] = values[id(tensor)]
    kwargs = dict(kwargs or {})
    return torch.func.functional_call(model, each, args, kwargs, tie_weights=False)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of `torch.compile` and data parallelism."""
    while True:
        parallel = isinstance(
            model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
        )
        inner = getattr(model, "module" if parallel else "_orig_mod", None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def plain_tensor(tensor: Tensor) -> Tensor:
    """Return a detached tensor that autograd takes, also one made in inference mode.

    To be called outside of inference mode.
    """
    with torch.inference_mode(mode=False):
        return tensor.clone() if tensor.is_inference() else tensor.detach()


def call_arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return how a model is called on ``inputs``: a tensor, a tuple or a mapping."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, (tuple, list)):
        return tuple(inputs), {}
    return (inputs,), {}


def extract_output(output: Any) -> Tensor:
    """Return the tensor of outputs: itself, ``.logits`` or ``["logits"]``.

    Raises:
        TypeError: If there is no telling which tensor is meant.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else None
    logits = getattr(output, "logits", None) if logits is None else logits
    if isinstance(logits, Tensor):
        return logits
    remedy = "Wrap the model in a module that returns the tensor the loss needs."
    contract = "return a tensor, or an object with `logits`"
    raise TypeError(message("model", contract, describe(type(output)), remedy))
