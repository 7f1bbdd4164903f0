"""Train several small networks at once, and measure what the training leaves undetermined.

    python examples/train_and_measure.py

A fifth of the labels is wrong. Wider networks fit them all, and yet their curvature has
fewer large directions: the effective dimension falls.
"""

# %%
import torch

import curvescope as cs
from curvescope import data, models
from curvescope.training import train_many

SEEDS = (0, 1, 2)
images, labels = data.load("digits", num_samples=200, normalize="half").tensors()
test = data.load("digits", split="test", normalize="half").tensors()
noisy = data.noisy_labels(labels, 0.2, generator=torch.Generator().manual_seed(0))

# %%
# Networks of one width are one call: three seeds cost little more than one.
for width in (4, 12, 32):
    networks = [
        models.build(
            "mlp",
            hidden=(width,),
            activation="relu",
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in SEEDS
    ]
    training = train_many(
        networks,
        "cross_entropy",
        (images, noisy),
        steps=1000,
        learning_rate=0.01,
        optimizer="adam",
        schedule="published",
        test_data=test,
        seeds=SEEDS,
    )
    problem = cs.Problem(networks[0], "cross_entropy", (images, noisy))
    n_eff = cs.effective_dimension(cs.GGN(problem), z=1e-2)
    loss = training.final("train_loss").median()
    error = 1 - training.final("test_accuracy").median()
    print(
        f"width {width:2}: train loss {loss:.4f}, test error {error:.1%}, "
        f"N_eff {float(n_eff.values[0]):.1f} of {problem.num_params:,} parameters"
    )
