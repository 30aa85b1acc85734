"""Whether an image is like those that a network was trained on."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.denoising import NetworkInfo, known_weights, load_weights
from stemkit.denoising.general import RECIPE
from stemkit.denoising.sampling import CONSTANTS, Grid
from stemkit.noise import NoiseModel
from stemkit.synthesis import noises
from stemkit.trust.expected_noise import ExpectedNoise

__all__ = ["info_of", "range_table"]

#: Factor by which a value may be beyond a limit of a range to be at its edge (chosen).
EDGE = 1.25
#: Quantile of the enhanced image that is its background (chosen).
BACKGROUND = 0.05
#: Quantile of the enhanced image that is the height of its bright columns (chosen).
BRIGHT = 0.995


@cache
def info_of(sha256: str) -> NetworkInfo | None:
    """Description of shipped weights with this hash; None for others."""
    for name in known_weights():
        info = load_weights(name)[1]
        if info.sha256 == sha256:
            return info
    return None


def range_table(
    enhanced: NDArray,
    expected: ExpectedNoise,
    grid: Grid,
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
    grid : Grid
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
        (RMS, px) and ``correlation`` (along the row); columns ``value, unit, low, high, status``. It is ``"inside"``,
        ``"edge"`` (beyond a limit by a factor of at most 1.25; for spacings of at most three times the largest one, as
        far as the network is applied), ``"outside"``, or ``"unknown"`` where the weights do not say their range or the
        image does not have the quantity.

    Notes
    -----
    The ranges are those of the weights' metadata (spacing) and of the recipe of the shipped weights. On a grid with f
    pixels per pixel of the image, the dose is divided by f^2, and the noise is multiplied by f.
    """
    f = grid.sampling
    background, bright = (float(q) for q in np.quantile(enhanced, (BACKGROUND, BRIGHT)))
    contrast = model.contrast if model is not None else bright - background
    std = math.sqrt(float(expected.variance_at(np.array(background + contrast))))
    slope = abs(expected.line.slope)
    spacing = math.nan if grid.spacing is None else grid.spacing
    own = info is not None and info.architecture == "sfin" and info_of(info.sha256) is not None
    known = (math.nan, math.nan) if info is None or info.spacing is None else info.spacing
    dose = contrast / slope / f**2 if slope else math.nan
    # of counted electrons at the lowest dose, on the highest background
    noisiest = math.sqrt((1 + noises.COUNTED_BACKGROUND[1]) / noises.DOSE[0])
    values = {
        "spacing": (spacing * f, "px", *known),
        "width": (width / spacing, "of the spacing", *RECIPE.width),
        "noise": (std / contrast * f if contrast > 0 else math.nan, "of the contrast", noises.READOUT[0], noisiest),
        "dose": (dose, "electrons per px", *noises.DOSE),
        "displacement": (displacement * f, "px", 0.0, noises.LARGEST_JITTER),
        "correlation": (expected.correlation_x, "", *noises.CORRELATION),
    }
    rows = {}
    for name, (value, unit, low, high) in values.items():
        if name != "spacing" and not own:
            low = high = math.nan
        beyond = CONSTANTS.largest_ratio if name == "spacing" else EDGE
        # more electrons than in the training is less noise, for which there is a limit already
        top = math.inf if name == "dose" else high
        rows[name] = (value, unit, low, high, _status(value, low, top, beyond))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "unit", "low", "high", "status"])


def _status(value: float, low: float, high: float, beyond: float) -> str:
    if not (math.isfinite(value) and math.isfinite(low)):
        return "unknown"
    value = max(value, 0.0) if low <= 0 else value
    if low <= value <= high:
        return "inside"
    return "edge" if low / EDGE <= value <= high * beyond else "outside"
