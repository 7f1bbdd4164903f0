"""Measures of the published convolutional networks, beside their test loss."""

from pathlib import Path
from typing import Any

from torch import nn

from curvescope.experiments.conv_nets import (
    WEIGHT_DECAY,
    ConvPoint,
    build_conv,
    trained_conv,
)
from curvescope.experiments.norms import path_norm, sharpness

CONV_MEASURES = (
    "effective_dimension",
    "num_params",
    "path_norm",
    "sharpness",
    "magnitude_sharpness",
    "weight_norm",
    "distance_moved",
)
_SHAPE = (3, 32, 32)
# Sharpness is of the first so many training images, in batches of so many.
_MEASURED, _BATCH = 2000, 500
_DRAWS = 20
# Both searches take about so many steps.
_SEARCH_STEPS = 40
MORE_IMAGES = float(_SEARCH_STEPS * _DRAWS * _MEASURED)


def measure_conv_norms(
    point: ConvPoint, *, folder: Path | None = None
) -> dict[str, Any]:
    """Train one network, and measure everything that may foretell its test loss.

    Args:
        point: The network and its setting, with one z.
        folder: Where the training under way is kept.

    Returns:
        ``records`` (one), ``num_samples``, ``num_matvecs``.

    Cost:
        That of `measure_conv`, and about 800 forward passes of 2,000 images.
    """
    start = nn.utils.parameters_to_vector(build_conv(point).parameters()).detach()
    trained = trained_conv(point, folder=folder)
    (record,) = trained.value["records"]
    model = trained.model
    images, labels = trained.images[:_MEASURED], trained.labels[:_MEASURED]
    weights = nn.utils.parameters_to_vector(model.parameters()).detach().cpu()
    search: dict[str, Any] = {"num_draws": _DRAWS, "batch_size": _BATCH}
    dimension = {
        name: record[name][0]
        for name in (
            "effective_dimension",
            "effective_dimension_low",
            "effective_dimension_high",
        )
    }
    return {
        **trained.value,
        "records": [
            {
                "depth": point.depth,
                "width": point.init_channels,
                "weight_decay": WEIGHT_DECAY,
                **record,
                **dimension,
                "loss_gap": record["test_loss"] - record["train_loss"],
                "path_norm": path_norm(model, _SHAPE),
                "sharpness": sharpness(model, images, labels, **search),
                "magnitude_sharpness": sharpness(
                    model, images, labels, magnitude_aware=True, **search
                ),
                "weight_norm": float(weights.norm()),
                "distance_moved": float((weights - start).norm()),
            }
        ],
    }
