"""Effective dimension: how many directions do the data determine?

The curve over z, exactly from all eigenvalues and by quadrature with an error band.
Writes ``runs/examples/effective_dimension.png``.
"""

# %%
import torch
from torch.nn.functional import cross_entropy

import curvescope as cs
from curvescope.data import load
from curvescope.plots import plot_effective_dimension, save_figure

torch.manual_seed(0)
digits = load("digits")
images = torch.stack([image for image, _ in digits]).flatten(1).double()
labels = torch.tensor([int(label) for _, label in digits])
model = torch.nn.Sequential(
    torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)
).double()
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(60):
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()

# %%
# z has the unit of an eigenvalue: here of a loss that is a mean over samples.
G = cs.GGN(cs.Problem(model, "cross_entropy", (images, labels)))
z = torch.logspace(-5, 0, 11, dtype=torch.float64)

estimate = cs.effective_dimension(G, z=z, method="slq")
exact = cs.effective_dimension(G, z=z, method="exact")
print(estimate)
print(exact)
save_figure(plot_effective_dimension(estimate), "runs/examples/effective_dimension.png")
