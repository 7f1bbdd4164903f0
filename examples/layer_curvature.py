"""Own blocks of the layers by the Hessian chain rule, and the blocks between layers.

The published 784-30-30-10 network on 1024 images: the first layer's block would have
23 520 rows. Writes ``runs/examples/layer_curvature.png`` and
``runs/examples/block_norms.png``.
"""

# %%
import time

import torch

import curvescope as cs
from curvescope.exact import own_blocks
from curvescope.plots import plot, save_figure

torch.manual_seed(0)
images, labels = torch.rand(1024, 784), torch.randint(0, 10, (1024,))


def network(activation):
    return torch.nn.Sequential(
        torch.nn.Linear(784, 30),
        activation,
        torch.nn.Linear(30, 30),
        activation,
        torch.nn.Linear(30, 10),
    )


# %%
# The norm of the first layer's block, without the block.
problem = cs.Problem(network(torch.nn.Tanh()), "cross_entropy", (images, labels))
began = time.perf_counter()
block = own_blocks(problem, layers=["0"])["0"]
norms = block.frobenius_norms()
seconds = time.perf_counter() - began
print(
    f"{block.num_params} parameters, {seconds:.2f} s, {block.num_bytes / 2**20:.0f} MiB"
)
print(norms)

# %%
# All layers. Behind a ReLU the curvature part of a layer's own block is exactly zero.
tanh = cs.layer_curvature(problem)
relu = cs.layer_curvature(
    cs.Problem(network(torch.nn.ReLU()), "cross_entropy", (images, labels))
)
print(tanh)
print(relu)
assert all(row.curvature_norm == 0.0 for row in relu.layers)
save_figure(plot(tanh), "runs/examples/layer_curvature.png")

# %%
# Between layers it is not: the blocks of pairs of layers, on a smaller image.
small = torch.nn.Sequential(
    torch.nn.Linear(49, 12), torch.nn.ReLU(), torch.nn.Linear(12, 10)
).double()
data = (images[:, :49].double(), labels)
blocks = cs.block_norms(cs.Problem(small, "cross_entropy", data))
print(blocks)
save_figure(plot(blocks), "runs/examples/block_norms.png")
