"""What denoisers by networks share: training in fit, inference in transform."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.compute import PRECISIONS, resolve_device, seed_from
from stemkit.denoising.base import Denoiser, Enhancer, without_faults
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
from stemkit.noise.attached import noise_of
from stemkit.noise.drawing import stacked
from stemkit.synthesis import STEMSynthesizer
from stemkit.synthesis.noises import BACKGROUND

__all__ = ["LearntDenoiser"]

LATTICES = ("auto", "off")
#: Part of the images that are synthesised for training that show nothing.
EMPTY = 0.05


class LearntDenoiser(Denoiser):
    """A denoiser that is a network: training and inference behind an estimator's parameters.

    An architecture says what it is called, which of its parameters are the network's, and what those are where they
    are None and there are no weights to tell.
    """

    #: As in a weights file.
    architecture: ClassVar[str]
    #: Parameters of the estimator that shape the network, their names in a weights file, and what None stands for.
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

    def fit(self, X: Images, y: object = None) -> Self:
        """Load the weights and, where asked for, train.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images, ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``.
        y : like X, optional
            What ``target`` is for each of them, same shapes; then the network is trained on these pairs. Labels and
            tables, which a pipeline hands on for its other steps, are ignored.

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
        if self.target not in OUTPUTS:
            raise ValueError(f"target must be one of {', '.join(map(repr, OUTPUTS))}, but is {self.target!r}")
        check_sampling(self.sampling)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, but is {self.precision!r}")
        if self.lattice not in LATTICES:
            raise ValueError(f"lattice must be one of {', '.join(map(repr, LATTICES))}, but is {self.lattice!r}")
        for name, least in (
            ("max_epochs", 0),
            ("batches_per_epoch", 1),
            ("batch_size", 1),
            ("crop_size", 8),
            ("tile_size", 64),
            ("patience", 1),
        ):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, but is {value!r}")
        if not isinstance(self.lr, int | float | np.number) or not self.lr > 0:
            raise ValueError(f"lr must be a positive number, but is {self.lr!r}")
        if self.fine_tune and self.weights is None:
            raise ValueError("fine_tune=True needs weights to start from, but weights is None: leave fine_tune out")

    def _check_info(self, info: NetworkInfo | None, supervised: bool) -> NetworkInfo:
        """The weights' architecture, which the parameters may confirm; without weights, what the parameters ask."""
        if info is None:
            outputs = (self.target,) if supervised else OUTPUTS
            given = [(key, getattr(self, name), fresh) for name, key, fresh in self.shaped_by]
            shape: dict[str, Any] = {key: fresh if value is None else value for key, value, fresh in given}
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

    def _train(self, module: Any, info: NetworkInfo, source: Source, info_after: NetworkInfo) -> tuple[Any, Any]:
        device, checkpoint = resolve_device(self.device), None if self.checkpoint is None else Path(self.checkpoint)
        going_on = self.random_state is None and checkpoint is not None and checkpoint.exists()
        seed = seed_of(checkpoint) if going_on and checkpoint is not None else seed_from(self.random_state)
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
        return net.module_, dataclasses.replace(info_after, training=made_with(net, device, seed, before))

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
                f"fine_tune=True needs weights whose input has a mean of 0 and a deviation of 1, but these want "
                f"{info.scaling}: give pairs to fit instead"
            )
        models = [noise_of(image, self.mode) for image in images]
        like = STEMSynthesizer(mode=models[0].mode, noise=models[0]).fit(images).recipe()
        low, high = like.spacing
        # every image's noise, and a little more than its lengths: the next image is not quite the same
        noise, spacing = stacked([model.parameters() for model in models]), (max(3.0, 0.9 * low), max(4.0, 1.1 * high))
        # a background that is stronger, or as short as columns, is the specimen's: it is drawn as a film, and stays
        noise.background = noise.background.clamp(max=BACKGROUND[1])
        noise.background_length = noise.background_length.clamp(min=spacing[1])
        recipe = dataclasses.replace(like, noise=noise, spacing=spacing, empty=EMPTY)
        size = max(32, self.crop_size // 16 * 16)
        source = SynthesisSource(recipe, info.outputs, self.batch_size, [size])
        # a spacing is known to the network as it is found in an image: other than that of neighbours in some crystals
        known = info.spacing if self.weights is not None and info.spacing is not None else spacing
        widest = (min(known[0], spacing[0]), max(known[1], spacing[1]))
        return source, dataclasses.replace(info, spacing=widened(widest, images), sha256="")

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
