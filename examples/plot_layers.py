"""Layer by layer: where does the curvature sit, and which part of it is which?

Writes ``runs/examples/layers.png``.
"""

# %%
import itertools

import torch

import curvescope as cs
from curvescope.data import load
from curvescope.plots import plot_layers, save_figure

torch.manual_seed(0)
digits = load("digits", num_samples=500)
images = torch.stack([image for image, _ in digits]).flatten(1).double()
labels = torch.tensor([int(label) for _, label in digits])
widths = [64, 12, 12, 12, 10]
layers = []
for width, following in itertools.pairwise(widths):
    layers += [torch.nn.Linear(width, following), torch.nn.Tanh()]
model = torch.nn.Sequential(*layers[:-1]).double()

# %%
# Each row is one layer's own diagonal block: its norm, its trace, its top eigenvalue,
# and its split into the linearisation part and the curvature part.
problem = cs.Problem(model, "cross_entropy", (images, labels))
table = cs.layer_curvature(problem)
print(table)
save_figure(plot_layers(table), "runs/examples/layers.png")
