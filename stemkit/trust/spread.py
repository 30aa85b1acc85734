"""Where a network is unsure: the spread of its results over mirror images and grids, calibrated on known images."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from stemkit.compute import resolve_device
from stemkit.denoising.base import without_faults
from stemkit.denoising.inference import FLIPS, enhanced_maps, for_inference
from stemkit.denoising.network import NetworkDenoiser
from stemkit.denoising.sampling import chosen_grid
from stemkit.images import mode_sign, resolve_mode, single_image

__all__ = [
    "COVERAGES",
    "Factors",
    "calibrated_factors",
    "factors_of",
    "network_results",
    "network_uncertainty",
    "spread",
]

#: Samplings of the grids, relative to that on which an image is enhanced (chosen).
GRIDS = (1.0, 0.8)
#: Sigma of the neighbourhood whose mean variance is averaged with that of a pixel, px (chosen: eight results of one
#: pixel can agree by chance).
NEIGHBORHOOD = 2.0
#: Fractions of errors that the intervals contain: those within one and two standard deviations of a normal
#: distribution.
COVERAGES = (0.683, 0.954)
#: File of the factors of the shipped weights; python benchmarks/trust.py coverage --write makes it.
CALIBRATED = Path(__file__).with_name("uncertainty.json")


@dataclass(frozen=True)
class Factors:
    """Half-widths of intervals in units of the spread.

    Parameters
    ----------
    pixel, integrated : (float, float)
        For the intensity of a pixel, and for the mean intensity in a Gaussian of the column width, at the two
        `COVERAGES`.
    """

    pixel: tuple[float, float]
    integrated: tuple[float, float]


def network_uncertainty(image: xr.DataArray | NDArray, denoiser: NetworkDenoiser) -> xr.DataArray:
    """Uncertainty of each pixel of an enhanced image.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        Recorded image.
    denoiser : NetworkDenoiser
        Fitted, such as ``SFINDenoiser().fit(image)``.

    Returns
    -------
    DataArray of shape (n_y, n_x)
        Half-width of the interval that contains the true intensity in 68 % of the pixels, in the image's units.
        ``attrs["coverage"]`` is 0.683, and ``attrs["factor_95"]`` the factor to that of 95 %.

    Raises
    ------
    ValueError
        If `image` is a stack.

    Warns
    -----
    UserWarning
        If the weights are not those for which the spread was calibrated.

    Notes
    -----
    The spread is the standard deviation of the network's results over the four mirror images on two grids, eight
    results. It is smaller than the error, of which a part is common to all results. The factors between the two are
    those that contain 68 % and 95 % of the errors in a half of the fixed sets of ``stemkit.benchmark``; on the other
    half they were tested (:doc:`/trust`).
    """
    image = single_image(image)
    factors = factors_of(denoiser.info_.sha256)
    half = factors.pixel[0] * spread(network_results(image, denoiser))
    attrs = {"coverage": COVERAGES[0], "factor_95": factors.pixel[1] / factors.pixel[0]}
    return xr.DataArray(half.astype(np.float32), dims=("y", "x"), coords=_axes(image), attrs=attrs)


def network_results(image: xr.DataArray, denoiser: NetworkDenoiser) -> NDArray[np.float64]:
    """Results of the network for mirror images on two grids, ``(8, n_y, n_x)``, in the image's units."""
    sign = mode_sign(resolve_mode(image, denoiser.mode))
    values = without_faults(image).values.astype(np.float64)
    info = denoiser.info_
    grid = chosen_grid(sign * values, denoiser.sampling, info.spacing)
    network = for_inference(denoiser.net_, resolve_device(denoiser.device), denoiser.precision)
    # the grid is known: it is not chosen again
    info = replace(info, spacing=None)

    def result(flip: tuple[int, ...], factor: float) -> NDArray:
        maps = enhanced_maps(
            np.flip(values, flip),
            network,
            info,
            sign=sign,
            sampling=grid.sampling * factor,
            tile_size=denoiser.tile_size,
        )
        return np.flip(maps["enhance"], flip)

    return np.stack([result(flip, factor) for factor in GRIDS for flip in FLIPS]).astype(np.float64)


def spread(results: NDArray, width: float = 0.0) -> NDArray[np.float64]:
    """Standard deviation of results ``(n, n_y, n_x)``, averaged with that of the neighbourhood, ``(n_y, n_x)``.

    With a width, px, it is that of the mean intensities in Gaussians of this sigma.
    """
    if width:
        results = ndimage.gaussian_filter(results, (0, width, width))
    variance = results.var(axis=0)
    return np.sqrt((variance + ndimage.gaussian_filter(variance, NEIGHBORHOOD)) / 2)


def factors_of(sha256: str) -> Factors:
    """Factors of the weights with this hash; those of other weights, with a warning, if they have none."""
    known = _calibrated()
    if sha256 not in known:
        warnings.warn(
            "the uncertainty was not calibrated for these weights: its intervals are those of the shipped weights, and "
            "may contain more or less than 68 % and 95 %",
            stacklevel=3,
        )
    return known.get(sha256, next(iter(known.values())))


@cache
def _calibrated() -> Mapping[str, Factors]:
    stored: dict[str, Any] = json.loads(CALIBRATED.read_text())
    return {key: Factors(tuple(value["pixel"]), tuple(value["integrated"])) for key, value in stored.items()}


def calibrated_factors(errors: Iterable[NDArray], spreads: Iterable[NDArray]) -> tuple[float, float]:
    """Factors of the spread that contain 68 % and 95 % of the errors; sets of images count equally."""
    ratios = [
        np.sort(np.abs(error) / np.maximum(wide, 1e-300), axis=None)
        for error, wide in zip(errors, spreads, strict=True)
    ]
    value = np.concatenate(ratios)
    weight = np.concatenate([np.full(r.size, 1 / r.size) for r in ratios])
    order = np.argsort(value)
    at = np.searchsorted(np.cumsum(weight[order]) / weight.sum(), COVERAGES)
    first, second = value[order][np.minimum(at, value.size - 1)]
    return float(first), float(second)


def _axes(image: xr.DataArray) -> dict[Any, Any]:
    return {name: image.coords[name] for name in image.dims if name in image.coords}
