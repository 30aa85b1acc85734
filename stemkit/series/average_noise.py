"""The noise of an average of frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.images.mode import mode_sign
from stemkit.noise import NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.series.averaging import AverageGrid, average, placed

__all__ = ["noise_gain", "noise_of_average", "with_mean_displacements"]

#: Fields of ``ScanNoise`` with displacements, which are smaller in the mean of several frames.
DISPLACED = ("jitter", "jitter_y", "drift", "drift_y", "hum", "hum_y")

#: Columns of pixels on which the gain of white noise is measured (chosen: its error is 1 % for 256 rows).
MEASURED_COLUMNS = 64
#: Sigma of a column for which the noise of the average is stated, px (chosen: for narrow ones, of 1 px, the
#: noise is slightly higher).
COLUMN_SIGMA = 1.5
#: Signal, as a fraction of the contrast, at which two noise models are compared (chosen: about the mean of an image).
TYPICAL_SIGNAL = 0.25


def noise_gain(displacements: NDArray, shape: tuple[int, int]) -> tuple[float, float]:
    """Variance of the average of frames of white noise, times their number, over that of a pixel.

    It is 1 for frames that are not displaced. Where rows leave gaps, the average amplifies high frequencies along y:
    the first number is the gain of single pixels, the second that of means over the height of a column. Both are
    measured by averaging white noise.

    Parameters
    ----------
    displacements : ndarray of shape (n_frames, n_y, 2)
        Displacements of the rows, px. Those along x have no effect, since the gain along x is 1.
    shape : (int, int)
        ``(n_y, n_x)`` of the average.
    """
    still = displacements.copy()
    still[..., 1] = 0.0
    random = np.random.default_rng(0)
    low = int(np.floor(still[..., 0].min()))
    grid = AverageGrid((low, 0), (shape[0] + int(np.ceil(np.ptp(still[..., 0]))) + 1, MEASURED_COLUMNS))
    mean = average((placed(random.normal(size=(shape[0], MEASURED_COLUMNS)), one, grid) for one in still), grid)
    use = mean.count >= max(1.0, len(displacements) / 2)
    if not use.any():
        return 1.0, 1.0
    smooth = ndimage.gaussian_filter1d(mean.values, COLUMN_SIGMA, axis=0, mode="constant")
    # white noise keeps 1 / (2 pi^1/2 sigma) of its variance
    factor = 2 * math.sqrt(math.pi) * COLUMN_SIGMA
    # the median over the rows: a wide gap between displaced rows amplifies the noise of its few rows alone
    rows = use.any(axis=1)
    weight = np.where(use, mean.count, 0.0)[rows]
    seen = use[rows].sum(axis=1)
    pixel, column = (
        float(np.median((weight * values[rows] ** 2).sum(axis=1) / seen)) for values in (mean.values, smooth)
    )
    return pixel, factor * column


def noise_of_average(
    image: xr.DataArray, count: NDArray, variance: tuple[float, float], gain: float, scan: ScanNoise, mode: str
) -> tuple[NoiseModel, float]:
    """Noise model of an average, and the ratio of the standard deviation of its pixels to that of a calibration.

    Contrast, level, background and streaks are calibrated on the average. The pointwise noise is that of the frames
    about their average, and displacements are those of the mean of the frames.

    Parameters
    ----------
    image : DataArray
        The average.
    count : ndarray of shape (n_y, n_x)
        Number of frames.
    variance : (float, float)
        Variance of a pixel of a frame, columns bright: constant and slope against the intensity.
    gain : float
        Gain of means over a column: the second result of :func:`noise_gain`.
    scan : ScanNoise
        Displacements within the frames.
    mode : {"haadf", "bf"}
    """
    model = NoiseCalibrator(mode=mode).fit(image).noise_model_
    n_frames = float(np.median(count[count > 0]))
    scale = gain / n_frames / model.contrast**2
    dark = max(variance[0] + variance[1] * mode_sign(mode) * model.level, 0.0)
    pointwise = replace(
        model.pointwise, readout=math.sqrt(dark * scale), gain=variance[1] * scale * model.contrast, kind="tukey"
    )
    calibrated = _typical(model.pointwise)
    ratio = math.sqrt(_typical(pointwise) / calibrated) if calibrated > 0 else math.nan
    if scan.displacement or scan.displacement_y:
        model = replace(model, scan=with_mean_displacements(model.scan, scan, n_frames))
    return replace(model, pointwise=pointwise), ratio


def with_mean_displacements(of_average: ScanNoise, of_frame: ScanNoise, n_frames: float) -> ScanNoise:
    """A scan noise with the displacements of the mean of n frames, whose variance is ``1 / n`` of that of a frame.

    Displacements that all frames have in common are not measured by aligning them. The errors of the measured ones
    have at most the variance of the displacements, so that this number does not depend on them.
    """
    lengths = {name: getattr(of_frame, name) for name in ("jitter_length", "drift_rows", "hum_period")}
    return replace(of_average, **lengths, **{name: getattr(of_frame, name) / math.sqrt(n_frames) for name in DISPLACED})


def _typical(noise: PointwiseNoise) -> float:
    """Variance of a pixel at the mean of an image of columns, as a fraction of the contrast squared."""
    return max(noise.readout**2 + TYPICAL_SIGNAL * noise.gain, 0.0)
