"""Truth tests: images in which something is planted that a method may invent, lose or move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit import NoiseModel, PointwiseNoise, STEMSynthesizer
from stemkit.benchmark import scores
from stemkit.synthesis import (
    Columns,
    cut,
    half_plane,
    inserted,
    lattice,
    planar_cell,
    removed,
    shifted,
    some,
    substituted,
)

__all__ = ["TRUTHS", "Truth"]

SHAPE, SPACING, SIGMA = (256, 256), 16.0, 2.6
#: The crystal is turned by this many degrees; the edges of its cell, (y, x) px.
ANGLE = 17.0
_COS, _SIN = np.cos(np.deg2rad(ANGLE)), np.sin(np.deg2rad(ANGLE))
EDGES = SPACING * np.sqrt(2) * np.array([(_SIN, _COS), (_COS, -_SIN)])
#: Electrons between the columns, for each at a column.
DARK = 0.1
#: Part of the columns that are changed, the shift in px, and how far from the border columns are judged.
PART, SHIFT, BORDER = 0.08, 1.5, 14.0
#: The spread of the columns' heights.
SPREAD = 0.2


@dataclass(frozen=True)
class Truth:
    """An image with its truth, and how a method is judged on it.

    Parameters
    ----------
    name : str
    plant : callable
        From a perfect crystal and a generator to what is recorded.
    judge : callable
        From the perfect crystal, the planted one, the image that a method gave, the table of its columns, and the dose
        to a dict of scores.
    """

    name: str
    plant: Callable[[Columns, torch.Generator], Columns]
    judge: Callable[[Columns, Columns, xr.DataArray, pd.DataFrame, float], dict[str, float]]

    def record(self, dose: float, seed: int) -> tuple[Columns, Columns, xr.Dataset]:
        """The perfect crystal, what is planted, and one recording at a dose."""
        # one for what is planted, one for the noise; the same for the same test however many there are
        key = [seed, *self.name.encode(), round(1000 * dose)]
        place, noisy = (int(n) for n in np.random.SeedSequence(key).generate_state(2))
        generator = torch.Generator().manual_seed(place)
        origin = torch.rand(2, generator=generator).tolist()
        cell = planar_cell("square", basis=[(0, 0), (0.5, 0.5)], amplitude=[1.0, 0.6])
        crystal = lattice(cell, SHAPE, spacing=SPACING, sigma=SIGMA, angle=ANGLE, origin=(origin[0], origin[1]))
        planted = self.plant(crystal, generator)
        noise = NoiseModel(1.0, 0.0, pointwise=PointwiseNoise.counted(dose, background=DARK * dose))
        synthesizer = STEMSynthesizer(shape=SHAPE, noise=noise, random_state=noisy)
        return crystal, planted, synthesizer.record(planted).isel(image=0)


# --- what is planted ---------------------------------------------------------------------------------------------


def _minor(columns: Columns, part: float, g: torch.Generator) -> torch.Tensor:
    """Some columns of the dimmer sublattice, away from the border."""
    return some(columns, part, g) & (columns.species == 1) & _inner(columns)


def _vacancies(columns: Columns, g: torch.Generator) -> Columns:
    return removed(columns, _minor(columns, PART, g))


def _interstitials(columns: Columns, g: torch.Generator) -> Columns:
    # between two columns of a kind, where there is most room
    host = some(columns, PART / 2, g) & (columns.species == 0) & _inner(columns)
    at = _of(columns, host) + EDGES[0] / 2
    inside = ((at > BORDER) & (at < np.array(SHAPE) - 1 - BORDER)).all(axis=1)
    return inserted(columns, at[inside], 0.5, SIGMA)


def _substitutions(columns: Columns, g: torch.Generator) -> Columns:
    return substituted(columns, _minor(columns, PART, g), amplitude=1.5)


def _shifts(columns: Columns, g: torch.Generator) -> Columns:
    return shifted(columns, _minor(columns, PART, g), 0.0, SHIFT)


def _spread(columns: Columns, g: torch.Generator) -> Columns:
    factor = 1 + SPREAD * torch.randn(columns.y.shape, generator=g, dtype=torch.float64).clamp(-2.5, 2.5)
    return replace(columns, amplitude=columns.amplitude * factor)


def _edge(columns: Columns, g: torch.Generator) -> Columns:
    middle = tuple((n - 1) / 2 for n in SHAPE)
    return cut(columns, half_plane(middle, ANGLE + 360 * float(torch.rand(1, generator=g))))


def _nothing(columns: Columns, g: torch.Generator) -> Columns:
    return columns.where(torch.zeros_like(columns.present))


# --- how it is judged --------------------------------------------------------------------------------------------


def _judge_vacancies(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    gone = crystal.present & ~planted.present
    alike = planted.present & (planted.species == 1) & _inner(planted)
    left = scores.contrast_left(image, _of(crystal, gone), _of(planted, alike), _between(planted))
    return {"contrast left": left, "filled in": _found_at(found, _of(crystal, gone))}


def _judge_interstitials(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    new = _of(planted, _new(crystal, planted))
    bright = planted.present & (planted.species == 0) & _inner(planted)
    shown = scores.contrast_left(image, new, _of(planted, bright), _between(planted))
    # its height is half of that of the brighter columns
    return {"height shown": shown / 0.5, "found": _found_at(found, new)}


def _judge_substitutions(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    changed = planted.defect > 0
    others = (planted.species == 1) & ~changed & _inner(planted)
    low = float(scores.heights(image, _between(planted)).mean())
    bright, usual = (float(scores.heights(image, _of(planted, which)).mean()) - low for which in (changed, others))
    return {"relative height": bright / usual / 1.5}


def _judge_shifts(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    places = _of(planted, planted.defect > 0)
    match = scores.located(found, pd.DataFrame(places, columns=["y_px", "x_px"]), SPACING)
    if len(match.found) == 0:
        return {"found": 0.0}
    ours = found[["y_px", "x_px"]].to_numpy()[match.found]
    bias, rms = scores.shift_errors(ours, places[match.true], (0.0, 1.0))
    height = float(planted.amplitude[planted.defect > 0].mean())
    limit = scores.photon_limit(dose * height, background=DARK * dose)
    return {"found": match.recall, "bias": bias / SHIFT, "rms over limit": rms / limit}


def _judge_spread(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    slopes = {}
    low = float(scores.heights(image, _between(planted)).mean())
    for species in (0, 1):
        which = (planted.species == species) & _inner(planted) & planted.present
        shown = scores.heights(image, _of(planted, which)) - low
        slopes[f"slope of sublattice {species}"] = scores.intensity_slope(shown, planted.amplitude[which].numpy())
    return slopes


def _judge_edge(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    gone = crystal.present & ~planted.present & _inner(crystal)
    there = _of(planted, planted.present & _inner(planted))
    return {"invented beyond": _found_at(found, _of(crystal, gone)), "found": _found_at(found, there)}


def _judge_nothing(
    crystal: Columns, planted: Columns, image: xr.DataArray, found: pd.DataFrame, dose: float
) -> dict[str, float]:
    area = image.size / SPACING**2
    noise = np.sqrt(DARK / dose)
    return {"columns per cell": len(found) / area, "rms over noise": float(np.std(image.values)) / noise}


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


def _of(columns: Columns, which: torch.Tensor) -> NDArray[np.float64]:
    return np.asarray(columns.places[0][which[0]], dtype=float)


def _new(crystal: Columns, planted: Columns) -> torch.Tensor:
    number = torch.arange(planted.y.shape[1])
    return (number >= crystal.y.shape[1])[None] & planted.present


def _between(columns: Columns) -> NDArray[np.float64]:
    """The darkest points, in the middle of the edges between bright columns, away from what has been changed."""
    bright = _of(columns, (columns.species == 0) & (columns.defect == 0) & _inner(columns))
    points = np.concatenate([bright + edge / 2 for edge in EDGES])
    changed = _of(columns, columns.defect > 0)
    if len(changed) == 0:
        return points
    return points[cKDTree(changed).query(points)[0] > 0.8 * SPACING]


def _found_at(found: pd.DataFrame, places: NDArray) -> float:
    """Part of some places at which a column was found."""
    if len(places) == 0:
        return float("nan")
    table = pd.DataFrame(places, columns=["y_px", "x_px"])
    return scores.located(found, table, SPACING).recall if len(found) else 0.0
