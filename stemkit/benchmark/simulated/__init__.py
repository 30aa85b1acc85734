"""Multislice images of five crystals: physics that stemkit's synthesis has no part in.

Made once by ``benchmarks/simulate_crystals.py`` with abTEM, frozen phonons included; each file holds one period of the
crystal, scanned just finely enough for its band limit.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

__all__ = ["SIMULATED", "made_by", "simulated"]

SIMULATED = ("gold_110", "gallium_nitride_11-20", "anatase_100", "tungsten_diselenide", "graphene_silicon")
SIGNALS = ("haadf", "abf", "bf")


def simulated(
    name: str, signal: str = "haadf", *, shape: tuple[int, int] = (256, 256), pixel_size: float = 0.01
) -> tuple[xr.DataArray, pd.DataFrame]:
    """A noise-free image of a crystal, repeated to fill the frame, and its true columns.

    Parameters
    ----------
    name : {"gold_110", "gallium_nitride_11-20", "anatase_100", "tungsten_diselenide", "graphene_silicon"}
    signal : {"haadf", "abf", "bf"}
    shape : (int, int)
    pixel_size : float
        nm.

    Returns
    -------
    image : DataArray
        Fractions of the beam, ``(y, x)``, float64; interpolated by its Fourier series, which is exact as long as the
        period has been scanned finely enough.
    columns : DataFrame
        ``y, x`` (nm), ``y_px, x_px`` and ``weight``, the sum of ``Z**1.7`` along the column.
    """
    if signal not in SIGNALS:
        raise ValueError(f"signal must be one of {', '.join(map(repr, SIGNALS))}, but is {signal!r}")
    if not pixel_size > 0:
        raise ValueError(f"pixel_size must be a positive number of nm, but is {pixel_size!r}")
    data = _load(name)
    period = data["period"]
    place = [np.arange(n) * pixel_size for n in shape]
    values = _interpolated(data[signal].astype(float), *(p / s for p, s in zip(place, period, strict=True)))
    coords = {d: xr.Variable(d, p, {"units": "nm"}) for d, p in zip(("y", "x"), place, strict=True)}
    mode = "haadf" if signal == "haadf" else "bf"
    image = xr.DataArray(values, dims=("y", "x"), coords=coords, attrs={"mode": mode})
    many = [np.arange(np.ceil((n * pixel_size) / s) + 1) for n, s in zip(shape, period, strict=True)]
    steps = np.stack(np.meshgrid(*many, indexing="ij"), axis=-1).reshape(-1, 1, 2) * period
    places = (data["columns"] + steps).reshape(-1, 2)
    inside = (places < (np.array(shape) - 0.5) * pixel_size).all(axis=1)
    table = pd.DataFrame(places[inside], columns=["y", "x"])
    table[["y_px", "x_px"]] = places[inside] / pixel_size
    table["weight"] = np.tile(data["weight"], len(steps))[inside]
    return image, table


def made_by(name: str) -> dict[str, Any]:
    """How a crystal was simulated: voltage, aperture, detector, phonons, versions."""
    return dict(json.loads(str(_load(name)["made"])))


def _load(name: str) -> dict[str, NDArray]:
    if name not in SIMULATED:
        raise ValueError(f"name must be one of {', '.join(map(repr, SIMULATED))}, but is {name!r}")
    with resources.as_file(resources.files(__package__) / f"{name}.npz") as path, np.load(path) as file:
        return dict(file)


def _interpolated(values: NDArray, y: NDArray, x: NDArray) -> NDArray[np.float64]:
    """The Fourier series of one period at places ``y`` and ``x``, in fractions of it."""
    n_y, n_x = values.shape
    series = np.fft.fft2(values) / values.size
    waves = [np.exp(2j * np.pi * np.outer(at, np.fft.fftfreq(n, 1 / n))) for at, n in ((y, n_y), (x, n_x))]
    return (waves[0] @ series @ waves[1].T).real
