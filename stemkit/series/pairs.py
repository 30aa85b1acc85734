"""Pairs of frames: their correlation, candidates for their shift, and its log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stemkit.series.correlation import MIN_GAIN, CoherenceFilter, PairCorrelation, Spectra
from stemkit.series.envelope import Envelopes, mean_spectrum, weights_among
from stemkit.series.overlap import MIN_OVERLAP
from stemkit.series.vectors import vectors_of_spectrum

__all__ = ["Pairs"]

#: Distance, px, within which a maximum of a pair is that of a shift (chosen: frames are slightly sheared).
NEAR = 4.5


@dataclass(frozen=True)
class _Constants:
    """Constants of the comparison of pairs of frames."""

    #: Pairs of frames up to this distance in the series are correlated, and those at powers of two beyond (chosen).
    all_lags: int = 8
    #: Number of maxima of the correlation of a pair that become candidates (chosen).
    candidates: int = 12
    #: Number of transforms in memory (chosen: those of the frames with which the next one is compared).
    kept: int = 16
    #: Number of maxima from which they are selected, those with the highest approximate log-likelihood (chosen).
    guided: int = 40
    #: Weight of the log-likelihood of the structure that is not periodic (tuned on the pairs of 320 simulated series of
    #: ``benchmarks/series.py`` with 128 px: the largest likelihood of the true shifts).
    structure: float = 0.63
    #: Weight of the logarithm of the gain of all structure, relative to the highest of the pair (tuned on the same).
    lattice: float = 2.0
    #: Usual gain at the true shift, fraction of the highest (chosen: nine in ten pairs have more).
    usual_gain: float = 0.2
    #: Usual shift between the first frames, fraction of the shorter side: the scale of a broad distribution (chosen: it
    #: matters where the correlation is ambiguous).
    usual_shift: float = 0.1
    #: Scale of the change of this shift from one pair to the next, which has a Cauchy distribution, fraction of the
    #: shorter side (chosen: it matters where the correlation is ambiguous).
    usual_change: float = 0.02


CONSTANTS = _Constants()


class Pairs:
    """Pairs of frames of one size; correlations are computed when they are used.

    Parameters
    ----------
    frames : sequence of ndarray of shape (n_y, n_x)
    reach : (int, int)
        Largest shift, px.
    """

    def __init__(self, frames: Sequence[NDArray], reach: tuple[int, int]):
        self.spectrum = spectrum = mean_spectrum(frames)
        whole = CoherenceFilter.of(spectrum)
        self.shape, self.reach, self.independent = spectrum.shape, reach, whole.independent
        self.vectors = vectors_of_spectrum(spectrum)
        self._filtered = [whole(frame) for frame in frames]
        self.envelopes = Envelopes.of(frames, spectrum)
        # plain dictionaries: functools.lru_cache of methods would keep the frames until the garbage is collected
        self._spectra: dict[int, Spectra] = {}
        self._parts: dict[tuple[int, int, int, int], NDArray[np.float64]] = {}
        self._peaks: dict[tuple[int, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._candidates: dict[tuple[int, int], NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self._filtered)

    def correlation(self, first: int, second: int) -> PairCorrelation:
        """Correlation of all structure of a pair at every shift."""
        return PairCorrelation.of(self._transformed(first), self._transformed(second), self.shape, self.independent)

    def peaks(
        self, first: int, second: int, pair: PairCorrelation | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Maxima of the correlation of a pair, which is computed unless it is given."""
        if (first, second) not in self._peaks:
            self._peaks[first, second] = (self.correlation(first, second) if pair is None else pair).peaks()
        return self._peaks[first, second]

    def candidates(self, first: int, second: int) -> NDArray[np.float64]:
        """Shifts ``(n, 2)``, px, of the pair that the alignment considers."""
        if (first, second) not in self._candidates:
            self._candidates[first, second] = self._best_peaks(first, second)
        return self._candidates[first, second]

    def _best_peaks(self, first: int, second: int) -> NDArray[np.float64]:
        shifts, log_gain = self.peaks(first, second)
        if len(shifts) == 0:
            return np.zeros((0, 2))
        rated = CONSTANTS.structure * self.envelopes.guide(first, second, shifts) + CONSTANTS.lattice * log_gain
        chosen = np.union1d(np.argsort(-rated)[: CONSTANTS.guided], np.arange(min(CONSTANTS.candidates, len(shifts))))
        best = chosen[np.argsort(-self.log_likelihoods(first, second, shifts[chosen]))[: CONSTANTS.candidates]]
        return np.asarray(shifts[best], dtype=np.float64)

    def log_likelihoods(
        self, first: int, second: int, shifts: NDArray, n_frames: NDArray | float = 2.0
    ) -> NDArray[np.float64]:
        """Log-likelihoods of shifts ``(n, 2)`` of a pair among n frames that show the same area.

        They are weighted sums of those of the structure that is not periodic (:meth:`Envelopes.log_likelihood`) and of
        all structure, at the maximum of the correlation near the shift. The latter hardly distinguish the cells of a
        lattice: their gains also differ by the displacements of rows. The weights were calibrated together.
        """
        shifts = np.asarray(shifts, dtype=float).reshape(-1, 2)
        if len(shifts) == 0:
            return np.zeros(0)
        parts = np.stack([self._structure(first, second, shift) for shift in self._rounded(shifts)])
        structure = (parts * weights_among(n_frames)).sum(axis=-1)
        return np.asarray(
            CONSTANTS.structure * structure + CONSTANTS.lattice * 2 / n_frames * self._log_gain(first, second, shifts)
        )

    def _rounded(self, shifts: NDArray) -> list[tuple[int, int]]:
        """Shifts rounded to the resolution of the structure that is not periodic."""
        step = max(1, self.envelopes.factor // 2)
        return [(y, x) for y, x in (step * np.rint(shifts / step)).astype(int).tolist()]

    def _structure(self, first: int, second: int, shift: tuple[int, int]) -> NDArray[np.float64]:
        key = (first, second, *shift)
        if key not in self._parts:
            self._parts[key] = self.envelopes.parts(first, second, shift)
        return self._parts[key]

    def _log_gain(self, first: int, second: int, shifts: NDArray) -> NDArray[np.float64]:
        """Logarithms of the gains at shifts over the usual gain; 0 where the correlation is not known."""
        peaks, log_gain = self.peaks(first, second)
        if len(peaks) == 0:
            return np.zeros(len(shifts))
        distance = np.hypot(*(shifts[:, None] - peaks[None]).transpose(2, 0, 1))
        gain = np.where(distance < NEAR, log_gain, np.log(MIN_GAIN)).max(axis=1)
        known = np.all(np.abs(shifts) < np.array(self.reach), axis=1) & self.overlap(shifts)
        return np.where(known, gain - np.log(CONSTANTS.usual_gain), 0.0)

    def overlap(self, shifts: NDArray) -> NDArray[np.bool_]:
        """Whether two frames have enough in common at shifts ``(n, 2)``, px."""
        parts = np.clip(1 - np.abs(shifts) / np.array(self.shape), 0, 1)
        return np.asarray(parts.prod(axis=1) > MIN_OVERLAP)

    def before(self, frame: int) -> list[int]:
        """Frames that this one is compared with, the nearest first."""
        lags = list(range(1, CONSTANTS.all_lags + 1)) + [2**k for k in range(4, 20)]
        return [frame - lag for lag in lags if frame - lag >= 0]

    def prior(self, steps: NDArray, before: NDArray | None = None) -> NDArray[np.float64]:
        """Log-probabilities of steps ``(..., 2)`` between consecutive frames, given the step before them, if any."""
        side = min(self.shape)
        scale, change = (CONSTANTS.usual_shift, steps) if before is None else (CONSTANTS.usual_change, steps - before)
        return np.asarray(-np.log1p((np.hypot(change[..., 0], change[..., 1]) / (scale * side)) ** 2))

    def _transformed(self, frame: int) -> Spectra:
        spectra = self._spectra.pop(frame, None) or Spectra(self._filtered[frame], self.reach)
        self._spectra[frame] = spectra  # the last used is the last of the dictionary
        if len(self._spectra) > CONSTANTS.kept:
            del self._spectra[next(iter(self._spectra))]
        return spectra
