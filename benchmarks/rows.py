"""Accuracy of RowAligner: ``python benchmarks/rows.py [FOLDER] [--figures DIR] [--csv FILE]``.

Simulated crystals come from plain NumPy that shares no code with the package; whole rows of them are displaced, and
electrons counted, over a background of a fifth of the contrast. In images of even seeds rows of columns are parallel to
the scan lines within 3 degrees, as is usual in microscopy; in the others the crystal is rotated at random. RowAligner
is compared with no alignment and with two usual methods (the baselines): each row is correlated with the mean of its
neighbours, in rounds; or each row is correlated with the previous one, displacements are summed up, and the straight
line through them is subtracted. The tables contain

rows
    RMS of measured less true displacement, about its mean, px; of all rows, and of those that cross a column (within
    1.5 sigma of its centre).
columns
    RMS displacement along x of the columns after alignment, rows weighted with ``exp(-(y - y_c)^2 / sigma^2)``; pm at
    0.01 nm per pixel. Without jitter it is the error that alignment has caused.
slope
    Regression of the measured displacement of the columns on the true one of a strained, sheared or faulted crystal:
    1 keeps it, 0 has removed it. A wave along y displaces rows of columns together, like jitter.

FOLDER contains recorded micrographs, of which the middle is used. Their columns form a lattice: the spread of x is that
of second differences along lattice vectors that cross rows, over sqrt(1.5), which is the standard deviation of
independent errors, for the same columns before and after alignment; along vectors within the rows it is not affected by
jitter of whole rows. RowAligner makes the former small by construction; for the cross-validated one ("crossed"), each
half of the width is aligned by the displacements measured on the other half, which has independent noise.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import joblib
import matplotlib
import numpy as np
import pandas as pd
import plain_scenes as plain
import scipy
import torch
import xarray as xr
from numpy.typing import NDArray
from plain_scenes import Columns, Noise
from scipy import ndimage
from scipy.spatial import cKDTree
from tqdm import tqdm

import stemkit
from stemkit import NoiseCalibrator, RowAligner
from stemkit.columns import fit_columns
from stemkit.images.mode import mode_sign, resolve_mode
from stemkit.noise.separation import separate_specimen
from stemkit.pixels import filled

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, NOTHING = "stemkit", "nothing"
DOSES = (3.0, 10.0, 30.0, 100.0)
JITTERS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)
#: Pixel size, pm (chosen).
PM = 10.0
#: Electrons of the background, as a fraction of the contrast (chosen).
DARK = 0.2
#: Largest angle between rows of columns and scan lines in images of even seeds (chosen).
ALIGNED = np.radians(3)
#: Rows within this many sigmas of a column's centre cross it (chosen).
CROSSES = 1.5
#: Largest displacement that the baselines find, px (chosen).
FARTHEST = 8
#: Neighbouring rows on either side whose mean a row is correlated with (chosen).
N_NEIGHBORS = 2
#: Rounds of that correlation (chosen).
N_ROUNDS = 4
#: A column is a neighbour within this fraction of a lattice vector (chosen).
NEAR = 0.25
#: Side of the crops in the figures, px (chosen).
CROP = 120

Shifts = Callable[[NDArray], NDArray]


class Scene(NamedTuple):
    """Columns, and their displacements along x from the perfect lattice, px."""

    columns: Columns
    moved: NDArray


@dataclass(frozen=True)
class Case:
    crystal: str
    dose: float
    jitter: float
    seed: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="recorded micrographs")
    parser.add_argument("--figures", type=Path, help="folder for figures of the recorded micrographs")
    parser.add_argument(
        "--csv", type=Path, help="file for the simulated table; that of the micrographs is NAME-real.csv"
    )
    parser.add_argument("--seeds", type=int, default=2, help="images of each crystal, dose and jitter; 0: none")
    parser.add_argument("--size", type=int, default=256, help="of the simulated images")
    parser.add_argument("--length", type=float, default=np.inf, help="of the jitter along the row, px")
    parser.add_argument("--drift", type=float, default=0.0, help="RMS of the drift over that of the jitter")
    parser.add_argument("--drift-rows", type=float, default=4.0, help="correlation length of the drift, rows")
    parser.add_argument("--hum", type=float, default=0.0, help="amplitude of the hum over the RMS of the jitter")
    parser.add_argument("--hum-period", type=float, default=7.3, help="rows")
    parser.add_argument("--jitters", type=float, nargs="+", default=JITTERS, help="RMS of the jitter, px")
    parser.add_argument(
        "--part", type=int, default=512, help="side of the middle part of recorded images that is used, px"
    )
    parser.add_argument("--jobs", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    versions = {m.__name__: m.__version__ for m in (stemkit, np, scipy, torch)}
    print(platform.processor() or platform.machine(), *(f"{k} {v}" for k, v in versions.items()), sep=", ")
    print(f"seeds {list(range(arguments.seeds))}: {' '.join(sys.argv)}")
    if arguments.seeds:
        table = simulated(arguments)
        report(table)
        if arguments.csv:
            table.to_csv(arguments.csv, index=False)
    if arguments.folder:
        table = recorded(arguments.folder, arguments.part, arguments.figures)
        print("\n" + table.round(3).to_string(index=False, na_rep="-"))
        print("jitter: by NoiseCalibrator, px; spreads of x: px; seconds: of RowAligner")
        if arguments.csv:
            table.to_csv(arguments.csv.with_name(f"{arguments.csv.stem}-real.csv"), index=False)


# --- crystals ----------------------------------------------------------------------------------------------------


def wave(amplitude: float, length: float) -> Callable[..., NDArray]:
    """Displacement along x that is a wave along y."""

    def moved(y: NDArray, spacing: float, size: int, rng: np.random.Generator) -> NDArray:
        return amplitude * np.sin(2 * np.pi * (y / length + rng.uniform()))

    return moved


def shear(y: NDArray, spacing: float, size: int, rng: np.random.Generator) -> NDArray:
    return rng.choice([-1, 1]) * 0.04 * (y - size / 2)


def fault(y: NDArray, spacing: float, size: int, rng: np.random.Generator) -> NDArray:
    return 0.3 * spacing * (y > rng.uniform(1 / 3, 2 / 3) * size)


def straight(y: NDArray, spacing: float, size: int, rng: np.random.Generator) -> NDArray:
    return np.zeros_like(y)


#: The kind of crystal, and how its columns are moved along x.
CRYSTALS = {
    "square": ("square", straight),
    "perovskite": ("perovskite", straight),
    "hexagonal": ("hexagonal", straight),
    "dumbbell": ("dumbbell", straight),
    "strained": ("perovskite", wave(0.5, 300.0)),  # from crest to trough in 150 px
    "bent": ("square", wave(0.5, 150.0)),
    "sheared": ("square", shear),
    "faulted": ("square", fault),
}
MOVED = ("strained", "bent", "sheared", "faulted")


def build(crystal: str, size: int, *, turned: bool, rng: np.random.Generator) -> Scene:
    kind, moved_by = CRYSTALS[crystal]
    spacings, widths = plain.CRYSTALS[kind]
    spacing = rng.uniform(*spacings)
    sigma = spacing * rng.uniform(*widths)
    angle = rng.uniform(0, 2 * np.pi) if turned else rng.uniform(-ALIGNED, ALIGNED) + rng.choice(4) * np.pi / 2
    sites, amplitude = lattice(kind, size, spacing, angle, rng)
    near = (abs(sites - size / 2) < size / 2 + plain.REACH * sigma + 20).all(axis=1)
    y, x = sites[near].T + rng.normal(0, 0.05, (2, near.sum()))
    amplitude = amplitude[near] * (1 + rng.normal(0, 0.03, near.sum()))
    moved = moved_by(y, spacing, size, rng)
    return Scene(Columns(y, x + moved, amplitude, float(sigma)), moved)


def lattice(kind: str, size: int, spacing: float, angle: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Sites (y, x) of a turned crystal that covers the image, and their heights."""
    basis, motif = plain.unit_cell(kind, rng)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = int(np.ceil(1.3 * np.sqrt(2) * size / spacing)) + 8
    steps = np.stack(np.meshgrid(*2 * [np.arange(-reach, reach + 1)], indexing="ij"), axis=-1).reshape(-1, 2)
    origin = rng.uniform(0, 1, 2)
    sites = np.concatenate([(steps + origin + offset) @ basis * spacing @ turn.T + size / 2 for offset, _ in motif])
    return sites, np.repeat([height for _, height in motif], len(steps))


# --- methods -----------------------------------------------------------------------------------------------------


def by_stemkit(values: NDArray) -> NDArray:
    image = xr.DataArray(values, dims=("y", "x"), attrs={"mode": "haadf"})
    return RowAligner().fit(image).shifts_[0]


def by_neighbors(values: NDArray) -> NDArray:
    """Each row correlated with the mean of its neighbours, aligned in the previous rounds."""
    kernel = np.ones(2 * N_NEIGHBORS + 1)
    kernel[N_NEIGHBORS] = 0
    shifts = np.zeros(len(values))
    for _ in range(N_ROUNDS):
        rows = shifted_back(values, shifts)
        shifts = shifts + correlated(rows, ndimage.correlate1d(rows, kernel, axis=0, mode="nearest"))
    return shifts


def by_previous(values: NDArray) -> NDArray:
    """Each row correlated with the previous one; a straight line through the sum is drift, or a rotated crystal."""
    shifts = np.r_[0, np.cumsum(correlated(values[1:], values[:-1]))]
    row = np.arange(len(shifts))
    return shifts - np.polyval(np.polyfit(row, shifts, 1), row)


def correlated(rows: NDArray, reference: NDArray) -> NDArray:
    """Displacement of each row from its reference, px: the parabola through the three highest correlations."""
    n = rows.shape[1] + FARTHEST
    a, b = (np.fft.rfft(part - part.mean(axis=1, keepdims=True), n, axis=1) for part in (rows, reference))
    correlogram = np.fft.irfft(a.conj() * b, n, axis=1)
    near = np.concatenate([correlogram[:, -FARTHEST:], correlogram[:, : FARTHEST + 1]], axis=1)
    top = np.clip(near.argmax(axis=1), 1, 2 * FARTHEST - 1)
    before, at, after = (near[np.arange(len(near)), top + k] for k in (-1, 0, 1))
    curvature = before - 2 * at + after
    safe = np.where(curvature < 0, curvature, -np.inf)
    return top - FARTHEST + np.clip(0.5 * (before - after) / safe, -0.5, 0.5)


def shifted_back(values: NDArray, shifts: NDArray) -> NDArray:
    rows = zip(values, shifts, strict=True)
    return np.array([ndimage.shift(row, shift, order=3, mode="nearest") for row, shift in rows])


METHODS: dict[str, Shifts] = {
    NOTHING: lambda values: np.zeros(len(values)),
    OURS: by_stemkit,
    "neighbours": by_neighbors,
    "previous": by_previous,
}
BASELINES = ("neighbours", "previous")


# --- simulated ---------------------------------------------------------------------------------------------------


def simulated(arguments: argparse.Namespace) -> pd.DataFrame:
    cases = list(design(arguments.seeds, arguments.jitters))
    work = joblib.Parallel(arguments.jobs, return_as="generator")(
        joblib.delayed(measured)(case, arguments) for case in cases
    )
    return pd.concat(tqdm(work, total=len(cases), smoothing=0, disable=None), ignore_index=True)


def design(n_seeds: int, jitters: Sequence[float]) -> Iterator[Case]:
    for seed in range(n_seeds):
        for crystal in CRYSTALS:
            yield from (Case(crystal, dose, jitter, seed) for dose in DOSES for jitter in jitters)


def measured(case: Case, arguments: argparse.Namespace) -> pd.DataFrame:
    """One row per method."""
    size = arguments.size
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # no lattice found: counted in the report
    # the same crystal at every dose and jitter
    scene = build(case.crystal, size, turned=case.seed % 2 == 1, rng=generator(case.crystal, case.seed))
    noise = Noise(
        kind="poisson",
        gain=1 / case.dose,
        readout=float(np.sqrt(DARK / case.dose)),
        jitter=case.jitter,
        jitter_length=arguments.length,
        drift=arguments.drift * case.jitter,
        drift_rows=arguments.drift_rows,
        hum=arguments.hum * case.jitter,
        hum_period=arguments.hum_period,
        streaks=0.0,
        background=0.03,
    )
    key = f"{case.crystal} {case.dose} {case.jitter}"
    noisy, fields = plain.draw(np.zeros((size, size)), noise, generator(key, case.seed), columns=scene.columns)
    rows = []
    for name, method in METHODS.items():
        start = time.perf_counter()
        shifts = method(noisy)
        seconds = time.perf_counter() - start
        rows.append({"method": name, **errors(shifts, fields.shift, scene), "seconds": seconds})
    return pd.DataFrame(rows).assign(**vars(case))


def generator(key: str, seed: int) -> np.random.Generator:
    return np.random.default_rng((zlib.crc32(key.encode()), seed))


def errors(shifts: NDArray, true: NDArray, scene: Scene) -> dict[str, float]:
    left = shifts[:, None] - true
    y, x, _, sigma = scene.columns
    size = len(true)
    seen = ((np.column_stack([y, x]) >= 0) & (np.column_stack([y, x]) <= size - 1)).all(axis=1)
    y, x, moved = y[seen], x[seen], scene.moved[seen]
    away = np.arange(size)[:, None] - y
    crossing = (abs(away) < CROSSES * sigma).any(axis=1)
    part = np.exp(-((away / sigma) ** 2))
    displaced = (part * left[:, np.round(x).astype(int)]).sum(axis=0) / part.sum(axis=0)
    slope = np.polyfit(moved, moved + displaced, 1)[0] if np.ptp(moved) > 0 else np.nan
    return {
        "rows": float(left.std()),
        "crossing": float(left[crossing].std()),
        "columns": PM * float(displaced.std()),
        "slope": float(slope),
        "still": bool((shifts == 0).all()),
    }


# --- tables ------------------------------------------------------------------------------------------------------


def report(table: pd.DataFrame) -> None:
    print("\nRMS over crystals and seeds; ! worse than doing nothing, with the images in which it is worse")
    print(accuracy(table[table["jitter"] > 0]).to_string(index=False))
    if (table["jitter"] == 0).any():
        print("\nWithout jitter: RMS displacement of the columns by alignment, pm; worst image")
        print(distortion(table[table["jitter"] == 0]).to_string())
    print("\nColumns by crystal, pm: before -> stemkit (best baseline), RMS over doses and seeds")
    print(by_crystal(table).to_string())
    print("\nSlope on the true strain: stemkit (best baseline), mean over seeds")
    print(strain_kept(table[table["crystal"].isin(MOVED)]).to_string())
    ours = table[table["method"] == OURS]
    still = ours[ours["still"] & (ours["jitter"] > 0)]
    print(f"\nnot aligned in spite of jitter: {len(still)} of {(ours['jitter'] > 0).sum()} images", end="")
    print("".join(f"\n  {c}, dose {d:g}: {n}" for (c, d), n in still.groupby(["crystal", "dose"]).size().items()))
    print(f"seconds per image: {table.groupby('method')['seconds'].mean().round(3).to_dict()}")


def rms(values: pd.Series) -> float:
    return float(np.sqrt((values**2).mean()))


def accuracy(table: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (dose, jitter), cell in table.groupby(["dose", "jitter"]):
        of = {name: part.reset_index(drop=True) for name, part in cell.groupby("method")}
        all_rows, crossing, columns = (
            {name: rms(part[what]) for name, part in of.items()} for what in ("rows", "crossing", "columns")
        )
        worse = int((of[OURS]["columns"] > of[NOTHING]["columns"]).sum())
        rows.append(
            {
                "dose": f"{dose:g}",
                "jitter": jitter,
                "rows, px": f"{all_rows[NOTHING]:.3f} -> {all_rows[OURS]:.3f}",
                "crossing": f"{crossing[NOTHING]:.3f} -> {crossing[OURS]:.3f}",
                **{f"{name} ": f"{crossing[name]:.3f}" for name in BASELINES},
                "columns, pm": f"{columns[NOTHING]:.2f} -> {columns[OURS]:.2f}",
                **{name: f"{columns[name]:.2f}" for name in BASELINES},
                "of nothing": f"{columns[OURS] / columns[NOTHING]:.2f}",
                "of best baseline": f"{columns[OURS] / min(columns[name] for name in BASELINES):.2f}",
                "worse": f"{worse} of {len(of[OURS])}" + (" !" if columns[OURS] > columns[NOTHING] else ""),
            }
        )
    return pd.DataFrame(rows)


def distortion(table: pd.DataFrame) -> pd.DataFrame:
    cells = table.groupby(["dose", "crystal", "method"])["columns"].agg(rms).unstack("method")
    shown = cells[OURS].unstack("crystal")[list(CRYSTALS)]
    shown.insert(0, "worst", table[table["method"] == OURS].groupby("dose")["columns"].max())
    for name in BASELINES:
        shown[name] = table[table["method"] == name].groupby("dose")["columns"].agg(rms)
    return shown.round(2)


def by_crystal(table: pd.DataFrame) -> pd.DataFrame:
    cells = table[table["jitter"] > 0].groupby(["crystal", "jitter", "method"])["columns"].agg(rms).unstack("method")
    best = cells[list(BASELINES)].min(axis=1)
    numbers = zip(cells[NOTHING], cells[OURS], best, strict=True)
    text = [f"{before:.2f} -> {after:.2f} ({baseline:.2f})" for before, after, baseline in numbers]
    return pd.Series(text, cells.index).unstack("jitter").loc[list(CRYSTALS)]


def strain_kept(table: pd.DataFrame) -> pd.DataFrame:
    cells = table.groupby(["crystal", "dose", "jitter", "method"])["slope"].mean().unstack("method")
    baselines = cells[list(BASELINES)].to_numpy()
    best = baselines[np.arange(len(baselines)), abs(baselines - 1).argmin(axis=1)]
    text = [f"{ours:.2f} ({baseline:.2f})" for ours, baseline in zip(cells[OURS], best, strict=True)]
    return pd.Series(text, cells.index).unstack("jitter").loc[list(MOVED)]


# --- recorded ----------------------------------------------------------------------------------------------------


def recorded(folder: Path, part: int, figures: Path | None) -> pd.DataFrame:
    warnings.simplefilter("ignore", UserWarning)  # inferred modes, no lattice: both are in the table
    rows = []
    for path in tqdm(sorted(p for p in folder.iterdir() if p.is_file()), disable=None):
        try:
            image = stemkit.read(path)
        except (ValueError, TypeError, OSError, ImportError) as error:
            tqdm.write(f"{path.name}: left out, {error}")
            continue
        if image.ndim == 2:
            rows.append({"file": path.name[:22], **aligned(middle(image, part), path, figures)})
    return pd.DataFrame(rows)


def middle(image: xr.DataArray, part: int) -> xr.DataArray:
    image = image.assign_attrs(mode=resolve_mode(image))
    starts = {axis: max(0, (image.sizes[axis] - part) // 2) for axis in ("y", "x")}
    return image.isel({axis: slice(start, start + part) for axis, start in starts.items()})


def aligned(image: xr.DataArray, path: Path, figures: Path | None) -> dict[str, object]:
    start = time.perf_counter()
    aligner = RowAligner().fit(image)
    seconds = time.perf_counter() - start
    after = aligner.transform(image)
    shifts = aligner.shifts_[0]
    half = image.sizes["x"] // 2
    halves = [RowAligner().fit(image.isel(x=part)).shifts_[0] for part in (slice(None, half), slice(half, None))]
    calibrators = [NoiseCalibrator().fit(one) for one in (image, after)]
    if figures is not None:
        figures.mkdir(parents=True, exist_ok=True)
        draw_figure(image, after, shifts, halves, calibrators, figures / f"{path.stem}.png")
    noise, left = (calibrator.noise_model_.scan for calibrator in calibrators)
    both = all(np.ptp(one) > 0 for one in halves)  # no lattice may be found in a half
    bright = filled(image.values).astype(np.float64) * mode_sign(image.attrs["mode"])
    return {
        **spreads(bright, shifts, halves),
        "moved": shifts.std(),
        "jitter": noise.jitter,
        "length": noise.jitter_length,
        "jitter after": left.jitter,
        "length after": left.jitter_length,
        "halves differ": (halves[0] - halves[1]).std() if both else np.nan,
        "halves agree": np.corrcoef(*halves)[0, 1] if both else np.nan,
        "seconds": seconds,
    }


def spreads(bright: NDArray, shifts: NDArray, halves: list[NDArray]) -> dict[str, float]:
    """Spreads of the columns' x about their lattice, across and along the rows: recorded, aligned, cross-validated."""
    after = shifted_back(bright, shifts)
    separation = separate_specimen(after)
    crystal = separation.crystal
    if crystal is None or crystal.vectors is None:
        return {"columns": 0}
    places = np.column_stack([crystal.fits.y, crystal.fits.x])
    across, along = triples(places, crystal.vectors, separation.width)

    def fitted(values: NDArray) -> NDArray:
        return fit_columns(values, places, separation.width).x

    def spread(x: NDArray, which: NDArray) -> float:
        bends = x[which[:, 0]] - (x[which[:, 1]] + x[which[:, 2]]) / 2
        return float(np.sqrt(np.mean(bends**2) / 1.5)) if len(bends) else np.nan

    before, straight = fitted(bright), fitted(after)
    left, right = (fitted(shifted_back(bright, other)) for other in halves[::-1])
    edge = bright.shape[1] // 2
    whole = (places[across, 1] < edge).all(axis=1), (places[across, 1] >= edge).all(axis=1)
    pairs = [(spread(x, across[side]), side.sum()) for x, side in zip((left, right), whole, strict=True)]
    crossed = np.sqrt(sum(s**2 * n for s, n in pairs if n) / max(sum(n for _, n in pairs), 1))
    return {
        "columns": len(places),
        "across": spread(before, across),
        "across after": spread(straight, across),
        "crossed": float(crossed) if all(np.ptp(one) > 0 for one in halves) else np.nan,
        "along": spread(before, along),
        "along after": spread(straight, along),
    }


def triples(places: NDArray, vectors: NDArray, width: float) -> tuple[NDArray, NDArray]:
    """Columns with both neighbours along a lattice vector, as (middle, one, other): across the rows, and along them."""
    tree, across, along = cKDTree(places), [np.empty((0, 3), int)], [np.empty((0, 3), int)]
    for vector in (*vectors, vectors[0] + vectors[1], vectors[0] - vectors[1]):
        near = NEAR * float(np.hypot(*vectors[0]))
        (up, one), (down, other) = (tree.query(places + s * vector, distance_upper_bound=near) for s in (1, -1))
        both = np.flatnonzero(np.isfinite(up) & np.isfinite(down))
        found = np.column_stack([both, one[both], other[both]])
        # columns nearer along y than a column is wide are in the same rows
        if abs(vector[0]) > 2 * width:
            across.append(found)
        elif abs(vector[0]) < 0.5 * width:
            along.append(found)
    return np.concatenate(across), np.concatenate(along)


# --- figures -----------------------------------------------------------------------------------------------------


def draw_figure(
    image: xr.DataArray,
    after: xr.DataArray,
    shifts: NDArray,
    halves: list[NDArray],
    calibrators: list[NoiseCalibrator],
    path: Path,
) -> None:
    """Two crops before and after, in the middle and at the largest jump between rows; shifts; covariances."""
    figure, axes = plt.subplots(2, 3, figsize=(21, 14), layout="constrained")
    n_y, n_x = image.shape
    jump = int(np.argmax(ndimage.uniform_filter1d(abs(np.diff(shifts)), 9))) if np.ptp(shifts) > 0 else n_y // 4
    for row, y in enumerate((n_y // 2, jump)):
        top, left = (int(np.clip(c - CROP // 2, 0, max(n - CROP, 0))) for c, n in ((y, n_y), (n_x // 2, n_x)))
        crop = (slice(top, top + CROP), slice(left, left + CROP))
        gray = dict(zip(("vmin", "vmax"), np.quantile(image.values[crop], [0.005, 0.995]), strict=True))
        for axis, one, title in zip(axes[row], (image, after), ("recorded", "aligned"), strict=False):
            axis.imshow(one.values[crop], cmap="gray", interpolation="nearest", **gray)
            axis.set_title(f"{title}, rows {top} to {top + CROP}")
            axis.set_axis_off()
    for name, curve in (("left half", halves[0]), ("right half", halves[1]), ("all", shifts)):
        axes[0, 2].plot(curve, linewidth=0.8, label=name)
    axes[0, 2].set(title="displacement of the rows, px", xlabel="row")
    for name, calibrator in zip(("recorded", "aligned"), calibrators, strict=True):
        displacement = calibrator.diagnostics_[0]["displacement_x"]
        if displacement is not None and len(displacement.distance):
            axes[1, 2].plot(displacement.distance, displacement.covariance, ".-", label=name)
    axes[1, 2].set(title="covariance of the displacements along the row, px squared", xlabel="distance, px")
    for axis in axes[:, 2]:
        axis.axhline(0, color="0.7", linewidth=0.8)
        axis.legend()
    figure.suptitle(path.stem)
    figure.savefig(path, dpi=60)
    plt.close(figure)


if __name__ == "__main__":
    main()
