"""A first spectrum: train a small network on real data, and look at its curvature.

The top eigenvalues at both ends with their residuals, and the density of all of them
with a band. Writes ``runs/examples/first_spectrum_*.png``.
"""

# %%
# A network, trained briefly on scikit-learn's digits.
import torch
from torch.nn.functional import cross_entropy

import curvescope as cs
from curvescope.data import load
from curvescope.plots import plot_density, plot_eigenvalues, save_figure

torch.manual_seed(0)
digits = load("digits")
images = torch.stack([image for image, _ in digits]).flatten(1)
labels = torch.tensor([int(label) for _, label in digits])

model = torch.nn.Sequential(
    torch.nn.Linear(64, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(100):
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()

# %%
# The Hessian at these weights, in float64: small eigenvalues shall be right too.
problem = cs.Problem(model.double(), "cross_entropy", (images.double(), labels))
H = cs.Hessian(problem)

# %%
# Both ends, each pair with a true residual.
ends = cs.eigsh(H, k=12, which="BE", tol=1e-4)
print(ends)
save_figure(plot_eigenvalues(ends), "runs/examples/first_spectrum_ends.png")

# %%
# All of it: a density, with a band from the probes.
density = cs.spectral_density(H, num_probes=6, num_steps=40)
print(density)
save_figure(plot_density(density), "runs/examples/first_spectrum_density.png")
