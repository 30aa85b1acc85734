"""CPU seconds of the functions of ``stemkit.structure``: ``python benchmarks/structure.py [--columns N]``.

The tables are simulated, with errors of 4 pm and jitter shared by rows: two grains of a square lattice that are rotated
by 12 degrees, dumbbells of silicon, and a honeycomb with vacancies.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit import structure

#: Standard deviation of a position, and width of a column, nm.
ERROR, WIDTH = 0.004, 0.06
#: Lattice parameters, nm: square, silicon, bond of graphene.
SQUARE, SILICON, BOND = 0.4, 0.5431, 0.142
#: Rotation of the second grain, degrees.
ROTATION = 12.0
#: Fraction of the columns of the honeycomb that are missing.
MISSING = 0.01


def field(vectors: NDArray, sites: NDArray, n: int) -> NDArray[np.float64]:
    """About ``n`` columns in a square field."""
    side = np.sqrt(n * abs(np.linalg.det(vectors)) / len(sites))
    reach = int(1.5 * side / np.hypot(*vectors.T).min()) + 2
    cells = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
    whole = np.concatenate([(cells + site) @ vectors for site in sites])
    return whole[(np.abs(whole) < side / 2).all(axis=1)]


def table_of(positions: NDArray, rng: np.random.Generator) -> pd.DataFrame:
    table = pd.DataFrame(positions + rng.normal(0, ERROR, positions.shape), columns=["y", "x"])
    table = table.assign(amplitude=1 + rng.normal(0, 0.05, len(table)), amplitude_err=0.05, sigma=WIDTH)
    table[["y_err", "x_err"]] = ERROR
    table[["y_jitter", "x_jitter"]] = ERROR
    table.attrs["unit"] = "nm"
    return table


def tables(n: int) -> dict[str, pd.DataFrame]:
    rng = np.random.default_rng(0)
    turn = np.radians(ROTATION)
    rotated = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    one = np.array([[0.0, 0.0]])
    left, right = field(SQUARE * np.eye(2), one, n), field(SQUARE * np.eye(2) @ rotated, one, n)
    grains = np.vstack([left[left[:, 1] < 0], right[right[:, 1] > SQUARE / 2]])
    cell = SILICON * np.array([[0, np.sqrt(0.5)], [0.5, np.sqrt(0.125)]])
    first = field(cell, one, n // 2)
    dumbbells = np.vstack([first, first + np.array([SILICON / 4, 0])])
    honeycomb = field(
        BOND * np.sqrt(3) * np.array([[0, 1], [np.sqrt(0.75), 0.5]]), np.array([[0, 0], [1 / 3, 1 / 3]]), n
    )
    honeycomb = honeycomb[rng.random(len(honeycomb)) >= MISSING]
    return {
        "grains": table_of(grains, rng),
        "dumbbells": table_of(dumbbells, rng),
        "honeycomb": table_of(honeycomb, rng),
    }


def timed(call: Callable[[], object]) -> tuple[object, float]:
    start = time.process_time()
    return call(), time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", type=int, default=100_000, help="columns of each table, default 100,000")
    crystals = tables(parser.parse_args().columns)
    grains, silicon, honeycomb = crystals.values()
    lattices, seconds = timed(lambda: structure.fit_lattices(grains))
    rows = [("fit_lattices", len(grains), seconds)]
    found, seconds = timed(lambda: structure.find_grains(grains, lattices))
    rows.append(("find_grains of these", len(grains), seconds))
    rows.append(
        (
            "find_dislocations of one",
            len(grains),
            timed(lambda: structure.find_dislocations(grains, found.lattices[0]))[1],
        )
    )
    pairs, seconds = timed(lambda: structure.dumbbells(silicon))
    rows.append(("dumbbells", len(silicon), seconds))
    rows.append(("mean_distances of these", len(silicon), timed(lambda: structure.mean_distances(silicon, pairs))[1]))
    pairs, seconds = timed(lambda: structure.bonds(honeycomb))
    rows.append(("bonds", len(honeycomb), seconds))
    rows.append(("bond_angles", len(honeycomb), timed(lambda: structure.bond_angles(honeycomb, pairs))[1]))
    rows.append(("rings", len(honeycomb), timed(lambda: structure.rings(honeycomb, pairs))[1]))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print(pd.DataFrame(rows, columns=["function", "columns", "CPU s"]).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
