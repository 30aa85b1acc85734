"""Sources of training batches: synthetic pairs, or crops of given pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.denoising.units import to_network
from stemkit.images.intensities import NORMALIZATION_QUANTILES
from stemkit.images.provenance import digest
from stemkit.synthesis import Columns, render
from stemkit.synthesis.batches import draw_batch
from stemkit.synthesis.recipe import Recipe

__all__ = ["PairSource", "Source", "SynthesisSource"]

#: One pair in this many is used for validation (chosen).
PAIRS_PER_VALIDATION_PAIR = 10


class Source(Protocol):
    """Source of training batches."""

    batch_size: int

    @property
    def described(self) -> str:
        """Text that identifies the distribution of the batches."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """The network's outputs of which the source has target maps."""

    @property
    def validation_source(self) -> Source | None:
        """Source of images that training does not draw, for the validation; None if there are too few images."""

    def draw(self, generator: torch.Generator, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw a batch, or part of a batch, on the generator's device.

        Parameters
        ----------
        generator : torch.Generator
        n : int
            Number of images of the smallest size; larger images are fewer.

        Returns
        -------
        inputs : Tensor of shape (m, 1, n_y, n_x)
            The m images, ``m <= n``.
        truth : dict
            ``maps`` ``(m, n_targets, n_y, n_x)``, the targets in the order of ``target_names``; ``unit`` ``(m,)``, the
            unit of errors, which is the contrast or the range of the target; ``weight`` ``(m, n_y, n_x)``, or
            ``(m, n_targets, n_y, n_x)`` if it differs between the targets, the weight of each pixel in the loss;
            optionally ``squared`` ``(m,)``, the images whose loss is the squared error whatever that of the training.
        """


class SynthesisSource:
    """Synthetic pairs, drawn anew for every batch.

    Parameters
    ----------
    recipe : Recipe
    outputs : tuple of str
    batch_size : int
    crop_sizes : sequence of int
        Each batch has one of these sizes, px; batches of larger crops have fewer images.
    emphasis : float
        Additional weight of a pixel at the centre of a defect. Defects are rare, and without it a network that ignores
        them has a small loss.
    """

    def __init__(
        self,
        recipe: Recipe,
        outputs: Sequence[str],
        batch_size: int,
        crop_sizes: Sequence[int],
        emphasis: float = 0.0,
    ):
        self.recipe, self.target_names, self.batch_size = recipe, tuple(outputs), batch_size
        self.crop_sizes, self.emphasis = [*crop_sizes], emphasis

    @property
    def described(self) -> str:
        """Text that identifies the recipe and how images are drawn."""
        recipe = asdict(self.recipe)
        noise = {k: v.tolist() for k, v in (recipe.pop("noise") or {}).items()}
        return f"{recipe} {noise} {self.target_names} {self.batch_size} {self.crop_sizes} {self.emphasis}"

    @property
    def validation_source(self) -> Source:
        """The same source without emphasis; no image is drawn twice."""
        return SynthesisSource(self.recipe, self.target_names, self.batch_size, self.crop_sizes)

    def draw(self, generator: torch.Generator, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw images on the generator's device."""
        pick = int(torch.randint(len(self.crop_sizes), (1,), generator=generator, device=generator.device))
        size = self.crop_sizes[pick]
        n = max(1, round(n * (min(self.crop_sizes) / size) ** 2))
        batch = draw_batch(self.recipe, n, (size, size), generator)
        offset, scale = _intensity_scale(batch.noisy)
        targets = vars(batch.targets)
        maps = [to_network(targets[name], name, 1, offset, scale) for name in self.target_names]
        truth = {"maps": torch.stack(maps, dim=1), "unit": 1.0 / scale.flatten()}
        truth["weight"] = 1.0 + self.emphasis * _defect_map(batch.columns, (size, size))
        return ((batch.noisy - offset) / scale)[:, None], truth


class PairSource:
    """Random crops of given pairs, flipped at random.

    Parameters
    ----------
    noisy, truth : list of ndarray
        Images in the network's units.
    batch_size, crop_size : int
        Crops are at most as large as the smallest image, and a multiple of ``multiple``.
    channel : str
        The network's output of which ``truth`` is the target.
    hold_back : bool
        Reserve the last tenth of the pairs for validation.
    """

    def __init__(
        self,
        noisy: list[NDArray],
        truth: list[NDArray],
        batch_size: int,
        crop_size: int,
        multiple: int,
        device: torch.device,
        channel: str = "enhance",
        hold_back: bool = True,
    ):
        n_kept = len(noisy) - len(noisy) // PAIRS_PER_VALIDATION_PAIR if hold_back else len(noisy)
        smallest = min(min(image.shape) for image in noisy)
        self.size = max(multiple, min(crop_size, smallest) // multiple * multiple)
        self.noisy, self.truth = (
            [_padded(torch.as_tensor(i, dtype=torch.float32), self.size).to(device) for i in images[:n_kept]]
            for images in (noisy, truth)
        )
        self.batch_size = batch_size
        self.target_names: tuple[str, ...] = (channel,)
        self.validation_source: PairSource | None = None
        if n_kept < len(noisy):
            rest = noisy[n_kept:], truth[n_kept:]
            self.validation_source = PairSource(
                *rest, batch_size, self.size, multiple, device, channel, hold_back=False
            )

    @property
    def described(self) -> str:
        """Text that identifies the images and how they are drawn."""
        parts = [digest(image.cpu().numpy()) for image in (*self.noisy, *self.truth)]
        return f"{parts} {self.target_names} {self.batch_size} {self.size}"

    def draw(self, generator: torch.Generator, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Draw crops on the generator's device."""
        crops = [self._crop(generator) for _ in range(n)]
        noisy, truth = (torch.stack(part)[:, None] for part in zip(*crops, strict=True))
        return noisy, {"maps": truth, "unit": _range(truth[:, 0]), "weight": torch.ones_like(truth[:, 0])}

    def _crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        def below(n: int) -> int:
            return int(torch.randint(n, (1,), generator=generator, device=generator.device))

        i = below(len(self.noisy))
        y, x = (below(n - self.size + 1) for n in self.noisy[i].shape)
        flips = [axis for axis in (0, 1) if below(2)]
        noisy, truth = (part[i][y : y + self.size, x : x + self.size].flip(flips) for part in (self.noisy, self.truth))
        return noisy, truth


def _defect_map(columns: Columns, shape: tuple[int, int]) -> Tensor:
    """Map of Gaussian spots of height 1 at defects, vacancies included."""
    marked = replace(columns, present=columns.defect > 0)
    return render(marked, shape, amplitude=torch.ones_like(columns.amplitude), integrated=False).clamp(max=1.0)


# --- units -------------------------------------------------------------------------------------------------------


def _intensity_scale(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image, clipped as in :func:`stemkit.images.intensity_scale`."""
    flat = images.flatten(1)
    low, high = torch.quantile(flat, torch.tensor(NORMALIZATION_QUANTILES, device=flat.device), dim=1, keepdim=True)
    clipped = torch.minimum(torch.maximum(flat, low), high)
    scale = clipped.std(dim=1, correction=0).clamp_min(1e-6)
    return clipped.mean(dim=1)[:, None, None], scale[:, None, None]


def _range(images: Tensor) -> Tensor:
    return images.amax(dim=(1, 2)) - images.amin(dim=(1, 2))


def _padded(image: Tensor, size: int) -> Tensor:
    """Image padded by reflection up to ``size`` px along each axis."""
    missing = [max(0, size - n) for n in image.shape]
    if not any(missing):
        return image
    return torch.as_tensor(np.pad(image.numpy(), [(0, m) for m in missing], mode="reflect"))
