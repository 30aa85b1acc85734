"""The shortest vectors of the lattice of frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from stemkit.parabola import subpixel_step
from stemkit.series.envelope import BASEBAND, Spectrum

__all__ = ["vectors_of_spectrum"]

#: Least autocorrelation at a lattice vector, fraction of that at 0 (chosen: it decays towards longer vectors).
EQUAL = 0.65
#: Longest lattice vector, fraction of the shorter side (chosen).
FARTHEST = 0.4
#: Number of the shortest lattice vectors that are tried (chosen: a square lattice has 8 up to the diagonal of a cell).
N_VECTORS = 8


def vectors_of_spectrum(spectrum: Spectrum) -> NDArray[np.float64]:
    """The shortest vectors ``(n, 2)``, px, by which the lattice of frames repeats approximately; empty without one.

    They are the maxima of the autocorrelation of frames without noise and without variations slower than a cell.
    """
    shape = spectrum.shape
    radius = np.hypot(fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1]))
    power = np.where(radius > BASEBAND * spectrum.first, np.clip(spectrum.power - spectrum.noise_x, 0.0, None), 0.0)
    if not power.any():
        return np.zeros((0, 2))
    values = fft.fftshift(fft.irfft2(power, shape))
    middle = np.array([n // 2 for n in shape])
    is_peak = (ndimage.maximum_filter(values, 5) == values) & (values > EQUAL * values[tuple(middle)])
    found = np.argwhere(is_peak)
    length = np.hypot(*(found - middle).T)
    near = found[(length > 0) & (length < FARTHEST * min(shape))]
    near = near[np.argsort(np.hypot(*(near - middle).T))][:N_VECTORS]
    inside = np.all((near > 0) & (near < np.array(shape) - 1), axis=1)
    return np.array(
        [np.array([y, x]) + subpixel_step(values, y, x) - middle for y, x in near[inside].tolist()]
    ).reshape(-1, 2)
