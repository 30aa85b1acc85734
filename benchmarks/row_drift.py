"""A slow drift of the rows that RowAligner leaves: ``python benchmarks/row_drift.py [--images N] [--drift-rows ROWS]``.

Rows are displaced along x by a drift of 1 px RMS, without jitter, at 30 electrons per pixel. The tables contain, for
straight square lattices and for images of the synthesizer, whose crystals are strained,

true, left, left about slope
    RMS of the true displacement, and of the measured less the true one, about the mean and about the straight line, px:
    a linear drift is not distinguished from shear.
bound
    RMS error about the straight line with known columns, drift and correlation length, px.
calibrated, rows
    RMS and correlation length of the drift that was calibrated, px and rows.

and the mean squares of what is true and of what is left, px squared, by the frequency in cycles per row.
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import fft

from stemkit import NoiseModel, PointwiseNoise, ScanNoise, STEMSynthesizer
from stemkit.noise.row_alignment import _crystal_shifts
from stemkit.noise.separation import separate_specimen
from stemkit.noise.shift_estimates import ShiftEstimates
from stemkit.noise.spectrum import drift_factor
from stemkit.synthesis import lattice, planar_cell

SIZE = 256
#: Limits of the bands of the frequency, cycles per row (chosen).
BANDS = (0.0, 0.01, 0.02, 0.03, 0.06, 0.5)
#: Nearest columns and angles of the straight lattices, px and degrees (chosen).
SPACINGS = (12.0, 15.0, 18.0, 21.0)
ANGLES = (8.0, 38.0)
COUNTED = PointwiseNoise.counted(30.0, background=6.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8, help="of each kind")
    parser.add_argument("--drift-rows", type=float, default=4.0, help="correlation length of the drift, rows")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name, images in (("straight", straight(arguments.images)), ("synthetic", synthetic(arguments.images))):
        found = [measured(true_image, arguments.drift_rows, seed) for seed, true_image in enumerate(images)]
        rows = pd.DataFrame([row for row, _ in found])
        bands = pd.DataFrame(
            np.mean([spectra for _, spectra in found], axis=0),
            ["true", "left"],
            [f"from {low:g}" for low in BANDS[:-1]],
        )
        print(f"\n{name}\n{rows.round(3).to_string()}\nmedians\n{rows.median().round(3).to_frame().T.to_string()}")
        print(bands.round(4).to_string(), flush=True)


def straight(n: int) -> Iterator[NDArray]:
    for i in range(n):
        spacing, angle = SPACINGS[i % len(SPACINGS)], ANGLES[i // len(SPACINGS) % len(ANGLES)]
        crystal = lattice(planar_cell("square"), (SIZE, SIZE), spacing=spacing, angle=angle)
        yield np.squeeze(np.asarray(STEMSynthesizer().record(crystal)["enhance"]))


def synthetic(n: int) -> Iterator[NDArray]:
    yield from STEMSynthesizer(noise=NoiseModel(pointwise=COUNTED), random_state=0).sample(n)["enhance"].values


def measured(true_image: NDArray, drift_rows: float, seed: int) -> tuple[dict[str, float], NDArray]:
    scan = ScanNoise(drift=1.0, drift_rows=drift_rows)
    image = np.asarray(NoiseModel(scan=scan, pointwise=COUNTED).apply(true_image, random_state=seed), dtype=float)
    # the same seed draws the same displacements
    ramp = np.indices(true_image.shape)[1].astype(float)
    true = np.asarray(NoiseModel(scan=scan).apply(ramp, random_state=seed) - ramp)[:, SIZE // 2]
    crystal = separate_specimen(image, most_columns=2**15).crystal
    shifts = np.zeros(SIZE) if crystal is None else _crystal_shifts(crystal)
    true = true - true.mean()
    left = shifts - shifts.mean() - true
    row = {"true": true.std(), "left": left.std(), "left about slope": about_slope(left).std()}
    if crystal is not None:
        parts = crystal.displacement_x.parts
        row |= {"bound": bound(crystal.estimates, drift_rows), "calibrated": parts.drift, "rows": parts.drift_rows}
    frequency = np.arange(SIZE) / (2 * SIZE)
    squares = np.stack([fft.dct(one, norm="ortho") ** 2 / SIZE for one in (true, left)])
    spectra = [squares[:, (low <= frequency) & (frequency < high)].sum(1) for low, high in itertools.pairwise(BANDS)]
    return row, np.stack(spectra, axis=1)


def bound(estimates: ShiftEstimates, drift_rows: float) -> float:
    """Posterior standard deviation of the rows about the straight line, px."""
    weight, factor = estimates.by_row(estimates.weight), drift_factor(SIZE, drift_rows)
    line = np.stack([np.ones(SIZE), np.linspace(-1, 1, SIZE)], axis=1)
    weighted = weight[:, None] * line
    information = np.diag(weight) - weighted @ np.linalg.solve(line.T @ weighted, weighted.T)
    covariance = np.linalg.inv(np.eye(factor.shape[1]) + factor.T @ information @ factor)
    left = about_slope(factor)
    return float(np.sqrt(np.trace(left @ covariance @ left.T) / SIZE))


def about_slope(values: NDArray) -> NDArray[np.float64]:
    """Values along the first axis without their straight line."""
    line = np.stack([np.ones(SIZE), np.linspace(-1, 1, SIZE)], axis=1)
    return np.asarray(values - line @ np.linalg.pinv(line) @ values)


if __name__ == "__main__":
    main()
