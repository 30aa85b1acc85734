"""Conversion of drawn images to the microscope's units, and the table of true columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import xarray as xr

from stemkit.images.mode import mode_sign
from stemkit.synthesis.arrangements.columns import Defect
from stemkit.synthesis.batches import Batch

__all__ = ["SCALES", "Units", "pairs_of", "true_columns"]

#: Contrast and level of a normalised detector, without a noise model (chosen).
SCALES = {"haadf": (1.0, 0.1), "bf": (0.5, 1.0)}


@dataclass(frozen=True)
class Units:
    """Units of an image: contrast, level, and pixel size in nm or None."""

    mode: str
    contrast: float
    level: float
    pixel_size: float | None


def pairs_of(batches: Sequence[Batch], units: Units) -> xr.Dataset:
    """``noisy``, ``enhance``, ``detect`` and ``superresolve``, ``(image, y, x)``, float32."""
    signed = units.contrast * mode_sign(units.mode)

    def stacked(name: str, scale: float, level: float) -> xr.DataArray:
        parts = [b.noisy if name == "noisy" else getattr(b.targets, name) for b in batches]
        values = (level + scale * torch.cat(parts)).float().numpy()
        return xr.DataArray(values, dims=("image", "y", "x"), attrs={"mode": units.mode})

    maps = {
        "noisy": stacked("noisy", signed, units.level),
        "enhance": stacked("enhance", signed, units.level),
        "detect": stacked("detect", 1.0, 0.0),
        "superresolve": stacked("superresolve", signed, 0.0),
    }
    coords = {}
    if units.pixel_size is not None:
        for axis, n in zip(("y", "x"), batches[0].noisy.shape[1:], strict=True):
            coords[axis] = xr.Variable(axis, np.arange(n) * units.pixel_size, {"units": "nm"})
    coords["arrangement"] = xr.Variable("image", [name for batch in batches for name in batch.names])
    return xr.Dataset(maps, coords=coords, attrs={"mode": units.mode})


def true_columns(batches: Sequence[Batch], units: Units) -> pd.DataFrame:
    """Columns inside the image, images numbered from 0; names and units are those of the detector's table."""
    tables, first = [], 0
    for batch in batches:
        tables.append(_columns(batch, first, units))
        first += len(batch.noisy)
    return pd.concat(tables, ignore_index=True)


def _columns(batch: Batch, first: int, units: Units) -> pd.DataFrame:
    columns, size = batch.columns, units.pixel_size or 1.0
    n_y, n_x = batch.noisy.shape[1:]
    inside = columns.present & (columns.y >= -0.5) & (columns.y < n_y - 0.5)
    inside &= (columns.x >= -0.5) & (columns.x < n_x - 0.5)
    image = torch.arange(len(columns))[:, None].expand_as(columns.y) + first
    y, x, amplitude, sigma = (
        t[inside].double().numpy() for t in (columns.y, columns.x, columns.amplitude, columns.sigma)
    )
    return pd.DataFrame(
        {
            "image": image[inside].numpy(),
            "y": y * size,
            "x": x * size,
            "y_px": y,
            "x_px": x,
            "amplitude": amplitude * abs(units.contrast),
            "sigma": sigma * size,
            "species": columns.species[inside].numpy(),
            "defect": [Defect(d).name.lower() for d in columns.defect[inside].tolist()],
        }
    )
