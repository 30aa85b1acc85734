"""Columns that may be invented, filled in or missed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, stats

from stemkit.columns.peaks import BACKGROUND_RATIO
from stemkit.detection import fitted_image
from stemkit.detection.matched_filter import matched_filter
from stemkit.images.mode import mode_sign
from stemkit.images.pixel_size import mean_pixel_size
from stemkit.tables import check_columns
from stemkit.trust.column_field import normal_scores, response_variance, two_sided_noise_peaks
from stemkit.trust.expected_noise import ExpectedNoise

__all__ = ["FALSE_DISCOVERY_RATE", "judge_columns", "missed_columns"]

POSITION = ["y_px", "x_px"]
#: Expected fraction of false ones among the columns that are reported (chosen).
FALSE_DISCOVERY_RATE = 0.05


@dataclass(frozen=True)
class _Constants:
    """Constants of the verdicts."""

    #: Fraction of the recorded response that the enhanced image must show for a column not to be missed (chosen).
    min_shown_fraction: float = 0.5
    #: Least response of a missed column, as a fraction of that of a bright column (chosen: the faintest columns of the
    #: training have 0.15 of the height of the brightest).
    min_height: float = 0.15
    #: Quantile of the response to the enhanced image that is the response of a bright column (chosen).
    bright_quantile: float = 0.99
    #: Least width of the matched filter, px (chosen: narrower ones are not sampled).
    min_width: float = 1.0
    #: Distance between a column and a peak of the residual that belongs to it, column widths (chosen).
    max_peak_distance: float = 1.5


CONSTANTS = _Constants()


def judge_columns(
    table: pd.DataFrame, recorded: xr.DataArray, mode: str, expected: ExpectedNoise, places: pd.DataFrame
) -> pd.DataFrame:
    """Significance of the columns of a table in the recorded pixels.

    Parameters
    ----------
    table : DataFrame
        Columns of :class:`stemkit.AtomDetector` in this image.
    recorded : DataArray of shape (n_y, n_x)
    mode : {"haadf", "bf"}
    expected : ExpectedNoise
    places : DataFrame
        Peaks of the residual: ``places`` of :class:`~stemkit.trust.residual.ResidualTests`.

    Returns
    -------
    DataFrame
        With the table's index: ``y_px``, ``x_px``, ``significance`` (standard deviations of the noise without the
        column), ``p_value``, ``q_value`` and ``verdict``: ``"supported"``, ``"may be invented"`` (q above 0.05),
        ``"filled in"`` or ``"weakened"`` (the enhanced image has significantly more or less than the recorded one).

    Notes
    -----
    The significance of a column is the response of the matched filter to the recorded image without the other columns
    and the background, over its standard deviation in their noise alone. Columns are found where the noise is high, so
    that a significance at a given position would be too optimistic: p is the expected number of noise peaks of at least
    this height in the area of the image per column. The q-values control the expected fraction of false columns [1]_.

    References
    ----------
    .. [1] Y. Benjamini and Y. Hochberg, J. R. Stat. Soc. B 57, 289 (1995),
       https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    """
    check_columns("columns", table, (*POSITION, "y_err", "amplitude", "sigma"), "the result of AtomDetector")
    if len(table) == 0:
        return table.reindex(columns=[*POSITION, "significance", "p_value", "q_value", "verdict"])
    sign = mode_sign(mode)
    size = mean_pixel_size(recorded)
    sigma = np.where(np.isfinite(table["sigma"]), table["sigma"], table["sigma"].median()) / size
    width = max(float(np.median(sigma)), CONSTANTS.min_width)
    amplitude = np.nan_to_num(table["amplitude"].to_numpy(dtype=np.float64))
    model = sign * fitted_image(table, recorded, mode=mode).values
    positions = table[POSITION].to_numpy(dtype=np.float64).T
    rest, modeled = (
        ndimage.map_coordinates(values, positions, order=1, mode="nearest")
        for values in (matched_filter(sign * recorded.values.astype(np.float64) - model, width).response, model)
    )
    response = amplitude * _response(sigma, width) + rest
    local = expected.variance_at(modeled - amplitude)  # without the column itself
    field = response / np.sqrt(response_variance(expected, width, local))
    z = normal_scores(field, width, expected.skewness_at(modeled - amplitude))
    p = (two_sided_noise_peaks(z, recorded.shape, width) / 2 / len(table)).clip(0.0, 1.0)
    p = np.where(z > 1, p, 1.0)
    q = stats.false_discovery_control(p)
    verdict = np.where(q > FALSE_DISCOVERY_RATE, "may be invented", "supported").astype(object)
    significant = places[places["q_value"] <= FALSE_DISCOVERY_RATE]
    if len(significant):
        distance = np.hypot(*(positions[:, :, None] - significant[POSITION].to_numpy().T[:, None]))
        for kind, peaks in (("weakened", significant["z"] > 0), ("filled in", significant["z"] < 0)):
            near = (distance[:, peaks.to_numpy()] < CONSTANTS.max_peak_distance * width).any(axis=1)
            verdict[near & (verdict == "supported")] = kind
    return table[POSITION].assign(significance=z, p_value=p, q_value=q, verdict=verdict)


def missed_columns(residual: NDArray, enhanced: NDArray, places: pd.DataFrame, width: float) -> pd.DataFrame:
    """Peaks of the residual that are columns in the recorded, but not in the enhanced image.

    Parameters
    ----------
    residual, enhanced : ndarray of shape (n_y, n_x)
        Columns bright.
    places : DataFrame
        Peaks of the residual: ``places`` of :class:`~stemkit.trust.residual.ResidualTests`.
    width : float
        Column width, px.

    Returns
    -------
    DataFrame
        Rows of `places` with a q-value of at most 0.05.
    """
    found = places[(places["q_value"] <= FALSE_DISCOVERY_RATE) & (places["z"] > 0)]
    if len(found) == 0:
        return found
    at = tuple(found[POSITION].to_numpy(dtype=int).T)
    left, shown = (matched_filter(values, width).response[at] for values in (residual, enhanced))
    usual = float(np.quantile(matched_filter(enhanced, width).response, CONSTANTS.bright_quantile))
    return found[
        (shown < CONSTANTS.min_shown_fraction * (left + shown)) & (left > CONSTANTS.min_height * usual)
    ].reset_index(drop=True)


def _response(sigma: NDArray, width: float) -> NDArray[np.float64]:
    """Response of the matched filter to a column of this width and amplitude 1."""
    squares = (width**2, (BACKGROUND_RATIO * width) ** 2)
    narrow, wide = (sigma**2 / (sigma**2 + square) for square in squares)
    return np.asarray(narrow - wide)
