"""Filters of plain arrays whose time does not grow with their width."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["wide_gaussian"]

#: Box filters that make a Gaussian: three are within 3 % of its height everywhere [Wells 1986].
BOXES = 3
#: Below this sigma, px, a Gaussian is filtered as such: a box has a whole number of pixels.
NARROW = 3.0


def wide_gaussian(values: NDArray, sigma: float, axes: Sequence[int] = (0, 1)) -> NDArray[np.float64]:
    """A Gaussian filter as three box filters, the border reflected.

    Parameters
    ----------
    values : ndarray of shape (n_y, n_x)
    sigma : float
        Standard deviation, px.
    axes : sequence of int

    Returns
    -------
    ndarray of shape (n_y, n_x)

    Notes
    -----
    A box of n px has the variance ``(n^2 - 1) / 12``: of three, some have n px and some n + 2, so that their sum is
    nearest to sigma^2 [1]_. A box is no longer than the image.

    References
    ----------
    .. [1] W. M. Wells, IEEE Trans. Pattern Anal. Mach. Intell. 8, 234 (1986), https://doi.org/10.1109/TPAMI.1986.4767776
    """
    from scipy import ndimage

    out = np.asarray(values, dtype=np.float64)
    size = 2 * math.floor((math.sqrt(12 * sigma**2 / BOXES + 1) - 1) / 2) + 1
    n_small = round((BOXES * (size + 2) ** 2 - BOXES - 12 * sigma**2) / (4 * size + 4))
    for axis in axes:
        if sigma < NARROW:
            out = ndimage.gaussian_filter1d(out, sigma, axis=axis, mode="reflect")
            continue
        for i in range(BOXES):
            length = size if i < n_small else size + 2
            out = ndimage.uniform_filter1d(out, min(length, out.shape[axis]), axis=axis, mode="reflect")
    return np.asarray(out)
