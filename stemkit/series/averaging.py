"""The average of displaced frames: the least-squares estimate of the image that the recorded rows sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, linalg, ndimage, sparse

__all__ = [
    "Average",
    "AverageGrid",
    "Placed",
    "SplineEquations",
    "average",
    "placed",
    "squared_residuals",
    "transfer_function",
]

#: Weight of the squared second differences of the spline's coefficients against that of one recorded pixel (chosen: the
#: transfer function of a frame that is displaced by half a pixel is then flattest).
STIFFNESS = 3e-3
#: Weight of the squared coefficients (chosen: small, it only matters at pixels without a frame).
NOTHING = 1e-9
#: Window along y in which a single row makes pixels count as shown, px (chosen: closes gaps between displaced rows).
GAP = 5
#: Number of pixels at the left and right borders of a frame that are not averaged: their interpolation needs pixels
#: beyond the border (chosen).
MARGIN = 2


@dataclass(frozen=True)
class AverageGrid:
    """Pixels of the average: pixel ``(0, 0)`` lies at ``origin`` (y, x) of the coordinates of the displacements."""

    origin: tuple[int, int]
    shape: tuple[int, int]

    def of(self, displacements: NDArray) -> NDArray[np.float64]:
        """Displacements ``(..., 2)`` relative to the pixels of this grid."""
        return np.asarray(displacements - np.array(self.origin, dtype=float))


@dataclass(frozen=True)
class Placed:
    """A frame with its rows moved along x onto the pixels of a grid.

    Parameters
    ----------
    rows : ndarray of shape (n_y, grid n_x)
        Interpolated by the Fourier series of the row, continued by reflection; 0 outside of the frame.
    inside : ndarray of bool, of the same shape
    splines : sparse array of shape (n_y, grid n_y + 2)
        Values of the cubic B-splines at each row; the first spline is centred at -1.
    """

    rows: NDArray[np.float64]
    inside: NDArray[np.bool_]
    splines: sparse.csr_array


@dataclass(frozen=True)
class Average:
    """Weighted least squares of cubic splines along y.

    Parameters
    ----------
    coefficients : ndarray of shape (grid n_y + 2, grid n_x)
    values : ndarray of shape (grid n_y, grid n_x)
        The average at the pixels.
    count : ndarray of shape (grid n_y, grid n_x)
        Number of frames that contribute to each pixel: those with a row within 1 px of it.
    """

    coefficients: NDArray[np.float64]
    values: NDArray[np.float64]
    count: NDArray[np.float64]

    @property
    def shown(self) -> NDArray[np.bool_]:
        """Pixels that a frame shows, and those between its rows."""
        return np.asarray(ndimage.maximum_filter1d(self.count, GAP, axis=0) > 0)


def placed(frame: NDArray, displacement: NDArray, grid: AverageGrid) -> Placed:
    """Move the rows of a frame along x, and find where they lie along y.

    Parameters
    ----------
    frame : ndarray of shape (n_y, n_x)
    displacement : ndarray of shape (n_y, 2)
        Relative to the origin of the grid's coordinates.
    grid : AverageGrid
    """
    moved = grid.of(displacement)
    rows, inside = _along_x(np.asarray(frame, dtype=np.float64), moved[:, 1], grid.shape[1])
    splines, seen = _splines(np.arange(len(frame)) + moved[:, 0], grid.shape[0])
    return Placed(rows, inside & seen[:, None], splines)


@dataclass(frozen=True)
class SplineEquations:
    """Normal equations of the splines along y, for each column of pixels.

    Parameters
    ----------
    bands : ndarray of shape (4, grid n_y + 2, grid n_x)
        Lower diagonals of the matrices.
    right : ndarray of shape (grid n_y + 2, grid n_x)
    count : ndarray of shape (grid n_y, grid n_x)
        Number of frames.
    """

    bands: NDArray[np.float64]
    right: NDArray[np.float64]
    count: NDArray[np.float64]

    @classmethod
    def empty(cls, grid: AverageGrid) -> SplineEquations:
        """Equations without any frame."""
        n_y, n_x = grid.shape
        return cls(np.zeros((4, n_y + 2, n_x)), np.zeros((n_y + 2, n_x)), np.zeros((n_y, n_x)))

    def add(self, frame: Placed, sign: float = 1.0) -> None:
        """Add a frame in place, or remove it with ``sign=-1``."""
        inside = frame.inside.astype(np.float64)
        self.right[:] += sign * (frame.splines.T @ (frame.rows * inside))
        for lag, band in enumerate(_products(frame.splines)):
            self.bands[lag] += sign * (band @ inside)
        self.count[:] += sign * (_nearest(frame.splines).T @ inside > 0)

    def solve(self) -> Average:
        """Solve the equations."""
        bands = self.bands.copy()
        for lag, value in enumerate(_stiffness(bands.shape[1])):
            bands[lag] += STIFFNESS * value[:, None]
        bands[0] += NOTHING
        c = np.empty_like(self.right)
        for x in range(c.shape[1]):
            c[:, x] = linalg.solveh_banded(bands[:, :, x], self.right[:, x], lower=True, check_finite=False)
        return Average(c, (c[:-2] + 4 * c[1:-1] + c[2:]) / 6, self.count.copy())


def average(frames: Iterable[Placed], grid: AverageGrid) -> Average:
    """The image ``sum_k c_k beta(y - k)``, with cubic B-splines beta along y, fitted to the rows of frames.

    The sum of the squares of the residuals, and ``STIFFNESS`` times that of the second differences of c, is minimised
    for each column of pixels. Frames are added one by one; they need not be in memory together.
    """
    equations = SplineEquations.empty(grid)
    for frame in frames:
        equations.add(frame)
    return equations.solve()


def squared_residuals(frames: Iterable[Placed], fitted: Average) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of the squares of the residuals of the rows next to each pixel, and their number."""
    total, number = np.zeros_like(fitted.values), np.zeros_like(fitted.values)
    for frame in frames:
        inside = frame.inside.astype(np.float64)
        nearest = _nearest(frame.splines).T
        total += nearest @ (inside * (frame.rows - frame.splines @ fitted.coefficients) ** 2)
        number += nearest @ inside
    return total, number


def transfer_function(frequency: NDArray, offset: float = 0.5) -> NDArray[np.float64]:
    """Modulus of the transfer function along y of a single frame displaced by a fraction of a pixel.

    Parameters
    ----------
    frequency : ndarray
        Spatial frequency along y, cycles per px, up to 0.5; along x the modulus is 1 up to the Nyquist frequency.
    offset : float
        Displacement along y, px.

    Notes
    -----
    With the discrete spline ``B_s(f) = sum_k beta(k + s) exp(-2 pi i f k)`` it is ``|B_0 B_s| / (|B_s|^2 + STIFFNESS
    (2 - 2 cos 2 pi f)^2)``.
    """
    f = np.asarray(frequency, dtype=np.float64)
    steps = np.arange(-3, 4)
    waves = np.exp(-2j * np.pi * f[..., None] * steps)
    at_pixels, at_rows = ((waves * _cubic(steps + s)).sum(-1) for s in (0.0, offset))
    stiff = STIFFNESS * (2 - 2 * np.cos(2 * np.pi * f)) ** 2
    return np.abs(at_pixels * at_rows) / (np.abs(at_rows) ** 2 + stiff)


# --- along x -----------------------------------------------------------------------------------------------------


def _along_x(frame: NDArray, shifts: NDArray, n_x: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Each row moved by its shift onto pixels 0 to n_x - 1, and which pixels lie inside the frame."""
    n = frame.shape[1]
    whole = np.rint(shifts).astype(int)
    fraction = shifts - whole
    spectrum = fft.rfft(np.concatenate([frame, frame[:, ::-1]], axis=1), axis=1)
    phase = np.exp(-2j * np.pi * fraction[:, None] * fft.rfftfreq(2 * n))
    phase[:, -1] = 1.0  # the coefficient at Nyquist's frequency is 0 by reflection
    moved = fft.irfft(spectrum * phase, 2 * n, axis=1)[:, :n]
    source = np.arange(n_x) - whole[:, None]
    place = np.arange(n_x) - shifts[:, None]
    inside = (place >= MARGIN) & (place <= n - 1 - MARGIN)
    rows = np.take_along_axis(moved, np.clip(source, 0, n - 1), axis=1)
    return np.where(inside, rows, 0.0), inside


# --- along y -----------------------------------------------------------------------------------------------------


def _cubic(t: NDArray) -> NDArray[np.float64]:
    """The cubic B-spline."""
    a = np.abs(t)
    return np.where(a < 1, 2 / 3 - a**2 + a**3 / 2, np.clip(2 - a, 0, None) ** 3 / 6)


def _splines(place: NDArray, n_y: int) -> tuple[sparse.csr_array, NDArray[np.bool_]]:
    """Values ``(n, n_y + 2)`` of the splines at the positions of n rows, and which rows lie on the grid."""
    seen = (place >= 0) & (place <= n_y - 1)
    first = np.clip(np.floor(place).astype(int), 0, n_y - 2)
    index = first[:, None] + np.arange(4)
    weight = _cubic(place[:, None] - (index - 1)) * seen[:, None]
    rows = np.repeat(np.arange(len(place)), 4)
    return sparse.csr_array((weight.ravel(), (rows, index.ravel())), shape=(len(place), n_y + 2)), seen


def _products(splines: sparse.csr_array) -> list[sparse.csr_array]:
    """For each lag l up to 3 the products of the splines k and k + l at each row: ``(grid n_y + 2, n)``."""
    n, n_k = splines.shape
    index, weight = splines.indices.reshape(n, 4), splines.data.reshape(n, 4)
    out = []
    for lag in range(4):
        product = weight[:, : 4 - lag] * weight[:, lag:]
        rows = np.repeat(np.arange(n), 4 - lag)
        at = (index[:, : 4 - lag].ravel(), rows)
        out.append(sparse.csr_array((product.ravel(), at), shape=(n_k, n)))
    return out


def _nearest(splines: sparse.csr_array) -> sparse.csr_array:
    """Linear weights ``(n, grid n_y)`` of the two pixels next to each row, from its splines."""
    n, n_k = splines.shape
    index, weight = splines.indices.reshape(n, 4), splines.data.reshape(n, 4)
    seen = weight.sum(1) > 0
    # the mean of the centres of cubic B-splines, weighted by their values, is the position
    place = (weight * (index - 1)).sum(1)
    below = np.clip(np.floor(place).astype(int), 0, n_k - 4)
    fraction = place - below
    data = np.stack([(1 - fraction) * seen, fraction * seen], axis=1).ravel()
    rows = np.repeat(np.arange(n), 2)
    return sparse.csr_array((data, (rows, np.stack([below, below + 1], axis=1).ravel())), shape=(n, n_k - 2))


def _stiffness(n: int) -> list[NDArray[np.float64]]:
    """Diagonals of ``D^T D`` for second differences D of n coefficients."""
    difference = sparse.diags_array([1.0, -2.0, 1.0], offsets=[0, 1, 2], shape=(n - 2, n))
    product = (difference.T @ difference).toarray() if n < 4 else (difference.T @ difference).todia()
    diagonals = [np.asarray(product.diagonal(lag)) for lag in range(3)]
    return [np.pad(d, (0, n - len(d))) for d in diagonals]
