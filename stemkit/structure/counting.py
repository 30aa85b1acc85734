"""Number of atoms in each column, from a Gaussian mixture of the integrated intensities."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stemkit.detection import Quality
from stemkit.parameters import check_integer, check_option
from stemkit.structure.mixtures import Mixture, Sample, expected_errors, fit_free, fit_library, refit, refit_library
from stemkit.structure.tables import amplitudes, check_table
from stemkit.tables import counted

__all__ = ["AtomCounts", "count_atoms"]

#: Flags of columns that are counted, but not used in the fit.
NOT_FITTED = Quality.EDGE | Quality.SATURATED | Quality.FAULTY_PIXELS | Quality.ODD_SHAPE | Quality.GUIDED
CRITERIA = ("icl", "bic")


@dataclass(frozen=True)
class _Constants:
    """Constants of the counting of atoms."""

    #: Fewest columns for a fit (chosen).
    min_columns: int = 10
    #: Expected error rate up to which counts are considered reliable to an atom (chosen).
    max_error_rate: float = 0.1
    #: Smallest fraction of the columns in a component that is more than a few unusual columns (chosen).
    min_component: float = 0.02
    #: Samples that are drawn for the expected error rate (chosen: its relative error is below 5 % in 200 columns).
    n_draws: int = 30
    #: Probability of the range of counts of a column (chosen).
    range_probability: float = 0.95
    #: Difference of a criterion up to which another number of components or scale of the library is as good (chosen: a
    #: ratio of likelihoods of 20).
    max_criterion_difference: float = 6.0


CONSTANTS = _Constants()


@dataclass(frozen=True, eq=False)
class AtomCounts:
    """Counts of atoms, the mixture that they follow from, and how reliable they are.

    Parameters
    ----------
    columns : DataFrame
        With the table's index: the intensity; ``count``, ``probability`` (of this count), ``count_low`` and
        ``count_high`` (95 % of the probability), ``deviation`` (of the intensity from the mean of its count, standard
        deviations), ``fitted`` (whether the column was used in the fit) and ``reason`` (why it was not, or why it has
        no count). Counts are ``Int64`` and missing without an intensity.
    components : DataFrame
        One row per number of atoms: ``count, mean, weight, n`` (columns with this count) and ``error`` (probability
        that such a column has another count, from the overlap of the components).
    criteria : DataFrame
        ``bic`` and ``icl`` for each number of components that was tried; lower is better. Empty with a library.
    width : float
        Standard deviation of the components.
    scale : float
        Factor of the library's intensities; NaN without a library.
    error_rate, error_rate_err : float
        Expected fraction of columns with a wrong count, and its standard deviation for as many columns.
    beyond_one : float
        Expected fraction of columns whose count is wrong by more than one atom.
    countable : bool
        Whether atoms can be counted in these intensities.
    verdict : str
        The same in words, with the reason.
    """

    columns: pd.DataFrame
    components: pd.DataFrame
    criteria: pd.DataFrame
    width: float
    scale: float
    error_rate: float
    error_rate_err: float
    beyond_one: float
    countable: bool
    verdict: str

    def __repr__(self) -> str:
        n = int(self.columns["count"].notna().sum())
        return f"AtomCounts({counted(n, 'column')}, {counted(len(self.components), 'component')}: {self.verdict})"


def count_atoms(
    table: pd.DataFrame,
    *,
    by: str = "intensity",
    library: ArrayLike | None = None,
    scale: float | tuple[float, float] = 1.0,
    first: int = 1,
    n_components: int | None = None,
    max_components: int = 25,
    criterion: str = "icl",
    exclude: ArrayLike | None = None,
    random_state: int | np.random.Generator | None = 0,
) -> AtomCounts:
    """Count the atoms of each column from its integrated intensity.

    Parameters
    ----------
    table : DataFrame
        Columns of one image, all of one element. Intensities are those of
        ``AtomDetector(common_width=True, background=value)``, or sums of :func:`voronoi_intensities` in another column.
    by : str, default="intensity"
        Column of the table that is counted.
    library : array-like of shape (k, 2), optional
        Numbers of atoms and their intensities, simulated or known, in increasing order. The means of the components
        are then those of the library times one scale.
    scale : float or (float, float), default=1.0
        Scale of the library: 1 if its intensities are on the same absolute scale as those of the table. For a range of
        two numbers it is fitted.
    first : int, default=1
        Number of atoms of the first component without a library: intensities do not contain it.
    n_components : int, optional
        Number of components without a library. By default it is determined.
    max_components : int, default=25
        Largest number that is tried.
    criterion : {"icl", "bic"}, default="icl"
        Criterion whose minimum determines the number of components. BIC finds components that overlap, ICL only those
        that are separated.
    exclude : Series or array-like of bool of shape (n,), optional
        Columns that are not used in the fit, such as those at the rim of a particle. They are counted.
    random_state : int, Generator or None, default=0
        Of the samples from which the error rate follows.

    Returns
    -------
    AtomCounts

    Raises
    ------
    ValueError
        If there are fewer than 10 columns to fit, or options are impossible.

    See Also
    --------
    voronoi_intensities : Sums over the pixels nearest to each column, of any signal.
    stemkit.plotting.show_counts : Counts on the image.
    stemkit.plotting.show_mixture : Histogram of intensities with the mixture.

    Notes
    -----
    Intensities of columns with g atoms are normally distributed around a mean, with one standard deviation for all g
    [1]_. Weights, means and width maximise the likelihood (expectation maximisation, from several starts). The number
    of components minimises the integrated completed likelihood, BIC plus twice the entropy of the assignments [2]_.
    With a library the means are ``scale * library``, and only weights, scale and width are fitted [3]_, so that numbers
    of which there are no columns do not shift the counts. Of several scales that fit, the one with the lowest BIC is
    used, in which the means between the lowest and the highest intensity count as parameters.

    Columns at the border of the image, saturated ones and others with faulty pixels or of odd shape are not used in the
    fit, but they are counted. Those whose fit failed have no count.

    The error rate is that of 30 samples that are drawn from the mixture and fitted in the same way, with the number of
    components given: it contains the overlap of the components and the errors of their means. It does not contain a
    wrong number of components, a wrong ``first``, or intensities that are not normally distributed. Atoms are
    considered countable if more than one component is found (without a library: with at least 2 % of the columns
    each, and two), the error rate is at most 10 %, and no other number of components, or scale of the library,
    describes the intensities as well: their criteria differ by at least 6. Without a library, of 225
    samples of 40 to 300 columns whose components overlap, 5 were called countable in error; of 60 samples whose
    components are separated, 2 were not called countable.

    References
    ----------
    .. [1] Van Aert et al., Phys. Rev. B 87, 064107 (2013), https://doi.org/10.1103/PhysRevB.87.064107
    .. [2] De Backer et al., Ultramicroscopy 134, 23 (2013), https://doi.org/10.1016/j.ultramic.2013.05.003
    .. [3] De wael et al., Ultramicroscopy 177, 69 (2017), https://doi.org/10.1016/j.ultramic.2016.12.011

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import count_atoms
    >>> rng = np.random.default_rng(0)
    >>> atoms = rng.integers(1, 6, 200)
    >>> table = pd.DataFrame({"y": 0.0, "x": range(200), "intensity": 10.0 * atoms + rng.normal(0, 1, 200)})
    >>> counts = count_atoms(table)
    >>> counts.countable, bool((counts.columns["count"] == atoms).all())
    (True, True)
    """
    check_table(table)
    check_integer("first", first, 0)
    values, reason = _intensities(table, by, exclude)
    sample = Sample.from_values(values[reason == ""])
    rng = np.random.default_rng(random_state)
    if len(sample.values) == 0 or sample.size < CONSTANTS.min_columns:
        raise ValueError(
            f"table must contain at least {CONSTANTS.min_columns} columns to fit, but contains "
            f"{int(sample.size)} with an intensity, away from the border, and not excluded"
        )
    if library is not None:
        numbers, means = _library(library)
        limits = _scale_limits(scale)
        fits = fit_library(sample, means, limits)
        mixture, factor = fits[0]
        rates = _draw_errors(mixture, numbers, sample.size, rng, (means, limits[0] < limits[1]))
        criteria, others = pd.DataFrame(), _other_scales(fits, sample)
    else:
        mixture, criteria = _free(sample, _choices(n_components, max_components, sample), criterion)
        numbers, factor = first + np.arange(len(mixture.means)), float("nan")
        rates = _draw_errors(mixture, numbers, sample.size, rng, None)
        as_good = criteria.index[criteria[criterion] - criteria[criterion].min() < CONSTANTS.max_criterion_difference]
        others = list(as_good[as_good != len(numbers)])
    columns = _counts(table, by, values, reason, mixture, numbers)
    components = _components(mixture, numbers, columns["count"])
    countable, verdict = _verdict(components["n"].to_numpy()[mixture.weights > 0], rates.any_error, criteria, others)
    return AtomCounts(
        columns, components, criteria, mixture.width, factor, rates.any_error, rates.any_error_std, rates.beyond_one,
        countable, verdict,
    )  # fmt: skip


@dataclass(frozen=True)
class _ErrorRates:
    """Fraction of wrong counts, its standard deviation, and the fraction that is wrong by more than one atom."""

    any_error: float
    any_error_std: float
    beyond_one: float


def _free(sample: Sample, choices: range, criterion: str) -> tuple[Mixture, pd.DataFrame]:
    """The mixture with the lowest criterion among numbers of components, and the criteria of all."""
    check_option("criterion", criterion, CRITERIA)
    fits: list[Mixture] = []
    for k in choices:
        fits.append(fit_free(sample, k, fits[-1] if fits else None))
    rows = {"bic": [f.bic(sample) for f in fits], "icl": [f.icl(sample) for f in fits]}
    criteria = pd.DataFrame(rows, index=pd.Index(choices, name="n_components"))
    return fits[int(np.argmin(criteria[criterion]))], criteria


def _draw_errors(
    mixture: Mixture, numbers: NDArray, size: float, rng: np.random.Generator, library: tuple[NDArray, bool] | None
) -> _ErrorRates:
    """Wrong counts in samples that are drawn from a mixture and fitted."""
    wrong, beyond = [], []
    for _ in range(CONSTANTS.n_draws):
        true = rng.choice(len(numbers), int(size), p=mixture.weights / mixture.weights.sum())
        values = rng.normal(mixture.means[true], mixture.width)
        drawn = Sample.from_values(values)
        fit = refit(drawn, mixture) if library is None else refit_library(drawn, mixture, *library)
        difference = np.abs(numbers[fit.assigned(values)] - numbers[true])
        wrong.append((difference > 0).mean())
        beyond.append((difference > 1).mean())
    return _ErrorRates(float(np.mean(wrong)), float(np.std(wrong)), float(np.mean(beyond)))


def _components(mixture: Mixture, numbers: NDArray, count: pd.Series) -> pd.DataFrame:
    parts = {
        "count": numbers,
        "mean": mixture.means,
        "weight": mixture.weights,
        "n": count.value_counts().reindex(numbers, fill_value=0).to_numpy(),
        "error": expected_errors(mixture),
    }
    return pd.DataFrame(parts)


def _counts(
    table: pd.DataFrame, by: str, values: NDArray, reason: NDArray, mixture: Mixture, numbers: NDArray
) -> pd.DataFrame:
    known = np.flatnonzero(np.isfinite(values))
    probability = mixture.probabilities(values[known])
    best = probability.argmax(axis=1)
    cumulated = probability.cumsum(axis=1)
    low = (cumulated > (1 - CONSTANTS.range_probability) / 2).argmax(axis=1)
    high = (cumulated >= 1 - (1 - CONSTANTS.range_probability) / 2 - 1e-12).argmax(axis=1)
    result = table[[c for c in ("y", "x", by) if c in table]].copy()
    for name, index in (("count", best), ("count_low", low), ("count_high", high)):
        result[name] = pd.array([pd.NA] * len(table), dtype="Int64")
        result.iloc[known, -1] = numbers[index]
    for name, found in (
        ("probability", probability[np.arange(len(known)), best]),
        ("deviation", (values[known] - mixture.means[best]) / mixture.width),
    ):
        result[name] = np.nan
        result.iloc[known, -1] = found
    return result.assign(fitted=reason == "", reason=reason)


def _verdict(n: NDArray, rate: float, criteria: pd.DataFrame, others: list[float] | list[int]) -> tuple[bool, str]:
    """Whether atoms are countable with n columns per component, and why."""
    free = len(criteria) > 0  # the means of a library are known, those of single columns are not
    common = n[n >= max(2, CONSTANTS.min_component * n.sum())] if free else n
    if len(n) > 1 and len(common) < 2:
        return False, f"not countable: {n.max()} of {n.sum()} columns have about the same intensity"
    if len(common) < 2:
        more = int(criteria["bic"].idxmin()) if len(criteria) else 1
        preferred = f"; BIC prefers {more}, which overlap" if more > 1 else ""
        return False, f"not countable: only one component is separated{preferred}"
    stated = f"{100 * rate:.2g} % of the counts are expected to be wrong"
    if rate > CONSTANTS.max_error_rate:
        return False, f"not countable to an atom: {stated}"
    if others:
        kind = "numbers of components" if len(criteria) else "scales of the library"
        values = ", ".join(f"{value:.3g}" for value in others)
        return False, f"not countable: other {kind} describe the intensities as well ({values})"
    return True, f"countable: {stated}"


def _other_scales(fits: list[tuple[Mixture, float]], sample: Sample) -> list[float]:
    """Scales of other fits that are as good as the best one and assign other counts."""
    best, own = fits[0][0].bic(sample), fits[0][0].assigned(sample.values)
    return [
        factor
        for fit, factor in fits[1:]
        if fit.bic(sample) - best < CONSTANTS.max_criterion_difference
        and (fit.assigned(sample.values) != own).mean() > CONSTANTS.max_error_rate
    ]


def _intensities(table: pd.DataFrame, by: str, exclude: ArrayLike | None) -> tuple[NDArray[np.float64], NDArray]:
    """Values, and why ``(n,)`` each is not used in the fit."""
    values = amplitudes(table, by)[0]
    reason = np.full(len(table), "", dtype=object)
    if exclude is not None:
        mask = np.asarray(exclude.reindex(table.index) if isinstance(exclude, pd.Series) else exclude)
        if mask.shape != (len(table),) or mask.dtype != bool:
            raise ValueError(f"exclude must be one True or False per column of the table, {len(table)}")
        reason[mask] = "excluded"
    if "quality" in table:
        quality = table["quality"].to_numpy()
        for row in np.flatnonzero(quality & NOT_FITTED):
            reason[row] = Quality.describe(quality[row] & NOT_FITTED)
    reason[~np.isfinite(values)] = "no intensity"
    return values, reason


def _library(library: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    rows = np.asarray(library, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != 2 or len(rows) < 2:
        raise ValueError(f"library must have two or more rows (atoms, intensity), but has shape {rows.shape}")
    if not np.isfinite(rows).all() or (np.diff(rows, axis=0) <= 0).any() or (rows[:, 0] != np.round(rows[:, 0])).any():
        raise ValueError(
            "library must have integer numbers of atoms and intensities, both increasing: sort it, and leave out "
            "thicknesses at which the intensity no longer increases"
        )
    return rows[:, 0].astype(np.int64), rows[:, 1]


def _scale_limits(scale: float | tuple[float, float]) -> tuple[float, float]:
    limits = np.asarray(scale, dtype=np.float64)
    limits = np.repeat(limits, 2) if limits.ndim == 0 else limits
    if limits.shape != (2,) or not 0 < limits[0] <= limits[1] < np.inf:
        raise ValueError(f"scale must be a positive number, or a range of two in increasing order, but is {scale!r}")
    return float(limits[0]), float(limits[1])


def _choices(n_components: int | None, max_components: int, sample: Sample) -> range:
    check_integer("n_components", n_components, optional=True)
    check_integer("max_components", max_components)
    if n_components is not None:
        return range(n_components, n_components + 1)
    return range(1, min(max_components, max(len(np.unique(sample.values)) // 2, 1)) + 1)
