"""The trap suite: one module for each way in which curvature codes went wrong.

Each module says in its docstring what the trap is and has ``check(implementation)``,
which raises AssertionError, and a ``foil``, an implementation that falls into the trap
(the norm layers' foil is `torch.func.hessian`). Implementations are plain functions of
torch modules and tensors, so any library can be checked.

Numbers 16 (Kronecker factors) and 22 (distributed products) wait for those features;
23 (every documented command runs) is a test of the documentation.

Example:
    >>> from curvescope.testing import traps
    >>> traps.t05_ghosts.check(my_ritz_values)  # doctest: +SKIP
"""

from curvescope.testing.traps import (
    t01_ragged_batches,
    t02_denominators,
    t03_sum_over_batches,
    t04_wrong_point,
    t05_ghosts,
    t06_magnitude,
    t07_noisy_operator,
    t08_finite_differences,
    t09_absolute_tolerances,
    t10_small_change,
    t11_rayleigh_quotient,
    t12_quadrature_weights,
    t13_side_effects,
    t14_unused_parameters,
    t15_attention_kernels,
    t17_unrepeatable_data,
    t18_breakdown,
    t19_kernel_width,
    t20_memory_tests,
    t21_float32_rank,
    t24_norm_layers,
    t25_changed_weights,
)

__all__ = [
    "t01_ragged_batches",
    "t02_denominators",
    "t03_sum_over_batches",
    "t04_wrong_point",
    "t05_ghosts",
    "t06_magnitude",
    "t07_noisy_operator",
    "t08_finite_differences",
    "t09_absolute_tolerances",
    "t10_small_change",
    "t11_rayleigh_quotient",
    "t12_quadrature_weights",
    "t13_side_effects",
    "t14_unused_parameters",
    "t15_attention_kernels",
    "t17_unrepeatable_data",
    "t18_breakdown",
    "t19_kernel_width",
    "t20_memory_tests",
    "t21_float32_rank",
    "t24_norm_layers",
    "t25_changed_weights",
]
