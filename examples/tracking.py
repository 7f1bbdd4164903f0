"""Watch a network climb to the edge of stability.

    python examples/tracking.py

Full-batch gradient descent on a small network: the largest eigenvalue of the Hessian
rises until it meets 2 / learning rate, and stays there, while the loss goes on falling.
Writes ``runs/examples/edge_of_stability.png``.
"""

# %%
import torch

import curvescope as cs
from curvescope import data, models
from curvescope.plots import plot, save_figure

LEARNING_RATE = 0.5
STEPS = 1000
torch.set_num_threads(1)

images, labels = data.load("digits", num_samples=300, normalize="half").tensors()
model = models.build(
    "mlp", hidden=(32,), activation="tanh", generator=torch.Generator().manual_seed(0)
)
optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)

# %%
# The probe set is what curvature is measured on: here all that the network trains on.
problem = cs.Problem(model, "mse", (images, torch.eye(10)[labels]))
with cs.track(
    problem,
    every=20,
    k=3,
    optimizer=optimizer,
    measures=("loss", "gradient", "eigenvalues", "alignment", "trace", "layers"),
    out="runs/examples/tracking",
) as tracker:
    print(tracker.plan())
    tracker.step(0)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        outputs = model(images)
        loss = torch.nn.functional.mse_loss(outputs, torch.eye(10)[labels])
        loss.backward()
        optimizer.step()
        tracker.step(step)

# %%
curve = tracker.result()
print(curve)
print(
    f"limit {curve.formula} = {float(curve.limit[-1]):.3g}; "
    f"largest eigenvalue in the last tenth: {float(curve.eigenvalues[-3:, 0].mean()):.3g}"
)
save_figure(plot(curve), "runs/examples/edge_of_stability.png")
