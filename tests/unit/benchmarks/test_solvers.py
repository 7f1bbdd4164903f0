"""curvescope's own solvers, their worker, and how peers' loops are made."""

import pytest
import torch
from benchmarks import ours_solvers, reference_matrices
from benchmarks.peers.loops import layer_by_layer, layers_of, spread
from benchmarks.problems import PROBLEMS
from benchmarks.solver import Answer, Count
from benchmarks.solver_worker import SolverWorker


def run(solver, problem, tmp_path, **settings):
    worker = SolverWorker(solver, problem, "hessian", "wall")
    path = tmp_path / "answer.pt"
    found = worker.run(seed=1, settings=settings, path=str(path))
    return worker, found, torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def exact():
    H = reference_matrices.dense(PROBLEMS["tiny"]().double(), "hessian")
    return torch.linalg.eigvalsh((H + H.T) / 2)


def test_the_top_ten_are_saved_with_what_they_cost(tmp_path, exact):
    worker, found, answer = run(ours_solvers.top(), "tiny", tmp_path, k=4)

    order = exact.abs().argsort(descending=True)[:4]
    expected = exact[order].sort(descending=True).values
    assert torch.allclose(answer["values"], expected, rtol=1e-3)
    assert answer["vectors"].shape == (53, 4)
    assert all(answer["claimed"])
    assert found["products"] >= 4
    assert found["seconds"] >= found["build_seconds"] > 0
    assert worker.hello()["name"] == "curvescope"
    assert worker.gradient()["seconds"] > 0


def test_a_density_is_a_quadrature_whose_mean_is_the_trace(tmp_path):
    _, found, answer = run(
        ours_solvers.density(), "spectrum-tiny", tmp_path, num_probes=30, num_steps=5
    )

    H = reference_matrices.dense(PROBLEMS["spectrum-tiny"](), "hessian")
    mean = (answer["values"] * answer["weights"]).sum()
    assert float(answer["weights"].sum()) == pytest.approx(1.0)
    # 30 probes of 27 dimensions are all of them.
    assert float(mean) == pytest.approx(float(H.trace()) / len(H))
    assert found["products"] == 27


@pytest.mark.parametrize("table", ["all_layers", "layer_curvature"])
def test_layers_are_named_as_a_loop_over_modules_names_them(tmp_path, table):
    solver = getattr(ours_solvers, table)()
    _, _, table = run(solver, "tiny", tmp_path, limit=9.0)

    assert table["names"] == list(layers_of(PROBLEMS["tiny"]()))
    assert len(table["values"]) == len(table["names"])


def test_a_worker_forgets_the_operator_also_when_the_solver_fails(tmp_path):
    solver = ours_solvers.top()
    worker = SolverWorker(solver, "tiny", "hessian", "wall")

    with pytest.raises(ValueError, match="at most 53"):
        worker.run(seed=0, settings={"k": 54}, path=str(tmp_path / "a.pt"))

    assert solver._operator is None


def test_products_of_vectors_blocks_and_parts_are_counted():
    count = Count()
    product = count.of(lambda *arguments: arguments[-1])

    product(torch.ones(3))
    product("a gradient", "parameters", [torch.ones(2), torch.ones(1)])
    product(torch.ones(3, 5))

    assert (count.products, count.passes) == (7, 3)


def test_what_a_loop_had_time_for_is_spread_over_the_network():
    assert spread(list("abcdefgh")) == list("aecgbdfh")
    assert spread(["a"]) == ["a"]


def test_a_loop_begins_no_layer_after_its_limit_but_always_one():
    task = PROBLEMS["tiny"]()

    cut = layer_by_layer(task, lambda layer: float(len(layer)), limit=-1.0)
    whole = layer_by_layer(task, lambda layer: float(len(layer)), limit=60.0)

    assert isinstance(cut, Answer)
    assert cut.facts == {"done": 1, "of": 2}
    assert whole.facts == {"done": 2, "of": 2}
    assert whole.values.tolist() == [2.0, 2.0]
