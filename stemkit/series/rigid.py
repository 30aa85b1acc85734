"""Displacements of whole frames: candidates for each pair, a consistent choice among them, and least squares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from stemkit.series.correlation import PairCorrelation
from stemkit.series.jumps import Ambiguity, without_jumps
from stemkit.series.overlap import frames_in_overlap
from stemkit.series.pairs import Pairs

__all__ = ["RigidShifts", "rigid_shifts"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the alignment of whole frames."""

    #: Largest shift between two frames by default, as a fraction of each side (chosen).
    max_shift: float = 0.5
    #: Frames are averaged over squares of pixels until their shorter side is at most this, px (chosen).
    max_side: int = 512
    #: Number of consistent sets of shifts in the beam search (chosen).
    hypotheses: int = 24
    #: Gain of the log-likelihood that a frame must have with the others to be placed, beyond log(n), which the largest
    #: of n independent shifts of noise has (chosen: one of 3000 frames of noise is placed).
    significant: float = 8.0
    #: Gain of a pair at a wrong shift (derived: half of the largest square of 20 independent normal numbers is 2 to 3,
    #: and zero for negative correlations).
    by_chance: float = 2.0
    #: Log-probability of a frame that does not match, although its lattice matches at another shift (chosen).
    left_out: float = -30.0
    #: Residual, px, above which a pair is an outlier of the least squares (chosen).
    outlier: float = 1.0
    #: Number of rounds of reweighting (chosen).
    rounds: int = 10
    #: A frame whose gain per partner is below this fraction of the median does not match the others (chosen).
    outlying: float = 0.1


CONSTANTS = _Constants()


@dataclass(frozen=True)
class RigidShifts:
    """Displacements of whole frames.

    Parameters
    ----------
    shifts : ndarray of shape (n_frames, 2)
        Pixel p of frame f lies at ``p + shifts[f]``, px; NaN for frames that match no other.
    correlation : ndarray of shape (n_frames,)
        Median of the correlations with the other frames at these shifts.
    rejected : dict
        Reason of each rejection, by the index of the frame.
    ambiguous : list of Ambiguity
        Frames that a displacement by a lattice vector would fit about as well.
    """

    shifts: NDArray[np.float64]
    correlation: NDArray[np.float64]
    rejected: dict[int, str] = field(default_factory=dict)
    ambiguous: list[Ambiguity] = field(default_factory=list)


def rigid_shifts(frames: Sequence[NDArray], max_shift: float | None = None, *, verbose: int = 0) -> RigidShifts:
    """Align whole frames.

    Frames are filtered so that every Fourier coefficient is weighted by its ratio of signal to noise
    (:class:`~stemkit.series.correlation.CoherenceFilter`) and correlated in pairs, neighbours in the series before
    distant ones. The correlation of a lattice has many maxima: several are kept for each pair, and among the consistent
    sets of shifts the one is chosen for which the structure that is not periodic agrees best over all pairs
    (:class:`~stemkit.series.envelope.Envelopes`). Jumps by lattice vectors are then searched for
    (:func:`~stemkit.series.jumps.without_jumps`). The final shifts are fitted to all pairs by least squares without
    outliers.

    Parameters
    ----------
    frames : sequence of ndarray of shape (n_y, n_x)
    max_shift : float, optional
        Largest shift between consecutive frames, px; by default half of each side.
    verbose : bool
        Show progress.
    """
    factor = max(1, -(-min(frames[0].shape) // CONSTANTS.max_side))
    small = [_binned(frame, factor) for frame in frames]
    shape = small[0].shape
    limit = [CONSTANTS.max_shift * n if max_shift is None else max_shift / factor for n in shape]
    y, x = (max(1, min(int(np.ceil(r)), n - 2)) for r, n in zip(limit, shape, strict=True))
    pairs = Pairs(small, (y, x))
    del small  # pairs hold filtered frames
    shifts = _placed(pairs, verbose=verbose)
    reason = "it shows nothing that the other frames show"
    rejected = {int(i): reason for i in np.flatnonzero(np.isnan(shifts[:, 0]))}
    shifts, ambiguous = without_jumps(pairs, shifts)
    shifts, correlation, gain = _least_squares(pairs, shifts)
    rejected |= _outlying(gain, rejected)
    shifts[list(rejected)] = np.nan
    used = {i: i for i in range(len(pairs)) if i not in rejected}
    ambiguous = [found for one in ambiguous if (found := one.numbered(used).scaled(factor)).frames]
    return RigidShifts(factor * (shifts - np.nanmean(shifts, axis=0)), correlation, rejected, ambiguous)


def _binned(frame: NDArray, factor: int) -> NDArray[np.float32]:
    if factor == 1:
        return np.asarray(frame, dtype=np.float32)
    n_y, n_x = (n // factor * factor for n in frame.shape)
    blocks = frame[:n_y, :n_x].reshape(n_y // factor, factor, n_x // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float64), dtype=np.float32)


@dataclass(frozen=True)
class _Hypothesis:
    places: tuple[tuple[float, float] | None, ...]
    score: float

    def last(self) -> list[int]:
        """The placed frames, the latest first."""
        return [i for i in reversed(range(len(self.places))) if self.places[i] is not None]


def _placed(pairs: Pairs, first: int = 0, *, verbose: int = 0) -> NDArray[np.float64]:
    """Shifts ``(n_frames, 2)`` of the frames, one after the other: a beam search; NaN for those that match no other."""
    best = [_Hypothesis((*[None] * first, (0.0, 0.0)), 0.0)]
    for frame in tqdm(range(first + 1, len(pairs)), desc="aligning frames", disable=not verbose):
        maps = {other: pairs.correlation(other, frame) for other in pairs.before(frame) if other >= first}
        for other, pair in maps.items():
            pairs.peaks(other, frame, pair)
        best = _extended(best, frame, maps, pairs)
    shifts = np.array([(np.nan, np.nan) if p is None else p for p in best[0].places])
    n_placed = len(best[0].last())
    if first < len(pairs) - 2 and n_placed < len(pairs) - first and n_placed <= (len(pairs) - first) // 2:
        # the first frame may be the one that does not match
        without_first = _placed(pairs, first + 1, verbose=verbose)
        return without_first if np.isfinite(without_first[:, 0]).sum() > n_placed else shifts
    return shifts


def _extended(
    hypotheses: list[_Hypothesis], frame: int, maps: dict[int, PairCorrelation], pairs: Pairs
) -> list[_Hypothesis]:
    """Hypotheses with one more frame, the best first."""
    found: dict[tuple, _Hypothesis] = {}
    proposed: dict[int, NDArray] = {}
    for hypothesis in hypotheses:
        partners = [i for i in hypothesis.last() if i in maps]
        known = {i: np.array(hypothesis.places[i]) for i in partners}
        for i in partners[:2]:
            if i not in proposed:
                proposed[i] = pairs.candidates(i, frame)
        # no frame that it is compared with may have a place
        tried = np.concatenate([_continued(known, pairs), *(known[i] - proposed[i] for i in partners[:2])])
        gains = _gains(tried, known, frame, maps, pairs) if partners else np.empty(0)
        left_out = CONSTANTS.left_out if np.isfinite(gains).any() else 0.0
        candidates: list[tuple[tuple[float, float] | None, float]] = [(None, left_out)]
        candidates += [((float(p[0]), float(p[1])), float(g)) for p, g in zip(tried, gains, strict=True) if g > -np.inf]
        for place, gain in candidates:
            places = (*hypothesis.places, place)
            key = tuple(None if p is None else (round(p[0] / 2), round(p[1] / 2)) for p in places)
            if key not in found or found[key].score < hypothesis.score + gain:
                found[key] = _Hypothesis(places, hypothesis.score + gain)
    return sorted(found.values(), key=lambda h: -h.score)[: CONSTANTS.hypotheses]


def _continued(known: dict[int, NDArray], pairs: Pairs) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` of the next frame for a uniform drift, and those displaced from it by lattice vectors."""
    places = list(known.values())
    if not places:
        return np.empty((0, 2))
    place = places[0] if len(places) == 1 else 2 * places[0] - places[1]
    return place + np.concatenate([np.zeros((1, 2)), pairs.vectors])


def _gains(
    places: NDArray, known: dict[int, NDArray], frame: int, maps: dict[int, PairCorrelation], pairs: Pairs
) -> NDArray[np.float64]:
    """Log-likelihoods of positions of a frame, summed over its partners; ``-inf`` where it does not match them."""
    whole, other = np.zeros(len(places)), np.zeros(len(places))
    others, n_overlapping = np.array(list(known.values())), np.zeros(len(places))
    for i, place in known.items():
        n_overlapping += pairs.overlap(place - places)
        whole += maps[i].gains(place - places)
        n_frames = 1 + frames_in_overlap(places, place[None], others, pairs.shape)
        other += pairs.log_likelihoods(i, frame, place - places, np.maximum(n_frames, 2))
    latest = list(known)
    before = known[latest[0]] - known[latest[1]] if len(known) > 1 and latest[0] - latest[1] == 1 else None
    prior = pairs.prior(places - known[latest[0]], before)
    least = CONSTANTS.significant + float(np.log(max(2.0, pairs.independent * pairs.shape[0] * pairs.shape[1])))
    matched = whole + np.maximum(other, 0) > least * np.maximum(1, n_overlapping // 2)
    # the structure that is not periodic is that of the vacuum, too, which matches at any place
    matched &= whole > CONSTANTS.significant + CONSTANTS.by_chance * n_overlapping
    return np.where(matched, other + prior, -np.inf)


def _least_squares(pairs: Pairs, shifts: NDArray) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray]:
    """Shifts, median correlations, and mean gains per pair of each frame."""
    n = len(pairs)
    placed = np.flatnonzero(np.isfinite(shifts[:, 0]))
    rows = []
    for j in placed:
        for i in pairs.before(int(j)):
            if np.isfinite(shifts[i, 0]):
                peak = pairs.correlation(i, int(j)).peak_near(shifts[i] - shifts[j])
                if peak.gain > 0:
                    rows.append((i, j, peak.gain, peak.correlation, *peak.shift))
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
