"""Multislice images of five crystals, independent of stemkit's synthesis.

They were computed once with abTEM, including frozen phonons, by ``benchmarks/simulate_crystals.py``. Each file contains
one period of the crystal, sampled at the band limit.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.parameters import check_option, check_positive

__all__ = ["SIMULATED", "simulated", "simulation_parameters"]

#: Names of the simulated crystals.
SIMULATED = ("gold_110", "gallium_nitride_11-20", "anatase_100", "tungsten_diselenide", "graphene_silicon")
#: Signals that were simulated.
SIGNALS = ("haadf", "abf", "bf")


def simulated(
    name: str, signal: str = "haadf", *, shape: tuple[int, int] = (256, 256), pixel_size: float = 0.01
) -> tuple[xr.DataArray, pd.DataFrame]:
    """The image of a crystal without noise, repeated to fill the shape, with its true columns.

    Parameters
    ----------
    name : {"gold_110", "gallium_nitride_11-20", "anatase_100", "tungsten_diselenide", "graphene_silicon"}
    signal : {"haadf", "abf", "bf"}
    shape : (int, int)
    pixel_size : float
        Edge of a pixel, nm.

    Returns
    -------
    image : DataArray
        Fractions of the beam, ``(y, x)``, float64; interpolated by its Fourier series, which is exact since the period
        is sampled at the band limit.
    columns : DataFrame
        ``y, x`` (nm), ``y_px, x_px`` and ``weight``, the sum of ``Z**1.7`` along the column.

    Raises
    ------
    ValueError
        If the name or the signal is unknown, or the pixel size is not positive.
    """
    check_option("signal", signal, SIGNALS)
    check_positive("pixel_size", pixel_size, unit="nm")
    data = _load(name)
    period = data["period"]
    grid = [np.arange(n) * pixel_size for n in shape]
    values = _interpolated(data[signal].astype(float), *(p / s for p, s in zip(grid, period, strict=True)))
    coords = {d: xr.Variable(d, p, {"units": "nm"}) for d, p in zip(("y", "x"), grid, strict=True)}
    mode = "haadf" if signal == "haadf" else "bf"
    image = xr.DataArray(values, dims=("y", "x"), coords=coords, attrs={"mode": mode})
    repeats = [np.arange(np.ceil((n * pixel_size) / s) + 1) for n, s in zip(shape, period, strict=True)]
    steps = np.stack(np.meshgrid(*repeats, indexing="ij"), axis=-1).reshape(-1, 1, 2) * period
    positions = (data["columns"] + steps).reshape(-1, 2)
    inside = (positions < (np.array(shape) - 0.5) * pixel_size).all(axis=1)
    table = pd.DataFrame(positions[inside], columns=["y", "x"])
    table[["y_px", "x_px"]] = positions[inside] / pixel_size
    table["weight"] = np.tile(data["weight"], len(steps))[inside]
    return image, table


def simulation_parameters(name: str) -> dict[str, Any]:
    """Parameters of the simulation of a crystal: voltage, aperture, detector, phonons, versions."""
    return dict(json.loads(str(_load(name)["made"])))


def _load(name: str) -> dict[str, NDArray]:
    check_option("name", name, SIMULATED)
    with resources.as_file(resources.files(__package__) / f"{name}.npz") as path, np.load(path) as file:
        return dict(file)


def _interpolated(values: NDArray, y: NDArray, x: NDArray) -> NDArray[np.float64]:
    """The Fourier series of one period at ``y`` and ``x``, in fractions of the period."""
    n_y, n_x = values.shape
    series = np.fft.fft2(values) / values.size
    waves = [np.exp(2j * np.pi * np.outer(at, np.fft.fftfreq(n, 1 / n))) for at, n in ((y, n_y), (x, n_x))]
    return (waves[0] @ series @ waves[1].T).real
