"""Scan lines put back where the crystal says they were."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage, sparse
from scipy.sparse.linalg import spsolve
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.images import MEASURED, Images, digest, float_dtype, join, mode_sign, resolve_mode, split, warn_if_small
from stemkit.noise.bends import STIFFEST, neighbour_vectors, second_differences
from stemkit.noise.displacements import NO_PARTS, RowParts
from stemkit.noise.readings import Readings
from stemkit.noise.registration import Registration
from stemkit.noise.specimen import find_specimen
from stemkit.noise.spectrum import slow_factor, slow_spectrum
from stemkit.pixels import faulty_pixels, filled

__all__ = ["RowAligner"]

#: Rows are registered on at most this many px of their middle, and on at most this many readings in all.
WIDEST, MOST_READINGS = 1024, 2**23
#: Displacements that change more slowly than over this many lattice vectors may be the specimen's.
SLOW = 3.0
#: The prior of a row is at least this part of the RMS displacement wide, and factors of it below that part are left out
#: (chosen).
LEAST_JITTER, NEGLIGIBLE = 0.2, 1e-4
#: Rounds that give neighbours less weight where the lattice is broken; beyond this many deviations they lose it.
ROUNDS, BROKEN = 6, 3.0


class RowAligner(TransformerMixin, BaseEstimator):
    """Take the beam's jitter out of images: each scan line moves back, along x, to where the crystal says it was.

    Columns are fitted, and every row says how far it is off at each of them. What a whole row has in common is its
    displacement, if the lattice can't have it: a column is expected midway between its opposite neighbours, so that
    rows of columns don't move together. Strain, shear and drift bend a lattice slowly: slow displacements stay in the
    image as far as they exceed the jitter.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None asks the image, and infers it where the image does not say.

    Attributes
    ----------
    shifts_ : list of ndarray of shape (n_y,)
        Displacement of the beam in each row of the images that were fitted, px: pixel x had recorded ``x + shift``.
    n_images_ : int
        Number of images seen.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image, and for a denoised one.

    Warns
    -----
    UserWarning
        Where an image has no lattice of columns: it comes back as it is.

    See Also
    --------
    NoiseCalibrator : stands after it; the jitter that it finds is what is left.

    Notes
    -----
    With a displacement ``d_y`` of row y, an error ``e_c`` of column c's place, and readings ``t_cy`` of weight
    ``w_cy``, what is minimised is ``sum w (t - d + e)^2 + d^T K^-1 d + sum (second difference of x + e)^2 /
    stiffness^2`` over opposite neighbours by a lattice vector, with Cauchy weights where the lattice is broken, and
    with the covariance K of the displacements that was measured: jitter, drift and hum. Rows
    are shifted by cubic splines: noise is interpolated, too, and a little smoother where the shift is half a pixel.
    Jitter that changes along the row is straightened in its mean. Of displacements slower than three lattice vectors no
    more is taken away, at any frequency, than jitter and drift have at the others, where they can only be the rows':
    strain along y much below these is lost with them.

    References
    ----------
    .. [1] Jones and Nellist, "Identifying and correcting scan noise and drift in the scanning transmission electron
       microscope", Microsc. Microanal. 19, 1050 (2013), https://doi.org/10.1017/S1431927613001402

    Examples
    --------
    >>> from stemkit import NoiseModel, RowAligner, ScanNoise, STEMSynthesizer
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=16.0, angle=8.0)
    >>> clean = STEMSynthesizer().record(crystal)["enhance"]
    >>> torn = NoiseModel(scan=ScanNoise(jitter=0.5)).apply(clean, random_state=0)
    >>> straight = RowAligner().fit_transform(torn)
    >>> bool(((straight - clean) ** 2).mean() < ((torn - clean) ** 2).mean() / 4)
    True
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def fit(self, X: Images, y: object = None) -> RowAligner:
        """Measure the rows' displacements.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images, ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        images = [_recorded(image) for image in split(X)]
        for image in images:
            warn_if_small(image)
        self.shifts_ = [_row_shifts(image, self.mode) for image in images]
        # so that fit_transform does not measure each image twice
        self._known = {digest(i.values): shifts for i, shifts in zip(images, self.shifts_, strict=True)}
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> Images:
        """The images with their rows straightened, each measured by itself; without ``attrs["noise"]``."""
        check_is_fitted(self, "shifts_")
        return join([self._straightened(_recorded(image)) for image in split(X)], X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _straightened(self, image: xr.DataArray) -> xr.DataArray:
        shifts = self._known.get(digest(image.values))
        if shifts is None:
            shifts = _row_shifts(image, self.mode)
        out = image.copy(data=_moved_back(image.values, shifts).astype(float_dtype(image.dtype)))
        out.attrs = {k: v for k, v in image.attrs.items() if k != "noise"}
        return out


def _recorded(image: xr.DataArray) -> xr.DataArray:
    if MEASURED in image.coords:
        raise ValueError(
            "X must be recorded images, but this one is denoised (it carries its recorded pixels as the coordinate "
            f'"{MEASURED}"): put RowAligner before the denoiser, or give image.stem.measured'
        )
    return image


def _row_shifts(image: xr.DataArray, mode: str | None) -> NDArray[np.float64]:
    """Displacement of each row, px."""
    n_y, n_x = image.shape
    faulty = faulty_pixels(image.values)
    bright = filled(image.values, faulty).astype(np.float64) * mode_sign(resolve_mode(image, mode))
    left = max(0, (n_x - WIDEST) // 2)
    part = slice(None), slice(left, left + WIDEST)
    most = max(1, MOST_READINGS // n_y)
    specimen = find_specimen(bright[part], faulty=faulty[part], most_columns=most, row_length=n_x)
    if specimen.read is None or specimen.readings is None or specimen.registration is None:
        if np.ptp(bright) > 0:
            warnings.warn(
                "no lattice of columns was found in the image: its rows are left where they are",
                UserWarning,
                stacklevel=4,
            )
        return np.zeros(n_y)
    found = specimen.parts if specimen.parts is not None else specimen.registration
    if found.displacement == 0:
        return np.zeros(n_y)
    places = specimen.read
    vectors = specimen.vectors if specimen.vectors is not None else neighbour_vectors(places)
    rows = _displacements(specimen.readings, places, vectors, _Prior.of(found, n_y))
    return _without_slow(rows, SLOW * float(np.hypot(*vectors.T).min()), found.parts)


@dataclass(frozen=True)
class _Prior:
    """Distribution of the rows' displacements before they are read: jitter, and what ``factor`` (n_y, n) makes of
    independent numbers of unit variance, the drift and the hum.
    """

    jitter: float
    displacement: float
    factor: sparse.csr_matrix

    @classmethod
    def of(cls, found: Registration, n_y: int) -> _Prior:
        parts = found.parts
        if not (parts.drift or parts.hum):
            return cls(found.jitter, found.jitter, sparse.csr_matrix((n_y, 0)))
        factors = []
        if parts.drift:
            factors.append(parts.drift * slow_factor(n_y, parts.drift_rows))
        if parts.hum:
            angle = 2 * np.pi * parts.hum_frequency * np.arange(n_y)
            factors.append(parts.hum / math.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=1))
        factor = np.hstack(factors)
        factor[np.abs(factor) < NEGLIGIBLE * found.displacement] = 0.0
        # of a displacement that changes along the row, its mean counts
        jitter = max(parts.jitter, LEAST_JITTER * found.displacement)
        return cls(jitter, found.displacement, sparse.csr_matrix(factor))


def _without_slow(rows: NDArray, longest: float, parts: RowParts = NO_PARTS) -> NDArray[np.float64]:
    """Displacements of which those slower than some rows are no larger than is expected from the others: jitter is as
    strong at every frequency, and drift as it was measured at the others; strain is slow, and belongs to the specimen.
    """
    waves = fft.dct(rows, norm="ortho")
    slow = np.arange(len(rows)) < 2 * len(rows) / longest
    if slow.all() or not slow.any():
        return rows
    expected = np.ones(len(rows))
    if parts.drift and parts.jitter:
        expected += (parts.drift / parts.jitter) ** 2 * slow_spectrum(len(rows), parts.drift_rows)
    # the median of the square of a normal number is 0.455 of its mean
    usual = np.sqrt(float(np.median(waves[~slow] ** 2 / expected[~slow])) / 0.455 * expected[slow])
    waves[slow] = np.clip(waves[slow], -usual, usual)
    waves[0] = 0.0
    return fft.idct(waves, norm="ortho")


def _moved_back(values: NDArray, shifts: NDArray) -> NDArray:
    """Each row at ``x - shift``, by cubic splines; rows that did not move keep their very pixels."""
    out = np.array(values, dtype=np.float64)
    for row, shift in enumerate(shifts):
        if shift != 0:
            out[row] = ndimage.shift(out[row], shift, order=3, mode="nearest")
    return out


# --- the least-squares problem -----------------------------------------------------------------------------------


def _displacements(readings: Readings, places: NDArray, vectors: NDArray, prior: _Prior) -> NDArray[np.float64]:
    """Rows' displacements under a lattice that bends slowly."""
    weight = sparse.csr_matrix(readings.weight)
    told = weight.multiply(readings.shift).tocsr()
    bends = second_differences(places, vectors)
    n_columns, n_rows = weight.shape
    by_row, by_column = np.asarray(weight.sum(0)).ravel(), np.asarray(weight.sum(1)).ravel()
    rows, errors = np.zeros(n_rows), np.zeros(n_columns)
    stiffness = max(STIFFEST, 0.3 * prior.displacement)
    jitter = prior.jitter**-2.0
    shared = jitter * prior.factor
    own = sparse.eye(prior.factor.shape[1]) + prior.factor.T @ shared
    nothing = sparse.csr_matrix((n_columns, prior.factor.shape[1]))
    for _ in range(ROUNDS):
        bent = bends @ (places[:, 1] + errors)
        # a bend that all have is no fault: strain
        stiffness = max(STIFFEST, min(stiffness, 1.4826 * float(np.median(np.abs(bent))) if len(bent) else stiffness))
        trust = 1 / (1 + (bent / (BROKEN * stiffness)) ** 2)
        scaled = sparse.diags(np.sqrt(trust) / stiffness) @ bends
        held = (scaled.T @ scaled + sparse.diags(by_column + 1e-9 * by_column.max())).tocsc()
        matrix = sparse.bmat(
            [
                [sparse.diags(by_row + jitter), -weight.T, -shared],
                [-weight, held, nothing],
                [-shared.T, nothing.T, own],
            ]
        ).tocsc()
        right = np.r_[
            np.asarray(told.sum(0)).ravel(),
            -np.asarray(told.sum(1)).ravel() - scaled.T @ (scaled @ places[:, 1]),
            np.zeros(prior.factor.shape[1]),
        ]
        solution = spsolve(matrix, right)
        rows, errors = solution[:n_rows], solution[n_rows : n_rows + n_columns]
    return rows - rows.mean()
