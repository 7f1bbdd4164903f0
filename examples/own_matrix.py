"""The algorithms on a matrix of your own: no network needed.

A sparse SciPy matrix with known eigenvalues, the Laplacian of a path.
"""

# %%
import math

import numpy as np
import scipy.sparse.linalg

import curvescope as cs

n = 400
laplacian = scipy.sparse.diags(
    [-np.ones(n - 1), 2 * np.ones(n), -np.ones(n - 1)], [-1, 0, 1]
)
sparse = scipy.sparse.linalg.aslinearoperator(laplacian.tocsr())
A = cs.aslinearoperator(sparse, symmetric=True)

# %%
# Its eigenvalues are 2 - 2 cos(pi j / (n + 1)).
top = cs.eigsh(A, k=4, which="LA")
print(top)
for j, value in enumerate(top.eigenvalues.tolist()):
    assert math.isclose(
        value, 2 - 2 * math.cos(math.pi * (n - j) / (n + 1)), rel_tol=1e-8
    )

# %%
trace = cs.trace(A, num_matvecs=24)
low, high = trace.interval()
print(
    f"trace {trace.value:.2f}, 95 % interval {low:.2f} to {high:.2f}; exactly {2 * n}"
)
