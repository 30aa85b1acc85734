"""Alignment of the scan lines of an image with its lattice of columns."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse
from scipy.sparse.linalg import spsolve
from sklearn.utils.validation import check_is_fitted

from stemkit.estimators import ImageTransformer, image_by_image, loaded
from stemkit.images.containers import Images, float_dtype, join, split
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.provenance import RECORDED, digest, step_record, was_averaged
from stemkit.noise.displacement_parts import NO_PARTS, DisplacementParts
from stemkit.noise.lattice_prior import MIN_DEVIATION, cauchy_weight, nearest_vectors, second_differences
from stemkit.noise.registration import SLOW, BeamDisplacement
from stemkit.noise.separation import FittedCrystal, separate_specimen
from stemkit.noise.shift_estimates import ShiftEstimates
from stemkit.noise.spectrum import drift_factor, drift_spectrum
from stemkit.pixels import faulty_pixels, filled
from stemkit.statistics import robust_rms

__all__ = ["RowAligner"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the alignment."""

    #: Rows are registered on at most this many px of their middle (chosen).
    widest: int = 1024
    #: Most estimates of displacements (columns times rows) of an image (chosen).
    max_estimates: int = 2**23
    #: Standard deviation of the prior of a row, as a fraction of the RMS displacement, at least (chosen).
    min_jitter: float = 0.2
    #: Elements of the prior's factor below this fraction of the RMS displacement are 0 (chosen).
    negligible: float = 1e-4
    #: Standard deviation of the second differences in the first round, as a fraction of the RMS displacement (chosen).
    first_deviation: float = 0.3
    #: Slow displacements of an image with drift are removed up to this many times their RMS (tuned on 24 synthetic
    #: images: 1 leaves more of the drift, 2 removes more of the specimen's strain).
    max_drift: float = 1.5
    #: Rounds in which second differences are weighted anew (chosen).
    rounds: int = 6


CONSTANTS = _Constants()
#: Median of the square of a normal number over its mean (derived).
MEDIAN_SQUARE = 0.455


class RowAligner(ImageTransformer):
    """Remove the jitter of the beam from images: each scan line is shifted along x to where the lattice puts it.

    Columns are fitted, and the displacement of every row is estimated at each of them. The displacement of a row is
    what its columns have in common, unless the lattice explains it: a column is expected midway between its opposite
    neighbours, so that rows of columns do not move together. Strain, shear and drift bend a lattice slowly: slow
    displacements stay in the image as far as they exceed the jitter.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None: that of the image (``attrs["mode"]``), or inferred from it.

    Attributes
    ----------
    shifts_ : list of ndarray of shape (n_y,)
        Displacement of the beam in each row of the fitted images, px: pixel x was recorded at ``x + shift``.
    n_images_ : int
        Number of fitted images.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image, and for a denoised one.

    Warns
    -----
    UserWarning
        If an image has no lattice of columns; it is returned unchanged.

    See Also
    --------
    NoiseCalibrator : used after it; calibrates the residual jitter.

    Notes
    -----
    With a displacement ``d_y`` of row y, an error ``e_c`` of the position of column c, and estimates ``t_cy`` of weight
    ``w_cy``, the cost ``sum w (t - d + e)^2 + d^T K^-1 d + sum (second difference of x + e)^2 / s^2`` is minimised:
    second differences, of standard deviation s, are those between opposite neighbours by a lattice vector, with Cauchy
    weights where the lattice is broken, and K is the measured covariance of the displacements (jitter, drift and hum).
    Rows are shifted by cubic splines, which interpolates noise, too: it becomes slightly smoother where the shift is
    half a pixel. Of jitter that changes along the row the mean is removed. Displacements slower than three lattice
    vectors may be strain. They are removed, at each frequency, only up to the amplitude of the jitter at the other
    frequencies, where displacements can only be the rows'; if these show a drift, up to 1.5 times the RMS of jitter and
    drift. Strain along y below this amplitude is removed with them.

    References
    ----------
    .. [1] Jones and Nellist, "Identifying and correcting scan noise and drift in the scanning transmission electron
       microscope", Microsc. Microanal. 19, 1050 (2013), https://doi.org/10.1017/S1431927613001402

    Examples
    --------
    >>> from stemkit import NoiseModel, RowAligner, ScanNoise, STEMSynthesizer
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=16.0, angle=8.0)
    >>> true_image = STEMSynthesizer().record(crystal)["enhance"]
    >>> jittered = NoiseModel(scan=ScanNoise(jitter=0.5)).apply(true_image, random_state=0)
    >>> straight = RowAligner().fit_transform(jittered)
    >>> bool(((straight - true_image) ** 2).mean() < ((jittered - true_image) ** 2).mean() / 4)
    True
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def fit(self, X: Images, y: object = None) -> Self:
        """Measure the displacements of the rows.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images, ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        images = self._validated(X)
        self.shifts_ = []
        # so that fit_transform does not measure each image twice
        self._known: dict[str, NDArray[np.float64]] = {}
        for image in map(loaded, images):
            self.shifts_.append(_row_shifts(_check_recorded(image), self.mode))
            self._known[digest(image.values)] = self.shifts_[-1]
        self.n_images_ = len(images)
        return self

    @image_by_image()
    def transform(self, X: Images) -> Images:
        """The images with their rows aligned.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images. The displacements of each are its own, measured again unless it was fitted.

        Returns
        -------
        Same type as ``X``
            Without ``attrs["noise"]``, since alignment changes the noise. Faulty pixels are interpolated before the
            rows are shifted; ``attrs["stemkit"]`` records this, and later steps do not search for them again.
        """
        check_is_fitted(self, "shifts_")
        return join([self._aligned(_check_recorded(image)) for image in split(X)], X)

    def _aligned(self, image: xr.DataArray) -> xr.DataArray:
        shifts = self._known.get(digest(image.values))
        if shifts is None:
            shifts = _row_shifts(image, self.mode)
        attrs = {k: v for k, v in image.attrs.items() if k != "noise"} | {"stemkit": step_record(image, "straighten")}
        # an interpolated faulty pixel is several pixels wide, and interpolated single counts are mistaken for faults
        values = filled(image.values, faulty_pixels(image.values, averaged=was_averaged(image)))
        out = image.copy(data=_shift_back(values, shifts).astype(float_dtype(image.dtype)))
        out.attrs = attrs
        return out


def _check_recorded(image: xr.DataArray) -> xr.DataArray:
    if RECORDED in image.coords:
        raise ValueError(
            "X must be recorded images, but this one is denoised (it carries its recorded pixels as the coordinate "
            f'"{RECORDED}"): put RowAligner before the denoiser, or give image.stem.recorded'
        )
    return image


def _row_shifts(image: xr.DataArray, mode: str | None) -> NDArray[np.float64]:
    """Displacement of each row, px."""
    n_y, n_x = image.shape
    faulty = faulty_pixels(image.values, averaged=was_averaged(image))
    bright = filled(image.values, faulty).astype(np.float64) * mode_sign(resolve_mode(image, mode))
    left = max(0, (n_x - CONSTANTS.widest) // 2)
    part = slice(None), slice(left, left + CONSTANTS.widest)
    most = max(1, CONSTANTS.max_estimates // n_y)
    crystal = separate_specimen(bright[part], faulty=faulty[part], most_columns=most, row_length=n_x).crystal
    if crystal is not None:
        return _crystal_shifts(crystal)
    if np.ptp(bright) > 0:
        warnings.warn(
            "no lattice of columns was found in the image: its rows are left where they are", UserWarning, stacklevel=4
        )
    return np.zeros(n_y)


def _crystal_shifts(crystal: FittedCrystal) -> NDArray[np.float64]:
    """Displacement of each row along x, px."""
    found, positions = crystal.displacement_x, crystal.positions
    if found.rms == 0:
        return np.zeros(len(found.shifts))
    vectors = nearest_vectors(positions) if crystal.vectors is None else crystal.vectors
    rows = _displacements(crystal.estimates, positions, vectors, _Prior.of(found))
    return _limit_slow(rows, SLOW * float(np.hypot(*vectors.T).min()), found.parts)


def _limit_slow(rows: NDArray, longest: float, parts: DisplacementParts = NO_PARTS) -> NDArray[np.float64]:
    """Displacements with those slower than ``longest`` rows limited to the amplitude expected from the others.

    Strain is slow, and belongs to the specimen. Jitter has the same amplitude at every frequency, drift that of its
    spectrum. The former is measured at the other frequencies, where a smooth drift has next to none; with drift, the
    calibrated amplitudes are used.
    """
    waves = fft.dct(rows, norm="ortho")
    slow = np.arange(len(rows)) < 2 * len(rows) / longest
    if slow.all() or not slow.any():
        return rows
    if parts.drift:
        expected = parts.jitter**2 + parts.drift**2 * drift_spectrum(len(rows), parts.drift_rows)[slow]
        limit = CONSTANTS.max_drift * np.sqrt(expected)
    else:
        limit = np.full(int(slow.sum()), math.sqrt(float(np.median(waves[~slow] ** 2)) / MEDIAN_SQUARE))
    waves[slow] = np.clip(waves[slow], -limit, limit)
    waves[0] = 0.0
    return fft.idct(waves, norm="ortho")


def _shift_back(values: NDArray, shifts: NDArray) -> NDArray:
    """Each row at ``x - shift``, by cubic splines; rows without displacement keep their pixels."""
    out = np.array(values, dtype=np.float64)
    for row, shift in enumerate(shifts):
        if shift != 0:
            out[row] = ndimage.shift(out[row], shift, order=3, mode="nearest")
    return out


# --- the least-squares problem -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prior:
    """Prior of the rows' displacements: jitter (px), and ``factor @ z`` for independent z of unit variance.

    ``factor`` is of shape ``(n_y, n)``: drift and hum. ``displacement`` is the RMS of all parts, px.
    """

    jitter: float
    displacement: float
    factor: sparse.csr_matrix

    @classmethod
    def of(cls, found: BeamDisplacement) -> _Prior:
        parts, n_y = found.parts, len(found.shifts)
        if not (parts.drift or parts.hum):
            return cls(found.jitter, found.rms, sparse.csr_matrix((n_y, 0)))
        factors = []
        if parts.drift:
            factors.append(parts.drift * drift_factor(n_y, parts.drift_rows))
        if parts.hum:
            angle = 2 * np.pi * parts.hum_frequency * np.arange(n_y)
            factors.append(parts.hum / math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1))
        factor = np.hstack(factors)
        factor[np.abs(factor) < CONSTANTS.negligible * found.rms] = 0.0
        # of a displacement that changes along the row, its mean is removed
        jitter = max(parts.jitter, CONSTANTS.min_jitter * found.rms)
        return cls(jitter, found.rms, sparse.csr_matrix(factor))


def _displacements(
    estimates: ShiftEstimates, positions: NDArray, vectors: NDArray, prior: _Prior
) -> NDArray[np.float64]:
    """Rows' displacements for a lattice that bends slowly, by iteratively reweighted least squares."""
    differences = second_differences(positions, vectors)
    equations = _Equations.of(estimates, prior)
    rows, errors = np.zeros(estimates.n_rows), np.zeros(len(positions))
    deviation = max(MIN_DEVIATION, CONSTANTS.first_deviation * prior.displacement)
    for _ in range(CONSTANTS.rounds):
        values = differences @ (positions[:, 1] + errors)
        # the scatter between the columns is that of the lattice, not of broken places
        deviation = max(MIN_DEVIATION, min(deviation, robust_rms(values) if len(values) else deviation))
        weighted = sparse.diags(np.sqrt(cauchy_weight(values, deviation)) / deviation) @ differences
        rows, errors = equations.solve(weighted, weighted @ positions[:, 1])
    return rows - rows.mean()


@dataclass(frozen=True)
class _Equations:
    """Normal equations for the displacements of the rows, the errors of the columns, and drift and hum."""

    weight: sparse.csr_matrix
    weighted_shift: sparse.csr_matrix
    jitter_weight: float
    shared: sparse.csr_matrix
    own: sparse.csr_matrix

    @classmethod
    def of(cls, estimates: ShiftEstimates, prior: _Prior) -> _Equations:
        weight, weighted = estimates.sparse(estimates.weight), estimates.sparse(estimates.weight * estimates.shift)
        for matrix in (weight, weighted):
            matrix.sum_duplicates()
            matrix.eliminate_zeros()
        jitter_weight = prior.jitter**-2.0
        shared = jitter_weight * prior.factor
        own = sparse.eye(prior.factor.shape[1]) + prior.factor.T @ shared
        return cls(weight, weighted, jitter_weight, shared, own)

    def solve(self, differences: sparse.csr_matrix, values: NDArray) -> tuple[NDArray, NDArray]:
        """Displacements of the rows and errors of the columns, px, for weighted second differences of these values."""
        n_columns, n_rows = self.weight.shape
        by_row, by_column = (np.asarray(self.weight.sum(axis)).ravel() for axis in (0, 1))
        zeros = sparse.csr_matrix((n_columns, self.shared.shape[1]))
        lattice = differences.T @ differences + sparse.diags(by_column + 1e-9 * by_column.max())
        matrix = sparse.bmat(
            [
                [sparse.diags(by_row + self.jitter_weight), -self.weight.T, -self.shared],
                [-self.weight, lattice.tocsc(), zeros],
                [-self.shared.T, zeros.T, self.own],
            ]
        ).tocsc()
        right = np.r_[
            np.asarray(self.weighted_shift.sum(0)).ravel(),
            -np.asarray(self.weighted_shift.sum(1)).ravel() - differences.T @ values,
            np.zeros(self.shared.shape[1]),
        ]
        solution = spsolve(matrix, right)
        return solution[:n_rows], solution[n_rows : n_rows + n_columns]
