"""Band-limited shifts of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import fft

__all__ = ["fourier_shift"]


def fourier_shift(image: NDArray, shift: Sequence[float] | NDArray) -> NDArray[np.float64]:
    """Move an image by any number of pixels without blurring it.

    The image is continued by reflection at each border and interpolated by its Fourier series, which leaves the power
    at each frequency below Nyquist's unchanged. Pixels within a few px of the border depend on the continuation.

    Parameters
    ----------
    image : ndarray of shape (n_y, n_x)
    shift : (float, float)
        Distances along y and x, px: ``fourier_shift(image, (1, 0))[y] == image[y - 1]``.

    Returns
    -------
    ndarray of shape (n_y, n_x)
    """
    out = np.asarray(image, dtype=np.float64)
    for axis, step in enumerate(shift):
        if step == 0:
            continue
        n = out.shape[axis]
        spectrum = fft.rfft(np.concatenate([out, np.flip(out, axis)], axis), axis=axis)
        phase = np.exp(-2j * np.pi * fft.rfftfreq(2 * n) * step)
        phase[-1] = phase[-1].real  # the Fourier coefficient at Nyquist's frequency has no phase
        spectrum *= phase[:, None] if axis == 0 else phase
        out = np.take(fft.irfft(spectrum, 2 * n, axis=axis), np.arange(n), axis=axis)
    return out
