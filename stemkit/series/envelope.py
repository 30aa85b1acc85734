"""The structure of frames that is not periodic, below the frequencies of the lattice, which distinguishes its cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, signal

from stemkit.series.overlap import MIN_OVERLAP, energies_of_overlaps

__all__ = ["Envelopes", "Spectrum", "mean_spectrum", "tapered", "weights_among"]

#: Width of the filter that smooths the mean power spectrum, in coefficients (chosen).
SPECTRUM_SMOOTHING = 0.7
#: Highest frequency that is used, fraction of that of the first reflection (chosen).
BASEBAND = 0.75


@dataclass(frozen=True)
class _Constants:
    """Constants of the comparison of envelopes."""

    #: Fraction of a side over which a frame is tapered at its borders (chosen).
    tapered: float = 0.1
    #: Frequencies beyond this radius, cycles per px, show the power of the noise (chosen: columns of a sigma above 1 px
    #: have less than 5 % of their amplitude there).
    noise_frequency: float = 0.4
    #: Frequencies along y beyond this, cycles per px, show the power of the streaks, which are independent from row to
    #: row (chosen).
    streak_frequency: float = 0.25
    #: Edge of the square of coefficients with whose median a coefficient is compared (chosen).
    surroundings: int = 15
    #: Factor by which the power of a coefficient of a lattice exceeds this median (chosen).
    lattice: float = 6.0
    #: Fewest periods of a lattice along the shorter side (chosen).
    slowest_lattice: int = 5
    #: Least power times squared frequency of a reflection, fraction of the largest (chosen).
    strong: float = 0.1
    #: Highest frequency that is used, cycles per px (chosen).
    highest: float = 0.1
    #: Power of the signal that may be an error, as a fraction of that of the noise (chosen).
    min_signal: float = 0.02
    #: Largest fraction of signal in a coefficient (chosen: the brightness of frames may vary slowly, and single columns
    #: may move or vanish; with 0.95 frames of a particle on which one atom hops are left out).
    most_coherent: float = 0.8
    #: Least power of the noise, as a fraction of the mean power (chosen: frames may be free of noise).
    min_noise: float = 1e-6
    #: Sigma of the Gaussian filter before frames are thinned, in the pixels of the result (chosen).
    thinned_sigma: float = 0.6
    #: Highest frequency of thinned frames, cycles per such pixel (chosen: reflections beyond are suppressed by a factor
    #: of 100 before they fold back).
    thinned_frequency: float = 0.27
    #: Longest side of thinned frames, px (chosen).
    longest: int = 128
    #: Least length of their shorter side, px (chosen).
    shortest: int = 24
    #: Ranges of the coherence whose coefficients have the same weight among several frames (chosen).
    classes: int = 8


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Spectrum:
    """Mean power of tapered frames on the half plane of a real Fourier transform, per pixel.

    Parameters
    ----------
    power : ndarray of shape (n_y, n_x // 2 + 1)
        Smoothed power.
    noise : float
        Power of white noise.
    noise_x : ndarray of shape (n_x // 2 + 1,)
        Power of white noise and of streaks, by the frequency along x.
    first : float
        Frequency of the first reflection of a lattice, cycles per px; 1 without a lattice.
    signal : ndarray
        Power of the structure that is not periodic, by the spatial frequency in steps of ``1 / min(shape)``.
    shape : (int, int)
    n_frames : int
    """

    power: NDArray[np.float64]
    noise: float
    noise_x: NDArray[np.float64]
    first: float
    signal: NDArray[np.float64]
    shape: tuple[int, int]
    n_frames: int


def tapered(frame: NDArray) -> NDArray[np.float64]:
    """A frame without its mean, multiplied by a window that decreases to 0 at the borders."""
    window = _window((frame.shape[0], frame.shape[1]))
    work = np.asarray(frame, dtype=np.float64)
    return np.asarray((work - (work * window).sum() / window.sum()) * window)


def _window(shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.outer(*(signal.windows.tukey(n, 2 * CONSTANTS.tapered) for n in shape))


def mean_spectrum(frames: Sequence[NDArray]) -> Spectrum:
    """Power of the noise, the lattice, and the other structure of frames of one size."""
    shape = (frames[0].shape[0], frames[0].shape[1])
    raw: NDArray[np.float64] = np.zeros((shape[0], shape[1] // 2 + 1))
    for frame in frames:
        raw += np.abs(fft.rfft2(tapered(frame))) ** 2
    raw /= len(frames) * (_window(shape) ** 2).sum()
    power = ndimage.gaussian_filter(raw, SPECTRUM_SMOOTHING, mode=("wrap", "nearest"))
    along_y = np.abs(fft.fftfreq(shape[0]))
    radius = np.hypot(along_y[:, None], fft.rfftfreq(shape[1]))
    floor = CONSTANTS.min_noise * float(power.mean())
    noise = max(float(np.median(power[radius > CONSTANTS.noise_frequency])), floor)
    noise_x = np.maximum(np.median(raw[along_y > CONSTANTS.streak_frequency], axis=0) / np.log(2), noise)
    periodic = power > CONSTANTS.lattice * ndimage.median_filter(power, CONSTANTS.surroundings)
    strength = np.where(periodic & (radius > CONSTANTS.slowest_lattice / min(shape)), power * radius**2, 0.0)
    first = float(radius[strength > CONSTANTS.strong * strength.max()].min()) if strength.any() else 1.0
    used = ~periodic | (radius < BASEBAND * first / 2)
    rings = np.rint(radius * min(shape)).astype(int).ravel()
    total = np.bincount(rings, np.where(used, raw - (1 + CONSTANTS.min_signal) * noise_x, 0.0).ravel())
    signal_ = np.clip(total / np.maximum(np.bincount(rings, used.ravel()), 1), 0.0, None)
    signal_[0] = signal_[1]
    return Spectrum(power, noise, noise_x, first, signal_, shape, len(frames))


@dataclass(frozen=True)
class Envelopes:
    """Frames without their lattice, on fewer pixels, and the log-likelihood that two of them show the same area.

    Parameters
    ----------
    frames : list of ndarray
        Filtered, every ``factor``-th pixel.
    factor : int
    spectrum : Spectrum
    """

    frames: list[NDArray[np.float64]]
    factor: int
    spectrum: Spectrum
    _windows: dict[tuple[int, int], _Windowed] = field(default_factory=dict, repr=False, compare=False)
    _fields: dict[int, tuple[NDArray, NDArray]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, frames: Sequence[NDArray], spectrum: Spectrum) -> Envelopes:
        """The envelopes of frames of one size."""
        band = min(BASEBAND * spectrum.first, CONSTANTS.highest)
        shorter, longer = min(spectrum.shape), max(spectrum.shape)
        factor = max(int(CONSTANTS.thinned_frequency / band), -(-longer // CONSTANTS.longest))
        factor = max(1, min(factor, shorter // CONSTANTS.shortest))
        sigma = CONSTANTS.thinned_sigma * factor if factor > 1 else 0.0
        thin = []
        for frame in frames:
            smooth = ndimage.gaussian_filter(np.asarray(frame, dtype=np.float64), sigma, mode="nearest")
            thin.append(smooth[::factor, ::factor])
        return cls(thin, factor, spectrum)

    def log_likelihood(self, first: int, second: int, shift: tuple[float, float], n_frames: float = 2) -> float:
        """Log-likelihood that frame ``second`` shows at ``p + shift`` what ``first`` shows at p.

        It is relative to that of two unrelated frames.

        Parameters
        ----------
        first, second : int
        shift : (float, float)
            Along y and x, px.
        n_frames : float
            Number of frames that show the same area. The sum over all of their pairs is then the log-likelihood of all.

        Notes
        -----
        In their overlap, the Fourier coefficients A and B of both are normal, of the power S + N, with the signal S in
        common. With the coherence ``r = S / (S + N)``, in units of this power and with the phase of the shift in B, a
        coefficient contributes ``-log(1 - r^2) - r^2 / (1 - r^2) (|A|^2 + |B|^2) + 2 r / (1 - r^2) Re A* B``. The
        cross term of n frames has the factor ``S / (N (n S + N))`` instead of ``S / (N (2 S + N))``.
        """
        return float(self.parts(first, second, shift) @ weights_among(n_frames))

    def parts(self, first: int, second: int, shift: tuple[float, float]) -> NDArray[np.float64]:
        """The log-likelihood for two frames, by classes of the coherence ``(CONSTANTS.classes,)``."""
        thin = np.array(shift, dtype=float) / self.factor
        whole = np.rint(thin).astype(int)
        ours, theirs = self._overlap(whole)
        a, b = self.frames[first][ours], self.frames[second][theirs]
        if min(a.shape) < 2 or a.size < MIN_OVERLAP * self.frames[first].size:
            return np.zeros(CONSTANTS.classes)
        return self._windowed((a.shape[0], a.shape[1])).log_likelihoods(a, b, thin - whole)

    def guide(self, first: int, second: int, shifts: NDArray) -> NDArray[np.float64]:
        """Approximate log-likelihoods of shifts ``(n, 2)``, px, from one correlation of both frames.

        Frames are filtered before they are cropped to the overlap, so that the result is inexact at its borders.
        """
        shape = self.frames[first].shape
        reach = [n - 2 for n in shape]
        padded = tuple(fft.next_fast_len(2 * n, real=True) for n in shape)
        y, x = (np.arange(-r, r + 1) for r in reach)
        (of_energy, ours), (of_other, theirs) = self._field(first), self._field(second)
        cross = fft.irfft2(fft.rfft2(ours, padded).conj() * fft.rfft2(theirs, padded), padded)
        energy = energies_of_overlaps(of_energy, -y, -x) + energies_of_overlaps(of_other, y, x)
        overlap = np.outer(shape[0] - np.abs(y), shape[1] - np.abs(x))
        values = self._mirrored.constant * overlap - energy / 2 + cross[np.ix_(y % padded[0], x % padded[1])]
        values = np.where(overlap > MIN_OVERLAP * shape[0] * shape[1], values, 0.0)
        at = np.asarray(shifts, dtype=float).T / self.factor + np.array(reach)[:, None]
        return np.asarray(ndimage.map_coordinates(values, at, order=1))

    @property
    def _mirrored(self) -> _Windowed:
        """Weights for frames that are continued by their mirror images."""
        n_y, n_x = self.frames[0].shape
        return self._windowed((2 * n_y, 2 * n_x))

    def _field(self, frame: int) -> tuple[NDArray, NDArray]:
        """A frame, filtered for the energy and for the cross term of the log-likelihood."""
        if frame not in self._fields:
            self._fields[frame] = self._mirrored.filtered(self.frames[frame])
        return self._fields[frame]

    def _overlap(self, whole: NDArray) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        ours, theirs = [], []
        for step, n in zip(whole.tolist(), self.frames[0].shape, strict=True):
            ours.append(slice(max(0, -step), max(0, min(n, n - step))))
            theirs.append(slice(max(0, step), max(0, min(n, n + step))))
        return (ours[0], ours[1]), (theirs[0], theirs[1])

    def _windowed(self, shape: tuple[int, int]) -> _Windowed:
        if shape not in self._windows:
            self._windows[shape] = _Windowed.of(shape, self.factor, self.spectrum)
        return self._windows[shape]


def weights_among(n_frames: NDArray | float) -> NDArray[np.float64]:
    """Factors ``(..., CONSTANTS.classes)`` of the log-likelihood of a pair among n frames of the same area."""
    r = CONSTANTS.most_coherent * (np.arange(CONSTANTS.classes) + 0.5) / CONSTANTS.classes
    return np.asarray((1 + r) / (1 + (np.asarray(n_frames, dtype=float)[..., None] - 1) * r))


@dataclass(frozen=True)
class _LikelihoodTerms:
    """Coefficients with signal: which, the class of each, and the constant and factors of energy and cross term."""

    used: NDArray[np.bool_]
    of_class: NDArray[np.intp]
    constant: NDArray[np.float64]
    of_energy: NDArray[np.float64]
    of_cross: NDArray[np.float64]


@dataclass(frozen=True)
class _Windowed:
    """Weights of the Fourier coefficients of thinned frames, or parts of them, of one shape ``(n_y, n_x)``.

    Parameters
    ----------
    window : ndarray of shape (n_y, n_x)
    coherence, power, count : ndarray of shape (n_y, n_x // 2 + 1)
        Fraction of signal in a coefficient, its mean power, and the number of independent coefficients it counts for.
    frequency : (ndarray, ndarray)
        Along y and x, cycles per thinned pixel.
    """

    window: NDArray[np.float64]
    coherence: NDArray[np.float64]
    power: NDArray[np.float64]
    count: NDArray[np.float64]
    frequency: tuple[NDArray[np.float64], NDArray[np.float64]]

    @classmethod
    def of(cls, shape: tuple[int, int], factor: int, spectrum: Spectrum) -> _Windowed:
        window = _window(shape)
        y, x = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
        radius = np.hypot(y, x) / factor
        common = np.interp(radius, np.arange(len(spectrum.signal)) / min(spectrum.shape), spectrum.signal)
        noise = np.interp(x / factor, fft.rfftfreq(spectrum.shape[1]), spectrum.noise_x) + np.zeros(radius.shape)
        coherence = np.minimum(common / (common + noise), CONSTANTS.most_coherent)
        coherence[radius > min(BASEBAND * spectrum.first, CONSTANTS.highest)] = 0.0
        coherence[0, 0] = 0.0
        sigma = CONSTANTS.thinned_sigma if factor > 1 else 0.0
        passed = np.exp(-2 * (np.pi * factor * radius * sigma) ** 2)
        power = (common + noise) * passed**2 * (window**2).sum() / factor**2
        # coefficients of the half plane count twice, but for those on its borders; tapered pixels count less
        count = np.where((x == 0) | (2 * x == 1), 0.5, 1.0) + np.zeros(radius.shape)
        count *= (window**2).sum() ** 2 / (window**4).sum() / window.size
        return cls(window, coherence, power, count, (y, x))

    @cached_property
    def _terms(self) -> _LikelihoodTerms:
        used = self.coherence > 0
        r, count = self.coherence[used], self.count[used]
        of_class = np.minimum((r / CONSTANTS.most_coherent * CONSTANTS.classes).astype(int), CONSTANTS.classes - 1)
        energy = count * r**2 / (1 - r**2) / self.power[used]
        return _LikelihoodTerms(used, of_class, -count * np.log1p(-(r**2)), energy, 2 * energy / r)

    def log_likelihoods(self, a: NDArray, b: NDArray, shift: NDArray) -> NDArray[np.float64]:
        """See :meth:`Envelopes.parts`; ``shift`` in thinned pixels."""
        terms = self._terms
        both = np.stack([a, b])
        mean = (both * self.window).sum((1, 2), keepdims=True) / self.window.sum()
        first, second = fft.rfft2((both - mean) * self.window)[:, terms.used]
        y, x = (np.exp(2j * np.pi * f * s) for f, s in zip(self.frequency, shift, strict=True))
        cross = (first.conj() * second * (y * x)[terms.used]).real
        energy = np.abs(first) ** 2 + np.abs(second) ** 2
        values = terms.constant - terms.of_energy * energy + terms.of_cross * cross
        return np.asarray(np.bincount(terms.of_class, values, CONSTANTS.classes), dtype=np.float64)

    def filtered(self, frame: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A frame of a quarter of the shape, filtered for both terms, each over pixels instead of coefficients."""
        n_y, n_x = frame.shape
        r, density = self.coherence, self.power / (self.window**2).sum()
        spectrum = fft.rfft2(np.pad(frame - frame.mean(), ((0, n_y), (0, n_x)), mode="symmetric"))
        root = np.sqrt(r / ((1 - r**2) * density))
        parts = [fft.irfft2(spectrum * one, self.window.shape)[:n_y, :n_x] for one in (root * np.sqrt(r), root)]
        return np.asarray(parts[0], dtype=np.float32), np.asarray(parts[1], dtype=np.float32)

    @property
    def constant(self) -> float:
        """The constant of the log-likelihood, per pixel."""
        return float(self._terms.constant.sum() / self.count.max() / self.window.size)
