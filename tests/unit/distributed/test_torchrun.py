"""The command line under the real ``torchrun``: alone, killed, resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from curvescope.results import load

# One sample a batch: a product takes long enough to be killed between two.
SLOW = ("--num-samples", "150", "--batch-size", "1", "--k", "5")
WAIT = 240


def start(size, out, *words, command="spectrum"):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    launch = [*launcher, str(size)] if size else []
    words = [command, "mlp", "--data", "digits", "--dtype", "float64", *words]
    return subprocess.Popen(
        [sys.executable, *launch, "-m", "curvescope", *words, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
    )


def finished(process):
    out, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    return out


def ranks_of(launcher):
    """Return the process of every rank."""
    found = {}
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    for pid in map(int, children.read_text().split()):
        told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        for rank in (entry[5:] for entry in told if entry.startswith(b"RANK=")):
            found[int(rank)] = pid
    return found


def saved_vectors(state):
    return json.loads(state.read_text())["state"]["space"]["m"]


def wait_for_vectors(launcher, folder, count):
    """Wait until a checkpoint holds so many vectors; return the ranks' processes."""
    state = folder / "checkpoints" / "eigenpairs" / "state.json"
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline and launcher.poll() is None:
        if state.exists() and saved_vectors(state) >= count:
            return ranks_of(launcher)
        time.sleep(0.02)
    pytest.fail(f"no checkpoint: {launcher.communicate()}")


def eigenpairs(folder):
    return load(folder / "results", "eigenpairs")


@pytest.mark.slow
def test_three_processes_write_the_run_folder_of_one(tmp_path):
    words = ("--num-samples", "100", "--batch-size", "32", "--num-steps", "16")
    alone = finished(start(0, tmp_path / "one", *words, command="analyze"))
    together = finished(start(3, tmp_path / "three", *words, command="analyze"))

    for name, field in (
        ("eigenpairs", "eigenvalues"),
        ("density", "nodes"),
        ("trace", "value"),
        ("frobenius_norm", "value"),
        ("effective_dimension", "values"),
    ):
        one, three = (
            torch.as_tensor(getattr(load(tmp_path / run / "results", name), field))
            for run in ("one", "three")
        )
        assert torch.allclose(one, three, rtol=1e-10, atol=1e-10, equal_nan=True), name
    assert files(tmp_path / "one") == files(tmp_path / "three")
    settings = [(tmp_path / r / "config.json").read_text() for r in ("one", "three")]
    assert settings[0] == settings[1]
    # Once, by the first process.
    assert together.count("report:") == alone.count("report:") == 1


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
def test_a_killed_rank_ends_the_others_with_a_word_and_all_goes_on_in_fewer(tmp_path):
    launcher = start(3, tmp_path / "broken", *SLOW)
    ranks = wait_for_vectors(launcher, tmp_path / "broken", 4)

    os.kill(ranks[1], signal.SIGKILL)
    _, errors = launcher.communicate(timeout=WAIT)

    assert launcher.returncode != 0
    for rank in (0, 2):
        (line,) = (
            x for x in errors.splitlines() if x.startswith(f"process {rank} of 3")
        )
        assert "died" in line
        assert "goes on from" in line
    assert_the_same_in_the_end(tmp_path, 2)


@pytest.mark.slow
def test_all_killed_at_once_go_on_in_another_number(tmp_path):
    launcher = start(2, tmp_path / "broken", *SLOW)
    ranks = wait_for_vectors(launcher, tmp_path / "broken", 4)

    for pid in (launcher.pid, *ranks.values()):
        os.kill(pid, signal.SIGKILL)
    launcher.communicate(timeout=WAIT)

    assert_the_same_in_the_end(tmp_path, 3)


def assert_the_same_in_the_end(tmp_path, size):
    finished(start(size, tmp_path / "broken", *SLOW))
    finished(start(0, tmp_path / "whole", *SLOW))
    broken, whole = (eigenpairs(tmp_path / name) for name in ("broken", "whole"))
    assert torch.allclose(broken.eigenvalues, whole.eigenvalues, rtol=1e-10, atol=1e-12)
    assert broken.cost.num_matvecs == whole.cost.num_matvecs


@pytest.mark.slow
def test_a_wrong_option_is_said_and_nothing_hangs(tmp_path):
    launcher = start(2, tmp_path / "run", "--num-samples", "0")

    _, errors = launcher.communicate(timeout=WAIT)

    assert launcher.returncode != 0
    assert "process 0 of 2: error: `num_samples` must" in errors


@pytest.mark.slow
def test_a_command_that_shares_nothing_is_refused(tmp_path):
    launcher = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "curvescope", "rank"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=False,
    )

    assert launcher.returncode != 0
    assert "`torchrun` must start analyze" in launcher.stderr
    assert not list(tmp_path.iterdir())
