"""Spacing and lattice vectors from an image's autocorrelation, and calibration by a known spacing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.filters import wide_gaussian
from stemkit.images import Images, join, split, with_pixel_sizes

__all__ = ["Periodicity", "calibrated", "find_periodicity", "middle"]

#: A peak of the autocorrelation counts when it stands this many deviations above the noise of the correlogram.
SIGNIFICANCE = 6.0
#: Neighbouring rows are alike when their correlation is this many deviations of that of white noise.
LIKENESS = 4.0
#: Peaks of at least these fractions of the tallest: where columns meet columns, and where the lattice meets itself.
ALIKE, SAME = 0.35, 0.92
#: Columns closer than this can't be told from the probe in an autocorrelation, px.
SHORTEST = 2.0


@dataclass(frozen=True)
class Periodicity:
    """What repeats in an image.

    Parameters
    ----------
    spacing : float or None
        Shortest distance at which the image resembles itself, px: that of neighbouring columns, like or unlike, where
        they are resolved. None where nothing repeats.
    repeat : float or None
        Shortest distance at which the image is the same again, px: that of equivalent columns, the shortest vector of
        the lattice.
    vectors : ndarray of shape (2, 2) or None
        The two shortest independent vectors of the lattice as rows ``(y, x)``, px.
    strength : float
        Height of the autocorrelation at the spacing, relative to that of the noise-free image at zero shift; 1 is a
        perfect crystal.
    """

    spacing: float | None
    repeat: float | None
    vectors: NDArray[np.float64] | None
    strength: float


NOTHING = Periodicity(None, None, None, 0.0)


def find_periodicity(values: NDArray) -> Periodicity:
    """Measure the repeat distances of one image.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        Either contrast: the autocorrelation does not know bright from dark.

    Notes
    -----
    The autocorrelation of the image without its slow variation, of whole rows levelled (streaks would make a ridge
    along x), computed with zero padding and divided by the number of overlapping pixels. Peaks are kept where they
    stand above the noise of the correlogram; near the origin, where the probe's own width hides neighbours, the
    correlogram is compared with what surrounds it at the same distance.
    """
    n_y, n_x = values.shape
    if min(n_y, n_x) < 8 or np.ptp(values) == 0:
        return NOTHING
    correlogram = _autocorrelation(_levelled(np.asarray(values, dtype=np.float64)))
    peaks, heights = (np.empty((0, 2)), np.empty(0)) if correlogram is None else _peaks(correlogram)
    if len(peaks) == 0:
        return NOTHING
    length = np.hypot(*peaks.T)
    nearest = int(np.argmin(np.where(heights >= ALIKE * heights.max(), length, np.inf)))
    same = heights >= SAME * heights.max()
    vectors = _two_shortest(peaks[same], length[same])
    return Periodicity(float(length[nearest]), float(length[same].min()), vectors, float(heights[nearest]))


def middle(values: NDArray, size: int) -> NDArray:
    """The middle of an image, a square of a size in px at most: what repeats in an image repeats there."""
    top, left = (max(0, (n - size) // 2) for n in values.shape)
    return values[top : top + size, left : left + size]


def calibrated(image: Images, *, pixel_size: float | None = None, spacing: float | None = None) -> Images:
    """Give an image its pixel size.

    Parameters
    ----------
    image : DataArray, ndarray or list of them
        An ndarray comes back as a DataArray, since it can't carry a pixel size.
    pixel_size : float, optional
        Edge of a pixel, nm.
    spacing : float, optional
        Known shortest distance of equivalent columns, nm, such as the lattice parameter of a cubic crystal seen along
        [001]: the pixel size follows from the image's own, in px (``find_periodicity(values).repeat``).

    Returns
    -------
    DataArray or list of DataArray

    Raises
    ------
    ValueError
        If not exactly one of the two is given, if it is not positive, or if the image has no lattice.

    Examples
    --------
    >>> import numpy as np
    >>> import stemkit
    >>> image = stemkit.calibrated(np.zeros((64, 64)), pixel_size=0.01)
    >>> image.stem.pixel_size
    0.01
    """
    if (pixel_size is None) == (spacing is None):
        raise ValueError(
            f"give exactly one of pixel_size and spacing, in nm, but they are {pixel_size!r} and {spacing!r}"
        )
    bare = _without_coordinates(image)
    images = split(bare, name="image")
    if pixel_size is None:
        assert spacing is not None
        pixel_size = _pixel_size_from(spacing, images)
    results = [with_pixel_sizes(one, pixel_size, pixel_size) for one in images]
    if isinstance(bare, list | tuple):
        return results
    if np.ndim(bare) == 2:
        return results[0]
    stack = bare if isinstance(bare, xr.DataArray) else xr.DataArray(bare, dims=("image", "y", "x"))
    return join(results, stack.assign_coords({d: results[0].coords[d] for d in ("y", "x")}))


def _without_coordinates(image: Images) -> Images:
    """Images without their y and x, whatever those are: they are about to be replaced."""
    if isinstance(image, xr.DataArray):
        return image.drop_vars(("y", "x"), errors="ignore")
    if isinstance(image, list | tuple) and any(isinstance(one, xr.DataArray) for one in image):
        return [_without_coordinates(one) for one in image]  # type: ignore[misc]
    return image


def _pixel_size_from(spacing: float, images: list[xr.DataArray]) -> float:
    """Pixel size (nm) at which the median of the images' lattices has the known repeat."""
    if not spacing > 0:
        raise ValueError(f"spacing must be a positive number of nm, but is {spacing!r}")
    measured = [found for one in images if (found := find_periodicity(one.values).repeat) is not None]
    if not measured:
        raise ValueError("spacing needs a lattice, but nothing repeats in the image: give pixel_size instead")
    return spacing / float(np.median(measured))


# --- steps -------------------------------------------------------------------------------------------------------


def _levelled(values: NDArray) -> NDArray:
    """Without slow variation, outliers and row offsets, and with a mean of 0."""
    low, high = np.quantile(values, [0.001, 0.999])
    clipped = np.clip(values, low, high)
    broad = max(4.0, min(values.shape) / 12)
    flat = clipped - wide_gaussian(clipped, broad)
    flat -= np.median(flat, axis=1, keepdims=True)
    # the median of few electrons is not their mean, and what is left would be alike everywhere
    return flat - flat.mean()


def _autocorrelation(flat: NDArray) -> NDArray | None:
    """Unbiased autocorrelation up to a third of the image, zero shift at the centre, without the noise's spike.

    None where neighbouring rows are no more alike than those of white noise.
    """
    n_y, n_x = flat.shape
    size = [fft.next_fast_len(2 * n, real=True) for n in flat.shape]
    power = np.abs(fft.rfft2(flat, s=size)) ** 2
    overlap = fft.irfft2(np.abs(fft.rfft2(np.ones_like(flat), s=size)) ** 2, s=size)
    correlation = fft.irfft2(power, s=size) / np.maximum(overlap, 1.0)
    reach_y, reach_x = max(3, n_y // 3), max(3, n_x // 3)
    rows = np.r_[-reach_y : reach_y + 1]
    columns = np.r_[-reach_x : reach_x + 1]
    correlogram = correlation[np.ix_(rows, columns)]
    # rows are noisy together: at zero shift along y the correlogram holds the noise beside the image. What it would be
    # without follows from the rows above and below, exact up to the third power of the shift
    near, far = (correlogram[reach_y - k] + correlogram[reach_y + k] for k in (1, 2))
    correlogram[reach_y] = (4 * near - far) / 6
    beside = correlogram[reach_y, reach_x]
    # that of white noise: beside is (4 near - far) / 6 of sums of two equal ones
    deviation = np.sqrt(17) / 3 * correlation[0, 0] / np.sqrt(flat.size)
    return correlogram / beside if beside > LIKENESS * deviation else None


def _peaks(correlogram: NDArray) -> tuple[NDArray, NDArray]:
    """Sub-pixel peaks (y, x) relative to the centre in the upper half plane, with their heights."""
    smooth = ndimage.gaussian_filter(correlogram, 0.7)
    centre = np.array(correlogram.shape) // 2
    is_peak = smooth == ndimage.maximum_filter(smooth, size=3)
    is_peak[[0, -1], :] = is_peak[:, [0, -1]] = False
    candidates = np.argwhere(is_peak)
    offset = candidates - centre
    upper = (offset[:, 0] > 0) | ((offset[:, 0] == 0) & (offset[:, 1] > 0))
    distance = np.hypot(*offset.T)
    candidates, distance = candidates[upper & (distance >= SHORTEST)], distance[upper & (distance >= SHORTEST)]
    heights = smooth[tuple(candidates.T)]
    noise = 1.4826 * np.median(np.abs(smooth - np.median(smooth)))
    surround = ndimage.minimum_filter(smooth, size=5)[tuple(candidates.T)]
    keep = (heights > max(0.08, 0.5 * noise)) & (heights - surround > 0.01)
    if not keep.any() or heights[keep].max() < min(SIGNIFICANCE * noise, 0.2):
        return np.empty((0, 2)), np.empty(0)
    vertices = np.array([_subpixel(smooth, y, x) for y, x in candidates[keep]])
    return vertices[:, :2] - centre, vertices[:, 2]


def _subpixel(values: NDArray, y: int, x: int) -> tuple[float, float, float]:
    """Vertex (y, x) of the parabolas through a peak and its neighbours, and their height there."""

    def vertex(before: float, at: float, after: float) -> tuple[float, float]:
        slope, curvature = 0.5 * (after - before), before - 2 * at + after
        step = 0.0 if curvature >= 0 else float(np.clip(-slope / curvature, -0.5, 0.5))
        return step, slope * step + 0.5 * curvature * step**2

    down, above_y = vertex(values[y - 1, x], values[y, x], values[y + 1, x])
    across, above_x = vertex(values[y, x - 1], values[y, x], values[y, x + 1])
    return y + down, x + across, values[y, x] + above_y + above_x


def _two_shortest(peaks: NDArray, length: NDArray) -> NDArray | None:
    order = np.argsort(length)
    first = peaks[order[0]]
    for i in order[1:]:
        other = peaks[i]
        sine = abs(first[0] * other[1] - first[1] * other[0]) / (length[order[0]] * length[i])
        if sine > 0.4:
            return np.array([first, other])
    return None
