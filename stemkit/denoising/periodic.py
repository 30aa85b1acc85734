"""What repeats in a crystal, averaged where it does repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.compute import side_by_side
from stemkit.denoising.anscombe import Stabilised, image_of, signal_of
from stemkit.denoising.base import Denoiser, Enhancer, noise_of
from stemkit.denoising.spectral import frequencies, information_limit, periodic_part
from stemkit.noise import NoiseModel
from stemkit.periodicity import find_periodicity, middle

__all__ = ["PeriodicDenoiser"]

#: A crystal's vectors are measured on so many px in the middle of the image.
MEASURED_ON = 1024
#: Without a crystal, patches are sought in a square of so many px to each side.
NEARBY = 4
#: Edge of a patch, in spacings, and its limits, px.
PATCH, EDGES = 0.5, (3, 25)
#: Frequencies up to so many times the last Bragg peak are kept; without peaks, those of columns as narrow as an eighth
#: of their spacing, whose amplitude is below a hundredth beyond this, in cycles per spacing.
BEYOND, NARROWEST = 1.15, 4.0
#: A pixel says no more than this, in deviations of the noise, of its row's offset.
OUTLYING = 3.0
#: Background is taken off where it has so many times the power of the noise: elsewhere the specimen itself may vary.
CERTAIN = 100.0
#: A stronger background than this part of the contrast is the specimen's.
FAINT = 0.12
#: The variance of noise that is left in a first average, in parts of the variance before.
LEFT = 0.2
#: What an average has taken away comes back where it stands so many deviations above the noise, over this part of the
#: spacing.
SEEN, REACH = 4.0, 0.2
#: Taps of the windowed sinc that moves an image by a fraction of a pixel, and the fractions.
TAPS, FRACTIONS = 6, 4
#: Parts in which offsets are summed: the result does not depend on the number of threads.
PARTS = 4


class PeriodicDenoiser(Denoiser):
    """Average patches of a crystal that are alike, sought at the crystal's own periods.

    Counting noise is made alike at all intensities, frequencies beyond the last Bragg peak are left out, and patches
    are compared with those one or several lattice vectors away: where they differ by no more than noise, as they do not
    at a defect, they are averaged. A second round compares what the first has made, after the rows are levelled. What
    noise can't explain of the difference, such as a lone vacancy, comes back.

    Parameters
    ----------
    n_neighbors : int, default=120
        Lattice vectors at which patches are sought, the shortest ones first.
    strength : float, default=1.0
        How much more than by noise patches may differ and still be averaged.
    flatten : bool, default=False
        Take off the slow background that the noise model states. What varies as slowly in the specimen goes with it:
        thickness, a support, the vacuum beside it.
    mode : {"haadf", "bf"} or None, default=None
        None asks the image, and infers it where the image does not say.

    Attributes
    ----------
    n_images_ : int
        Number of images seen by ``fit``.

    Notes
    -----
    The periodic search is that of [1]_, with the weights of non-local means [2]_ instead of block matching: 1 up to the
    difference that noise makes on average, and falling exponentially beyond. The noise comes from ``attrs["noise"]``
    where :class:`~stemkit.NoiseCalibrator` has put it, else it is calibrated on the spot. An image without a lattice is
    denoised by patches nearby.

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
        if not isinstance(self.n_neighbors, int | np.integer) or self.n_neighbors < 1:
            raise ValueError(f"n_neighbors must be a positive integer, but is {self.n_neighbors!r}")
        if not isinstance(self.strength, int | float | np.number) or not 0 < self.strength < np.inf:
            raise ValueError(f"strength must be a positive number, but is {self.strength!r}")

    def _enhancer(self) -> Enhancer:
        def enhance(image: xr.DataArray, mode: str) -> dict[str, NDArray]:
            values = image.values
            if min(values.shape) < 2 * TAPS or np.ptp(values) == 0:
                return {"enhance": values}
            model = noise_of(image, mode)
            counts = Stabilised.of(model)
            if counts.silent:
                return {"enhance": values}
            contrast = float(np.ptp(counts.forward(np.array([0.0, 1.0]))))  # in deviations of the noise
            even = counts.forward(signal_of(values, model))
            if self.flatten:
                even -= _background(even, model, contrast)
            averaged = self._averaged(even, model, contrast)
            return {"enhance": image_of(counts.inverse(averaged), model)}

        return enhance

    def _averaged(self, noisy: NDArray, model: NoiseModel, contrast: float) -> NDArray:
        """An image whose noise has a deviation of 1, without most of it."""
        periodicity = find_periodicity(middle(noisy, MEASURED_ON))
        spacing = periodicity.spacing or 2.0 * NEARBY
        offsets = _lattice_offsets(periodicity.vectors, self.n_neighbors, noisy.shape)
        edge = int(np.clip(round(PATCH * spacing), *EDGES)) // 2 * 2 + 1
        limit = BEYOND * information_limit(noisy)
        if not limit and periodicity.spacing:
            limit = NARROWEST / periodicity.spacing
        smooth, kept, kept_along_y = _low_pass(noisy, limit)
        streaks, jitter = _scan_variances(smooth, model, contrast)
        scan = kept_along_y * (streaks + jitter)
        pilot = _average(smooth, smooth, offsets, edge, 2 * (kept + scan), self.strength)
        # what is left of whole rows is the scan's
        rows = (noisy - pilot).clip(-OUTLYING, OUTLYING).mean(axis=1, keepdims=True)
        smooth, *_ = _low_pass(noisy - (rows - rows.mean()), limit)
        average = _average(smooth, pilot, offsets, edge, 2 * (kept + scan) * LEFT, self.strength)
        reach = max(1.0, REACH * spacing)
        noise = _filtered_noise(model, streaks, jitter, reach)
        return average + _seen(smooth - average, reach, noise)


# --- steps -------------------------------------------------------------------------------------------------------


def _scan_variances(smooth: NDArray, model: NoiseModel, contrast: float) -> tuple[float, float]:
    """The variances of what the scan adds: streaks, and what the beam's displacements make of slopes along the row."""
    slope, scan = np.gradient(smooth, axis=1), model.scan
    streaks = (scan.amplitude**2 + scan.short_amplitude**2) * contrast**2
    return float(streaks), float((scan.displacement * slope.std()) ** 2)


def _filtered_noise(model: NoiseModel, streaks: float, jitter: float, reach: float) -> float:
    """The deviation that all noise has left after a Gaussian filter of sigma ``reach``, px.

    White noise keeps ``1 / (4 pi reach^2)`` of its variance, autoregressive noise along the row ``(1 + r) / (1 - r)``
    times that. Rows are independent, which keeps ``1 / (2 sqrt(pi) reach)``, and along them noise that was filtered
    with a Gaussian of sigma L keeps ``L / sqrt(L^2 + reach^2)``.
    """
    correlation = float(np.clip(model.pointwise.correlation_x, 0.0, 0.9))
    variance = (1 + correlation) / (1 - correlation) / (4 * np.pi * reach**2)
    for scan, length in ((streaks, model.scan.length), (jitter, model.scan.jitter_length)):
        along = length / np.hypot(length, reach) if np.isfinite(length) else 1.0
        variance += scan * along / (2 * np.sqrt(np.pi) * reach)
    return float(np.sqrt(variance))


def _background(noisy: NDArray, model: NoiseModel, contrast: float) -> NDArray:
    """The slow background that the noise model states, where it is beyond doubt: a Wiener filter's estimate."""
    background = model.background
    if not background.amplitude:
        return np.zeros_like(noisy)
    amplitude = min(background.amplitude, FAINT) * contrast
    spectrum, _ = periodic_part(noisy)
    turns = 2 * np.pi * background.length * frequencies(noisy.shape)
    # white noise through a Gaussian, scaled to the amplitude; the pointwise noise has a power of 1
    power = 4 * np.pi * background.length**2 * amplitude**2 * np.exp(-(turns**2))
    weight = power / (power + CERTAIN)
    weight[0, 0] = 0.0
    return np.asarray(fft.irfft2(weight * spectrum, s=noisy.shape, workers=-1))


def _lattice_offsets(vectors: NDArray | None, n: int, shape: tuple[int, ...]) -> NDArray:
    """The shortest lattice vectors ``(n / 2, 2)``, px, one of each and its opposite; without a lattice those nearby."""
    if vectors is None:
        reach, vectors = NEARBY, np.eye(2)
    else:
        reach = int(np.ceil(np.sqrt(n))) + 1
    steps = np.arange(-reach, reach + 1)
    pairs = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)
    half = pairs[(pairs[:, 0] > 0) | ((pairs[:, 0] == 0) & (pairs[:, 1] > 0))] @ vectors
    half = half[(np.abs(half) < np.array(shape) / 2).all(axis=1)]
    return np.asarray(half[np.argsort(np.hypot(*half.T), kind="stable")][: max(1, n // 2)])


def _low_pass(values: NDArray, cutoff: float) -> tuple[NDArray, float, float]:
    """Without frequencies beyond a cutoff, cycles per px; and the parts of the power of white noise, and of streaks of
    whole rows, that are left. 0 keeps all.
    """
    if not cutoff:
        return values, 1.0, 1.0

    def window(distance: NDArray) -> NDArray:
        return np.asarray(1.0 / (1.0 + (distance / cutoff) ** 16))

    spectrum, rest = periodic_part(values)
    whole = np.hypot(fft.fftfreq(64)[:, None], fft.fftfreq(64))
    smooth = fft.irfft2(spectrum * window(frequencies(values.shape)), s=values.shape, workers=-1)
    return smooth + rest, float((window(whole) ** 2).mean()), float((window(whole[0]) ** 2).mean())


def _average(noisy: NDArray, guide: NDArray, offsets: NDArray, edge: int, variance: float, strength: float) -> NDArray:
    """Weighted mean of an image and itself at offsets, to both sides, the weights by how alike the guide's patches are.

    Patches are as alike from one end of an offset as from the other: they are compared once. ``variance`` is that of
    the difference of two pixels of the guide that differ by noise alone.
    """
    steps = np.round(offsets * FRACTIONS).astype(int)
    image = _between_pixels(noisy, np.concatenate([steps, -steps]))
    similar = image if guide is noisy else _between_pixels(guide, steps)

    def sums(several: NDArray) -> tuple[NDArray, NDArray]:
        total, weights = (np.zeros(noisy.shape, np.float32) for _ in range(2))
        for step in several:
            y, x = (Overlap.of(n, int(s)) for n, s in zip(noisy.shape, step, strict=True))
            fraction, opposite = tuple(step % FRACTIONS), tuple(-step % FRACTIONS)
            here = (y.here, x.here)
            differs = (similar[0, 0][here] - similar[fraction][y.there, x.there]) ** 2
            ends = [ndimage.uniform_filter1d(np.ones(n, np.float32), edge, mode="constant") for n in differs.shape]
            differs = _box(differs, edge) / (ends[0][:, None] * ends[1])
            # every patch that holds a pixel has its say
            alike = _box(np.exp(np.maximum(differs / np.float32(variance) - 1, 0) / np.float32(-strength)), edge)
            total[here] += alike * image[fraction][y.there, x.there]
            weights[here] += alike
            alike = alike[y.shared, x.shared]
            total[y.back, x.back] += alike * image[opposite][y.source, x.source]
            weights[y.back, x.back] += alike
        return total, weights

    total, weights = noisy.astype(np.float32), np.ones(noisy.shape, np.float32)
    for part, weight in side_by_side(sums, np.array_split(steps, PARTS)):
        total += part
        weights += weight
    return np.asarray(total / weights, dtype=np.float64)


def _seen(residual: NDArray, reach: float, noise: float) -> NDArray:
    """The part of a residual that can't be noise, which a filter leaves with a deviation of ``noise``."""
    there = np.abs(ndimage.gaussian_filter(residual, reach)) > SEEN * noise
    around = ndimage.grey_dilation(there.astype(float), size=(2 * round(reach) + 1,) * 2)
    return np.asarray(ndimage.gaussian_filter(around, reach / 2) * residual)


def _box(values: NDArray, edge: int) -> NDArray:
    """Mean over squares; beyond the frame there is nothing."""
    return np.asarray(ndimage.uniform_filter(values, edge, mode="constant"))


@dataclass(frozen=True)
class Overlap:
    """Where an axis overlaps with itself some way on, in whole pixels: views, which take no time.

    What is ``here`` has its like ``there``, and a fraction of a pixel further on. What is at ``back``, the pixel
    nearest to that, has its like at ``source``, and the opposite fraction further on; ``shared`` is the part of
    ``here`` that ``back`` belongs to.
    """

    here: slice
    there: slice
    shared: slice
    back: slice
    source: slice

    @classmethod
    def of(cls, n: int, step: int) -> Overlap:
        """For n pixels and a step in fractions of one."""
        whole, nearest = step // FRACTIONS, (step + FRACTIONS // 2) // FRACTIONS
        before = int(nearest * FRACTIONS < step)  # what lies at -step from back lies between source and the next
        rim = TAPS // 2 if step % FRACTIONS else 0  # between pixels nothing is read so near to the border
        low = max(0, rim - whole)
        high = max(low, min(n, n - rim - whole))
        first = max(low, -nearest, before + rim)
        last = max(first, min(high, n - nearest, n - rim + before))
        moved = [(low, high, whole), (first, last, -low), (first, last, nearest), (first, last, -before)]
        return cls(slice(low, high), *(slice(start + by, stop + by) for start, stop, by in moved))


def _between_pixels(image: NDArray, steps: NDArray) -> dict[tuple[int, ...], NDArray]:
    """An image, moved by each of the fractions of a pixel that steps ``(n, 2)`` need."""
    values = image.astype(np.float32)
    needed = sorted({(0, 0)} | {(int(y), int(x)) for y, x in steps % FRACTIONS})
    rows = {y: _read_between(values, y / FRACTIONS, 0) for y in {y for y, _ in needed}}
    moved = side_by_side(lambda at: _read_between(rows[at[0]], at[1] / FRACTIONS, 1), needed)
    return dict(zip(needed, moved, strict=True))


def _read_between(image: NDArray, fraction: float, axis: int) -> NDArray:
    """An image read a fraction of a pixel further on, by a windowed sinc of ``TAPS`` taps (Lanczos)."""
    if not fraction:
        return image
    at = np.arange(TAPS) - (TAPS // 2 - 1) - fraction
    kernel = np.sinc(at) * np.sinc(at / (TAPS / 2))
    return np.asarray(ndimage.correlate1d(image, kernel / kernel.sum(), axis, mode="mirror", origin=-1))
