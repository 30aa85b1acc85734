"""Rigid, sub-pixel alignment of repeat frames, from the recorded frames alone."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage
from tqdm import tqdm

from stemkit.benchmark.shifting import fourier_shift
from stemkit.filters import wide_gaussian
from stemkit.parameters import check_positive
from stemkit.series.correlation import Spectra

__all__ = ["Alignment", "align_frames"]

#: Standard deviations (px) of the Gaussian filters that are tried before frames are correlated (chosen).
SMOOTHINGS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
#: Structure wider than this fraction of the shorter side is removed before frames are correlated (chosen).
MAX_STRUCTURE_WIDTH = 0.125
#: Largest shift between two frames by default, as a fraction of the shorter side (chosen).
MAX_SHIFT = 0.25
#: Standard deviations by which correlations must differ for the larger shift to be preferred (chosen).
MIN_DISTINCTION = 4.0
#: Standard deviations above which the correlation of two frames shows common structure (chosen).
MIN_CORRELATION_SNR = 6.0
#: Fraction of the power of a frame that is taken as noise at least (chosen): frames without noise can be aligned.
MIN_NOISE_FRACTION = 1e-6
#: Rounds in which each frame's shift is searched again against the mean of the others (chosen).
SEARCH_ROUNDS = 3
#: Refinement ends where no shift changes by more than this, px (chosen).
SHIFT_TOLERANCE = 0.003
#: Maximum number of rounds of the refinement (chosen).
MAX_ROUNDS = 20
#: Refinement changes a shift by less than this, px: it does not leave the maximum that was chosen (chosen).
MAX_REFINEMENT = 1.5
#: Width of the border that is not compared, px: shifts by a fraction of a pixel are inaccurate there (chosen).
BORDER_MARGIN = 4
#: Smallest common area along each axis, px (chosen): below it, correlations and rings have too few pixels.
MIN_COMMON_SIZE = 32
#: A frame whose correlation with the others is below this fraction of the median is reported (chosen).
MIN_RELATIVE_CORRELATION = 0.7


@dataclass(frozen=True)
class Alignment:
    """Positions of the same area in each frame.

    Attributes
    ----------
    shifts : ndarray of shape (n_frames, 2)
        Position (y, x) of the specimen in each frame, px, relative to its mean over the frames.
    correlations : ndarray of shape (n_frames,)
        Pearson correlation of each frame with the mean of the others, both band-pass filtered.
    smoothing : float
        Standard deviation (px) of the Gaussian filter with which the frames were aligned.
    shape : tuple of int
        ``(n_y, n_x)`` of the frames.
    """

    shifts: NDArray[np.float64]
    correlations: NDArray[np.float64]
    smoothing: float
    shape: tuple[int, int]

    @property
    def area(self) -> tuple[int, int]:
        """Height and width (px) of the area that all frames show; negative where they do not overlap."""
        extent = np.ptp(self.shifts, axis=0)
        height, width = (int(np.floor(n - 1 - e)) - 2 * BORDER_MARGIN for n, e in zip(self.shape, extent, strict=True))
        return height, width

    def crop(self, frame: int) -> tuple[slice, slice]:
        """The common area in the pixels of one frame."""
        start = np.ceil(self.shifts[frame] - self.shifts.min(axis=0)).astype(int) + BORDER_MARGIN
        height, width = self.area
        return slice(start[0], start[0] + height), slice(start[1], start[1] + width)

    def on_grid_of(self, frame: int, frames: NDArray) -> NDArray[np.float64]:
        """All frames on the pixels of one of them, cropped to the common area.

        Parameters
        ----------
        frame : int
            This frame is not interpolated.
        frames : ndarray of shape (n_frames, n_y, n_x)

        Returns
        -------
        ndarray of shape (n_frames, height, width)
        """
        crop = self.crop(frame)
        moved = [
            fourier_shift(other, self.shifts[frame] - shift) for other, shift in zip(frames, self.shifts, strict=True)
        ]
        return np.stack([image[crop] for image in moved])


def align_frames(frames: NDArray, *, max_shift: float | None = None, verbose: bool = True) -> Alignment:
    """Determine the shifts between repeat frames.

    Frames are band-pass filtered and each pair is correlated over its overlap [1]_. The frame with the highest
    correlations is the reference for the first shifts; each frame is then aligned to the mean of the others until no
    shift changes.

    Parameters
    ----------
    frames : ndarray of shape (n_frames, n_y, n_x)
    max_shift : float, optional
        Largest shift between two frames along each axis, px. Default: a quarter of the shorter side. It is reduced to
        the shorter side minus 32 px (``MIN_COMMON_SIZE``), so that the frames overlap.
    verbose : bool
        Show progress.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        If `max_shift` is not a positive number, the frames have no significant structure in common, or the area that
        all of them show is too small.

    Warns
    -----
    UserWarning
        If a frame matches the others far worse than the rest.

    Notes
    -----
    Assumptions: frames differ by a translation of the whole frame; their noise is independent, so that it does not
    correlate at any shift. A lattice correlates equally well when shifted by one lattice vector: of all maxima whose
    correlation c does not differ significantly from the highest one, the one with the smallest shift is taken. Shifts
    from frame to frame must therefore be below half a lattice vector, unless an edge or defects distinguish the cells.
    The variance of c is taken as ``(1 - c^2) sum |H|^4 / (sum |H|^2)^2``, with the filter H and white noise. Of several
    widths of the filter the one with the highest ratio of signal to noise in the correlations is used for the first
    shifts, and the one with the lowest expected error of the shifts in the end.

    References
    ----------
    .. [1] D. Padfield, IEEE Trans. Image Process. 21, 2706 (2012), https://doi.org/10.1109/TIP.2011.2181402
    """
    frames = np.asarray(frames, dtype=np.float64)
    shape = frames.shape[1:]
    check_positive("max_shift", max_shift, optional=True, unit="px")
    limit = MAX_SHIFT * min(shape) if max_shift is None else max_shift
    max_shift_px = max(1, int(min(limit, min(shape) - MIN_COMMON_SIZE)))
    high_pass = np.stack([frame - wide_gaussian(frame, MAX_STRUCTURE_WIDTH * min(shape)) for frame in frames])
    smoothing = _most_significant_smoothing(high_pass, max_shift_px)
    filtered = _smoothed(high_pass, smoothing)
    shifts, correlations = _first_shifts(filtered, max_shift_px, _noise_std(shape, smoothing), verbose)
    _check_common_structure(correlations, _noise_std(shape, smoothing), max_shift_px)
    shifts = _refined(filtered, shifts - shifts.mean(axis=0))
    _check_overlap(Alignment(shifts, np.empty(0), smoothing, shape))
    smoothing = _most_precise_smoothing(Alignment(shifts, np.empty(0), smoothing, shape).on_grid_of(0, frames))
    filtered = _smoothed(high_pass, smoothing)
    shifts = _refined(filtered, shifts)
    found = Alignment(shifts, np.empty(0), smoothing, shape)
    _check_overlap(found)
    found = Alignment(shifts, _correlations_with_others(filtered, found), smoothing, shape)
    _warn_of_outliers(found)
    return found


# --- filters -----------------------------------------------------------------------------------------------------


def _smoothed(images: NDArray, smoothing: float) -> NDArray[np.float64]:
    return ndimage.gaussian_filter(images, (0, smoothing, smoothing))


def _noise_std(shape: tuple[int, int], smoothing: float) -> float:
    """Standard deviation of the correlation of two frames of white noise after the filter."""
    power = _transfer(shape, smoothing)[1] ** 2
    # the half plane holds half of all coefficients
    return float(np.sqrt((power**2).sum() / 2) / power.sum())


def _most_significant_smoothing(frames: NDArray, max_shift_px: int) -> float:
    """The filter after which the correlation of neighbouring frames is highest relative to that of their noise."""
    reach = (max_shift_px, max_shift_px)

    def significance(smoothing: float) -> float:
        filtered = [Spectra(frame, reach) for frame in _smoothed(frames, smoothing)]
        highest = np.median([a.with_(b).max() for a, b in itertools.pairwise(filtered)])
        noise = max(1 - float(highest), MIN_NOISE_FRACTION) * _noise_std(frames.shape[1:], smoothing)
        return float(highest) / noise

    return max(SMOOTHINGS, key=significance)


def _transfer(shape: tuple[int, int], smoothing: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Squared frequency and transfer function of the filter, on the half plane of a real Fourier transform."""
    square = (2 * np.pi) ** 2 * (fft.fftfreq(shape[0])[:, None] ** 2 + fft.rfftfreq(shape[1]) ** 2)
    wide = MAX_STRUCTURE_WIDTH * min(shape)
    return square, np.exp(-square * smoothing**2 / 2) * (1 - np.exp(-square * wide**2 / 2))


def _most_precise_smoothing(aligned: NDArray) -> float:
    """The filter with the lowest expected error of the shifts.

    The maximum of the correlation with the mean of K others has the curvature ``sum q^2 H^2 S``, and noise moves its
    slope by the variance ``sum q^2 H^4 (N^2 / K + (1 + 1 / K) S N)``, with the power S of the signal, from products of
    different frames, and N of the noise.
    """
    n, *shape = aligned.shape
    window = np.outer(*(np.hanning(size + 2)[1:-1] for size in shape))
    spectra = fft.rfft2((aligned - aligned.mean(axis=(1, 2), keepdims=True)) * window)
    total = (np.abs(spectra) ** 2).sum(axis=0)
    signal = (np.abs(spectra.sum(axis=0)) ** 2 - total) / (n * (n - 1))
    noise = np.maximum(total / n - signal, 0.0)

    def variance(smoothing: float) -> float:
        square, transfer = _transfer((shape[0], shape[1]), smoothing)
        curvature = (square * transfer**2 * signal).sum()
        spread = (square * transfer**4 * (noise**2 / (n - 1) + (1 + 1 / (n - 1)) * signal * noise)).sum()
        return float(spread / curvature**2) if curvature > 0 else float("inf")

    return min(SMOOTHINGS, key=variance)


# --- first shifts ------------------------------------------------------------------------------------------------


def _first_shifts(
    filtered: NDArray, max_shift_px: int, noise_std: float, verbose: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shifts (n_frames, 2) relative to the best reference, and correlations (n_frames, n_frames), 0 with itself."""
    n, reach = len(filtered), (max_shift_px, max_shift_px)
    spectra = [Spectra(frame, reach) for frame in filtered]
    offsets, correlations = np.zeros((n, n, 2)), np.zeros((n, n))
    for i, j in tqdm(list(itertools.combinations(range(n), 2)), desc="aligning", disable=not verbose):
        maps = spectra[i].with_(spectra[j])
        y, x = _smallest_shift(maps, noise_std)
        offsets[i, j] = y - max_shift_px, x - max_shift_px
        offsets[j, i] = -offsets[i, j]
        correlations[i, j] = correlations[j, i] = maps[y, x]
    others = correlations[~np.eye(n, dtype=bool)].reshape(n, n - 1)
    reference = int(np.argmax(np.median(others, axis=1)))
    return _searched_again(filtered, spectra, offsets[reference], noise_std), correlations


def _searched_again(
    filtered: NDArray, spectra: Sequence[Spectra], shifts: NDArray, noise_std: float
) -> NDArray[np.float64]:
    """Shifts against the mean of the others, which has less noise than the reference frame."""
    shifts = shifts.copy()
    for _ in range(SEARCH_ROUNDS):
        before = shifts.copy()
        for i, spectrum in enumerate(spectra):
            others = [k for k in range(len(spectra)) if k != i]
            mean = np.mean([fourier_shift(filtered[k], -np.round(shifts[k])) for k in others], axis=0)
            shifts[i] = np.subtract(
                _smallest_shift(Spectra(mean, spectrum.reach).with_(spectrum), noise_std), spectrum.reach
            )
        if np.array_equal(before, shifts):
            break
    return shifts


def _smallest_shift(correlation: NDArray, noise_std: float) -> tuple[int, int]:
    """The maximum nearest to the centre, among those that do not differ significantly from the highest one."""
    highest = float(correlation.max())
    doubt = MIN_DISTINCTION * np.sqrt(2 * max(0.0, 1 - highest**2)) * noise_std
    is_peak = ndimage.maximum_filter(correlation, 3) == correlation
    candidates = np.argwhere(is_peak & (correlation >= highest - doubt))
    distance = np.hypot(*(candidates - (np.array(correlation.shape) - 1) / 2).T)
    y, x = candidates[np.argmin(distance)]
    return int(y), int(x)


# --- refinement --------------------------------------------------------------------------------------------------


def _refined(filtered: NDArray, shifts: NDArray) -> NDArray[np.float64]:
    first, shifts = shifts, shifts.copy()
    for _ in range(MAX_ROUNDS):
        found = Alignment(shifts, np.empty(0), 0.0, filtered.shape[1:])
        if min(found.area) < MIN_COMMON_SIZE:
            break
        steps = np.stack([_step(filtered, found, i) for i in range(len(filtered))])
        new = np.clip(shifts + steps, first - MAX_REFINEMENT, first + MAX_REFINEMENT)
        new -= new.mean(axis=0)
        change, shifts = float(np.abs(new - shifts).max()), new
        if change < SHIFT_TOLERANCE:
            break
    return shifts


def _step(filtered: NDArray, found: Alignment, frame: int) -> NDArray[np.float64]:
    """Displacement (y, x) of a frame from the mean of the others: the maximum of a parabola through three pixels."""
    aligned = found.on_grid_of(frame, filtered)
    others = np.delete(aligned, frame, axis=0).mean(axis=0)
    return _vertex(aligned[frame], others)


def _vertex(image: NDArray, reference: NDArray) -> NDArray[np.float64]:
    inner = image[1:-1, 1:-1]
    at = {
        (dy, dx): _pearson(inner, reference[1 - dy : reference.shape[0] - 1 - dy, 1 - dx : reference.shape[1] - 1 - dx])
        for dy, dx in ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    }
    step = []
    for before, after in (((-1, 0), (1, 0)), ((0, -1), (0, 1))):
        curvature = at[before] - 2 * at[0, 0] + at[after]
        slope = (at[after] - at[before]) / 2
        step.append(float(np.clip(-slope / curvature, -1, 1)) if curvature < 0 else float(np.sign(slope)))
    return np.array(step)


def _pearson(a: NDArray, b: NDArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / scale) if scale > 0 else 0.0


# --- checks ------------------------------------------------------------------------------------------------------


def _correlations_with_others(filtered: NDArray, found: Alignment) -> NDArray[np.float64]:
    out = []
    for i in range(len(filtered)):
        aligned = found.on_grid_of(i, filtered)
        out.append(_pearson(aligned[i], np.delete(aligned, i, axis=0).mean(axis=0)))
    return np.array(out)


def _check_common_structure(correlations: NDArray, noise_std: float, max_shift_px: int) -> None:
    highest = float(correlations.max())
    if highest < MIN_CORRELATION_SNR * noise_std:
        raise ValueError(
            f"frames must show the same area, but no two of them correlate at shifts up to {max_shift_px} px: the "
            f"highest correlation is {highest:.3f}, and noise alone gives up to {MIN_CORRELATION_SNR * noise_std:.3f}. "
            "Give repeat frames of one area, or raise max_shift (--max-shift) where they are displaced further"
        )


def _check_overlap(found: Alignment) -> None:
    if min(found.area) < MIN_COMMON_SIZE:
        shifts = ", ".join(f"({y:.1f}, {x:.1f})" for y, x in found.shifts)
        height, width = (max(0, n) for n in found.area)
        raise ValueError(
            f"frames must overlap by at least {MIN_COMMON_SIZE} px along y and x, but of {found.shape[0]} by "
            f"{found.shape[1]} px all of them show {height} by {width} px only; their shifts (y, x) are {shifts} px. "
            "Leave out the frames that are displaced furthest"
        )


def _warn_of_outliers(found: Alignment) -> None:
    usual = float(np.median(found.correlations))
    for i in np.flatnonzero(found.correlations < MIN_RELATIVE_CORRELATION * usual):
        warnings.warn(
            f"frames[{i}] does not match the others: its correlation with their mean is {found.correlations[i]:.3f}, "
            f"while the median is {usual:.3f}; it affects all scores, leave it out",
            UserWarning,
            stacklevel=4,
        )
