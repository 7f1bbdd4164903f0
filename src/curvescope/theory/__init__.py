"""Pure arithmetic: what theory says of ranks, no array in sight."""

from curvescope.theory.rank_bias import (
    functional_column_ranks_with_bias,
    functional_rank_with_bias,
    ggn_rank_with_bias,
    hessian_rank_with_bias,
)
from curvescope.theory.rank_linear import (
    bottleneck,
    functional_column_ranks,
    functional_rank,
    ggn_rank,
    hessian_deficiency,
    hessian_rank,
    rank_over_root_params,
    root_params_limit,
)
from curvescope.theory.rank_nonlinear import (
    functional_ceiling,
    functional_rank_one_hidden,
    ggn_ceiling,
    ggn_ceiling_one_hidden,
    hessian_ceiling,
    reduced_sizes,
)
from curvescope.theory.rank_predictions import predicted_ranks
from curvescope.theory.rank_published import (
    published_functional_rank,
    published_ggn_rank,
    published_hessian_rank,
    published_output_rank,
)
from curvescope.theory.rank_structure import (
    functional_block_ranks,
    functional_column_ceiling,
    generic_left_ranks,
    generic_right_ranks,
    ggn_block_ranks,
    staircase_area,
    staircase_ggn_rank,
)

__all__ = [
    "bottleneck",
    "functional_block_ranks",
    "functional_ceiling",
    "functional_column_ceiling",
    "functional_column_ranks",
    "functional_column_ranks_with_bias",
    "functional_rank",
    "functional_rank_one_hidden",
    "functional_rank_with_bias",
    "generic_left_ranks",
    "generic_right_ranks",
    "ggn_block_ranks",
    "ggn_ceiling",
    "ggn_ceiling_one_hidden",
    "ggn_rank",
    "ggn_rank_with_bias",
    "hessian_ceiling",
    "hessian_deficiency",
    "hessian_rank",
    "hessian_rank_with_bias",
    "predicted_ranks",
    "published_functional_rank",
    "published_ggn_rank",
    "published_hessian_rank",
    "published_output_rank",
    "rank_over_root_params",
    "reduced_sizes",
    "root_params_limit",
    "staircase_area",
    "staircase_ggn_rank",
]
