"""Estimator that draws synthetic images with known truth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, Self, overload

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from stemkit.compute import parallel_map, resolve_device, seed_from, torch_generator
from stemkit.estimators import ImageEstimator
from stemkit.images.containers import Images, split
from stemkit.images.mode import mode_sign
from stemkit.noise import NoiseCalibrator, NoiseModel
from stemkit.parameters import check_fraction, check_integer, check_positive
from stemkit.pixels import filled
from stemkit.synthesis.arrangements.columns import Columns
from stemkit.synthesis.batches import Batch, draw_batch, recorded
from stemkit.synthesis.given_images import (
    attached_noise,
    common_lengths,
    common_mode,
    common_noise,
    common_pixel_size,
    geometric_mean,
)
from stemkit.synthesis.pairs import SCALES, Units, pairs_of, true_columns
from stemkit.synthesis.recipe import ARRANGEMENTS, Recipe
from stemkit.synthesis.rendering import render_targets

__all__ = ["STEMSynthesizer"]

#: Largest number of images of a chunk. Each chunk has its own seed, so that `sample(n)` is a prefix of `sample(m)`
#: (chosen).
CHUNK = 16
#: Largest number of pixels of a chunk of several images (chosen).
CHUNK_PIXELS = 16 * 256**2
#: Least spacing, px, at which columns are resolved (derived: Nyquist).
CLOSEST = 2.0
#: Default pixel size, nm (chosen).
PIXEL_SIZE = 0.01


class STEMSynthesizer(ImageEstimator):
    """Draw pairs of noisy and true images of crystals with their defects, amorphous matter and single atoms.

    Columns are Gaussians. Crystals of the five planar lattices have up to four columns per cell, and occur as single
    crystals, layers, grains, twins and phases, with dislocations and strain, as particles and islands, with vacancies,
    interstitials and substituted columns. The noise is a :class:`~stemkit.NoiseModel`. After ``fit``, pairs have the
    noise, spacing, widths, contrast and pixel size of the images; ``record`` draws images of a given specimen.

    Parameters
    ----------
    mode : {"haadf", "bf"} or None, default=None
        None takes it from the fitted images; without them "haadf".
    noise : NoiseModel or None, default=None
        None takes it from the fitted images; without them it is drawn anew for each image.
    shape : (int, int), default=(256, 256)
        ``(n_y, n_x)`` of the images, px.
    pixel_size : float or None, default=None
        Pixel size, nm; None takes it from the fitted images; without them 0.01.
    arrangements : tuple of str, default=all
        Arrangements that are drawn, see :class:`~stemkit.synthesis.Recipe`.
    spacing : float, (float, float) or None, default=None
        Distance of neighbouring columns, or its range, in nm; in px if the fitted images have no pixel size and none is
        given. None takes it from the fitted images; without them it is drawn between 7 and 32 px.
    width : float, (float, float) or None, default=None
        Sigma of a column, or its range, in the unit of ``spacing``. None takes it from the fitted images; without them
        it is 0.13 to 0.28 of the spacing.
    vacancies : float, default=0.06
        The largest fraction of columns that are missing.
    random_state : int, RandomState or None, default=None
        Seed; the same seed gives the same images.
    device : str, default="auto"
        Device of ``stream``; ``sample`` draws on the CPU, so that its images do not depend on the GPU.

    Attributes
    ----------
    mode_ : {"haadf", "bf"}
        Mode of the images.
    noise_model_ : NoiseModel
        Noise of the images: the one that they carry, or measured on all of them; or the parameter ``noise``.
    pixel_size_ : float or None
        Pixel size of the images, nm; None without calibration.
    spacing_ : (float, float) or None
        Range of the distance of neighbouring columns, a tenth wider than that of the images, in nm; in px without
        calibration. None where no columns were found.
    width_ : (float, float) or None
        Range of the columns' sigma, in the unit of ``spacing_``.

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

    def fit(self, X: Images, y: object = None) -> Self:
        """Estimate mode, noise, pixel size, spacing and widths of columns from images of one kind.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If the images differ in mode, pixel size or attached noise model: fit a synthesizer to each kind.
        """
        self._check_parameters()
        images = split(X)
        self.mode_ = common_mode(images, self.mode)
        attached = attached_noise(images, self.mode_)  # an unsuitable model is an error even where noise is given
        self.pixel_size_ = common_pixel_size(images)
        if self.noise is not None:
            self.noise_model_ = self.noise
        elif attached:
            self.noise_model_ = common_noise(attached, len(images))
        else:
            self.noise_model_ = NoiseCalibrator(mode=self.mode_).fit(X).noise_model_
        bright = [mode_sign(self.mode_) * filled(image.values) for image in images]
        self.spacing_, self.width_ = common_lengths(bright, self.pixel_size_ or 1.0)
        return self

    @overload
    def sample(self, n: int = 1, *, return_columns: Literal[False] = False) -> xr.Dataset: ...

    @overload
    def sample(self, n: int = 1, *, return_columns: Literal[True]) -> tuple[xr.Dataset, pd.DataFrame]: ...

    def sample(self, n: int = 1, *, return_columns: bool = False) -> xr.Dataset | tuple[xr.Dataset, pd.DataFrame]:
        """Draw ``n`` pairs; ``sample(n)`` is a prefix of ``sample(m)`` for m > n.

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
            One row per column inside the image: ``image, y, x`` (nm), ``y_px, x_px, amplitude, sigma`` (nm),
            ``species``, and ``defect``, the kind of point defect or "none".
        """
        check_integer("n", n)
        self._check_parameters()
        seed, recipe, shape = seed_from(self.random_state), self.recipe(), self._shape()
        size = min(CHUNK, max(1, CHUNK_PIXELS // math.prod(shape)))

        def drawn(chunk: int) -> Batch:
            key = np.random.SeedSequence([seed, chunk]).generate_state(1, np.uint64)
            return draw_batch(recipe, size, shape, torch_generator(int(key[0])))

        batches = parallel_map(drawn, range(-(-int(n) // size)))
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
        """Record a given specimen ``n`` times.

        Parameters
        ----------
        specimen : Columns
            Columns of one image or several, from the functions of ``stemkit.synthesis``; positions and widths are in
            px, heights in units of the contrast.
        n : int
            Number of recordings of each image, which differ in their noise.
        return_columns : bool
            Also return the true columns.

        Returns
        -------
        pairs, columns
            See ``sample``; ``arrangement`` is ``"given"``, and recordings of one image are consecutive.

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
        check_integer("n", n)
        if not isinstance(specimen, Columns):
            raise TypeError(f"specimen must be Columns, such as lattice() returns, but is a {type(specimen).__name__}")
        self._check_parameters()
        shape, recipe = self._shape(), self.recipe()
        columns = Columns(**{name: values.cpu() for name, values in vars(specimen).items()})
        columns = columns.take(torch.arange(len(specimen)).repeat_interleave(n))
        zero = torch.zeros(len(columns), dtype=columns.y.dtype)
        targets = render_targets(columns, shape, torch.zeros(1, 1, 1, dtype=columns.y.dtype), zero, zero + 2.0)
        generator = torch_generator(seed_from(self.random_state))
        dark = torch.full((len(columns),), self._mode() == "bf")
        noisy = recorded(targets.enhance.float(), columns.spacing.float(), recipe.noise, generator, dark)
        batch = Batch(noisy, targets, columns)
        pairs = pairs_of([batch], self._units())
        return (pairs, true_columns([batch], self._units())) if return_columns else pairs

    def stream(self, batch_size: int = 8) -> Iterator[dict[str, Tensor]]:
        """Unlimited batches ``(batch_size, n_y, n_x)`` of ``noisy``, ``enhance``, ``detect``, ``superresolve`` on the
        device, columns bright, in units of the contrast above the background's level.
        """
        self._check_parameters()
        generator = torch_generator(seed_from(self.random_state), resolve_device(self.device))
        while True:
            batch = draw_batch(self.recipe(), batch_size, self._shape(), generator)
            yield {"noisy": batch.noisy, **vars(batch.targets)}

    def recipe(self) -> Recipe:
        """Distribution of the images, in px and units of the contrast, for example for training."""
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

    # --- parameters ----------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        super()._check_parameters()
        sizes = tuple(self.shape) if isinstance(self.shape, Iterable) else ()
        if len(sizes) != 2 or not all(isinstance(n, int | np.integer) and n >= 8 for n in sizes):
            raise ValueError(f"shape must be (n_y, n_x) of at least 8 px each, but is {self.shape!r}")
        check_positive("pixel_size", self.pixel_size, optional=True, unit="nm")
        self._width_fraction()
        check_fraction("vacancies", self.vacancies, zero=True)
        names = set(self.arrangements) if isinstance(self.arrangements, Iterable) else set()
        if not names or names - set(ARRANGEMENTS):
            raise ValueError(f"arrangements must be one or several of {ARRANGEMENTS}, but is {self.arrangements!r}")
        if self.noise is not None and not isinstance(self.noise, NoiseModel):
            raise TypeError(f"noise must be a NoiseModel or None, but is {type(self.noise).__name__}")
        if self.noise is not None and self.mode is not None and self.noise.mode != self.mode:
            raise ValueError(f"noise is for mode {self.noise.mode!r}, but mode is {self.mode!r}: both must be the same")

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
            fitted = getattr(self, "spacing_", None)
            if fitted is None:
                return Recipe().spacing
            # fitted lengths are in px where the images have no pixel size
            unit = 1.0 if self.pixel_size_ is None else self._pixel_size() or 1.0
            return fitted[0] / unit, fitted[1] / unit
        low, high = self._range("spacing")
        size = self._pixel_size() or 1.0
        if low < CLOSEST * size:
            in_nm = "" if self._pixel_size() is None else f", {CLOSEST * size:.3g} nm at this pixel size"
            raise ValueError(f"spacing must be at least {CLOSEST} px{in_nm}, but is {self.spacing!r}")
        return low / size, high / size

    def _width_fraction(self) -> tuple[float, float]:
        """Range of the columns' sigma as a fraction of the spacing."""
        if self.width is None:
            fitted, spacings = getattr(self, "width_", None), getattr(self, "spacing_", None)
            if fitted is None or spacings is None:
                return Recipe().width
            return _divided(fitted, geometric_mean(spacings))
        spacing = geometric_mean(self._spacing_px()) * (self._pixel_size() or 1.0)
        return _divided(self._range("width"), spacing)

    def _range(self, name: str) -> tuple[float, float]:
        """Limits of a length that is given as a number or as a range, nm, or px without a pixel size."""
        value, unit = getattr(self, name), "px" if self._pixel_size() is None else "nm"
        limits = np.ravel(np.asarray(value))
        if limits.dtype.kind not in "iuf" or limits.size not in (1, 2) or not 0 < limits[0] <= limits[-1] < np.inf:
            raise ValueError(f"{name} must be a positive number of {unit}, or (low, high), but is {value!r}")
        return float(limits[0]), float(limits[-1])

    def _units(self) -> Units:
        model, mode = self._noise(), self._mode()
        contrast, level = (model.contrast, model.level) if model is not None else SCALES[mode]
        return Units(mode, contrast, level, self._pixel_size())


# --- ranges ------------------------------------------------------------------------------------------------------


def _divided(limits: tuple[float, float], by: float) -> tuple[float, float]:
    return limits[0] / by, limits[1] / by
