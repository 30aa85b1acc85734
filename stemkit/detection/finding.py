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
#: Part of the skewness of counts that is reckoned with: brighter places have less, and all of it costs faint columns.
SKEWED = 0.5
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
SAME_PLACE, MOST_OF, MIDDLE = 0.2, 0.5, 1024
#: Widths that are tried where nothing tells the columns' width, px.
TRIED_WIDTHS = (1.0, 1.5, 2.2, 3.3, 5.0, 7.5)
#: Neighbours nearer than this many widths are told apart through a filter of this part of the columns' width, of this
#: many px at least.
CLOSE, SHARP, SHARPEST = 5.5, 0.5, 1.0
#: Parts of the first width that are tried; a narrower one is taken where this part of the fits is good and their
#: residual smaller by this factor.
NARROWER, FITTED, BETTER = (0.7, 0.5), 0.75, 0.92
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
    return _sharp_and_faint(view, spacing, width)


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
    heights = _heights(rest, view, levelled, width, on=model)
    # errors of the fits are noise, too: what is below the middle tells how much
    heights /= max(1.0, float(np.subtract(*np.quantile(heights, [0.5, 0.16]))))
    near = apart(spacing, width)
    known, taken = (np.column_stack([f.y, f.x]) for f in (good, fits))
    places, tall = _away_from(taken, heights, near, factor)
    _, holes = _away_from(taken, -heights, near, factor)
    clear = tall > threshold(tall, view.recorded.size, width, len(good), _skewness(view, width))
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
    view = _middle_of(view)
    periodicity = find_periodicity(view.recorded).spacing
    guess = width if width is not None else _first_width(view, spacing or periodicity)
    if width is None and view.detect is None and view.enhanced is None:
        guess = _best_width(view, spacing or periodicity or np.nan, guess)
    positions = _sought(view, spacing or periodicity or np.nan, guess)
    distance = nearest_distances(positions)
    if spacing is None:
        spacing = float(np.median(distance)) if len(distance) else float("nan")
    if width is None:
        near = min(guess, 0.3 * spacing) if np.isfinite(spacing) else guess
        width = _fitted_width(view, positions, max(near, 0.7))
    return spacing, width


def threshold(heights: NDArray, area: float, width: float, known: int = 0, skewness: float = 0.0) -> float:
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
    skewness : float
        Of the filtered noise.

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
    all_noise = _noise_peaks(ordered, area, width, skewness)
    noise = all_noise - _noise_peaks(ordered + 1, area, width, skewness)
    above = known + np.arange(len(ordered), 0, -1)
    # few peaks may be there by chance: what counts is how many there are at least
    near = from_here(ordered, ordered)
    allowed = np.maximum(FALSE * (near - 1.5 * np.sqrt(near)), FALSE_IN_ALL)
    good = np.flatnonzero((noise <= allowed) & (all_noise <= FALSE_IN_ALL * above))
    return max(LOWEST, float(np.nextafter(ordered[good[0]], 0))) if len(good) else math.inf


# --- steps -------------------------------------------------------------------------------------------------------


def apart(spacing: float, width: float) -> float:
    """Columns are not looked for nearer to each other than this, px."""
    near = NEAREST * spacing if np.isfinite(spacing) else math.inf
    return max(1.5, min(near, NEAREST_WIDTHS * width))


def _skewness(view: View, width: float) -> float:
    """Skewness of the filtered noise of counts, of which a part is reckoned with: ``0.389 gain / (width sigma)``.

    The filter's third moment is ``0.389 / width`` times its second one's power of 3/2; a count of variance v and gain g
    has the skewness ``g / v^1/2``.
    """
    pointwise = view.noise.pointwise
    if pointwise.kind != "poisson" or view.sign < 0:
        return 0.0
    variance = float(view.variance(np.atleast_1d(np.median(view.recorded)))[0])
    return SKEWED * 0.389 * max(pointwise.gain, 0.0) / (width * math.sqrt(variance))


def _noise_peaks(heights: NDArray, area: float, width: float, skewness: float) -> NDArray:
    """How many peaks above a height noise makes in an area; the formula is in :func:`threshold`."""
    v = np.array([2.0, 1 + SURROUND**2, 2 * SURROUND**2])
    signs = np.array([1.0, -2.0, 1.0])
    curvature = float((signs / v**2).sum() / (signs / v).sum()) / width**2
    z = np.minimum(heights, 2.5 / max(skewness, 1e-3))
    z = np.maximum(z - skewness * (z**2 - 1) / 6, 1.0)
    return area * curvature / (2 * np.pi) ** 1.5 * z * np.exp(-(z**2) / 2)


def _tall(response: NDArray, peaks: NDArray) -> NDArray[np.bool_]:
    heights = _at(response, peaks)
    return heights > ENHANCED_THRESHOLD * np.quantile(heights, 0.95)


def _at(values: NDArray, positions: NDArray) -> NDArray:
    return values[tuple(np.clip(positions.round().astype(int), 0, np.array(values.shape) - 1).T)]


def _sought(view: View, spacing: float, width: float) -> NDArray[np.float64]:
    """Candidates while the width is not known: through one filter alone."""
    if view.detect is None and view.enhanced is None:
        return _significant(view, apart(spacing, width), width)
    return candidates(view, spacing, width)


def _best_width(view: View, spacing: float, guess: float) -> float:
    """The guess, or a part of it whose peaks, fitted, leave clearly less: close pairs are one peak to a wide filter."""
    best, least = guess, math.inf
    for part in (1.0, *NARROWER):
        positions = _sought(view, spacing, part * guess)
        if len(positions) < 3 or (part < 1 and part * guess < SHARPEST):
            break
        some = _middle_ones(positions, view.recorded.shape)
        fits = fit_columns(view.recorded, some, _fitted_width(view, positions, part * guess), variance=view.variance)
        good = ~fits.failed & (fits.amplitude > 4 * fits.amplitude_err)
        residual = float(np.median(fits.residual))
        if part == 1 or (good.mean() > FITTED and residual < BETTER * least):
            best, least = part * guess, residual
    return best


def _middle_ones(positions: NDArray, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The positions in the middle of the image, as many as a width is learnt on."""
    distance = np.abs(positions - np.array(shape) / 2).max(axis=1)
    return positions[np.argsort(distance)[:LEARNT_ON]]


def _sharp_and_faint(view: View, spacing: float, width: float) -> NDArray[np.float64]:
    """Peaks through a filter of half the columns' width, which tells neighbours apart, and those that only the
    matched one shows.
    """
    near = apart(spacing, width)
    faint = _significant(view, near, width)
    if SHARP * width < SHARPEST or spacing > CLOSE * width:
        return faint
    sharp = _significant(view, near, SHARP * width)
    if len(sharp) == 0 or len(faint) == 0:
        return sharp if len(sharp) else faint
    return np.concatenate([sharp, faint[cKDTree(sharp).query(faint)[0] > near]])


def _significant(view: View, near: float, width: float) -> NDArray[np.float64]:
    """Peaks of the recorded image that the noise does not make, no two nearer than a distance, ``(n, 2)`` px."""
    factor = _coarseness(width)
    coarse = _coarse(view.recorded, factor)
    heights = _heights(coarse, view, view.noise, width)
    peaks = find_peaks(heights, threshold=LOWEST, min_distance=near / factor)
    tall = _at(heights, peaks)
    least = threshold(tall, view.recorded.size, width, skewness=_skewness(view, width))
    return _full(peaks[tall > least], factor)


def _supported(
    places: NDArray, heights: NDArray, known: NDArray, significance: NDArray, values: NDArray, spacing: float
) -> NDArray[np.bool_]:
    """Which peaks stand where the lattice has columns, and are at least half as significant as those."""
    vectors = find_periodicity(_middle(values)).vectors
    if vectors is None or len(places) == 0:
        return np.zeros(len(places), dtype=bool)
    steps = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]) @ vectors
    there = places[:, None] + steps
    inside = ((there >= 0) & (there < values.shape)).all(axis=2)
    distance, which = cKDTree(known).query(there)
    taken = inside & (distance < max(1.5, SAME_PLACE * spacing))
    usual = [np.median(significance[w[t]]) if t.any() else np.inf for w, t in zip(which, taken, strict=True)]
    return (taken.sum(axis=1) >= MOST_OF * np.maximum(inside.sum(axis=1), 4)) & (heights >= np.array(usual) / 2)


def _heights(
    values: NDArray, view: View, noise: NoiseModel, width: float, on: NDArray | float = 0.0
) -> NDArray[np.float64]:
    """An image, coarse already, through the filter, in standard deviations of the noise; what it stands ``on`` has
    noise, too.
    """
    factor = _coarseness(width)
    sigma = math.sqrt(width**2 + (factor**2 - 1) / 12) / factor
    level, surround = (ndimage.gaussian_filter(values, s, mode="reflect") for s in (sigma, SURROUND * sigma))
    white, other = _filtered_noise(noise, width)
    variance = view.variance(level + on)
    variance *= white * _mirrored(values.shape, width / factor)
    variance += other
    return (level - surround) / np.sqrt(variance)


def _mirrored(shape: tuple[int, ...], width: float) -> NDArray[np.float64]:
    """How many times the filtered noise of the middle there is near the border, where some pixels count twice:
    Gaussians at distance d from their mirror images overlap by exp(-d^2 / width^2).
    """
    along = [1 + np.exp(-(((np.minimum(np.arange(n), np.arange(n)[::-1]) + 0.5) / width) ** 2)) for n in shape]
    return along[0][:, None] * along[1]


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


def _middle(values: NDArray) -> NDArray:
    """As much of the middle of an image as lengths are learnt on."""
    top, left = (max(0, (n - MIDDLE) // 2) for n in values.shape)
    return values[top : top + MIDDLE, left : left + MIDDLE]


def _middle_of(view: View) -> View:
    parts = (view.recorded, view.enhanced, view.detect)
    recorded, enhanced, detect = (None if part is None else _middle(part) for part in parts)
    assert recorded is not None
    return replace(view, recorded=recorded, enhanced=enhanced, detect=detect)


def _coarseness(width: float) -> int:
    return max(1, int(COARSE * width))


def _coarse(values: NDArray, factor: int) -> NDArray:
    """Means of squares of pixels; the border repeats itself where the last ones are not full."""
    if factor == 1:
        return values
    pad = [(0, -n % factor) for n in values.shape]
    padded = np.pad(values, pad, mode="edge")
    total = sum(padded[i::factor, j::factor] for i in range(factor) for j in range(factor))
    return np.asarray(total) / factor**2


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
    some = _middle_ones(positions, view.recorded.shape)
    for _ in range(2):
        fits = fit_columns(view.recorded, some, guess, variance=view.variance)
        good = fits.sigma[~fits.failed & (fits.amplitude > 4 * fits.amplitude_err)]
        if len(good) < 3:
            break
        guess = float(np.median(good))
    return guess
