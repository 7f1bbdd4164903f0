"""Named problems with fixed seeds: the same weights and data in every process.

Plain torch and the project's own models; nothing here computes a second derivative.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.registry import DATA
from curvescope.data import load, load_text
from curvescope.models import build, load_weights

SEED = 0


@dataclass(frozen=True)
class Task:
    """A model in eval mode, a mean loss, and batches.

    Attributes:
        name: Of the problem.
        description: For the table's caption.
        model: Its parameters all count, in the order of ``named_parameters``.
        loss: A ``torch.nn`` loss with ``reduction="mean"``.
        batches: Pairs of inputs and targets; a loader by being iterable.
    """

    name: str
    description: str
    model: nn.Module
    loss: nn.Module
    batches: list[tuple[Tensor, Tensor]]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    @property
    def num_params(self) -> int:
        return sum(p.numel() for p in self.parameters)

    @property
    def num_samples(self) -> int:
        return sum(len(inputs) for inputs, _ in self.batches)

    @property
    def weights(self) -> list[float]:
        """Each batch's share of the mean."""
        return [len(inputs) / self.num_samples for inputs, _ in self.batches]

    @property
    def fingerprint(self) -> str:
        """A hash of weights, buffers and data: did two processes get the same?"""
        digest = hashlib.sha256()
        state = [*self.model.state_dict().values(), *sum(self.batches, ())]
        for tensor in state:
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def gradient(self) -> list[Tensor]:
        """The unit of the table: one gradient of the loss over all batches."""
        total = [torch.zeros_like(p) for p in self.parameters]
        for (inputs, targets), weight in zip(self.batches, self.weights, strict=True):
            loss = self.loss(self.model(inputs), targets)
            grads = torch.autograd.grad(loss, self.parameters)
            for part, grad in zip(total, grads, strict=True):
                part.add_(grad, alpha=weight)
        return total

    def split(self, v: Tensor) -> list[Tensor]:
        """Cut one vector into the parameters' shapes."""
        parts = v.split([p.numel() for p in self.parameters])
        return [x.view_as(p) for x, p in zip(parts, self.parameters, strict=True)]

    def columns(self, num: int) -> Tensor:
        """Return the first ``num`` of the test vectors, of unit length, ``(P, num)``."""
        return torch.stack([self.column(j) for j in range(num)], dim=1)

    def column(self, index: int) -> Tensor:
        """Return one test vector; the same whatever the others are."""
        generator = torch.Generator().manual_seed(SEED + 1 + index)
        v = torch.randn(self.num_params, generator=generator)
        return v / v.norm()

    def double(self) -> "Task":
        """Return the same task in float64."""
        batches = [
            (x.double() if x.is_floating_point() else x, y) for x, y in self.batches
        ]
        return Task(
            self.name, self.description, self.model.double(), self.loss, batches
        )


class ClassesSecond(nn.Module):
    """Moves the classes of sequence logits to where `nn.CrossEntropyLoss` wants them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).transpose(1, 2)


def mlp() -> Task:
    """A dense network of MNIST's shape."""
    return _mlp("mlp", "MLP 784-256-256-10, ReLU, batch 512", 512)


def mlp_ragged() -> Task:
    """The same over a loader whose last batch is smaller, as most loaders' are."""
    description = "the same MLP, batches of 512, 512 and 128"
    return _mlp("mlp-ragged", description, 512, 512, 128)


def resnet20() -> Task:
    """He et al.'s ResNet of CIFAR's shape, with BatchNorm frozen at real statistics."""
    torch.manual_seed(SEED)
    model = build("resnet20")
    images = torch.randn(128, 3, 32, 32)
    labels = torch.randint(10, (128,))
    with torch.no_grad():  # so that activations in eval mode are of order one
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = 1.0
        model.train()(images)
        for norm in norms:
            norm.momentum = 0.1
    return _task("resnet20", "CIFAR ResNet20, batch 128", model, [(images, labels)])


def gpt() -> Task:
    """A character GPT with attention written out: the fused one has no second derivative."""
    torch.manual_seed(SEED)
    model = build("char-gpt", context=64, width=128, attention="plain")
    text = torch.randint(169, (16, 65))
    return _task(
        "gpt",
        "4-layer character GPT, width 128, 16 sequences of 64, plain attention",
        ClassesSecond(model),
        [(text[:, :-1].contiguous(), text[:, 1:].contiguous())],
    )


def tiny() -> Task:
    """Two ragged batches on a small net: to test the benchmark, not to be timed."""
    torch.manual_seed(SEED)
    model = build("mlp", in_features=6, hidden=(5,), num_classes=3)
    inputs, labels = torch.randn(12, 6), torch.randint(3, (12,))
    batches = [(inputs[:8], labels[:8]), (inputs[8:], labels[8:])]
    return _task("tiny", "MLP 6-5-3, batches of 8 and 4", model, batches)


def tanh(name: str, *widths: int, num_samples: int, bias: bool = False) -> Task:
    """A dense tanh net whose whole matrices fit in memory; one batch."""
    torch.manual_seed(SEED)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.Tanh()]
    model = nn.Sequential(*layers[:-1])
    inputs = torch.randn(num_samples, widths[0])
    labels = torch.randint(widths[-1], (num_samples,))
    description = (
        f"tanh MLP {'-'.join(map(str, widths))}, {'' if bias else 'no '}bias, "
        f"{num_samples} samples"
    )
    return _task(name, description, model, [(inputs, labels)])


def cifar(name: str, num_samples: int) -> Task:
    """He et al.'s ResNet20 as published, on real images; random ones where there are none."""
    images = DATA / "cifar10"
    weights = DATA / "weights" / "resnet_cifar10" / "resnet20-12fca82f.th"
    batches = f"{num_samples:,} images in batches of 128"
    if not (images.is_dir() and weights.is_file()):
        words = "random weights and images, for want of the real ones"
        return _random_cifar(name, f"ResNet20, {words}, {batches}", num_samples)
    model = build("resnet20")
    load_weights(model, weights)
    options = {"num_samples": num_samples, "download": False, "normalize": "imagenet"}
    inputs, labels = load("cifar10", root=DATA, split="train", **options).tensors()
    description = f"CIFAR-10 ResNet20, published weights, {batches}"
    return _task(name, description, model, _batches(inputs, labels, 128))


def _random_cifar(name: str, description: str, num_samples: int) -> Task:
    task = resnet20()
    inputs = torch.randn(num_samples, 3, 32, 32)
    labels = torch.randint(10, (num_samples,))
    return _task(name, description, task.model, _batches(inputs, labels, 128))


def _batches(
    inputs: Tensor, labels: Tensor, size: int
) -> list[tuple[Tensor, Tensor]]:  # fmt: skip
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def stories() -> Task:
    """The published character GPT on real text; random ones where there are none."""
    torch.manual_seed(SEED)
    folder, context, num = DATA / "weights" / "tinystories_char_gpt", 32, 128
    model = build("char-gpt", attention="plain")
    words = "random weights and text, for want of the real ones"
    tokens = torch.randint(169, (num, context + 1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    text = DATA / "text" / "tinystories_197k.txt"
    if folder.is_dir() and text.is_file():
        words = "published weights, TinyStories"
        load_weights(model, folder / "model_weights.pth")
        vocabulary = folder / "vocab_derived.json"
        pairs = load_text(text, vocabulary=vocabulary, context=context, num_samples=num)
        inputs, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
    description = f"4-layer character GPT, {words}, {num} sequences of {context}"
    batches = _batches(inputs, targets, num // 2)
    return _task("gpt-stories", description, ClassesSecond(model), batches)


def taught(name: str, *widths: int, num_samples: int, steps: int = 200) -> Task:
    """A tanh net in float64 after some gradient descent: its spectrum has outliers."""
    task = tanh(name, *widths, num_samples=num_samples, bias=True).double()
    ((inputs, _),) = task.batches
    teacher = torch.randn(widths[0], widths[-1], dtype=torch.float64)
    labels = (inputs @ teacher).argmax(dim=1)
    description = f"{task.description}, labels of a linear teacher, {steps} steps"
    learnt = Task(name, description, task.model, task.loss, [(inputs, labels)])
    for _ in range(steps):
        gradient = learnt.gradient()
        with torch.no_grad():
            for weight, slope in zip(learnt.parameters, gradient, strict=True):
                weight -= 0.5 * slope
    return learnt


PRODUCTS: dict[str, Callable[[], Task]] = {
    "mlp": mlp,
    "mlp-ragged": mlp_ragged,
    "gpt": gpt,
    "resnet20": resnet20,
    "tiny": tiny,
}

# Whole matrices: name, widths, samples, bias.
_TANH = (
    ("tanh-920", (16, 20, 20, 10), 1000, False),
    ("tanh-1050", (20, 20, 20, 10), 1000, True),
    ("tanh-3776-few", (76, 32, 32, 10), 100, False),
    ("tanh-3776", (76, 32, 32, 10), 1000, False),
    ("tanh-tiny", (4, 3, 3), 9, True),
)
# Spectra that are known, of problems in float64.
_SPECTRA = (
    ("spectrum-1158", (16, 24, 24, 6), 500),
    ("spectrum-5122", (32, 64, 40, 10), 500),
    ("spectrum-tiny", (4, 3, 3), 9),
)
DENSE: dict[str, Callable[[], Task]] = {
    name: partial(tanh, name, *widths, num_samples=num_samples, bias=bias)
    for name, widths, num_samples, bias in _TANH
}
SPECTRA: dict[str, Callable[[], Task]] = {
    name: partial(taught, name, *widths, num_samples=num_samples)
    for name, widths, num_samples in _SPECTRA
}
CIFAR: dict[str, Callable[[], Task]] = {
    name: partial(cifar, name, num_samples)
    for name, num_samples in (
        ("resnet20-256", 256),
        ("resnet20-512", 512),
        ("resnet20-1024", 1024),
        ("resnet20-10000", 10_000),
    )
}
STORIES: dict[str, Callable[[], Task]] = {"gpt-stories": stories}
PROBLEMS = {**PRODUCTS, **STORIES, **DENSE, **SPECTRA, **CIFAR}


def _mlp(name: str, description: str, *sizes: int) -> Task:
    torch.manual_seed(SEED)
    model = build("mlp", in_features=784, hidden=(256, 256), activation="relu")
    batches = [
        (torch.randn(size, 1, 28, 28), torch.randint(10, (size,))) for size in sizes
    ]
    return _task(name, description, model, batches)


def _task(
    name: str, description: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> Task:
    return Task(name, description, model.eval(), nn.CrossEntropyLoss(), batches)
