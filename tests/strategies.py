"""What tests draw: shapes, pixel sizes, physics and seeds, never raw pixels; and the crystals they are drawn on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import xarray as xr
from hypothesis import strategies as st
from numpy.typing import NDArray

from stemkit import BackgroundNoise, Digitization, NoiseModel, PointwiseNoise, ScanNoise
from stemkit.columns import ColumnFits, fit_columns

#: Statistical tests fail at this many standard deviations of what they estimate.
SIGMAS = 5.0

seeds = st.integers(0, 2**32 - 1)
modes = st.sampled_from(["haadf", "bf"])
pixel_sizes = st.floats(0.002, 0.2)
amplitudes = st.floats(0.01, 0.5)
contrasts = st.floats(0.05, 5e4)
levels = st.floats(-1e4, 1e4)
#: Shapes whose fourth moment is finite and small enough for a variance to be measured.
tukey_shapes = st.floats(-0.1, 0.4)
correlations = st.floats(-0.4, 0.6)


def lengths(low: float = 1.0, high: float = 40.0) -> st.SearchStrategy[float]:
    """Sigma of a filter in px."""
    return st.floats(low, high)


def row_lengths(low: float = 1.0, high: float = 40.0) -> st.SearchStrategy[float]:
    """Length along a row, px: finite, or the whole row."""
    return st.just(math.inf) | lengths(low, high)


def shapes(low: int = 1, high: int = 40) -> st.SearchStrategy[tuple[int, int]]:
    """``(n_y, n_x)``."""
    return st.tuples(st.integers(low, high), st.integers(low, high))


def backgrounds() -> st.SearchStrategy[BackgroundNoise]:
    return st.builds(BackgroundNoise, amplitude=st.floats(0, 0.3), length=lengths())


def scans() -> st.SearchStrategy[ScanNoise]:
    return st.builds(
        ScanNoise,
        amplitude=st.floats(0, 0.3),
        length=row_lengths(),
        jitter=st.floats(0, 2),
        jitter_length=row_lengths(),
        jitter_y=st.just(0.0) | st.floats(0, 1),
    )


@st.composite
def pointwise(draw: st.DrawFn, mode: str = "haadf") -> PointwiseNoise:
    gain = draw(st.floats(0.001, 0.3)) * (-1 if mode == "bf" else 1)
    readout = draw(st.floats(0.01, 0.5))
    if draw(st.booleans()):
        return PointwiseNoise(readout, gain, kind="poisson")
    return PointwiseNoise(readout, gain, draw(tukey_shapes), draw(correlations))


@st.composite
def digitizations(draw: st.DrawFn) -> Digitization:
    low = draw(st.none() | st.floats(-1e3, 1e3))
    high = draw(st.none() | st.floats(1e3, 1e5, exclude_min=True))
    return Digitization(low, high, draw(st.none() | st.floats(1e-3, 1e3)))


@st.composite
def noise_models(draw: st.DrawFn, digitized: bool = True) -> NoiseModel:
    """Any noise model, with every part."""
    mode = draw(modes)
    return NoiseModel(
        draw(contrasts),
        draw(levels),
        mode,
        draw(backgrounds()),
        draw(scans()),
        draw(pointwise(mode)),
        draw(digitizations()) if digitized else Digitization(),
    )


def lattice_positions(
    shape: tuple[int, int],
    spacing: float,
    angle: float = 0.3,
    basis: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
) -> NDArray[np.float64]:
    """``(y, x)`` of a square lattice about the centre of the frame, within ``margin`` px of it."""
    reach = int(math.hypot(*shape) / spacing) + 2
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T + np.array(basis)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    positions = spacing * grid @ turn + (np.array(shape) - 1) / 2
    inside = ((positions > -margin) & (positions < np.array(shape) - 1 + margin)).all(axis=1)
    return positions[inside]


def gaussians(
    shape: tuple[int, int], positions: NDArray, sigma: float, amplitude: float | NDArray = 1.0
) -> NDArray[np.float64]:
    """Sum of round Gaussians at pixel centres."""
    along_y = np.exp(-0.5 * ((np.arange(shape[0]) - positions[:, :1]) / sigma) ** 2)
    along_x = np.exp(-0.5 * ((np.arange(shape[1]) - positions[:, 1:]) / sigma) ** 2)
    return (along_y * np.broadcast_to(amplitude, len(positions))[:, None]).T @ along_x


def crystal(
    shape: tuple[int, int] = (256, 256),
    spacing: float = 18.0,
    sigma: float = 3.0,
    angle: float = 0.3,
    second: float = 0.0,
) -> NDArray[np.float64]:
    """A square lattice of columns of height 1 on 0, with columns of another height in the middle of its cells."""
    image = gaussians(shape, lattice_positions(shape, spacing, angle, margin=4 * sigma), sigma)
    centers = lattice_positions(shape, spacing, angle, (0.5, 0.5), margin=4 * sigma)
    return image + gaussians(shape, centers, sigma, second)


def displacements(model: NoiseModel, shape: tuple[int, int], seed: int, axis: int = 1) -> NDArray[np.float64]:
    """Displacements of the beam along x (or y, axis 0), px, in ``model.apply(..., random_state=seed)``."""
    ramp = np.indices(shape)[axis].astype(float)
    # the random numbers before the displacements are drawn here, too, with an amplitude that is too small to matter
    background = replace(model.background, amplitude=min(model.background.amplitude, 1e-12))
    scan = replace(model.scan, amplitude=0.0)
    return NoiseModel(background=background, scan=scan).apply(ramp, random_state=seed) - ramp


def realised_background(model: NoiseModel, shape: tuple[int, int], seed: int) -> NDArray[np.float64]:
    """The background that the same call has drawn, over the contrast, columns bright."""
    return NoiseModel(background=model.background).apply(np.zeros(shape), random_state=seed)


def columns_of(shape: tuple[int, int], spacing: float = 18.0, sigma: float = 3.0) -> tuple[NDArray, ColumnFits]:
    """A crystal of whole columns, 1 on 0, and the fits that describe it exactly."""
    positions = lattice_positions(shape, spacing, margin=-2.5 * sigma)
    true_image = gaussians(shape, positions, sigma)
    return true_image, fit_columns(true_image, positions, sigma)


def labeled(values: NDArray, noise: NoiseModel) -> xr.DataArray:
    """An image that carries its noise model and mode, as after calibration."""
    attrs = {"mode": noise.mode, "noise": json.dumps({"pixel_size": None, **noise.to_dict()})}
    return xr.DataArray(values, dims=("y", "x"), attrs=attrs)


def error_of_std(n: int) -> float:
    """Relative tolerance of a standard deviation from n independent values."""
    return SIGMAS / math.sqrt(2 * n)
