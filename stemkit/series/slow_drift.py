"""Slow drift of scans at right angles, from the different shear and stretch of their images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from stemkit.series.envelope import tapered
from stemkit.series.jumps import Ambiguity, without_jumps
from stemkit.series.pairs import Pairs
from stemkit.series.rigid import rigid_shifts

__all__ = ["SMOOTH", "SlowDrift", "SlowDrifts", "slow_drifts", "warped"]

#: Sigma, px, of the Gaussian filter of the images before they are compared (chosen).
SMOOTH = 1.2


@dataclass(frozen=True)
class _Constants:
    """Constants of the measurement of drift."""

    #: Degree of the polynomials of time that describe the drift within a frame (chosen).
    degree: int = 3
    #: First of the lengths over which the linear drift is measured, one after the other, px (chosen).
    first_radius: float = 8.0
    #: Last of these lengths, fraction of the shorter side (chosen).
    last_radius: float = 0.3
    #: Factor between two of these lengths (chosen: the drift is then known to a fraction of the spacing).
    growth: float = 1.4
    #: Shorter vectors, px, are those of the noise and of single columns (chosen).
    shortest: float = 3.0
    #: Standard deviation of the prior of the elements of the linear drift (chosen: it matters for images with little
    #: structure).
    expected: float = 0.15
    #: Fractions of the sides of the images that are shifted onto each other, one after the other until that succeeds
    #: (chosen).
    parts: tuple[float, float, float] = (0.5, 0.75, 1.0)
    #: Shortest side of such a part, px (chosen).
    min_part: int = 24
    #: Fractions of the half sides of the images that are compared one after the other, with the degrees of the
    #: polynomials (chosen: the drift at the borders is known to a fraction of the spacing before they are used).
    extents: tuple[tuple[float, int], ...] = ((0.35, 1), (0.5, 1), (0.65, 2), (0.8, 2), (0.95, degree))
    #: Number of rounds of the fit for each of them (chosen).
    rounds: int = 4
    #: Shift, px, by which images are moved after their polynomials are fitted (chosen: below half of the spacing).
    moved: float = 1.0
    #: Standard deviation of the prior of the changes of the coefficients in one round, px at the border (chosen: they
    #: matter for images with little structure).
    changes: tuple[float, float, float, float] = (10.0, 3.0, 3.0, 1.0)


CONSTANTS = _Constants()


@dataclass(frozen=True)
class SlowDrift:
    """Displacement of the rows of a scan, a polynomial of their position along the slow axis.

    Parameters
    ----------
    axis : int
        The slow axis: 0 is y.
    middle, half : float
        Middle and half of the length of the axis, px.
    coefficients : ndarray of shape (CONSTANTS.degree + 1, 2)
        Coefficient of each power, along y and x: its contribution at the end of the axis, px.
    """

    axis: int
    middle: float
    half: float
    coefficients: NDArray[np.float64]

    def moved(self, shift: NDArray) -> SlowDrift:
        """The drift plus a constant displacement, px."""
        coefficients = self.coefficients.copy()
        coefficients[0] += shift
        return replace(self, coefficients=coefficients)

    def __call__(self, place: NDArray) -> NDArray[np.float64]:
        """Displacements ``(..., 2)`` of rows at these positions along the slow axis, px."""
        return _powers((np.asarray(place, dtype=float) - self.middle) / self.half) @ self.coefficients


@dataclass(frozen=True)
class SlowDrifts:
    """Drifts of several images, and the images that may be displaced by a lattice vector."""

    drifts: list[SlowDrift]
    ambiguous: list[Ambiguity]


def _powers(t: NDArray) -> NDArray[np.float64]:
    return np.stack([t**k for k in range(CONSTANTS.degree + 1)], axis=-1)


def slow_drifts(images: list[NDArray], axes: list[int]) -> SlowDrifts:
    """Slow drifts of images of one area from scans at right angles.

    Parameters
    ----------
    images : list of ndarray of shape (n_y, n_x)
        Turned to the same directions, columns bright; all of one shape.
    axes : list of int
        Slow axis of each image, 0 or 1; both occur.

    Returns
    -------
    SlowDrifts
        Pixel p of image i shows the position ``p + drifts[i]`` of the specimen.

    Notes
    -----
    Image A of a scan with the slow axis y shows the specimen displaced by ``u(y)``, and image B, with the slow axis x,
    by ``v(x)``. Their relative displacement ``u(y) - v(x)`` determines both up to a constant. The linear parts follow
    from the autocorrelations, which do not depend on the positions of the images: if a vector of the specimen appears
    as r in A and as ``M r`` in B, then with ``u = (a_y, a_x) y`` and ``v = (b_y, b_x) x``, in the order y, x::

        [1 b_y; 0 1 + b_x] M = [1 + a_y 0; a_x 1]

    M is fitted to short vectors first, then to longer ones. Polynomials are then fitted to the images by least squares,
    from their middle outwards.
    """
    shape = images[0].shape
    drifts = []
    for gradient, axis in zip(_gradients(images, axes), axes, strict=True):
        half = (shape[axis] - 1) / 2
        coefficients = np.zeros((CONSTANTS.degree + 1, 2))
        coefficients[1] = gradient * half
        drifts.append(SlowDrift(axis, half, half, coefficients))
    shifts = _shifts([warped(image, drift) for image, drift in zip(images, drifts, strict=True)])
    drifts = [one.moved(shift - shifts.mean(0)) for one, shift in zip(drifts, shifts, strict=True)]
    drifts = _polynomials(images, drifts)
    # only the whole images distinguish the cells of a lattice
    whole = rigid_shifts([warped(image, drift) for image, drift in zip(images, drifts, strict=True)])
    shifts = whole.shifts - np.nanmean(whole.shifts, axis=0)
    if np.isfinite(shifts).all() and np.abs(np.diff(shifts, axis=0)).max() > CONSTANTS.moved:
        drifts = _polynomials(images, [one.moved(shift) for one, shift in zip(drifts, shifts, strict=True)])
    return SlowDrifts(drifts, whole.ambiguous)


def _shifts(images: list[NDArray]) -> NDArray[np.float64]:
    """Shifts of images without linear drift, from their middle, where the remaining drift is small.

    The cells of a lattice are distinguished by the structure of the whole images that is not periodic.
    """
    for part in CONSTANTS.parts:
        cut = tuple(slice(m, n - m) for n in images[0].shape for m in [int((1 - part) / 2 * n)])
        if min(s.stop - s.start for s in cut) >= CONSTANTS.min_part:
            shifts = rigid_shifts([image[cut] for image in images]).shifts
            if not np.isnan(shifts).any():
                return without_jumps(_pairs(images), shifts)[0]
    raise ValueError(
        "scan_angles: the frames of different angles show nothing in common. Check the angles and their sign: a frame "
        "at 90 degrees is np.rot90 of the image at 0"
    )


def _pairs(images: list[NDArray]) -> Pairs:
    y, x = (n // 2 for n in images[0].shape)
    return Pairs(images, (y, x))


def warped(image: NDArray, drift: SlowDrift) -> NDArray[np.float64]:
    """The image on the pixels of the specimen, by cubic splines; its mean at pixels that it does not show."""
    at = np.indices(image.shape, dtype=float)
    source = at.copy()
    for _ in range(3):  # q + drift(q) = p; the drift changes by a few per cent per px
        source = at - np.moveaxis(drift(source[drift.axis]), -1, 0)
    return np.asarray(
        ndimage.map_coordinates(np.asarray(image, dtype=float), source, order=3, cval=float(np.mean(image)))
    )


# --- linear drift ------------------------------------------------------------------------------------------------


def _gradients(images: list[NDArray], axes: list[int]) -> list[NDArray[np.float64]]:
    """Linear drift ``(y, x)`` per px along the slow axis of each image, the mean over its partners."""
    found: list[list[NDArray]] = [[] for _ in images]
    correlations = [_autocorrelation(image) for image in images]
    for i, j in ((i, j) for i, a in enumerate(axes) for j, b in enumerate(axes) if (a, b) == (0, 1)):
        m = _matrix(correlations[i], correlations[j])
        # the second column of the product is (0, 1)
        b = np.array([-m[0, 1] / m[1, 1], 1 / m[1, 1] - 1])
        a = np.array([m[0, 0] + b[0] * m[1, 0] - 1, (1 + b[1]) * m[1, 0]])
        found[i].append(a)
        found[j].append(b)
    return [np.mean(one, axis=0) for one in found]


def _autocorrelation(image: NDArray) -> NDArray[np.float64]:
    """Transform of the root of the power, whose maxima are sharper than those of the power; vector 0 in the middle."""
    spectrum = np.abs(fft.rfft2(tapered(image)))
    return np.asarray(fft.fftshift(fft.irfft2(spectrum, image.shape)))


def _matrix(first: NDArray, second: NDArray) -> NDArray[np.float64]:
    """The matrix M, in the order y, x: a vector r of the first autocorrelation is M r in the second."""
    middle = np.array([n // 2 for n in first.shape])[:, None]
    smooth = [ndimage.spline_filter(ndimage.gaussian_filter(values, 0.7), 3) for values in (first, second)]
    m, radius, last = np.eye(2), CONSTANTS.first_radius, CONSTANTS.last_radius * min(first.shape)
    while True:
        radius = min(radius, last)
        y, x = np.mgrid[0 : int(radius) + 1, -int(radius) : int(radius) + 1]
        inside = (np.hypot(y, x) <= radius) & (np.hypot(y, x) > CONSTANTS.shortest)
        vectors = np.stack([y[inside], x[inside]]).astype(float)
        ours = ndimage.map_coordinates(smooth[0], vectors + middle, order=3, prefilter=False)
        ours = (ours - ours.mean()) / max(float(ours.std()), 1e-300)

        def residuals(p: NDArray, ours: NDArray = ours, vectors: NDArray = vectors) -> NDArray[np.float64]:
            at = p.reshape(2, 2) @ vectors + middle
            theirs = ndimage.map_coordinates(smooth[1], at, order=3, prefilter=False, mode="nearest")
            theirs = (theirs - theirs.mean()) / max(float(theirs.std()), 1e-300)
            return np.concatenate([theirs - ours, (p - np.eye(2).ravel()) / CONSTANTS.expected])

        m = optimize.least_squares(residuals, m.ravel(), x_scale=0.01).x.reshape(2, 2)
        if radius >= last:
            return np.asarray(m)
        radius *= CONSTANTS.growth


# --- polynomials -------------------------------------------------------------------------------------------------


def _polynomials(images: list[NDArray], drifts: list[SlowDrift]) -> list[SlowDrift]:
    """Polynomials fitted to the images, from their middle outwards."""
    smooth = [ndimage.gaussian_filter(np.asarray(image, dtype=float), SMOOTH) for image in images]
    for extent, degree in CONSTANTS.extents:
        for _ in range(CONSTANTS.rounds):
            drifts = _step(smooth, drifts, extent, degree)
    return drifts


def _step(images: list[NDArray], drifts: list[SlowDrift], extent: float, degree: int) -> list[SlowDrift]:
    """One Gauss-Newton step: the differences of all pairs of images, explained by their gradient."""
    values = [warped(image, drift) for image, drift in zip(images, drifts, strict=True)]
    shape, n = values[0].shape, degree + 1
    use = tuple(slice(int((1 - extent) / 2 * m), m - int((1 - extent) / 2 * m)) for m in shape)
    slopes = [np.gradient(np.mean(values, axis=0), axis=axis)[use] for axis in (0, 1)]
    places = np.indices(shape)
    at = [places[axis][use] for axis in (0, 1)]
    basis = [_powers((at[d.axis] - d.middle) / d.half)[..., :n] for d in drifts]
    columns = [np.concatenate([b * s[..., None] for s in slopes], axis=-1).reshape(-1, 2 * n) for b in basis]
    size = 2 * n * len(images)
    matrix, right, square, count = np.zeros((size, size)), np.zeros(size), 0.0, 0
    for i in range(len(images)):
        for j in range(i):
            design = np.zeros((columns[i].shape[0], size))
            design[:, 2 * n * i : 2 * n * (i + 1)] = columns[i]
            design[:, 2 * n * j : 2 * n * (j + 1)] = -columns[j]
            difference = (values[i] - values[j])[use].ravel()
            difference = difference - difference.mean()
            matrix += design.T @ design
            right += design.T @ difference
            square, count = square + float(difference @ difference), count + difference.size
    matrix += square / count * np.diag(np.tile(np.array(CONSTANTS.changes[:n]) ** -2.0, 2 * len(images)))
    found = np.linalg.solve(matrix, right).reshape(len(images), 2, n)
    out = []
    for drift, step in zip(drifts, found, strict=True):
        coefficients = drift.coefficients.copy()
        coefficients[:n] += step.T
        out.append(replace(drift, coefficients=coefficients))
    return out
