"""Frozen results: value, error, cost, unit, and what they are of.

A result knows how to print, save and load itself (JSON and safetensors, no pickle);
it never reaches back into a problem, and it computes no products with a matrix.
"""

from curvescope.results.base import Cost, ParamSlice, Provenance, Result, load
from curvescope.results.bayes import (
    EvidenceFit,
    FunctionSpaceHomogeneity,
    HomogeneityStep,
    Identity,
    IdentityTable,
    LaplacePosterior,
    LinearPosterior,
    Predictive,
    RegularisationScale,
)
from curvescope.results.chain_rule import ChainRule, LawCheck, LawTable
from curvescope.results.contraction import ChainSummary, PosteriorContraction
from curvescope.results.dimension_bounds import DimensionBounds
from curvescope.results.dimension_sweep import DimensionMap, DimensionSweep
from curvescope.results.init_experiments import (
    InitComparison,
    InitRanking,
    InitScan,
    InitSummary,
    InitTraining,
)
from curvescope.results.initialisation import (
    Balance,
    BalanceRow,
    InitialisationReport,
    InitialisationRow,
    Recommendation,
    StepSize,
)
from curvescope.results.kinds import (
    EffectiveDimension,
    Eigenpairs,
    Estimate,
    SpectralDensity,
    VectorEstimate,
)
from curvescope.results.landscape import Homogeneity, LossSurface
from curvescope.results.layer_spectra import LayerSpectra, LayerSpectrum
from curvescope.results.layers import BlockNorms, LayerRow, LayerTable
from curvescope.results.measures import (
    CorrelationTable,
    MeasureComparison,
    RankCorrelation,
)
from curvescope.results.quantiles import student_t_quantile
from curvescope.results.random_features import RandomFeaturesCurve
from curvescope.results.ranks import (
    BlockPicture,
    RankEstimate,
    RankReport,
    RankSweep,
    SpectrumComparison,
)
from curvescope.results.spirals import PerturbedClassifiers, SurfaceComparison
from curvescope.results.tracking import PlannedPart, TrackingCurve, TrackingPlan
from curvescope.results.training import TrainingResult

__all__ = [
    "Balance",
    "BalanceRow",
    "BlockNorms",
    "BlockPicture",
    "ChainRule",
    "ChainSummary",
    "CorrelationTable",
    "Cost",
    "DimensionBounds",
    "DimensionMap",
    "DimensionSweep",
    "EffectiveDimension",
    "Eigenpairs",
    "Estimate",
    "EvidenceFit",
    "FunctionSpaceHomogeneity",
    "Homogeneity",
    "HomogeneityStep",
    "Identity",
    "IdentityTable",
    "InitComparison",
    "InitRanking",
    "InitScan",
    "InitSummary",
    "InitTraining",
    "InitialisationReport",
    "InitialisationRow",
    "LaplacePosterior",
    "LawCheck",
    "LawTable",
    "LayerRow",
    "LayerSpectra",
    "LayerSpectrum",
    "LayerTable",
    "LinearPosterior",
    "LossSurface",
    "MeasureComparison",
    "ParamSlice",
    "PerturbedClassifiers",
    "PlannedPart",
    "PosteriorContraction",
    "Predictive",
    "Provenance",
    "RandomFeaturesCurve",
    "RankCorrelation",
    "RankEstimate",
    "RankReport",
    "RankSweep",
    "Recommendation",
    "RegularisationScale",
    "Result",
    "SpectralDensity",
    "SpectrumComparison",
    "StepSize",
    "SurfaceComparison",
    "TrackingCurve",
    "TrackingPlan",
    "TrainingResult",
    "VectorEstimate",
    "load",
    "student_t_quantile",
]
