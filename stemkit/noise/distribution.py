"""Distribution of the pointwise noise: the weight of its tails, and whether it is that of counted electrons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from stemkit.noise.constants import TINY
from stemkit.noise.differences import DIFFERENCE
from stemkit.noise.drawing import tukey_variance

__all__ = ["NORMAL_SHAPE", "fit_tukey_shape", "is_counted"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the fit of the shape, and of the decision for counts."""

    #: Pointwise noise with a smaller fraction of the variance does not show its tails (chosen).
    min_fraction: float = 0.35
    #: Fewest pixels from which a shape is measured (chosen).
    min_pixels: int = 500
    #: Blocks of rows whose separate shapes give the error (chosen).
    n_blocks: int = 8
    #: Fewest pixels from which the skewness is measured (chosen).
    fewest_skewed: int = 1000
    #: Standardised noise is clipped here before its third moment is taken (chosen).
    clip: float = 8.0
    #: Skewness from which a distribution is that of counts, not a symmetric one, standard deviations (chosen).
    significant: float = 4.0
    #: Fraction of the skewness of counting by which streaks and filters reduce it at most (chosen).
    most_reduced: float = 0.6
    #: Ratio to the skewness of counting up to which noise is nearer to counts than to a symmetric distribution
    #: (chosen).
    most_skewed: float = 2.0


CONSTANTS = _Constants()
#: Tukey lambda that is nearest to a normal distribution (derived), used where other noise hides the shape.
NORMAL_SHAPE = 0.14
#: Probabilities whose quantiles, relative to the quartiles, give the weight of the tails (chosen).
TAILS = np.array([0.9, 0.95, 0.975, 0.99, 0.995, 0.998])
#: Density of a normal variable at these quantiles (derived).
TAIL_DENSITY = np.array([0.175, 0.103, 0.058, 0.0267, 0.0145, 0.0063])
#: Tukey lambda of the reference distributions (chosen).
SHAPES = np.concatenate([np.arange(-0.38, 0.3, 0.04), np.arange(0.3, 1.01, 0.1)])
#: Fractions of pointwise noise of the reference distributions (chosen).
FRACTIONS = np.linspace(0.3, 1.0, 8)
#: Number of cells of the reference distributions (chosen).
N_CELLS = 4096
#: Width of the cells, standard deviations (chosen).
CELL = 0.01


def fit_tukey_shape(standardised: NDArray, fraction: float, known: NDArray) -> tuple[float, float]:
    """Tukey lambda of pointwise noise, and its standard deviation, from its fourth difference across rows.

    Parameters
    ----------
    standardised : ndarray of shape (n_y, n_x)
        The difference over its standard deviation at each pixel.
    fraction : float
        Fraction of the variance that is pointwise; the rest is assumed to be normal.
    known : ndarray of bool
        Pixels that are used.

    Returns
    -------
    shape, std : float
        The shape of a normal distribution and NaN where it can't be measured.

    Notes
    -----
    Quantiles at 0.9 to 0.998 over the quartiles are compared with those of five independent Tukey variables with the
    weights of the difference, plus a normal one. Quantiles exist for every lambda, moments do not.
    """
    if fraction < CONSTANTS.min_fraction or known.sum() < CONSTANTS.min_pixels:
        return NORMAL_SHAPE, math.nan
    table = _reference_at(min(fraction, 1.0))

    def shape_of(rows: slice) -> float:
        z = standardised[rows][known[rows]]
        return _nearest(_ratios(np.quantile(z, TAILS), np.quantile(z, 1 - TAILS), *np.quantile(z, [0.75, 0.25])), table)

    blocks = np.array_split(np.arange(len(standardised)), CONSTANTS.n_blocks)
    separate = [shape_of(slice(b[0], b[-1] + 1)) for b in blocks if known[b].sum() > CONSTANTS.min_pixels]
    std = float(np.std(separate, ddof=1) / np.sqrt(len(separate))) if len(separate) > 1 else math.nan
    return shape_of(slice(None)), std


def is_counted(standardised: NDArray, gain: float, std: NDArray, correlation: float) -> bool:
    """Whether the skewness of the noise is that of counted electrons, of ``gain`` each.

    Parameters
    ----------
    standardised : ndarray of shape (n_pixels,)
        Noise over its standard deviation.
    gain : float
        Growth of the variance with the signal.
    std : ndarray of shape (n_pixels,)
        Standard deviation of the noise, as a fraction of the contrast.
    correlation : float
        Correlation of neighbouring pixels along the row.

    Notes
    -----
    A Poisson variable of variance v in units of the contrast, ``gain`` per electron, has a third moment ``gain v``;
    correlation r along the row multiplies it by ``(1 - r^2)^1.5 / (1 - r^3)``.
    """
    n = standardised.size
    if gain == 0 or n < CONSTANTS.fewest_skewed:
        return False
    kept = (1 - correlation**2) ** 1.5 / (1 - abs(correlation) ** 3)
    expected = kept * float((gain / std).mean())
    # the third power of a normal number has a variance of 15
    error = np.sqrt(15 * (1 + abs(correlation)) / (1 - abs(correlation)) / n)
    skewness = float((np.clip(standardised, -CONSTANTS.clip, CONSTANTS.clip) ** 3).mean())
    ratio, margin = skewness / expected, CONSTANTS.significant * error / abs(expected)
    return bool(margin < ratio and 1 - CONSTANTS.most_reduced - margin < ratio < CONSTANTS.most_skewed + margin)


# --- reference distributions -------------------------------------------------------------------------------------


def _ratios(upper: NDArray, lower: NDArray, third: float, first: float) -> NDArray[np.float64]:
    return (upper - lower) / max(third - first, TINY)


def _nearest(ratios: NDArray, table: NDArray) -> float:
    """Shape whose ratios are nearest, weighted by the scatter of the quantiles."""
    scatter = np.sqrt(TAILS * (1 - TAILS)) / TAIL_DENSITY
    cost = (((table - ratios) / scatter) ** 2).sum(axis=1)
    best = int(np.clip(np.argmin(cost), 1, len(SHAPES) - 2))
    a, b, _ = np.polyfit(SHAPES[best - 1 : best + 2], cost[best - 1 : best + 2], 2)
    return float(np.clip(-b / (2 * a), SHAPES[0], SHAPES[-1])) if a > 0 else float(SHAPES[int(np.argmin(cost))])


def _reference_at(fraction: float) -> NDArray[np.float64]:
    """Ratios ``(n_shapes, n_tails)`` for a fraction of pointwise noise."""
    tables = _reference_ratios()
    at = float(np.clip((fraction - FRACTIONS[0]) / (FRACTIONS[1] - FRACTIONS[0]), 0, len(FRACTIONS) - 1))
    low = min(int(at), len(FRACTIONS) - 2)
    return tables[low] + (at - low) * (tables[low + 1] - tables[low])


@lru_cache(maxsize=1)
def _reference_ratios() -> NDArray[np.float64]:
    """Ratios ``(n_fractions, n_shapes, n_tails)`` of the sum of five Tukey variables and a normal one."""
    edges = (np.arange(N_CELLS + 1) - N_CELLS / 2) * CELL
    log_odds = np.linspace(-16.0, 16.0, 4001)
    p = expit(log_odds)
    out = np.empty((len(FRACTIONS), len(SHAPES), len(TAILS)))
    weights, times = np.unique(np.abs(DIFFERENCE).round(12), return_counts=True)
    for j, lam in enumerate(SHAPES):
        quantile = (p**lam - expit(-log_odds) ** lam) / lam / np.sqrt(float(tukey_variance(lam)))
        for i, fraction in enumerate(FRACTIONS):
            spectrum = np.fft.rfft(_binned(ndtr(edges / np.sqrt(max(1 - fraction, 1e-6)))))
            for weight, count in zip(weights, times, strict=True):
                one = np.interp(edges, weight * np.sqrt(fraction) * quantile, p, left=0.0, right=1.0)
                spectrum = spectrum * np.fft.rfft(_binned(one)) ** count
            # every factor shifts the middle by half a cell, which does not change ranges between quantiles
            cumulative = np.cumsum(np.fft.fftshift(np.fft.irfft(spectrum, N_CELLS)))
            upper, lower = (np.interp(q, cumulative, edges[1:]) for q in (np.r_[TAILS, 0.75], np.r_[1 - TAILS, 0.25]))
            out[i, j] = _ratios(upper[:-1], lower[:-1], upper[-1], lower[-1])
    return out


def _binned(cumulative: NDArray) -> NDArray[np.float64]:
    """Probabilities of the grid's cells, its middle first."""
    return np.fft.ifftshift(np.diff(cumulative))
