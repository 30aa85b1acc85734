"""Atomic columns with error bars."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits
from stemkit.compute import resolve_device
from stemkit.detection.finding import apart
from stemkit.detection.lengths import learn
from stemkit.detection.search import NOTHING, Search
from stemkit.detection.table import table_of
from stemkit.detection.view import View, unit_of
from stemkit.estimators import ImageTransformer
from stemkit.images import Images, split, warn_if_small
from stemkit.metrics import match_columns
from stemkit.parameters import check_number, check_positive

__all__ = ["AtomDetector"]


class AtomDetector(ImageTransformer):
    """Find atomic columns and measure them on the recorded pixels.

    Gaussians on a local background are fitted to the columns, those that overlap together, weighted by the calibrated
    noise with its correlation. Candidates are what the recorded image shows above its noise through a filter of the
    columns' width; where a network has enhanced the image, what only this shows; and what the fits leave above the
    noise and the misfit that columns of this image have. An image that carries its recorded pixels (the coordinate
    ``recorded``) is measured on those: a network says where to search, not where a column is.

    Parameters
    ----------
    significance : float, default=2.5
        A column's fitted amplitude is at least this many of its standard deviations; columns that are held near where a
        network shows them (``GUIDED``) may be fainter.
    spacing : float or None, default=None
        Distance of neighbouring columns, in nm where the images are calibrated, else px. None learns it.
    width : float or None, default=None
        Sigma of the columns, same unit. None learns it.
    elliptical : bool, default=False
        Fit elliptical Gaussians: the table then has ``sigma_major``, ``sigma_minor`` and ``angle``, too.
    background : float or None, default=None
        One background for all columns, in the image's units: that of the vacuum or the support, where intensities are
        to hold all that a column adds to it. None: each column has its own, that of its surroundings.
    common_width : bool, default=False
        All columns of an image have the same width, the learnt or the given one. Intensities scatter less where columns
        overlap and differ in height alone, in particles for instance; ``sigma_err`` is NaN.
    shared_positions : bool, default=False
        The images are detectors of one scan (HAADF and ABF, say): columns found in any of them are measured in all, at
        one position, the mean of those of the images that show them, weighted by their errors.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.
    device : str, default="auto"
        Where the fits run; ``"auto"`` takes a GPU where there is one.

    Attributes
    ----------
    spacing_, width_ : float
        Median distance of nearest columns and median sigma, in nm where calibrated, else px; ``spacing_`` is NaN
        with fewer than two columns.
    periodic_ : bool
        Whether anything repeats in one of the images: in those of single atoms columns must stand out of the support.
    calibrated_ : bool
        Whether lengths are in nm.
    n_images_ : int
        Number of images seen.

    Raises
    ------
    ValueError, TypeError
        For anything that is not an image, and for uncalibrated images after calibrated ones.

    Notes
    -----
    Errors are standard deviations from the inverse Fisher information of the fit, with the noise's correlation
    along the row and its streaks, the numbers of overlapping neighbours free; they grow with the residual where
    columns are no Gaussians. Jitter of the beam is not in them, but in ``y_jitter`` and ``x_jitter``. The background of
    a column is constant: one that is tilted by b per px moves the column by about ``3.3 b sigma^2 / amplitude`` px
    towards the brighter side; the slopes of the calibrated background are in the errors. Of the peaks of a recorded
    image those are candidates that are more than the noise makes at their height. Noise comes from ``attrs["noise"]``
    where :class:`~stemkit.NoiseCalibrator` has put it, else it is calibrated on the spot.

    Examples
    --------
    >>> from stemkit import AtomDetector, STEMSynthesizer
    >>> noisy = STEMSynthesizer(arrangements=("lattice",), random_state=0).sample(1)["noisy"]
    >>> columns = AtomDetector().fit_transform(noisy)
    >>> list(columns.columns[:5])
    ['image', 'y', 'x', 'y_px', 'x_px']
    """

    _preserves_dtype = ()  # the output is a table

    def __init__(
        self,
        *,
        significance: float = 2.5,
        spacing: float | None = None,
        width: float | None = None,
        elliptical: bool = False,
        background: float | None = None,
        common_width: bool = False,
        shared_positions: bool = False,
        mode: str | None = None,
        device: str = "auto",
    ):
        self.significance = significance
        self.spacing = spacing
        self.width = width
        self.elliptical = elliptical
        self.background = background
        self.common_width = common_width
        self.shared_positions = shared_positions
        self.mode = mode
        self.device = device

    def fit(self, X: Images, y: object = None) -> AtomDetector:
        """Learn the columns' spacing and width.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``, recorded or enhanced.
        y : ignored

        Returns
        -------
        self
        """
        images = split(X)
        return self._fitted(images, (View.of(image, self.mode) for image in images))

    def fit_transform(self, X: Images, y: object = None) -> pd.DataFrame:
        """Learn spacing and width, and measure the columns of the same images: :meth:`fit`, then :meth:`transform`."""
        images = split(X)
        if len(images) > 1 or self.shared_positions:
            return self.fit(X).transform(X)
        # the noise of an image that carries none is calibrated once, not twice
        self._check_parameters()
        view = View.of(images[0], self.mode)
        self._fitted(images, [view])
        return _stacked([self._measured(view, 0)])

    def _fitted(self, images: list[xr.DataArray], views: Iterable[View]) -> AtomDetector:
        self._check_parameters()
        units = [unit_of(image) for image in images]
        if len({calibrated for _, calibrated in units}) > 1:
            raise ValueError("X must hold calibrated images alone or uncalibrated ones alone, but it mixes them")
        self.calibrated_ = units[0][1]
        learnt = []
        for image in images:
            warn_if_small(image)
        for view, (size, _) in zip(views, units, strict=True):
            given = [None if v is None else v / size for v in (self.spacing, self.width)]
            spacing, width, periodic = learn(view, *given, background=self._background(view))
            learnt.append((spacing * size, width * size, periodic))
        with np.errstate(invalid="ignore"):
            spacings, widths, periodics = np.array(learnt, dtype=np.float64).T
        self.spacing_ = float(np.nanmedian(spacings)) if np.isfinite(spacings).any() else float("nan")
        self.width_ = float(np.median(widths))
        self.periodic_ = bool(periodics.any())
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> pd.DataFrame:
        """Measure the columns of images.

        Returns
        -------
        DataFrame
            One row per column: ``image`` (index), ``y, x`` and ``sigma`` (nm where calibrated, else px), ``y_px,
            x_px``, ``amplitude`` (bf: depth) and ``background`` in the image's units, ``intensity`` (the Gaussian's
            integral, times nm^2 or px^2), ``*_err`` (standard deviations from the noise of the pixels), ``y_jitter``
            and ``x_jitter`` (what displacements of the beam add in quadrature, same unit as y and x), ``snr``
            (amplitude over the noise of one pixel), ``residual`` (RMS of the fit's residual over the expected one),
            ``quality`` (0 is good; :class:`stemkit.detection.Quality` lists the flags). Elliptical columns have
            ``sigma_major``, ``sigma_minor`` and ``angle`` (degrees, from x towards y), too. Columns centred outside
            the frame are left out. Nothing found gives an empty table with these columns.
        """
        images = self._checked(X)
        if self.shared_positions:
            return self._together(images)
        return _stacked([self._measured(View.of(image, self.mode), i) for i, image in enumerate(images)])

    def measure(
        self,
        X: Images,
        positions: pd.DataFrame | ArrayLike,
        *,
        beside: pd.DataFrame | ArrayLike | None = None,
        hold: bool = False,
    ) -> pd.DataFrame:
        """Measure columns at given positions instead of looking for them.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Images; every one is measured.
        positions : DataFrame or array-like of shape (n, 2)
            Where fits start: a table with ``y_px`` and ``x_px`` (rows of other images left out where it has the column
            ``image`` and there are several), or ``(y, x)`` in px.
        beside : DataFrame or array-like of shape (n, 2), optional
            Other columns that are there: they are fitted, too, and not listed. Without them their tails would be taken
            for background.
        hold : bool
            Keep the positions and the learnt width: only amplitude and background are fitted, which may come out
            negative. It tells how much of a column there is where one is expected.

        Returns
        -------
        DataFrame
            As :meth:`transform` gives it, but with a row for each position, in their order, whatever was found there.
        """
        images = self._checked(X)
        tables = []
        for i, image in enumerate(images):
            view = View.of(image, self.mode)
            index = i if len(images) > 1 else None
            asked = _places(positions, index)
            others = NOTHING if beside is None else _places(beside, index)
            n, free = len(asked), np.arange(len(asked) + len(others)) >= (len(asked) if hold else 0)
            search = self._search(view)
            fits = search.fit(np.concatenate([asked, others]), fit_sigma=free, fit_position=free)
            held = ~free
            if not hold:
                fits, held = search.with_faint_held(fits, held)
            fits, held = fits.take(np.arange(n)), self._flagged(held[:n])
            tables.append(table_of(fits, held, view, i, elliptical=self.elliptical))
        return _stacked(tables)

    def predict(self, X: Images) -> pd.DataFrame:
        """The same as :meth:`transform`."""
        return self.transform(X)

    def score(self, X: Images, y: Any) -> float:
        """Mean F1 of the found columns, matched within a third of the spacing.

        Parameters
        ----------
        X : images
        y : list of DataFrame
            True columns with ``y_px`` and ``x_px``, one table per image.

        Returns
        -------
        float
            NaN, with a warning, where y holds no tables.
        """
        if not (isinstance(y, list | tuple) and all(isinstance(t, pd.DataFrame) for t in y)):
            warnings.warn("y is no list of tables: there is no truth to score against", stacklevel=2)
            return float("nan")
        table = self.transform(X)
        images = split(X)
        if len(images) != len(y):
            raise ValueError(f"y must hold one table per image, but there are {len(images)} images and {len(y)} tables")
        scores = []
        for i, (image, truth) in enumerate(zip(images, y, strict=True)):
            spacing = self.spacing_ / unit_of(image)[0]
            found = table.loc[table["image"] == i, ["y_px", "x_px"]]
            radius = spacing / 3 if np.isfinite(spacing) else 3 * self.width_ / unit_of(image)[0]
            scores.append(match_columns(found, truth[["y_px", "x_px"]], radius).f1)
        return float(np.mean(scores))

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("significance", self.significance)
        check_positive("spacing", self.spacing, optional=True)
        check_positive("width", self.width, optional=True)
        check_number("background", self.background, optional=True)

    def _checked(self, X: Images) -> list[xr.DataArray]:
        check_is_fitted(self, "width_")
        self._check_parameters()
        images = split(X)
        words = {True: "calibrated in nm", False: "without pixel size"}
        for image in images:
            calibrated = unit_of(image)[1]
            if calibrated != self.calibrated_:
                raise ValueError(
                    f"AtomDetector was fitted on images {words[self.calibrated_]}, but this one is "
                    f"{words[calibrated]}: set the pixel size with stemkit.calibrated, or fit again"
                )
        return images

    def _measured(self, view: View, index: int) -> pd.DataFrame:
        found = self._search(view).columns()
        held = self._flagged(found.width_fixed)
        table = table_of(found.fits, held, view, index, guided=found.guided, elliptical=self.elliptical)
        return table.sort_values(["y_px", "x_px"], ignore_index=True)

    def _together(self, images: list[xr.DataArray]) -> pd.DataFrame:
        """Columns found in any of several images of one scan, measured in all at one position."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"shared_positions needs images of one scan, of one shape, but they have {sorted(shapes)}")
        views = [View.of(image, self.mode) for image in images]
        searches = [self._search(view) for view in views]
        found = [search.columns() for search in searches]
        places, errors = _merged([one.fits for one in found], apart(searches[0].spacing, searches[0].width))
        free = [one.fits.positions[~one.guided] for one in found]
        radius = max(searches[0].width, 1.0)
        guided = ~np.any([_is_near(places, some, radius) for some in free], axis=0)
        tables = []
        for i, (view, search) in enumerate(zip(views, searches, strict=True)):
            fits = search.fit(places, fit_position=False)
            fits, held = search.with_faint_held(fits, np.zeros(len(fits), dtype=bool), fit_position=False)
            fits.y_err, fits.x_err = np.where(fits.failed, np.nan, errors.T)
            tables.append(table_of(fits, self._flagged(held), view, i, guided=guided, elliptical=self.elliptical))
        return _stacked(tables)

    def _flagged(self, width_fixed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Columns whose width is fixed although the user has not asked for it."""
        return width_fixed & (not self.common_width)

    def _background(self, view: View) -> float | None:
        """The background of all columns in units of the view, where one is given."""
        if self.background is None:
            return None
        return view.sign * (self.background - view.noise.level) / view.noise.contrast

    def _search(self, view: View) -> Search:
        size = unit_of(view.image)[0]
        return Search(
            view,
            self.spacing_ / size,
            self.width_ / size,
            self.significance,
            self.elliptical,
            resolve_device(self.device),
            self.periodic_,
            self._background(view),
            common_width=self.common_width,
        )


def _is_near(places: NDArray, others: NDArray, radius: float) -> NDArray[np.bool_]:
    """Which places have another within a radius."""
    if len(others) == 0:
        return np.zeros(len(places), dtype=bool)
    return np.asarray(cKDTree(others).query(places)[0] < radius)


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [t for t in tables if len(t)]
    stacked = pd.concat(filled, ignore_index=True) if filled else tables[0]
    stacked.attrs.update(tables[0].attrs)
    if len(stacked):
        stacked.attrs["residual"] = float(np.nanmedian(stacked["residual"]))
    return stacked


def _merged(found: list[ColumnFits], radius: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions ``(n, 2)`` of the columns in several images, those within a radius taken for one, and their errors."""
    places, weights = np.empty((0, 2)), np.empty((0, 2))
    for fits in found:
        good = fits.take(~fits.failed)
        new = np.column_stack([good.y, good.x])
        weight = 1 / np.column_stack([good.y_err, good.x_err]) ** 2
        match = match_columns(new, places, radius)
        ours, theirs = weight[match.found], weights[match.true]
        places[match.true] = (ours * new[match.found] + theirs * places[match.true]) / (ours + theirs)
        weights[match.true] += ours
        fresh = np.setdiff1d(np.arange(len(new)), match.found)
        places, weights = np.concatenate([places, new[fresh]]), np.concatenate([weights, weight[fresh]])
    order = np.lexsort(places.T[::-1])
    return places[order], weights[order] ** -0.5


def _places(positions: pd.DataFrame | ArrayLike, index: int | None) -> NDArray[np.float64]:
    if isinstance(positions, pd.DataFrame):
        if index is not None and "image" in positions:
            positions = positions[positions["image"] == index]
        positions = positions[["y_px", "x_px"]].to_numpy()
    places = np.asarray(positions, dtype=np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"positions must be (n, 2), (y, x) in px, or a table, but have the shape {places.shape}")
    if not np.isfinite(places).all():
        raise ValueError(f"positions must be finite, but {(~np.isfinite(places)).sum()} numbers are not")
    return places
