"""Registration of the rows to the columns: displacement of the beam in each row from its estimates at the columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.constants import TINY
from stemkit.noise.displacement_parts import NO_PARTS, DisplacementParts
from stemkit.noise.hum import fit_hum, lattice_frequency_bands
from stemkit.noise.lattice_prior import LatticePrior, second_differences
from stemkit.noise.pair_covariance import (
    MAX_COLUMNS,
    NO_PAIRS,
    CorrelationLength,
    PairCovariance,
    fit_correlation_length,
    pair_covariance,
)
from stemkit.noise.posterior import RowPosterior
from stemkit.noise.row_information import RowInformation
from stemkit.noise.shift_estimates import ShiftEstimates
from stemkit.noise.spectrum import RowSpectrum, band_basis
from stemkit.noise.spectrum_fit import VARIANCE_ERROR, fit_displacement_spectra

__all__ = ["SLOW", "BeamDisplacement", "no_displacement", "register_in_parts", "register_rows"]

#: Displacements that change more slowly than over this many lattice vectors may be the specimen's (chosen).
SLOW = 3.0
#: Fewest rows with an estimate for which jitter is distinguished from noise (chosen).
FEWEST_ROWS = 8
#: Columns whose pairs give the variance within a row along y, where no length is sought (chosen).
MAX_COLUMNS_Y = 200
#: Standard deviations beyond which two estimates of the jitter contradict each other (chosen).
CONTRADICTORY = 2.5
#: Error of the part of the drift's and the hum's variance that the columns' free parameters leave, as a fraction of the
#: variance (chosen; where recorded images contradicted a drift, 0.15 or more was left).
ABSORBED_ERROR = 0.05
#: A drift along y with less than this many times the variance that misfits of the columns add to a row is rejected: it
#: may be a misfit's (chosen: recorded images have ratios of 5 to 6, or 75).
LEAST_OVER_MISFIT = 16.0
#: Error of the squared jitter caused by the columns' model, as a fraction of it (chosen).
MODEL_ERROR = 0.02


@dataclass(frozen=True)
class BeamDisplacement:
    """Displacement of the beam along x, or along y.

    Parameters
    ----------
    shifts : ndarray of shape (n_y, n_x)
        Expected displacement given the estimates at the columns, px.
    lag, error_covariance : ndarray of shape (n_lags,)
        Covariance (px squared) along the row of the error of ``shifts``, in rows with many estimates; lags in px.
    jitter, jitter_std : float
        RMS displacement in this image of the part that is independent between rows, and the standard deviation of
        this RMS, px.
    length, length_std : float
        Length of this part along the row, px, as in :class:`stemkit.ScanNoise`; ``inf``: rows are displaced as a whole.
    distance, covariance : ndarray of shape (n_bins,)
        Covariance of the displacements at two columns of a row against their distance (px squared, px).
    parts : DisplacementParts
        Drift and hum in this image. Its ``jitter`` is that of the mean of a row.
    spectrum : RowSpectrum or None
        Spectrum to which the parts were fitted.
    pairs : PairCovariance or None
        ``covariance`` with its errors.
    """

    shifts: NDArray[np.float64]
    lag: NDArray[np.float64]
    error_covariance: NDArray[np.float64]
    jitter: float
    jitter_std: float
    length: float
    length_std: float
    distance: NDArray[np.float64]
    covariance: NDArray[np.float64]
    parts: DisplacementParts = NO_PARTS
    spectrum: RowSpectrum | None = None
    pairs: PairCovariance | None = None

    @property
    def rms(self) -> float:
        """RMS displacement, all parts together, px."""
        return math.sqrt(self.jitter**2 + self.parts.drift**2 + self.parts.hum**2 / 2)

    def error_covariance_at(self, lags: NDArray) -> NDArray[np.float64]:
        """``error_covariance`` at other lags; constant beyond the last one."""
        return np.interp(lags, self.lag, self.error_covariance)


def no_displacement(shape: tuple[int, int]) -> BeamDisplacement:
    """The displacement 0 of an image without estimates."""
    zero = np.zeros(1)
    return BeamDisplacement(np.zeros(shape), zero, zero, 0.0, math.nan, math.inf, math.nan, *np.empty((2, 0)))


def register_rows(
    estimates: ShiftEstimates, shape: tuple[int, int], *, find_length: bool = True, excluded: NDArray | None = None
) -> BeamDisplacement:
    """Displacements with all of them attributed to jitter, the columns' own positions left free.

    Parameters
    ----------
    estimates : ShiftEstimates
    shape : (n_y, n_x)
    find_length : bool
        False assumes that rows are displaced as a whole.
    excluded : ndarray of shape (n_bands, 2), optional
        Ranges of the frequency, cycles per row, in which displacements of whole rows may be the specimen's.

    Notes
    -----
    Estimates are ``d_y - q_cy e_c + noise``, with the displacement of the row and the errors of the column's parameters
    (its position; along y its amplitude and width, too), whose modes q are orthonormal. With those eliminated, the
    rows' information is ``S = diag(sum_c w_cy) - sum_c (w q)_c (w q)_c^T`` and ``S^-1 u`` their estimate; along the
    eigenvectors of S, u has the variance ``lambda + jitter^2 lambda^2``, which gives the jitter by maximum likelihood
    (restricted: Patterson and Thompson 1971, doi:10.1093/biomet/58.3.545). The displacements are their expectation
    under it, and the RMS is that of the image at hand: ``E[sum d^2]``, with its variance ``sum 2 P^2 + 4 d^2 P`` for a
    posterior covariance of eigenvalues P.

    Where the covariance between columns of a row decreases with their distance, the displacement is a field along the
    row, ``jitter^2 exp(-distance^2 / (4 length^2))``, and its expectation that of a Gaussian process.
    """
    if _too_few(estimates):
        return no_displacement(shape)
    pairs = pair_covariance(estimates) if find_length else NO_PAIRS
    rows = RowInformation.of(estimates, ambiguous=band_basis(shape[0], excluded))
    return _as_jitter(estimates, shape, rows, pairs, find_length=find_length)


def register_in_parts(
    along_x: ShiftEstimates,
    along_y: ShiftEstimates,
    shape: tuple[int, int],
    spacing: float,
    *,
    row_length: int | None = None,
    vectors: NDArray | None = None,
    positions: NDArray | None = None,
    as_jitter: tuple[BeamDisplacement | None, BeamDisplacement | None] = (None, None),
) -> tuple[BeamDisplacement, BeamDisplacement]:
    """Displacements along x and along y, divided into jitter, drift and hum.

    Parameters
    ----------
    along_x, along_y : ShiftEstimates
    shape : (n_y, n_x)
    spacing : float
        Shortest distance of columns, px; it replaces the lattice vectors where they are not known.
    row_length : int, optional
        Pixels of a whole row, where ``shape`` is that of a part of the image.
    vectors : ndarray of shape (2, 2), optional
        Lattice vectors ``(y, x)``, px.
    positions : ndarray of shape (n_columns, 2), optional
        Positions ``(y, x)`` of the columns, px.
    as_jitter : pair of BeamDisplacement or None
        Those that attribute all of the displacement to jitter; returned where there is neither drift nor hum.

    Notes
    -----
    :func:`stemkit.noise.spectrum_fit.fit_displacement_spectra` divides the spectrum of the rows' displacements. The
    drift of each row is its expectation given the estimates, its RMS that of the image at hand. A column's own position
    is free: displacements much slower than a column is high appear only as its slant, which all columns have in common
    with an astigmatic probe; the mean slope of the drift over the image is therefore not measured.
    """
    if _too_few(along_x) or _too_few(along_y):
        return no_displacement(shape), no_displacement(shape)
    min_frequency = 1 / (SLOW * (spacing if vectors is None else float(np.hypot(*vectors.T).min())))
    lattice = None if vectors is None or positions is None else (second_differences(positions, vectors), positions)
    bands = lattice_frequency_bands(vectors, shape[1])
    axes = []
    for axis, estimates, known in zip((1, 0), (along_x, along_y), as_jitter, strict=True):
        prior = None if lattice is None else LatticePrior.of(lattice[0], lattice[1][:, axis], estimates.weight.sum(1))
        ambiguous = None if axis == 1 else band_basis(shape[0], bands)
        axes.append(_Axis.of(estimates, prior, known, MAX_COLUMNS if axis == 1 else MAX_COLUMNS_Y, ambiguous))
    length = row_length or shape[1]
    fitted = fit_displacement_spectra([axis.spectrum for axis in axes], bands, min_frequency=min_frequency)
    posteriors = [
        RowPosterior.of(
            axis.rows.eigenvalues, axis.rows.eigenvectors, parts, min_frequency=min_frequency, excluded=bands
        )
        for axis, parts in zip(axes, fitted, strict=True)
    ]
    fitted = fit_hum([axis.rows.estimates for axis in axes], posteriors, fitted, length)
    x, y = (_AxisInParts(*one) for one in zip(axes, fitted, posteriors, strict=True))
    return _divided(x, length, shape, find_length=True), _divided(y, length, shape, find_length=False)


@dataclass(frozen=True)
class _Axis:
    """Estimates along one axis, their information and spectrum, the displacement as jitter if it is known, and the
    basis of displacements of rows that may be the specimen's.
    """

    estimates: ShiftEstimates
    rows: RowInformation
    pairs: PairCovariance
    spectrum: RowSpectrum
    as_jitter: BeamDisplacement | None
    ambiguous: NDArray[np.float64] | None

    @classmethod
    def of(
        cls,
        estimates: ShiftEstimates,
        prior: LatticePrior | None,
        known: BeamDisplacement | None,
        max_columns: int,
        ambiguous: NDArray | None,
    ) -> _Axis:
        """Create from estimates, with the pair covariance of the known displacement if it has one."""
        pairs = None if known is None or known.pairs is NO_PAIRS else known.pairs
        pairs = pair_covariance(estimates, max_columns) if pairs is None else pairs
        rows = RowInformation.of(estimates, pairs.within_rows(), prior)
        return cls(estimates, rows, pairs, rows.spectrum(), known, ambiguous)


@dataclass(frozen=True)
class _AxisInParts:
    """One axis with its parts, and the posterior of its drift and jitter."""

    axis: _Axis
    parts: DisplacementParts
    posterior: RowPosterior


def _too_few(estimates: ShiftEstimates) -> bool:
    return bool((estimates.by_row(estimates.weight) > 0).sum() < FEWEST_ROWS)


def _as_jitter(
    estimates: ShiftEstimates, shape: tuple[int, int], rows: RowInformation, pairs: PairCovariance, *, find_length: bool
) -> BeamDisplacement:
    """All of the displacement attributed to jitter."""
    field = fit_correlation_length(pairs) if find_length else CorrelationLength()
    if math.isinf(field.length):
        mean = pairs.mean() if find_length else (0.0, math.inf)
        found = _whole_rows(rows, estimates.by_row(estimates.weight), mean, estimates.misfit)
        shifts, std = np.repeat(found.expected[:, None], shape[1], axis=1), (found.rms_std, math.nan)
        lag, error, rms = np.zeros(1), np.array([found.error_variance]), found.rms
    else:
        shifts, lag, error = _gaussian_process(estimates, field, shape)
        rms, std = field.rms, (field.rms_std, field.length_std)
    return BeamDisplacement(
        shifts, lag, error, rms, std[0], field.length, std[1], pairs.distance, pairs.covariance, pairs=pairs
    )


def _divided(divided: _AxisInParts, row_length: int, shape: tuple[int, int], *, find_length: bool) -> BeamDisplacement:
    """Drift and hum subtracted, the remainder registered as jitter; the known displacement where there is neither."""
    axis, parts, posterior = divided.axis, divided.parts, divided.posterior
    misfit = axis.estimates.misfit
    if axis.as_jitter is not None and not (parts.drift or parts.hum):
        return replace(axis.as_jitter, parts=parts.with_misfit(misfit), spectrum=axis.spectrum)
    n_y, n_x = shape
    free = RowInformation.of(axis.estimates, ambiguous=axis.ambiguous)
    if 0 < parts.drift**2 < LEAST_OVER_MISFIT * misfit or _contradicted(
        free, posterior.factor, parts, axis.pairs, row_length
    ):
        # drift and hum that are not seen if the columns' positions are free, or that misfits cause: the specimen's
        found = axis.as_jitter or _as_jitter(axis.estimates, shape, free, axis.pairs, find_length=find_length)
        fitted = axis.spectrum.highest(len(parts.fitted))
        return replace(found, parts=parts.jitter_only(fitted).with_misfit(misfit), spectrum=axis.spectrum)
    y = np.arange(n_y)
    hum = parts.hum_at(y[:, None] + np.arange(n_x) / row_length)
    row = axis.estimates.row
    hum_at_columns = parts.hum_at(row + axis.estimates.x[:, None] / row_length)
    score = axis.rows.score_of(axis.estimates.shift - hum_at_columns)
    drift, in_image = posterior.drift(score, parts)
    in_image = in_image.with_misfit(misfit)
    factor = posterior.factor * (in_image.drift / parts.drift if parts.drift else 1.0)
    common = _common_covariance(free, factor, in_image, axis.pairs, row_length)
    rest = axis.estimates.shifted(-hum_at_columns - drift[row])
    found = _as_jitter(rest, shape, free.with_shift(rest.shift), axis.pairs.minus(common), find_length=find_length)
    if in_image.drift and math.isinf(found.length):
        squared, squared_std = posterior.jitter(score, in_image)
        noise = VARIANCE_ERROR * n_y / max(float(axis.rows.eigenvalues.sum()), TINY)
        squared_std = math.hypot(squared_std, noise, MODEL_ERROR * squared, misfit)
        found = replace(found, jitter=math.sqrt(squared), jitter_std=_root_std(squared, squared_std))
    shifts = found.shifts + hum + drift[:, None]
    return replace(found, shifts=shifts, covariance=axis.pairs.covariance, parts=in_image, spectrum=axis.spectrum)


def _root_std(squared: float, std: float) -> float:
    """Standard deviation of a root whose square has this one; near zero it is the square that is normal."""
    return std / (2 * math.sqrt(max(squared, std / 2)))


def _contradicted(
    free: RowInformation, factor: NDArray, parts: DisplacementParts, pairs: PairCovariance, row_length: int
) -> bool:
    """Whether drift and hum would make the covariance of the pairs larger than it is."""
    mean, error = pairs.mean()
    expected = float(_common_covariance(free, factor, parts, pairs, row_length).mean())
    absorbed = ABSORBED_ERROR * (parts.drift**2 + parts.hum**2 / 2)
    return expected > mean + CONTRADICTORY * error + absorbed


def _common_covariance(
    free: RowInformation, factor: NDArray, parts: DisplacementParts, pairs: PairCovariance, row_length: int
) -> NDArray[np.float64]:
    """Covariance at the distances of the pairs by drift (of this factor) and hum, px squared."""
    drift = free.mean_pair_covariance(factor)
    if not parts.hum:
        return np.full(len(pairs.distance), drift)
    angle = 2 * np.pi * parts.hum_frequency * np.arange(free.n_rows)
    waves = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    hum = parts.hum**2 / 2 * free.mean_pair_covariance(waves)
    return drift + hum * np.cos(2 * np.pi * parts.hum_frequency * pairs.distance / row_length)


# --- rows that are displaced as a whole --------------------------------------------------------------------------


@dataclass(frozen=True)
class _WholeRows:
    """Expected displacement of each row ``(n_y,)``, the variance of its error, and the RMS with its error, px."""

    expected: NDArray[np.float64]
    error_variance: float
    rms: float
    rms_std: float


def _whole_rows(rows: RowInformation, weight: NDArray, pairs: tuple[float, float], misfit: float) -> _WholeRows:
    """Rows with the jitter of the largest likelihood.

    ``weight`` is that of all estimates of each row. ``pairs`` is the mean covariance of columns in a row, to which
    noise does not contribute, and its error: it replaces the likelihood's variance where they contradict each other.
    ``misfit`` is a variance that the columns' model may cause.
    """
    reduced, n = rows.matrix.tridiagonal, len(weight)
    noise = n / float(np.trace(rows.matrix.values))

    def agreed(variance: float) -> float:
        doubt = math.hypot(pairs[1], VARIANCE_ERROR * noise)
        return max(pairs[0], 0.0) if abs(variance - pairs[0]) > CONTRADICTORY * doubt else variance

    variance = agreed(rows.jitter_variance())
    rotated = variance * reduced.shrunk(variance, reduced.rotated(rows.score))
    posterior = variance / (1 + variance * np.maximum(reduced.eigenvalues, 0.0))
    expected = reduced.rotated_back(rotated)
    # the mean of all rows is the position of the image, not jitter
    squared = float((rotated**2).sum() + posterior.sum()) / n - float(expected.mean()) ** 2 - variance / n
    squared = agreed(max(squared, 0.0))
    scatter = variance * float(rotated @ reduced.shrunk(variance, rotated))
    std = math.sqrt(2 * float((posterior**2).sum()) + 4 * scatter) / n
    std = math.hypot(std, VARIANCE_ERROR * noise, MODEL_ERROR * squared, misfit)
    # the columns' positions, which are free, remove no more of the noise
    typical = float((weight * variance / (1 + variance * weight)).sum() / weight.sum())
    return _WholeRows(expected - expected.mean(), typical, math.sqrt(squared), _root_std(squared, std))


# --- displacements that change along the row ---------------------------------------------------------------------


def _gaussian_process(
    estimates: ShiftEstimates, field: CorrelationLength, shape: tuple[int, int]
) -> tuple[NDArray, NDArray, NDArray]:
    """Expected displacement ``(n_y, n_x)``, and lags and covariance ``(n_lags,)`` of its error along the row.

    The field is sampled on nodes along x and interpolated by its covariance.
    """
    n_y, n_x = shape
    step = float(np.clip(0.7 * field.length, 6.0, None))
    nodes = np.arange(-step / 2, n_x + step, step)

    def kernel(a: NDArray, b: NDArray) -> NDArray:
        return field.rms**2 * np.exp(-((a[:, None] - b[None, :]) ** 2) / (4 * field.length**2))

    inverse = np.linalg.inv(kernel(nodes, nodes) + 1e-6 * field.rms**2 * np.eye(len(nodes)))
    to_columns = kernel(estimates.x, nodes) @ inverse
    products = (to_columns[:, :, None] * to_columns[:, None, :]).reshape(len(to_columns), -1)
    weight, weighted = (estimates.sparse(one) for one in (estimates.weight, estimates.weight * estimates.shift))
    information = (weight.T @ products).reshape(n_y, len(nodes), len(nodes))
    score = weighted.T @ to_columns
    covariance = np.linalg.inv(inverse[None] + information)
    expected = (covariance @ score[:, :, None])[:, :, 0]
    to_pixels = kernel(np.arange(n_x, dtype=float), nodes) @ inverse
    fraction = estimates.by_row(estimates.weight) / estimates.weight.sum()
    error = to_pixels @ np.einsum("y,yij->ij", fraction, covariance) @ to_pixels.T
    lag = np.unique(np.r_[0:9, 12, 16, 24, 32, 48, 64, np.arange(96, n_x // 2, 32)]).astype(float)
    lag = lag[lag < n_x - 1]
    return expected @ to_pixels.T, lag, np.array([np.diagonal(error, int(k)).mean() for k in lag])
