"""How many directions does a Hessian see? Measured, proved, predicted.

A linear network on digits of 5 x 5 pixels, and a tanh network of the same widths. Prints
both rank reports and leaves a page, ``runs/examples/hessian_rank/report.html``.
"""

# %%
import torch

import curvescope as cs
from curvescope import models
from curvescope.data import downscale, load

images, labels = load("digits", num_samples=50).tensors()
inputs = downscale(images, 25)  # float64, (50, 25)
targets = torch.nn.functional.one_hot(labels, 10).double()
loss = cs.losses.half_squared_error(reduction="sum")


def problem_with(activation):
    """Widths 25, 5, 10, 10, without biases, Gaussian weights."""
    model = models.build(
        "mlp",
        in_features=25,
        hidden=(5, 10),
        num_classes=10,
        activation=activation,
        bias=False,
    ).double()
    models.initialise_(model, "glorot", generator=torch.Generator().manual_seed(0))
    return cs.Problem(model, loss, (inputs, targets))


# %%
# A linear network. Five of the 25 pixels are dark in all images: the inputs have rank 20,
# and the formulas must be told that, not 25. The report measures it.
linear = cs.rank_report(problem_with("linear"))
print(linear)
for name, prediction in linear.predicted.items():
    print(f"{name}: {prediction}: {prediction.formula}")
assert linear.facts["input_rank"] == 20
assert linear.agrees

# %%
# "certified" means that exact arithmetic on the stored weights and data gave the same
# rank; no tolerance is involved.
assert {rank.verdict for rank in linear.measured.values()} == {"certified"}

# %%
# With tanh between the layers the same widths have a larger rank. Theory has ceilings
# there: all directions but those that dark pixels hide, 20 x 5 + 5 x 10 + 10 x 10.
tanh = cs.rank_report(problem_with("tanh"))
print(tanh)
assert str(tanh.predicted["hessian"]) == "rank <= 250 (derived)"
assert linear.hessian.rank < tanh.hessian.rank <= 250

# %%
# An undetermined rank is not a number to publish. Inputs of mean a million hide nearly
# everything from float64; the report says so, and has the exact rank besides.
problem = cs.Problem(problem_with("linear").model, loss, (inputs + 1e6, targets))
hidden = cs.rank_report(problem).hessian
print(hidden.headline())

# %%
page = cs.report([linear], path="runs/examples/hessian_rank")
print(f"report: {page}")
