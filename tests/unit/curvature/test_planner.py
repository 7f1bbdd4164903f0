"""Plans: what is measured, what is chosen, what is refused, what they say."""

import gc

import pytest
import torch
from torch import nn

from curvescope.curvature import GGN, Hessian, ProductChoices
from curvescope.curvature.measurements import (
    CANDIDATES,
    LIBRARIES,
    SAMPLES,
    Measurements,
    Widths,
    by_rule,
)
from curvescope.problem import Problem
from curvescope.problem.metering import AllocationMeter, return_free_memory

MIB = 2**20
CPU = torch.device("cpu")


class Wide(nn.Module):
    """Four layers whose activations are large and whose weights are small."""

    def __init__(self, width=64, length=256):
        super().__init__()
        self.length = length
        self.first = nn.Linear(8, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        x = x[:, None, :].expand(-1, self.length, -1)
        x = torch.tanh(self.second(torch.tanh(self.first(x))))
        return self.head(x.mean(dim=1))


def wide(num=32, batch=16, limit=None, **sizes):
    torch.manual_seed(0)
    model = Wide(**sizes)
    data = (torch.randn(num, 8), torch.arange(num) % 3)
    return Problem(model, "cross_entropy", data, batch_size=batch, memory_limit=limit)


def measured(seconds):
    """Return measurements with so many seconds of a column at each width."""
    found = Measurements(CPU, temporaries={8: 1.0 * MIB}, graphs={8: 4.0 * MIB})
    found.seconds = {width: [value] * SAMPLES for width, value in seconds.items()}
    return found


def test_the_meter_counts_what_is_made_and_what_is_left():
    before = torch.ones(1000, dtype=torch.float64)

    with AllocationMeter() as meter:
        kept = before * 2.0  # 8 kB stay
        passing = torch.cat([kept, kept])  # 16 kB go again
        view = kept[:10]
        del passing
        small = before[:100] + 1.0

    assert view.numel() + small.numel() == 110
    assert meter.live == 8_000 + 800
    assert meter.peak == 8_000 + 16_000
    assert meter.made == 8_000 + 16_000 + 800


def test_free_memory_can_be_given_back_anywhere():
    kept = torch.arange(1_000)

    return_free_memory()

    assert int(kept.sum()) == 499_500


def test_a_line_through_two_sizes_gives_every_other():
    found = Measurements(CPU, graphs={4: 140.0, 8: 180.0}, temporaries={8: 80.0})

    assert found.graph(16) == 260  # 100 fixed, 10 a sample
    assert found.product(4, 1) == int(found.holes * 40)
    assert found.graph(0) == 100
    assert Measurements(CPU).graph(5) == 0


@pytest.mark.parametrize(
    ("graph", "columns", "width"),
    [
        (3 * MIB, 32, 8),
        (3 * MIB, 11, 6),
        (3 * MIB, 1, 1),
        (MIB, 32, 32),
        (99 * MIB, 7, 1),
    ],
)
def test_the_columns_of_a_chain_go_in_equal_blocks_that_stay_in_the_caches(
    graph, columns, width
):
    found = by_rule(
        graph, columns=columns, second_order=True, convolutions=False, chain=True
    )

    assert found == width


def test_the_columns_of_a_chain_are_not_timed_on_a_cpu():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 256), nn.Tanh(), nn.Linear(256, 10))
    data = (torch.randn(512, 300), torch.arange(512) % 10)
    problem = Problem(model, "cross_entropy", data, batch_size=512)
    H = Hessian(problem)
    V = torch.randn(problem.num_params, 9)

    for _ in range(3):
        H @ V

    # The very first tells the memory, the other eight follow; no 4, no 16.
    assert set(H._graphs.measured.excess) == {1, 8, 9}
    assert H.plan(columns=9).chain


def test_widths_are_tried_as_long_as_they_gain():
    found = measured({1: 1.0})
    widths = Widths(found, rule=1, explores=True, most=32)

    assert widths.next(32) == 4
    assert widths.next(3) == 1
    found.seconds[4] = [0.5] * SAMPLES
    assert widths.next(32) == 8
    found.seconds[8] = [0.9] * SAMPLES  # worse than 4: nothing wider is tried
    assert widths.trial() is None
    assert widths.next(32) == 4
    assert widths.next(3) == 3


def test_a_gain_within_the_noise_takes_no_memory():
    found = measured({1: 1.0, 4: 0.97, 8: 0.96, 16: 0.955, 32: 0.951})

    assert Widths(found, rule=1, explores=True, most=32).best() == 1


@pytest.mark.parametrize("most", [1, 3, 4, 9, 32])
def test_no_width_exceeds_what_memory_allows(most):
    for seconds in ({}, {1: 1.0}, {w: 1.0 / w for w in CANDIDATES}):
        widths = Widths(measured(seconds), rule=32, explores=True, most=most)
        assert 1 <= widths.next(32) <= most
        assert Widths(measured(seconds), rule=32, explores=False, most=most).next(
            99
        ) == min(32, most)


def test_a_layer_without_a_batching_rule_ends_all_trials():
    found = measured({})
    found.loops_only = True

    assert Widths(found, rule=32, explores=True, most=32).next(32) == 1


def test_a_width_that_is_far_slower_is_given_up_at_once():
    found = measured({1: 1.0})

    found.judge(4, 8, 4 * 8 * 3.0)
    assert found.column_seconds(4) == 3.0
    found.judge(8, 8, 8 * 8 * 1.2)  # warming up may cost that much
    assert found.column_seconds(8) is None


def test_what_a_graph_holds_is_what_its_plan_says():
    problem = wide()
    H = Hessian(problem)

    plan = H.plan(columns=4)

    # An independent count: everything that building the graphs leaves behind.
    H.release()
    with AllocationMeter() as meter:
        H @ torch.ones(problem.num_params)
    assert plan.held - plan.data == pytest.approx(meter.live, rel=0.02)
    assert plan.num_kept == plan.num_batches == 2
    assert plan.seconds > 0.0
    assert plan.first_seconds > 0.0
    assert plan.peak > plan.held
    assert plan.choices == ProductChoices(columns=plan.columns, kept=2, fold=plan.fold)


def test_a_plan_says_what_else_there_was():
    plan = Hessian(wide()).plan(columns=4)

    kept = {other.num_kept for other in plan.alternatives}
    assert kept == {0, 2}
    assert plan.alternatives[0].columns == plan.columns
    assert plan.alternatives[0].peak == plan.peak
    text = str(plan)
    for words in ("columns at once", "2 of 2", "a column", "at the peak", "chosen"):
        assert words in text
    assert "all graphs fit" in text


def test_what_is_asked_for_is_the_plan():
    problem = wide()

    plan = Hessian(problem, columns=3, kept=1).plan(columns=4)

    assert (plan.columns, plan.num_kept) == (3, 1)
    assert "`columns=3` was asked for" in str(plan)
    assert "`kept=1` was asked for" in str(plan)
    H = Hessian(problem, columns=3, kept=1)
    H @ torch.ones(problem.num_params, 4)
    assert H._graphs.num_kept == 1


def test_a_plan_leaves_the_model_as_it_was():
    problem = wide()
    problem.model.train()
    before = [p.clone() for p in problem.model.parameters()]
    state = torch.random.get_rng_state()

    Hessian(problem).plan(columns=3)

    assert problem.model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    for p, q in zip(problem.model.parameters(), before, strict=True):
        assert torch.equal(p, q)
        assert p.grad is None


def test_what_was_measured_outlives_an_operator():
    problem = wide()
    first = Hessian(problem).plan()

    again = Hessian(problem)

    assert again._graphs.measured is Hessian(problem)._graphs.measured
    assert again._graphs.measured.graph(16) == first.graph
    assert GGN(problem)._graphs.measured.graph(16) == 0
    assert Hessian(problem.select("head"))._graphs.measured.graph(16) == 0


def test_a_batch_that_cannot_fit_is_refused_before_its_graph_is_built():
    problem = wide(num=512, batch=512, limit=40 * MIB)
    H = Hessian(problem)
    problem.model.seen.clear()

    with pytest.raises(MemoryError, match="`memory_limit` must hold one batch's") as e:
        H @ torch.ones(problem.num_params)

    assert "40.0 MiB" in str(e.value)
    assert "Use batches of less than 512 samples" in str(e.value)
    assert max(problem.model.seen) <= 32


def test_smaller_batches_are_the_remedy():
    problem = wide(num=64, batch=8, limit=80 * MIB)
    v = torch.randn(problem.num_params)

    got = Hessian(problem) @ v

    expected = Hessian(wide(num=64, batch=64)) @ v
    assert float((got - expected).norm() / expected.norm()) < 1e-5


def test_kept_graphs_that_cannot_fit_are_refused():
    problem = wide(num=512, batch=64, limit=100 * MIB)

    with pytest.raises(MemoryError, match=r"`kept` must fit `memory_limit`; got 'all'"):
        Hessian(problem, kept="all") @ torch.ones(problem.num_params)


def test_columns_that_cannot_fit_are_refused():
    problem = wide(num=32, batch=32, limit=100 * MIB)
    H = Hessian(problem, columns=64)
    H @ torch.ones(problem.num_params, 2)

    with pytest.raises(MemoryError, match="`columns` must fit `memory_limit`; got 64"):
        H @ torch.ones(problem.num_params, 64)


def test_operators_of_one_problem_share_the_limit():
    problem = wide(num=64, batch=16, limit=2**30)
    H, G = Hessian(problem), GGN(problem)
    v = torch.ones(problem.num_params)

    H @ v
    alone = problem.graph_bytes
    G @ v
    both = problem.graph_bytes
    G.release()
    released = problem.graph_bytes
    del H
    gc.collect()

    assert 0 < alone < both
    assert released == alone
    assert problem.graph_bytes == 0


def test_what_is_reserved_keeps_fewer_graphs():
    def kept(reserved):
        H = Hessian(wide(num=64, batch=16, limit=200 * MIB))
        H.reserve(reserved)
        return H.plan().num_kept

    assert kept(0) == 4
    assert kept(180 * MIB) < 4


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ({"columns": 0}, ValueError, "`columns` must be at least 1; got 0"),
        ({"kept": -1}, ValueError, "`kept` must be at least 0; got -1"),
        ({"kept": "some"}, ValueError, "`kept` must be"),
        ({"fold": 1}, TypeError, "`fold` must be True, False or None; got 1"),
    ],
)
def test_wrong_choices_are_refused(choices, error, words):
    with pytest.raises(error, match=words):
        Hessian(wide(), **choices)


def test_folding_needs_frozen_statistics():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten())
    data = (torch.randn(4, 1, 4, 4), torch.arange(4) % 3)
    problem = Problem(model, "cross_entropy", data, mode="train")

    with pytest.raises(ValueError, match="`fold` must be False in train mode"):
        Hessian(problem, fold=True)


def test_a_block_has_its_matrix_s_choices():
    H = Hessian(wide(), columns=2, kept="none")

    assert H.block("head").choices == H.choices
    assert H.choices.given == {"columns": 2, "kept": "none"} | {
        name: value
        for name, value in H.choices.given.items()
        if name not in ("columns", "kept")
    }


def test_a_stated_limit_is_forgiven_what_libraries_take():
    assert LIBRARIES == 64 * MIB


def test_many_parameters_and_few_samples_are_not_far_from_a_limit():
    torch.manual_seed(0)
    model = nn.Linear(1500, 1500, bias=False)
    data = (torch.randn(2, 1500), torch.randn(2, 1500))
    limit = 256 * MIB
    G = GGN(Problem(model, "mse", data, memory_limit=limit))
    V = torch.randn(G.shape[1], 8)

    with AllocationMeter() as meter:
        G @ V

    assert not G._graphs.room.plenty
    assert meter.peak < limit - V.numel() * V.element_size()


def test_a_plan_says_where_vectors_alone_exceed_the_limit():
    model = nn.Linear(1500, 1500, bias=False)
    data = (torch.randn(2, 1500), torch.randn(2, 1500))
    H = Hessian(Problem(model, "mse", data, memory_limit=256 * MIB))

    text = str(H.plan(columns=40))

    assert "so many vectors exceed the limit by" in text
    assert "libraries take" not in text
