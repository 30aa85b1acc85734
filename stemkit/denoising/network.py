"""Denoising by networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.compute import inference_dtype, resolve_device, seed_from
from stemkit.denoising.base import Denoiser, Enhancer, noise_of
from stemkit.denoising.callbacks import epochs_of, seed_of
from stemkit.denoising.inference import enhanced_maps
from stemkit.denoising.sources import PairSource, Source, SynthesisSource
from stemkit.denoising.training import made_with, train
from stemkit.denoising.units import network_units, to_network, widened
from stemkit.denoising.weights import OUTPUTS, SMALL, NetworkInfo, load_weights
from stemkit.images import (
    Images,
    holds_images,
    mode_sign,
    resolve_mode,
    split,
    warn_if_small,
)
from stemkit.networks import FoldedSFIN
from stemkit.noise.drawing import stacked
from stemkit.synthesis import STEMSynthesizer
from stemkit.synthesis.noises import BACKGROUND

__all__ = ["SFINDenoiser"]

SAMPLINGS = ("auto", "native")
#: Part of the images that are synthesised for training that show nothing.
EMPTY = 0.05


class SFINDenoiser(Denoiser):
    """Enhance images with the spatial-frequency interactive network.

    With the shipped weights there is nothing to train: ``SFINDenoiser().fit_transform(image)``. Given pairs, ``fit``
    trains on them; with ``fine_tune=True`` or ``weights=None`` and images alone, it measures their noise and
    spacing, synthesises pairs like them and trains on those.

    Parameters
    ----------
    weights : str, path or None, default="auto"
        ``"auto"`` takes the shipped weights, a path a stemkit ``.safetensors`` or a checkpoint of the authors; None
        starts from scratch.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Go on training the weights on pairs synthesised like the images given to ``fit``.
    n_blocks, width, downsampling : int or None, default=None
        Architecture, see :class:`stemkit.networks.SFIN`. None takes the weights' own.
    lr : float, default=2e-3
        Highest learning rate.
    max_epochs : int, default=10
    patience : int or None, default=None
        Stop after so many epochs in a row that were not the best. The network is that of the best epoch, judged on
        pairs that are held back: on fresh ones where pairs are synthesised, on one in ten where at least ten are given.
    batches_per_epoch : int, default=50
    batch_size : int, default=8
    crop_size : int, default=128
        Edge of the training crops, px.
    loss : {"l1", "l2"}, default="l1"
    checkpoint : path or None, default=None
        Written after every epoch. Where it is there, training goes on from it, to the result that it would have had
        without the interruption; remove it to begin again.
    compile : bool, default=False
        Let torch compile the network for training on a GPU: a minute at the start, faster steps.
    sampling : {"auto", "native"}, default="auto"
        ``"auto"`` resamples an image whose spacing the network has not seen, and resamples the result back; it warns
        where columns are sampled too coarsely for that to help. ``"native"`` warns where it would.
    tile_size : int, default=2048
        Larger images are enhanced in overlapping tiles of this size, px.
    average_flips : bool, default=False
        Average over the mirror images, at four times the cost; their spread becomes the coordinate ``uncertainty``.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    random_state : int, RandomState or None, default=None
        Seed of the training: the same one on the same device gives the same network.
    verbose : int, default=0
        1 shows a progress bar while training, and over the tiles of large images.

    Attributes
    ----------
    net_ : torch.nn.Module
        The network.
    info_ : NetworkInfo
        Its architecture, outputs and the spacings it knows (px).
    history_ : pandas.DataFrame
        One row per epoch of training; empty where nothing was trained.
    n_images_ : int
        Number of images seen by ``fit``.

    Raises
    ------
    ValueError, TypeError
        For anything that is not an image, unknown weights, or an architecture that contradicts the weights.

    Notes
    -----
    The input is normalised by its mean and standard deviation in float64, and the result brought back: intensities
    stay in the image's units. An image that comes as a DataArray carries the recorded pixels on as the coordinate
    ``measured``, and the network's other maps as ``detect`` and ``superresolve``.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, "Noise Calibration and Spatial-Frequency Interactive Network for STEM Image
       Enhancement", CVPR 2025, https://arxiv.org/abs/2504.02555

    Examples
    --------
    >>> from stemkit import SFINDenoiser, STEMSynthesizer
    >>> from stemkit.metrics import psnr
    >>> pairs = STEMSynthesizer(shape=(128, 128), random_state=1).sample(1)
    >>> enhanced = SFINDenoiser().fit_transform(pairs["noisy"])
    >>> psnr(enhanced, pairs["enhance"]) > psnr(pairs["noisy"], pairs["enhance"])
    True
    """

    def __init__(
        self,
        *,
        weights: str | Path | None = "auto",
        target: str = "enhance",
        fine_tune: bool = False,
        n_blocks: int | None = None,
        width: int | None = None,
        downsampling: int | None = None,
        lr: float = 2e-3,
        max_epochs: int = 10,
        patience: int | None = None,
        batches_per_epoch: int = 50,
        batch_size: int = 8,
        crop_size: int = 128,
        loss: str = "l1",
        checkpoint: str | Path | None = None,
        compile: bool = False,
        sampling: str = "auto",
        tile_size: int = 2048,
        average_flips: bool = False,
        mode: str | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.weights = weights
        self.target = target
        self.fine_tune = fine_tune
        self.n_blocks = n_blocks
        self.width = width
        self.downsampling = downsampling
        self.lr = lr
        self.max_epochs = max_epochs
        self.patience = patience
        self.batches_per_epoch = batches_per_epoch
        self.batch_size = batch_size
        self.crop_size = crop_size
        self.loss = loss
        self.checkpoint = checkpoint
        self.compile = compile
        self.sampling = sampling
        self.tile_size = tile_size
        self.average_flips = average_flips
        self.mode = mode
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Images, y: object = None) -> SFINDenoiser:
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
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling must be one of {', '.join(map(repr, SAMPLINGS))}, but is {self.sampling!r}")
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
        asked = {k: getattr(self, k) for k in SMALL if getattr(self, k) is not None}
        if info is None:
            outputs = (self.target,) if supervised else OUTPUTS
            return NetworkInfo(**{**SMALL, **asked}, outputs=outputs)
        for name, value in asked.items():
            if value != getattr(info, name):
                raise ValueError(
                    f"{name} must be None or that of the weights, {getattr(info, name)}, but is {value!r}: "
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
            max(8, info.downsampling),
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
        network = FoldedSFIN(self.net_, inference_dtype(device), device)

        def enhance(image: xr.DataArray, mode: str) -> dict[str, NDArray]:
            return enhanced_maps(
                image.values,
                network,
                self.info_,
                sign=mode_sign(mode),
                resample=self.sampling == "auto",
                tile_size=self.tile_size,
                spread_of=self.target if self.average_flips else None,
                progress=self.verbose > 0,
            )

        return enhance

    def _made_with(self) -> dict[str, Any]:
        return {"weights": self.info_.sha256}
