"""A run that is killed in earnest, in a process of its own, and begun again."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from curvescope.results import load

# One sample a batch: a product takes long enough to be killed between two.
SLOW = [
    "mlp",
    "--data",
    "digits",
    "--num-samples",
    "200",
    "--batch-size",
    "1",
    "--k",
    "6",
]


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "curvescope", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def saved_vectors(folder):
    state = folder / "checkpoints" / "eigenpairs" / "state.json"
    if not state.exists():
        return 0
    return json.loads(state.read_text())["state"]["space"]["m"]


@pytest.mark.slow
def test_products_before_and_after_a_kill_add_up_to_those_of_an_unbroken_run(tmp_path):
    whole = start("spectrum", *SLOW, "--out", tmp_path / "whole")
    assert whole.communicate()[1] is not None
    assert whole.returncode == 0
    broken = start("spectrum", *SLOW, "--out", tmp_path / "broken")
    deadline = time.monotonic() + 120
    while saved_vectors(tmp_path / "broken") < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    broken.send_signal(signal.SIGKILL)
    broken.communicate()
    assert broken.returncode == -signal.SIGKILL
    before = saved_vectors(tmp_path / "broken")
    assert before >= 5

    resumed = start("spectrum", *SLOW, "--out", tmp_path / "broken")
    resumed.communicate()

    assert resumed.returncode == 0
    a = load(tmp_path / "whole" / "results", "eigenpairs")
    b = load(tmp_path / "broken" / "results", "eigenpairs")
    assert torch.equal(a.eigenvalues, b.eigenvalues)
    assert a.cost.num_matvecs == b.cost.num_matvecs
    assert not (tmp_path / "broken" / "checkpoints" / "eigenpairs").exists()


@pytest.mark.slow
def test_control_c_leaves_a_folder_that_resumes(tmp_path):
    process = start("spectrum", *SLOW, "--out", tmp_path)
    deadline = time.monotonic() + 120
    while saved_vectors(tmp_path) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()

    assert process.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors
    again = start("spectrum", *SLOW, "--out", tmp_path)
    again.communicate()
    assert again.returncode == 0
