"""Truth tests: images in which something is planted that a method may invent, lose or move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.images import mode_sign
from stemkit.synthesis import (
    Cell,
    Columns,
    Defect,
    cropped,
    half_plane,
    inserted,
    lattice,
    lattice_vectors,
    planar_cell,
    removed,
    shifted,
    subset,
    substituted,
)

__all__ = ["HOSTS", "TRUTHS", "Host", "Planted", "Truth"]

SHAPE = (256, 256)
#: Crystals are turned by this many degrees.
ANGLE = 17.0
#: Electrons where there is no column, for each that a column adds, or takes away in bright field.
ELECTRONS = {"haadf": 0.1, "bf": 1.5}
#: Part of the columns that are changed, the shift in px, and how far from the border columns are judged.
PART, SHIFT, BORDER = 0.08, 1.5, 14.0
#: The spread of the columns' heights.
SPREAD = 0.2


@dataclass(frozen=True)
class Host:
    """A perfect crystal of two sublattices, the second dimmer, in which something is planted.

    Parameters
    ----------
    cell : Cell
    spacing, sigma : float
        Distance of nearest columns and their width, px.
    between : tuple of (float, float)
        From a brighter column to the darkest points, in fractions of the cell's vectors; an atom finds room at the
        first.
    """

    cell: Cell
    spacing: float
    sigma: float
    between: tuple[tuple[float, float], ...]

    def columns(self, origin: Sequence[float]) -> Columns:
        start = (float(origin[0]), float(origin[1]))
        return lattice(self.cell, SHAPE, spacing=self.spacing, sigma=self.sigma, angle=ANGLE, origin=start)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Of the unit cell, (y, x) in px."""
        return lattice_vectors(self.cell, torch.tensor([self.spacing], dtype=torch.float64), ANGLE)[0].numpy()

    @property
    def offsets(self) -> NDArray[np.float64]:
        """``between``, (y, x) in px."""
        return np.array(self.between) @ self.vectors

    @property
    def cell_area(self) -> float:
        """Of the unit cell, px^2."""
        return float(abs(np.linalg.det(self.vectors)))


HOSTS = {
    "square": Host(
        planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6]), 16.0, 2.6, ((0.5, 0.0), (0.0, 0.5))
    ),
    "honeycomb": Host(
        planar_cell("hexagonal", basis=[(0, 0), (1 / 3, 1 / 3)], amplitude=[1.0, 0.6]), 12.0, 2.2, ((2 / 3, 2 / 3),)
    ),
}


@dataclass(frozen=True)
class Planted:
    """What was recorded, and what it is of.

    Parameters
    ----------
    host : Host
    mode : {"haadf", "bf"}
    dose : float
        Electrons per pixel that the brightest column adds, or takes away in bright field.
    crystal, columns : Columns
        The perfect crystal, and what became of it.
    pair : Dataset
        One image: ``noisy``, ``enhance``, ``detect``, ``superresolve``.
    """

    host: Host
    mode: str
    dose: float
    crystal: Columns
    columns: Columns
    pair: xr.Dataset

    @property
    def electrons(self) -> float:
        """Expected electrons per pixel where there is no column."""
        return ELECTRONS[self.mode] * self.dose

    def at(self, which: torch.Tensor) -> NDArray[np.float64]:
        """Places of some columns."""
        return _places(self.columns, which)

    @property
    def gone(self) -> NDArray[np.float64]:
        """Where columns were, away from the border."""
        return _places(self.crystal, self.crystal.present & ~self.columns.present & _inner(self.crystal))

    @property
    def between(self) -> NDArray[np.float64]:
        """The darkest points, away from what has been changed."""
        whole = self.columns.defect == 0
        bright = self.at(self.columns.present & (self.columns.species == 0) & whole & _inner(self.columns))
        points = np.concatenate([bright + offset for offset in self.host.offsets])
        changed = self.at(~whole)
        return points[cKDTree(changed).query(points)[0] > 0.8 * self.host.spacing] if len(changed) else points

    def true_heights(self, places: NDArray) -> NDArray[np.float64]:
        """By how much the truth stands above the darkest points at some places."""
        clean, sign = self.pair["enhance"], mode_sign(self.mode)
        return scores.heights(clean, places, sign=sign) - scores.heights(clean, self.between, sign=sign).mean()

    def found_at(self, found: pd.DataFrame, places: NDArray) -> float:
        """Part of some places at which a column was found."""
        if len(places) == 0:
            return float("nan")
        table = pd.DataFrame(places, columns=["y_px", "x_px"])
        return scores.located(found, table, self.host.spacing).recall if len(found) else 0.0


@dataclass(frozen=True)
class Truth:
    """Something that is planted, and how a method is judged on it.

    Parameters
    ----------
    name : str
    plant : callable
        From the host, the perfect crystal and a generator to what is recorded.
    judge : callable
        From what was planted, the image that a method gave, its columns bright in bright field, too, and the table of
        columns in it, to a dict of scores.
    """

    name: str
    plant: Callable[[Host, Columns, torch.Generator], Columns]
    judge: Callable[[Planted, xr.DataArray, pd.DataFrame], dict[str, float]]

    def record(self, dose: float, seed: int, *, host: str = "square", mode: str = "haadf") -> Planted:
        """Plant it in one of ``HOSTS`` and record it at a dose."""
        if host not in HOSTS:
            raise ValueError(f"host must be one of {', '.join(map(repr, HOSTS))}, but is {host!r}")
        if mode not in ELECTRONS:
            raise ValueError(f"mode must be one of {', '.join(map(repr, ELECTRONS))}, but is {mode!r}")
        # one for what is planted, one for the noise; the same for the same test however many there are
        key = [seed, *self.name.encode(), *host.encode(), *mode.encode(), round(1000 * dose)]
        place, noisy = (int(n) for n in np.random.SeedSequence(key).generate_state(2))
        generator = torch.Generator().manual_seed(place)
        crystal = HOSTS[host].columns(torch.rand(2, generator=generator).tolist())
        columns = self.plant(HOSTS[host], crystal, generator)
        counts = PointwiseNoise.counted(dose, background=ELECTRONS[mode] * dose, mode=mode)
        noise = NoiseModel(1.0, 0.0, mode, pointwise=counts)
        pair = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=noisy).record(columns).isel(image=0)
        return Planted(HOSTS[host], mode, dose, crystal, columns, pair.drop_vars("arrangement"))


# --- what is planted ---------------------------------------------------------------------------------------------


def _minor(columns: Columns, part: float, g: torch.Generator) -> torch.Tensor:
    """Some columns of the dimmer sublattice, away from the border."""
    return subset(columns, part, g) & (columns.species == 1) & _inner(columns)


def _vacancies(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return removed(columns, _minor(columns, PART, g))


def _interstitials(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    near = subset(columns, PART / 2, g) & (columns.species == 0) & _inner(columns)
    at = _places(columns, near) + host.offsets[0]
    inside = ((at > BORDER) & (at < np.array(SHAPE) - 1 - BORDER)).all(axis=1)
    return inserted(columns, at[inside], 0.5, host.sigma)


def _substitutions(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return substituted(columns, _minor(columns, PART, g), amplitude=1.5)


def _shifts(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return shifted(columns, _minor(columns, PART, g), 0.0, SHIFT)


def _spread(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    factor = 1 + SPREAD * torch.randn(columns.y.shape, generator=g, dtype=torch.float64).clamp(-2.5, 2.5)
    return replace(columns, amplitude=columns.amplitude * factor)


def _edge(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    middle = tuple((n - 1) / 2 for n in SHAPE)
    return cropped(columns, half_plane(middle, ANGLE + 360 * float(torch.rand(1, generator=g))))


def _nothing(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return columns.where(torch.zeros_like(columns.present))


# --- how it is judged --------------------------------------------------------------------------------------------


def _judge_vacancies(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    columns = planted.columns
    alike = planted.at(columns.present & (columns.species == 1) & _inner(columns))
    contrast = float(planted.true_heights(alike).mean())
    left = scores.contrast_left(image, planted.gone, alike, planted.between, contrast=contrast)
    return {"contrast left": left, "filled in": planted.found_at(found, planted.gone)}


def _judge_interstitials(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    columns = planted.columns
    new = planted.at(columns.present & (columns.defect == Defect.INTERSTITIAL))
    # the part of what there is
    contrast = float(planted.true_heights(new).mean())
    shown = scores.contrast_left(image, new, new, planted.between, contrast=contrast)
    return {"height shown": shown, "found": planted.found_at(found, new)}


def _judge_substitutions(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    changed = planted.columns.defect > 0
    others = (planted.columns.species == 1) & ~changed & _inner(planted.columns)
    bright, usual = planted.at(changed), planted.at(others)
    shown = scores.heights(image, bright).mean() - scores.heights(image, usual).mean()
    true = planted.true_heights(bright).mean() - planted.true_heights(usual).mean()
    return {"difference shown": float(shown / true)}


def _judge_shifts(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    changed = planted.columns.defect > 0
    places = planted.at(changed)
    match = scores.located(found, pd.DataFrame(places, columns=["y_px", "x_px"]), planted.host.spacing)
    if len(match.found) == 0:
        return {"found": 0.0, "bias": float("nan"), "rms over limit": float("nan")}
    ours = found[["y_px", "x_px"]].to_numpy()[match.found]
    bias, rms = scores.shift_errors(ours, places[match.true], (0.0, 1.0))
    height = float(planted.columns.amplitude[changed].mean())
    limit = scores.photon_limit(planted.dose * height, background=planted.electrons, mode=planted.mode)
    return {"found": match.recall, "bias": bias / SHIFT, "rms over limit": rms / limit}


def _judge_spread(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    slopes, columns = {}, planted.columns
    for species in (0, 1):
        at = planted.at((columns.species == species) & _inner(columns) & columns.present)
        slope = scores.intensity_slope(scores.heights(image, at), planted.true_heights(at))
        slopes[f"slope of sublattice {species}"] = slope
    return slopes


def _judge_edge(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    there = planted.at(planted.columns.present & _inner(planted.columns))
    return {"invented beyond": planted.found_at(found, planted.gone), "found": planted.found_at(found, there)}


def _judge_nothing(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    noise = np.sqrt(planted.electrons) / planted.dose
    cells = image.size / planted.host.cell_area
    return {"columns per cell": len(found) / cells, "rms over noise": float(np.std(image.values)) / noise}


TRUTHS = {
    truth.name: truth
    for truth in (
        Truth("vacancies", _vacancies, _judge_vacancies),
        Truth("interstitials", _interstitials, _judge_interstitials),
        Truth("substitutions", _substitutions, _judge_substitutions),
        Truth("shifted columns", _shifts, _judge_shifts),
        Truth("spread of heights", _spread, _judge_spread),
        Truth("edge", _edge, _judge_edge),
        Truth("nothing", _nothing, _judge_nothing),
    )
}


# --- steps -------------------------------------------------------------------------------------------------------


def _inner(columns: Columns) -> torch.Tensor:
    y_in = (columns.y > BORDER) & (columns.y < SHAPE[0] - 1 - BORDER)
    return y_in & (columns.x > BORDER) & (columns.x < SHAPE[1] - 1 - BORDER)


def _places(columns: Columns, which: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(columns.places[0][which[0]], dtype=float)
