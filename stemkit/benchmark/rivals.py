"""What other packages offer, behind our interface, where they are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.denoising.anscombe import Stabilised, image_of, signal_of
from stemkit.denoising.base import StatelessDenoiser
from stemkit.noise.resolve import resolve_noise

__all__ = ["BM3DDenoiser", "atomap_positions"]


class BM3DDenoiser(StatelessDenoiser):
    """Block matching and 3-D filtering, by its authors' package, which is free for non-commercial use alone.

    On noise that is made alike at every intensity, with its correlation along the row in the spectrum that the filter
    is given, and the authors' profile for strong noise above the level that they name. Where there are streaks, rows
    are levelled by what a first pass leaves of them.
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        if np.ptp(image.values) == 0:
            return {"enhance": image.values}
        model = resolve_noise(image, mode)
        counts = Stabilised.of(model)
        if counts.noise_free:
            return {"enhance": image.values}
        even = counts.forward(signal_of(image.values, model))
        contrast = float(np.ptp(counts.forward(np.array([0.0, 1.0]))))  # in deviations of the noise
        correlation = float(np.clip(model.pointwise.correlation_x, 0.0, 0.9))
        filtered = _bm3d(even, contrast, correlation)
        if model.scan.amplitude:
            rows = (even - filtered).clip(-OUTLYING, OUTLYING).mean(axis=1, keepdims=True)
            filtered = _bm3d(even - (rows - rows.mean()), contrast, correlation)
        return {"enhance": image_of(counts.inverse(filtered), model)}


#: A pixel says no more than this, in deviations of the noise, of its row's offset.
OUTLYING = 3.0
#: Noise above this part of the contrast is strong, for the authors of BM3D: 40 of 255 grey values.
STRONG = 40 / 255


def _bm3d(noisy: NDArray, contrast: float, correlation: float) -> NDArray:
    """BM3D of an image whose noise has a deviation of 1 and is correlated along the row, autoregressive."""
    import bm3d

    low = float(noisy.min())
    turns = np.exp(-2j * np.pi * np.fft.fftfreq(noisy.shape[1]))
    along = (1 - correlation**2) / np.abs(1 - correlation * turns) ** 2
    power = np.broadcast_to(along, noisy.shape) * (noisy.size / contrast**2)
    given = power if correlation else 1 / contrast
    profile = "vn" if 1 / contrast > STRONG else "np"
    with _trapz():
        filtered = bm3d.bm3d((noisy - low) / contrast, sigma_psd=given, profile=profile)
    return np.asarray(filtered, dtype=np.float64) * contrast + low


@contextmanager
def _trapz() -> Iterator[None]:
    """The name that BM3D 4.0 asks NumPy for where it is given a spectrum, and that NumPy 2.4 has dropped."""
    name = "trapz"
    if hasattr(np, name):
        yield
        return
    setattr(np, name, np.trapezoid)
    try:
        yield
    finally:
        delattr(np, name)


def atomap_positions(image: xr.DataArray, places: NDArray) -> NDArray:
    """Atomap's refinement from given places (y, x), px: centre of mass, then 2-D Gaussians, as its manual does."""
    from atomap.api import Sublattice

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sublattice = Sublattice(places[:, ::-1], image=image.values)
        sublattice.find_nearest_neighbors()
        sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        sublattice.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
    return np.column_stack([sublattice.y_position, sublattice.x_position])
