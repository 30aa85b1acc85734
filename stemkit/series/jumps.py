"""Jumps by lattice vectors between the frames of a series: correction of wrong shifts, and list of ambiguous ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.series.overlap import frames_in_overlap
from stemkit.series.pairs import NEAR, Pairs

__all__ = ["Ambiguity", "ambiguity_text", "without_jumps"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the search for jumps."""

    #: A jump cannot be excluded unless the others are this many times as likely (tuned on 60 series of
    #: ``benchmarks/series.py`` with 128 px: one that was wrong had odds of 600; of the right ones, 3 more are announced
    #: than with odds of 20).
    odds: float = 1000.0
    #: Pairs of consecutive frames in which other vectors than those of the lattice are searched for, at most (chosen).
    sampled: int = 8
    #: Number of such vectors at most (chosen).
    others: int = 8
    #: Longest of these, times the longest of the lattice (chosen).
    farther: float = 1.25
    #: Jumps that are corrected in a series, per frame, at most (chosen).
    corrected: int = 3


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Ambiguity:
    """Frames that may be displaced together by a lattice vector, since they would fit the others about as well.

    Parameters
    ----------
    frames : tuple of int
    vector : (float, float)
        Along y and x, px.
    log_likelihood : float
        Logarithm of the likelihood of the displaced frames over that of the frames as they are.
    """

    frames: tuple[int, ...]
    vector: tuple[float, float]
    log_likelihood: float

    def numbered(self, numbers: dict[int, int]) -> Ambiguity:
        """The same with frames renumbered by ``numbers``; frames without a new number are left out."""
        return replace(self, frames=tuple(numbers[i] for i in self.frames if i in numbers))

    def scaled(self, factor: float) -> Ambiguity:
        """The same with the vector multiplied by a factor, for another pixel size."""
        return replace(self, vector=(factor * self.vector[0], factor * self.vector[1]))


def without_jumps(pairs: Pairs, shifts: NDArray) -> tuple[NDArray[np.float64], list[Ambiguity]]:
    """Displace frames by lattice vectors as long as that makes the series more likely.

    Single frames are moved, and all from one frame on: a wrong shift between two frames displaces all later ones. Wrong
    shifts between several frames in sequence are moved together.

    Returns
    -------
    shifts : ndarray of shape (n_frames, 2)
    ambiguous : list of Ambiguity
        Moves that would make the frames less than ``CONSTANTS.odds`` times less likely.
    """
    shifts = shifts.copy()
    placed = np.flatnonzero(np.isfinite(shifts[:, 0]))
    vectors = _vectors(pairs, shifts, placed)
    if len(placed) < 2 or len(vectors) == 0:
        return shifts, []
    n = len(placed)
    # the simple ones first: from wrong places, several vectors may lead to where frames have little in common
    for moves in (_simple_moves(n), np.concatenate([_simple_moves(n), _further_moves(n)])):
        for _ in range(CONSTANTS.corrected * n):
            likelihood = _gains(pairs, shifts, placed, moves, vectors)
            prior = _prior_gains(pairs, shifts[placed], moves, vectors)
            best = np.unravel_index(int(np.argmax(likelihood + prior)), likelihood.shape)
            if likelihood[best] + prior[best] <= 1e-6:
                break
            shifts[placed] += moves[best[0]][:, None] * vectors[best[1]]
    # a drift that is less even is not excluded by that
    possible = likelihood + np.maximum(prior, 0.0) > -np.log(CONSTANTS.odds)
    ambiguous = [
        Ambiguity(
            tuple(placed[moves[k] > 0].tolist()),
            (float(vectors[v][0]), float(vectors[v][1])),
            float(likelihood[k, v]),
        )
        for k, v in np.argwhere(possible & (moves.max(axis=1) == 1)[:, None])
    ]
    return shifts, ambiguous


def _vectors(pairs: Pairs, shifts: NDArray, placed: NDArray) -> NDArray[np.float64]:
    """Vectors ``(n, 2)`` by which frames may be displaced: those of the lattice, and others at which pairs match.

    A specimen of several lattices may look the same at vectors of one of them.
    """
    out = list(pairs.vectors)
    if len(out) == 0 or len(placed) < 2:
        return pairs.vectors
    chosen = np.linspace(0, len(placed) - 2, min(len(placed) - 1, CONSTANTS.sampled)).round().astype(int)
    steps = [(int(placed[k]), int(placed[k + 1])) for k in chosen]
    found = np.concatenate([shifts[i] - shifts[j] - pairs.candidates(i, j) for i, j in steps])
    # farther ones leave less in common, which contradicts less
    found = found[np.hypot(*found.T) < CONSTANTS.farther * np.hypot(*pairs.vectors.T).max()]
    rating = np.zeros(len(found))
    for i, j in steps:
        rating += pairs.log_likelihoods(i, j, shifts[i] - shifts[j] - found)
    for v in found[np.argsort(-rating)]:
        if len(out) < len(pairs.vectors) + CONSTANTS.others and all(
            np.hypot(*(v - w)) > NEAR for w in [np.zeros(2), *out]
        ):
            out.append(v)
    return np.array(out)


def _simple_moves(n: int) -> NDArray[np.intp]:
    """Which frames ``(n_moves, n)`` are moved by a vector: all from one on, and single ones in between."""
    position = np.arange(n)
    later = [position >= first for first in range(1, n)]
    return np.array(later + [position == k for k in range(1, n - 1)]).astype(int)


def _further_moves(n: int) -> NDArray[np.intp]:
    """Multiples ``(n_moves, n)`` of a vector: all frames from one on by two; and sequences by one more each."""
    position = np.arange(n)
    twice = [2 * (position >= first) for first in range(1, n)]
    lengths = [2**k for k in range(1, n.bit_length()) if 2**k < n]
    return np.array(
        twice + [np.clip(position - first + 1, 0, length) for length in lengths for first in range(1, n - length + 1)]
    )


def _gains(pairs: Pairs, shifts: NDArray, placed: NDArray, moves: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Increase of the log-likelihood ``(n_moves, n_vectors)`` by each of the moves along each of the vectors."""
    out = np.zeros((len(moves), len(vectors)))
    index = {int(i): k for k, i in enumerate(placed)}
    for j in index:
        for i in pairs.before(j):
            at = shifts[i] - shifts[j]
            if i not in index or not pairs.overlap(at[None])[0]:
                continue
            n_frames = float(frames_in_overlap(shifts[[i]], shifts[[j]], shifts[placed], pairs.shape)[0])
            # the last one is of frames that are not moved
            multiples, of_move = np.unique(np.r_[moves[:, index[i]] - moves[:, index[j]], 0], return_inverse=True)
            tried = at + multiples[:, None, None] * vectors
            values = pairs.log_likelihoods(i, j, tried.reshape(-1, 2), n_frames).reshape(len(multiples), -1)
            # frames are not moved so far that a pair no longer overlaps
            values[~pairs.overlap(tried.reshape(-1, 2)).reshape(values.shape)] = -np.inf
            out += values[of_move[:-1]] - values[of_move[-1]]
    return out


def _prior_gains(pairs: Pairs, places: NDArray, moves: NDArray, vectors: NDArray) -> NDArray[np.float64]:
    """Increase of the log-probability ``(n_moves, n_vectors)`` of the steps between frames."""
    moved = places + moves[:, None, :, None] * vectors[:, None]
    return _prior(pairs, moved) - _prior(pairs, places)


def _prior(pairs: Pairs, places: NDArray) -> NDArray[np.float64]:
    """Log-probability of the steps between frames at places ``(..., n_frames, 2)``."""
    steps = np.diff(places, axis=-2)
    out = pairs.prior(steps[..., 0, :])
    return np.asarray(out + pairs.prior(steps[..., 1:, :], steps[..., :-1, :]).sum(axis=-1))


def ambiguity_text(ambiguous: list[Ambiguity]) -> str:
    """A sentence about frames that may be displaced by a lattice vector."""
    worst = max(ambiguous, key=lambda one: one.log_likelihood)
    frames = ", ".join(map(str, worst.frames[:6])) + (", ..." if len(worst.frames) > 6 else "")
    return (
        f"frame(s) {frames} may be displaced by a lattice vector, such as ({worst.vector[0]:.1f}, "
        f"{worst.vector[1]:.1f}) px along y and x: cells of the lattice can hardly be distinguished in these frames. "
        "The lattice in the average does not depend on it, but weak differences between its cells would be blurred"
    )
