"""Properties that synthetic images take from given ones: mode, noise model, pixel size, spacing, column width."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.mode import resolve_mode
from stemkit.images.pixel_size import pixel_sizes, same_pixel_sizes
from stemkit.images.provenance import check_noise_attr
from stemkit.noise import NoiseModel
from stemkit.noise.separation import separate_specimen
from stemkit.periodicity import central_crop
from stemkit.statistics import median_spacing

__all__ = ["attached_noise", "common_lengths", "common_mode", "common_noise", "common_pixel_size", "geometric_mean"]

#: Edge of the square in the middle of an image on which lengths are measured, px (chosen).
MEASURED_ON = 512
#: Least number of fitted columns for a measurement of lengths (chosen).
MIN_COLUMNS = 4
#: Range of drawn spacings, in multiples of the extreme spacings of the images (chosen).
WIDENING = (0.9, 1.1)


def common_mode(images: list[xr.DataArray], mode: str | None) -> str:
    """The mode of several images; ValueError if they differ."""
    modes = {resolve_mode(image, mode) for image in images}
    if len(modes) > 1:
        raise ValueError(f"X must be images of one mode, but they are {sorted(modes)}: fit a synthesizer to each mode")
    return modes.pop()


def common_pixel_size(images: list[xr.DataArray]) -> float | None:
    """The pixel size of several images along x, nm, or None; ValueError if they differ."""
    sizes = [pixel_sizes(image) for image in images]
    if not all(same_pixel_sizes(size, sizes[0]) for size in sizes):
        raise ValueError(
            f"X must be images of one pixel size, but have {sizes} nm along y and x (None: without one): fit a "
            "synthesizer to each of them"
        )
    return None if sizes[0] is None else sizes[0][1]


def attached_noise(images: list[xr.DataArray], mode: str) -> list[NoiseModel]:
    """Noise models that images carry; ValueError for one of another pixel size or mode."""
    attached = [check_noise_attr(image, mode) for image in images]
    return [NoiseModel.from_dict(each) for each in attached if each]


def common_noise(models: list[NoiseModel], n_images: int) -> NoiseModel:
    """The noise model of several images, with their median contrast and level; ValueError if they differ otherwise."""
    contrast, level = (float(np.median([getattr(model, name) for model in models])) for name in ("contrast", "level"))
    kinds = {replace(model, contrast=contrast, level=level) for model in models}
    if len(models) < n_images or len(kinds) > 1:
        raise ValueError(
            f"X must be images of one noise model, but {len(models)} of {n_images} carry one, and these are of "
            f"{len(kinds)} kind(s): calibrate all with one NoiseCalibrator, pass noise=, or fit a synthesizer to each"
        )
    return kinds.pop()


def common_lengths(images: list[NDArray], unit: float) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    """Ranges of spacing and column width of images with bright columns; None where no columns are found.

    Parameters
    ----------
    images : list of ndarray
    unit : float
        Pixel size; the lengths are in its unit.
    """
    lengths = [found for found in map(_lengths, images) if found is not None]
    if not lengths:
        return None, None
    spacings, low, high = zip(*lengths, strict=True)
    spacing = WIDENING[0] * min(spacings) * unit, WIDENING[1] * max(spacings) * unit
    typical = geometric_mean(spacing)
    return spacing, (min(low) * typical, max(high) * typical)


def geometric_mean(limits: tuple[float, float]) -> float:
    """Geometric mean of the limits of a range."""
    return math.sqrt(limits[0] * limits[1])


def _lengths(bright: NDArray) -> tuple[float, float, float] | None:
    """Distance of neighbouring columns, px, and the range of their widths as fractions of it.

    The range is that between the quartiles of the fitted widths, which noise and overlap affect less than the extremes.
    """
    fits = separate_specimen(central_crop(bright, MEASURED_ON).astype(np.float64)).fits
    if fits is None or (~fits.failed).sum() < MIN_COLUMNS:
        return None
    good = fits.take(~fits.failed)
    spacing = median_spacing(np.column_stack([good.y, good.x]))
    low, high = np.quantile(good.sigma / spacing, [0.25, 0.75])
    return spacing, float(low), float(high)
