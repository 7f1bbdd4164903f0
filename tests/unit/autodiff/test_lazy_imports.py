"""Ctrl-C in the middle of what torch imports during its first backward pass."""

import subprocess
import sys

SCRIPT = """
import os, signal, sys
import torch
import curvescope as cs

# A shell's background job ignores SIGINT, and so would its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
assert "sympy" not in sys.modules  # else nothing is tested
torch.manual_seed(0)
data = (torch.randn(5, 3), torch.arange(5) % 4)
net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Softmax(dim=1))
problem = cs.Problem(net, "cross_entropy", data)  # no chain: autograd multiplies


class Interrupting:
    interrupted = 0

    def find_spec(self, name, path=None, target=None):
        if name == "sympy.series" and not self.interrupted:
            self.interrupted += 1
            os.kill(os.getpid(), signal.SIGINT)


finder = Interrupting()
sys.meta_path.insert(0, finder)
v = torch.ones(problem.num_params)
try:
    cs.MATRIX(problem) @ v
except KeyboardInterrupt:
    print("interrupted")
assert finder.interrupted == 1
print(bool(torch.isfinite(cs.MATRIX(problem) @ v).all()))
"""


def run(matrix):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("MATRIX", matrix)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_an_interrupted_first_product_spoils_no_later_one():
    done = run("GGN")

    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["interrupted", "True"]
