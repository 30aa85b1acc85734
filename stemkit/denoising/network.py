"""Denoisers that are networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stemkit.denoising.learnt import LearntDenoiser

__all__ = ["AtomSegNetDenoiser", "FCNDenoiser", "SFINDenoiser"]


class SFINDenoiser(LearntDenoiser):
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
    sampling : "auto" or float, default="auto"
        Grid on which the network is applied, in pixels per pixel of the image, in (0, 1]; the result is on the image's
        own grid. 1 is the image's own. ``"auto"`` takes an image that noise dominates and whose columns are at least
        40 px apart to a coarser grid, and one with little noise whose columns are nearer than those of the training to
        a finer one; all others keep their own.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Of the network's activations. ``"auto"`` takes bfloat16 where the CPU or GPU multiplies it fast, which changes
        the PSNR by less than 0.1 dB; results of different machines then differ by as much. Only SFIN uses it.
    lattice : {"off", "auto"}, default="off"
        ``"auto"`` averages the enhanced image over the translations of its lattice where the recorded pixels agree with
        that, and leaves the network's result where they do not; see :doc:`/enhancing`. An image without a lattice is
        not changed. The other maps are the network's.
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

    architecture = "sfin"
    # what two CPU cores train in minutes on one's own data
    shaped_by = (("width", "width", 32), ("n_blocks", "n_blocks", 4), ("downsampling", "downsampling", 2))

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
        sampling: float | str = "auto",
        precision: str = "auto",
        lattice: str = "off",
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
        self.precision = precision
        self.lattice = lattice
        self.tile_size = tile_size
        self.average_flips = average_flips
        self.mode = mode
        self.device = device
        self.random_state = random_state
        self.verbose = verbose


class FCNDenoiser(LearntDenoiser):
    """Enhance images with a plain fully convolutional network: what SFIN is compared with.

    Trained as :class:`SFINDenoiser` is, on pairs, or on pairs that are synthesised like the images.

    Parameters
    ----------
    weights : path or None, default=None
        A file that :func:`stemkit.denoising.save_weights` wrote; none ship. None starts from scratch.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Go on training the weights on pairs synthesised like the images given to ``fit``.
    n_layers, width : int or None, default=None
        Architecture, see :class:`stemkit.networks.FCN`. None takes the weights' own, else 17 and 64.
    lr, max_epochs, patience, batches_per_epoch, batch_size, crop_size, loss, checkpoint, compile : optional
        Training, as in :class:`SFINDenoiser`.
    sampling, precision, lattice, tile_size, average_flips : optional
        Inference, as in :class:`SFINDenoiser`.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.
    device : str, default="auto"
    random_state : int, RandomState or None, default=None
        Seed of the training.
    verbose : int, default=0

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
    >>> denoiser = FCNDenoiser(n_layers=3, width=8, max_epochs=1, batches_per_epoch=2, crop_size=32)
    >>> denoiser.fit(pairs["noisy"], pairs["enhance"]).transform(pairs["noisy"]).shape
    (2, 64, 64)
    """

    architecture = "fcn"
    shaped_by = (("n_layers", "n_blocks", 17), ("width", "width", 64))

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        target: str = "enhance",
        fine_tune: bool = False,
        n_layers: int | None = None,
        width: int | None = None,
        lr: float = 2e-3,
        max_epochs: int = 10,
        patience: int | None = None,
        batches_per_epoch: int = 50,
        batch_size: int = 8,
        crop_size: int = 128,
        loss: str = "l1",
        checkpoint: str | Path | None = None,
        compile: bool = False,
        sampling: float | str = "auto",
        precision: str = "auto",
        lattice: str = "off",
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
        self.n_layers = n_layers
        self.width = width
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
        self.precision = precision
        self.lattice = lattice
        self.tile_size = tile_size
        self.average_flips = average_flips
        self.mode = mode
        self.device = device
        self.random_state = random_state
        self.verbose = verbose


class AtomSegNetDenoiser(LearntDenoiser):
    """Enhance images with AtomSegNet, a U-Net of three levels: what SFIN is compared with.

    Trained as :class:`SFINDenoiser` is, on pairs, or on pairs that are synthesised like the images.

    Parameters
    ----------
    weights : path or None, default=None
        A file that :func:`stemkit.denoising.save_weights` wrote; none ship. None starts from scratch.
    target : {"enhance", "detect", "superresolve"}, default="enhance"
        The map that ``transform`` returns.
    fine_tune : bool, default=False
        Go on training the weights on pairs synthesised like the images given to ``fit``.
    width : int or None, default=None
        Architecture, see :class:`stemkit.networks.AtomSegNet`. None takes the weights' own, else 64.
    lr, max_epochs, patience, batches_per_epoch, batch_size, crop_size, loss, checkpoint, compile : optional
        Training, as in :class:`SFINDenoiser`.
    sampling, precision, lattice, tile_size, average_flips : optional
        Inference, as in :class:`SFINDenoiser`.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.
    device : str, default="auto"
    random_state : int, RandomState or None, default=None
        Seed of the training.
    verbose : int, default=0

    Attributes
    ----------
    net_, info_, history_, n_images_
        As in :class:`SFINDenoiser`.

    Notes
    -----
    The sigmoid spans 4 standard deviations of the image below its mean to 12 above it.

    References
    ----------
    .. [1] Lin, Zhang, Wang, Yang, Xin, Sci. Rep. 11, 5386 (2021), https://doi.org/10.1038/s41598-021-84499-w

    Examples
    --------
    >>> from stemkit import AtomSegNetDenoiser, STEMSynthesizer
    >>> pairs = STEMSynthesizer(shape=(64, 64), random_state=1).sample(2)
    >>> denoiser = AtomSegNetDenoiser(width=8, max_epochs=1, batches_per_epoch=2, crop_size=32)
    >>> denoiser.fit(pairs["noisy"], pairs["enhance"]).transform(pairs["noisy"]).shape
    (2, 64, 64)
    """

    architecture = "atomsegnet"
    shaped_by = (("width", "width", 64),)

    def __init__(
        self,
        *,
        weights: str | Path | None = None,
        target: str = "enhance",
        fine_tune: bool = False,
        width: int | None = None,
        lr: float = 2e-3,
        max_epochs: int = 10,
        patience: int | None = None,
        batches_per_epoch: int = 50,
        batch_size: int = 8,
        crop_size: int = 128,
        loss: str = "l1",
        checkpoint: str | Path | None = None,
        compile: bool = False,
        sampling: float | str = "auto",
        precision: str = "auto",
        lattice: str = "off",
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
        self.width = width
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
        self.precision = precision
        self.lattice = lattice
        self.tile_size = tile_size
        self.average_flips = average_flips
        self.mode = mode
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
