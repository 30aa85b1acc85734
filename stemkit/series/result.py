"""The average of a series as an image: coordinates, standard errors, noise model, record of the processing steps."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.detection.normalized_image import TYPICAL, typical_frames
from stemkit.images.containers import float_dtype
from stemkit.images.mode import mode_sign
from stemkit.images.pixel_size import pixel_sizes
from stemkit.images.provenance import noise_attr, step_record
from stemkit.noise import ScanNoise
from stemkit.series.average_noise import noise_gain, noise_of_average
from stemkit.series.averaging import AverageGrid
from stemkit.series.combined import Combined, in_groups
from stemkit.series.turns import Turn

__all__ = ["average_image", "gains_of", "pixel_centers"]

#: Shorter side of the smallest average whose noise is calibrated, px (chosen).
MIN_CALIBRATED = 32


def average_image(
    mean: Combined,
    like: xr.DataArray,
    mode: str,
    grid: AverageGrid,
    gains: tuple[float, float],
    variance: tuple[float, float],
    scan: ScanNoise,
) -> tuple[xr.DataArray, float]:
    """The average as an image, with numbers of frames, standard errors and noise model.

    Parameters
    ----------
    mean : Combined
        Average with bright columns, and the variance of the frames.
    like : DataArray of shape (n_y, n_x)
        The first frame.
    mode : {"haadf", "bf"}
    grid : AverageGrid
    gains : (float, float)
        From :func:`gains_of`.
    variance : (float, float)
        Variance of a pixel of a frame: constant and slope against the intensity.
    scan : ScanNoise
        Displacements within the frames.

    Returns
    -------
    DataArray of shape (n_y, n_x)
    float
        :attr:`stemkit.SeriesAligner.noise_ratio_`; NaN where the noise of the average is not measured.
    """
    assert mean.variance is not None
    dtype = float_dtype(like.dtype)
    gain, column_gain = gains
    error = np.sqrt(gain * mean.variance / np.maximum(mean.count, 1))
    image = xr.DataArray(
        np.where(mean.shown, mode_sign(mode) * mean.values, np.nan).astype(dtype),
        {
            "n_frames": (("y", "x"), mean.count.astype(np.int32), {TYPICAL: typical_frames(mean.count)}),
            "standard_error": (("y", "x"), np.where(mean.count > 1, error, np.nan).astype(dtype)),
        },
        ("y", "x"),
        like.name,
        {k: v for k, v in like.attrs.items() if k != "noise"} | {"mode": mode},
    )
    image = image.assign_coords(pixel_centers(like, grid))
    # earlier steps are those of the first frame
    image.attrs["stemkit"] = step_record(like, "average", n_frames=int(mean.count.max()))
    if not mean.shown.all() or min(image.shape) < MIN_CALIBRATED or np.ptp(mean.values) == 0:
        return image, float("nan")
    model, ratio = noise_of_average(image, mean.count, variance, column_gain, scan, mode)
    image.attrs["noise"] = noise_attr(image, model.to_dict())
    return image, ratio


def gains_of(displacements: NDArray, turns: list[int], shape: tuple[int, int]) -> tuple[float, float]:
    """Gains of white noise (:func:`~stemkit.series.average_noise.noise_gain`), the means over the directions."""
    total = np.zeros(2)
    for turn, group in in_groups(turns).items():
        total += len(group) * np.array(noise_gain(Turn(turn, shape).to_frame(displacements[group]), shape))
    pixel, column = (float(value) for value in total / len(turns))
    return pixel, column


def pixel_centers(frame: xr.DataArray, grid: AverageGrid) -> dict[str, xr.Variable]:
    """Centres of the pixels of a grid, nm, in the coordinates of a frame that is not displaced."""
    sizes, out = pixel_sizes(frame), {}
    for axis, dim in enumerate(("y", "x") if sizes is not None else ()):
        assert sizes is not None
        centers = float(frame.coords[dim].values[0]) + (grid.origin[axis] + np.arange(grid.shape[axis])) * sizes[axis]
        out[dim] = xr.Variable(dim, centers, {"units": "nm"})
    return out
