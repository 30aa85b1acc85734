"""Methods of other packages with stemkit's interface, if these packages are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.denoising.anscombe import StabilizedCounts, image_of, signal_of
from stemkit.denoising.base import StatelessDenoiser
from stemkit.noise.model import NoiseModel
from stemkit.noise.resolve import resolve_noise

__all__ = ["BM3DDenoiser", "atomap_positions"]

#: A residual is clipped to this many standard deviations of the noise before the mean of its row is taken (chosen).
MAX_RESIDUAL = 3.0
#: Standard deviation of the noise, as a fraction of the contrast, above which the authors of BM3D recommend the profile
#: for strong noise: 40 of 255 grey values.
STRONG_NOISE_STD = 40 / 255
#: Largest correlation of neighbouring pixels that is passed on (chosen): the spectrum diverges at 1.
MAX_CORRELATION = 0.9


class BM3DDenoiser(StatelessDenoiser):
    """Block matching and 3-D filtering, by the package of its authors, which is free for non-commercial use only.

    The noise is stabilised, and its correlation along the row is passed to the filter as a power spectrum. The profile
    for strong noise is used above the level that the authors recommend. If the noise has streaks, the mean residual of
    each row in a first pass is subtracted before a second pass.

    Parameters
    ----------
    mode : {"haadf", "bf"}, optional
        Default: that of the image.
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        return {"enhance": _denoised(image.values, resolve_noise(image, mode))}


def _denoised(values: NDArray, model: NoiseModel) -> NDArray:
    if np.ptp(values) == 0:
        return values
    stabilized = StabilizedCounts.from_noise_model(model)
    if stabilized.noise_free:
        return values
    noisy = stabilized.forward(signal_of(values, model))
    contrast = float(np.ptp(stabilized.forward(np.array([0.0, 1.0]))))  # in standard deviations of the noise
    correlation = float(np.clip(model.pointwise.correlation_x, 0.0, MAX_CORRELATION))
    filtered = _bm3d(noisy, contrast, correlation)
    if model.scan.amplitude:
        rows = (noisy - filtered).clip(-MAX_RESIDUAL, MAX_RESIDUAL).mean(axis=1, keepdims=True)
        filtered = _bm3d(noisy - (rows - rows.mean()), contrast, correlation)
    return image_of(stabilized.inverse(filtered), model)


def _bm3d(noisy: NDArray, contrast: float, correlation: float) -> NDArray:
    """BM3D of an image with noise of standard deviation 1, autoregressive along the row."""
    import bm3d

    low = float(noisy.min())
    phase = np.exp(-2j * np.pi * np.fft.fftfreq(noisy.shape[1]))
    along_row = (1 - correlation**2) / np.abs(1 - correlation * phase) ** 2
    power = np.broadcast_to(along_row, noisy.shape) * (noisy.size / contrast**2)
    sigma_psd = power if correlation else 1 / contrast
    profile = "vn" if 1 / contrast > STRONG_NOISE_STD else "np"
    with _numpy_trapz():
        filtered = bm3d.bm3d((noisy - low) / contrast, sigma_psd=sigma_psd, profile=profile)
    return np.asarray(filtered, dtype=np.float64) * contrast + low


@contextmanager
def _numpy_trapz() -> Iterator[None]:
    """Restore ``numpy.trapz``, which NumPy 2.4 removed and BM3D 4.0 calls if it is given a spectrum."""
    name = "trapz"
    if hasattr(np, name):
        yield
        return
    setattr(np, name, np.trapezoid)
    try:
        yield
    finally:
        delattr(np, name)


def atomap_positions(image: xr.DataArray, positions: NDArray) -> NDArray:
    """Refine positions with Atomap: centre of mass, then 2-D Gaussians, as in its manual.

    Parameters
    ----------
    image : DataArray of shape (n_y, n_x)
    positions : ndarray of shape (n, 2)
        First positions (y, x), px.

    Returns
    -------
    ndarray of shape (n, 2)
    """
    from atomap.api import Sublattice

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sublattice = Sublattice(positions[:, ::-1], image=image.values)
        sublattice.find_nearest_neighbors()
        sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        sublattice.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
    return np.column_stack([sublattice.y_position, sublattice.x_position])
