"""What the processes compute: small problems, and all verbs on them."""

import importlib
from pathlib import Path

import torch
from torch import nn

import curvescope as cs
from curvescope._core.processes import ALONE
from curvescope.distributed import SharedCheckpoint, data_parallel

WEIGHTS = [0.5, 2.0, 1.25, 0.1]


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 4)
    ).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.5)
    return net


def samples(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (count,), generator=generator)
    y[::7] = -100  # ignored
    return X, y


def weighted():
    return nn.CrossEntropyLoss(weight=torch.tensor(WEIGHTS, dtype=torch.float64))


def exact(number):
    return torch.tensor(number, dtype=torch.float64)


def problem(among, count=53, **options):
    settings = {"batch_size": 8, "weight_decay": 1e-3} | options
    return data_parallel(network(), weighted(), samples(count), among, **settings)


def rows(table):
    return torch.tensor(
        [
            (row.frobenius_norm, row.curvature_norm, row.trace, row.top_eigenvalue)
            for row in table.layers
        ],
        dtype=torch.float64,
    )


def verbs(among=ALONE, count=53, reduction=None):
    """Return what every verb gives, and how many messages each took."""
    whole = problem(among, count, reduction=reduction)
    H = cs.Hessian(whole)
    found, messages = {}, {}

    def note(name, result):
        before = getattr(among, "num_messages", 0)
        found[name] = value = result()
        messages[name] = getattr(among, "num_messages", 0) - before
        return value

    note("loss", lambda: exact(whole.evaluate().loss))
    found["accuracy"] = exact(whole.evaluate().accuracy)
    found["denominator"] = exact(whole.denominator)
    note("gradient", whole.gradient)
    note("dense", H.to_dense)
    note("ggn", lambda: cs.GGN(whole).to_dense())
    note("functional", lambda: cs.FunctionalHessian(whole).to_dense())
    note("fisher", lambda: cs.EmpiricalFisher(whole).to_dense())
    pairs = note("eigenvalues", lambda: cs.eigsh(H, k=6, which="BE"))
    density = note(
        "density", lambda: cs.spectral_density(H, num_probes=4, num_steps=20)
    )
    trace = note("trace", lambda: cs.trace(H, num_matvecs=24))
    probed = note(
        "layers", lambda: cs.layer_curvature(whole, num_probes=4, method="probes")
    )
    # By the chain rule in one process, formed by products in several.
    exactly = note("exact layers", lambda: cs.layer_curvature(whole, method="exact"))
    found |= {
        "eigenvalues": pairs.eigenvalues,
        "density": density.nodes.nan_to_num(),
        "weights": density.weights,
        "trace": exact(trace.value),
        "layers": rows(probed),
        "exact layers": rows(exactly),
    }
    passes = {
        "eigenvalues": pairs.cost.num_data_passes,
        "density": density.cost.num_data_passes,
        "trace": trace.cost.num_data_passes,
    }
    facts = {
        "num_samples": whole.num_samples,
        "fingerprint": whole.refresh(),
        "own": sum(whole.batch_sizes),
        "text": str(H.info),
    }
    return found, messages, passes, facts


def sampled_fisher(among=ALONE):
    """Return a Monte Carlo Fisher; every process holds the same samples."""
    whole = data_parallel(network(), "cross_entropy", samples(26), among, shared=True)
    return cs.MonteCarloFisher(whole).to_dense()


def rows_of_all(among):
    """Ask for what no process has alone."""
    return cs.Jacobian(problem(among)).shape


class Fragile(nn.Module):
    """Fails in one process, when told."""

    broken = False

    def forward(self, X):
        """Return the input."""
        if self.broken:
            text = "the sensor fell off"
            raise ValueError(text)
        return X


def one_fails_in_a_product(among):
    """Return what a failing product says, and whether the next one works."""
    net = nn.Sequential(network(), Fragile())
    whole = data_parallel(net, weighted(), samples(53), among, memory_limit=2**20)
    H = cs.Hessian(whole)
    net[1].broken = among.rank == 1
    try:
        cs.trace(H, num_matvecs=12)
        said = ""
    except Exception as error:  # the test looks at it
        said = f"{type(error).__name__}: {error}"
    net[1].broken = False
    return said, cs.trace(H, num_matvecs=12).value


def one_has_bad_data(among):
    """Make a problem of which one process has NaN."""
    X, y = samples(53)
    if among.rank == 2:
        X[-1, 0] = float("nan")
    data_parallel(network(), weighted(), (X, y), among)


def one_has_other_weights(among):
    """Make a problem whose weights differ."""
    data_parallel(network(seed=among.rank), weighted(), samples(53), among)


def one_trains_on(among):
    """Change the weights of one process between two products."""
    whole = problem(among)
    H = cs.Hessian(whole)
    v = torch.ones(H.shape[1], dtype=torch.float64)
    first = H @ v
    if among.rank == 1:
        with torch.no_grad():
            whole.model[0].weight.add_(0.1)
    H @ v
    return first


def each_has_its_own_vector(among):
    """Multiply other vectors in every process."""
    H = cs.Hessian(problem(among))
    H @ torch.full((H.shape[1],), 1.0 + among.rank, dtype=torch.float64)


def own_shares(among, sizes):
    """Give every process what it already holds; nothing to some."""
    starts = [sum(sizes[:r]) for r in range(len(sizes))]
    X, y = samples(sum(sizes))
    part = slice(starts[among.rank], starts[among.rank] + sizes[among.rank])
    data = (X[part], y[part]) if sizes[among.rank] else None
    whole = data_parallel(
        network(), weighted(), data, among, shared=True, weight_decay=1e-3
    )
    return cs.Hessian(whole).to_dense(), whole.num_samples, whole.refresh()


def by_name(among=ALONE, count=2):
    """Share a mapping of few samples; some processes get none."""
    X, y = samples(count)
    whole = data_parallel(
        network(), weighted(), {"input": X, "labels": y}, among, weight_decay=1e-3
    )
    own = sum(whole.batch_sizes)
    return cs.Hessian(whole).to_dense(), own, whole.num_samples, whole.refresh()


def with_other_memory(among, limits=None):
    """Give every process another limit, or leave it to what is free: less in the last."""
    module = importlib.import_module("curvescope.problem.inspection")
    free = module.available_memory
    if limits is None and among.rank + 1 == among.size:
        module.available_memory = lambda device: 2**18
    try:
        limit = None if limits is None else limits[among.rank]
        whole = problem(among, memory_limit=limit)
    finally:
        module.available_memory = free
    H = cs.Hessian(whole)
    return whole.memory_limit, H.block_size, H.to_dense()


def other_batches_everywhere(among):
    """Share an iterable that is another one in every process."""
    X, y = samples(24, seed=among.rank)
    batches = [(X[i : i + 4], y[i : i + 4]) for i in range(0, 24, 4)]
    data_parallel(network(), weighted(), iter(batches), among)


def same_batches_everywhere(among):
    """Share a generator."""
    X, y = samples(53)
    batches = ((X[i : i + 8], y[i : i + 8]) for i in range(0, 53, 8))
    whole = data_parallel(network(), weighted(), batches, among, weight_decay=1e-3)
    return cs.Hessian(whole).to_dense()


def normalised_in_train_mode(among):
    """Put BatchNorm into train mode; every process holds one batch."""
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    data_parallel(net, "cross_entropy", samples(30), among, mode="train", batch_size=99)


class EndsError(Exception):
    """What a kill is, for an iteration that only sees its checkpoint."""


class Short(SharedCheckpoint):
    """Saves at every step, and ends the run in all processes after some."""

    steps = 10**9

    def due(self):
        """Count the steps."""
        self.steps -= 1
        if self.steps < 0:
            raise EndsError
        return self._processes.rank == 0


def interrupted(among, folder, steps):
    """Run two iterations until the end, or until their checkpoints end them."""
    H = cs.Hessian(problem(among))
    found = []
    for name, verb in (
        ("pairs", lambda c: cs.eigsh(H, k=5, which="BE", checkpoint=c)),
        ("slq", lambda c: cs.slq(H, num_probes=3, num_steps=20, checkpoint=c)),
    ):
        # Only the first process knows where the folder is.
        place = Path(folder) / name if among.rank == 0 else Path("/nowhere")
        checkpoint = Short(place, H.info.fingerprint, among)
        checkpoint.steps = steps
        try:
            result = verb(checkpoint)
        except EndsError:
            found.append(None)
            continue
        values = result.eigenvalues if name == "pairs" else result.nodes
        found.append((values.nan_to_num(), result.cost.num_matvecs))
    return found
