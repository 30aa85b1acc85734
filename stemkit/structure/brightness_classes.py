"""Kinds of columns from their brightness alone, with probabilities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special, stats

from stemkit.parameters import check_integer
from stemkit.structure.sublattices import sublattices
from stemkit.structure.tables import amplitudes, column_positions

__all__ = ["brightness_classes"]

#: Steps of expectation maximisation at most (chosen).
MAX_STEPS = 100
#: Change of the log-likelihood per column at which it has converged (chosen).
CONVERGED_GAIN = 1e-7
#: Largest order of the polynomial of the trend (chosen).
MAX_ORDER = 3
#: Least standard deviation of the logarithm of the brightness of a class (chosen: equal values).
MIN_WIDTH = 1e-4


def brightness_classes(
    table: pd.DataFrame, n: int | None = None, *, by: str = "amplitude", trend: int = 2
) -> pd.DataFrame:
    """Divide columns into kinds of atoms by their brightness, of which a trend across the image is removed.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, in HAADF, where the brightness increases with the atomic number.
    n : int, optional
        Number of classes. By default that of ``sublattices(table)``.
    by : str, default="amplitude"
        Column of the table that is the brightness.
    trend : int, default=2
        Order of the polynomial in y and x by which the brightness of all classes varies, such as with the thickness; 0
        for none.

    Returns
    -------
    DataFrame
        With the table's index: ``y, x``; ``class`` (0 is the brightest, -1 without a positive brightness) and its
        ``probability``; ``probability_0``, ... of all classes; ``relative``, the brightness divided by that of class 0
        at this place. ``attrs["ratios"]`` is the brightness of each class relative to class 0, and
        ``attrs["error_rate"]`` the expected fraction of columns in a wrong class.

    Raises
    ------
    ValueError
        If the table lacks the brightness, or options are impossible.

    See Also
    --------
    register_crystal : Names from a known crystal.
    sublattices : By the site in the lattice, too.

    Notes
    -----
    A mixture of normal distributions of the logarithm of the brightness, each with its own width, around a common
    polynomial: ``ln I = m_k + p(y, x)``, by expectation maximisation [1]_. Brightness alone distinguishes kinds of
    columns, not elements: a ratio r of two classes is that of atomic numbers, ``r^(1 / 1.7)``, if the columns have as
    many atoms.

    References
    ----------
    .. [1] Dempster et al., J. R. Stat. Soc. B 39, 1 (1977), https://doi.org/10.1111/j.2517-6161.1977.tb01600.x

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import brightness_classes
    >>> y, x = np.mgrid[0:10, 0:10].reshape(2, -1)
    >>> table = pd.DataFrame({"y": y, "x": x, "amplitude": np.where((y + x) % 2, 1.0, 2.0) * (1 + 0.05 * x)})
    >>> classes = brightness_classes(table, n=2)
    >>> classes["class"].iloc[:3].tolist(), classes.attrs["ratios"]
    ([0, 1, 0], [1.0, 0.5])
    """
    columns = column_positions(table)
    check_integer("trend", trend, 0, MAX_ORDER)
    values = amplitudes(table, by)[0]
    start = sublattices(table, n=n, by=by).to_numpy()
    with np.errstate(invalid="ignore"):
        used = np.flatnonzero(np.isfinite(values) & (values > 0))
    count = int(start.max()) + 1
    probability = np.full((len(table), max(count, 1)), np.nan)
    relative = np.full(len(table), np.nan)
    means = np.zeros(1)
    if len(used):
        logs = np.log(values[used])
        terms = _terms(columns.positions[used], trend)
        mixture = _fitted_mixture(logs, terms, start[used], count)
        order = np.argsort(-mixture.means, kind="stable")
        probability[used], means = mixture.probability[:, order], mixture.means[order]
        relative[used] = np.exp(logs - mixture.trend - means[0])
    best = np.where(np.isfinite(probability[:, 0]), np.nan_to_num(probability).argmax(axis=1), -1)
    highest = np.where(best >= 0, probability.max(axis=1), np.nan)
    result = pd.DataFrame(
        {"y": columns.positions[:, 0], "x": columns.positions[:, 1], "class": best, "probability": highest},
        index=table.index,
    )
    names = [f"probability_{k}" for k in range(probability.shape[1])]
    result[names] = probability
    ratios = np.round(np.exp(means - means[0]), 6).tolist()
    wrong = float(1 - np.nanmean(highest)) if len(used) else float("nan")
    result.attrs.update(unit=columns.unit, ratios=ratios, error_rate=wrong)
    return result.assign(relative=relative)


def _terms(positions: NDArray, order: int) -> NDArray[np.float64]:
    """Polynomial terms ``(n, m)`` without a constant, in coordinates from -1 to 1."""
    scaled = 2 * (positions - positions.min(axis=0)) / np.maximum(np.ptp(positions, axis=0), 1e-300) - 1
    y, x = scaled.T
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i) if i + j > 0]
    return np.column_stack([y**i * x**j for i, j in powers]) if powers else np.empty((len(positions), 0))


@dataclass(frozen=True)
class _TrendMixture:
    """Probabilities ``(n, count)`` of the classes, their means ``(count,)`` and the trend ``(n,)``."""

    probability: NDArray[np.float64]
    means: NDArray[np.float64]
    trend: NDArray[np.float64]


def _fitted_mixture(logs: NDArray, terms: NDArray, start: NDArray, count: int) -> _TrendMixture:
    """Expectation maximisation of a Gaussian mixture whose means have a common trend."""
    share = np.eye(count)[np.maximum(start, 0)]
    widths = np.full(count, max(float(np.std(logs)), MIN_WIDTH))
    before = -np.inf
    for _ in range(MAX_STEPS):
        means, slopes = _regression(logs, terms, share, widths)
        surface = terms @ slopes
        residual = (logs - surface)[:, None] - means
        total = np.maximum(share.sum(axis=0), 1e-9)
        widths = np.maximum(np.sqrt((share * residual**2).sum(axis=0) / total), MIN_WIDTH)
        joint = np.log(total / len(logs)) + stats.norm.logpdf(residual, scale=widths)
        likelihood = float(special.logsumexp(joint, axis=1).mean())
        share = special.softmax(joint, axis=1)
        if likelihood - before < CONVERGED_GAIN:
            break
        before = likelihood
    return _TrendMixture(share, means, surface)


def _regression(
    logs: NDArray, terms: NDArray, share: NDArray, widths: NDArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means of the classes and slopes of the trend, from weighted least squares."""
    weight = share / widths**2
    k = share.shape[1]
    normal = np.zeros((k + terms.shape[1],) * 2)
    normal[:k, :k] = np.diag(weight.sum(axis=0))
    normal[:k, k:] = weight.T @ terms
    normal[k:, :k] = normal[:k, k:].T
    normal[k:, k:] = (terms * weight.sum(axis=1)[:, None]).T @ terms
    moment = np.concatenate([weight.T @ logs, terms.T @ (weight.sum(axis=1) * logs)])
    solution = np.linalg.lstsq(normal, moment, rcond=None)[0]
    return solution[:k], solution[k:]
