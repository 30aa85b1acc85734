"""Synthetic images with known truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from torch import Tensor

from stemkit.columns import nearest_distances
from stemkit.compute import resolve_device, seed_from, side_by_side, torch_generator
from stemkit.images import MODES, Images, check_noise_attr, mode_sign, pixel_sizes, resolve_mode, split
from stemkit.noise import NoiseModel
from stemkit.noise.attached import noise_of
from stemkit.noise.specimen import find_specimen
from stemkit.periodicity import middle
from stemkit.pixels import filled
from stemkit.synthesis.arrangements import Columns
from stemkit.synthesis.pairs import SCALES, Units, pairs_of, true_columns
from stemkit.synthesis.recipe import ARRANGEMENTS, Batch, Recipe, draw_batch, recorded
from stemkit.synthesis.rendering import render_targets

__all__ = ["STEMSynthesizer"]

#: Images are drawn in chunks, each with a seed of its own: `sample(n)` is a prefix of `sample(m)`. A chunk has so many
#: images at most, and so many pixels if it has more than one image.
CHUNK, CHUNK_PIXELS = 16, 16 * 256**2
#: Columns closer than this can't be told apart, px.
CLOSEST = 2.0
#: Lengths are learnt from a square of this many px in the middle of an image, from this many columns at least.
LEARNT_FROM, ENOUGH = 512, 4
#: Without an image to learn from, nm.
PIXEL_SIZE = 0.01


class STEMSynthesizer(BaseEstimator):
    """Draw pairs of noisy and ideal images of crystals with their defects, amorphous matter and single atoms.

    Columns are Gaussians; crystals of the five planar lattices carry up to four columns per cell, alone, as layers,
    grains, twins and phases, with dislocations and strain, as particles and islands, with vacancies, interstitials and
    atoms of another kind. The noise is a :class:`~stemkit.NoiseModel`. Fitted to images, it draws pairs with *their*
    noise, spacing, widths, contrast and pixel size; ``record`` does it for a specimen that you arrange yourself.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        None takes it from the fitted images; without them "haadf".
    noise : NoiseModel or None, default=None
        None takes it from the fitted images; without them it is drawn anew for each image.
    shape : (int, int), default=(256, 256)
        ``(n_y, n_x)`` of the images, px.
    pixel_size : float or None, default=None
        nm; None takes it from the fitted images; without them 0.01.
    arrangements : tuple of str, default=all
        What is drawn: :class:`~stemkit.synthesis.Recipe` says what there is.
    spacing : float, (float, float) or None, default=None
        Distance of neighbouring columns, nm, or its range. None takes it from the fitted images; without them it is
        drawn between 7 and 32 px.
    width : float, (float, float) or None, default=None
        Sigma of a column, nm, or its range. None takes it from the fitted images; without them it is 0.13 to 0.28 of
        the spacing.
    vacancies : float, default=0.06
        The largest fraction of columns that are missing.
    random_state : int, RandomState or None, default=None
        The same seed gives the same images.
    device : str, default="auto"
        Where ``stream`` draws; ``sample`` draws on the CPU, so that its images do not depend on the machine's GPU.

    Attributes
    ----------
    mode_, noise_model_, pixel_size_, spacing_, width_
        What was learnt from the images: ``pixel_size_`` in nm or None, ``spacing_`` (low, high) in px, and ``width_``,
        the same of the columns' sigma as a fraction of the spacing; None where no columns were found.

    Examples
    --------
    >>> from stemkit import STEMSynthesizer
    >>> pairs, columns = STEMSynthesizer(shape=(64, 64), random_state=0).sample(2, return_columns=True)
    >>> sorted(pairs)
    ['detect', 'enhance', 'noisy', 'superresolve']
    >>> pairs["noisy"].shape
    (2, 64, 64)
    """

    def __init__(
        self,
        *,
        mode: str | None = None,
        noise: NoiseModel | None = None,
        shape: tuple[int, int] = (256, 256),
        pixel_size: float | None = None,
        arrangements: tuple[str, ...] = ARRANGEMENTS,
        spacing: float | tuple[float, float] | None = None,
        width: float | tuple[float, float] | None = None,
        vacancies: float = 0.06,
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ):
        self.mode = mode
        self.noise = noise
        self.shape = shape
        self.pixel_size = pixel_size
        self.arrangements = arrangements
        self.spacing = spacing
        self.width = width
        self.vacancies = vacancies
        self.random_state = random_state
        self.device = device

    def fit(self, X: Images, y: object = None) -> STEMSynthesizer:
        """Learn mode, noise, pixel size, spacing and widths of columns from images.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self
        """
        images = split(X)
        self._check_parameters()
        self.mode_ = resolve_mode(images[0], self.mode)
        check_noise_attr(images[0], self.mode_)  # an unsuitable model is an error even where noise is given
        self.noise_model_ = noise_of(images[0], self.mode_, X) if self.noise is None else self.noise
        sizes = pixel_sizes(images[0])
        self.pixel_size_ = None if sizes is None else sizes[1]
        seen = [lengths for i in images if (lengths := _lengths(mode_sign(self.mode_) * filled(i.values))) is not None]
        self.spacing_ = (0.9 * min(s for s, _, _ in seen), 1.1 * max(s for s, _, _ in seen)) if seen else None
        self.width_ = (min(low for _, low, _ in seen), max(high for _, _, high in seen)) if seen else None
        return self

    @overload
    def sample(self, n: int = 1, *, return_columns: Literal[False] = False) -> xr.Dataset: ...

    @overload
    def sample(self, n: int = 1, *, return_columns: Literal[True]) -> tuple[xr.Dataset, pd.DataFrame]: ...

    def sample(self, n: int = 1, *, return_columns: bool = False) -> xr.Dataset | tuple[xr.Dataset, pd.DataFrame]:
        """Draw ``n`` pairs; ``sample(n)`` is the beginning of ``sample(m)`` for m > n.

        Parameters
        ----------
        n : int
        return_columns : bool
            Also return the true columns.

        Returns
        -------
        pairs : Dataset
            ``noisy``, ``enhance``, ``detect``, ``superresolve``, each ``(image, y, x)``, float32.
        columns : DataFrame
            One row per column within the frame: ``image, y, x`` (nm), ``y_px, x_px, amplitude, sigma`` (nm),
            ``species``, and ``defect``: what was done to the column, "none" to most.
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a positive integer, but is {n!r}")
        self._check_parameters()
        seed, recipe, shape = seed_from(self.random_state), self.recipe(), self._shape()
        size = min(CHUNK, max(1, CHUNK_PIXELS // math.prod(shape)))

        def drawn(chunk: int) -> Batch:
            key = np.random.SeedSequence([seed, chunk]).generate_state(1, np.uint64)
            return draw_batch(recipe, size, shape, torch_generator(int(key[0])))

        batches = side_by_side(drawn, range(-(-int(n) // size)))
        pairs = pairs_of(batches, self._units()).isel(image=slice(0, n))
        if not return_columns:
            return pairs
        table = true_columns(batches, self._units())
        return pairs, table[table["image"] < n]

    @overload
    def record(self, specimen: Columns, n: int = 1, *, return_columns: Literal[False] = False) -> xr.Dataset: ...

    @overload
    def record(
        self, specimen: Columns, n: int = 1, *, return_columns: Literal[True]
    ) -> tuple[xr.Dataset, pd.DataFrame]: ...

    def record(
        self, specimen: Columns, n: int = 1, *, return_columns: bool = False
    ) -> xr.Dataset | tuple[xr.Dataset, pd.DataFrame]:
        """Record a specimen that you have arranged, ``n`` times.

        Parameters
        ----------
        specimen : Columns
            Of one image or several, from the functions of ``stemkit.synthesis``; positions and widths are in px,
            heights in parts of the contrast.
        n : int
            Recordings of each image, which differ in their noise.
        return_columns : bool
            Also return the true columns.

        Returns
        -------
        pairs, columns
            As from ``sample``; ``arrangement`` is ``"given"``, and an image's recordings follow each other.

        Examples
        --------
        >>> from stemkit import STEMSynthesizer
        >>> from stemkit.synthesis import lattice, nearest, planar_cell, removed
        >>> crystal = lattice(planar_cell("hexagonal"), (64, 64), spacing=9.0)
        >>> damaged = removed(crystal, nearest(crystal, (31.5, 31.5)))
        >>> pairs = STEMSynthesizer(shape=(64, 64), random_state=0).record(damaged, 3)
        >>> pairs["noisy"].shape
        (3, 64, 64)
        """
        if not isinstance(n, int | np.integer) or n < 1:
            raise ValueError(f"n must be a positive integer, but is {n!r}")
        if not isinstance(specimen, Columns):
            raise TypeError(f"specimen must be Columns, but is a {type(specimen).__name__}")
        self._check_parameters()
        shape, recipe = self._shape(), self.recipe()
        columns = Columns(**{name: values.cpu() for name, values in vars(specimen).items()})
        columns = columns.take(torch.arange(len(specimen)).repeat_interleave(n))
        nothing = torch.zeros(len(columns), dtype=columns.y.dtype)
        targets = render_targets(columns, shape, torch.zeros(1, 1, 1, dtype=columns.y.dtype), nothing, nothing + 2.0)
        generator = torch_generator(seed_from(self.random_state))
        dark = torch.full((len(columns),), self._mode() == "bf")
        noisy = recorded(targets.enhance.float(), columns.spacing.float(), recipe.noise, generator, dark)
        batch = Batch(noisy, targets, columns)
        pairs = pairs_of([batch], self._units())
        return (pairs, true_columns([batch], self._units())) if return_columns else pairs

    def stream(self, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
        """Endless batches ``(batch_size, n_y, n_x)`` of ``noisy``, ``enhance``, ``detect``, ``superresolve`` on the
        device, columns bright, in units of the contrast above the background's level.
        """
        self._check_parameters()
        generator = torch_generator(seed_from(self.random_state), resolve_device(self.device))
        while True:
            batch = draw_batch(self.recipe(), batch_size, self._shape(), generator)
            yield {"noisy": batch.noisy, **vars(batch.targets)}

    def recipe(self) -> Recipe:
        """What is drawn, in px and in parts of the contrast: what training takes, for one."""
        self._check_parameters()
        model = self._noise()
        return Recipe(
            arrangements=tuple(self.arrangements),
            spacing=self._spacing_px(),
            width=self._width_fraction(),
            vacancies=self.vacancies,
            dark=float(self._mode() == "bf"),
            noise=None if model is None else model.parameters(),
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        return tags

    # --- what is drawn -------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))} or None, but is {self.mode!r}")
        sizes = tuple(self.shape) if isinstance(self.shape, Iterable) else ()
        if len(sizes) != 2 or not all(isinstance(n, int | np.integer) and n >= 8 for n in sizes):
            raise ValueError(f"shape must be (n_y, n_x) of at least 8 px each, but is {self.shape!r}")
        self._width_fraction()
        if not 0 <= self.vacancies < 1:
            raise ValueError(f"vacancies must be a fraction from 0 to below 1, but is {self.vacancies!r}")
        if self.pixel_size is not None and not self.pixel_size > 0:
            raise ValueError(f"pixel_size must be a positive number of nm, but is {self.pixel_size!r}")
        unknown = set(self.arrangements) - set(ARRANGEMENTS)
        if unknown or not self.arrangements:
            raise ValueError(f"arrangements must be some of {ARRANGEMENTS}, but is {self.arrangements!r}")
        if self.noise is not None and self.mode is not None and self.noise.mode != self.mode:
            raise ValueError(f"noise is for mode {self.noise.mode!r}, but mode is {self.mode!r}: give the two alike")

    def _shape(self) -> tuple[int, int]:
        return int(self.shape[0]), int(self.shape[1])

    def _mode(self) -> str:
        if self.mode is not None:
            return self.mode
        return self.noise.mode if self.noise is not None else getattr(self, "mode_", "haadf")

    def _noise(self) -> NoiseModel | None:
        return self.noise if self.noise is not None else getattr(self, "noise_model_", None)

    def _pixel_size(self) -> float | None:
        return self.pixel_size if self.pixel_size is not None else getattr(self, "pixel_size_", PIXEL_SIZE)

    def _spacing_px(self) -> tuple[float, float]:
        if self.spacing is None:
            learnt, size = getattr(self, "spacing_", None), getattr(self, "pixel_size_", None)
            # another pixel size than the images' samples the same crystal more coarsely or finely
            resampling = size / self.pixel_size if size and self.pixel_size else 1.0
            return (learnt[0] * resampling, learnt[1] * resampling) if learnt else Recipe().spacing
        low, high = _range(self.spacing, "spacing")
        size = self._pixel_size() or 1.0
        if low < CLOSEST * size:
            least = f"{CLOSEST} px, {CLOSEST * size:.3g} nm at this pixel size"
            raise ValueError(f"spacing must be at least {least}, but is {self.spacing!r}")
        return low / size, high / size

    def _width_fraction(self) -> tuple[float, float]:
        """Range of the columns' sigma as a fraction of the spacing."""
        if self.width is None:
            return getattr(self, "width_", None) or Recipe().width
        low, high = _range(self.width, "width")
        size, spacing = self._pixel_size() or 1.0, self._spacing_px()
        typical = math.sqrt(spacing[0] * spacing[1]) * size
        return low / typical, high / typical

    # --- what is handed out --------------------------------------------------------------------------------------

    def _units(self) -> Units:
        model, mode = self._noise(), self._mode()
        contrast, level = (model.contrast, model.level) if model is not None else SCALES[mode]
        return Units(mode, contrast, level, self._pixel_size())


def _lengths(bright: NDArray) -> tuple[float, float, float] | None:
    """Distance of neighbouring columns, px, and the range of their widths in parts of it.

    The middle half of the fitted widths: beyond it they are what noise and overlap have made of them.
    """
    fits = find_specimen(middle(bright, LEARNT_FROM).astype(np.float64)).fits
    if fits is None or (~fits.failed).sum() < ENOUGH:
        return None
    good = fits.take(~fits.failed)
    spacing = float(np.median(nearest_distances(np.column_stack([good.y, good.x]))))
    low, high = np.quantile(good.sigma / spacing, [0.25, 0.75])
    return spacing, float(low), float(high)


def _range(value: object, name: str) -> tuple[float, float]:
    limits = np.ravel(np.asarray(value))
    if limits.dtype.kind not in "iuf" or limits.size not in (1, 2) or not 0 < limits[0] <= limits[-1] < np.inf:
        raise ValueError(f"{name} must be positive nm, or (low, high), but is {value!r}")
    return float(limits[0]), float(limits[-1])
