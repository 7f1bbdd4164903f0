"""The judges: what they say of answers that are right, wrong, doubled, unconverged."""

import json

import numpy as np
import pytest
import torch
from benchmarks import judges, reference, reference_matrices, reference_pairs
from benchmarks.problems import PROBLEMS
from scipy.stats import wasserstein_distance


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "CACHE", tmp_path / "exact")
    return tmp_path / "exact"


@pytest.fixture(scope="module")
def spectrum():
    """All pairs of the tiny net's float64 Hessian, by numpy, largest magnitude first."""
    task = PROBLEMS["tiny"]().double()
    H = reference_matrices.dense(task, "hessian").detach().numpy()
    values, vectors = np.linalg.eigh((H + H.T) / 2)
    order = np.argsort(-abs(values))
    return H, values[order], vectors[:, order]


def answer(values, vectors=None, claimed=None):
    return {
        "values": torch.as_tensor(np.asarray(values), dtype=torch.float64),
        "vectors": None if vectors is None else torch.as_tensor(vectors),
        "claimed": claimed,
    }


def test_exact_pairs_are_those_of_the_dense_matrix(spectrum):
    H, values, _ = spectrum

    pairs = reference_pairs.exact_pairs("tiny", 4)

    assert np.allclose(pairs.values.numpy()[:4], values[:4], rtol=1e-7, atol=0)
    V, W = pairs.vectors.numpy(), pairs.products.numpy()
    assert np.allclose(W, H @ V, rtol=0, atol=1e-12 * abs(values[0]))
    assert np.allclose(V.T @ V, np.eye(V.shape[1]), atol=1e-12)
    assert float(pairs.residuals[:4].max()) < 1e-3


def test_exact_pairs_are_kept_and_made_anew_for_other_weights(cache):
    first = reference_pairs.exact_pairs("tiny", 4)
    (path,) = cache.iterdir()
    made = path.stat().st_mtime_ns

    again = reference_pairs.exact_pairs("tiny", 4)

    assert path.stat().st_mtime_ns == made
    assert torch.equal(first.values, again.values)
    task = PROBLEMS["tiny"]()
    task.parameters[0].data[0, 0] += 1.0
    assert reference_pairs.place(task, "pairs-4").name != path.name


def test_a_block_of_parameters_has_its_own_hessian(spectrum):
    H, _, _ = spectrum
    task = PROBLEMS["tiny"]().double()
    last = task.parameters[-2:]
    size = sum(p.numel() for p in last)

    block = reference_pairs.KeptHessian(task, last).block(
        torch.eye(size, dtype=torch.float64)
    )

    assert np.allclose(block.detach().numpy(), H[-size:, -size:], atol=1e-14)


def test_right_pairs_are_right_to_the_last_one(spectrum):
    _, values, vectors = spectrum
    judge = judges.TopJudge("tiny", k=4)

    found = judge.judge(answer(values[:4], vectors[:, :4], [True] * 4))

    assert found["right"] == 4
    assert found["duplicates"] == found["wrong_but_claimed"] == 0
    assert found["worst_residual"] < 1e-6
    assert found["largest_error"] < 1e-7


def test_a_residual_is_the_true_one_also_far_outside_of_the_exact_pairs(spectrum):
    H, values, vectors = spectrum
    rng = np.random.default_rng(0)
    v = vectors[:, 0] + 0.3 * rng.standard_normal(len(values)) / 7
    v /= np.linalg.norm(v)
    expected = np.linalg.norm(H @ v - values[0] * v) / abs(values[0])

    found = judges.TopJudge("tiny", k=4).judge(answer(values[:1], 5.0 * v[:, None]))

    # The rest is multiplied in float32.
    assert found["worst_residual"] == pytest.approx(expected, rel=1e-5)


def test_copies_of_one_eigenvalue_are_duplicates_though_called_converged(spectrum):
    _, values, _ = spectrum
    ghosts = values[0] * np.array([1.0, 1 - 1e-5, 1 - 2e-5, 1 - 3e-5])

    found = judges.TopJudge("tiny", k=4).judge(
        answer(ghosts, claimed=[True, True, False, True])
    )

    assert found["right"] == 1
    assert found["duplicates"] == 3
    assert found["wrong_but_claimed"] == 2
    assert found["largest_error"] > 0.1
    assert "worst_residual" not in found


def test_a_missed_eigenvalue_makes_the_next_one_not_one_of_the_wanted(spectrum):
    _, values, vectors = spectrum
    kept = [0, 1, 3, 4]  # the third was missed

    found = judges.TopJudge("tiny", k=4).judge(answer(values[kept], vectors[:, kept]))

    assert found["right"] == 3
    assert found["duplicates"] == 0
    assert found["worst_residual"] < 1e-6


def test_a_value_is_matched_with_one_exact_one_only():
    assert judges.match([5.0, 5.0, 2.1], [5.0, 2.0, 5.0], 1e-3) == [0, 2, None]
    assert judges.match([1.0, 2.0], [1.0], 1e-3) == [0, None]


def test_a_quadratures_error_is_its_distance_to_the_dense_spectrum():
    judge = judges.DensityJudge("spectrum-tiny")
    task = PROBLEMS["spectrum-tiny"]()
    H = reference_matrices.dense(task, "hessian").detach().numpy()
    values = np.linalg.eigvalsh((H + H.T) / 2)
    nodes = torch.tensor([0.1, 0.4], dtype=torch.float64)
    weights = torch.tensor([0.75, 0.25], dtype=torch.float64)

    found = judge.judge({"values": nodes, "weights": weights})

    expected = wasserstein_distance([0.1, 0.4], values, [0.75, 0.25])
    assert found["error"] == pytest.approx(expected / abs(values).max(), rel=1e-9)
    whole = {
        "values": torch.from_numpy(values),
        "weights": torch.full((len(values),), 1 / len(values)).double(),
    }
    assert judge.judge(whole)["error"] < 1e-9


def test_layers_are_held_against_the_dense_blocks(spectrum):
    H, _, _ = spectrum
    judge = judges.LayersJudge("tiny")
    # 6 x 5 + 5 parameters, then 5 x 3 + 3.
    blocks = [H[:35, :35], H[35:, 35:]]
    tops = [max(np.linalg.eigvalsh(B), key=abs) for B in blocks]
    names = list(judge.facts()["exact_layers"])

    right = judge.judge({"values": torch.tensor(tops), "names": names})
    off = judge.judge({"values": torch.tensor([1.01 * tops[0]]), "names": names[:1]})

    assert len(names) == 2
    assert right["largest_error"] < 1e-9
    assert off["largest_error"] == pytest.approx(0.01, rel=1e-6)


def test_the_process_describes_the_task_and_judges_files(tmp_path, capsys, spectrum):
    _, values, vectors = spectrum
    path = tmp_path / "answer.pt"
    torch.save(answer(values[:4], vectors[:, :4]), path)
    (tmp_path / "paths.txt").write_text(f"{path}\n{path}")

    request = {"options": {"k": 4}, "paths": str(tmp_path / "paths.txt")}
    threads = str(torch.get_num_threads())
    judges.main("prepare", "top", "tiny", threads, json.dumps({"options": {"k": 4}}))
    facts = json.loads(capsys.readouterr().out)
    judges.main("judge", "top", "tiny", threads, json.dumps(request))
    verdicts = json.loads(capsys.readouterr().out)

    assert facts["num_params"] == 53
    assert facts["num_batches"] == 2
    assert facts["exact_values"][:4] == pytest.approx(list(values[:4]))
    assert [verdict["right"] for verdict in verdicts] == [4, 4]
