"""Counts of atoms compared with known ones: ``python benchmarks/counting.py [FILE]``.

fitted      with FILE, an .npz with ``image``, ``pixel_size_nm``, ``background``, the columns of another program
            (``y_px``, ``x_px``, ``rho``, ``volumes`` in intensity times angstrom squared) and a ``library`` (atoms,
            intensity): counts from intensities of :class:`~stemkit.AtomDetector` compared with counts from these
            volumes, with the same library
particles   simulated particles whose intensities follow the number of atoms: fraction of wrong counts compared with the
            error rate that :func:`~stemkit.structure.count_atoms` states, with and without a library; a shift of all
            counts by one is an overlooked first component
cost        CPU seconds for 100,000 columns
"""

from __future__ import annotations

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import stemkit
from stemkit import AtomDetector
from stemkit.metrics import match_columns
from stemkit.structure import count_atoms, voronoi_intensities

#: Angstrom squared per nm2: the unit of the volumes.
PER_NM2 = 100.0
#: Largest distance of two columns that are the same, px.
SAME = 6.0
#: Simulated particles: spacing, width and radius, px; intensity of an atom's column per atom, with the loss per atom.
SPACING, WIDTH, RADIUS, PER_ATOM, LOSS = 15.0, 4.0, 110.0, 30.0, 0.008
SHAPE = (256, 256)
LEVEL = 50.0


def fitted(path: Path) -> pd.DataFrame:
    """Differences from counts of the volumes in the file, for each kind of intensity."""
    data = np.load(path)
    image = stemkit.calibrated(data["image"], pixel_size=float(data["pixel_size_nm"]))
    theirs = pd.DataFrame({"y": data["y_px"], "x": data["x_px"], "intensity": data["volumes"]})
    known = count_atoms(theirs, library=data["library"])
    rows = [{"intensity": "volumes in the file", "columns": len(theirs), "expected wrong (%)": 100 * known.error_rate}]
    background = float(data["background"])
    width = 0.1 * float(np.median(data["rho"]))
    for name, options in {"width learnt": {}, "width in the file": {"width": width}}.items():
        table = AtomDetector(common_width=True, background=background, **options).fit_transform(image)
        sums = voronoi_intensities(image, table, background=background)["voronoi"]
        table = table.assign(intensity=PER_NM2 * table["intensity"], voronoi=PER_NM2 * sums)
        match = match_columns(table[["y_px", "x_px"]], theirs[["y", "x"]], SAME)
        for by in ("intensity", "voronoi") if not options else ("intensity",):
            own = count_atoms(table, by=by, library=data["library"])
            difference = _counts(own)[match.found] - _counts(known)[match.true]
            ratio = table[by].to_numpy()[match.found] / theirs["intensity"].to_numpy()[match.true]
            kind = "Gaussians" if by == "intensity" else "Voronoi cells"
            rows.append(
                {
                    "intensity": f"{kind}, {name}",
                    "columns": len(difference),
                    "expected wrong (%)": 100 * own.error_rate,
                    "same count (%)": 100 * np.mean(difference == 0),
                    "within one atom (%)": 100 * np.mean(np.abs(difference) <= 1),
                    "mean difference": difference.mean(),
                    "median ratio": np.median(ratio),
                    "correlation": np.corrcoef(
                        table[by].to_numpy()[match.found], theirs["intensity"].to_numpy()[match.true]
                    )[0, 1],
                }
            )
    return pd.DataFrame(rows)


def particles(seeds: int) -> pd.DataFrame:
    """Mean rates of wrong counts over simulated particles, per noise of the pixels."""
    rows = []
    for noise in (20.0, 35.0, 45.0, 55.0, 70.0):
        for library in (False, True):
            found = pd.DataFrame([_particle(seed, noise, library) for seed in range(seeds)])
            row = {"noise (1)": noise, "library": library, "columns": found["columns"].mean()}
            row |= {"countable": f"{found['countable'].sum()} of {seeds}"}
            sure = found[found["countable"]]
            for name in ("expected wrong (%)", "wrong (%)", "wrong but for a shift (%)", "wrong by more than one (%)"):
                row[name] = sure[name].mean() if len(sure) else np.nan
            rows.append(row)
    return pd.DataFrame(rows)


def cost() -> pd.DataFrame:
    """CPU seconds for 100,000 columns."""
    rng = np.random.default_rng(0)
    atoms = rng.integers(1, 21, 100_000)
    y, x = np.divmod(np.arange(len(atoms)), 316)
    table = pd.DataFrame(
        {"y": 12.0 * y + 6, "x": 12.0 * x + 6, "intensity": _intensity(atoms) + rng.normal(0, 3, len(atoms))}
    )
    image = rng.normal(size=(12 * 317, 12 * 316)).astype(np.float32)
    library = np.column_stack([np.arange(1, 25), _intensity(np.arange(1, 25))])
    steps = {
        "count_atoms": lambda: count_atoms(table),
        "count_atoms, library": lambda: count_atoms(table, library=library, scale=(0.8, 1.2)),
        "voronoi_intensities": lambda: voronoi_intensities(image, table),
    }
    rows = []
    for name, step in steps.items():
        start = time.process_time()
        step()
        rows.append({"function": name, "CPU seconds": time.process_time() - start})
    return pd.DataFrame(rows)


def _intensity(atoms: NDArray) -> NDArray[np.float64]:
    """Intensity of a column, which increases less than linearly."""
    return PER_ATOM * atoms * (1 - LOSS * atoms)


def _particle(seed: int, noise: float, library: bool) -> dict[str, object]:
    """Counts in a round particle whose columns are measured in an image."""
    rng = np.random.default_rng(seed)
    i, j = (k.ravel() for k in np.mgrid[-10:11, -10:11])
    places = SPACING * np.column_stack([i * np.sqrt(3) / 2, j + 0.5 * (i % 2)]) + 128 + rng.uniform(-3, 3, 2)
    radius = np.hypot(*(places - 128).T)
    places, radius = places[radius < RADIUS], radius[radius < RADIUS]
    atoms = np.maximum(np.round(10 * np.sqrt(1 - (radius / (RADIUS + 2)) ** 2) + rng.uniform(-1, 1, len(places))), 1)
    pixel = np.arange(SHAPE[0])
    rows, columns = (np.exp(-0.5 * ((pixel - places[:, [k]]) / WIDTH) ** 2) for k in range(2))
    image = LEVEL + (_intensity(atoms)[:, None] * rows).T @ columns
    recorded = (image + rng.normal(0, noise, SHAPE)).astype(np.float32)
    table = AtomDetector(common_width=True, background=LEVEL).fit_transform(recorded)
    match = match_columns(table[["y_px", "x_px"]], places, SPACING / 3)
    numbers = np.arange(1, 15)
    known = np.column_stack([numbers, 2 * np.pi * WIDTH**2 * _intensity(numbers)]) if library else None
    counts = count_atoms(table, library=known, scale=(0.8, 1.2), first=int(atoms.min()))
    signed = _counts(counts)[match.found] - atoms[match.true]
    difference = np.abs(signed)
    return {
        "wrong but for a shift (%)": 100 * min(np.mean(signed != shift) for shift in (-1, 0, 1)),
        "columns": len(difference),
        "countable": counts.countable,
        "expected wrong (%)": 100 * counts.error_rate,
        "wrong (%)": 100 * np.mean(difference > 0),
        "wrong by more than one (%)": 100 * np.mean(difference > 1),
    }


def _counts(counts: object) -> NDArray[np.float64]:
    return counts.columns["count"].to_numpy(dtype=np.float64, na_value=np.nan)  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path, help="columns and a library of another program")
    parser.add_argument("--seeds", type=int, default=10, help="simulated particles per row (default 10)")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    tables = {"fitted": lambda: fitted(options.file)} if options.file else {}
    for name, table in (tables | {"particles": lambda: particles(options.seeds), "cost": cost}).items():
        print(f"{name}\n{table().to_markdown(index=False, floatfmt='.3g')}\n", flush=True)


if __name__ == "__main__":
    main()
