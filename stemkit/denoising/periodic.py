"""Average of similar patches at the lattice vectors of a crystal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.compute import parallel_map
from stemkit.denoising.anscombe import StabilizedCounts, image_of, signal_of
from stemkit.denoising.base import StatelessDenoiser
from stemkit.denoising.spectral import frequencies, information_limit, periodic_part
from stemkit.filters import lanczos_weights
from stemkit.noise import NoiseModel
from stemkit.noise.resolve import resolve_noise
from stemkit.parameters import check_integer, check_positive
from stemkit.periodicity import central_crop, find_periodicity

__all__ = ["PeriodicDenoiser"]

#: Taps of the windowed sinc that interpolates between pixels (chosen).
TAPS = 6
#: Interpolated positions per pixel along an axis (chosen).
FRACTIONS = 4
#: Sums over offsets that are computed in parallel; fixed, so that the result does not depend on the number of threads.
N_SUMS = 4


@dataclass(frozen=True)
class _Constants:
    """Constants of the method, chosen unless stated otherwise."""

    #: Edge of the square in the middle of the image on which lattice vectors are measured, px.
    measured_on: int = 1024
    #: Largest offset of patches along an axis in an image without a lattice, px.
    nearby: int = 4
    #: Edge of a patch, spacings.
    patch: float = 0.5
    #: Limits of the edge of a patch, px.
    edges: tuple[int, int] = (3, 25)
    #: Cut-off frequency, in multiples of that of the last Bragg peak.
    cutoff: float = 1.15
    #: Cut-off frequency without Bragg peaks, cycles per spacing; derived: columns whose width is an eighth of the
    #: spacing have less than a hundredth of their amplitude above it.
    cutoff_without_peaks: float = 4.0
    #: Residuals are clipped at this many standard deviations of the noise before rows are averaged.
    outlying: float = 3.0
    #: Ratio of the power of background to that of noise from which background is subtracted.
    background_ratio: float = 100.0
    #: Largest amplitude of subtracted background, in units of the contrast; a stronger one belongs to the specimen.
    faint: float = 0.12
    #: Variance of noise after the first average, as a fraction of the variance before.
    pilot_variance: float = 0.2
    #: Filtered residuals above this many standard deviations of the noise are restored.
    significant: float = 4.0
    #: Sigma of the filter of residuals, spacings.
    residual_filter: float = 0.2


CONSTANTS = _Constants()


class PeriodicDenoiser(StatelessDenoiser):
    """Average similar patches of a crystal at the vectors of its lattice.

    The variance of counting noise is stabilised, frequencies above the last Bragg peak are removed, and each patch is
    compared with patches at lattice vectors. Patches that differ by noise only are averaged, so that defects are
    preserved. A second iteration compares patches of the first result, after row offsets are subtracted. Significant
    residuals, such as an isolated vacancy, are added to the result.

    Parameters
    ----------
    n_neighbors : int, default=120
        Number of lattice vectors at which patches are compared, the shortest ones first.
    strength : float, default=1.0
        Decay length of the weight with the difference of patches, in units of the difference expected from noise.
    flatten : bool, default=False
        Subtract the slow background of the noise model. Equally slow variation of the specimen (thickness, support,
        adjacent vacuum) is subtracted too.
    mode : {"haadf", "bf"} or None, default=None
        None takes the image's mode, or infers it where the image has none.

    Notes
    -----
    The periodic search is that of [1]_, with the weights of non-local means [2]_ instead of block matching: 1 up to the
    mean difference caused by noise, and an exponential decay above it. The noise model is taken from
    ``attrs["noise"]``, see :class:`~stemkit.NoiseCalibrator`; without it, the noise is calibrated. In an image without
    a lattice, patches are compared with neighbouring ones.

    References
    ----------
    .. [1] Mevenkamp, Binev, Dahmen, Voyles, Yankovich, Berkels, "Poisson noise removal from high-resolution STEM images
       based on periodic block matching", Adv. Struct. Chem. Imaging 1, 3 (2015),
       https://doi.org/10.1186/s40679-015-0004-8
    .. [2] Buades, Coll, Morel, "Non-local means denoising", Image Process. On Line 1, 208 (2011),
       https://doi.org/10.5201/ipol.2011.bcm_nlm

    Examples
    --------
    >>> from stemkit import PeriodicDenoiser, STEMSynthesizer
    >>> from stemkit.metrics import psnr
    >>> from stemkit.synthesis import lattice, planar_cell
    >>> crystal = lattice(planar_cell("square"), (256, 256), spacing=14.0)
    >>> pairs = STEMSynthesizer(random_state=1).record(crystal)
    >>> enhanced = PeriodicDenoiser().fit_transform(pairs["noisy"])
    >>> psnr(enhanced, pairs["enhance"]) > psnr(pairs["noisy"], pairs["enhance"]) + 6
    True
    """

    def __init__(
        self, *, n_neighbors: int = 120, strength: float = 1.0, flatten: bool = False, mode: str | None = None
    ):
        self.n_neighbors = n_neighbors
        self.strength = strength
        self.flatten = flatten
        self.mode = mode

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_integer("n_neighbors", self.n_neighbors)
        check_positive("strength", self.strength)

    def _maps(self, image: xr.DataArray, mode: str) -> dict[str, NDArray]:
        values = image.values
        if min(values.shape) < 2 * TAPS or np.ptp(values) == 0:
            return {"enhance": values}
        model = resolve_noise(image, mode)
        transform = StabilizedCounts.from_noise_model(model)
        if transform.noise_free:
            return {"enhance": values}
        contrast = float(np.ptp(transform.forward(np.array([0.0, 1.0]))))  # in standard deviations of the noise
        noisy = transform.forward(signal_of(values, model))
        if self.flatten:
            noisy -= _background(noisy, model, contrast)
        averaged = self._averaged(noisy, model, contrast)
        return {"enhance": image_of(transform.inverse(averaged), model)}

    def _averaged(self, noisy: NDArray, model: NoiseModel, contrast: float) -> NDArray:
        """Denoise an image whose noise has a standard deviation of 1."""
        periodicity = find_periodicity(central_crop(noisy, CONSTANTS.measured_on))
        spacing = periodicity.spacing or 2.0 * CONSTANTS.nearby
        offsets = _lattice_offsets(periodicity.vectors, self.n_neighbors, noisy.shape)
        edge = int(np.clip(round(CONSTANTS.patch * spacing), *CONSTANTS.edges)) // 2 * 2 + 1
        limit = CONSTANTS.cutoff * information_limit(noisy)
        if not limit and periodicity.spacing:
            limit = CONSTANTS.cutoff_without_peaks / periodicity.spacing
        smooth, kept, kept_along_y = _low_pass(noisy, limit)
        streaks, jitter = _scan_variances(smooth, model, contrast)
        scan = kept_along_y * (streaks + jitter)
        pilot = _average(smooth, smooth, offsets, edge, 2 * (kept + scan), self.strength)
        # the mean residual of a row is its offset by the scan
        rows = (noisy - pilot).clip(-CONSTANTS.outlying, CONSTANTS.outlying).mean(axis=1, keepdims=True)
        smooth, *_ = _low_pass(noisy - (rows - rows.mean()), limit)
        average = _average(smooth, pilot, offsets, edge, 2 * (kept + scan) * CONSTANTS.pilot_variance, self.strength)
        sigma = max(1.0, CONSTANTS.residual_filter * spacing)
        noise = _filtered_noise(model, streaks, jitter, sigma)
        return average + _significant(smooth - average, sigma, noise)


# --- steps -------------------------------------------------------------------------------------------------------


def _scan_variances(smooth: NDArray, model: NoiseModel, contrast: float) -> tuple[float, float]:
    """Variances of streaks, and of the intensity changes that displacements of the beam cause on slopes along x."""
    slope, scan = np.gradient(smooth, axis=1), model.scan
    streaks = (scan.amplitude**2 + scan.short_amplitude**2) * contrast**2
    return float(streaks), float((scan.displacement * slope.std()) ** 2)


def _filtered_noise(model: NoiseModel, streaks: float, jitter: float, sigma: float) -> float:
    """Standard deviation of all noise after a Gaussian filter of ``sigma``, px.

    The filter multiplies the variance of white noise by ``1 / (4 pi sigma^2)``, and that of autoregressive noise along
    the row by ``(1 + r) / (1 - r)`` times that. The variance of noise that is independent between rows is multiplied by
    ``1 / (2 sqrt(pi) sigma)``, and by ``L / sqrt(L^2 + sigma^2)`` if it is white noise filtered along the row with a
    Gaussian of sigma L.
    """
    correlation = float(np.clip(model.pointwise.correlation_x, 0.0, 0.9))
    variance = (1 + correlation) / (1 - correlation) / (4 * np.pi * sigma**2)
    for scan, length in ((streaks, model.scan.length), (jitter, model.scan.jitter_length)):
        along = length / np.hypot(length, sigma) if np.isfinite(length) else 1.0
        variance += scan * along / (2 * np.sqrt(np.pi) * sigma)
    return float(np.sqrt(variance))


def _background(noisy: NDArray, model: NoiseModel, contrast: float) -> NDArray:
    """Wiener estimate of the noise model's background, at the frequencies where it is much larger than the noise."""
    background = model.background
    if not background.amplitude:
        return np.zeros_like(noisy)
    amplitude = min(background.amplitude, CONSTANTS.faint) * contrast
    spectrum, _ = periodic_part(noisy)
    phase = 2 * np.pi * background.length * frequencies(noisy.shape)
    # power of white noise after a Gaussian filter, scaled to the amplitude; that of the pointwise noise is 1
    power = 4 * np.pi * background.length**2 * amplitude**2 * np.exp(-(phase**2))
    weight = power / (power + CONSTANTS.background_ratio)
    weight[0, 0] = 0.0
    return np.asarray(fft.irfft2(weight * spectrum, s=noisy.shape, workers=-1))


def _lattice_offsets(vectors: NDArray | None, n: int, shape: tuple[int, ...]) -> NDArray:
    """Shortest lattice vectors ``(n / 2, 2)``, px, one of each opposite pair; offsets of pixels without a lattice."""
    if vectors is None:
        reach, vectors = CONSTANTS.nearby, np.eye(2)
    else:
        reach = int(np.ceil(np.sqrt(n))) + 1
    steps = np.arange(-reach, reach + 1)
    pairs = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    half = pairs[(pairs[:, 0] > 0) | ((pairs[:, 0] == 0) & (pairs[:, 1] > 0))] @ vectors
    half = half[(np.abs(half) < np.array(shape) / 2).all(axis=1)]
    return np.asarray(half[np.argsort(np.hypot(*half.T), kind="stable")][: max(1, n // 2)])


def _low_pass(values: NDArray, cutoff: float) -> tuple[NDArray, float, float]:
    """Low-pass filter, and the fractions of the power of white noise and of row offsets that it transmits.

    ``cutoff`` is in cycles per px; 0 transmits all.
    """
    if not cutoff:
        return values, 1.0, 1.0

    def window(distance: NDArray) -> NDArray:
        return np.asarray(1.0 / (1.0 + (distance / cutoff) ** 16))

    spectrum, rest = periodic_part(values)
    grid = np.hypot(fft.fftfreq(64)[:, None], fft.fftfreq(64))
    smooth = fft.irfft2(spectrum * window(frequencies(values.shape)), s=values.shape, workers=-1)
    return smooth + rest, float((window(grid) ** 2).mean()), float((window(grid[0]) ** 2).mean())


def _average(noisy: NDArray, guide: NDArray, offsets: NDArray, edge: int, variance: float, strength: float) -> NDArray:
    """Mean of an image and its copies at both signs of the offsets, weighted by the similarity of the guide's patches.

    The similarity is the same for both signs and computed once. ``variance`` is that of the difference of two pixels of
    the guide that differ by noise only.
    """
    steps = np.round(offsets * FRACTIONS).astype(int)
    image = _subpixel_shifts(noisy, np.concatenate([steps, -steps]))
    similar = image if guide is noisy else _subpixel_shifts(guide, steps)

    def sums(subset: NDArray) -> tuple[NDArray, NDArray]:
        total, weights = (np.zeros(noisy.shape, np.float32) for _ in range(2))
        for step in subset:
            y, x = (Overlap.for_step(n, int(s)) for n, s in zip(noisy.shape, step, strict=True))
            fraction, opposite = tuple(step % FRACTIONS), tuple(-step % FRACTIONS)
            target = (y.target, x.target)
            distance = (similar[0, 0][target] - similar[fraction][y.source, x.source]) ** 2
            ends = [ndimage.uniform_filter1d(np.ones(n, np.float32), edge, mode="constant") for n in distance.shape]
            distance = _box(distance, edge) / (ends[0][:, None] * ends[1])
            # a pixel's weight is the mean over all patches that contain it
            weight = _box(np.exp(np.maximum(distance / np.float32(variance) - 1, 0) / np.float32(-strength)), edge)
            total[target] += weight * image[fraction][y.source, x.source]
            weights[target] += weight
            weight = weight[y.shared, x.shared]
            total[y.back_target, x.back_target] += weight * image[opposite][y.back_source, x.back_source]
            weights[y.back_target, x.back_target] += weight
        return total, weights

    total, weights = noisy.astype(np.float32), np.ones(noisy.shape, np.float32)
    for one_total, one_weights in parallel_map(sums, np.array_split(steps, N_SUMS)):
        total += one_total
        weights += one_weights
    return np.asarray(total / weights, dtype=np.float64)


def _significant(residual: NDArray, sigma: float, noise: float) -> NDArray:
    """Residual where it is significant after a Gaussian filter of ``sigma`` px, whose noise is ``noise`` then."""
    significant = np.abs(ndimage.gaussian_filter(residual, sigma)) > CONSTANTS.significant * noise
    dilated = ndimage.grey_dilation(significant.astype(float), size=(2 * round(sigma) + 1,) * 2)
    return np.asarray(ndimage.gaussian_filter(dilated, sigma / 2) * residual)


def _box(values: NDArray, edge: int) -> NDArray:
    """Mean over squares, zero outside the image."""
    return np.asarray(ndimage.uniform_filter(values, edge, mode="constant"))


@dataclass(frozen=True)
class Overlap:
    """Overlap of an axis with itself after a step, as slices of whole pixels.

    Pixels ``target`` are averaged with those at ``source`` plus a fraction of a pixel. For the opposite step, pixels
    ``back_target`` are averaged with those at ``back_source`` plus the opposite fraction; ``shared`` are the
    corresponding elements of ``target``.
    """

    target: slice
    source: slice
    shared: slice
    back_target: slice
    back_source: slice

    @classmethod
    def for_step(cls, n: int, step: int) -> Overlap:
        """Overlap for ``n`` pixels and a step in units of ``1 / FRACTIONS`` px."""
        whole, nearest = step // FRACTIONS, (step + FRACTIONS // 2) // FRACTIONS
        before = int(nearest * FRACTIONS < step)  # -step from back_target is between back_source and the next pixel
        rim = TAPS // 2 if step % FRACTIONS else 0  # interpolation needs this many pixels
        low = max(0, rim - whole)
        high = max(low, min(n, n - rim - whole))
        first = max(low, -nearest, before + rim)
        last = max(first, min(high, n - nearest, n - rim + before))
        moved = [(low, high, whole), (first, last, -low), (first, last, nearest), (first, last, -before)]
        return cls(slice(low, high), *(slice(start + by, stop + by) for start, stop, by in moved))


def _subpixel_shifts(image: NDArray, steps: NDArray) -> dict[tuple[int, ...], NDArray]:
    """Image shifted by each fraction of a pixel that occurs in steps ``(n, 2)``."""
    values = image.astype(np.float32)
    needed = sorted({(0, 0)} | {(int(y), int(x)) for y, x in steps % FRACTIONS})
    rows = {y: _shifted(values, y / FRACTIONS, 0) for y in {y for y, _ in needed}}
    moved = parallel_map(lambda at: _shifted(rows[at[0]], at[1] / FRACTIONS, 1), needed)
    return dict(zip(needed, moved, strict=True))


def _shifted(image: NDArray, fraction: float, axis: int) -> NDArray:
    """Lanczos interpolation of an image at positions shifted by a fraction of a pixel."""
    if not fraction:
        return image
    return np.asarray(ndimage.correlate1d(image, lanczos_weights(fraction, TAPS), axis, mode="mirror", origin=-1))
