"""The search for faulty pixels and their replacement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from stemkit.pixels.areas import abrupt_areas, distant_rows, single_valued_areas
from stemkit.pixels.constants import CONSTANTS
from stemkit.pixels.interpolation import interpolated
from stemkit.pixels.noise import LevelDependentNoise, centered
from stemkit.pixels.single import cubic_interpolations, isolated_pixels, outlying_pixels

__all__ = ["Band", "PixelFaults", "faulty_pixels", "filled", "find_pixel_faults", "searched_bands"]


@dataclass(frozen=True)
class PixelFaults:
    """Masks ``(n_y, n_x)`` of the faulty pixels of each kind; no pixel has two kinds.

    Parameters
    ----------
    hot, dead : ndarray of bool
        Pixels and small clusters that are brighter or darker than the probe and the noise allow.
    rows : ndarray of bool
        Faulty rows.
    constant : ndarray of bool
        Areas of a single value, such as a border added by alignment, or a masked or dead area of the detector.
    """

    hot: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    rows: NDArray[np.bool_]
    constant: NDArray[np.bool_]

    @property
    def mask(self) -> NDArray[np.bool_]:
        """All faulty pixels."""
        return self.hot | self.dead | self.rows | self.constant


@dataclass(frozen=True)
class Band:
    """Rows of an image that are searched together, with a margin on either side.

    Parameters
    ----------
    rows : slice
        The rows of the image without the margins.
    inside : slice
        The same rows in the band.
    values : ndarray of shape (n_rows, n_x)
        Pixels of the band, with its margins.
    faults : PixelFaults
        Those of all its rows.
    """

    rows: slice
    inside: slice
    values: NDArray
    faults: PixelFaults


def faulty_pixels(values: NDArray, *, averaged: bool = False) -> NDArray[np.bool_]:
    """Find the faulty pixels of an image.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One recorded image, in any units, columns bright or dark.
    averaged : bool, default=False
        As in :func:`find_pixel_faults`.

    Returns
    -------
    ndarray of bool, shape (n_y, n_x)

    See Also
    --------
    find_pixel_faults : Masks of each kind of fault; describes the method.
    filled : Replaces these pixels.

    Examples
    --------
    >>> import numpy as np
    >>> from stemkit.pixels import faulty_pixels, filled
    >>> image = np.random.default_rng(0).poisson(20.0, (64, 64))
    >>> image[10, 20] = 4000
    >>> np.argwhere(faulty_pixels(image)).tolist()
    [[10, 20]]
    >>> bool(filled(image).max() < 60)
    True
    """
    values = np.asarray(values)
    mask = np.zeros(values.shape, dtype=bool)
    for band in searched_bands(values, averaged=averaged):
        mask[band.rows] = band.faults.mask[band.inside]
    return mask


def find_pixel_faults(values: NDArray, *, averaged: bool = False) -> PixelFaults:
    """Find the faulty pixels of an image by kind.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        One recorded image, in any units, columns bright or dark.
    averaged : bool, default=False
        The image is an average of displaced frames, whose faults have been interpolated before: none is found. Single
        electrons in vacuum would be mistaken for hot pixels, as the average has no digital levels by which they are
        recognized.

    Returns
    -------
    PixelFaults

    Notes
    -----
    A recorded image is the specimen convolved with a probe of sigma s or wider. For any sum of Gaussians of at least
    this width on a constant, three neighbouring pixels l, v, r of a row or a column satisfy ``l r >= exp(-1 / s^2)
    v^2`` (Cauchy-Schwarz), relative to the minimum of their neighbourhood of 5 x 5 px. A pixel is hot if it exceeds
    ``exp(1 / (2 s^2)) sqrt(l r)`` along both axes, with an allowance for the noise of the neighbours, and either this
    limit or the cubics through its neighbours by several standard deviations of the noise. It is dead if it is below
    the cubics, or if the inverted image exceeds the limit for a smaller width. The noise is a function of the local
    level: the mean squares of the residuals of a cubic interpolation in blocks of 8 x 8 px, of which the median is
    taken in bins of the blocks' level. One digital level is added, so that single counts are not faults, and the
    threshold increases with the tails of the noise. Clusters are removed from their corners inwards.

    A row is faulty if it is constant, or if its difference from both neighbours is much larger than that of other rows
    nearby. Areas and runs of a single value are faulty if noise would be visible at that value, or if their edge is
    more abrupt than the variation of the image around them. Zero counts in vacuum are not faults, nor are pixels at an
    end of the detector's range that the image approaches gradually.

    A large image is searched in bands of rows, whose noise is measured separately.
    """
    values = np.asarray(values)
    masks = [np.zeros(values.shape, dtype=bool) for _ in fields(PixelFaults)]
    for band in searched_bands(values, averaged=averaged):
        for mask, field in zip(masks, fields(PixelFaults), strict=True):
            mask[band.rows] = getattr(band.faults, field.name)[band.inside]
    return PixelFaults(*masks)


def searched_bands(values: NDArray, *, averaged: bool = False) -> Iterator[Band]:
    """Faults of the rows of an image, band by band; a small image is one band."""
    if values.size <= CONSTANTS.max_searched_pixels:
        everything = slice(0, len(values))
        yield Band(everything, everything, values, _searched(values, averaged))
        return
    height = max(CONSTANTS.min_band, min(CONSTANTS.max_band, CONSTANTS.max_searched_pixels // values.shape[1]))
    for start in range(0, len(values), height):
        first, end = max(0, start - CONSTANTS.band_margin), min(start + height, len(values))
        part = values[first : end + CONSTANTS.band_margin]
        yield Band(slice(start, end), slice(start - first, end - first), part, _searched(part, averaged))


def _searched(values: NDArray, averaged: bool) -> PixelFaults:
    """Faults of an image, or of a band, that is searched as a whole."""
    work = centered(values)
    none = np.zeros(work.shape, dtype=bool)
    if averaged or min(work.shape) < CONSTANTS.min_image_size or np.ptp(work) == 0:
        return PixelFaults(none, none, none, none)
    constant = single_valued_areas(work)
    noise = LevelDependentNoise.from_image(work, constant)
    if constant.any():
        constant = abrupt_areas(work, constant, noise)
    flat = constant.all(axis=1) & (np.ptp(work, axis=1) == 0)
    rows = none.copy()
    rows[flat | distant_rows(np.where(constant, np.nan, work), noise, flat)] = True
    if rows.all():
        rows = none
    constant &= ~rows
    bad = rows | constant
    if bad.mean() > CONSTANTS.max_faulty_fraction:
        return PixelFaults(none, none, none, none)
    work = filled(work, bad)
    cubics = cubic_interpolations(work)
    hot, dead = (
        isolated_pixels(work, noise, sign) | outlying_pixels(work, cubics, noise, sign) for sign in (1.0, -1.0)
    )
    return PixelFaults(hot & ~bad, dead & ~bad & ~hot, rows, constant)


def filled(values: NDArray, mask: NDArray[np.bool_] | None = None) -> NDArray:
    """Replace the faulty pixels of an image by interpolation.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    mask : ndarray of bool, shape (n_y, n_x), optional
        Pixels to replace; by default those of :func:`faulty_pixels`.

    Returns
    -------
    ndarray of shape (n_y, n_x)
        The same array if no pixel, or every pixel, is to be replaced; else a copy, float32 if ``values`` is, otherwise
        float64.

    Notes
    -----
    Pixels in gaps of up to four are interpolated with the cubic through the two pixels on either side, along the axis
    with the narrower gap, or as the mean of both axes if the gaps are equal. The others are replaced with the mean of
    the valid pixels in the smallest area around them that contains any.
    """
    values = np.asarray(values)
    mask = faulty_pixels(values) if mask is None else mask
    if not mask.any() or mask.all():
        return values
    out = values.astype(values.dtype if values.dtype in (np.float32, np.float64) else np.float64)
    out[mask] = interpolated(out, mask)
    return out
