"""Pictures of the pages on series: ``python docs/images/series.py`` writes ``series.png`` and ``series_columns.png``.

A simulated particle in eight frames, which drifts and whose rows are displaced. All displacements are known.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from saving import save
from sklearn.pipeline import Pipeline

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, ScanNoise, SeriesAligner, SFINDenoiser
from stemkit.plotting import show_columns, show_image
from stemkit.series import draw_displacements, draw_series
from stemkit.synthesis import cropped, facets, lattice, planar_cell

#: Frames, their edge (px), and electrons per pixel at the brightest columns (chosen).
N_FRAMES, SIZE, DOSE = 8, 192, 8.0
#: Displacement along y and x per frame, px (chosen: more than half a cell).
DRIFT = (2.0, -5.0)
#: Edge of the part that is shown enlarged, px (chosen).
SHOWN = 64
DPI = 85


def main() -> None:
    frames, true = series()
    aligner = SeriesAligner().fit(frames)
    average = aligner.transform(frames)
    save(series_picture(frames, average, aligner, true), "series.png", DPI)
    # not with a palette, which has no room for the colours of a few circles
    columns = columns_picture(frames, average)
    columns.savefig(Path(__file__).with_name("series_columns.png"), dpi=DPI, bbox_inches="tight")


def series() -> tuple[xr.DataArray, NDArray]:
    """Frames, and the true displacements of their rows."""
    cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.5])
    columns = lattice(cell, (SIZE, SIZE), spacing=11.0, sigma=2.2, angle=8.0, margin=80.0)
    particle = cropped(columns, facets((SIZE / 2, SIZE / 2), 72.0, angle=10.0))
    scan = ScanNoise(jitter=0.5, jitter_y=0.2, drift=0.5, drift_y=0.4, drift_rows=12.0, hum=0.4, hum_period=7.3)
    true = draw_displacements(N_FRAMES, SIZE, scan=scan, drift=DRIFT, random_state=0)
    noise = NoiseModel(contrast=DOSE, level=2.0, pointwise=PointwiseNoise.counted(DOSE, background=2.0))
    frames = draw_series(particle, true, shape=(SIZE, SIZE), noise=noise, pixel_size=0.02, random_state=1)
    return frames.assign_attrs(mode="haadf"), true


def series_picture(frames: xr.DataArray, average: xr.DataArray, aligner: SeriesAligner, true: NDArray) -> plt.Figure:
    found = aligner.displacements_
    error = found - true
    error -= error.mean(axis=(0, 1))
    sys.stdout.write(f"RMS error of the rows: {np.sqrt((error**2).mean(axis=(0, 1))).round(2)} px along y and x\n")
    figure, axes = plt.subplots(2, 3, figsize=(10.5, 7.0), layout="constrained", height_ratios=(1.5, 1))
    show_image(frames[0], axes[0, 0], f"one of {N_FRAMES} frames")
    show_image(frames.mean("frame"), axes[0, 1], "mean without alignment")
    show_image(average, axes[0, 2], "average of the aligned frames")
    time = np.arange(found.shape[0] * found.shape[1]) / found.shape[1]
    for ax, axis, name in ((axes[1, 0], 0, "y"), (axes[1, 1], 1, "x")):
        ax.plot(time, true[:, :, axis].ravel(), color="0.7", lw=3, label="true")
        ax.plot(time, (found - (found - true).mean(axis=(0, 1)))[:, :, axis].ravel(), color="C0", lw=0.8, label="found")
        ax.set(xlabel="frame", ylabel="displacement (px)", title=f"drift along {name}")
    axes[1, 0].legend()
    for values, style, label in (
        (true, {"color": "0.7", "lw": 3}, "true"),
        (found, {"color": "C0", "lw": 0.8}, "found"),
    ):
        rows = values[N_FRAMES // 2, :, 1]
        axes[1, 2].plot(rows - np.polyval(np.polyfit(np.arange(SIZE), rows, 1), np.arange(SIZE)), **style, label=label)
    axes[1, 2].set(
        xlabel="row", ylabel="displacement along x (px)", title=f"rows of frame {N_FRAMES // 2}, without drift"
    )
    return figure


def columns_picture(frames: xr.DataArray, average: xr.DataArray) -> plt.Figure:
    pipeline = Pipeline([("noise", NoiseCalibrator()), ("denoise", SFINDenoiser()), ("atoms", AtomDetector())])
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.9), layout="constrained")
    for ax, image, name in (
        (axes[0], frames[N_FRAMES // 2], "one frame"),
        (axes[1], average, f"average of {N_FRAMES} frames"),
    ):
        columns = pipeline.fit_transform(image)
        center = [round(length / 2) for length in image.shape]
        part = {d: slice(c - SHOWN // 2, c + SHOWN // 2) for d, c in zip(("y", "x"), center, strict=True)}
        crop = image.isel(part)
        inside = columns[columns["y"].between(*edges(crop["y"])) & columns["x"].between(*edges(crop["x"]))]
        error = inside["x_err"].median() / float(image["x"][1] - image["x"][0])
        sys.stdout.write(f"{name}: median error along x {error:.2f} px\n")
        show_columns(crop, columns, ax, name)
    return figure


def edges(coordinate: xr.DataArray) -> tuple[float, float]:
    return float(coordinate.min()), float(coordinate.max())


if __name__ == "__main__":
    main()
