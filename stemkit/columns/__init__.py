"""Detection and fits of atomic columns on arrays, in which columns are bright."""

from stemkit.columns.fits import ColumnFits
from stemkit.columns.fitting import fit_columns
from stemkit.columns.noise import LinearVariance
from stemkit.columns.peaks import (
    column_response,
    find_peaks,
    nearest_distances,
    peaks_above_noise,
    pixel_subset,
    without_close,
)
from stemkit.columns.rendering import fitted_change, render_columns

__all__ = [
    "ColumnFits",
    "LinearVariance",
    "column_response",
    "find_peaks",
    "fit_columns",
    "fitted_change",
    "nearest_distances",
    "peaks_above_noise",
    "pixel_subset",
    "render_columns",
    "without_close",
]
