"""Linear models trained by least squares: double descent that can be computed exactly."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from curvescope._core import progress
from curvescope._core.checks import positive_int, real

PUBLISHED_SIZES = tuple(range(5, 401, 2))
PUBLISHED_SEED = 88


@dataclass(frozen=True, kw_only=True)
class RandomFeaturesPoint:
    """One number of features.

    Attributes:
        num_features: Columns d of the design.
        undetermined_dimension: ``min(n, d) - N_eff``: how many of the directions that
            data could determine they leave undetermined. This is what the published
            figure draws under the name of effective dimension.
        effective_dimension: N_eff of ``X' X`` at z; it does not peak.
        train_error: ``||X w - y|| / ||y||``.
        test_error: The same on fresh data.
    """

    num_features: int
    undetermined_dimension: float
    effective_dimension: float
    train_error: float
    test_error: float

    def row(self) -> dict[str, Any]:
        """Return the columns of the table."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def random_features_curve(
    sizes: Sequence[int] = PUBLISHED_SIZES,
    *,
    num_samples: int = 200,
    num_informative: int = 1000,
    regularisation: float = 0.001,
    seed: int = PUBLISHED_SEED,
) -> list[RandomFeaturesPoint]:
    r"""Fit least squares of least norm on random features, a model a width.

    Targets are standard normal, and so are the features, to the first
    ``num_informative`` of which the target is added. The weights are those of least
    norm, :math:`w = X^+ y`, and with the singular values :math:`s_i` of :math:`X`

    .. math:: N_{\text{eff}} = \sum_i \frac{s_i^2}{s_i^2 + z}, \qquad z = l\, n

    The draws are those of the published notebook: one stream of NumPy's legacy
    generator runs through all widths in the order given, and for each draws training
    targets, training features, test targets and test features. So the curve depends on
    all of ``sizes``, and with the defaults it is the published one.

    Args:
        sizes: Numbers of features, in the order of the draws.
        num_samples: Points n of the training set, and of the test set.
        num_informative: Features that hold the target.
        regularisation: The number l in :math:`z = l\,n`.
        seed: Of ``numpy.random.RandomState``.

    Returns:
        One point a width.

    Raises:
        TypeError: If a number is no integer.
        ValueError: If a number is out of range.

    Cost:
        A singular value decomposition of ``(n, d)`` a width; about two seconds in all.

    Example:
        >>> last = random_features_curve([5, 7])[-1]
        >>> last.num_features, last.effective_dimension < 7
        (7, True)

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, figure 3, and its notebook
        ``random_features_nb``.
    """
    for size in sizes:
        positive_int("sizes", size)
    positive_int("num_samples", num_samples)
    positive_int("num_informative", num_informative, minimum=0)
    z = real("regularisation", regularisation, minimum=0.0, strict=True) * num_samples
    source = np.random.RandomState(positive_int("seed", seed, minimum=0))
    points = []
    with progress.track("random features", total=len(sizes)) as bar:
        for size in sizes:
            train = _draw(source, num_samples, size, num_informative)
            test = _draw(source, num_samples, size, num_informative)
            points.append(_fit(train, test, z))
            bar.advance()
    return points


Data = tuple[np.ndarray, np.ndarray]


def _draw(
    source: np.random.RandomState, count: int, size: int, informative: int
) -> Data:
    y = source.standard_normal(count)
    X = source.standard_normal((count, size))
    X[:, : min(size, informative)] += y[:, None]
    return X, y


def _fit(train: Data, test: Data, z: float) -> RandomFeaturesPoint:
    X, y = train
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = s > max(X.shape) * np.finfo(X.dtype).eps * s[0]
    w = Vt[kept].T @ ((U[:, kept].T @ y) / s[kept])
    effective = math.fsum((s**2 / (s**2 + z)).tolist())
    return RandomFeaturesPoint(
        num_features=X.shape[1],
        undetermined_dimension=min(X.shape) - effective,
        effective_dimension=effective,
        train_error=_error(train, w),
        test_error=_error(test, w),
    )


def _error(data: Data, w: np.ndarray) -> float:
    X, y = data
    return float(np.linalg.norm(X @ w - y) / np.linalg.norm(y))
