"""Noise measured from the image itself."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from stemkit.columns import ColumnFits
from stemkit.images import (
    Images,
    digest,
    float_dtype,
    join,
    measured_image,
    mode_sign,
    pixel_sizes,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.noise.background import BackgroundStatistics, background_statistics, between_columns
from stemkit.noise.differences import row_difference
from stemkit.noise.figure3 import figure3
from stemkit.noise.figures import draw_calibration
from stemkit.noise.model import BackgroundNoise, Detector, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.registration import slope
from stemkit.noise.repair import find_faults, recorded_rows, repaired, saturated, scan_faults
from stemkit.noise.rowwise import RowStatistics, row_statistics
from stemkit.noise.shape import NORMAL, is_counted, tukey_shape
from stemkit.noise.specimen import Specimen, find_specimen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["NoiseCalibrator"]

#: Larger images are looked at in part: this many pixels, in rows of at most this length, and at least so many rows.
MOST_PIXELS, LONGEST_ROW, FEWEST_ROWS = 2**18, 2048, 128
#: Noise is looked at without what a Gaussian of this width holds, px.
QUICK = 6.0
#: Jitter that changes along the row counts from this part of the variance of that which doesn't.
LOCAL = 0.1
#: Bias of a fitted amplitude A of error e is about this times e^2 / A, for fits whose place and width are free.
SEEKING = 2.5


class NoiseCalibrator(TransformerMixin, BaseEstimator):
    """Measure background, scan noise and pointwise noise from images, without any other data.

    The columns are fitted, and every row is registered to them: that is the jitter. What they leave differs from row to
    row, and a fourth difference across rows takes away whatever of the specimen they did not hold: what is correlated
    along the row at long range is streaks, what is not is pointwise noise, whose variance is a straight line in the
    signal. Between the columns, what rows have in common is the background.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        Bright or dark columns; None asks the image, and infers it where the image does not say.

    Attributes
    ----------
    noise_model_ : NoiseModel
        Mean over the images.
    noise_model_std_ : dict
        Standard deviation of each number of ``noise_model_``, keys such as ``"pointwise.readout"``: how far it may be
        from the noise of the very images that were fitted, NaN where that is not known. For several images it is at
        least what their differences say.
    diagnostics_ : list of dict
        Per image: ``spacing`` (px or None), ``has_columns``, ``part`` (slices of the rows and columns that were looked
        at), ``scan`` and ``pointwise`` (the curves of the paper's figure 3, :class:`~stemkit.noise.figure3.Curve`),
        ``rows``, ``registration`` and ``background`` (the curves behind the numbers), and ``faults`` (a sentence for
        each thing that is wrong with the scan and not in the model: ``"rows"``, ``"saturation"``, ``"flyback"``,
        ``"hum"``, ``"direction"``).
    n_images_ : int
        Number of images seen.

    Raises
    ------
    ValueError, TypeError
        From ``fit`` and ``transform``, for anything that is not an image.

    See Also
    --------
    stemkit.NoiseModel : what the numbers mean, and how they draw noise.
    stemkit.RowAligner : takes the jitter out of the image.

    Notes
    -----
    Of images larger than 512 x 512 px a part of about as many pixels is looked at, in whole rows up to 2048 px; the
    numbers are those of the image, and their errors say so. Without a lattice of columns (``has_columns`` is False)
    the contrast is the image's range of intensities, the jitter is what moves with the gradient of the smoothed image,
    and no background is told from the specimen.

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
        # so that fit_transform does not measure each image twice
        self._scales = {
            digest(values): (model.contrast, model.level)
            for values, (model, _, _) in zip(recorded, results, strict=True)
        }
        self._models = [model for model, _, _ in results]
        self.noise_model_ = _mean_model(self._models)
        self.noise_model_std_ = _mean_std(self._models, [std for _, std, _ in results])
        self.diagnostics_ = [diagnostics for _, _, diagnostics in results]
        self.n_images_ = len(images)
        return self

    def transform(self, X: Images) -> Images:
        """The images with the calibrated noise in ``attrs["noise"]``; a plain ndarray comes back as it is.

        The fractions are the fitted ones; contrast and level are each image's own.
        """
        check_is_fitted(self, "noise_model_")
        return join([self._labelled(image) for image in split(X)], X)

    def plot(self, image: int = 0) -> Figure:
        """Draw figure 3 of the paper for one of the fitted images, and the curves that its numbers come from.

        Parameters
        ----------
        image : int
            Which of the fitted images.

        Returns
        -------
        matplotlib Figure
        """
        check_is_fitted(self, "noise_model_")
        return draw_calibration(self._models[image], self.diagnostics_[image])

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
        recorded = measured_image(image).values
        contrast, level = self._scales.get(digest(recorded)) or _own_scale(recorded, mode)
        model = replace(self.noise_model_, contrast=contrast, level=level, mode=mode)
        sizes = pixel_sizes(image)
        described = {"pixel_size": None if sizes is None else sizes[1], **model.to_dict()}
        out = image.copy(data=image.values.astype(float_dtype(image.dtype), copy=True))
        out.attrs = {**image.attrs, "mode": mode, "noise": json.dumps(described)}
        return out


# --- one image ---------------------------------------------------------------------------------------------------


def _calibrate(values: NDArray, mode: str) -> tuple[NoiseModel, dict[str, float], dict[str, Any]]:
    recorded = recorded_rows(values)
    whole = repaired(values, recorded) * mode_sign(mode)
    rows, columns = _part(whole)
    bright = whole[rows, columns]
    specimen = find_specimen(bright)
    contrast, level, scale_std = _scale(specimen)
    good = specimen.trusted & ~saturated(bright) & recorded[rows, None]
    signal, rest = (specimen.signal - level) / contrast, (specimen.rest - level) / contrast
    split = row_statistics(
        rest,
        signal,
        slope(signal),
        slope(signal, 0),
        valid=good,
        registration=specimen.registration,
        across=specimen.across,
    )
    between = between_columns(rest.shape, specimen.fits) & good
    kind, shape, shape_std = _law(rest, signal, split, good, between)
    background = _background(rest, specimen, split, between, float(signal.mean()))
    scan, scan_std = _scan(specimen, split, len(whole) / len(bright))
    model = NoiseModel(
        contrast=contrast,
        level=level * mode_sign(mode),
        mode=mode,
        background=BackgroundNoise(background.amplitude, background.length),
        scan=scan,
        pointwise=PointwiseNoise(split.readout, split.gain, shape, split.correlation_x, kind),
        detector=_detector(values, split.readout * contrast),
    )
    std = {
        **scale_std,
        "background.amplitude": background.amplitude_std,
        "background.length": background.length_std,
        **scan_std,
        "pointwise.readout": _with_scale_error(split.std.get("readout"), split.readout, scale_std, contrast),
        "pointwise.gain": _with_scale_error(split.std.get("gain"), 2 * split.gain, scale_std, contrast),
        "pointwise.shape": shape_std,
        "pointwise.correlation_x": split.std.get("correlation_x", math.nan),
    }
    found = specimen.registration
    scan_curve, pointwise_curve = figure3(bright, max(0.8, 0.6 * specimen.width))
    diagnostics = {
        "spacing": specimen.spacing,
        "has_columns": specimen.fits is not None,
        "part": (rows, columns),
        "scan": scan_curve,
        "pointwise": pointwise_curve,
        "rows": split,
        "registration": found,
        "background": background,
        "faults": find_faults(values, recorded) | scan_faults(bright, specimen.fits, found, specimen.vectors),
    }
    return model, {key: float(value) for key, value in std.items()}, diagnostics


def _own_scale(values: NDArray, mode: str) -> tuple[float, float]:
    bright = repaired(values) * mode_sign(mode)
    contrast, level, _ = _scale(find_specimen(bright[_part(bright)]))
    return contrast, level * mode_sign(mode)


def _part(bright: NDArray) -> tuple[slice, slice]:
    """The part of a large image that is looked at: whole rows where they are short enough, where columns stand out."""
    n_y, n_x = bright.shape
    if n_y * n_x <= MOST_PIXELS:
        return slice(0, n_y), slice(0, n_x)
    width = min(n_x, LONGEST_ROW)
    height = min(n_y, max(MOST_PIXELS // width, FEWEST_ROWS))
    # islands in a vacuum: rows that vary the most along x hold the most columns
    busy = np.cumsum(np.r_[0.0, bright.std(axis=1)])
    top = int(np.argmax(busy[height:] - busy[:-height])) if n_y > height else 0
    left = (n_x - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _scale(specimen: Specimen) -> tuple[float, float, dict[str, float]]:
    """Contrast, level, and their standard deviations.

    The contrast is the median amplitude of the brightest sublattice; without columns a robust range stands in.
    """
    fits = specimen.fits
    if fits is None:
        low, high = np.quantile(ndimage.gaussian_filter(specimen.rest, max(1.5, 0.6 * specimen.width)), [0.05, 0.995])
        scale = high - low if high > low else 1.0
        return float(scale), float(low), {"contrast": math.nan, "level": math.nan}
    # a fit that is free to move finds the place where noise is high
    amplitude = fits.amplitude * (1 - np.minimum(SEEKING * (fits.amplitude_err / fits.amplitude) ** 2, 0.2))
    alike = _like_equivalents(amplitude, fits, specimen.vectors)
    brightest = amplitude[alike >= _split_point(alike)]
    level = float(np.median(fits.background))
    std = {
        "contrast": 1.25 * float(np.std(brightest)) / math.sqrt(len(brightest)),
        "level": 1.25 * float(np.std(fits.background)) / math.sqrt(len(fits)),
    }
    return float(np.median(brightest)), level, std


def _like_equivalents(amplitude: NDArray, fits: ColumnFits, vectors: NDArray | None) -> NDArray:
    """Amplitudes of the columns a lattice vector away from each: noise would blur two sublattices, and a column's own
    would put it among the brighter ones.
    """
    if vectors is None:
        return amplitude
    places = np.column_stack([fits.y, fits.x])
    tree = cKDTree(places)
    total, count = np.zeros(len(amplitude)), np.zeros(len(amplitude))
    for vector in (*vectors, *-vectors):
        distance, index = tree.query(places + vector)
        found = distance < 0.2 * np.hypot(*vector)
        total[found] += amplitude[index[found]]
        count[found] += 1
    return np.where(count > 0, total / np.maximum(count, 1), amplitude)


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


def _law(
    rest: NDArray, signal: NDArray, split: RowStatistics, good: NDArray, between: NDArray
) -> tuple[str, float, float]:
    """Kind, shape and the shape's standard deviation."""
    if rest.shape[0] < 8 or (split.readout == 0 and split.gain == 0):
        return "tukey", NORMAL, math.nan
    difference = row_difference(rest)
    known = np.logical_and.reduce([good[i : i + len(difference)] for i in range(5)])
    pointwise = np.maximum(split.readout**2 + split.gain * signal[2:-2], 0.0)
    variance = np.maximum(pointwise + split.streaks**2, 1e-12)
    known &= pointwise > 0.05 * float(pointwise.mean())
    if not known.any():
        return "tukey", NORMAL, math.nan
    share = float((pointwise[known] / variance[known]).mean())
    if _skewed_like_counts(rest, signal, split, between):
        return "poisson", NORMAL, math.nan
    return "tukey", *tukey_shape(difference / np.sqrt(variance), share, known)


def _skewed_like_counts(rest: NDArray, signal: NDArray, split: RowStatistics, use: NDArray) -> bool:
    """Whether the noise between the columns, where no model of them is in the way, has the skewness of counts."""
    quick = rest - ndimage.gaussian_filter(rest, QUICK)
    variance = np.maximum(split.readout**2 + split.gain * signal[use], 0.05 * split.readout**2) + split.streaks**2
    if not use.any() or variance.min() <= 0:
        return False
    deviation = np.sqrt(variance)
    return is_counted(quick[use] / deviation, split.gain, deviation, split.correlation_x)


def _background(
    rest: NDArray, specimen: Specimen, split: RowStatistics, between: NDArray, mean: float
) -> BackgroundStatistics:
    if specimen.fits is None:
        return BackgroundStatistics()
    colour = (1 + split.correlation_x) / (1 - split.correlation_x)
    return background_statistics(
        rest,
        between,
        specimen.fits,
        pointwise=max(split.readout**2 + split.gain * mean, 0.0) * colour,
        streaks=split.streaks**2,
        streak_length=split.streak_length,
    )


def _scan(specimen: Specimen, split: RowStatistics, larger: float) -> tuple[ScanNoise, dict[str, float]]:
    """Streaks and jitter. Without columns the jitter is what moves with the gradient of the smoothed image, whose
    slopes are lower than the specimen's, and its error is not known.
    """
    std = {
        "scan.amplitude": split.std.get("streaks", math.nan),
        "scan.length": split.std.get("streak_length", math.nan),
        **dict.fromkeys(("scan.jitter", "scan.jitter_length", "scan.jitter_y"), math.nan),
    }
    found, across = specimen.registration, specimen.across
    if found is None:
        smoothing = max(0.8, 0.5 * specimen.width)
        jitter = split.left / (1 + (smoothing / specimen.width) ** 2) ** 1.5
        return ScanNoise(split.streaks, split.streak_length, jitter), std
    # rows that were not looked at may jitter more or less than those that were
    unseen = found.jitter * math.sqrt((1 - 1 / larger) / (2 * len(specimen.rest)))
    jitter, jitter_std, length = found.jitter, math.hypot(found.jitter_std, unseen), found.length
    if math.isinf(length) and split.left**2 > LOCAL * jitter**2:
        jitter, jitter_std, length = _partly_whole(jitter, jitter_std, split, specimen.rest.shape[1])
    whole_y, whole_y_std = (0.0, 0.0) if across is None else (across.jitter, across.jitter_std)
    jitter_y, left_y_std = math.hypot(whole_y, split.left_y), split.std.get("left_y", math.nan)
    std |= {
        "scan.jitter": jitter_std,
        "scan.jitter_length": found.length_std,
        "scan.jitter_y": math.hypot(left_y_std / 2, whole_y * whole_y_std) / max(jitter_y, left_y_std**0.5, 1e-150),
    }
    return ScanNoise(split.streaks, split.streak_length, jitter, length, jitter_y), std


def _partly_whole(whole: float, whole_std: float, split: RowStatistics, n_x: int) -> tuple[float, float, float]:
    """RMS displacement, its error and its length where rows move as a whole, and more than that from place to place:
    the mean of a field of length l over a row keeps about ``2 sqrt(pi) l / n_x`` of its variance.
    """
    squared = whole**2 + split.left**2
    jitter = math.sqrt(squared)
    length = n_x * whole**2 / (2 * math.sqrt(math.pi) * squared)
    std = math.hypot(split.std["left"] / 2, whole * whole_std) / jitter
    return jitter, std, max(length, 3.0) if length < 0.15 * n_x else math.inf


def _with_scale_error(std: float | None, value: float, scale_std: dict[str, float], contrast: float) -> float:
    """A fraction is as uncertain as what it is a fraction of."""
    if std is None:
        return math.nan
    relative = scale_std["contrast"] / contrast
    return math.hypot(std, value * relative) if math.isfinite(relative) else std


def _detector(values: NDArray, noise: float) -> Detector:
    """Ends of the range where pixels are clipped there, and digital levels where they are not finer than the noise."""
    clipped = saturated(values)
    low = float(values.min()) if (clipped & (values == values.min())).any() else None
    high = float(values.max()) if (clipped & (values == values.max())).any() else None
    levels = np.unique(values[:: max(1, len(values) // 64)])
    step = float(np.diff(levels).min()) if 2 < len(levels) < 4096 else 0.0
    whole = step > 0 and np.allclose((levels - levels[0]) / step, np.rint((levels - levels[0]) / step), atol=1e-3)
    return Detector(low, high, step if whole and step > 0.2 * noise else None)


# --- several -----------------------------------------------------------------------------------------------------


def _number(model: NoiseModel, key: str) -> float:
    value: Any = model
    for part in key.split("."):
        value = getattr(value, part)
    return float(value)


def _mean_std(models: list[NoiseModel], stds: list[dict[str, float]]) -> dict[str, float]:
    """Of the mean over images: from what each states, or from how they differ, whichever is larger."""
    n, result = len(models), {}
    for key in stds[0]:
        within = float(np.sqrt(np.sum([std[key] ** 2 for std in stds])) / n)
        values = np.array([_number(model, key) for model in models])
        between = float(np.std(values, ddof=1) / np.sqrt(n)) if n > 1 and np.isfinite(values).all() else 0.0
        result[key] = float(np.fmax(within, between)) if n > 1 else within
    return result


def _mean_model(models: list[NoiseModel]) -> NoiseModel:
    if len(models) == 1:
        return models[0]

    def mean(part: str, name: str) -> float:
        values = np.array([getattr(getattr(m, part), name) for m in models])
        return float(np.median(values) if np.isinf(values).any() else values.mean())

    counted = sum(m.pointwise.kind == "poisson" for m in models) > len(models) / 2
    return NoiseModel(
        contrast=float(np.median([m.contrast for m in models])),
        level=float(np.median([m.level for m in models])),
        mode=models[0].mode,
        background=BackgroundNoise(*(mean("background", k) for k in ("amplitude", "length"))),
        scan=ScanNoise(*(mean("scan", k) for k in ("amplitude", "length", "jitter", "jitter_length", "jitter_y"))),
        pointwise=PointwiseNoise(
            mean("pointwise", "readout"),
            mean("pointwise", "gain"),
            mean("pointwise", "shape"),
            mean("pointwise", "correlation_x"),
            "poisson" if counted else "tukey",
        ),
        detector=models[0].detector if all(m.detector == models[0].detector for m in models) else Detector(),
    )
