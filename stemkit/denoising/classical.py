"""Classical denoisers: spectral filters and non-local means."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage
from skimage.restoration import denoise_nl_means

from stemkit.denoising.anscombe import StabilizedCounts, image_of, signal_of
from stemkit.denoising.base import StatelessDenoiser
from stemkit.denoising.spectral import periodic_part, radial_background
from stemkit.noise.resolve import resolve_noise
from stemkit.parameters import check_integer, check_number, check_positive

__all__ = ["ABSFDenoiser", "NLMDenoiser", "WienerDenoiser"]


class SpectralDenoiser(StatelessDenoiser):
    """Multiplication of each frequency by a weight, a function of its power and of the radial background."""

    def __init__(self, *, smoothing: float = 1.0, mode: str | None = None):
        self.smoothing = smoothing
        self.mode = mode

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_number("smoothing", self.smoothing, 0)

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        values = image.values.astype(np.float64)
        if min(values.shape) < 2 or np.ptp(values) == 0:
            return {"enhance": values}
        spectrum, rest = periodic_part(values)
        power = np.abs(spectrum) ** 2
        background = radial_background(power, values.shape)
        power[0, 0] = background[0, 0]  # the image's sum must not be averaged into its neighbours
        # rfft2 has both halves of the frequencies along y, but one half along x
        local = ndimage.gaussian_filter(power, self.smoothing, mode=("wrap", "mirror")) if self.smoothing else power
        weight = self._weight(np.maximum(local, np.finfo(float).tiny), background)
        weight[0, 0] = 1.0
        return {"enhance": fft.irfft2(weight * spectrum, s=values.shape, workers=-1) + rest}

    @staticmethod
    def _weight(power: NDArray, background: NDArray) -> NDArray:
        raise NotImplementedError


class WienerDenoiser(SpectralDenoiser):
    """Kilaas's Wiener filter: each frequency is weighted by its fraction of signal power, ``(P - B) / P``.

    Parameters
    ----------
    smoothing : float, default=1.0
        Standard deviation, in frequency pixels, of the Gaussian filter that smooths the image's power P; with 0 it is
        not smoothed, as published.
    mode : {"haadf", "bf"} or None, default=None
        Mode recorded in the result; the filter is the same for both. None takes it from the image.

    Notes
    -----
    The background's power B is the isotropic power of amorphous material and noise. It is the median of the power in
    rings, on which Bragg peaks have little influence, divided by ln 2, the median of an exponential distribution with
    mean 1. Differences between opposite borders are excluded from the spectrum [2]_. Streaks are not isotropic and are
    not removed.

    References
    ----------
    .. [1] Kilaas, "Optimal and near-optimal filters in high-resolution electron microscopy", J. Microsc. 190, 45
       (1998), https://doi.org/10.1046/j.1365-2818.1998.3070861.x
    .. [2] Moisan, "Periodic plus smooth image decomposition", J. Math. Imaging Vis. 39, 161 (2011),
       https://doi.org/10.1007/s10851-010-0227-1

    Examples
    --------
    >>> from stemkit import STEMSynthesizer, WienerDenoiser
    >>> from stemkit.metrics import psnr
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=12.0)
    >>> pairs = STEMSynthesizer(random_state=1).record(crystal)
    >>> enhanced = WienerDenoiser().fit_transform(pairs["noisy"])
    >>> psnr(enhanced, pairs["enhance"]) > psnr(pairs["noisy"], pairs["enhance"])
    True
    """

    @staticmethod
    def _weight(power: NDArray, background: NDArray) -> NDArray:
        return np.maximum(power - background, 0.0) / power


class ABSFDenoiser(SpectralDenoiser):
    """Kilaas's average background subtraction filter: each frequency is weighted by ``(|F| - sqrt(B)) / |F|``.

    Parameters
    ----------
    smoothing : float, default=1.0
        As in :class:`WienerDenoiser`, which differs in the weights only.
    mode : {"haadf", "bf"} or None, default=None
        As in :class:`WienerDenoiser`.

    References
    ----------
    .. [1] Kilaas, "Optimal and near-optimal filters in high-resolution electron microscopy", J. Microsc. 190, 45
       (1998), https://doi.org/10.1046/j.1365-2818.1998.3070861.x

    Examples
    --------
    >>> from stemkit import ABSFDenoiser, STEMSynthesizer
    >>> from stemkit.metrics import psnr
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=12.0)
    >>> pairs = STEMSynthesizer(random_state=1).record(crystal)
    >>> enhanced = ABSFDenoiser().fit_transform(pairs["noisy"])
    >>> psnr(enhanced, pairs["enhance"]) > psnr(pairs["noisy"], pairs["enhance"])
    True
    """

    @staticmethod
    def _weight(power: NDArray, background: NDArray) -> NDArray:
        return np.maximum(1.0 - np.sqrt(background / power), 0.0)


class NLMDenoiser(StatelessDenoiser):
    """Non-local means (scikit-image) after variance stabilisation.

    Parameters
    ----------
    strength : float, default=0.7
        Cut-off ``h`` of the distance between patches, in standard deviations of the noise.
    patch_size : int, default=7
        Edge of the patches that are compared, px.
    patch_distance : int, default=11
        Largest distance at which patches are searched, px.
    mode : {"haadf", "bf"} or None, default=None
        None takes the image's mode, or infers it where the image has none.

    Notes
    -----
    The noise model is taken from ``attrs["noise"]``, see :class:`~stemkit.NoiseCalibrator`; without it, the noise is
    calibrated.

    References
    ----------
    .. [1] Buades, Coll, Morel, "A non-local algorithm for image denoising", CVPR 2005,
       https://doi.org/10.1109/CVPR.2005.38

    Examples
    --------
    >>> from stemkit import NLMDenoiser, STEMSynthesizer
    >>> from stemkit.metrics import psnr
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=12.0)
    >>> pairs = STEMSynthesizer(random_state=1).record(crystal)
    >>> enhanced = NLMDenoiser().fit_transform(pairs["noisy"])
    >>> psnr(enhanced, pairs["enhance"]) > psnr(pairs["noisy"], pairs["enhance"])
    True
    """

    def __init__(
        self, *, strength: float = 0.7, patch_size: int = 7, patch_distance: int = 11, mode: str | None = None
    ):
        self.strength = strength
        self.patch_size = patch_size
        self.patch_distance = patch_distance
        self.mode = mode

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_positive("strength", self.strength)
        check_integer("patch_size", self.patch_size)
        check_integer("patch_distance", self.patch_distance)

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        if min(image.shape) < self.patch_size or np.ptp(image.values) == 0:
            return {"enhance": image.values}
        model = resolve_noise(image, mode)
        transform = StabilizedCounts.from_noise_model(model)
        if transform.noise_free:
            return {"enhance": image.values}
        denoised = denoise_nl_means(
            transform.forward(signal_of(image.values, model)),
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.strength,
            sigma=1.0,
            fast_mode=True,
        )
        return {"enhance": image_of(transform.inverse(denoised), model)}
