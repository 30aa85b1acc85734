"""Calibration of one image: specimen and noise are separated, and the noise is divided into the parts of the model."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.images.mode import mode_sign
from stemkit.noise.background import BackgroundStatistics, OtherNoise, between_columns, measure_background
from stemkit.noise.components import NoiseComponents, measure_components
from stemkit.noise.differences import row_difference, rows_without
from stemkit.noise.distribution import NORMAL_SHAPE, fit_tukey_shape, is_counted
from stemkit.noise.fault_detection import (
    describe_hum,
    describe_pixel_faults,
    find_scan_faults,
    saturated_pixels,
)
from stemkit.noise.filter_residuals import residual_curves
from stemkit.noise.model import BackgroundNoise, Digitization, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.noise.registration import BeamDisplacement
from stemkit.noise.scale import IntensityScale, measure_scale
from stemkit.noise.separation import FittedCrystal, Separation, separate_specimen
from stemkit.noise.shift_estimates import derivative
from stemkit.pixels import faulty_pixels, filled, find_pixel_faults

__all__ = ["ImageCalibration", "calibrate_image", "contrast_and_level"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the calibration."""

    #: Number of pixels, about, of the part on which larger images are calibrated (chosen).
    max_pixels: int = 2**18
    #: Longest row of this part, px (chosen).
    longest_row: int = 2048
    #: Smallest number of rows of this part (chosen).
    min_rows: int = 128
    #: Sigma of the Gaussian filter whose result is subtracted before the skewness is measured, px (chosen).
    smooth: float = 6.0
    #: Pixels with less than this fraction of the usual pointwise variance have no weight in the distribution (chosen).
    min_variance: float = 0.05
    #: Jitter that changes along the row is stated from this fraction of the variance of jitter of whole rows (chosen).
    local_jitter: float = 0.1
    #: Jitter that is longer than this fraction of the row is stated for whole rows (chosen).
    longest_local: float = 0.15
    #: Shortest length of the jitter that is stated, px (chosen).
    shortest_local: float = 3.0
    #: Distance of digital levels from which they are stated, as a fraction of the readout noise (chosen).
    coarse_step: float = 0.2
    #: Number of digital levels from which on they are not stated (chosen).
    max_levels: int = 4096


CONSTANTS = _Constants()


@dataclass(frozen=True)
class ImageCalibration:
    """Noise of one image.

    Parameters
    ----------
    model : NoiseModel
    std : dict
        Standard deviation of each number of the model, by keys such as ``"pointwise.readout"``.
    diagnostics : dict
        As in :attr:`stemkit.NoiseCalibrator.diagnostics_`.
    """

    model: NoiseModel
    std: dict[str, float]
    diagnostics: dict[str, Any]


def calibrate_image(values: NDArray, mode: str, *, averaged: bool = False) -> ImageCalibration:
    """The noise of one image ``(n_y, n_x)`` in its own units; ``averaged`` as in :func:`find_pixel_faults`."""
    found = find_pixel_faults(values, averaged=averaged)
    whole = filled(values, found.mask).astype(np.float64) * mode_sign(mode)
    part = _calibrated_part(whole)
    bright, faulty = whole[part], found.mask[part]
    separation = separate_specimen(bright, faulty=faulty, row_length=whole.shape[1])
    noise = _Noise.of(separation, separation.valid & ~saturated_pixels(values[part], faulty))
    kind, shape, shape_std = _pointwise_distribution(noise)
    background = _background(noise, separation)
    larger = len(whole) / len(bright)
    scan = _without_crystal(noise, separation)
    if separation.crystal is not None:
        scan = _with_displacements(scan, noise, separation.crystal, larger)
    scale, components = noise.scale, noise.components
    model = NoiseModel(
        contrast=scale.contrast,
        level=scale.level * mode_sign(mode),
        mode=mode,
        background=BackgroundNoise(background.amplitude, background.length),
        scan=scan.model,
        pointwise=PointwiseNoise(components.readout, components.gain, shape, components.correlation_x, kind),
        digitization=_digitization(values, found.mask, components.readout * scale.contrast),
    )
    std = {
        "contrast": scale.contrast_std,
        "level": scale.level_std,
        "background.amplitude": background.amplitude_std,
        "background.length": background.length_std,
        **scan.std,
        "pointwise.readout": noise.relative_std("readout", components.readout),
        "pointwise.gain": noise.relative_std("gain", 2 * components.gain),
        "pointwise.shape": shape_std,
        "pointwise.correlation_x": components.std.get("correlation_x", math.nan),
    }
    diagnostics = _diagnostics(noise, separation, bright, faulty) | {
        "part": part,
        "background": background,
        "faults": describe_pixel_faults(values, found)
        | find_scan_faults(bright, separation.fits, faulty=faulty)
        | describe_hum(scan.model),
        "faulty": found.mask,
    }
    return ImageCalibration(model, {key: float(value) for key, value in std.items()}, diagnostics)


def contrast_and_level(values: NDArray, mode: str, *, averaged: bool = False) -> tuple[float, float]:
    """Contrast and level of one image, in its units; ``averaged`` as in :func:`find_pixel_faults`."""
    faulty = faulty_pixels(values, averaged=averaged)
    bright = filled(values, faulty).astype(np.float64) * mode_sign(mode)
    part = _calibrated_part(bright)
    scale = measure_scale(separate_specimen(bright[part], faulty=faulty[part]))
    return scale.contrast, scale.level * mode_sign(mode)


def _calibrated_part(bright: NDArray) -> tuple[slice, slice]:
    """The part of a large image that is used: whole rows if they are short enough, those with the most columns."""
    n_y, n_x = bright.shape
    if n_y * n_x <= CONSTANTS.max_pixels:
        return slice(0, n_y), slice(0, n_x)
    width = min(n_x, CONSTANTS.longest_row)
    height = min(n_y, max(CONSTANTS.max_pixels // width, CONSTANTS.min_rows))
    # a specimen may surround vacuum: rows that vary the most along x cross the most columns
    variation = np.cumsum(np.r_[0.0, bright.std(axis=1)])
    top = int(np.argmax(variation[height:] - variation[:-height])) if n_y > height else 0
    left = (n_x - width) // 2
    return slice(top, top + height), slice(left, left + width)


def _diagnostics(noise: _Noise, separation: Separation, bright: NDArray, faulty: NDArray) -> dict[str, Any]:
    scan, pointwise = residual_curves(bright, max(0.8, 0.6 * separation.width), valid=~faulty)
    crystal = separation.crystal
    return {
        "spacing": separation.spacing,
        "has_columns": crystal is not None,
        "scan": scan,
        "pointwise": pointwise,
        "components": noise.components,
        "displacement_x": None if crystal is None else crystal.displacement_x,
        "displacement_y": None if crystal is None else crystal.displacement_y,
    }


# --- pointwise noise and background ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Noise:
    """Noise of an image in units of its contrast, ``(n_y, n_x)``, and its components.

    ``valid`` are the pixels that are used, ``between`` those of them that belong to no column.
    """

    residual: NDArray
    signal: NDArray
    valid: NDArray
    between: NDArray
    scale: IntensityScale
    components: NoiseComponents

    @classmethod
    def of(cls, separation: Separation, valid: NDArray) -> _Noise:
        scale, crystal = measure_scale(separation), separation.crystal
        signal, residual = ((one - scale.level) / scale.contrast for one in (separation.signal, separation.residual))
        components = measure_components(
            residual,
            signal,
            derivative(signal),
            derivative(signal, 0),
            valid=valid,
            along_x=None if crystal is None else crystal.jitter_x,
            along_y=None if crystal is None else crystal.jitter_y,
        )
        between = between_columns(residual.shape, separation.fits) & valid
        return cls(residual, signal, valid, between, scale, components)

    def relative_std(self, name: str, sensitivity: float) -> float:
        """Standard deviation of a component; ``sensitivity``: its change by a relative change of the contrast."""
        std = self.components.std.get(name, math.nan)
        relative = self.scale.contrast_std / self.scale.contrast
        return math.hypot(std, sensitivity * relative) if math.isfinite(relative) else std


def _pointwise_distribution(noise: _Noise) -> tuple[str, float, float]:
    """Kind and shape of the pointwise noise, and the shape's standard deviation."""
    components = noise.components
    normal = "tukey", NORMAL_SHAPE, math.nan
    if len(noise.residual) < 8 or (components.readout == 0 and components.gain == 0):
        return normal
    difference = row_difference(noise.residual)
    pointwise = components.pointwise_variance(noise.signal[2:-2])
    variance = np.maximum(pointwise + components.streak_variance, 1e-12)
    known = rows_without(~noise.valid) & (pointwise > CONSTANTS.min_variance * float(pointwise.mean()))
    if not known.any():
        return normal
    if _skewed_like_counts(noise):
        return "poisson", NORMAL_SHAPE, math.nan
    fraction = float((pointwise[known] / variance[known]).mean())
    return "tukey", *fit_tukey_shape(difference / np.sqrt(variance), fraction, known)


def _skewed_like_counts(noise: _Noise) -> bool:
    """Whether the noise between the columns, where their model leaves no residual, has the skewness of counts."""
    components, use = noise.components, noise.between
    filtered = noise.residual - ndimage.gaussian_filter(noise.residual, CONSTANTS.smooth)
    pointwise = components.readout**2 + components.gain * noise.signal[use]
    variance = np.maximum(pointwise, CONSTANTS.min_variance * components.readout**2) + components.streak_variance
    if not use.any() or variance.min() <= 0:
        return False
    std = np.sqrt(variance)
    return is_counted(filtered[use] / std, components.gain, std, components.correlation_x)


def _background(noise: _Noise, separation: Separation) -> BackgroundStatistics:
    components = noise.components
    if separation.fits is None:
        return BackgroundStatistics()
    correlated = (1 + components.correlation_x) / (1 - components.correlation_x)
    pointwise = float(components.pointwise_variance(float(noise.signal.mean()))) * correlated
    other = OtherNoise(pointwise, components.streak_variance, components.mean_streak_length)
    return measure_background(noise.residual, noise.between, separation.fits, other)


# --- noise of the scan -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scan:
    """Noise of the scan, and standard deviations by keys such as ``"scan.jitter"``."""

    model: ScanNoise
    std: dict[str, float]


def _without_crystal(noise: _Noise, separation: Separation) -> _Scan:
    """Streaks, and jitter from the gradient of the smoothed image, corrected for its smaller slopes."""
    found, std = noise.components, {f"scan.{f.name}": math.nan for f in fields(ScanNoise)}
    names = {"amplitude": "streaks", "length": "streak_length"}
    names |= {"short_amplitude": "short_streaks", "short_length": "short_length"}
    std |= {f"scan.{key}": found.std.get(name, math.nan) for key, name in names.items()}
    smoothing = max(0.8, 0.5 * separation.width)
    jitter = found.residual_jitter / (1 + (smoothing / separation.width) ** 2) ** 1.5
    streaks = {key: getattr(found, name) for key, name in names.items()}
    return _Scan(ScanNoise(**streaks, jitter=jitter), std)


def _with_displacements(scan: _Scan, noise: _Noise, crystal: FittedCrystal, larger: float) -> _Scan:
    """The displacements of the registered rows in place of the jitter; the whole image is ``larger`` times as high."""
    found, across, components = crystal.displacement_x, crystal.displacement_y, noise.components
    n_y, n_x = noise.residual.shape
    # rows outside the calibrated part may jitter more or less than those in it
    other_rows = found.jitter * math.sqrt((1 - 1 / larger) / (2 * n_y))
    jitter, jitter_std, length = found.jitter, math.hypot(found.jitter_std, other_rows), found.length
    squared = components.residual_jitter**2
    if math.isinf(length) and squared > CONSTANTS.local_jitter * jitter**2:
        whole, jitter = jitter, math.sqrt(jitter**2 + squared)
        jitter_std = math.hypot(components.std["residual_jitter^2"] / 2, whole * jitter_std) / jitter
        length = _local_length(whole**2 / jitter**2, n_x)
    # along y the displacement of whole rows is measured, and its length along the row is that of the jitter along x
    of_rows = math.sqrt(row_mean_fraction(found.length, n_x))
    jitter_y = across.jitter / of_rows
    length_y_std = 0.5 * jitter_y * (1 - of_rows**2) * np.nan_to_num(found.length_std / found.length)
    std = scan.std | {
        "scan.jitter": jitter_std,
        "scan.jitter_length": found.length_std,
        "scan.jitter_y": math.hypot(across.jitter_std / of_rows, length_y_std),
    }
    numbers, slow_std = _drift_and_hum(found, across, larger)
    model = replace(scan.model, jitter=jitter, jitter_length=length, jitter_y=jitter_y, **numbers)
    return _Scan(model, std | slow_std)


def row_mean_fraction(length: float, n_x: int) -> float:
    """Variance of the mean of a row over that of its pixels, for the correlation ``exp(-k^2 / (4 length^2))``.

    The integral of ``2 (n - k) / n^2`` times the correlation over k from 0 to n.
    """
    if math.isinf(length):
        return 1.0
    ratio = 2 * max(length, CONSTANTS.shortest_local) / n_x
    return ratio * math.sqrt(math.pi) * math.erf(1 / ratio) - ratio**2 * (1 - math.exp(-(ratio**-2.0)))


def _local_length(fraction: float, n_x: int) -> float:
    """Length of a displacement, px, from the fraction ``2 sqrt(pi) length / n_x`` of its variance that the mean of a
    row has; infinite where it is long.
    """
    length = n_x * fraction / (2 * math.sqrt(math.pi))
    return max(length, CONSTANTS.shortest_local) if length < CONSTANTS.longest_local * n_x else math.inf


def _drift_and_hum(
    along_x: BeamDisplacement, along_y: BeamDisplacement, larger: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Drift and hum along both axes: numbers of ``ScanNoise``, and their standard deviations."""
    n_y = len(along_x.shifts)
    numbers: dict[str, float] = {}
    std: dict[str, float] = {}
    for suffix, parts in (("", along_x.parts), ("_y", along_y.parts)):
        numbers |= {f"drift{suffix}": parts.drift, f"hum{suffix}": parts.hum}
        # the calibrated part has as many independent values as correlation lengths fit into its rows
        independent = min(math.sqrt(math.pi / 2) * np.nan_to_num(parts.drift_rows) / n_y, 0.5)
        other_rows = parts.drift * math.sqrt((1 - 1 / larger) * independent)
        std[f"scan.drift{suffix}"] = math.hypot(parts.std.get("drift", math.nan), other_rows)
        std[f"scan.hum{suffix}"] = parts.std.get("hum", math.nan)
        # the axes share the length and the period: the one with the smaller error is stated
        if parts.drift and parts.std["drift_rows"] < std.get("scan.drift_rows", math.inf):
            numbers["drift_rows"], std["scan.drift_rows"] = parts.drift_rows, parts.std["drift_rows"]
        period_std = parts.std.get("hum_frequency", math.inf) / np.nan_to_num(parts.hum_frequency, nan=1.0) ** 2
        if parts.hum and period_std < std.get("scan.hum_period", math.inf):
            numbers["hum_period"], std["scan.hum_period"] = 1 / parts.hum_frequency, float(period_std)
    return numbers, std


# --- digitisation ------------------------------------------------------------------------------------------------


def _digitization(values: NDArray, faulty: NDArray, noise: float) -> Digitization:
    """Ends of the range where pixels are clipped there, and digital levels where they are not finer than the noise."""
    clipped, good = saturated_pixels(values, faulty), values[~faulty]
    low = float(good.min()) if (clipped & (values == good.min())).any() else None
    high = float(good.max()) if (clipped & (values == good.max())).any() else None
    thinned = slice(None, None, max(1, len(values) // 64))
    levels = np.unique(values[thinned][~faulty[thinned]])
    step = float(np.diff(levels).min()) if 2 < len(levels) < CONSTANTS.max_levels else 0.0
    equal = step > 0 and np.allclose((levels - levels[0]) / step, np.rint((levels - levels[0]) / step), atol=1e-3)
    return Digitization(low, high, step if equal and step > CONSTANTS.coarse_step * noise else None)
