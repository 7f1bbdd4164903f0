"""The loss around the weights: a plane, and how far predictions stay the same.

Two spirals, after section 5 of "Rethinking Parameter Counting". Writes
``runs/examples/loss_surface.png`` and ``runs/examples/homogeneity.png``.
"""

# %%
import torch
from torch.nn.functional import cross_entropy

import curvescope as cs
from curvescope.data import two_spirals
from curvescope.plots import plot, save_figure

torch.manual_seed(0)
points, labels = two_spirals(300, noise=0.03, turns=1.0).tensors
model = torch.nn.Sequential(
    torch.nn.Linear(2, 12),
    torch.nn.Tanh(),
    torch.nn.Linear(12, 12),
    torch.nn.Tanh(),
    torch.nn.Linear(12, 2),
)
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
for _ in range(400):
    optimizer.zero_grad()
    cross_entropy(model(points), labels).backward()
    optimizer.step()

# %%
# Axes are lengths of steps in parameter space; the dashed lines are the quadratic model.
problem = cs.Problem(model, "cross_entropy", (points, labels))
surface = cs.loss_surface(problem, directions="top", extent=0.5, num_points=21)
print(surface)
save_figure(plot(surface), "runs/examples/loss_surface.png")

# %%
# A claim about flat directions needs a control: random ones of the same length.
held_out = cs.Problem(model, "cross_entropy", two_spirals(200, noise=0.06, turns=1.0))
found = cs.homogeneity(problem, num_top=3, num_bottom=100, test=held_out)
print(found)
save_figure(plot(found), "runs/examples/homogeneity.png")
