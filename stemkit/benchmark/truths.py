"""Planted structures: crystals with vacancies, shifts and other changes that a method may invent, lose or move."""

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
from stemkit.images.mode import mode_sign
from stemkit.parameters import check_option
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

#: Shape of the images, px (chosen).
SHAPE = (256, 256)
#: Angle of the crystals' first lattice vector to the x axis, degrees (chosen).
ANGLE = 17.0
#: Electrons per pixel without a column, relative to those that a column adds or, in bright field, removes (chosen).
RELATIVE_BACKGROUND = {"haadf": 0.1, "bf": 1.5}
#: Fraction of the columns that is changed (chosen).
CHANGED_FRACTION = 0.08
#: Displacement of shifted columns along x, px (chosen).
SHIFT_X = 1.5
#: Columns closer than this to the border are neither changed nor scored, px (chosen).
BORDER = 14.0
#: Standard deviation of the columns' relative amplitudes (chosen).
AMPLITUDE_STD = 0.2
#: Number of standard deviations at which these amplitudes are clipped (chosen).
AMPLITUDE_CLIP = 2.5
#: Amplitude of an interstitial, in the unit of the amplitudes of the host's columns (chosen).
INTERSTITIAL_AMPLITUDE = 0.5
#: Factor of the amplitude of a substituted column (chosen).
SUBSTITUTED_FACTOR = 1.5
#: Gaps closer than this to a changed column, in spacings, are not used for the background (chosen).
MIN_GAP_DISTANCE = 0.8


@dataclass(frozen=True)
class Host:
    """A perfect crystal of two sublattices, the second one fainter.

    Parameters
    ----------
    cell : Cell
    spacing, sigma : float
        Distance of nearest columns, and column width, px.
    gaps : tuple of (float, float)
        Vectors from a brighter column to the darkest points, in fractions of the cell's vectors. Interstitials are
        inserted at the first.
    """

    cell: Cell
    spacing: float
    sigma: float
    gaps: tuple[tuple[float, float], ...]

    def columns(self, origin: Sequence[float]) -> Columns:
        """The columns of one image, with the origin (y, x) of the lattice in fractions of the cell."""
        start = (float(origin[0]), float(origin[1]))
        return lattice(self.cell, SHAPE, spacing=self.spacing, sigma=self.sigma, angle=ANGLE, origin=start)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """Lattice vectors, one per row, (y, x) in px."""
        return lattice_vectors(self.cell, torch.tensor([self.spacing], dtype=torch.float64), ANGLE)[0].numpy()

    @property
    def gap_offsets(self) -> NDArray[np.float64]:
        """``gaps``, (y, x) in px."""
        return np.array(self.gaps) @ self.vectors

    @property
    def cell_area(self) -> float:
        """Area of the unit cell, px^2."""
        return float(abs(np.linalg.det(self.vectors)))


#: Perfect crystals in which structures are planted, by name.
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
    """A recorded crystal with a planted structure.

    Parameters
    ----------
    host : Host
    mode : {"haadf", "bf"}
    dose : float
        Electrons per pixel that the brightest column adds, or removes in bright field.
    crystal : Columns
        The perfect crystal.
    columns : Columns
        The crystal with the planted structure.
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
    def background(self) -> float:
        """Expected electrons per pixel without a column."""
        return RELATIVE_BACKGROUND[self.mode] * self.dose

    def positions(self, which: torch.Tensor) -> NDArray[np.float64]:
        """Positions (y, x), px, of the columns selected by a boolean tensor."""
        return _positions(self.columns, which)

    @property
    def removed_positions(self) -> NDArray[np.float64]:
        """Positions (y, x), px, of removed columns away from the border."""
        return _positions(self.crystal, self.crystal.present & ~self.columns.present & _inner(self.crystal))

    @property
    def gap_positions(self) -> NDArray[np.float64]:
        """The darkest points (y, x), px, away from changed columns."""
        unchanged = self.columns.defect == 0
        bright = self.columns.present & (self.columns.species == 0) & unchanged & _inner(self.columns)
        points = np.concatenate([self.positions(bright) + offset for offset in self.host.gap_offsets])
        changed = self.positions(~unchanged)
        if len(changed) == 0:
            return points
        return points[cKDTree(changed).query(points)[0] > MIN_GAP_DISTANCE * self.host.spacing]

    def true_intensities(self, positions: NDArray) -> NDArray[np.float64]:
        """Intensities of the true image at some positions, above its darkest points."""
        true_image, sign = self.pair["enhance"], mode_sign(self.mode)
        level = scores.values_at(true_image, self.gap_positions, sign=sign).mean()
        return scores.values_at(true_image, positions, sign=sign) - level

    def fraction_found(self, found: pd.DataFrame, positions: NDArray) -> float:
        """Fraction of some positions at which a column was found; NaN without positions."""
        if len(positions) == 0:
            return float("nan")
        table = pd.DataFrame(positions, columns=scores.POSITION)
        return scores.match_tables(found, table, self.host.spacing).recall if len(found) else 0.0


@dataclass(frozen=True)
class Truth:
    """A structure that is planted in a crystal, and the scores of a method on it.

    Parameters
    ----------
    name : str
    plant : callable
        Function of the host, the columns of the perfect crystal and a generator; returns the columns that are recorded.
    judge : callable
        Function of the planted structure, a method's image (with bright columns in both modes) and the table of columns
        in it; returns scores by name.
    """

    name: str
    plant: Callable[[Host, Columns, torch.Generator], Columns]
    judge: Callable[[Planted, xr.DataArray, pd.DataFrame], dict[str, float]]

    def record(self, dose: float, seed: int, *, host: str = "square", mode: str = "haadf") -> Planted:
        """Plant the structure in a crystal and record it.

        Parameters
        ----------
        dose : float
            Electrons per pixel that the brightest column adds, or removes in bright field.
        seed : int
        host : {"square", "honeycomb"}
        mode : {"haadf", "bf"}

        Returns
        -------
        Planted

        Raises
        ------
        ValueError
            If `host` or `mode` is unknown.
        """
        check_option("host", host, HOSTS)
        check_option("mode", mode, RELATIVE_BACKGROUND)
        # the name is part of the seed, so that further structures do not change the images of the others
        key = [seed, *self.name.encode(), *host.encode(), *mode.encode(), round(1000 * dose)]
        structure_seed, noise_seed = (int(n) for n in np.random.SeedSequence(key).generate_state(2))
        generator = torch.Generator().manual_seed(structure_seed)
        crystal = HOSTS[host].columns(torch.rand(2, generator=generator).tolist())
        columns = self.plant(HOSTS[host], crystal, generator)
        counts = PointwiseNoise.counted(dose, background=RELATIVE_BACKGROUND[mode] * dose, mode=mode)
        noise = NoiseModel(1.0, 0.0, mode, pointwise=counts)
        pair = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=noise_seed).record(columns).isel(image=0)
        return Planted(HOSTS[host], mode, dose, crystal, columns, pair.drop_vars("arrangement"))


# --- planted structures ------------------------------------------------------------------------------------------


def _faint(columns: Columns, fraction: float, g: torch.Generator) -> torch.Tensor:
    """A random fraction of the columns, of which those of the fainter sublattice away from the border are selected."""
    return subset(columns, fraction, g) & (columns.species == 1) & _inner(columns)


def _vacancies(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return removed(columns, _faint(columns, CHANGED_FRACTION, g))


def _interstitials(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    near = subset(columns, CHANGED_FRACTION / 2, g) & (columns.species == 0) & _inner(columns)
    at = _positions(columns, near) + host.gap_offsets[0]
    inside = ((at > BORDER) & (at < np.array(SHAPE) - 1 - BORDER)).all(axis=1)
    return inserted(columns, at[inside], INTERSTITIAL_AMPLITUDE, host.sigma)


def _substitutions(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return substituted(columns, _faint(columns, CHANGED_FRACTION, g), amplitude=SUBSTITUTED_FACTOR)


def _shifts(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return shifted(columns, _faint(columns, CHANGED_FRACTION, g), 0.0, SHIFT_X)


def _spread_amplitudes(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    z = torch.randn(columns.y.shape, generator=g, dtype=torch.float64).clamp(-AMPLITUDE_CLIP, AMPLITUDE_CLIP)
    return replace(columns, amplitude=columns.amplitude * (1 + AMPLITUDE_STD * z))


def _edge(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    middle = tuple((n - 1) / 2 for n in SHAPE)
    return cropped(columns, half_plane(middle, ANGLE + 360 * float(torch.rand(1, generator=g))))


def _nothing(host: Host, columns: Columns, g: torch.Generator) -> Columns:
    return columns.where(torch.zeros_like(columns.present))


# --- scores ------------------------------------------------------------------------------------------------------


def _judge_vacancies(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    columns, empty = planted.columns, planted.removed_positions
    full = planted.positions(columns.present & (columns.species == 1) & _inner(columns))
    contrast = float(planted.true_intensities(full).mean())
    left = scores.remaining_contrast(image, empty, full, planted.gap_positions, contrast=contrast)
    return {"contrast left": left, "filled in": planted.fraction_found(found, empty)}


def _judge_interstitials(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    columns = planted.columns
    new = planted.positions(columns.present & (columns.defect == Defect.INTERSTITIAL))
    contrast = float(planted.true_intensities(new).mean())
    height = scores.remaining_contrast(image, new, new, planted.gap_positions, contrast=contrast)
    return {"height shown": height, "found": planted.fraction_found(found, new)}


def _judge_substitutions(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    is_changed = planted.columns.defect > 0
    is_other = (planted.columns.species == 1) & ~is_changed & _inner(planted.columns)
    changed, others = planted.positions(is_changed), planted.positions(is_other)
    difference = scores.values_at(image, changed).mean() - scores.values_at(image, others).mean()
    true = planted.true_intensities(changed).mean() - planted.true_intensities(others).mean()
    return {"difference shown": float(difference / true)}


def _judge_shifts(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    is_changed = planted.columns.defect > 0
    true = planted.positions(is_changed)
    match = scores.match_tables(found, pd.DataFrame(true, columns=scores.POSITION), planted.host.spacing)
    if len(match.found) == 0:
        return {"found": 0.0, "bias": float("nan"), "rms over limit": float("nan")}
    matched = found[scores.POSITION].to_numpy()[match.found]
    bias, rms = scores.shift_errors(matched, true[match.true], (0.0, 1.0))
    height = float(planted.columns.amplitude[is_changed].mean())
    limit = scores.position_error_limit(planted.dose * height, background=planted.background, mode=planted.mode)
    return {"found": match.recall, "bias": bias / SHIFT_X, "rms over limit": rms / limit}


def _judge_amplitudes(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    slopes, columns = {}, planted.columns
    for species in (0, 1):
        at = planted.positions((columns.species == species) & _inner(columns) & columns.present)
        slope = scores.intensity_slope(scores.values_at(image, at), planted.true_intensities(at))
        slopes[f"slope of sublattice {species}"] = slope
    return slopes


def _judge_edge(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    present = planted.positions(planted.columns.present & _inner(planted.columns))
    return {
        "invented beyond": planted.fraction_found(found, planted.removed_positions),
        "found": planted.fraction_found(found, present),
    }


def _judge_nothing(planted: Planted, image: xr.DataArray, found: pd.DataFrame) -> dict[str, float]:
    noise = np.sqrt(planted.background) / planted.dose
    cells = image.size / planted.host.cell_area
    return {"columns per cell": len(found) / cells, "rms over noise": float(np.std(image.values)) / noise}


#: Planted structures and what is judged of them, by name.
TRUTHS = {
    truth.name: truth
    for truth in (
        Truth("vacancies", _vacancies, _judge_vacancies),
        Truth("interstitials", _interstitials, _judge_interstitials),
        Truth("substitutions", _substitutions, _judge_substitutions),
        Truth("shifted columns", _shifts, _judge_shifts),
        Truth("spread of heights", _spread_amplitudes, _judge_amplitudes),
        Truth("edge", _edge, _judge_edge),
        Truth("nothing", _nothing, _judge_nothing),
    )
}


# --- steps -------------------------------------------------------------------------------------------------------


def _inner(columns: Columns) -> torch.Tensor:
    y_in = (columns.y > BORDER) & (columns.y < SHAPE[0] - 1 - BORDER)
    return y_in & (columns.x > BORDER) & (columns.x < SHAPE[1] - 1 - BORDER)


def _positions(columns: Columns, which: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(columns.places[0][which[0]], dtype=float)
