"""Mode of an image: bright or dark columns."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.parameters import MODES, check_option

__all__ = ["mode_sign", "resolve_mode"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the inference of the mode from the skewness of an image."""

    #: Largest skewness of an image with dark columns (chosen).
    skewness: float = -0.3
    #: Quantiles that define the range of intensities (chosen).
    quantiles: tuple[float, float] = (0.01, 0.99)
    #: Margin beyond the range at which intensities are clipped, in units of the range (chosen).
    margin: float = 0.5
    #: Sigma of the Gaussian filter that reduces the noise of pixels, px (chosen: narrower than a column).
    noise_sigma: float = 1.5
    #: Sigma of the Gaussian filter whose result is the background: fraction of the shorter side (chosen).
    background_fraction: float = 1 / 8
    #: Smallest sigma of that filter, px (chosen: wider than a column).
    background_sigma: float = 4.0
    #: Edge of the square in the middle of a larger image that is examined, px (chosen: memory, 50 bytes per pixel).
    largest: int = 2048


CONSTANTS = _Constants()


def resolve_mode(image: xr.DataArray, mode: str | None = None) -> str:
    """The mode: the parameter, else the image's attribute, else inferred from the skewness of the intensities.

    Columns cover less than half of an image, so the distribution of intensities has a tail to the right for bright
    columns and to the left for dark columns. If bright field is inferred, a warning is given.
    """
    known = mode if mode is not None else image.attrs.get("mode")
    if known is not None:
        check_option("mode", known, MODES, optional=True)
        return known
    if _smoothed_skewness(image.values) >= CONSTANTS.skewness:
        return "haadf"
    warnings.warn(
        'the image has no mode and its columns look dark, so the mode is taken as "bf": pass mode= to set it',
        UserWarning,
        stacklevel=3,
    )
    return "bf"


def mode_sign(mode: str) -> float:
    """+1 for bright columns (haadf), -1 for dark columns (bf), whose sign is inverted on input and output."""
    return -1.0 if mode == "bf" else 1.0


def _smoothed_skewness(values: NDArray) -> float:
    """Skewness of the intensities without background, and with pixel noise reduced by a narrow filter."""
    from scipy.ndimage import gaussian_filter

    from stemkit.filters import wide_gaussian

    middle = (slice(max(0, n - CONSTANTS.largest) // 2, (n + CONSTANTS.largest) // 2) for n in values.shape)
    work = np.asarray(values[tuple(middle)], dtype=np.float64)
    # a faulty pixel may exceed all others a thousandfold
    low, high = np.quantile(work, CONSTANTS.quantiles)
    margin = CONSTANTS.margin * (high - low)
    work = np.clip(work, low - margin, high + margin) if high > low else work
    smooth = gaussian_filter(work, CONSTANTS.noise_sigma)
    smooth = smooth - wide_gaussian(
        smooth, max(CONSTANTS.background_sigma, min(work.shape) * CONSTANTS.background_fraction)
    )
    std = smooth.std()
    return 0.0 if std == 0 else float(((smooth - smooth.mean()) ** 3).mean() / std**3)
