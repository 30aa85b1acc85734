"""The law of the pointwise noise: how heavy its tails are, and whether electrons were counted."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, ndtr

from stemkit.noise.differences import DIFFERENCE
from stemkit.noise.drawing import tukey_variance

__all__ = ["NORMAL", "is_counted", "tukey_shape"]

#: The Tukey lambda that is nearest to a normal distribution: taken where other noise hides the shape.
NORMAL = 0.14
#: Pointwise noise with a smaller part of the variance than this can't show its tails.
HIDDEN = 0.35
#: Probabilities whose quantiles, relative to the quartiles, tell the tails.
TAILS = np.array([0.9, 0.95, 0.975, 0.99, 0.995, 0.998])
SHAPES = np.concatenate([np.arange(-0.38, 0.3, 0.04), np.arange(0.3, 1.01, 0.1)])
#: Cells of the reference distributions and their width in standard deviations.
GRID, STEP = 4096, 0.01
SHARES = np.linspace(0.3, 1.0, 8)
#: Blocks of rows whose separate shapes tell the error, and the fewest pixels that have a shape.
BLOCKS, FEWEST = 8, 500
#: Skewness decides between counted electrons and a symmetric law where it is known this well (standard deviations).
SURE = 4.0
#: ... and agrees with that of counting: streaks and filters dilute it by up to this part, and noise that is up to twice
#: as skewed is still nearer to counts than to a symmetric law.
ALIKE = 0.6


def tukey_shape(standardised: NDArray, share: float, known: NDArray) -> tuple[float, float]:
    """Tukey lambda of pointwise noise, and its standard deviation, from its fourth difference across rows.

    Parameters
    ----------
    standardised : ndarray of shape (n_y, n_x)
        The difference over its standard deviation at each pixel.
    share : float
        Part of the variance that is pointwise; the rest is taken for normal.
    known : ndarray of bool
        Pixels that count.

    Notes
    -----
    Quantiles at 0.9 to 0.998 over the quartiles are compared with those of five independent Tukey variables, weighted
    as the difference weights them, plus a normal one. Quantiles are there for every lambda; moments are not.
    """
    if share < HIDDEN or known.sum() < FEWEST:
        return NORMAL, float("nan")
    table = _ratios_at(min(share, 1.0))

    def shape_of(rows: slice) -> float:
        z = standardised[rows][known[rows]]
        return _nearest(_ratios(np.quantile(z, TAILS), np.quantile(z, 1 - TAILS), *np.quantile(z, [0.75, 0.25])), table)

    blocks = [b for b in np.array_split(np.arange(len(standardised)), BLOCKS) if known[b].sum() > FEWEST]
    separate = [shape_of(slice(b[0], b[-1] + 1)) for b in blocks]
    spread = float(np.std(separate, ddof=1) / np.sqrt(len(separate))) if len(separate) > 1 else float("nan")
    return shape_of(slice(None)), spread


def is_counted(standardised: NDArray, gain: float, deviation: NDArray, correlation: float) -> bool:
    """Whether the skewness of the noise is that of counted electrons, of ``gain`` each.

    Parameters
    ----------
    standardised : ndarray of shape (n_pixels,)
        Noise over its standard deviation.
    gain : float
        Growth of the variance with the signal.
    deviation : ndarray of shape (n_pixels,)
        That standard deviation, as a fraction of the contrast.
    correlation : float
        Of neighbours along the row.

    Notes
    -----
    A Poisson variable of variance v in units of the contrast, ``gain`` per electron, has a third moment ``gain v``;
    correlation r along the row leaves ``(1 - r^2)^1.5 / (1 - r^3)`` of it.
    """
    n = standardised.size
    if gain == 0 or n < 1000:
        return False
    kept = (1 - correlation**2) ** 1.5 / (1 - abs(correlation) ** 3)
    expected = kept * float((gain / deviation).mean())
    # the third power of a normal number has a variance of 15
    error = np.sqrt(15 * (1 + abs(correlation)) / (1 - abs(correlation)) / n)
    found = float((np.clip(standardised, -8, 8) ** 3).mean())
    ratio, slack = found / expected, SURE * error / abs(expected)
    return bool(slack < ratio and 1 - ALIKE - slack < ratio < 2 + slack)


# --- reference distributions -------------------------------------------------------------------------------------


def _ratios(upper: NDArray, lower: NDArray, third: float, first: float) -> NDArray:
    return (upper - lower) / max(third - first, 1e-300)


def _nearest(ratios: NDArray, table: NDArray) -> float:
    """Shape whose ratios are nearest, the tails' larger scatter allowed for."""
    density = np.array([0.175, 0.103, 0.058, 0.0267, 0.0145, 0.0063])  # of a normal variable at these quantiles
    scatter = np.sqrt(TAILS * (1 - TAILS)) / density
    cost = (((table - ratios) / scatter) ** 2).sum(axis=1)
    best = int(np.clip(np.argmin(cost), 1, len(SHAPES) - 2))
    a, b, _ = np.polyfit(SHAPES[best - 1 : best + 2], cost[best - 1 : best + 2], 2)
    return float(np.clip(-b / (2 * a), SHAPES[0], SHAPES[-1])) if a > 0 else float(SHAPES[int(np.argmin(cost))])


def _ratios_at(share: float) -> NDArray:
    tables = _tables()
    at = float(np.clip((share - SHARES[0]) / (SHARES[1] - SHARES[0]), 0, len(SHARES) - 1))
    low = min(int(at), len(SHARES) - 2)
    return tables[low] + (at - low) * (tables[low + 1] - tables[low])


@lru_cache(maxsize=1)
def _tables() -> NDArray:
    """Ratios ``(n_shares, n_shapes, n_tails)`` of the sum of five Tukey variables and a normal one."""
    edges = (np.arange(GRID + 1) - GRID / 2) * STEP
    log_odds = np.linspace(-16.0, 16.0, 4001)
    p = expit(log_odds)
    out = np.empty((len(SHARES), len(SHAPES), len(TAILS)))
    weights, times = np.unique(np.abs(DIFFERENCE).round(12), return_counts=True)
    for j, lam in enumerate(SHAPES):
        quantile = (p**lam - expit(-log_odds) ** lam) / lam / np.sqrt(float(tukey_variance(lam)))
        for i, share in enumerate(SHARES):
            spectrum = np.fft.rfft(_binned(ndtr(edges / np.sqrt(max(1 - share, 1e-6)))))
            for weight, count in zip(weights, times, strict=True):
                one = np.interp(edges, weight * np.sqrt(share) * quantile, p, left=0.0, right=1.0)
                spectrum = spectrum * np.fft.rfft(_binned(one)) ** count
            # every factor moves the middle by half a cell; ranges between quantiles don't mind
            cumulative = np.cumsum(np.fft.fftshift(np.fft.irfft(spectrum, GRID)))
            upper, lower = (np.interp(q, cumulative, edges[1:]) for q in (np.r_[TAILS, 0.75], np.r_[1 - TAILS, 0.25]))
            out[i, j] = _ratios(upper[:-1], lower[:-1], upper[-1], lower[-1])
    return out


def _binned(cumulative: NDArray) -> NDArray:
    """Probabilities of the grid's cells, its middle first."""
    return np.fft.ifftshift(np.diff(cumulative))
