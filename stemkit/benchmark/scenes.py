"""Fixed sets of images with known truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr

from stemkit import NoiseModel, PointwiseNoise
from stemkit.benchmark.held_back import HELD_BACK
from stemkit.benchmark.simulated import SIMULATED, simulated
from stemkit.noise.drawing import NoiseParameters, add_noise
from stemkit.parameters import check_integer, check_option
from stemkit.synthesis import Columns, Recipe
from stemkit.synthesis.batches import Batch, draw_batch
from stemkit.synthesis.noises import draw_noise
from stemkit.synthesis.pairs import SCALES, Units, pairs_of, true_columns
from stemkit.synthesis.recipe import ARRANGEMENTS
from stemkit.synthesis.rendering import render_targets

__all__ = ["SETS", "Scenes", "scenes"]

#: Shape of the images, px (chosen).
SHAPE = (256, 256)
#: Images of a drawn set; every other one has a structure that training never draws (chosen).
IMAGES = 100
#: Seeds of the sets, hashed with the index of the image; those of training are below 2**32.
SEEDS = {"haadf": 2**40 + 1, "bf": 2**40 + 2, "simulated": 2**40 + 3}
#: Range of the distance of nearest columns, px, in arrangements of the training (chosen): undersampled to magnified.
SPACING = (4.0, 48.0)
#: The same in structures that training never draws (chosen).
HELD_BACK_SPACING = (6.0, 30.0)
#: Electrons per pixel at a column where noise is counted (chosen).
DOSES = (2.0, 5.0, 15.0, 50.0)
#: Correlation of counted electrons along the row (chosen): training never combines the two.
AFTERGLOW = 0.3
#: Fraction of the structures that training never draws with counted electrons (chosen).
COUNTED_FRACTION = 0.5
#: Electrons per pixel without a column, at a dose of 1 (chosen).
COUNTED_BACKGROUND = 0.2
#: Expected electrons per pixel at the brightest point of a simulated image, above its darkest (chosen).
SIMULATED_DOSES = (3.0, 10.0, 30.0)
#: Signals of the simulated images.
SIGNALS = ("haadf", "abf", "bf")
#: Pixel size, nm (chosen).
PIXEL_SIZE = 0.01
#: Names of the sets.
SETS = ("haadf", "bf", "simulated")


@dataclass(frozen=True)
class Scenes:
    """A set of images with known truth.

    Attributes
    ----------
    name : str
    pairs : Dataset
        ``noisy``, ``enhance`` and, in the drawn sets, ``detect`` and ``superresolve``, each ``(image, y, x)``. The
        coordinate ``arrangement`` names the structure of each image, ``held_back`` marks those that training never
        draws.
    columns : DataFrame
        The true columns, as from ``STEMSynthesizer.sample``.
    """

    name: str
    pairs: xr.Dataset
    columns: pd.DataFrame

    def __len__(self) -> int:
        return self.pairs.sizes["image"]


def scenes(name: str = "haadf", n: int | None = None) -> Scenes:
    """One of the fixed sets, or its first `n` images.

    Parameters
    ----------
    name : {"haadf", "bf", "simulated"}
        ``"haadf"`` and ``"bf"`` are 100 images of 256 x 256 px each. Arrangements of the training, from other seeds,
        alternate with structures that training never draws, half of which have noise that training never draws.
        ``"simulated"`` are 45 multislice images (abTEM) of five crystals in HAADF, ABF and BF with noise at three
        doses; the first images cover all crystals, signals and doses.
    n : int, optional
        Default: all images.

    Returns
    -------
    Scenes

    Raises
    ------
    ValueError
        If the name is unknown or `n` is below 1.

    Examples
    --------
    >>> from stemkit.benchmark import scenes
    >>> few = scenes("haadf", 4)
    >>> few.pairs["arrangement"].values.tolist()
    ['lattice', 'kagome', 'moire', 'superstructure']
    """
    check_option("name", name, SETS)
    check_integer("n", n, optional=True)
    return _simulated_scenes(n) if name == "simulated" else _drawn_scenes(name, min(n or IMAGES, IMAGES))


# --- drawn -------------------------------------------------------------------------------------------------------


def _drawn_scenes(mode: str, n: int) -> Scenes:
    batches, names, held = [], [], []
    structures = list(HELD_BACK)
    for i in range(n):
        generator = torch.Generator().manual_seed(_seed(mode, i))
        if i % 2 == 0:
            name = ARRANGEMENTS[(i // 2) % len(ARRANGEMENTS)]
            recipe = Recipe(arrangements=(name,), spacing=SPACING, dark=float(mode == "bf"))
            batches.append(draw_batch(recipe, 1, SHAPE, generator))
        else:
            name = structures[(i // 2) % len(structures)]
            batches.append(_held_back(name, mode, generator))
        names.append(name)
        held.append(i % 2 == 1)
    units = Units(mode, *SCALES[mode], PIXEL_SIZE)
    pairs = pairs_of(batches, units).assign_coords(arrangement=("image", names), held_back=("image", held))
    return Scenes(mode, pairs, true_columns(batches, units))


def _held_back(name: str, mode: str, generator: torch.Generator) -> Batch:
    low, high = np.log(HELD_BACK_SPACING)
    spacing = float(np.exp(low + (high - low) * float(torch.rand(1, generator=generator))))
    columns = _single_precision(HELD_BACK[name](spacing, SHAPE, generator))
    if mode == "bf":
        columns = replace(columns, amplitude=columns.amplitude.sqrt())
    zero = torch.zeros(1)
    targets = render_targets(columns, SHAPE, torch.zeros(1, 1, 1), zero, zero + 2.0)
    dark = torch.tensor([mode == "bf"])
    depth = targets.enhance.amax(dim=(1, 2)).clamp_min(1.0)
    noise = draw_noise(columns.spacing, generator, dark, depth)
    if float(torch.rand(1, generator=generator)) < COUNTED_FRACTION:
        noise = _counted(generator, noise, dark, depth)
    return Batch(add_noise(targets.enhance, noise, generator), targets, columns)


def _counted(
    generator: torch.Generator, noise: NoiseParameters, dark: torch.Tensor, depth: torch.Tensor
) -> NoiseParameters:
    dose = DOSES[int(torch.randint(len(DOSES), (1,), generator=generator))]
    noise.gain = torch.where(dark, -1.0, 1.0) / dose
    noise.readout = torch.sqrt((COUNTED_BACKGROUND + dark * depth) / dose)
    noise.poisson, noise.correlation_x = torch.ones(1, dtype=torch.bool), torch.full((1,), AFTERGLOW)
    return noise


def _single_precision(columns: Columns) -> Columns:
    return Columns(**{k: v.float() if v.is_floating_point() else v for k, v in vars(columns).items()})


def _seed(name: str, image: int) -> int:
    return int(np.random.SeedSequence([SEEDS[name], image]).generate_state(1, np.uint64)[0])


# --- simulated ---------------------------------------------------------------------------------------------------


def _cases() -> list[tuple[str, str, float]]:
    """Crystals, signals and doses of the simulated images, in an order that covers all of them early."""
    cases = []
    for turn in range(len(SIGNALS) * len(SIMULATED_DOSES)):
        for k, name in enumerate(SIMULATED):
            signal, dose = (turn + k) % len(SIGNALS), (turn // 3 + turn + 2 * k) % len(SIMULATED_DOSES)
            cases.append((name, SIGNALS[signal], SIMULATED_DOSES[dose]))
    return cases


def _simulated_scenes(n: int | None) -> Scenes:
    images, tables, names, modes = [], [], [], []
    for i, (name, mode, dose) in enumerate(_cases()[:n]):
        true_image, columns = simulated(name, mode, shape=SHAPE)
        low, high = float(true_image.min()), float(true_image.max())
        dark = mode != "haadf"
        # the electrons of the level between the columns are counted, too
        kind, level = ("bf", high) if dark else ("haadf", low)
        counts = PointwiseNoise.counted(dose, background=dose * level / (high - low), mode=kind)
        model = NoiseModel(high - low, level, kind, pointwise=counts)
        noisy = model.apply(true_image, random_state=_seed("simulated", i) % 2**32)
        images.append(xr.Dataset({"noisy": noisy, "enhance": true_image}))
        tables.append(columns.assign(image=i))
        names.append(f"{name} {mode} {dose:g}")
        modes.append(kind)
    pairs = xr.concat(images, "image", combine_attrs="drop", join="override")
    pairs = pairs.assign_coords(
        arrangement=("image", names), held_back=("image", [True] * len(names)), mode=("image", modes)
    )
    return Scenes("simulated", pairs, pd.concat(tables, ignore_index=True))
