"""What other packages offer, behind our interface, where they are installed."""

from __future__ import annotations

import warnings

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.denoising.anscombe import Stabilised, image_of, signal_of
from stemkit.denoising.base import Denoiser, Enhancer, noise_of

__all__ = ["BM3DDenoiser", "atomap_positions"]


class BM3DDenoiser(Denoiser):
    """Block matching and 3-D filtering, by its authors' package, which is free for non-commercial use alone.

    On noise that is made alike at every intensity, and rows whose medians are level: with streaks it does worse.
    """

    def __init__(self, *, mode: str | None = None):
        self.mode = mode

    def _enhancer(self) -> Enhancer:
        import bm3d

        def enhance(image: xr.DataArray, mode: str) -> dict[str, NDArray]:
            if np.ptp(image.values) == 0:
                return {"enhance": image.values}
            model = noise_of(image, mode)
            counts = Stabilised.of(model)
            even = counts.forward(signal_of(image.values, model))
            if model.scan.amplitude:
                rows = np.median(even, axis=1, keepdims=True)
                even = even - rows + np.median(rows)
            low, scale = float(even.min()), float(np.ptp(even)) or 1.0
            filtered = bm3d.bm3d((even - low) / scale, sigma_psd=1.0 / scale)
            return {"enhance": image_of(counts.inverse(filtered * scale + low), model)}

        return enhance


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
