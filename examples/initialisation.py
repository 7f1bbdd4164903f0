"""Look at a network before it is trained: layers, initialisations, step sizes.

    python examples/initialisation.py

The layers' own blocks of the Hessian under several initialisations, balanced weights that
compute the same function, and the step size that curvature allows.
"""

# %%
import torch

import curvescope as cs
from curvescope import data, models, plots

images, labels = data.load("digits", num_samples=256, normalize="half").tensors()
model = models.build(
    "mlp",
    hidden=(30, 30),
    activation="relu",
    generator=torch.Generator().manual_seed(0),
)

# %%
# One panel an initialisation: a level line is a balanced network.
found = cs.initialisation_report(
    model,
    "cross_entropy",
    (images, labels),
    candidates=["he", "glorot_normal", ("normal", 0.01), "recommended", "balanced"],
    seeds=(0, 1, 2),
)
for name in found.candidates:
    print(f"{name:14} largest / smallest block {found.balance(name):6.3g}")
for advice in found.recommendations:
    print(f"{advice.layer}: std {advice.std:.3f}; {advice.reason}")
plots.save_figure(plots.plot(found), "runs/examples/initialisation.png")

# %%
# The one verb that changes a model. This network computes what it did before.
outputs = model(images).detach()
done = cs.balance_(model, "cross_entropy", (images, labels))
print(done.headline())
assert torch.allclose(model(images), outputs, atol=1e-4)

# %%
# Along the gradient: the quadratic model beside the loss as it is.
step = cs.step_size(cs.Problem(model, "cross_entropy", (images, labels)))
print(step)
plots.save_figure(plots.plot(step), "runs/examples/step_size.png")
