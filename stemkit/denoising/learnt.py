"""Base class of denoisers by networks: training in fit, inference in transform."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.compute import PRECISIONS, resolve_device, seed_from
from stemkit.denoising.base import Denoiser, Enhancer, check_choice, check_integer, without_faults
from stemkit.denoising.callbacks import epochs_of, seed_of
from stemkit.denoising.crystal import combine_with_lattice
from stemkit.denoising.inference import enhanced_maps, for_inference
from stemkit.denoising.sampling import check_sampling
from stemkit.denoising.sources import PairSource, Source, SynthesisSource
from stemkit.denoising.training import made_with, train
from stemkit.denoising.units import network_units, to_network, widened
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, load_weights
from stemkit.images import (
    Images,
    holds_images,
    mode_sign,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.noise.drawing import stacked
from stemkit.noise.resolve import resolve_noise
from stemkit.synthesis import STEMSynthesizer
from stemkit.synthesis.noises import BACKGROUND

__all__ = ["LearntDenoiser"]

LATTICES = ("auto", "off")
#: Fraction of synthetic training images without columns (chosen).
EMPTY = 0.05
#: Range of spacings of synthetic images, in multiples of that of the given images (chosen).
WIDENING = (0.9, 1.1)
#: Lower limits of the ends of that range, px (chosen).
LEAST_SPACING = (3.0, 4.0)
#: Least values of integer parameters.
LEAST = {"max_epochs": 0, "batches_per_epoch": 1, "batch_size": 1, "crop_size": 8, "tile_size": 64, "patience": 1}


class LearntDenoiser(Denoiser):
    """A denoiser by a network, with the parameters of training and inference.

    Subclasses define the architecture, and an ``__init__`` with the signature that scikit-learn reads.
    """

    #: Name of the architecture in a weights file.
    architecture: ClassVar[str]
    #: Parameters of the architecture: name in the estimator, name in a weights file, and value of None without weights.
    shaped_by: ClassVar[tuple[tuple[str, str, int], ...]]

    weights: str | Path | None
    fine_tune: bool
    lr: float
    max_epochs: int
    patience: int | None
    batches_per_epoch: int
    batch_size: int
    crop_size: int
    loss: str
    checkpoint: str | Path | None
    compile: bool
    sampling: float | str
    precision: str
    lattice: str
    tile_size: int
    average_flips: bool
    device: str
    random_state: int | np.random.RandomState | None
    verbose: int

    def _store(self, parameters: dict[str, Any]) -> None:
        """Set the attributes from the local variables of ``__init__``."""
        self.__dict__.update({name: value for name, value in parameters.items() if name != "self"})

    def fit(self, X: Images, y: object = None) -> Self:
        """Load the weights, and train the network if pairs are given, ``fine_tune`` is set or ``weights`` is None.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images, ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : like X, optional
            True ``target`` maps, of the same shapes. The network is then trained on these pairs. Labels and tables,
            which a pipeline passes on to its other steps, are ignored.

        Returns
        -------
        self
        """
        self._check_parameters()
        images = split(X)
        for image in images:
            warn_if_small(image)
        truth = split(y, name="y") if holds_images(y) else None
        module, info = load_weights(self.weights) if self.weights is not None else (None, None)
        info = self._check_info(info, supervised=truth is not None)
        self.history_ = pd.DataFrame()
        if truth is not None or self.fine_tune or module is None:
            images = [without_faults(image) for image in images]
        if truth is not None:
            module, info = self._train(module, info, *self._pairs(images, truth, info))
        elif self.fine_tune or module is None:
            module, info = self._train(module, info, *self._synthesis(images, info))
        assert module is not None
        self.net_ = module.eval().to("cpu")
        self.info_ = info
        self.n_images_ = len(images)
        return self

    # --- parameters ----------------------------------------------------------------------------------------------

    def _check_parameters(self) -> None:
        check_choice("target", self.target, OUTPUTS)
        check_sampling(self.sampling)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("lattice", self.lattice, LATTICES)
        for name, least in LEAST.items():
            if name != "patience" or self.patience is not None:
                check_integer(name, getattr(self, name), least)
        if not isinstance(self.lr, int | float | np.number) or not self.lr > 0:
            raise ValueError(f"lr must be a positive number, but is {self.lr!r}")
        if self.fine_tune and self.weights is None:
            raise ValueError("fine_tune=True needs weights to start from, but weights is None: use fine_tune=False")

    def _check_info(self, info: NetworkInfo | None, supervised: bool) -> NetworkInfo:
        """Description of the weights, compared with the parameters; without weights, that of a new network."""
        if info is None:
            outputs = (self.target,) if supervised else OUTPUTS
            given = [(key, getattr(self, name), default) for name, key, default in self.shaped_by]
            shape: dict[str, Any] = {key: default if value is None else value for key, value, default in given}
            return NetworkInfo(**shape, outputs=outputs, architecture=self.architecture)
        if info.architecture != self.architecture:
            raise ValueError(
                f"weights must be of the architecture {self.architecture!r}, but {str(self.weights)!r} are of "
                f"{info.architecture!r}"
            )
        for name, key, _ in self.shaped_by:
            value = getattr(self, name)
            if value not in (None, getattr(info, key)):
                raise ValueError(
                    f"{name} must be None or that of the weights, {getattr(info, key)}, but is {value!r}: "
                    "pass weights=None to train another architecture"
                )
        if self.target not in info.outputs:
            raise ValueError(f"target must be one of the weights' outputs {info.outputs}, but is {self.target!r}")
        return info

    # --- training ------------------------------------------------------------------------------------------------

    def _train(self, module: Any, info: NetworkInfo, source: Source, trained: NetworkInfo) -> tuple[Any, Any]:
        device, checkpoint = resolve_device(self.device), None if self.checkpoint is None else Path(self.checkpoint)
        if self.random_state is None and checkpoint is not None and checkpoint.exists():
            seed = seed_of(checkpoint)
        else:
            seed = seed_from(self.random_state)
        net = train(
            info,
            source,
            device=device,
            seed=seed,
            max_epochs=self.max_epochs,
            batches_per_epoch=self.batches_per_epoch,
            lr=self.lr,
            loss=self.loss,
            module=module,
            checkpoint=checkpoint,
            patience=self.patience,
            compile=self.compile,
            verbose=self.verbose,
        )
        self.history_ = pd.DataFrame(epochs_of(net))
        before = {**info.training, "sha256": info.sha256} if info.sha256 else {}
        return net.module_, dataclasses.replace(trained, training=made_with(net, device, seed, before))

    def _pairs(
        self, images: list[xr.DataArray], truth: list[xr.DataArray], info: NetworkInfo
    ) -> tuple[Source, NetworkInfo]:
        if [i.shape for i in images] != [t.shape for t in truth]:
            raise ValueError(
                f"y must hold one image per image of X and of its shape, but the shapes are {[t.shape for t in truth]} "
                f"and {[i.shape for i in images]}"
            )
        noisy, clean = [], []
        for image, target in zip(images, truth, strict=True):
            sign = mode_sign(resolve_mode(image, self.mode))
            offset, scale = network_units(image.values * sign, info)
            noisy.append((image.values * sign - offset) / (scale or 1.0))
            clean.append(to_network(target.values, self.target, sign, offset, scale or 1.0))
        source = PairSource(
            noisy,
            clean,
            self.batch_size,
            self.crop_size,
            max(8, info.multiple),
            resolve_device(self.device),
            channel=self.target,
        )
        return source, dataclasses.replace(info, spacing=widened(info.spacing, images), sha256="")

    def _synthesis(self, images: list[xr.DataArray], info: NetworkInfo) -> tuple[Source, NetworkInfo]:
        if info.scaling != "standard":
            raise ValueError(
                "fine_tune=True needs weights with input scaling 'standard' (mean 0, standard deviation 1), but these "
                f"have {info.scaling!r}: give pairs to fit instead"
            )
        models = [resolve_noise(image, self.mode) for image in images]
        like = STEMSynthesizer(mode=models[0].mode, noise=models[0]).fit(images).recipe()
        low, high = like.spacing
        noise = stacked([model.parameters() for model in models])
        # a wider range than that of the given images, for similar images of the same specimen
        spacing = max(LEAST_SPACING[0], WIDENING[0] * low), max(LEAST_SPACING[1], WIDENING[1] * high)
        # background that is stronger, or as short as columns, belongs to the specimen and must not be removed
        noise.background = noise.background.clamp(max=BACKGROUND[1])
        noise.background_length = noise.background_length.clamp(min=spacing[1])
        recipe = dataclasses.replace(like, noise=noise, spacing=spacing, empty=EMPTY)
        size = max(32, self.crop_size // 16 * 16)
        source = SynthesisSource(recipe, info.outputs, self.batch_size, [size])
        # inference compares results of find_periodicity with this range: in some crystals not the nearest distance
        trained = info.spacing if self.weights is not None and info.spacing is not None else spacing
        union = (min(trained[0], spacing[0]), max(trained[1], spacing[1]))
        return source, dataclasses.replace(info, spacing=widened(union, images), sha256="")

    # --- inference -----------------------------------------------------------------------------------------------

    def _enhancer(self) -> Enhancer:
        device = resolve_device(self.device)
        network = for_inference(self.net_, device, self.precision)

        def enhance(image: xr.DataArray, mode: str) -> dict[str, NDArray]:
            maps = enhanced_maps(
                image.values,
                network,
                self.info_,
                sign=mode_sign(mode),
                sampling=self.sampling,
                tile_size=self.tile_size,
                spread_of=self.target if self.average_flips else None,
                progress=self.verbose > 0,
            )
            if self.lattice == "auto" and "enhance" in maps:
                sign = mode_sign(mode)
                maps["enhance"] = sign * combine_with_lattice(sign * image.values, sign * maps["enhance"])
            return maps

        return enhance

    def _made_with(self) -> dict[str, Any]:
        return {"weights": self.info_.sha256} | ({"lattice": "auto"} if self.lattice == "auto" else {})
