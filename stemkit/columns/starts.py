"""Starting values of fits, and units in which they are computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.fits import ColumnFits
from stemkit.columns.gaussians import ELLIPTICAL, ROUND
from stemkit.columns.noise import LinearVariance
from stemkit.columns.peaks import pixel_subset

__all__ = ["FitUnits", "checked_prior", "distance_outside", "parameters_of", "start_at"]

#: Quantiles of the image that are 0 and 1 in the units of the fit (chosen).
UNIT_QUANTILES = (0.2, 0.99)


@dataclass(frozen=True)
class FitUnits:
    """An image in units in which single precision is sufficient: about 0 in the background and 1 at bright columns.

    Parameters
    ----------
    level, scale : float
        Intensity that becomes 0, and difference of intensities that becomes 1.
    normalized : ndarray of shape (n_y, n_x)
        ``(values - level) / scale``.
    """

    level: float
    scale: float
    normalized: NDArray[np.float64]

    @classmethod
    def from_image(cls, values: NDArray) -> FitUnits:
        """The units for an image."""
        level, high = (float(v) for v in np.quantile(pixel_subset(values), UNIT_QUANTILES))
        scale = high - level if high > level else float(np.abs(values - level).max()) or 1.0
        return cls(level, scale, (values - level) / scale)

    def variance(self, variance: LinearVariance | float | None) -> LinearVariance | None:
        """A variance of the noise of the image, in these units."""
        if variance is None:
            return None
        known = variance if isinstance(variance, LinearVariance) else LinearVariance(float(variance))
        return known.in_units(self.level, self.scale)


def checked_prior(prior: NDArray, n: int) -> NDArray[np.float64]:
    """The prior, validated, with 0 for positions without one (of infinite standard deviation)."""
    prior = np.array(prior, dtype=np.float64)
    if prior.shape != (n, 3):
        raise ValueError(f"prior must be (n_columns, 3), ({n}, 3) here, but has the shape {prior.shape}")
    unknown = np.isposinf(prior[:, 2])
    if not ((prior[:, 2] > 0).all() and np.isfinite(prior[~unknown]).all()):
        raise ValueError(
            "prior must contain finite positions with standard deviations above 0 px, or inf for columns without a "
            "prior; remove NaN, or set the standard deviation to inf"
        )
    prior[unknown, :2] = 0.0
    return prior


def start_at(values: NDArray, positions: NDArray, sigma: NDArray) -> Tensor:
    """Starting parameters ``(n, 5)`` of columns at these positions, in an image in units of the fit."""
    row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(positions.T, values.shape, strict=True))
    start = np.zeros((len(positions), len(ROUND)))
    # only the tail of a column outside the image is recorded; bright columns have values of about 1
    tail = np.exp(-0.5 * (distance_outside(positions, values.shape) / sigma) ** 2)
    height = np.where(tail < 1, np.minimum(values[row, col] / tail, 1.0), values[row, col])
    start[:, :2], start[:, 2], start[:, 3] = positions, height, sigma
    return torch.as_tensor(start)


def distance_outside(positions: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Distance ``(n,)`` of positions outside the image from the nearest pixel, px; 0 inside."""
    distance = np.maximum(np.maximum(-positions, positions - (np.array(shape) - 1)), 0.0)
    return np.asarray(np.hypot(*distance.T))


def parameters_of(fits: ColumnFits, units: FitUnits) -> Tensor:
    """Starting parameters ``(n, 7)`` from fits."""
    start = np.column_stack([getattr(fits, name) for name in ELLIPTICAL])
    start[:, 4] -= units.level
    start[:, [2, 4]] /= units.scale
    return torch.as_tensor(start)
