"""An image whose faulty pixels are replaced, without a copy of the whole of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from stemkit.pixels.fault_search import Band, filled, searched_bands

__all__ = ["FilledImage"]


@dataclass(frozen=True)
class FilledImage:
    """The pixels of an image, with interpolated values in the place of faulty ones.

    Its parts are arrays; ``np.array`` of it is a copy of the whole. In addition to the recorded image it takes 12 to 16
    bytes per faulty pixel.

    Parameters
    ----------
    recorded : ndarray of shape (n_y, n_x)
    places : ndarray of int, shape (n_faulty,)
        Indices of the faulty pixels in the flattened image, in increasing order.
    values : ndarray of float, shape (n_faulty,)
        Their interpolated values.
    """

    recorded: NDArray
    places: NDArray[np.intp]
    values: NDArray

    @classmethod
    def of(cls, recorded: NDArray, *, averaged: bool = False) -> Self:
        """Search an image for faulty pixels, as :func:`stemkit.pixels.faulty_pixels` does, and interpolate them.

        A large image is interpolated in the bands of rows in which it is searched.
        """
        found = [_replacements(band) for band in searched_bands(recorded, averaged=averaged)]
        places, values = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return cls(recorded, places, values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape ``(n_y, n_x)`` of the image."""
        return self.recorded.shape

    @property
    def dtype(self) -> np.dtype:
        """Data type of the recorded pixels, or float64 if integers have been interpolated."""
        return self.values.dtype if len(self.places) else self.recorded.dtype

    def __len__(self) -> int:
        return len(self.recorded)

    def __getitem__(self, index: tuple[Any, ...]) -> NDArray:
        """A copy of some rows and columns, each of them a slice, or numbers in the form of ``np.ix_``."""
        y, x = (np.arange(n)[i].ravel() for n, i in zip(self.shape, index, strict=True))
        top, left = y.min(), x.min()
        part = self.recorded[top : y.max() + 1, left : x.max() + 1].astype(self.dtype)
        n_x = self.shape[1]
        start, end = np.searchsorted(self.places, (top * n_x, (y.max() + 1) * n_x))
        rows, columns = np.divmod(self.places[start:end], n_x)
        inside = (columns >= left) & (columns <= x.max())
        part[rows[inside] - top, columns[inside] - left] = self.values[start:end][inside]
        return part[np.ix_(y - top, x - left)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        if copy is False:
            raise ValueError("the pixels of a filled image are no array: use np.array, which makes a copy")
        out = self.recorded.astype(self.dtype)
        out.flat[self.places] = self.values
        return out if dtype is None else out.astype(dtype, copy=False)


def _replacements(band: Band) -> tuple[NDArray[np.intp], NDArray]:
    """Indices of the faulty pixels of a band in the flattened image, and their interpolated values."""
    mask = band.faults.mask
    replaced = filled(band.values, mask)[mask]
    y, x = np.nonzero(mask)
    inside = (y >= band.inside.start) & (y < band.inside.stop)
    rows = y[inside] - band.inside.start + band.rows.start
    return rows * mask.shape[1] + x[inside], replaced[inside]
