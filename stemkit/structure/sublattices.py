"""Sublattices: columns of the same site and brightness."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from stemkit.parameters import check_integer
from stemkit.statistics import finite_median
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.tables import amplitudes, column_positions

__all__ = ["sublattices"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the division into sublattices."""

    #: Kinds of brightness at most (chosen).
    max_kinds: int = 4
    #: Fewest columns per kind (chosen).
    min_columns: int = 8
    #: Least difference of the means of two kinds, standard deviations of the wider one (chosen).
    min_separation: float = 3.0
    #: Least fraction of the columns of a kind (chosen).
    min_fraction: float = 0.1
    #: Least variance of the logarithm of the brightness of a kind (chosen).
    min_variance: float = 1e-6
    #: The same, fraction of the total variance (chosen).
    min_relative_variance: float = 1e-4


CONSTANTS = _Constants()


def sublattices(
    table: pd.DataFrame, lattice: Lattice | None = None, n: int | None = None, *, by: str = "amplitude"
) -> pd.Series:
    """Label columns by their site in the cell and by brightness.

    Parameters
    ----------
    table : DataFrame
        Columns of one image.
    lattice : Lattice, optional
        ``fit_lattice(table)``. Each of its sites is a sublattice, or several if the brightness of its columns differs
        clearly. Without a lattice, columns are distinguished by brightness alone.
    n : int, optional
        Number of sublattices. With a lattice, sites of similar brightness are merged until this number remains;
        without one, the brightness is divided into this number of kinds. By default it is determined.
    by : str, default="amplitude"
        Column of the table that is the brightness; not required for a lattice of one site.

    Returns
    -------
    Series of int
        With the table's index and the name ``sublattice``: 0 is the brightest, -1 means none.

    Raises
    ------
    ValueError
        If ``n`` is impossible, or brightness is required and the table lacks it.

    Notes
    -----
    Kinds are the components of a Gaussian mixture of the logarithm of the brightness. Their number minimises the
    Bayesian information criterion [1]_, provided that their means are separated by three standard deviations and each
    contains a tenth of the columns.

    References
    ----------
    .. [1] Schwarz, Ann. Statist. 6, 461 (1978), https://doi.org/10.1214/aos/1176344136

    Examples
    --------
    >>> import pandas as pd
    >>> from stemkit.structure import sublattices
    >>> table = pd.DataFrame({"y": range(20), "x": range(20), "amplitude": [1.0, 3.0] * 10})
    >>> sublattices(table, n=2).tolist()[:4]
    [1, 0, 1, 0]
    """
    column_positions(table)
    check_integer("n", n, optional=True)
    if lattice is None:
        values = amplitudes(table, by)[0]
        return _series(_by_brightness(values, n), values, table)
    check_lattice(lattice, table)
    values = amplitudes(table, by)[0] if by in table else np.ones(len(table))
    if n is None:
        return _series(_split(lattice.site, values), values, table)
    if n > len(lattice.sites):
        raise ValueError(
            f"n must be at most {len(lattice.sites)}, the number of sites of the lattice, but is {n}: omit lattice to "
            "divide columns by brightness alone"
        )
    return _series(_merged(lattice.site, values, n), values, table)


def _series(label: NDArray, values: NDArray, table: pd.DataFrame) -> pd.Series:
    """Labels in order of decreasing median brightness."""
    kinds = np.unique(label[label >= 0])
    brightness = np.array([finite_median(values[label == kind], -np.inf) for kind in kinds])
    order = kinds[np.argsort(-brightness, kind="stable")]
    ranked = np.full(len(label), -1, dtype=np.int64)
    for rank, kind in enumerate(order):
        ranked[label == kind] = rank
    return pd.Series(ranked, index=table.index, name="sublattice")


def _by_brightness(values: NDArray, n: int | None) -> NDArray[np.int64]:
    """Kinds of brightness; -1 if it is not positive."""
    label = np.full(len(values), -1)
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(values) & (values > 0)
    logs = np.log(values[usable])[:, None]
    if n is not None and len(np.unique(logs)) < n:
        raise ValueError(f"n must be at most the number of different amplitudes, {len(np.unique(logs))}, but is {n}")
    model = _mixture(logs, n) if n is not None else _best_mixture(logs)
    label[usable] = 0 if model is None else model.predict(logs)
    return label


def _best_mixture(logs: NDArray) -> GaussianMixture | None:
    """The mixture of separated components with the smallest criterion; None for a single kind."""
    most = min(CONSTANTS.max_kinds, len(logs) // CONSTANTS.min_columns, len(np.unique(logs)))
    if most < 2:
        return None
    single = _mixture(logs, 1).bic(logs)
    models = [_mixture(logs, n) for n in range(2, most + 1)]
    models = [m for m in models if _are_separated(m) and m.bic(logs) < single]
    return min(models, key=lambda m: m.bic(logs)) if models else None


def _mixture(logs: NDArray, n: int) -> GaussianMixture:
    start = np.quantile(logs, (np.arange(n) + 0.5) / n)[:, None]
    least = CONSTANTS.min_variance + CONSTANTS.min_relative_variance * float(logs.var())
    models = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for means in (start, None):
            models.append(GaussianMixture(n, means_init=means, reg_covar=least, random_state=0).fit(logs))
    return min(models, key=lambda m: m.bic(logs))


def _are_separated(model: GaussianMixture) -> bool:
    order = np.argsort(model.means_[:, 0])
    means, stds = model.means_[order, 0], np.sqrt(model.covariances_[order, 0, 0])
    wider = np.maximum(stds[1:], stds[:-1])
    return bool(
        (np.diff(means) > CONSTANTS.min_separation * wider).all() and (model.weights_ >= CONSTANTS.min_fraction).all()
    )


def _split(site: NDArray, values: NDArray) -> NDArray[np.int64]:
    """Sites, those of several kinds of brightness divided."""
    label = np.full(len(site), -1)
    count = 0
    for s in np.unique(site[site >= 0]):
        here = np.flatnonzero(site == s)
        kinds = np.maximum(_by_brightness(values[here], None), 0)
        label[here] = count + kinds
        count += int(kinds.max()) + 1
    return label


def _merged(site: NDArray, values: NDArray, n: int) -> NDArray[np.int64]:
    """Sites merged across all but the ``n - 1`` widest gaps of their median brightness."""
    middle = np.array([finite_median(values[site == s], -np.inf) for s in range(site.max() + 1)])
    order = np.argsort(-middle, kind="stable")
    gaps = np.log(np.maximum(middle[order[:-1]], 1e-300)) - np.log(np.maximum(middle[order[1:]], 1e-300))
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: n - 1])
    group = np.empty(len(order), dtype=np.int64)
    group[order] = np.searchsorted(cuts, np.arange(len(order)), side="left")
    return np.where(site >= 0, group[site], -1)
