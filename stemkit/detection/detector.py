"""Atomic columns with error bars."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from stemkit.compute import resolve_device
from stemkit.detection.fitter import NO_POSITIONS, ColumnFitter, FittedColumns
from stemkit.detection.guided import FoundColumns
from stemkit.detection.normalized_image import NormalizedImage
from stemkit.detection.search import ColumnSearch
from stemkit.detection.shared_positions import find_shared_columns
from stemkit.detection.spacing_width import learn_lengths
from stemkit.detection.table import table_of
from stemkit.detection.tiles import find_in_tiles, is_large
from stemkit.estimators import ImageTransformer, image_by_image, loaded
from stemkit.images.containers import Images, split, warn_if_small
from stemkit.images.lazy import is_lazy, lazy_images
from stemkit.images.pixel_size import is_calibrated, mean_pixel_size
from stemkit.metrics import match_columns
from stemkit.parameters import check_number, check_positive

__all__ = ["AtomDetector"]

#: Least plausible column width, nm (chosen: half of that in the sharpest images): else the pixel size may be wrong.
NARROWEST = 0.008
#: Largest plausible column width, nm (chosen: four times that of a probe which just resolves atoms).
WIDEST = 0.5


class AtomDetector(ImageTransformer):
    """Find atomic columns and measure them on the recorded pixels.

    Gaussians on a local background are fitted to the columns, overlapping ones together, weighted by the calibrated
    noise with its correlation. Candidates are the significant peaks of the recorded image after a matched filter, those
    that only a network shows, and those of the residual of the fits above the noise and the misfit of the columns of
    this image. In an enhanced image, which carries its recorded pixels, columns are measured on these: the network
    shows where to search, and does not change where a column is.

    Parameters
    ----------
    significance : float, default=2.5
        Least amplitude of a column, standard errors. Columns that are fitted near where a network shows them
        (``GUIDED``) may be fainter.
    spacing : float or None, default=None
        Distance of nearest columns, in nm for calibrated images, otherwise px. None: it is learnt.
    width : float or None, default=None
        Sigma of the columns, in the same unit. None: it is learnt.
    elliptical : bool, default=False
        Fit elliptical Gaussians; the table then also has ``sigma_major``, ``sigma_minor`` and ``angle``.
    background : float or None, default=None
        One fixed background for all columns, in the image's units, such as that of the vacuum or the support: the
        intensity of a column is then all that it adds to this. None: each column has its own, that of its surroundings.
    common_width : bool, default=False
        All columns of an image have the same width, the learnt or the given one. Intensities scatter less where columns
        overlap and differ in height alone, in particles for instance; ``sigma_err`` is NaN.
    shared_positions : bool, default=False
        The images are detectors of one scan (HAADF and ABF, say): columns that are found in any of them are measured in
        all, at one position, the mean over the images in which they are found, weighted by the errors.
    mode : {"haadf", "bf"} or None, default=None
        None: the mode of the image; if it has none, the mode is inferred.
    device : str, default="auto"
        Where the fits run; ``"auto"`` uses a GPU if there is one.

    Attributes
    ----------
    spacing_, width_ : float
        Median distance of nearest columns and median sigma, in nm for calibrated images, otherwise px; ``spacing_`` is
        NaN with fewer than two columns.
    periodic_ : bool
        Whether any of the images is periodic. In images of single atoms, columns must exceed the texture of the
        support.
    calibrated_ : bool
        Whether lengths are in nm.
    n_images_ : int
        Number of images in ``fit``.

    Raises
    ------
    ValueError, TypeError
        If X is not an image or a list of images, or mixes calibrated and uncalibrated images.

    Notes
    -----
    Errors are standard deviations from the inverse Fisher information of the fit, with the noise's correlation along
    the row, its streaks, and the parameters of overlapping neighbours free; they are scaled by the residual for
    non-Gaussian columns. Jitter of the beam is not included, but is in ``y_jitter`` and ``x_jitter``. The background of
    a column is constant: a slope of b per px displaces the column by about ``3.3 b sigma^2 / amplitude`` px towards the
    brighter side; the errors include the slopes of the calibrated background. The noise is that of ``attrs["noise"]``,
    from :class:`~stemkit.NoiseCalibrator`; without it, it is calibrated first.

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

    def fit(self, X: Images, y: object = None) -> Self:
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
        images = lazy_images(X) if is_lazy(X) else split(X)
        return self._learn(images, (NormalizedImage.from_image(loaded(image), self.mode) for image in images))

    def fit_transform(self, X: Images, y: object = None) -> pd.DataFrame:
        """Learn spacing and width and measure the columns of the same images: :meth:`fit`, then :meth:`transform`."""
        if is_lazy(X) or len(images := split(X)) > 1 or self.shared_positions or is_large(images[0]):
            return self.fit(X).transform(X)
        self._check_parameters()
        # an image without a noise model is calibrated once, not twice
        normalized = NormalizedImage.from_image(images[0], self.mode)
        self._learn(images, [normalized])
        return _concatenate([self._find(normalized, 0)])

    def _learn(self, images: list[xr.DataArray], normalized: Iterable[NormalizedImage]) -> Self:
        self._check_parameters()
        if len({is_calibrated(image) for image in images}) > 1:
            raise ValueError(
                "X must contain either calibrated or uncalibrated images, but mixes them: set the pixel size of all "
                "with stemkit.calibrated"
            )
        self.calibrated_ = is_calibrated(images[0])
        learnt = []
        for source in images:
            warn_if_small(source)
        sizes = [mean_pixel_size(image) for image in images]
        for image, size in zip(normalized, sizes, strict=True):
            given = [None if v is None else v / size for v in (self.spacing, self.width)]
            lengths, periodic = learn_lengths(image, *given, background=self._normalized_background(image))
            learnt.append((lengths.spacing * size, lengths.width * size, periodic))
        with np.errstate(invalid="ignore"):
            spacings, widths, periodics = np.array(learnt, dtype=np.float64).T
        self.spacing_ = float(np.nanmedian(spacings)) if np.isfinite(spacings).any() else float("nan")
        self.width_ = float(np.median(widths))
        self.periodic_ = bool(periodics.any())
        if self.calibrated_ and not NARROWEST < self.width_ < WIDEST:
            warnings.warn(
                f"the columns have a width (sigma) of {self.width_:.3g} nm; those of atomic columns are "
                f"{NARROWEST} to {WIDEST} nm: check the pixel size, {sizes[0]:.3g} nm, and set it with "
                "stemkit.calibrated",
                stacklevel=3,
            )
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> pd.DataFrame:
        """Measure the columns of images.

        Returns
        -------
        DataFrame
            One row per column: ``image`` (index), ``y, x`` and ``sigma`` (nm for calibrated images, otherwise px),
            ``y_px, x_px``, ``amplitude`` (bf: depth) and ``background`` in the image's units, ``intensity`` (the
            Gaussian's integral, times nm^2 or px^2), ``*_err`` (standard deviations from the noise of the pixels),
            ``y_jitter`` and ``x_jitter`` (standard deviations from displacements of the beam, to be added in
            quadrature, unit of y and x), ``snr`` (amplitude over the noise of one pixel), ``residual`` (RMS of the
            fit's residual over the expected one), ``quality`` (0 is good; :class:`stemkit.detection.Quality` lists the
            flags). Elliptical columns also have ``sigma_major``, ``sigma_minor`` and ``angle`` (degrees, from x towards
            y), and those of an average of frames ``n_frames``, the mean number of frames that show them. Columns
            outside the image are left out. Without any column, the table is empty.
        """
        if self.shared_positions:
            return self._find_shared(self._checked(X))
        return self._find_each(X)

    @image_by_image(joined=lambda tables: _concatenate([t.assign(image=i) for i, t in enumerate(tables)]))
    def _find_each(self, X: Images) -> pd.DataFrame:
        images = self._checked(X)
        return _concatenate([table for i, image in enumerate(images) for table in self._find_in_parts(image, i)])

    def measure(
        self,
        X: Images,
        positions: pd.DataFrame | ArrayLike,
        *,
        neighbors: pd.DataFrame | ArrayLike | None = None,
        fix_positions: bool = False,
    ) -> pd.DataFrame:
        """Measure columns at given positions instead of searching for them.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Images; all are measured.
        positions : DataFrame or array-like of shape (n, 2)
            Starting positions: a table with ``y_px`` and ``x_px``, or ``(y, x)`` in px. For several images, the rows of
            each are selected by the column ``image``, if there is one.
        neighbors : DataFrame or array-like of shape (m, 2), optional
            Other columns nearby, which are fitted, too, but are not in the result. Without them, their tails would be
            included in the background.
        fix_positions : bool, default=False
            Fix the positions, and the width at the learnt one. Only amplitude and background are fitted, and may be
            negative: the amplitude shows whether there is a column at an expected position.

        Returns
        -------
        DataFrame
            As that of :meth:`transform`, with a row for each position, in their order.
        """
        images = self._checked(X)
        tables = []
        for i, image in enumerate(images):
            index = i if len(images) > 1 else None
            start = _check_positions(positions, index)
            others = NO_POSITIONS if neighbors is None else _check_positions(neighbors, index)
            normalized = NormalizedImage.from_image(image, self.mode)
            columns = self._measure(normalized, start, others, fix_positions=fix_positions)
            width_fixed = self._flagged(columns.width_fixed)
            tables.append(table_of(columns.fits, width_fixed, normalized, i, elliptical=self.elliptical))
        return _concatenate(tables)

    def predict(self, X: Images) -> pd.DataFrame:
        """Measure the columns, as :meth:`transform`."""
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
            warnings.warn("y is not a list of tables of true columns: the score is NaN", stacklevel=2)
            return float("nan")
        table = self.transform(X)
        images = split(X)
        if len(images) != len(y):
            raise ValueError(f"y must hold one table per image, but there are {len(images)} images and {len(y)} tables")
        scores = []
        for i, (image, truth) in enumerate(zip(images, y, strict=True)):
            spacing = self.spacing_ / mean_pixel_size(image)
            found = table.loc[table["image"] == i, ["y_px", "x_px"]]
            radius = spacing / 3 if np.isfinite(spacing) else 3 * self.width_ / mean_pixel_size(image)
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
            if (calibrated := is_calibrated(image)) != self.calibrated_:
                raise ValueError(
                    f"AtomDetector was fitted on images {words[self.calibrated_]}, but this one is "
                    f"{words[calibrated]}: set the pixel size with stemkit.calibrated, or fit again"
                )
        return images

    def _find_in_parts(self, image: xr.DataArray, index: int) -> list[pd.DataFrame]:
        """The table of the columns of one image, or those of its tiles."""

        def find(part: xr.DataArray) -> pd.DataFrame:
            return self._find(NormalizedImage.from_image(part, self.mode), index)

        return find_in_tiles(image, self.mode, self.spacing_, find) if is_large(image) else [find(image)]

    def _find(self, image: NormalizedImage, index: int) -> pd.DataFrame:
        """The table of the columns of one image."""
        table = self._table(self._search(image).run(), image, index)
        return table.sort_values(["y_px", "x_px"], ignore_index=True)

    def _find_shared(self, images: list[xr.DataArray]) -> pd.DataFrame:
        """The tables of columns that are found in any of several images of one scan, at one position."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(
                "shared_positions needs images of one scan, which have the same shape, but they have "
                f"{sorted(shapes)}: pass them one by one, or without shared_positions"
            )
        normalized = [NormalizedImage.from_image(image, self.mode) for image in images]
        found = find_shared_columns([self._search(image) for image in normalized])
        pairs = zip(found, normalized, strict=True)
        return _concatenate([self._table(columns, image, i) for i, (columns, image) in enumerate(pairs)])

    def _table(self, found: FoundColumns, image: NormalizedImage, index: int) -> pd.DataFrame:
        width_fixed = self._flagged(found.width_fixed)
        return table_of(found.fits, width_fixed, image, index, guided=found.guided, elliptical=self.elliptical)

    def _measure(
        self, image: NormalizedImage, start: NDArray, neighbors: NDArray, *, fix_positions: bool
    ) -> FittedColumns:
        """Fit columns together with their neighbours; returns the former."""
        n, fitter = len(start), self._search(image).fitter
        free = np.ones(n + len(neighbors), dtype=bool)
        free[:n] = not fix_positions
        fits = fitter.fit(np.concatenate([start, neighbors]), fit_sigma=free, fit_position=free)
        columns = FittedColumns(fits, ~free)
        if not fix_positions:
            columns = fitter.fix_faint_widths(columns)
        return columns.take(np.arange(n))

    def _flagged(self, width_fixed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Columns whose width is fixed, unless the user has asked for a common width."""
        return width_fixed & (not self.common_width)

    def _normalized_background(self, image: NormalizedImage) -> float | None:
        """The given background in units of the normalized image."""
        if self.background is None:
            return None
        return image.sign * (self.background - image.noise.level) / image.noise.contrast

    def _search(self, image: NormalizedImage) -> ColumnSearch:
        size = mean_pixel_size(image.source)
        fitter = ColumnFitter(
            image,
            self.width_ / size,
            elliptical=self.elliptical,
            device=resolve_device(self.device),
            background=self._normalized_background(image),
            common_width=self.common_width,
        )
        return ColumnSearch(fitter, self.spacing_ / size, self.significance, self.periodic_)


def _concatenate(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [table for table in tables if len(table)]
    result = pd.concat(filled, ignore_index=True) if filled else tables[0]
    result.attrs.update(tables[0].attrs)
    if len(result):
        result.attrs["residual"] = float(np.nanmedian(result["residual"]))
    return result


def _check_positions(positions: pd.DataFrame | ArrayLike, index: int | None) -> NDArray[np.float64]:
    """Positions ``(n, 2)``, px, of one image."""
    if isinstance(positions, pd.DataFrame):
        if index is not None and "image" in positions:
            positions = positions[positions["image"] == index]
        positions = positions[["y_px", "x_px"]].to_numpy()
    array = np.asarray(positions, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 2:
        raise ValueError(
            f"positions must be an array of shape (n, 2), (y, x) in px, or a table, but have the shape {array.shape}"
        )
    if not np.isfinite(array).all():
        raise ValueError(
            f"positions must be finite, but {(~np.isfinite(array)).sum()} numbers are not: remove these rows"
        )
    return array
