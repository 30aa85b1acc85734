"""One image as the detector sees it: its columns bright, in units of the contrast, with the noise of a pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from stemkit.images import (
    MEASURED,
    check_noise_attr,
    measured_image,
    mode_sign,
    pixel_sizes,
    resolve_mode,
    was_enhanced,
)
from stemkit.noise import NoiseCalibrator, NoiseModel
from stemkit.pixels import faulty_pixels, filled

__all__ = ["View", "unit_of"]

#: Pixels count as square when height and width differ by less than this fraction.
SQUARE = 0.03
#: The variance of the noise is nowhere below this fraction of its value at a bright column: weights stay finite.
VARIANCE_FLOOR = 0.02

Values = TypeVar("Values", NDArray, Tensor)


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
        mode = resolve_mode(recorded, mode)
        known = check_noise_attr(image, mode)
        noise = NoiseModel.from_dict(known) if known else NoiseCalibrator(mode=mode).fit(recorded).noise_model_
        sign = mode_sign(mode)
        faulty = faulty_pixels(recorded.values)

        def normalised(values: NDArray) -> NDArray[np.float64]:
            return (np.asarray(values, dtype=np.float64) - noise.level) * (sign / noise.contrast)

        return cls(
            image,
            noise,
            sign,
            normalised(filled(recorded.values, faulty)),
            normalised(image.values) if MEASURED in image.coords else None,
            np.asarray(image.coords["detect"].values) if "detect" in image.coords else None,
            faulty if faulty.any() else None,
        )

    def variance(self, intensity: Values) -> Values:
        """Variance of the pointwise noise where the noise-free intensity is this, floored."""
        pointwise = self.noise.pointwise
        return (pointwise.readout**2 + pointwise.gain * intensity).clip(self._floor)

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


def unit_of(image: xr.DataArray) -> tuple[float, bool]:
    """Pixel size (geometric mean of height and width) and whether there is one; px are the unit without it."""
    sizes = pixel_sizes(image)
    return (1.0, False) if sizes is None else (float(np.sqrt(sizes[0] * sizes[1])), True)
