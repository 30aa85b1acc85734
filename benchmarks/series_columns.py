"""Positions of columns in simulated series, measured on the average and in all frames together.

``python benchmarks/series_columns.py`` draws the series of ``benchmarks/series.py``, without a background that varies,
and compares errors with the Cramér-Rao bound of a single column for the number of frames that show it: with the true
displacements of the rows, where nothing but the noise of the pixels contributes, and with those that SeriesAligner
finds. The errors that the tables state are compared with the actual ones (pull, 1 if right): of the noise of the
pixels, and with the jitter of the mean of the frames in quadrature.

Frames show their displacements against each other, but not what they have in common, whose variance is 1 / n of that
of a frame. ``error/possible`` is over the root of the sum of both variances: the bound for the noise of the pixels, and
that of the common displacement over the height of a column. Columns after :class:`stemkit.RowAligner` show what of it a
lattice determines.
"""

from __future__ import annotations

import argparse
import copy
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import toeplitz
from scipy.spatial import cKDTree
from series import BORDER, LEVEL, SCAN, SCENES, SIGMA, SPACING, Case, bound, common_map, specimen

from stemkit import AtomDetector, NoiseCalibrator, NoiseModel, PointwiseNoise, RowAligner, ScanNoise
from stemkit.series import SeriesAligner, draw_displacements, draw_series, measure_series

#: nm per px.
PIXEL_SIZE = 0.02


def draw(kind: str, n_frames: int, dose: float, size: int, seed: int) -> Case:
    """A series that drifts by up to a cell per frame."""
    random = np.random.default_rng(seed)
    angle, speed = random.uniform(0, 2 * np.pi), random.uniform(0, SPACING)
    drift = speed * np.sin(angle), speed * np.cos(angle)
    moved = draw_displacements(n_frames, size, scan=SCAN, drift=drift, random_state=int(random.integers(2**31)))
    columns = specimen(kind, size, float(np.abs(moved).max()) + 40.0, seed)
    pointwise = PointwiseNoise.counted(dose, background=LEVEL * dose)
    noise = NoiseModel(dose, LEVEL * dose, scan=ScanNoise(amplitude=0.02, length=60.0), pointwise=pointwise)
    drawn = {"shape": (size, size), "pixel_size": PIXEL_SIZE, "random_state": int(random.integers(2**31))}
    silent = NoiseModel(dose, LEVEL * dose)
    true_image = draw_series(columns, moved, noise=silent, **drawn)
    return Case(columns, moved, draw_series(columns, moved, noise=noise, **drawn), true_image, noise)


def with_true_displacements(aligner: SeriesAligner, case: Case) -> SeriesAligner:
    """The same aligner with the true displacements on its grid."""
    known = copy.copy(aligner)
    offset = np.nanmean(aligner.displacements_ - case.displacements, axis=(0, 1))
    known.displacements_ = np.where(np.isnan(aligner.displacements_), np.nan, case.displacements + offset)
    return known


def common_displacement(n_frames: NDArray, n_rows: int) -> NDArray:
    """RMS (px) along y and x ``(n, 2)`` of what all frames are displaced by at a column, but for an affine map.

    A column's position is the mean over its rows, weighted by the information on it: the square of the slope.
    """
    rows = np.arange(n_rows)
    t = (rows - rows.mean()) / n_rows
    design = np.stack([np.ones(n_rows), t], axis=1)
    # an affine map of the image is not an error
    rest = np.eye(n_rows) - design @ np.linalg.pinv(design)
    middle = rows - n_rows // 2
    variances = []
    for axis in "yx":
        weight = np.exp(-((middle / SIGMA) ** 2)) * (middle**2 if axis == "y" else 1.0)
        weight = rest @ (weight / weight.sum())
        variances.append(weight @ toeplitz(SCAN.autocovariance(rows, axis)) @ weight)
    return np.sqrt(np.array(variances) / n_frames[:, None])


def measured(aligner: SeriesAligner, case: Case) -> dict[str, pd.DataFrame]:
    """Tables of the same columns by each method."""
    image = aligner.transform(case.frames)
    image = image.fillna(float(image.median()))
    detector = AtomDetector()
    average = detector.fit_transform(image)
    straight = RowAligner().fit_transform(image)
    return {
        "average": average,
        "average, rows aligned": detector.measure(NoiseCalibrator().fit_transform(straight), average),
        "all frames": measure_series(case.frames, average, aligner),
    }


def scores(tables: dict[str, pd.DataFrame], aligner: SeriesAligner, case: Case, shape: tuple[int, ...]) -> list[dict]:
    """Errors of the columns that are good in all tables, after an affine map to the true positions."""
    true = case.columns.places[0].numpy()[case.columns.present[0].numpy()]
    information = (np.diff(case.true_image.values, axis=2) ** 2).sum(2)
    weight = np.where(np.isfinite(aligner.displacements_[..., 0]), information, 0.0)
    terms, _ = common_map(aligner.displacements_, case.displacements, weight)
    first = tables["average"]
    places = first[["y_px", "x_px"]].to_numpy()
    distance, nearest = cKDTree(true).query(places + terms[0] + places[:, :1] * terms[1])
    good = (distance < SPACING / 4) & np.all((places > BORDER) & (places < np.array(shape) - 1 - BORDER), axis=1)
    for table in tables.values():
        good &= table["quality"].to_numpy() == 0
    n_frames = tables["all frames"]["n_frames"].to_numpy()[good]
    rows = []
    for name, table in tables.items():
        found = table[["y_px", "x_px"]].to_numpy()[good]
        design = np.column_stack([np.ones(len(found)), found])
        error = true[nearest[good]] - design @ np.linalg.lstsq(design, true[nearest[good]], rcond=None)[0]
        # six parameters of the map are fitted to two coordinates of each column
        error *= np.sqrt(2 * len(found) / max(2 * len(found) - 6, 1))
        stated = table[["y_px_err", "x_px_err"]].to_numpy()[good]
        jitter = table[["y_jitter", "x_jitter"]].to_numpy()[good] / PIXEL_SIZE
        lowest = bound(table["amplitude"].to_numpy()[good] / case.noise.contrast, case.noise.contrast, n_frames)
        possible = np.hypot(lowest[:, None], common_displacement(n_frames, shape[0]))
        rows.append(
            {
                "measured": name,
                "columns": len(found),
                "error px": rms(error),
                "error/bound": rms(error / lowest[:, None]),
                "error/possible": rms(error / possible),
                "stated/bound": rms(stated / lowest[:, None]),
                "pull": rms(error / stated),
                "with jitter": rms(error / np.hypot(stated, jitter)),
            }
        )
    return rows


def rms(values: NDArray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def one(kind: str, n_frames: int, dose: float, size: int, seed: int, denoiser: str | None) -> list[dict]:
    """Scores of one series."""
    case = draw(kind, n_frames, dose, size, seed)
    aligner = SeriesAligner(denoiser=denoiser).fit(case.frames)
    rows = []
    for displacements, used in {"true": with_true_displacements(aligner, case), "found": aligner}.items():
        for row in scores(measured(used, case), used, case, aligner.shape_):
            rows.append({"scene": kind, "frames": n_frames, "dose": dose, "displacements": displacements} | row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--frames", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--doses", type=float, nargs="+", default=[3.0, 10.0, 30.0])
    parser.add_argument("--scenes", nargs="*", choices=SCENES, default=["particle", "defect"])
    parser.add_argument("--series", type=int, default=2, help="series of each kind")
    parser.add_argument("--denoiser", default="none", choices=("auto", "none"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows: list[dict] = []
    for kind in arguments.scenes:
        for n in arguments.frames:
            for dose in arguments.doses:
                for k in range(arguments.series):
                    denoiser = None if arguments.denoiser == "none" else arguments.denoiser
                    try:
                        rows += one(kind, n, dose, arguments.size, 31 * k + 5, denoiser)
                    except ValueError as error:
                        print(f"{kind}, {n} frames, {dose:g} electrons, series {k}: {error}")
    table = pd.DataFrame(rows)
    keys = ["displacements", "measured"]
    numbers = ["error px", "error/bound", "error/possible", "stated/bound", "pull", "with jitter"]
    squares = table.assign(**{name: table[name] ** 2 for name in numbers})
    for group in (["frames", "dose"], []):
        by = squares.groupby(group + keys, sort=False)
        mean = np.sqrt(by[numbers].mean()).assign(columns=by["columns"].sum())
        print("\n" + mean.round(3).to_string())


if __name__ == "__main__":
    main()
