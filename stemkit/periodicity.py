"""Spacing and lattice vectors from the autocorrelation of an image, and calibration with a known lattice repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.stats import median_abs_deviation

from stemkit.filters import wide_gaussian
from stemkit.images.containers import Images, join, split
from stemkit.images.intensities import NORMALIZATION_QUANTILES
from stemkit.images.pixel_size import with_pixel_sizes
from stemkit.parabola import parabola_vertex
from stemkit.parameters import check_positive
from stemkit.pixels.filled_image import FilledImage

__all__ = ["Periodicity", "calibrated", "central_crop", "find_periodicity"]


@dataclass(frozen=True)
class _Constants:
    """Constants of the autocorrelation and of the search for its peaks."""

    #: Shorter side of the smallest image that is searched, px (chosen).
    min_image_size: int = 8
    #: Quantiles at which intensities are clipped (those of the normalization of intensities).
    clipping: tuple[float, float] = NORMALIZATION_QUANTILES
    #: Shorter side of the image divided by the sigma of the Gaussian filter whose result is subtracted as the slow
    #: variation of the image (chosen).
    sides_per_background: int = 12
    #: Smallest sigma of that filter, px (chosen: wider than a column).
    background_sigma: float = 4.0
    #: Size of the image along an axis in units of the largest shift (chosen).
    sides_per_shift: int = 3
    #: Smallest value of the largest shift, px (derived: two rows and a border).
    smallest_shift: int = 3
    #: Least correlation of neighbouring rows, standard deviations of that of white noise (chosen).
    row_correlation: float = 4.0
    #: Sigma of the filter of the correlogram, px (chosen).
    smoothing: float = 0.7
    #: Shortest shift of a peak, px (chosen: at shorter shifts the probe hides neighbouring columns).
    min_peak_shift: float = 2.0
    #: Least height of a peak, in units of the variance of the true image (chosen).
    min_peak_height: float = 0.08
    #: Least height of a peak, standard deviations of the noise of the correlogram (chosen).
    height_over_noise: float = 0.5
    #: Least height above the minimum of the surrounding 5 x 5 px, in units of the same variance (chosen).
    min_peak_prominence: float = 0.01
    #: Least height of the tallest peak, standard deviations of the noise of the correlogram (chosen).
    min_tallest_peak_snr: float = 6.0
    #: Height at which the tallest peak is significant at any noise, in units of the same variance (chosen).
    significant_height: float = 0.2
    #: Height of the peaks of neighbouring columns, fraction of the tallest (chosen).
    neighbor_height: float = 0.35
    #: Height of the peaks of equivalent columns, fraction of the tallest (chosen).
    equivalent_height: float = 0.92
    #: Least sine of the angle between the two lattice vectors (chosen: 24 degrees).
    min_sine_between_vectors: float = 0.4


CONSTANTS = _Constants()


@dataclass(frozen=True)
class Periodicity:
    """Periodicity of an image.

    Parameters
    ----------
    spacing : float or None
        Distance of neighbouring columns, equivalent or not, px: the shortest shift with a peak of the autocorrelation.
        None if the image is not periodic.
    repeat : float or None
        Distance of equivalent columns, px: the length of the shortest lattice vector.
    vectors : ndarray of shape (2, 2) or None
        The two shortest independent vectors of the lattice as rows ``(y, x)``, px.
    strength : float
        Autocorrelation at the spacing, relative to that of the true image at zero shift; 1 for a perfect
        crystal.
    """

    spacing: float | None
    repeat: float | None
    vectors: NDArray[np.float64] | None
    strength: float


#: Result for an image that is not periodic.
NOT_PERIODIC = Periodicity(None, None, None, 0.0)


def find_periodicity(values: NDArray) -> Periodicity:
    """Measure the spacing and the lattice vectors of one image.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
        Columns bright or dark: the autocorrelation does not depend on the sign.

    Returns
    -------
    Periodicity

    Notes
    -----
    The slow variation of the image and the median of each row are subtracted (streaks would add a ridge along x). The
    autocorrelation is computed with zero padding and divided by the number of overlapping pixels. Its peaks must exceed
    the noise of the correlogram and the minimum of their neighbourhood.
    """
    n_y, n_x = values.shape
    if min(n_y, n_x) < CONSTANTS.min_image_size or np.ptp(values) == 0:
        return NOT_PERIODIC
    correlogram = _autocorrelation(_flattened(np.asarray(values, dtype=np.float64)))
    peaks, heights = (np.empty((0, 2)), np.empty(0)) if correlogram is None else _peaks(correlogram)
    if len(peaks) == 0:
        return NOT_PERIODIC
    length = np.hypot(*peaks.T)
    nearest = int(np.argmin(np.where(heights >= CONSTANTS.neighbor_height * heights.max(), length, np.inf)))
    equivalent = heights >= CONSTANTS.equivalent_height * heights.max()
    vectors = _two_shortest(peaks[equivalent], length[equivalent])
    return Periodicity(float(length[nearest]), float(length[equivalent].min()), vectors, float(heights[nearest]))


def central_crop(values: NDArray | FilledImage, size: int) -> NDArray:
    """Central part of an image, at most ``size`` by ``size`` px."""
    top, left = (max(0, (n - size) // 2) for n in values.shape)
    return values[top : top + size, left : left + size]


def calibrated(image: Images, *, pixel_size: float | None = None, lattice_repeat: float | None = None) -> Images:
    """Set the pixel size of an image.

    Parameters
    ----------
    image : DataArray, ndarray or list of them
        An ndarray, which can't have a pixel size, is converted to a DataArray.
    pixel_size : float, optional
        Edge of the square pixels, nm.
    lattice_repeat : float, optional
        Known shortest distance of equivalent columns (the length of the shortest lattice vector), nm, such as the
        lattice parameter of a cubic crystal viewed along [001]. It is divided by the distance measured in px
        (``find_periodicity(values).repeat``). Nearest columns, whose spacing ``stemkit info --noise`` prints, may not
        be equivalent.

    Returns
    -------
    DataArray or list of DataArray

    Raises
    ------
    ValueError
        If not exactly one of the two is given, if it is not positive, or if the image is not periodic.

    Examples
    --------
    >>> import numpy as np
    >>> import stemkit
    >>> image = stemkit.calibrated(np.zeros((64, 64)), pixel_size=0.01)
    >>> image.stem.pixel_size
    0.01
    """
    if (pixel_size is None) == (lattice_repeat is None):
        raise ValueError(
            "give exactly one of pixel_size and lattice_repeat, in nm, but they are "
            f"{pixel_size!r} and {lattice_repeat!r}"
        )
    check_positive("pixel_size", pixel_size, optional=True, unit="nm")
    check_positive("lattice_repeat", lattice_repeat, optional=True, unit="nm")
    uncalibrated = _without_coordinates(image)
    images = split(uncalibrated, name="image")
    if pixel_size is None:
        assert lattice_repeat is not None
        pixel_size = _pixel_size_from(lattice_repeat, images)
    results = [with_pixel_sizes(one, pixel_size, pixel_size) for one in images]
    if isinstance(uncalibrated, list | tuple):
        return results
    if np.ndim(uncalibrated) == 2:
        return results[0]
    stack = uncalibrated
    if not isinstance(stack, xr.DataArray):
        stack = xr.DataArray(stack, dims=("image", "y", "x"))
    return join(results, stack.assign_coords({d: results[0].coords[d] for d in ("y", "x")}))


def _without_coordinates(image: Images) -> Images:
    """Images without the coordinates y and x, valid or not, which are replaced."""
    if isinstance(image, xr.DataArray):
        return image.drop_vars(("y", "x"), errors="ignore")
    if isinstance(image, list | tuple) and any(isinstance(one, xr.DataArray) for one in image):
        return [_without_coordinates(one) for one in image]  # type: ignore[misc]
    return image


def _pixel_size_from(lattice_repeat: float, images: list[xr.DataArray]) -> float:
    """Pixel size (nm) at which the median of the distances of equivalent columns is ``lattice_repeat`` (nm)."""
    measured = [repeat for one in images if (repeat := find_periodicity(one.values).repeat) is not None]
    if not measured:
        raise ValueError("lattice_repeat requires a periodic image, but no period was found: give pixel_size instead")
    return lattice_repeat / float(np.median(measured))


# --- steps -------------------------------------------------------------------------------------------------------


def _flattened(values: NDArray) -> NDArray:
    """The image without slow variation, outliers and row offsets, with a mean of 0."""
    low, high = np.quantile(values, CONSTANTS.clipping)
    clipped = np.clip(values, low, high)
    sigma = max(CONSTANTS.background_sigma, min(values.shape) / CONSTANTS.sides_per_background)
    flat = clipped - wide_gaussian(clipped, sigma)
    flat -= np.median(flat, axis=1, keepdims=True)
    # at low dose the median is not the mean, and a constant would correlate at all shifts
    return flat - flat.mean()


def _autocorrelation(flat: NDArray) -> NDArray | None:
    """Unbiased autocorrelation up to a third of the image, zero shift at the centre, without the peak of the noise.

    It is divided by the variance of the true image; None if neighbouring rows are not correlated.
    """
    n_y, n_x = flat.shape
    largest_y, largest_x = (max(CONSTANTS.smallest_shift, n // CONSTANTS.sides_per_shift) for n in (n_y, n_x))
    rows = np.r_[-largest_y : largest_y + 1]
    columns = np.r_[-largest_x : largest_x + 1]
    # padded for the largest shift, so that opposite borders do not meet
    size = [fft.next_fast_len(n, real=True) for n in (n_y + largest_y, n_x + largest_x)]
    correlation = fft.irfft2(np.abs(fft.rfft2(flat, s=size)) ** 2, s=size)
    overlap = np.maximum(n_y - abs(rows), 1)[:, None] * np.maximum(n_x - abs(columns), 1)
    at_zero = correlation[0, 0] / flat.size
    correlogram = correlation[np.ix_(rows, columns)] / overlap
    # noise is correlated along a row, so the correlogram at zero shift along y contains that of the noise: it is
    # replaced by a cubic interpolation of the two rows on either side
    near, far = (correlogram[largest_y - k] + correlogram[largest_y + k] for k in (1, 2))
    correlogram[largest_y] = (4 * near - far) / 6
    variance = correlogram[largest_y, largest_x]
    # for white noise: (4 near - far) / 6, where near and far are each twice an independent value
    std = np.sqrt(17) / 3 * at_zero / np.sqrt(flat.size)
    return correlogram / variance if variance > CONSTANTS.row_correlation * std else None


def _peaks(correlogram: NDArray) -> tuple[NDArray, NDArray]:
    """Positions (y, x) of the peaks relative to zero shift, in one half plane, and their heights."""
    smooth = ndimage.gaussian_filter(correlogram, CONSTANTS.smoothing)
    center = np.array(correlogram.shape) // 2
    is_peak = smooth == ndimage.maximum_filter(smooth, size=3)
    is_peak[[0, -1], :] = is_peak[:, [0, -1]] = False
    candidates = np.argwhere(is_peak)
    offset = candidates - center
    half_plane = (offset[:, 0] > 0) | ((offset[:, 0] == 0) & (offset[:, 1] > 0))
    distance = np.hypot(*offset.T)
    candidates = candidates[half_plane & (distance >= CONSTANTS.min_peak_shift)]
    heights = smooth[tuple(candidates.T)]
    noise = median_abs_deviation(smooth, axis=None, scale="normal")
    lowest = ndimage.minimum_filter(smooth, size=5)[tuple(candidates.T)]
    keep = heights > max(CONSTANTS.min_peak_height, CONSTANTS.height_over_noise * noise)
    keep &= heights - lowest > CONSTANTS.min_peak_prominence
    if not keep.any() or heights[keep].max() < min(
        CONSTANTS.min_tallest_peak_snr * noise, CONSTANTS.significant_height
    ):
        return np.empty((0, 2)), np.empty(0)
    vertices = np.array([_subpixel(smooth, y, x) for y, x in candidates[keep]])
    return vertices[:, :2] - center, vertices[:, 2]


def _subpixel(values: NDArray, y: int, x: int) -> tuple[float, float, float]:
    """Vertex (y, x) of the parabolas through a peak and its neighbours, and its height."""

    def vertex(before: float, at: float, after: float) -> tuple[float, float]:
        slope, curvature = 0.5 * (after - before), before - 2 * at + after
        step = float(parabola_vertex(before, at, after))
        return step, slope * step + 0.5 * curvature * step**2

    down, above_y = vertex(values[y - 1, x], values[y, x], values[y + 1, x])
    across, above_x = vertex(values[y, x - 1], values[y, x], values[y, x + 1])
    return y + down, x + across, values[y, x] + above_y + above_x


def _two_shortest(peaks: NDArray, length: NDArray) -> NDArray | None:
    """The two shortest vectors that are not parallel as rows, None if there are none."""
    order = np.argsort(length)
    first = peaks[order[0]]
    for i in order[1:]:
        other = peaks[i]
        sine = abs(first[0] * other[1] - first[1] * other[0]) / (length[order[0]] * length[i])
        if sine > CONSTANTS.min_sine_between_vectors:
            return np.array([first, other])
    return None
