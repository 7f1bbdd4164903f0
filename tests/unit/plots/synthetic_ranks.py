"""Ranks of a small linear network, its matrices by dense autodiff and their SVD by numpy.

Widths 12-6-5-4, 20 samples, half squared error: H, functional Hessian and GGN have the
ranks 104, 72 and 48.
"""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import torch
from tests.unit.plots import synthetic
from torch.func import grad, jacrev

from curvescope._core.predictions import PredictedRank
from curvescope.results import (
    BlockPicture,
    RankEstimate,
    RankReport,
    RankSweep,
    SpectrumComparison,
)

WIDTHS = (12, 6, 5, 4)
PREDICTED = {"hessian": 104, "ggn": 48, "functional": 72}
SHAPES = tuple(zip(WIDTHS[1:], WIDTHS[:-1], strict=True))
NUM_PARAMS = sum(a * b for a, b in SHAPES)


@functools.cache
def matrices(activation: str = "linear") -> dict[str, np.ndarray]:
    """H, GGN and functional Hessian of one network, and the GGN's factor."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, WIDTHS[0], generator=generator, dtype=torch.float64)
    targets = torch.randn(20, WIDTHS[-1], generator=generator, dtype=torch.float64)
    theta = torch.randn(NUM_PARAMS, generator=generator, dtype=torch.float64) / 2.5
    sigma = {"linear": lambda x: x, "tanh": torch.tanh}[activation]

    def network(flat):
        hidden, start = inputs, 0
        for layer, (rows, columns) in enumerate(SHAPES):
            weight = flat[start : start + rows * columns].reshape(rows, columns)
            hidden, start = hidden @ weight.T, start + rows * columns
            hidden = sigma(hidden) if layer < len(SHAPES) - 1 else hidden
        return hidden

    def loss(flat):
        return 0.5 * (network(flat) - targets).square().sum()

    jacobian = jacrev(network)(theta).reshape(-1, NUM_PARAMS)
    hessian = jacrev(grad(loss))(theta)
    hessian = (hessian + hessian.T) / 2
    functional = hessian - jacobian.T @ jacobian
    sizes = np.cumsum([0, *(a * b for a, b in SHAPES)])
    functional = functional.numpy().copy()
    if activation == "linear":
        # What is zero by structure is exactly so where it is assembled from its blocks.
        for low, high in itertools.pairwise(sizes):
            functional[low:high, low:high] = 0.0
    return {
        "hessian": hessian.numpy(),
        "ggn": (jacobian.T @ jacobian).numpy(),
        "functional": functional,
        "factor": jacobian.numpy(),
    }


def _rank(matrix: np.ndarray, tolerance: float, rank: int, **more) -> RankEstimate:
    values = np.linalg.svd(matrix, compute_uv=False)
    dropped = values[rank] if rank < len(values) else 0.0
    return RankEstimate(
        of=synthetic.provenance(),
        rank=rank,
        gap=float(values[rank - 1] / dropped) if dropped else math.inf,
        tolerance=tolerance,
        certain=True,
        singular_values=torch.from_numpy(values),
        **more,
    )


def prediction(matrix: str, value: int, claim: str = "equal") -> PredictedRank:
    return PredictedRank(
        matrix=matrix,
        value=value,
        claim=claim,
        status="published",
        formula="q (r + k - q)",
        assumptions=("no bias", "generic weights"),
        source="Singh et al. 2021",
    )


def report() -> RankReport:
    dense = matrices()
    eigenvalues = np.linalg.eigvalsh(dense["hessian"])[::-1].copy()
    tolerance = NUM_PARAMS * 2.3e-16 * float(np.abs(eigenvalues).max())
    sure = {"primes": (4194301, 4194287)}
    return RankReport(
        of=synthetic.provenance(description="linear 12-6-5-4, half squared error"),
        cost=synthetic.cost(),
        hessian=_rank(dense["hessian"], tolerance, 104, certified=104, **sure),
        ggn=_rank(
            dense["factor"], tolerance**0.5, 48, certified=48, method="factor", **sure
        ),
        functional=_rank(dense["functional"], tolerance, 72, certified=72, **sure),
        predictions=tuple(prediction(n, v) for n, v in PREDICTED.items()),
        eigenvalues=torch.from_numpy(eigenvalues),
        facts={
            "num_params": NUM_PARAMS,
            "num_samples": 20,
            "widths": WIDTHS,
            "activation": "linear",
            "bias": False,
            "input_rank": 12,
            "output_rank": 4,
            "residual_rank": None,
        },
    )


def zero_report() -> RankReport:
    """All weights zero and no residual: nothing is left of any matrix."""
    nothing = replace(
        report().hessian,
        rank=0,
        gap=math.inf,
        tolerance=0.0,
        certified=0,
        singular_values=torch.zeros(7, dtype=torch.float64),
    )
    return replace(
        report(),
        hessian=nothing,
        functional=nothing,
        ggn=replace(nothing, singular_values=torch.zeros(0, dtype=torch.float64)),
        eigenvalues=torch.zeros(7, dtype=torch.float64),
        predictions=(prediction("functional", 0), prediction("hessian", 5, "at_most")),
    )


# Widths 4, 8, ..., 36 of two hidden layers, MNIST at 8 x 8 (r = 41), cross-entropy:
# the published numbers.
_STORED = {
    "width": (4, 8, 12, 16, 20, 24, 28, 32, 36),
    "num_params": (312, 656, 1032, 1440, 1880, 2352, 2856, 3392, 3960),
    "functional": (88, 208, 351, 495, 639, 783, 927, 1071, 1215),
    "ggn": (184, 336, 369, 369, 369, 369, 369, 369, 369),
    "hessian": (216, 464, 639, 783, 927, 1071, 1215, 1359, 1503),
}


def sweep(*, seeds: int = 1, points: int = 9, claim: str = "equal") -> RankSweep:
    """The published width sweep; with several seeds, measured ranks that scatter."""
    records = []
    for seed in range(seeds):
        for i in range(points):
            record = {
                "width": _STORED["width"][i],
                "seed": seed,
                "num_params": _STORED["num_params"][i],
                "widths": (64, _STORED["width"][i], _STORED["width"][i], 10),
            }
            for name in PREDICTED:
                truth = _STORED[name][i]
                measured = truth - seed * (i + 1)
                record |= {
                    f"{name}_rank": measured,
                    f"{name}_verdict": "certified" if seed == 0 else "undetermined",
                    f"{name}_certified": truth,
                    f"{name}_predicted": truth,
                    f"{name}_claim": claim,
                }
            records.append(record)
    return RankSweep(
        of=synthetic.provenance(description="linear nets on MNIST at 8 x 8"),
        cost=synthetic.cost(),
        settings={"loss": "cross_entropy", "seeds": list(range(seeds))},
        axis="width",
        records=tuple(records),
    )


def training() -> RankSweep:
    """A linear 12-6-5-4 net: the numerical rank of H falls to that of the GGN."""
    epochs = (0, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
    hessian = (104, 104, 104, 104, 100, 95, 84, 62, 52, 48)
    functional = (72, 72, 72, 72, 69, 67, 50, 30, 12, 0)
    records = []
    for i, epoch in enumerate(epochs):
        record = {"epoch": epoch, "seed": 0, "num_params": NUM_PARAMS}
        measured = {"hessian": hessian[i], "ggn": 48, "functional": functional[i]}
        for name, rank in measured.items():
            sure = rank == PREDICTED[name]
            record |= {
                f"{name}_rank": rank,
                f"{name}_verdict": "certified" if sure else "undetermined",
                f"{name}_certified": PREDICTED[name],
                f"{name}_predicted": PREDICTED[name],
                f"{name}_claim": "equal",
            }
        records.append(record)
    return RankSweep(
        of=synthetic.provenance(),
        cost=synthetic.cost(),
        axis="epoch",
        records=(*records,),
    )


def comparison() -> SpectrumComparison:
    spectra = {
        name: torch.from_numpy(
            np.sort(np.abs(np.linalg.eigvalsh(matrices(name)["hessian"])))[::-1].copy()
        )
        for name in ("linear", "tanh")
    }
    return SpectrumComparison(
        of=synthetic.provenance(),
        cost=synthetic.cost(),
        eigenvalues=spectra,
        predicted={"linear": 104},
    )


def picture() -> BlockPicture:
    dense = {name: matrices()[name] for name in PREDICTED}
    sizes = np.cumsum([0, *(a * b for a, b in SHAPES)])
    slices = [slice(low, high) for low, high in itertools.pairwise(sizes)]
    norms, ranks = {}, {}
    for name, matrix in dense.items():
        blocks = [[matrix[a, b] for b in slices] for a in slices]
        norms[name] = torch.tensor([[np.linalg.norm(b) for b in r] for r in blocks])
        ranks[name] = torch.tensor(
            [[np.linalg.matrix_rank(b) for b in r] for r in blocks]
        )
    return BlockPicture(
        of=synthetic.provenance(),
        cost=synthetic.cost(),
        pictures={name: torch.from_numpy(np.abs(m)) for name, m in dense.items()},
        borders=tuple(float(s) / NUM_PARAMS for s in sizes),
        layers=("0.weight", "2.weight", "4.weight"),
        norms=norms,
        ranks=ranks,
    )
