"""Displacements of columns compared with those of Atomap and TEMUL: the same columns, the same vectors.

    python benchmarks/structure_others.py IMAGE [--pixel-size NM] [--columns TABLE]

Columns of a perovskite along [001] are measured with ``AtomDetector`` (or read from TABLE, the result of ``stemkit
detect``). Their displacements from the centre of their cage are computed by ``stemkit.structure.cage_displacements``,
Atomap's ``get_polarization_from_second_sublattice`` and, from Atomap's centres, TEMUL's ``find_polarisation_vectors``.
Packages that are not installed are left out: ``pip install atomap temul-toolkit``.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from importlib import metadata, util
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import stemkit
from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser
from stemkit.detection.exports import from_atomap, read_columns, to_atomap
from stemkit.structure import cage_displacements, fit_lattice, sublattices

PM = 1000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path)
    parser.add_argument("--pixel-size", type=float, metavar="NM")
    parser.add_argument("--columns", type=Path, metavar="TABLE")
    arguments = parser.parse_args()
    image = stemkit.read(arguments.image, pixel_size=arguments.pixel_size)
    table = read_columns(arguments.columns) if arguments.columns else measured(image)
    lattice = fit_lattice(table)
    labels = sublattices(table, lattice, 2)
    start = time.process_time()
    ours = cage_displacements(table, labels, lattice=lattice).dropna(subset="displacement")
    print(f"stemkit {stemkit.__version__}: {len(ours)} vectors, {time.process_time() - start:.2f} CPU s")
    errors = ours[["displacement_y_err", "displacement_x_err"]].to_numpy()
    print(f"  median error {np.nanmedian(errors):.2f} pm, median length {ours['displacement'].median():.2f} pm")
    if any(util.find_spec(name) is None for name in ("atomap", "hyperspy")):
        print("atomap is not installed")
        return
    a, b = (atomap_sublattice(table[labels == k], image) for k in (0, 1))
    back = from_atomap([a, b])
    moved = cKDTree(table[["y_px", "x_px"]]).query(back[["y_px", "x_px"]])[0].max()
    print(f"columns to Atomap and back: {len(back)} of {int((labels >= 0).sum())}, moved by {moved:.1e} px at most")
    start = time.process_time()
    places, vectors, centers = atomap_vectors(a, b)
    compare(f"Atomap {metadata.version('atomap')}", ours, places, vectors, image, time.process_time() - start)
    if util.find_spec("temul") is None:
        print("temul-toolkit is not installed")
        return
    start = time.process_time()
    vectors = temul_vectors(places, centers)
    compare(f"TEMUL {metadata.version('temul-toolkit')}", ours, places, vectors, image, time.process_time() - start)


def measured(image):
    return AtomDetector().fit_transform(SFINDenoiser().fit_transform(NoiseCalibrator().fit_transform(image)))


def atomap_sublattice(table: pd.DataFrame, image):
    from atomap.api import Sublattice

    size = image.stem.pixel_size
    with quiet():
        return Sublattice(to_atomap(table), image=image.values, pixel_size=size, units="nm")


def atomap_vectors(a, b) -> tuple[NDArray, NDArray, NDArray]:
    """Columns of B ``(n, 2)``, their displacements from the centres of A, and these centres; (y, x) in px."""
    with quiet():
        a.construct_zone_axes()
        zones = square_pair(a)
        found = np.array(a.get_polarization_from_second_sublattice(*zones, b).metadata.vector_list)
        centers = np.array(a.get_middle_position_list(*zones))[:, ::-1]
    # Atomap's rows are x, y of a centre, and the vector from the nearest column of B to it
    return found[:, 1::-1] - found[:, 3:1:-1], -found[:, 3:1:-1], centers


def square_pair(sublattice) -> list:
    """The two shortest directions of the planes of A: neighbouring columns of the square cage."""
    return list(sublattice.zones_axis_average_distances[:2])


def temul_vectors(places: NDArray, centers: NDArray) -> NDArray:
    """Vectors ``(n, 2)`` from the nearest centres to the columns."""
    with quiet():
        from temul.topotem.polarisation import find_polarisation_vectors

        nearest = centers[cKDTree(centers).query(places)[1]]
        u, v = find_polarisation_vectors(nearest[:, ::-1].tolist(), places[:, ::-1].tolist(), save=None)
    return np.column_stack([v, u])


def compare(name: str, ours: pd.DataFrame, places: NDArray, vectors: NDArray, image, seconds: float) -> None:
    """Print how many vectors of two programs are the same, in pm and in errors."""
    size = image.stem.pixel_size
    origin = [float(image.coords[d][0]) if d in image.coords else 0.0 for d in ("y", "x")]
    distance, row = cKDTree(ours[["y", "x"]]).query(places * size + origin)
    both = distance < size / 10
    difference = vectors[both] * size * PM - ours[["displacement_y", "displacement_x"]].to_numpy()[row[both]]
    in_errors = np.abs(difference / ours[["displacement_y_err", "displacement_x_err"]].to_numpy()[row[both]])
    length = np.hypot(*difference.T)
    print(f"{name}: {len(places)} vectors, {both.sum()} of columns with ours, {seconds:.2f} CPU s")
    print(
        f"  difference: median {np.median(length):.2g} pm, largest {length.max():.2g} pm, "
        f"{100 * (in_errors < 1).all(axis=1).mean():.1f} % within one error"
    )


@contextlib.contextmanager
def quiet():
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


if __name__ == "__main__":
    main()
