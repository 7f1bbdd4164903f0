"""Eigenvalues in ``.npz`` files: ours, and those that were published.

NumPy's format without pickle: reading a file runs no code.
"""

import io
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from curvescope._core import files
from curvescope._core.checks import message, one_of, positive_int
from curvescope.linalg import (
    Quadrature,
    effective_dimension,
    effective_dimension_from_density,
)
from curvescope.results import EffectiveDimension, Eigenpairs, Provenance, Result

_FORMAT = "curvescope eigenvalues 1"
_PUBLISHED = "pos_evals"
_TRIDIAGONAL = "pos_bases"
# What linear algebra of that time put where a Ritz value was negative.
SENTINEL = 1.0
# float32 Lanczos leaves this much outside of the three diagonals.
_OUTSIDE = 1e-4
# What two stored copies of the same Ritz values may differ by, of the largest.
_SAME = 1e-3
_WRITTEN = (
    "eigenvalues",
    "residual_norms",
    "converged",
    "dimension",
    "which",
    "tolerance",
    "norm",
    "matrix",
    "description",
    "reduction",
    "unit",
    "num_samples",
    "denominator",
    "fingerprint",
)


@dataclass(frozen=True, kw_only=True)
class PublishedSpectrum(Result):
    """What one of the published files holds, told apart from what it was taken for.

    Attributes:
        pos_evals: As stored: Ritz values, with 1 in the place of each negative one.
        ritz_values: Descending, true signs where the tridiagonal matrix is there, else
            the stored ones without the sentinels.
        weights: The quadrature's weights, from the tridiagonal matrix; they add up to 1.
        num_sentinels: Entries that are exactly 1.
        dimension: Number of eigenvalues of the matrix, where it is known.
    """

    pos_evals: Tensor
    ritz_values: Tensor
    weights: Tensor | None = None
    num_sentinels: int
    dimension: int | None = None

    @property
    def num_negative(self) -> int:
        """Negative Ritz values."""
        below = int((self.ritz_values < 0).sum())
        return below if self.weights is not None else self.num_sentinels

    def quadrature(self, *, dimension: int | None = None) -> Quadrature:
        """Return nodes and weights of one probe, for densities and sums over all.

        Raises:
            ValueError: If the tridiagonal matrix or the dimension is not known.
        """
        size = dimension or self.dimension
        if self.weights is None or size is None:
            missing = _TRIDIAGONAL if self.weights is None else "the dimension"
            remedy = "Pass `dimension=`, the number of parameters of the Hessian."
            text = message("dimension", "be known, with pos_bases", missing, remedy)
            raise ValueError(text)
        return Quadrature(
            of=replace(self.of, num_params=size),
            notes=self.notes,
            nodes=self.ritz_values.flip(0)[None],
            weights=self.weights.flip(0)[None],
            dimension=size,
        )

    def headline(self) -> str:
        """Return the result in one line."""
        return (
            f"{len(self.pos_evals)} published Ritz values, {self.num_sentinels} of them "
            f"the sentinel 1 in the place of a negative one"
        )

    def rows(self) -> list[dict[str, Any]]:
        """Return one row a Ritz value."""
        weights = [None] * len(self.ritz_values)
        shares = weights if self.weights is None else self.weights.tolist()
        pairs = zip(self.ritz_values.tolist(), shares, strict=True)
        return [{"ritz_value": value, "weight": share} for value, share in pairs]


def write_spectrum(path: str | Path, pairs: Eigenpairs) -> Path:
    """Write eigenvalues so that the published snippet runs on the file, and is right.

    ``pos_evals`` holds the positive eigenvalues and no sentinel: there is nothing to
    drop. One that is exactly 1 is written as the next larger number, since the snippet
    drops ones. Besides: ``eigenvalues`` (all, descending, untouched),
    ``residual_norms``, ``converged``, and what they are of.

    Args:
        path: The file; its folder is made.
        pairs: The result of `eigsh`.

    Returns:
        The path.

    Cost:
        No products.

    Example:
        >>> import tempfile
        >>> from curvescope.linalg import eigsh
        >>> pairs = eigsh(torch.diag(torch.tensor([3.0, 2.0, -1.0])), k=3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_spectrum(Path(folder) / "eigenvalues.npz", pairs)
        ...     x = np.load(path)["pos_evals"]
        >>> x = x[x != 1.0]
        >>> float(np.sum(x / (x + 1.0)).round(4))
        1.4167
    """
    values = pairs.eigenvalues.double().cpu().numpy()
    positive = values[values > 0]
    content = {
        _PUBLISHED: np.where(positive == SENTINEL, np.nextafter(1.0, 2.0), positive),
        "eigenvalues": values,
        "residual_norms": pairs.residual_norms.double().cpu().numpy(),
        "converged": pairs.converged.cpu().numpy(),
        "dimension": np.array(pairs.of.num_params or len(values)),
        "which": np.array(pairs.which),
        "tolerance": np.array(pairs.tolerance),
        "norm": np.array(pairs.norm),
        "matrix": np.array(pairs.of.matrix),
        "description": np.array(pairs.of.description),
        "reduction": np.array(pairs.of.reduction),
        "unit": np.array(pairs.of.unit),
        "num_samples": np.array(pairs.of.num_samples or 0),
        "denominator": np.array(pairs.of.denominator or np.nan),
        "fingerprint": np.array(pairs.of.fingerprint),
        "format": np.array(_FORMAT),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **content)  # type: ignore[arg-type]  # its stubs take no mapping
    return files.write_bytes(Path(path), buffer.getvalue())


def read_spectrum(path: str | Path) -> Eigenpairs:
    """Read what `write_spectrum` wrote; without eigenvectors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is another file; see `load_published_spectrum`.
    """
    content = _read(Path(path))
    if str(content.get("format")) != _FORMAT:
        remedy = "Use `load_published_spectrum` for the published files."
        got = f"{path} with {', '.join(sorted(content)) or 'nothing'}"
        raise ValueError(message("path", "be written by `write_spectrum`", got, remedy))
    missing = [name for name in _WRITTEN if name not in content]
    if missing:
        contract = "hold all that `write_spectrum` writes"
        got = f"{path} without {', '.join(missing)}"
        raise ValueError(message("path", contract, got))
    try:
        return _pairs(content, path)
    except (TypeError, ValueError) as error:
        contract = "hold what `write_spectrum` writes"
        raise ValueError(message("path", contract, f"{path} ({error})")) from error


def _pairs(content: dict[str, Any], path: str | Path) -> Eigenpairs:
    """Return the eigenpairs of an own file's arrays."""
    values = _numbers(content["eigenvalues"], "eigenvalues", path)
    for name in ("residual_norms", "converged"):
        if np.shape(content[name]) != values.shape:
            got = f"{np.shape(content[name])} beside {values.shape}"
            raise ValueError(message(name, "be as many as the eigenvalues", got))
    samples, denominator = int(content["num_samples"]), float(content["denominator"])
    of = Provenance(
        num_params=int(content["dimension"]),
        num_samples=samples or None,
        denominator=None if np.isnan(denominator) else denominator,
        matrix=str(content["matrix"]),
        description=str(content["description"]),
        reduction=str(content["reduction"]),
        unit=str(content["unit"]),
        fingerprint=str(content["fingerprint"]),
    )
    return Eigenpairs(
        of=of,
        settings={"file": str(path)},
        eigenvalues=torch.from_numpy(values),
        residual_norms=torch.from_numpy(content["residual_norms"]),
        converged=torch.from_numpy(content["converged"]),
        which=str(content["which"]),
        tolerance=float(content["tolerance"]),
        norm=float(content["norm"]),
    )


def load_published_spectrum(
    path: str | Path, *, dimension: int | None = None
) -> PublishedSpectrum:
    """Read a file of "Rethinking Parameter Counting", and say what is in it.

    The files hold Ritz values of a Lanczos run, not eigenvalues: ``pos_evals``, where
    every negative value was replaced by 1, and ``pos_bases``, which is not the
    eigenvectors but the tridiagonal matrix of the run. From that matrix come the true
    values with their quadrature weights.

    Args:
        path: The ``.npz`` file.
        dimension: Number of eigenvalues of the matrix: of the parameters whose Hessian
            it was (published: those with more than one dimension). Not in the file.

    Returns:
        Stored and true values, the weights, and notes on what differs.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no such arrays.

    Example:
        >>> spectrum = load_published_spectrum("width_64.npz")  # doctest: +SKIP

    References:
        Maddox, Benton, Wilson (2020), arXiv:2003.02139, and its code.
    """
    content = _read(Path(path))
    if _PUBLISHED not in content:
        got = f"{path} with {', '.join(sorted(content)) or 'nothing'}"
        raise ValueError(message("path", f"hold an array {_PUBLISHED}", got))
    stored = _numbers(content[_PUBLISHED], _PUBLISHED, path)
    if (stored < 0).any():
        got = f"{path} with {float(stored.min()):.4g}"
        contract = f"hold in {_PUBLISHED} no negative value: published ones are 1 there"
        raise ValueError(message("path", contract, got))
    if dimension is not None:
        dimension = positive_int("dimension", dimension, minimum=len(stored))
    sentinels = int((stored == SENTINEL).sum())
    weights: Tensor | None = None
    if _TRIDIAGONAL in content:
        values, weights = _from_tridiagonal(np.asarray(content[_TRIDIAGONAL]), path)
        _check_same_run(stored, values.numpy(), path)
    else:
        values = torch.from_numpy(np.sort(stored[stored != SENTINEL])[::-1].copy())
    found = PublishedSpectrum(
        of=Provenance(matrix="Hessian", description=Path(path).name),
        settings={"file": str(path)},
        pos_evals=torch.from_numpy(stored),
        ritz_values=values,
        weights=weights,
        num_sentinels=sentinels,
        dimension=dimension,
    )
    return replace(found, notes=_remarks(found))


def _numbers(array: Any, name: str, path: str | Path) -> np.ndarray:
    """Return an array of eigenvalues; a complex one's imaginary parts must be rounding.

    Raises:
        ValueError: If it is something else.
    """
    found = np.asarray(array)
    if found.ndim != 1 or not len(found) or found.dtype.kind not in "fiuc":
        contract = f"hold in {name} one or more real numbers, as a vector"
        got = f"{path} with shape {found.shape}, {found.dtype}"
        raise ValueError(message("path", contract, got))
    if not np.isfinite(found).all():
        got = f"{path} with NaN or infinity in {name}"
        raise ValueError(message("path", "hold finite values", got))
    largest = float(np.abs(found).max())
    if np.abs(np.imag(found)).max() > _OUTSIDE * largest:
        contract = f"hold in {name} real numbers"
        raise ValueError(message("path", contract, f"{path} with complex ones"))
    return np.ascontiguousarray(np.real(found), dtype=np.float64)


def _check_same_run(stored: np.ndarray, values: np.ndarray, path: str | Path) -> None:
    """Refuse Ritz values and a tridiagonal matrix that are not of one run.

    Values within rounding of zero may have either sign, and so be marked or not.

    Raises:
        ValueError: If so.
    """
    size = float(np.abs(values).max(initial=0.0))
    slack = _SAME * size
    contract = f"hold in {_TRIDIAGONAL} the matrix whose eigenvalues are {_PUBLISHED}"
    if len(stored) != len(values):
        got = f"{path} with {len(stored)} values and a matrix of {len(values)}"
        raise ValueError(message("path", contract, got))
    true = np.sort(values.clip(min=0.0))[::-1]
    kept = stored[stored != SENTINEL]
    marks = len(stored) - len(kept)
    # An eigenvalue that is 1 looks like a mark.
    ones = min(marks, int((np.abs(values - SENTINEL) <= slack).sum()))
    for count in range(ones + 1):
        marked = np.repeat([SENTINEL, 0.0], [count, marks - count])
        restored = np.sort(np.concatenate([kept, marked]))[::-1]
        if (np.abs(restored - true) <= slack).all():
            return
    raise ValueError(message("path", contract, f"{path} with those of another run"))


def effective_dimension_of_file(
    path: str | Path,
    *,
    z: float | Tensor | list[float] | None = None,
    dimension: int | None = None,
    negative: str = "clip",
) -> dict[str, EffectiveDimension]:
    """Compute the effective dimension from a file of eigenvalues: the second step.

    Args:
        path: A file of `write_spectrum`, or a published one.
        z: As for `effective_dimension`; by default a curve over four decades below the
            largest eigenvalue.
        dimension: Number of all eigenvalues, where the file does not say.
        negative: ``"clip"`` or ``"abs"``, as for `effective_dimension`; kept negative
            eigenvalues would leave no bound.

    Returns:
        By name: ``"effective_dimension"``, a lower bound with its upper one unless the
        file holds all eigenvalues; for a published file with its tridiagonal matrix and
        a ``dimension`` also ``"quadrature"``, an estimate of the sum over all.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no eigenvalues, or an argument is out of range.
    """
    one_of("negative", negative, ("clip", "abs"))
    path = Path(path)
    if str(_read(path).get("format")) == _FORMAT:
        pairs = read_spectrum(path)
        curve = _grid(pairs.eigenvalues) if z is None else z
        found = effective_dimension(
            pairs, z=curve, negative=negative, dimension=dimension
        )
        return {"effective_dimension": found}
    spectrum = load_published_spectrum(path, dimension=dimension)
    positive = spectrum.ritz_values[spectrum.ritz_values > 0]
    curve = _grid(positive) if z is None else z
    results = {"effective_dimension": _from_ritz(spectrum, positive, curve, negative)}
    if spectrum.weights is not None and dimension is not None:
        results["quadrature"] = effective_dimension_from_density(
            spectrum.quadrature(), z=curve, negative=negative
        )
    return results


def _from_ritz(
    spectrum: PublishedSpectrum,
    positive: Tensor,
    z: float | Tensor | list[float],
    negative: str,
) -> EffectiveDimension:
    """Sum over the positive Ritz values: each lies below the eigenvalue of its rank."""
    size = spectrum.dimension
    # There is always one more: without it the sum would pass for a whole one.
    known = len(positive) + 1 if size is None else size
    found = effective_dimension(positive, z=z, negative=negative, dimension=known)
    infinite = torch.full_like(found.values, float("inf"))
    text = (
        f"a lower bound: the sum over {len(positive)} positive Ritz values, each at most "
        "the eigenvalue of its rank (Cauchy's interlacing); it cannot exceed their number"
    )
    return replace(
        found,
        of=replace(spectrum.of, num_params=size or 0),
        method="lower_bound",
        notes=(text, *found.notes[1:], *spectrum.notes),
        settings={**found.settings, **spectrum.settings},
        negative_count=float(spectrum.num_negative),
        negative_mass=-float(spectrum.ritz_values.clamp_max(0.0).sum()),
        # Ritz values inside the spectrum bound nothing from above but the number itself.
        upper_bounds=infinite if size is None else found.values + size - len(positive),
        dimension=size or 0,
    )


def _read(path: Path) -> dict[str, Any]:
    """Return the arrays of an ``.npz`` file; objects, which would run code, are refused.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    if not path.exists():
        raise FileNotFoundError(message("path", "be an .npz file", f"{path}, no file"))
    single = False
    try:
        archive = np.load(path, allow_pickle=False)
        single = not isinstance(archive, np.lib.npyio.NpzFile)
        if not single:
            with archive:
                return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        why = str(error).rstrip(". ") or type(error).__name__
        text = message("path", "be an .npz file without objects", f"{path} ({why})")
        raise ValueError(text) from error
    raise ValueError(message("path", "be an .npz file", f"{path}, a single array"))


def _from_tridiagonal(T: np.ndarray, path: str | Path) -> tuple[Tensor, Tensor]:
    """Return the Ritz values, descending, and the weights of the start vector."""
    if T.dtype.kind not in "fiuc" or not np.isfinite(T).all():
        contract = f"hold in {_TRIDIAGONAL} finite real numbers"
        raise ValueError(message("path", contract, f"{path} with {T.dtype}"))
    square = T.ndim == 2 and T.shape[0] == T.shape[1]
    wide = T.real.astype(np.float64) if square else np.zeros((0, 0))
    largest = float(np.abs(wide).max(initial=0.0))
    outside = wide - np.triu(np.tril(wide, 1), -1)
    skew = wide - wide.T
    wrong = max(np.abs(outside).max(initial=0.0), np.abs(skew).max(initial=0.0))
    if not square or not wrong <= _OUTSIDE * largest:
        contract = f"hold in {_TRIDIAGONAL} a symmetric tridiagonal matrix"
        got = f"{path} with shape {T.shape}"
        raise ValueError(message("path", contract, got))
    values, vectors = np.linalg.eigh((wide + wide.T) / 2)
    order = np.argsort(-values)
    weights = vectors[0, order] ** 2
    return torch.from_numpy(values[order].copy()), torch.from_numpy(weights)


def _remarks(found: PublishedSpectrum) -> tuple[str, ...]:
    stored, notes = found.pos_evals, []
    if found.num_sentinels:
        notes.append(
            f"{found.num_sentinels} of {len(stored)} stored values are exactly 1: the mark "
            "of a negative Ritz value, not of one that did not converge; kept as "
            f"eigenvalues they would add {found.num_sentinels}/(1 + z)"
        )
    if found.weights is None:
        notes.append("no tridiagonal matrix: what was negative is lost")
        return tuple(notes)
    below = found.ritz_values[found.ritz_values < 0]
    if len(below):
        notes.append(
            f"{len(below)} negative Ritz values, from {float(below.min()):.4g} to "
            f"{float(below.max()):.4g}, were restored from the tridiagonal matrix"
        )
    if len(below) != found.num_sentinels:
        notes.append(
            f"{found.num_sentinels} sentinels for {len(below)} negative Ritz values: values "
            "within rounding of zero were marked, or not"
        )
    return tuple(notes)


def _grid(eigenvalues: Tensor) -> Tensor:
    """Return a curve's places, four decades below the largest eigenvalue."""
    largest = float(eigenvalues.abs().max()) if len(eigenvalues) else 0.0
    scale = largest if largest > 0 else 1.0
    return torch.logspace(-4, 0, 41, dtype=torch.float64) * scale
