"""Spectrum of an image: periodic part, isotropic background, information limit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

__all__ = ["frequencies", "information_limit", "periodic_part", "radial_background"]

#: Ratio of median to mean of an exponential distribution, which the power of white noise has (derived).
MEDIAN = np.log(2.0)
#: Least ratio of a Bragg peak's power to the background; noise exceeds it with probability e^-15 (chosen).
BRAGG = 15.0
#: Standard deviation of the Gaussian filter that smooths the radial background, rings (chosen).
RINGS = 2.0


def periodic_part(values: NDArray) -> tuple[NDArray, NDArray]:
    """Spectrum (``rfft2``) of an image's periodic component, and the smooth component.

    Moisan's decomposition: the smooth component solves the discrete Poisson equation for the differences between
    opposite borders.
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
    """Magnitudes of the frequencies of ``rfft2``, cycles per px."""
    return np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))


def radial_background(power: NDArray, shape: tuple[int, int]) -> NDArray:
    """Isotropic background of a power spectrum, without Bragg peaks: mean power at each magnitude of frequency."""
    distance = frequencies(shape)
    width = 1.0 / min(max(shape), 2 * min(shape))
    # the first frequency is the image's sum
    ring = np.floor(distance / width).astype(int).ravel()[1:]
    order = np.argsort(ring, kind="stable")
    rings, first, count = np.unique(ring[order], return_index=True, return_counts=True)
    medians = np.array([np.median(part) for part in np.split(power.ravel()[1:][order], first[1:])]) / MEDIAN
    # rings are weighted by their numbers of frequencies, since those near the origin contain few
    smooth = ndimage.gaussian_filter1d(medians * count, RINGS) / ndimage.gaussian_filter1d(count * 1.0, RINGS)
    return np.interp(distance, (rings + 0.5) * width, smooth)


def information_limit(values: NDArray) -> float:
    """Largest frequency of a Bragg peak, cycles per px; 0 without peaks."""
    spectrum, _ = periodic_part(values)
    power = np.abs(spectrum) ** 2
    # the power of streaks is at low frequencies along x and all frequencies along y
    streaks = np.median(power, axis=0) / MEDIAN
    peaks = power > BRAGG * np.maximum(radial_background(power, values.shape), streaks)
    peaks[:, :2] = False
    return float(frequencies(values.shape)[peaks].max(initial=0.0))
