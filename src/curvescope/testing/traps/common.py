"""What the traps share: call conventions, tiny problems, a plain reference.

An implementation is a function of tensors and torch modules, so that the suite can be
run on any library: see `MakeHessian`, `MakeProduct` and `TopEigenvalues`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

Batches = Iterable[tuple[Tensor, Tensor]]

# (model, torch loss module, batches) -> dense Hessian, in named_parameters() order,
# of the loss module's own reduction over all batches together.
MakeHessian = Callable[[nn.Module, nn.Module, Batches], Tensor]

# The same, as a function v -> H v that may be called any number of times.
MakeProduct = Callable[[nn.Module, nn.Module, Batches], Callable[[Tensor], Tensor]]

# (symmetric matrix, k, "LM" | "LA" | "SA") -> k eigenvalues in any order.
TopEigenvalues = Callable[[Tensor, int, str], Tensor]


def attempt(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call an implementation; an exception is a failed check.

    Raises:
        AssertionError: If the implementation raises.
    """
    try:
        return function(*arguments)
    except AssertionError:
        raise
    except Exception as error:
        text = f"the implementation raised {type(error).__name__}: {error}"
        raise AssertionError(text) from error


def small_net(*, seed: int = 0) -> nn.Module:
    """Return a tanh network from 3 numbers to 3 classes, in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
    return net.double()


def small_data(num: int = 10, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return inputs and labels for `small_net`."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    return X, torch.randint(0, 3, (num,), generator=generator)


def split(
    inputs: Tensor, targets: Tensor, sizes: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Split data into batches of the given sizes."""
    pieces = zip(inputs.split(list(sizes)), targets.split(list(sizes)), strict=True)
    return list(pieces)


def pure(model: nn.Module) -> tuple[Callable[[Tensor, Any], Tensor], Tensor]:
    """Return the model as a function of (flat parameters, inputs), and the parameters."""
    named = dict(model.named_parameters())
    theta = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def outputs(flat: Tensor, inputs: Any) -> Tensor:
        pieces = flat.split([p.numel() for p in named.values()])
        state = {
            name: piece.view(p.shape)
            for (name, p), piece in zip(named.items(), pieces, strict=True)
        }
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(model, state, (inputs,))

    return outputs, theta


def gradient(
    model: nn.Module, loss: nn.Module, inputs: Any, targets: Tensor, theta: Tensor
) -> Tensor:
    """Return the gradient of one batch's loss at ``theta``, with its graph."""
    outputs, _ = pure(model)
    leaf = theta if theta.requires_grad else theta.clone().requires_grad_()
    value = loss(outputs(leaf, inputs), targets)
    return torch.autograd.grad(
        value, leaf, create_graph=True, allow_unused=True, materialize_grads=True
    )[0]


def reference_hessian(
    model: nn.Module, loss: nn.Module, inputs: Any, targets: Tensor
) -> Tensor:
    """Return the dense Hessian of one batch by double backward, row by row."""
    _, theta = pure(model)
    leaf = theta.clone().requires_grad_()
    g = gradient(model, loss, inputs, targets, leaf)
    rows = [torch.autograd.grad(entry, leaf, retain_graph=True)[0] for entry in g]
    return torch.stack(rows)


def require_close(got: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Compare relative to the norm of what is expected.

    Raises:
        AssertionError: If they differ, in shape or by more than the tolerance.
    """
    assert got.shape == expected.shape, (
        f"{what}: shape {tuple(got.shape)} instead of {tuple(expected.shape)}"
    )
    size = max(float(expected.double().norm()), 1e-300)
    off = float((got.double() - expected.double()).norm()) / size
    assert off <= tolerance, f"{what}: relative error {off:.3e} above {tolerance:.1e}"


def planted(eigenvalues: Tensor, *, seed: int = 0) -> Tensor:
    """Return a symmetric float64 matrix with the given eigenvalues."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(n, n, generator=generator, dtype=torch.float64)
    Q, _ = torch.linalg.qr(draw)
    A = (Q * eigenvalues.double()) @ Q.T
    return (A + A.T) / 2


def three_term_lanczos(
    multiply: Callable[[Tensor], Tensor], n: int, steps: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return the tridiagonal matrix and basis of Lanczos WITHOUT reorthogonalisation.

    This is the textbook recurrence that several foils are built on; it is wrong for
    more steps than it takes to find the first eigenvalue.
    """
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(n, generator=generator, dtype=torch.float64)
    q = q / q.norm()
    basis = [q]
    alphas: list[float] = []
    betas: list[float] = []
    for step in range(steps):
        w = multiply(basis[-1])
        alphas.append(float(w @ basis[-1]))
        w = w - alphas[-1] * basis[-1]
        if step:
            w = w - betas[-1] * basis[-2]
        betas.append(float(w.norm()))
        if betas[-1] == 0.0:
            break
        basis.append(w / betas[-1])
    size = len(alphas)
    T = torch.diag(torch.tensor(alphas, dtype=torch.float64))
    off = torch.tensor(betas[: size - 1], dtype=torch.float64)
    T += torch.diag(off, 1) + torch.diag(off, -1)
    return T, torch.stack(basis[:size], dim=1)
