"""H = G + F during training: when does the Gauss-Newton part explain the Hessian?

At the start of training the network's own curvature F matters; as the residuals shrink,
G takes over. Writes ``runs/examples/hessian_split.png``.
"""

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy

import curvescope as cs
from curvescope.data import load

torch.manual_seed(0)
digits = load("digits", num_samples=200)
images = torch.stack([image for image, _ in digits]).flatten(1).double()
labels = torch.tensor([int(label) for _, label in digits])
model = torch.nn.Sequential(
    torch.nn.Linear(64, 8), torch.nn.Tanh(), torch.nn.Linear(8, 10)
).double()
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
problem = cs.Problem(model, "cross_entropy", (images, labels))

# %%
# One problem for all checkpoints: a verb reads the weights as they are when it is called.
OPERATORS = {
    "H": cs.Hessian(problem),
    "G": cs.GGN(problem),
    "F": cs.FunctionalHessian(problem),
}
steps, norms = [], {name: [] for name in OPERATORS}
for step in range(121):
    if step % 30 == 0:
        steps.append(step)
        for name, operator in OPERATORS.items():
            top = cs.eigsh(operator, k=1, which="LM", tol=1e-3)
            norms[name].append(abs(float(top.eigenvalues[0])))
    optimizer.zero_grad()
    cross_entropy(model(images), labels).backward()
    optimizer.step()

# %%
for name, values in norms.items():
    print(name, [f"{value:.3g}" for value in values])
    plt.semilogy(steps, values, marker="o", label=f"largest |eigenvalue| of {name}")
plt.xlabel("training step")
plt.legend()
Path("runs/examples").mkdir(parents=True, exist_ok=True)
plt.savefig("runs/examples/hessian_split.png")
plt.close()
