"""Train the built-in MLP on the embedded digits, and save its weights for the command line.

    python examples/train_digits.py runs/demo-weights.safetensors
    curvescope analyze mlp --data digits --weights runs/demo-weights.safetensors

Full batches and a fixed seed: the same weights on every machine, up to rounding.
"""

# %%
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy

from curvescope import models
from curvescope.data import load

path = Path(
    sys.argv[1] if len(sys.argv) > 1 else "runs/examples/digits_mlp.safetensors"
)
images, labels = load("digits").tensors()
model = models.build("mlp", generator=torch.Generator().manual_seed(0))

# %%
# Adam with a falling rate; weight decay keeps the minimum from running off to infinity.
optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=150)
for _ in range(150):
    optimizer.zero_grad()
    loss = cross_entropy(model(images), labels)
    loss.backward()
    optimizer.step()
    schedule.step()

# %%
accuracy = (model(images).argmax(1) == labels).float().mean()
print(f"trained: loss {loss.item():.4f}, accuracy {accuracy.item():.2%}")
path.parent.mkdir(parents=True, exist_ok=True)
save_file(model.state_dict(), path)
print(f"weights: {path}")
