"""Uncertainty of a network: sources of its errors in an image, calibrated on images with known truth."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage, optimize

from stemkit.compute import resolve_device
from stemkit.denoising.base import without_faults
from stemkit.denoising.inference import FLIPS, enhanced_maps, for_inference
from stemkit.denoising.network import NetworkDenoiser
from stemkit.denoising.sampling import chosen_grid
from stemkit.filters import wide_gaussian
from stemkit.images import single_image
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.trust.displaced_rows import fit_displacements
from stemkit.trust.expected_noise import ExpectedNoise, column_width
from stemkit.trust.residual import smoothing_width

__all__ = [
    "COVERAGES",
    "ErrorSources",
    "Factors",
    "calibrated_factors",
    "error_sources",
    "factors_of",
    "network_results",
    "network_uncertainty",
    "spread",
    "uncertainty_map",
]

#: Samplings of the grids, relative to that on which an image is enhanced (chosen).
GRIDS = (1.0, 0.8)
#: Sigma of the neighbourhood whose mean variance is averaged with that of a pixel, px (chosen: eight results of one
#: pixel can agree by chance).
NEIGHBORHOOD = 2.0
#: Fractions of errors that the intervals contain: those within one and two standard deviations of a normal
#: distribution.
COVERAGES = (0.683, 0.954)
#: File of the factors of the shipped weights, written by ``python benchmarks/trust.py coverage --write``.
CALIBRATED = Path(__file__).with_name("uncertainty.json")


@dataclass(frozen=True)
class Factors:
    """Half-width of the 68 % interval per unit of each source of errors, and the factor to that of 95 %.

    Parameters
    ----------
    spread, background, displacement : float
        Factors of the sources, see :class:`ErrorSources`.
    wide : float
        Half-width of the 95 % interval, over that of 68 %.
    """

    spread: float
    background: float
    displacement: float
    wide: float


@dataclass(frozen=True, eq=False)
class ErrorSources:
    """Magnitudes from which the error of an enhanced image is estimated, in the image's units.

    Parameters
    ----------
    spread : ndarray
        Standard deviation of the network's results at each pixel.
    background : float
        RMS of the background that was removed. A part of it may belong to the specimen, which is an error that all
        results have in common.
    displacement : ndarray
        RMS displacement of the rows times the slope of the enhanced image at each pixel: the displacement of a column
        that is common to its rows remains in all results.
    """

    spread: NDArray[np.float64]
    background: float
    displacement: NDArray[np.float64]

    def half_width(self, factors: Factors) -> NDArray[np.float64]:
        """Half-width of the 68 % interval: the root of the sum of the squares, each times its factor."""
        parts = (
            factors.spread * self.spread,
            factors.background * self.background,
            factors.displacement * self.displacement,
        )
        return np.asarray(np.sqrt(sum(np.square(part) for part in parts)))


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
    The half-width is ``sqrt((a s)^2 + (b B)^2 + (c d |grad I|)^2)``. The spread s is the standard deviation of the
    network's results over the four mirror images on two grids, eight results. Errors that all results have in common
    are estimated from what was removed: B is the RMS of its slow part, the background, and d the RMS displacement of
    the rows. The factors were fitted to the errors in a half of the fixed sets of ``stemkit.benchmark``, with known
    truth, and tested on the other half (:doc:`/trust`).
    """
    image = single_image(image)
    return uncertainty_map(image, network_results(image, denoiser), denoiser)


def uncertainty_map(image: xr.DataArray, results: NDArray, denoiser: NetworkDenoiser) -> xr.DataArray:
    """:func:`network_uncertainty` from the network's results for an image."""
    factors = factors_of(denoiser.info_.sha256)["pixel"]
    half = error_sources(image, results, resolve_mode(image, denoiser.mode)).half_width(factors)
    attrs = {"coverage": COVERAGES[0], "factor_95": factors.wide}
    axes = {name: image.coords[name] for name in image.dims if name in image.coords}
    return xr.DataArray(half.astype(np.float32), dims=("y", "x"), coords=axes, attrs=attrs)


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

    With a ``width`` (px), it is the standard deviation of the mean intensities in Gaussians of this sigma.
    """
    if width:
        results = ndimage.gaussian_filter(results, (0, width, width))
    variance = results.var(axis=0)
    return np.sqrt((variance + ndimage.gaussian_filter(variance, NEIGHBORHOOD)) / 2)


def error_sources(image: xr.DataArray, results: NDArray, mode: str, width: float = 0.0) -> ErrorSources:
    """Sources of the errors of an enhanced image.

    Parameters
    ----------
    image : DataArray of shape (n_y, n_x)
        Recorded image.
    results : ndarray of shape (n, n_y, n_x)
        Results of the network, the first of them on the image's own grid and not mirrored.
    mode : {"haadf", "bf"}
    width : float, default=0.0
        Sigma of a Gaussian, px: the sources are those of the mean intensity in it. 0: those of single pixels.
    """
    sign = mode_sign(mode)
    enhanced = sign * results[0]
    residual = sign * without_faults(image).values.astype(np.float64) - enhanced
    slow = wide_gaussian(residual, smoothing_width(column_width(enhanced)))
    std = np.sqrt(ExpectedNoise.from_residual(residual, enhanced).variance)
    displaced = fit_displacements(residual - slow, enhanced, std).rms
    shown = ndimage.gaussian_filter(enhanced, width) if width else enhanced
    return ErrorSources(spread(results, width), float(slow.std()), displaced * np.hypot(*np.gradient(shown)))


def factors_of(sha256: str) -> dict[str, Factors]:
    """Factors of the weights with this hash; if there are none, those of other weights, with a warning.

    ``pixel``: for the intensity of a pixel, ``integrated``: for the mean intensity in a Gaussian of the column width.
    """
    known = _calibrated()
    if sha256 not in known:
        warnings.warn(
            "the uncertainty was not calibrated for these weights: its intervals are those of the shipped weights, and "
            "may contain more or less than 68 % and 95 %",
            stacklevel=3,
        )
    return known.get(sha256, next(iter(known.values())))


@cache
def _calibrated() -> Mapping[str, dict[str, Factors]]:
    stored: dict[str, Any] = json.loads(CALIBRATED.read_text())
    return {sha: {of: Factors(**factors) for of, factors in found.items()} for sha, found in stored.items()}


def calibrated_factors(errors: Sequence[NDArray], sources: Sequence[ErrorSources]) -> Factors:
    """Factors for which the intervals contain 68 % and 95 % of known errors; images count equally.

    Notes
    -----
    The ratios of the factors are those of the least pinball loss (Koenker and Bassett, doi:10.2307/1913643) of the
    quantile of 68 %, relative to the mean error of each image; their common scale follows from the coverage.
    """
    errors = [np.abs(error) for error in errors]
    scale = [1 / max(float(error.mean()), 1e-300) for error in errors]

    def loss(logarithms: NDArray) -> float:
        factors = _from_logarithms(logarithms)
        excess = (s * (e - one.half_width(factors)) for e, one, s in zip(errors, sources, scale, strict=True))
        return float(sum(np.maximum(COVERAGES[0] * u, (COVERAGES[0] - 1) * u).mean() for u in excess))

    first = np.log([3.0, 0.5, 0.5])
    best = optimize.minimize(loss, first, method="Nelder-Mead", options={"xatol": 0.01, "fatol": 1e-4})
    found = _from_logarithms(best.x)
    ratios = [e / np.maximum(one.half_width(found), 1e-300) for e, one in zip(errors, sources, strict=True)]
    inner, outer = _quantiles(ratios)
    parts = {name: value * inner for name, value in asdict(found).items()}
    return Factors(**parts | {"wide": outer / inner})


def _from_logarithms(logarithms: NDArray) -> Factors:
    spread_factor, background, displacement = np.exp(logarithms).tolist()
    return Factors(spread_factor, background, displacement, wide=1.0)


def _quantiles(ratios: Sequence[NDArray]) -> tuple[float, float]:
    """Quantiles at the two coverages of arrays that count equally."""
    value = np.concatenate([ratio.ravel() for ratio in ratios])
    weight = np.concatenate([np.full(ratio.size, 1 / ratio.size) for ratio in ratios])
    order = np.argsort(value)
    at = np.searchsorted(np.cumsum(weight[order]) / weight.sum(), COVERAGES)
    inner, outer = value[order][np.minimum(at, value.size - 1)]
    return float(inner), float(outer)
