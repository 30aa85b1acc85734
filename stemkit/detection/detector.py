"""Atomic columns with error bars."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits, fit_columns, render_columns
from stemkit.compute import resolve_device
from stemkit.detection.finding import apart, candidates, learn, overlooked
from stemkit.detection.table import FAINT_SIGMAS, table_of
from stemkit.detection.view import View, unit_of
from stemkit.images import Images, split, warn_if_small
from stemkit.metrics import match_columns

__all__ = ["AtomDetector"]

#: What fits leave is looked through so often, as long as it makes more than this part of the columns.
LOOKS, WORTH_A_LOOK = 3, 0.02
#: A place where the fit failed is a column's if it stands out of its surroundings by this part of the usual amplitude.
BRIGHT = 0.3
NONE = np.empty((0, 2))
#: A column that leaves a residual of this many times the noise is tried at this many times the learnt width.
WIDE_RESIDUAL, WIDE = 1.5, 2.0


class AtomDetector(TransformerMixin, BaseEstimator):
    """Find atomic columns and measure them on the recorded pixels.

    Gaussians on a local background are fitted to the columns, those that overlap together, weighted by the calibrated
    noise with its correlation. What a network enhanced only says where to look: an image that carries its recorded
    pixels (the coordinate ``measured``) is measured on those. Candidates come from the map ``detect`` where the image
    has one, from an enhanced image, or from the recorded image through a filter of the columns' width; what the fits
    leave above the noise is a candidate, too.

    Parameters
    ----------
    significance : float, default=2.5
        A column's fitted amplitude is at least this many of its standard deviations.
    spacing : float or None, default=None
        Distance of neighbouring columns, in nm where the images are calibrated, else px. None learns it.
    width : float or None, default=None
        Sigma of the columns, same unit. None learns it.
    elliptical : bool, default=False
        Fit elliptical Gaussians: the table then has ``sigma_major``, ``sigma_minor`` and ``angle``, too.
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

    def __init__(
        self,
        *,
        significance: float = 2.5,
        spacing: float | None = None,
        width: float | None = None,
        elliptical: bool = False,
        shared_positions: bool = False,
        mode: str | None = None,
        device: str = "auto",
    ):
        self.significance = significance
        self.spacing = spacing
        self.width = width
        self.elliptical = elliptical
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
        self._check_parameters()
        images = split(X)
        units = [unit_of(image) for image in images]
        if len({calibrated for _, calibrated in units}) > 1:
            raise ValueError("X must hold calibrated images alone or uncalibrated ones alone, but it mixes them")
        self.calibrated_ = units[0][1]
        learnt = []
        for image, (size, _) in zip(images, units, strict=True):
            warn_if_small(image)
            given = [None if v is None else v / size for v in (self.spacing, self.width)]
            learnt.append([v * size for v in learn(View.of(image, self.mode), *given)])
        with np.errstate(invalid="ignore"):
            spacing, width = np.array(learnt).T
        self.spacing_ = float(np.nanmedian(spacing)) if np.isfinite(spacing).any() else float("nan")
        self.width_ = float(np.median(width))
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
            others = NONE if beside is None else _places(beside, index)
            n, free = len(asked), np.arange(len(asked) + len(others)) >= (len(asked) if hold else 0)
            fits = self._fit(view, np.concatenate([asked, others]), fit_sigma=free, fit_position=free)
            held = ~free
            if not hold:
                fits, held = self._with_faint_held(view, fits, held, NONE)
            tables.append(table_of(fits.take(np.arange(n)), held[:n], view, i, elliptical=self.elliptical))
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_parameters(self) -> None:
        for name in ("significance", "spacing", "width"):
            value = getattr(self, name)
            optional = " or None" if name != "significance" else ""
            if (value is None and not optional) or (value is not None and not (_is_number(value) and value > 0)):
                raise ValueError(f"{name} must be a positive number{optional}, but is {value!r}")

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
        fits, held = self._found(view)
        table = table_of(fits, held, view, index, elliptical=self.elliptical)
        return table.sort_values(["y_px", "x_px"], ignore_index=True)

    def _together(self, images: list[xr.DataArray]) -> pd.DataFrame:
        """Columns found in any of several images of one scan, measured in all at one position."""
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            raise ValueError(f"shared_positions needs images of one scan, of one shape, but they have {sorted(shapes)}")
        views = [View.of(image, self.mode) for image in images]
        found = [self._found(view)[0] for view in views]
        places, errors = _merged(found, apart(*self._lengths(views[0])))
        tables = []
        for i, view in enumerate(views):
            fits = self._fit(view, places, fit_position=False)
            held = np.zeros(len(fits), dtype=bool)
            fits, held = self._with_faint_held(view, fits, held, NONE, fit_position=False)
            fits.y_err, fits.x_err = errors.T
            tables.append(table_of(fits, held, view, i, elliptical=self.elliptical))
        return _stacked(tables)

    def _found(self, view: View) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The columns of an image, and which of them have their width held."""
        spacing, width = self._lengths(view)
        fits = self._fit(view, candidates(view, spacing, width))
        fits = fits.take(_there(fits, view, 0.5 * self.significance))
        fits, held = self._with_faint_held(view, fits, np.zeros(len(fits), dtype=bool), NONE)
        fits, held = self._with_wide_ones(view, fits, held)
        for _ in range(LOOKS):
            more = overlooked(view, fits, spacing, width)
            fits, held = self._with_faint_held(view, fits, held, more)
            if len(more) < WORTH_A_LOOK * len(fits):
                break
        kept = _there(fits, view, self.significance)
        return fits.take(kept), held[kept]

    def _with_faint_held(
        self, view: View, fits: ColumnFits, held: NDArray[np.bool_], more: NDArray, *, fit_position: bool = True
    ) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """Fits whose widths are held at the learnt one where they tell none; ``more`` columns join in."""
        with np.errstate(invalid="ignore"):
            faint = ~held & (fits.failed | ~(fits.amplitude >= FAINT_SIGMAS * fits.amplitude_err))
        if not faint.any() and len(more) == 0:
            return fits, held
        held = held | faint
        width = self._lengths(view)[1]
        widths = np.append(np.where(held, width, _rounded(fits.sigma, width)), np.full(len(more), width))
        start = _joined(fits, more, width, view) if len(more) else fits
        held = np.append(held, np.ones(len(more), dtype=bool))
        narrow = self._fit(view, start, widths, fit_sigma=~held, fit_position=fit_position)
        narrow.sigma_err[held] = np.nan
        return narrow, held

    def _with_wide_ones(
        self, view: View, fits: ColumnFits, held: NDArray[np.bool_]
    ) -> tuple[ColumnFits, NDArray[np.bool_]]:
        """The fits with those columns fitted anew that are much wider than the learnt width."""
        width = self._lengths(view)[1]
        odd = fits.residual > WIDE_RESIDUAL
        if not odd.any():
            return fits, held
        rest = replace(view, recorded=view.recorded - render_columns(fits.take(~odd), view.recorded.shape))
        places = np.column_stack([fits.y, fits.x])
        trial = self._fit(rest, places[odd], WIDE * width)
        # what fits a window of its own size better, and is no bump of the background
        wide = ~trial.failed & (trial.residual < fits.residual[odd]) & (trial.sigma > WIDE**0.5 * width)
        wide &= trial.amplitude > FAINT_SIGMAS * np.nan_to_num(trial.amplitude_err, nan=np.inf)
        if not wide.any():
            return fits, held
        widths = np.full(len(fits), width)
        widths[np.flatnonzero(odd)[wide]] = WIDE * width
        held = held & (widths == width)
        anew = self._fit(view, places, widths, fit_sigma=~held)
        anew.sigma_err[held] = np.nan
        return anew, held

    def _fit(
        self,
        view: View,
        positions: NDArray | ColumnFits,
        widths: NDArray | float | None = None,
        *,
        fit_sigma: bool | NDArray = True,
        fit_position: bool | NDArray = True,
    ) -> ColumnFits:
        width = self._lengths(view)[1]
        return fit_columns(
            view.recorded,
            positions,
            width if widths is None else widths,
            variance=view.variance,
            correlation_x=view.noise.pointwise.correlation_x,
            streaks=view.noise.scan.amplitude,
            tilt=view.tilt(width),
            fit_sigma=fit_sigma,
            fit_position=fit_position,
            elliptical=self.elliptical,
            device=resolve_device(self.device),
        )

    def _lengths(self, view: View) -> tuple[float, float]:
        """Spacing and width, px."""
        size = unit_of(view.image)[0]
        return self.spacing_ / size, self.width_ / size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _stacked(tables: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [t for t in tables if len(t)]
    stacked = pd.concat(filled, ignore_index=True) if filled else tables[0]
    stacked.attrs.update(tables[0].attrs)
    return stacked


def _rounded(sigma: NDArray, width: float) -> NDArray[np.float64]:
    """Widths that windows are made for: the learnt one, or that of wide columns."""
    return np.where(sigma > WIDE**0.5 * width, WIDE * width, width)


def _there(fits: ColumnFits, view: View, significance: float) -> NDArray[np.bool_]:
    """Which fits are columns in the frame: those that stand out, and those that failed on something bright."""
    with np.errstate(invalid="ignore"):
        clear = fits.amplitude >= significance * fits.amplitude_err
    n_y, n_x = view.recorded.shape
    inside = (fits.y >= -0.5) & (fits.y < n_y - 0.5) & (fits.x >= -0.5) & (fits.x < n_x - 0.5)
    # a peak on the border that is no column is the flank of one beyond
    within = (np.minimum(fits.y, fits.x) > 1) & (fits.y < n_y - 2) & (fits.x < n_x - 2)
    usual = float(np.median(fits.amplitude[clear & ~fits.failed])) if (clear & ~fits.failed).any() else 0.0
    bright = within & (fits.amplitude - _surround(fits, view) > BRIGHT * usual)
    return inside & (clear | (fits.failed & bright))


def _surround(fits: ColumnFits, view: View) -> NDArray[np.float64]:
    """The median of a ring around each column."""
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = 2.5 * fits.sigma[:, None]
    y, x = (
        (p[:, None] + ring * t).round().astype(int).clip(0, n - 1)
        for p, t, n in zip((fits.y, fits.x), (np.sin(turn), np.cos(turn)), view.recorded.shape, strict=True)
    )
    return np.median(view.recorded[y, x], axis=1)


def _joined(fits: ColumnFits, more: NDArray, width: float, view: View) -> ColumnFits:
    """Fits and new columns as a start for all."""
    row, col = (p.round().astype(int).clip(0, n - 1) for p, n in zip(more.T, view.recorded.shape, strict=True))
    model = render_columns(fits.take(~fits.failed), view.recorded.shape) + float(np.median(fits.background))
    zero = np.zeros(len(more))
    new = {f.name: zero for f in fields(ColumnFits)} | {
        "y": more[:, 0],
        "x": more[:, 1],
        "amplitude": np.maximum(view.recorded[row, col] - model[row, col], 0.1),
        "sigma": zero + width,
        "background": zero + float(np.median(fits.background)),
        "failed": zero.astype(bool),
    }
    return ColumnFits(**{name: np.concatenate([getattr(fits, name), value]) for name, value in new.items()})


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
