"""Crystals of two sublattices with known displacements, and tables of their columns with errors and jitter."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pandas as pd

#: Lattice parameter and width of the columns, nm; pixel size.
A, WIDTH, PIXEL = 0.4, 0.06, 0.01
#: Polar displacement of B, nm (y, x).
POLAR = np.array([0.012, -0.02])
#: Cages: vectors of A, position of B in fractions, number of columns around it.
CAGES = {
    "perovskite": ([[0, 1], [1, 0]], (0.5, 0.5), 4),
    "tetragonal": ([[0, 1], [1.08, 0]], (0.5, 0.5), 4),
    "honeycomb": ([[0, 1], [np.sqrt(3) / 2, 0.5]], (1 / 3, 1 / 3), 3),
    "edge centre": ([[0, 1], [1.5, 0]], (0.5, 0.0), 2),
}


def crystal(kind="perovskite", cells=12, angle=0.1, polar=POLAR):
    """True columns in nm: A labelled 0, B labelled 1, the latter displaced by ``polar``, a vector or a function."""
    vectors, site, _ = CAGES[kind]
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    cell = np.mgrid[0:cells, 0:cells].reshape(2, -1).T - cells / 2
    vectors = A * np.array(vectors) @ turn
    a, b = cell @ vectors, (cell + site) @ vectors
    polar = polar(b) if callable(polar) else np.broadcast_to(polar, b.shape)
    table = pd.DataFrame(np.concatenate([a, b + polar]), columns=["y", "x"])
    return table.assign(label=np.repeat([0, 1], len(cell)), amplitude=np.repeat([2.0, 1.0], len(cell)))


def row_jitter(table, jitter, rng):
    """Displacement ``(n, 2)`` of columns by rows of pixels that are displaced independently, and its RMS."""
    weights = row_weights(table["y"].to_numpy().tobytes())
    shifts = [w @ rng.normal(0, jitter, w.shape[1]) for w in weights]
    return np.stack(shifts, axis=1), [jitter * np.sqrt((w**2).sum(axis=1)) for w in weights]


@lru_cache(maxsize=2)
def row_weights(y):
    """Weights ``(n, n_rows)`` of the rows, along y and x, for columns at these y: noise is drawn for them often."""
    y = np.frombuffer(y)
    t = (np.arange(y.min() - 0.5, y.max() + 0.5, PIXEL) - y[:, None]) / WIDTH
    along_x = np.exp(-(t**2))
    return [w / w.sum(axis=1, keepdims=True) for w in (t**2 * along_x, along_x)]


def measured(true, rng, error=(0.002, 0.005), jitter=0.0):
    """A table with errors, drawn from a range per column, and jitter."""
    errors = rng.uniform(*error, (len(true), 2))
    table = true.drop(columns="label").assign(sigma=WIDTH)
    table[["y", "x"]] += errors * rng.normal(size=errors.shape)
    if jitter:
        shift, rms = row_jitter(true, jitter, rng)
        table[["y", "x"]] += shift
        table["y_jitter"], table["x_jitter"] = rms
    table[["y_err", "x_err"]] = errors
    table.attrs["unit"] = "nm"
    return table


def pulls(result, truth):
    vectors = result[["displacement_y", "displacement_x"]].to_numpy() - 1000 * np.asarray(truth)
    return vectors / result[["displacement_y_err", "displacement_x_err"]].to_numpy()
