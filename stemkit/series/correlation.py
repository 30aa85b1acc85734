"""Correlation of pairs of frames over their overlap, after a filter that gives all signal the same weight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

from stemkit.parabola import parabola_vertex

__all__ = ["CoherenceFilter", "PairCorrelation", "Spectra", "coherence_filters", "looked_up"]

#: Fraction of a side over which a frame is tapered at its borders before it is filtered (chosen).
TAPERED = 0.1
#: Width of the filter that smooths the mean power spectrum, in coefficients (chosen).
SPECTRUM_SMOOTHING = 0.7
#: Frequencies beyond this radius, cycles per px, show the power of the noise (chosen: columns of a sigma above 1 px
#: have less than 5 % of their amplitude there).
NOISE_FREQUENCY = 0.4
#: Rings of equal width in which the power is averaged, and fraction of signal that is taken for error (chosen).
N_RINGS, LEAST_SIGNAL = 64, 0.02
#: A lattice repeats at least this number of times along a side; its reflections have at least this fraction of the
#: largest power times squared frequency; the structure that is not periodic is looked for up to this fraction of the
#: frequency of the first of them (chosen).
SLOWEST_LATTICE, STRONG, BASEBAND = 5, 0.1, 0.75
#: Distance, px, within which the maximum of a pair confirms a shift (chosen: frames are sheared a little).
NEAR = 3
#: Smallest overlap of two frames, as a fraction of the area (chosen).
LEAST_OVERLAP = 0.2
#: A coefficient whose power exceeds the median of its surroundings, a square of this many coefficients, by this factor
#: belongs to a lattice (chosen).
SURROUNDINGS, LATTICE = 15, 6.0
#: Noise power that is assumed at least, as a fraction of the mean power (chosen): frames may be free of noise.
LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class CoherenceFilter:
    """Transfer function on the half plane of a real Fourier transform, and the power of filtered frames.

    ``independent`` is the number of independent coefficients that the filter lets pass, over that of the pixels.
    """

    transfer: NDArray[np.float64]
    independent: float

    def __call__(self, frame: NDArray) -> NDArray[np.float64]:
        """Filter a frame."""
        return np.asarray(fft.irfft2(fft.rfft2(_tapered(frame)) * self.transfer, frame.shape))


def coherence_filters(frames: list[NDArray]) -> tuple[CoherenceFilter, CoherenceFilter]:
    """Filters for the alignment of frames of one size: for all of the signal, and for that which is not periodic.

    The first is the filter ``sqrt(g / P)`` with the mean power P of the frames and the fraction ``g = 1 - N / P`` of
    signal in it, the smoothed coherence transform of [1]_. It gives every coefficient the weight of its signal relative
    to its noise, however strong it is. The power N of the noise is the median at high frequencies. The second is the
    same at frequencies below those of a lattice, where its cells differ.

    References
    ----------
    .. [1] C. H. Knapp and G. C. Carter, IEEE Trans. Acoust. Speech Signal Process. 24, 320 (1976),
       https://doi.org/10.1109/TASSP.1976.1162830
    """
    shape = frames[0].shape
    power = np.mean([np.abs(fft.rfft2(_tapered(frame))) ** 2 for frame in frames], axis=0)
    power = ndimage.gaussian_filter(power, SPECTRUM_SMOOTHING, mode=("wrap", "nearest"))
    radius = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    noise = max(float(np.median(power[radius > NOISE_FREQUENCY])), LEAST_NOISE * float(power.mean()))
    coherence = np.clip(1 - noise / np.maximum(power, 1e-300), 0.0, None)
    coherence[0, 0] = 0.0
    return _filter(coherence, power, shape), _filter(*_not_periodic(power, noise, radius), shape)


def _not_periodic(power: NDArray, noise: float, radius: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fraction of signal and power, by radius, of the frequencies below those of the lattice.

    There the displacements of the rows matter least, which spread the power of the lattice over its surroundings.
    """
    periodic = power > LATTICE * ndimage.median_filter(power, SURROUNDINGS)
    strength = np.where(periodic & (radius > SLOWEST_LATTICE / min(power.shape)), power * radius**2, 0.0)
    lattice = strength > STRONG * strength.max() if strength.any() else np.zeros(power.shape, dtype=bool)
    first = float(radius[lattice].min()) if lattice.any() else 1.0
    periodic &= radius > BASEBAND * first / 2
    bins = np.minimum((radius * 2 * N_RINGS).astype(int), N_RINGS)
    count = np.bincount(bins.ravel(), ~periodic.ravel(), N_RINGS + 1)
    mean = np.bincount(bins.ravel(), np.where(periodic, 0.0, power).ravel(), N_RINGS + 1) / np.maximum(count, 1)
    rings = mean[bins]
    coherence = np.clip(1 - LEAST_SIGNAL - noise / np.maximum(rings, 1e-300), 0.0, None)
    coherence[periodic | (radius > BASEBAND * first)] = 0.0
    coherence[:, 0] = 0.0  # streaks
    return coherence, np.maximum(power, rings)


def _filter(coherence: NDArray, power: NDArray, shape: tuple[int, int]) -> CoherenceFilter:
    # the half plane holds half of the coefficients
    independent = 2 * coherence.sum() ** 2 / max(float((coherence**2).sum()), 1e-300) / (shape[0] * shape[1])
    return CoherenceFilter(np.sqrt(coherence / np.maximum(power, 1e-300)), float(min(independent, 1.0)))


def _tapered(frame: NDArray) -> NDArray[np.float64]:
    window = np.outer(*(signal.windows.tukey(n, 2 * TAPERED) for n in frame.shape))
    work = np.asarray(frame, dtype=np.float64)
    return (work - work.mean()) * window


class Spectra:
    """Fourier transform of a filtered frame, padded by the largest shift, and its energy in every overlap."""

    def __init__(self, image: NDArray, reach: tuple[int, int]):
        self.reach = reach
        self.shape = tuple(fft.next_fast_len(n + r + 1, real=True) for n, r in zip(image.shape, reach, strict=True))
        self.of_image = fft.rfft2(image, self.shape).astype(np.complex64)
        y, x = (np.arange(-r, r + 1) for r in reach)
        self.ahead = _energies(image, y, x)
        self.behind = _energies(image, -y, -x)

    def with_(self, other: Spectra) -> NDArray[np.float64]:
        """Correlation over the overlap with the other frame at ``p + s``, for shifts s from -reach to reach."""
        values = fft.irfft2(other.of_image * self.of_image.conj(), self.shape)
        at = [np.arange(-r, r + 1) % n for r, n in zip(self.reach, self.shape, strict=True)]
        energy = self.behind * other.ahead
        floor = 1e-12 * max(float(energy.max()), 1e-300)
        return np.where(energy > floor, values[np.ix_(*at)] / np.sqrt(np.maximum(energy, floor)), 0.0)


def _energies(image: NDArray, y: NDArray, x: NDArray) -> NDArray[np.float64]:
    """Sum of squares of the pixels p + s that overlap with the pixels p, for each shift s."""
    n_y, n_x = image.shape
    total = np.pad(np.cumsum(np.cumsum(image**2, axis=0), axis=1), ((1, 0), (1, 0)))
    top, bottom = np.clip(y, 0, n_y), np.clip(n_y + y, 0, n_y)
    left, right = np.clip(x, 0, n_x), np.clip(n_x + x, 0, n_x)
    return total[np.ix_(bottom, right)] - total[np.ix_(top, right)] - total[np.ix_(bottom, left)] + total[
        np.ix_(top, left)
    ]  # fmt: skip


@dataclass(frozen=True)
class PairCorrelation:
    """Common structure of two frames at every shift from ``-reach`` to ``reach``.

    Parameters
    ----------
    gain : ndarray
        Log-likelihood ratio of common structure over none: for the correlation c of n independent pairs of normal
        numbers it is ``-n log(1 - c^2) / 2``.
    correlation : ndarray
    other : ndarray
        The gain from the structure that is not periodic, the largest within ``NEAR`` px.
    reach : (int, int)
    """

    gain: NDArray[np.float64]
    correlation: NDArray[np.float64]
    other: NDArray[np.float64]
    reach: tuple[int, int]

    @classmethod
    def of(
        cls,
        first: tuple[Spectra, Spectra],
        second: tuple[Spectra, Spectra],
        shape: tuple[int, int],
        independent: tuple[float, float],
    ) -> PairCorrelation:
        """From the transforms of two frames of this shape, by either filter."""
        reach = first[0].reach
        overlap = np.outer(*(n - np.abs(np.arange(-r, r + 1)) for n, r in zip(shape, reach, strict=True)))
        overlap[overlap < LEAST_OVERLAP * shape[0] * shape[1]] = 0
        maps = [a.with_(b) for a, b in zip(first, second, strict=True)]
        gains = [_gain(c, n * overlap) for c, n in zip(maps, independent, strict=True)]
        return cls(gains[0], maps[0], ndimage.maximum_filter(gains[1], 2 * NEAR + 1), reach)

    def candidates(self, most: int) -> NDArray[np.float64]:
        """Shifts ``(n, 2)`` of the highest local maxima by all structure, and by that which is not periodic."""
        is_peak = (ndimage.maximum_filter(self.gain, 5) == self.gain) & (self.gain > 0)
        at = np.argwhere(is_peak)
        orders = [np.argsort(-values[is_peak])[:most] for values in (self.gain, self.other)]
        order = np.unique(np.concatenate(orders))
        return at[order] - np.array(self.reach, dtype=float)

    def near(self, shift: NDArray) -> tuple[float, float, NDArray[np.float64]]:
        """Largest gain near a shift, the correlation there, and its place to a fraction of a pixel; zeros outside of
        the largest shift.
        """
        y, x = np.rint(shift).astype(int) + self.reach
        n_y, n_x = self.gain.shape
        if not (NEAR < y < n_y - NEAR - 1 and NEAR < x < n_x - NEAR - 1):
            return 0.0, 0.0, np.asarray(shift, dtype=float)
        part = self.gain[y - NEAR : y + NEAR + 1, x - NEAR : x + NEAR + 1]
        dy, dx = np.unravel_index(int(np.argmax(part)), part.shape)
        y, x = int(y - NEAR + dy), int(x - NEAR + dx)
        c = self.correlation
        step = [float(parabola_vertex(c[y - a, x - b], c[y, x], c[y + a, x + b])) for a, b in ((1, 0), (0, 1))]
        return float(part.max()), float(c[y, x]), np.array([y, x], dtype=float) - self.reach + np.array(step)


def _gain(correlation: NDArray, independent: NDArray) -> NDArray[np.float64]:
    return -0.5 * independent * np.log1p(-(np.clip(correlation, 0.0, 0.999999) ** 2))


def looked_up(values: NDArray, shifts: NDArray, reach: tuple[int, int]) -> NDArray[np.float64]:
    """Values at shifts ``(n, 2)``, rounded to pixels; 0 beyond the largest shift."""
    at = np.rint(shifts).astype(int) + reach
    inside = np.all((at >= 0) & (at < values.shape), axis=1)
    at = np.where(inside[:, None], at, 0)
    return np.where(inside, values[at[:, 0], at[:, 1]], 0.0)
