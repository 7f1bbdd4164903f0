"""Ways to whole matrices: each against the exact one, none faster than its limits."""

import importlib

import pytest
import torch
from benchmarks import reference_matrices
from benchmarks.assembly_worker import AssemblyWorker, relative_error
from benchmarks.peers import torch_matrices
from benchmarks.problems import PROBLEMS, tanh
from benchmarks.process import start
from benchmarks.suites.exact import ASSEMBLERS

HERE = [i for i in ASSEMBLERS if i.venv == ".venv"]
ELSEWHERE = [i for i in ASSEMBLERS if i not in HERE]


def adapter_of(implementation):
    return getattr(
        importlib.import_module(implementation.module), implementation.factory
    )()


@pytest.fixture(scope="module")
def exact():
    task = PROBLEMS["tanh-tiny"]().double()
    return {m: reference_matrices.dense(task, m) for m in ("hessian", "ggn")}


@pytest.fixture
def saved(exact, tmp_path):
    path = tmp_path / "exact.pt"
    torch.save(exact, path)
    return str(path)


def test_the_exact_ggn_is_the_hessian_without_hidden_layers():
    """A linear model with cross-entropy has no other curvature than the loss's own."""
    task = tanh("linear", 4, 3, num_samples=7, bias=True).double()

    hessian, ggn = (reference_matrices.dense(task, m) for m in ("hessian", "ggn"))

    assert relative_error(hessian, ggn) < 1e-14
    assert torch.linalg.matrix_rank(hessian) == (4 + 1) * (3 - 1)


# torch 2.13 warns of its own tracing in `linearize`.
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
@pytest.mark.parametrize("implementation", HERE, ids=lambda i: i.key)
def test_every_way_in_torch_finds_both_matrices(implementation, saved):
    worker = AssemblyWorker(
        adapter_of(implementation), "tanh-tiny", "hessian+ggn", "wall"
    )
    worker.build(block=8 if worker.hello()["has_blocks"] else None)

    checked = worker.check(saved)

    assert checked["relative_error"] < 1e-13
    assert worker.assemble()["seconds"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("implementation", ELSEWHERE, ids=lambda i: i.key)
def test_every_way_in_jax_finds_both_matrices(implementation, saved):
    if not implementation.python.exists():
        pytest.skip("no environment: run `make bench-setup`")
    name = "tanh-tiny"
    with start(implementation, name, "hessian+ggn", threads=1, clock="wall") as worker:
        worker.greet()
        worker.ask("build", block=8 if worker.hello["has_blocks"] else None)
        checked = worker.ask("check", reference=saved)

    assert worker.hello["fingerprint"] == PROBLEMS[name]().fingerprint
    assert checked["relative_error"] < 1e-13


class Slowest:
    """A way whose blocks have their price."""

    blocks = (2, 16, 20, 1024)
    name = "fake"

    def __init__(self, price):
        self.price = price
        self.clock = 0.0
        self.asked = []

    def version(self):
        return "1"

    def build(self, task, matrices, block):
        self.block = block

    def hessian_columns(self, num):
        self.asked.append((self.block, num))
        self.clock += self.price[self.block]


@pytest.mark.parametrize(
    ("price", "tried", "best"),
    [
        ({2: 0.3, 16: 0.2, 20: 0.22, 27: 0.25}, {2, 16, 20, 27}, 16),
        ({2: 0.3, 16: 0.2, 20: 0.19, 27: 0.18}, {2, 16, 20, 27}, 27),
        ({2: 0.2, 16: 0.4}, {2, 16}, 2),
    ],
)
def test_the_block_is_the_fastest_on_the_same_columns(monkeypatch, price, tried, best):
    way = Slowest(price)
    monkeypatch.setattr("benchmarks.measure.CLOCKS", {"fake": lambda: way.clock})

    tuned = AssemblyWorker(way, "tanh-tiny", "hessian", "fake").tune()

    assert tuned["block"] == best
    assert set(tuned["tried"]) == tried
    assert tuned["tried"][2] == pytest.approx(price[2])
    assert {num for _, num in way.asked} == {27}


def test_a_block_computes_the_first_columns_of_the_same_hessian(exact):
    task = PROBLEMS["tanh-tiny"]().double()
    for way in (torch_matrices.jacrev_grad(), torch_matrices.jvp_grad()):
        way.build(task, ("hessian",), 4)
        rows = way._hessian(10)

        assert rows.shape == (10, 27)
        assert torch.allclose(rows, exact["hessian"][:10], rtol=0, atol=1e-14)


def test_what_would_not_fit_is_refused_with_its_size():
    task = tanh("huge", 40, 3000, 10, num_samples=1000)

    with pytest.raises(ValueError, match=r"need about [0-9]{4,} GiB"):
        torch_matrices.refuse_if_too_large(task)

    torch_matrices.refuse_if_too_large(PROBLEMS["tanh-tiny"]())


def test_a_matrix_in_single_precision_is_not_compared():
    with pytest.raises(ValueError, match="float32"):
        relative_error(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.float64))


def test_the_error_is_of_the_worst_entry():
    exact = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    wrong = torch.tensor([[4.0, 0.0], [0.0, 1.5]], dtype=torch.float64)

    assert relative_error(wrong, exact) == 0.5 / 4.0
