"""An image's spectrum: its periodic part, what is the same in all directions, and how far information reaches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["frequencies", "information_limit", "periodic_part", "radial_background"]

#: The median of an exponential law, as noise makes it in a power spectrum, in parts of its mean.
MEDIAN = np.log(2.0)
#: A Bragg peak stands so many times above the background; noise does in one of e^15 frequencies.
BRAGG = 15.0
#: Deviation of the Gaussian by which the background is smoothed, rings.
RINGS = 2.0


def periodic_part(values: NDArray) -> tuple[NDArray, NDArray]:
    """The spectrum (``rfft2``) of an image's periodic part, and the smooth rest, in which the borders differ.

    Moisan's decomposition: the rest v solves the discrete Poisson equation for the jumps across the borders.
    """
    n_y, n_x = values.shape
    jumps = np.zeros_like(values)
    across, along = values[-1] - values[0], values[:, -1] - values[:, 0]
    jumps[0] += across
    jumps[-1] -= across
    jumps[:, 0] += along
    jumps[:, -1] -= along
    cosines = 2 * np.cos(2 * np.pi * fft.fftfreq(n_y))[:, None] + 2 * np.cos(2 * np.pi * fft.rfftfreq(n_x)) - 4
    cosines[0, 0] = 1.0
    rest = fft.rfft2(jumps, workers=-1) / cosines
    rest[0, 0] = 0.0
    return fft.rfft2(values, workers=-1) - rest, fft.irfft2(rest, s=values.shape, workers=-1)


def frequencies(shape: tuple[int, int]) -> NDArray:
    """Distances from the origin, cycles per px, of the frequencies of ``rfft2``."""
    return np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))


def radial_background(power: NDArray, shape: tuple[int, int]) -> NDArray:
    """What the power of an image would be without what repeats: the mean of noise at each distance from the origin."""
    distance = frequencies(shape)
    width = 1.0 / min(max(shape), 2 * min(shape))
    # without the first, which is the image's sum
    ring = np.floor(distance / width).astype(int).ravel()[1:]
    order = np.argsort(ring, kind="stable")
    known, first, count = np.unique(ring[order], return_index=True, return_counts=True)
    medians = np.array([np.median(part) for part in np.split(power.ravel()[1:][order], first[1:])]) / MEDIAN
    # rings near the origin hold few frequencies: each counts by how many it holds
    smooth = ndimage.gaussian_filter1d(medians * count, RINGS) / ndimage.gaussian_filter1d(count * 1.0, RINGS)
    return np.interp(distance, (known + 0.5) * width, smooth)


def information_limit(values: NDArray) -> float:
    """The largest frequency, cycles per px, at which an image has a Bragg peak; 0 without one."""
    spectrum, _ = periodic_part(values)
    power = np.abs(spectrum) ** 2
    # streaks have their power where the frequency along x is small, whatever it is along y
    streaks = np.median(power, axis=0) / MEDIAN
    peaks = power > BRAGG * np.maximum(radial_background(power, values.shape), streaks)
    peaks[:, :2] = False
    return float(frequencies(values.shape)[peaks].max(initial=0.0))
