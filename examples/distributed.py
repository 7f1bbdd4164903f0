"""Two processes, each with its share of the data, find what one finds.

Run plainly, it starts itself under torchrun.
"""

# %%
import subprocess
import sys

import torch

import curvescope as cs


def problem_data():
    """Return model and data: the same in every process, since the seed is."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(10, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)
    ).double()
    data = (torch.randn(301, 10).double(), torch.randint(0, 3, (301,)))
    loss = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5]).double())
    return model, loss, data


# %%
# In each process: join the others, share the data, and go on as ever.
def main():
    """Compute together, and compare with one process that holds everything."""
    model, loss, data = problem_data()
    with cs.distributed.processes() as group:
        together = cs.distributed.data_parallel(model, loss, data, group)
        top = cs.eigsh(cs.Hessian(together), k=3)
        if group.rank > 0:
            return
        print(f"{sum(together.batch_sizes)} of {together.num_samples} samples are here")
        print(top)
        alone = cs.eigsh(cs.Hessian(cs.Problem(model, loss, data)), k=3)
        torch.testing.assert_close(
            top.eigenvalues, alone.eigenvalues, rtol=1e-10, atol=0
        )


# %%
if __name__ == "__main__":
    if cs.distributed.launched():
        main()
    else:
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
        ]
        subprocess.run([sys.executable, *launch, __file__], check=True)
