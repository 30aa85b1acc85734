"""Speed and precision of the detector: ``python benchmarks/columns.py [FOLDER] [--parts NAME ...] [--quick]``.

Parts that need no data: ``speed`` (ms per column and memory of ``AtomDetector.transform``), ``precision`` (single
columns: RMS error relative to the Cramér-Rao bound and to the stated error), ``pairs`` (the same for two close
columns) and ``dense`` (errors relative to the stated ones in lattices that overlap on all sides). Parts that need
FOLDER: ``detection`` (F1 on scenes with known truth), ``simulated`` (multislice images) and ``real`` (standard
deviation of the nearest-neighbour distances of a crystal). If Atomap is installed, it measures the same columns in
``speed`` and ``real``.

The bounds and the SNR are defined in ``column_precision.py``; the bounds are checked first.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata, util
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from column_precision import bounds, check, dense, fitted, pairs, precision, recorded
from numpy.typing import NDArray
from plain_scenes import Columns, Noise, render
from scenes import BORDER, HALF_CELL
from scipy import optimize
from scipy.spatial import cKDTree

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, RowAligner, SFINDenoiser
from stemkit.metrics import match_columns
from stemkit.statistics import median_spacing, nearest_distances
from stemkit.structure import find_vacancies, fit_lattice

NEEDS_FOLDER = ("detection", "simulated", "real")
#: Edge of the image, px, columns along it, and whether Atomap measures them (chosen). Spacings are 25, 29 and 13 px.
SPEED = ((1025, 40, True), (4096, 141, False), (417, 32, False), (1301, 100, False), (4109, 316, False))
#: Column width as a fraction of the spacing (chosen).
WIDTH = 0.16
#: A transform that takes longer than this, s, is not repeated (chosen).
LONG = 20.0
SPEED_NOISE = Noise(readout=0.05, gain=0.04, kind="poisson")
#: Pixel size of the multislice images, nm: 2.6 nm along 256 px.
SIMULATED_PIXEL = 0.0102
#: Atoms closer than this in projection, px, are one column (chosen).
SAME_PLACE = 0.5
#: Columns without a neighbour within this distance, px, are isolated (chosen).
ALONE = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="data of the parts detection, simulated and real")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=None)
    parser.add_argument("--quick", action="store_true", help="fewer cells, fewer columns in each")
    arguments = parser.parse_args()
    chosen = arguments.parts or [part for part in PARTS if arguments.folder or part not in NEEDS_FOLDER]
    if arguments.folder is None and set(chosen) & set(NEEDS_FOLDER):
        parser.error(f"give the FOLDER that {', '.join(part for part in chosen if part in NEEDS_FOLDER)} read")
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions()}")
    check()
    for part in chosen:
        start = time.perf_counter()
        table = PARTS[part](arguments.folder, arguments.quick)
        print(f"\n{part} ({time.perf_counter() - start:.0f} s)")
        print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}", na_rep="-"), flush=True)


def versions() -> str:
    found = ", ".join(f"{name} {metadata.version(name)}" for name in ("stemkit", "torch", "numpy", "scipy"))
    return found + (f", atomap {metadata.version('atomap')}" if has_atomap() else ", atomap is not installed")


# --- speed -------------------------------------------------------------------------------------------------------


def speed(folder: Path | None, quick: bool) -> pd.DataFrame:
    """Each size runs in its own process, for its peak memory; seconds are the best of three,
    or of one where that takes longer than 20 s.

    Memory is that of fit and transform in addition to the image. ``bound`` is that of a single column.
    """
    rows = []
    for size, side, with_atomap in SPEED[:1] + SPEED[2:4] if quick else SPEED:
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=fresh) as executor:
            rows.append(executor.submit(speed_row, size, side, with_atomap).result())
    return pd.DataFrame(rows)


def speed_row(size: int, side: int, with_atomap: bool) -> dict[str, float | str]:
    """One square lattice, widths 16 % of the spacing, counted electrons: 25 at a column's centre, SNR 4.9."""
    rng = np.random.default_rng(0)
    image, places = lattice(size, side, rng)
    AtomDetector().fit_transform(lattice(256, 12, rng)[0])  # libraries are loaded and compiled in the first run
    before = peak_memory(anew=True)
    start = time.perf_counter()
    detector = AtomDetector().fit(image)
    row: dict[str, float | str] = {"size": size, "columns": len(places), "spacing px": (size - 1) // side}
    row["fit s"] = time.perf_counter() - start
    seconds = []
    while len(seconds) < (3 if sum(seconds) < LONG else 1):
        start = time.perf_counter()
        table = detector.transform(image)
        seconds.append(time.perf_counter() - start)
    found = table[["y_px", "x_px"]].to_numpy()
    row["memory MB"] = (peak_memory() - before) / 2**20
    row["transform s"] = min(seconds)
    row["ms per column"] = 1e3 * min(seconds) / len(places)
    radius = row["spacing px"] / 3
    row["recall"] = match_columns(found, places, radius).recall
    # Atomap leaves no column out, and its errors near the border are of another kind: both are judged further in
    inner = ((places > 12) & (places < size - 13)).all(axis=1)
    row["RMS px"] = float(np.mean(np.square(match_columns(found, places[inner], radius).rms)) ** 0.5)
    one = bounds(places[:100, None], np.ones((100, 1)), WIDTH * row["spacing px"], SPEED_NOISE)
    row["bound px"] = float(np.sqrt(np.square(one).mean()))
    if with_atomap and has_atomap():
        atomap_positions(image.values[:200, :200], places[(places < 190).all(axis=1)])
        start = time.perf_counter()
        theirs = atomap_positions(image.values, places)
        row["Atomap ms"] = 1e3 * (time.perf_counter() - start) / len(places)
        row["ratio"] = row["Atomap ms"] / row["ms per column"]
        row["Atomap RMS px"] = float(np.sqrt(np.square(theirs - places)[inner].mean()))
    return row


def lattice(size: int, side: int, rng: np.random.Generator) -> tuple[xr.DataArray, NDArray]:
    """A square lattice of ``side`` x ``side`` columns, displaced by up to half a px, and their positions."""
    pitch = (size - 1) // side
    start = (size - 1 - pitch * (side - 1)) / 2
    sites = start + pitch * np.stack(np.meshgrid(*2 * [np.arange(side)], indexing="ij"), axis=-1).reshape(-1, 2)
    places = sites + rng.uniform(-0.5, 0.5, sites.shape)
    true_image = render(Columns(*places.T, np.ones(len(places)), WIDTH * pitch), np.zeros((size, size)))
    return recorded(true_image, SPEED_NOISE, rng), places


def peak_memory(*, anew: bool = False) -> float:
    """Highest resident memory since the last reset, bytes (Linux)."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def has_atomap() -> bool:
    return util.find_spec("atomap") is not None and util.find_spec("hyperspy") is not None


def atomap_positions(values: NDArray, places: NDArray) -> NDArray:
    """Positions refined by Atomap: centre of mass, then 2-D Gaussians, as in its manual."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from atomap.api import Sublattice

        sublattice = Sublattice(places[:, ::-1], image=values)
        sublattice.find_nearest_neighbors()
        sublattice.refine_atom_positions_using_center_of_mass(show_progressbar=False)
        sublattice.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
    return np.column_stack([sublattice.y_position, sublattice.x_position])


# --- scenes ------------------------------------------------------------------------------------------------------


def detection(folder: Path, quick: bool) -> pd.DataFrame:
    """Columns found in scenes with known truth, and vacancies that are listed as columns or as vacancies."""
    denoiser = SFINDenoiser(mode="haadf")
    scenes = np.load(folder / "scenes" / "scenes.npz")
    rows = []
    for name in sorted(key.removesuffix("_noisy") for key in scenes if key.endswith("_noisy")):
        true = scenes[f"{name.rsplit('_', 1)[0]}_pos"]
        rows += detection_rows(name, scenes[f"{name}_noisy"], true, np.empty((0, 2)), denoiser)
    holes = np.load(folder / "scenes" / "vacancies.npz")
    for dose in ("d3", "d5", "d30"):
        rows += detection_rows(f"vacancies_{dose}", holes[dose], holes["columns"], holes["vacancies"], denoiser)
    return pd.DataFrame(rows)


def detection_rows(
    name: str, noisy: NDArray, true: NDArray, vacancies: NDArray, denoiser: SFINDenoiser
) -> list[dict[str, float | str]]:
    labeled = NoiseCalibrator().fit_transform(xr.DataArray(noisy, dims=("y", "x"), attrs={"mode": "haadf"}))
    radius = 2 * HALF_CELL / 3 if len(vacancies) else median_spacing(true) / 3
    rows = []
    for searched_in, image in {"measured": labeled, "enhanced": denoiser.fit_transform(labeled)}.items():
        table = AtomDetector().fit_transform(image)
        found = table[["y_px", "x_px"]].to_numpy()
        match = match_columns(inside(found, image.shape), inside(true, image.shape), radius)
        row = {"scene": name, "on": searched_in, "F1": match.f1, "precision": match.precision, "recall": match.recall}
        row["RMS px"] = float(np.mean(np.square(match.rms)) ** 0.5)
        if len(vacancies):
            row["vacancies"] = len(vacancies)
            row["called columns"] = int((cKDTree(found).query(vacancies)[0] < radius).sum())
            listed = listed_vacancies(image, table)
            right = match_columns(inside(listed, image.shape), inside(vacancies, image.shape), radius)
            row |= {"listed": len(listed), "rightly": len(right.found)}
        rows.append(row)
    return rows


def listed_vacancies(image: xr.DataArray, table: pd.DataFrame) -> NDArray:
    """Positions (y, x) px of the sites that are vacant at a false discovery rate of 5 %."""
    found = find_vacancies(table, fit_lattice(table), image, AtomDetector().fit(image))
    return found.loc[found["vacant"], ["y_px", "x_px"]].to_numpy()


def inside(places: NDArray, shape: tuple[int, ...]) -> NDArray:
    """Positions at least 4 px from the border."""
    return places[((places >= BORDER) & (places < np.array(shape) - BORDER)).all(axis=1)]


# --- simulated images --------------------------------------------------------------------------------------------


def simulated(folder: Path, quick: bool) -> pd.DataFrame:
    """Multislice images: recall of their visible columns, and errors in pm.

    Atoms at one place, within half a px, are one site. A visible column (a local maximum of the true image, to
    the px) is recalled where a column is found within a third of the visible columns' median distance. Its true place
    is the site nearest to the found position; this is unambiguous if no other site is within 5 px (``alone``);
    elsewhere (``all``) several sites make up one blurred column, and the figure is the specimen's as much as the fit's.
    Sites are those of the ideal crystal, and the simulated one trembles: ``ideal`` is how far a plain least-squares
    Gaussian on the true image is from the same sites, ``to plain`` how far the detector is from that. The noisy
    images are scanned anew, with rows displaced.
    """
    import h5py

    rows = []
    for path in sorted((folder / "pairs" / "atomagined").glob("*.h5"))[: 3 if quick else None]:
        with h5py.File(path) as file:
            visible = np.argwhere(file["haadf/peak_map_clean"][()]).astype(float)
            sites = merged(file["projection/full_coords"][()][:, ::-1].astype(float))
            images = {name: file[f"haadf/{name}"][()] for name in ("raw", "stem00-blbk1")}
        for name, values in images.items():
            image = stemkit.calibrated(values.astype(float), pixel_size=SIMULATED_PIXEL)
            image.attrs["mode"] = "haadf"
            figures = simulated_figures(image, visible, sites, images["raw"])
            rows.append({"image": f"{path.stem} {name}", **figures})
    table = pd.DataFrame(rows)
    kind = table["image"].str.split().str[1]
    means = table.drop(columns="image").groupby(kind).mean().reset_index().assign(image=lambda t: "mean " + t["image"])
    return pd.concat([table, means], ignore_index=True)


def merged(atoms: NDArray) -> NDArray:
    """Merge atoms above each other: the mean of those within half a px of the first."""
    near = cKDTree(atoms).query_ball_point(atoms, SAME_PLACE)
    firsts = sorted({min(group) for group in near})
    return np.array([atoms[near[first]].mean(axis=0) for first in firsts])


def simulated_figures(image: xr.DataArray, visible: NDArray, sites: NDArray, true_image: NDArray) -> dict[str, float]:
    found = fit_detector(image)
    places = found[["y_px", "x_px"]].to_numpy()
    match = match_columns(places, visible, median_spacing(visible) / 3)
    matched = found.iloc[match.found]
    ours = places[match.found]
    _, nearest = cKDTree(sites).query(ours)
    truth = sites[nearest]
    alone = (nearest_distances(sites) > ALONE)[nearest]
    plain = np.array([plain_fit(true_image, place) for place in visible[match.true[alone]]]).reshape(-1, 2)

    def pm(error: NDArray) -> float:
        known = error[np.isfinite(error).all(axis=1)]
        return 1e3 * SIMULATED_PIXEL * float(np.sqrt((known**2).mean())) if len(known) else np.nan

    return {
        "visible": len(visible),
        "found": len(found),
        "recall": match.recall,
        "all pm": pm(ours - truth),
        "alone": int(alone.sum()),
        "alone pm": pm((ours - truth)[alone]),
        "ideal pm": pm(plain - truth[alone]),
        "to plain pm": pm(ours[alone] - plain),
        "stated pm": pm(matched[["y_px_err", "x_px_err"]].to_numpy()[alone]),
    }


def plain_fit(values: NDArray, place: NDArray) -> NDArray:
    """Centre of a round Gaussian on a constant, by unweighted least squares on 7 x 7 px."""
    at = np.clip(place.astype(int), 3, np.array(values.shape) - 4)
    window = values[at[0] - 3 : at[0] + 4, at[1] - 3 : at[1] + 4]
    low, span = window.min(), np.ptp(window)
    y, x = np.indices((7, 7)) - 3.0

    def residual(p: NDArray) -> NDArray:
        model = p[2] * np.exp(-((y - p[0]) ** 2 + (x - p[1]) ** 2) / (2 * p[3] ** 2)) + p[4]
        return (model - (window - low) / span).ravel()

    fit = optimize.least_squares(residual, [0.0, 0.0, 1.0, 2.0, 0.0])
    return at + fit.x[:2] if np.hypot(*fit.x[:2]) < 2 else np.full(2, np.nan)


def fit_detector(image: xr.DataArray) -> pd.DataFrame:
    return AtomDetector().fit_transform(NoiseCalibrator().fit_transform(image))


# --- a real crystal ----------------------------------------------------------------------------------------------


def real(folder: Path, quick: bool) -> pd.DataFrame:
    """SrTiO3 along [001]: standard deviation of nearest-neighbour distances within each cation sublattice, pm.

    The true distances are equal, so that the standard deviation is an error. ``robust`` is from the median absolute
    deviation, ``across`` the standard deviation of the distance perpendicular to the axis: for neighbours along y it
    contains the jitter of the rows. ``stated`` is the prediction from the stated errors; ``with jitter`` adds the
    jitter of each column as if it were independent (neighbours along x share most of it). Sublattices are distinguished
    by amplitude. Atomap starts from the detector's columns, all in one sublattice.
    """
    recorded_image = stemkit.read(folder / "real" / "16_STOimage_1.ser").astype(float)
    recorded_image.attrs["mode"] = "haadf"
    aligned = RowAligner().fit_transform(recorded_image)
    return pd.DataFrame(real_rows("as recorded", recorded_image) + real_rows("rows aligned", aligned))


def real_rows(name: str, image: xr.DataArray) -> list[dict[str, float | str]]:
    table = fit_detector(image)
    table = table[fitted(table)].reset_index(drop=True)
    amplitude = table["amplitude"].to_numpy()
    bright = amplitude > between_modes(amplitude)
    places = {"": table[["y_px", "x_px"]].to_numpy()}
    if has_atomap():
        places["Atomap "] = atomap_positions(image.values, places[""])
    rows = []
    for element, these in (("Sr", bright), ("Ti", ~bright)):
        for axis in (1, 0):
            one, two = neighbors(places[""], these, axis)
            row = {"image": name, "pairs": f"{element}-{element} {'yx'[axis]}", "n": len(one)}
            row |= predicted(table, one, two, axis)
            for who, where in places.items():
                found = spread(where, one, two, axis, image.stem.pixel_size)
                row |= {f"{who}{figure}": value for figure, value in found.items()}
            rows.append(row)
    return rows


def between_modes(values: NDArray) -> float:
    """The threshold that divides values into two classes of least variance (Otsu)."""
    ordered = np.sort(values)
    n = np.arange(1, len(ordered))
    low = np.cumsum(ordered)[:-1] / n
    high = (ordered.sum() - np.cumsum(ordered)[:-1]) / (len(ordered) - n)
    at = int(np.argmax(n * (len(ordered) - n) * (high - low) ** 2))
    return float(ordered[at : at + 2].mean())


def neighbors(places: NDArray, these: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    """Index pairs of columns of one sublattice that are nearest neighbours along an axis."""
    index = np.flatnonzero(these)
    tree = cKDTree(places[index])
    spacing = float(np.median(tree.query(places[index], k=2)[0][:, 1]))
    step = spacing * np.eye(2)[axis]
    away, to = tree.query(places[index] + step)
    near = away < 0.25 * spacing
    return index[near], index[to[near]]


def spread(places: NDArray, one: NDArray, two: NDArray, axis: int, pixel_size: float) -> dict[str, float]:
    distance = 1e3 * pixel_size * np.hypot(*(places[two] - places[one]).T)
    median = np.median(distance)
    across = 1e3 * pixel_size * (places[two] - places[one])[:, 1 - axis]
    return {
        "spread pm": float(distance.std()),
        "robust pm": float(1.4826 * np.median(abs(distance - median))),
        "across pm": float(across.std()),
    }


def predicted(table: pd.DataFrame, one: NDArray, two: NDArray, axis: int) -> dict[str, float]:
    variance = (1e3 * table[("y_err", "x_err")[axis]].to_numpy()) ** 2
    jitter = (1e3 * table["x_jitter"].to_numpy()) ** 2 if axis == 1 else np.zeros(len(table))

    def both(values: NDArray) -> float:
        return float(np.sqrt((values[one] + values[two]).mean()))

    return {"stated pm": both(variance), "with jitter pm": both(variance + jitter)}


PARTS = {
    "speed": speed,
    "precision": precision,
    "pairs": pairs,
    "dense": dense,
    "detection": detection,
    "simulated": simulated,
    "real": real,
}

if __name__ == "__main__":
    main()
