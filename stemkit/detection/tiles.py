"""Columns of large images: the search in overlapping tiles, which limits its memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.images.mode import resolve_mode
from stemkit.images.pixel_size import mean_pixel_size
from stemkit.images.provenance import check_noise_attr, recorded_image
from stemkit.noise import NoiseCalibrator

__all__ = ["CONSTANTS", "find_in_tiles", "image_tiles", "is_large"]


@dataclass(frozen=True)
class _Constants:
    """Sizes of the tiles in which a large image is searched."""

    #: Number of pixels above which an image is divided (chosen: a search takes up to 80 bytes per pixel).
    largest_search: int = 2**25
    #: Largest edge of a tile without its margins, px (chosen: memory).
    edge: int = 3072
    #: Width of the margins on which neighbouring tiles overlap, px and spacings, whichever is larger (chosen: filters
    #: and fits reach a few spacings).
    margin: int = 96
    margin_spacings: float = 6.0
    #: Distance beyond a tile's own area within which its columns are kept at first, px (chosen: above the difference
    #: between a column's positions in two tiles).
    slack: float = 1.0


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Tile:
    """A part of an image: the pixels that are searched, and those whose columns belong to the tile."""

    searched: tuple[slice, slice]
    own: tuple[slice, slice]


def image_tiles(shape: tuple[int, ...], margin: int) -> Iterator[Tile]:
    """Tiles that cover an image of this shape, row by row."""
    axes = []
    for n in shape:
        count = math.ceil(n / CONSTANTS.edge)
        ends = [n * i // count for i in range(count + 1)]
        axes.append([(slice(max(0, a - margin), min(n, b + margin)), slice(a, b)) for a, b in pairwise(ends)])
    for (searched_y, own_y), (searched_x, own_x) in product(*axes):
        yield Tile((searched_y, searched_x), (own_y, own_x))


def is_large(image: xr.DataArray) -> bool:
    """Whether an image is searched in tiles."""
    return image.size > CONSTANTS.largest_search


def find_in_tiles(
    image: xr.DataArray, mode: str | None, spacing: float, find: Callable[[xr.DataArray], pd.DataFrame]
) -> list[pd.DataFrame]:
    """Tables of the columns of a large image, one per tile, with positions in the whole image.

    Parameters
    ----------
    image : DataArray with dims ``("y", "x")``
    mode : {"haadf", "bf"} or None
        Bright or dark columns; None: that of the image, or inferred from it.
    spacing : float
        Spacing of the columns in the unit of the image's coordinates; may be NaN.
    find : callable
        Function from a part of the image to the table of its columns.

    Notes
    -----
    Mode and noise are those of the whole image. Neighbouring tiles overlap, so that columns near the border of a tile
    are measured as in the whole image. A column on the border between two tiles is kept once.
    """
    image = _with_noise(image, mode)
    spacing /= mean_pixel_size(image)
    margin = max(CONSTANTS.margin, math.ceil(CONSTANTS.margin_spacings * spacing) if np.isfinite(spacing) else 0)
    tables: list[pd.DataFrame] = []
    border = np.empty((0, 2))
    for tile in image_tiles(image.shape, margin):
        searched = image.isel(y=tile.searched[0], x=tile.searched[1])
        table = find(searched)
        for dim, part in zip(("y", "x"), tile.searched, strict=True):
            if dim not in image.coords:
                table[dim] += part.start  # in px
            table[f"{dim}_px"] += part.start
        positions = table[["y_px", "x_px"]].to_numpy()
        kept = _distance_outside(positions, tile, image.shape) <= CONSTANTS.slack
        if len(border) and len(positions):
            kept &= cKDTree(border).query(positions)[0] > 2 * CONSTANTS.slack
        tables.append(table[kept])
        positions = positions[kept]
        near = _distance_inside(positions, tile) <= 3 * CONSTANTS.slack
        border = np.concatenate([border, positions[near]])
    return tables


# --- steps -------------------------------------------------------------------------------------------------------


def _with_noise(image: xr.DataArray, mode: str | None) -> xr.DataArray:
    """The image with its mode and its noise model, so that they are not determined in each tile."""
    recorded = recorded_image(image)
    mode = resolve_mode(recorded, mode)
    if check_noise_attr(image, mode) is None:
        calibrated = NoiseCalibrator(mode=mode).fit_transform(recorded)
        image = image.assign_attrs(noise=calibrated.attrs["noise"])
    return image.assign_attrs(mode=mode)


def _distance_outside(positions: NDArray, tile: Tile, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Largest distance along an axis by which positions ``(n, 2)`` are outside the tile's own area, px.

    Pixels are squares around their centres; at the border of the image nothing is outside.
    """
    out = np.zeros(len(positions))
    for position, own, n in zip(positions.T, tile.own, shape, strict=True):
        if own.start > 0:
            out = np.maximum(out, own.start - 0.5 - position)
        if own.stop < n:
            out = np.maximum(out, position - (own.stop - 0.5))
    return out


def _distance_inside(positions: NDArray, tile: Tile) -> NDArray[np.float64]:
    """Distance of positions ``(n, 2)`` from the nearest side of the tile's own area, px; negative outside."""
    sides = [
        np.minimum(position - (own.start - 0.5), own.stop - 0.5 - position)
        for position, own in zip(positions.T, tile.own, strict=True)
    ]
    return np.minimum(*sides)
