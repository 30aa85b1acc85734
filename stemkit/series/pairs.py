"""Pairs of frames: their correlation, candidates for their shift, and its log-likelihood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stemkit.series.correlation import CoherenceFilter, PairCorrelation, Spectra
from stemkit.series.envelope import LEAST_OVERLAP, Envelopes, mean_spectrum

__all__ = ["Pairs"]

#: Pairs of frames up to this distance in the series are correlated, and those at powers of two beyond (chosen).
ALL_LAGS = 8
#: Maxima of the correlation of a pair that are followed (chosen).
CANDIDATES = 12
#: Transforms of frames that are kept in memory (chosen: those of the frames that the next one is compared with).
KEPT = 16
#: Standard deviation of the shift between consecutive frames, fraction of the shorter side (chosen: it matters where
#: the correlation is ambiguous).
USUAL_SHIFT = 0.1
#: Scale of the change of this shift from one pair to the next, which has a Cauchy distribution, fraction of the shorter
#: side (chosen: it matters where the correlation is ambiguous).
USUAL_CHANGE = 0.02


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
        self._filtered = [whole(frame) for frame in frames]
        self.envelopes = Envelopes.of(frames, spectrum)
        # plain dictionaries: functools.lru_cache of methods would keep the frames until the garbage is collected
        self._spectra: dict[int, Spectra] = {}
        self._likelihoods: dict[tuple[int, int, int, int, int], float] = {}

    def __len__(self) -> int:
        return len(self._filtered)

    def correlation(self, first: int, second: int) -> PairCorrelation:
        """Of all structure, at every shift."""
        return PairCorrelation.of(self._transformed(first), self._transformed(second), self.shape, self.independent)

    def candidates(self, first: int, second: int, pair: PairCorrelation) -> NDArray[np.float64]:
        """Shifts ``(n, 2)`` of the pair that are followed."""
        return pair.candidates(CANDIDATES, lambda shifts: self.envelopes.guide(first, second, shifts))

    def likelihoods(self, first: int, second: int, shifts: NDArray, n_frames: int) -> NDArray[np.float64]:
        """Log-likelihoods of shifts ``(n, 2)`` by the structure that is not periodic, rounded to what it resolves."""
        step = max(1, self.envelopes.factor // 2)
        rounded = (step * np.rint(np.asarray(shifts) / step)).astype(int).tolist()
        out = []
        for y, x in rounded:
            key = (first, second, y, x, n_frames)
            if key not in self._likelihoods:
                self._likelihoods[key] = self.envelopes.log_likelihood(first, second, (y, x), n_frames)
            out.append(self._likelihoods[key])
        return np.array(out)

    def overlap(self, shifts: NDArray) -> NDArray[np.bool_]:
        """Whether two frames have enough in common at shifts ``(n, 2)``, px."""
        parts = np.clip(1 - np.abs(shifts) / np.array(self.shape), 0, 1)
        return np.asarray(parts.prod(axis=1) > LEAST_OVERLAP)

    def before(self, frame: int) -> list[int]:
        """Frames that this one is compared with, the nearest first."""
        lags = list(range(1, ALL_LAGS + 1)) + [2**k for k in range(4, 20)]
        return [frame - lag for lag in lags if frame - lag >= 0]

    def prior(self, steps: NDArray, before: NDArray | None = None) -> NDArray[np.float64]:
        """Log-probabilities of steps ``(n, 2)`` between consecutive frames, given the step before them, or 0."""
        side = min(self.shape)
        change = steps if before is None else steps - before
        out = -0.5 * (np.hypot(*steps.T) / (USUAL_SHIFT * side)) ** 2
        return np.asarray(out - np.log1p((np.hypot(*change.T) / (USUAL_CHANGE * side)) ** 2))

    def _transformed(self, frame: int) -> Spectra:
        spectra = self._spectra.pop(frame, None) or Spectra(self._filtered[frame], self.reach)
        self._spectra[frame] = spectra  # the last used is the last of the dictionary
        if len(self._spectra) > KEPT:
            del self._spectra[next(iter(self._spectra))]
        return spectra
