"""The table of measured columns."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns import ColumnFits
from stemkit.detection.normalized_image import FRAMES, NormalizedImage
from stemkit.detection.quality import quality_flags
from stemkit.images.pixel_size import is_calibrated, mean_pixel_size, pixel_sizes
from stemkit.noise.model import ScanNoise

__all__ = ["COLUMNS", "ELLIPTICAL_COLUMNS", "table_of"]

#: Columns of the table.
COLUMNS = (
    "image", "y", "x", "y_px", "x_px", "amplitude", "sigma", "background", "intensity",
    "y_err", "x_err", "y_px_err", "x_px_err", "amplitude_err", "sigma_err", "background_err", "intensity_err",
    "y_jitter", "x_jitter", "snr", "residual", "quality",
)  # fmt: skip
#: Additional columns for elliptical Gaussians, each with its error.
ELLIPTICAL_COLUMNS = ("sigma_major", "sigma_minor", "angle")
#: Least column width in the error of a position by jitter, px (chosen: its formula replaces a sum by an integral).
MIN_JITTER_SIGMA = 0.5
#: Least length of the jitter along the row in this error, px (chosen).
MIN_JITTER_LENGTH = 0.3


def table_of(
    fits: ColumnFits,
    width_fixed: NDArray,
    image: NormalizedImage,
    index: int,
    *,
    guided: NDArray | None = None,
    elliptical: bool = False,
) -> pd.DataFrame:
    """Table of fitted columns, in the units of the original image.

    Parameters
    ----------
    fits : ColumnFits
        Fitted columns in units of the normalized image.
    width_fixed : ndarray of bool, shape (n,)
        Columns that are flagged ``WIDTH_FIXED``.
    image : NormalizedImage
    index : int
        Number of the image.
    guided : ndarray of bool, shape (n,), optional
        Columns that are flagged ``GUIDED``.
    elliptical : bool
        Whether the table contains the axes of elliptical columns.
    """
    guided = np.zeros(len(fits), dtype=bool) if guided is None else guided
    source, contrast, level = image.source, image.noise.contrast, image.noise.level
    sizes = pixel_sizes(source) or (1.0, 1.0)
    size = mean_pixel_size(source)
    origin = [float(source.coords[d][0]) if d in source.coords else 0.0 for d in ("y", "x")]
    scan = image.noise.scan
    data = {
        "image": np.full(len(fits), index, dtype=np.int64),
        "y": origin[0] + fits.y * sizes[0],
        "x": origin[1] + fits.x * sizes[1],
        "y_px": fits.y,
        "x_px": fits.x,
        "amplitude": fits.amplitude * contrast,
        "sigma": fits.sigma * size,
        "background": level + fits.background * image.sign * contrast,
        "intensity": fits.intensity * contrast * size**2,
        "y_err": fits.y_err * sizes[0],
        "x_err": fits.x_err * sizes[1],
        "y_px_err": fits.y_err,
        "x_px_err": fits.x_err,
        "amplitude_err": fits.amplitude_err * contrast,
        "sigma_err": fits.sigma_err * size,
        "background_err": fits.background_err * contrast,
        "intensity_err": fits.intensity_err * contrast * size**2,
        "y_jitter": _jitter_error(scan, fits.sigma, along_y=True) * sizes[0],
        "x_jitter": _jitter_error(scan, fits.sigma, along_y=False) * sizes[1],
        "snr": fits.amplitude / np.sqrt(image.variance(fits.background + fits.amplitude)),
        "residual": fits.residual,
        "quality": quality_flags(fits, width_fixed, guided, image),
    }
    names: tuple[str, ...] = COLUMNS
    if elliptical:
        data |= _axes(fits, size)
        shape_names = (f"{name}{suffix}" for suffix in ("", "_err") for name in ELLIPTICAL_COLUMNS)
        names = (*COLUMNS[:-3], *shape_names, *COLUMNS[-3:])
    if FRAMES in source.coords:
        data[FRAMES] = frames_at(source.coords[FRAMES].values, fits)
        data["snr"] *= np.sqrt(frames_at(np.asarray(image.weights), fits))
        names = (*names, FRAMES)
    table = pd.DataFrame({name: data[name] for name in names})
    table.attrs["unit"] = "nm" if is_calibrated(source) else "px"
    # columns of recorded images are not exactly Gaussian: the median residual shows by how much
    table.attrs["residual"] = float(np.median(fits.residual)) if len(fits) else float("nan")
    return table


def frames_at(count: NDArray, fits: ColumnFits) -> NDArray[np.float64]:
    """Mean of a number of frames ``(n_y, n_x)`` around each column, weighted by a Gaussian of the median width."""
    if len(fits) == 0:
        return np.zeros(0)
    width = max(float(np.median(fits.sigma)), MIN_JITTER_SIGMA)
    mean = ndimage.gaussian_filter(count.astype(np.float64), width, mode="nearest")
    y, x = (p.round().astype(int).clip(0, n - 1) for p, n in zip(fits.positions.T, count.shape, strict=True))
    return np.asarray(mean[y, x])


# --- steps -------------------------------------------------------------------------------------------------------


def _jitter_error(scan: ScanNoise, sigma: NDArray, *, along_y: bool) -> NDArray:
    """Standard deviation of a column's position that displacements of the beam cause, px.

    The information of a pixel on x is proportional to ``x^2 exp(-r^2 / sigma^2)``, on y to ``y^2 exp(-r^2 / sigma^2)``.
    The mean of the displacements with these weights has a variance that is the sum of those of

    - jitter, independent between rows and with the autocovariance ``exp(-d^2 / (4 length^2))`` along them:
      ``jitter^2 f / ((2 pi)^1/2 sigma)`` with, for ``q = (sigma / (2 length))^2``, ``f = (1 + 2 q + 3 q^2) /
      (1 + 2 q)^(5/2)`` in x and ``3/4 (1 + 2 q)^(-1/2)`` in y;
    - drift with the autocovariance ``exp(-k^2 / (4 rows^2))`` between rows: ``drift^2 (1 + r)^(-1/2)`` for
      ``r = sigma^2 / (2 rows^2)``, in y times ``1 - p + 3/4 p^2`` with ``p = r / (1 + r)``;
    - hum: ``hum^2 exp(-t^2 / 2) / 2`` for ``t = 2 pi sigma / period``, in y times ``(1 - t^2 / 2)^2``.
    """
    jitter, drift, hum = (scan.jitter_y, scan.drift_y, scan.hum_y) if along_y else (scan.jitter, scan.drift, scan.hum)
    sigma = np.maximum(sigma, MIN_JITTER_SIGMA)
    q = (sigma / (2 * max(scan.jitter_length, MIN_JITTER_LENGTH))) ** 2
    factor = 0.75 / np.sqrt(1 + 2 * q) if along_y else (1 + 2 * q + 3 * q**2) / (1 + 2 * q) ** 2.5
    r = (sigma / scan.drift_rows) ** 2 / 2
    p = r / (1 + r)
    kept = (1 - p + 0.75 * p**2 if along_y else 1.0) / np.sqrt(1 + r)
    t = 2 * np.pi * sigma / scan.hum_period
    passed = (1 - t**2 / 2) ** 2 if along_y else 1.0
    variance = jitter**2 * factor / (np.sqrt(2 * np.pi) * sigma) + drift**2 * kept
    return np.sqrt(variance + hum**2 / 2 * passed * np.exp(-(t**2) / 2))


def _axes(fits: ColumnFits, size: float) -> dict[str, NDArray]:
    """Sigmas of the major and minor axis, and the angle of the major axis from x towards y, degrees."""
    e = np.hypot(fits.e1, fits.e2)
    safe = np.maximum(e, 1e-12)
    e_err = np.hypot(fits.e1 * fits.e1_err, fits.e2 * fits.e2_err) / safe
    angle_err = np.hypot(fits.e2 * fits.e1_err, fits.e1 * fits.e2_err) / safe**2 / 2
    major, minor = fits.sigma * np.sqrt(1 + e), fits.sigma * np.sqrt(1 - e)

    def error(axis: NDArray) -> NDArray:
        return np.hypot(axis * fits.sigma_err / fits.sigma, fits.sigma**2 * e_err / (2 * axis))

    return {
        "sigma_major": major * size,
        "sigma_minor": minor * size,
        "angle": np.degrees(0.5 * np.arctan2(fits.e2, -fits.e1)),
        "sigma_major_err": error(major) * size,
        "sigma_minor_err": error(minor) * size,
        "angle_err": np.degrees(np.minimum(angle_err, np.pi / np.sqrt(12))),
    }
