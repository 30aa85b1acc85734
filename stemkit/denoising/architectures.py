"""Denoisers by networks, which differ in the parameters of their architectures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stemkit.denoising.network import NetworkDenoiser

__all__ = ["AtomSegNetDenoiser", "FCNDenoiser", "SFINDenoiser"]


@dataclass(kw_only=True, eq=False, repr=False)
class SFINDenoiser(NetworkDenoiser):
    """Enhance images with the spatial-frequency interactive network.

    The shipped weights need no training: ``SFINDenoiser().fit_transform(image)``. ``fit`` trains the network only with
    ``fine_tune=True``, which starts from the weights, or with ``weights=None``: on pairs, where ``y`` contains true
    images; else it measures noise and spacing of the images and trains on synthetic pairs with the same noise and
    spacing.

    Parameters
    ----------
    weights : str, path or None, default="auto"
        ``"auto"`` are the shipped weights, a path is that of a stemkit ``.safetensors`` file or of a checkpoint of the
        authors; None starts from random weights.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Continue the training of the weights, on the pairs given to ``fit``, or on synthetic pairs with noise and
        spacing of the images. With False, weights are used as they are, whatever ``y`` is.
    n_channels, n_blocks, downsampling : int or None, default=None
        Architecture, see :class:`stemkit.networks.SFIN`. None takes that of the weights, or 32 channels, 4 blocks and
        downsampling 2, which two CPU cores train in minutes.
    lr : float, default=2e-3
        Highest learning rate.
    max_epochs : int, default=10
        Number of epochs. 0 leaves the network as it is.
    patience : int or None, default=None
        Stop after this number of consecutive epochs without improvement. The network is that of the epoch with the
        lowest loss on validation pairs: newly drawn ones where pairs are synthesised, one in ten where at least ten are
        given.
    batches_per_epoch : int, default=50
        Number of steps of an epoch.
    batch_size : int, default=8
        Number of crops in a step.
    crop_size : int, default=128
        Edge of the training crops, px.
    loss : {"l1", "l2"}, default="l1"
        Mean absolute or mean squared error, in units of the contrast.
    checkpoint : path or None, default=None
        Written after every epoch. Training resumes from an existing file, to the result of an uninterrupted run; remove
        the file to begin again.
    compile : bool, default=False
        Compile the network with torch for training on a GPU: this takes a minute at the start and makes steps faster.
    sampling : "auto" or float, default="auto"
        Grid on which the network is applied, in pixels per pixel of the image, in (0, 1]; the result is on the image's
        own grid, which is 1. ``"auto"`` uses a coarser grid for an image dominated by noise with columns at least 40 px
        apart, a finer one for an image with little noise and a smaller spacing than that of the training, and the
        image's own grid otherwise.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Data type of the network's activations. ``"auto"`` is bfloat16 where the CPU or GPU multiplies it fast, which
        changes the PSNR by less than 0.1 dB; results of different machines then differ by this amount. Only SFIN uses
        it.
    lattice : {"off", "auto"}, default="off"
        ``"auto"`` averages the enhanced image over the translations of its lattice where this agrees with the recorded
        pixels, and keeps the network's result elsewhere; see :doc:`/enhancing`. An image without a lattice, and the
        other maps, are not changed.
    tile_size : int, default=2048
        Larger images are enhanced in overlapping tiles of at most this size, px.
    average_flips : bool, default=False
        Average over the four mirror images, at four times the cost; their standard deviation is the coordinate
        ``uncertainty``.
    mode : {"haadf", "bf"} or None, default=None
        None takes the image's mode, or infers it where the image has none.
    device : str, default="auto"
        ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    random_state : int, RandomState or None, default=None
        Seed of the training; the same seed on the same device gives the same network.
    verbose : int, default=0
        1 shows a progress bar during training, and over the tiles of large images.

    Attributes
    ----------
    net_ : torch.nn.Module
        The network.
    info_ : NetworkInfo
        Architecture, outputs and range of spacings (px) of the network.
    history_ : pandas.DataFrame
        One row per epoch of training; empty without training.
    n_images_ : int
        Number of images passed to ``fit``.

    Raises
    ------
    ValueError, TypeError
        If X contains no images, a parameter is invalid, the weights are unknown, or the architecture differs from that
        of the weights.

    Notes
    -----
    The input is normalised by its mean and standard deviation in float64, and the result is converted back to the
    image's units. A DataArray has the recorded pixels as the coordinate ``recorded``, and the network's other maps as
    ``detect`` and ``superresolve``.

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

    _architecture = "sfin"
    # chosen: two CPU cores train it in minutes
    _shape_parameters: ClassVar = {
        "n_channels": ("n_channels", 32),
        "n_blocks": ("n_blocks", 4),
        "downsampling": ("downsampling", 2),
    }

    weights: str | Path | None = "auto"
    n_blocks: int | None = None
    downsampling: int | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class FCNDenoiser(NetworkDenoiser):
    """Enhance images with a plain fully convolutional network, for comparison with SFIN.

    It is trained like :class:`SFINDenoiser`, on given or on synthetic pairs.

    Parameters
    ----------
    weights : path or None, default=None
        File written by :func:`stemkit.denoising.save_weights`; none are shipped. None starts from random weights.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Continue the training of the weights, on the pairs given to ``fit``, or on synthetic pairs with noise and
        spacing of the images. With False, weights are used as they are, whatever ``y`` is.
    n_channels, n_layers : int or None, default=None
        Architecture, see :class:`stemkit.networks.FCN`. None takes that of the weights, or 64 channels and 17 layers.
    lr, max_epochs, patience, batches_per_epoch, batch_size, crop_size, loss, checkpoint, compile : optional
        Training, as in :class:`SFINDenoiser`.
    sampling, precision, lattice, tile_size, average_flips : optional
        Inference, as in :class:`SFINDenoiser`.
    mode : {"haadf", "bf"} or None, default=None
        None takes the image's mode, or infers it where the image has none.
    device : str, default="auto"
        As in :class:`SFINDenoiser`.
    random_state : int, RandomState or None, default=None
        Seed of the training.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    net_, info_, history_, n_images_
        As in :class:`SFINDenoiser`.

    References
    ----------
    .. [1] Li, Wu, Shao, Zhang, Fu, "Noise Calibration and Spatial-Frequency Interactive Network for STEM Image
       Enhancement", CVPR 2025, https://arxiv.org/abs/2504.02555

    Examples
    --------
    >>> from stemkit import FCNDenoiser, STEMSynthesizer
    >>> pairs = STEMSynthesizer(shape=(64, 64), random_state=1).sample(2)
    >>> denoiser = FCNDenoiser(n_layers=3, n_channels=8, max_epochs=1, batches_per_epoch=2, crop_size=32)
    >>> denoiser.fit(pairs["noisy"], pairs["enhance"]).transform(pairs["noisy"]).shape
    (2, 64, 64)
    """

    _architecture = "fcn"
    _shape_parameters: ClassVar = {"n_channels": ("n_channels", 64), "n_layers": ("n_blocks", 17)}

    n_layers: int | None = None


@dataclass(kw_only=True, eq=False, repr=False)
class AtomSegNetDenoiser(NetworkDenoiser):
    """Enhance images with AtomSegNet, a U-Net of three levels, for comparison with SFIN.

    It is trained like :class:`SFINDenoiser`, on given or on synthetic pairs.

    Parameters
    ----------
    weights : path or None, default=None
        File written by :func:`stemkit.denoising.save_weights`; none are shipped. None starts from random weights.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Continue the training of the weights, on the pairs given to ``fit``, or on synthetic pairs with noise and
        spacing of the images. With False, weights are used as they are, whatever ``y`` is.
    n_channels : int or None, default=None
        Architecture, see :class:`stemkit.networks.AtomSegNet`. None takes that of the weights, or 64 channels.
    lr, max_epochs, patience, batches_per_epoch, batch_size, crop_size, loss, checkpoint, compile : optional
        Training, as in :class:`SFINDenoiser`.
    sampling, precision, lattice, tile_size, average_flips : optional
        Inference, as in :class:`SFINDenoiser`.
    mode : {"haadf", "bf"} or None, default=None
        None takes the image's mode, or infers it where the image has none.
    device : str, default="auto"
        As in :class:`SFINDenoiser`.
    random_state : int, RandomState or None, default=None
        Seed of the training.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    net_, info_, history_, n_images_
        As in :class:`SFINDenoiser`.

    Notes
    -----
    The output range of the sigmoid is from 4 standard deviations of the image below its mean to 12 above it.

    References
    ----------
    .. [1] Lin, Zhang, Wang, Yang, Xin, Sci. Rep. 11, 5386 (2021), https://doi.org/10.1038/s41598-021-84499-w

    Examples
    --------
    >>> from stemkit import AtomSegNetDenoiser, STEMSynthesizer
    >>> pairs = STEMSynthesizer(shape=(64, 64), random_state=1).sample(2)
    >>> denoiser = AtomSegNetDenoiser(n_channels=8, max_epochs=1, batches_per_epoch=2, crop_size=32)
    >>> denoiser.fit(pairs["noisy"], pairs["enhance"]).transform(pairs["noisy"]).shape
    (2, 64, 64)
    """

    _architecture = "atomsegnet"
    _shape_parameters: ClassVar = {"n_channels": ("n_channels", 64)}
