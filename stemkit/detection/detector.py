"""Atomic columns with error bars."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits, column_response, find_peaks, fit_columns, peaks_above_noise
from stemkit.columns.candidates import nearest_distances
from stemkit.images import (
    MEASURED,
    Images,
    check_noise_attr,
    measured_image,
    mode_sign,
    pixel_sizes,
    resolve_mode,
    split,
    warn_if_small,
    was_enhanced,
)
from stemkit.metrics import match_columns
from stemkit.noise import NoiseCalibrator, NoiseModel
from stemkit.periodicity import find_periodicity

__all__ = ["AtomDetector"]

COLUMNS = (
    "image", "y", "x", "y_px", "x_px", "amplitude", "sigma", "background",
    "y_err", "x_err", "y_px_err", "x_px_err", "amplitude_err", "sigma_err", "background_err",
    "x_jitter", "snr", "residual", "quality",
)  # fmt: skip
#: A spot of the `detect` map counts from this height (1 is certain).
DETECT_THRESHOLD = 0.35
#: A peak of an enhanced image counts from this fraction of its tall peaks.
ENHANCED_THRESHOLD = 0.12
#: Widths that are tried where nothing tells the columns' width, px.
TRIED_WIDTHS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)
#: Columns on which the width is learnt.
LEARNT_ON = 300
#: A residual of this many times the noise says that the column is no single Gaussian.
ODD_RESIDUAL = 3.0
#: Pixels count as square when height and width differ by less than this fraction.
SQUARE = 0.03
#: The variance of the noise is nowhere below this fraction of its value at a bright column: weights stay finite.
VARIANCE_FLOOR = 0.02


class AtomDetector(TransformerMixin, BaseEstimator):
    """Find atomic columns and measure them on the recorded pixels.

    A round Gaussian on a constant background is fitted to each column, its neighbours' models subtracted, weighted
    by the calibrated noise. What a network enhanced only says where to look: an image that carries its recorded
    pixels (the coordinate ``measured``) is measured on those. Column candidates come from the map ``detect`` where
    the image has one, from an enhanced image, or from the recorded image through a filter of the columns' width, with
    a threshold that the noise sets.

    Parameters
    ----------
    significance : float, default=2.5
        A column's fitted amplitude is at least this many of its standard deviations.
    spacing : float or None, default=None
        Distance of neighbouring columns, in nm where the images are calibrated, else px. None learns it.
    width : float or None, default=None
        Sigma of the columns, same unit. None learns it.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.

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
    along the row and its streaks, and grow with the residual where columns are no Gaussians; jitter of the beam is
    not in them, but in ``x_jitter``. The background of a column is constant: one that is tilted by b per px moves
    the column by about ``3.3 b sigma^2 / amplitude`` px towards the brighter side. Noise comes from
    ``attrs["noise"]`` where :class:`~stemkit.NoiseCalibrator` has put it, else it is calibrated on the spot.

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
        mode: str | None = None,
    ):
        self.significance = significance
        self.spacing = spacing
        self.width = width
        self.mode = mode

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
        units = [_unit(image) for image in images]
        if len({calibrated for _, calibrated in units}) > 1:
            raise ValueError("X must hold calibrated images alone or uncalibrated ones alone, but it mixes them")
        self.calibrated_ = units[0][1]
        learnt = []
        for image, (size, _) in zip(images, units, strict=True):
            warn_if_small(image)
            given = [None if v is None else v / size for v in (self.spacing, self.width)]
            learnt.append([v * size for v in _learn(_View(image, self.mode), *given)])
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
            x_px``, ``amplitude`` (bf: depth) and ``background`` in the image's units, ``*_err`` (standard
            deviations from the noise of the pixels), ``x_jitter`` (what jitter of the rows adds to x in quadrature,
            same unit as x), ``snr`` (amplitude over the noise of one pixel), ``residual`` (RMS of the fit's residual
            over the expected one), ``quality`` (0 is good; 1 within two sigmas of the border, 2 the fit failed: its
            numbers are the candidate's and have no errors, 4 the residual is not noise, 8 too faint to tell its width,
            which is held at the learnt one; added up). Columns centred outside the frame are left out. Nothing found
            gives an empty table with these columns.
        """
        check_is_fitted(self, "width_")
        self._check_parameters()
        tables = [self._measure(image, i) for i, image in enumerate(split(X))]
        filled = [t for t in tables if len(t)]
        return pd.concat(filled, ignore_index=True) if filled else tables[0]

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
            spacing = self.spacing_ / _unit(image)[0]
            found = table.loc[table["image"] == i, ["y_px", "x_px"]]
            radius = spacing / 3 if np.isfinite(spacing) else 3 * self.width_ / _unit(image)[0]
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

    def _measure(self, image: xr.DataArray, index: int) -> pd.DataFrame:
        size, calibrated = _unit(image)
        if calibrated != self.calibrated_:
            words = {True: "calibrated in nm", False: "without pixel size"}
            raise ValueError(
                f"AtomDetector was fitted on images {words[self.calibrated_]}, but this one is {words[calibrated]}: "
                "set the pixel size with stemkit.calibrated, or fit again"
            )
        view = _View(image, self.mode)
        width = self.width_ / size
        positions = _candidates(view, self.spacing_ / size, width)
        fits, held = _fit(view, positions, width)
        with np.errstate(invalid="ignore"):
            clear = fits.amplitude >= self.significance * fits.amplitude_err
        n_y, n_x = view.recorded.shape
        inside = (fits.y >= -0.5) & (fits.y < n_y - 0.5) & (fits.x >= -0.5) & (fits.x < n_x - 0.5)
        kept = inside & (clear | (fits.failed & (fits.amplitude > 0)))
        return _table(fits.take(kept), held[kept], view, index)


class _View:
    """One image as the detector sees it: columns bright, with its noise."""

    def __init__(self, image: xr.DataArray, mode: str | None):
        recorded = measured_image(image)
        if recorded is image and was_enhanced(image):
            raise ValueError(
                "this image was enhanced by stemkit and does not carry its recorded pixels: errors fitted to it would "
                "be wrong. Give the recorded image, or add its pixels: "
                "image.assign_coords(measured=(image.dims, recorded.values))"
            )
        sizes = pixel_sizes(image) or (1.0, 1.0)
        if abs(sizes[0] / sizes[1] - 1) > SQUARE:
            raise ValueError(
                f"AtomDetector needs square pixels, but these are {sizes[0]:.6g} nm (y) by {sizes[1]:.6g} nm (x): "
                "resample the image"
            )
        self.image = image
        self.mode = resolve_mode(recorded, mode)
        self.sign = mode_sign(self.mode)
        self.recorded: NDArray[np.float64] = np.asarray(recorded.values, dtype=np.float64) * self.sign
        self.enhanced = np.asarray(image.values, dtype=np.float64) * self.sign if MEASURED in image.coords else None
        self.detect = np.asarray(image.coords["detect"].values) if "detect" in image.coords else None
        known = check_noise_attr(image)
        self.noise = (
            NoiseModel.from_dict(known) if known else NoiseCalibrator(mode=self.mode).fit(recorded).noise_model_
        )

    def variance(self, intensity: NDArray | float) -> NDArray:
        """Variance of one pixel at a given bright intensity, floored."""
        model = self.noise
        signal = (intensity - model.level * self.sign) / model.contrast
        at = model.pointwise.readout**2 + model.pointwise.gain * signal
        bright = max(model.pointwise.readout**2 + model.pointwise.gain, model.pointwise.readout**2)
        floor = max(VARIANCE_FLOOR * bright, 1e-12)
        return np.maximum(at, floor) * model.contrast**2


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


# --- candidates --------------------------------------------------------------------------------------------------


def _learn(view: _View, spacing: float | None, width: float | None) -> tuple[float, float]:
    """Spacing and width of one image, px, from its candidates and the fits to some of them."""
    if spacing is not None and width is not None:
        return spacing, width
    periodicity = find_periodicity(view.recorded).spacing
    guess = width if width is not None else _first_width(view, spacing or periodicity)
    positions = _candidates(view, spacing or periodicity or np.nan, guess)
    distance = nearest_distances(positions)
    if spacing is None:
        spacing = float(np.median(distance)) if len(distance) else float("nan")
    if width is None:
        near = min(guess, 0.3 * spacing) if np.isfinite(spacing) else guess
        width = _fitted_width(view, positions, max(near, 0.7))
    return spacing, width


def _first_width(view: _View, spacing: float | None) -> float:
    if view.detect is not None:
        distance = nearest_distances(find_peaks(view.detect, threshold=DETECT_THRESHOLD, min_distance=2.0))
        if len(distance) > 3:
            return float(np.clip(0.2 * np.median(distance), 0.8, 20.0))
    if spacing is not None:
        return float(np.clip(0.18 * spacing, 0.8, 20.0))
    # the width through whose filter the tallest peaks stand out most
    # (white noise seen through a filter of width s has a deviation in proportion to 1 / s)
    prominence = [np.quantile(column_response(view.recorded, s), 0.999) * s for s in TRIED_WIDTHS]
    return TRIED_WIDTHS[int(np.argmax(prominence))]


def _fitted_width(view: _View, positions: NDArray, guess: float) -> float:
    """Median width of the columns in the middle of the image, fitted twice: the second time from the first's width."""
    if len(positions) == 0:
        return guess
    centre = np.array(view.recorded.shape) / 2
    some = positions[np.argsort(np.abs(positions - centre).max(axis=1))[:LEARNT_ON]]
    for _ in range(2):
        fits = fit_columns(view.recorded, some, guess, variance=view.variance)
        good = fits.sigma[~fits.failed & (fits.amplitude > 4 * fits.amplitude_err)]
        if len(good) < 3:
            break
        guess = float(np.median(good))
    return guess


def _candidates(view: _View, spacing: float, width: float) -> NDArray[np.float64]:
    """Where columns may be, ``(n, 2)`` px."""
    known = np.isfinite(spacing)
    if view.detect is not None:
        apart = max(1.5, 0.25 * spacing) if known else 1.5
        return find_peaks(view.detect, threshold=DETECT_THRESHOLD, min_distance=apart)
    apart = max(1.5, 0.45 * spacing) if known else max(1.5, 2.0 * width)
    if view.enhanced is not None:
        response = column_response(view.enhanced, 0.7 * width)
        peaks = find_peaks(response, threshold=0.0, min_distance=apart)
        if len(peaks) == 0:
            return peaks
        heights = response[tuple(np.clip(peaks.round().astype(int), 0, np.array(response.shape) - 1).T)]
        return peaks[heights > ENHANCED_THRESHOLD * np.quantile(heights, 0.95)]
    noise = float(np.sqrt(view.variance(float(np.median(view.recorded)))))
    correlation = view.noise.pointwise.correlation_x
    return peaks_above_noise(view.recorded, width, noise=noise, min_distance=apart, correlation_x=correlation)


def _fit(view: _View, positions: NDArray, width: float) -> tuple[ColumnFits, NDArray[np.bool_]]:
    """Fits, and which of them have their width held at the learnt one: those too faint to tell their own."""

    def fit(fit_sigma: bool) -> ColumnFits:
        return fit_columns(
            view.recorded,
            positions,
            width,
            variance=view.variance,
            correlation_x=view.noise.pointwise.correlation_x,
            streaks=view.noise.scan.amplitude * view.noise.contrast,
            fit_sigma=fit_sigma,
        )

    free = fit(True)
    if not free.failed.any():
        return free, free.failed
    narrow = fit(False)
    narrow.sigma_err[:] = np.nan
    held = free.failed & ~narrow.failed
    names = [f.name for f in fields(ColumnFits)]
    return ColumnFits(**{k: np.where(held, getattr(narrow, k), getattr(free, k)) for k in names}), held


# --- the table ---------------------------------------------------------------------------------------------------


def _unit(image: xr.DataArray) -> tuple[float, bool]:
    """Pixel size (geometric mean of height and width) and whether there is one; px are the unit without it."""
    sizes = pixel_sizes(image)
    return (1.0, False) if sizes is None else (float(np.sqrt(sizes[0] * sizes[1])), True)


def _table(fits: ColumnFits, held: NDArray, view: _View, index: int) -> pd.DataFrame:
    image = view.image
    sizes = pixel_sizes(image) or (1.0, 1.0)
    origin = [float(image.coords[d][0]) if d in image.coords else 0.0 for d in ("y", "x")]
    mean_size = float(np.sqrt(sizes[0] * sizes[1]))
    data = {
        "image": np.full(len(fits), index, dtype=np.int64),
        "y": origin[0] + fits.y * sizes[0],
        "x": origin[1] + fits.x * sizes[1],
        "y_px": fits.y,
        "x_px": fits.x,
        "amplitude": fits.amplitude,
        "sigma": fits.sigma * mean_size,
        "background": fits.background * view.sign,
        "y_err": fits.y_err * sizes[0],
        "x_err": fits.x_err * sizes[1],
        "y_px_err": fits.y_err,
        "x_px_err": fits.x_err,
        "amplitude_err": fits.amplitude_err,
        "sigma_err": fits.sigma_err * mean_size,
        "background_err": fits.background_err,
        "x_jitter": _jitter_error(view.noise.scan.jitter, fits.sigma) * sizes[1],
        "snr": fits.amplitude / np.sqrt(view.variance(fits.background + fits.amplitude)),
        "residual": fits.residual,
        "quality": _quality(fits, view.recorded.shape) + 8 * held,
    }
    table = pd.DataFrame({name: data[name] for name in COLUMNS})
    return table.sort_values(["y_px", "x_px"], ignore_index=True)


def _jitter_error(jitter: float, sigma: NDArray) -> NDArray:
    """What independent displacements of the rows (RMS, px) add to a column's x.

    A row at distance y from the centre tells of x in proportion to exp(-y^2 / sigma^2); the weighted mean of
    independent displacements has the variance jitter^2 / (sqrt(2 pi) sigma).
    """
    return jitter / np.sqrt(np.sqrt(2 * np.pi) * np.maximum(sigma, 0.5))


def _quality(fits: ColumnFits, shape: tuple[int, ...]) -> NDArray[np.int64]:
    margin = 2 * fits.sigma
    edge = (np.minimum(fits.y, fits.x) < margin) | (fits.y > shape[0] - 1 - margin) | (fits.x > shape[1] - 1 - margin)
    return edge * 1 + fits.failed * 2 + (fits.residual > ODD_RESIDUAL) * 4
