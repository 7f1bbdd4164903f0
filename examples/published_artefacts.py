"""Artefacts of published numbers, each shown on a case whose truth is known.

The figures of the documentation's page on "Rethinking Parameter Counting". Writes
``runs/examples/artefact_*.png``.
"""

# %%
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

import curvescope as cs
from curvescope.data import two_spirals
from curvescope.plots import plot, save_figure
from curvescope.plots.style import BAND_ALPHA, PALETTE, house_style, new_figure
from curvescope.results import SurfaceComparison
from curvescope.training import train

Z = torch.logspace(-4, 2, 49, dtype=torch.float64)


def n_eff(values: torch.Tensor, z: torch.Tensor | float) -> torch.Tensor:
    """Sum over eigenvalues that are given; negative ones count as 0."""
    positive = values.clamp_min(0.0)[:, None]
    return (positive / (positive + torch.as_tensor(z, dtype=torch.float64))).sum(dim=0)


def known_spectrum(n: int = 1000) -> torch.Tensor:
    """Return eigenvalues as a trained network has them: outliers, a bulk, some negative."""
    outliers = torch.tensor([60.0, 40.0, 30.0, 22.0, 15.0, 11.0, 9.0, 7.0, 6.0])
    bulk = torch.logspace(0.5, -7, n - 109, dtype=torch.float64)
    return torch.cat([outliers.double(), bulk, -torch.logspace(-0.5, -6, 100).double()])


# %%
# Negative Ritz values that were turned into 1.
eigenvalues = known_spectrum()
A = torch.diag(eigenvalues)
ritz = cs.lanczos(A, 100).eigenvalues
stored = torch.where(ritz < 0.0, 1.0, ritz)


def sentinels() -> Figure:
    """Stored values beside the true ones, and what becomes of their sum."""
    with house_style():
        figure = new_figure((6.8, 3.4))
        left, right = figure.subplots(1, 2)
        ranks = np.arange(1, 101)
        negative = (ritz < 0).numpy()
        left.axhline(0.0, color=PALETTE["line"], linewidth=0.9)
        left.plot(ranks, ritz, ".", color=PALETTE["blue"], label="Ritz values")
        left.plot(
            ranks[negative],
            stored[negative],
            "x",
            color=PALETTE["vermilion"],
            label="as stored: 1",
        )
        left.set_ylim(-1.2, 2.2)
        left.set_xlabel("rank of the Ritz value")
        left.set_ylabel("value (those above 2.2 not shown)")
        left.legend()
        for values, label, colour, style in (
            (stored, "as stored", "vermilion", "-"),
            (ritz, "negative ones dropped", "blue", "-"),
            (eigenvalues, "all 1,000 eigenvalues", "ink", "--"),
        ):
            right.plot(
                Z, n_eff(values, Z), color=PALETTE[colour], label=label, linestyle=style
            )
        right.set_xscale("log")
        right.set_ylim(0.0, 700.0)
        right.set_xlabel("z")
        right.set_ylabel("sum of x / (x + z)")
        right.legend(loc="upper right")
    return figure


save_figure(sentinels(), "runs/examples/artefact_sentinels.png")

# %%
# A sum over Ritz values cannot exceed the number of Lanczos steps.
STEPS = (10, 20, 50, 100, 200)


def cap(z: float = 0.1) -> Figure:
    """Sum and quadrature of the same steps, against the truth."""
    sums, curves = [], []
    for steps in STEPS:
        sums.append(float(n_eff(cs.lanczos(A, steps).eigenvalues, z)))
        curves.append(
            cs.effective_dimension(A, z=z, method="slq", num_probes=10, num_steps=steps)
        )
    low, high = zip(*(curve.band() for curve in curves), strict=True)
    with house_style():
        figure = new_figure((6.8, 3.9))
        axes = figure.add_subplot()
        axes.axhline(
            float(n_eff(eigenvalues, z)),
            color=PALETTE["ink"],
            linestyle="--",
            label="all eigenvalues",
        )
        axes.plot(
            STEPS, STEPS, ":", color=PALETTE["muted"], label="the number of steps"
        )
        axes.plot(
            STEPS, sums, "s-", color=PALETTE["vermilion"], label="sum over Ritz values"
        )
        axes.plot(
            STEPS,
            [curve.value for curve in curves],
            "o-",
            color=PALETTE["blue"],
            label="quadrature, 10 probes, with its 95 % band",
        )
        axes.fill_between(
            STEPS,
            [float(x) for x in low],
            [float(x) for x in high],
            color=PALETTE["blue"],
            alpha=BAND_ALPHA,
            linewidth=0,
        )
        axes.set_xscale("log")
        axes.set_xticks(STEPS, [str(steps) for steps in STEPS])
        axes.minorticks_off()
        axes.set_ylim(0.0, 1.3 * max(float(x) for x in high))
        axes.set_xlabel("Lanczos steps")
        axes.set_ylabel(f"effective dimension at z = {z:g}")
        axes.legend(loc="upper left")
    return figure


save_figure(cap(), "runs/examples/artefact_cap.png")

# %%
# A Hessian summed over 391 batch means has 391 times the eigenvalues.
BATCHES = 391


def batches() -> Figure:
    """The same matrix in two units: one curve, shifted."""
    with house_style():
        figure = new_figure((6.8, 3.6))
        axes = figure.add_subplot()
        summed, mean = n_eff(BATCHES * eigenvalues, Z), n_eff(eigenvalues, Z)
        axes.plot(
            Z, summed, color=PALETTE["vermilion"], label="sum over 391 batch means"
        )
        axes.plot(Z, mean, color=PALETTE["blue"], label="mean over all samples")
        for z, values, colour in ((1.0, BATCHES * eigenvalues, "vermilion"),):
            height = float(n_eff(values, z))
            axes.plot([z / BATCHES, z], [height, height], ":", color=PALETTE["ink"])
            axes.plot(z, height, "o", color=PALETTE[colour])
            axes.plot(z / BATCHES, height, "o", color=PALETTE["blue"])
            axes.annotate(
                "z = 1 of the sum is\nz = 1/391 of the mean",
                (z, height),
                xytext=(9, 2),
                textcoords="offset points",
                color=PALETTE["muted"],
            )
        axes.set_xscale("log")
        axes.set_ylim(bottom=0.0)
        axes.set_xlabel("z")
        axes.set_ylabel("effective dimension")
        axes.legend()
    return figure


save_figure(batches(), "runs/examples/artefact_batches.png")

# %%
# A surface around weights that were read, but never put into the network.
torch.manual_seed(0)
points, labels = two_spirals(400, noise=0.03, turns=1.0).tensors


def spirals_net() -> nn.Sequential:
    """Return a small classifier of the plane, at random weights."""
    return nn.Sequential(
        nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2)
    )


fresh, trained = spirals_net(), spirals_net()
train(
    trained,
    "cross_entropy",
    (points, labels),
    steps=800,
    learning_rate=0.02,
    optimizer="adam",
)
planes = {}
for name, net in (("trained", trained), ("untrained: weights not loaded", fresh)):
    problem = cs.Problem(net, "cross_entropy", (points, labels))
    planes[f"{name}, top two eigenvectors"] = cs.loss_surface(
        problem, directions="top", extent=1.0, num_points=25
    )
    print(
        f"{name}: loss {problem.evaluate().loss:.4f}, a guess has {np.log(2):.4f}; "
        f"summed over 391 batches {391 * problem.evaluate().loss:.1f}"
    )
save_figure(
    plot(SurfaceComparison(of=problem.provenance("loss"), surfaces=planes)),
    "runs/examples/artefact_untrained.png",
)

# %%
# Tick labels of twice the step, and planes whose axes are not orthogonal.
problem = cs.Problem(trained, "cross_entropy", (points, labels))
line = cs.loss_surface(problem, num_dims=1, extent=0.5, num_points=41)


def cosines(count: int, draws: int = 2000) -> np.ndarray:
    """Return |cos| of the two directions that the published ``get_plane`` makes."""
    rng, found = np.random.default_rng(0), []
    for _ in range(draws):
        u, v = rng.standard_normal((2, count))  # in an orthonormal basis
        v = v - v * (v @ u / (u @ u))  # as published: v stays where it points
        found.append(abs(u @ v) / np.linalg.norm(u) / np.linalg.norm(v))
    return np.array(found)


def axes_of_planes() -> Figure:
    """A slice with both labels; the angles of published planes."""
    steps, losses = line.coordinates[0].numpy(), line.losses.numpy()
    with house_style():
        figure = new_figure((6.8, 3.4))
        left, right = figure.subplots(1, 2)
        left.plot(steps, losses, color=PALETTE["blue"], label="true step lengths")
        left.plot(
            2 * steps, losses, "--", color=PALETTE["vermilion"], label="published ticks"
        )
        left.set_xlabel("step along the top eigenvector")
        left.set_ylabel("loss")
        left.legend()
        bins = np.linspace(0.0, 1.0, 26)
        for count, colour in ((2, "vermilion"), (10, "green")):
            found = cosines(count)
            right.hist(
                found,
                bins,
                density=True,
                histtype="step",
                color=PALETTE[colour],
                linewidth=1.6,
                label=f"basis of {count}: mean {found.mean():.2f}",
            )
        right.axvline(0.0, color=PALETTE["blue"], linewidth=2.5, label="orthonormal: 0")
        right.set_xlabel("|cosine| of a plane's two axes")
        right.set_ylabel("density")
        right.legend()
    return figure


save_figure(axes_of_planes(), "runs/examples/artefact_planes.png")

# %%
# Batch normalisation in train mode: another network for every batch size.
X = torch.randn(256, 10, dtype=torch.float64)
y = (X[:, :3].sum(dim=1) > 0).long() + (X[:, 3] > 0.5).long()
normed = nn.Sequential(
    nn.Linear(10, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3)
).double()
train(
    normed, "cross_entropy", (X, y), epochs=40, learning_rate=0.1, batch_size=32, seed=1
)


def in_train_mode(size: int) -> torch.Tensor:
    """Return the eigenvalues of the mean of the batches' own Hessians."""
    parts = [
        cs.Hessian(
            cs.Problem(
                normed,
                "cross_entropy",
                (X[i : i + size], y[i : i + size]),
                mode="train",
            )
        ).to_dense()
        for i in range(0, len(X), size)
    ]
    return torch.linalg.eigvalsh(torch.stack(parts).mean(dim=0))


SIZES = (8, 16, 32, 64, 128, 256)
evaluated = torch.linalg.eigvalsh(
    cs.Hessian(cs.Problem(normed, "cross_entropy", (X, y))).to_dense()
)
in_train = {size: in_train_mode(size) for size in SIZES}


def train_mode(z: float = 1e-2) -> Figure:
    """One set of weights and data, many answers."""
    with house_style():
        figure = new_figure((6.8, 3.4))
        left, right = figure.subplots(1, 2)
        for axes, found, truth, label in (
            (
                left,
                [float(v[-1]) for v in in_train.values()],
                evaluated[-1],
                "top eigenvalue",
            ),
            (
                right,
                [float(n_eff(v, z)) for v in in_train.values()],
                n_eff(evaluated, z),
                f"effective dimension at z = {z:g}",
            ),
        ):
            axes.plot(
                SIZES, found, "s-", color=PALETTE["vermilion"], label="train mode"
            )
            axes.axhline(float(truth), color=PALETTE["blue"], label="eval mode")
            axes.set_xscale("log", base=2)
            axes.set_xticks(SIZES, [str(size) for size in SIZES])
            axes.minorticks_off()
            axes.set_ylim(0.0, 1.35 * max(*found, float(truth)))
            axes.set_xlabel("batch size")
            axes.set_ylabel(label)
            axes.legend()
    return figure


save_figure(train_mode(), "runs/examples/artefact_train_mode.png")

# %%
# At z = 1e-10 an effective dimension of samples counts the samples.
SAMPLES = 60
function_values = (2, 5, 10, 20, 40, 59, 80, 120, 160)


def counted() -> Figure:
    """N_eff of sample covariances whose truth is far smaller."""
    rng = np.random.default_rng(1)
    root = rng.standard_normal((160, 160)) * np.exp(-0.1 * np.arange(160))
    draws = rng.standard_normal((SAMPLES, 160)) @ root.T
    with house_style():
        figure = new_figure((6.8, 3.6))
        axes = figure.add_subplot()
        for z, colour, marker in ((1e-10, "vermilion", "s"), (1.0, "blue", "o")):
            found, truth = [], []
            for n in function_values:
                sample = np.linalg.eigvalsh(np.cov(draws[:, :n].T))
                whole = np.linalg.eigvalsh(root[:n] @ root[:n].T)
                found.append(float(n_eff(torch.from_numpy(sample), z)))
                truth.append(float(n_eff(torch.from_numpy(whole), z)))
            axes.plot(
                function_values,
                found,
                f"{marker}-",
                color=PALETTE[colour],
                label=f"{SAMPLES} samples, z = {z:g}",
            )
            axes.plot(
                function_values,
                truth,
                "--",
                color=PALETTE[colour],
                label=f"true covariance, z = {z:g}",
            )
        axes.axhline(
            SAMPLES - 1, color=PALETTE["muted"], linestyle=":", label="samples less one"
        )
        axes.set_xlabel("points at which the function is looked at")
        axes.set_ylabel("effective dimension")
        axes.set_ylim(0.0, 190.0)
        axes.legend(loc="upper left")
    return figure


save_figure(counted(), "runs/examples/artefact_samples.png")
