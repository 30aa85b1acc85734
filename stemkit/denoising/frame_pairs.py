"""Training on aligned frames: the noise of one cannot be predicted from the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from stemkit.denoising.sources import (
    CROP_MULTIPLE,
    MIN_CROP,
    Source,
    SynthesisSource,
    TrainingBatch,
    random_crop,
    random_flips,
)
from stemkit.denoising.units import network_units
from stemkit.denoising.weights import NetworkInfo
from stemkit.images.provenance import digest, steps_before
from stemkit.pixels import filled
from stemkit.synthesis.chance import random_integer

__all__ = ["FrameSource", "MixedSource", "is_aligned", "with_frames", "without_gaps"]

#: Fraction of the images of a batch that are crops of the frames; the others are synthetic (chosen, see
#: ``benchmarks/noise2noise.py``).
FRACTION = 0.75
#: Frames that are used, at most (chosen: their pixels are in memory).
MAX_FRAMES = 32
#: Least noise of a frame, as a fraction of the contrast (chosen: weights of frames without noise stay finite).
MIN_NOISE = 1e-6


def is_aligned(X: object) -> TypeGuard[xr.DataArray]:
    """Whether images are frames that :meth:`stemkit.SeriesAligner.aligned` has moved onto the same pixels."""
    if not isinstance(X, xr.DataArray) or X.dims != ("frame", "y", "x") or len(X) < 2:
        return False
    return (steps_before(X) or {}).get("step") == "align"


def without_gaps(frames: xr.DataArray) -> xr.DataArray:
    """Aligned frames whose missing pixels are interpolated."""
    return frames.copy(data=np.stack([filled(one, ~np.isfinite(one)) for one in frames.values]))


def with_frames(
    source: SynthesisSource, frames: NDArray, contrast: float, info: NetworkInfo, device: torch.device
) -> Source:
    """A source of synthetic pairs to which crops of aligned frames are added.

    Parameters
    ----------
    source : SynthesisSource
        Its crops become as small as the frames.
    frames : ndarray of shape (n_frames, n_y, n_x)
        Columns bright; NaN at pixels without a measurement.
    contrast : float
        Contrast of the frames, in their units.
    info : NetworkInfo
    device : torch.device
    """
    size = min(source.crop_sizes[0], *(n // CROP_MULTIPLE * CROP_MULTIPLE for n in frames.shape[1:]))
    if "enhance" not in source.target_names or size < MIN_CROP:
        return source
    chosen = np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round().astype(int)
    synthetic = SynthesisSource(source.recipe, source.target_names, source.batch_size, [size], source.emphasis)
    own = FrameSource(frames[chosen], contrast, info, source.target_names, source.batch_size, size, device)
    return MixedSource(synthetic, own, FRACTION)


class FrameSource:
    """Random crops of aligned frames: one frame against the mean of the others, and the reverse.

    The noise of one is independent of that of the other, so that the squared error is smallest for the image without
    noise [1]_. The mean absolute error is not: it is smallest for the median, which is lower than the mean where
    electrons are few.

    Parameters
    ----------
    frames : ndarray of shape (n_frames, n_y, n_x)
        Columns bright; NaN at pixels without a measurement, which are interpolated in the input and have no weight in
        the loss.
    contrast : float
        Contrast of the frames, in their units.
    info : NetworkInfo
        Its units are those of the network's input.
    target_names : sequence of str
        Targets of the batches; the frames only give ``"enhance"``, the weight of the others is 0.
    batch_size : int
    size : int
        Edge of the crops, px.
    device : torch.device

    References
    ----------
    .. [1] J. Lehtinen et al., "Noise2Noise", Proc. ICML 2018, https://arxiv.org/abs/1803.04189
    """

    def __init__(
        self,
        frames: NDArray,
        contrast: float,
        info: NetworkInfo,
        target_names: Sequence[str],
        batch_size: int,
        size: int,
        device: torch.device,
    ):
        values, self.size = torch.as_tensor(frames, dtype=torch.float32), size
        self.valid = torch.isfinite(values).to(device)
        self.frames = torch.where(self.valid, values.to(device), torch.zeros((), device=device))
        self.total, self.count = self.frames.sum(dim=0), self.valid.sum(dim=0)
        self.contrast = contrast
        self.target_names, self.batch_size = tuple(target_names), batch_size
        self.scales: list[list[tuple[float, float]]] = []
        squares = []
        for i, (frame, valid) in enumerate(zip(self.frames, self.valid, strict=True)):
            others, n_others = self._mean_of_others(i)
            self.scales.append([_units(frame, valid, info), _units(others, n_others, info)])
            both = valid & (n_others > 0)
            # the variance of the difference from the mean of k others is 1 + 1 / k of that of a frame
            squares.append(((frame - others)[both].double() ** 2 / (1 + 1 / n_others[both])).mean())
        #: Standard deviation of the noise of a frame.
        self.noise = max(float(torch.stack(squares).nanmean().sqrt()), MIN_NOISE * contrast)

    @property
    def fingerprint(self) -> str:
        """Text that identifies the images and how they are drawn."""
        parts = digest(self.frames.cpu().numpy()), digest(self.valid.cpu().numpy())
        return f"{parts} {self.contrast} {self.target_names} {self.batch_size} {self.size}"

    @property
    def validation_source(self) -> Source:
        """The source itself: there are too few frames to reserve a part of them."""
        return self

    def draw(self, generator: torch.Generator, n: int) -> TrainingBatch:
        """Draw crops on the generator's device."""
        return TrainingBatch.concatenate([self._crop(generator) for _ in range(n)])

    def _crop(self, generator: torch.Generator) -> TrainingBatch:
        """A batch of one crop."""
        i, is_reversed = random_integer(generator, len(self.frames)), random_integer(generator, 2)
        crop = random_crop(generator, self.frames.shape[1:], self.size)
        flips = random_flips(generator)
        own, valid = self.frames[i][crop], self.valid[i][crop]
        others, n_others = self._mean_of_others(i, crop)
        both = valid & (n_others > 0)
        # pixels without a measurement in one of the two are taken from the other one, and have no weight
        own, others = torch.where(valid, own, others), torch.where(n_others > 0, others, own)
        pair = list(zip((own, others), self.scales[i], strict=True))
        (noisy, (offset, scale)), (target, _) = reversed(pair) if is_reversed else pair
        noise = self.noise if is_reversed else self.noise / math.sqrt(len(self.frames) - 1)
        channel = self.target_names.index("enhance")
        targets = noisy.new_zeros(1, len(self.target_names), self.size, self.size)
        weight = torch.zeros_like(targets)
        targets[0, channel] = ((target - offset) / scale).flip(flips)
        # the gradient of the squared error, 2 w e / c^2 for the contrast c and errors e as large as the target's noise,
        # is that of the absolute error, 1 / c, for the weight w = c / (2 e)
        weight[0, channel] = both.flip(flips) * (self.contrast / (2 * noise))
        return TrainingBatch(
            ((noisy - offset) / scale).flip(flips)[None, None],
            targets,
            error_unit=noisy.new_tensor([self.contrast / scale]),
            weight=weight,
            squared_error=torch.ones(1, dtype=torch.bool, device=noisy.device),
        )

    def _mean_of_others(self, i: int, crop: tuple[slice, slice] = (slice(None), slice(None))) -> tuple[Tensor, Tensor]:
        """Mean of all frames but one, and their number, at each pixel."""
        n_others = self.count[crop] - self.valid[i][crop].int()
        return (self.total[crop] - self.frames[i][crop]) / n_others.clamp_min(1), n_others


class MixedSource:
    """Batches of which one part is from one source and the rest from another, of the same targets and size of crops.

    Parameters
    ----------
    first, second : Source
    fraction : float
        Fraction of the images that is from the second source.
    """

    def __init__(self, first: Source, second: Source, fraction: float):
        self.first, self.second, self.fraction = first, second, fraction
        self.batch_size, self.target_names = first.batch_size, first.target_names

    @property
    def fingerprint(self) -> str:
        """Text that identifies both sources and their fractions."""
        return f"{self.first.fingerprint} {self.second.fingerprint} {self.fraction}"

    @property
    def validation_source(self) -> Source:
        """The validation sources of both."""
        first, second = self.first.validation_source, self.second.validation_source
        assert first is not None
        assert second is not None
        return MixedSource(first, second, self.fraction)

    def draw(self, generator: torch.Generator, n: int) -> TrainingBatch:
        """Draw images of both."""
        n_second = round(n * self.fraction)
        parts = ((self.first, n - n_second), (self.second, n_second))
        return TrainingBatch.concatenate([source.draw(generator, m) for source, m in parts if m])


def _units(values: Tensor, number: Tensor, info: NetworkInfo) -> tuple[float, float]:
    """Offset and scale of the network's units, from the pixels that a frame shows."""
    offset, scale = network_units(values[number > 0].cpu().numpy(), info)
    return offset, scale or 1.0
