"""The noise of one image: its specimen found and taken off, what is left split into the parts of the model."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits
from stemkit.images import mode_sign
from stemkit.noise.background import BackgroundStatistics, background_statistics, between_columns
from stemkit.noise.differences import row_difference
from stemkit.noise.displacements import NO_PARTS
from stemkit.noise.faults import pixel_faults, saturated, scan_faults
from stemkit.noise.figure3 import figure3
from stemkit.noise.model import BackgroundNoise, Detector, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.readings import slope
from stemkit.noise.registration import Registration
from stemkit.noise.rowwise import RowStatistics, row_statistics
from stemkit.noise.shape import NORMAL, is_counted, tukey_shape
from stemkit.noise.specimen import Specimen, find_specimen
from stemkit.pixels import faulty_pixels, filled, find_pixel_faults

__all__ = ["measure", "own_scale"]

#: Larger images are looked at in part: this many pixels, in rows of at most this length, and at least so many rows.
MOST_PIXELS, LONGEST_ROW, FEWEST_ROWS = 2**18, 2048, 128
#: Noise is looked at without what a Gaussian of this width holds, px.
QUICK = 6.0
#: Jitter that changes along the row counts from this part of the variance of that which doesn't.
LOCAL = 0.1
#: Bias of a fitted amplitude A of error e is about this times e^2 / A, for fits whose place and width are free.
SEEKING = 2.5


def measure(values: NDArray, mode: str) -> tuple[NoiseModel, dict[str, float], dict[str, Any]]:
    """The noise of one image ``(n_y, n_x)``, the standard deviation of each of its numbers, and the curves behind."""
    found = find_pixel_faults(values)
    faulty = found.mask
    whole = filled(values, faulty).astype(np.float64) * mode_sign(mode)
    rows, columns = _part(whole)
    bright, bad = whole[rows, columns], faulty[rows, columns]
    specimen = find_specimen(bright, faulty=bad, row_length=whole.shape[1])
    contrast, level, scale_std = _scale(specimen)
    good = specimen.trusted & ~saturated(values[rows, columns], bad)
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
        detector=_detector(values, faulty, split.readout * contrast),
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
    scan_curve, pointwise_curve = figure3(bright, max(0.8, 0.6 * specimen.width), valid=~bad)
    diagnostics = {
        "spacing": specimen.spacing,
        "has_columns": specimen.fits is not None,
        "part": (rows, columns),
        "scan": scan_curve,
        "pointwise": pointwise_curve,
        "rows": split,
        "registration": specimen.registration if specimen.parts is None else specimen.parts,
        "across": specimen.parts_y,
        "background": background,
        "faults": pixel_faults(values, found)
        | scan_faults(bright, specimen.fits, specimen.registration, specimen.vectors, faulty=bad),
        "faulty": faulty,
    }
    return model, {key: float(value) for key, value in std.items()}, diagnostics


def own_scale(values: NDArray, mode: str) -> tuple[float, float]:
    """Contrast and level of one image, in its units."""
    faulty = faulty_pixels(values)
    bright = filled(values, faulty).astype(np.float64) * mode_sign(mode)
    part = _part(bright)
    contrast, level, _ = _scale(find_specimen(bright[part], faulty=faulty[part]))
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
    fits = specimen.whole_columns
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
    variance = np.maximum(pointwise + split.streak_variance, 1e-12)
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
    variance = np.maximum(split.readout**2 + split.gain * signal[use], 0.05 * split.readout**2) + split.streak_variance
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
        streaks=split.streak_variance,
        streak_length=split.mean_streak_length,
    )


def _scan(specimen: Specimen, split: RowStatistics, larger: float) -> tuple[ScanNoise, dict[str, float]]:
    """Streaks and displacements. Without columns the jitter is what moves with the gradient of the smoothed image,
    whose slopes are lower than the specimen's, and its error is not known.
    """
    std = {f"scan.{f.name}": math.nan for f in fields(ScanNoise)} | {
        "scan.amplitude": split.std.get("streaks", math.nan),
        "scan.length": split.std.get("streak_length", math.nan),
        "scan.short_amplitude": split.std.get("short_streaks", math.nan),
        "scan.short_length": split.std.get("short_length", math.nan),
    }
    streaks = ScanNoise(
        split.streaks, split.streak_length, short_amplitude=split.short_streaks, short_length=split.short_length
    )
    found, across = specimen.parts, specimen.parts_y
    if found is None:
        smoothing = max(0.8, 0.5 * specimen.width)
        return replace(streaks, jitter=split.left / (1 + (smoothing / specimen.width) ** 2) ** 1.5), std
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
    slow, slow_std = _slow_and_periodic(found, across, larger)
    return replace(streaks, jitter=jitter, jitter_length=length, jitter_y=jitter_y, **slow), std | slow_std


def _slow_and_periodic(
    along_x: Registration, along_y: Registration | None, larger: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Drift and hum along both axes: numbers of ``ScanNoise``, and their standard deviations."""
    n_y = len(along_x.shifts)
    numbers: dict[str, float] = {}
    std: dict[str, float] = {}
    for suffix, found in (("", along_x), ("_y", along_y)):
        parts = NO_PARTS if found is None else found.parts
        numbers |= {f"drift{suffix}": parts.drift, f"hum{suffix}": parts.hum}
        # as many independent values as correlation lengths fit into the rows
        unseen = parts.drift * math.sqrt(
            (1 - 1 / larger) * min(math.sqrt(math.pi / 2) * np.nan_to_num(parts.drift_rows) / n_y, 0.5)
        )
        std[f"scan.drift{suffix}"] = math.hypot(parts.std.get("drift", math.nan), unseen)
        std[f"scan.hum{suffix}"] = parts.std.get("hum", math.nan)
        # the axes share the length and the period: that of the better known one is stated
        if parts.drift and parts.std["drift_rows"] < std.get("scan.drift_rows", math.inf):
            numbers["drift_rows"], std["scan.drift_rows"] = parts.drift_rows, parts.std["drift_rows"]
        period_std = parts.std.get("hum_frequency", math.inf) / np.nan_to_num(parts.hum_frequency, nan=1.0) ** 2
        if parts.hum and period_std < std.get("scan.hum_period", math.inf):
            numbers["hum_period"], std["scan.hum_period"] = 1 / parts.hum_frequency, float(period_std)
    return numbers, std


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


def _detector(values: NDArray, faulty: NDArray, noise: float) -> Detector:
    """Ends of the range where pixels are clipped there, and digital levels where they are not finer than the noise."""
    clipped, good = saturated(values, faulty), values[~faulty]
    low = float(good.min()) if (clipped & (values == good.min())).any() else None
    high = float(good.max()) if (clipped & (values == good.max())).any() else None
    some = slice(None, None, max(1, len(values) // 64))
    levels = np.unique(values[some][~faulty[some]])
    step = float(np.diff(levels).min()) if 2 < len(levels) < 4096 else 0.0
    whole = step > 0 and np.allclose((levels - levels[0]) / step, np.rint((levels - levels[0]) / step), atol=1e-3)
    return Detector(low, high, step if whole and step > 0.2 * noise else None)
