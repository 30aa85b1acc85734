"""Jumps by lattice vectors between the frames of a series: those that are wrong, and those that cannot be excluded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.parabola import parabola_vertex
from stemkit.series.envelope import BASEBAND, Spectrum
from stemkit.series.pairs import Pairs

__all__ = ["Ambiguity", "described", "lattice_vectors", "without_jumps"]

#: Least autocorrelation at a lattice vector, fraction of that at 0 (chosen: it decays towards longer vectors).
EQUAL = 0.65
#: Longest lattice vector, fraction of the shorter side (chosen).
FARTHEST = 0.4
#: Shortest lattice vectors that are tried (chosen: a square lattice has 8 up to the diagonal of a cell).
N_VECTORS = 8
#: A jump cannot be excluded unless the others are this many times as likely (chosen).
ODDS = 20.0
#: Jumps that are corrected in a series, per frame, at most (chosen).
CORRECTED = 3


@dataclass(frozen=True)
class Ambiguity:
    """Frames that may be displaced together by a lattice vector, since they would fit the others about as well.

    Parameters
    ----------
    frames : tuple of int
    vector : (float, float)
        Along y and x, px.
    log_likelihood : float
        That of the displaced frames over that of the frames as they are.
    """

    frames: tuple[int, ...]
    vector: tuple[float, float]
    log_likelihood: float

    def numbered(self, numbers: dict[int, int]) -> Ambiguity:
        """With other numbers of the frames; those without one are left out."""
        return replace(self, frames=tuple(numbers[i] for i in self.frames if i in numbers))

    def scaled(self, factor: float) -> Ambiguity:
        """In other pixels."""
        return replace(self, vector=(factor * self.vector[0], factor * self.vector[1]))


def lattice_vectors(spectrum: Spectrum) -> NDArray[np.float64]:
    """The shortest vectors ``(n, 2)``, px, by which the lattice of frames looks about the same; none without a lattice.

    They are the maxima of the autocorrelation without the noise, and without what changes over more than a cell.
    """
    shape = spectrum.shape
    radius = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    power = np.where(radius > BASEBAND * spectrum.first, np.clip(spectrum.power - spectrum.noise_x, 0.0, None), 0.0)
    if not power.any():
        return np.zeros((0, 2))
    values = fft.fftshift(fft.irfft2(power, shape))
    middle = np.array([n // 2 for n in shape])
    is_peak = (ndimage.maximum_filter(values, 5) == values) & (values > EQUAL * values[tuple(middle)])
    found = np.argwhere(is_peak)
    length = np.hypot(*(found - middle).T)
    near = found[(length > 0) & (length < FARTHEST * min(shape))]
    near = near[np.argsort(np.hypot(*(near - middle).T))][:N_VECTORS]
    inside = np.all((near > 0) & (near < np.array(shape) - 1), axis=1)
    return np.array([_vertex(values, y, x) - middle for y, x in near[inside].tolist()]).reshape(-1, 2)


def _vertex(values: NDArray, y: int, x: int) -> NDArray[np.float64]:
    """Place of a maximum to a fraction of a pixel."""
    step = [parabola_vertex(values[y - a, x - b], values[y, x], values[y + a, x + b]) for a, b in ((1, 0), (0, 1))]
    return np.array([y, x], dtype=float) + np.array([float(one) for one in step])


def without_jumps(pairs: Pairs, shifts: NDArray, vectors: NDArray) -> tuple[NDArray[np.float64], list[Ambiguity]]:
    """Displace frames by lattice vectors as long as that makes the series more likely.

    Single frames are moved, and all from one frame on: a wrong shift between two frames displaces all later ones. The
    likelihood is that of the structure that is not periodic, in all pairs of frames.

    Returns
    -------
    shifts : ndarray of shape (n_frames, 2)
    ambiguous : list of Ambiguity
        Moves that would make the frames less than ``ODDS`` times less likely.
    """
    shifts = shifts.copy()
    placed = [int(i) for i in np.flatnonzero(np.isfinite(shifts[:, 0]))]
    if len(placed) < 2 or len(vectors) == 0:
        return shifts, []
    groups = list(_groups(placed))
    for _ in range(CORRECTED * len(placed)):
        gains = [_gain(pairs, shifts, placed, group, vectors) for group in groups]
        totals = np.array([likelihood + prior for likelihood, prior in gains])
        best = np.unravel_index(int(np.argmax(totals)), totals.shape)
        if totals[best] <= 1e-6:
            break
        shifts[list(groups[best[0]])] += vectors[best[1]]
    ambiguous = [
        Ambiguity(group, (float(v[0]), float(v[1])), float(gain))
        for group, (likelihood, _) in zip(groups, gains, strict=True)
        for v, gain in zip(vectors, likelihood, strict=True)
        if gain > -np.log(ODDS)
    ]
    return shifts, ambiguous


def _groups(placed: list[int]) -> Iterator[tuple[int, ...]]:
    """All frames from one on, and single frames between the first and the last."""
    yield from (tuple(placed[k:]) for k in range(1, len(placed)))
    yield from ((k,) for k in placed[1:-1])


def _gain(
    pairs: Pairs, shifts: NDArray, placed: list[int], group: tuple[int, ...], vectors: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Increase of the log-likelihood and of the log-prior if a group is moved by each of the vectors."""
    inside, likelihood = set(group), np.zeros(len(vectors))
    tried = np.concatenate([np.zeros((1, 2)), vectors])
    n_frames = len(placed)
    for j in placed:
        for i in pairs.before(j):
            if i not in placed or (i in inside) == (j in inside):
                continue
            sign = 1.0 if i in inside else -1.0
            at = shifts[i] - shifts[j] + sign * tried
            if not pairs.overlap(at[:1])[0]:
                continue
            values = pairs.likelihoods(i, j, at, n_frames)
            # frames are not moved to where nothing can contradict
            likelihood += np.where(pairs.overlap(at[1:]), values[1:] - values[0], -np.inf)
    now = _prior(pairs, shifts[placed])
    moved = np.array([[i in inside] for i in placed])
    prior = np.array([_prior(pairs, shifts[placed] + moved * v) - now for v in vectors])
    return likelihood, prior


def _prior(pairs: Pairs, places: NDArray) -> float:
    steps = np.diff(places, axis=0)
    out = float(pairs.prior(steps[:1]).sum())
    return out + sum(float(pairs.prior(b[None], a)[0]) for a, b in pairwise(steps))


def described(ambiguous: list[Ambiguity]) -> str:
    """A sentence about frames that may be displaced by a lattice vector."""
    worst = max(ambiguous, key=lambda one: one.log_likelihood)
    frames = ", ".join(map(str, worst.frames[:6])) + (", ..." if len(worst.frames) > 6 else "")
    return (
        f"frame(s) {frames} may be displaced by a lattice vector, such as ({worst.vector[0]:.1f}, "
        f"{worst.vector[1]:.1f}) px along y and x: cells of the lattice can hardly be distinguished in these frames. "
        "The lattice in the average does not depend on it, but weak differences between its cells would be blurred"
    )
