"""One image as the detector sees it: its columns bright, in units of the contrast, with the noise of a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.columns import Variance
from stemkit.images import (
    RECORDED,
    mode_sign,
    pixel_sizes,
    recorded_image,
    resolve_mode,
    was_enhanced,
)
from stemkit.noise import NoiseModel
from stemkit.noise.resolve import resolve_noise
from stemkit.pixels import faulty_pixels, filled

__all__ = ["View", "binned", "unit_of"]

#: Pixels count as square when height and width differ by less than this fraction.
SQUARE = 0.03
#: The variance of the noise is nowhere below this fraction of its value at a bright column: weights stay finite.
VARIANCE_FLOOR = 0.02


@dataclass(frozen=True)
class View:
    """Arrays ``(n_y, n_x)`` in units of the noise model's contrast, 0 at its level, columns bright.

    Parameters
    ----------
    image : DataArray
        As it came.
    noise : NoiseModel
    sign : float
        -1 where columns are dark in the image.
    recorded : ndarray
        What is measured; faulty pixels are interpolated.
    enhanced, detect : ndarray or None
        What a network made of it: where to look.
    faulty : ndarray of bool or None
        Pixels that are no measurement and have no weight in a fit; None where there are none.
    """

    image: xr.DataArray
    noise: NoiseModel
    sign: float
    recorded: NDArray[np.float64]
    enhanced: NDArray[np.float64] | None
    detect: NDArray | None
    faulty: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, image: xr.DataArray, mode: str | None) -> View:
        """The view of an image, its noise calibrated on the spot where it carries none."""
        recorded = recorded_image(image)
        if recorded is image and was_enhanced(image):
            raise ValueError(
                "this image was enhanced by stemkit and does not carry its recorded pixels: errors fitted to it would "
                "be wrong. Give the recorded image, or add its pixels: "
                "image.assign_coords(recorded=(image.dims, recorded.values))"
            )
        sizes = pixel_sizes(image) or (1.0, 1.0)
        if abs(sizes[0] / sizes[1] - 1) > SQUARE:
            raise ValueError(
                f"AtomDetector needs square pixels, but these are {sizes[0]:.6g} nm (y) by {sizes[1]:.6g} nm (x): "
                "resample the image"
            )
        mode = resolve_mode(recorded, mode)
        noise = resolve_noise(image, mode, recorded)
        sign = mode_sign(mode)
        faulty = faulty_pixels(recorded.values)

        def normalised(values: NDArray) -> NDArray[np.float64]:
            return (np.asarray(values, dtype=np.float64) - noise.level) * (sign / noise.contrast)

        return cls(
            image,
            noise,
            sign,
            normalised(filled(recorded.values, faulty)),
            None if (enhanced := _enhanced(image)) is None else normalised(enhanced),
            np.asarray(image.coords["detect"].values) if "detect" in image.coords else None,
            faulty if faulty.any() else None,
        )

    def binned(self, factor: int) -> View:
        """The recorded image in means of squares of pixels, without what a network made of it.

        Lengths are in the new pixels. Of noise with the lag-1 correlation rho, the mean of f pixels has the variance
        ``(f + 2 sum_k (f - k) rho^k) / f^2``, those of neighbouring means have the covariance
        ``rho ((1 - rho^f) / (1 - rho))^2 / f^2``.
        """
        f = factor
        if f == 1:
            return replace(self, enhanced=None, detect=None)
        scan, pointwise, background = self.noise.scan, self.noise.pointwise, self.noise.background
        rho, lags = pointwise.correlation_x, np.arange(1, f)
        kept = (f + 2 * float(((f - lags) * rho**lags).sum())) / f**3
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
                readout=pointwise.readout * math.sqrt(kept),
                gain=pointwise.gain * kept,
                correlation_x=covariance / kept,
            ),
        )
        faulty = None if self.faulty is None else binned(self.faulty.astype(float), f) > 0
        return replace(self, noise=noise, recorded=binned(self.recorded, f), enhanced=None, detect=None, faulty=faulty)

    def variance(self, intensity: NDArray) -> NDArray:
        """Variance of the pointwise noise where the noise-free intensity is this, floored."""
        law = self.pixel_variance
        return (law.constant + law.slope * intensity).clip(law.floor)

    @property
    def pixel_variance(self) -> Variance:
        """Variance of the pointwise noise against the noise-free intensity."""
        pointwise = self.noise.pointwise
        return Variance(pointwise.readout**2, pointwise.gain, self._floor)

    def fitted_noise(self, width: float) -> tuple[Variance, float]:
        """Variance of the pixels, and standard deviation of the offset of a row as a whole, for fits of columns of this
        width.

        Short streaks, of variance a^2 and autocovariance exp(-k^2 / (4 L^2)) along the row, are to a column much wider
        than L what white noise of the variance 2 pi^1/2 L a^2 is; longer ones shift its rows.
        """
        law, scan = self.pixel_variance, self.noise.scan
        if 2 * scan.short_length > width:
            return law, math.hypot(scan.amplitude, scan.short_amplitude)
        white = scan.short_amplitude**2 * max(1.0, 2 * math.sqrt(math.pi) * scan.short_length)
        return replace(law, constant=law.constant + white, floor=law.floor + white), scan.amplitude

    def tilt(self, width: float) -> float:
        """Standard deviation of the background's slope under columns of this width, per px.

        A field of variance a^2 and autocovariance exp(-r^2 / (4 L^2)), smoothed by a Gaussian of sigma s, has slopes of
        variance a^2 L^2 / (2 (L^2 + s^2)^2).
        """
        amplitude, length = self.noise.background.amplitude, self.noise.background.length
        return amplitude * length / (math.sqrt(2) * (length**2 + width**2)) if amplitude else 0.0

    @cached_property
    def _floor(self) -> float:
        pointwise = self.noise.pointwise
        dark = pointwise.readout**2
        return max(VARIANCE_FLOOR * max(dark + pointwise.gain, dark), 1e-12)


def _enhanced(image: xr.DataArray) -> NDArray | None:
    """What a network made of the recorded image; None where the image is recorded, or is the map ``detect`` alone."""
    if RECORDED not in image.coords:
        return None
    if "enhance" in image.coords:
        # the image itself is another of the network's maps
        return np.asarray(image.coords["enhance"].values)
    if "detect" in image.coords and np.array_equal(image.values.astype(np.float32), image.coords["detect"].values):
        return None
    return np.asarray(image.values)


def binned(values: NDArray, factor: int) -> NDArray[np.float64]:
    """Means of squares of pixels; the border is repeated where the last ones are not full."""
    if factor == 1:
        return values
    padded = np.pad(values, [(0, -n % factor) for n in values.shape], mode="edge")
    total = np.zeros((padded.shape[0] // factor, padded.shape[1] // factor))
    for i in range(factor):
        for j in range(factor):
            total += padded[i::factor, j::factor]
    return total / factor**2


def unit_of(image: xr.DataArray) -> tuple[float, bool]:
    """Pixel size (geometric mean of height and width) and whether there is one; px are the unit without it."""
    sizes = pixel_sizes(image)
    return (1.0, False) if sizes is None else (float(np.sqrt(sizes[0] * sizes[1])), True)
