"""The commands' options: one frozen dataclass a command, from which tyro builds help."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

import tyro
from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, Positional

from curvescope.cli.positional import with_positional_model
from curvescope.experiments import Experiment, RankPoint, experiment, names


@dataclass(frozen=True, kw_only=True)
class ProblemOptions:
    """What the matrix is of."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """package.module:callable, file.py:callable, timm:name, hf:path, or built in: mlp,
    lenet, resnet20, resnet32, resnet44, resnet56, resnet18, preact-resnet18, preresnet,
    convnet, basic-cnn, masked-mlp, spirals-mlp, regression-mlp, char-gpt."""
    data: str
    """package.module:callable, file.py:callable, text:FILE, or a data set: digits,
    mnist, fashion-mnist, cifar10, cifar100, svhn."""
    loss: str = "cross_entropy"
    """cross_entropy, causal_lm, mse, half_squared_error, bce_with_logits, logcosh, nll,
    or package.module:object."""
    weights: Path | None = None
    """A .safetensors file, or .pt, .pth, .th (read without running code)."""
    model_arg: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE ...")] = ()
    """Arguments of the model, such as hidden=[32,32]."""
    params: tuple[str, ...] = ()
    """Only the parameters that match a glob, or lie in a module of that name."""
    matrix: Literal["hessian", "ggn", "functional"] = "hessian"
    """Which matrix."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""
    split: Literal["train", "test"] | None = None
    """Which split; train by default."""
    num_samples: int | None = None
    """The first so many samples of the split."""
    batch_size: int = 256
    """Samples in a batch; smaller ones take less memory."""
    normalize: str | None = None
    """Pixel statistics; by default those that a built-in model's weights need."""
    vocab: Path | None = None
    """JSON file from characters to ids, for text:FILE."""
    context: int | None = None
    """Length of a window, for text:FILE."""
    reduction: Literal["mean", "sum"] | None = None
    """The unit of the matrix; the loss's own by default."""
    weight_decay: float = 0.0
    """Adds this times the identity."""
    device: str | None = None
    """Where to compute, such as cuda."""
    dtype: Literal["float32", "float64"] | None = None
    """In what to compute; the model's own by default."""
    memory_limit: float | None = None
    """GiB for kept data and graphs; half of what is free by default."""
    seed: int = 0
    """Of random weights, start vectors and probes."""
    out: Path | None = None
    """The run folder; runs/COMMAND-MODEL-DATA by default."""
    process_timeout: float = 300.0
    """Seconds after which another process of torchrun's counts as dead."""


@dataclass(frozen=True, kw_only=True)
class ProductOptions:
    """How products with the matrix are computed."""

    compile: bool = False
    """Compile products, checked against autograd: for long runs."""
    precision: Literal["full", "bfloat16"] = "full"
    """Of products; bfloat16 is faster, and the report says how wrong."""
    columns: int | None = None
    """Columns multiplied at once; timed and chosen by default."""
    explain: bool = False
    """Print how products will be computed and why, and what each part will take."""
    dry_run: bool = False
    """Print that and stop: nothing is computed or written."""


@dataclass(frozen=True, kw_only=True)
class EigenpairOptions:
    """Which eigenpairs, and how sure."""

    k: int = 10
    """How many."""
    which: Literal["LM", "LA", "SA", "BE"] | None = None
    """Largest magnitude, largest, smallest, both ends; as SciPy means them."""
    tol: float | None = None
    """Relative residual; 1e-3 in float32 and 1e-8 in float64 by default."""
    max_matvecs: int | None = None
    """Matrix products to spend at most."""
    eigenvectors: bool = False
    """Keep the eigenvectors in the run folder."""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How many random vectors, and how far."""

    num_probes: int = 8
    """Random probes."""
    num_steps: int = 64
    """Lanczos steps of each probe."""


@dataclass(frozen=True, kw_only=True)
class DimensionOptions:
    """Where the effective dimension is asked for."""

    z: tuple[float, ...] = ()
    """In the unit of an eigenvalue; a hundredth of the largest one by default."""


@dataclass(frozen=True, kw_only=True)
class Analyze:
    """Everything: eigenpairs at both ends, density, trace, norm, N_eff, layers."""

    problem: OmitArgPrefixes[ProblemOptions]
    products: OmitArgPrefixes[ProductOptions] = field(default_factory=ProductOptions)
    eigenpairs: OmitArgPrefixes[EigenpairOptions] = field(
        default_factory=EigenpairOptions
    )
    probes: OmitArgPrefixes[ProbeOptions] = field(default_factory=ProbeOptions)
    dimension: OmitArgPrefixes[DimensionOptions] = field(
        default_factory=DimensionOptions
    )
    layers: bool = True
    """Also measure every layer's own block."""


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """Certified eigenpairs."""

    problem: OmitArgPrefixes[ProblemOptions]
    products: OmitArgPrefixes[ProductOptions] = field(default_factory=ProductOptions)
    eigenpairs: OmitArgPrefixes[EigenpairOptions] = field(
        default_factory=EigenpairOptions
    )


@dataclass(frozen=True, kw_only=True)
class Density:
    """Spectral density with an error band."""

    problem: OmitArgPrefixes[ProblemOptions]
    products: OmitArgPrefixes[ProductOptions] = field(default_factory=ProductOptions)
    probes: OmitArgPrefixes[ProbeOptions] = field(default_factory=ProbeOptions)


@dataclass(frozen=True, kw_only=True)
class EffDim:
    """Effective dimension as a curve over z, of a model or of a FILE.npz (its --help)."""

    problem: OmitArgPrefixes[ProblemOptions]
    products: OmitArgPrefixes[ProductOptions] = field(default_factory=ProductOptions)
    probes: OmitArgPrefixes[ProbeOptions] = field(default_factory=ProbeOptions)
    dimension: OmitArgPrefixes[DimensionOptions] = field(
        default_factory=DimensionOptions
    )
    top: int = 20
    """Certified eigenpairs for a lower and an upper bound beside it; 0 for none."""


@dataclass(frozen=True, kw_only=True)
class EffDimOfFile:
    """Effective dimension of eigenvalues that lie in a file."""

    file: Annotated[Positional[Path], tyro.conf.arg(metavar="FILE.npz")]
    """eigenvalues.npz of a run folder, or a file of "Rethinking Parameter Counting"."""
    z: tuple[float, ...] = ()
    """In the unit of an eigenvalue; four decades below the largest one by default."""
    dimension: int | None = None
    """Number of all eigenvalues, where the file does not say."""
    negative: Literal["clip", "abs"] = "clip"
    """What happens to negative eigenvalues."""
    out: Path | None = None
    """A run folder, with figure and page; none by default."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Curvature of every layer's own block, and of the blocks between layers."""

    problem: OmitArgPrefixes[ProblemOptions]
    groups: tuple[str, ...] = ()
    """NAME=GLOB,GLOB ...: named groups of parameters or modules instead of all layers."""
    blocks: bool = False
    """Also measure the blocks between layers."""
    method: Literal["auto", "exact", "probes"] = "auto"
    """Exact where there is a way, or insist on one."""
    num_probes: int = 12
    """Random probes, where a number has no exact way."""
    tol: float | None = None
    """Relative residual of the top eigenvalues."""
    k: int | None = None
    """Top eigenvalues and trace of every block in one sweep instead: so many of each."""
    density: bool = False
    """Also the spectral density of every block, in that sweep."""
    num_steps: int = 64
    """Lanczos steps of each probe of a density."""


@dataclass(frozen=True, kw_only=True)
class Initialisation:
    """Layers' own blocks as given and under other initialisations, beside theory."""

    problem: OmitArgPrefixes[ProblemOptions]
    candidates: tuple[str, ...] = ()
    """recommended, balanced, glorot_normal, glorot_uniform, he, lecun, fan_in_uniform,
    orthogonal, uniform, or a standard deviation; all but the last two by default."""
    num_seeds: int = 3
    """Draws of every random candidate."""
    num_probes: int = 12
    """Random probes, for layers without an exact block."""


@dataclass(frozen=True, kw_only=True)
class StepSizeOptions:
    """The best step along the gradient, what it gains, and the largest stable one."""

    problem: OmitArgPrefixes[ProblemOptions]
    tol: float | None = None
    """Relative residual of the sharpness; 1e-3 in float32, 1e-8 in float64 by default."""
    num_points: int = 9
    """Points at which the loss along the gradient is measured."""


@dataclass(frozen=True, kw_only=True)
class Data:
    """Fetch a data set's official files, checked against known hashes."""

    action: Positional[Literal["fetch"]]
    """What to do."""
    name: Positional[str]
    """The data set."""
    data_root: Path | None = None
    """The folder that holds one folder a data set."""


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw a run's figures again from its saved results."""

    run: Positional[Path]
    """The run folder."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write a run's page and figures again from its saved results."""

    run: Positional[Path]
    """The run folder."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Ranks of H, GGN and functional Hessian of one network, beside the theory."""

    point: OmitArgPrefixes[RankPoint] = field(default_factory=RankPoint)
    out: Path | None = None
    """The run folder; runs/rank-DATA by default. A second call resumes or returns it."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where the run is kept."""

    out: Path | None = None
    """The run folder; runs/NAME-DATA by default. A second call resumes or returns it."""
    dry_run: bool = False
    """Print the plan (runs, parameters, products, hours), compute and write nothing."""
    scheduler: str | None = None
    """Compute the points on a Dask cluster: tcp://HOST:PORT, a scheduler file, or local
    (workers on this machine)."""


# The experiments' classes are made at run time, which a type checker cannot follow.
_FLAT: Any = OmitArgPrefixes


def _command(row: Experiment) -> Any:
    """Return the class of one experiment's options, named as its command."""
    config = with_positional_model(row)
    made = dataclasses.make_dataclass(
        "".join(word.capitalize() for word in row.name.split("-")),
        [
            ("experiment", _FLAT[config], field(default_factory=config)),
            ("run", _FLAT[RunOptions], field(default_factory=RunOptions)),
        ],
        frozen=True,
        kw_only=True,
    )
    made.__doc__ = row.summary
    return Annotated[made, tyro.conf.subcommand(row.name, description=row.summary)]


_EXPERIMENTS: Any = Union[tuple(_command(experiment(name)) for name in names())]  # noqa: UP007


@dataclass(frozen=True, kw_only=True)
class RunExperiment:
    """Reproduce a figure of a paper: data, table, figure, page."""

    chosen: Annotated[OmitSubcommandPrefixes[_EXPERIMENTS], tyro.conf.arg(name="")]
    """Which experiment."""


GROUPS = (
    ProductOptions,
    ProblemOptions,
    EigenpairOptions,
    ProbeOptions,
    DimensionOptions,
)
Computing = Analyze | Spectrum | Density | EffDim
Command = (
    Annotated[Analyze, tyro.conf.subcommand("analyze")]
    | Annotated[Spectrum, tyro.conf.subcommand("spectrum")]
    | Annotated[Density, tyro.conf.subcommand("density")]
    | Annotated[EffDim, tyro.conf.subcommand("effdim")]
    | Annotated[Layers, tyro.conf.subcommand("layers")]
    | Annotated[Initialisation, tyro.conf.subcommand("initialisation")]
    | Annotated[StepSizeOptions, tyro.conf.subcommand("step-size")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Plot, tyro.conf.subcommand("plot")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Rank, tyro.conf.subcommand("rank")]
    | Annotated[RunExperiment, tyro.conf.subcommand("experiment")]
)
