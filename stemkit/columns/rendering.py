"""Images of fitted columns, and projections of images onto them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemkit.columns.constants import RENDER_RADIUS, WINDOW_RADIUS
from stemkit.columns.equations import NormalEquations
from stemkit.columns.fits import ColumnFits
from stemkit.columns.gaussians import ELLIPTICAL, ROUND, derivatives
from stemkit.columns.solving import damped_step

__all__ = ["fitted_change", "render_columns"]

#: Number of columns that are projected onto at once (chosen: bounds the memory).
COLUMNS_PER_BATCH = 512


def render_columns(fits: ColumnFits, shape: tuple[int, int], shifts: NDArray | None = None) -> NDArray[np.float64]:
    """Sum of the fitted Gaussians, without their backgrounds.

    Parameters
    ----------
    fits : ColumnFits
    shape : (int, int)
        Of the image, ``(n_y, n_x)``.
    shifts : ndarray of shape (2, n_y, n_x), optional
        Displacement of the beam along y and x, px: pixel x is recorded at ``x + shift``.

    Returns
    -------
    ndarray of shape (n_y, n_x)
    """
    from stemkit.columns.compiled import add_columns

    total = np.zeros(shape)
    if len(fits) == 0:
        return total
    parameters = np.stack([getattr(fits, name) for name in ELLIPTICAL], axis=1)
    if not parameters[:, 5:].any():
        parameters = parameters[:, :5]
    scan = np.empty((0, 0, 0)) if shifts is None else np.asarray(shifts, dtype=np.float64)
    reach = max(3, int(np.ceil(RENDER_RADIUS * float(np.quantile(fits.sigma, 0.95)))))
    add_columns(total, np.ascontiguousarray(parameters, dtype=np.float64), scan, reach)
    return total


def fitted_change(fits: ColumnFits, field: NDArray) -> NDArray[np.float64]:
    """The change of the fitted Gaussians, ``(n_y, n_x)``, if a small field ``(n_y, n_x)`` is added to the image.

    It is that of one Gauss-Newton step of the fit of each single column; changes of the backgrounds are left out.
    """
    image = torch.as_tensor(np.asarray(field, dtype=np.float64))
    total = torch.zeros_like(image)
    if len(fits) == 0:
        return total.numpy()
    parameters = torch.as_tensor(np.stack([getattr(fits, name) for name in ROUND], axis=1))
    reach = max(2, int(np.ceil(WINDOW_RADIUS * float(np.median(fits.sigma)))))
    for batch in parameters.split(COLUMNS_PER_BATCH):
        rows, cols, inside = _windows(batch[:, :2], reach, field.shape)
        _, jacobian = derivatives(batch, (rows - batch[:, :1])[:, :, None], (cols - batch[:, 1:2])[:, None, :])
        jacobian *= inside[:, None]
        pixels = rows.clamp(0, field.shape[0] - 1)[:, :, None], cols.clamp(0, field.shape[1] - 1)[:, None, :]
        flat = jacobian.flatten(2)
        matrix, gradient = flat @ flat.transpose(1, 2), flat @ image[pixels].flatten(1)[..., None]
        uncoupled, zeros = torch.empty(len(batch), 0, dtype=torch.long), torch.zeros(len(batch), dtype=torch.float64)
        change = damped_step(
            NormalEquations(matrix, matrix[:, None][:, :0], gradient[..., 0], zeros, zeros), uncoupled, zeros
        )
        change_image = (jacobian[:, :4] * change[:, :4, None, None]).sum(1)
        total.view(-1).index_add_(0, (pixels[0] * field.shape[1] + pixels[1]).flatten(), change_image.flatten())
    return total.numpy()


def _windows(positions: Tensor, reach: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``(n, w)`` and columns ``(n, w)`` of pixels, and which are in the image and within reach, ``(n, w, w)``."""
    span = torch.arange(-reach, reach + 1)
    rows, cols = (positions[:, i, None].round().long() + span for i in (0, 1))
    inside_y, inside_x = (rows >= 0) & (rows < shape[0]), (cols >= 0) & (cols < shape[1])
    round_window = (span[:, None] ** 2 + span[None, :] ** 2) <= (reach + 0.5) ** 2
    return rows, cols, inside_y[:, :, None] & inside_x[:, None, :] & round_window
