"""Noise measured from the image itself."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits, column_response, find_peaks, fit_columns
from stemkit.images import (
    Images,
    float_dtype,
    join,
    measured_image,
    mode_sign,
    pixel_sizes,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.noise.figure3 import figure3
from stemkit.noise.model import BackgroundNoise, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.rowwise import RowStatistics, repaired, row_statistics
from stemkit.periodicity import find_periodicity

__all__ = ["NoiseCalibrator"]

#: Columns that are fitted for the contrast: more do not make it better.
MOST_COLUMNS = 300
#: Bands of rows whose separate estimates give the stated errors.
BANDS = 8


class NoiseCalibrator(TransformerMixin, BaseEstimator):
    """Measure background, scan noise and pointwise noise from images, without a model of the specimen.

    Rows are recorded one after another: what differs between neighbouring rows beyond a smooth specimen is noise.
    A fourth difference across rows takes the specimen away. What remains is correlated along the row at long range
    (streaks), correlated in proportion to the gradient (jitter of the beam), or not correlated (pointwise noise,
    whose variance is a straight line in the signal).

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None asks the image, and infers it where the image does not say.

    Attributes
    ----------
    noise_model_ : NoiseModel
        Mean over the images.
    noise_model_std_ : dict
        Standard deviation of each amplitude of ``noise_model_``, from bands of rows and from image to image; keys
        such as ``"pointwise.readout"``.
    diagnostics_ : list of dict
        Per image: ``spacing`` (px or None), ``has_columns``, ``scan`` and ``pointwise`` (the curves of the paper's
        figure 3, :class:`~stemkit.noise.figure3.Curve`), ``rows`` (the row statistics behind the fit).
    n_images_ : int
        Number of images seen.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image.

    See Also
    --------
    stemkit.NoiseModel : what the numbers mean, and how they draw noise.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, "Noise Calibration and Spatial-Frequency Interactive Network for STEM Image
       Enhancement", CVPR 2025, https://arxiv.org/abs/2504.02555

    Examples
    --------
    >>> from stemkit import NoiseCalibrator, STEMSynthesizer
    >>> images = STEMSynthesizer(random_state=0).sample(1)["noisy"]
    >>> calibrator = NoiseCalibrator().fit(images)
    >>> calibrator.noise_model_.mode
    'haadf'
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def fit(self, X: Images, y: object = None) -> NoiseCalibrator:
        """Measure the noise of the images; their fractions are averaged.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        images = split(X)
        for image in images:
            warn_if_small(image)
        modes = [resolve_mode(image, self.mode) for image in images]
        if len(set(modes)) > 1:
            raise ValueError(f"X must hold images of one mode, but they are {sorted(set(modes))}: fit each on its own")
        recorded = [measured_image(image).values for image in images]
        results = [_calibrate(values, mode) for values, mode in zip(recorded, modes, strict=True)]
        self.noise_model_ = _mean_model([model for model, _, _ in results])
        self.noise_model_std_ = _mean_std([model for model, _, _ in results], [std for _, std, _ in results])
        self.diagnostics_ = [diagnostics for _, _, diagnostics in results]
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> Images:
        """The images with the calibrated noise in ``attrs["noise"]``; a plain ndarray comes back as it is.

        The fractions are the fitted ones; contrast and level are each image's own.
        """
        check_is_fitted(self, "noise_model_")
        return join([self._labelled(image) for image in split(X)], X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _labelled(self, image: xr.DataArray) -> xr.DataArray:
        mode = self.mode or image.attrs.get("mode") or self.noise_model_.mode
        if mode != self.noise_model_.mode:
            raise ValueError(
                f"NoiseCalibrator was fitted on {self.noise_model_.mode} images, but this one is {mode}: fit it on "
                "images of this mode"
            )
        bright = repaired(measured_image(image).values) * mode_sign(mode)
        contrast, level, _ = _contrast(bright, find_periodicity(bright).spacing)
        model = _with_scale(self.noise_model_, contrast, level * mode_sign(mode), mode)
        sizes = pixel_sizes(image)
        described = {"pixel_size": None if sizes is None else sizes[1], **model.to_dict()}
        out = image.copy(data=image.values.astype(float_dtype(image.dtype), copy=True))
        out.attrs = {**image.attrs, "mode": mode, "noise": json.dumps(described)}
        return out


# --- one image ---------------------------------------------------------------------------------------------------


def _calibrate(values: NDArray, mode: str) -> tuple[NoiseModel, dict[str, float], dict[str, Any]]:
    bright = repaired(values) * mode_sign(mode)
    spacing = find_periodicity(bright).spacing
    contrast, level, fits = _contrast(bright, spacing)
    width = float(np.median(fits.sigma)) if fits is not None else (0.2 * spacing if spacing else 2.0)
    rows = row_statistics((bright - level) / contrast, width)
    bands = [row_statistics((band - level) / contrast, width) for band in _bands(bright)]
    amplitude, length = _background((bright - level) / contrast, spacing, rows) if fits is not None else (0.0, 32.0)
    model = NoiseModel(
        contrast=contrast,
        level=level * mode_sign(mode),
        mode=mode,
        background=BackgroundNoise(amplitude, length),
        scan=ScanNoise(rows.streaks, rows.streak_length, rows.jitter),
        pointwise=PointwiseNoise(rows.readout, rows.gain, rows.shape, rows.correlation_x),
    )
    scan, pointwise = figure3(values, max(0.8, 0.6 * width))
    diagnostics = {
        "spacing": spacing,
        "has_columns": fits is not None,
        "scan": scan,
        "pointwise": pointwise,
        "rows": rows,
    }
    return model, _band_errors(bands), diagnostics


def _contrast(bright: NDArray, spacing: float | None) -> tuple[float, float, ColumnFits | None]:
    """Contrast, level, and the fits behind them.

    The contrast is the median amplitude of the brightest sublattice; without columns a robust range stands in.
    """
    values = np.asarray(bright, dtype=np.float64)
    fits = _fit_some(values, spacing)
    smooth = ndimage.gaussian_filter(values, 1.5 if spacing is None else max(1.0, 0.12 * spacing))
    low, high = np.quantile(smooth, [0.05, 0.995])
    if fits is None:
        scale = high - low if high > low else 1.0
        return float(scale), float(low), None
    brightest = fits.amplitude >= _split_point(fits.amplitude)
    contrast = float(np.median(fits.amplitude[brightest]))
    return contrast, float(np.median(fits.background)), fits


def _fit_some(values: NDArray, spacing: float | None) -> ColumnFits | None:
    """Fits of up to 300 of the image's most prominent columns, or None where there are none worth it."""
    if spacing is None or spacing < 4 or min(values.shape) < 16:
        return None
    sigma = float(np.clip(0.2 * spacing, 1.0, 12.0))
    response = column_response(values, sigma)
    peaks = find_peaks(response, threshold=0.3 * np.quantile(response, 0.995), min_distance=0.6 * spacing)
    inside = ((peaks > 2 * sigma) & (peaks < np.array(values.shape) - 1 - 2 * sigma)).all(axis=1)
    peaks = peaks[inside]
    if len(peaks) < 4:
        return None
    # neighbours that are not fitted would sit in the background: all are fitted in small images, a crop in large ones
    if len(peaks) > MOST_COLUMNS:
        centre = np.array(values.shape) / 2
        peaks = peaks[np.argsort(np.abs(peaks - centre).max(axis=1))[:MOST_COLUMNS]]
    fits = fit_columns(values, peaks, sigma)
    good = fits.take(~fits.failed & (fits.amplitude > 3 * fits.amplitude_err))
    return good if len(good) >= 4 else None


def _split_point(amplitudes: NDArray) -> float:
    """Between two sublattices where the amplitudes have two groups, else below all: Otsu's threshold, if it explains
    most of the variance.
    """
    a = np.sort(amplitudes)
    if len(a) < 8:
        return float(a[0])
    n = np.arange(1, len(a))
    left, total = np.cumsum(a)[:-1], a.sum()
    between = n * (len(a) - n) * (left / n - (total - left) / (len(a) - n)) ** 2 / len(a) ** 2
    best = int(np.argmax(between))
    # one normal distribution, cut in the middle, explains 64 % of its variance
    return float(a[best + 1]) if between[best] > 0.8 * a.var() and len(a) - best > 3 else float(a[0])


def _background(signal: NDArray, spacing: float | None, rows: RowStatistics) -> tuple[float, float]:
    """Deviation and length of the variation that is slower than the lattice and not other noise.

    Through a Gaussian of sigma s, noise of length L keeps L^2 / (L^2 + s^2) of its variance.
    """
    smoothing = max(3.0, spacing or 8.0)
    if min(signal.shape) < 6 * smoothing:
        return 0.0, 32.0
    smooth = ndimage.gaussian_filter(signal, smoothing)
    edge = int(smoothing)
    smooth = smooth[edge:-edge, edge:-edge]
    variance = smooth.var()
    slope = 0.5 * sum((np.diff(smooth, axis=a) ** 2).mean() for a in (0, 1))
    others, their_slope = _passed(rows, float(signal.mean()), smoothing)
    # the smoothed image holds this many independent values, which bound what can be told from the other noise
    independent = smooth.size / (4 * np.pi * smoothing**2)
    if variance < others * (1 + 3 * np.sqrt(2 / independent)) or slope <= their_slope:
        return 0.0, 32.0
    variance, slope = variance - others, slope - their_slope
    # filtered white noise of length l has a mean squared slope of variance / (2 l^2) per axis
    squared = variance / (2 * slope) - smoothing**2
    if squared <= 1.0:  # no smoother than single pixels
        return 0.0, 32.0
    length = float(min(np.sqrt(squared), max(signal.shape)))
    return float(np.sqrt(variance * (1 + (smoothing / length) ** 2))), length


def _passed(rows: RowStatistics, mean: float, smoothing: float) -> tuple[float, float]:
    """Variance and mean squared slope that pointwise noise and streaks keep through a 2-D Gaussian."""
    colour = (1 + rows.correlation_x) / (1 - rows.correlation_x)
    pointwise = max(rows.readout**2 + rows.gain * mean, 0.0) * colour / (4 * np.pi * smoothing**2)
    spread = 1 + (smoothing / rows.streak_length) ** 2
    streaks = rows.streaks**2 / (2 * np.sqrt(np.pi) * smoothing * np.sqrt(spread))
    slope_x = 1 - 1 / spread  # relative to that along y
    return pointwise + streaks, (pointwise + streaks * (1 + slope_x) / 2) / (2 * smoothing**2)


# --- several -----------------------------------------------------------------------------------------------------


def _bands(values: NDArray) -> list[NDArray]:
    n_bands = min(BANDS, values.shape[0] // 16)
    return np.array_split(values, n_bands) if n_bands >= 2 else []


_BAND_KEYS = {
    "scan.amplitude": "streaks",
    "scan.jitter": "jitter",
    "pointwise.readout": "readout",
    "pointwise.gain": "gain",
    "pointwise.shape": "shape",
    "pointwise.correlation_x": "correlation_x",
}


def _band_errors(bands: list[RowStatistics]) -> dict[str, float]:
    """Standard deviation of the whole image's estimates, from those of its bands; NaN in too small an image."""
    if len(bands) < 2:
        return dict.fromkeys(_BAND_KEYS, float("nan"))
    return {
        key: float(np.std([getattr(b, name) for b in bands], ddof=1) / np.sqrt(len(bands)))
        for key, name in _BAND_KEYS.items()
    }


def _mean_std(models: list[NoiseModel], stds: list[dict[str, float]]) -> dict[str, float]:
    n = len(models)
    result = {}
    for key in _BAND_KEYS:
        part, name = key.split(".")
        within = float(np.sqrt(np.sum([std[key] ** 2 for std in stds])) / n)
        values = [getattr(getattr(model, part), name) for model in models]
        between = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else 0.0
        result[key] = float(np.fmax(within, between)) if n > 1 else within
    return result


def _mean_model(models: list[NoiseModel]) -> NoiseModel:
    if len(models) == 1:
        return models[0]

    def mean(part: str, name: str) -> float:
        values = np.array([getattr(getattr(m, part), name) for m in models])
        return float(np.median(values) if np.isinf(values).any() else values.mean())

    return NoiseModel(
        contrast=float(np.median([m.contrast for m in models])),
        level=float(np.median([m.level for m in models])),
        mode=models[0].mode,
        background=BackgroundNoise(*(mean("background", k) for k in ("amplitude", "length"))),
        scan=ScanNoise(*(mean("scan", k) for k in ("amplitude", "length", "jitter", "jitter_length"))),
        pointwise=PointwiseNoise(
            mean("pointwise", "readout"),
            mean("pointwise", "gain"),
            mean("pointwise", "shape"),
            mean("pointwise", "correlation_x"),
        ),
    )


def _with_scale(model: NoiseModel, contrast: float, level: float, mode: str) -> NoiseModel:
    return NoiseModel(contrast, level, mode, model.background, model.scan, model.pointwise, model.detector)
