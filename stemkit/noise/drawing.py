"""Drawing of the noise of a batch of images with torch, for training, synthesis and ``NoiseModel``.

Every function takes tensors on one device and a generator on the same device. Images are ``(n_images, n_y, n_x)``,
parameters ``(n_images,)``. Intensities are in units of the contrast, relative to the level, with bright columns:
``s = (I - level) / contrast``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "NoiseParameters",
    "add_noise",
    "displace_rows",
    "drift_field",
    "hum_field",
    "pointwise_variance",
    "row_field",
    "smooth_field",
    "stacked",
]

#: A Gaussian filter extends this many sigmas beyond the image (chosen: less than 1e-5 of its weight is beyond).
REACH = 4.5
#: Correlation below this is 0 (chosen).
NEGLIGIBLE = 1e-9


@dataclass
class NoiseParameters:
    """Noise of a batch, one number per image; meanings as in :class:`stemkit.NoiseModel`.

    The displacement of the beam along x is the sum of three independent parts, and that along y (``*_y``) of three
    others: ``jitter``, independent between rows; ``drift``, RMS in px, correlated over ``drift_rows`` rows (the sigma
    of a Gaussian filter along y) and constant along a row; ``hum``, amplitude in px of a sine with a period of
    ``hum_period`` rows and a random phase. ``short_streaks`` is a second kind of streaks, filtered along x with
    ``short_streak_length``, px, and added to the first.
    """

    background: Tensor
    background_length: Tensor
    streaks: Tensor
    streak_length: Tensor
    jitter: Tensor
    jitter_length: Tensor
    readout: Tensor
    gain: Tensor
    shape: Tensor
    correlation_x: Tensor
    poisson: Tensor
    low: Tensor
    high: Tensor
    step: Tensor
    step_origin: Tensor
    jitter_y: Tensor
    drift: Tensor
    drift_y: Tensor
    drift_rows: Tensor
    hum: Tensor
    hum_y: Tensor
    hum_period: Tensor
    short_streaks: Tensor
    short_streak_length: Tensor

    def is_displaced(self, suffix: str) -> Tensor:
        """Mask ``(n_images,)`` of the images with a displacement along x (suffix ``""``) or y (``"_y"``)."""
        return (
            (self.amplitude("jitter", suffix) > 0)
            | (self.amplitude("drift", suffix) > 0)
            | (self.amplitude("hum", suffix) > 0)
        )

    def amplitude(self, name: str, suffix: str) -> Tensor:
        """Amplitude (px) of a part of the displacement along x (suffix ``""``) or y (``"_y"``)."""
        value: Tensor = getattr(self, name + suffix)
        return value

    def take(self, index: Tensor) -> NoiseParameters:
        """The noise of the images with these indices, on the device of ``index``, in single precision."""
        subset = {f.name: getattr(self, f.name).to(index.device)[index] for f in fields(self)}
        return NoiseParameters(**{k: v if v.dtype == torch.bool else v.float() for k, v in subset.items()})


def stacked(noises: Sequence[NoiseParameters]) -> NoiseParameters:
    """The noise of several images as the noise of one batch."""
    return NoiseParameters(**{f.name: torch.cat([getattr(n, f.name) for n in noises]) for f in fields(NoiseParameters)})


def add_noise(signal: Tensor, noise: NoiseParameters, generator: torch.Generator) -> Tensor:
    """Draw the noise of recorded images: background, displacement, pointwise noise, streaks, digitisation.

    The order is that of the microscope: the displaced beam scans the specimen and its background, electrons are
    counted, the electronics add an offset to each row, and the sum is digitised.

    Parameters
    ----------
    signal : Tensor of shape (n_images, n_y, n_x)
        True images.
    noise : NoiseParameters
    generator : torch.Generator

    Returns
    -------
    Tensor of shape (n_images, n_y, n_x)
    """

    def with_background(images: Tensor, subset: NoiseParameters) -> Tensor:
        field = smooth_field(images.shape, subset.background_length, generator, images.dtype)
        return images + _per_image(subset.background) * field

    def displaced(images: Tensor, subset: NoiseParameters) -> Tensor:
        shifts = _displacement(images.shape, subset, "", generator, images.dtype)
        return displace_rows(_changed(images, subset, subset.is_displaced("_y"), displaced_along_y), shifts)

    def displaced_along_y(images: Tensor, subset: NoiseParameters) -> Tensor:
        return displace_rows(images, _displacement(images.shape, subset, "_y", generator, images.dtype), axis=-2)

    def counted(images: Tensor, subset: NoiseParameters) -> Tensor:
        return _counted(images, subset, generator)

    def with_pointwise_noise(images: Tensor, subset: NoiseParameters) -> Tensor:
        variance = pointwise_variance(images, subset.readout, subset.gain)
        return images + variance.sqrt() * standard_noise(images.shape, subset, generator, images.dtype)

    def with_streaks(images: Tensor, subset: NoiseParameters) -> Tensor:
        field = row_field(images.shape, subset.streak_length, generator, images.dtype)
        return images + _per_image(subset.streaks) * field

    def with_short_streaks(images: Tensor, subset: NoiseParameters) -> Tensor:
        field = row_field(images.shape, subset.short_streak_length, generator, images.dtype)
        return images + _per_image(subset.short_streaks) * field

    images = _changed(signal, noise, noise.background > 0, with_background)
    images = _changed(images, noise, noise.is_displaced("") | noise.is_displaced("_y"), displaced)
    recorded = _changed(images, noise, ~noise.poisson, with_pointwise_noise)
    recorded = _changed(recorded, noise, noise.poisson, counted)
    recorded = _changed(recorded, noise, noise.streaks > 0, with_streaks)
    return _digitize(_changed(recorded, noise, noise.short_streaks > 0, with_short_streaks), noise)


def smooth_field(
    shape: torch.Size, length: Tensor, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """White noise through a 2-D Gaussian filter of sigma ``length`` px, with unit variance."""
    n_images, n_y, n_x = shape
    down, across = _filter_matrix(length, n_y, dtype), _filter_matrix(length, n_x, dtype)
    size = (n_images, down.shape[2], across.shape[2])
    white = torch.randn(size, generator=generator, device=generator.device, dtype=dtype)
    return down @ (white @ across.transpose(1, 2))


def row_field(shape: torch.Size, length: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """White noise through a Gaussian filter along x alone: rows independent, unit variance.

    Where ``length`` is infinite a row has one value.
    """
    n_images, n_y, n_x = shape
    whole_row = torch.isinf(length)
    across = _filter_matrix(torch.where(whole_row, n_x, length), n_x, dtype)
    white = torch.randn((n_images, n_y, across.shape[2]), generator=generator, device=generator.device, dtype=dtype)
    return torch.where(_per_image(whole_row), white[:, :, :1], white @ across.transpose(1, 2))


def drift_field(shape: torch.Size, rows: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """White noise through a Gaussian filter of sigma ``rows`` along y, one value per row, ``(n_images, n_y, 1)``."""
    down = _filter_matrix(rows, shape[1], dtype)
    white = torch.randn((shape[0], down.shape[2], 1), generator=generator, device=generator.device, dtype=dtype)
    return down @ white


def hum_field(shape: torch.Size, period: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """A sine of amplitude 1 and random phase, with a period in rows.

    Its phase advances along a row, by ``1 / period`` of a period; the flyback takes no time.
    """
    n_images, n_y, n_x = shape
    phase = torch.rand((n_images, 1, 1), generator=generator, device=generator.device, dtype=dtype)
    y = torch.arange(n_y, device=generator.device, dtype=dtype)[:, None]
    x = torch.arange(n_x, device=generator.device, dtype=dtype) / n_x
    return torch.sin(2 * math.pi * (phase + (y + x) / _per_image(period.to(dtype))))


def displace_rows(images: Tensor, shifts: Tensor, *, axis: int = -1) -> Tensor:
    """Images recorded by a displaced beam, pixel x at ``x + shift``, by cubic convolution.

    Parameters
    ----------
    images : Tensor of shape (n_images, n_y, n_x)
    shifts : Tensor
        Displacements, px, broadcast to the images; a shift of 0 returns the pixels unchanged.
    axis : {-1, -2}
        Displacement along x or along y. Beyond the border the last pixel is repeated.

    References
    ----------
    R. Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981), https://doi.org/10.1109/TASSP.1981.1163711
    """
    n = images.shape[axis]
    place = torch.arange(n, device=images.device, dtype=images.dtype)
    # beyond these positions all pixels are repeated ones
    position = ((place if axis == -1 else place[:, None]) + shifts).clamp(-2.0, n + 1.0)
    beyond = (4, 4, 0, 0) if axis == -1 else (0, 0, 4, 4)
    padded = torch.nn.functional.pad(images[:, None], beyond, mode="replicate")[:, 0]
    left = torch.floor(position)
    t = position - left
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    index = (left.long() + 3).expand_as(images)
    out = torch.zeros_like(images)
    for k, weight in enumerate(weights):
        out = out.addcmul_(weight.expand_as(images), torch.gather(padded, axis, index + k))
    return out


def pointwise_variance(signal: Tensor, readout: Tensor, gain: Tensor) -> Tensor:
    """Variance of the pointwise noise, ``max(readout^2 + gain s, 0)``, in units of the contrast squared."""
    return (_per_image(readout**2) + _per_image(gain) * signal).clamp_min(0.0)


# --- pointwise noise ---------------------------------------------------------------------------------------------


def _counted(signal: Tensor, noise: NoiseParameters, generator: torch.Generator) -> Tensor:
    """Poisson noise of counted electrons."""
    gain = _per_image(noise.gain)
    rate = pointwise_variance(signal, noise.readout, noise.gain) / gain**2
    counts = torch.poisson(rate, generator=generator)
    if bool((noise.correlation_x != 0).any()):
        # afterglow: the excess of a pixel over its expectation appears in the next pixels, too
        excess = (counts - rate) / rate.clamp_min(1e-12).sqrt()
        counts = rate + rate.sqrt() * _autoregressive(excess, noise.correlation_x.to(rate.dtype))
    return gain * counts - _per_image(noise.readout**2) / gain


def standard_noise(shape: torch.Size, noise: NoiseParameters, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Noise of unit variance whose marginal is a Tukey lambda and whose lag-1 correlation along x is given.

    Normal scores follow an AR(1) process along the row and go through the Tukey quantile function.
    """
    scores = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)

    def correlated(scores: Tensor, subset: NoiseParameters) -> Tensor:
        r = score_correlation(subset.shape.cpu().numpy(), subset.correlation_x.cpu().numpy())
        return _autoregressive(scores, torch.as_tensor(r, dtype=dtype, device=scores.device))

    scores = _changed(scores, noise, noise.correlation_x != 0, correlated)
    return tukey_quantile(scores, noise.shape)


def tukey_quantile(scores: Tensor, shape: Tensor) -> Tensor:
    """Normal scores to the Tukey lambda of unit variance: ``(p^l - (1 - p)^l) / l`` over its standard deviation."""
    lam = _per_image(shape)
    safe = torch.where(lam.abs() < 1e-4, torch.full_like(lam, 1e-4), lam)
    # the smaller of p and 1 - p, which is accurate to all digits
    tail = (0.5 * torch.erfc(scores.abs() * math.sqrt(0.5))).clamp_min(torch.finfo(scores.dtype).tiny)
    above = (torch.expm1(safe * torch.log1p(-tail)) - torch.expm1(safe * torch.log(tail))) / safe
    quantile = torch.copysign(above, scores)
    std = np.sqrt(tukey_variance(shape.detach().cpu().numpy()))
    return quantile / _per_image(torch.as_tensor(std, dtype=scores.dtype, device=scores.device))


def tukey_variance(shape: NDArray | float) -> NDArray:
    """Variance of the Tukey lambda distribution with quantile ``(p^l - (1 - p)^l) / l``, for l > -1/2.

    References
    ----------
    Joiner and Rosenblatt, J. Am. Stat. Assoc. 66, 394 (1971), https://doi.org/10.1080/01621459.1971.10482275
    """
    from scipy.special import gammaln

    lam = np.asarray(shape, dtype=np.float64)
    # the two terms cancel to lambda squared near 0: the series there is exact to 1e-6
    safe = np.where(np.abs(lam) < 1e-3, 1e-3, lam)
    exact = 2.0 / safe**2 * (1.0 / (1.0 + 2.0 * safe) - np.exp(2.0 * gammaln(safe + 1.0) - gammaln(2.0 * safe + 2.0)))
    at_zero = np.pi**2 / 3.0
    slope = (exact - at_zero) / safe
    return np.where(np.abs(lam) < 1e-3, at_zero + slope * lam, exact)


def score_correlation(shape: NDArray, correlation: NDArray) -> NDArray:
    """Correlation of normal scores that becomes ``correlation`` after the Tukey quantile.

    With the Hermite coefficients a_k of the mapping, scores correlated by r give sum(a_k^2 r^k) / sum(a_k^2):
    increasing in r, and inverted by bisection.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    scores = torch.as_tensor(nodes)[None, None, :].expand(len(shape), 1, -1)
    mapped = tukey_quantile(scores, torch.as_tensor(shape, dtype=torch.float64)).numpy()[:, 0, :]
    orders = np.arange(1, 20, 2)
    basis = np.stack([np.polynomial.hermite_e.hermeval(nodes, [0.0] * int(k) + [1.0]) for k in orders])
    norms = np.array([math.sqrt(2 * math.pi * math.factorial(int(k))) for k in orders])
    coefficients = (mapped * weights) @ basis.T / norms
    power = coefficients**2
    power[:, -1] += np.maximum(1.0 - power.sum(axis=1), 0.0)
    low, high = np.full(len(shape), -1.0), np.full(len(shape), 1.0)
    for _ in range(50):
        r = (low + high) / 2
        too_small = (power * r[:, None] ** orders).sum(axis=1) < correlation
        low, high = np.where(too_small, r, low), np.where(too_small, high, r)
    return (low + high) / 2


def _autoregressive(white: Tensor, r: Tensor) -> Tensor:
    """A stationary AR(1) process along x from white noise, in log2(n_x) steps (prefix sums by doubling)."""
    innovation = _per_image((1 - r**2).sqrt())
    process = torch.cat([white[..., :1], white[..., 1:] * innovation], dim=-1)
    lag, factor, largest = 1, _per_image(r), float(r.abs().max())
    # negligible correlations are left out; the largest one is copied from the device only once
    while lag < white.shape[-1] and largest**lag > NEGLIGIBLE:
        process = torch.cat([process[..., :lag], process[..., lag:] + factor * process[..., :-lag]], dim=-1)
        lag, factor = 2 * lag, factor * factor
    return process


# --- displacement ------------------------------------------------------------------------------------------------


def _displacement(
    shape: torch.Size, noise: NoiseParameters, suffix: str, generator: torch.Generator, dtype: torch.dtype
) -> Tensor:
    """Displacement of the beam along x (suffix ``""``) or y (``"_y"``), px: independent rows, drift and hum."""

    def drifting(shifts: Tensor, subset: NoiseParameters) -> Tensor:
        field = drift_field(shifts.shape, subset.drift_rows, generator, dtype)
        return shifts + _per_image(subset.amplitude("drift", suffix)) * field

    def humming(shifts: Tensor, subset: NoiseParameters) -> Tensor:
        field = hum_field(shifts.shape, subset.hum_period, generator, dtype)
        return shifts + _per_image(subset.amplitude("hum", suffix)) * field

    shifts = _per_image(noise.amplitude("jitter", suffix)) * row_field(shape, noise.jitter_length, generator, dtype)
    shifts = _changed(shifts, noise, noise.amplitude("drift", suffix) > 0, drifting)
    return _changed(shifts, noise, noise.amplitude("hum", suffix) > 0, humming)


# --- small pieces ------------------------------------------------------------------------------------------------


def _changed(
    images: Tensor,
    noise: NoiseParameters,
    which: Tensor,
    change: Callable[[Tensor, NoiseParameters], Tensor],
) -> Tensor:
    """The images of a batch, with a change applied to those that are marked."""
    index = torch.nonzero(which)[:, 0]
    if len(index) == 0:
        return images
    if len(index) == len(images):
        return change(images, noise)
    subset = NoiseParameters(**{f.name: getattr(noise, f.name)[index] for f in fields(NoiseParameters)})
    return images.index_copy(0, index, change(images[index], subset))


def _digitize(signal: Tensor, noise: NoiseParameters) -> Tensor:
    """Round to the digital levels, then clip to the range."""
    digital = ~torch.isnan(noise.step)
    if bool(digital.any()):
        step = _per_image(torch.where(digital, noise.step, torch.ones_like(noise.step)))
        origin = _per_image(noise.step_origin)
        levels = torch.round((signal - origin) / step) * step + origin
        signal = torch.where(_per_image(digital), levels, signal)
    low = torch.nan_to_num(noise.low, nan=-torch.inf)
    high = torch.nan_to_num(noise.high, nan=torch.inf)
    return torch.minimum(torch.maximum(signal, _per_image(low)), _per_image(high))


def _per_image(parameter: Tensor) -> Tensor:
    return parameter[:, None, None]


def _filter_matrix(length: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Gaussians on knots, ``(n_images, n, n_knots)``, through which white noise at the knots becomes noise of unit
    variance at n pixels, filtered with a Gaussian of sigma ``length``.

    Knots are one sigma apart, or one pixel: filtered noise changes little between them, and the covariance differs by
    less than ``2 exp(-pi^2)``, 1e-4, from that of a filter on all pixels.
    """
    apart = length.clamp_min(1.0).to(dtype)
    beyond = math.ceil(REACH)
    n_knots = math.ceil((n - 1) / float(apart.min())) + 1 + 2 * beyond
    knots = (torch.arange(n_knots, device=length.device, dtype=dtype) - beyond) * apart[:, None]
    pixels = torch.arange(n, device=length.device, dtype=dtype)
    distance = (pixels[:, None] - knots[:, None, :]) / _per_image(length.clamp_min(1e-3).to(dtype))
    gaussian = torch.exp(-0.5 * distance**2)
    return gaussian / torch.linalg.norm(gaussian, dim=2, keepdim=True)
