"""Scan lines put back where the crystal says they were."""

from __future__ import annotations

import math
import warnings
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
from stemkit.noise.readings import Readings
from stemkit.noise.specimen import find_specimen
from stemkit.pixels import faulty_pixels, filled

__all__ = ["RowAligner"]

#: Rows are registered on at most this many px of their middle, and on at most this many readings in all.
WIDEST, MOST_READINGS = 1024, 2**23
#: Displacements that change more slowly than over this many lattice vectors may be the specimen's.
SLOW = 3.0
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
    ``w_cy``, what is minimised is ``sum w (t - d + e)^2 + sum d^2 / jitter^2 + sum (second difference of x + e)^2 /
    stiffness^2`` over opposite neighbours by a lattice vector, with Cauchy weights where the lattice is broken. Rows
    are shifted by cubic splines: noise is interpolated, too, and a little smoother where the shift is half a pixel.
    Jitter that changes along the row is straightened in its mean. Of displacements slower than three lattice vectors no
    more is taken away, at any frequency, than there is at the others, where they can only be jitter: strain along y
    much below the jitter is lost with it.

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
    specimen = find_specimen(bright[part], faulty=faulty[part], most_columns=max(1, MOST_READINGS // n_y))
    if specimen.read is None or specimen.readings is None or specimen.registration is None:
        if np.ptp(bright) > 0:
            warnings.warn(
                "no lattice of columns was found in the image: its rows are left where they are",
                UserWarning,
                stacklevel=4,
            )
        return np.zeros(n_y)
    jitter = specimen.registration.jitter
    if jitter == 0:
        return np.zeros(n_y)
    places = specimen.read
    vectors = specimen.vectors if specimen.vectors is not None else neighbour_vectors(places)
    rows = _displacements(specimen.readings, places, vectors, jitter)
    return _without_slow(rows, SLOW * float(np.hypot(*vectors.T).min()))


def _without_slow(rows: NDArray, longest: float) -> NDArray[np.float64]:
    """Displacements of which those slower than some rows are no larger than the others: jitter is as strong at every
    frequency, strain and drift are slow, and belong to the specimen.
    """
    waves = fft.dct(rows, norm="ortho")
    slow = np.arange(len(rows)) < 2 * len(rows) / longest
    if slow.all() or not slow.any():
        return rows
    # the median of the square of a normal number is 0.455 of its mean
    usual = math.sqrt(float(np.median(waves[~slow] ** 2)) / 0.455)
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


def _displacements(readings: Readings, places: NDArray, vectors: NDArray, jitter: float) -> NDArray[np.float64]:
    """Rows' displacements under a lattice that bends slowly."""
    weight = sparse.csr_matrix(readings.weight)
    told = weight.multiply(readings.shift).tocsr()
    bends = second_differences(places, vectors)
    n_columns, n_rows = weight.shape
    by_row, by_column = np.asarray(weight.sum(0)).ravel(), np.asarray(weight.sum(1)).ravel()
    rows, errors = np.zeros(n_rows), np.zeros(n_columns)
    trust = np.ones(bends.shape[0])
    stiffness = max(STIFFEST, 0.3 * jitter)
    for _ in range(ROUNDS):
        bent = bends @ (places[:, 1] + errors)
        # a bend that all have is no fault: strain
        stiffness = max(STIFFEST, min(stiffness, 1.4826 * float(np.median(np.abs(bent))) if len(bent) else stiffness))
        trust = 1 / (1 + (bent / (BROKEN * stiffness)) ** 2)
        scaled = sparse.diags(np.sqrt(trust) / stiffness) @ bends
        held = (scaled.T @ scaled + sparse.diags(by_column + 1e-9 * by_column.max())).tocsc()
        matrix = sparse.bmat([[sparse.diags(by_row + 1 / jitter**2), -weight.T], [-weight, held]]).tocsc()
        right = np.r_[
            np.asarray(told.sum(0)).ravel(),
            -np.asarray(told.sum(1)).ravel() - scaled.T @ (scaled @ places[:, 1]),
        ]
        solution = spsolve(matrix, right)
        rows, errors = solution[:n_rows], solution[n_rows:]
    return rows - rows.mean()
