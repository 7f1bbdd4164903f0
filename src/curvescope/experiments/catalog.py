"""The registry: one row an experiment. A new one is a file and its row here."""

from curvescope._core.checks import one_of
from curvescope.experiments import (
    chain_rule,
    double_descent,
    generalisation_measures,
    homogeneity,
    init_compare,
    init_sweep,
    init_training,
    loss_surface,
    posterior_contraction,
    random_features,
    rank_spectra,
    rank_sweep,
    rank_training,
    two_spirals,
    width_depth,
)
from curvescope.experiments.base import Experiment

_ROWS: tuple[Experiment, ...] = (
    *rank_sweep.EXPERIMENTS,
    rank_training.EXPERIMENT,
    rank_spectra.EXPERIMENT,
    random_features.EXPERIMENT,
    double_descent.EXPERIMENT,
    width_depth.EXPERIMENT,
    two_spirals.EXPERIMENT,
    loss_surface.EXPERIMENT,
    homogeneity.EXPERIMENT,
    posterior_contraction.EXPERIMENT,
    generalisation_measures.EXPERIMENT,
    init_sweep.EXPERIMENT,
    init_training.EXPERIMENT,
    chain_rule.EXPERIMENT,
    init_compare.EXPERIMENT,
)
_REGISTRY = {row.name: row for row in _ROWS}


def names() -> tuple[str, ...]:
    """Return the names of the experiments.

    Example:
        >>> "rank-vs-width" in names()
        True
    """
    return tuple(_REGISTRY)


def experiment(name: str) -> Experiment:
    """Return the experiment of a name.

    Args:
        name: One of `names`.

    Returns:
        The registry's row.

    Raises:
        ValueError: If there is none of that name.

    Example:
        >>> experiment("rank-vs-width").config().depth
        2
    """
    one_of("name", name, _REGISTRY)
    return _REGISTRY[name]
