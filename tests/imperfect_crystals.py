"""Columns of crystals with vacancies, false columns, bending and noise, and the truth about them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from hypothesis import strategies as st
from scipy.spatial import cKDTree

#: Vectors, sites and brightness of crystals, the shortest vector being 1.
CRYSTALS = {
    "square": (np.eye(2)[::-1], [(0, 0)], [1.0]),
    "rectangle": (np.array([[0, 1.0], [1.7, 0]]), [(0, 0)], [1.0]),
    "hexagonal": (np.array([[0, 1.0], [math.sqrt(3) / 2, 0.5]]), [(0, 0)], [1.0]),
    "honeycomb": (np.array([[0, 1.0], [math.sqrt(3) / 2, 0.5]]), [(0, 0), (1 / 3, 1 / 3)], [1.0, 0.6]),
    "perovskite": (np.eye(2)[::-1], [(0, 0), (0.5, 0.5)], [1.0, 0.5]),
    "dumbbells": (np.array([[0, 1.0], [1.41, 0]]), [(0, 0), (0.35, 0.0)], [1.0, 1.0]),
}
SPACING = 20.0
kinds = st.sampled_from(sorted(CRYSTALS))
angles = st.floats(0, math.pi)


class Crystal:
    """Columns of a crystal in px with everything that goes wrong, and the truth about them."""

    def __init__(
        self, kind="square", cells=(16, 16), angle=0.3, noise=0.03, missing=0.0, false=0.0, bend=0.0, stretch=0.0,
        islands=False, seed=0,
    ):  # fmt: skip
        rng = np.random.default_rng(seed)
        vectors, sites, brightness = CRYSTALS[kind]
        turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        self.vectors = SPACING * vectors @ turn
        reach = 2 * max(cells)
        cell = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T
        ideal = np.concatenate([(cell + np.array(s)) @ self.vectors for s in sites])
        self.site = np.repeat(np.arange(len(sites)), len(cell))
        size = SPACING * np.array(cells)
        inside = (np.abs(ideal) <= size / 2).all(axis=1)
        if islands:
            inside &= (np.abs(np.abs(ideal[:, 1]) - size[1] / 4) < 0.19 * size[1]) & (np.abs(ideal[:, 0]) < size[0] / 3)
        ideal, self.site = ideal[inside], self.site[inside]
        self.nearest = nearest(ideal)
        at = _bent(ideal, bend, stretch, size)
        at = at + rng.normal(0, noise * self.nearest, at.shape)
        amplitude = np.array(brightness)[self.site] * rng.normal(1, 0.04, len(at))
        there = rng.random(len(at)) >= missing
        extra = rng.uniform(at.min(axis=0), at.max(axis=0), (round(false * len(at)), 2))
        self.gone, self.gone_site = at[~there] + size, self.site[~there]
        self.site = np.concatenate([self.site[there], np.full(len(extra), -1)])
        order = rng.permutation(len(self.site))
        self.site = self.site[order]
        self.positions = np.concatenate([at[there], extra])[order] + size
        brightness = np.concatenate([amplitude[there], rng.uniform(0.3, 1, len(extra))])[order]
        self.table = pd.DataFrame({"y": self.positions[:, 0], "x": self.positions[:, 1], "amplitude": brightness})

    def check(self, lattice, accuracy=0.01, wrong=0.02):
        """The lattice is the true one, and columns belong where they came from, but for a share of them."""
        change = lattice.vectors @ np.linalg.inv(self.vectors)
        assert np.round(abs(np.linalg.det(change))) == 1
        assert np.abs(change - np.round(change)).max() < accuracy
        assert len(lattice.sites) == self.site.max() + 1
        real = self.site >= 0
        counts = pd.crosstab(self.site[real], lattice.site[real]).reindex(columns=range(len(lattice.sites))).fillna(0)
        assert len(set(counts.to_numpy().argmax(axis=1))) == len(lattice.sites)
        assert counts.to_numpy().max(axis=1).sum() >= (1 - wrong) * real.sum()


def _bent(at, bend, stretch, size):
    """Rows of columns on circles that turn by ``bend`` across the field, and x stretched by it to one side."""
    at = at.copy()
    at[:, 1] += stretch * np.where(at[:, 1] > 0, at[:, 1], 0)
    if bend:
        radius = size[1] / bend
        turn = at[:, 1] / radius
        at = np.stack([radius - (radius - at[:, 0]) * np.cos(turn), (radius - at[:, 0]) * np.sin(turn)], axis=1)
    return at


def nearest(positions):
    return float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))


def square_table():
    return Crystal("square", (6, 6)).table


def inner(positions, margin):
    low, high = positions.min(axis=0) + margin, positions.max(axis=0) - margin
    return lambda at: ((at > low) & (at < high)).all(axis=1)
