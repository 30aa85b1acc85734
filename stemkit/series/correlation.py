"""Correlation of pairs of frames over their overlap, after a filter that equalises the weight of the signal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.parabola import subpixel_step
from stemkit.series.envelope import SPECTRUM_SMOOTHING, Spectrum, tapered
from stemkit.series.overlap import MIN_OVERLAP, energies_of_overlaps

__all__ = ["CoherenceFilter", "PairCorrelation", "Spectra"]

#: Distance, px, within which the maximum of a pair confirms a shift (chosen: frames are slightly sheared).
NEAR = 3
#: Standard deviations by which the power of a coefficient with signal exceeds that of the noise (chosen).
SIGNIFICANT = 3.0
#: Maxima whose gain is below this fraction of the highest are no candidates (chosen: of 657 pairs of simulated frames
#: of 128 px the true shift of one crystal in a hundred has less than 0.1 of it).
MIN_GAIN = 0.03
#: Maxima of a pair that are kept, at most (chosen).
MAX_PEAKS = 1000


@dataclass(frozen=True)
class CoherenceFilter:
    """Transfer function on the half plane of a real Fourier transform.

    It is ``sqrt(g / P)`` with the mean power P of the frames, the power N of their noise, and the fraction
    ``g = 1 - N / P`` of signal, the smoothed coherence transform of [1]_: the weight of a coefficient depends on its
    ratio of signal to noise, but not on its strength.

    Parameters
    ----------
    transfer : ndarray of shape (n_y, n_x // 2 + 1)
    independent : float
        Number of independent coefficients that the filter transmits, divided by the number of pixels.

    References
    ----------
    .. [1] C. H. Knapp and G. C. Carter, IEEE Trans. Acoust. Speech Signal Process. 24, 320 (1976),
       https://doi.org/10.1109/TASSP.1976.1162830
    """

    transfer: NDArray[np.float64]
    independent: float

    @classmethod
    def of(cls, spectrum: Spectrum) -> CoherenceFilter:
        """The filter for frames of this spectrum."""
        # the many coefficients of noise whose power exceeds its mean by chance would outweigh the few of a lattice
        scatter = 1 / np.sqrt(spectrum.n_frames * 4 * np.pi * SPECTRUM_SMOOTHING**2)
        is_signal = spectrum.power > spectrum.noise * (1 + SIGNIFICANT * scatter)
        coherence = np.where(is_signal, 1 - spectrum.noise / np.maximum(spectrum.power, 1e-300), 0.0)
        coherence[0, 0] = 0.0
        # the half plane holds half of the coefficients
        size = spectrum.shape[0] * spectrum.shape[1]
        independent = 2 * coherence.sum() ** 2 / max(float((coherence**2).sum()), 1e-300) / size
        return cls(np.sqrt(coherence / np.maximum(spectrum.power, 1e-300)), float(min(independent, 1.0)))

    def __call__(self, frame: NDArray) -> NDArray[np.float32]:
        """Filter a frame."""
        return np.asarray(fft.irfft2(fft.rfft2(tapered(frame)) * self.transfer, frame.shape), dtype=np.float32)


class Spectra:
    """Fourier transform of a filtered frame, padded by the largest shift, and its energy in every overlap."""

    def __init__(self, image: NDArray, reach: tuple[int, int]):
        self.reach = reach
        self.shape = tuple(fft.next_fast_len(n + r + 1, real=True) for n, r in zip(image.shape, reach, strict=True))
        self.of_image = fft.rfft2(image, self.shape).astype(np.complex64)
        y, x = (np.arange(-r, r + 1) for r in reach)
        self.ahead = energies_of_overlaps(image, y, x)
        self.behind = energies_of_overlaps(image, -y, -x)

    def with_(self, other: Spectra) -> NDArray[np.float64]:
        """Correlation over the overlap with the other frame at ``p + s``, for shifts s from -reach to reach."""
        values = fft.irfft2(other.of_image * self.of_image.conj(), self.shape)
        at = [np.arange(-r, r + 1) % n for r, n in zip(self.reach, self.shape, strict=True)]
        energy = self.behind * other.ahead
        floor = 1e-12 * max(float(energy.max()), 1e-300)
        return np.where(energy > floor, values[np.ix_(*at)] / np.sqrt(np.maximum(energy, floor)), 0.0)


@dataclass(frozen=True)
class Peak:
    """A maximum of the gain, and its ``shift`` (y, x), px, with sub-pixel accuracy."""

    gain: float
    correlation: float
    shift: NDArray[np.float64]


@dataclass(frozen=True)
class PairCorrelation:
    """Common structure of two frames at every shift from ``-reach`` to ``reach``.

    Parameters
    ----------
    gain : ndarray of shape (2 reach_y + 1, 2 reach_x + 1)
        Log-likelihood ratio of common structure over none: for the correlation c of n independent pairs of normal
        numbers it is ``-n log(1 - c^2) / 2``.
    correlation : ndarray of the same shape
    reach : (int, int)
        Largest shift along y and x, px.
    """

    gain: NDArray[np.float64]
    correlation: NDArray[np.float64]
    reach: tuple[int, int]

    @classmethod
    def of(cls, first: Spectra, second: Spectra, shape: tuple[int, int], independent: float) -> PairCorrelation:
        """The correlation of two filtered frames of this shape, from their transforms."""
        reach = first.reach
        overlap = np.outer(*(n - np.abs(np.arange(-r, r + 1)) for n, r in zip(shape, reach, strict=True)))
        overlap[overlap < MIN_OVERLAP * shape[0] * shape[1]] = 0
        correlation = first.with_(second)
        gain = -0.5 * independent * overlap * np.log1p(-(np.clip(correlation, 0.0, 0.999999) ** 2))
        return cls(gain, correlation, reach)

    def peaks(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Shifts ``(n, 2)`` of local maxima, the highest first, and the logarithms of their gains over the highest."""
        is_peak = (ndimage.maximum_filter(self.gain, 5) == self.gain) & (self.gain > MIN_GAIN * self.gain.max())
        gain = self.gain[is_peak]
        order = np.argsort(-gain)[:MAX_PEAKS]
        shifts = np.argwhere(is_peak)[order] - np.array(self.reach)
        return shifts.astype(np.float32), np.log(gain[order] / self.gain.max(initial=1e-300)).astype(np.float32)

    def gains(self, shifts: NDArray) -> NDArray[np.float64]:
        """Largest gains near shifts ``(n, 2)``; 0 beyond the largest shift."""
        at = np.rint(shifts).astype(int) + self.reach
        inside = np.all((at >= 0) & (at < self.gain.shape), axis=1)
        at = np.where(inside[:, None], at, 0)
        return np.where(inside, self._largest_near[at[:, 0], at[:, 1]], 0.0)

    @cached_property
    def _largest_near(self) -> NDArray[np.float64]:
        return np.asarray(ndimage.maximum_filter(self.gain, 2 * NEAR + 1))

    def peak_near(self, shift: NDArray) -> Peak:
        """The largest gain near a shift; gain and correlation are 0 beyond the largest shift."""
        y, x = np.rint(shift).astype(int) + self.reach
        n_y, n_x = self.gain.shape
        if not (NEAR < y < n_y - NEAR - 1 and NEAR < x < n_x - NEAR - 1):
            return Peak(0.0, 0.0, np.asarray(shift, dtype=float))
        part = self.gain[y - NEAR : y + NEAR + 1, x - NEAR : x + NEAR + 1]
        dy, dx = np.unravel_index(int(np.argmax(part)), part.shape)
        y, x = int(y - NEAR + dy), int(x - NEAR + dx)
        place = np.array([y, x]) - self.reach + subpixel_step(self.correlation, y, x)
        return Peak(float(part.max()), float(self.correlation[y, x]), place)
