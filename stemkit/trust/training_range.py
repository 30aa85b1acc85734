"""Whether an image is similar to those on which a network was trained."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.denoising import NetworkInfo, known_weights, load_weights
from stemkit.denoising.general import RECIPE
from stemkit.denoising.sampling import CONSTANTS as GRID_CONSTANTS
from stemkit.denoising.sampling import NetworkGrid
from stemkit.noise import NoiseModel
from stemkit.synthesis import noises
from stemkit.trust.expected_noise import ExpectedNoise

__all__ = ["range_table", "shipped_info"]

#: Factor by which a value may be beyond a limit of a range to be at its edge (chosen).
EDGE_FACTOR = 1.25
#: Quantile of the enhanced image that is its background (chosen).
BACKGROUND_QUANTILE = 0.05
#: Quantile of the enhanced image that is the height of its bright columns (chosen).
BRIGHT_QUANTILE = 0.995


@cache
def shipped_info(sha256: str) -> NetworkInfo | None:
    """Description of shipped weights with this hash; None for others."""
    infos = (load_weights(name)[1] for name in known_weights())
    return next((info for info in infos if info.sha256 == sha256), None)


def range_table(
    enhanced: NDArray,
    *,
    expected: ExpectedNoise,
    grid: NetworkGrid,
    width: float,
    displacement: float,
    info: NetworkInfo | None,
    model: NoiseModel | None,
) -> pd.DataFrame:
    """Quantities of an image on the network's grid, and their ranges in the training.

    Parameters
    ----------
    enhanced : ndarray of shape (n_y, n_x)
        Columns bright.
    expected : ExpectedNoise
    grid : NetworkGrid
        The network's grid and the spacing of the image.
    width : float
        Column width, px.
    displacement : float
        RMS displacement of the rows, px.
    info : NetworkInfo or None
        The network; None: unknown.
    model : NoiseModel or None
        The calibrated noise; None: that of `expected`.

    Returns
    -------
    DataFrame
        Index ``spacing`` (px), ``width`` (fraction of the spacing), ``noise`` (standard deviation of a pixel at a
        bright column, fraction of the contrast), ``dose`` (electrons per pixel at a bright column), ``displacement``
        (RMS, px) and ``correlation`` (along the row); columns ``value, unit, low, high, status``. The status
        is ``"inside"``, ``"edge"`` (beyond a limit by at most ``EDGE_FACTOR``; above the largest spacing by the
        ``largest_ratio`` of :mod:`stemkit.denoising.sampling`, up to which the network is applied), ``"outside"``, or
        ``"unknown"`` where the weights do not state their range or the image does not have the quantity. A dose above
        ``high`` is inside: more electrons are less noise, which has its own row.

    Notes
    -----
    The ranges are those of the weights' metadata (spacing) and of the recipe of the shipped weights. On a grid with f
    pixels per pixel of the image, the dose is divided by f^2, and the noise is multiplied by f.
    """
    background, bright = (float(q) for q in np.quantile(enhanced, (BACKGROUND_QUANTILE, BRIGHT_QUANTILE)))
    contrast = model.contrast if model is not None else bright - background
    std = math.sqrt(float(expected.variance_at(np.array(background + contrast))))
    slope = abs(expected.line.slope)
    dose = contrast / slope / grid.sampling**2 if slope else math.nan
    spacing = math.nan if grid.spacing is None else grid.spacing
    spacing_range = (math.nan, math.nan) if info is None or info.spacing is None else info.spacing
    is_shipped = info is not None and info.architecture == "sfin" and shipped_info(info.sha256) is not None
    # the noise of counted electrons at the lowest dose, on the highest background
    max_noise = math.sqrt((1 + noises.CONSTANTS.counted_background[1]) / noises.CONSTANTS.dose[0])
    noise = std / contrast * grid.sampling if contrast > 0 else math.nan
    values = {
        "spacing": (spacing * grid.sampling, "px", *spacing_range),
        "width": (width / spacing, "of the spacing", *RECIPE.width),
        "noise": (noise, "of the contrast", noises.CONSTANTS.readout[0], max_noise),
        "dose": (dose, "electrons per px", *noises.CONSTANTS.dose),
        "displacement": (displacement * grid.sampling, "px", 0.0, noises.CONSTANTS.max_jitter),
        "correlation": (expected.correlation_x, "", *noises.CONSTANTS.correlation),
    }
    rows = {}
    for name, (value, unit, low, high) in values.items():
        if name != "spacing" and not is_shipped:
            low = high = math.nan
        edge_factor = GRID_CONSTANTS.largest_ratio if name == "spacing" else EDGE_FACTOR
        upper_limit = math.inf if name == "dose" else high
        rows[name] = (value, unit, low, high, _status(value, low, upper_limit, edge_factor))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "unit", "low", "high", "status"])


def _status(value: float, low: float, high: float, edge_factor: float) -> str:
    """Whether a value is inside a range, at its edge, or outside; it may exceed ``high`` by the factor at the edge."""
    if not (math.isfinite(value) and math.isfinite(low)):
        return "unknown"
    value = max(value, 0.0) if low <= 0 else value
    if low <= value <= high:
        return "inside"
    return "edge" if low / EDGE_FACTOR <= value <= high * edge_factor else "outside"
