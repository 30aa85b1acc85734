"""Images with a scale bar, and maps of residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stemkit.images import recorded_image
from stemkit.images.containers import Images, single_image
from stemkit.plotting.drawing import display_range, draw_note, draw_pixels, draw_scale_bar

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["show_image", "show_residual"]

#: Smallest upper limit of the colour scale of a residual map, standard deviations (chosen).
RESIDUAL_RANGE = 3.0
#: Quantile of the absolute residuals at which the colour scale ends (chosen: three standard deviations of a normal
#: distribution).
RESIDUAL_QUANTILE = 0.997


def show_image(image: Images, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw an image in grey levels, with a scale bar if it is calibrated.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels.
    """
    import matplotlib.pyplot as plt

    one = single_image(image)
    ax = plt.gca() if ax is None else ax
    draw_pixels(ax, one, one.values, title, "gray", display_range(one.values))
    draw_scale_bar(ax, one)
    return ax


def show_residual(
    image: Images,
    fitted: NDArray,
    noise_std: NDArray | float,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the residual of a model divided by the expected standard deviation: noise alone has an RMS of 1.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        The recorded image, or an enhanced image that carries the recorded pixels, which are used.
    fitted : ndarray of shape (n_y, n_x)
        The model of the recorded pixels, in the image's units.
    noise_std : float or ndarray of shape (n_y, n_x)
        Expected standard deviation of the noise of each pixel, in the image's units, above 0. For a noise model it is
        ``np.sqrt(model.variance(fitted))``.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels. The colour scale is centred on 0 (white), red where the recorded intensity exceeds
        the model, and ends at the 99.7 % quantile of the absolute residuals or at 3, whichever is larger. The RMS is
        written in the corner.

    Raises
    ------
    ValueError
        If the shapes differ, if ``fitted`` is not finite, or if ``noise_std`` is not finite and above 0.
    """
    import matplotlib.pyplot as plt

    recorded = recorded_image(single_image(image))
    residual = _residual(recorded.values, np.asarray(fitted), np.asarray(noise_std))
    limit = max(RESIDUAL_RANGE, float(np.quantile(np.abs(residual), RESIDUAL_QUANTILE)))
    ax = plt.gca() if ax is None else ax
    drawn = draw_pixels(ax, recorded, residual, title, "RdBu_r", (-limit, limit))
    bar = plt.colorbar(drawn, ax=ax, extend="both", fraction=0.046, pad=0.03)
    bar.set_label("(recorded − model) / expected standard deviation")
    draw_scale_bar(ax, recorded, color="black", outline="white")
    rms = float(np.sqrt(np.mean(residual**2)))
    draw_note(ax, 0.035, 0.97, f"RMS {rms:.3g}", ha="left", va="top", color="black", outline="white")
    return ax


def _residual(recorded: NDArray, fitted: NDArray, noise_std: NDArray) -> NDArray[np.float64]:
    if fitted.shape != recorded.shape:
        raise ValueError(f"fitted must have the image's shape, {recorded.shape}, but has shape {fitted.shape}")
    if noise_std.shape not in ((), recorded.shape):
        raise ValueError(
            f"noise_std must be a number or have the image's shape, {recorded.shape}, but has shape {noise_std.shape}"
        )
    if bad := int((~np.isfinite(fitted)).sum()):
        raise ValueError(f"fitted must be finite, but {bad} value(s) are NaN or infinite: give a model of every pixel")
    if bad := int((~(np.isfinite(noise_std) & (noise_std > 0))).sum()):
        raise ValueError(f"noise_std must be finite and above 0, but {bad} value(s) are not: set a lower limit")
    return (recorded.astype(np.float64) - fitted) / noise_std
