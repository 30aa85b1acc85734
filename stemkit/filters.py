"""Filters of arrays whose computing time does not depend on their width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["wide_gaussian"]

#: Number of box filters that approximate a Gaussian (chosen: three differ by less than 3 % of its height, Wells 1986).
N_BOXES = 3
#: Smallest sigma of the approximation, px (chosen: the length of a box is an integer number of pixels).
MIN_BOX_SIGMA = 3.0


def wide_gaussian(values: NDArray, sigma: float, axes: Sequence[int] = (0, 1)) -> NDArray[np.float64]:
    """Gaussian filter, approximated by three box filters for large sigma, with reflection at the border.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sigma : float
        Standard deviation, px.
    axes : sequence of int
        Axes that are filtered.

    Returns
    -------
    ndarray of shape (n_y, n_x)

    Notes
    -----
    A box of n px has the variance ``(n^2 - 1) / 12``. Each of the three boxes has n or n + 2 px, such that the sum of
    their variances is nearest to sigma^2 [1]_. A box is no longer than the image.

    References
    ----------
    .. [1] W. M. Wells, IEEE Trans. Pattern Anal. Mach. Intell. 8, 234 (1986), https://doi.org/10.1109/TPAMI.1986.4767776
    """
    from scipy import ndimage

    out = np.asarray(values, dtype=np.float64)
    size = 2 * math.floor((math.sqrt(12 * sigma**2 / N_BOXES + 1) - 1) / 2) + 1
    n_small = round((N_BOXES * (size + 2) ** 2 - N_BOXES - 12 * sigma**2) / (4 * size + 4))
    for axis in axes:
        if sigma < MIN_BOX_SIGMA:
            out = ndimage.gaussian_filter1d(out, sigma, axis=axis, mode="reflect")
            continue
        for i in range(N_BOXES):
            length = size if i < n_small else size + 2
            out = ndimage.uniform_filter1d(out, min(length, out.shape[axis]), axis=axis, mode="reflect")
    return np.asarray(out)
