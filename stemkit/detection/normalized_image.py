"""An image in units of its contrast, columns bright, with its noise model: the input of the column search."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.columns import LinearVariance
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.pixel_size import pixel_sizes
from stemkit.images.provenance import RECORDED, recorded_image, was_averaged, was_enhanced
from stemkit.noise import NoiseModel
from stemkit.noise.resolve import resolve_noise
from stemkit.periodicity import central_crop, find_periodicity
from stemkit.pixels import faulty_pixels, filled

__all__ = ["FRAMES", "TYPICAL", "NormalizedImage", "bin_pixels", "bin_positions", "typical_frames", "unbin_positions"]

#: Largest relative difference of height and width of pixels that are treated as square (chosen).
MAX_ANISOTROPY = 0.03
#: Coordinate of an average with the number of frames in each pixel.
FRAMES = "n_frames"
#: Attribute of this coordinate: the number of frames for which the noise model of the average is valid.
TYPICAL = "typical"
#: Number of frames assumed at pixels in gaps between displaced rows (chosen: they are interpolated).
LEAST_FRAMES = 0.5
#: Lower limit of the variance of the noise, as a fraction of that at a bright column (chosen: keeps weights finite).
VARIANCE_FLOOR = 0.02
#: Lower limit of the variance of the noise, squared contrasts (chosen: that of an image without noise).
MIN_VARIANCE = 1e-12
#: Side of the square in the middle of the image in which the lattice vectors are measured, px (chosen).
MIDDLE = 512


@dataclass(frozen=True)
class NormalizedImage:
    """An image as ``sign (image - level) / contrast``, with level and contrast of the noise model.

    Arrays have the shape ``(n_y, n_x)``.

    Parameters
    ----------
    source : DataArray
        The original image.
    noise : NoiseModel
    sign : float
        1 for bright, -1 for dark columns in the original image.
    recorded : ndarray
        Recorded pixels, on which columns are measured; faulty ones are interpolated.
    enhanced, detect : ndarray or None
        Maps of a network, which show where columns may be: the enhanced image, and the probability of a column.
    faulty : ndarray of bool or None
        Faulty pixels, which have no weight in fits; None: there are none.
    weights : ndarray or None
        Of an average of frames, the number of frames in each pixel over that of the noise model; None: 1.
    """

    source: xr.DataArray
    noise: NoiseModel
    sign: float
    recorded: NDArray[np.float64]
    enhanced: NDArray[np.float64] | None
    detect: NDArray | None
    faulty: NDArray[np.bool_] | None = None
    weights: NDArray[np.float64] | None = None

    @classmethod
    def from_image(cls, image: xr.DataArray, mode: str | None) -> NormalizedImage:
        """Normalize an image; its noise is calibrated if ``attrs["noise"]`` is missing."""
        recorded = recorded_image(image)
        if recorded is image and was_enhanced(image):
            raise ValueError(
                "this image was enhanced by stemkit and does not carry its recorded pixels: errors fitted to it would "
                "be wrong. Give the recorded image, or add its pixels: "
                "image.assign_coords(recorded=(image.dims, recorded.values))"
            )
        sizes = pixel_sizes(image) or (1.0, 1.0)
        if abs(sizes[0] / sizes[1] - 1) > MAX_ANISOTROPY:
            fine, size = ("y", sizes[1]) if sizes[0] < sizes[1] else ("x", sizes[0])
            raise ValueError(
                f"AtomDetector needs square pixels, but these are {sizes[0]:.6g} nm (y) by {sizes[1]:.6g} nm (x): "
                f"resample the recorded image along {fine}, image.interp({fine}=np.arange(float(image.{fine}[0]), "
                f"float(image.{fine}[-1]), {size:.6g})), and calibrate its noise again"
            )
        mode = resolve_mode(recorded, mode)
        noise = resolve_noise(image, mode, recorded)
        sign = mode_sign(mode)
        faulty = faulty_pixels(recorded.values, averaged=was_averaged(image))

        def normalized(values: NDArray) -> NDArray[np.float64]:
            return (np.asarray(values, dtype=np.float64) - noise.level) * (sign / noise.contrast)

        return cls(
            image,
            noise,
            sign,
            normalized(filled(recorded.values, faulty)),
            None if (enhanced := _enhanced(image)) is None else normalized(enhanced),
            np.asarray(image.coords["detect"].values) if "detect" in image.coords else None,
            faulty if faulty.any() else None,
            _frame_weights(image),
        )

    def binned(self, factor: int) -> NormalizedImage:
        """The recorded image in means of squares of f px, with its noise model in the new pixels, without the maps.

        Noise of variance 1 with the lag-1 correlation rho along the row has the variance ``(f + 2 sum_k (f - k) rho^k)
        / f^2`` in the mean of f pixels, and the covariance ``rho ((1 - rho^f) / (1 - rho))^2 / f^2`` between
        neighbouring means. The mean over f independent rows divides both by f. Jitter is independent between rows: px
        become f px (/f), and f rows are averaged (/sqrt f). Drift and hum are taken as constant over f rows.
        """
        f = factor
        if f == 1:
            return replace(self, enhanced=None, detect=None)
        scan, pointwise, background = self.noise.scan, self.noise.pointwise, self.noise.background
        rho, lags = pointwise.correlation_x, np.arange(1, f)
        variance_ratio = (f + 2 * float(((f - lags) * rho**lags).sum())) / f**3
        covariance = rho * ((1 - rho**f) / (1 - rho)) ** 2 / f**3
        noise = replace(
            self.noise,
            background=replace(background, length=background.length / f),
            scan=replace(
                scan,
                amplitude=scan.amplitude / math.sqrt(f),
                length=scan.length / f,
                jitter=scan.jitter / f**1.5,
                jitter_length=scan.jitter_length / f,
                jitter_y=scan.jitter_y / f**1.5,
                drift=scan.drift / f,
                drift_y=scan.drift_y / f,
                drift_rows=scan.drift_rows / f,
                hum=scan.hum / f,
                hum_y=scan.hum_y / f,
                hum_period=scan.hum_period / f,
                short_amplitude=scan.short_amplitude / math.sqrt(f),
                short_length=scan.short_length / f,
            ),
            pointwise=replace(
                pointwise,
                readout=pointwise.readout * math.sqrt(variance_ratio),
                gain=pointwise.gain * variance_ratio,
                correlation_x=covariance / variance_ratio,
            ),
        )
        faulty = None if self.faulty is None else bin_pixels(self.faulty.astype(float), f) > 0
        return replace(
            self,
            noise=noise,
            recorded=bin_pixels(self.recorded, f),
            enhanced=None,
            detect=None,
            faulty=faulty,
            weights=None if self.weights is None else bin_pixels(self.weights, f),
        )

    @property
    def variance(self) -> LinearVariance:
        """Variance of the pointwise noise as a function of the true intensity."""
        pointwise = self.noise.pointwise
        return LinearVariance(pointwise.readout**2, pointwise.gain, self._floor)

    def noise_for_fits(self, width: float) -> tuple[LinearVariance, float]:
        """Variance of the pixels, and standard deviation of the offset of each row, for fits of columns of this width.

        Streaks of variance a^2 with the autocovariance ``a^2 exp(-k^2 / (4 L^2))`` along the row are equivalent to
        white noise of variance ``2 pi^1/2 L a^2`` for columns much wider than L, and to offsets of rows for others.
        """
        variance, scan = self.variance, self.noise.scan
        if 2 * scan.short_length > width:
            return variance, math.hypot(scan.amplitude, scan.short_amplitude)
        white = scan.short_amplitude**2 * max(1.0, 2 * math.sqrt(math.pi) * scan.short_length)
        return replace(variance, constant=variance.constant + white, floor=variance.floor + white), scan.amplitude

    def background_slope_std(self, width: float) -> float:
        """Standard deviation of the background's slope under columns of this width, per px.

        A field of variance a^2 with the autocovariance ``a^2 exp(-r^2 / (4 L^2))``, smoothed with a Gaussian of sigma
        s, has slopes of variance ``a^2 L^2 / (2 (L^2 + s^2)^2)``.
        """
        amplitude, length = self.noise.background.amplitude, self.noise.background.length
        return amplitude * length / (math.sqrt(2) * (length**2 + width**2)) if amplitude else 0.0

    @cached_property
    def lattice_vectors(self) -> NDArray[np.float64] | None:
        """The two shortest vectors of the lattice in the middle of the image as rows (y, x), px; None without one."""
        return find_periodicity(central_crop(self.recorded, MIDDLE)).vectors

    @cached_property
    def _floor(self) -> float:
        pointwise = self.noise.pointwise
        dark = pointwise.readout**2
        return max(VARIANCE_FLOOR * max(dark + pointwise.gain, dark), MIN_VARIANCE)


def typical_frames(count: NDArray) -> float:
    """Median number of frames of the pixels that are in at least one frame."""
    return float(np.median(count[count > 0])) if (count > 0).any() else 1.0


def _frame_weights(image: xr.DataArray) -> NDArray[np.float64] | None:
    """Number of frames in each pixel of an average relative to that of its noise model."""
    if FRAMES not in image.coords:
        return None
    count = image.coords[FRAMES]
    usual = count.attrs.get(TYPICAL) or typical_frames(count.values)
    return np.maximum(count.values, LEAST_FRAMES) / float(usual)


def _enhanced(image: xr.DataArray) -> NDArray | None:
    """The image enhanced by a network; None for a recorded image, and for the map ``detect`` alone."""
    if RECORDED not in image.coords:
        return None
    if "enhance" in image.coords:
        # the image itself is another map of the network, such as superresolve
        return np.asarray(image.coords["enhance"].values)
    if "detect" in image.coords and np.array_equal(image.values.astype(np.float32), image.coords["detect"].values):
        return None
    return np.asarray(image.values)


def bin_pixels(values: NDArray, factor: int) -> NDArray[np.float64]:
    """Means over squares of ``factor`` px; the last pixels are repeated up to a multiple of the factor."""
    if factor == 1:
        return values
    padded = np.pad(values, [(0, -n % factor) for n in values.shape], mode="edge")
    total = np.zeros((padded.shape[0] // factor, padded.shape[1] // factor))
    for i in range(factor):
        for j in range(factor):
            total += padded[i::factor, j::factor]
    return total / factor**2


def bin_positions(positions: NDArray, factor: int) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` in the pixels of an image that is binned by a factor, px."""
    return (positions - (factor - 1) / 2) / factor


def unbin_positions(positions: NDArray, factor: int) -> NDArray[np.float64]:
    """The inverse of :func:`bin_positions`."""
    return factor * positions + (factor - 1) / 2
