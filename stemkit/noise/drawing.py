"""Noise drawn in torch for a batch of images: one implementation for training, synthesis and ``NoiseModel``.

Every function takes tensors on one device and a generator on the same device. Images are ``(n_images, n_y, n_x)``,
parameters ``(n_images,)``. Images here are in units of the column contrast, above the background's level, with
bright columns: ``s = (I - level) / contrast``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = [
    "NoiseParameters",
    "add_noise",
    "displace_rows",
    "pointwise_variance",
    "row_field",
    "smooth_field",
    "stacked",
]

#: A Gaussian filter reaches this many sigmas: beyond it, what wraps around in the FFT is below 1e-3.
REACH = 4.0


@dataclass
class NoiseParameters:
    """Noise of a batch, one number per image; meanings as in :class:`stemkit.NoiseModel`."""

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

    def take(self, index: Tensor) -> NoiseParameters:
        """The noise of the images that an index picks, on the index's device, in single precision."""
        picked = {f.name: getattr(self, f.name).to(index.device)[index] for f in fields(self)}
        return NoiseParameters(**{k: v if v.dtype == torch.bool else v.float() for k, v in picked.items()})


def stacked(noises: Sequence[NoiseParameters]) -> NoiseParameters:
    """The noise of several images as that of one batch."""
    return NoiseParameters(**{f.name: torch.cat([getattr(n, f.name) for n in noises]) for f in fields(NoiseParameters)})


def add_noise(signal: Tensor, noise: NoiseParameters, generator: torch.Generator) -> Tensor:
    """Draw the noise of a recording: background, displacement, pointwise noise, streaks, digitisation.

    The order is that of the microscope: the background belongs to what the beam sees, the beam is displaced while
    it sees it, electrons are counted, the row's offset is added by the electronics, and the sum is digitised.
    """
    seen = signal
    if bool((noise.background > 0).any()):
        field = smooth_field(signal.shape, noise.background_length, generator, signal.dtype)
        seen = seen + _per_image(noise.background) * field
    if bool(((noise.jitter > 0) | (noise.jitter_y > 0)).any()):
        shifts = _per_image(noise.jitter) * row_field(signal.shape, noise.jitter_length, generator, signal.dtype)
        if bool((noise.jitter_y > 0).any()):
            along_y = row_field(signal.shape, noise.jitter_length, generator, signal.dtype)
            seen = displace_rows(seen, _per_image(noise.jitter_y) * along_y, axis=-2)
        seen = displace_rows(seen, shifts)
    recorded = _pointwise(seen, noise, generator)
    if bool((noise.streaks > 0).any()):
        field = row_field(signal.shape, noise.streak_length, generator, signal.dtype)
        recorded = recorded + _per_image(noise.streaks) * field
    return _digitise(recorded, noise)


def smooth_field(shape: torch.Size, length: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """White noise through a 2-D Gaussian filter of sigma ``length`` px, with unit variance.

    Drawn on a larger grid and cropped, so that opposite borders are independent.
    """
    n_images, n_y, n_x = shape
    pad = _padding(length, max(n_y, n_x))
    grid = (n_images, n_y + pad, n_x + pad)
    white = torch.randn(grid, generator=generator, device=generator.device, dtype=dtype)
    f_y = torch.fft.fftfreq(grid[1], device=white.device, dtype=dtype)
    f_x = torch.fft.rfftfreq(grid[2], device=white.device, dtype=dtype)
    transfer = _gaussian_transfer(length, f_y)[:, :, None] * _gaussian_transfer(length, f_x)[:, None, :]
    # the filter is separable, so its power is the product of the powers along each axis
    power = _filter_power(length, grid[1], dtype) * _filter_power(length, grid[2], dtype)
    field = torch.fft.irfft2(torch.fft.rfft2(white) * transfer, s=grid[1:])
    return field[:, :n_y, :n_x] / _per_image(power.sqrt())


def row_field(shape: torch.Size, length: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """White noise through a Gaussian filter along x alone: rows independent, unit variance.

    Where ``length`` is infinite a row has one value.
    """
    n_images, n_y, n_x = shape
    whole_row = torch.isinf(length)
    finite = torch.where(whole_row, torch.zeros_like(length), length)
    n = n_x + _padding(finite, n_x)
    white = torch.randn((n_images, n_y, n), generator=generator, device=generator.device, dtype=dtype)
    transfer = _gaussian_transfer(finite, torch.fft.rfftfreq(n, device=white.device, dtype=dtype))
    field = torch.fft.irfft(torch.fft.rfft(white) * transfer[:, None, :], n=n)
    field = field / _per_image(_filter_power(finite, n, dtype).sqrt())
    return torch.where(_per_image(whole_row), white[:, :, :1], field[:, :, :n_x])


def displace_rows(images: Tensor, shifts: Tensor, *, axis: int = -1) -> Tensor:
    """What the beam records at ``x`` when it stands at ``x + shift``: cubic convolution along x (Keys 1981).

    ``axis=-2`` displaces along y. Beyond the border the last pixel goes on. A shift of 0 returns the pixels themselves.
    """
    n = images.shape[axis]
    place = torch.arange(n, device=images.device, dtype=images.dtype)
    position = (place if axis == -1 else place[:, None]) + shifts
    left = torch.floor(position)
    t = position - left
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )
    index = left.long()
    out = torch.zeros_like(images)
    for k, weight in enumerate(weights):
        out = out + weight * torch.gather(images, axis, (index + (k - 1)).clamp(0, n - 1).expand_as(images))
    return out


def pointwise_variance(signal: Tensor, readout: Tensor, gain: Tensor) -> Tensor:
    """Variance of the pointwise noise, ``max(readout^2 + gain s, 0)``, in units of the contrast squared."""
    return (_per_image(readout**2) + _per_image(gain) * signal).clamp_min(0.0)


# --- pointwise noise ---------------------------------------------------------------------------------------------


def _pointwise(signal: Tensor, noise: NoiseParameters, generator: torch.Generator) -> Tensor:
    variance = pointwise_variance(signal, noise.readout, noise.gain)
    recorded = signal + variance.sqrt() * standard_noise(signal.shape, noise, generator, signal.dtype)
    if not bool(noise.poisson.any()):
        return recorded
    gain = torch.where(noise.poisson, noise.gain, torch.ones_like(noise.gain))
    rate = variance / _per_image(gain**2)
    counts = torch.poisson(torch.where(_per_image(noise.poisson), rate, torch.zeros_like(rate)), generator=generator)
    if bool((noise.poisson & (noise.correlation_x != 0)).any()):
        # afterglow: what one pixel has counted too many is seen in the next ones, too
        r = torch.where(noise.poisson, noise.correlation_x, torch.zeros_like(noise.correlation_x))
        counts = rate + rate.sqrt() * _autoregressive((counts - rate) / rate.clamp_min(1e-12).sqrt(), r.to(rate.dtype))
    counted = _per_image(gain) * counts - _per_image(noise.readout**2 / gain)
    return torch.where(_per_image(noise.poisson), counted, recorded)


def standard_noise(shape: torch.Size, noise: NoiseParameters, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Noise of unit variance whose marginal is a Tukey lambda and whose lag-1 correlation along x is given.

    Normal scores follow an AR(1) process along the row and go through the Tukey quantile function.
    """
    scores = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    correlation = noise.correlation_x
    if bool((correlation != 0).any()):
        r = score_correlation(noise.shape.cpu().numpy(), correlation.cpu().numpy())
        scores = _autoregressive(scores, torch.as_tensor(r, dtype=dtype, device=scores.device))
    return tukey_quantile(scores, noise.shape)


def tukey_quantile(scores: Tensor, shape: Tensor) -> Tensor:
    """Normal scores to the Tukey lambda of unit variance: ``(p^l - (1 - p)^l) / l`` over its standard deviation."""
    lam = _per_image(shape)
    safe = torch.where(lam.abs() < 1e-4, torch.full_like(lam, 1e-4), lam)
    log_p, log_q = torch.special.log_ndtr(scores), torch.special.log_ndtr(-scores)
    quantile = (torch.expm1(safe * log_p) - torch.expm1(safe * log_q)) / safe
    deviation = np.sqrt(tukey_variance(shape.detach().cpu().numpy()))
    return quantile / _per_image(torch.as_tensor(deviation, dtype=scores.dtype, device=scores.device))


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
    lag, factor = 1, _per_image(r)
    while lag < white.shape[-1]:
        process = torch.cat([process[..., :lag], process[..., lag:] + factor * process[..., :-lag]], dim=-1)
        lag, factor = 2 * lag, factor * factor
    return process


# --- small pieces ------------------------------------------------------------------------------------------------


def _digitise(signal: Tensor, noise: NoiseParameters) -> Tensor:
    """Round to the digital levels, then clip: no value lies beyond the detector's ends."""
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


def _padding(length: Tensor, size: int) -> int:
    """Pixels to add so that what a filter carries around the end is cropped away; at most the image again, twice."""
    return int(min(math.ceil(2 * REACH * float(length.max())), 2 * size))


def _gaussian_transfer(length: Tensor, frequency: Tensor) -> Tensor:
    return torch.exp(-2.0 * (math.pi * length[:, None].to(frequency.dtype) * frequency) ** 2)


def _filter_power(length: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Mean squared transfer along one axis: the variance that white noise of variance 1 keeps."""
    frequency = torch.fft.fftfreq(n, device=length.device, dtype=dtype)
    return (_gaussian_transfer(length, frequency) ** 2).mean(dim=1)
