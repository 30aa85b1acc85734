"""Separation of specimen and noise: fits of the columns of an image and registration of its rows alternate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.columns import ColumnFits, render_columns
from stemkit.noise.column_search import complete_columns, find_faint_columns, find_first_columns, fit_significant
from stemkit.noise.hum import lattice_frequency_bands
from stemkit.noise.registration import BeamDisplacement, no_displacement, register_in_parts, register_rows
from stemkit.noise.shift_estimates import ShiftEstimates, derivative, estimate_shifts, noise_variance
from stemkit.noise.valid_pixels import valid_pixels
from stemkit.periodicity import central_crop, find_periodicity

__all__ = ["FittedCrystal", "Separation", "separate_specimen"]

#: Rows are registered to at most this many columns: their estimates need most of the memory (chosen).
MAX_COLUMNS = 1200


@dataclass(frozen=True)
class _Constants:
    """Constants of the separation."""

    #: Rounds of fitting and registration (chosen: displacements of 2 px need three), ...
    rounds: int = 3
    #: ... and more of them until the rows have settled (chosen).
    extra_rounds: int = 2
    #: Rows have settled if a round changes their displacement along x by less than this, RMS px (chosen).
    settled: float = 0.1
    #: RMS displacement, in widths of a column, beyond which rows were registered to the wrong columns (chosen).
    max_displacement: float = 1.5
    #: The lattice is determined on a square of this side, px (chosen).
    lattice_square: int = 512
    #: Smallest spacing of columns for which they are fitted, px (chosen).
    min_spacing: float = 4.0
    #: Shortest side of an image in which columns are fitted, px (chosen).
    min_side: int = 16
    #: Variance of a faulty pixel over the largest of the others: it has no weight (chosen).
    faulty_variance: float = 1e12


CONSTANTS = _Constants()


@dataclass(frozen=True)
class FittedCrystal:
    """The columns of an image, and the displacement of the beam while it recorded them.

    Parameters
    ----------
    fits : ColumnFits
    complete : ColumnFits
        Those of ``fits`` on pixels that are not faulty; all of them where too few are.
    vectors : ndarray of shape (2, 2) or None
        Lattice vectors ``(y, x)``, px.
    jitter_x, jitter_y : BeamDisplacement
        Displacements along x and along y, attributed to jitter as a whole: those that the columns were fitted with.
    displacement_x, displacement_y : BeamDisplacement
        Displacements along x and along y, divided into jitter, drift and hum.
    estimates : ShiftEstimates
        Displacements along x of each row at a subset of the columns.
    positions : ndarray of shape (n_columns, 2)
        Positions ``(y, x)`` of these columns, px.
    """

    fits: ColumnFits
    complete: ColumnFits
    vectors: NDArray[np.float64] | None
    jitter_x: BeamDisplacement
    jitter_y: BeamDisplacement
    displacement_x: BeamDisplacement
    displacement_y: BeamDisplacement
    estimates: ShiftEstimates
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class Separation:
    """One image separated into specimen and noise, in its own units, columns bright; all arrays ``(n_y, n_x)``.

    Parameters
    ----------
    residual : ndarray
        The image without its fitted columns: background and noise.
    signal : ndarray
        The columns and the smoothed residual: an estimate of the image without noise.
    valid : ndarray of bool
        Pixels of the crystal that are not faulty, and that no column beyond the border or in a faulty area reaches,
        which is not fitted; none of the vacuum or support next to the crystal.
    spacing : float or None
        Shortest distance of columns, px.
    width : float
        Sigma of the columns, px; a guess without them.
    crystal : FittedCrystal or None
        None without columns.
    """

    residual: NDArray[np.float64]
    signal: NDArray[np.float64]
    valid: NDArray[np.bool_]
    spacing: float | None
    width: float
    crystal: FittedCrystal | None = None

    @property
    def fits(self) -> ColumnFits | None:
        """The fitted columns, None without them."""
        return None if self.crystal is None else self.crystal.fits


def separate_specimen(
    bright: NDArray,
    *,
    faulty: NDArray | None = None,
    most_columns: int = MAX_COLUMNS,
    row_length: int | None = None,
) -> Separation:
    """Fit the columns of an image and register its rows to them, alternately.

    Parameters
    ----------
    bright : ndarray of shape (n_y, n_x)
        One image, columns bright, its faulty pixels filled.
    faulty : ndarray of bool, shape (n_y, n_x), optional
        Faulty pixels: rows are not registered on them, and they are not ``valid``.
    most_columns : int
        Rows are registered to at most this many columns, evenly chosen.
    row_length : int, optional
        Pixels of a whole row, where ``bright`` is a part of the image.

    Returns
    -------
    Separation
        Without a lattice or with fewer than four columns no columns are fitted.

    Notes
    -----
    Columns are peaks of the image filtered with a Gaussian of a fifth of the spacing, and peaks of the residual of the
    first fits that exceed the noise (faint sublattices).
    """
    values = np.asarray(bright, dtype=np.float64)
    bad = np.zeros(values.shape, dtype=bool) if faulty is None else faulty
    periodicity = find_periodicity(central_crop(values, CONSTANTS.lattice_square))
    spacing = periodicity.spacing
    small = spacing is None or spacing < CONSTANTS.min_spacing or min(values.shape) < CONSTANTS.min_side
    if spacing is None or small:
        return _without_columns(values, spacing, bad)
    image = _Image(values, bad, spacing, most_columns, periodicity.vectors)
    registered = _fit_and_register(image)
    if registered is None:
        return _without_columns(values, spacing, bad)
    columns = render_columns(registered.fits, values.shape, registered.shifts)
    crystal = _crystal(image, registered, columns, row_length)
    residual = values - columns
    width = float(np.median(registered.fits.sigma))
    valid = valid_pixels(residual, bad, registered.fits, spacing, registered.jitter_x.rms)
    smooth = ndimage.gaussian_filter(residual, max(2.0, 0.5 * spacing))
    return Separation(residual, columns + smooth, valid, spacing, width, crystal)


def _without_columns(values: NDArray, spacing: float | None, bad: NDArray) -> Separation:
    width = 0.2 * spacing if spacing else 2.0
    smooth = ndimage.gaussian_filter(values, max(0.8, 0.5 * width))
    return Separation(values, smooth, ~bad, spacing, width)


# --- alternating fits and registration ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Image:
    """One image, columns bright, and the quantities that do not change between the rounds."""

    values: NDArray
    faulty: NDArray
    spacing: float
    most_columns: int
    vectors: NDArray | None

    @property
    def bands(self) -> NDArray[np.float64]:
        """Frequencies of the rows of columns, where a column that is not fitted appears as a displacement along y."""
        return lattice_frequency_bands(self.vectors, self.values.shape[1])

    def registered_columns(self, fits: ColumnFits) -> ColumnFits:
        """The columns that rows are registered to: at most ``most_columns``, evenly chosen."""
        n = len(fits)
        return fits.take(np.unique(np.linspace(0, n - 1, min(n, self.most_columns)).astype(int)))

    def estimates(
        self, fits: ColumnFits, shifts: NDArray, axes: Sequence[int], columns: NDArray | None = None
    ) -> list[ShiftEstimates]:
        """Displacements of each row along these axes at the columns; ``columns`` are the rendered fits."""
        columns = render_columns(fits, self.values.shape, shifts) if columns is None else columns
        residual = self.values - columns
        variances = noise_variance(residual, self.faulty, columns, float(np.median(fits.sigma)))
        for variance in variances:
            variance[self.faulty] = CONSTANTS.faulty_variance * float(variance.max())
        residual = residual - float(np.median(fits.background))
        chosen = self.registered_columns(fits)
        return [
            estimate_shifts(residual, derivative(columns, axis), chosen, shifts, variances[axis], axis=axis)
            for axis in axes
        ]

    def with_faint_columns(self, fits: ColumnFits, shifts: NDArray) -> ColumnFits:
        """The fits, and those of faint columns in their residual."""
        columns = render_columns(fits, self.values.shape, shifts)
        residual = self.values - columns
        _, variance = noise_variance(residual, self.faulty, columns, float(np.median(fits.sigma)))
        return find_faint_columns(residual, fits, self.spacing, variance)


@dataclass(frozen=True)
class _Registered:
    """Fits, the displacements ``(2, n_y, n_x)`` along y and x that they were made with, and their registration."""

    fits: ColumnFits
    shifts: NDArray
    jitter_x: BeamDisplacement
    jitter_y: BeamDisplacement


def _fit_and_register(image: _Image) -> _Registered | None:
    """Rounds of fits and registration; None where too few columns are fitted."""
    shape = image.values.shape
    fits = find_first_columns(image.values, image.spacing)
    shifts, jitter_y = np.zeros((2, *shape)), no_displacement(shape)
    for i in range(CONSTANTS.rounds + CONSTANTS.extra_rounds):
        if fits is None:
            return None
        # displacements along y are smaller: they are registered in two rounds, since more diverge for close columns
        x, *y = image.estimates(fits, shifts, (1, 0) if 0 < i < CONSTANTS.rounds else (1,))
        before = shifts[1]
        jitter_x = _plausible(register_rows(x, shape, find_length=i > 0), fits, no_displacement(shape))
        if y:
            found = register_rows(y[0], shape, find_length=False, excluded=image.bands)
            jitter_y = _plausible(found, fits, no_displacement(shape))
        shifts = np.stack([jitter_y.shifts, jitter_x.shifts])
        if i == 0:
            fits = image.with_faint_columns(fits, shifts)
        fits = fit_significant(image.values, fits.positions, float(np.median(fits.sigma)), shifts, 4)
        if i >= CONSTANTS.rounds - 1 and float(np.sqrt(((shifts[1] - before) ** 2).mean())) < CONSTANTS.settled:
            break
    return None if fits is None else _Registered(fits, shifts, jitter_x, jitter_y)


def _crystal(image: _Image, registered: _Registered, columns: NDArray, row_length: int | None) -> FittedCrystal:
    """The columns with the displacements divided into parts."""
    fits, jitter = registered.fits, (registered.jitter_x, registered.jitter_y)
    x, y = image.estimates(fits, registered.shifts, (1, 0), columns)
    chosen = image.registered_columns(fits)
    positions = chosen.positions
    parts = register_in_parts(
        x,
        y,
        image.values.shape,
        image.spacing,
        row_length=row_length,
        vectors=image.vectors,
        positions=positions,
        as_jitter=jitter,
    )
    parts_x, parts_y = (_plausible(one, fits, instead) for one, instead in zip(parts, jitter, strict=True))
    complete = complete_columns(fits, image.faulty)
    return FittedCrystal(fits, complete, image.vectors, *jitter, parts_x, parts_y, x, positions)


def _plausible(found: BeamDisplacement, fits: ColumnFits, instead: BeamDisplacement) -> BeamDisplacement:
    """The displacement, or another one if it is so large that rows were registered to the wrong columns."""
    return found if found.rms <= CONSTANTS.max_displacement * float(np.median(fits.sigma)) else instead
