"""Point defects of a crystal, and the smallest ones that the image could have shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.spatial import cKDTree

from stemkit.detection import Quality
from stemkit.parameters import check_fraction
from stemkit.structure.cells import CellIndex
from stemkit.structure.covariance import PositionCovariance
from stemkit.structure.defect_tables import by_column, by_missing_site, discoveries
from stemkit.structure.lattice import Lattice, check_lattice
from stemkit.structure.local_trend import N_RINGS, LocalTrend, local_trend, null_quantile, null_tail
from stemkit.structure.multiple_tests import benjamini_hochberg, critical_p_value, local_false_discovery_rate
from stemkit.structure.tables import amplitudes, check_index, column_positions
from stemkit.structure.vacancies import MAX_SITE_DISTANCE, missing_sites
from stemkit.tables import counted

if TYPE_CHECKING:
    from stemkit.detection import AtomDetector

__all__ = ["PointDefects", "point_defects"]

#: Flags of columns whose brightness is not compared with that of others.
NOT_COMPARED = Quality.FAILED | Quality.EDGE | Quality.SATURATED | Quality.FAULTY_PIXELS
#: Longest distance of a column between the sites from a column on one, shortest distances of sites (chosen: it is in
#: the crystal).
IN_CRYSTAL = 1.0
#: Least error of a change, fraction of the expected brightness (chosen: images without noise have rounding errors).
MIN_ERROR = 1e-6


@dataclass(frozen=True, eq=False)
class PointDefects:
    """Point defects, and everything that was tested.

    Parameters
    ----------
    defects : DataFrame
        The discoveries, most significant first: ``kind``; ``y, x``; ``column``, the index of the column in the table,
        missing for a vacancy; ``site`` of the lattice, -1 for an interstitial; and the results listed below.

        - ``"vacancy"``: a site without a column;
        - ``"weak"``: a column that is weaker than its neighbours predict: a partial vacancy, or lighter atoms;
        - ``"strong"``: one that is stronger: heavier atoms, or an adatom on the column;
        - ``"interstitial"``: a column that is on no site: an interstitial, or an adatom between the columns;
        - ``"displaced"``: a column next to a site without one.
    columns : DataFrame
        All columns, with the table's index: ``kind`` (empty if it is no discovery), the results, and ``reason``, why a
        column was not tested.
    missing : DataFrame
        Sites without a column, as of :func:`missing_sites`, with the same.
    n_tests : float
        Number of tests among which false discoveries are controlled: sites, and independent places between them.
    false_discovery_rate : float
    power : float
        Probability with which a change of the size ``detectable`` would have been found.
    interstitial_limit : float
        Amplitude of a column between the sites that would have been found with this probability; NaN if unknown.

    Notes
    -----
    Results are

    - the brightness, ``expected`` from the neighbours, ``change`` from it with its error, and ``fraction``, the
      brightness divided by the expected one; for interstitials the expected brightness is 0;
    - ``significance`` (standard deviations, negative for weak columns), ``p_value``, ``q_value`` (adjusted for all
      tests), and ``probability`` that it is a defect;
    - ``detectable``, the smallest change that would have been found, as a fraction of ``expected``: the detection
      limit.
    """

    defects: pd.DataFrame
    columns: pd.DataFrame
    missing: pd.DataFrame
    n_tests: float
    false_discovery_rate: float
    power: float
    interstitial_limit: float

    def __repr__(self) -> str:
        return f"PointDefects({self.verdict})"

    @property
    def verdict(self) -> str:
        """The result in words."""
        n = self.defects["kind"].value_counts()
        names = [
            ("vacancy", "vacancy", "vacancies"),
            ("weak", "weak column", None),
            ("strong", "strong column", None),
            ("interstitial", "interstitial", None),
            ("displaced", "displaced column", None),
        ]
        found = [counted(int(n[kind]), one, more) for kind, one, more in names if kind in n]
        limit = float(np.nanmedian(self.columns["detectable"])) if self.columns["detectable"].notna().any() else np.nan
        untested = int((self.missing["reason"] != "").sum())
        parts = [f"{', '.join(found) or 'no point defects'} at a false discovery rate of {self.false_discovery_rate:g}"]
        if np.isfinite(limit):
            parts.append(f"changes by {100 * limit:.0f} % are found with {100 * self.power:.0f} % probability (median)")
        else:
            parts.append("no column has enough neighbours to be tested")
        if untested:
            parts.append(f"{counted(untested, 'site')} without a column not tested")
        return "; ".join(parts)


def point_defects(
    table: pd.DataFrame,
    lattice: Lattice,
    image: xr.DataArray | NDArray | None = None,
    detector: AtomDetector | None = None,
    *,
    false_discovery_rate: float = 0.05,
    power: float = 0.9,
    by: str = "amplitude",
) -> PointDefects:
    """Test all sites of a crystal for point defects, and all columns between them.

    Parameters
    ----------
    table : DataFrame
        All columns of one image, those with quality flags included.
    lattice : Lattice
        ``fit_lattice(table)``, or one of ``fit_lattices(table)``.
    image : DataArray or ndarray of shape (n_y, n_x), optional
        The image in which the columns were measured.
    detector : AtomDetector, optional
        The fitted detector that measured them. It measures the brightness at the sites without a column, which are not
        tested otherwise.
    false_discovery_rate : float, default=0.05
        Expected fraction of false ones among the defects that are listed, over the whole image.
    power : float, default=0.9
        Probability of finding a change of the size ``detectable``.
    by : str, default="amplitude"
        Column of the table that is the brightness: ``"amplitude"`` or ``"intensity"``.

    Returns
    -------
    PointDefects

    Raises
    ------
    ValueError
        If the rate or the power is not between 0 and 1, the table lacks the brightness, only one of image and detector
        is given, or the lattice was fitted to another table.

    See Also
    --------
    find_vacancies : Sites without a column only.
    weak_columns : Without control of false discoveries.
    stemkit.plotting.show_defects : The defects on the image.
    stemkit.plotting.show_detection_limit : The detection limit on the image.

    Notes
    -----
    The brightness of a column is compared with the value of a plane fitted to its neighbours of the same sublattice in
    the two rings of cells around it, so that the thickness may vary. The standard deviation of the difference contains
    the error of the column, the scatter of the columns of the sublattice beyond the errors, and the error of the plane.
    Scatter is estimated from the median absolute deviation, which few defects do not change, and a t distribution
    accounts for its uncertainty. Its tails are those of a normal distribution: contamination whose scatter is
    not normal is reported as defects. If a third of a sublattice is substituted, the substitution counts as scatter.

    A column between the sites is tested against the maxima of noise. At independent places of the size
    ``2 pi sigma^2``, noise has ``u exp(-u^2 / 2) / (2 sqrt(2 pi))`` maxima per place above u standard deviations [1]_,
    if it is searched with a column of the width sigma. False columns that are due to the shape of bright ones are not
    noise: see ``residual`` in the table.

    p-values of all tests are adjusted together [2]_, weighted such that all sites and all places between them count
    equally [3]_. ``probability`` is 1 less the local false discovery rate. The
    detection limit is the change at which the p-value of one more defect is significant with the probability
    ``power``. The image does not distinguish defects of the same brightness, nor where along the beam they are.

    References
    ----------
    .. [1] Adler and Taylor, Random Fields and Geometry, Springer (2007), https://doi.org/10.1007/978-0-387-48116-6
    .. [2] Benjamini and Hochberg, J. R. Stat. Soc. B 57, 289 (1995), https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
    .. [3] Genovese et al., Biometrika 93, 509 (2006), https://doi.org/10.1093/biomet/93.3.509

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from stemkit.structure import fit_lattice, point_defects
    >>> rng = np.random.default_rng(0)
    >>> y, x = np.mgrid[0:12, 0:12].reshape(2, -1) * 0.4
    >>> table = pd.DataFrame({"y": y, "x": x, "amplitude": rng.normal(1, 0.03, 144), "amplitude_err": 0.03})
    >>> table.loc[77, "amplitude"] = 1.3
    >>> point_defects(table, fit_lattice(table)).defects[["kind", "column", "site"]]
         kind  column  site
    0  strong      77     0
    """
    check_lattice(lattice, table)
    check_index(table)
    check_fraction("false_discovery_rate", false_discovery_rate)
    check_fraction("power", power)
    if (image is None) != (detector is None):
        raise ValueError("image and detector must be given both, to measure sites without a column, or neither")
    values, errors = amplitudes(table, by)
    reason = _reasons(table, values, lattice)
    compared = np.where(reason == "", values, np.nan)
    missing = missing_sites(table, lattice, by=by).drop(columns=["expected", "spread"])
    columns = column_positions(table)
    width = PositionCovariance.from_table(columns, table).width
    on_sites = _tested_columns(lattice, compared, errors, reason)
    brightness = _measured_at(missing, table, image, detector, by)
    at_missing = _tested_missing(missing, *brightness, _trend_at(missing, lattice, compared, errors))
    between = _tested_between(columns.positions, values, errors, lattice, missing)
    tests = pd.concat([on_sites, at_missing, between], ignore_index=True)
    area = int((lattice.site >= 0).sum()) * abs(np.linalg.det(lattice.vectors)) / len(lattice.sites)
    n_tests = _Numbers(int(tests.loc[tests["site"] >= 0, "p_value"].notna().sum()), area / (2 * np.pi * width**2))
    _adjust(tests, n_tests)
    critical = critical_p_value(tests["q_value"].to_numpy(), n_tests.total, false_discovery_rate)
    _add_detection_limit(tests, critical / n_tests.weight(on_site=True), power)
    found = tests["q_value"] <= false_discovery_rate
    tests.loc[~found, "kind"] = ""
    return PointDefects(
        discoveries(table, missing, tests[found], by),
        by_column(table, tests, by, reason),
        by_missing_site(missing, tests, by),
        n_tests.total,
        float(false_discovery_rate),
        float(power),
        _interstitial_limit(tests, critical / n_tests.weight(on_site=False), power),
    )


@dataclass(frozen=True)
class _Numbers:
    """Numbers of tests: of sites, and of independent places between them."""

    sites: float
    places: float

    @property
    def total(self) -> float:
        return self.sites + self.places

    def weight(self, on_site: bool) -> float:
        """Factor of the p-values by which sites and places together count equally, whatever their numbers."""
        return 2 * max(self.sites if on_site else self.places, 1.0) / max(self.total, 1.0)


def _adjust(tests: pd.DataFrame, n_tests: _Numbers) -> None:
    """Add p-values that are adjusted for all tests, and probabilities."""
    weighted = tests["p_value"].to_numpy(dtype=np.float64).copy()
    tests["probability"] = np.nan
    for on_site, number in ((True, n_tests.sites), (False, n_tests.places)):
        chosen = (tests["site"] >= 0).to_numpy() == on_site
        tests.loc[chosen, "probability"] = 1 - local_false_discovery_rate(weighted[chosen], number)
        weighted[chosen] = np.minimum(weighted[chosen] * n_tests.weight(on_site), 1.0)
    tests["q_value"] = benjamini_hochberg(weighted, n_tests.total)


def _reasons(table: pd.DataFrame, values: NDArray, lattice: Lattice) -> NDArray:
    """Reason ``(n,)`` why the brightness of a column is not compared with its neighbours; empty if it is compared."""
    reason = np.full(len(table), "", dtype=object)
    reason[lattice.site < 0] = "on no site"
    if "quality" in table:
        quality = table["quality"].to_numpy()
        for row in np.flatnonzero(quality & NOT_COMPARED):
            reason[row] = Quality.describe(quality[row] & NOT_COMPARED)
    reason[~np.isfinite(values)] = "no brightness"
    return reason


def _tested_columns(lattice: Lattice, values: NDArray, errors: NDArray, reason: NDArray) -> pd.DataFrame:
    """Columns on sites."""
    rows = np.flatnonzero((lattice.site >= 0) & (reason == ""))
    neighbors = CellIndex(lattice).neighbors(lattice.indices[rows], lattice.site[rows], N_RINGS)
    trend = local_trend(neighbors, lattice.site[rows], lattice.vectors, values, errors, rows)
    reason[rows[np.isnan(trend.expected)]] = "too few neighbours"
    tests = _compared(values[rows], errors[rows], trend)
    tests["p_value"] = np.minimum(2 * null_tail(tests["significance"].abs().to_numpy(), trend.freedom), 1.0)
    tests["kind"] = np.where(tests["change"] < 0, "weak", "strong")
    return tests.assign(row=rows, place=-1, site=lattice.site[rows], sides=2)


def _measured_at(
    missing: pd.DataFrame,
    table: pd.DataFrame,
    image: xr.DataArray | NDArray | None,
    detector: AtomDetector | None,
    by: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Brightness that the detector measures at sites without a column, and its error; NaN without a detector."""
    if detector is None or image is None or missing.empty:
        return np.full(len(missing), np.nan), np.full(len(missing), np.nan)
    return amplitudes(detector.measure(image, missing, neighbors=table, fix_positions=True), by)


def _tested_missing(missing: pd.DataFrame, values: NDArray, errors: NDArray, trend: LocalTrend) -> pd.DataFrame:
    """Sites without a column."""
    tests = _compared(values, errors, trend)
    tests["p_value"] = null_tail(-tests["significance"].to_numpy(), trend.freedom)
    place = np.arange(len(missing))
    return tests.assign(kind="vacancy", row=-1, place=place, site=missing["site"].to_numpy(), sides=1)


def _trend_at(missing: pd.DataFrame, lattice: Lattice, values: NDArray, errors: NDArray) -> LocalTrend:
    """Prediction of the neighbours for sites without a column; all columns determine the scatter."""
    if missing.empty:
        return LocalTrend(*np.empty((3, 0)))
    rows = np.flatnonzero((lattice.site >= 0) & np.isfinite(values))
    cells = np.concatenate([missing[["i", "j"]].to_numpy(dtype=np.int64), lattice.indices[rows]])
    site = np.concatenate([missing["site"].to_numpy(dtype=np.int64), lattice.site[rows]])
    own = np.concatenate([np.full(len(missing), -1), rows])
    neighbors = CellIndex(lattice).neighbors(cells, site, N_RINGS)
    trend = local_trend(neighbors, site, lattice.vectors, values, errors, own)
    n = len(missing)
    return LocalTrend(trend.expected[:n], trend.variance[:n], trend.freedom[:n])


def _compared(values: NDArray, errors: NDArray, trend: LocalTrend) -> pd.DataFrame:
    error = np.sqrt(errors**2 + trend.variance + (MIN_ERROR * trend.expected) ** 2)
    change = values - trend.expected
    with np.errstate(divide="ignore", invalid="ignore"):
        fraction, significance = values / trend.expected, change / error
    columns = {
        "value": values, "error": errors, "expected": trend.expected, "change": change, "change_err": error,
        "fraction": fraction, "significance": significance, "freedom": trend.freedom,
    }  # fmt: skip
    return pd.DataFrame(columns)


def _tested_between(
    positions: NDArray, values: NDArray, errors: NDArray, lattice: Lattice, missing: pd.DataFrame
) -> pd.DataFrame:
    """Columns inside the crystal that are on no site."""
    used = np.flatnonzero(lattice.site >= 0)
    rows = np.flatnonzero((lattice.site < 0) & np.isfinite(values))
    near = cKDTree(positions[used]).query(positions[rows])[0] <= IN_CRYSTAL * lattice.shortest
    rows = rows[near]
    kind = np.full(len(rows), "interstitial", dtype=object)
    if len(missing) and len(rows):
        distance = cKDTree(missing[["y", "x"]].to_numpy()).query(positions[rows])[0]
        kind[distance <= MAX_SITE_DISTANCE * lattice.shortest] = "displaced"
    error = np.where(errors[rows] > 0, errors[rows], np.nan)
    u = values[rows] / error
    columns = {
        "value": values[rows], "error": error, "expected": 0.0, "change": values[rows], "change_err": error,
        "fraction": np.nan, "significance": u, "freedom": np.inf, "p_value": maxima_of_noise(u), "kind": kind,
        "row": rows, "place": -1, "site": -1, "sides": 1,
    }  # fmt: skip
    return pd.DataFrame(columns)


def maxima_of_noise(u: NDArray) -> NDArray[np.float64]:
    """Expected number of maxima of noise above u standard deviations per place ``2 pi sigma^2``, at most 1.

    The field is white noise filtered with a Gaussian of the width sigma, with the autocorrelation
    ``exp(-r^2 / (4 sigma^2))``. It has ``u exp(-u^2 / 2) / (2 sigma^2 (2 pi)^(3/2))`` maxima above u per area, for
    u > 1.
    """
    u = np.asarray(u, dtype=np.float64)
    return np.where(u > 1, u * stats.norm.pdf(u) / 2, np.where(np.isnan(u), np.nan, 1.0))


def _add_detection_limit(tests: pd.DataFrame, critical: float, power: float) -> None:
    """Smallest change at each site that would have been a discovery, as a fraction of the expected brightness."""
    sides, freedom = tests["sides"].to_numpy(), tests["freedom"].to_numpy(dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        quantile = null_quantile(critical / sides, freedom) + stats.norm.ppf(power)
        tests["detectable"] = quantile * tests["change_err"] / tests["expected"]
    tests.loc[tests["site"] < 0, "detectable"] = np.nan


def _interstitial_limit(tests: pd.DataFrame, critical: float, power: float) -> float:
    """Amplitude between the sites that would have been a discovery, for the median error of places without a column."""
    empty = tests.loc[(tests["site"] < 0) | (tests["row"] < 0), "error"].dropna()
    if len(empty) == 0:
        return float("nan")
    most = float(stats.norm.isf(max(critical, 1e-300)) + 2)
    u = optimize.brentq(lambda u: float(maxima_of_noise(np.array(u))) - critical, 1.0 + 1e-9, most) if most > 1 else 1.0
    return float((u + stats.norm.ppf(power)) * empty.median())
