"""Power spectra and histograms of a page."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr
from bokeh.models import LinearColorMapper, Range1d
from bokeh.palettes import Viridis256
from bokeh.plotting import figure
from numpy.typing import NDArray

from stemkit.report.encoding import gray_levels
from stemkit.report.viewer import transparent, unit_edges
from stemkit.statistics import nearest_distances
from stemkit.trust.rings import hann_window

__all__ = ["histograms", "power_spectra"]

#: Edge of a spectrum in the page, pixels (chosen).
SPECTRUM_EDGE = 256
#: The spectra end at this multiple of the radius that contains the crystal (chosen).
SPECTRUM_MARGIN = 1.4
#: Fraction of the power outside the centre that this radius contains (chosen).
CONTAINED_POWER = 0.999
#: Frequencies below this fraction of the sampling are the centre (chosen: the slow changes of an image).
CENTER_RADIUS = 0.01
#: Height of a panel, screen pixels (chosen).
PANEL_HEIGHT = 320
#: Width up to which a panel grows with the page, screen pixels (chosen).
MAX_PANEL_WIDTH = 480
#: Bins of a histogram (chosen).
N_BINS = 40
#: Quantiles between which a histogram is drawn: outliers would compress the others (chosen).
DRAWN_QUANTILES = (0.005, 0.995)
#: Quantile of the logarithm of the power that has the brightest colour (chosen: the spots, but for the strongest).
BRIGHTEST_QUANTILE = 0.999
#: Colour of the bars, visible on light and on dark pages (chosen).
BAR_COLOR = "#3a87c8"
#: Power that keeps the logarithm finite.
MIN_POWER = np.finfo(np.float64).tiny


def power_spectra(images: dict[str, xr.DataArray]) -> list[figure]:
    """Draw the power spectra of images of the same size, with the same colours and linked axes.

    Parameters
    ----------
    images : dict of str to DataArray of shape (n_y, n_x)
        By title.
    """
    spectra = {title: _power(image.values) for title, image in images.items()}
    edge_y, edge_x, unit = unit_edges(next(iter(images.values())))
    *_, last = spectra.values()
    extent = _extent(last)
    logarithms = {title: np.log10(_maxima(_cropped(s, extent)) + MIN_POWER) for title, s in spectra.items()}
    first = next(iter(logarithms.values()))
    low, high = np.median(first), np.quantile(first, BRIGHTEST_QUANTILE)
    half_y, half_x = extent / edge_y, extent / edge_x
    ranges = {"x_range": Range1d(-half_x, half_x), "y_range": Range1d(half_y, -half_y)}
    panels = []
    for title, spectrum in logarithms.items():
        plot = figure(
            title=title,
            width=PANEL_HEIGHT,
            height=PANEL_HEIGHT,
            sizing_mode="scale_width",
            max_width=MAX_PANEL_WIDTH,
            tools="pan,wheel_zoom,reset",
            match_aspect=True,
            **ranges,
        )
        plot.image(
            [gray_levels(spectrum, (low, high))],
            x=-half_x,
            y=-half_y,
            dw=2 * half_x,
            dh=2 * half_y,
            color_mapper=LinearColorMapper(palette=Viridis256, low=1, high=255),
        )
        plot.xaxis.axis_label, plot.yaxis.axis_label = f"frequency along x (1/{unit})", f"along y (1/{unit})"
        plot.grid.visible = False
        panels.append(transparent(plot))
    return panels


def histograms(table: pd.DataFrame, unit: str) -> list[figure]:
    """Draw histograms of position errors, distances of nearest columns, amplitudes and widths.

    Parameters
    ----------
    table : DataFrame
        The columns of one image, at least two.
    unit : str
        ``"nm"`` or ``"px"``; errors are in pm if it is nm.
    """
    factor, small = (1e3, "pm") if unit == "nm" else (1.0, "px")
    errors = np.sqrt((table["y_err"] ** 2 + table["x_err"] ** 2) / 2).to_numpy()
    return [
        _histogram(factor * errors, f"position error along an axis ({small})"),
        _histogram(nearest_distances(table[["y", "x"]].to_numpy()), f"distance of the nearest column ({unit})"),
        _histogram(table["amplitude"].to_numpy(), "amplitude (units of the image)"),
        _histogram(table["sigma"].to_numpy(), f"sigma ({unit})"),
    ]


def _power(values: NDArray) -> NDArray[np.float64]:
    """Power spectrum with a Hann window, zero frequency in the middle."""
    finite = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=float(np.nanmean(values)))
    return np.abs(np.fft.fftshift(np.fft.fft2((finite - finite.mean()) * hann_window(*values.shape)))) ** 2


def _extent(power: NDArray) -> float:
    """Frequency, 1/px, up to which a spectrum is displayed, the same in both directions."""
    frequencies = np.meshgrid(*(np.fft.fftshift(np.fft.fftfreq(n)) for n in power.shape), indexing="ij")
    radius = np.maximum(*map(np.abs, frequencies))
    weights, edges = np.histogram(radius, 100, (0, 0.5), weights=np.where(radius > CENTER_RADIUS, power, 0.0))
    total = np.cumsum(weights)
    reached = edges[1:][np.searchsorted(total, CONTAINED_POWER * total[-1])] if total[-1] > 0 else 0.5
    return float(min(0.5, SPECTRUM_MARGIN * reached))


def _cropped(power: NDArray, extent: float) -> NDArray:
    """The part of a spectrum up to a frequency in 1/px."""
    parts = []
    for n in power.shape:
        half = max(1, min(n // 2, round(extent * n)))
        parts.append(slice(n // 2 - half, n // 2 + half))
    return power[tuple(parts)]


def _maxima(power: NDArray) -> NDArray:
    """Maxima of blocks of pixels, so that at most 256 x 256 are left and no spot is lost."""
    n_y, n_x = (-(-n // SPECTRUM_EDGE) for n in power.shape)
    padded = np.pad(power, [(0, -n % b) for n, b in zip(power.shape, (n_y, n_x), strict=True)])
    return padded.reshape(padded.shape[0] // n_y, n_y, -1, n_x).max(axis=(1, 3))


def _histogram(values: NDArray, label: str) -> figure:
    plot = figure(height=220, tools="xpan,xwheel_zoom,reset", sizing_mode="stretch_width")
    plot.xaxis.axis_label, plot.yaxis.axis_label = label, "columns"
    finite = values[np.isfinite(values)]
    if finite.size:
        low, high = np.quantile(finite, DRAWN_QUANTILES)
        counts, edges = np.histogram(finite, N_BINS, (low, high if high > low else low + 1))
        plot.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], fill_color=BAR_COLOR, line_color=BAR_COLOR)
    return transparent(plot)
