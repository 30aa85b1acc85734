"""Sources of training batches: synthetic pairs, or crops of given pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Protocol, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.denoising.units import to_network
from stemkit.images.intensities import NORMALIZATION_QUANTILES, pad_reflect
from stemkit.images.provenance import digest
from stemkit.synthesis import Columns, render
from stemkit.synthesis.batches import draw_batch
from stemkit.synthesis.chance import random_integer
from stemkit.synthesis.recipe import Recipe

__all__ = [
    "CROP_MULTIPLE",
    "MIN_CROP",
    "PairSource",
    "Source",
    "SynthesisSource",
    "TrainingBatch",
    "random_crop",
    "random_flips",
]

#: Number of pairs of which one is used for validation (chosen).
PAIRS_PER_VALIDATION_PAIR = 10
#: Edges of synthetic crops are multiples of this, px (chosen: a multiple of what each architecture requires).
CROP_MULTIPLE = 16
#: Least edge of a synthetic crop, px (chosen: a few columns).
MIN_CROP = 32
#: Least standard deviation of an image by which it is divided (chosen: a constant image stays finite).
MIN_SCALE = 1e-6


@dataclass(frozen=True)
class TrainingBatch:
    """Images and the target maps of a network, in the network's units.

    Parameters
    ----------
    inputs : Tensor of shape (m, 1, n_y, n_x)
    targets : Tensor of shape (m, n_targets, n_y, n_x)
        In the order of the ``target_names`` of the source.
    error_unit : Tensor of shape (m,)
        Unit of errors: the contrast, or the range of the target.
    weight : Tensor of shape (m, n_targets, n_y, n_x)
        Weight of each pixel in the loss.
    squared_error : Tensor of bool, shape (m,)
        Images whose loss is the squared error whatever the loss of the training.
    """

    inputs: Tensor
    targets: Tensor
    error_unit: Tensor
    weight: Tensor
    squared_error: Tensor

    @classmethod
    def concatenate(cls, batches: Sequence[Self]) -> Self:
        """One batch of all images."""
        return cls(*(torch.cat([getattr(batch, field.name) for batch in batches]) for field in fields(cls)))


class Source(Protocol):
    """Source of training batches."""

    batch_size: int

    @property
    def fingerprint(self) -> str:
        """Text that identifies the distribution of the batches."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """The network's outputs of which the source has target maps."""

    @property
    def validation_source(self) -> Source | None:
        """Source of images that training does not draw, for the validation; None if there are too few images."""

    def draw(self, generator: torch.Generator, n: int) -> TrainingBatch:
        """Draw a batch, or part of a batch, on the generator's device.

        Parameters
        ----------
        generator : torch.Generator
        n : int
            Number of images of the smallest size; batches of larger images have fewer.
        """


class SynthesisSource:
    """Synthetic pairs, drawn anew for every batch.

    Parameters
    ----------
    recipe : Recipe
    outputs : tuple of str
    batch_size : int
        Number of images of the smallest size in a batch.
    crop_sizes : sequence of int
        Each batch has one of these sizes, px; batches of larger crops have fewer images.
    emphasis : float
        Additional weight of a pixel at the centre of a defect. Defects are rare, and without it a network that ignores
        them has a small loss.
    """

    def __init__(
        self, recipe: Recipe, outputs: Sequence[str], batch_size: int, crop_sizes: Sequence[int], emphasis: float = 0.0
    ):
        self.recipe, self.target_names, self.batch_size = recipe, tuple(outputs), batch_size
        self.crop_sizes, self.emphasis = [*crop_sizes], emphasis

    @property
    def fingerprint(self) -> str:
        """Text that identifies the recipe and how images are drawn."""
        recipe = asdict(self.recipe)
        noise = {k: v.tolist() for k, v in (recipe.pop("noise") or {}).items()}
        return f"{recipe} {noise} {self.target_names} {self.batch_size} {self.crop_sizes} {self.emphasis}"

    @property
    def validation_source(self) -> Source:
        """A source without emphasis; its images differ from those of the training, since each is drawn only once."""
        return SynthesisSource(self.recipe, self.target_names, self.batch_size, self.crop_sizes)

    def draw(self, generator: torch.Generator, n: int) -> TrainingBatch:
        """Draw images on the generator's device."""
        size = self.crop_sizes[random_integer(generator, len(self.crop_sizes))]
        n = max(1, round(n * (min(self.crop_sizes) / size) ** 2))
        batch = draw_batch(self.recipe, n, (size, size), generator)
        offset, scale = _intensity_scale(batch.noisy)
        maps = vars(batch.targets)
        targets = torch.stack([to_network(maps[name], name, 1, offset, scale) for name in self.target_names], dim=1)
        return TrainingBatch(
            ((batch.noisy - offset) / scale)[:, None],
            targets,
            # synthetic images have a contrast of 1
            error_unit=1.0 / scale.flatten(),
            weight=(1.0 + self.emphasis * _defect_map(batch.columns, (size, size)))[:, None].expand_as(targets),
            squared_error=torch.zeros(n, dtype=torch.bool, device=targets.device),
        )


class PairSource:
    """Random crops of given pairs, flipped at random.

    Parameters
    ----------
    noisy, truth : list of ndarray
        Noisy and true images in the network's units.
    batch_size : int
        Number of crops in a batch.
    crop_size : int
        Largest edge of the crops, px; they are at most as large as the smallest image.
    multiple : int
        Edges of the crops are multiples of this, px; smaller images are padded.
    device : torch.device
        Device on which the images are stored, that of the generators.
    channel : str
        The network's output of which ``truth`` is the target.
    hold_back : bool
        Reserve the last pairs for validation, one in ten; none of fewer than ten.
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
            [
                torch.as_tensor(_padded(image, self.size), dtype=torch.float32, device=device)
                for image in images[:n_kept]
            ]
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
    def fingerprint(self) -> str:
        """Text that identifies the images and how they are drawn."""
        parts = [digest(image.cpu().numpy()) for image in (*self.noisy, *self.truth)]
        return f"{parts} {self.target_names} {self.batch_size} {self.size}"

    def draw(self, generator: torch.Generator, n: int) -> TrainingBatch:
        """Draw crops on the generator's device."""
        crops = [self._crop(generator) for _ in range(n)]
        noisy, truth = (torch.stack(part)[:, None] for part in zip(*crops, strict=True))
        return TrainingBatch(
            noisy,
            truth,
            error_unit=truth.amax(dim=(1, 2, 3)) - truth.amin(dim=(1, 2, 3)),
            weight=torch.ones_like(truth),
            squared_error=torch.zeros(n, dtype=torch.bool, device=truth.device),
        )

    def _crop(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same crop of a noisy image and of its true image."""
        i = random_integer(generator, len(self.noisy))
        crop = random_crop(generator, self.noisy[i].shape, self.size)
        flips = random_flips(generator)
        return self.noisy[i][crop].flip(flips), self.truth[i][crop].flip(flips)


def random_crop(generator: torch.Generator, shape: Sequence[int], size: int) -> tuple[slice, slice]:
    """A square of ``size`` px at a random position in an image."""
    y, x = (random_integer(generator, n - size + 1) for n in shape)
    return slice(y, y + size), slice(x, x + size)


def random_flips(generator: torch.Generator) -> list[int]:
    """Axes along which a crop is flipped, each with a probability of 1/2."""
    return [axis for axis in (0, 1) if random_integer(generator, 2)]


def _defect_map(columns: Columns, shape: tuple[int, int]) -> Tensor:
    """Map of Gaussian spots of height 1 at defects, vacancies included."""
    marked = replace(columns, present=columns.defect > 0)
    return render(marked, shape, amplitude=torch.ones_like(columns.amplitude), integrated=False).clamp(max=1.0)


def _intensity_scale(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each image, clipped as in :func:`stemkit.images.intensity_scale`."""
    flat = images.flatten(1)
    low, high = torch.quantile(flat, torch.tensor(NORMALIZATION_QUANTILES, device=flat.device), dim=1, keepdim=True)
    clipped = torch.minimum(torch.maximum(flat, low), high)
    scale = clipped.std(dim=1, correction=0).clamp_min(MIN_SCALE)
    return clipped.mean(dim=1)[:, None, None], scale[:, None, None]


def _padded(image: NDArray, size: int) -> NDArray:
    """Image padded by reflection up to ``size`` px along each axis."""
    missing_y, missing_x = (max(0, size - n) for n in image.shape)
    return pad_reflect(image, (0, 0), (missing_y, missing_x))
