"""Where columns may be: from what a network made of the image, or from the recorded pixels alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from stemkit.columns import ColumnFits, column_response, find_peaks, fit_columns, nearest_distances, render_columns
from stemkit.columns.candidates import SURROUND
from stemkit.detection.view import View
from stemkit.noise import NoiseModel
from stemkit.periodicity import find_periodicity

__all__ = ["apart", "candidates", "learn", "overlooked", "threshold"]

#: A spot of the `detect` map counts from this height (1 is certain).
DETECT_THRESHOLD = 0.35
#: A peak of an enhanced image counts from this fraction of its tall peaks.
ENHANCED_THRESHOLD = 0.12
#: Peaks of the recorded image are looked at from this many standard deviations of the noise.
LOWEST = 2.5
#: Of the peaks of about one height that are taken for columns, this part may be noise; and this part of all.
FALSE, FALSE_IN_ALL = 0.25, 0.02
#: Neighbours are no nearer than this part of the spacing, or than this many widths.
NEAREST, NEAREST_WIDTHS = 0.6, 2.0
#: Images are looked at in pixels of this many widths at most: coarser than recorded ones where columns are wide.
COARSE = 0.5
#: Holes in what fits leave that are deeper than noise by this factor come from columns of another shape.
MISFIT = 1.4
#: Part of the streaks' variance that a filter of half their length leaves, and a margin.
LEFT_OF_STREAKS = 0.03
#: The lattice is asked where peaks that noise could make are more than this part of the columns, and the faintest of
#: these less significant than this.
WORTH_A_LATTICE, BEYOND_DOUBT = 0.02, 10.0
#: It is asked about places within this part of the spacing, of which at least this part hold a column; its vectors are
#: those in the middle of the image, px.
SAME_PLACE, MOST_OF, LATTICE_SQUARE = 0.2, 0.5, 1024
#: Widths that are tried where nothing tells the columns' width, px.
TRIED_WIDTHS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)
#: Columns on which the width is learnt.
LEARNT_ON = 300


def candidates(view: View, spacing: float, width: float) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` px.

    Parameters
    ----------
    view : View
    spacing, width : float
        Of the columns, px; the spacing may be NaN.
    """
    if view.detect is not None:
        near = max(1.5, 0.25 * spacing) if np.isfinite(spacing) else 1.5
        return find_peaks(view.detect, threshold=DETECT_THRESHOLD, min_distance=near)
    if view.enhanced is not None:
        response = column_response(view.enhanced, 0.7 * width)
        peaks = find_peaks(response, threshold=0.0, min_distance=apart(spacing, width))
        return peaks[_tall(response, peaks)] if len(peaks) else peaks
    return _significant(view, spacing, width)


def overlooked(view: View, fits: ColumnFits, spacing: float, width: float) -> NDArray[np.float64]:
    """Positions ``(n, 2)`` px of what fitted columns leave above the noise, no nearer to them than columns are.

    A peak that noise could make counts all the same where the lattice has columns: where most of the places a lattice
    vector away hold one, and it is at least half as significant as they are.
    """
    good = fits.take(~fits.failed & (fits.amplitude > 0))
    if len(good) == 0:
        return np.empty((0, 2))
    factor = _coarseness(width)
    model = _coarse_model(good, view.recorded.shape, factor)
    rest, levelled = _without_streaks(_coarse(view.recorded, factor) - model, view.noise, width / factor)
    heights = _heights(rest, _smoothed(rest + model, width, factor), view, levelled, width)
    near = apart(spacing, width)
    known, taken = (np.column_stack([f.y, f.x]) for f in (good, fits))
    places, tall = _away_from(taken, heights, near, factor)
    _, holes = _away_from(taken, -heights, near, factor)
    clear = tall > threshold(tall, view.recorded.size, width, len(good))
    if -float(np.quantile(heights, 0.01)) > MISFIT * 2.33:
        clear &= tall > _above_misfit(tall, holes)
    significance = good.amplitude / good.amplitude_err
    if (~clear).sum() > WORTH_A_LATTICE * len(good) and np.quantile(significance, 0.02) < BEYOND_DOUBT:
        clear |= _supported(places, tall, known, significance, view.recorded, spacing)
    return places[clear]


def _away_from(taken: NDArray, heights: NDArray, near: float, factor: int) -> tuple[NDArray, NDArray]:
    """Peaks ``(n, 2)`` px that are not near columns, and their heights."""
    peaks = find_peaks(heights, threshold=LOWEST, min_distance=near / factor)
    places = _full(peaks, factor)
    free = cKDTree(taken).query(places)[0] > near if len(places) else np.empty(0, dtype=bool)
    return places[free], _at(heights, peaks)[free]


def _above_misfit(heights: NDArray, holes: NDArray) -> float:
    """The lowest height above which there are few holes as deep.

    Columns that are no Gaussians leave what is no noise, all over the image, as holes like as peaks; columns that were
    overlooked leave peaks.
    """
    ordered = np.sort(heights)
    deeper = len(holes) - np.searchsorted(np.sort(holes), ordered)
    doubtful = np.flatnonzero(deeper > FALSE * np.arange(len(ordered), 0, -1))
    return float(ordered[doubtful[-1]]) if len(doubtful) else LOWEST


def learn(view: View, spacing: float | None, width: float | None) -> tuple[float, float]:
    """Spacing and width of one image, px, from its candidates and the fits to some of them."""
    if spacing is not None and width is not None:
        return spacing, width
    periodicity = find_periodicity(view.recorded).spacing
    guess = width if width is not None else _first_width(view, spacing or periodicity)
    positions = candidates(view, spacing or periodicity or np.nan, guess)
    distance = nearest_distances(positions)
    if spacing is None:
        spacing = float(np.median(distance)) if len(distance) else float("nan")
    if width is None:
        near = min(guess, 0.3 * spacing) if np.isfinite(spacing) else guess
        width = _fitted_width(view, positions, max(near, 0.7))
    return spacing, width


def threshold(heights: NDArray, area: float, width: float, known: int = 0) -> float:
    """The lowest height, in standard deviations of the noise, down to which few peaks are noise.

    Parameters
    ----------
    heights : ndarray of shape (n,)
        Of the peaks of an image seen through :func:`~stemkit.columns.column_response`.
    area : float
        Of the image, px^2.
    width : float
        Of the filter, px.
    known : int
        Number of columns that are known already.

    Notes
    -----
    Gaussian noise of variance 1 has ``q z exp(-z^2 / 2) / (2 pi)^(3/2)`` maxima above z in a unit of area, where q is
    minus the curvature of its autocovariance at zero [1]_: 0.825 / width^2 through the filter. From the highest peak
    downwards, peaks count as long as these are at most a quarter of those that there are up to one above (the local
    false discovery rate [2]_: strong columns don't lend their credit to faint peaks), and at most one in fifty of all.

    References
    ----------
    .. [1] R. J. Adler, The Geometry of Random Fields, Wiley (1981), https://doi.org/10.1137/1.9780898718980
    .. [2] B. Efron, R. Tibshirani, J. D. Storey, V. Tusher, J. Am. Stat. Assoc. 96, 1151 (2001),
       https://doi.org/10.1198/016214501753382129
    """

    def from_here(sample: NDArray, z: NDArray) -> NDArray:
        return np.searchsorted(sample, z + 1, side="right") - np.searchsorted(sample, z)

    ordered = np.sort(heights)
    noise = _noise_peaks(ordered, area, width) - _noise_peaks(ordered + 1, area, width)
    above = known + np.arange(len(ordered), 0, -1)
    # few peaks may be there by chance: what counts is how many there are at least
    near = from_here(ordered, ordered)
    allowed = np.maximum(FALSE * (near - 1.5 * np.sqrt(near)), FALSE_IN_ALL)
    doubtful = np.flatnonzero((noise > allowed) | (_noise_peaks(ordered, area, width) > FALSE_IN_ALL * above))
    return max(LOWEST, float(ordered[doubtful[-1]])) if len(doubtful) else LOWEST


# --- steps -------------------------------------------------------------------------------------------------------


def apart(spacing: float, width: float) -> float:
    """Columns are not looked for nearer to each other than this, px."""
    near = NEAREST * spacing if np.isfinite(spacing) else math.inf
    return max(1.5, min(near, NEAREST_WIDTHS * width))


def _noise_peaks(heights: NDArray | float, area: float, width: float) -> NDArray:
    """How many peaks above a height noise makes in an area; the formula is in :func:`threshold`."""
    v = np.array([2.0, 1 + SURROUND**2, 2 * SURROUND**2])
    signs = np.array([1.0, -2.0, 1.0])
    curvature = float((signs / v**2).sum() / (signs / v).sum()) / width**2
    z = np.maximum(heights, 1.0)
    return area * curvature / (2 * np.pi) ** 1.5 * z * np.exp(-(z**2) / 2)


def _tall(response: NDArray, peaks: NDArray) -> NDArray[np.bool_]:
    heights = _at(response, peaks)
    return heights > ENHANCED_THRESHOLD * np.quantile(heights, 0.95)


def _at(values: NDArray, positions: NDArray) -> NDArray:
    return values[tuple(np.clip(positions.round().astype(int), 0, np.array(values.shape) - 1).T)]


def _significant(view: View, spacing: float, width: float) -> NDArray[np.float64]:
    """Peaks of the recorded image that the noise does not make, ``(n, 2)`` px."""
    factor = _coarseness(width)
    coarse = _coarse(view.recorded, factor)
    heights = _heights(coarse, _smoothed(coarse, width, factor), view, view.noise, width)
    peaks = find_peaks(heights, threshold=LOWEST, min_distance=apart(spacing, width) / factor)
    tall = _at(heights, peaks)
    return _full(peaks[tall > threshold(tall, view.recorded.size, width)], factor)


def _supported(
    places: NDArray, heights: NDArray, known: NDArray, significance: NDArray, values: NDArray, spacing: float
) -> NDArray[np.bool_]:
    """Which peaks stand where the lattice has columns, and are at least half as significant as those."""
    vectors = find_periodicity(_middle(values, LATTICE_SQUARE)).vectors
    if vectors is None or len(places) == 0:
        return np.zeros(len(places), dtype=bool)
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]) @ vectors
    there = places[:, None] + steps
    inside = ((there >= 0) & (there < values.shape)).all(axis=2)
    distance, which = cKDTree(known).query(there)
    taken = inside & (distance < max(1.5, SAME_PLACE * spacing))
    usual = [np.median(significance[w[t]]) if t.any() else np.inf for w, t in zip(which, taken, strict=True)]
    return (taken.sum(axis=1) >= MOST_OF * np.maximum(inside.sum(axis=1), 4)) & (heights >= np.array(usual) / 2)


def _heights(values: NDArray, level: NDArray, view: View, noise: NoiseModel, width: float) -> NDArray[np.float64]:
    """An image, coarse already, through the filter, in standard deviations of the noise at its level."""
    factor = _coarseness(width)
    response = column_response(values, _coarse_width(width, factor))
    white, other = _filtered_noise(noise, width)
    return response / np.sqrt(view.variance(level) * white * _mirrored(values.shape, width / factor) + other)


def _mirrored(shape: tuple[int, ...], width: float) -> NDArray[np.float64]:
    """How many times the filtered noise of the middle there is near the border, where some pixels count twice:
    Gaussians at distance d from their mirror images overlap by exp(-d^2 / width^2).
    """
    along = [1 + np.exp(-(((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / width) ** 2)) for n in shape]
    return along[0][:, None] * along[1]


def _smoothed(values: NDArray, width: float, factor: int) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(values, _coarse_width(width, factor), mode="reflect")


def _coarse_width(width: float, factor: int) -> float:
    """Sigma of a column in coarse pixels."""
    return math.sqrt(width**2 + (factor**2 - 1) / 12) / factor


def _full(positions: NDArray, factor: int) -> NDArray[np.float64]:
    """Positions in coarse pixels as those in recorded ones."""
    return factor * positions + (factor - 1) / 2


def _without_streaks(rest: NDArray, noise: NoiseModel, width: float) -> tuple[NDArray[np.float64], NoiseModel]:
    """What columns leave without the rows' own offsets, as far as the rows tell them from the pixels' noise; and the
    noise that is left. ``width`` is that of a column in these pixels.
    """
    scan = noise.scan
    if scan.amplitude == 0:
        return rest, noise
    # half the streaks' length follows them well
    length = min(max(scan.length / 2, 3 * width), rest.shape[1])
    along = ndimage.gaussian_filter1d(rest, length, axis=1, mode="reflect")
    offset = along - ndimage.gaussian_filter1d(along, SURROUND * width, axis=0, mode="reflect")
    pointwise = (noise.pointwise.readout**2 + max(noise.pointwise.gain, 0.0) / 4) / (2 * math.sqrt(math.pi) * length)
    told = scan.amplitude**2 / (scan.amplitude**2 + pointwise)
    left = scan.amplitude * math.sqrt(1 - told + LEFT_OF_STREAKS)
    return rest - told * offset, replace(noise, scan=replace(scan, amplitude=left))


def _middle(values: NDArray, size: int) -> NDArray:
    top, left = (max(0, (n - size) // 2) for n in values.shape)
    return values[top : top + size, left : left + size]


def _coarseness(width: float) -> int:
    return max(1, int(COARSE * width))


def _coarse(values: NDArray, factor: int) -> NDArray:
    """Means of squares of pixels; the border repeats itself where the last ones are not full."""
    if factor == 1:
        return values
    pad = [(0, -n % factor) for n in values.shape]
    padded = np.pad(values, pad, mode="edge")
    n_y, n_x = (n // factor for n in padded.shape)
    return padded.reshape(n_y, factor, n_x, factor).mean(axis=(1, 3))


def _coarse_model(fits: ColumnFits, shape: tuple[int, ...], factor: int) -> NDArray[np.float64]:
    """The fitted columns as they are in means of squares of pixels."""
    n_y, n_x = (-(-n // factor) for n in shape)
    sigma = np.sqrt(fits.sigma**2 + (factor**2 - 1) / 12)
    changed = {
        "y": (fits.y - (factor - 1) / 2) / factor,
        "x": (fits.x - (factor - 1) / 2) / factor,
        "amplitude": fits.amplitude * (fits.sigma / sigma) ** 2,
        "sigma": sigma / factor,
    }
    return render_columns(ColumnFits(**(vars(fits) | changed)), (n_y, n_x))


def _filtered_noise(noise: NoiseModel, width: float) -> tuple[float, float]:
    """What the filter leaves of the variance of a pixel, and the variance of streaks and background behind it.

    Through Gaussians s and t, white noise keeps ``g(s^2 + t^2)`` of its variance in common, ``g(v) = 1 / (2 pi v)``;
    noise correlated by rho along the row has (1 + rho) / (1 - rho) times the power at low frequency. A field that is
    white noise through a Gaussian of length L keeps ``2 L^2 / (2 L^2 + v)``; streaks, which are so along the row only,
    ``(2 L^2 / (2 L^2 + v) / (2 pi v))^1/2``.
    """
    wide = SURROUND * width
    v = np.array([2 * width**2, width**2 + wide**2, 2 * wide**2])
    signs = np.array([1.0, -2.0, 1.0])

    def kept(values: NDArray) -> float:
        return float((signs * values).sum())

    def smooth(length: float) -> NDArray:
        return 1 / (1 + v / (2 * max(length, 0.1) ** 2))

    rho = noise.pointwise.correlation_x
    white = kept(1 / (2 * np.pi * v)) * (1 + rho) / (1 - rho)
    streaks = noise.scan.amplitude**2 * kept(np.sqrt(smooth(noise.scan.length) / (2 * np.pi * v)))
    background = noise.background.amplitude**2 * kept(smooth(noise.background.length))
    return white, streaks + background


def _first_width(view: View, spacing: float | None) -> float:
    if view.detect is not None:
        distance = nearest_distances(find_peaks(view.detect, threshold=DETECT_THRESHOLD, min_distance=2.0))
        if len(distance) > 3:
            return float(np.clip(0.2 * np.median(distance), 0.8, 20.0))
    if spacing is not None:
        return float(np.clip(0.18 * spacing, 0.8, 20.0))
    # the width through whose filter the tallest peaks stand out most
    # (white noise seen through a filter of width s has a deviation in proportion to 1 / s)
    prominence = [np.quantile(column_response(view.recorded, s), 0.999) * s for s in TRIED_WIDTHS]
    return TRIED_WIDTHS[int(np.argmax(prominence))]


def _fitted_width(view: View, positions: NDArray, guess: float) -> float:
    """Median width of the columns in the middle of the image, fitted twice: the second time from the first's width."""
    if len(positions) == 0:
        return guess
    centre = np.array(view.recorded.shape) / 2
    some = positions[np.argsort(np.abs(positions - centre).max(axis=1))[:LEARNT_ON]]
    for _ in range(2):
        fits = fit_columns(view.recorded, some, guess, variance=view.variance)
        good = fits.sigma[~fits.failed & (fits.amplitude > 4 * fits.amplitude_err)]
        if len(good) < 3:
            break
        guess = float(np.median(good))
    return guess
