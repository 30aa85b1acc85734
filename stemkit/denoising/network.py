"""Base class of the denoisers by networks: training in fit, inference in transform."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from stemkit.compute import PRECISIONS, resolve_device, seed_from
from stemkit.denoising.base import Denoiser, Enhancer, without_faults
from stemkit.denoising.callbacks import epochs_of, seed_of
from stemkit.denoising.frame_pairs import is_aligned, with_frames, without_gaps
from stemkit.denoising.inference import InferenceNetwork, enhanced_maps, enhanced_strips, for_inference
from stemkit.denoising.lattice_average import combine_with_lattice
from stemkit.denoising.sampling import check_sampling
from stemkit.denoising.sources import CROP_MULTIPLE, MIN_CROP, PairSource, Source, SynthesisSource
from stemkit.denoising.training import LOSSES, TrainingSchedule, train, training_record
from stemkit.denoising.units import network_units, to_network, widened
from stemkit.denoising.weights import OUTPUTS, NetworkInfo, load_weights
from stemkit.images.containers import Images, holds_images, split
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.images.provenance import was_averaged
from stemkit.noise import NoiseModel
from stemkit.noise.drawing import stacked
from stemkit.noise.resolve import resolve_noise
from stemkit.parameters import check_integer, check_option, check_positive
from stemkit.pixels.filled_image import FilledImage
from stemkit.synthesis import STEMSynthesizer
from stemkit.synthesis.noises import CONSTANTS as NOISE

__all__ = ["NetworkDenoiser"]

#: Values of ``lattice``.
LATTICES = ("auto", "off")
#: Fraction of synthetic training images without columns (chosen).
EMPTY = 0.05
#: Range of spacings of synthetic images, in multiples of that of the given images (chosen).
WIDENING = (0.9, 1.1)
#: Lower limits of the ends of that range, px (chosen).
LEAST_SPACING = (3.0, 4.0)
#: Largest number of frames of a series on which the noise of synthetic images is calibrated (chosen: each takes a few
#: seconds).
MOST_CALIBRATED = 3
#: Least values of integer parameters (chosen).
LEAST = {"max_epochs": 0, "batches_per_epoch": 1, "batch_size": 1, "crop_size": 8, "tile_size": 64}


@dataclass(kw_only=True, eq=False, repr=False)
class NetworkDenoiser(Denoiser):
    """A denoiser by a network, with the parameters of training and inference; see :class:`stemkit.SFINDenoiser`.

    A subclass defines the architecture, and adds its parameters as fields: ``dataclass`` makes the ``__init__`` whose
    signature scikit-learn reads.
    """

    #: Name of the architecture in a weights file.
    _architecture: ClassVar[str]
    #: Parameters of the architecture: name in a weights file, and value of None without weights.
    _shape_parameters: ClassVar[dict[str, tuple[str, int]]]

    weights: str | Path | None = None
    target: str = "enhance"
    fine_tune: bool = False
    n_channels: int | None = None
    lr: float = 2e-3
    max_epochs: int = 10
    patience: int | None = None
    batches_per_epoch: int = 50
    batch_size: int = 8
    crop_size: int = 128
    loss: str = "l1"
    checkpoint: str | Path | None = None
    compile: bool = False
    sampling: float | str = "auto"
    precision: str = "auto"
    lattice: str = "off"
    tile_size: int = 2048
    average_flips: bool = False
    mode: str | None = None
    device: str = "auto"
    random_state: int | np.random.RandomState | None = None
    verbose: int = 0

    def fit(self, X: Images, y: object = None) -> Self:
        """Load the weights; train the network only with ``fine_tune=True`` or ``weights=None``.

        Parameters
        ----------
        X : DataArray, ndarray or list of them
            Recorded images, ``(n_y, n_x)`` or ``(n_images, n_y, n_x)``. If the network is trained, and they are the
            frames of a series on the pixels of its average (:meth:`stemkit.SeriesAligner.aligned`), it is trained on
            pairs of these, too: one frame against the mean of the others, and the reverse [1]_.
        y : like X, optional
            True images, or the true ``target`` maps, of the same shapes. If the network is trained, it is trained on
            these pairs; else, and if ``y`` contains no images, such as the tables of columns that a pipeline passes to
            all of its steps, ``y`` is ignored.

        Returns
        -------
        self

        References
        ----------
        .. [1] J. Lehtinen et al., "Noise2Noise", Proc. ICML 2018, https://arxiv.org/abs/1803.04189
        """
        self._check_parameters()
        trains = self.fine_tune or self.weights is None
        truth = split(y, name="y") if trains and holds_images(y) else None
        frames = X if trains and truth is None and is_aligned(X) else None
        images = self._validated(X if frames is None else without_gaps(frames))
        module, info = load_weights(self.weights) if self.weights is not None else (None, None)
        info = self._check_info(info, supervised=truth is not None)
        self.history_ = pd.DataFrame()
        if trains:
            images = [without_faults(image) for image in images]
            if truth is not None:
                source, trained = self._pairs(images, truth, info)
            elif frames is None:
                source, trained = self._synthesis(images, info)
            else:
                source, trained = self._frames(frames.values, images, info)
            module, info = self._train(module, info, source, trained)
        assert module is not None
        self.net_ = module.eval().to("cpu")
        self.info_ = info
        self.n_images_ = len(images)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        # an interrupted training leaves other attributes
        return hasattr(self, "net_")

    # --- parameters ----------------------------------------------------------------------------------------------

    @property
    def _target(self) -> str:
        return self.target

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_option("target", self.target, OUTPUTS)
        check_sampling(self.sampling)
        check_option("precision", self.precision, PRECISIONS)
        check_option("lattice", self.lattice, LATTICES)
        check_option("loss", self.loss, LOSSES)
        for name, least in LEAST.items():
            check_integer(name, getattr(self, name), least)
        check_integer("patience", self.patience, optional=True)
        check_positive("lr", self.lr)
        if self.fine_tune and self.weights is None:
            raise ValueError("fine_tune=True needs weights to start from, but weights is None: use fine_tune=False")

    def _check_info(self, info: NetworkInfo | None, supervised: bool) -> NetworkInfo:
        """Description of the weights, compared with the parameters; without weights, that of a new network."""
        if info is None:
            return self._new_info((self.target,) if supervised else OUTPUTS)
        if info.architecture != self._architecture:
            raise ValueError(
                f"weights must be of the architecture {self._architecture!r}, but {str(self.weights)!r} are of "
                f"{info.architecture!r}"
            )
        for name, (key, _) in self._shape_parameters.items():
            value = getattr(self, name)
            if value not in (None, getattr(info, key)):
                raise ValueError(
                    f"{name} must be None or that of the weights, {getattr(info, key)}, but is {value!r}: "
                    "pass weights=None to train another architecture"
                )
        if self.target not in info.outputs:
            raise ValueError(f"target must be one of the weights' outputs {info.outputs}, but is {self.target!r}")
        return info

    def _new_info(self, outputs: tuple[str, ...]) -> NetworkInfo:
        shape: dict[str, Any] = {
            key: default if getattr(self, name) is None else getattr(self, name)
            for name, (key, default) in self._shape_parameters.items()
        }
        return NetworkInfo(**shape, outputs=outputs, architecture=self._architecture)

    # --- training ------------------------------------------------------------------------------------------------

    def _train(
        self, module: nn.Module | None, info: NetworkInfo, source: Source, trained: NetworkInfo
    ) -> tuple[nn.Module, NetworkInfo]:
        device, checkpoint = resolve_device(self.device), None if self.checkpoint is None else Path(self.checkpoint)
        if self.random_state is None and checkpoint is not None and checkpoint.exists():
            seed = seed_of(checkpoint)
        else:
            seed = seed_from(self.random_state)
        net = train(
            info,
            source,
            TrainingSchedule(self.max_epochs, self.batches_per_epoch, self.lr, patience=self.patience),
            device=device,
            seed=seed,
            loss=self.loss,
            module=module,
            checkpoint=checkpoint,
            compile=self.compile,
            verbose=self.verbose,
        )
        self.history_ = pd.DataFrame(epochs_of(net))
        before = {**info.training, "sha256": info.sha256} if info.sha256 else {}
        return net.module_, dataclasses.replace(trained, training=training_record(net, device, seed, before))

    def _pairs(
        self, images: list[xr.DataArray], truth: list[xr.DataArray], info: NetworkInfo
    ) -> tuple[Source, NetworkInfo]:
        if [i.shape for i in images] != [t.shape for t in truth]:
            raise ValueError(
                f"y must hold one image per image of X and of its shape, but the shapes are {[t.shape for t in truth]} "
                f"and {[i.shape for i in images]}"
            )
        noisy, truths = [], []
        for image, target in zip(images, truth, strict=True):
            sign = mode_sign(resolve_mode(image, self.mode))
            offset, scale = network_units(image.values, info, sign)
            noisy.append((image.values * sign - offset) / (scale or 1.0))
            truths.append(to_network(target.values, self.target, sign, offset, scale or 1.0))
        source = PairSource(
            noisy,
            truths,
            self.batch_size,
            self.crop_size,
            max(8, info.multiple),
            resolve_device(self.device),
            channel=self.target,
        )
        return source, dataclasses.replace(info, spacing=widened(info.spacing, images), sha256="")

    def _frames(self, frames: NDArray, images: list[xr.DataArray], info: NetworkInfo) -> tuple[Source, NetworkInfo]:
        """Aligned frames, and synthetic pairs like some of them, which ``images`` are without gaps."""
        images = [images[i] for i in np.unique(np.linspace(0, len(images) - 1, MOST_CALIBRATED).astype(int))]
        models = [resolve_noise(image, self.mode) for image in images]
        source, trained = self._synthesis(images, info, models)
        contrast = float(np.mean([model.contrast for model in models]))
        signed = frames * mode_sign(models[0].mode)
        return with_frames(source, signed, contrast, info, resolve_device(self.device)), trained

    def _synthesis(
        self, images: list[xr.DataArray], info: NetworkInfo, models: list[NoiseModel] | None = None
    ) -> tuple[SynthesisSource, NetworkInfo]:
        if info.scaling != "standard":
            raise ValueError(
                "fine_tune=True needs weights with input scaling 'standard' (mean 0, standard deviation 1), but these "
                f"have {info.scaling!r}: give pairs to fit instead"
            )
        if models is None:
            models = [resolve_noise(image, self.mode) for image in images]
        if len({model.mode for model in models}) > 1:
            raise ValueError("X must be images of one mode to train on, but they are of both: train a network on each")
        # of plain arrays, since images may differ in pixel size
        arrays = [image.values for image in images]
        like = STEMSynthesizer(mode=models[0].mode, noise=models[0]).fit(arrays).recipe()
        low, high = like.spacing
        noise = stacked([model.parameters() for model in models])
        # a wider range than that of the given images, for similar images of the same specimen
        spacing = max(LEAST_SPACING[0], WIDENING[0] * low), max(LEAST_SPACING[1], WIDENING[1] * high)
        # background that is stronger, or as short as columns, belongs to the specimen and must not be removed
        noise.background = noise.background.clamp(max=NOISE.background[1])
        noise.background_length = noise.background_length.clamp(min=spacing[1])
        recipe = dataclasses.replace(like, noise=noise, spacing=spacing, empty=EMPTY)
        size = max(MIN_CROP, self.crop_size // CROP_MULTIPLE * CROP_MULTIPLE)
        source = SynthesisSource(recipe, info.outputs, self.batch_size, [size])
        # inference compares results of find_periodicity with this range: in some crystals not the nearest distance
        trained = info.spacing if self.weights is not None and info.spacing is not None else spacing
        union = (min(trained[0], spacing[0]), max(trained[1], spacing[1]))
        return source, dataclasses.replace(info, spacing=widened(union, images), sha256="")

    # --- inference -----------------------------------------------------------------------------------------------

    def strips(self, image: xr.DataArray) -> Iterator[tuple[slice, xr.DataArray]]:
        """The result of :meth:`transform` for one large image, which need not be in memory as a whole.

        Parameters
        ----------
        image : DataArray
            ``(n_y, n_x)``.

        Yields
        ------
        rows : slice
            From the first rows to the last.
        strip : DataArray
            These rows of the result, valid until the next ones are asked for. It is the whole result if the image is
            not divided into tiles, if the network is applied on another grid than the image's, with
            ``average_flips=True``, and with ``lattice="auto"``.
        """
        if self.lattice == "auto":
            whole = self.transform(image)
            assert isinstance(whole, xr.DataArray)
            yield slice(0, len(whole)), whole
            return
        check_is_fitted(self)
        self._check_parameters()
        (valid,) = self._validated(image)
        mode, filled = resolve_mode(valid, self.mode), FilledImage.of(valid.values, averaged=was_averaged(valid))
        network = for_inference(self.net_, resolve_device(self.device), self.precision)
        for rows, maps in enhanced_strips(filled, network, self.info_, **self._options(mode)):
            yield rows, self._with_maps(valid[rows], maps, mode)

    def _enhancer(self) -> Enhancer:
        # the network is converted once for all images
        network = for_inference(self.net_, resolve_device(self.device), self.precision)
        return partial(self._maps_by, network)

    def _maps_by(self, network: InferenceNetwork, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        maps = enhanced_maps(image.values, network, self.info_, **self._options(mode))
        if self.lattice == "auto" and "enhance" in maps:
            sign = mode_sign(mode)
            maps["enhance"] = sign * combine_with_lattice(sign * image.values, sign * maps["enhance"])
        return maps

    def _options(self, mode: str) -> dict[str, Any]:
        return {
            "sign": mode_sign(mode),
            "sampling": self.sampling,
            "tile_size": self.tile_size,
            "uncertainty_of": self.target if self.average_flips else None,
            "progress": self.verbose > 0,
        }

    def _made_with(self) -> dict[str, Any]:
        return {"weights": self.info_.sha256} | ({"lattice": "auto"} if self.lattice == "auto" else {})
