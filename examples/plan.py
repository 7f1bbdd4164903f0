"""Plans: what products cost, what was chosen, and what a memory limit changes."""

# %%
import torch

import curvescope as cs
from curvescope import data, models

images, labels = data.load("digits", num_samples=1000, normalize="half").tensors()
model = models.build("mlp", hidden=(128,), generator=torch.Generator().manual_seed(0))


def problem_of(limit: int | None = None) -> cs.Problem:
    return cs.Problem(
        model, "cross_entropy", (images, labels), batch_size=250, memory_limit=limit
    )


# %%
# What was chosen for products of eight columns, and what else there was.
problem = problem_of()
plan = cs.Hessian(problem).plan(columns=8)
print(plan)

# %%
# A tight limit: fewer graphs are kept, and the products are the same.
tight = cs.Hessian(problem_of(limit=3 * 2**20))
v = torch.randn(problem.num_params, generator=torch.Generator().manual_seed(1))
difference = (tight @ v - cs.Hessian(problem) @ v).norm() / (tight @ v).norm()
print(
    f"{tight.plan().num_kept} of {plan.num_batches} graphs kept, {difference:.1e} apart"
)

# %%
# A whole analysis says beforehand what it will take.
results = cs.analyze(
    problem, parts=["eigenpairs", "trace"], k=3, num_probes=4, explain=True
)
print(results["trace"])
