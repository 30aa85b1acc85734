"""The simulated crystals of ``stemkit.benchmark``: ``python benchmarks/simulate_crystals.py FOLDER``.

Multislice simulations with frozen phonons by abTEM (``pip install abtem``), independent of stemkit's synthesis: Au
[110], GaN [11-20] and anatase [100], 5 nm thick, at 200 kV; a WSe2 layer without one selenium atom and graphene with a
silicon atom, at 60 kV. Each is written to ``NAME.npz``: noise-free HAADF, ABF and BF images of one period, the true
columns, and the parameters of the simulation. The images are sampled at their band limit, and stemkit interpolates
them. The simulations take about an hour on one core.

Intensities are fractions of the beam. The source size is included as a Gaussian.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import abtem
import ase
import ase.build
import dask
import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy import ndimage

#: RMS of an atom's thermal displacement along one axis, angstrom (chosen).
THERMAL = 0.07
#: Sigma of the source, angstrom (chosen).
SOURCE = 0.3
#: V, aperture (mrad), detector (mrad), real-space sampling of the wave and of the scan, slices (angstrom), phonons.
THICK = {
    "energy": 200e3,
    "semiangle_cutoff": 22.0,
    "inner": 65.0,
    "outer": 125.0,
    "sampling": 0.065,
    "step": 0.2,
    "slice_thickness": 2.0,
    "configurations": 6,
}
THIN = {
    "energy": 60e3,
    "semiangle_cutoff": 31.0,
    "inner": 65.0,
    "outer": 155.0,
    "sampling": 0.1,
    "step": 0.3,
    "slice_thickness": 2.0,
    "configurations": 4,
}
#: Thickness of the crystals, and approximate edge of the simulated cell, angstrom (chosen).
THICKNESS = 50.0
WIDTH = 12.0
#: Atoms closer than this in projection, angstrom, are one column (chosen).
ONE_COLUMN = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=CRYSTALS, default=list(CRYSTALS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    abtem.config.set({"fft": "numpy", "local_diagnostics.progress_bar": False})
    for name in arguments.only:
        start = time.perf_counter()
        period, repeats, optics = CRYSTALS[name]()
        atoms = period * repeats
        atoms.center(vacuum=2.0, axis=2)
        images = simulated(atoms, period, optics)
        places, weight = columns(period)
        made = {**optics, "abtem": abtem.__version__, "trembling": THERMAL, "source": SOURCE}
        made |= {"formula": period.get_chemical_formula(), "thickness": float(np.ptp(atoms.positions[:, 2]))}
        height, width = (float(period.cell.lengths()[i]) / 10 for i in (1, 0))
        np.savez_compressed(
            arguments.folder / f"{name}.npz",
            **{k: v.astype(np.float32) for k, v in images.items()},
            period=np.array([height, width]),
            columns=places / 10,
            weight=weight,
            made=json.dumps(made),
        )
        shape = images["haadf"].shape
        print(f"{name}: {shape}, {len(places)} columns, {time.perf_counter() - start:.0f} s", flush=True)


def simulated(atoms: Atoms, period: Atoms, optics: dict[str, float]) -> dict[str, NDArray]:
    """Images of one period, ``(n_y, n_x)`` each."""
    phonons = abtem.FrozenPhonons(atoms, num_configs=int(optics["configurations"]), sigmas=THERMAL, seed=1)
    potential = abtem.Potential(phonons, sampling=optics["sampling"], slice_thickness=optics["slice_thickness"])
    alpha = optics["semiangle_cutoff"]
    probe = abtem.Probe(energy=optics["energy"], semiangle_cutoff=alpha)
    probe.grid.match(potential)
    detectors = {
        "haadf": abtem.AnnularDetector(inner=optics["inner"], outer=optics["outer"]),
        "abf": abtem.AnnularDetector(inner=alpha / 2, outer=alpha),
        "bf": abtem.AnnularDetector(inner=0.0, outer=alpha / 2),
    }
    size = period.cell.lengths()[:2]
    scan = abtem.GridScan((0, 0), tuple(size), gpts=tuple(np.ceil(size / optics["step"]).astype(int)), endpoint=False)
    with dask.config.set(scheduler="single-threaded"):
        measured = probe.scan(potential, scan=scan, detectors=list(detectors.values())).compute()
    # abTEM counts x first
    pixel = size / scan.gpts
    sigma = [SOURCE / pixel[1], SOURCE / pixel[0]]
    images = {}
    for name, image in zip(detectors, measured, strict=True):
        values = np.asarray(image.array, dtype=float)
        values = values.mean(axis=0) if values.ndim == 3 else values
        images[name] = ndimage.gaussian_filter(values.T, sigma, mode="wrap")
    return images


def columns(period: Atoms) -> tuple[NDArray, NDArray]:
    """True positions ``(n, 2)`` as (y, x) in angstrom, and the sum of ``Z**1.7`` of each column."""
    size = period.cell.lengths()[:2]
    groups: list[list[int]] = []
    xy = period.positions[:, :2] % size
    for i, place in enumerate(xy):
        for group in groups:
            apart = place - xy[group[0]]
            if np.linalg.norm(apart - size * np.round(apart / size)) < ONE_COLUMN:
                group.append(i)
                break
        else:
            groups.append([i])
    places = np.array([xy[group[0]][::-1] for group in groups])
    return places, np.array([(period.numbers[group].astype(float) ** 1.7).sum() for group in groups])


def oriented(cell: Atoms, rows: list[tuple[int, int, int]]) -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    """A crystal whose x, y and beam directions are orthogonal lattice vectors, and its number of repeats."""
    rotated = ase.build.make_supercell(cell, np.array(rows))
    standard, _ = rotated.cell.standard_form()
    rotated.set_cell(standard, scale_atoms=True)
    rotated.wrap()
    lengths = rotated.cell.lengths()
    assert np.allclose(rotated.cell.angles(), 90), rotated.cell
    repeats = tuple(
        int(n) for n in np.ceil([WIDTH / lengths[0], WIDTH / lengths[1], THICKNESS / lengths[2]] - 0.2 * np.ones(3))
    )
    return rotated, repeats, THICK


def gold() -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    cell = ase.build.bulk("Au", "fcc", a=4.078)
    # primitive vectors (0 1 1), (1 0 1), (1 1 0): x along [0 0 1], y along [1 -1 0] / 2, the beam along [1 1 0] / 2
    return oriented(cell, [(1, 1, -1), (-1, 1, 0), (0, 0, 1)])


def gallium_nitride() -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    cell = ase.build.bulk("GaN", "wurtzite", a=3.189, c=5.185, u=0.377)
    return oriented(
        cell, [(0, 0, 1), (1, -1, 0), (1, 1, 0)] if cell.cell.angles()[2] > 90 else [(0, 0, 1), (1, 1, 0), (-1, 1, 0)]
    )


def anatase() -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    from ase.spacegroup import crystal

    cell = crystal(
        ("Ti", "O"),
        [(0, 0, 0), (0, 0, 0.2081)],
        spacegroup=141,
        cellpar=[3.7845, 3.7845, 9.5143, 90, 90, 90],
    )
    return oriented(cell, [(0, 0, 1), (0, 1, 0), (-1, 0, 0)])


def diselenide() -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    layer = ase.build.mx2("WSe2", kind="2H", a=3.282, thickness=3.34, vacuum=3.0)
    sheet = rectangular(layer) * (6, 4, 1)
    selenium = [i for i, atom in enumerate(sheet) if atom.symbol == "Se"]
    middle = sheet.cell.lengths()[:2] / 2
    upper = min(
        (i for i in selenium if sheet.positions[i, 2] > sheet.positions[:, 2].mean()),
        key=lambda i: np.linalg.norm(sheet.positions[i, :2] - middle),
    )
    del sheet[upper]
    return sheet, (1, 1, 1), THIN


def graphene() -> tuple[Atoms, tuple[int, int, int], dict[str, float]]:
    layer = ase.build.graphene(a=2.46, vacuum=3.0)
    sheet = rectangular(layer) * (8, 5, 1)
    middle = sheet.cell.lengths()[:2] / 2
    nearest = int(np.argmin(np.linalg.norm(sheet.positions[:, :2] - middle, axis=1)))
    sheet.symbols[nearest] = "Si"
    return sheet, (1, 1, 1), THIN


def rectangular(layer: Atoms) -> Atoms:
    """A hexagonal layer in a cell with right angles."""
    rows = [(1, 0, 0), (1, 2, 0), (0, 0, 1)] if layer.cell.angles()[2] > 90 else [(1, 0, 0), (-1, 2, 0), (0, 0, 1)]
    rotated = ase.build.make_supercell(layer, np.array(rows))
    standard, _ = rotated.cell.standard_form()
    rotated.set_cell(standard, scale_atoms=True)
    rotated.wrap()
    assert np.allclose(rotated.cell.angles(), 90), rotated.cell
    return rotated


CRYSTALS = {
    "gold_110": gold,
    "gallium_nitride_11-20": gallium_nitride,
    "anatase_100": anatase,
    "tungsten_diselenide": diselenide,
    "graphene_silicon": graphene,
}


if __name__ == "__main__":
    main()
