"""Displacements of whole frames: candidates for each pair, a consistent choice among them, and least squares."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stemkit.series.correlation import PairCorrelation, Spectra, coherence_filters, looked_up

__all__ = ["RigidShifts", "rigid_shifts"]


@dataclass(frozen=True)
class RigidConstants:
    """Constants of the alignment of whole frames."""

    #: Largest shift between two frames by default, as a fraction of each side (chosen).
    max_shift: float = 0.5
    #: Frames are averaged over squares of pixels until their shorter side is at most this, px (chosen).
    largest_side: int = 512
    #: Maxima of the correlation of a pair that are followed (chosen).
    candidates: int = 12
    #: Consistent sets of shifts that are followed (chosen).
    hypotheses: int = 48
    #: Pairs of frames up to this distance in the series are correlated, and those at powers of two beyond (chosen).
    all_lags: int = 8
    #: Fraction of the gain of all structure that counts in addition to that of the structure that is not periodic
    #: (chosen: a lattice has the same gain one cell on, but for errors that its model does not have).
    lattice: float = 0.005
    #: Gain of the log-likelihood that a frame must have with the others to be placed (derived: the largest of 1e6
    #: shifts of noise has about log(1e6) = 14).
    significant: float = 20.0
    #: Standard deviation of the shift between consecutive frames, as a fraction of the shorter side (chosen): it
    #: decides where nothing else does.
    usual_shift: float = 0.1
    #: Residual, px, above which a pair is an outlier of the least squares, and rounds of reweighting (chosen).
    outlier: float = 1.0
    rounds: int = 10
    #: A frame whose gain per partner is below this fraction of the median does not match the others (chosen).
    outlying: float = 0.1


CONSTANTS = RigidConstants()


@dataclass(frozen=True)
class RigidShifts:
    """Where the frames lie.

    Parameters
    ----------
    shifts : ndarray of shape (n_frames, 2)
        Pixel p of frame f shows what is at ``p + shifts[f]``, px; NaN for frames that match no other.
    correlation : ndarray of shape (n_frames,)
        Median of the correlations with the other frames at these shifts.
    rejected : dict
        Reason, by frame.
    """

    shifts: NDArray[np.float64]
    correlation: NDArray[np.float64]
    rejected: dict[int, str] = field(default_factory=dict)


def rigid_shifts(frames: list[NDArray], max_shift: float | None = None) -> RigidShifts:
    """Align whole frames.

    Frames are filtered so that every Fourier coefficient counts by its ratio of signal to noise
    (:func:`~stemkit.series.correlation.coherence_filters`) and correlated in pairs, near ones in the series before
    distant ones. A lattice has many maxima: several are kept for each pair, and of the sets of shifts that are
    consistent the one with the highest sum of log-likelihoods over all pairs is chosen. The final shifts are least
    squares over all pairs, with the outliers left out.

    Parameters
    ----------
    frames : list of ndarray of shape (n_y, n_x)
    max_shift : float, optional
        Largest shift between consecutive frames, px; by default half of each side.
    """
    factor = max(1, -(-min(frames[0].shape) // CONSTANTS.largest_side))
    small = [_binned(frame, factor) for frame in frames]
    shape = small[0].shape
    limit = [CONSTANTS.max_shift * n if max_shift is None else max_shift / factor for n in shape]
    y, x = (max(1, min(int(np.ceil(r)), n - 2)) for r, n in zip(limit, shape, strict=True))
    reach = y, x
    filters = coherence_filters(small)
    spectra = [(Spectra(filters[0](frame), reach), Spectra(filters[1](frame), reach)) for frame in small]
    pairs = _Pairs(spectra, shape, (filters[0].independent, filters[1].independent))
    shifts, rejected = _placed(pairs, CONSTANTS.usual_shift * min(shape))
    shifts, correlation, gain = _least_squares(pairs, shifts)
    rejected |= _outlying(gain, rejected)
    shifts[list(rejected)] = np.nan
    return RigidShifts(factor * (shifts - np.nanmean(shifts, axis=0)), correlation, rejected)


def _binned(frame: NDArray, factor: int) -> NDArray[np.float64]:
    if factor == 1:
        return np.asarray(frame, dtype=np.float64)
    n_y, n_x = (n // factor * factor for n in frame.shape)
    blocks = frame[:n_y, :n_x].reshape(n_y // factor, factor, n_x // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64))


@dataclass(frozen=True)
class _Pairs:
    spectra: list[tuple[Spectra, Spectra]]
    shape: tuple[int, int]
    independent: tuple[float, float]

    def __len__(self) -> int:
        return len(self.spectra)

    def of(self, first: int, second: int) -> PairCorrelation:
        return PairCorrelation.of(self.spectra[first], self.spectra[second], self.shape, self.independent)

    def before(self, frame: int) -> list[int]:
        """Frames that this one is compared with, the nearest first."""
        lags = list(range(1, CONSTANTS.all_lags + 1)) + [2**k for k in range(4, 20)]
        return [frame - lag for lag in lags if frame - lag >= 0]


@dataclass(frozen=True)
class _Hypothesis:
    places: tuple[tuple[float, float] | None, ...]
    score: float

    def last(self) -> list[int]:
        """The placed frames, the latest first."""
        return [i for i in reversed(range(len(self.places))) if self.places[i] is not None]


def _placed(pairs: _Pairs, usual: float) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Shifts of the frames, one after the other: a beam search."""
    best = [_Hypothesis(((0.0, 0.0),), 0.0)]
    for frame in range(1, len(pairs)):
        maps = {other: pairs.of(other, frame) for other in pairs.before(frame)}
        best = _extended(best, frame, maps, usual)
    chosen = best[0]
    n_placed = len(chosen.last())
    if chosen.places[0] is not None and n_placed <= len(pairs) // 2 and n_placed < len(pairs):
        # the first frame may be the one that does not match
        chosen = _without_first(pairs, usual, chosen)
    shifts = np.array([(np.nan, np.nan) if p is None else p for p in chosen.places])
    reason = "it shows nothing that the other frames show"
    return shifts, {i: reason for i, place in enumerate(chosen.places) if place is None}


def _without_first(pairs: _Pairs, usual: float, other: _Hypothesis) -> _Hypothesis:
    if len(pairs) < 3:
        return other
    rest = _Pairs(pairs.spectra[1:], pairs.shape, pairs.independent)
    shifts, _ = _placed(rest, usual)
    places = (None, *(None if np.isnan(s[0]) else (float(s[0]), float(s[1])) for s in shifts))
    found = _Hypothesis(places, 0.0)
    return found if len(found.last()) > len(other.last()) else other


def _extended(
    hypotheses: list[_Hypothesis], frame: int, maps: dict[int, PairCorrelation], usual: float
) -> list[_Hypothesis]:
    """Hypotheses with one more frame, the best first."""
    found: dict[tuple, _Hypothesis] = {}
    proposed = {other: pair.candidates(CONSTANTS.candidates) for other, pair in maps.items()}
    for hypothesis in hypotheses:
        partners = [i for i in hypothesis.last() if i in maps]
        known = {i: np.array(hypothesis.places[i]) for i in partners}
        tried = np.concatenate([known[i] - proposed[i] for i in partners[:2]])
        gains = _gains(tried, known, maps, usual)
        candidates = [(None, 0.0), *(((float(p[0]), float(p[1])), float(g)) for p, g in zip(tried, gains, strict=True))]
        for place, gain in candidates:
            places = (*hypothesis.places, place)
            key = tuple(None if p is None else (round(p[0] / 2), round(p[1] / 2)) for p in places)
            if key not in found or found[key].score < hypothesis.score + gain:
                found[key] = _Hypothesis(places, hypothesis.score + gain)
    return sorted(found.values(), key=lambda h: -h.score)[: CONSTANTS.hypotheses]


def _gains(
    places: NDArray, known: dict[int, NDArray], maps: dict[int, PairCorrelation], usual: float
) -> NDArray[np.float64]:
    """Log-likelihoods of places of a frame, summed over its partners, over that of not being placed."""
    whole, other = np.zeros(len(places)), np.zeros(len(places))
    for i, place in known.items():
        whole += looked_up(maps[i].gain, place - places, maps[i].reach)
        other += looked_up(maps[i].other, place - places, maps[i].reach)
    step = np.hypot(*(places - known[next(iter(known))]).T) / usual
    gain = other + CONSTANTS.lattice * whole - step**2 / 2
    matched = whole + other > CONSTANTS.significant * max(1, len(known) // 2)
    return np.where(matched, np.maximum(gain, 1e-3), -np.inf)


def _least_squares(pairs: _Pairs, shifts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray]:
    """Shifts, median correlations, and mean gains per pair of each frame."""
    n = len(pairs)
    placed = np.flatnonzero(np.isfinite(shifts[:, 0]))
    rows = []
    for j in placed:
        for i in pairs.before(int(j)):
            if np.isfinite(shifts[i, 0]):
                gain, c, at = pairs.of(i, int(j)).near(shifts[i] - shifts[j])
                if gain > 0:
                    rows.append((i, j, gain, c, at[0], at[1]))
    if not rows:
        return shifts, np.zeros(n), np.zeros(n)
    i, j, gain, c, y, x = np.array(rows).T
    i, j, measured = i.astype(int), j.astype(int), np.stack([y, x], axis=1)
    design = np.zeros((len(i) + 1, n))
    design[np.arange(len(i)), i], design[np.arange(len(i)), j] = 1.0, -1.0
    design[-1, placed] = 1.0
    weight, out = gain.copy(), shifts.copy()
    for _ in range(CONSTANTS.rounds):
        root = np.sqrt(np.r_[weight, weight.mean()])[:, None]
        solution = np.linalg.lstsq(root * design[:, placed], root * np.r_[measured, [[0, 0]]], rcond=None)[0]
        out[placed] = solution
        residual = np.hypot(*(measured - (out[i] - out[j])).T)
        weight = gain / (1 + (residual / CONSTANTS.outlier) ** 2) ** 2
    good = residual < CONSTANTS.outlier
    correlation, mean_gain = np.zeros(n), np.zeros(n)
    for k in placed:
        own = (i == k) | (j == k)
        correlation[k] = np.median(c[own]) if own.any() else 0.0
        mean_gain[k] = float((gain * good)[own].mean()) if own.any() else 0.0
    return out, correlation, mean_gain


def _outlying(gain: NDArray, rejected: dict[int, str]) -> dict[int, str]:
    """Frames that match the others far worse than usual."""
    placed = [k for k in range(len(gain)) if k not in rejected]
    usual = float(np.median(gain[placed])) if placed else 0.0
    return {
        k: f"it matches the others far worse than usual (log-likelihood {gain[k]:.0f}, median {usual:.0f})"
        for k in placed
        if gain[k] < CONSTANTS.outlying * usual and len(placed) > 2
    }
