"""Fewer products: warm starts, one product for all residuals, wanted errors."""

# %%
import torch

import curvescope as cs
from curvescope import data, models

images, labels = data.load("digits", num_samples=300, normalize="half").tensors()
model = models.build("mlp", hidden=(32,), generator=torch.Generator().manual_seed(0))
problem = cs.Problem(model, "cross_entropy", (images, labels))
H = cs.Hessian(problem)

# %%
# Where the residuals are from, and what they cost.
for residuals in ("estimated", "checked", "products"):
    pairs = cs.eigsh(H, k=6, residuals=residuals, check_multiplicity=False)
    print(f"{residuals}: {pairs.cost.num_matvecs} products")

# %%
# A step of training later, the pairs before are a good start.
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
torch.nn.functional.cross_entropy(model(images), labels).backward()
optimizer.step()
cold = cs.eigsh(H, k=6, check_multiplicity=False)
warm = cs.eigsh(H, k=6, start=pairs, check_multiplicity=False)
means = cs.start_vectors(problem, "class-means")
guess = cs.eigsh(H, k=6, start=means, check_multiplicity=False)
for name, result in (("random", cold), ("earlier pairs", warm), ("class means", guess)):
    print(f"start from {name}: {result.cost.num_matvecs} products")

# %%
# The error instead of numbers of probes and steps.
for error in (0.02, 0.005):
    density = cs.spectral_density(H, error=error)
    probes, steps = density.nodes.shape
    print(
        f"density to {error}: {probes} probes x {steps} steps, stated {density.distance:.4f}"
    )
print(cs.trace(H, error=0.1))
