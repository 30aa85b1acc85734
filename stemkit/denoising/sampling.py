"""The grid on which a network is applied: coarser or finer than the image's own, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.parameters import is_number
from stemkit.periodicity import central_crop, find_periodicity
from stemkit.pixels.filled_image import FilledImage

__all__ = ["NetworkGrid", "check_sampling", "chosen_grid", "resampled", "variance_fractions"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the choice of a grid; those marked "tuned" were chosen with ``benchmarks/sampling.py``."""

    #: Edge of the square in the middle of an image on which spacing and noise are measured, px (chosen).
    measured_on: int = 768
    #: Spacing below which columns cannot be resolved, px (chosen).
    unresolved: float = 2.5
    #: Spacing below which it may be that of peaks in the correlogram of noise, px (chosen).
    doubtful: float = 4.0
    #: Slow variation is below this fraction of the Nyquist frequency along both axes; columns whose spacing is below
    #: ``doubtful`` have their power above it (derived).
    slow: float = 0.25
    #: Fraction of slow variation in an image's variance from which it does not show such columns (chosen).
    slow_fraction: float = 0.5
    #: Multiple of the largest spacing of the training up to which a network is applied on the image's own grid (tuned:
    #: lattices).
    largest_ratio: float = 3.0
    #: Largest fraction of noise at which an image whose columns are too close is resampled to a finer grid (tuned:
    #: lattices).
    clear: float = 0.5
    #: Fraction of noise from which it dominates an image (tuned: crystals and drawn).
    noisy: float = 0.8
    #: Sampling of an image that noise dominates (tuned: crystals).
    coarser: float = 0.65
    #: Spacing from which such an image is resampled, px (tuned: crystals and drawn; from 25 to 40 px, bright-field
    #: images of anatase lose 1 to 2 dB).
    wide_spacing: float = 40.0
    #: Such an image is resampled to this multiple of the largest spacing of the training where that is a coarser grid
    #: (tuned: crystals and lattices).
    coarsest_ratio: float = 1.25
    #: White noise is measured above this fraction of the Nyquist frequency along both axes (chosen).
    high: float = 0.5
    #: Median of the squares of normal deviates of variance 1 (derived: chi-squared, one degree of freedom).
    median_square: float = 0.4549
    #: Least number of pixels along an axis of a resampled image (chosen).
    least_pixels: int = 8


CONSTANTS = _Constants()


@dataclass(frozen=True)
class NetworkGrid:
    """A grid for the network, with the spacing and the noise that determine it.

    Parameters
    ----------
    sampling : float
        Pixels per pixel of the image along an axis.
    spacing : float or None
        Spacing of the image, px of the image; None without a lattice.
    noise : float
        Fraction of white noise in the image's variance.
    """

    sampling: float
    spacing: float | None
    noise: float

    def shape(self, own: tuple[int, ...]) -> tuple[int, int]:
        """Shape of an image of the shape ``own`` on this grid."""
        n_y, n_x = (max(min(n, CONSTANTS.least_pixels), round(n * self.sampling)) for n in own)
        return n_y, n_x


def check_sampling(sampling: float | str) -> None:
    """Raise ValueError if ``sampling`` is neither ``"auto"`` nor a number in (0, 1]."""
    if sampling != "auto" and not (is_number(sampling) and 0 < float(sampling) <= 1):
        raise ValueError(
            f'sampling must be "auto" or a number in (0, 1], where 1 is the image\'s own sampling, but is {sampling!r}'
        )


def chosen_grid(values: NDArray | FilledImage, sampling: float | str, known: tuple[float, float] | None) -> NetworkGrid:
    """The grid for an image, with a warning where columns are sampled too coarsely, or for a number leave the range.

    Parameters
    ----------
    values : ndarray or FilledImage of shape (n_y, n_x)
    sampling : float or "auto"
        ``"auto"`` takes an image that noise dominates and whose columns are far apart to a coarser grid, and one with
        little noise whose columns are nearer than those of the training to a finer grid. Other images keep their own.
    known : (float, float) or None
        Spacings of the training, px.
    """
    if sampling == 1 and known is None:
        return NetworkGrid(1.0, None, 0.0)
    part = central_crop(values, CONSTANTS.measured_on)
    if part.dtype not in (np.float32, np.float64):
        part = part.astype(np.float64)
    spacing, fine, noise = _spacing(part)
    low, high = (0.0, np.inf) if known is None else known
    if sampling != "auto":
        grid = NetworkGrid(float(sampling), spacing, noise)
        _warn_outside(grid, low, CONSTANTS.largest_ratio * high)
        return grid
    grid = NetworkGrid(_factor(spacing, fine, noise, low, high), spacing, noise)
    if grid.sampling > 1 and spacing is not None and spacing < CONSTANTS.unresolved:
        warnings.warn(
            f"columns are {spacing:.1f} px apart: below {CONSTANTS.unresolved:g} px neighbours overlap, and resampling "
            "does not restore what was not recorded",
            stacklevel=4,
        )
    return grid


def variance_fractions(values: NDArray) -> tuple[float, float]:
    """Fractions of white noise and of slow variation in an image's variance; zeros for a constant image.

    The noise is the median of the image's cosine series at high frequencies: Bragg peaks have no influence on it, and
    of noise that is correlated along the row it contains the white part alone.
    """
    power = fft.dctn(values - values.mean(), norm="ortho") ** 2
    total = float(power.sum())
    if total == 0:
        return 0.0, 0.0
    (high_y, high_x), (slow_y, slow_x) = (
        [int(part * n) for n in values.shape] for part in (CONSTANTS.high, CONSTANTS.slow)
    )
    noise = float(np.median(power[high_y:, high_x:])) / CONSTANTS.median_square * values.size
    return noise / total, float(power[:slow_y, :slow_x].sum()) / total


def resampled(values: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Images on another number of pixels over the same field of view.

    Parameters
    ----------
    values : ndarray of shape (..., n_y, n_x)
        Floating-point.
    shape : (int, int)

    Returns
    -------
    ndarray of shape (..., *shape)
        Resampled values, of the same data type.

    Notes
    -----
    The image's cosine series is cut off at, or continued with zeros up to, the Nyquist frequency of the new grid. Its
    terms are symmetric about the borders of the outer pixels, so that opposite borders do not meet. The transform is
    orthogonal: white noise of variance v stays white, of variance ``v * n_new / n_old`` on fewer pixels.
    """
    # single precision has too few digits for a large offset
    constant = values[..., :1, :1]
    out = np.asarray(values - constant, dtype=np.float32)
    for axis, n in zip((-2, -1), shape, strict=True):
        if n != out.shape[axis]:
            out = _resampled_along(out, n, axis)
    return out + constant


# --- steps -------------------------------------------------------------------------------------------------------


def _resampled_along(values: NDArray[np.float32], n: int, axis: int) -> NDArray[np.float32]:
    before = values.shape[axis]
    series = fft.dct(values, axis=axis, norm="ortho")
    series *= np.float32(np.sqrt(n / before))
    if n < before:
        series = series.take(range(n), axis=axis)
    # zeros are appended where n is larger
    return np.asarray(fft.idct(series, n=n, axis=axis, norm="ortho"), dtype=np.float32)


def _factor(spacing: float | None, fine: bool, noise: float, low: float, high: float) -> float:
    """The sampling that is best for a spacing (px) and a fraction of noise, given the range of the training."""
    if spacing is None:
        return 1.0
    if spacing < low:
        return low / spacing if fine else 1.0
    factor = min(1.0, CONSTANTS.largest_ratio * high / spacing)
    if noise > CONSTANTS.noisy and spacing >= CONSTANTS.wide_spacing:
        factor = min(factor, CONSTANTS.coarser, CONSTANTS.coarsest_ratio * high / spacing)
    return float(max(factor, low / spacing))


def _spacing(values: NDArray) -> tuple[float | None, bool, float]:
    """The spacing of an image, whether it shows closely spaced columns, and its fraction of noise.

    Where the spacing may be that of noise, it is measured on the image with half as many pixels along each axis.
    """
    spacing = found = find_periodicity(values).spacing
    noise, slow = variance_fractions(values)
    # interpolated noise is correlated, and may be mistaken for columns
    fine = noise < CONSTANTS.clear and slow < CONSTANTS.slow_fraction
    doubtful, coarse, factor = not fine, values, 1
    while (
        doubtful and (found is None or found < CONSTANTS.doubtful) and min(coarse.shape) >= 4 * CONSTANTS.least_pixels
    ):
        coarse, factor = resampled(coarse, tuple(n // 2 for n in coarse.shape)), 2 * factor
        found = find_periodicity(coarse).spacing
        doubtful = max(variance_fractions(coarse)) > CONSTANTS.clear
    return (spacing if found is None or found < CONSTANTS.doubtful else factor * found), fine, noise


def _warn_outside(grid: NetworkGrid, low: float, high: float) -> None:
    if grid.spacing is None or low <= grid.spacing * grid.sampling <= high:
        return
    warnings.warn(
        f"columns are {grid.spacing * grid.sampling:.1f} px apart at sampling={grid.sampling:g}, but the network gives "
        f'the best results from {low:g} to {high:g} px: try sampling="auto"',
        stacklevel=4,
    )
