"""Initial weights of several sizes: what happens to every layer's block of the Hessian."""

# %%
from curvescope.experiments.init_sweep import InitSweep, init_sweep
from curvescope.experiments.init_training import InitTrainingConfig, init_training

# The published setting has 1,024 samples and 1,000 steps; a smaller one shows the same.
SIZE = {"seeds": 2, "num_probe": 128, "jobs": 1}
STEPS = 300

# %%
# Only the first layer's weights vary, as in the published notebook: its own block's norm
# does not know their scale until the predictions become extreme; the other layers' do.
config = InitSweep(sd=(0.01,), fine=(1e-5, 0.1, 10.0), steps=1, every=1, **SIZE)
first = init_sweep(config)["untrained"]
print(first)
norms = first.values("linear1_norm").mean(dim=1)
assert abs(norms[1] / norms[0] - 1) < 0.02
assert norms[-1] < norms[0] / 3

# %%
# All layers vary together: every block vanishes or explodes, with the fourth power.
config = InitSweep(
    vary="all", sd=(0.01,), fine=(0.001, 0.3, 1.0), steps=1, every=1, **SIZE
)
together = init_sweep(config)["untrained"]
print(together)
norms = together.values("linear1_norm").mean(dim=1)
assert abs(norms[1] / norms[0] / 1e4 - 1) < 0.05

# %%
# Along the training: up and down with fresh batches, up with the same one at every step.
config = InitTrainingConfig(sd=(0.01,), steps=STEPS, every=STEPS // 5, **SIZE)
training = init_training(config)["init_training"]
print(training)
same = training.curve("hessian_norm", sd=0.01, batches="same").mean(dim=0)
assert same[-1] > same[0]
