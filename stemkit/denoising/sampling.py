"""The grid on which a network is applied: coarser or finer than the image's own, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from stemkit.periodicity import find_periodicity, middle

__all__ = ["Grid", "check_sampling", "chosen_grid", "noise_share", "resampled"]

#: An image's spacing and noise are measured on a square of this many px in its middle (chosen).
MEASURED_ON = 768
#: Columns that are nearer than this, px, cannot be resolved (chosen).
COARSEST = 2.5
#: A spacing outside the network's range is brought this factor inside it (chosen: resampled noise is correlated, so the
#: image is resampled no more than necessary).
INSIDE = 1.25
#: Sampling of a noisy image of large spacing (tuned: ``benchmarks/sampling.py``).
COARSER = 0.65
#: Share of white noise in an image's variance from which noise dominates it (tuned: ``benchmarks/sampling.py``).
NOISY = 0.8
#: White noise is measured above this fraction of the Nyquist frequency along both axes (chosen).
HIGH = 0.5
#: Median of the squares of normal deviates, of variance 1 (chi-squared, one degree of freedom).
MEDIAN_SQUARE = 0.4549
#: Spacing from which a noisy image is resampled, px (tuned: ``benchmarks/sampling.py``).
LARGE = 25.0
#: Fewest pixels along an axis of a resampled image (chosen).
FEWEST = 8


@dataclass(frozen=True)
class Grid:
    """A grid for the network, and what it was chosen by.

    Parameters
    ----------
    sampling : float
        Pixels along an axis for each of the image's own.
    spacing : float or None
        Spacing of the image, px of its own; None without a lattice.
    noisy : bool
        Whether noise dominates the image.
    """

    sampling: float
    spacing: float | None
    noisy: bool

    def shape(self, own: tuple[int, ...]) -> tuple[int, int]:
        """Shape of an image of the shape ``own`` on this grid."""
        n_y, n_x = (max(min(n, FEWEST), round(n * self.sampling)) for n in own)
        return n_y, n_x


def check_sampling(sampling: float | str) -> None:
    """Raise ValueError if ``sampling`` is neither ``"auto"`` nor a number in (0, 1]."""
    number = isinstance(sampling, int | float | np.number) and not isinstance(sampling, bool)
    if sampling != "auto" and not (number and 0 < float(sampling) <= 1):
        raise ValueError(
            f'sampling must be "auto" or a number in (0, 1], where 1 is the image\'s own sampling, but is {sampling!r}'
        )


def chosen_grid(values: NDArray, sampling: float | str, known: tuple[float, float] | None) -> Grid:
    """The grid for an image, with a warning where the network's range is left.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sampling : float or "auto"
        ``"auto"`` brings a spacing outside ``known`` into it, and takes an image that is dominated by noise and whose
        columns are far apart to a coarser grid.
    known : (float, float) or None
        Spacings on which the network was trained, px.
    """
    if sampling == 1 and known is None:
        return Grid(1.0, None, False)
    part = middle(values, MEASURED_ON)
    noisy = noise_share(part) > NOISY
    spacing = _spacing(part, noisy)
    if sampling != "auto":
        grid = Grid(float(sampling), spacing, noisy)
        _warn_outside(grid, known)
        return grid
    factor = _into(spacing, known)
    if noisy and spacing is not None and spacing >= LARGE:
        factor = min(factor, max(COARSER, (known[0] if known else 0.0) / spacing))
    if factor > 1 and spacing is not None and spacing < COARSEST:
        warnings.warn(
            f"columns are {spacing:.1f} px apart: below {COARSEST:g} px neighbours overlap, and resampling does not "
            "restore what was not recorded",
            stacklevel=4,
        )
    return Grid(factor, spacing, noisy)


def noise_share(values: NDArray) -> float:
    """Share of white noise in an image's variance, 0 for a constant image.

    From the median of the image's cosine series at high frequencies: Bragg peaks have no influence on it, and of noise
    that is correlated along the row it contains the white part alone.
    """
    power = fft.dctn(values - values.mean(), norm="ortho") ** 2
    total = float(power.sum())
    n_y, n_x = (int(HIGH * n) for n in values.shape)
    return float(np.median(power[n_y:, n_x:])) / MEDIAN_SQUARE * values.size / total if total > 0 else 0.0


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
        Of the same data type.

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


def _spacing(values: NDArray, noisy: bool) -> float | None:
    """The spacing of an image; in a noisy one, where the correlogram of the noise has peaks that are nearer than
    columns can be, that of the image on half as many pixels.
    """
    spacing = find_periodicity(values).spacing
    if not noisy or (spacing is not None and spacing >= COARSEST) or min(values.shape) < 2 * FEWEST:
        return spacing
    n_y, n_x = values.shape
    coarse = find_periodicity(resampled(values, (n_y // 2, n_x // 2))).spacing
    return spacing if coarse is None else 2 * coarse


def _into(spacing: float | None, known: tuple[float, float] | None) -> float:
    """The factor that brings a spacing into a range."""
    if spacing is None or known is None:
        return 1.0
    low, high = known
    if low <= spacing <= high:
        return 1.0
    return float((min(INSIDE * low, high) if spacing < low else max(high / INSIDE, low)) / spacing)


def _warn_outside(grid: Grid, known: tuple[float, float] | None) -> None:
    if grid.spacing is None or known is None or known[0] <= grid.spacing * grid.sampling <= known[1]:
        return
    warnings.warn(
        f"columns are {grid.spacing * grid.sampling:.1f} px apart at sampling={grid.sampling:g}, but the network was "
        f'trained on {known[0]:g} to {known[1]:g} px: sampling="auto" brings the image into this range',
        stacklevel=4,
    )
