"""All layers at once: top eigenvalues, traces and densities of every layer's own block.

Writes ``runs/examples/all_layers.png`` and ``runs/examples/one_layer_density.png``.
"""

# %%
import torch

import curvescope as cs
from curvescope.data import load
from curvescope.linalg import density_from_nodes
from curvescope.plots import plot, save_figure

torch.manual_seed(0)
digits = load("digits", num_samples=300)
images = torch.stack([image for image, _ in digits])
labels = torch.tensor([int(label) for _, label in digits])
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 8, 3, padding=1),
    torch.nn.BatchNorm2d(8),
    torch.nn.ReLU(),
    torch.nn.Conv2d(8, 8, 3, padding=1),
    torch.nn.BatchNorm2d(8),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(2),
    torch.nn.Flatten(),
    torch.nn.Linear(32, 10),
)

# %%
# One sweep over the data for all layers; the plan says how each was done.
problem = cs.Problem(model, "cross_entropy", (images, labels))
spectra = cs.all_layers(problem, k=3, density=True, num_steps=32)
print(spectra)
save_figure(plot(spectra), "runs/examples/all_layers.png")

# %%
# Each density keeps its nodes: another axis costs no product.
density = density_from_nodes(spectra.densities["3"], axis="signed-log")
save_figure(plot(density), "runs/examples/one_layer_density.png")
